"""Writing what a batch of verbs decided: one statement for all tables, guarded, counted, and sent together with COMMIT.

A row that was not there is inserted plainly, so a unique key refuses who comes second. A row that was there is updated
only where its revision is still the one that was read, and only what has changed is written. Where fewer rows change
than should, the statement fails, and the COMMIT behind it is never reached. Each transaction moves revisions by a
random step, so that no two states of a row ever share one, not even where a failover has lost one of them. The values
are in the statement's text, one JSON document for all tables: plain ASCII, quoted by a random word.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from attrs import frozen

from qfpay_preauth.ledger import _postgres_rows as rows
from qfpay_preauth.ledger._postgres_snapshot import Name, Snapshot

STALE = "22012"  # division_by_zero: a row is not as it was read
UNMARKED = "2201F"  # invalid_argument_for_power_function: the writer's own row is not as it was left
_REVISED = {table.name: table for table in (rows.AUTHORIZATIONS, rows.ENTRIES, rows.MOVEMENTS)}
_TABLES = {table.name: table for table in (*_REVISED.values(), rows.EVENTS, rows.DISCREPANCIES, rows.NOTICES)}


@frozen
class Marks:
    """What a writer leaves in its row: its last transaction's mark, and this one's, a random word in hexadecimal."""

    writer: str
    last: str
    new: str

    @property
    def step(self) -> int:
        """By how much the transaction moves revisions."""
        return 1 + int(self.new[:8], 16)


class _Parts:
    def __init__(self, schema: str, word: str) -> None:
        self.schema = schema
        self.texts: list[str] = []
        self.counts: list[str] = []
        self.values: dict[str, list[list[Any]]] = {}
        self._quote = f"$q{word}$"

    def quoted(self, text: str) -> str:
        """A text that nothing in it can end: JSON is ASCII, and holds no word that was drawn a moment ago."""
        return f"{self._quote}{text}{self._quote}"

    def part(self, name: str, text: str, values: list[list[Any]], *, all_change: bool = True) -> None:
        """One statement over the values of its name; each of them must change a row, unless told otherwise."""
        self.values[name] = values
        self.texts.append(f"{name} AS ({text} RETURNING 1)")
        if all_change:
            self.counts.append(f"(SELECT count(*) FROM {name}) = {len(values)}")

    def insert(self, table: rows.Table, values: list[list[Any]]) -> None:
        if values:
            name = f"new_{table.name}"
            self.part(name, _inserting(self.schema, table.name, name), values)

    def statement(self, step: int) -> str:
        """All parts; it fails with UNMARKED or STALE where the first, or another, does not count what it must."""
        marked, *others = self.counts
        agree = " AND ".join(others) or "true"
        given = f"SELECT {self.quoted(rows.text(self.values))}::jsonb AS j, {step} AS step"
        return (
            f"WITH given AS MATERIALIZED ({given}), {', '.join(self.texts)} "
            f"SELECT sqrt(CASE WHEN {marked} THEN 1 ELSE -1 END), 1 / (CASE WHEN {agree} THEN 1 ELSE 0 END)"
        )


def _source(part: str, names: tuple[str, ...]) -> str:
    """A part's values as a set of rows with these columns."""
    return f"(SELECT {rows.read_as(names, 'each')} FROM given, jsonb_array_elements(given.j->'{part}') each) v"


@cache
def _inserting(schema: str, name: str, part: str) -> str:
    table = _TABLES[name]
    order = ", ".join(f'v."{each}"' for each in table.key)
    into, given = rows.columns(table), rows.columns(table, "v")
    if name in _REVISED:
        into, given = f"{into}, revision", f"{given}, given.step"
    ordered = f" ORDER BY {order}" if order else ""
    return f"INSERT INTO {schema}.{name} ({into}) SELECT {given} FROM given, {_source(part, table.columns)}{ordered}"


@cache
def _updating(schema: str, name: str, part: str, changed: tuple[str, ...]) -> tuple[str, str]:
    """Only where a row's revision is the one that its value says it was read at; between the two goes a count."""
    key = (*_TABLES[name].key, "revision")
    changes = "".join(f'"{each}" = v."{each}", ' for each in changed)
    same = " AND ".join(f't."{each}" = v."{each}"' for each in key)
    values = f"SELECT {rows.read_as((*key, *changed), 'each')} FROM given, jsonb_array_elements(given.j->'{part}') each"
    return (
        f"UPDATE {schema}.{name} t SET {changes}revision = t.revision + given.step FROM given, ({values} LIMIT ",
        f") v WHERE {same}",
    )


def locking(snapshot: Snapshot, schema: str, word: str) -> str:
    """The statement that locks all holds that are written, in the order in which everybody locks them."""
    holds = list(snapshot.changed["authorizations"])
    names = _Parts(schema, word).quoted(rows.text(holds))
    return (
        f"SELECT count(*) FROM (SELECT 1 FROM {schema}.authorizations h WHERE (h.account, h.syssn) IN "
        f"(SELECT each->>0, each->>1 FROM jsonb_array_elements({names}::jsonb) each LIMIT {len(holds)}) "
        "ORDER BY h.account, h.syssn FOR NO KEY UPDATE OF h) locked"
    )


def flush_of(snapshot: Snapshot, schema: str, marks: Marks) -> str:
    """The statement that writes everything, and the writer's mark."""
    parts = _Parts(schema, marks.new)
    _mark(parts, marks)
    _values(parts, rows.AUTHORIZATIONS, snapshot, snapshot.authorizations)
    _values(parts, rows.ENTRIES, snapshot, snapshot.entries)
    _values(parts, rows.MOVEMENTS, snapshot, snapshot.movements)
    parts.insert(rows.EVENTS, rows.rows_of(snapshot.events))
    _evidence(parts, snapshot)
    return parts.statement(marks.step)


def _mark(parts: _Parts, marks: Marks) -> None:
    """A ledger that was moved elsewhere takes no writer any more."""
    s = parts.schema
    parts.part(
        "marked",
        f"INSERT INTO {s}.writers AS w (writer, mark) SELECT {parts.quoted(marks.writer)}, {parts.quoted(marks.new)} "
        f"WHERE NOT EXISTS (SELECT 1 FROM {s}.meta WHERE name = 'moved_to') "
        f"ON CONFLICT (writer) DO UPDATE SET mark = excluded.mark WHERE w.mark = {parts.quoted(marks.last)}",
        [[]],
    )


def _values(parts: _Parts, table: rows.Table, snapshot: Snapshot, values: dict[Name, Any]) -> None:
    revisions, stored = snapshot.revisions[table.name], snapshot.stored[table.name]
    changed = snapshot.changed[table.name]
    parts.insert(table, rows.rows_of([values[name] for name in changed if name not in revisions]))
    if there := [name for name in changed if name in revisions]:
        names = rows.differing([(stored[name], values[name]) for name in there], but=table.key)
        found = rows.rows_of([values[name] for name in there], (*table.key, *names))
        place = len(table.key)
        for name, row in zip(there, found, strict=True):
            row.insert(place, revisions[name])
        part = f"changed_{table.name}"
        head, tail = _updating(parts.schema, table.name, part, names)
        # the limit limits nothing: it is how PostgreSQL, with no statistics, knows that few rows are looked for
        parts.part(part, f"{head}{len(found)}{tail}", found)


def _evidence(parts: _Parts, snapshot: Snapshot) -> None:
    s = parts.schema
    if words := [[*key, linked] for key, linked in snapshot.put_words.items()]:
        parts.part(
            "seen_words",
            f"INSERT INTO {s}.words AS t (account, kind, word, linked) SELECT v.account, v.kind, v.word, v.linked "
            f"FROM {_source('seen_words', rows.WORDS.columns)} ORDER BY v.account, v.kind, v.word "
            "ON CONFLICT (account, kind, word) DO UPDATE SET linked = t.linked OR excluded.linked",
            words,
        )
    differ, new, ended = snapshot.put_discrepancies, snapshot.put_notices, snapshot.ended_notices
    parts.insert(
        rows.DISCREPANCIES,
        [rows.row(each, name[0], rows.micros(at), name[1], False) for name, (at, each) in differ.items()],
    )
    parts.insert(
        rows.NOTICES,
        [rows.row(each, name[0], rows.micros(at), name not in ended) for name, (at, each) in new.items()],
    )
    if closed := [list(name) for name in ended if name not in new]:
        parts.part(
            "closed_notices",
            f"UPDATE {s}.notices t SET open = false FROM {_source('closed_notices', rows.NOTICES.key)} "
            "WHERE t.account = v.account AND t.digest = v.digest",
            closed,
        )
    if lowered := [[account, rows.micros(moment)] for account, moment in snapshot.lowered.items()]:
        parts.part(  # a bookmark that is not there, or lies before, stays
            "lowered",
            f"UPDATE {s}.bookmarks t SET read_until = v.read_until FROM {_source('lowered', rows.BOOKMARKS.columns)} "
            "WHERE t.account = v.account AND t.read_until > v.read_until",
            lowered,
            all_change=False,
        )
