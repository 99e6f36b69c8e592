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
_FROM_NUMBER = _SELECT_ENTRY.replace("FROM entries", "FROM entries INDEXED BY entries_number")
_FROM_HOLD = _SELECT_ENTRY.replace("FROM entries", "FROM entries INDEXED BY entries_of_hold")
_FROM_EXECUTED = _SELECT_ENTRY.replace("FROM entries", "FROM entries INDEXED BY entries_executed")
_GET_UNRESOLVED = f"{_FROM_UNRESOLVED} AND authorization = ? AND {_UNRESOLVED}"
_GET_DOUBTS = (
    f"{_FROM_DOUBTS} AND {_UNRESOLVED} AND (state = 'in_doubt' OR doubt_at <= ?) "
    "AND (reserved_at, idempotency_key) > (?, ?) ORDER BY reserved_at, idempotency_key LIMIT ?"
)
_GET_EVENTS = f"SELECT {_names(Event)} FROM events WHERE account = ? AND idempotency_key = ? ORDER BY id"  # noqa: S608


_GET_BY_NUMBER = (
    f"{_FROM_NUMBER} AND out_trade_no = ? AND out_trade_no IS NOT NULL AND operation <> 'unfreeze' "
    "ORDER BY reserved_at LIMIT 1"
)
_OWNS_MOVEMENT = "SELECT 1 FROM movements WHERE account = ? AND idempotency_key = ? LIMIT 1"
_GET_OF_HOLD = f"{_FROM_HOLD} AND authorization = ? ORDER BY reserved_at, idempotency_key"
_GET_EXECUTED = (
    f"{_FROM_EXECUTED} AND state = 'executed' AND (concluded_at, idempotency_key) > (?, ?) AND concluded_at < ? "
    "ORDER BY concluded_at, idempotency_key LIMIT ?"
)
_NOTICE = "kind, syssn, orig_syssn, out_trade_no, amount, currency, code, raw, orig_out_trade_no, system_time, digest"
_GET_OPEN_NOTICES = f"SELECT {_NOTICE} FROM notices WHERE account = ? AND open = 1"  # noqa: S608 - our own names
_GET_EXPIRING = (
    f"SELECT {_names(Authorization)} FROM authorizations INDEXED BY authorizations_open "  # noqa: S608 - our own names
    "WHERE account = ? AND amount > captured + foreign_captured AND unfrozen + foreign_unfrozen = 0 "
    "AND coalesce(authorized_at, registered_at) + coalesce(capture_window, ?) < ? "
    "ORDER BY coalesce(authorized_at, registered_at) + coalesce(capture_window, ?), syssn"
)


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
        place = (_us(after.moment), after.idempotency_key) if after else (-(2**62), "")
        return tuple(map(_entry, self._run(_GET_DOUBTS, (account, _us(at), *place, limit))))

    def get_events(self, account: str, idempotency_key: str) -> Sequence[Event]:
        return tuple(map(_event, self._run(_GET_EVENTS, (account, idempotency_key))))

    def get_by_number(self, account: str, out_trade_no: str) -> Entry | None:
        row = self._run(_GET_BY_NUMBER, (account, out_trade_no)).fetchone()
        return _entry(row) if row else None

    def owns_movement(self, account: str, idempotency_key: str) -> bool:
        found = self._run(_OWNS_MOVEMENT, (account, idempotency_key)).fetchone()
        return found is not None

    def get_of_hold(self, account: str, authorization: str) -> Sequence[Entry]:
        return tuple(map(_entry, self._run(_GET_OF_HOLD, (account, authorization))))

    def get_words(self, account: str) -> Mapping[str, Mapping[str, bool]]:
        words: dict[str, dict[str, bool]] = {}
        for kind, word, linked in self._run("SELECT kind, word, linked FROM words WHERE account = ?", (account,)):
            words.setdefault(kind, {})[word] = bool(linked)
        return words

    def put_word(self, account: str, kind: str, word: str, linked: bool) -> None:
        self._run(
            "INSERT INTO words VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET linked = max(linked, excluded.linked)",
            (account, kind, word, int(linked)),
        )

    def put_discrepancy(self, account: str, at: datetime, discrepancy: Discrepancy) -> bool:
        values = [_plain(getattr(discrepancy, each.name)) for each in fields(Discrepancy)]
        done = self._run(
            "INSERT INTO discrepancies (account, at, kind, authorization, syssn, idempotency_key, ours, theirs, "
            "fingerprint, reported) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0) ON CONFLICT DO NOTHING",
            (account, _us(at), *values, json.dumps(values)),
        )
        return done.rowcount == 1

    def take_discrepancies(self, account: str) -> Sequence[Discrepancy]:
        rows = self._run(
            "UPDATE discrepancies SET reported = 1 WHERE account = ? AND reported = 0 "
            "RETURNING id, kind, authorization, syssn, idempotency_key, ours, theirs",
            (account,),
        ).fetchall()
        return [Discrepancy(DiscrepancyKind(row[1]), *row[2:]) for row in sorted(rows)]

    def put_notice(self, account: str, at: datetime, notice: Notification) -> bool:
        values = [_plain(getattr(notice, name)) for name in _NOTICE.split(", ")]
        marks = ", ".join("?" * len(values))
        done = self._run(
            f"INSERT INTO notices (account, received_at, open, {_NOTICE}) VALUES (?, ?, 1, {marks}) "  # noqa: S608
            "ON CONFLICT DO NOTHING",
            (account, _us(at), *values),
        )
        return done.rowcount == 1

    def get_open_notices(self, account: str, orig_syssn: str | None) -> Sequence[Notification]:
        if orig_syssn is None:
            return tuple(map(_notice, self._run(f"{_GET_OPEN_NOTICES} ORDER BY id", (account,))))
        found = self._run(f"{_GET_OPEN_NOTICES} AND orig_syssn = ? ORDER BY id", (account, orig_syssn))
        return tuple(map(_notice, found))

    def end_notice(self, account: str, digest: str) -> None:
        self._run("UPDATE notices SET open = 0 WHERE account = ? AND digest = ?", (account, digest))

    def get_executed(
        self, account: str, start: datetime, end: datetime, after: After | None, limit: int
    ) -> Sequence[Entry]:
        place = (_us(after.moment), after.idempotency_key) if after else (_us(start) - 1, "\U0010ffff")
        return tuple(map(_entry, self._run(_GET_EXECUTED, (account, *place, _us(end), limit))))

    def get_windows(self, name: str) -> str | None:
        row = self._run("SELECT state FROM windows WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def put_windows(self, name: str, state: str) -> None:
        self._run("INSERT OR REPLACE INTO windows (name, state) VALUES (?, ?)", (name, state))

    def get_span(self, account: str) -> datetime | None:
        (read_until,) = self._run(
            "SELECT coalesce((SELECT read_until FROM bookmarks WHERE account = ?), "
            "(SELECT min(min(registered_at, coalesce(authorized_at, registered_at))) FROM authorizations "
            "WHERE account = ?))",
            (account, account),
        ).fetchone()
        return _moment(read_until)

    def put_bookmark(self, account: str, read_until: datetime) -> None:
        self._run(
            "INSERT INTO bookmarks VALUES (?, ?) ON CONFLICT DO UPDATE SET read_until = max(read_until, "
            "excluded.read_until)",
            (account, _us(read_until)),
        )

    def lower_bookmark(self, account: str, moment: datetime) -> None:
        values = (_us(moment), account, _us(moment))
        self._run("UPDATE bookmarks SET read_until = ? WHERE account = ? AND read_until > ?", values)

    def get_expiring(self, account: str, before: datetime, default_window: timedelta | None) -> Sequence[Authorization]:
        default = _plain(default_window)
        rows = self._run(_GET_EXPIRING, (account, default, _us(before), default))
        return tuple(map(_authorization, rows))

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


def _notice(row: Sequence[Any]) -> Notification:
    values: list[Any] = list(row)
    values[7], values[9] = json.loads(row[7]), _moment(row[9])
    return Notification(*values)
