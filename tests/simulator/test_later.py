"""What ends after its answer: pending and late executions, by time or on demand."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from qfpay_preauth.testing import Gateway

from .conftest import Clock
from .kit import Merchant


async def _status(merchant: Merchant, syssn: str) -> tuple[int, bytes, dict[str, str]]:
    async with merchant.post("capture", syssn=syssn, txamt="100") as answer:
        return answer.status, await answer.read(), dict(answer.headers)


def _done(gateway: Gateway, syssn: str) -> int:
    """How often 100 was captured."""
    assert gateway.books.audit() == []
    return gateway.books.totals(syssn).captured // 100


async def test_pending_until_settled(gateway: Gateway, merchant: Merchant) -> None:
    """1143 with a syssn, a pending row, the money claimed but not taken; then executed."""
    syssn = gateway.hold(1_000)
    gateway.faults.add("pending")
    answer = await merchant.capture(syssn, 800)
    assert answer["respcd"] == "1143"
    row = (await merchant.rows(syssn=answer["syssn"]))[0]
    assert (row["respcd"], row["paydtm"]) == ("1143", "")
    totals = gateway.books.totals(syssn)
    assert (totals.captured, totals.pending) == (0, 800)
    assert (await merchant.capture(syssn, 300))["respcd"] == "1266"
    assert (await merchant.refund(answer["syssn"], 1))["respcd"] == "1261"
    assert gateway.settle_pending() == 1
    assert gateway.books.executions()[0].syssn == answer["syssn"]
    assert (await merchant.rows(syssn=answer["syssn"]))[0]["respcd"] == "0000"
    assert gateway.settle_pending() == 0


@pytest.mark.parametrize("operation", ["capture", "unfreeze", "refund"])
async def test_pending_then_refused(gateway: Gateway, merchant: Merchant, operation: str) -> None:
    """A refusal in the end gives the claim back and shows in the row; the same can then be done again."""
    syssn = gateway.hold(1_000)
    capture = (await merchant.capture(syssn, 400))["syssn"]
    ask: dict[str, Any] = {
        "capture": lambda: merchant.capture(syssn, 600),
        "unfreeze": lambda: merchant.unfreeze(syssn, 600),
        "refund": lambda: merchant.refund(capture, 400, f"R{len(gateway.requests)}"),
    }
    gateway.faults.add("pending", operation=operation, then="1205")
    pending = (await ask[operation]())["syssn"]
    assert (await ask[operation]())["respcd"] != "0000"
    gateway.settle_pending()
    assert len(gateway.books.executions()) == 1
    assert (await merchant.rows(syssn=pending))[0]["respcd"] == "1205"
    assert (await ask[operation]())["respcd"] == "0000"
    assert gateway.books.audit() == []


async def test_pending_settles_by_time(gateway: Gateway, merchant: Merchant, clock: Clock) -> None:
    """After its seconds it is executed by itself, at the moment it was due."""
    syssn = gateway.hold(1_000)
    gateway.faults.add("pending", seconds=5)
    await merchant.capture(syssn, 100)
    due = clock.now.timestamp() + 5
    clock.move(seconds=4.9)
    assert _done(gateway, syssn) == 0
    clock.move(seconds=60)
    assert _done(gateway, syssn) == 1
    at = gateway.books.executions()[0].at
    assert at is not None
    assert at.timestamp() == due


async def test_pending_refuses_what_is_wrong(gateway: Gateway, merchant: Merchant) -> None:
    """A request that breaks a rule is refused at once; an enquiry can be pending too."""
    gateway.faults.add("pending", times=2)
    assert (await merchant.capture(gateway.hold(100), 101))["respcd"] == "1266"
    assert await merchant.code("query") == "1143"
    assert gateway.settle_pending() == 0


@pytest.mark.parametrize("status", [None, 502, 0])
async def test_late(gateway: Gateway, merchant: Merchant, clock: Clock, status: int | None) -> None:
    """An error now, the execution later: by time or on demand, under the rules of that moment."""
    syssn = gateway.hold(1_000)
    gateway.faults.add("late", status=status, amount=100)
    gateway.faults.add("late", status=status, amount=200, seconds=30)
    for amount in (100, 200):
        try:
            async with merchant.post("capture", syssn=syssn, txamt=str(amount)) as answer:
                assert answer.status == (status or 504)
        except aiohttp.ServerDisconnectedError:
            assert status == 0
    assert gateway.books.executions() == ()
    assert gateway.run_late() == 2
    assert [each.amount for each in gateway.books.executions()] == [100, 200]
    gateway.faults.add("late", seconds=30, status=503)
    async with merchant.post("capture", syssn=syssn, txamt="701"):
        clock.move(seconds=31)
    assert len(gateway.books.executions()) == 2


async def test_late_by_time(gateway: Gateway, merchant: Merchant, clock: Clock) -> None:
    """When its time has come it is executed, whoever looks next."""
    syssn = gateway.hold(1_000)
    gateway.faults.add("late", seconds=30)
    await _status(merchant, syssn)
    clock.move(seconds=29)
    assert _done(gateway, syssn) == 0
    clock.move(seconds=1)
    assert _done(gateway, syssn) == 1
    assert gateway.run_late() == 0
