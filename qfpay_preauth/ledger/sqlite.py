"""The ledger in one SQLite file: safe for several processes on one machine (not on a network file system)."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

from qfpay_preauth._models import (
    Authorization,
    Discrepancy,
    Entry,
    Event,
    Listing,
    Movement,
    Notification,
    Observed,
    Policy,
    Request,
    Transaction,
    Verdict,
)
from qfpay_preauth._windows import Claim, Grant
from qfpay_preauth.errors import ConfigurationError, LedgerUnavailableError
from qfpay_preauth.ledger import _observe, _verbs
from qfpay_preauth.ledger._sqlite_batch import Name
from qfpay_preauth.ledger._sqlite_file import connect
from qfpay_preauth.ledger._sqlite_rows import SqliteTransaction
from qfpay_preauth.ledger._store import After, Books, Ledger, Reserved
from qfpay_preauth.ledger._writer import Writer, in_own_thread

T = TypeVar("T")


class SqliteLedger(Ledger):
    """`sqlite:///path`.

    Args:
        path: the file; made with mode 0600 where it is missing, except in production.
        create: whether to make a missing file (`?mode=rwc`, `?mode=rw`); None: everywhere but in production.
    """

    shared = True

    def __init__(self, path: str | Path, *, create: bool | None = None) -> None:
        self.path = Path(path)
        self._create = create
        self._writer: Writer | None = None
        self._environment: str | None = None
        self._opening = threading.Lock()

    async def open(self, environment: str) -> None:
        await in_own_thread(lambda: self._open(environment))

    def _open(self, environment: str) -> None:
        with self._opening:
            if self._writer is None:
                create = environment != "production" if self._create is None else self._create
                self._writer = Writer(connect(self.path, environment, create=create), self.path)
                self._environment = environment
            elif self._environment != environment:
                raise ConfigurationError(f"This ledger belongs to {self._environment}, not to {environment}.")

    async def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer.close()

    def _run(
        self,
        work: Callable[[SqliteTransaction], T],
        *,
        writes: bool,
        entry: Name | None = None,
        movement: Name | None = None,
    ) -> Awaitable[T]:
        if self._writer is None:
            raise LedgerUnavailableError(f"The ledger at {self.path} is not open.")
        return self._writer.run(work, writes=writes, entry=entry, movement=movement)

    async def register(self, authorization: Authorization) -> Authorization:
        return await self._run(lambda tx: _verbs.register(tx, authorization), writes=True)

    async def reserve(self, request: Request) -> Reserved:
        name = (request.account, request.idempotency_key)
        return await self._run(lambda tx: _verbs.reserve(tx, request), writes=True, entry=name)

    async def conclude(self, entry: Entry, verdict: Verdict, at: datetime) -> Entry:
        account, result = entry.account, verdict.result_syssn
        return await self._run(
            lambda tx: _observe.conclude(tx, entry, verdict, at),
            writes=True,
            entry=(account, entry.idempotency_key),
            movement=None if result is None else (account, result),
        )

    async def books(self, account: str, syssn: str) -> Books | None:
        return await self._run(lambda tx: _verbs.books(tx, account, syssn), writes=False)

    async def movement(self, account: str, syssn: str) -> Movement | None:
        return await self._run(lambda tx: tx.get_movement(account, syssn), writes=False)

    async def entry(self, account: str, idempotency_key: str) -> Entry | None:
        return await self._run(lambda tx: tx.get_entry(account, idempotency_key), writes=False)

    async def doubts(self, account: str, at: datetime, after: After | None, limit: int) -> Sequence[Entry]:
        return await self._run(lambda tx: tx.get_doubts(account, at, after, limit), writes=False)

    async def events(self, account: str, idempotency_key: str) -> Sequence[Event]:
        return await self._run(lambda tx: tx.get_events(account, idempotency_key), writes=False)

    async def observe(self, account: str, listing: Listing, policy: Policy, asked: Sequence[str]) -> Observed:
        return await self._run(lambda tx: _observe.observe(tx, account, listing, policy, asked), writes=True)

    async def notice(self, account: str, notification: Notification, at: datetime) -> Observed:
        return await self._run(lambda tx: _observe.notice(tx, account, notification, at), writes=True)

    async def sweep_notices(self, account: str) -> Sequence[Notification]:
        return await self._run(lambda tx: _observe.sweep_notices(tx, account), writes=True)

    async def adopt(self, authorization: Authorization, rows: Sequence[Transaction], at: datetime) -> Authorization:
        return await self._run(lambda tx: _observe.adopt(tx, authorization, rows, at), writes=True)

    async def report(self, account: str) -> Sequence[Discrepancy]:
        return await self._run(lambda tx: tx.take_discrepancies(account), writes=True)

    async def executed(
        self, account: str, start: datetime, end: datetime, after: After | None, limit: int
    ) -> Sequence[Entry]:
        return await self._run(lambda tx: tx.get_executed(account, start, end, after, limit), writes=False)

    async def span(self, account: str) -> datetime | None:
        return await self._run(lambda tx: tx.get_span(account), writes=False)

    async def bookmark(self, account: str, read_until: datetime) -> None:
        await self._run(lambda tx: tx.put_bookmark(account, read_until), writes=True)

    async def expiring(
        self, account: str, before: datetime, default_window: timedelta | None
    ) -> Sequence[Authorization]:
        return await self._run(lambda tx: tx.get_expiring(account, before, default_window), writes=False)

    async def draw(self, claim: Claim) -> Grant:
        return await self._run(lambda tx: _verbs.draw(tx, claim), writes=True)
