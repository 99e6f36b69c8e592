"""What the ledger's own tests share: requests, raw SQL beside the ledger, and child processes."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from qfpay_preauth._models import Verdict
from qfpay_preauth.ledger import _observe, _verbs
from qfpay_preauth.ledger._sqlite_batch import BatchTransaction
from qfpay_preauth.ledger._sqlite_rows import SqliteTransaction
from qfpay_preauth.ledger.sqlite import SqliteLedger
from qfpay_preauth.testing._ledger_kit import Scene, moment

ROOT = Path(__file__).resolve().parents[2]


async def opened(folder: Path, name: str = "ledger.db") -> tuple[SqliteLedger, Scene]:
    """An open SQLite ledger in `folder`, and a scene on it."""
    ledger = SqliteLedger(folder / name)
    await ledger.open("sandbox")
    return ledger, Scene(ledger)


@contextmanager
def sql(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection beside the ledger's own, in autocommit."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=5)
    try:
        yield connection
    finally:
        connection.close()


def dump(path: Path) -> list[str]:
    """Every table with all its rows, as SQL."""
    with sql(path) as connection:
        return list(connection.iterdump())


def contents(folder: Path) -> dict[str, bytes]:
    """Every file in `folder`, byte for byte."""
    return {each.name: each.read_bytes() for each in sorted(folder.iterdir()) if each.is_file()}


async def on_thread(ledger: SqliteLedger, work: Callable[[SqliteTransaction], Any], *, writes: bool = True) -> Any:
    """Run `work` as a job of the ledger's writer."""
    return await ledger._run(work, writes=writes)


def connection_of(ledger: SqliteLedger) -> sqlite3.Connection:
    """The writer's connection; use it only while no job is under way."""
    assert ledger._writer is not None
    return ledger._writer._connection


def child(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """A fresh process that runs `tests/ledger/children.py`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "tests.ledger.children", *arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


def together(children: list[subprocess.Popen[str]], timeout_s: float = 60) -> list[str]:
    """Let children that wait for a line start at one moment; what each said. Fails if one did not end well."""
    for each in children:
        assert each.stdout is not None
        assert each.stdout.readline() == "ready\n"
    for each in children:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    said = [each.communicate(timeout=timeout_s)[0] for each in children]
    assert [each.returncode for each in children] == [0] * len(children)
    return said


@asynccontextmanager
async def stalled(ledger: SqliteLedger) -> AsyncIterator[None]:
    """The writer's thread waits inside a job, so that what is asked for meanwhile becomes one batch."""
    started, go = threading.Event(), threading.Event()

    def wait(_: SqliteTransaction) -> None:
        started.set()
        go.wait(20)

    waiting = asyncio.create_task(on_thread(ledger, wait, writes=False))
    assert await asyncio.to_thread(started.wait, 20)
    try:
        yield
    finally:
        go.set()
        await waiting


async def asked(*verbs: Coroutine[Any, Any, Any]) -> list[asyncio.Task[Any]]:
    """Each verb in a task of its own that has handed its job to the writer."""
    tasks = [asyncio.create_task(verb) for verb in verbs]
    await asyncio.sleep(0)
    return tasks


# ------------------------------------------------------------------------------------------------ batches

Job = Callable[[SqliteTransaction], Any]


def ledger_of(s: Scene) -> SqliteLedger:
    """The SQLite ledger of a scene."""
    assert isinstance(s.ledger, SqliteLedger)
    return s.ledger


def transaction_of(s: Scene) -> BatchTransaction:
    """What the writer of a scene remembers; look at it only while no job is under way."""
    writer = ledger_of(s)._writer
    assert writer is not None
    return writer._tx


@contextmanager
def statements_of(s: Scene) -> Iterator[list[str]]:
    """What SQLite is told meanwhile."""
    said: list[str] = []
    connection_of(ledger_of(s)).set_trace_callback(said.append)
    yield said
    connection_of(ledger_of(s)).set_trace_callback(None)


async def in_a_batch(s: Scene, *jobs: Job) -> list[Any]:
    """The jobs' outcomes, in one batch."""
    async with stalled(ledger_of(s)):
        tasks = await asked(*(on_thread(ledger_of(s), job) for job in jobs))
    return await asyncio.gather(*tasks, return_exceptions=True)


def wished(s: Scene, key: str, amount: int = 100, **more: Any) -> Job:
    """A job that reserves a capture, or whatever `operation` says."""
    request = s.request(key, amount=amount, **more)
    return lambda tx: _verbs.reserve(tx, request).entry


def ended_by(s: Scene, key: str, verdict: Verdict, at_s: float = 1) -> Job:
    """A job that concludes the entry under `key`, if there is one."""

    def conclude(tx: SqliteTransaction) -> Any:
        entry = tx.get_entry(s.account, key)
        return entry and _observe.conclude(tx, entry, verdict, moment(at_s))

    return conclude
