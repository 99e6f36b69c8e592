"""The one durable ledger that all simulated processes share, and what each process holds of it.

The real back-ends run unchanged (both transactions: in memory, and SQLite's rows on an in-memory database); only the
thread is left out. What they write is seen by the auditor at the moment of the commit. A process's own face of it can
be slow, can fail before or after the commit, and loses what a killed process had not yet begun.
"""

from __future__ import annotations

import asyncio
import sqlite3
import weakref
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qfpay_preauth.errors import LedgerUnavailableError, PreauthError
from qfpay_preauth.ledger import Ledger
from qfpay_preauth.ledger._sqlite_batch import BatchTransaction, Name
from qfpay_preauth.ledger._sqlite_file import SCRIPTS, script
from qfpay_preauth.ledger._sqlite_rows import SqliteTransaction
from qfpay_preauth.ledger.memory import MemoryLedger
from qfpay_preauth.ledger.sqlite import SqliteLedger

if TYPE_CHECKING:
    from tests.simulation.process import Process

Written = tuple[str, str, Any]
"""What was put: its account, `entry`, `hold`, `movement`, `event`, `discrepancy` or `notice`, and the value."""

VERBS = tuple(sorted(Ledger.__abstractmethods__ - {"open", "close"}))


class _Watching:
    """Notes every write on its way into the back-end."""

    written: list[Written]

    def put_entry(self, entry: Any) -> None:
        self.written.append((entry.account, "entry", entry))
        super().put_entry(entry)  # type: ignore[misc]

    def put_authorization(self, authorization: Any) -> None:
        self.written.append((authorization.account, "hold", authorization))
        super().put_authorization(authorization)  # type: ignore[misc]

    def put_movement(self, movement: Any) -> None:
        self.written.append((movement.account, "movement", movement))
        super().put_movement(movement)  # type: ignore[misc]

    def add_event(self, event: Any) -> None:
        self.written.append((event.account, "event", event))
        super().add_event(event)  # type: ignore[misc]

    def put_discrepancy(self, account: str, at: Any, discrepancy: Any) -> bool:
        self.written.append((account, "discrepancy", discrepancy))
        return bool(super().put_discrepancy(account, at, discrepancy))  # type: ignore[misc]

    def put_notice(self, account: str, at: Any, notice: Any) -> bool:
        self.written.append((account, "notice", notice))
        return bool(super().put_notice(account, at, notice))  # type: ignore[misc]


class WatchedMemory(_Watching, MemoryLedger):
    """The memory ledger, watched."""

    def __init__(self) -> None:
        super().__init__()
        self.written = []


class _WatchedTx(_Watching, BatchTransaction):
    """SQLite's transaction, watched."""


class InlineSqlite(SqliteLedger):
    """The SQLite ledger on an in-memory database, without its thread: one transaction for each verb."""

    def __init__(self) -> None:
        super().__init__(Path("unused"))
        self._connection = sqlite3.connect(":memory:", isolation_level=None)
        weakref.finalize(self, self._connection.close)
        for name in SCRIPTS:
            self._connection.executescript(script(name))
        self._tx = _WatchedTx(self._connection)
        self.written: list[Written] = []
        self._tx.written = self.written

    async def open(self, environment: str) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close."""

    async def _run(
        self,
        work: Callable[[SqliteTransaction], Any],
        *,
        writes: bool,
        entry: Name | None = None,
        movement: Name | None = None,
    ) -> Any:
        self._connection.execute("BEGIN")
        try:
            self._tx.begin([entry] if entry else [], [movement] if movement else [])
            outcome = work(self._tx)
            self._tx.flush()
        except BaseException:
            self._tx.forget()
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")
        return outcome


Store = WatchedMemory | InlineSqlite


def at_once(verb: Coroutine[Any, Any, Any]) -> Any:
    """Run a verb that never waits, to its end."""
    try:
        verb.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("this verb waited")


def _face(verb: str) -> Any:
    async def call(self: SimLedger, *args: Any) -> Any:
        return await self.run(verb, args)

    call.__name__ = verb
    return call


class _LedgerFace(Ledger):
    """Every verb of the interface, sent through `run`."""

    for _verb in VERBS:
        locals()[_verb] = _face(_verb)


class SimLedger(_LedgerFace):
    """One process's face of the store."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._world = process.world
        self.shared = "shared_budget" in process.world.scenario.on

    async def open(self, environment: str) -> None:
        """Nothing to open: the store outlives every process."""

    async def close(self) -> None:
        """Nothing to let go of."""

    async def run(self, verb: str, args: tuple[Any, ...]) -> Any:
        """One verb: it is handed over, committed (whoever still waits for it or not), and answered."""
        world = self._world
        if world.over:
            raise asyncio.CancelledError
        future = world.loop.create_future()
        delay_s, after_s, trouble = world.ledger_luck(verb)
        if delay_s:
            world.loop.call_later(delay_s, self._commit, future, verb, args, after_s, trouble)
        else:
            world.loop.call_soon(self._commit, future, verb, args, after_s, trouble)
        return await future

    def _commit(self, future: Any, verb: str, args: tuple[Any, ...], after_s: float, trouble: str) -> None:
        if self._world.over:
            return
        outcome: Any = None
        error: PreauthError | None = None
        if trouble == "ledger_before":
            error = LedgerUnavailableError("the disk is full (simulated)")
        else:
            outcome, error = self._world.commit(self._process, verb, args)
            if trouble:
                outcome, error = None, LedgerUnavailableError("the connection broke after the commit (simulated)")
        if after_s:
            self._world.loop.call_later(after_s, _tell, future, outcome, error)
        else:
            _tell(future, outcome, error)


def _tell(future: Any, outcome: Any, error: PreauthError | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(outcome)
