"""The expiry radar, and `lapsed`: only by the table's rule."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest

from qfpay_preauth import DeclinedError, Expiring, InvalidRequestError, PreauthClient, State, Why
from qfpay_preauth.testing import Gateway
from tests.evidence.kit import (
    HOLD,
    LOST,
    Clock,
    Heard,
    entry_of,
    gateway_at,
    hearing_client,
    lose,
    queries,
    set_clock,
    state,
    teach_words,
    until,
    writes,
)
from tests.support import client_of, registered

DAY = timedelta(days=1)


async def names(client: PreauthClient, within: timedelta) -> list[str]:
    """The holds on the radar, in order."""
    return [each.syssn async for each in client.expiring(within)]


async def placed(client: PreauthClient, gateway: Gateway, at: datetime, **window: Any) -> str:
    """A hold registered as made at `at`."""
    syssn = gateway.hold(HOLD)
    number = gateway.books.holds[syssn].out_trade_no
    await client.register_authorization(syssn, HOLD, "HKD", out_trade_no=number, authorized_at=at, **window)
    return syssn


async def test_three_windows() -> None:
    """7 days usually, 28 by contract, or the merchant's own; the soonest first."""
    clock = Clock()
    async with gateway_at(clock) as gateway, set_clock(client_of(gateway), clock) as client:
        now = clock.now()
        usual = await placed(client, gateway, now)
        long = await placed(client, gateway, now, capture_window=28 * DAY)
        old = await placed(client, gateway, now - 6 * DAY)
        assert await names(client, 12 * timedelta(hours=1)) == []
        assert await names(client, DAY + timedelta(minutes=1)) == [old]
        assert await names(client, 8 * DAY) == [old, usual]
        assert await names(client, 29 * DAY) == [old, usual, long]
        (found,) = [each async for each in client.expiring(2 * DAY)]
        assert found == Expiring(old, now + DAY, HOLD, HOLD, 0, "HKD")
        clock.ahead = 2 * DAY
        assert await names(client, timedelta(0)) == [old]  # what has ended is shown as well


async def test_the_merchants_default_window() -> None:
    """`default_capture_window` counts for holds that state none."""
    clock = Clock()
    async with gateway_at(clock) as gateway:
        client = set_clock(client_of(gateway, default_capture_window=3 * DAY), clock)
        async with client:
            syssn = await placed(client, gateway, clock.now())
            assert await names(client, 2 * DAY) == []
            assert await names(client, 4 * DAY) == [syssn]


async def test_only_with_money_left(qfpay_gateway: Gateway) -> None:
    """Captured, unfrozen, or taken in the portal: no longer on the radar. In doubt: on it."""
    async with client_of(qfpay_gateway) as client:
        await teach_words(client, qfpay_gateway)
        captured, unfrozen, portal, doubtful = [await registered(client, qfpay_gateway, HOLD) for _ in range(4)]
        await client.capture(captured, HOLD, idempotency_key="c")
        await client.unfreeze(unfrozen, idempotency_key="u")
        qfpay_gateway.portal_capture(portal, HOLD)
        await client.reconcile()
        await lose(client, qfpay_gateway, doubtful, HOLD, fault="drop_before")
        assert [(each.syssn, each.capturable, each.unresolved) async for each in client.expiring(8 * DAY)] == [
            (doubtful, 0, HOLD)
        ]


@pytest.mark.parametrize("within", [1, 7.0, "7 days", None])
async def test_bad_spans(qfpay_gateway: Gateway, within: Any) -> None:
    """`within` is a timedelta."""
    async with client_of(qfpay_gateway) as client:
        with pytest.raises(InvalidRequestError):
            await names(client, within)


@pytest.mark.parametrize("fault", ["drop_before", "drop_after"])
async def test_lapsed_only_by_the_rule(fault: str) -> None:
    """Window and margin over, and absent twice from complete enquiries: lapsed; if it is shown: executed."""
    clock = Clock()
    async with gateway_at(clock) as gateway:
        client = set_clock(client_of(gateway, default_capture_window=7 * DAY), clock)
        async with client:
            await teach_words(client, gateway)
            syssn = await registered(client, gateway, HOLD)
            gateway.config.query_lag = 30 * DAY
            await lose(client, gateway, syssn, fault=fault)
            gateway.config.query_lag = timedelta(0) if fault == "drop_after" else 30 * DAY
            clock.ahead = 8 * DAY - timedelta(minutes=1)
            if fault == "drop_before":
                for _ in range(3):
                    await client.reconcile()
                assert await state(client) is State.IN_DOUBT
            clock.ahead = 8 * DAY + timedelta(minutes=1)
            await client.reconcile()
            if fault == "drop_after":
                assert await state(client) is State.EXECUTED
                return
            assert await state(client) is State.IN_DOUBT
            await client.reconcile()
            entry = await entry_of(client)
            assert (entry.state, entry.why) == (State.NOT_EXECUTED, Why.LAPSED)
            before = writes(gateway)
            with pytest.raises(DeclinedError):
                await client.capture(syssn, LOST, idempotency_key="lost")
            assert writes(gateway) == before


async def test_no_window_no_lapse() -> None:
    """Where no window is known nothing ever lapses."""
    clock = Clock()
    async with gateway_at(clock) as gateway, set_clock(client_of(gateway), clock) as client:
        await teach_words(client, gateway)
        syssn = await registered(client, gateway, HOLD)
        await lose(client, gateway, syssn, fault="drop_before")
        clock.ahead = 40 * DAY
        for _ in range(3):
            await client.reconcile()
        assert await state(client) is State.IN_DOUBT


async def test_the_reconciler_warns_once() -> None:
    """The background task tells the hook of a hold that is about to lapse, once."""
    clock, heard = Clock(), Heard()
    async with gateway_at(clock) as gateway, set_clock(hearing_client(gateway, heard), clock) as client:
        syssn = await placed(client, gateway, clock.now() - 6.5 * DAY)
        task = asyncio.create_task(client.run_reconciler(0.02))

        async def passed() -> bool:
            return queries(gateway) > 40

        await until(passed)
        told = [event for event in heard.events if event.kind == "expiring"]
        assert [(event.authorization, event.amount) for event in told] == [(syssn, HOLD)]
        assert not task.done()
