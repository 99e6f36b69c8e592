"""Writing what a batch of verbs decided: one statement for all tables, guarded, counted, and sent together with COMMIT.

A row that was not there is inserted plainly, so a unique key refuses who comes second. A row that was there is updated
only where its revision is still the one that was read, and only what has changed is written. Where fewer rows change
than should, the statement fails, and the COMMIT behind it is never reached. Each transaction moves revisions by a
random step, so that no two states of a row ever share one, not even where a failover has lost one of them. The values
are in the statement's text, one JSON document for all tables: plain ASCII, quoted by a random word.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

from attrs import frozen

from qfpay_preauth.ledger import _postgres_rows as rows
from qfpay_preauth.ledger._postgres_snapshot import Name, Snapshot

STALE = "22012"  # division_by_zero: a row is not as it was read
UNMARKED = "2201F"  # invalid_argument_for_power_function: the writer's own row is not as it was left
STATEMENTS_MAX = 256  # texts that are kept, of those that depend on which columns changed
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
    """What the statement is made of: its text depends on the parts' shapes only, so it is made once for each sort of
    batch; what is new each time are the values, and how many rows each part must change."""

    def __init__(self) -> None:
        self.texts: list[_Part] = []
        self.values: dict[str, list[list[Any]]] = {}

    def part(self, text: _Part, values: list[list[Any]]) -> None:
        """One statement over the values of its name."""
        self.values[text.name] = values
        self.texts.append(text)

    def insert(self, schema: str, table: rows.Table, values: list[list[Any]]) -> None:
        if values:
            self.part(_inserting(schema, table.name), values)

    def statement(self, marked: _Part, marks: Marks) -> str:
        """All parts; it fails with UNMARKED or STALE where the first, or another, does not count what it must."""
        counts = [len(self.values[each.name]) for each in self.texts if each.all_change]
        limits = [len(self.values[each.name]) for each in self.texts if each.limited]
        given = _quoted(rows.text(self.values), marks.new)
        known = [_quoted(each, marks.new) for each in (marks.writer, marks.new, marks.last)]
        return _statement(marked, *self.texts) % (given, marks.step, *known, *limits, *counts)


@frozen(cache_hash=True)
class _Part:
    """One statement over the values of its name; `all_change`: each of them must change a row; `limited`: their number
    stands in the text."""

    name: str
    text: str
    all_change: bool = True
    limited: bool = False


def _quoted(text: str, word: str) -> str:
    """A text that nothing in it can end: JSON is ASCII, and holds no word that was drawn a moment ago."""
    return f"$q{word}${text}$q{word}$"


@lru_cache(STATEMENTS_MAX)
def _statement(marked: _Part, *parts: _Part) -> str:
    texts = ", ".join(f"{each.name} AS ({each.text} RETURNING 1)" for each in (marked, *parts))
    agree = " AND ".join(f"(SELECT count(*) FROM {each.name}) = %d" for each in parts if each.all_change)
    return (
        f"WITH given AS MATERIALIZED (SELECT %s::jsonb AS j, %d AS step), {texts} "
        f"SELECT sqrt(CASE WHEN (SELECT count(*) FROM {marked.name}) = 1 THEN 1 ELSE -1 END), "
        f"1 / (CASE WHEN {agree or 'true'} THEN 1 ELSE 0 END)"
    )


def _source(part: str, names: tuple[str, ...]) -> str:
    """A part's values as a set of rows with these columns."""
    return f"(SELECT {rows.read_as(names, 'each')} FROM given, jsonb_array_elements(given.j->'{part}') each) v"


@cache
def _inserting(schema: str, name: str) -> _Part:
    table, part = _TABLES[name], f"new_{name}"
    order = ", ".join(f'v."{each}"' for each in table.key)
    into, given = rows.columns(table), rows.columns(table, "v")
    if name in _REVISED:
        into, given = f"{into}, revision", f"{given}, given.step"
    ordered = f" ORDER BY {order}" if order else ""
    source = _source(part, table.columns)
    return _Part(part, f"INSERT INTO {schema}.{name} ({into}) SELECT {given} FROM given, {source}{ordered}")


@lru_cache(STATEMENTS_MAX)
def _updating(schema: str, name: str, changed: tuple[str, ...]) -> _Part:
    """Only where a row's revision is the one that its value says it was read at."""
    key, part = (*_TABLES[name].key, "revision"), f"changed_{name}"
    changes = "".join(f'"{each}" = v."{each}", ' for each in changed)
    same = " AND ".join(f't."{each}" = v."{each}"' for each in key)
    values = f"SELECT {rows.read_as((*key, *changed), 'each')} FROM given, jsonb_array_elements(given.j->'{part}') each"
    # the limit limits nothing: it is how PostgreSQL, with no statistics, knows that few rows are looked for
    return _Part(
        part,
        f"UPDATE {schema}.{name} t SET {changes}revision = t.revision + given.step FROM given, ({values} LIMIT %d) v "
        f"WHERE {same}",
        limited=True,
    )


def locking(snapshot: Snapshot, schema: str, word: str) -> str:
    """The statement that locks all holds that are written, in the order in which everybody locks them."""
    holds = list(snapshot.changed["authorizations"])
    return (
        f"SELECT count(*) FROM (SELECT 1 FROM {schema}.authorizations h WHERE (h.account, h.syssn) IN (SELECT "
        f"each->>0, each->>1 FROM jsonb_array_elements({_quoted(rows.text(holds), word)}::jsonb) each "
        f"LIMIT {len(holds)}) ORDER BY h.account, h.syssn FOR NO KEY UPDATE OF h) locked"
    )


def flush_of(snapshot: Snapshot, schema: str, marks: Marks) -> str:
    """The statement that writes everything, and the writer's mark."""
    parts = _Parts()
    for table, values in zip(_REVISED.values(), snapshot.values, strict=True):
        if changed := snapshot.changed[table.name]:
            _values(parts, schema, table, snapshot, [(name, values[name]) for name in changed])
    parts.insert(schema, rows.EVENTS, rows.rows_of(snapshot.events))
    if snapshot.weighed:
        _evidence(parts, schema, snapshot)
    return parts.statement(_marked(schema), marks)


@cache
def _marked(schema: str) -> _Part:
    """The writer's mark; a ledger that was moved elsewhere takes no writer any more."""
    return _Part(
        "marked",
        f"INSERT INTO {schema}.writers AS w (writer, mark) SELECT %s, %s "
        f"WHERE NOT EXISTS (SELECT 1 FROM {schema}.meta WHERE name = 'moved_to') "
        "ON CONFLICT (writer) DO UPDATE SET mark = excluded.mark WHERE w.mark = %s",
    )


def _values(parts: _Parts, schema: str, table: rows.Table, snapshot: Snapshot, changed: list[tuple[Name, Any]]) -> None:
    revisions, stored = snapshot.revisions[table.name], snapshot.stored[table.name]
    parts.insert(schema, table, rows.rows_of([value for name, value in changed if name not in revisions]))
    if there := [each for each in changed if each[0] in revisions]:
        names = rows.differing([(stored[name], value) for name, value in there], but=table.key)
        found = rows.rows_of([value for _, value in there], (*table.key, *names))
        place = len(table.key)
        for (name, _), row in zip(there, found, strict=True):
            row.insert(place, revisions[name])
        parts.part(_updating(schema, table.name, names), found)


def _evidence(parts: _Parts, schema: str, snapshot: Snapshot) -> None:
    if words := [[*key, linked] for key, linked in snapshot.put_words.items()]:
        parts.part(_seen_words(schema), words)
    differ, new, ended = snapshot.put_discrepancies, snapshot.put_notices, snapshot.ended_notices
    parts.insert(
        schema,
        rows.DISCREPANCIES,
        [rows.row(each, name[0], rows.micros(at), name[1], False) for name, (at, each) in differ.items()],
    )
    parts.insert(
        schema,
        rows.NOTICES,
        [rows.row(each, name[0], rows.micros(at), name not in ended) for name, (at, each) in new.items()],
    )
    if closed := [list(name) for name in ended if name not in new]:
        parts.part(_closed_notices(schema), closed)
    if lowered := [[account, rows.micros(moment)] for account, moment in snapshot.lowered.items()]:
        parts.part(_lowered(schema), lowered)
    if windows := [list(each) for each in snapshot.windows.items()]:
        parts.part(_put_windows(schema), windows)


@cache
def _seen_words(schema: str) -> _Part:
    return _Part(
        "seen_words",
        f"INSERT INTO {schema}.words AS t (account, kind, word, linked) SELECT v.account, v.kind, v.word, v.linked "
        f"FROM {_source('seen_words', rows.WORDS.columns)} ORDER BY v.account, v.kind, v.word "
        "ON CONFLICT (account, kind, word) DO UPDATE SET linked = t.linked OR excluded.linked",
    )


@cache
def _closed_notices(schema: str) -> _Part:
    return _Part(
        "closed_notices",
        f"UPDATE {schema}.notices t SET open = false FROM {_source('closed_notices', rows.NOTICES.key)} "
        "WHERE t.account = v.account AND t.digest = v.digest",
    )


@cache
def _lowered(schema: str) -> _Part:
    """A bookmark that is not there, or lies before, stays."""
    return _Part(
        "lowered",
        f"UPDATE {schema}.bookmarks t SET read_until = v.read_until FROM {_source('lowered', rows.BOOKMARKS.columns)} "
        "WHERE t.account = v.account AND t.read_until > v.read_until",
        all_change=False,
    )


@cache
def _put_windows(schema: str) -> _Part:
    """Their row is there: whoever puts them has locked it."""
    return _Part(
        "put_windows",
        f"UPDATE {schema}.windows t SET state = v.state FROM {_source('put_windows', ('name', 'state'))} "
        "WHERE t.name = v.name",
    )
