"""The transaction of a whole batch: it remembers what it has read and written, and writes many rows at a time.

Holds and unresolved entries are remembered from one transaction to the next, for as long as nobody else has written.
What operations write over and over waits until the batch ends; a row that is asked for by its name is answered from
what waits, and before anything else is read, all of it is written.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, TypeAlias

from qfpay_preauth._models import Authorization, Entry, Event, Movement, State
from qfpay_preauth.ledger import _sqlite_many as many
from qfpay_preauth.ledger._sqlite_rows import (
    ADD_EVENT,
    ADD_HELD,
    ADD_MOVEMENT,
    GET_ENTRIES,
    GET_MOVEMENTS,
    PUT_CLAIMED,
    PUT_ENDED,
    PUT_SUMS,
    SqliteTransaction,
)
from qfpay_preauth.ledger._sqlite_values import (
    SUMS,
    Row,
    ended_values,
    entry_of,
    event_values,
    held_values,
    movement_of,
    movement_values,
    sums_of,
)

REMEMBERED_MAX = 2_000
"""Holds, or entries, that are remembered at most from one transaction to the next."""
Name: TypeAlias = tuple[str, str]
"""An account, and what names a row within it."""

_all_but_claimed = attrgetter(*(name for name in SUMS if name != "claimed"))


class BatchTransaction(SqliteTransaction):
    """One transaction after another on one connection, each for many jobs.

    Whoever holds the connection calls `begin` right after BEGIN, `flush` before COMMIT, and `forget` with every
    ROLLBACK. `deferred` and the connection's `total_changes` together grow with whatever a job writes, and do not
    change as it is flushed.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__(connection)
        self.deferred = 0
        self._version: int | None = None
        # remembered from one transaction to the next; of `unresolved`, all that a hold has
        self._holds: dict[Name, Authorization] = {}
        self._unresolved: dict[Name, dict[str, Entry]] = {}
        self._open: dict[Name, Entry] = {}
        # seen in this transaction: ended entries and movements; None: it is not there
        self._seen: dict[Name, Entry | None] = {}
        self._movements: dict[Name, Movement | None] = {}
        # what waits to be written; of holds, as they were before
        self._sums: dict[Name, Authorization] = {}
        self._held: dict[Name, Entry] = {}
        self._ended: dict[Name, Entry] = {}
        self._owned: dict[Name, Movement] = {}
        self._events: list[Event] = []

    # ------------------------------------------------------------------ for whoever holds the connection

    def begin(self, entries: Iterable[Name] = (), movements: Iterable[Name] = ()) -> None:
        """A transaction was begun, which will look up these.

        SQLite's data version tells whether another connection has committed anything; asking for it is also what
        takes a reading transaction's snapshot, so nothing can change between this look and the end.
        """
        (version,) = self._run("PRAGMA data_version").fetchone()
        if version != self._version or max(len(self._holds), len(self._unresolved), len(self._open)) > REMEMBERED_MAX:
            self.forget()
            self._version = version
        self._seen.clear()
        self._movements.clear()
        self._look_up(GET_ENTRIES, [name for name in entries if name not in self._open], self._seen, self._see)
        self._look_up(GET_MOVEMENTS, movements, self._movements, self._see_movement)

    def forget(self) -> None:
        """What was remembered may not be so, and what waits must not be written."""
        self._version = None
        for known in (self._holds, self._unresolved, self._open, self._seen, self._movements):
            known.clear()
        for waiting in (self._sums, self._held, self._ended, self._owned, self._events):
            waiting.clear()

    def flush(self) -> None:
        """Write what waits."""
        if self._sums:
            self._flush_sums()
        self._write(many.insert, ADD_HELD, list(map(held_values, self._held.values())))
        self._held.clear()
        self._write(many.update, PUT_ENDED, list(map(ended_values, self._ended.values())))
        self._ended.clear()
        self._write(many.insert, ADD_MOVEMENT, list(map(movement_values, self._owned.values())))
        self._owned.clear()
        self._write(many.insert, ADD_EVENT, list(map(event_values, self._events)))
        self._events.clear()

    # ------------------------------------------------------------------ reading

    def get_authorization(self, account: str, syssn: str) -> Authorization | None:
        name = (account, syssn)
        known = self._holds.get(name)
        if known is None:
            known = super().get_authorization(account, syssn)
            if known is None:
                self._unresolved[name] = {}  # an entry needs its hold: a foreign key says so
            else:
                self._holds[name] = known
        return known

    def get_movement(self, account: str, syssn: str) -> Movement | None:
        name = (account, syssn)
        if name not in self._movements:
            self._movements[name] = super().get_movement(account, syssn)
        return self._movements[name]

    def get_entry(self, account: str, idempotency_key: str) -> Entry | None:
        name = (account, idempotency_key)
        if name in self._open:
            return self._open[name]
        if name not in self._seen:
            found = super().get_entry(account, idempotency_key)
            if found is not None and found.unresolved:
                self._open[name] = found
                return found
            self._seen[name] = found
        return self._seen[name]

    def get_unresolved(self, account: str, authorization: str) -> Sequence[Entry]:
        hold = (account, authorization)
        known = self._unresolved.get(hold)
        if known is None:
            found = super().get_unresolved(account, authorization)
            known = self._unresolved[hold] = {entry.idempotency_key: entry for entry in found}
        if len(known) < 2:
            return tuple(known.values())
        return tuple(known[key] for key in sorted(known))  # as the file has them

    def _scan(self, text: str, values: Sequence[Any]) -> sqlite3.Cursor:
        self.flush()
        return super()._scan(text, values)

    def _look_up(
        self,
        text: str,
        names: Iterable[Name],
        seen: dict[Name, Any],
        see: Callable[[Row], None],
    ) -> None:
        """Look for many at once; a single one is left to whoever asks for it."""
        keys: dict[str, list[str]] = {}
        for account, key in names:
            keys.setdefault(account, []).append(key)
        for account, mine in keys.items():
            for part in many.filled(mine) if len(mine) > 1 else ():
                seen.update(((account, key), None) for key in part)
                for row in self._run(many.among(text, len(part)), (account, *part)).fetchall():
                    see(row)

    def _see(self, row: Row) -> None:
        entry = entry_of(row)
        name = (entry.account, entry.idempotency_key)
        if entry.unresolved:
            del self._seen[name]
            self._open[name] = entry
        else:
            self._seen[name] = entry

    def _see_movement(self, row: Row) -> None:
        movement = movement_of(row)
        self._movements[movement.account, movement.syssn] = movement

    # ------------------------------------------------------------------ writing

    def put_authorization(self, authorization: Authorization) -> None:
        name = (authorization.account, authorization.syssn)
        before = self._holds.get(name)
        if before is None:
            super().put_authorization(authorization)
        else:
            if name in self._sums and not _sound(before):
                self.flush()  # it would never be seen by SQLite, which has to refuse it
            self._sums.setdefault(name, before)
            self.deferred += 1
        self._holds[name] = authorization

    def put_movement(self, movement: Movement) -> None:
        name = (movement.account, movement.syssn)
        if name in self._owned:
            self.flush()
        if self._movements.get(name, movement) is None:
            self._owned[name] = movement
            self.deferred += 1
        else:
            super().put_movement(movement)
        self._movements[name] = movement

    def put_entry(self, entry: Entry) -> None:
        name = (entry.account, entry.idempotency_key)
        if name in self._held or name in self._ended:
            self.flush()  # every step of an entry is written: SQLite watches over them
        held = entry.state is State.HELD
        absent = self._seen.get(name, entry) is None
        stored = name in self._open or (name in self._seen and not absent)
        if absent and held and entry.attempt == 1:
            self._held[name] = entry
            self.deferred += 1
        elif stored and not held:
            self._ended[name] = entry
            self.deferred += 1
        else:
            super().put_entry(entry)
        self._remember(name, entry)

    def _remember(self, name: Name, entry: Entry) -> None:
        of_hold = self._unresolved.get((entry.account, entry.authorization))
        if entry.unresolved:
            self._seen.pop(name, None)
            self._open[name] = entry
            if of_hold is not None:
                of_hold[entry.idempotency_key] = entry
        else:
            self._open.pop(name, None)
            self._seen[name] = entry
            if of_hold is not None:
                of_hold.pop(entry.idempotency_key, None)

    def add_event(self, event: Event) -> None:
        self._events.append(event)
        self.deferred += 1

    def _flush_sums(self) -> None:
        claimed: list[Row] = []
        others: list[Row] = []
        for name, before in self._sums.items():
            after = self._holds[name]
            if _all_but_claimed(before) == _all_but_claimed(after):
                # the list of open holds goes by the others, and need not be touched
                claimed.append((after.claimed, after.account, after.syssn))
            else:
                others.append(sums_of(after))
        self._write(many.update, PUT_CLAIMED, claimed)
        self._write(many.update, PUT_SUMS, others)
        self._sums.clear()

    def _write(self, statement: Callable[[str, int], str], text: str, rows: list[Row]) -> None:
        for part in many.parts(rows):
            if self._run(statement(text, len(part)), tuple(chain.from_iterable(part))).rowcount != len(part):
                raise sqlite3.DatabaseError("a row is not there that was read in this transaction")
            self.deferred -= len(part)


def _sound(hold: Authorization) -> bool:
    """Whether the table's own checks allow it."""
    ours = hold.captured + hold.claimed + hold.unfrozen
    return min(hold.claimed, *_all_but_claimed(hold)) >= 0 and ours <= hold.amount
