"""What the `on_event` hook hears of a call that moves money. Pure."""

from __future__ import annotations

from datetime import datetime

from attrs import evolve, frozen

from qfpay_preauth._models import Answer, Delivery, Entry, Event, Operation, Request, Result, State
from qfpay_preauth.errors import Outcome


@frozen
class CallEvent(Event):
    """What happens inside one call that moves money, and how it ends; never kept in the history.

    Attributes:
        operation: what was called.
        call: a number within this process, the same for everything that happens in one call.
        outcome, duration_s: only of kind "call", which comes once, as the call ends, whether or not its caller waits
            for it: what is known about the money, and the call's seconds. Its `detail` is "executed", "replayed" or the
            name of the error; its `authorization` is the syssn that the caller gave.
    """

    operation: Operation = Operation.CAPTURE
    call: int = 0
    outcome: Outcome | None = None
    duration_s: float | None = None


def move_event(entry: Entry, from_state: State | None, at: datetime, call: int | None = None) -> Event:
    """An entry's move: the kind is its operation, `to_state` where it stands now; without a call, evidence moved it."""
    event = entry_event(entry.operation.value, entry, at, call, detail=entry.reason or entry.detail)
    return evolve(event, from_state=from_state, to_state=entry.state)


def entry_event(kind: str, entry: Entry, at: datetime, call: int | None, *, detail: str | None) -> Event:
    """Anything else that happens to an entry."""
    what = (entry.account, at, kind, entry.authorization, entry.idempotency_key, None, None, entry.amount, detail)
    return Event(*what) if call is None else CallEvent(*what, operation=entry.operation, call=call)


def call_event(request: Request, at: datetime, call: int, duration_s: float, how: Result | BaseException) -> Event:
    """How a call ended, as its caller is told if it still waits."""
    if isinstance(how, Result):
        amount, outcome, detail = how.amount, Outcome.HAPPENED, "replayed" if how.replayed else "executed"
    else:
        amount, outcome = request.amount or 0, getattr(how, "outcome", Outcome.UNKNOWN)
        detail = type(how).__name__
    return CallEvent(
        request.account,
        at,
        "call",
        request.syssn,
        request.idempotency_key,
        amount=amount,
        detail=detail,
        operation=request.operation,
        call=call,
        outcome=outcome,
        duration_s=duration_s,
    )


def seen(delivery: Delivery) -> str:
    """What an attempt came to, in a few words."""
    return (
        f"HTTP {delivery.status}" if isinstance(delivery, Answer) else f"{type(delivery).__name__}: {delivery.detail}"
    )
