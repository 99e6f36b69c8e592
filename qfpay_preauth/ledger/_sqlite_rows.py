"""One transaction of the SQLite ledger as the verbs see it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Container, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from qfpay_preauth._models import (
    Authorization,
    Discrepancy,
    DiscrepancyKind,
    Entry,
    Event,
    Movement,
    Notification,
    State,
)
from qfpay_preauth.ledger._sqlite_values import (
    ENDED_COLUMNS,
    HELD_COLUMNS,
    MOSTLY_MISSING,
    SUMS,
    authorization_of,
    ended_values,
    entry_of,
    event_of,
    event_values,
    held_values,
    micros,
    moment_of,
    movement_of,
    movement_values,
    names_of,
    notice_of,
    plain,
    sums_of,
    values_of,
)
from qfpay_preauth.ledger._store import After

_UNRESOLVED = "state IN ('held', 'in_doubt')"


def _names(kind: type) -> str:
    return ", ".join(names_of(kind))


def _insert(table: str, names: Sequence[str], seldom: Container[str] = ()) -> str:
    marks = ", ".join(_mark(name, seldom) for name in names)
    return f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})"  # noqa: S608 - names of our own classes


def _changes(names: Iterable[str], seldom: Container[str] = ()) -> str:
    return ", ".join(f"{name} = {_mark(name, seldom)}" for name in names)


def _mark(name: str, seldom: Container[str]) -> str:
    # for None, sqlite3 looks up in vain how to adapt it, each time: it takes three times as long as a text
    return "nullif(?, '')" if name in seldom else "?"


def _upsert(table: str, kind: type, key: tuple[str, ...]) -> str:
    names = names_of(kind)
    changes = ", ".join(f"{name} = excluded.{name}" for name in names if name not in key)
    return f"{_insert(table, names)} ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changes}"


_ADD_AUTHORIZATION = _insert("authorizations", names_of(Authorization))
PUT_SUMS = f"UPDATE authorizations SET {_changes(SUMS)} WHERE account = ? AND syssn = ?"  # noqa: S608 - our own names
PUT_CLAIMED = "UPDATE authorizations SET claimed = ? WHERE account = ? AND syssn = ?"
_PUT_MOVEMENT = _upsert("movements", Movement, ("account", "syssn"))
_PUT_ENTRY = _upsert("entries", Entry, ("account", "idempotency_key"))
ADD_HELD = _insert("entries", HELD_COLUMNS, MOSTLY_MISSING)
_ADD_HELD_ONCE = f"{ADD_HELD} ON CONFLICT DO NOTHING"
# only what changes: the indexes of what stays are then left alone
PUT_ENDED = f"UPDATE entries SET {_changes(ENDED_COLUMNS, MOSTLY_MISSING)} WHERE account = ? AND idempotency_key = ?"  # noqa: S608
ADD_EVENT = _insert("events", names_of(Event), MOSTLY_MISSING)
ADD_MOVEMENT = _insert("movements", names_of(Movement))
_GET_AUTHORIZATION = f"SELECT {_names(Authorization)} FROM authorizations WHERE account = ? AND syssn = ?"  # noqa: S608
_GET_MOVEMENT = f"SELECT {_names(Movement)} FROM movements WHERE account = ? AND syssn = ?"  # noqa: S608
GET_MOVEMENTS = _GET_MOVEMENT.replace("syssn = ?", "syssn IN (?)")
_SELECT_ENTRY = f"SELECT {_names(Entry)} FROM entries WHERE account = ?"  # noqa: S608
_GET_ENTRY = f"{_SELECT_ENTRY} AND idempotency_key = ?"
GET_ENTRIES = f"{_SELECT_ENTRY} AND idempotency_key IN (?)"
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
        self._run = connection.cursor().execute  # one cursor for all: each would be an object made and dropped

    def _scan(self, text: str, values: Sequence[Any]) -> sqlite3.Cursor:
        """Read what is not named by its primary key."""
        return self._run(text, values)

    def get_authorization(self, account: str, syssn: str) -> Authorization | None:
        row = self._run(_GET_AUTHORIZATION, (account, syssn)).fetchone()
        return authorization_of(row) if row else None

    def get_movement(self, account: str, syssn: str) -> Movement | None:
        row = self._run(_GET_MOVEMENT, (account, syssn)).fetchone()
        return movement_of(row) if row else None

    def get_entry(self, account: str, idempotency_key: str) -> Entry | None:
        row = self._run(_GET_ENTRY, (account, idempotency_key)).fetchone()
        return entry_of(row) if row else None

    def get_unresolved(self, account: str, authorization: str) -> Sequence[Entry]:
        return tuple(map(entry_of, self._scan(_GET_UNRESOLVED, (account, authorization))))

    def get_doubts(self, account: str, at: datetime, after: After | None, limit: int) -> Sequence[Entry]:
        place = (micros(after.moment), after.idempotency_key) if after else (-(2**62), "")
        return tuple(map(entry_of, self._scan(_GET_DOUBTS, (account, micros(at), *place, limit))))

    def get_events(self, account: str, idempotency_key: str) -> Sequence[Event]:
        return tuple(map(event_of, self._scan(_GET_EVENTS, (account, idempotency_key))))

    def get_by_number(self, account: str, out_trade_no: str) -> Entry | None:
        row = self._scan(_GET_BY_NUMBER, (account, out_trade_no)).fetchone()
        return entry_of(row) if row else None

    def owns_movement(self, account: str, idempotency_key: str) -> bool:
        found = self._scan(_OWNS_MOVEMENT, (account, idempotency_key)).fetchone()
        return found is not None

    def get_of_hold(self, account: str, authorization: str) -> Sequence[Entry]:
        return tuple(map(entry_of, self._scan(_GET_OF_HOLD, (account, authorization))))

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
        values = values_of(discrepancy)
        done = self._run(
            "INSERT INTO discrepancies (account, at, kind, authorization, syssn, idempotency_key, ours, theirs, "
            "fingerprint, reported) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0) ON CONFLICT DO NOTHING",
            (account, micros(at), *values, json.dumps(values)),
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
        values = [plain(getattr(notice, name)) for name in _NOTICE.split(", ")]
        marks = ", ".join("?" * len(values))
        done = self._run(
            f"INSERT INTO notices (account, received_at, open, {_NOTICE}) VALUES (?, ?, 1, {marks}) "  # noqa: S608
            "ON CONFLICT DO NOTHING",
            (account, micros(at), *values),
        )
        return done.rowcount == 1

    def get_open_notices(self, account: str, orig_syssn: str | None) -> Sequence[Notification]:
        if orig_syssn is None:
            return tuple(map(notice_of, self._run(f"{_GET_OPEN_NOTICES} ORDER BY id", (account,))))
        found = self._run(f"{_GET_OPEN_NOTICES} AND orig_syssn = ? ORDER BY id", (account, orig_syssn))
        return tuple(map(notice_of, found))

    def end_notice(self, account: str, digest: str) -> None:
        self._run("UPDATE notices SET open = 0 WHERE account = ? AND digest = ?", (account, digest))

    def get_executed(
        self, account: str, start: datetime, end: datetime, after: After | None, limit: int
    ) -> Sequence[Entry]:
        place = (micros(after.moment), after.idempotency_key) if after else (micros(start) - 1, "\U0010ffff")
        return tuple(map(entry_of, self._scan(_GET_EXECUTED, (account, *place, micros(end), limit))))

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
        return moment_of(read_until)

    def put_bookmark(self, account: str, read_until: datetime) -> None:
        self._run(
            "INSERT INTO bookmarks VALUES (?, ?) ON CONFLICT DO UPDATE SET read_until = max(read_until, "
            "excluded.read_until)",
            (account, micros(read_until)),
        )

    def lower_bookmark(self, account: str, moment: datetime) -> None:
        values = (micros(moment), account, micros(moment))
        self._run("UPDATE bookmarks SET read_until = ? WHERE account = ? AND read_until > ?", values)

    def get_expiring(self, account: str, before: datetime, default_window: timedelta | None) -> Sequence[Authorization]:
        default = plain(default_window)
        rows = self._scan(_GET_EXPIRING, (account, default, micros(before), default))
        return tuple(map(authorization_of, rows))

    def put_authorization(self, authorization: Authorization) -> None:
        if self._run(PUT_SUMS, sums_of(authorization)).rowcount == 0:
            self._run(_ADD_AUTHORIZATION, values_of(authorization))

    def put_movement(self, movement: Movement) -> None:
        self._run(_PUT_MOVEMENT, movement_values(movement))

    def put_entry(self, entry: Entry) -> None:
        if entry.state is State.HELD:
            done = entry.attempt == 1 and self._run(_ADD_HELD_ONCE, held_values(entry)).rowcount == 1
        else:
            done = self._run(PUT_ENDED, ended_values(entry)).rowcount == 1
        if not done:
            self._run(_PUT_ENTRY, values_of(entry))

    def add_event(self, event: Event) -> None:
        self._run(ADD_EVENT, event_values(event))
