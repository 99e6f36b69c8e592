"""Trouble with the server, its locks and our loops: an error that says so, nothing half-written, nobody else harmed."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import warnings
from typing import Any

import asyncpg
import pytest
from attrs import evolve

from qfpay_preauth._models import Listing, Policy, State, Transaction
from qfpay_preauth.errors import LedgerUnavailableError, OperationInProgressError, OverCaptureError
from qfpay_preauth.ledger import Reserved, _postgres_lane, _postgres_writer
from qfpay_preauth.ledger._postgres_snapshot import Snapshot
from qfpay_preauth.ledger.postgres import PostgresLedger
from qfpay_preauth.testing._ledger_kit import HOLD, START, Scene, moment

from .kit import sql, until, url_of
from .proxy import proxied
from .server import Server

GONE = "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = $1"


def _ledger(s: Scene) -> PostgresLedger:
    assert isinstance(s.ledger, PostgresLedger)
    return s.ledger


async def _job(s: Scene, work: Any) -> Any:
    """A job of the writer's, on the hold."""
    from qfpay_preauth.ledger._postgres_plans import hold

    return await _ledger(s)._write(work, hold(s.account, HOLD), s.account, HOLD)


async def _asked(*verbs: Any) -> list[asyncio.Task[Any]]:
    """Each verb in a task of its own that has handed its job in, so that they become one batch."""
    tasks = [asyncio.create_task(verb) for verb in verbs]
    await asyncio.sleep(0)
    return tasks


# ------------------------------------------------------------------------------------------------ batches


async def test_what_is_asked_together_is_one_transaction(s: Scene, postgres: Server) -> None:
    """A hundred reservations that wait at the same time cost one COMMIT, not a hundred."""
    await s.hold(100_000)
    async with proxied(postgres) as (proxy, seen):
        ledger = PostgresLedger(url_of(seen, _ledger(s).schema))
        await ledger.open("sandbox")
        other = Scene(ledger)
        before = proxy.commits
        found = await asyncio.gather(*(other.capture(f"k{n}", 10 + n) for n in range(100)))
        assert all(each.fresh for each in found)
        assert proxy.commits - before <= 2
        await ledger.close()


async def test_bad_jobs_do_not_harm_their_batch(s: Scene) -> None:
    """In one batch, a job that PostgreSQL refuses, one with a defect and one of a refused request fail alone."""
    await s.hold()

    def refused_by_postgresql(tx: Snapshot) -> None:
        hold = tx.get_authorization(s.account, HOLD)
        assert hold is not None
        tx.put_authorization(evolve(hold, captured=hold.amount + 1))

    def half(tx: Snapshot) -> None:
        hold = tx.get_authorization(s.account, HOLD)
        assert hold is not None
        tx.put_authorization(evolve(hold, claimed=hold.claimed + 1))
        raise ZeroDivisionError

    tasks = await _asked(
        s.capture("k1", 100),
        _job(s, refused_by_postgresql),
        s.capture("k2", 200),
        _job(s, half),
        s.capture("k3", 5_000),
        s.capture("k4", 300),
    )
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    kinds = [Reserved, LedgerUnavailableError, Reserved, ZeroDivisionError, OverCaptureError, Reserved]
    assert [type(each) for each in outcomes] == kinds
    assert "never_over_the_hold" in str(outcomes[1])
    assert (await s.sums()).claimed == 600
    await s.check_fold(["k1", "k2", "k4"])


async def test_a_stale_read_is_never_written(s: Scene, postgres: Server) -> None:
    """A row that changed between its reading and its writing (here by a program that takes no locks) is read again."""
    await s.hold()
    looks = []

    def slow(tx: Snapshot) -> int:
        hold = tx.get_authorization(s.account, HOLD)
        assert hold is not None
        looks.append(hold.claimed)
        if len(looks) == 1:  # as if our lock had not held: what was read is of an earlier revision
            tx.revisions["authorizations"][s.account, HOLD] -= 1
        tx.put_authorization(evolve(hold, claimed=hold.claimed + 1))
        return hold.claimed

    assert await _job(s, slow) == 0
    assert looks == [0, 0]
    assert (await s.sums()).claimed == 1


async def test_what_was_read_while_waiting_for_a_lock_is_read_again(s: Scene, postgres: Server) -> None:
    """A twin that another process reserved while we waited for the hold's lock is seen all the same."""
    await s.hold()
    schema = _ledger(s).schema
    twin = (await s.capture("other", 100)).entry
    await s.not_sent(twin)
    async with sql(postgres) as other, sql(postgres) as beside:
        await other.execute(f'BEGIN; SELECT * FROM "{schema}".authorizations FOR UPDATE')
        (task,) = await _asked(s.capture("mine", 100))
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = $1"
        await until(lambda: beside.fetchval(waiting, schema))
        await other.execute(
            f"UPDATE \"{schema}\".entries SET state = 'held', concluded_at = NULL, revision = revision + 1"
        )
        await other.execute(f'UPDATE "{schema}".authorizations SET claimed = 100, revision = revision + 1')
        await other.execute("COMMIT")
        with pytest.raises(OperationInProgressError, match="'other' of the same amount"):
            await task


async def test_every_change_on_a_hold_changes_its_revision(s: Scene, postgres: Server) -> None:
    """Also one that moves no sum: by the revision others see that what they read while waiting is old."""
    await s.hold()

    async def revision() -> int:
        async with sql(postgres) as beside:
            found: int = await beside.fetchval(f'SELECT revision FROM "{_ledger(s).schema}".authorizations')
            return found

    entry = (await s.capture("k1", 100)).entry
    before = await revision()
    await s.doubted(entry)
    assert await revision() > before


# ------------------------------------------------------------------------------------------------ locks


async def test_a_lock_held_elsewhere_stops_its_hold_only(
    s: Scene, postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While somebody holds the lock of one hold, the others go on; its own calls give up together, and later work."""
    monkeypatch.setattr(_postgres_lane, "LOCK_WAIT_S", 0.6)
    monkeypatch.setattr(_postgres_lane, "LOCK_WAIT_TOGETHER_S", 0.2)
    await s.hold()
    await s.hold(syssn="HOLD-2")
    async with sql(postgres) as other:
        await other.execute("BEGIN")
        await other.execute(f"SELECT * FROM \"{_ledger(s).schema}\".authorizations WHERE syssn = '{HOLD}' FOR UPDATE")
        tasks = await _asked(*(s.capture(f"k{n}", 10 + n) for n in range(10)), s.capture("free", 100, syssn="HOLD-2"))
        assert (await tasks.pop()).fresh
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        await other.execute("ROLLBACK")
    assert {type(each) for each in outcomes} == {LedgerUnavailableError}
    assert "lock timeout" in str(outcomes[0])
    assert (await s.sums()).claimed == 0
    assert (await s.capture("k1", 11)).fresh


async def test_a_stuck_batch_does_not_hold_up_what_comes_later(s: Scene, postgres: Server) -> None:
    """Another lane takes what has waited too long, as long as it concerns other holds; then the stuck one goes on."""
    await s.hold()
    await s.hold(syssn="HOLD-2")
    async with sql(postgres) as other:
        await other.execute("BEGIN")
        await other.execute(f"SELECT * FROM \"{_ledger(s).schema}\".authorizations WHERE syssn = '{HOLD}' FOR UPDATE")
        (stuck,) = await _asked(s.capture("k1"))
        await asyncio.sleep(0)
        also, free = await _asked(s.capture("k2", 200), s.capture("free", 100, syssn="HOLD-2"))
        async with asyncio.timeout(_postgres_lane.LOCK_WAIT_S / 2):
            assert (await free).fresh
        assert not stuck.done()
        assert not also.done()
        await other.execute("ROLLBACK")
    assert (await stuck).fresh
    assert (await also).fresh


async def test_evidence_waits_for_no_lock(s: Scene, postgres: Server) -> None:
    """Comparing what agrees goes on while somebody holds the lock of a hold; only ending a doubt on it waits."""
    await s.hold()
    await s.captured("k1", 300)
    row = Transaction("CAP-k1", HOLD, None, "word", 300, "HKD", "0000", None, None, moment(5))
    listing = Listing((row,), START, moment(400), stable=True, whole=True)
    await s.ledger.observe(s.account, listing, Policy(), ())  # the word is learnt
    async with sql(postgres) as other:
        await other.execute(f'BEGIN; SELECT * FROM "{_ledger(s).schema}".authorizations FOR UPDATE')
        async with asyncio.timeout(_postgres_lane.LOCK_WAIT_S / 2):
            observed = await s.ledger.observe(s.account, listing, Policy(), ())
        await other.execute("ROLLBACK")
    assert (observed.foreign, observed.discrepancies) == ((), ())


async def test_evidence_and_captures_on_one_hold_both_get_through(s: Scene) -> None:
    """While captures on a hold go on and on, what was made elsewhere on it is recorded all the same, each once."""
    await s.hold(1_000_000)
    await s.captured("k0", 300)
    done = asyncio.Event()

    async def capture_on() -> int:
        count = 0
        while not done.is_set():
            await s.captured(f"busy-{count}", 100)
            count += 1
        return count

    busy = asyncio.create_task(capture_on())
    for number in range(10):
        row = Transaction(f"ELSE-{number}", HOLD, None, "word", 7, "HKD", "0000", None, None, moment(5))
        listing = Listing((row,), START, moment(400 + number), stable=True, whole=True)
        observed = await s.ledger.observe(s.account, listing, Policy(), ())
        assert [each.syssn for each in observed.foreign] == [row.syssn]
    done.set()
    count = await busy
    sums = await s.sums()
    assert (sums.captured, sums.foreign_captured) == (300 + 100 * count, 70)


async def test_deadlocks_are_run_again(s: Scene, postgres: Server) -> None:
    """Where PostgreSQL ends our transaction to end a deadlock, it runs again, and the caller hears nothing of it."""
    await s.hold()
    schema = _ledger(s).schema
    async with sql(postgres) as other, sql(postgres) as beside:
        writer_of = f'SELECT writer FROM "{schema}".writers'
        writer = await beside.fetchval(writer_of)
        await other.execute("BEGIN; SET LOCAL deadlock_timeout = '10s'")
        await other.execute(f"UPDATE \"{schema}\".writers SET mark = mark WHERE writer = '{writer}'")
        (task,) = await _asked(s.capture("k1"))
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = $1"
        await until(lambda: beside.fetchval(waiting, schema))
        # our transaction holds the hold's lock and waits for its writer's row: together with this a deadlock
        await other.execute(f'SELECT * FROM "{schema}".authorizations FOR UPDATE')
        await other.execute("ROLLBACK")
        assert (await task).fresh
    assert [to for _, to in await s.moves("k1")] == [State.HELD]


# ------------------------------------------------------------------------------------------------ lost connections


async def test_idle_connection_that_was_closed_is_replaced(s: Scene, postgres: Server) -> None:
    """A server (or pooler) that ends idle connections costs the next caller nothing."""
    await s.hold()
    async with sql(postgres) as other:
        ours = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = $1"
        assert await other.fetchval(ours, _ledger(s).schema) > 0
        await until(lambda: other.fetchval(GONE, _ledger(s).schema))
    assert (await s.capture("k1")).fresh
    assert (await s.sums()).claimed == 100


async def test_server_that_stays_away_is_unavailable(
    s: Scene, postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While nothing answers, calls fail with LedgerUnavailableError after a while, together; then all works again."""
    monkeypatch.setattr(_postgres_writer, "PATIENCE_S", 0.3)
    await s.hold()
    async with proxied(postgres) as (proxy, seen):
        ledger = PostgresLedger(url_of(seen, _ledger(s).schema))
        await ledger.open("sandbox")
        other = Scene(ledger)
        proxy.refusing = True
        proxy.cut_all()
        outcomes = await asyncio.gather(
            *(other.capture(f"k{n}", 10 + n) for n in range(5)), other.sums(), return_exceptions=True
        )
        assert {type(each) for each in outcomes} == {LedgerUnavailableError}
        proxy.refusing = False
        assert (await other.capture("k1", 11)).fresh
        assert (await other.sums()).claimed == 11
        await ledger.close()


async def test_a_standby_is_never_read(s: Scene, postgres: Server) -> None:
    """Where transactions are read-only by default they are made writing; a server that refuses that is not read."""
    await s.hold()
    role = f"ro_{_ledger(s).schema}"
    base = postgres.dsn.replace("postgres@", f"{role}@")
    async with sql(postgres) as other:
        await other.execute(f"CREATE ROLE {role} LOGIN SUPERUSER")
        await other.execute(f"ALTER ROLE {role} SET default_transaction_read_only = on")
        await other.execute(f"ALTER ROLE {role} SET default_transaction_isolation = 'serializable'")
        await other.execute(f"ALTER ROLE {role} SET synchronous_commit = off")
        await other.execute(f"ALTER ROLE {role} SET search_path = ''")
    ledger = PostgresLedger(base, schema=_ledger(s).schema)
    await ledger.open("sandbox")
    assert (await Scene(ledger).capture("k1")).fresh

    async def seen(connection: Any) -> list[str]:
        names = ("transaction_read_only", "transaction_isolation", "synchronous_commit")
        return [await connection.fetchval(f"SHOW {name}") for name in names]

    assert await ledger._ask(seen, writes=True) == ["off", "read committed", "on"]
    assert await ledger._ask(seen) == ["off", "repeatable read", "on"]
    await ledger.close()
    async with sql(postgres) as other:
        await other.execute(f"DROP ROLE {role}")


# ------------------------------------------------------------------------------------------------ callers that leave


async def test_cancelled_callers_write_still_lands(s: Scene) -> None:
    """A caller that leaves while its job waits loses the answer, not the write; its neighbours are answered."""
    await s.hold()
    task, neighbour = await _asked(s.capture("k1", 300), s.capture("k2", 200))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await neighbour).fresh
    assert (await s.entry("k1")).state is State.HELD
    assert (await s.sums()).claimed == 500


async def test_a_storm_of_cancellations_harms_nothing(s: Scene) -> None:
    """Callers and even the ledger's own tasks are cancelled at every moment; what was asked for is done once."""
    await s.hold(1_000_000)
    keys = [f"k{n}" for n in range(60)]

    async def storm() -> int:
        hit = 0
        for _ in range(200):
            for task in _ledger(s)._desk().writes._tasks:
                hit += task.cancel()
            await asyncio.sleep(0.001)
        return hit

    storming = asyncio.create_task(storm())
    for start in range(0, 60, 10):
        tasks = await _asked(*(s.capture(key, 100 + start) for key in keys[start : start + 10]))
        for task in tasks[::3]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert await storming > 20
    found = [await s.ledger.entry(s.account, key) for key in keys]
    assert [each.state for each in found if each is not None] == [State.HELD] * 6  # one of each ten equal twins
    await s.check_fold(keys)


async def test_the_end_of_a_loop_ends_what_was_begun(url: str) -> None:
    """asyncio.run() cancels all tasks at its end: a transaction under way is still brought to its end, and told."""
    await PostgresLedger(url).migrate("sandbox")

    def run() -> None:
        async def leave() -> None:
            ledger = PostgresLedger(url)
            await ledger.open("sandbox")
            scene = Scene(ledger)
            await scene.hold()
            asyncio.get_running_loop().create_task(scene.capture("k1", 300))
            await asyncio.sleep(0.001)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # the connection was never closed: that is the point here
            asyncio.run(leave())
            gc.collect()

    await asyncio.to_thread(run)
    ledger = PostgresLedger(url)
    await ledger.open("sandbox")
    assert (await Scene(ledger).entry("k1")).state is State.HELD
    await ledger.close()


# ------------------------------------------------------------------------------------------------ closing, loops, forks


async def test_close_finishes_what_was_accepted(s: Scene, postgres: Server) -> None:
    """Jobs that wait when the ledger is closed are done and answered; no task and no connection is left."""
    await s.hold()
    tasks = await _asked(*(s.capture(f"k{n}", 10 + n) for n in range(20)), s.ledger.close())
    await tasks.pop()
    assert all([(await task).fresh for task in tasks])
    assert asyncio.all_tasks() == {asyncio.current_task()}
    async with sql(postgres) as other:
        await until(lambda: other.fetchval(GONE, _ledger(s).schema))
    await s.ledger.open("sandbox")
    assert (await s.sums()).claimed == sum(range(10, 30))


async def test_closed_ledger_is_unavailable(s: Scene, url: str) -> None:
    """Before opening and after closing every verb raises LedgerUnavailableError; closing twice does nothing."""
    await s.hold()
    entry = (await s.capture("k1")).entry
    await s.ledger.close()
    await s.ledger.close()
    never_opened = Scene(PostgresLedger(url))
    for scene in (s, never_opened):
        for verb in (
            scene.hold,
            lambda scene=scene: scene.capture("k1"),
            lambda scene=scene: scene.executed(entry),
            scene.sums,
            lambda scene=scene: scene.entry("k1"),
            lambda scene=scene: scene.events("k1"),
        ):
            with pytest.raises(LedgerUnavailableError, match="not open"):
                await verb()


async def test_two_event_loops_share_one_ledger(s: Scene) -> None:
    """Two threads, each with a loop of its own, use one ledger object at once; closing it closes it in both."""
    await s.hold()
    other = asyncio.new_event_loop()
    thread = threading.Thread(target=other.run_forever)
    thread.start()

    async def capture_many(name: str) -> list[str]:
        wishes = [s.capture(f"{name}-{n}", 100, twins_allowed=True) for n in range(20)]
        found = await asyncio.gather(*wishes, return_exceptions=True)
        return [each.entry.idempotency_key for each in found if isinstance(each, Reserved) and each.fresh]

    there = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(capture_many("b"), other))
    fresh = await capture_many("a") + await there
    assert len(fresh) == len(set(fresh)) == 10
    assert (await s.sums()).claimed == 1_000
    await s.ledger.close()

    async def left() -> int:
        return len(asyncio.all_tasks()) - 1

    assert await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(left(), other)) == 0
    other.call_soon_threadsafe(other.stop)
    thread.join(20)
    other.close()


async def test_forked_child_is_refused(s: Scene) -> None:
    """A ledger opened before a fork is unavailable in the child; the parent goes on."""
    await s.hold()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads: that is the point here
        pid = os.fork()
    if pid == 0:
        try:
            _ledger(s)._desk()
        except LedgerUnavailableError as error:
            os._exit(0 if "forked" in str(error) else 2)
        os._exit(3)
    _, status = os.waitpid(pid, 0)  # noqa: ASYNC222 - the child ends at once
    assert os.waitstatus_to_exitcode(status) == 0
    assert (await s.capture("parent")).fresh


# ------------------------------------------------------------------------------------------------ an application's pool


async def test_the_applications_pool_stays_open(postgres: Server, s: Scene) -> None:
    """A ledger on the application's pool gives every connection back, and closing it does not close the pool."""
    async with asyncpg.create_pool(postgres.dsn, min_size=0, max_size=2) as pool:
        ledger = PostgresLedger(pool, schema=_ledger(s).schema)
        await ledger.open("sandbox")
        other = Scene(ledger)
        await other.hold()
        assert (await other.captured("k1", 300)).state is State.EXECUTED
        assert (await other.sums()).captured == 300
        await ledger.close()
        assert pool.get_idle_size() == pool.get_size() > 0
        assert await pool.fetchval("SELECT 1") == 1
    assert "pool" in repr(ledger)


async def test_a_pool_of_another_loop_is_refused(postgres: Server, s: Scene) -> None:
    """A pool belongs to one event loop; a ledger on it says so in another, instead of hanging."""
    async with asyncpg.create_pool(postgres.dsn, min_size=0, max_size=2) as pool:
        ledger = PostgresLedger(pool, schema=_ledger(s).schema)
        await ledger.open("sandbox")

        def elsewhere() -> BaseException | None:
            async def use() -> None:
                await Scene(ledger).hold()

            try:
                asyncio.run(use())
            except LedgerUnavailableError as error:
                return error
            return None

        error = await asyncio.to_thread(elsewhere)
        assert "another event loop" in str(error)
        await ledger.close()
