"""Group commit: one thread, one connection, one transaction for all that waits. No caller's cancellation reaches it.

A job is a synchronous function of one transaction that decides first and writes after, so a job that raises a
PreauthError has written nothing and the batch goes on. If SQLite itself fails, be it only as the batch is flushed, the
batch is rolled back and each of its jobs is run again alone, so that one caller's trouble is not another's.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import define, field

from qfpay_preauth.errors import LedgerUnavailableError, PreauthError
from qfpay_preauth.ledger._sqlite_batch import BatchTransaction, Name
from qfpay_preauth.ledger._sqlite_rows import SqliteTransaction

BATCH_MAX = 512
GATHER_S = 0.0003
"""How long a batch waits, once, for those who were in the last one: less than a commit takes."""


@define(eq=False)
class Job:
    """One verb on its way to the thread and back; `entry` and `movement` are what it will look up for sure."""

    work: Callable[[SqliteTransaction], Any]
    writes: bool
    entry: Name | None
    movement: Name | None
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    outcome: Any = None
    error: BaseException | None = field(default=None)


class Writer:
    """Owns a connection and its thread until `close`."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._tx = BatchTransaction(connection)
        self._path = path
        self._identity = _identity(path)
        self._pid = os.getpid()
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._served = 0
        self._closed = False
        self._closing = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="qfpay-ledger", daemon=True)
        self._thread.start()

    def run(
        self,
        work: Callable[[SqliteTransaction], Any],
        *,
        writes: bool,
        entry: Name | None = None,
        movement: Name | None = None,
    ) -> asyncio.Future[Any]:
        """Hand over one job; the future has what it returned, once that is durable.

        `entry` and `movement`: what it will look up, if that is known; a batch looks up all of them at once.

        Raises:
            LedgerUnavailableError: it could not be read or written, or the ledger is closed.
            PreauthError: what the job itself decided.
        """
        if os.getpid() != self._pid:
            raise LedgerUnavailableError(f"The ledger at {self._path} was opened before this process was forked.")
        loop = asyncio.get_running_loop()
        job = Job(work, writes, entry, movement, loop, loop.create_future())
        with self._closing:
            if self._closed:
                raise LedgerUnavailableError(f"The ledger at {self._path} is closed.")
            self._jobs.put(job)
        return job.future

    async def close(self) -> None:
        """Finish what was accepted, then end the thread and the connection."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._jobs.put(None)  # after it no job is accepted, so every accepted one is done
        await in_own_thread(self._thread.join)

    # ------------------------------------------------------------------ on the thread

    def _work(self) -> None:
        going = True
        while going:
            batch = self._next_batch()
            going = None not in batch
            jobs = [job for job in batch if job is not None]
            if jobs:
                self._run_batch(jobs)
                _deliver(jobs)
        self._connection.close()

    def _next_batch(self) -> list[Job | None]:
        batch = [self._jobs.get()]
        if self._jobs.qsize() + 1 < self._served * 3 // 4:
            # those who were answered together come back together; who comes alone has nobody to wait for
            time.sleep(GATHER_S)
        while len(batch) < BATCH_MAX:
            try:
                batch.append(self._jobs.get_nowait())
            except queue.Empty:
                break
        self._served = len(batch)
        return batch

    def _run_batch(self, jobs: list[Job]) -> None:
        try:
            self._begin(jobs)
        except (sqlite3.Error, LedgerUnavailableError) as error:
            for job in jobs:
                job.error = _unavailable(self._path, error)
            return
        try:
            self._finish(jobs)
        except Exception as error:
            if len(jobs) == 1:
                failed = isinstance(error, sqlite3.Error | OSError | LedgerUnavailableError)
                jobs[0].error = _unavailable(self._path, error) if failed else error
                return
            for job in jobs:
                self._run_batch([job])

    def _begin(self, jobs: list[Job]) -> None:
        if _identity(self._path) != self._identity:
            raise LedgerUnavailableError(f"The file at {self._path} was replaced or removed while in use.")
        self._connection.execute("BEGIN IMMEDIATE" if any(job.writes for job in jobs) else "BEGIN")

    def _finish(self, jobs: list[Job]) -> None:
        try:
            self._tx.begin(
                [job.entry for job in jobs if job.entry is not None],
                [job.movement for job in jobs if job.movement is not None],
            )
            for job in jobs:
                self._run_job(job)
            self._tx.flush()
            self._connection.execute("COMMIT")
        except BaseException:
            self._tx.forget()
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def _run_job(self, job: Job) -> None:
        job.outcome, job.error = None, None
        before = self._written()
        try:
            job.outcome = job.work(self._tx)
        except PreauthError as error:
            if self._written() != before:
                raise  # it wrote before it decided: nothing of it may stay
            job.error = error

    def _written(self) -> int:
        return self._connection.total_changes + self._tx.deferred


async def in_own_thread(work: Callable[[], None]) -> None:
    """Run `work` in a thread that ends with it: a loop's default executor would leave one behind."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def run() -> None:
        error: BaseException | None = None
        try:
            work()
        except BaseException as raised:
            error = raised
        try:
            loop.call_soon_threadsafe(_end, done, error)
        except RuntimeError:
            return  # that loop is closed: nobody is left to hear it

    thread = threading.Thread(target=run, name="qfpay-ledger-opening", daemon=True)
    thread.start()
    await done
    thread.join()


def _end(future: asyncio.Future[None], error: BaseException | None) -> None:
    if not future.cancelled():
        future.set_exception(error) if error else future.set_result(None)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _unavailable(path: Path, error: BaseException) -> LedgerUnavailableError:
    if isinstance(error, LedgerUnavailableError):
        return error
    unavailable = LedgerUnavailableError(f"The ledger at {path} could not be read or written: {error}.")
    unavailable.__cause__ = error
    return unavailable


def _deliver(jobs: list[Job]) -> None:
    """One wake-up for each event loop that has something coming."""
    for loop in {job.loop for job in jobs}:
        mine = [job for job in jobs if job.loop is loop]
        try:
            loop.call_soon_threadsafe(_resolve, mine)
        except RuntimeError:
            continue  # that loop is closed: nobody is left to hear it, and what was committed stands


def _resolve(jobs: list[Job]) -> None:
    for job in jobs:
        if job.future.cancelled():
            continue
        if job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.outcome)
