"""Values ↔ the JSON in which whole batches of rows travel to and from PostgreSQL. Times are integer microseconds.

One parameter carries all the rows of a table, whatever their number and columns: few statements, few round trips.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from attrs import fields, frozen

from qfpay_preauth._models import (
    Authorization,
    ConfirmedBy,
    Discrepancy,
    DiscrepancyKind,
    Entry,
    Event,
    Movement,
    Notification,
    Operation,
    State,
    Why,
)

V = TypeVar("V")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@frozen
class Table:
    """A table of values: its columns in the order of the value's attributes, and which of them name a row."""

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]


def _table(name: str, kind: type, key: tuple[str, ...], *more: str) -> Table:
    return Table(name, (*more, *(each.name for each in fields(kind))), key)


AUTHORIZATIONS = _table("authorizations", Authorization, ("account", "syssn"))
MOVEMENTS = _table("movements", Movement, ("account", "syssn"))
ENTRIES = _table("entries", Entry, ("account", "idempotency_key"))
EVENTS = _table("events", Event, ())
DISCREPANCIES = _table(
    "discrepancies", Discrepancy, ("account", "fingerprint"), "account", "at", "fingerprint", "reported"
)
NOTICES = _table("notices", Notification, ("account", "digest"), "account", "received_at", "open")
WORDS = Table("words", ("account", "kind", "word", "linked"), ("account", "kind", "word"))
BOOKMARKS = Table("bookmarks", ("account", "read_until"), ("account",))


def columns(table: Table, alias: str = "") -> str:
    """The table's columns for a statement, each quoted (`authorization` is a word of SQL's)."""
    prefix = f"{alias}." if alias else ""
    return ", ".join(f'{prefix}"{name}"' for name in table.columns)


# ------------------------------------------------------------------------------------------------ to PostgreSQL


def micros(moment: datetime) -> int:
    """Microseconds since 1970 UTC."""
    return (moment - _EPOCH) // _MICROSECOND


def interval(span: timedelta | None) -> int | None:
    """Microseconds."""
    return None if span is None else span // _MICROSECOND


def row(value: Any, **more: Any) -> dict[str, Any]:
    """A value as one row."""
    found = {name: plain(getattr(value, name)) for name in _names_of(type(value))}
    found.update(more)
    return found


_NAMES: dict[type, tuple[str, ...]] = {}


def _names_of(kind: type) -> tuple[str, ...]:
    names = _NAMES.get(kind)
    if names is None:
        names = _NAMES[kind] = tuple(each.name for each in fields(kind))
    return names


def plain(value: Any) -> Any:
    """One attribute as JSON holds it."""
    if isinstance(value, datetime):
        return (value - _EPOCH) // _MICROSECOND
    if isinstance(value, timedelta):
        return value // _MICROSECOND
    return json.dumps(dict(value)) if isinstance(value, Mapping) else value


def text(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as the one parameter of a statement."""
    return json.dumps(list(rows), separators=(",", ":"))


def fingerprint(discrepancy: Discrepancy) -> str:
    """A hash of all that a discrepancy says."""
    values = [plain(getattr(discrepancy, name)) for name in _names_of(Discrepancy)]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


# ------------------------------------------------------------------------------------------------ from PostgreSQL


def moment(us: int | None) -> datetime | None:
    """The moment of so many microseconds since 1970."""
    return None if us is None else _EPOCH + timedelta(microseconds=us)


def _span(us: int) -> timedelta:
    return timedelta(microseconds=us)


_TIMES = ("reserved_at", "send_by", "doubt_at", "system_time", "concluded_at", "at", "registered_at", "authorized_at")
_READERS: dict[str, Callable[[Any], Any]] = {
    "operation": Operation,
    "state": State,
    "from_state": State,
    "to_state": State,
    "why": Why,
    "confirmed_by": ConfirmedBy,
    "raw": json.loads,
    "capture_window": _span,
    **dict.fromkeys(_TIMES, moment),
}


def _readers_of(kind: type) -> list[tuple[int, Callable[[Any], Any]]]:
    return [(place, _READERS[name]) for place, name in enumerate(_names_of(kind)) if name in _READERS]


_PLACES: dict[type, list[tuple[int, Callable[[Any], Any]]]] = {
    kind: _readers_of(kind) for kind in (Authorization, Movement, Entry, Event, Notification)
}


def value_of(kind: type[V], found: Sequence[Any]) -> V:
    """The value of a row, given its columns in the order of the value's attributes."""
    values = list(found)
    for place, read in _PLACES[kind]:
        if values[place] is not None:
            values[place] = read(values[place])
    return kind(*values)


def discrepancy_of(found: Sequence[Any]) -> Discrepancy:
    """The same for a discrepancy."""
    return Discrepancy(DiscrepancyKind(found[0]), *found[1:])
