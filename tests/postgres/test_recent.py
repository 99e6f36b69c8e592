"""What a process remembers of the holds that it wrote last saves it the reading, and never decides anything alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from attrs import evolve

from qfpay_preauth._models import Authorization, Operation, Request, State
from qfpay_preauth.errors import OperationInProgressError, OverCaptureError, UnknownAuthorizationError
from qfpay_preauth.ledger import Reserved, _postgres_lane, _postgres_recent, _verbs
from qfpay_preauth.ledger._postgres_flush import Marks, flush_of
from qfpay_preauth.ledger._postgres_recent import DISTRUST, HOLDS_MAX, Recall, Recent, proven
from qfpay_preauth.ledger._postgres_snapshot import Snapshot
from qfpay_preauth.ledger.postgres import PostgresLedger
from qfpay_preauth.testing._ledger_kit import HOLD, START, Scene, moment

from .kit import sql, until, url_of
from .proxy import Proxy, proxied
from .server import Server


@pytest.fixture
async def other(s: Scene, url: str) -> AsyncIterator[Scene]:
    """Another process's view of the same ledger, as far as memory goes."""
    ledger = PostgresLedger(url)
    await ledger.open("sandbox")
    yield Scene(ledger)
    await ledger.close()


@pytest.fixture
async def through(s: Scene, postgres: Server) -> AsyncIterator[tuple[Proxy, Scene]]:
    """The same through a proxy that counts what is sent."""
    assert isinstance(s.ledger, PostgresLedger)
    async with proxied(postgres) as (proxy, seen):
        ledger = PostgresLedger(url_of(seen, s.ledger.schema))
        await ledger.open("sandbox")
        yield proxy, Scene(ledger)
        await ledger.close()


# ------------------------------------------------------------------------------------------------ what it saves


async def test_a_hold_that_was_written_last_is_not_read(through: tuple[Proxy, Scene]) -> None:
    """From the registration on, each reservation and each end on it is one message, and so one round trip."""
    proxy, s = through
    await s.hold()
    before = proxy.messages
    entry = (await s.capture("k1", 100)).entry
    await s.executed(entry, "CAP-1")
    await s.declined((await s.capture("k2", 200)).entry)
    assert proxy.messages - before == 4
    assert (await s.sums()).captured == 100
    await s.check_fold(["k1", "k2"])


async def test_a_hold_of_another_process_is_read_once(through: tuple[Proxy, Scene], other: Scene) -> None:
    """What another process registered is read for the reservation; its end is one message again."""
    proxy, s = through
    await other.hold()
    entry = (await s.capture("k1", 100)).entry
    before = proxy.messages
    await s.executed(entry, "CAP-1")
    assert proxy.messages - before == 1


async def test_what_needs_more_than_the_hold_reads(through: tuple[Proxy, Scene]) -> None:
    """A doubt (it is held against the notices), a refund and its end read; afterwards the books are right."""
    proxy, s = through
    await s.hold()
    entry = await s.captured("k1", 300)
    before = proxy.messages
    await s.doubted((await s.capture("k2", 200)).entry)
    refund = (await s.refund("r1", str(entry.result_syssn), 10)).entry
    await s.executed(refund, "REF-1")
    assert proxy.messages - before > 8
    assert (await s.sums()).refunded == 10


async def test_what_needs_no_reading_does_not_wait_for_what_does(through: tuple[Proxy, Scene], other: Scene) -> None:
    """Asked for together, an end on a remembered hold and a reservation on an unknown one are two transactions."""
    proxy, s = through
    await s.hold()
    await other.hold(syssn="HOLD-2")
    entry = (await s.capture("k1", 100)).entry
    commits, messages = proxy.commits, proxy.messages
    ended, reserved = await asyncio.gather(s.executed(entry, "CAP-1"), s.capture("k2", 100, syssn="HOLD-2"))
    assert (ended.state, reserved.fresh) == (State.EXECUTED, True)
    assert proxy.commits - commits == 2
    again = proxy.messages
    assert (await s.capture("k3", 100, syssn="HOLD-2", twins_allowed=True)).fresh
    assert proxy.messages - again == 1 < again - messages


async def test_what_reads_is_not_starved(s: Scene, other: Scene) -> None:
    """While captures on remembered holds go on and on, one on an unknown hold gets through: the line has one order."""
    await s.hold(1_000_000)
    await other.hold(syssn="HOLD-2")
    done = asyncio.Event()

    async def capture_on(name: str) -> int:
        count = 0
        while not done.is_set():
            count += (await s.capture(f"{name}-{count}", 10, twins_allowed=True)).fresh
        return count

    busy = [asyncio.create_task(capture_on(name)) for name in ("a", "b", "c")]
    async with asyncio.timeout(20):
        for number in range(3):
            with pytest.raises(UnknownAuthorizationError):
                await s.capture(f"none-{number}", syssn=f"NONE-{number}")
        assert (await s.capture("k1", 100, syssn="HOLD-2")).fresh
    done.set()
    captured = sum(await asyncio.gather(*busy))  # before the sums are read: each of the three may be in one more
    assert (await s.sums()).claimed == 10 * captured


# ------------------------------------------------------------------------------------------------ what others changed


async def test_what_another_process_captured_counts(s: Scene, other: Scene) -> None:
    """Our memory says that there is room; the books, which another process wrote meanwhile, say no."""
    await s.hold(1_000)
    await s.captured("k1", 100)
    await other.captured("k2", 700)
    with pytest.raises(OverCaptureError) as caught:
        await s.capture("k3", 300)
    assert caught.value.capturable == 200
    assert (await s.capture("k4", 200)).fresh
    assert (await s.sums()).captured == 800


async def test_what_another_process_gave_back_counts(s: Scene, other: Scene) -> None:
    """Our memory says that there is no room; a refusal is not told before the books were read."""
    await s.hold(1_000)
    entry = (await s.capture("k1", 900)).entry
    await other.declined(entry)
    assert (await s.capture("k2", 300)).fresh
    assert (await s.sums()).claimed == 300


async def test_a_twin_of_another_process_is_seen(s: Scene, other: Scene) -> None:
    """An equal capture that another process reserved meanwhile stops ours."""
    await s.hold()
    await other.capture("theirs", 100)
    with pytest.raises(OperationInProgressError, match="'theirs' of the same amount"):
        await s.capture("ours", 100)


@pytest.mark.parametrize("amount", [100, 800], ids=["room is left", "no room is left"])
async def test_a_key_of_another_process_is_replayed(s: Scene, other: Scene, amount: int) -> None:
    """A key that is taken for new, and is not, is found out: by its unique key, or by reading before a refusal."""
    await s.hold(1_000)
    await other.captured("k1", amount)
    await s.captured("k2", 150)
    again = await s.capture("k1", amount)
    assert (again.fresh, again.entry.state) == (False, State.EXECUTED)
    assert (await s.sums()).captured == amount + 150


async def test_an_end_that_another_process_wrote_stands(s: Scene, other: Scene) -> None:
    """Two processes end one entry differently: the second finds the first's end, and a discrepancy is noted."""
    await s.hold()
    entry = (await s.capture("k1", 100)).entry
    assert (await other.executed(entry, "CAP-1")).state is State.EXECUTED
    after = await s.executed(entry, "CAP-2")
    assert after.result_syssn == "CAP-1"
    assert len(await s.discrepancies("k1")) == 1
    await s.check_fold(["k1"])


async def test_an_id_of_another_entry_leaves_it_in_doubt(s: Scene) -> None:
    """An id that is taken for new, and belongs to another entry, ends nothing."""
    await s.hold()
    await s.captured("k1", 100, "CAP-1")
    entry = (await s.capture("k2", 200)).entry
    assert (await s.executed(entry, "CAP-1")).state is State.IN_DOUBT
    assert (await s.sums()).captured == 100


async def test_one_refusal_in_a_batch_is_told_after_reading(s: Scene, other: Scene) -> None:
    """Jobs that could be decided on memory share their batch with one that could not; each gets its own outcome."""
    await s.hold(1_000)
    await s.hold(syssn="HOLD-2")
    await other.captured("theirs", 600)
    wishes = [s.capture("k1", 400), s.capture("k2", 500), s.capture("k3", 10, syssn="HOLD-2")]
    first, second, third = await asyncio.gather(*wishes, return_exceptions=True)
    assert isinstance(first, Reserved)
    assert isinstance(second, OverCaptureError)
    assert isinstance(third, Reserved)
    assert (await s.sums()).claimed == 400


async def test_what_a_failover_lost_is_not_believed(
    s: Scene, other: Scene, postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A standby took over that had not seen our last write: though others have written as often as we, we see it."""
    monkeypatch.setattr(_postgres_recent, "DISTRUST", 0)  # memory is used on
    assert isinstance(s.ledger, PostgresLedger)
    await s.hold(1_000)
    await s.hold(1_000, "HOLD-2")
    tables = ("authorizations", "entries", "movements", "events", "writers")
    async with sql(postgres) as server:
        await server.execute(f'SET search_path TO "{s.ledger.schema}"')
        await server.execute("; ".join(f"CREATE TEMP TABLE old_{name} AS TABLE {name}" for name in tables))
        await asyncio.gather(s.capture("lost", 100), s.capture("lost too", 100, syssn="HOLD-2"))
        await server.execute("SET session_replication_role = replica")  # no trigger holds what a lost disk does not
        await server.execute("; ".join(f"DELETE FROM {name}" for name in tables))
        names = "SELECT string_agg(quote_ident(attname), ', ') FROM pg_attribute WHERE attrelid = $1::regclass"
        for name in tables:
            columns = await server.fetchval(f"{names} AND attnum > 0 AND attgenerated = ''", name)
            await server.execute(f"INSERT INTO {name} ({columns}) SELECT {columns} FROM old_{name}")
    for number, hold in enumerate((HOLD, "HOLD-2")):
        await other.capture(f"theirs-{number}", 800, syssn=hold)
        with pytest.raises(OverCaptureError) as caught:
            await s.capture(f"mine-{number}", 300, syssn=hold)
        assert caught.value.capturable == 200


async def test_two_processes_lock_their_holds_in_one_order(
    ledger: PostgresLedger, postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two batches over the same holds, decided on memory, that begin while one of them is locked: no deadlock."""
    monkeypatch.setattr(_postgres_lane, "LOCK_WAIT_TOGETHER_S", 60.0)
    patient = url_of(postgres, ledger.schema, deadlock_timeout="60s")  # a deadlock would outlast the test
    pair = [PostgresLedger(patient), PostgresLedger(patient)]
    names = [f"HOLD-{number}" for number in range(8)]
    waiting = "SELECT count(*) = 2 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = $1"
    async with sql(postgres) as third, sql(postgres) as beside, asyncio.timeout(30):
        await asyncio.gather(*(each.open("sandbox") for each in pair))
        for name in names:
            await Scene(pair[0]).hold(100_000, name)
        for turn in range(4):  # in the first, the second ledger reads what it does not remember yet
            await third.execute("BEGIN")
            await third.execute(
                f"SELECT 1 FROM \"{ledger.schema}\".authorizations WHERE syssn = '{names[turn]}' FOR UPDATE"
            )
            wishes = [
                Scene(each).capture(f"{number}-{turn}-{name}", 10 + 2 * turn + number, syssn=name)
                for number, each in enumerate(pair)
                for name in (names if number else reversed(names))
            ]
            tasks = [asyncio.create_task(wish) for wish in wishes]
            await until(lambda: beside.fetchval(waiting, ledger.schema))
            await third.execute("ROLLBACK")
            assert all([(await task).fresh for task in tasks])
        await asyncio.gather(*(each.close() for each in pair))


# ------------------------------------------------------------------------------------------------ how it is kept


def _hold(name: str) -> Authorization:
    return Authorization("M-1", name, 1_000, "HKD", "ORDER", START)


def _written(*names: str) -> Snapshot:
    snapshot = Snapshot()
    for name in names:
        snapshot.loaded("authorizations", ("M-1", name), _hold(name), 5)
        snapshot.unresolved["M-1", name] = ()
        snapshot.put_authorization(evolve(_hold(name), captured=1))
    return snapshot


def _recall(name: str) -> Recall:
    return Recall(("M-1", name), ("M-1", "key"), new=True)


def test_memory_is_bounded() -> None:
    """Beyond so many holds, those that were not written for the longest time are forgotten."""
    recent = Recent()
    names = [f"H{number}" for number in range(HOLDS_MAX + 10)]
    for name in names:
        recent.keep(_written(name), 1)
    assert [recent.knows(_recall(name)) for name in names] == [False] * 10 + [True] * HOLDS_MAX


def test_after_another_process_changed_a_hold_it_reads_for_a_while() -> None:
    """Where several processes write to one hold, memory would be wrong each time: it is left alone for a while."""
    recent = Recent()
    recent.keep(_written("A", "B"), 1)
    recent.forget([_recall("A"), None], changed=True)
    assert not recent.knows(_recall("B"))
    for _ in range(DISTRUST):
        recent.keep(Snapshot(), 1)
    assert recent.knows(_recall("B"))
    assert not recent.knows(_recall("A"))


def test_memory_is_what_was_committed() -> None:
    """A hold comes back with its sums and the revision that its row has now."""
    recent = Recent()
    recent.keep(_written("A"), 7)
    snapshot = recent.snapshot([_recall("A")])
    assert snapshot.authorizations["M-1", "A"] == evolve(_hold("A"), captured=1)
    assert snapshot.revisions["authorizations"] == {("M-1", "A"): 12}
    assert snapshot.entries == {("M-1", "key"): None}
    assert not recent.knows(evolve(_recall("A"), new=False))  # an end of an entry that is not there


def test_a_hold_of_which_only_a_part_was_read_is_forgotten() -> None:
    """An end that was read without the hold's other entries leaves nothing behind to reserve on."""
    recent = Recent()
    recent.keep(_written("A"), 1)
    snapshot = _written("A")
    del snapshot.unresolved["M-1", "A"]
    recent.keep(snapshot, 1)
    assert not recent.knows(_recall("A"))


def test_only_writes_prove_what_is_remembered() -> None:
    """A hold that nothing is written to, or a key that is not inserted, proves nothing."""
    recent = Recent()
    recent.keep(_written("A"), 1)
    snapshot = recent.snapshot([_recall("A")])
    assert not proven(snapshot)
    snapshot.put_authorization(evolve(_hold("A"), captured=2))
    assert not proven(snapshot)
    snapshot = recent.snapshot([_recall("A")])
    times = (moment(0), moment(60), moment(90))
    _verbs.reserve(snapshot, Request("M-1", "key", Operation.CAPTURE, "A", 100, None, *times))
    assert proven(snapshot)


def test_only_what_has_changed_is_written() -> None:
    """An update names the columns that changed, so what somebody set by hand in another one stays."""
    marks = Marks("writer", "old", "0" * 24)
    statement = flush_of(_written("A"), '"s"', marks)
    assert 'SET "captured" = v."captured", revision' in statement
    assert '"claimed"' not in statement


def test_steps_of_revisions_are_drawn() -> None:
    """Every transaction moves revisions forward, each by a step of its own."""
    steps = {Marks("w", "", f"{number:08x}" + "f" * 16).step for number in (0, 1, 2**32 - 1)}
    assert steps == {1, 2, 2**32}
