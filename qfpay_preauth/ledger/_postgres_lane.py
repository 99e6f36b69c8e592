"""One connection, one transaction at a time: what a batch of jobs goes through, and how a lost COMMIT is judged.

Every writing transaction leaves a new random mark in its writer's own row. Where a COMMIT got no answer, that row is
read on a new connection, locking it: this waits for the old transaction to end if it has not. The mark then says
whether it was committed; if not, it is replaced, so that whatever of the old transaction is still on its way fails.
"""

from __future__ import annotations

import asyncio
import enum
import secrets
import uuid
from collections.abc import Awaitable, Callable, Hashable, Iterator
from typing import Any

from attrs import define

from qfpay_preauth.ledger._postgres_flush import UNMARKED, Marks, flush_of, locking
from qfpay_preauth.ledger._postgres_load import Loader
from qfpay_preauth.ledger._postgres_recent import Recall, Recent, proven
from qfpay_preauth.ledger._postgres_schema import moved
from qfpay_preauth.ledger._postgres_snapshot import Missing, Snapshot, Wants
from qfpay_preauth.ledger._postgres_source import Connection, Source
from qfpay_preauth.ledger._postgres_trouble import Failure, Moved, Stale, Trouble, Unjudged, failure_of

PATIENCE_S = 10.0  # how long a server that restarts, or fails over, is waited for
TRANSACTION_MAX_S = 30.0  # then its connection is given up
LOCK_WAIT_S = 10.0
LOCK_WAIT_TOGETHER_S = 2.0  # where jobs of several holds wait for one lock
IDLE_MAX_S = 5.0  # a process that was paused in the middle of a transaction loses it, and the locks
ROWS_PER_S = 1_000  # of a listing to be weighed: a transaction is given so much longer (measured: five times as many)


class Kind(enum.Enum):
    """What a transaction is for, and how it begins; READ WRITE, because a standby refuses that: its books may be old.

    WRITE locks the holds that it reads. WEIGH, which may read thousands and write to few, locks none: where a row that
    it writes to (and every change on a hold writes to the hold) has changed since it began, PostgreSQL refuses it.
    """

    WRITE = ("write", "READ COMMITTED")
    WEIGH = ("weigh", "REPEATABLE READ")
    READ = ("read", "REPEATABLE READ")


def begin(kind: Kind, lock_s: float, idle_s: float) -> str:
    """The statement that begins a transaction, and what is set for as long as it lasts."""
    waits = f"set_config('lock_timeout', '{int(lock_s * 1000)}', true)"
    idle = f"set_config('idle_in_transaction_session_timeout', '{int(idle_s * 1000)}', true)"
    # off would forget what was committed; whatever is stricter stays
    durable = (
        "set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' "
        "ELSE current_setting('synchronous_commit') END, true)"
    )
    return f"BEGIN ISOLATION LEVEL {kind.value[1]} READ WRITE; SELECT {waits}, {idle}, {durable}"


def no_plan(seen: Snapshot) -> Iterator[Wants]:
    """Nothing is known before."""
    return iter(())


@define(eq=False)
class Job:
    """One verb on its way. It either works on the snapshot, or asks the connection itself.

    `plan` says what it will surely need, `recall` where what is remembered may do instead; jobs of one `name` do not
    run in two lanes at once; `rows` is how much there is to be weighed.
    """

    future: asyncio.Future[Any]
    work: Callable[[Snapshot], Any] | None = None
    asks: Callable[[Connection, Snapshot], Awaitable[Any]] | None = None
    plan: Callable[[Snapshot], Iterator[Wants]] = no_plan
    name: Hashable = None
    rows: int = 0
    recall: Recall | None = None
    since: float = 0.0
    outcome: Any = None
    error: BaseException | None = None


class Lane:
    """A connection, opened when it is first needed, and the row that its commits are judged by."""

    def __init__(self, source: Source, schema: str, kind: Kind, recent: Recent) -> None:
        self._source = source
        self._recent = recent
        self._schema = schema
        self._loader = Loader(schema)
        self._kind = kind
        self._loop = asyncio.get_running_loop()
        self._connection: Connection | None = None
        self._committing: str | None = None
        self._locks = self._recalled = False
        self._new_writer()

    def _new_writer(self) -> None:
        self._writer, self._mark = uuid.uuid4().hex, ""

    async def attempt(self, jobs: list[Job], *, pressed: bool = False) -> Failure | None:
        """One transaction for all jobs; None: it is committed, and they have their outcomes.

        `pressed`: others were faster several times, so now it locks what it reads.
        """
        for job in jobs:
            job.outcome, job.error = None, None
        # a writer's first transaction must see whether the ledger was moved a moment ago, which WEIGH might not
        locks = self._kind is Kind.WEIGH and (pressed or not self._mark)
        try:
            await self._transact(jobs, Kind.WRITE if locks else self._kind)
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError):
                stay()
            committing, self._committing = self._committing, None
            closed = self._connection is None or self._connection.is_closed()
            failure = failure_of(error, closed=closed)
            changed = self._recalled and failure.trouble is Trouble.AGAIN
            self._recent.forget((job.recall for job in jobs), changed=changed)
            await self._give_up(failure)
            if committing is not None and failure.trouble is Trouble.LOST:
                return await self._judge(committing, failure)
            return await self._unmarked() if getattr(error, "sqlstate", None) == UNMARKED else failure
        return None

    async def _unmarked(self) -> Failure:
        """Our own row is not as we left it: the ledger was moved, or we begin another."""
        self._new_writer()
        if self._connection is None:
            return failure_of(Stale(), closed=True)
        query = f"SELECT value FROM {self._schema}.meta WHERE name = 'moved_to'"
        try:
            async with self._connection.transaction():
                target = await self._connection.fetchval(query)
        except Exception as lost:
            return failure_of(lost, closed=True)
        return failure_of(Stale() if target is None else Moved(moved(self._source.where, target)), closed=False)

    async def let_go(self) -> None:
        """Release the connection; the next transaction takes another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await _release(self._source, connection)

    async def rest(self) -> None:
        """Nothing to do for now: a connection that is not ours to keep goes back."""
        if not self._source.keeps:
            await self.let_go()

    async def _give_up(self, failure: Failure) -> None:
        """Roll back, or drop the connection where that cannot be."""
        if self._connection is None:
            return
        if failure.trouble is not Trouble.LOST and not self._connection.is_closed():
            try:
                await self._connection.execute("ROLLBACK")
                return
            except (Exception, asyncio.CancelledError) as another:
                if isinstance(another, asyncio.CancelledError):
                    stay()
        self._connection.terminate()
        await self.let_go()

    # ------------------------------------------------------------------ one transaction

    async def _transact(self, jobs: list[Job], kind: Kind) -> None:
        connection = self._connection
        if connection is None or connection.is_closed():
            await self.let_go()
            connection = self._connection = await self._source.acquire()
        more_s = sum(job.rows for job in jobs) / ROWS_PER_S
        watchdog = self._loop.call_later(TRANSACTION_MAX_S + 2 * more_s, connection.terminate)
        try:
            lock_s = LOCK_WAIT_TOGETHER_S if len({job.name for job in jobs}) > 1 else LOCK_WAIT_S
            opening = begin(kind, lock_s, IDLE_MAX_S + more_s)
            marks = Marks(self._writer, self._mark, secrets.token_hex(12))
            self._recalled = (snapshot := self._from_memory(jobs)) is not None
            if snapshot is not None:
                opening = f"{opening}; {locking(snapshot, self._schema, marks.new)}; "
            else:
                await connection.execute(opening)
                snapshot, self._locks, opening = Snapshot(), kind is Kind.WRITE, ""
                await self._load_plans(connection, snapshot, jobs)
                for job in jobs:
                    await self._run_job(connection, snapshot, job)
            if await connection.execute(opening + self._ending(snapshot, jobs, marks)) != "COMMIT":
                raise Stale  # PostgreSQL rolls a failed transaction back, and calls that a success
            if self._committing is not None:
                self._mark, self._committing = marks.new, None
                self._recent.keep(snapshot, marks.step)
        finally:
            watchdog.cancel()

    def _from_memory(self, jobs: list[Job]) -> Snapshot | None:
        """What the jobs decided on what is remembered; None where that does not suffice, or proves nothing."""
        recalls = [job.recall for job in jobs if job.recall is not None and self._recent.knows(job.recall)]
        if len(recalls) < len(jobs):
            return None
        snapshot = self._recent.snapshot(recalls)
        try:
            for job in jobs:
                _run(snapshot, job)
        except Missing:
            return None
        return snapshot if proven(snapshot) else None

    async def _load_plans(self, connection: Connection, snapshot: Snapshot, jobs: list[Job]) -> None:
        """Step by step what every job will ask for, each step for all jobs together."""
        plans = [job.plan(snapshot) for job in jobs]
        while plans:
            steps = [(plan, step) for plan in plans if (step := next(plan, None)) is not None]
            wants = Wants()
            for _, step in steps:
                wants.add(step)
            if steps:
                await self._load(connection, snapshot, wants)
            plans = [plan for plan, _ in steps]

    async def _load(self, connection: Connection, snapshot: Snapshot, wants: Wants) -> None:
        await self._loader.load(connection, snapshot, wants, lock=self._locks)

    async def _run_job(self, connection: Connection, snapshot: Snapshot, job: Job) -> None:
        if job.asks is not None:
            job.outcome = await job.asks(connection, snapshot)
            return
        while True:
            before = snapshot.mark()
            try:
                _run(snapshot, job)
            except Missing as missing:
                await self._load(connection, snapshot, missing.wants)
                continue
            unsure = snapshot.unsure()
            if not unsure or not (known := await self._loader.known_fingerprints(connection, unsure)):
                return
            snapshot.undo(before)
            snapshot.fingerprints.update({name: name in known for name in unsure})

    def _ending(self, snapshot: Snapshot, jobs: list[Job], marks: Marks) -> str:
        """What ends the transaction: the writes and COMMIT in one message, so in one round trip."""
        if self._kind is Kind.READ or not (snapshot.written or any(job.asks for job in jobs)):
            return "COMMIT"
        self._committing = marks.new
        return f"{flush_of(snapshot, self._schema, marks)}; COMMIT"

    # ------------------------------------------------------------------ a COMMIT without an answer

    async def _judge(self, mark: str, failure: Failure) -> Failure | None:
        """None where the transaction of `mark` was committed; else the failure that it was."""
        until = self._loop.time() + PATIENCE_S + IDLE_MAX_S
        tries = 0
        while True:
            try:
                self._mark = await self._read_mark(mark)
            except (Exception, asyncio.CancelledError) as error:
                if isinstance(error, asyncio.CancelledError):
                    stay()
                tries += 1
                trouble = failure_of(error, closed=True).trouble
                if self._loop.time() > until or trouble in (Trouble.REFUSED, Trouble.FINAL):
                    self._new_writer()
                    return Failure(Unjudged(), Trouble.FINAL)
                await pause(min(0.02 * 2**tries, 0.5))
            else:
                return None if self._mark == mark else failure

    async def _read_mark(self, mark: str) -> str:
        """The mark in the writer's row: `mark`, or a new one, so that the old transaction cannot be committed any more.

        It waits for every transaction that wrote the row. One whose last message is still on its way finds the row
        changed (or, where it was not there, made), and fails.
        """
        connection = await self._source.acquire()
        watchdog = self._loop.call_later(TRANSACTION_MAX_S, connection.terminate)
        try:
            await connection.execute(begin(Kind.WRITE, LOCK_WAIT_S, IDLE_MAX_S))
            found = await connection.fetchval(
                f"INSERT INTO {self._schema}.writers AS w (writer, mark) VALUES ($1, $2) ON CONFLICT (writer) "
                "DO UPDATE SET mark = CASE WHEN w.mark = $3 THEN w.mark ELSE excluded.mark END RETURNING mark",
                self._writer,
                secrets.token_hex(12),
                mark,
            )
            await connection.execute("COMMIT")
        except BaseException:
            connection.terminate()
            raise
        finally:
            watchdog.cancel()
            await _release(self._source, connection)
        return str(found)


def _run(snapshot: Snapshot, job: Job) -> None:
    """Run a job; its own no, or a defect, is its error: nothing of it stays, and the others go on.

    Raises:
        Missing: it asked for something that is not there yet; nothing of it stays.
    """
    assert job.work is not None  # noqa: S101 - a job does one or the other
    before = snapshot.mark()
    job.outcome, job.error = None, None
    try:
        job.outcome = job.work(snapshot)
    except Missing:
        snapshot.undo(before)
        raise
    except Exception as error:
        snapshot.undo(before)
        job.error = error


async def _release(source: Source, connection: Connection) -> None:
    try:
        await source.release(connection)
    except (Exception, asyncio.CancelledError) as error:  # it is going away in any case
        if isinstance(error, asyncio.CancelledError):
            stay()
        connection.terminate()


async def pause(seconds: float) -> None:
    """Sleep; being cancelled only ends it early."""
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        stay()


def stay() -> None:
    """This task was cancelled, and has transactions to bring to an end all the same."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - only tasks are cancelled
    task.uncancel()
