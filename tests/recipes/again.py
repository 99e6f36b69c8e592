"""When a message or task whose capture failed should come again; used by both workers. Copy it beside yours.

Unknown is no end: with the same key a capture in doubt sends nothing and looks for evidence. What did not happen and
may later comes again; what is refused for good does not: another try is another intent with a new key.
"""

from __future__ import annotations

from qfpay_preauth import (
    CredentialsRejectedError,
    DeclinedError,
    LedgerUnavailableError,
    NotSentError,
    OperationInProgressError,
    Outcome,
    PreauthError,
    RateLimitedError,
)

PASSING = (NotSentError, OperationInProgressError, LedgerUnavailableError, CredentialsRejectedError)


def comes_again_s(error: PreauthError, soon_s: float = 5.0) -> float | None:
    """After how many seconds; None: the outcome is known and final."""
    if error.outcome is not Outcome.NOTHING_HAPPENED:
        return 6 * soon_s  # unknown; or it happened and could not be recorded: evidence will
    if isinstance(error, RateLimitedError):
        return max(soon_s, error.retry_after_s or 0)
    if isinstance(error, DeclinedError):
        return 60 * soon_s if error.retry_later else None
    return soon_s if isinstance(error, PASSING) else None
