"""Values ↔ the JSON in which whole batches of rows travel to and from PostgreSQL. Times are integer microseconds.

One parameter carries all the rows of a table, whatever their number and columns: few statements, few round trips.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from operator import attrgetter
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


def _mapping(value: Mapping[str, Any]) -> str:
    return json.dumps(dict(value))


_TIMES = (
    *("reserved_at", "send_by", "doubt_at", "system_time", "concluded_at"),
    *("at", "registered_at", "authorized_at"),
)
_WRITERS: dict[str, Callable[[Any], Any]] = {
    "raw": _mapping,
    "capture_window": interval,
    **dict.fromkeys(_TIMES, micros),
}
_KINDS: tuple[type, ...] = (Authorization, Movement, Entry, Event, Discrepancy, Notification)
_NAMES: dict[type, tuple[str, ...]] = {kind: tuple(each.name for each in fields(kind)) for kind in _KINDS}
_GETTERS: dict[type, Callable[[Any], tuple[Any, ...]]] = {kind: attrgetter(*_NAMES[kind]) for kind in _KINDS}
_WRITTEN: dict[type, list[tuple[str, Callable[[Any], Any]]]] = {
    kind: [(name, _WRITERS[name]) for name in _NAMES[kind] if name in _WRITERS] for kind in _KINDS
}


def row(value: Any, **more: Any) -> dict[str, Any]:
    """A value as one row; what it does not have is null."""
    kind = type(value)
    found = dict(zip(_NAMES[kind], _GETTERS[kind](value), strict=True))
    for name, write in _WRITTEN[kind]:
        if (one := found[name]) is not None:
            found[name] = write(one)
    found.update(more)
    return found


def text(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as the one parameter of a statement."""
    return json.dumps(list(rows), separators=(",", ":"))


def fingerprint(discrepancy: Discrepancy) -> str:
    """A hash of all that a discrepancy says."""
    return hashlib.sha256(json.dumps(_GETTERS[Discrepancy](discrepancy)).encode()).hexdigest()


# ------------------------------------------------------------------------------------------------ from PostgreSQL


def moment(us: int | None) -> datetime | None:
    """The moment of so many microseconds since 1970."""
    return None if us is None else _EPOCH + timedelta(microseconds=us)


def _members(kind: type[StrEnum]) -> Callable[[str], StrEnum]:
    return {member.value: member for member in kind}.__getitem__


def _span(us: int) -> timedelta:
    return timedelta(microseconds=us)


_READERS: dict[str, Callable[[Any], Any]] = {
    "operation": _members(Operation),
    "state": _members(State),
    "from_state": _members(State),
    "to_state": _members(State),
    "why": _members(Why),
    "confirmed_by": _members(ConfirmedBy),
    "raw": json.loads,
    "capture_window": _span,
    **dict.fromkeys(_TIMES, moment),
}


def _readers_of(kind: type) -> list[tuple[int, Callable[[Any], Any]]]:
    return [(place, _READERS[name]) for place, name in enumerate(_NAMES[kind]) if name in _READERS]


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
