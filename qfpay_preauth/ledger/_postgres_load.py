"""Loading what verbs will ask for: holds are locked, in order, and everything on them is read as it is after that.

Under READ COMMITTED a statement sees what was committed when it began, even where it then waits for a lock. So one
statement does both and also says whether a hold has changed in between: every change of what belongs to a hold changes
its revision. Only where one has, everything is read once more, now that the holds are locked.
"""

from __future__ import annotations

import json
from typing import Any

from attrs import evolve

from qfpay_preauth._models import Authorization, Entry, Movement, Notification
from qfpay_preauth.ledger import _postgres_rows as rows
from qfpay_preauth.ledger._postgres_snapshot import ALL, Name, Snapshot, Wants
from qfpay_preauth.ledger._postgres_source import Connection


def _document(table: rows.Table, alias: str) -> str:
    return f"json_build_array({rows.columns(table, alias)}, {alias}.revision)::text"


_HOLD = _document(rows.AUTHORIZATIONS, "h")
_LOCKED = f"json_build_array({rows.columns(rows.AUTHORIZATIONS, 'l')}, l.revision, l.revision = h.revision)::text"
_ENTRY = _document(rows.ENTRIES, "e")
_MOVEMENT = _document(rows.MOVEMENTS, "m")
_NOTICE_COLUMNS = rows.Table("notices", rows.NOTICES.columns[3:], ())
_NOTICE = f"json_build_array(w.n, t.id, t.account, {rows.columns(_NOTICE_COLUMNS, 't')})::text"
_WANTED = "FROM unnest(${0}::text[], ${1}::text[]) AS w(a, n)"

# the parts of the reading statement, by what is wanted; {s} is the schema, {w} the wanted names
_PARTS: dict[str, str] = {
    "holds": f"SELECT 'holds', {_HOLD} {{w}} JOIN {{s}}.authorizations h ON h.account = w.a AND h.syssn = w.n",
    "entries": f"SELECT 'entries', {_ENTRY} {{w}} JOIN {{s}}.entries e ON e.account = w.a AND e.idempotency_key = w.n",
    "unresolved": f"SELECT 'unresolved', {_ENTRY} {{w}} JOIN {{s}}.entries e "
    "ON e.account = w.a AND e.unresolved_of = w.n",
    "of_hold": f"SELECT 'of_hold', {_ENTRY} {{w}} JOIN {{s}}.entries e "
    'ON e.account = w.a AND e."authorization" = w.n',
    "numbers": f"SELECT 'numbers', {_ENTRY} {{w}} CROSS JOIN LATERAL (SELECT * FROM {{s}}.entries e "
    "WHERE e.account = w.a AND e.out_trade_no = w.n AND e.out_trade_no IS NOT NULL AND e.operation <> 'unfreeze' "
    "ORDER BY e.reserved_at LIMIT 1) e",
    "movements": f"SELECT 'movements', {_MOVEMENT} {{w}} JOIN {{s}}.movements m ON m.account = w.a AND m.syssn = w.n",
    "owning": "SELECT 'owning', json_build_array(m.account, m.idempotency_key)::text {w} JOIN {s}.movements m "
    "ON m.account = w.a AND m.idempotency_key = w.n AND m.idempotency_key IS NOT NULL",
    "words": "SELECT 'words', json_build_array(t.account, t.kind, t.word, t.linked)::text {w} JOIN {s}.words t "
    "ON t.account = w.a",
    "notices": f"SELECT 'notices', {_NOTICE} {{w}} "
    f"JOIN {{s}}.notices t ON t.account = w.a AND t.open AND (w.n = '{ALL}' OR t.orig_syssn = w.n)",
    "digests": "SELECT 'digests', json_build_array(t.account, t.digest)::text {w} JOIN {s}.notices t "
    "ON t.account = w.a AND t.digest = w.n",
}
_VIA: dict[str, str] = {
    "via_movements": 'SELECT m.account, m."authorization" {w} JOIN {s}.movements m '
    "ON m.account = w.a AND m.syssn = w.n",
    "via_entries": 'SELECT e.account, e."authorization" {w} JOIN {s}.entries e '
    "ON e.account = w.a AND e.idempotency_key = w.n",
    "via_numbers": 'SELECT e.account, e."authorization" {w} JOIN {s}.entries e '
    "ON e.account = w.a AND e.out_trade_no = w.n AND e.out_trade_no IS NOT NULL AND e.operation <> 'unfreeze'",
}


class Loader:
    """Loads into snapshots over one schema."""

    def __init__(self, schema: str) -> None:
        self._schema = schema

    async def load(self, connection: Connection, snapshot: Snapshot, wants: Wants, *, lock: bool) -> None:
        """Load what is wanted and not there yet; with `lock`, holds are locked first."""
        wants = _not_loaded(snapshot, wants)
        if lock and (wants.holds or wants.via_movements or wants.via_entries or wants.via_numbers):
            found = await self._fetch(connection, *self.both(wants))
            held = [document for part, document in found if part == "locked"]
            for document in held:
                _take_hold(snapshot, document[:-1])
            absent, wants.holds = wants.holds, set()
            for name in absent:
                snapshot.authorizations.setdefault(name, None)
            if all(same for *_, same in held):
                _take(snapshot, wants, [each for each in found if each[0] != "locked"])
                return
        elif lock:
            wants.holds = set()
        statement, names = self.reading(wants)
        if statement:
            _take(snapshot, wants, await self._fetch(connection, statement, names))

    async def _fetch(
        self, connection: Connection, statement: str, names: list[list[str]]
    ) -> list[tuple[str, list[Any]]]:
        """Rows of a part's name and a document, the documents read at one stroke."""
        found = await connection.fetch(statement, *names)
        documents = json.loads(f"[{','.join([document for _, document in found])}]")
        return [(part, document) for (part, _), document in zip(found, documents, strict=True)]

    def both(self, wants: Wants) -> tuple[str, list[list[str]]]:
        """Both at once. Of each hold that was locked it says whether it is still as it was when the statement began: if
        not, somebody was waited for, and what was read beside it may be old."""
        arguments = _Arguments()
        locking = self._locking(wants, arguments)
        parts = [
            f"SELECT 'locked', {_LOCKED} FROM locked l JOIN {self._schema}.authorizations h "
            "ON h.account = l.account AND h.syssn = l.syssn",
            *self._reading(evolve(wants, holds=set()), arguments),
        ]
        return f"WITH locked AS MATERIALIZED ({locking}) {' UNION ALL '.join(parts)}", arguments.values

    def locking(self, wants: Wants) -> tuple[str, list[list[str]]]:
        """The statement that locks holds, by name and by what leads to them, always in the same order."""
        arguments = _Arguments()
        return self._locking(wants, arguments), arguments.values

    def _locking(self, wants: Wants, arguments: _Arguments) -> str:
        parts = [f"SELECT a, n {arguments.add(wants.holds)}"] if wants.holds else []
        for kind, text in _VIA.items():
            if names := getattr(wants, kind):
                parts.append(text.format(w=arguments.add(names), s=self._schema))
        return (
            f"SELECT h.* FROM {self._schema}.authorizations h WHERE (h.account, h.syssn) IN "
            f"({' UNION ALL '.join(parts)}) ORDER BY h.account, h.syssn FOR NO KEY UPDATE OF h"
        )

    def reading(self, wants: Wants) -> tuple[str, list[list[str]]]:
        """The statement that reads everything else; empty where nothing is wanted."""
        arguments = _Arguments()
        return " UNION ALL ".join(self._reading(wants, arguments)), arguments.values

    def _reading(self, wants: Wants, arguments: _Arguments) -> list[str]:
        return [
            text.format(w=arguments.add(names), s=self._schema)
            for kind, text in _PARTS.items()
            if (names := getattr(wants, kind))
        ]

    async def known_fingerprints(self, connection: Connection, names: set[Name]) -> set[Name]:
        """Which discrepancies are recorded already."""
        arguments = _Arguments()
        statement = (
            f"SELECT d.account, d.fingerprint {arguments.add(names)} "
            f"JOIN {self._schema}.discrepancies d ON d.account = w.a AND d.fingerprint = w.n"
        )
        return {(account, fingerprint) for account, fingerprint in await connection.fetch(statement, *arguments.values)}


class _Arguments:
    """Numbered parameters: two arrays for each set of names."""

    def __init__(self) -> None:
        self.values: list[list[str]] = []

    def add(self, names: set[Name]) -> str:
        ordered = sorted(names)
        self.values += [[account for account, _ in ordered], [name for _, name in ordered]]
        return _WANTED.format(len(self.values) - 1, len(self.values))


def _not_loaded(snapshot: Snapshot, wants: Wants) -> Wants:
    return Wants(
        holds={name for name in wants.holds if name not in snapshot.authorizations},
        via_movements={name for name in wants.via_movements if name not in snapshot.movements},
        via_entries={name for name in wants.via_entries if name not in snapshot.entries},
        via_numbers={name for name in wants.via_numbers if name not in snapshot.numbers},
        entries={name for name in wants.entries if name not in snapshot.entries},
        unresolved={name for name in wants.unresolved if name not in snapshot.unresolved},
        of_hold={name for name in wants.of_hold if name not in snapshot.of_hold},
        numbers={name for name in wants.numbers if name not in snapshot.numbers},
        movements={name for name in wants.movements if name not in snapshot.movements},
        owning={name for name in wants.owning if name not in snapshot.owning},
        words={name for name in wants.words if name[0] not in snapshot.words},
        notices={name for name in wants.notices if name not in snapshot.notices},
        digests={name for name in wants.digests if name not in snapshot.digests},
    )


# ------------------------------------------------------------------------------------------------ taking in


def _take_hold(snapshot: Snapshot, found: list[Any]) -> None:
    hold = rows.value_of(Authorization, found[:-1])
    snapshot.loaded("authorizations", (hold.account, hold.syssn), hold, found[-1])


def _take_entry(snapshot: Snapshot, found: list[Any]) -> Entry:
    entry = rows.value_of(Entry, found[:-1])
    snapshot.loaded("entries", (entry.account, entry.idempotency_key), entry, found[-1])
    return entry


def _take(snapshot: Snapshot, wants: Wants, found: list[tuple[str, list[Any]]]) -> None:
    """Everything that was read, and that the rest of what was wanted is not there."""
    groups: dict[str, dict[Name, list[str]]] = {
        "unresolved": {name: [] for name in wants.unresolved},
        "of_hold": {name: [] for name in wants.of_hold},
    }
    notices: dict[Name, list[tuple[int, str]]] = {name: [] for name in wants.notices}
    words: dict[str, dict[str, dict[str, bool]]] = {account: {} for account, _ in wants.words}
    for part, document in found:
        if part == "holds":
            _take_hold(snapshot, document)
        elif part == "movements":
            _take_movement(snapshot, document)
        elif part in ("owning", "digests"):
            getattr(snapshot, part)[document[0], document[1]] = True
        elif part == "words":
            account, kind, word, linked = document
            words[account].setdefault(kind, {})[word] = linked
        elif part == "notices":
            wanted, number, account, *values = document
            notice = rows.value_of(Notification, values)
            snapshot.notice_values.setdefault((account, notice.digest), notice)
            notices[account, wanted].append((number, notice.digest))
        else:
            entry = _take_entry(snapshot, document)
            if part == "numbers":
                snapshot.numbers[entry.account, entry.out_trade_no or ""] = entry.idempotency_key
            elif part != "entries":
                groups[part][entry.account, entry.authorization].append(entry.idempotency_key)
    for kind, groups_of in groups.items():
        getattr(snapshot, kind).update({name: tuple(keys) for name, keys in groups_of.items()})
    snapshot.notices.update({name: tuple(digest for _, digest in sorted(each)) for name, each in notices.items()})
    snapshot.words.update(words)
    _absent(snapshot, wants)


def _take_movement(snapshot: Snapshot, found: list[Any]) -> None:
    movement = rows.value_of(Movement, found[:-1])
    snapshot.loaded("movements", (movement.account, movement.syssn), movement, found[-1])


def _absent(snapshot: Snapshot, wants: Wants) -> None:
    for name in wants.holds:
        snapshot.authorizations.setdefault(name, None)
    for name in wants.entries:
        snapshot.entries.setdefault(name, None)
    for name in wants.movements:
        snapshot.movements.setdefault(name, None)
    for name in wants.numbers:
        snapshot.numbers.setdefault(name, None)
    for name in wants.owning:
        snapshot.owning.setdefault(name, False)
    for name in wants.digests:
        snapshot.digests.setdefault(name, False)
