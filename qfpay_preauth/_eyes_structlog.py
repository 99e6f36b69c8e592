"""The structlog eye: one structured line per event."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog

from qfpay_preauth._events import CallEvent
from qfpay_preauth._figures import BooksEvent, shown
from qfpay_preauth._models import Event
from qfpay_preauth.errors import Outcome

_LEVELS = {"doubt": "warning", "expiring": "warning", "stalled": "warning", "discrepancy": "error"}
_ELSEWHERE = "info"  # notices, movements made elsewhere, what evidence or a person ended
_OURS = frozenset({"LedgerUnavailableError", "CredentialsRejectedError"})  # nothing works until somebody mends it


def lines(logger: Any, *, amounts: bool) -> Callable[[Event], None]:
    """A hook that writes to `logger`."""
    target = structlog.get_logger("qfpay_preauth") if logger is None else logger

    def hook(event: Event) -> None:
        getattr(target, _level(event))(f"qfpay_preauth.{event.kind}", **shown(event, amounts=amounts))

    return hook


def _level(event: Event) -> str:
    if isinstance(event, BooksEvent):
        return "debug" if event.readable else "error"
    if isinstance(event, CallEvent) and event.kind == "call":
        return "error" if event.detail in _OURS else "warning" if event.outcome is Outcome.UNKNOWN else "info"
    return _LEVELS.get(event.kind, "debug" if isinstance(event, CallEvent) else _ELSEWHERE)
