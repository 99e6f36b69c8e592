"""The hook: every move, attempt, doubt, discrepancy, notice; never a secret or a card; and it harms nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from qfpay_preauth import Credentials, Event, Outcome, OutcomeUnknownError, PreauthClient, Settings, State
from qfpay_preauth.testing import Gateway
from tests.evidence.kit import (
    HOLD,
    LOST,
    Heard,
    check_equal,
    executed,
    hearing_client,
    lose,
    teach_words,
    until,
)
from tests.support import QUICK, registered

PAN = "4111111111111111"


async def test_a_capture_that_goes_well(qfpay_gateway: Gateway) -> None:
    """Reserved, one attempt, executed; with account, authorization, key and amount."""
    heard = Heard()
    async with hearing_client(qfpay_gateway, heard) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        await client.capture(syssn, LOST, idempotency_key="k")
        assert [(event.kind, event.from_state, event.to_state) for event in heard.events] == [
            ("capture", None, State.HELD),
            ("attempt", None, None),
            ("capture", State.HELD, State.EXECUTED),
            ("call", None, None),
        ]
        for event in heard.events:
            assert (event.account, event.authorization, event.idempotency_key) == (client.account, syssn, "k")
            assert event.amount == LOST
            assert event.at.tzinfo is not None


async def test_every_attempt(qfpay_gateway: Gateway) -> None:
    """Each attempt is told, with what came back."""
    heard = Heard()
    async with hearing_client(qfpay_gateway, heard) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        qfpay_gateway.faults.add("rate_limited", operation="capture", times=2)
        await client.capture(syssn, LOST, idempotency_key="k")
        told = [event.detail for event in heard.events if event.kind == "attempt"]
        assert told == ["HTTP 429", "HTTP 429", "HTTP 200"]


async def test_a_doubt_and_its_end(qfpay_gateway: Gateway) -> None:
    """A doubt is told when it comes up, and its end when evidence brings it."""
    heard = Heard()
    async with hearing_client(qfpay_gateway, heard) as client:
        await teach_words(client, qfpay_gateway)
        syssn = await registered(client, qfpay_gateway, HOLD)
        heard.events.clear()
        await lose(client, qfpay_gateway, syssn)
        assert heard.kinds() == ["capture", "attempt", "capture", "doubt", "call"]
        await client.reconcile()
        last = heard.events[-1]
        assert (last.kind, last.from_state, last.to_state) == ("capture", State.IN_DOUBT, State.EXECUTED)


async def test_a_discrepancy_and_what_was_made_elsewhere(qfpay_gateway: Gateway) -> None:
    """A portal capture is told as foreign and as a discrepancy."""
    heard = Heard()
    async with hearing_client(qfpay_gateway, heard) as client:
        await teach_words(client, qfpay_gateway)
        syssn = await registered(client, qfpay_gateway, HOLD)
        qfpay_gateway.portal_capture(syssn, 3_000)
        heard.events.clear()
        await client.reconcile()
        assert set(heard.kinds()) == {"foreign", "discrepancy"}
        assert {event.account for event in heard.events} == {client.account}


async def test_a_swapped_answer_is_a_discrepancy(qfpay_gateway: Gateway) -> None:
    """An answer that belongs to another question is told as a discrepancy."""
    heard = Heard()
    async with hearing_client(qfpay_gateway, heard) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        changes = {"txamt": "1"}
        await lose(client, qfpay_gateway, syssn, fault="altered", changes=changes)
        assert "discrepancy" in heard.kinds()


async def test_an_unexplained_notice(qfpay_gateway: Gateway) -> None:
    """A notice that fits nothing is told once; one that ends a doubt as a move."""
    heard = Heard()
    async with hearing_client(qfpay_gateway, heard) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        other = qfpay_gateway.notification(qfpay_gateway.portal_capture(qfpay_gateway.hold(HOLD), 3_000))
        for _ in range(3):
            await client.handle_notification(*other)
        assert heard.kinds().count("notice") == 1
        await lose(client, qfpay_gateway, syssn)
        heard.events.clear()
        await client.handle_notification(*qfpay_gateway.notification(executed(qfpay_gateway, syssn)[0][0]))
        assert [(event.kind, event.to_state) for event in heard.events] == [("capture", State.EXECUTED)]


async def test_a_persons_decision(qfpay_gateway: Gateway) -> None:
    """A decision is a move, and is told."""
    heard = Heard()
    async with hearing_client(qfpay_gateway, heard) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        await lose(client, qfpay_gateway, syssn)
        heard.events.clear()
        await client.resolve("lost", Outcome.HAPPENED, reason="seen")
        assert [(event.kind, event.to_state) for event in heard.events] == [("capture", State.EXECUTED)]


async def test_no_secret_and_no_card(qfpay_gateway: Gateway) -> None:
    """Whatever the gateway says, no event shows a key or a card number."""
    heard = Heard()
    async with hearing_client(qfpay_gateway, heard) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        text = f"card {PAN} refused"
        changes = {"respmsg": text, "resperr": text, "cardcd": PAN, "respcd": "1201"}
        qfpay_gateway.faults.add("altered", operation="capture", changes=changes)
        with pytest.raises(Exception, match="declined"):
            await client.capture(syssn, 400, idempotency_key="k1")
        await lose(client, qfpay_gateway, syssn, fault="garbled", text=f"<html>{PAN}")
        qfpay_gateway.faults.add(
            "altered", operation="query", rows=True, changes={"errmsg": text, "order_type": PAN}, times=None
        )
        await client.reconcile()
        told = qfpay_gateway.notification(executed(qfpay_gateway, syssn)[0][0], notify_type=PAN, cardcd=PAN)
        await client.handle_notification(*told)
        assert len(heard.events) > 5
        shown = repr(heard.events)
        assert PAN not in shown
        assert qfpay_gateway.client_key not in shown


async def test_what_the_gateway_lacks_is_told_once(qfpay_gateway: Gateway) -> None:
    """A capture of ours that the gateway's list never shows: every pass reports it, the hook hears of it once."""
    heard = Heard()
    async with hearing_client(qfpay_gateway, heard) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        qfpay_gateway.faults.add("drop_after", operation="capture", amount=LOST, hidden=True)
        with pytest.raises(OutcomeUnknownError):
            await client.capture(syssn, LOST, idempotency_key="k", patience_s=0)
        await client.resolve("k", Outcome.HAPPENED, reason="seen", syssn="20261122180500020000099999")
        for _ in range(3):
            report = await client.reconcile()
            assert [each.kind.value for each in report.discrepancies] == ["missing_there"]
        told = [str(event.detail) for event in heard.events if event.kind == "discrepancy"]
        assert [each.partition(":")[0] for each in told] == ["missing_there"]


async def _twice(heard: Heard, kind: str) -> bool:
    return heard.kinds().count(kind) >= 2


async def test_a_stalled_reconciler(qfpay_gateway: Gateway) -> None:
    """While the enquiry is down, the reconciler says so, again and again."""
    heard = Heard()
    async with hearing_client(qfpay_gateway, heard) as client:
        await registered(client, qfpay_gateway, HOLD)
        qfpay_gateway.faults.add("status_before", operation="query", times=None)
        running = asyncio.create_task(client.run_reconciler(0.05))
        await until(lambda: _twice(heard, "stalled"))
        running.cancel()
        assert {event.detail for event in heard.events if event.kind == "stalled"} == {"GatewayError"}


def _raise(event: Event) -> None:
    raise RuntimeError(event.kind)


def _cancel(event: Event) -> None:
    raise asyncio.CancelledError


def _cancel_afterwards(event: Event) -> None:
    if event.to_state is State.EXECUTED:
        raise asyncio.CancelledError


@pytest.mark.parametrize("hook", [_raise, _cancel, _cancel_afterwards])
async def test_a_raising_hook(qfpay_gateway: Gateway, hook: Callable[[Event], None]) -> None:
    """A hook that raises harms nothing: operations, notices and reconciliation go on, and the books are right."""
    async with hearing_client(qfpay_gateway, hook) as client:
        await teach_words(client, qfpay_gateway)
        syssn = await registered(client, qfpay_gateway, HOLD)
        capture = await client.capture(syssn, 4_000, idempotency_key="k")
        await client.refund(str(capture.syssn), 300, idempotency_key="r")
        await lose(client, qfpay_gateway, syssn)
        qfpay_gateway.portal_capture(syssn, 3_000)
        await client.reconcile()
        await client.handle_notification(*qfpay_gateway.notification(str(capture.syssn)))
        await client.unfreeze(syssn, idempotency_key="u")
        await check_equal(client, qfpay_gateway, syssn)


async def test_given_at_construction(qfpay_gateway: Gateway) -> None:
    """The hook is an argument of the client."""
    heard = Heard()
    client = PreauthClient(
        Credentials(qfpay_gateway.app_code, qfpay_gateway.client_key),
        base_url=qfpay_gateway.url,
        ledger="memory://",
        settings=Settings(**QUICK),
        on_event=heard,
    )
    async with client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        await client.capture(syssn, LOST, idempotency_key="k")
    assert heard.kinds() == ["capture", "attempt", "capture", "call"]
