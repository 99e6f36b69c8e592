"""Lost answers and the enquiry: what it finds ends the doubt, what it cannot be sure of never does."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from qfpay_preauth import AlreadyUnfrozenError, AuthorizationClosedError, OutcomeUnknownError, PreauthError, State
from qfpay_preauth.testing import Gateway
from tests.evidence.kit import (
    HOLD,
    LOST,
    Clock,
    check_equal,
    doubts,
    entry_of,
    executed,
    gateway_at,
    lose,
    lose_refund,
    lose_unfreeze,
    queries,
    set_clock,
    state,
    teach_words,
    writes,
)
from tests.support import client_of, registered, sqlite_url

LOST_ANSWERS = ("drop_after", "reset_after", "status_after", "garbled", "cut")


@pytest.mark.parametrize("fault", LOST_ANSWERS)
async def test_a_lost_capture_is_found(qfpay_gateway: Gateway, fault: str) -> None:
    """A capture whose answer was lost ends as executed by its row, without another write."""
    async with client_of(qfpay_gateway) as client:
        await teach_words(client, qfpay_gateway)
        syssn = await registered(client, qfpay_gateway, HOLD)
        await lose(client, qfpay_gateway, syssn, fault=fault)
        before = writes(qfpay_gateway)
        report = await client.reconcile()
        assert [entry.idempotency_key for entry in report.ended] == ["lost"]
        found = await client.capture(syssn, LOST, idempotency_key="lost")
        assert [(found.syssn, found.amount)] == executed(qfpay_gateway, syssn)
        assert (found.replayed, found.confirmed_by) == (True, "enquiry")
        assert writes(qfpay_gateway) == before
        await check_equal(client, qfpay_gateway, syssn)
        assert (await client.refund(str(found.syssn), 500, idempotency_key="back")).amount == 500


@pytest.mark.parametrize("taught", [True, False])
async def test_a_lost_unfreeze_is_found(qfpay_gateway: Gateway, taught: bool) -> None:
    """An unfreeze whose answer was lost is found, with or without known words: no capture is in doubt."""
    async with client_of(qfpay_gateway) as client:
        if taught:
            await teach_words(client, qfpay_gateway)
        syssn = await registered(client, qfpay_gateway, HOLD)
        await client.capture(syssn, LOST, idempotency_key="before")
        await lose_unfreeze(client, qfpay_gateway, syssn, "lost")
        await client.reconcile()
        assert await state(client) is State.EXECUTED
        await check_equal(client, qfpay_gateway, syssn)


async def test_a_lost_refund_is_found(qfpay_gateway: Gateway) -> None:
    """A refund is found by its own number, whatever is known about words."""
    async with client_of(qfpay_gateway) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        capture = await client.capture(syssn, LOST, idempotency_key="c")
        await lose_refund(client, qfpay_gateway, str(capture.syssn), 700, "lost")
        await client.reconcile()
        assert await state(client) is State.EXECUTED
        await check_equal(client, qfpay_gateway, syssn)


async def test_a_capture_with_a_reference_is_found(qfpay_gateway: Gateway) -> None:
    """A capture that carried a reference is found by it, without words."""
    async with client_of(qfpay_gateway, capture_reference=True) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        await lose(client, qfpay_gateway, syssn)
        await client.reconcile()
        assert await state(client) is State.EXECUTED
        await check_equal(client, qfpay_gateway, syssn)


async def test_unknown_words_need_attention_until_they_are_shown(qfpay_gateway: Gateway) -> None:
    """As long as the gateway's words were not shown, a person has to look; once they were, the doubt ends."""
    async with client_of(qfpay_gateway) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        await lose(client, qfpay_gateway, syssn)
        report = await client.reconcile()
        assert (report.ended, report.in_doubt, report.needs_attention) == ((), 1, 1)
        await teach_words(client, qfpay_gateway)
        await client.reconcile()
        assert await state(client) is State.EXECUTED
        await check_equal(client, qfpay_gateway, syssn)


async def test_the_same_word_for_both(qfpay_gateway: Gateway) -> None:
    """Where the gateway has one word for both kinds, only a later capture of ours tells which it is."""
    qfpay_gateway.config.order_types["unfreeze"] = "payment"
    clock = Clock()
    async with gateway_at(clock) as gateway, set_clock(client_of(gateway), clock) as client:
        gateway.config.order_types["unfreeze"] = "payment"
        await teach_words(client, gateway)
        syssn = await registered(client, gateway, HOLD)
        await lose(client, gateway, syssn)
        assert (await client.reconcile()).needs_attention == 1
        clock.ahead = timedelta(seconds=5)
        await client.capture(syssn, 300, idempotency_key="later")
        await client.reconcile()
        assert await state(client) is State.EXECUTED
        await check_equal(client, gateway, syssn)


async def test_rows_without_original(qfpay_gateway: Gateway) -> None:
    """Where rows do not name their original nothing is guessed: in doubt, and the claim stays."""
    qfpay_gateway.config.link_rows = False
    async with client_of(qfpay_gateway) as client:
        await teach_words(client, qfpay_gateway)
        syssn = await registered(client, qfpay_gateway, HOLD)
        await lose(client, qfpay_gateway, syssn)
        await client.reconcile()
        assert await state(client) is State.IN_DOUBT
        assert (await client.balance(syssn)).in_doubt == LOST


@pytest.mark.parametrize(
    "changes",
    [
        {"txamt": None},
        {"txamt": "9999"},
        {"txcurrcd": "USD"},
        {"sysdtm": None},
        {"sysdtm": "2020-01-01 00:00:00"},
        {"order_type": "something else"},
        {"order_type": "refund"},
        {"respcd": "1143"},
        {"respcd": "1266"},
        {"respcd": None},
        {"origssn": "20260315180500020000000001"},
    ],
    ids=str,
)
async def test_strange_rows_end_nothing(qfpay_gateway: Gateway, changes: dict[str, str | None]) -> None:
    """An enquiry whose rows say something else leaves the doubt and its claim where they are."""
    async with client_of(qfpay_gateway) as client:
        await teach_words(client, qfpay_gateway)
        syssn = await registered(client, qfpay_gateway, HOLD)
        await lose(client, qfpay_gateway, syssn)
        qfpay_gateway.faults.add("altered", operation="query", rows=True, changes=changes, times=None)
        await client.reconcile()
        assert await state(client) is State.IN_DOUBT
        assert (await client.balance(syssn)).in_doubt == LOST


async def test_never_executed_stays_in_doubt(qfpay_gateway: Gateway) -> None:
    """Not being shown is not a no: the doubt stays, however often the gateway is asked."""
    async with client_of(qfpay_gateway) as client:
        await teach_words(client, qfpay_gateway)
        syssn = await registered(client, qfpay_gateway, HOLD)
        await lose(client, qfpay_gateway, syssn, fault="drop_before")
        for _ in range(4):
            await client.reconcile()
        assert await doubts(client) == ["lost"]
        assert (await client.balance(syssn)).in_doubt == LOST


async def test_rows_that_come_late() -> None:
    """While the gateway's list lags the doubt stays; when the row appears it ends."""
    clock = Clock()
    async with gateway_at(clock) as gateway, set_clock(client_of(gateway), clock) as client:
        await teach_words(client, gateway)
        gateway.config.query_lag = timedelta(minutes=30)
        syssn = await registered(client, gateway, HOLD)
        await lose(client, gateway, syssn)
        await client.reconcile()
        assert await state(client) is State.IN_DOUBT
        clock.ahead = timedelta(minutes=31)
        await client.reconcile()
        assert await state(client) is State.EXECUTED
        await check_equal(client, gateway, syssn)


@pytest.mark.parametrize("newest_first", [True, False])
async def test_many_pages(qfpay_gateway: Gateway, newest_first: bool) -> None:
    """The row is found among several pages of other people's."""
    qfpay_gateway.config.newest_first = newest_first
    async with client_of(qfpay_gateway) as client:
        await teach_words(client, qfpay_gateway)
        syssn = await registered(client, qfpay_gateway, HOLD)
        for _ in range(120):
            qfpay_gateway.hold(999)
        await lose(client, qfpay_gateway, syssn)
        for _ in range(120):
            qfpay_gateway.hold(999)
        await client.reconcile()
        assert await state(client) is State.EXECUTED
        await check_equal(client, qfpay_gateway, syssn)


@pytest.mark.parametrize("ahead_s", [1, 3600, 40 * 86_400])
async def test_over_the_edge_of_a_month(ahead_s: int) -> None:
    """A capture in a month's last second (UTC+8) is found from the next month, and from the one after."""
    clock = Clock(datetime(2026, 3, 31, 15, 59, 59, tzinfo=UTC))
    async with gateway_at(clock) as gateway, set_clock(client_of(gateway), clock) as client:
        await teach_words(client, gateway)
        syssn = await registered(client, gateway, HOLD)
        await lose(client, gateway, syssn)
        clock.ahead = timedelta(seconds=ahead_s)
        await client.reconcile()
        assert await state(client) is State.EXECUTED
        await check_equal(client, gateway, syssn)


async def test_many_doubts_share_one_enquiry(qfpay_gateway: Gateway) -> None:
    """A hundred doubts cost the enquiries of one, in a reconciliation."""
    async with client_of(qfpay_gateway) as client:
        await teach_words(client, qfpay_gateway)
        syssns = [await registered(client, qfpay_gateway, HOLD) for _ in range(40)]
        qfpay_gateway.faults.add("drop_after", operation="capture", times=None)
        captures = (client.capture(syssn, LOST, idempotency_key=f"k{syssn}") for syssn in syssns)
        errors = await asyncio.gather(*captures, return_exceptions=True)
        assert {type(error) for error in errors} == {OutcomeUnknownError}
        before = queries(qfpay_gateway)
        report = await client.reconcile()
        assert (len(report.ended), report.in_doubt) == (40, 0)
        assert queries(qfpay_gateway) - before <= 8
        await check_equal(client, qfpay_gateway, *syssns)


async def test_execution_long_after_a_504(qfpay_gateway: Gateway) -> None:
    """An execution long after its 504: in doubt while the enquiry shows nothing, found when it happened."""
    async with client_of(qfpay_gateway) as client:
        await teach_words(client, qfpay_gateway)
        syssn = await registered(client, qfpay_gateway, HOLD)
        await lose(client, qfpay_gateway, syssn, fault="late")
        for _ in range(3):
            await client.reconcile()
            with pytest.raises(OutcomeUnknownError):
                await client.capture(syssn, LOST, idempotency_key="lost")
        assert executed(qfpay_gateway, syssn) == []
        assert qfpay_gateway.run_late() == 1
        await client.reconcile()
        assert [((await entry_of(client)).result_syssn, LOST)] == executed(qfpay_gateway, syssn)
        await check_equal(client, qfpay_gateway, syssn)


async def test_two_answers_swapped(qfpay_gateway: Gateway) -> None:
    """Two answers that changed places are believed by nobody; the enquiry gives each capture its own syssn."""
    async with client_of(qfpay_gateway) as client:
        await teach_words(client, qfpay_gateway)
        syssns = [await registered(client, qfpay_gateway, HOLD) for _ in range(2)]
        qfpay_gateway.faults.add("swapped", operation="capture", times=2)
        captures = (client.capture(syssn, LOST, idempotency_key=syssn) for syssn in syssns)
        errors = await asyncio.gather(*captures, return_exceptions=True)
        assert [type(error) for error in errors] == [OutcomeUnknownError] * 2
        await client.reconcile()
        for syssn in syssns:
            assert [((await entry_of(client, syssn)).result_syssn, LOST)] == executed(qfpay_gateway, syssn)
        await check_equal(client, qfpay_gateway, *syssns)


@pytest.mark.parametrize("fault", ["drop_after", "drop_before"])
async def test_capture_during_a_lost_unfreeze(qfpay_gateway: Gateway, fault: str) -> None:
    """While an unfreeze's answer is lost, a capture is refused before anything is sent, and afterwards too."""
    async with client_of(qfpay_gateway) as client:
        await teach_words(client, qfpay_gateway)
        syssn = await registered(client, qfpay_gateway, HOLD)
        await lose_unfreeze(client, qfpay_gateway, syssn, "close", fault)
        before = writes(qfpay_gateway)
        with pytest.raises(PreauthError) as caught:
            await client.capture(syssn, 300, idempotency_key="too-late")
        assert isinstance(caught.value, AuthorizationClosedError)
        with pytest.raises(AlreadyUnfrozenError):
            await client.unfreeze(syssn, idempotency_key="close-again")
        await client.reconcile()
        with pytest.raises(AuthorizationClosedError):
            await client.capture(syssn, 300, idempotency_key="too-late")
        assert writes(qfpay_gateway) == before
        assert (await state(client, "close")) is (State.EXECUTED if fault == "drop_after" else State.IN_DOUBT)


@pytest.mark.parametrize(("then", "after"), [("0000", State.EXECUTED), ("1266", State.NOT_EXECUTED)])
async def test_a_pending_capture(qfpay_gateway: Gateway, then: str, after: State) -> None:
    """A pending capture is asked for by its syssn until the gateway has decided."""
    async with client_of(qfpay_gateway) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        await lose(client, qfpay_gateway, syssn, fault="pending", then=then)
        await client.reconcile()
        assert await state(client) is State.IN_DOUBT
        qfpay_gateway.settle_pending()
        await client.reconcile()
        assert await state(client) is after
        await check_equal(client, qfpay_gateway, syssn)


@pytest.mark.parametrize("fault", ["garbled", "drop_after", "status_after", "respcd"])
async def test_an_unreadable_enquiry(qfpay_gateway: Gateway, fault: str) -> None:
    """A reconciliation that cannot read raises one explained error, changes nothing, and the next one goes on."""
    async with client_of(qfpay_gateway) as client:
        await teach_words(client, qfpay_gateway)
        syssn = await registered(client, qfpay_gateway, HOLD)
        await lose(client, qfpay_gateway, syssn)
        qfpay_gateway.faults.add(fault, operation="query", times=None)
        with pytest.raises(PreauthError):
            await client.reconcile()
        assert await state(client) is State.IN_DOUBT
        qfpay_gateway.faults.clear()
        await client.reconcile()
        assert await state(client) is State.EXECUTED


async def test_found_by_another_process_ledger(qfpay_gateway: Gateway, tmp_path: object) -> None:
    """What one client left in doubt in a file, another client on that file ends."""
    from pathlib import Path

    url = sqlite_url(Path(str(tmp_path)))
    async with client_of(qfpay_gateway, url) as client:
        await teach_words(client, qfpay_gateway)
        syssn = await registered(client, qfpay_gateway, HOLD)
        await lose(client, qfpay_gateway, syssn)
    async with client_of(qfpay_gateway, url) as client:
        await client.reconcile()
        assert await state(client) is State.EXECUTED
        await check_equal(client, qfpay_gateway, syssn)
