"""Values ↔ rows of the SQLite ledger. Times are integer microseconds since 1970 UTC, enums text, yes and no 1 and 0.

Every operation reads and writes several of them, so what is used by all operations is spelled out: going through the
fields one by one took more time than SQLite itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from json.encoder import encode_basestring_ascii as _quoted
from types import MappingProxyType
from typing import Any

from attrs import fields

from qfpay_preauth._models import (
    Authorization,
    ConfirmedBy,
    Entry,
    Event,
    Movement,
    Notification,
    Operation,
    State,
    Why,
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
Row = Sequence[Any]

HELD_COLUMNS = (
    *("account", "idempotency_key", "operation", "authorization", "syssn", "amount", "currency", "out_trade_no"),
    *("state", "attempt", "reserved_at", "send_by", "doubt_at", "rerunnable", "absences"),
)
"""What a held entry of a first attempt says; everything else of it is NULL."""

ENDED_COLUMNS = (
    *("state", "why", "rerunnable", "result_syssn", "code", "message", "detail", "system_time", "confirmed_by"),
    *("concluded_at", "reason", "attention", "absences", "raw"),
)
"""What changes as an entry ends, or comes into doubt."""

MOSTLY_MISSING = frozenset(["out_trade_no", "why", "detail", "reason", "attention", "from_state"])
"""Texts of those, and of an event, that are mostly missing and never empty: a row of theirs says "" where they are."""

SUMS = (
    *("claimed", "captured", "unfrozen", "refunded", "foreign_captured", "foreign_unfrozen", "foreign_refunded"),
    "flagged",
)
"""What changes of an authorization."""


def micros(moment: datetime) -> int:
    """A moment as it is kept."""
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds  # dividing takes longer


def moment_of(us: int | None) -> datetime | None:
    """A moment that was kept."""
    return None if us is None else _EPOCH + timedelta(0, 0, us)


def names_of(kind: type) -> list[str]:
    """The columns of a value: its attributes, in their order."""
    return [each.name for each in fields(kind)]


def values_of(value: Any) -> list[Any]:
    """All of a value, in the order of its attributes."""
    return [plain(getattr(value, name)) for name in names_of(type(value))]


def plain(value: Any) -> Any:
    """One attribute as it is kept."""
    if isinstance(value, datetime):
        return micros(value)
    if isinstance(value, timedelta):
        return value // _MICROSECOND
    if isinstance(value, bool):
        return int(value)
    return json.dumps(dict(value)) if isinstance(value, Mapping) else value


def _json_of(fields: Mapping[str, Any]) -> str:
    """What json.dumps gives: of an answer all of whose fields are texts, as they mostly are, without its detours."""
    try:
        return "{" + ", ".join([f"{_quoted(name)}: {_quoted(value)}" for name, value in fields.items()]) + "}"
    except TypeError:
        return json.dumps(dict(fields))


def held_values(entry: Entry) -> Row:
    """HELD_COLUMNS of an entry."""
    return (
        entry.account,
        entry.idempotency_key,
        entry.operation._value_,
        entry.authorization,
        entry.syssn,
        entry.amount,
        entry.currency,
        entry.out_trade_no or "",
        entry.state._value_,
        entry.attempt,
        micros(entry.reserved_at),
        micros(entry.send_by),
        micros(entry.doubt_at),
        0,
        0,
    )


def ended_values(entry: Entry) -> Row:
    """ENDED_COLUMNS of an entry, and its name."""
    return (
        entry.state._value_,
        "" if entry.why is None else entry.why._value_,
        int(entry.rerunnable),
        entry.result_syssn,
        entry.code,
        entry.message,
        entry.detail or "",
        None if entry.system_time is None else micros(entry.system_time),
        None if entry.confirmed_by is None else entry.confirmed_by._value_,
        None if entry.concluded_at is None else micros(entry.concluded_at),
        entry.reason or "",
        entry.attention or "",
        entry.absences,
        None if entry.raw is None else _json_of(entry.raw),
        entry.account,
        entry.idempotency_key,
    )


def sums_of(hold: Authorization) -> Row:
    """SUMS of an authorization, and its name."""
    return (
        hold.claimed,
        hold.captured,
        hold.unfrozen,
        hold.refunded,
        hold.foreign_captured,
        hold.foreign_unfrozen,
        hold.foreign_refunded,
        int(hold.flagged),
        hold.account,
        hold.syssn,
    )


def event_values(event: Event) -> Row:
    """All of an event."""
    return (
        event.account,
        micros(event.at),
        event.kind,
        event.authorization,
        event.idempotency_key,
        "" if event.from_state is None else event.from_state._value_,
        None if event.to_state is None else event.to_state._value_,
        event.amount,
        event.detail or "",
    )


def movement_values(movement: Movement) -> Row:
    """All of a movement."""
    return (
        movement.account,
        movement.syssn,
        movement.kind,
        movement.authorization,
        movement.amount,
        movement.idempotency_key,
        int(movement.executed),
        movement.refunded,
        movement.refund_claimed,
        movement.foreign_refunded,
    )


# ------------------------------------------------------------------------------------------------ and back


def authorization_of(row: Row) -> Authorization:
    """An authorization that was kept."""
    values = list(row)
    values[5], values[6] = moment_of(row[5]), moment_of(row[6])
    values[7] = None if row[7] is None else timedelta(0, 0, row[7])
    values[-1] = bool(row[-1])
    return Authorization(*values)


def movement_of(row: Row) -> Movement:
    """A movement that was kept."""
    values = list(row)
    values[6] = bool(row[6])
    return Movement(*values)


def entry_of(row: Row) -> Entry:
    """An entry that was kept."""
    values = list(row)
    for place, read in _ALWAYS:
        values[place] = read(values[place])
    for place, read in _SELDOM:
        if values[place] is not None:
            values[place] = read(values[place])
    return Entry(*values)


def event_of(row: Row) -> Event:
    """An event that was kept."""
    account, at, kind, authorization, key, from_state, to_state, amount, detail = row
    return Event(
        account,
        _EPOCH + timedelta(0, 0, at),
        kind,
        authorization,
        key,
        State(from_state) if from_state else None,
        State(to_state) if to_state else None,
        amount,
        detail,
    )


def notice_of(row: Row) -> Notification:
    """A notification that was kept."""
    values: list[Any] = list(row)
    values[7], values[9] = json.loads(row[7]), moment_of(row[9])
    return Notification(*values)


def _raw_of(text: str) -> Mapping[str, Any]:
    return MappingProxyType(json.loads(text))  # it may be given to several


def _readers(**readers: Callable[[Any], Any]) -> list[tuple[int, Callable[[Any], Any]]]:
    place = {name: number for number, name in enumerate(names_of(Entry))}
    return [(place[name], read) for name, read in readers.items()]


_ALWAYS = _readers(
    operation=Operation,
    state=State,
    reserved_at=moment_of,
    send_by=moment_of,
    doubt_at=moment_of,
    rerunnable=bool,
)
_SELDOM = _readers(why=Why, system_time=moment_of, confirmed_by=ConfirmedBy, concluded_at=moment_of, raw=_raw_of)
