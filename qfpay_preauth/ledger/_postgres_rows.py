"""Values ↔ the JSON in which whole batches of rows travel to and from PostgreSQL. Times are integer microseconds.

One parameter carries all the rows of a table, whatever their number and columns: few statements, few round trips.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache
from itertools import compress
from operator import attrgetter, is_not
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

_JSON = json.JSONEncoder(separators=(",", ":"))
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


_BIGINT = ("int", "datetime", "timedelta")
_TYPES: dict[str, str] = {
    "revision": "bigint",
    **dict.fromkeys(("at", "received_at", "read_until"), "bigint"),
    **dict.fromkeys(("reported", "open", "linked"), "boolean"),
}
"""What is no text, by the name of its column: one name is of one type in all tables."""


def _learn_types(kind: type) -> None:
    for each in fields(kind):
        word = str(each.type).split()[0]
        if word in _BIGINT or word == "bool":
            _TYPES[each.name] = "bigint" if word in _BIGINT else "boolean"


def read_as(names: Sequence[str], alias: str) -> str:
    """The columns of a row that came as a JSON array, in this order."""
    casts = [f"::{_TYPES[name]}" if name in _TYPES else "" for name in names]
    return ", ".join(
        f'({alias}->>{place}){cast} AS "{name}"' for place, (name, cast) in enumerate(zip(names, casts, strict=True))
    )


def columns(table: Table, alias: str = "") -> str:
    """The table's columns for a statement, each quoted (`authorization` is a word of SQL's)."""
    prefix = f"{alias}." if alias else ""
    return ", ".join(f'{prefix}"{name}"' for name in table.columns)


# ------------------------------------------------------------------------------------------------ to PostgreSQL


def micros(moment: datetime) -> int:
    """Microseconds since 1970 UTC."""
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def interval(span: timedelta | None) -> int | None:
    """Microseconds."""
    return None if span is None else span // _MICROSECOND


def _mapping(value: Mapping[str, Any]) -> str:
    return _JSON.encode(dict(value))


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
for _kind in _KINDS:
    _learn_types(_kind)
_GETTERS: dict[type, Callable[[Any], tuple[Any, ...]]] = {kind: attrgetter(*_NAMES[kind]) for kind in _KINDS}


@cache
def _writing(names: tuple[str, ...]) -> tuple[Callable[[Any], tuple[Any, ...]], list[tuple[int, Callable[[Any], Any]]]]:
    """What reads these attributes, and what is to be done to which of them."""
    return attrgetter(*names), [(place, _WRITERS[name]) for place, name in enumerate(names) if name in _WRITERS]


def rows_of(values: Sequence[Any], names: tuple[str, ...] = ()) -> list[list[Any]]:
    """Values of one kind as rows: all their attributes, or only these (two or more), in their order."""
    if not values:
        return []
    get, writers = _writing(names or _NAMES[type(values[0])])
    found = []
    for value in values:
        row = list(get(value))
        for place, write in writers:
            if (one := row[place]) is not None:
                row[place] = write(one)
        found.append(row)
    return found


def row(value: Any, *first: Any) -> list[Any]:
    """A value as one row, after other columns."""
    (found,) = rows_of([value])
    return [*first, *found]


def differing(pairs: Sequence[tuple[Any, Any]], *, but: tuple[str, ...]) -> tuple[str, ...]:
    """The attributes, but these, in which any of these pairs of values of one kind may differ."""
    names, get = _NAMES[type(pairs[0][1])], _GETTERS[type(pairs[0][1])]
    found: set[str] = set()
    for old, new in pairs:
        found.update(compress(names, map(is_not, get(old), get(new))))
    return tuple(sorted(found.difference(but)))


def text(rows: Any) -> str:
    """Rows, or several sets of them, as the one value of a statement."""
    return _JSON.encode(rows)


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
