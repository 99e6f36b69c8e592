"""Trouble with the file, its threads and its loops: an error that says so, nothing half-written, nobody else harmed."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from qfpay_preauth._models import State
from qfpay_preauth.errors import LedgerUnavailableError, OverCaptureError
from qfpay_preauth.ledger import Reserved, _sqlite_file
from qfpay_preauth.ledger._sqlite_rows import SqliteTransaction
from qfpay_preauth.ledger.sqlite import SqliteLedger
from qfpay_preauth.testing._ledger_kit import HOLD, Scene

from .kit import asked, child, connection_of, dump, on_thread, opened, sql, stalled, together


@pytest.fixture
async def s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    """A scene with one hold on a SQLite ledger that does not wait long for locks."""
    monkeypatch.setattr(_sqlite_file, "BUSY_TIMEOUT_S", 0.05)
    ledger, scene = await opened(tmp_path)
    await scene.hold()
    yield scene
    await ledger.close()


def _ledger(s: Scene) -> SqliteLedger:
    assert isinstance(s.ledger, SqliteLedger)
    return s.ledger


# ------------------------------------------------------------------------------------------------ locked and full


async def test_locked_file_is_unavailable_and_then_works_again(s: Scene) -> None:
    """While another program holds the write lock, writes raise and write nothing, reads go on; afterwards all works."""
    entry = (await s.capture("k1")).entry
    with sql(_ledger(s).path) as other:
        other.execute("BEGIN EXCLUSIVE")
        for verb in (lambda: s.capture("k2", 200), lambda: s.hold(syssn="HOLD-2"), lambda: s.executed(entry, "CAP-1")):
            error = await s.raises(LedgerUnavailableError, verb)
            assert "locked" in str(error)
        other.execute("ROLLBACK")
    assert (await s.capture("k2", 200)).fresh
    assert (await s.executed(entry, "CAP-1")).state is State.EXECUTED


async def test_locked_file_costs_a_whole_batch_one_wait(s: Scene) -> None:
    """Twenty calls that wait for one lock give up together, not one busy timeout after another."""
    statements: list[str] = []
    with sql(_ledger(s).path) as other:
        other.execute("BEGIN EXCLUSIVE")
        async with stalled(_ledger(s)):
            connection_of(_ledger(s)).set_trace_callback(statements.append)
            tasks = await asked(*(s.capture(f"k{n}", 10 + n) for n in range(20)))
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        connection_of(_ledger(s)).set_trace_callback(None)
    assert {type(each) for each in outcomes} == {LedgerUnavailableError}
    assert sum(each.startswith("BEGIN IMMEDIATE") for each in statements) <= 2


async def test_full_disk_is_unavailable_and_then_works_again(s: Scene) -> None:
    """A file that cannot grow refuses the write, keeps every earlier one, and takes it once there is room."""
    _pages_left(_ledger(s), 40)
    kept = await _fill(s)
    assert kept
    books = await s.ledger.books(s.account, HOLD)
    assert books is not None
    assert len(books.unresolved) == kept
    assert books.authorization.claimed == kept
    _pages_left(_ledger(s), 1_000)
    assert (await s.capture(_long_key(kept), 1, twins_allowed=True)).fresh


def _pages_left(ledger: SqliteLedger, pages: int) -> None:
    (used,) = connection_of(ledger).execute("PRAGMA page_count").fetchone()
    connection_of(ledger).execute(f"PRAGMA max_page_count = {used + pages}")


def _long_key(number: int) -> str:
    return f"{'🔑' * 250}{number:05}"


async def _fill(s: Scene) -> int:
    """Reserve until the file is full; how many could be reserved. The next key in the row cannot be."""
    for number in range(1_000):
        wish = s.request(_long_key(number), amount=1, twins_allowed=True)
        try:
            await s.ledger.reserve(wish)
        except LedgerUnavailableError as error:
            assert "full" in str(error)  # noqa: PT017 - which call fails is not known before
            await s.refused(LedgerUnavailableError, wish)
            return number
    raise AssertionError("the file was never full")


def test_file_size_limit_leaves_a_sound_file(tmp_path: Path) -> None:
    """A process that may not write on (RLIMIT_FSIZE) is told so, reads on, and leaves exactly what it reported."""
    path = tmp_path / "ledger.db"
    (line,) = together([child("fill", str(path), "400000")])
    said = json.loads(line)
    assert said["problem"] == "nothing_happened"
    assert said["kept"] == said["unresolved"] > 0
    with sql(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT count(*), sum(amount) FROM entries").fetchone() == (
            said["kept"],
            said["claimed"],
        )
        assert connection.execute("SELECT claimed FROM authorizations").fetchone() == (said["claimed"],)


# ------------------------------------------------------------------------------------------------ batches


async def test_bad_jobs_do_not_harm_their_batch(s: Scene) -> None:
    """In one batch, a job that SQLite refuses, one with a defect and one of a refused request fail alone."""

    def refused_by_sqlite(tx: SqliteTransaction) -> None:
        hold = tx.get_authorization(s.account, HOLD)
        assert hold is not None
        tx.put_authorization(evolve(hold, captured=hold.amount + 1))

    def defective(tx: SqliteTransaction) -> None:
        raise ZeroDivisionError

    async with stalled(_ledger(s)):
        tasks = await asked(
            s.capture("k1", 100),
            on_thread(_ledger(s), refused_by_sqlite),
            s.capture("k2", 200),
            on_thread(_ledger(s), defective),
            s.capture("k3", 5_000),
            s.capture("k4", 300),
        )
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    kinds = [Reserved, LedgerUnavailableError, Reserved, ZeroDivisionError, OverCaptureError, Reserved]
    assert [type(each) for each in outcomes] == kinds
    assert (await s.sums()).claimed == 600
    await s.check_fold(["k1", "k2", "k4"])


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "in a batch"])
async def test_defective_job_leaves_nothing_half_written(s: Scene, alone: bool) -> None:
    """A job that fails after its first write, by whatever defect, is undone whole; its neighbours stay."""

    def half(tx: SqliteTransaction) -> None:
        hold = tx.get_authorization(s.account, HOLD)
        assert hold is not None
        tx.put_authorization(evolve(hold, claimed=hold.claimed + 1))
        raise ZeroDivisionError

    async with stalled(_ledger(s)):
        jobs = (
            [on_thread(_ledger(s), half)]
            if alone
            else [s.capture("k1"), on_thread(_ledger(s), half), s.capture("k2", 9)]
        )
        tasks = await asked(*jobs)
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(each) for each in outcomes].count(ZeroDivisionError) == 1
    assert (await s.sums()).claimed == (0 if alone else 109)


async def test_cancelled_callers_write_still_lands(s: Scene) -> None:
    """A caller that leaves while its job waits loses the answer, not the write; its neighbours are answered."""
    async with stalled(_ledger(s)):
        task, neighbour = await asked(s.capture("k1", 300), s.capture("k2", 200))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with asyncio.timeout(20):
        assert (await neighbour).fresh
    assert (await s.entry("k1")).state is State.HELD
    assert (await s.sums()).claimed == 500


# ------------------------------------------------------------------------------------------------ closing


async def test_close_finishes_what_was_accepted(s: Scene) -> None:
    """Jobs that wait when the ledger is closed are done and answered; the thread is gone after it."""
    async with stalled(_ledger(s)):
        tasks = await asked(*(s.capture(f"k{n}", 10 + n) for n in range(20)))
        (closing,) = await asked(s.ledger.close())
    assert all([(await task).fresh for task in tasks])
    await closing
    assert not [each for each in threading.enumerate() if each.name.startswith("qfpay-ledger")]
    with sql(_ledger(s).path) as connection:
        assert connection.execute("SELECT count(*) FROM entries").fetchone() == (20,)


async def test_closed_ledger_is_unavailable(tmp_path: Path) -> None:
    """Before opening and after closing every verb raises LedgerUnavailableError; nothing hangs, nothing is written."""
    ledger, s = await opened(tmp_path)
    await s.hold()
    entry = (await s.capture("k1")).entry
    await ledger.close()
    before = dump(ledger.path)
    never_opened = Scene(SqliteLedger(ledger.path))
    for scene in (s, never_opened):
        for verb in (
            scene.hold,
            lambda scene=scene: scene.capture("k1"),
            lambda scene=scene: scene.executed(entry),
            scene.sums,
            lambda scene=scene: scene.entry("k1"),
            lambda scene=scene: scene.events("k1"),
        ):
            with pytest.raises(LedgerUnavailableError):
                await verb()
    assert dump(ledger.path) == before


async def test_closing_from_two_tasks_waits_for_both(s: Scene) -> None:
    """A second close while the first is under way raises nothing, and the ledger opens again after both."""
    async with stalled(_ledger(s)):
        tasks = await asked(s.ledger.close(), s.ledger.close())
    await asyncio.gather(*tasks)
    await s.ledger.open("sandbox")
    assert (await s.sums()).amount == 1_000


# ------------------------------------------------------------------------------------------------ loops, threads, forks


def test_two_event_loops_share_one_ledger(tmp_path: Path) -> None:
    """Two threads, each with a loop of its own, use one ledger object at once; the hold is never exceeded."""
    ledger, s = asyncio.run(opened(tmp_path))
    asyncio.run(s.hold())
    both = threading.Barrier(2)
    fresh: list[str] = []

    async def capture_many(name: str) -> None:
        wishes = [s.capture(f"{name}-{n}", 100, twins_allowed=True) for n in range(50)]
        for each in await asyncio.gather(*wishes, return_exceptions=True):
            if isinstance(each, Reserved) and each.fresh:
                fresh.append(each.entry.idempotency_key)

    def run(name: str) -> None:
        both.wait(20)
        asyncio.run(capture_many(name))

    threads = [threading.Thread(target=run, args=(name,)) for name in ("a", "b")]
    for each in threads:
        each.start()
    for each in threads:
        each.join(20)
    assert len(fresh) == len(set(fresh)) == 10
    assert asyncio.run(s.sums()).claimed == 1_000
    asyncio.run(ledger.close())


def test_loop_that_ended_is_not_missed(tmp_path: Path) -> None:
    """A job whose loop is closed before it is done is done all the same, and the writer serves the next loop."""
    ledger, s = asyncio.run(opened(tmp_path))
    asyncio.run(s.hold())

    async def leave_behind() -> threading.Event:
        go = threading.Event()
        tasks = await asked(on_thread(ledger, lambda _: go.wait(20), writes=False), s.capture("k1", 300))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return go

    go = asyncio.run(leave_behind())
    go.set()
    assert asyncio.run(s.capture("k2", 200)).fresh
    assert asyncio.run(s.sums()).claimed == 500
    asyncio.run(ledger.close())


def test_forked_child_is_refused(tmp_path: Path) -> None:
    """A ledger opened before a fork is unavailable in the child (its thread is not there); the parent goes on."""
    path = tmp_path / "ledger.db"
    (line,) = together([child("fork", str(path))])
    assert json.loads(line) == {"child": 0, "parent": True}
    with sql(path) as connection:
        assert connection.execute("SELECT idempotency_key FROM entries").fetchall() == [("parent",)]
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_errors_name_the_file_and_keep_the_cause(s: Scene) -> None:
    """The error says which file, what SQLite said, and the next safe step; SQLite's own error is its cause."""

    def nonsense(_: SqliteTransaction) -> Any:
        return connection_of(_ledger(s)).execute("SELECT * FROM nowhere")

    with pytest.raises(LedgerUnavailableError, match=r"no such table: nowhere.*same key") as caught:
        await on_thread(_ledger(s), nonsense)
    assert str(_ledger(s).path) in str(caught.value)
    assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
