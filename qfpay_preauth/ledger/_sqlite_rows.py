"""Values ↔ SQLite rows: one transaction as the verbs see it. Times are integer microseconds."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from attrs import fields

from qfpay_preauth._models import (
    Authorization,
    ConfirmedBy,
    Entry,
    Event,
    Movement,
    Operation,
    State,
    Why,
)
from qfpay_preauth.ledger._store import After

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_UNRESOLVED = "state IN ('held', 'in_doubt')"


def _names(kind: type) -> str:
    return ", ".join(each.name for each in fields(kind))


def _upsert(table: str, kind: type, key: tuple[str, ...]) -> str:
    names = [each.name for each in fields(kind)]
    changes = ", ".join(f"{name} = excluded.{name}" for name in names if name not in key)
    marks = ", ".join("?" * len(names))
    return (
        f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks}) "  # noqa: S608 - names of our own classes
        f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changes}"
    )


_PUT_AUTHORIZATION = _upsert("authorizations", Authorization, ("account", "syssn"))
_PUT_MOVEMENT = _upsert("movements", Movement, ("account", "syssn"))
_PUT_ENTRY = _upsert("entries", Entry, ("account", "idempotency_key"))
_ADD_EVENT = f"INSERT INTO events ({_names(Event)}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - our own names
_GET_AUTHORIZATION = f"SELECT {_names(Authorization)} FROM authorizations WHERE account = ? AND syssn = ?"  # noqa: S608
_GET_MOVEMENT = f"SELECT {_names(Movement)} FROM movements WHERE account = ? AND syssn = ?"  # noqa: S608
_SELECT_ENTRY = f"SELECT {_names(Entry)} FROM entries WHERE account = ?"  # noqa: S608
_GET_ENTRY = f"{_SELECT_ENTRY} AND idempotency_key = ?"
# the planner, having no statistics, might take the primary key and read an account's whole history
_FROM_UNRESOLVED = _SELECT_ENTRY.replace("FROM entries", "FROM entries INDEXED BY entries_unresolved")
_FROM_DOUBTS = _SELECT_ENTRY.replace("FROM entries", "FROM entries INDEXED BY entries_doubts")
_GET_UNRESOLVED = f"{_FROM_UNRESOLVED} AND authorization = ? AND {_UNRESOLVED}"
_GET_DOUBTS = (
    f"{_FROM_DOUBTS} AND {_UNRESOLVED} AND (state = 'in_doubt' OR doubt_at <= ?) "
    "AND (reserved_at, idempotency_key) > (?, ?) ORDER BY reserved_at, idempotency_key LIMIT ?"
)
_GET_EVENTS = f"SELECT {_names(Event)} FROM events WHERE account = ? AND idempotency_key = ? ORDER BY id"  # noqa: S608


class SqliteTransaction:
    """Reads and writes on one connection; whoever holds it begins and commits."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._run = connection.execute

    def get_authorization(self, account: str, syssn: str) -> Authorization | None:
        row = self._run(_GET_AUTHORIZATION, (account, syssn)).fetchone()
        return _authorization(row) if row else None

    def get_movement(self, account: str, syssn: str) -> Movement | None:
        row = self._run(_GET_MOVEMENT, (account, syssn)).fetchone()
        return _movement(row) if row else None

    def get_entry(self, account: str, idempotency_key: str) -> Entry | None:
        row = self._run(_GET_ENTRY, (account, idempotency_key)).fetchone()
        return _entry(row) if row else None

    def get_unresolved(self, account: str, authorization: str) -> Sequence[Entry]:
        return tuple(map(_entry, self._run(_GET_UNRESOLVED, (account, authorization))))

    def get_doubts(self, account: str, at: datetime, after: After | None, limit: int) -> Sequence[Entry]:
        place = (_us(after.reserved_at), after.idempotency_key) if after else (-(2**62), "")
        return tuple(map(_entry, self._run(_GET_DOUBTS, (account, _us(at), *place, limit))))

    def get_events(self, account: str, idempotency_key: str) -> Sequence[Event]:
        return tuple(map(_event, self._run(_GET_EVENTS, (account, idempotency_key))))

    def put_authorization(self, authorization: Authorization) -> None:
        self._run(_PUT_AUTHORIZATION, _values(authorization))

    def put_movement(self, movement: Movement) -> None:
        self._run(_PUT_MOVEMENT, _values(movement))

    def put_entry(self, entry: Entry) -> None:
        self._run(_PUT_ENTRY, _values(entry))

    def add_event(self, event: Event) -> None:
        self._run(_ADD_EVENT, _values(event))


def _us(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def _moment(us: int | None) -> datetime | None:
    return None if us is None else _EPOCH + timedelta(microseconds=us)


def _values(value: Any) -> list[Any]:
    return [_plain(getattr(value, each.name)) for each in fields(type(value))]


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return _us(value)
    if isinstance(value, timedelta):
        return value // _MICROSECOND
    if isinstance(value, bool):
        return int(value)
    return json.dumps(dict(value)) if isinstance(value, Mapping) else value


def _authorization(row: Sequence[Any]) -> Authorization:
    values: list[Any] = list(row)
    values[5], values[6] = _moment(row[5]), _moment(row[6])
    values[7] = None if row[7] is None else timedelta(microseconds=row[7])
    values[-1] = bool(row[-1])
    return Authorization(*values)


def _movement(row: Sequence[Any]) -> Movement:
    values: list[Any] = list(row)
    values[6] = bool(row[6])
    return Movement(*values)


def _entry(row: Sequence[Any]) -> Entry:
    values: dict[str, Any] = dict(zip(_ENTRY_NAMES, row, strict=True))
    for name, read in _ENTRY_READERS.items():
        if values[name] is not None:
            values[name] = read(values[name])
    return Entry(**values)


_ENTRY_NAMES = [each.name for each in fields(Entry)]
_ENTRY_READERS: dict[str, Any] = {
    "operation": Operation,
    "state": State,
    "why": Why,
    "confirmed_by": ConfirmedBy,
    "rerunnable": bool,
    "raw": json.loads,
    **dict.fromkeys(("reserved_at", "send_by", "doubt_at", "system_time", "concluded_at"), _moment),
}


def _event(row: Sequence[Any]) -> Event:
    account, at, kind, authorization, key, from_state, to_state, amount, detail = row
    return Event(
        account,
        _EPOCH + timedelta(microseconds=at),
        kind,
        authorization,
        key,
        State(from_state) if from_state else None,
        State(to_state) if to_state else None,
        amount,
        detail,
    )
