"""Reconciliation: one pass and the background task, what they report, and what they cost."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from qfpay_preauth import InvalidRequestError, Outcome, PreauthClient, PreauthError, State
from qfpay_preauth.testing import Gateway
from tests.evidence.kit import (
    HOLD,
    LOST,
    Clock,
    Heard,
    check_equal,
    executed,
    gateway_at,
    hearing_client,
    kinds,
    lose,
    queries,
    set_clock,
    state,
    teach_words,
    until,
    writes,
)
from tests.support import client_of, registered, sqlite_url


async def test_nothing_to_do(qfpay_gateway: Gateway) -> None:
    """Without a hold there is nothing to ask."""
    async with client_of(qfpay_gateway) as client:
        report = await client.reconcile()
        assert (report.complete, report.confirmed, report.discrepancies) == (True, 0, ())
        assert qfpay_gateway.requests == []


async def test_confirmed(qfpay_gateway: Gateway) -> None:
    """Executed entries that the gateway shows as we have them are counted, and no difference is found."""
    async with client_of(qfpay_gateway) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        captures = [await client.capture(syssn, 1_000 + n, idempotency_key=f"c{n}") for n in range(5)]
        await client.refund(str(captures[0].syssn), 300, idempotency_key="r")
        await client.unfreeze(syssn, idempotency_key="u")
        report = await client.reconcile()
        assert (report.confirmed, report.discrepancies, report.foreign, report.in_doubt) == (7, (), (), 0)
        assert writes(qfpay_gateway) == 7
        await check_equal(client, qfpay_gateway, syssn)


async def test_missing_there() -> None:
    """What the gateway's list does not show (yet) is reported; once it does, it is confirmed."""
    clock = Clock()
    async with (
        gateway_at(clock, query_lag=timedelta(hours=1)) as gateway,
        set_clock(client_of(gateway), clock) as client,
    ):
        syssn = await registered(client, gateway, HOLD)
        capture = await client.capture(syssn, LOST, idempotency_key="c")
        report = await client.reconcile()
        assert [(each.kind.value, each.syssn, each.idempotency_key) for each in report.discrepancies] == [
            ("missing_there", capture.syssn, "c")
        ]
        clock.ahead = timedelta(hours=2)
        report = await client.reconcile()
        assert (report.confirmed, report.discrepancies) == (1, ())


async def test_amount_differs(qfpay_gateway: Gateway) -> None:
    """An executed entry that the gateway shows with another amount."""
    async with client_of(qfpay_gateway) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        await client.capture(syssn, LOST, idempotency_key="c")
        qfpay_gateway.faults.add("altered", operation="query", rows=True, changes={"txamt": "9999"}, times=None)
        found = kinds(await client.reconcile())
        assert set(found) == {"amount_differs"}


async def test_mismatch(qfpay_gateway: Gateway) -> None:
    """An executed entry that the gateway shows in another currency."""
    async with client_of(qfpay_gateway) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        await client.capture(syssn, LOST, idempotency_key="c")
        qfpay_gateway.faults.add("altered", operation="query", rows=True, changes={"txcurrcd": "USD"}, times=None)
        assert "mismatch" in kinds(await client.reconcile())


async def test_refused_though_executed(qfpay_gateway: Gateway) -> None:
    """An executed entry that the gateway shows as refused."""
    async with client_of(qfpay_gateway) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        await client.capture(syssn, LOST, idempotency_key="c")
        qfpay_gateway.faults.add("altered", operation="query", rows=True, changes={"respcd": "1201"}, times=None)
        assert "refused_though_executed" in kinds(await client.reconcile())
        assert await state(client, "c") is State.EXECUTED


async def test_executed_though_ended(qfpay_gateway: Gateway) -> None:
    """A person decided that it did not happen, and it did: reported, booked apart, and the decision stands."""
    async with client_of(qfpay_gateway) as client:
        await teach_words(client, qfpay_gateway)
        syssn = await registered(client, qfpay_gateway, HOLD)
        await lose(client, qfpay_gateway, syssn)
        await client.resolve("lost", Outcome.NOTHING_HAPPENED, reason="wrong")
        report = await client.reconcile()
        assert kinds(report) == ["executed_though_ended"]
        assert await state(client) is State.NOT_EXECUTED
        assert (await client.balance(syssn)).capturable == HOLD - LOST
        await check_equal(client, qfpay_gateway, syssn)


async def test_a_second_execution_under_our_number(qfpay_gateway: Gateway) -> None:
    """A gateway that executed one numbered refund twice: the second is reported and counts against the capture."""
    qfpay_gateway.config.unique_numbers = False
    async with client_of(qfpay_gateway) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        capture = await client.capture(syssn, LOST, idempotency_key="c")
        await client.refund(str(capture.syssn), 700, idempotency_key="r")
        sent = next(each for each in qfpay_gateway.requests if each.operation == "refund")
        from qfpay_preauth.testing._records import Write

        number = sent.params["out_trade_no"]
        qfpay_gateway.books.refund(
            Write(syssn=str(capture.syssn), amount=700, out_trade_no=number), qfpay_gateway.now()
        )
        assert kinds(await client.reconcile()) == ["missing_here"]
        await check_equal(client, qfpay_gateway, syssn)


async def test_reported_once(qfpay_gateway: Gateway) -> None:
    """A difference is reported by the pass that saw it, and is no news in the next."""
    async with client_of(qfpay_gateway) as client:
        await teach_words(client, qfpay_gateway)
        syssn = await registered(client, qfpay_gateway, HOLD)
        qfpay_gateway.portal_capture(syssn, 3_000)
        assert kinds(await client.reconcile()) == ["missing_here"]
        assert kinds(await client.reconcile()) == []


async def test_bookmark() -> None:
    """A later pass reads from a day before the last one, not from the first hold on."""
    clock = Clock()
    async with gateway_at(clock) as gateway, set_clock(client_of(gateway), clock) as client:
        await registered(client, gateway, HOLD)
        clock.ahead = timedelta(days=20)
        await client.reconcile()
        first = queries(gateway)
        await client.reconcile()
        assert first >= 20
        assert queries(gateway) - first <= 4


async def test_a_long_backlog_is_worked_off() -> None:
    """More to read than the share of a minute allows: each call goes on where the last stopped."""
    clock = Clock()
    async with gateway_at(clock) as gateway:
        client = client_of(gateway, requests_per_second=40, requests_per_minute=80, deadline_s=5)
        async with set_clock(client, clock):
            syssn = await registered(client, gateway, HOLD)
            clock.ahead = timedelta(days=1)
            gateway.portal_capture(syssn, 3_000)
            clock.ahead = timedelta(days=35)
            for _ in range(5):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1):
                        assert (await client.reconcile()).complete
                    break
                clock.monotonic_ahead_s += 61
            else:
                raise AssertionError("it never gets to the end")
            await check_equal(client, gateway, syssn)


async def test_an_interrupted_pass_is_made_again() -> None:
    """A pass that could not read everything leaves the bookmark: what it did not see is seen by the next."""
    clock = Clock()
    async with gateway_at(clock) as gateway, set_clock(client_of(gateway), clock) as client:
        await teach_words(client, gateway)
        syssn = await registered(client, gateway, HOLD)
        clock.ahead = timedelta(days=3)
        gateway.portal_capture(syssn, 3_000)
        clock.ahead = timedelta(days=6)
        gateway.faults.add("status_after", operation="query", after=2)
        with pytest.raises(PreauthError):
            await client.reconcile()
        clock.ahead = timedelta(days=12)
        await client.reconcile()
        await check_equal(client, gateway, syssn)


async def test_pages_are_read_until_they_agree() -> None:
    """A page that was empty once hides nothing: it is read again before anything is concluded."""
    clock = Clock(datetime(2026, 3, 10, 4, 5, 6, tzinfo=UTC))
    async with gateway_at(clock) as gateway, set_clock(client_of(gateway), clock) as client:
        await teach_words(client, gateway)
        syssn = await registered(client, gateway, HOLD)
        await lose(client, gateway, syssn)
        for _ in range(120):
            gateway.hold(999)
        gateway.faults.add("altered", operation="query", after=1, changes={"data": []})  # the second page
        await client.reconcile()
        assert gateway.faults.hits["altered"] == 1
        assert await state(client) is State.EXECUTED


async def test_a_list_that_keeps_changing() -> None:
    """Where no two readings agree the pass says so, and what it covered is read again by the next."""
    clock = Clock(datetime(2026, 3, 10, 4, 5, 6, tzinfo=UTC))
    async with gateway_at(clock) as gateway, set_clock(client_of(gateway), clock) as client:
        await registered(client, gateway, HOLD)
        clock.ahead = timedelta(seconds=2)
        for _ in range(120):
            gateway.hold(999)
        clock.ahead = timedelta(minutes=5)  # by then those rows are not new any more
        before = await client._ledger.span(client.account)
        for after in (2, 5):  # the second page of the first and of the third reading
            gateway.faults.add("altered", operation="query", after=after, changes={"data": []})
        report = await client.reconcile()
        assert (gateway.faults.hits["altered"], report.complete) == (2, False)
        assert await client._ledger.span(client.account) == before
        assert (await client.reconcile()).complete


# ------------------------------------------------------------------------------------------------ the background task


async def test_run_reconciler_ends_a_doubt(qfpay_gateway: Gateway) -> None:
    """A doubt that comes up while the reconciler runs ends within seconds, long before the next pass."""
    async with client_of(qfpay_gateway) as client:
        await teach_words(client, qfpay_gateway)
        task = asyncio.create_task(client.run_reconciler(3_600))
        syssn = await registered(client, qfpay_gateway, HOLD)
        await until(_asked(qfpay_gateway, queries(qfpay_gateway)))  # the first pass is under way
        await lose(client, qfpay_gateway, syssn)
        await until(_is(client, State.EXECUTED), within_s=8)
        assert not task.done()
        await check_equal(client, qfpay_gateway, syssn)
    assert task.done()


def _asked(gateway: Gateway, before: int) -> Any:
    async def condition() -> bool:
        return queries(gateway) > before

    return condition


def _is(client: PreauthClient, wanted: State) -> Any:
    async def condition() -> bool:
        return await state(client) is wanted

    return condition


@pytest.mark.parametrize("end", ["aclose", "cancel"])
async def test_run_reconciler_stops(qfpay_gateway: Gateway, end: str) -> None:
    """Closing the client ends the task, cancelling it too, at once, also while it waits for the gateway."""
    client = client_of(qfpay_gateway)
    async with client:
        await registered(client, qfpay_gateway, HOLD)
        qfpay_gateway.faults.add("hang_before", operation="query", times=None)
        task = asyncio.create_task(client.run_reconciler(0.05))
        await qfpay_gateway.wait_hanging()
        async with asyncio.timeout(3):
            if end == "aclose":
                await client.aclose()
                await task
            else:
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
    assert [each for each in asyncio.all_tasks() if "run_forever" in repr(each)] == []


async def test_run_reconciler_survives_an_outage(qfpay_gateway: Gateway) -> None:
    """A gateway that is away, then answers nonsense, does not end the task; afterwards the doubt ends."""
    async with client_of(qfpay_gateway, attempts_max=1) as client:
        await teach_words(client, qfpay_gateway)
        syssn = await registered(client, qfpay_gateway, HOLD)
        await lose(client, qfpay_gateway, syssn)
        await qfpay_gateway.refuse_connections()
        await qfpay_gateway.close_idle()
        qfpay_gateway.faults.add("garbled", operation="query", times=2)
        task = asyncio.create_task(client.run_reconciler(0.1))
        async with asyncio.timeout(0.5):
            await asyncio.wait((task,), timeout=0.2)
        assert not task.done()
        await qfpay_gateway.accept_connections()
        await until(_is(client, State.EXECUTED))
        assert qfpay_gateway.faults.hits["garbled"] == 2
        assert not task.done()


async def test_run_reconciler_survives_its_ledger(qfpay_gateway: Gateway, tmp_path: Path) -> None:
    """A ledger that cannot be written for a while does not end the task either."""
    from tests.evidence.broken import unwritable

    async with client_of(qfpay_gateway, sqlite_url(tmp_path)) as client:
        await teach_words(client, qfpay_gateway)
        syssn = await registered(client, qfpay_gateway, HOLD)
        await lose(client, qfpay_gateway, syssn)
        with unwritable(tmp_path / "ledger.db"):
            before = queries(qfpay_gateway)
            task = asyncio.create_task(client.run_reconciler(0.1))
            await until(_asked(qfpay_gateway, before + 3))
        await until(_is(client, State.EXECUTED))
        assert not task.done()


@pytest.mark.parametrize("fault", [None, "rate_limited"])
async def test_a_quarter_of_the_budget(qfpay_gateway: Gateway, fault: str | None) -> None:
    """However often it passes, and however often it is refused, it sends at most a quarter of a minute's requests."""
    async with client_of(qfpay_gateway, requests_per_second=40, requests_per_minute=80, deadline_s=1) as client:
        await registered(client, qfpay_gateway, HOLD)
        if fault:
            qfpay_gateway.faults.add(fault, operation="query", times=None)
        task = asyncio.create_task(client.run_reconciler(0.01))
        await until(_asked(qfpay_gateway, 3 if fault else 19))  # each refusal parks the budget for longer
        await asyncio.wait((task,), timeout=1)  # the time in which it would go too far
        assert queries(qfpay_gateway) <= 20
        assert not task.done()


async def test_it_backs_off(qfpay_gateway: Gateway) -> None:
    """A doubt that nothing ends is asked for ever more rarely."""
    heard = Heard()
    async with hearing_client(qfpay_gateway, heard) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        await lose(client, qfpay_gateway, syssn, fault="drop_before")
        task = asyncio.create_task(client.run_reconciler(3_600))
        await asyncio.wait((task,), timeout=2)
        assert queries(qfpay_gateway) <= 8
        assert executed(qfpay_gateway, syssn) == []


@pytest.mark.parametrize("interval", [0, -1, float("nan"), float("inf"), "5", None, True])
async def test_bad_intervals(qfpay_gateway: Gateway, interval: Any) -> None:
    """An interval that is no positive number of seconds is refused."""
    async with client_of(qfpay_gateway) as client:
        with pytest.raises(InvalidRequestError):
            await client.run_reconciler(interval)
