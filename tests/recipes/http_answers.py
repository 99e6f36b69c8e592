"""What a web app answers its own caller; used by both web recipes. Copy it beside yours.

The status follows from what is known about the money (`error.outcome`), and only then from the kind of error:

| money | status | the caller should |
|---|---|---|
| moved | 200 | go on; `Idempotent-Replayed: true` where an earlier call with this key had moved it |
| unknown | 202, Retry-After | say "being processed", and send it again with the same key: nothing moves twice |
| did not move, may run later | 503, Retry-After | send the same request with the same key |
| did not move, something else must end first | 409, Retry-After | the same |
| did not move, and will not | 400, 402, 404, 409, 422 | correct it; another try is another intent with a new key |

Unknown is no error status on purpose: a proxy or a person that meets a 5xx tries again with a new key, or tells the
customer that nothing was taken. 400, 409 and 422 are those of the IETF's draft on the Idempotency-Key header.
"""

from __future__ import annotations

import math
from typing import Any

from qfpay_preauth import (
    Capture,
    ConfigurationError,
    CredentialsRejectedError,
    DeclinedError,
    IdempotencyConflictError,
    InvalidRequestError,
    LedgerError,
    LedgerUnavailableError,
    NotSentError,
    OperationInProgressError,
    Outcome,
    PreauthError,
    RateLimitedError,
    UnknownAuthorizationError,
    UnknownCaptureError,
)

Answer = tuple[int, dict[str, Any], dict[str, str]]
"""Status, JSON body, headers."""

# the first that fits: status, and after how many seconds the same request may come again
ANSWERS: tuple[tuple[type[PreauthError], int, int | None], ...] = (
    (InvalidRequestError, 400, None),
    (UnknownAuthorizationError, 404, None),
    (UnknownCaptureError, 404, None),
    (IdempotencyConflictError, 422, None),
    (OperationInProgressError, 409, 5),
    (LedgerUnavailableError, 503, 10),
    (LedgerError, 409, None),  # more than the hold has, already unfrozen, expired
    (RateLimitedError, 503, 5),
    (NotSentError, 503, 2),
    (CredentialsRejectedError, 503, 300),  # ours to mend, not the caller's
    (DeclinedError, 402, None),
    (ConfigurationError, 503, 5),  # the client is closing: this process goes, another comes
    (PreauthError, 502, None),
)
UNKNOWN_AGAIN_S = 30
NOT_NOW_AGAIN_S = 1_800


def done(result: Capture) -> Answer:
    """The money moved."""
    body = {"outcome": "happened", "syssn": result.syssn, "amount": result.amount, "currency": result.currency}
    return 200, body, {"Idempotent-Replayed": "true"} if result.replayed else {}


def failed(error: PreauthError) -> Answer:
    """What is known of the money, in the status; what to do next, in the body."""
    body = {"outcome": error.outcome.value, "error": type(error).__name__, "advice": error.advice}
    if error.outcome is Outcome.HAPPENED:  # the gateway's yes could not be recorded: an alarm for us, a yes for them
        result = getattr(error, "result", None)
        return done(result) if isinstance(result, Capture) else (200, body, {})
    status, again_s = _status(error)
    return status, body, {} if again_s is None else {"Retry-After": str(again_s)}


def _status(error: PreauthError) -> tuple[int, int | None]:
    if error.outcome is Outcome.UNKNOWN:
        return 202, UNKNOWN_AGAIN_S
    if isinstance(error, DeclinedError) and error.retry_later:
        return 503, NOT_NOW_AGAIN_S
    if isinstance(error, RateLimitedError) and error.retry_after_s is not None:
        return 503, max(1, math.ceil(error.retry_after_s))
    return next((status, again_s) for kind, status, again_s in ANSWERS if isinstance(error, kind))
