"""Several processes on one ledger file, and processes that are killed: no claim lost, nothing executed twice."""

from __future__ import annotations

import asyncio
import random
import signal
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from qfpay_preauth import OperationInProgressError, Outcome, OutcomeUnknownError, PreauthClient, State
from qfpay_preauth._clock import SystemClock
from qfpay_preauth.testing import Faults, Gateway
from tests.client.kit import sent, until
from tests.nursery import Spawn
from tests.support import client_of, registered, sqlite_url

CHILD = "tests.client.child"


class Later(SystemClock):
    """A clock that is ahead."""

    def now(self) -> datetime:
        return super().now() + timedelta(minutes=10)


async def executions(gateway: Gateway) -> dict[tuple[str, int], int]:
    """(Hold, amount) → how many captures of it were executed."""
    found: dict[tuple[str, int], int] = {}
    for each in gateway.books.executions():
        if each.kind == "capture":
            found[each.hold_syssn, each.amount] = found.get((each.hold_syssn, each.amount), 0) + 1
    return found


async def check_books(gateway: Gateway, client: PreauthClient, syssns: list[str]) -> None:
    """Our books and the gateway's differ by nothing but what is listed in doubt; no hold was exceeded."""
    assert gateway.books.audit() == []
    doubts = [doubt async for doubt in client.in_doubt()]
    for syssn in syssns:
        balance, totals = await client.balance(syssn), gateway.books.totals(syssn)
        open_here = sum(doubt.amount for doubt in doubts if doubt.syssn == syssn)
        assert balance.in_doubt + balance.held == open_here
        assert balance.captured + balance.unfrozen <= totals.captured + totals.unfrozen
        assert totals.captured + totals.unfrozen <= balance.captured + balance.unfrozen + open_here


@pytest.mark.parametrize("seed", range(4))
async def test_killed_at_a_random_moment(tmp_path: Path, qfpay_gateway: Gateway, spawn: Spawn, seed: int) -> None:
    """kill -9 in the middle of captures: every claim is there after a restart, and no key is executed twice."""
    url, dice = sqlite_url(tmp_path), random.Random(seed)
    client = client_of(qfpay_gateway, url)
    async with client:
        syssns = [await registered(client, qfpay_gateway, 9_000_000_000) for _ in range(3)]
    qfpay_gateway.faults.add("delay", operation="capture", seconds=0.003, times=None)
    process = await spawn(CHILD, "work", qfpay_gateway.url, url, f"s{seed}", "60", *syssns)
    assert await process.said.readline() == b"ready\n"
    await until(lambda: sent(qfpay_gateway) >= 10)
    await asyncio.sleep(dice.random() * 0.2)  # the random moment itself
    process.kill()
    said, code = await process.ended()
    assert (b"UNEXPLAINED" in said, code) == (False, -signal.SIGKILL)
    await _check_after_kill(qfpay_gateway, url, f"s{seed}", said.decode().split(), syssns)


async def _check_after_kill(gateway: Gateway, url: str, name: str, ended: list[str], syssns: list[str]) -> None:
    before = sent(gateway)
    requested = {(each.params["syssn"], int(each.params["txamt"])) for each in gateway.requests}
    client = client_of(gateway, url)
    async with client:
        for key in ended:
            entry = await client.entry(key)
            assert entry is not None
            assert entry.state is State.EXECUTED
    client._clock = Later()
    async with client:
        await check_books(gateway, client, syssns)
        doubts = [doubt async for doubt in client.in_doubt()]
        for doubt in doubts:
            with pytest.raises(OutcomeUnknownError):
                await client.capture(doubt.syssn, doubt.amount, idempotency_key=doubt.idempotency_key)
        assert sent(gateway) == before  # nothing was sent again
        for syssn, amount in requested:  # whatever reached the gateway has an entry
            known = await client.entry(f"{name}-{amount - 1_000}")
            assert known is not None
            assert (known.syssn, known.amount) == (syssn, amount)
        done = await executions(gateway)
        for doubt in doubts:
            happened = done.get((doubt.syssn, doubt.amount), 0) > 0
            outcome = Outcome.HAPPENED if happened else Outcome.NOTHING_HAPPENED
            entry = await client.resolve(doubt.idempotency_key, outcome, reason="looked at QFPay's books")
            assert entry.state is (State.EXECUTED if happened else State.NOT_EXECUTED)
        assert [doubt async for doubt in client.in_doubt()] == []
        for syssn in syssns:
            assert (await client.balance(syssn)).captured == gateway.books.totals(syssn).captured


async def test_held_by_a_dead_process(tmp_path: Path, qfpay_gateway: Gateway, spawn: Spawn) -> None:
    """What a killed process left held is under way until its send-by and one exchange more, then in doubt."""
    url = sqlite_url(tmp_path)
    client = client_of(qfpay_gateway, url)
    async with client:
        syssn = await registered(client, qfpay_gateway)
    qfpay_gateway.faults.add("hang_after", operation="capture", times=None)
    process = await spawn(CHILD, "work", qfpay_gateway.url, url, "dead", "60", syssn)
    await qfpay_gateway.wait_hanging()
    process.kill()
    await process.ended()
    (request,) = qfpay_gateway.requests
    amount = int(request.params["txamt"])
    key = f"dead-{amount - 1_000}"
    async with client:
        with pytest.raises(OperationInProgressError):
            await client.capture(syssn, amount, idempotency_key=key)
        with pytest.raises(OperationInProgressError):
            await client.resolve(key, Outcome.HAPPENED, reason="too early")
        assert (await client.balance(syssn)).held >= amount
        assert [doubt async for doubt in client.in_doubt()] == []
    client._clock = Later()
    async with client:
        with pytest.raises(OutcomeUnknownError):
            await client.capture(syssn, amount, idempotency_key=key)
        assert key in [doubt.idempotency_key async for doubt in client.in_doubt()]
        movement = next(iter(qfpay_gateway.books.of_hold(syssn)))
        await client.resolve(key, Outcome.HAPPENED, reason="seen in the portal", syssn=movement.syssn)
        replayed = await client.capture(syssn, amount, idempotency_key=key)
        assert (replayed.replayed, replayed.confirmed_by, replayed.syssn) == (True, "operator", movement.syssn)
        assert (await client.refund(movement.syssn, amount, idempotency_key="r")).amount == amount
    assert sent(qfpay_gateway, "capture") == 1


@pytest.mark.parametrize("rate", [0.0, 0.2])
async def test_four_processes_on_one_file(tmp_path: Path, qfpay_gateway: Gateway, spawn: Spawn, rate: float) -> None:
    """Four processes with the same keys: none is executed twice, no hold exceeded, the books agree or say where not."""
    url = sqlite_url(tmp_path)
    client = client_of(qfpay_gateway, url)
    async with client:
        syssns = [await registered(client, qfpay_gateway, 20_000) for _ in range(4)]
    qfpay_gateway.config.enforce = False  # the gateway would let an over-capture through
    qfpay_gateway.faults = Faults.random(11, rate, ("drop_before", "drop_after", "rate_limited", "cut", "status_after"))
    processes = [await spawn(CHILD, "race", qfpay_gateway.url, url, name, "60", *syssns) for name in "abcd"]
    for process in processes:
        said, code = await process.ended()
        assert code == 0, said
        assert all(line.startswith((b"key-", b"close-")) for line in said.splitlines()), said
    assert set((await executions(qfpay_gateway)).values()) <= {1}
    assert len(qfpay_gateway.books.executions()) > 20
    async with client:
        await check_books(qfpay_gateway, client, syssns)
        if not rate:
            assert [doubt async for doubt in client.in_doubt()] == []


async def test_processes_share_the_budget(tmp_path: Path, qfpay_gateway: Gateway, spawn: Spawn) -> None:
    """Three processes on one ledger, each allowed all of the budget: together they arrive no faster than it says."""
    url, per_second = sqlite_url(tmp_path), 20
    async with client_of(qfpay_gateway, url) as client:
        syssns = [await registered(client, qfpay_gateway, 9_000_000) for _ in range(12)]
    runs = [
        await spawn(
            CHILD, "burst", qfpay_gateway.url, url, f"b{number}", "30", str(per_second), *syssns[number * 4 :][:4]
        )
        for number in range(3)
    ]
    assert [await process.ended() for process in runs] == [(b"done\n", 0)] * 3
    moments = [each.at for each in qfpay_gateway.requests]
    assert len(moments) == 90
    jitter = timedelta(milliseconds=100)  # between sending and arriving
    window = timedelta(seconds=1) - jitter
    assert max(sum(begin <= each <= begin + window for each in moments) for begin in moments) <= per_second
    assert moments[-1] - moments[0] < timedelta(seconds=15)  # nobody starved: five seconds at least are needed
