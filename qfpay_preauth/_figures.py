"""Event → what is counted, timed and shown of it: the one list behind every eye (see `instrumentation`). Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from attrs import frozen

from qfpay_preauth._events import CallEvent
from qfpay_preauth._models import DiscrepancyKind, Event, State


@frozen
class BooksEvent(Event):
    """What `watch_doubts` tells a hook: how many doubts there are, and how old the oldest is.

    Attributes:
        doubts: how many entries are in doubt; `needs_attention` of them need a person.
        oldest_doubt_s: the age of the oldest, in seconds; 0 where there is none.
        readable: False where the ledger did not answer; the other figures then say nothing.
    """

    doubts: int = 0
    oldest_doubt_s: float = 0.0
    needs_attention: int = 0
    readable: bool = True


@frozen
class Metric:
    """One figure: `kind` is "counter", "histogram" (seconds) or "gauge"; every one also has the label `account`."""

    kind: str
    help: str
    labels: tuple[str, ...] = ()


METRICS: Mapping[str, Metric] = {
    "call_duration_seconds": Metric(
        "histogram", "Calls that ended, by what their caller was told", ("operation", "result", "outcome")
    ),
    "attempts": Metric("counter", "Requests made, by what came back", ("operation", "answer")),
    "doubts_raised": Metric("counter", "Operations whose outcome became unknown", ("operation",)),
    "doubts_ended": Metric("counter", "Doubts that evidence or a person ended", ("operation", "state")),
    "discrepancies": Metric("counter", "Differences between our books and the gateway's", ("discrepancy",)),
    "reports": Metric("counter", "Other things seen: expiring, foreign, notice, stalled", ("report",)),
    "doubts": Metric("gauge", "Operations whose outcome is unknown now"),
    "doubts_needing_attention": Metric("gauge", "Of these, the ones that only a person can end"),
    "oldest_doubt_seconds": Metric("gauge", "Age of the oldest doubt"),
    "ledger_up": Metric("gauge", "1 where the ledger answers"),
}

BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_MOVES = frozenset({"capture", "unfreeze", "refund"})
_KINDS = frozenset(DiscrepancyKind)

Measure = tuple[str, float, Mapping[str, str]]
"""A metric's name, how much (1 more, the seconds, or the figure now), and the labels' values."""


def measures(event: Event) -> Iterator[Measure]:
    """What an event adds to the metrics. Labels have few values each: never an id, a key or an amount."""
    if isinstance(event, BooksEvent):
        yield from _books(event)
    elif isinstance(event, CallEvent) and event.kind == "call":
        outcome = event.outcome.value if event.outcome else "unknown"
        labels = {"operation": event.operation.value, "result": event.detail or "", "outcome": outcome}
        yield "call_duration_seconds", event.duration_s or 0.0, labels
    elif isinstance(event, CallEvent) and event.kind == "attempt":
        # "HTTP 200", or the type of what came instead ("NotSent: …", "Unknown: …")
        yield "attempts", 1, {"operation": event.operation.value, "answer": (event.detail or "").partition(":")[0]}
    elif event.kind in _MOVES:
        yield from _move(event)
    elif event.kind == "discrepancy":
        yield "discrepancies", 1, {"discrepancy": discrepancy_kind(event)}
    elif event.kind != "doubt":  # the move into doubt was counted; asking again about the same doubt is no other
        yield "reports", 1, {"report": event.kind}


def _move(event: Event) -> Iterator[Measure]:
    if event.to_state is State.IN_DOUBT:
        yield "doubts_raised", 1, {"operation": event.kind}
    elif event.from_state is State.IN_DOUBT and event.to_state is not None:
        yield "doubts_ended", 1, {"operation": event.kind, "state": event.to_state.value}


def _books(event: BooksEvent) -> Iterator[Measure]:
    yield "ledger_up", float(event.readable), {}
    if event.readable:
        yield "doubts", event.doubts, {}
        yield "doubts_needing_attention", event.needs_attention, {}
        yield "oldest_doubt_seconds", event.oldest_doubt_s, {}


def discrepancy_kind(event: Event) -> str:
    """In what the books differ; an answer that belongs to another question is a "mismatch"."""
    kind = (event.detail or "").partition(":")[0]
    return kind if kind in _KINDS else DiscrepancyKind.MISMATCH.value


def shown(event: Event, *, amounts: bool) -> dict[str, str | int | float | bool]:
    """An event's fields for people (spans, logs), without what is empty; amounts only where asked for.

    A discrepancy's text and a person's reason may hold amounts, so they too come only with `amounts`.
    """
    inside = isinstance(event, CallEvent)
    found: dict[str, str | int | float | bool | None] = {
        "account": event.account,
        "operation": event.operation.value if isinstance(event, CallEvent) else None,
        "authorization": event.authorization,
        "idempotency_key": event.idempotency_key,
        "from_state": event.from_state.value if event.from_state else None,
        "to_state": event.to_state.value if event.to_state else None,
        "outcome": event.outcome.value if isinstance(event, CallEvent) and event.outcome else None,
        "duration_s": round(event.duration_s, 6) if isinstance(event, CallEvent) and event.duration_s else None,
        "discrepancy": discrepancy_kind(event) if event.kind == "discrepancy" else None,
        "amount": event.amount if amounts and event.amount else None,
        "detail": event.detail if amounts or inside or event.kind in ("expiring", "foreign", "stalled") else None,
    }
    if isinstance(event, BooksEvent):
        found.update({name: value for name, value, _ in _books(event)})
    return {name: value for name, value in found.items() if value not in (None, "")}
