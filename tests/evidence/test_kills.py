"""Processes killed under load on one ledger file, then reconciliation: the books agree, or say where not."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from qfpay_preauth import Doubt, PreauthClient, State
from qfpay_preauth.testing import Faults, Gateway
from tests.evidence.kit import Clock, set_clock, teach_words, until, writes
from tests.nursery import Spawn
from tests.support import client_of, registered, sqlite_url

KILLS = int(os.environ.get("QFPAY_TEST_KILLS", "30"))
AT_ONCE = 3
FAULTS = ("drop_before", "drop_after", "status_after", "late", "pending", "cut", "reset_after")


async def test_kills_under_load(qfpay_gateway: Gateway, tmp_path: Path, spawn: Spawn) -> None:
    """After every kill the gateway's books are sound, ours equal them, and what differs is listed in doubt."""
    url, dice = sqlite_url(tmp_path), random.Random(KILLS)
    syssns: list[str] = []
    async with client_of(qfpay_gateway, url) as client:
        await teach_words(client, qfpay_gateway)
    qfpay_gateway.config.enforce = False  # the gateway would let a second execution through
    for lap in range(-(-KILLS // AT_ONCE)):
        async with client_of(qfpay_gateway, url) as client:
            new = [await registered(client, qfpay_gateway, 99_000_000) for _ in range(3)]
        syssns += new
        qfpay_gateway.faults = Faults.random(lap, 0.05, FAULTS)
        await _kill_some(qfpay_gateway, url, spawn, f"lap{lap}", new, dice)
    qfpay_gateway.faults = Faults()
    qfpay_gateway.run_late()
    qfpay_gateway.settle_pending()
    before = writes(qfpay_gateway)
    assert before > 5 * KILLS
    clock = Clock()
    clock.ahead = timedelta(minutes=10)
    async with set_clock(client_of(qfpay_gateway, url), clock) as client:
        report = await client.reconcile()
        assert report.ended
        assert (report.foreign, [each for each in report.discrepancies if each.kind != "mismatch"]) == ((), [])
        await client.reconcile()
        await check_books(client, qfpay_gateway, syssns)
    assert writes(qfpay_gateway) == before


async def _kill_some(  # noqa: PLR0917 - one lap, with all that it needs
    gateway: Gateway, url: str, spawn: Spawn, name: str, syssns: Sequence[str], dice: random.Random
) -> None:
    """Start a few processes on the file, and kill each at a random moment of its work."""
    words = ("tests.evidence.child", "work", gateway.url, url)
    processes = [await spawn(*words, f"{name}-{number}", *syssns) for number in range(AT_ONCE)]
    for process in processes:
        assert await process.said.readline() == b"ready\n"
    before = writes(gateway)

    async def busy() -> bool:
        return writes(gateway) >= before + 15

    await until(busy)
    for process in processes:
        await asyncio.sleep(dice.random() * 0.1)  # the random moment itself
        process.kill()
        assert await process.ended() == (b"", -signal.SIGKILL)


async def check_books(client: PreauthClient, gateway: Gateway, syssns: Sequence[str]) -> None:
    """Every execution belongs to one executed entry of its amount, or to a doubt that is listed; none to nobody."""
    assert gateway.books.audit() == []
    doubts = [doubt async for doubt in client.in_doubt()]
    owners: Counter[str] = Counter()
    for syssn in syssns:
        sums: Counter[str] = Counter()
        unexplained: Counter[tuple[str, str, int]] = Counter()
        for each in gateway.books.executions(syssn):
            movement = await client._ledger.movement(client.account, each.syssn)
            if movement is None or not movement.executed:
                unexplained[each.kind, each.orig_syssn, each.amount] += 1
                continue
            assert (movement.kind, movement.amount) == (each.kind, each.amount)
            entry = await client.entry(str(movement.idempotency_key))
            assert entry is not None
            assert (entry.state, entry.result_syssn) == (State.EXECUTED, each.syssn)
            owners[entry.idempotency_key] += 1
            sums[each.kind] += each.amount
        balance = await client.balance(syssn)
        assert (balance.captured, balance.unfrozen, balance.refunded) == (
            sums["capture"],
            sums["unfreeze"],
            sums["refund"],
        )
        assert unexplained <= _listed(doubts, syssn), (unexplained, doubts)
    assert set(owners.values()) == {1}
    assert len(owners) > 2 * KILLS


def _listed(doubts: Sequence[Doubt], syssn: str) -> Counter[tuple[str, str, int]]:
    """What the doubts of a hold that need a person might be."""
    return Counter(
        (doubt.operation.value, doubt.syssn, doubt.amount)
        for doubt in doubts
        if doubt.authorization == syssn and doubt.needs_attention
    )
