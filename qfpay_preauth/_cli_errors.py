"""What an error becomes on the command line: its exit code, its line for people, its object for machines."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from qfpay_preauth._cli_screen import EXIT_DOUBT, EXIT_NO, EXIT_REFUSED, EXIT_USAGE, FailedError
from qfpay_preauth.errors import (
    ConfigurationError,
    CredentialsRejectedError,
    DeclinedError,
    InvalidRequestError,
    LedgerError,
    LedgerUnavailableError,
    Outcome,
    PreauthError,
)

_COMMAND_FOR: Sequence[tuple[str, str]] = (
    # the library's advice names its methods; here they are commands
    (r"\bbalance\(\) and entry\(\)", "`qfpay-preauth balance` and `qfpay-preauth events`"),
    (r"\bregister_authorization\(\)", "`qfpay-preauth register` (or `import`)"),
    (r"\bimport_authorization\(\)", "`qfpay-preauth import`"),
    (r"\bin_doubt\(\)", "`qfpay-preauth doubts`"),
    (r"\bentry\(\)", "`qfpay-preauth events`"),
    (r"\b(balance|resolve|reconcile|query|expiring)\(\)", r"`qfpay-preauth \1`"),
    (
        r"to make a new one in production, add \?mode=rwc to the URL",
        "`qfpay-preauth register`, `import` and `run` make a new one (in production only with ?mode=rwc in its URL)",
    ),
    (r"\bRun the reconciler\b", "Run `qfpay-preauth reconcile`"),
    (r"\bCapture\.syssn\b", "the syssn that the capture printed"),
    (r"\bcall again with the same key\b", "run the same command again"),
    (r"\bCall again with the same key\b", "Run the same command again"),
    (r"\bresolve\((\w+)", r"`qfpay-preauth resolve \1`"),
    (r"minor_units\(Decimal\('12\.50'\), 'HKD'\)", "HKD 12.50 = 1250"),
    (r"Settings\(currency_exponents=\{\"(\w+)\": (\d)\}\)", r"currency_exponents = { \1 = \2 } in the settings"),
)


def in_commands(advice: str) -> str:
    """The library's advice, in the words of the command line."""
    for pattern, words in _COMMAND_FOR:
        advice = re.sub(pattern, words, advice)
    return advice


def look_up(idempotency_key: str) -> str:
    """The command that shows what is known of a key."""
    return f"qfpay-preauth events {shlex.quote(idempotency_key)}"


def in_words(error: Exception) -> str:
    """The error for people: what, which, the numbers, and what to do next."""
    if isinstance(error, PreauthError):
        look = error.idempotency_key and error.outcome is not Outcome.NOTHING_HAPPENED
        return f"{error.args[0]} {in_commands(error.advice)}" + (
            f" See: {look_up(error.idempotency_key)}" if look and error.idempotency_key else ""
        )
    if isinstance(error, OSError):
        return f"The system refused: {error}. Check the free space and the folders that are named."
    return str(error)


def error_object(error: Exception, code: int) -> dict[str, object]:
    """The error for machines: `error`, `outcome`, `message`, `advice`, `idempotency_key`, `exit_code`, and its own.

    `error` is the library's class, or `UsageError`, `CalledOffError`, `FailedError`, `OSError`.
    """
    if not isinstance(error, PreauthError):
        own = isinstance(error, FailedError)
        name = type(error).__name__ if own else "OSError" if isinstance(error, OSError) else "UsageError"
        return {
            "error": name,
            "outcome": Outcome.NOTHING_HAPPENED,
            "message": " ".join(in_words(error).split()),
            "advice": None,
            "idempotency_key": None,
            "exit_code": code,
        }
    carried = ("code", "retry_later", "retry_after_s", "requested", "capturable", "refundable", "result")
    said = getattr(error, "message", None)
    return {
        "error": type(error).__name__,
        "outcome": error.outcome,
        "message": str(error.args[0]),
        "advice": in_commands(error.advice),
        "idempotency_key": error.idempotency_key,
        **({"gateway_message": said} if said else {}),
        **{name: value for name in carried if (value := getattr(error, name, None)) is not None},
        "exit_code": code,
    }


def exit_code_of(error: Exception) -> int:
    """What a command ends with that ended with this error: the money first, then who has to do something."""
    if not isinstance(error, PreauthError):
        return EXIT_NO if isinstance(error, FailedError | OSError) else EXIT_USAGE
    if error.outcome is not Outcome.NOTHING_HAPPENED:
        return EXIT_DOUBT
    if isinstance(error, InvalidRequestError | ConfigurationError):
        return EXIT_USAGE
    if isinstance(error, LedgerUnavailableError | CredentialsRejectedError):
        return EXIT_NO
    return EXIT_REFUSED if isinstance(error, LedgerError | DeclinedError) else EXIT_NO
