"""Delivery of notifications: what is notified, when, and the true redelivery schedule on a clock moved by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest

from qfpay_preauth.testing import Gateway, ManualClock, Round
from qfpay_preauth.testing._courier import Courier
from qfpay_preauth.testing._faults import Faults
from qfpay_preauth.testing._records import Hold

from .kit import Endpoint, Merchant

START = datetime(2026, 3, 31, 15, 0, tzinfo=UTC)
MINUTES = [0, 2, 12, 22, 82, 202, 562, 1462]  # QFPay: 2 min, 10 min, 10 min, 60 min, 2 h, 6 h, 15 h after each other


@pytest.fixture
def manual() -> ManualClock:
    return ManualClock(START)


@pytest.fixture
async def gateway(manual: ManualClock, endpoint: Endpoint) -> AsyncIterator[Gateway]:
    async with Gateway(clock=manual) as running:
        running.notify_url = endpoint.url
        yield running


def _kinds(endpoint: Endpoint) -> list[tuple[Any, ...]]:
    return [(each["notify_type"], each.get("orig_syssn"), each["txamt"]) for each in endpoint.notices]


async def test_every_executed_movement_is_notified(gateway: Gateway, merchant: Merchant, endpoint: Endpoint) -> None:
    """Capture, refund and unfreeze, by API or portal, in their order, as signed JSON; the freeze is not."""
    syssn = gateway.hold(1_000)
    capture = (await merchant.capture(syssn, 400))["syssn"]
    gateway.portal_capture(syssn, 50)
    await merchant.refund(capture, 100)
    gateway.portal_refund(capture, 1)
    await merchant.unfreeze(syssn, 550)
    assert endpoint.bodies == []
    assert await gateway.deliver_due() == Round(posted=5, acknowledged=5)
    assert _kinds(endpoint) == [
        ("payment", syssn, "400"),
        ("payment", syssn, "50"),
        ("refund", capture, "100"),
        ("refund", capture, "1"),
        ("unfreeze", syssn, "550"),
    ]
    assert all(endpoint.genuine(gateway.client_key))
    assert {head["Content-Type"] for head in endpoint.headers} == {"application/json"}
    assert await gateway.deliver_due() == Round()
    assert gateway.next_delivery is None


async def test_the_open_questions_are_settings(gateway: Gateway, endpoint: Endpoint) -> None:
    """Whether the freeze is notified, which words there are, whether captures are linked, whose number they show."""
    config = gateway.config
    config.notify_freeze = True
    config.notify_types["refund"] = "cancel"
    config.link_notices = ["unfreeze"]
    config.shown_numbers["capture"] = "hold"
    syssn = gateway.hold(1_000, out_trade_no="O1")
    capture = gateway.portal_capture(syssn, 400)
    gateway.portal_refund(capture, 400)
    gateway.portal_unfreeze(syssn)
    await gateway.deliver_due()
    assert _kinds(endpoint) == [
        ("payment", None, "1000"),
        ("payment", None, "400"),
        ("cancel", capture, "400"),
        ("unfreeze", syssn, "600"),
    ]
    assert [each["out_trade_no"] for each in endpoint.notices] == ["O1", "O1", "", ""]
    assert endpoint.notices[2]["orig_out_trade_no"] == "O1"


async def test_only_executions_are_notified(gateway: Gateway, merchant: Merchant, endpoint: Endpoint) -> None:
    """Neither a refusal nor what is pending, until it is executed; one refused in the end never is."""
    syssn = gateway.hold(1_000)
    assert (await merchant.capture(syssn, 1_001))["respcd"] == "1266"
    gateway.faults.add("pending", then="1205")
    gateway.faults.add("pending")
    await merchant.capture(syssn, 100)
    executed = (await merchant.capture(syssn, 200))["syssn"]
    assert await gateway.deliver_due() == Round()
    gateway.settle_pending()
    assert await gateway.deliver_due() == Round(posted=1, acknowledged=1)
    assert endpoint.notices[0]["syssn"] == executed


async def test_what_happens_without_an_address_is_never_notified(gateway: Gateway, endpoint: Endpoint) -> None:
    """The address is set up by e-mail: what came before is known by enquiry only."""
    syssn, gateway.notify_url = gateway.hold(1_000), None
    gateway.portal_capture(syssn, 1)
    gateway.notify_url = endpoint.url
    gateway.portal_capture(syssn, 2)
    assert (await gateway.deliver_due()).posted == 1
    assert endpoint.notices[0]["txamt"] == "2"


async def test_the_schedule_to_its_end(gateway: Gateway, endpoint: Endpoint, manual: ManualClock) -> None:
    """Never acknowledged: eight deliveries of the same bytes at the documented times, then never again."""
    capture = gateway.portal_capture(gateway.hold(100), 100)
    endpoint.answers = [(500, "SUCCESS")] * 9
    while due := gateway.next_delivery:
        manual.set(due - timedelta(seconds=1))
        assert await gateway.deliver_due() == Round()
        manual.set(due)
        assert await gateway.deliver_due() == Round(posted=1)
    assert [(each.at - START) / timedelta(minutes=1) for each in gateway.deliveries] == MINUTES
    assert [each.attempt for each in gateway.deliveries] == list(range(1, 9))
    assert len(set(endpoint.bodies)) == 1
    assert gateway.core.courier.given_up == [capture]
    manual.advance(timedelta(days=30))
    assert await gateway.deliver_due() == Round()


@pytest.mark.parametrize(
    "answer", [(200, "success"), (200, "SUCCESS\n"), (200, ""), (201, "SUCCESS"), (302, "SUCCESS"), (503, "SUCCESS")]
)
async def test_anything_else_is_no_acknowledgement(
    gateway: Gateway, endpoint: Endpoint, manual: ManualClock, answer: tuple[int, str]
) -> None:
    """Only HTTP 200 with exactly SUCCESS ends it; redirects are not followed."""
    gateway.portal_capture(gateway.hold(100), 100)
    endpoint.answers = [answer]
    assert await gateway.deliver_due() == Round(posted=1)
    assert (gateway.deliveries[0].status, gateway.deliveries[0].text) == (answer[0], answer[1].encode())
    manual.advance(120)
    assert await gateway.deliver_due() == Round(posted=1, acknowledged=1)
    assert gateway.next_delivery is None


async def test_silence_is_no_acknowledgement(gateway: Gateway, endpoint: Endpoint, manual: ManualClock) -> None:
    """An endpoint that is not there, that is no address, or that does not answer in time."""
    gateway.config.notify_timeout_s = 0.05
    gateway.portal_capture(gateway.hold(100), 100)
    endpoint.opened = asyncio.Event()
    for url in ("http://127.0.0.1:1/", "nonsense", endpoint.url):
        gateway.notify_url = url
        manual.set(gateway.next_delivery or manual())
        assert await gateway.deliver_due() == Round(posted=1)
    endpoint.opened.set()
    assert [(each.attempt, each.status) for each in gateway.deliveries] == [(1, 0), (2, 0), (3, 0)]


async def test_a_delivery_given_up_by_its_caller_stays_due(gateway: Gateway, endpoint: Endpoint) -> None:
    """Cancelling ``deliver_due`` loses no notification and counts no attempt."""
    gateway.portal_capture(gateway.hold(100), 100)
    endpoint.opened = asyncio.Event()
    delivering = asyncio.create_task(gateway.deliver_due())
    await endpoint.next()
    delivering.cancel()
    await asyncio.gather(delivering, return_exceptions=True)
    endpoint.opened.set()
    assert gateway.next_delivery == START
    assert await gateway.deliver_due() == Round(posted=1, acknowledged=1)
    assert [each.attempt for each in gateway.deliveries] == [1]


async def test_the_notification_may_come_before_the_answer(
    gateway: Gateway, merchant: Merchant, endpoint: Endpoint
) -> None:
    """While the capture's answer hangs, its notification is delivered."""
    gateway.faults.add("hang_after")
    asking = asyncio.create_task(merchant.capture(gateway.hold(100), 100))
    await gateway.wait_hanging()
    await gateway.deliver_due()
    gateway.release()
    assert (await asking)["syssn"] == endpoint.notices[0]["syssn"]


@pytest.mark.parametrize("kind", ["late", "late_hang"])
async def test_late_execution_with_lag(
    gateway: Gateway, merchant: Merchant, endpoint: Endpoint, manual: ManualClock, kind: str
) -> None:
    """Executed long after the error: notified at that moment, though nobody asked; its row comes after the lag, in the
    next month."""
    gateway.config.query_lag = timedelta(minutes=5)
    syssn = gateway.hold(100)
    gateway.faults.add(kind, seconds=3_600)
    asking = asyncio.create_task(merchant.capture(syssn, 100))
    if kind == "late_hang":
        await gateway.wait_hanging()
        gateway.release()
    with pytest.raises((AssertionError, aiohttp.ServerDisconnectedError)):
        await asking
    manual.advance(3_599)
    assert gateway.next_delivery is None
    manual.advance(61)
    assert await gateway.deliver_due() == Round(posted=1, acknowledged=1)
    assert endpoint.notices[0]["sysdtm"] == "2026-04-01 00:00:00"
    assert await merchant.rows() == []
    manual.advance(timedelta(minutes=4))
    row = (await merchant.rows())[0]
    assert (row["syssn"], row["sysdtm"]) == (endpoint.notices[0]["syssn"], "2026-04-01 00:00:00")


async def test_the_first_delivery_may_take_its_time(gateway: Gateway, endpoint: Endpoint, manual: ManualClock) -> None:
    """With ``notify_delay`` the answer surely comes first."""
    gateway.config.notify_delay = timedelta(seconds=5)
    gateway.portal_capture(gateway.hold(100), 100)
    assert await gateway.deliver_due() == Round()
    assert manual.advance(5) == gateway.next_delivery
    assert (await gateway.deliver_due()).acknowledged == 1


async def test_in_the_background(endpoint: Endpoint) -> None:
    """With ``auto_notify`` it comes by itself, and what is late too; closing leaves no task."""
    before, manual = asyncio.all_tasks(), ManualClock()
    async with Gateway(clock=manual, auto_notify=True) as gateway, aiohttp.ClientSession() as session:
        gateway.notify_url = endpoint.url
        syssn = gateway.hold(300)
        gateway.portal_capture(syssn, 100)
        assert (await endpoint.next())["txamt"] == "100"
        gateway.faults.add("late", seconds=60)
        with pytest.raises(AssertionError):
            await Merchant(gateway, session).capture(syssn, 200)
        manual.advance(60)
        assert (await endpoint.next())["txamt"] == "200"
        endpoint.opened = asyncio.Event()
        gateway.portal_refund(gateway.books.executions()[0].syssn, 1)
        await endpoint.next()
    endpoint.opened.set()
    assert {task for task in asyncio.all_tasks() - before if "_keep_delivering" in repr(task)} == set()
    assert [each.acknowledged for each in gateway.deliveries] == [True, True]


def test_the_queue_needs_no_socket_and_no_clock() -> None:
    """Earliest first; an acknowledged letter is gone, another one comes back."""
    courier, faults = Courier(), Faults()
    hold = Hold(syssn="1", amount=5, currency="HKD", out_trade_no="O", at=START, expires_at=START)
    for minute in (2, 1):
        courier.add(hold, b"%d" % minute, {}, START + timedelta(minutes=minute))
    assert courier.take(START, faults) is None
    now = START + timedelta(minutes=3)
    seen = []
    while taken := courier.take(now, faults):
        seen.append(taken[0].body)
        courier.answered(taken[0], taken[0].body == b"1", now, (timedelta(minutes=2),))
    assert seen == [b"1", b"2"]
    assert (len(courier), courier.next_due) == (1, START + timedelta(minutes=5))


def test_the_manual_clock() -> None:
    """Stands still, moves by seconds or a timedelta, jumps anywhere, and refuses what is no moment."""
    clock = ManualClock(START)
    assert clock() == clock() == START
    assert clock.advance(1.5) == clock.advance(timedelta(0)) == START + timedelta(seconds=1.5)
    assert clock.set(START - timedelta(days=1)) == clock() == START - timedelta(days=1)
    assert abs(ManualClock()() - datetime.now(UTC)) < timedelta(minutes=1)
    with pytest.raises(ValueError, match="forwards only"):
        clock.advance(-1)
    with pytest.raises(ValueError, match="needs a zone"):
        clock.set(START.replace(tzinfo=None))
