"""Group commit: one transaction for all that waits. No caller's cancellation reaches it.

What PostgreSQL does not take is tried again by hold, then alone, so that one caller's trouble is not another's. Only
the ledger's transaction is ever repeated, never a request. Its tasks are there only while there is something to do.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import defaultdict
from collections.abc import Hashable

from qfpay_preauth.errors import LedgerUnavailableError
from qfpay_preauth.ledger._postgres_gather import Gathering
from qfpay_preauth.ledger._postgres_lane import PATIENCE_S, Job, Kind, Lane, pause, stay
from qfpay_preauth.ledger._postgres_recent import Recent
from qfpay_preauth.ledger._postgres_source import Source
from qfpay_preauth.ledger._postgres_trouble import Trouble, error_of

BATCH_MAX = 512
LANES_MAX = 4
LATE_S = 0.05  # a job that has waited so long gets another lane, unless its own hold is under way
TRIES_MAX = 30  # of a transaction that others are in the way of
FREE_TRIES = 3  # of one that locks nothing; then it locks what it reads


class Line:
    """The jobs of one kind, on one event loop, and the lanes that they go through."""

    def __init__(self, source: Source, schema: str, kind: Kind, recent: Recent) -> None:
        self._source = source
        self._recent = recent
        self.loop = asyncio.get_running_loop()
        self._waiting: list[Job] = []
        self._idle = [Lane(source, schema, kind, recent) for _ in range(LANES_MAX)]
        self._busy: dict[Lane, frozenset[Hashable]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._late: asyncio.TimerHandle | None = None
        self._gathering = Gathering(lambda: len(self._waiting))
        self._closed = False

    def submit(self, job: Job) -> None:
        """Have a job done; its future tells what became of it.

        Raises:
            LedgerUnavailableError: the ledger is closed.
        """
        if self._closed:
            raise LedgerUnavailableError(f"The ledger at {self._source.where} is closed.")
        job.since = self.loop.time()
        self._waiting.append(job)
        self._gathering.arrived()
        if not self._busy:
            self._start()
        elif self._late is None:
            self._late = self.loop.call_later(LATE_S, self._help)

    def _start(self) -> None:
        lane = self._idle.pop()
        self._busy[lane] = frozenset()
        task = self.loop.create_task(self._run(lane))
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(done, lane))

    def _ended(self, task: asyncio.Task[None], lane: Lane) -> None:
        self._tasks.discard(task)
        del self._busy[lane]
        self._idle.append(lane)  # the lane that was used last is used next
        if not task.cancelled():
            task.result()
        if self._waiting and not self._busy:  # it was cancelled before it began
            self._start()

    def _help(self) -> None:
        """Another lane for what has waited too long: the others may be waiting for somebody's lock."""
        self._late = None
        if not self._waiting:
            return
        left = self._waiting[0].since + LATE_S - self.loop.time()
        if left <= 0 and self._idle:
            self._start()
        self._late = self.loop.call_later(max(left, LATE_S / 2), self._help)

    async def close(self) -> None:
        """Finish what was accepted, then let go of the connections."""
        self._closed = True
        while self._tasks:
            await asyncio.wait(tuple(self._tasks))
        if self._late is not None:
            self._late.cancel()
        for lane in self._idle:
            await lane.let_go()

    # ------------------------------------------------------------------ in a lane's task

    async def _run(self, lane: Lane) -> None:
        while jobs := self._take(lane):
            began = self.loop.time()
            await self._carry_out(lane, jobs)
            self._busy[lane] = frozenset()
            _deliver(jobs)
            await self._gather(len(jobs), self.loop.time() - began)
        await lane.rest()

    async def _gather(self, served: int, took_s: float) -> None:
        try:
            await self._gathering.wait(served, took_s)
        except asyncio.CancelledError:
            stay()  # whatever waits is still to be done

    def _take(self, lane: Lane) -> list[Job]:
        """What may run now; either jobs that read nothing (as the first in the line does), or jobs that do."""
        elsewhere = frozenset[Hashable]().union(*self._busy.values())
        jobs: list[Job] = []
        rest: list[Job] = []
        first: bool | None = None
        for job in self._waiting:
            free = len(jobs) < BATCH_MAX and (job.name is None or job.name not in elsewhere)
            if free:
                known = self._recent.knows(job.recall)
                first = known if first is None else first
                free = known is first
            (jobs if free else rest).append(job)
        self._waiting = rest
        self._busy[lane] = frozenset(job.name for job in jobs)
        return jobs

    async def _carry_out(self, lane: Lane, jobs: list[Job]) -> None:
        """Every job to its outcome or its error; it raises nothing."""
        began, tries = self.loop.time(), 0
        while (failure := await lane.attempt(jobs, pressed=tries >= FREE_TRIES)) is not None:
            tries += 1
            if failure.trouble is Trouble.AGAIN and tries < TRIES_MAX:
                await pause(secrets.randbelow(1000) / 1e6 * min(tries, 20))
            elif failure.trouble is Trouble.LOST and self.loop.time() < began + PATIENCE_S:
                await pause(min(0.02 * 2**tries, 0.5) if tries > 1 else 0)
            else:
                break
        if failure is None:
            return
        parts = _parts(jobs, failure.trouble)
        for part in parts if len(parts) > 1 else ():
            await self._carry_out(lane, part)
        for job in jobs if len(parts) == 1 else ():
            job.error = error_of(self._source.where, failure.error)


def _parts(jobs: list[Job], trouble: Trouble) -> list[list[Job]]:
    """What is tried by itself after the jobs failed together: each hold, then each job; one part: nothing more."""
    if trouble in (Trouble.LOST, Trouble.FINAL):
        return [jobs]
    by_name: dict[Hashable, list[Job]] = defaultdict(list)
    for job in jobs:
        by_name[job.name].append(job)
    if len(by_name) > 1:
        return list(by_name.values())
    return [jobs] if trouble is Trouble.LOCKED else [[job] for job in jobs]


def _deliver(jobs: list[Job]) -> None:
    for job in jobs:
        if job.future.done():  # its caller left
            continue
        if job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.outcome)
