"""Writing what a batch of verbs decided: one statement for all tables, guarded, and counted.

A row that was not there is inserted plainly, so a unique key refuses who comes second. A row that was there is updated
only where its revision is still the one that was read; otherwise fewer rows change than should, and nothing is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import frozen

from qfpay_preauth.ledger import _postgres_rows as rows
from qfpay_preauth.ledger._postgres_snapshot import Name, Snapshot

_ROWS = "json_populate_recordset(NULL::{s}.{table}, ${n}::text::json)"


@frozen
class Flush:
    """One statement with its parameters; it answers with one row of counts: the writer's mark first, None for any."""

    statement: str
    arguments: list[str]
    counts: tuple[int | None, ...]

    def agrees(self, counted: Sequence[int]) -> bool:
        """Whether as many rows changed as should."""
        return all(count in (None, found) for count, found in zip(self.counts, counted, strict=True))


class _Parts:
    def __init__(self, schema: str) -> None:
        self.schema = schema
        self.texts: list[str] = []
        self.arguments: list[str] = []
        self.counts: list[int | None] = []

    def add(self, text: str, values: list[dict[str, Any]], table: str) -> None:
        self.arguments.append(rows.text(values))
        source = _ROWS.format(s=self.schema, table=table, n=len(self.arguments))
        self.part(text.format(source=source, s=self.schema), len(values))

    def part(self, text: str, count: int | None) -> None:
        self.texts.append(f"p{len(self.texts)} AS ({text} RETURNING 1)")
        self.counts.append(count)

    def insert(self, table: rows.Table, values: list[dict[str, Any]]) -> None:
        if values:
            order = ", ".join(f'"{name}"' for name in table.key)
            ordered = f" ORDER BY {order}" if order else ""
            names = rows.columns(table)
            text = f"INSERT INTO {{s}}.{table.name} ({names}) SELECT {names} FROM {{source}}{ordered}"
            self.add(text, values, table.name)

    def update(self, table: rows.Table, values: list[dict[str, Any]]) -> None:
        if values:
            changes = ", ".join(f'"{name}" = v."{name}"' for name in table.columns if name not in table.key)
            same = " AND ".join(f't."{name}" = v."{name}"' for name in table.key)
            self.add(
                f"UPDATE {{s}}.{table.name} t SET {changes}, revision = t.revision + 1 FROM {{source}} v "
                f"WHERE {same} AND t.revision = v.revision",
                values,
                table.name,
            )

    def flush(self) -> Flush:
        counts = ", ".join(f"(SELECT count(*) FROM p{n})" for n in range(len(self.texts)))
        return Flush(f"WITH {', '.join(self.texts)} SELECT {counts}", self.arguments, tuple(self.counts))


def flush_of(snapshot: Snapshot, schema: str, writer: str, marks: tuple[str, str]) -> Flush:
    """The statement that writes everything, and the writer's mark: (the last one, the new one)."""
    parts = _Parts(schema)
    _mark(parts, writer, marks)
    _values(parts, rows.AUTHORIZATIONS, snapshot, snapshot.authorizations)
    _values(parts, rows.ENTRIES, snapshot, snapshot.entries)
    _values(parts, rows.MOVEMENTS, snapshot, snapshot.movements)
    parts.insert(rows.EVENTS, [rows.row(event) for event in snapshot.events])
    _evidence(parts, snapshot)
    return parts.flush()


def _mark(parts: _Parts, writer: str, marks: tuple[str, str]) -> None:
    """A ledger that was moved elsewhere takes no writer any more."""
    parts.arguments += [writer, marks[0], marks[1]]
    s = parts.schema
    parts.part(
        f"INSERT INTO {s}.writers AS w (writer, mark) SELECT $1::text, $3::text "
        f"WHERE NOT EXISTS (SELECT 1 FROM {s}.meta WHERE name = 'moved_to') "
        "ON CONFLICT (writer) DO UPDATE SET mark = excluded.mark WHERE w.mark = $2::text",
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
    words = [dict(zip(rows.WORDS.columns, (*key, linked), strict=True)) for key, linked in snapshot.put_words.items()]
    if words:
        parts.add(
            "INSERT INTO {s}.words AS t (account, kind, word, linked) SELECT account, kind, word, linked "
            "FROM {source} ORDER BY account, kind, word "
            "ON CONFLICT (account, kind, word) DO UPDATE SET linked = t.linked OR excluded.linked",
            words,
            "words",
        )
    parts.insert(rows.DISCREPANCIES, list(snapshot.put_discrepancies.values()))
    ended = snapshot.ended_notices
    parts.insert(rows.NOTICES, [{**row, "open": name not in ended} for name, row in snapshot.put_notices.items()])
    closed = [{"account": a, "digest": d} for a, d in ended if (a, d) not in snapshot.put_notices]
    if closed:
        parts.add(
            "UPDATE {s}.notices t SET open = false FROM {source} v WHERE t.account = v.account AND t.digest = v.digest",
            closed,
            "notices",
        )
    for account, moment in snapshot.lowered.items():
        _lower(parts, account, rows.micros(moment))


def _lower(parts: _Parts, account: str, moment: int) -> None:
    """A bookmark that is not there, or lies before, stays."""
    parts.arguments += [rows.text([{"account": account, "read_until": moment}])]
    source = _ROWS.format(s=parts.schema, table="bookmarks", n=len(parts.arguments))
    parts.part(
        f"UPDATE {parts.schema}.bookmarks t SET read_until = v.read_until FROM {source} v "
        "WHERE t.account = v.account AND t.read_until > v.read_until",
        None,
    )
