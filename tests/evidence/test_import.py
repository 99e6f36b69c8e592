"""Import: a hold with everything that was already done on it, or a refusal that says why."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from qfpay_preauth import (
    AlreadyUnfrozenError,
    AuthorizationClosedError,
    GatewayError,
    IdempotencyConflictError,
    InvalidRequestError,
    OperationInProgressError,
    OverCaptureError,
    OverRefundError,
    PreauthError,
    State,
    UnknownAuthorizationError,
)
from qfpay_preauth.testing import Gateway
from tests.evidence.kit import HOLD, LOST, Clock, check_equal, gateway_at, lose, set_clock, state, teach_words, writes
from tests.support import client_of, registered


@pytest.mark.parametrize("by", ["syssn", "out_trade_no"])
async def test_a_fresh_hold(qfpay_gateway: Gateway, by: str) -> None:
    """A hold on which nothing was done is imported by either id, and can be captured."""
    syssn = qfpay_gateway.hold(HOLD, out_trade_no="ORDER-1")
    async with client_of(qfpay_gateway) as client:
        hold = await client.import_authorization(**{by: syssn if by == "syssn" else "ORDER-1"})
        assert (hold.syssn, hold.amount, hold.currency, hold.out_trade_no) == (syssn, HOLD, "HKD", "ORDER-1")
        await client.capture(syssn, LOST, idempotency_key="c")
        await client.unfreeze(syssn, idempotency_key="u")
        await check_equal(client, qfpay_gateway, syssn)


async def test_with_captures_and_refunds(qfpay_gateway: Gateway) -> None:
    """Captures and refunds that the hold already has count: what is left is what is left at the gateway."""
    syssn = qfpay_gateway.hold(HOLD)
    captures = [qfpay_gateway.portal_capture(syssn, amount) for amount in (10_000, 15_000)]
    qfpay_gateway.portal_refund(captures[0], 4_000)
    async with client_of(qfpay_gateway) as client:
        await client.import_authorization(syssn=syssn)
        await check_equal(client, qfpay_gateway, syssn)
        before = writes(qfpay_gateway)
        with pytest.raises(OverCaptureError):
            await client.capture(syssn, 25_001, idempotency_key="over")
        with pytest.raises(OverRefundError):
            await client.refund(captures[0], 6_001, idempotency_key="over-back")
        assert writes(qfpay_gateway) == before
        await client.refund(captures[0], 6_000, idempotency_key="back")
        await client.capture(syssn, 25_000, idempotency_key="rest")
        await client.reconcile()
        await check_equal(client, qfpay_gateway, syssn)


@pytest.mark.parametrize("taught", ["before", "after"])
async def test_an_imported_capture_can_be_refunded_once_words_are_known(qfpay_gateway: Gateway, taught: str) -> None:
    """A hold's only capture, imported, can be refunded as soon as the gateway's words were shown."""
    async with client_of(qfpay_gateway) as client:
        syssn = qfpay_gateway.hold(HOLD)
        capture = qfpay_gateway.portal_capture(syssn, LOST)
        if taught == "before":
            await teach_words(client, qfpay_gateway)
        await client.import_authorization(syssn=syssn)
        if taught == "after":
            await teach_words(client, qfpay_gateway)
            await client.reconcile()
        assert (await client.refund(capture, 600, idempotency_key="back")).amount == 600
        await check_equal(client, qfpay_gateway, syssn)


@pytest.mark.parametrize("taught", [True, False])
async def test_an_unfrozen_hold(qfpay_gateway: Gateway, taught: bool) -> None:
    """A hold that was unfrozen is imported as closed: nothing more is sent on it, whatever is known of words."""
    async with client_of(qfpay_gateway) as client:
        if taught:
            await teach_words(client, qfpay_gateway)
        syssn = qfpay_gateway.hold(HOLD)
        qfpay_gateway.portal_capture(syssn, LOST)
        qfpay_gateway.portal_unfreeze(syssn)
        await client.import_authorization(syssn=syssn)
        before = writes(qfpay_gateway)
        with pytest.raises(PreauthError):
            await client.capture(syssn, 300, idempotency_key="c")
        with pytest.raises(PreauthError) as caught:
            await client.unfreeze(syssn, idempotency_key="u")
        assert not taught or isinstance(caught.value, AlreadyUnfrozenError | AuthorizationClosedError)
        assert writes(qfpay_gateway) == before
        assert (await client.balance(syssn)).capturable == 0


async def test_over_months() -> None:
    """Each month since the freeze is read."""
    clock = Clock(datetime(2026, 1, 31, 15, 0, 0, tzinfo=UTC))
    async with gateway_at(clock, capture_window=timedelta(days=28)) as gateway:
        syssn = gateway.hold(HOLD, out_trade_no="JANUARY")
        gateway.portal_capture(syssn, 1_000)
        clock.ahead = timedelta(days=2)
        gateway.portal_capture(syssn, 2_000)
        clock.ahead = timedelta(days=20)
        async with set_clock(client_of(gateway), clock) as client:
            await client.import_authorization(out_trade_no="JANUARY")
            assert (await client.balance(syssn)).foreign == 3_000
            await check_equal(client, gateway, syssn)


@pytest.mark.parametrize("cancel", ["1", "2", "3", "4", "5", "9"])
async def test_cancelled_without_explanation(qfpay_gateway: Gateway, cancel: str) -> None:
    """A hold marked as ended, without rows that explain it, is refused with the reason, and not registered."""
    syssn = qfpay_gateway.hold(HOLD)
    qfpay_gateway.faults.add("altered", operation="query", rows=True, changes={"cancel": cancel}, times=None)
    async with client_of(qfpay_gateway) as client:
        with pytest.raises(AuthorizationClosedError, match=f"cancel={cancel}"):
            await client.import_authorization(syssn=syssn)
        with pytest.raises(UnknownAuthorizationError):
            await client.balance(syssn)


async def test_pending_work(qfpay_gateway: Gateway) -> None:
    """A hold with a pending capture is not imported yet."""
    async with client_of(qfpay_gateway) as other:
        syssn = await registered(other, qfpay_gateway, HOLD)
        await lose(other, qfpay_gateway, syssn, fault="pending")
    async with client_of(qfpay_gateway) as client:
        with pytest.raises(OperationInProgressError):
            await client.import_authorization(syssn=syssn)
        qfpay_gateway.settle_pending()
        await client.import_authorization(syssn=syssn)
        await check_equal(client, qfpay_gateway, syssn)


async def test_with_a_capture_of_ours_in_doubt(qfpay_gateway: Gateway) -> None:
    """Importing a hold again while a capture of ours is in doubt never books that capture as somebody else's."""
    async with client_of(qfpay_gateway) as client:
        await teach_words(client, qfpay_gateway)
        syssn = await registered(client, qfpay_gateway, HOLD)
        await lose(client, qfpay_gateway, syssn)
        try:
            await client.import_authorization(syssn=syssn)
        except PreauthError:
            assert await state(client) is State.IN_DOUBT
        await client.reconcile()
        assert await state(client) is State.EXECUTED
        assert (await client.balance(syssn)).foreign == 0
        await check_equal(client, qfpay_gateway, syssn)


async def test_twice_and_beside_our_own(qfpay_gateway: Gateway) -> None:
    """Importing again, also after captures of ours, changes nothing."""
    async with client_of(qfpay_gateway) as client:
        syssn = qfpay_gateway.hold(HOLD)
        qfpay_gateway.portal_capture(syssn, 5_000)
        first = await client.import_authorization(syssn=syssn)
        await client.capture(syssn, LOST, idempotency_key="c")
        second = await client.import_authorization(syssn=syssn)
        assert (first.foreign_captured, second.foreign_captured, second.captured) == (5_000, 5_000, LOST)
        await check_equal(client, qfpay_gateway, syssn)


async def test_registered_otherwise(qfpay_gateway: Gateway) -> None:
    """A hold that is registered with another amount is not overwritten."""
    async with client_of(qfpay_gateway) as client:
        syssn = qfpay_gateway.hold(HOLD, out_trade_no="ORDER-1")
        await client.register_authorization(syssn, HOLD - 1, "HKD", out_trade_no="ORDER-1")
        with pytest.raises(IdempotencyConflictError):
            await client.import_authorization(syssn=syssn)
        assert (await client.balance(syssn)).authorized == HOLD - 1


async def test_unknown(qfpay_gateway: Gateway) -> None:
    """What the gateway does not show is not imported; a capture is no hold; two holds of one number are refused."""
    async with client_of(qfpay_gateway) as client:
        syssn = qfpay_gateway.hold(HOLD, out_trade_no="ORDER-1")
        capture = qfpay_gateway.portal_capture(syssn, LOST)
        for wanted in ({"syssn": "20260101180500020000000001"}, {"out_trade_no": "NOBODY"}, {"syssn": capture}):
            with pytest.raises(UnknownAuthorizationError):
                await client.import_authorization(**wanted)
        qfpay_gateway.hold(HOLD, out_trade_no="ORDER-1")
        with pytest.raises(InvalidRequestError, match="Several holds"):
            await client.import_authorization(out_trade_no="ORDER-1")


@pytest.mark.parametrize("given", [{}, {"syssn": "1", "out_trade_no": "2"}, {"syssn": "a b"}, {"out_trade_no": ""}])
async def test_bad_arguments(qfpay_gateway: Gateway, given: dict[str, Any]) -> None:
    """Exactly one well-formed id is wanted; otherwise nothing is asked."""
    async with client_of(qfpay_gateway) as client:
        with pytest.raises(InvalidRequestError):
            await client.import_authorization(**given)
        assert qfpay_gateway.requests == []


@pytest.mark.parametrize(
    "changes",
    [{"txamt": None}, {"txcurrcd": None}, {"out_trade_no": None}, {"txcurrcd": "XXX"}, {"txamt": "0"}],
    ids=str,
)
async def test_an_incomplete_hold(qfpay_gateway: Gateway, changes: dict[str, str | None]) -> None:
    """A row that lacks what a hold needs is refused, and nothing is written."""
    syssn = qfpay_gateway.hold(HOLD)
    qfpay_gateway.faults.add("altered", operation="query", rows=True, changes=changes, times=None)
    async with client_of(qfpay_gateway) as client:
        with pytest.raises((GatewayError, InvalidRequestError)):
            await client.import_authorization(syssn=syssn)
        with pytest.raises(UnknownAuthorizationError):
            await client.balance(syssn)


async def test_a_capture_row_without_an_amount(qfpay_gateway: Gateway) -> None:
    """A successful movement whose amount cannot be read is never left out silently: the import is refused."""
    syssn = qfpay_gateway.hold(HOLD)
    qfpay_gateway.portal_capture(syssn, LOST)
    async with client_of(qfpay_gateway) as client:
        # the first enquiry (of the hold) is right, the second (of its history) lacks the amounts
        qfpay_gateway.faults.add("altered", operation="query", rows=True, changes={"txamt": "x"}, after=1, times=None)
        with pytest.raises(PreauthError):
            await client.import_authorization(syssn=syssn)
