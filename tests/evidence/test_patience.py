"""Patience: a call whose answer was lost looks for evidence, and so does every later call with its key."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from qfpay_preauth import Outcome, OutcomeUnknownError, State
from qfpay_preauth.testing import Gateway
from tests.evidence.kit import (
    HOLD,
    LOST,
    check_equal,
    executed,
    lose,
    lose_refund,
    lose_unfreeze,
    queries,
    state,
    teach_words,
    writes,
)
from tests.nursery import Spawn
from tests.support import client_of, registered, sqlite_url


async def test_patience_returns_the_result(qfpay_gateway: Gateway) -> None:
    """The very call whose answer was lost returns the capture, after its first look within a second."""
    async with client_of(qfpay_gateway) as client:
        await teach_words(client, qfpay_gateway)
        syssn = await registered(client, qfpay_gateway, HOLD)
        qfpay_gateway.faults.add("drop_after", operation="capture")
        began = time.monotonic()
        capture = await client.capture(syssn, LOST, idempotency_key="lost", patience_s=10)
        assert time.monotonic() - began < 1
        assert [(capture.syssn, capture.amount)] == executed(qfpay_gateway, syssn)
        assert (capture.replayed, capture.confirmed_by) == (False, "enquiry")
        await check_equal(client, qfpay_gateway, syssn)


async def test_patience_for_unfreeze_and_refund(qfpay_gateway: Gateway) -> None:
    """Unfreezes and refunds are looked for as well."""
    async with client_of(qfpay_gateway, patience_s=10) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        capture = await client.capture(syssn, LOST, idempotency_key="c")
        qfpay_gateway.faults.add("drop_after", operation="refund")
        qfpay_gateway.faults.add("drop_after", operation="unfreeze")
        refund = await client.refund(str(capture.syssn), 700, idempotency_key="r")
        unfreeze = await client.unfreeze(syssn, idempotency_key="u")
        assert (refund.confirmed_by, unfreeze.confirmed_by) == ("enquiry", "enquiry")
        await check_equal(client, qfpay_gateway, syssn)


async def test_a_later_call_looks_too(qfpay_gateway: Gateway) -> None:
    """A later call with the same key sends nothing, looks for evidence, and returns the result."""
    async with client_of(qfpay_gateway) as client:
        await teach_words(client, qfpay_gateway)
        syssn = await registered(client, qfpay_gateway, HOLD)
        await lose(client, qfpay_gateway, syssn)
        before = writes(qfpay_gateway)
        capture = await client.capture(syssn, LOST, idempotency_key="lost", patience_s=10)
        assert (capture.replayed, capture.confirmed_by) == (True, "enquiry")
        assert writes(qfpay_gateway) == before
        await check_equal(client, qfpay_gateway, syssn)


async def test_later_calls_for_unfreeze_and_refund(qfpay_gateway: Gateway) -> None:
    """The same for the other two operations."""
    async with client_of(qfpay_gateway) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        capture = await client.capture(syssn, LOST, idempotency_key="c")
        await lose_refund(client, qfpay_gateway, str(capture.syssn), 700, "r")
        await lose_unfreeze(client, qfpay_gateway, syssn, "u")
        before = writes(qfpay_gateway)
        assert (await client.refund(str(capture.syssn), 700, idempotency_key="r", patience_s=10)).replayed
        assert (await client.unfreeze(syssn, idempotency_key="u", patience_s=10)).replayed
        assert writes(qfpay_gateway) == before


async def test_patience_zero(qfpay_gateway: Gateway) -> None:
    """Without patience nothing is asked: the caller is told at once."""
    async with client_of(qfpay_gateway) as client:
        await teach_words(client, qfpay_gateway)
        syssn = await registered(client, qfpay_gateway, HOLD)
        before = queries(qfpay_gateway)
        await lose(client, qfpay_gateway, syssn)
        with pytest.raises(OutcomeUnknownError):
            await client.capture(syssn, LOST, idempotency_key="lost", patience_s=0)
        assert queries(qfpay_gateway) == before


async def test_patience_ends(qfpay_gateway: Gateway) -> None:
    """Patience ends when it says, with the one error, and the doubt stays."""
    async with client_of(qfpay_gateway) as client:
        await teach_words(client, qfpay_gateway)
        syssn = await registered(client, qfpay_gateway, HOLD)
        qfpay_gateway.faults.add("drop_before", operation="capture")
        began = time.monotonic()
        with pytest.raises(OutcomeUnknownError) as caught:
            await client.capture(syssn, LOST, idempotency_key="lost", patience_s=0.6)
        assert 0.5 < time.monotonic() - began < 2
        assert (caught.value.outcome, caught.value.idempotency_key) == (Outcome.UNKNOWN, "lost")
        assert await state(client) is State.IN_DOUBT


@pytest.mark.parametrize("fault", ["hang_before", "status_before", "garbled", "drop_before", "rate_limited"])
async def test_patience_with_a_broken_enquiry(qfpay_gateway: Gateway, fault: str) -> None:
    """An enquiry that fails, or never answers, makes the call neither longer nor fail otherwise."""
    async with client_of(qfpay_gateway) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        qfpay_gateway.faults.add("drop_after", operation="capture")
        qfpay_gateway.faults.add(fault, operation="query", times=None)
        began = time.monotonic()
        with pytest.raises(OutcomeUnknownError):
            await client.capture(syssn, LOST, idempotency_key="lost", patience_s=0.5)
        assert time.monotonic() - began < 2


async def test_the_deadline_bounds_patience(qfpay_gateway: Gateway) -> None:
    """However patient, a call ends at its deadline."""
    async with client_of(qfpay_gateway) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        qfpay_gateway.faults.add("drop_before", operation="capture")
        began = time.monotonic()
        with pytest.raises(OutcomeUnknownError):
            await client.capture(syssn, LOST, idempotency_key="lost", patience_s=60, deadline_s=0.5)
        assert time.monotonic() - began < 2


async def test_callers_share_their_looks(qfpay_gateway: Gateway) -> None:
    """Forty callers that lost their answers together are served by a few enquiries."""
    async with client_of(qfpay_gateway) as client:
        await teach_words(client, qfpay_gateway)
        syssns = [await registered(client, qfpay_gateway, HOLD) for _ in range(40)]
        qfpay_gateway.faults.add("drop_after", operation="capture", times=None)
        before = queries(qfpay_gateway)
        captures = (client.capture(syssn, LOST, idempotency_key=syssn, patience_s=10) for syssn in syssns)
        found = await asyncio.gather(*captures)
        assert {capture.confirmed_by for capture in found} == {"enquiry"}
        assert queries(qfpay_gateway) - before <= 12
        await check_equal(client, qfpay_gateway, *syssns)


async def test_cancelled_while_patient(qfpay_gateway: Gateway) -> None:
    """A caller that leaves while evidence is looked for loses nothing: the next call finds it."""
    async with client_of(qfpay_gateway) as client:
        await teach_words(client, qfpay_gateway)
        syssn = await registered(client, qfpay_gateway, HOLD)
        qfpay_gateway.faults.add("drop_after", operation="capture")
        qfpay_gateway.faults.add("hang_after", operation="query")
        call = asyncio.create_task(client.capture(syssn, LOST, idempotency_key="lost", patience_s=10))
        await qfpay_gateway.wait_hanging()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        qfpay_gateway.release()
        assert (await client.capture(syssn, LOST, idempotency_key="lost", patience_s=10)).amount == LOST
        assert len(executed(qfpay_gateway, syssn)) == 1


@pytest.mark.parametrize("taught", [True, False])
async def test_three_processes_ten_calls_each(
    qfpay_gateway: Gateway, tmp_path: Path, spawn: Spawn, taught: bool
) -> None:
    """After a lost answer, three processes call the same key ten times each: one execution, no further write."""
    url = sqlite_url(tmp_path)
    async with client_of(qfpay_gateway, url) as client:
        if taught:
            await teach_words(client, qfpay_gateway)
        syssn = await registered(client, qfpay_gateway, HOLD)
        await lose(client, qfpay_gateway, syssn)
        before = writes(qfpay_gateway)
        patience = "10" if taught else "0.2"  # where nothing can be found, waiting is idle
        words = ("same", qfpay_gateway.url, url, syssn, str(LOST), patience)
        children = [await spawn("tests.evidence.child", *words) for _ in range(3)]
        for child in children:
            said, code = await child.ended()
            assert code == 0, said
            lines = said.decode().split()
            if taught:
                assert lines == [executed(qfpay_gateway, syssn)[0][0]] * 10
            else:
                assert lines == ["OutcomeUnknownError"] * 10
        assert len(executed(qfpay_gateway, syssn)) == 1
        assert writes(qfpay_gateway) == before
        if taught:
            await check_equal(client, qfpay_gateway, syssn)
