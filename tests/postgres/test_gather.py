"""Those who were answered together are waited for, a moment: what they ask next is one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from qfpay_preauth.ledger import _postgres_gather, _postgres_writer
from qfpay_preauth.ledger._postgres_gather import FEW, MANY, PAUSES_MAX, WAIT_MAX_S, Gathering
from qfpay_preauth.ledger.postgres import PostgresLedger
from qfpay_preauth.testing._ledger_kit import Scene

from .kit import url_of
from .proxy import proxied
from .server import Server

LONG_S = 30.0


class _Line:
    """As many as are waiting, and who waits for them."""

    def __init__(self) -> None:
        self.waiting = 0
        self.gathering = Gathering(lambda: self.waiting)

    def arrive(self, count: int) -> None:
        for _ in range(count):
            self.waiting += 1
            self.gathering.arrived()


async def _begun(wait: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """A wait that has begun, and has had every chance to end at once."""
    task = asyncio.create_task(wait)
    for _ in range(4):
        await asyncio.sleep(0)
    return task


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_postgres_gather, "WAIT_MAX_S", LONG_S)


@pytest.mark.usefixtures("patient")
async def test_most_of_them_are_waited_for() -> None:
    """Of eight who were answered six are enough, whenever they come."""
    line = _Line()
    wait = await _begun(line.gathering.wait(8, LONG_S))
    line.arrive(5)
    await asyncio.sleep(0)
    assert not wait.done()
    line.arrive(1)
    async with asyncio.timeout(LONG_S / 2):
        await wait


@pytest.mark.usefixtures("patient")
async def test_who_waits_already_counts() -> None:
    """Those who came while the transaction was under way belong to those who come and go together."""
    line = _Line()
    line.arrive(8)
    wait = await _begun(line.gathering.wait(8, LONG_S))
    assert not wait.done()
    line.arrive(4)
    async with asyncio.timeout(LONG_S / 2):
        await wait


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("served", [1, FEW, MANY + 1])
async def test_a_few_or_many_are_not_waited_for(served: int) -> None:
    """Where hardly anybody is about, or a crowd, nothing is to be gained."""
    assert (await _begun(_Line().gathering.wait(served, LONG_S))).done()


async def test_nobody_is_waited_for_long() -> None:
    """After a transaction that took long, because of a lock or a lost connection, the wait is as short as ever."""
    loop, line = asyncio.get_running_loop(), _Line()
    began = loop.time()
    await line.gathering.wait(MANY, 1_000.0)
    assert WAIT_MAX_S / 2 < loop.time() - began < 1


async def test_where_nobody_comes_it_is_tried_ever_more_seldom() -> None:
    """A gateway that takes long to answer costs hardly any wait; once somebody comes in time, all are waited for."""
    line, pauses = _Line(), []
    for _ in range(9):
        await line.gathering.wait(8, 0.0)
        pauses.append(line.gathering._pauses)
        for _ in range(line.gathering._pauses):
            assert (await _begun(line.gathering.wait(8, LONG_S))).done()
    assert pauses == [1, 3, 7, 15, 31, 63, PAUSES_MAX, PAUSES_MAX, PAUSES_MAX]
    wait = await _begun(line.gathering.wait(8, LONG_S))
    line.arrive(6)
    await wait
    assert line.gathering._pauses == 0


@pytest.mark.usefixtures("patient")
async def test_two_lanes_do_not_wait_for_the_same() -> None:
    """Of two lanes that end at the same moment one waits, and both go on."""
    line = _Line()
    waits = [asyncio.create_task(line.gathering.wait(8, LONG_S)) for _ in range(2)]
    for _ in range(4):
        await asyncio.sleep(0)
    assert [each.done() for each in waits] == [False, True]
    line.arrive(6)
    async with asyncio.timeout(LONG_S / 2):
        await asyncio.gather(*waits)


# ------------------------------------------------------------------------------------------------ in a ledger


async def test_ends_that_come_one_after_another_are_two_transactions(
    s: Scene, postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixteen are reserved together, and their answers drip in: twelve ends are one transaction, the rest another."""
    monkeypatch.setattr(_postgres_gather, "WAIT_MAX_S", 1.0)
    monkeypatch.setattr(_postgres_writer, "LATE_S", 0.5)
    monkeypatch.setattr(_postgres_gather, "WAIT_SHARE", 1_000.0)
    await s.hold(100_000)
    assert isinstance(s.ledger, PostgresLedger)
    async with proxied(postgres) as (proxy, seen):
        ledger = PostgresLedger(url_of(seen, s.ledger.schema))
        await ledger.open("sandbox")
        other = Scene(ledger)
        entries = [each.entry for each in await asyncio.gather(*(other.capture(f"k{n}", 10 + n) for n in range(16)))]

        async def end(number: int) -> None:
            await asyncio.sleep(number * 0.01)
            await other.executed(entries[number], f"CAP-{number}")

        before = proxy.commits
        await asyncio.gather(*map(end, range(16)))
        assert proxy.commits - before == 2
        await ledger.close()
    await s.check_fold([entry.idempotency_key for entry in entries])


async def test_a_cancelled_wait_ends_as_any_other(s: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever cancels all tasks of a loop ends the wait, not the lane: what it holds is given back."""
    monkeypatch.setattr(_postgres_gather, "WAIT_MAX_S", LONG_S)
    monkeypatch.setattr(_postgres_gather, "WAIT_SHARE", 100_000.0)
    await s.hold(100_000)
    await asyncio.gather(*(s.capture(f"k{n}", 10 + n) for n in range(8)))
    assert isinstance(s.ledger, PostgresLedger)
    (waiting,) = s.ledger._desk().writes._tasks
    waiting.cancel()
    async with asyncio.timeout(LONG_S / 2):
        await waiting
    assert (await s.capture("k8", 100)).fresh
