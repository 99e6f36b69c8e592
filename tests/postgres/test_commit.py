"""A COMMIT whose outcome is unknown is read again on a new connection before it is judged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from qfpay_preauth._models import State
from qfpay_preauth.errors import LedgerUnavailableError, OverCaptureError
from qfpay_preauth.ledger import Reserved, _postgres_lane, _postgres_writer
from qfpay_preauth.ledger._postgres_lane import Lane
from qfpay_preauth.ledger.postgres import PostgresLedger
from qfpay_preauth.testing._ledger_kit import Scene

from .kit import drop_schema, new_schema, sql, until, url_of
from .proxy import Cut, Proxy, proxied
from .server import Server


@pytest.fixture
async def through(postgres: Server) -> AsyncIterator[tuple[Proxy, Scene]]:
    """A scene with one hold on a ledger that reaches its server through a proxy."""
    schema = new_schema()
    async with proxied(postgres) as (proxy, seen):
        ledger = PostgresLedger(url_of(seen, schema), migrate=True)
        await ledger.open("sandbox")
        scene = Scene(ledger)
        await scene.hold()
        yield proxy, scene
        await ledger.close()
    await drop_schema(postgres, schema)


def _lane(s: Scene) -> Lane:
    """The lane that wrote last."""
    assert isinstance(s.ledger, PostgresLedger)
    return s.ledger._desk().writes._idle[-1]


async def _moves(s: Scene, key: str) -> list[State | None]:
    return [to for _, to in await s.moves(key)]


@pytest.mark.parametrize("cut", [Cut.BEFORE, Cut.AFTER, Cut.AT_ONCE])
@pytest.mark.parametrize("first", [True, False], ids=["the writer's first", "a later one"])
async def test_a_lost_commit_is_judged(through: tuple[Proxy, Scene], cut: Cut, first: bool) -> None:
    """Whether it got through or not, the caller gets the truth, and everything is written exactly once."""
    proxy, s = through
    if first:  # a ledger object that has not written before, so its writer has no row yet
        old = s.ledger
        assert isinstance(old, PostgresLedger)
        await old.close()
        await old.open("sandbox")
    proxy.cuts.append(cut)
    reserved = await s.capture("k1", 300)
    assert reserved.fresh
    assert not proxy.cuts
    assert await _moves(s, "k1") == [State.HELD]
    proxy.cuts.append(cut)
    ended = await s.executed(reserved.entry, "CAP-1")
    assert ended.state is State.EXECUTED
    assert await _moves(s, "k1") == [State.HELD, State.EXECUTED]
    assert (await s.sums()).captured == 300
    assert not await s.discrepancies("k1")


@pytest.mark.parametrize("cut", list(Cut)[:3])
async def test_a_lost_commit_of_a_batch_is_judged_once(through: tuple[Proxy, Scene], cut: Cut) -> None:
    """All jobs of one transaction share its fate; none is done twice, and the one that was refused stays refused."""
    proxy, s = through
    proxy.cuts.append(cut)
    wishes = [s.capture(f"k{n}", 10 + n) for n in range(20)] + [s.capture("much", 5_000)]
    *fresh, refused = await asyncio.gather(*wishes, return_exceptions=True)
    assert all(isinstance(each, Reserved) and each.fresh for each in fresh)
    assert isinstance(refused, OverCaptureError)
    assert (await s.sums()).claimed == sum(range(10, 30))
    await s.check_fold([f"k{n}" for n in range(20)])


async def test_lost_commits_in_a_row_are_judged(through: tuple[Proxy, Scene]) -> None:
    """However often it happens: every transaction is found out, and nothing is left or doubled."""
    proxy, s = through
    proxy.cuts.extend([Cut.BEFORE, Cut.BEFORE, Cut.AFTER, Cut.AT_ONCE])
    reserved = [(await s.capture(f"k{n}", 10 + n)).fresh for n in range(3)]
    assert reserved == [True] * 3
    assert [await _moves(s, f"k{n}") for n in range(3)] == [[State.HELD]] * 3
    assert (await s.sums()).claimed == 33


async def test_what_nobody_can_judge_is_unavailable(
    through: tuple[Proxy, Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the server stays away after a lost COMMIT, the caller is told so; later the same key finds the truth."""
    proxy, s = through
    monkeypatch.setattr(_postgres_lane, "PATIENCE_S", 0.1)
    monkeypatch.setattr(_postgres_lane, "IDLE_MAX_S", 0.1)
    proxy.cuts.append(Cut.AFTER)
    proxy.refusing = True
    with pytest.raises(LedgerUnavailableError, match="not known") as caught:
        await s.capture("k1", 300)
    assert caught.value.__cause__ is None
    proxy.refusing = False
    monkeypatch.undo()
    assert (await s.entry("k1")).state is State.HELD  # it had been written
    assert (await s.sums()).claimed == 300
    assert (await s.capture("k2", 200)).fresh


async def test_a_commit_that_nobody_answers_is_given_up(
    through: tuple[Proxy, Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that has gone silent is dropped after a while, and the COMMIT judged on another."""
    proxy, s = through
    monkeypatch.setattr(_postgres_lane, "TRANSACTION_MAX_S", 0.3)
    proxy.mute = True
    proxy.cuts.append(Cut.SILENCE)
    assert (await s.capture("k1", 300)).fresh
    assert await _moves(s, "k1") == [State.HELD]


async def test_a_commit_that_is_still_under_way_is_waited_for(through: tuple[Proxy, Scene], postgres: Server) -> None:
    """The judge locks the writer's row, so it reads the mark only when the old transaction has ended."""
    _, s = through
    assert isinstance(s.ledger, PostgresLedger)
    async with sql(postgres) as old, sql(postgres) as beside:
        writer = await beside.fetchval(f'SELECT writer FROM "{s.ledger.schema}".writers')
        await old.execute("BEGIN")
        await old.execute(f"UPDATE \"{s.ledger.schema}\".writers SET mark = 'new' WHERE writer = '{writer}'")
        lane = _lane(s)
        assert lane._writer == writer
        judging = asyncio.create_task(lane._read_mark("new"))
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%writers%'"
        await until(lambda: beside.fetchval(waiting))
        assert not judging.done()
        await old.execute("COMMIT")
        assert await judging == "new"


@pytest.mark.parametrize("first", [True, False], ids=["the writer's first", "a later one"])
async def test_a_message_that_comes_after_the_judgement_is_void(
    through: tuple[Proxy, Scene], monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    """Writes and COMMIT that get to the server when the caller was told that nothing was written change nothing."""
    proxy, s = through
    if first:
        await s.ledger.close()
        await s.ledger.open("sandbox")
    monkeypatch.setattr(_postgres_writer, "PATIENCE_S", 0.0)  # it is not tried again
    proxy.cuts.append(Cut.LATE)
    with pytest.raises(LedgerUnavailableError):
        await s.hold(syssn="HOLD-2")
    await proxy.deliver_late()
    assert b"negative" in proxy.answers[0]  # the writer's row is not as it was left
    assert await s.ledger.books(s.account, "HOLD-2") is None
    monkeypatch.undo()
    assert (await s.hold(syssn="HOLD-2")).amount == 1_000
