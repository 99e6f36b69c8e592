"""The list of doubts: what it says about each, which need a person, and what a person may decide."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from qfpay_preauth import (
    Capture,
    DeclinedError,
    Doubt,
    IdempotencyConflictError,
    InvalidRequestError,
    Operation,
    Outcome,
    OverCaptureError,
    State,
)
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
    set_clock,
    state,
    teach_words,
    writes,
)
from tests.support import client_of, registered


async def test_what_is_listed() -> None:
    """Age, amount, authorization, what was tried, what was seen and the next safe step; oldest first."""
    clock = Clock(datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC))
    async with gateway_at(clock) as gateway, set_clock(client_of(gateway), clock) as client:
        syssn = await registered(client, gateway, HOLD)
        capture = await client.capture(syssn, 5_000, idempotency_key="c")
        await lose(client, gateway, syssn)
        clock.ahead = timedelta(seconds=30)
        await lose_refund(client, gateway, str(capture.syssn), 700, "back")
        clock.ahead = timedelta(seconds=100)
        first, second = [doubt async for doubt in client.in_doubt()]
        assert isinstance(first, Doubt)
        assert (first.idempotency_key, first.operation, first.syssn) == ("lost", Operation.CAPTURE, syssn)
        assert (first.authorization, first.amount, first.currency) == (syssn, LOST, "HKD")
        assert (first.since, first.age_s, first.needs_attention) == (clock.fixed, 100.0, False)
        assert "attempt 1" in first.tried
        assert "Disconnected" in first.seen
        assert "same key" in first.advice
        assert (second.idempotency_key, second.syssn, second.authorization) == ("back", capture.syssn, syssn)
        assert (second.age_s, second.operation) == (70.0, Operation.REFUND)


async def test_needs_attention(qfpay_gateway: Gateway) -> None:
    """What was found and cannot end it by rule is told, with another advice."""
    async with client_of(qfpay_gateway) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        await lose(client, qfpay_gateway, syssn)
        await client.reconcile()
        (doubt,) = [each async for each in client.in_doubt()]
        assert doubt.needs_attention
        assert "word" in doubt.seen
        assert "resolve()" in doubt.advice


async def test_attention_goes_when_it_ends(qfpay_gateway: Gateway) -> None:
    """An entry that ended needs nobody any more."""
    async with client_of(qfpay_gateway) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        await lose(client, qfpay_gateway, syssn)
        await client.reconcile()
        await client.handle_notification(*qfpay_gateway.notification(executed(qfpay_gateway, syssn)[0][0]))
        entry = await client.entry("lost")
        assert entry is not None
        assert (entry.state, entry.attention) == (State.EXECUTED, None)
        assert [each async for each in client.in_doubt()] == []


async def test_decided_as_happened(qfpay_gateway: Gateway) -> None:
    """A person who saw it in the portal decides with its syssn; the next pass confirms it and differs in nothing."""
    async with client_of(qfpay_gateway) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        await lose(client, qfpay_gateway, syssn)
        ((found, _),) = executed(qfpay_gateway, syssn)
        await client.resolve("lost", Outcome.HAPPENED, reason="seen in the portal", syssn=found)
        report = await client.reconcile()
        assert (report.confirmed, report.discrepancies, report.foreign) == (1, (), ())
        capture = await client.capture(syssn, LOST, idempotency_key="lost")
        assert isinstance(capture, Capture)
        assert (capture.confirmed_by, capture.replayed) == ("operator", True)
        await check_equal(client, qfpay_gateway, syssn)


@pytest.mark.parametrize("taught", [True, False])
async def test_decided_as_happened_without_its_syssn(qfpay_gateway: Gateway, taught: bool) -> None:
    """Decided without a syssn, its row is never booked a second time."""
    async with client_of(qfpay_gateway) as client:
        if taught:
            await teach_words(client, qfpay_gateway)
        syssn = await registered(client, qfpay_gateway, HOLD)
        await lose(client, qfpay_gateway, syssn)
        await client.resolve("lost", Outcome.HAPPENED, reason="the customer's statement shows it")
        for _ in range(2):
            await client.reconcile()
        assert (await client.balance(syssn)).foreign == 0
        await check_equal(client, qfpay_gateway, syssn)


async def test_decided_as_not_happened(qfpay_gateway: Gateway) -> None:
    """Decided as not executed: the amount is free again, and the key is spent."""
    async with client_of(qfpay_gateway) as client:
        syssn = await registered(client, qfpay_gateway, LOST)
        await lose(client, qfpay_gateway, syssn, fault="drop_before")
        with pytest.raises(OverCaptureError):
            await client.capture(syssn, LOST - 1, idempotency_key="other")
        await client.resolve("lost", Outcome.NOTHING_HAPPENED, reason="QFPay's support says so")
        before = writes(qfpay_gateway)
        with pytest.raises(DeclinedError):
            await client.capture(syssn, LOST, idempotency_key="lost")
        assert writes(qfpay_gateway) == before
        await client.capture(syssn, LOST, idempotency_key="other")
        assert (await client.reconcile()).discrepancies == ()
        await check_equal(client, qfpay_gateway, syssn)


async def test_a_wrong_decision_shows(qfpay_gateway: Gateway) -> None:
    """A decision that the gateway's late execution contradicts stands, and is reported until both books agree."""
    async with client_of(qfpay_gateway) as client:
        await teach_words(client, qfpay_gateway)
        syssn = await registered(client, qfpay_gateway, HOLD)
        await lose(client, qfpay_gateway, syssn, fault="late")
        await client.resolve("lost", Outcome.NOTHING_HAPPENED, reason="nothing was to be seen")
        qfpay_gateway.run_late()
        assert "executed_though_ended" in kinds(await client.reconcile())
        assert await state(client) is State.NOT_EXECUTED
        await check_equal(client, qfpay_gateway, syssn)


async def test_a_decision_with_somebody_elses_syssn(qfpay_gateway: Gateway) -> None:
    """A syssn that belongs to another entry, or to nobody's execution, decides nothing."""
    async with client_of(qfpay_gateway) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        other = await client.capture(syssn, 5_000, idempotency_key="other")
        await lose(client, qfpay_gateway, syssn)
        for stolen in (str(other.syssn), syssn):
            with pytest.raises(IdempotencyConflictError):
                await client.resolve("lost", Outcome.HAPPENED, reason="a slip", syssn=stolen)
        assert await state(client) is State.IN_DOUBT
        with pytest.raises(InvalidRequestError):
            await client.resolve("nobody", Outcome.HAPPENED, reason="x")


async def test_decided_twice(qfpay_gateway: Gateway) -> None:
    """The second person's other decision is refused: an ended entry never changes."""
    async with client_of(qfpay_gateway) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        await lose(client, qfpay_gateway, syssn)
        await client.resolve("lost", Outcome.HAPPENED, reason="one")
        with pytest.raises(IdempotencyConflictError):
            await client.resolve("lost", Outcome.NOTHING_HAPPENED, reason="two")
        assert await state(client) is State.EXECUTED
