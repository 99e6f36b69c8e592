"""Writing what a batch of verbs decided: one statement for all tables, guarded, counted, and sent together with COMMIT.

A row that was not there is inserted plainly, so a unique key refuses who comes second. A row that was there is updated
only where its revision is still the one that was read. Where fewer rows change than should, the statement fails, and
the COMMIT behind it is never reached. The values are in the statement's text: plain ASCII, quoted by a random word.
"""

from __future__ import annotations

import secrets
from typing import Any

from qfpay_preauth.ledger import _postgres_rows as rows
from qfpay_preauth.ledger._postgres_snapshot import Name, Snapshot

STALE = "22012"  # division_by_zero: a row is not as it was read
UNMARKED = "2201F"  # invalid_argument_for_power_function: the writer's own row is not as it was left


class _Parts:
    def __init__(self, schema: str) -> None:
        self.schema = schema
        self.texts: list[str] = []
        self.counts: list[str] = []
        self._quote = f"$q{secrets.token_hex(8)}$"

    def source(self, table: str, values: list[dict[str, Any]]) -> str:
        """Values as a set of rows of that table."""
        return f"json_populate_recordset(NULL::{self.schema}.{table}, {self.quoted(rows.text(values))}::json)"

    def quoted(self, text: str) -> str:
        """A text that nothing in it can end: JSON is ASCII, and holds no word that was drawn a moment ago."""
        return f"{self._quote}{text}{self._quote}"

    def part(self, text: str, count: int | None) -> None:
        """One statement, and how many rows it must change; None: any number."""
        name = f"p{len(self.texts)}"
        self.texts.append(f"{name} AS ({text} RETURNING 1)")
        if count is not None:
            self.counts.append(f"(SELECT count(*) FROM {name}) = {count}")

    def insert(self, table: rows.Table, values: list[dict[str, Any]]) -> None:
        if values:
            order = ", ".join(f'"{name}"' for name in table.key)
            ordered = f" ORDER BY {order}" if order else ""
            names = rows.columns(table)
            source = self.source(table.name, values)
            self.part(
                f"INSERT INTO {self.schema}.{table.name} ({names}) SELECT {names} FROM {source}{ordered}", len(values)
            )

    def update(self, table: rows.Table, values: list[dict[str, Any]]) -> None:
        if values:
            changes = ", ".join(f'"{name}" = v."{name}"' for name in table.columns if name not in table.key)
            same = " AND ".join(f't."{name}" = v."{name}"' for name in table.key)
            self.part(
                f"UPDATE {self.schema}.{table.name} t SET {changes}, revision = t.revision + 1 "
                f"FROM {self.source(table.name, values)} v WHERE {same} AND t.revision = v.revision",
                len(values),
            )

    def statement(self) -> str:
        """All parts; it fails with UNMARKED or STALE where the first, or another, does not count what it must."""
        marked, *others = self.counts
        agree = " AND ".join(others) or "true"
        return (
            f"WITH {', '.join(self.texts)} SELECT sqrt(CASE WHEN {marked} THEN 1 ELSE -1 END), "
            f"1 / (CASE WHEN {agree} THEN 1 ELSE 0 END)"
        )


def flush_of(snapshot: Snapshot, schema: str, writer: str, marks: tuple[str, str]) -> str:
    """The statement that writes everything, and the writer's mark: (the last one, the new one)."""
    parts = _Parts(schema)
    _mark(parts, writer, marks)
    _values(parts, rows.AUTHORIZATIONS, snapshot, snapshot.authorizations)
    _values(parts, rows.ENTRIES, snapshot, snapshot.entries)
    _values(parts, rows.MOVEMENTS, snapshot, snapshot.movements)
    parts.insert(rows.EVENTS, [rows.row(event) for event in snapshot.events])
    _evidence(parts, snapshot)
    return parts.statement()


def _mark(parts: _Parts, writer: str, marks: tuple[str, str]) -> None:
    """A ledger that was moved elsewhere takes no writer any more."""
    last, new, s = *map(parts.quoted, marks), parts.schema
    parts.part(
        f"INSERT INTO {s}.writers AS w (writer, mark) SELECT {parts.quoted(writer)}, {new} "
        f"WHERE NOT EXISTS (SELECT 1 FROM {s}.meta WHERE name = 'moved_to') "
        f"ON CONFLICT (writer) DO UPDATE SET mark = excluded.mark WHERE w.mark = {last}",
        1,
    )


def _values(parts: _Parts, table: rows.Table, snapshot: Snapshot, values: dict[Name, Any]) -> None:
    revisions = snapshot.revisions[table.name]
    new, changed = [], []
    for name in snapshot.changed[table.name]:
        if name in revisions:
            changed.append(rows.row(values[name], revision=revisions[name]))
        else:
            new.append(rows.row(values[name]))
    parts.insert(table, new)
    parts.update(table, changed)


def _evidence(parts: _Parts, snapshot: Snapshot) -> None:
    s = parts.schema
    words = [dict(zip(rows.WORDS.columns, (*key, linked), strict=True)) for key, linked in snapshot.put_words.items()]
    if words:
        parts.part(
            f"INSERT INTO {s}.words AS t (account, kind, word, linked) SELECT account, kind, word, linked "
            f"FROM {parts.source('words', words)} ORDER BY account, kind, word "
            "ON CONFLICT (account, kind, word) DO UPDATE SET linked = t.linked OR excluded.linked",
            len(words),
        )
    parts.insert(rows.DISCREPANCIES, list(snapshot.put_discrepancies.values()))
    ended = snapshot.ended_notices
    parts.insert(rows.NOTICES, [{**row, "open": name not in ended} for name, row in snapshot.put_notices.items()])
    closed = [{"account": a, "digest": d} for a, d in ended if (a, d) not in snapshot.put_notices]
    if closed:
        parts.part(
            f"UPDATE {s}.notices t SET open = false FROM {parts.source('notices', closed)} v "
            "WHERE t.account = v.account AND t.digest = v.digest",
            len(closed),
        )
    lowered = [{"account": a, "read_until": rows.micros(moment)} for a, moment in snapshot.lowered.items()]
    if lowered:  # a bookmark that is not there, or lies before, stays
        parts.part(
            f"UPDATE {s}.bookmarks t SET read_until = v.read_until FROM {parts.source('bookmarks', lowered)} v "
            "WHERE t.account = v.account AND t.read_until > v.read_until",
            None,
        )
