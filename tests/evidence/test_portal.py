"""Movements made in the merchant portal: recorded apart from ours, and never taken for what is in doubt here."""

from __future__ import annotations

from datetime import timedelta

import pytest

from qfpay_preauth import Authorization, AuthorizationClosedError, OverCaptureError, OverRefundError, State
from qfpay_preauth.testing import Gateway
from tests.evidence.kit import (
    HOLD,
    LOST,
    Clock,
    check_equal,
    executed,
    gateway_at,
    kinds,
    lose,
    lose_refund,
    lose_unfreeze,
    set_clock,
    state,
    teach_words,
    writes,
)
from tests.support import client_of, registered


async def test_a_portal_capture(qfpay_gateway: Gateway) -> None:
    """A portal capture lowers what is capturable, is reported, and is nobody's entry."""
    async with client_of(qfpay_gateway) as client:
        await teach_words(client, qfpay_gateway)
        syssn = await registered(client, qfpay_gateway, HOLD)
        portal = qfpay_gateway.portal_capture(syssn, 30_000)
        report = await client.reconcile()
        assert [(each.syssn, each.kind, each.amount) for each in report.foreign] == [(portal, "capture", 30_000)]
        assert kinds(report) == ["missing_here"]
        balance = await client.balance(syssn)
        assert (balance.captured, balance.foreign, balance.capturable) == (0, 30_000, 20_000)
        before = writes(qfpay_gateway)
        with pytest.raises(OverCaptureError):
            await client.capture(syssn, 20_001, idempotency_key="too-much")
        assert writes(qfpay_gateway) == before
        await client.capture(syssn, 20_000, idempotency_key="rest")
        again = await client.reconcile()
        assert (again.foreign, again.discrepancies) == ((), ())
        await check_equal(client, qfpay_gateway, syssn)


async def test_a_portal_capture_beside_a_lost_one(qfpay_gateway: Gateway) -> None:
    """A portal capture of another amount does not keep ours from being found, and each is booked once."""
    async with client_of(qfpay_gateway) as client:
        await teach_words(client, qfpay_gateway)
        syssn = await registered(client, qfpay_gateway, HOLD)
        await lose(client, qfpay_gateway, syssn)
        qfpay_gateway.portal_capture(syssn, 7_000)
        await client.reconcile()
        balance = await client.balance(syssn)
        assert (balance.captured, balance.foreign) == (LOST, 7_000)
        await check_equal(client, qfpay_gateway, syssn)


async def test_a_portal_capture_of_the_same_amount(qfpay_gateway: Gateway) -> None:
    """Ours executed and a portal capture of the same amount: no guess; both claims stay covered."""
    async with client_of(qfpay_gateway) as client:
        await teach_words(client, qfpay_gateway)
        syssn = await registered(client, qfpay_gateway, HOLD)
        await lose(client, qfpay_gateway, syssn)
        qfpay_gateway.portal_capture(syssn, LOST)
        report = await client.reconcile()
        assert (report.ended, report.needs_attention, report.foreign) == ((), 1, ())
        assert await state(client) is State.IN_DOUBT


@pytest.mark.parametrize("taught", [True, False])
@pytest.mark.parametrize("fault", ["drop_before", "drop_after"])
async def test_a_portal_unfreeze_of_the_very_amount(qfpay_gateway: Gateway, taught: bool, fault: str) -> None:
    """A portal unfreeze of the very amount of a capture in doubt never ends the capture."""
    async with client_of(qfpay_gateway) as client:
        if taught:
            await teach_words(client, qfpay_gateway)
        amount = LOST if fault == "drop_before" else 2 * LOST
        syssn = await registered(client, qfpay_gateway, amount)
        await lose(client, qfpay_gateway, syssn, fault=fault)
        portal = qfpay_gateway.portal_unfreeze(syssn, LOST)
        for _ in range(2):
            await client.reconcile()
        entry = await client.entry("lost")
        assert entry is not None
        assert entry.result_syssn != portal
        found = taught and fault == "drop_after"
        assert entry.state is (State.EXECUTED if found else State.IN_DOUBT)
        assert (await client.balance(syssn)).in_doubt == (0 if found else LOST)


async def test_a_portal_unfreeze(qfpay_gateway: Gateway) -> None:
    """A portal unfreeze closes the hold here too, and is reported as such."""
    async with client_of(qfpay_gateway) as client:
        await teach_words(client, qfpay_gateway)
        syssn = await registered(client, qfpay_gateway, HOLD)
        qfpay_gateway.portal_unfreeze(syssn)
        report = await client.reconcile()
        assert "unfrozen_elsewhere" in kinds(report)
        before = writes(qfpay_gateway)
        with pytest.raises(AuthorizationClosedError):
            await client.capture(syssn, 300, idempotency_key="k")
        with pytest.raises(AuthorizationClosedError):
            await client.unfreeze(syssn, idempotency_key="u")
        assert writes(qfpay_gateway) == before
        await check_equal(client, qfpay_gateway, syssn)


async def test_a_portal_capture_of_the_remainder_before_an_unfreeze() -> None:
    """A portal capture of just the remainder, which a capture of ours followed, never ends our unfreeze in doubt."""
    clock = Clock()
    async with gateway_at(clock) as gateway, set_clock(client_of(gateway), clock) as client:
        syssn = await registered(client, gateway, HOLD)
        gateway.portal_capture(syssn, 20_000)
        clock.ahead = timedelta(seconds=3)
        await client.capture(syssn, 30_000, idempotency_key="ours")
        clock.ahead = timedelta(seconds=6)
        await lose_unfreeze(client, gateway, syssn, "close", "drop_before")
        await client.reconcile()
        assert executed(gateway, syssn, "unfreeze") == []
        assert await state(client, "close") is not State.EXECUTED


async def test_a_portal_refund(qfpay_gateway: Gateway) -> None:
    """A portal refund counts against its capture: together never more than was captured."""
    async with client_of(qfpay_gateway) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        capture = await client.capture(syssn, LOST, idempotency_key="c")
        qfpay_gateway.portal_refund(str(capture.syssn), 6_000)
        report = await client.reconcile()
        assert [(each.kind, each.amount) for each in report.foreign] == [("refund", 6_000)]
        with pytest.raises(OverRefundError):
            await client.refund(str(capture.syssn), 4_001, idempotency_key="too-much")
        await client.refund(str(capture.syssn), 4_000, idempotency_key="rest")
        await check_equal(client, qfpay_gateway, syssn)


async def test_a_portal_refund_of_another_amount_beside_ours(qfpay_gateway: Gateway) -> None:
    """A portal refund does not end ours in doubt."""
    async with client_of(qfpay_gateway) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        capture = await client.capture(syssn, LOST, idempotency_key="c")
        await lose_refund(client, qfpay_gateway, str(capture.syssn), 700, "lost", "drop_before")
        qfpay_gateway.portal_refund(str(capture.syssn), 600)
        await client.reconcile()
        assert await state(client) is State.IN_DOUBT
        assert (await client.balance(syssn)).refunded == 600


async def test_a_portal_capture_and_its_refund_days_ago() -> None:
    """A portal capture that was refunded in the portal the same day is booked with its refund, days later too."""
    clock = Clock()
    async with gateway_at(clock) as gateway, set_clock(client_of(gateway), clock) as client:
        await teach_words(client, gateway)
        syssn = await registered(client, gateway, HOLD)
        clock.ahead = timedelta(seconds=5)
        portal = gateway.portal_capture(syssn, 5_000)
        gateway.portal_refund(portal, 2_000)
        clock.ahead = timedelta(days=3)
        for _ in range(2):
            await client.reconcile()
        await check_equal(client, gateway, syssn)


async def test_a_portal_capture_before_a_late_registration() -> None:
    """A hold that is registered days after it was made: what the portal did meanwhile is found."""
    clock = Clock()
    async with gateway_at(clock) as gateway, set_clock(client_of(gateway), clock) as client:
        await teach_words(client, gateway)
        made = clock.now()
        syssn = gateway.hold(HOLD, out_trade_no="LATE")
        gateway.portal_capture(syssn, 5_000)
        clock.ahead = timedelta(days=3)
        await client.reconcile()
        hold = await client.register_authorization(syssn, HOLD, "HKD", out_trade_no="LATE", authorized_at=made)
        assert isinstance(hold, Authorization)
        await client.reconcile()
        await check_equal(client, gateway, syssn)


async def test_two_portal_captures_over_the_hold(qfpay_gateway: Gateway) -> None:
    """What the portal took beyond our claims is reported; capturable is never below zero."""
    qfpay_gateway.config.enforce = False
    async with client_of(qfpay_gateway) as client:
        await teach_words(client, qfpay_gateway)
        syssn = await registered(client, qfpay_gateway, HOLD)
        await client.capture(syssn, 30_000, idempotency_key="ours")
        qfpay_gateway.portal_capture(syssn, 30_000)
        report = await client.reconcile()
        assert kinds(report) == ["missing_here", "over_hold"]
        balance = await client.balance(syssn)
        assert (balance.captured, balance.foreign, balance.capturable) == (30_000, 30_000, 0)
