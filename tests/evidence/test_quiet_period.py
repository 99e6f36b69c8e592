"""`quiet_period_s`: absence means "not sent" only under exactly the table's conditions."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from qfpay_preauth import PreauthClient, State, Why
from qfpay_preauth.testing import Gateway
from tests.evidence.kit import (
    HOLD,
    LOST,
    Clock,
    check_equal,
    entry_of,
    executed,
    gateway_at,
    kinds,
    lose,
    set_clock,
    state,
    teach_words,
    writes,
)
from tests.support import client_of, registered

QUIET = 300
DEADLINE = 60
DOUBT = DEADLINE + 30  # send-by and one exchange: from then on it is surely in doubt


def quiet_client(gateway: Gateway, clock: Clock, **settings: Any) -> PreauthClient:
    """A client that takes five quiet minutes for an answer."""
    return set_clock(client_of(gateway, **{"quiet_period_s": QUIET, **settings}), clock)


async def ready(client: PreauthClient, gateway: Gateway, fault: str = "drop_before") -> str:
    """A hold with a capture in doubt, after an answered capture was shown."""
    await teach_words(client, gateway)
    syssn = await registered(client, gateway, HOLD)
    await lose(client, gateway, syssn, fault=fault)
    return syssn


async def test_after_two_quiet_enquiries() -> None:
    """Past the period, two complete enquiries without it: not sent, free again, and the key runs again."""
    clock = Clock()
    async with gateway_at(clock) as gateway, quiet_client(gateway, clock) as client:
        syssn = await ready(client, gateway)
        clock.ahead = timedelta(seconds=DOUBT + QUIET + 1)
        await client.reconcile()
        assert await state(client) is State.IN_DOUBT
        await client.reconcile()
        entry = await entry_of(client)
        assert (entry.state, entry.why, entry.rerunnable) == (State.NOT_EXECUTED, Why.NOT_SENT, True)
        assert (await client.balance(syssn)).capturable == HOLD
        assert (await client.capture(syssn, LOST, idempotency_key="lost")).replayed is False
        await check_equal(client, gateway, syssn)


async def test_not_before_the_period() -> None:
    """Within the period no number of enquiries ends it, and none of them counts."""
    clock = Clock()
    async with gateway_at(clock) as gateway, quiet_client(gateway, clock) as client:
        await ready(client, gateway)
        clock.ahead = timedelta(seconds=DOUBT + QUIET - 2)
        for _ in range(4):
            await client.reconcile()
        clock.ahead = timedelta(seconds=DOUBT + QUIET + 1)
        await client.reconcile()
        assert await state(client) is State.IN_DOUBT


async def test_not_without_a_shown_capture() -> None:
    """Unless the enquiry has ever shown, linked, an answered capture, absence proves nothing."""
    clock = Clock()
    async with gateway_at(clock) as gateway, quiet_client(gateway, clock) as client:
        syssn = await registered(client, gateway, HOLD)
        await lose(client, gateway, syssn, fault="drop_before")
        clock.ahead = timedelta(hours=5)
        for _ in range(3):
            await client.reconcile()
        assert await state(client) is State.IN_DOUBT


async def test_not_where_rows_are_not_linked() -> None:
    """The same where captures are shown without their original."""
    clock = Clock()
    async with gateway_at(clock, link_rows=False) as gateway, quiet_client(gateway, clock) as client:
        await ready(client, gateway)
        clock.ahead = timedelta(hours=5)
        for _ in range(3):
            await client.reconcile()
        assert await state(client) is State.IN_DOUBT


async def test_not_where_links_stopped() -> None:
    """Rows were linked once and are no longer: an execution shown without its original is not an absence."""
    clock = Clock()
    async with gateway_at(clock) as gateway, quiet_client(gateway, clock) as client:
        await ready(client, gateway, "drop_after")
        gateway.config.link_rows = False
        clock.ahead = timedelta(hours=5)
        for _ in range(3):
            await client.reconcile()
        assert await state(client) is State.IN_DOUBT


@pytest.mark.parametrize(
    "changes", [{"txamt": None}, {"txamt": "1O000"}, {"respcd": "1143"}, {"respcd": "1201"}], ids=str
)
async def test_not_where_rows_are_odd(changes: dict[str, str | None]) -> None:
    """A row that may be the execution, however odd, is not an absence."""
    clock = Clock()
    async with gateway_at(clock) as gateway, quiet_client(gateway, clock) as client:
        await ready(client, gateway, "drop_after")
        gateway.faults.add("altered", operation="query", rows=True, changes=changes, times=None)
        clock.ahead = timedelta(hours=5)
        for _ in range(3):
            await client.reconcile()
        assert await state(client) is State.IN_DOUBT


async def test_not_by_default() -> None:
    """Without the setting, absence never ends a doubt."""
    clock = Clock()
    async with gateway_at(clock) as gateway, quiet_client(gateway, clock, quiet_period_s=None) as client:
        await ready(client, gateway)
        clock.ahead = timedelta(days=30)
        for _ in range(3):
            await client.reconcile()
        assert await state(client) is State.IN_DOUBT


async def test_executed_in_time() -> None:
    """An execution that is shown before the second enquiry counts, not the absence before."""
    clock = Clock()
    async with gateway_at(clock) as gateway, quiet_client(gateway, clock) as client:
        syssn = await ready(client, gateway, "late")
        clock.ahead = timedelta(seconds=DOUBT + QUIET + 1)
        await client.reconcile()
        gateway.run_late()
        await client.reconcile()
        assert await state(client) is State.EXECUTED
        await check_equal(client, gateway, syssn)


async def test_executed_after_all() -> None:
    """An execution after the quiet end is a discrepancy, is booked apart, and lowers what is capturable."""
    clock = Clock()
    async with gateway_at(clock) as gateway, quiet_client(gateway, clock) as client:
        syssn = await ready(client, gateway, "late")
        clock.ahead = timedelta(seconds=DOUBT + QUIET + 1)
        for _ in range(2):
            await client.reconcile()
        assert await state(client) is State.NOT_EXECUTED
        gateway.run_late()
        before = writes(gateway)
        report = await client.reconcile()
        assert "executed_though_ended" in kinds(report)
        assert await state(client) is State.NOT_EXECUTED
        assert (await client.balance(syssn)).capturable == HOLD - LOST
        assert (writes(gateway), len(executed(gateway, syssn))) == (before, 1)
        await check_equal(client, gateway, syssn)


async def test_a_failed_enquiry_does_not_count() -> None:
    """Only complete enquiries count towards the two."""
    clock = Clock()
    async with gateway_at(clock) as gateway, quiet_client(gateway, clock) as client:
        await ready(client, gateway)
        clock.ahead = timedelta(seconds=DOUBT + QUIET + 1)
        await client.reconcile()
        gateway.faults.add("garbled", operation="query")
        with pytest.raises(Exception, match="query"):
            await client.reconcile()
        assert await state(client) is State.IN_DOUBT
