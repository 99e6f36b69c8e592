"""Every error this library raises, and what it says about the money.

    PreauthError                     .outcome  .advice  .idempotency_key
    ├── InvalidRequestError          (also a ValueError) an argument is wrong: nothing written, nothing sent
    ├── ConfigurationError           credentials, settings or ledger URL are wrong
    ├── LedgerError                  refused by our books, before anything was sent
    │   ├── UnknownAuthorizationError
    │   ├── UnknownCaptureError
    │   ├── OverCaptureError         .requested  .capturable
    │   ├── OverRefundError          .requested  .refundable
    │   ├── AuthorizationClosedError
    │   │   ├── AlreadyUnfrozenError
    │   │   └── AuthorizationExpiredError
    │   ├── IdempotencyConflictError
    │   ├── OperationInProgressError
    │   └── LedgerUnavailableError   .result (when the gateway had already said yes)
    ├── GatewayError                 .code  .message: the gateway answered, and the answer is not a yes
    │   ├── DeclinedError            .retry_later
    │   ├── RateLimitedError         .retry_after_s
    │   └── CredentialsRejectedError
    ├── NotSentError                 provably nothing left this machine
    ├── OutcomeUnknownError          the answer was lost: money may have moved; the claim stays
    └── InvalidSignatureError        a notification that QFPay did not sign

Every error pickles with its attributes. No message, repr or attribute holds a client key or card data.
"""

from __future__ import annotations

import enum
from typing import Any, ClassVar


class Outcome(enum.Enum):
    """What is known about the money when an error is raised or a doubt is decided."""

    NOTHING_HAPPENED = "nothing_happened"
    HAPPENED = "happened"
    UNKNOWN = "unknown"


class PreauthError(Exception):
    """Something kept the operation from being confirmed.

    Attributes:
        outcome: whether money moved: `Outcome.NOTHING_HAPPENED`, `HAPPENED` or `UNKNOWN`.
        advice: the next safe step, as a sentence.
        idempotency_key: the caller's key of the operation, or None where there is none.
    """

    default_outcome: ClassVar[Outcome] = Outcome.NOTHING_HAPPENED
    default_advice: ClassVar[str] = "Correct the call and try again; nothing was sent."

    def __init__(
        self,
        text: str = "",
        *,
        outcome: Outcome | None = None,
        advice: str | None = None,
        idempotency_key: str | None = None,
    ) -> None:
        super().__init__(text or (type(self).__doc__ or "").partition("\n")[0])
        self.outcome = outcome or self.default_outcome
        self.advice = advice or self.default_advice
        self.idempotency_key = idempotency_key

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__.copy())

    def __str__(self) -> str:
        return f"{self.args[0]} {self.advice}" if self.advice else str(self.args[0])


def shown(value: object, length: int = 60) -> str:
    """`value` as it may stand in a message: its repr cut to `length`, or its type where it cannot be printed."""
    try:
        return f"{value!r:.{length}}"
    except Exception:
        return f"<{type(value).__name__}>"


def _rebuild(kind: type[PreauthError], args: tuple[Any, ...], state: dict[str, Any]) -> PreauthError:
    """Unpickle without running a subclass's own `__init__`."""
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class InvalidRequestError(PreauthError, ValueError):
    """An argument is not acceptable; nothing was written and nothing was sent."""


class ConfigurationError(PreauthError):
    """The client was set up in a way that cannot work."""

    default_advice = "Correct the configuration; nothing was sent."


class LedgerError(PreauthError):
    """Our own books refuse the operation; nothing was sent."""

    default_advice = "Look at balance() and entry() before trying again; nothing was sent."


class UnknownAuthorizationError(LedgerError):
    """The authorization is not in the ledger."""

    default_advice = "Call register_authorization() first, and check that the ledger is the right one."


class UnknownCaptureError(LedgerError):
    """The capture is not in the ledger."""

    default_advice = "Give the syssn of an executed capture (Capture.syssn), not the authorization's."


class _AmountError(LedgerError):
    def __init__(self, text: str = "", *, requested: int = 0, **details: Any) -> None:
        super().__init__(text, **details)
        self.requested = requested


class OverCaptureError(_AmountError):
    """The capture would take more than the hold still has.

    Attributes: `requested` and `capturable`, both int minor units.
    """

    default_advice = "Capture at most what is capturable; nothing was sent."

    def __init__(self, text: str = "", *, capturable: int = 0, **details: Any) -> None:
        super().__init__(text, **details)
        self.capturable = capturable


class OverRefundError(_AmountError):
    """The refund would give back more than the capture still has.

    Attributes: `requested` and `refundable`, both int minor units.
    """

    default_advice = "Refund at most what is refundable; nothing was sent."

    def __init__(self, text: str = "", *, refundable: int = 0, **details: Any) -> None:
        super().__init__(text, **details)
        self.refundable = refundable


class AuthorizationClosedError(LedgerError):
    """The authorization takes no more captures."""

    default_advice = "Nothing more can be captured on this hold; nothing was sent."


class AlreadyUnfrozenError(AuthorizationClosedError):
    """The rest of the hold was already unfrozen, or an unfreeze of it is under way."""


class AuthorizationExpiredError(AuthorizationClosedError):
    """The capture window of the hold is over (only refused with `strict_expiry`)."""


class IdempotencyConflictError(LedgerError):
    """The same key or id was already used for something else."""

    default_advice = "Use a new idempotency key for a new intent; the recorded one stays as it is."


class OperationInProgressError(LedgerError):
    """Another operation that must end first is still under way or in doubt."""

    default_advice = "Wait for it to end, or end its doubt by evidence, then call again; nothing was sent."


class LedgerUnavailableError(LedgerError):
    """The ledger could not be read or written.

    Attributes:
        result: what the gateway confirmed before the recording failed (then `outcome` is HAPPENED), or None.
    """

    default_advice = "Restore the ledger and call again with the same key."

    def __init__(self, text: str = "", *, result: object | None = None, **details: Any) -> None:
        super().__init__(text, **details)
        self.result = result


class GatewayError(PreauthError):
    """The gateway answered, and the answer is not a yes.

    Attributes: `code` (the gateway's response code, or the HTTP status) and `message` (its own words).
    """

    default_advice = "Read the code and the message."

    def __init__(self, text: str = "", *, code: str | None = None, message: str | None = None, **details: Any) -> None:
        super().__init__(text, **details)
        self.code = code
        self.message = message


class DeclinedError(GatewayError):
    """The gateway surely refused; no money moved.

    Attributes: `retry_later` is True where the same key may run again later, False where the refusal is final.
    """

    default_advice = "The refusal is final for this key; another try is another intent with a new key."

    def __init__(self, text: str = "", *, retry_later: bool = False, **details: Any) -> None:
        super().__init__(text, **details)
        self.retry_later = retry_later


class RateLimitedError(GatewayError):
    """The gateway's rate limit (or our own budget) has no room before the deadline; no money moved.

    Attributes: `retry_after_s` is the wait in seconds, or None where nobody said.
    """

    default_advice = "Call again with the same key after the wait."

    def __init__(self, text: str = "", *, retry_after_s: float | None = None, **details: Any) -> None:
        super().__init__(text, **details)
        self.retry_after_s = retry_after_s


class CredentialsRejectedError(GatewayError):
    """The gateway does not accept our credentials, signature or store set-up; no money moved."""

    default_advice = (
        "Check app_code, client_key, sign_type, mchid and environment (`qfpay-preauth verify` shows why a "
        "signature differs), then call again with the same key."
    )


class NotSentError(PreauthError):
    """Provably nothing left this machine."""

    default_advice = "Call again with the same key."


class OutcomeUnknownError(PreauthError):
    """The answer was lost or says nothing sure: money may have moved, and the amount stays claimed."""

    default_outcome = Outcome.UNKNOWN
    default_advice = (
        "Do not use another key. Call again with the same key: it sends nothing and looks for evidence; "
        "or decide with resolve() once you know."
    )


class InvalidSignatureError(PreauthError):
    """The notification was not signed with our key; it changed nothing."""

    default_advice = "Answer 401 and look at the notification key."
