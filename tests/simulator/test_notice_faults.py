"""Notifications that are lost, repeated, late or forged: what the endpoint gets, and that the schedule goes on."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from qfpay_preauth.testing import NOTICE_KINDS, Faults, Gateway, ManualClock, Round

from .kit import Endpoint, Merchant

FORGED = ("notice_wrong_key", "notice_altered", "notice_reserialised", "notice_unsigned")


@pytest.fixture
def manual() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def gateway(manual: ManualClock, endpoint: Endpoint) -> AsyncIterator[Gateway]:
    async with Gateway(clock=manual) as running:
        running.notify_url = endpoint.url
        yield running


async def _rest(gateway: Gateway, manual: ManualClock) -> None:
    """Everything that is still to be delivered, at its time."""
    while due := gateway.next_delivery:
        manual.set(due)
        await gateway.deliver_due()


async def test_lost(gateway: Gateway, endpoint: Endpoint, manual: ManualClock) -> None:
    """Nothing comes, twice; the third delivery does, twelve minutes after the first."""
    gateway.faults.add("notice_lost", times=2)
    gateway.portal_capture(gateway.hold(100), 100)
    start = manual()
    assert await gateway.deliver_due() == Round()
    await _rest(gateway, manual)
    assert manual() - start == timedelta(minutes=12)
    assert len(endpoint.bodies) == 1
    assert gateway.faults.hits == {"notice_lost": 2}
    assert [each.fault for each in gateway.deliveries] == ["notice_lost", "notice_lost", None]


async def test_lost_for_ever(gateway: Gateway, endpoint: Endpoint, manual: ManualClock) -> None:
    """With no limit of times the endpoint never hears of it."""
    gateway.faults.add("notice_lost", times=None)
    capture = gateway.portal_capture(gateway.hold(100), 100)
    await _rest(gateway, manual)
    assert endpoint.bodies == []
    assert gateway.core.courier.given_up == [capture]


async def test_unheard(gateway: Gateway, endpoint: Endpoint, manual: ManualClock) -> None:
    """The endpoint took it, but its SUCCESS is lost: the same bytes come again."""
    gateway.faults.add("notice_unheard")
    gateway.portal_capture(gateway.hold(100), 100)
    await _rest(gateway, manual)
    assert len(endpoint.bodies) == 2
    assert endpoint.bodies[0] == endpoint.bodies[1]


async def test_repeated(gateway: Gateway, endpoint: Endpoint) -> None:
    """Five times at once, though every one is acknowledged."""
    gateway.faults.add("notice_repeated", count=4)
    gateway.portal_capture(gateway.hold(100), 100)
    assert await gateway.deliver_due() == Round(posted=5, acknowledged=5)
    assert len(endpoint.bodies) == 5
    assert len(set(endpoint.bodies)) == 1
    assert gateway.next_delivery is None


async def test_reordered(gateway: Gateway, endpoint: Endpoint, manual: ManualClock) -> None:
    """The first comes last, or later than what happens after it."""
    syssn = gateway.hold(1_000)
    gateway.faults.add("notice_reordered", amount=1)
    gateway.faults.add("notice_reordered", amount=2, seconds=30)
    for amount in (1, 2, 3):
        gateway.portal_capture(syssn, amount)
    assert (await gateway.deliver_due()).acknowledged == 2
    manual.advance(20)
    gateway.portal_unfreeze(syssn)
    await _rest(gateway, manual)
    assert [each["txamt"] for each in endpoint.notices] == ["3", "1", "994", "2"]
    assert gateway.faults.hits == {"notice_reordered": 2}
    assert {each.attempt for each in gateway.deliveries} == {1}


async def test_all_reordered(gateway: Gateway, endpoint: Endpoint) -> None:
    """If every one shall be last, they all come all the same."""
    gateway.faults.add("notice_reordered", times=None)
    syssn = gateway.hold(1_000)
    for amount in (1, 2, 3):
        gateway.portal_capture(syssn, amount)
    assert (await gateway.deliver_due()).acknowledged == 3
    assert len(endpoint.bodies) == 3


@pytest.mark.parametrize("kind", FORGED)
async def test_forged(gateway: Gateway, endpoint: Endpoint, manual: ManualClock, kind: str) -> None:
    """Not rightly signed; whatever is answered, the genuine one follows by the schedule."""
    gateway.faults.add(kind)
    capture = gateway.portal_capture(gateway.hold(100), 100)
    assert await gateway.deliver_due() == Round(posted=1, acknowledged=1)
    await _rest(gateway, manual)
    assert endpoint.genuine(gateway.client_key) == [False, True]
    assert [each["syssn"] for each in endpoint.notices] == [capture, capture]
    assert [each["txamt"] for each in endpoint.notices] == ["101" if kind == "notice_altered" else "100", "100"]
    assert ("X-QF-SIGN" in endpoint.headers[0]) is (kind != "notice_unsigned")
    old = endpoint.headers[0].get("X-QF-SIGN") == endpoint.headers[1]["X-QF-SIGN"]
    assert old is (kind in ("notice_altered", "notice_reserialised"))
    assert gateway.faults.hits == {kind: 1}


@pytest.mark.parametrize("kind", ["notice_wrong_key", "notice_altered"])
async def test_forged_to_order(gateway: Gateway, endpoint: Endpoint, kind: str) -> None:
    """A forger may write what he likes."""
    gateway.faults.add(kind, operation="capture", changes={"orig_syssn": "2", "txamt": "7", "mchid": None})
    gateway.portal_capture(gateway.hold(100), 100)
    await gateway.deliver_due()
    notice = endpoint.notices[0]
    assert (notice["orig_syssn"], notice["txamt"], "mchid" in notice) == ("2", "7", False)


@pytest.mark.parametrize("size", [None, 70_000])
async def test_oversize(gateway: Gateway, endpoint: Endpoint, manual: ManualClock, size: int | None) -> None:
    """Rightly signed, but 5 MB (or any size) of it; the genuine one follows."""
    gateway.faults.add("notice_oversize", size=size)
    gateway.portal_capture(gateway.hold(100), 100)
    await _rest(gateway, manual)
    assert len(endpoint.bodies[0]) == (size or 5_000_000)
    assert len(endpoint.bodies[1]) < 1_000
    assert endpoint.genuine(gateway.client_key) == [True, True]


async def test_rules_choose_their_notifications(gateway: Gateway, merchant: Merchant, endpoint: Endpoint) -> None:
    """By the operation, the syssn, the amount and the number of the request that is notified."""
    gateway.config.notify_freeze = True
    syssn = gateway.hold(1_000)
    for how in (
        {"operation": "hold"},
        {"operation": "capture", "syssn": syssn, "amount": 400},
        {"operation": "refund", "out_trade_no": "R1"},
        {"operation": "unfreeze", "after": 1},
    ):
        gateway.faults.add("notice_lost", **how)
    capture = (await merchant.capture(syssn, 400))["syssn"]
    await merchant.capture(syssn, 401)
    await merchant.refund(capture, 10, "R1")
    await merchant.refund(capture, 11, "R2")
    await merchant.unfreeze(syssn, 199)
    await gateway.deliver_due()
    assert [each["txamt"] for each in endpoint.notices] == ["401", "11", "199"]


async def _storm(seed: int, endpoint: Endpoint) -> tuple[list[Any], set[str], set[str]]:
    manual = ManualClock()
    faults = Faults.random(seed, 0.5, kinds=NOTICE_KINDS, seconds=90)
    async with Gateway(clock=manual, faults=faults) as gateway:
        gateway.notify_url = endpoint.url
        syssn, start = gateway.hold(1_000), manual()
        for amount in range(1, 31):
            gateway.portal_capture(syssn, amount)
        await _rest(gateway, manual)
        posts = [(each.at - start, each.attempt, each.status, each.fault) for each in gateway.deliveries]
        genuine = {
            json.loads(body)["syssn"]
            for body, good in zip(endpoint.bodies, endpoint.genuine(gateway.client_key), strict=True)
            if good
        }
        struck = [each for each in posts if each[-1]]
        assert len(struck) >= sum(n for kind, n in faults.hits.items() if kind != "notice_reordered")
        return posts, genuine, {each.syssn for each in gateway.books.executions()}


async def test_a_storm_is_the_same_by_its_seed(endpoint: Endpoint) -> None:
    """Faults on half of the deliveries: every execution arrives at last, and the same seed gives the same run."""
    first, genuine, executed = await _storm(5, endpoint)
    assert genuine == executed
    assert (await _storm(5, endpoint))[0] == first
    assert (await _storm(6, endpoint))[0] != first
