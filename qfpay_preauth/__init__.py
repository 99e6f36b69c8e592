"""Asyncio client for QFPay pre-authorisations: capture, unfreeze and refund, never taking the money twice."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qfpay_preauth._batch_rows import BatchOutcome, BatchRow, RowOutcome, RowProblem
    from qfpay_preauth._client import PreauthClient
    from qfpay_preauth._events import CallEvent
    from qfpay_preauth._models import (
        Authorization,
        Balance,
        Capture,
        Discrepancy,
        DiscrepancyKind,
        Doubt,
        Entry,
        Event,
        Expiring,
        Movement,
        Notification,
        Operation,
        PaymentIntent,
        ReconcileReport,
        Refund,
        State,
        Transaction,
        Unfreeze,
        Why,
    )
    from qfpay_preauth._money import minor_units
    from qfpay_preauth._recover import RecoverReport
    from qfpay_preauth._settings import Credentials, Settings
    from qfpay_preauth.errors import (
        AlreadyUnfrozenError,
        AuthorizationClosedError,
        AuthorizationExpiredError,
        ConfigurationError,
        CredentialsRejectedError,
        DeclinedError,
        GatewayError,
        IdempotencyConflictError,
        InvalidRequestError,
        InvalidSignatureError,
        LedgerError,
        LedgerUnavailableError,
        NotSentError,
        OperationInProgressError,
        Outcome,
        OutcomeUnknownError,
        OverCaptureError,
        OverRefundError,
        PreauthError,
        RateLimitedError,
        UnknownAuthorizationError,
        UnknownCaptureError,
    )
    from qfpay_preauth.ledger import Ledger

_ROOMS = {
    "_batch_rows": "BatchOutcome BatchRow RowOutcome RowProblem",
    "_client": "PreauthClient",
    "_events": "CallEvent",
    "_models": (
        "Authorization Balance Capture Discrepancy DiscrepancyKind Doubt Entry Event Expiring Movement Notification "
        "Operation PaymentIntent ReconcileReport Refund State Transaction Unfreeze Why"
    ),
    "_money": "minor_units",
    "_recover": "RecoverReport",
    "_settings": "Credentials Settings",
    "errors": (
        "AlreadyUnfrozenError AuthorizationClosedError AuthorizationExpiredError ConfigurationError "
        "CredentialsRejectedError DeclinedError GatewayError IdempotencyConflictError InvalidRequestError "
        "InvalidSignatureError LedgerError LedgerUnavailableError NotSentError OperationInProgressError Outcome "
        "OutcomeUnknownError OverCaptureError OverRefundError PreauthError RateLimitedError "
        "UnknownAuthorizationError UnknownCaptureError"
    ),
    "ledger": "Ledger",
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names.split()}

__all__ = [
    "AlreadyUnfrozenError",
    "Authorization",
    "AuthorizationClosedError",
    "AuthorizationExpiredError",
    "Balance",
    "BatchOutcome",
    "BatchRow",
    "CallEvent",
    "Capture",
    "ConfigurationError",
    "Credentials",
    "CredentialsRejectedError",
    "DeclinedError",
    "Discrepancy",
    "DiscrepancyKind",
    "Doubt",
    "Entry",
    "Event",
    "Expiring",
    "GatewayError",
    "IdempotencyConflictError",
    "InvalidRequestError",
    "InvalidSignatureError",
    "Ledger",
    "LedgerError",
    "LedgerUnavailableError",
    "Movement",
    "NotSentError",
    "Notification",
    "Operation",
    "OperationInProgressError",
    "Outcome",
    "OutcomeUnknownError",
    "OverCaptureError",
    "OverRefundError",
    "PaymentIntent",
    "PreauthClient",
    "PreauthError",
    "RateLimitedError",
    "ReconcileReport",
    "RecoverReport",
    "Refund",
    "RowOutcome",
    "RowProblem",
    "Settings",
    "State",
    "Transaction",
    "Unfreeze",
    "UnknownAuthorizationError",
    "UnknownCaptureError",
    "Why",
    "minor_units",
]


def __getattr__(name: str) -> Any:
    """Load a name's room on first use (PEP 562): a bare import brings neither aiohttp nor any dependency."""
    if name not in _ROOM_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_ROOM_OF[name]}"), name)
    return value


def __dir__() -> list[str]:
    return __all__
