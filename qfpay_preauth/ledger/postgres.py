"""The ledger in PostgreSQL: for many processes on many machines, in the database that the merchant already runs."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

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
from qfpay_preauth.errors import ConfigurationError, LedgerUnavailableError, PreauthError
from qfpay_preauth.ledger import _observe, _postgres_plans, _postgres_schema, _verbs
from qfpay_preauth.ledger._postgres_lane import Job, Kind, no_plan
from qfpay_preauth.ledger._postgres_reads import Reads
from qfpay_preauth.ledger._postgres_recent import Recall, Recent
from qfpay_preauth.ledger._postgres_snapshot import Snapshot, Wants
from qfpay_preauth.ledger._postgres_source import (
    DEFAULT_SCHEMA,
    Connection,
    PoolSource,
    Source,
    UrlSource,
    address_of,
    check_schema,
)
from qfpay_preauth.ledger._postgres_trouble import Trouble, error_of, failure_of
from qfpay_preauth.ledger._postgres_writer import Line
from qfpay_preauth.ledger._store import After, Books, Ledger, Reserved

if TYPE_CHECKING:
    from asyncpg import Pool

T = TypeVar("T")

OPEN_PATIENCE_S = 2.0  # how long a server that does not answer is tried when the ledger is opened


class _Desk:
    """What there is on one event loop: a line for what moves money, and beside it those that may take longer."""

    def __init__(self, source: Source, schema: str) -> None:
        self.loop = asyncio.get_running_loop()
        recent = Recent()
        self.writes = Line(source, schema, Kind.WRITE, recent)
        self.evidence = Line(source, schema, Kind.WEIGH, recent)
        self.reads = Line(source, schema, Kind.READ, recent)
        self.draws = Line(source, schema, Kind.WRITE, recent)

    async def close(self) -> None:
        for line in (self.writes, self.evidence, self.reads, self.draws):
            await line.close()


class PostgresLedger(Ledger):
    """`postgresql://user:password@host/database`, or a pool of the application's own.

    Args:
        source: a URL (`?schema=name` and `?migrate=true` are ours, all else is asyncpg's), or an `asyncpg.Pool`, which
            stays the application's to close and serves its own event loop only.
        schema: the schema that holds the ledger's tables; default: "qfpay_preauth".
        migrate: make the schema, or bring it up to this version, when it is opened.

    Raises:
        ConfigurationError: asyncpg is not installed, or an argument cannot be meant.
    """

    shared = True

    def __init__(self, source: str | Pool, *, schema: str | None = None, migrate: bool = False) -> None:
        self._source, named, wanted = _source_of(source)
        self.schema = check_schema(schema or named or DEFAULT_SCHEMA)
        self.where = self._source.where
        self._migrate = migrate or wanted
        self._reads = Reads(f'"{self.schema}"')
        self._environment: str | None = None
        self._pid = os.getpid()
        self._desks: dict[asyncio.AbstractEventLoop, _Desk] = {}
        self._changing = threading.Lock()

    def __repr__(self) -> str:
        return f"PostgresLedger({self.where!r}, schema={self.schema!r})"

    # ------------------------------------------------------------------ opening and closing

    async def open(self, environment: str) -> None:
        if self._environment is not None and self._pid == os.getpid():
            if self._environment != environment:
                raise ConfigurationError(f"This ledger belongs to {self._environment}, not to {environment}.")
            return
        if self._migrate:
            await self.migrate(environment)
        await self._with_connection(lambda c: _postgres_schema.check(c, self.where, self.schema, environment))
        with self._changing:
            self._pid = os.getpid()
            self._environment = environment
            self._desks = {}

    async def migrate(self, environment: str) -> list[str]:
        """Make the schema, or bring it up to this library's version; returns the files that were applied.

        Raises:
            ConfigurationError: it belongs to another environment, or the schema holds something else.
            LedgerUnavailableError: it is of a newer version, or the server could not be reached.
        """
        return await self._with_connection(lambda c: _postgres_schema.migrate(c, self.where, self.schema, environment))

    async def _with_connection(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Something beside the books, on a connection of its own; again where that is lost."""
        until = asyncio.get_running_loop().time() + OPEN_PATIENCE_S
        while True:
            trouble: PreauthError
            connection: Connection | None = None
            try:
                connection = await self._source.acquire()
                try:
                    return await work(connection)
                finally:
                    await self._source.release(connection)
            except PreauthError:
                raise
            except Exception as error:
                trouble = error_of(self.where, error)
                gone = connection is not None and connection.is_closed()
                again = failure_of(error, closed=gone).trouble is Trouble.LOST
            if not again or asyncio.get_running_loop().time() > until:
                raise trouble  # outside the handler, so that no frame of the driver's, with the password, hangs on it
            await asyncio.sleep(0.1)

    async def close(self) -> None:
        with self._changing:
            desks, self._desks = self._desks, {}
            self._environment = None
        for loop, desk in desks.items():
            if loop is asyncio.get_running_loop():
                await desk.close()
            elif loop.is_running():
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(desk.close(), loop))

    def _desk(self) -> _Desk:
        if self._environment is None:
            raise LedgerUnavailableError(f"The ledger at {self.where} is not open.")
        if os.getpid() != self._pid:
            raise LedgerUnavailableError(f"The ledger at {self.where} was opened before this process was forked.")
        loop = asyncio.get_running_loop()
        desk = self._desks.get(loop)
        if desk is None:
            with self._changing:
                for ended in [each for each in self._desks if each.is_closed()]:
                    del self._desks[ended]
                desk = self._desks[loop] = _Desk(self._source, f'"{self.schema}"')
        return desk

    # ------------------------------------------------------------------ handing jobs in

    # they hand in at once, and what they return is to be awaited: a coroutine less on each verb's way

    def _weigh(
        self, work: Callable[[Snapshot], T], plan: Callable[[Snapshot], Iterator[Wants]], account: str, rows: int = 0
    ) -> Awaitable[T]:
        return _handed_in(self._desk().evidence, work, None, plan, account, rows)

    def _write(
        self,
        work: Callable[[Snapshot], T],
        plan: Callable[[Snapshot], Iterator[Wants]],
        *name: str,
        recall: Recall | None = None,
    ) -> Awaitable[T]:
        return _handed_in(self._desk().writes, work, None, plan, name or None, 0, recall)

    def _read(self, work: Callable[[Snapshot], T], plan: Callable[[Snapshot], Iterator[Wants]]) -> Awaitable[T]:
        return _handed_in(self._desk().reads, work, None, plan)

    def _ask(self, ask: Callable[[Connection], Awaitable[T]], *, writes: bool = False) -> Awaitable[T]:
        line = self._desk().evidence if writes else self._desk().reads
        return _handed_in(line, None, lambda connection, _: ask(connection))

    # ------------------------------------------------------------------ money

    async def register(self, authorization: Authorization) -> Authorization:
        hold = (authorization.account, authorization.syssn)
        return await self._write(lambda tx: _verbs.register(tx, authorization), _postgres_plans.hold(*hold), *hold)

    async def reserve(self, request: Request) -> Reserved:
        plan = _postgres_plans.reserve(request)
        hold, recall = (request.account, request.syssn), _postgres_plans.recall_to_reserve(request)
        return await self._write(lambda tx: _verbs.reserve(tx, request), plan, *hold, recall=recall)

    async def conclude(self, entry: Entry, verdict: Verdict, at: datetime) -> Entry:
        plan = _postgres_plans.conclude(entry, verdict)
        hold, recall = (entry.account, entry.authorization), _postgres_plans.recall_to_conclude(entry, verdict)
        return await self._write(lambda tx: _observe.conclude(tx, entry, verdict, at), plan, *hold, recall=recall)

    async def books(self, account: str, syssn: str) -> Books | None:
        return await self._read(lambda tx: _verbs.books(tx, account, syssn), _postgres_plans.hold(account, syssn))

    async def movement(self, account: str, syssn: str) -> Movement | None:
        return await self._read(lambda tx: tx.get_movement(account, syssn), _postgres_plans.movement(account, syssn))

    async def entry(self, account: str, idempotency_key: str) -> Entry | None:
        plan = _postgres_plans.entry(account, idempotency_key)
        return await self._read(lambda tx: tx.get_entry(account, idempotency_key), plan)

    async def doubts(self, account: str, at: datetime, after: After | None, limit: int) -> Sequence[Entry]:
        return await self._ask(lambda connection: self._reads.doubts(connection, account, at, after, limit))

    async def events(self, account: str, idempotency_key: str) -> Sequence[Event]:
        return await self._ask(lambda connection: self._reads.events(connection, account, idempotency_key))

    # ------------------------------------------------------------------ evidence

    async def observe(self, account: str, listing: Listing, policy: Policy, asked: Sequence[str]) -> Observed:
        plan = _postgres_plans.observe(account, listing, asked)
        return await self._weigh(
            lambda tx: _observe.observe(tx, account, listing, policy, asked), plan, account, len(listing.rows)
        )

    async def notice(self, account: str, notification: Notification, at: datetime) -> Observed:
        plan = _postgres_plans.notice(account, notification)
        return await self._write(lambda tx: _observe.notice(tx, account, notification, at), plan)

    async def sweep_notices(self, account: str) -> Sequence[Notification]:
        plan = _postgres_plans.sweep(account)
        return await self._weigh(lambda tx: _observe.sweep_notices(tx, account), plan, account)

    async def adopt(self, authorization: Authorization, rows: Sequence[Transaction], at: datetime) -> Authorization:
        plan = _postgres_plans.adopt(authorization, rows)
        hold = (authorization.account, authorization.syssn)
        return await self._write(lambda tx: _observe.adopt(tx, authorization, rows, at), plan, *hold)

    async def report(self, account: str) -> Sequence[Discrepancy]:
        return await self._ask(lambda connection: self._reads.take_discrepancies(connection, account), writes=True)

    async def executed(
        self, account: str, start: datetime, end: datetime, after: After | None, limit: int
    ) -> Sequence[Entry]:
        return await self._ask(lambda connection: self._reads.executed(connection, account, start, end, after, limit))

    async def span(self, account: str) -> datetime | None:
        return await self._ask(lambda connection: self._reads.span(connection, account))

    async def bookmark(self, account: str, read_until: datetime) -> None:
        await self._ask(lambda connection: self._reads.put_bookmark(connection, account, read_until), writes=True)

    async def expiring(
        self, account: str, before: datetime, default_window: timedelta | None
    ) -> Sequence[Authorization]:
        return await self._ask(lambda connection: self._reads.expiring(connection, account, before, default_window))

    # ------------------------------------------------------------------ the rate windows

    async def draw(self, claim: Claim) -> Grant:
        def ask(connection: Connection, snapshot: Snapshot) -> Awaitable[Grant]:
            return self._reads.draw(connection, snapshot, claim, claim.now())

        grant: Grant = await _handed_in(self._desk().draws, None, ask, no_plan, claim.name)
        return grant


def _handed_in(line: Line, *what: Any) -> asyncio.Future[Any]:
    """A job of this has been handed in; what becomes of it."""
    future: asyncio.Future[Any] = line.loop.create_future()
    line.submit(Job(future, *what))
    return future


def _source_of(source: str | Pool) -> tuple[Source, str | None, bool]:
    try:
        import asyncpg
    except ImportError:
        raise ConfigurationError(
            "A PostgreSQL ledger needs asyncpg.", advice="Install it: python -m pip install 'qfpay_preauth[postgres]'"
        ) from None
    if isinstance(source, str):
        address = address_of(source)
        return UrlSource(address), address.schema, address.migrate
    if isinstance(source, asyncpg.Pool):
        return PoolSource(source), None, False
    raise ConfigurationError(f"A PostgreSQL ledger is made from a URL or an asyncpg pool, not {type(source).__name__}.")
