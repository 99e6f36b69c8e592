"""One key moves money once: replays, conflicts, queues, several clients on one ledger, and our own books' refusals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from qfpay_preauth import (
    AlreadyUnfrozenError,
    AuthorizationClosedError,
    Capture,
    DeclinedError,
    IdempotencyConflictError,
    OperationInProgressError,
    OutcomeUnknownError,
    OverCaptureError,
    OverRefundError,
    PreauthClient,
    State,
    UnknownAuthorizationError,
    UnknownCaptureError,
)
from qfpay_preauth.testing import Gateway
from tests.client.kit import OPERATIONS, captured_at, scene, sent, turns
from tests.support import client_of, registered, sqlite_url


@pytest.fixture(params=["memory", "sqlite"])
async def client(
    request: pytest.FixtureRequest, tmp_path: Path, qfpay_gateway: Gateway
) -> AsyncIterator[PreauthClient]:
    ledger = "memory://" if request.param == "memory" else sqlite_url(tmp_path)
    async with client_of(qfpay_gateway, ledger, timeout_total_s=5) as client:
        yield client


# ------------------------------------------------------------------------------------------------ one key


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_key_replays_its_result(client: PreauthClient, qfpay_gateway: Gateway, operation: str) -> None:
    """The same call again answers from the ledger: equal fields, `replayed`, and no request."""
    one = await scene(qfpay_gateway, client, operation)
    first = await one.run()
    again = await one.run()
    assert (first.replayed, again.replayed, one.sent(), one.executed()) == (False, True, 1, 1)
    names = ("syssn", "orig_syssn", "amount", "currency", "code", "message", "system_time", "confirmed_by", "raw")
    assert [getattr(again, name) for name in names] == [getattr(first, name) for name in names]


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_ten_tasks_with_one_key(client: PreauthClient, qfpay_gateway: Gateway, operation: str) -> None:
    """Ten concurrent calls with one key send one request, and all get the one result."""
    one = await scene(qfpay_gateway, client, operation)
    results = await asyncio.gather(*(one.run() for _ in range(10)))
    assert (one.sent(), one.executed(), len({result.syssn for result in results})) == (1, 1, 1)
    assert sorted(result.replayed for result in results) == [False] + [True] * 9


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_ten_tasks_with_one_key_and_a_lost_answer(
    client: PreauthClient, qfpay_gateway: Gateway, operation: str
) -> None:
    """Ten concurrent calls whose one answer is lost: one request, ten times the same doubt."""
    one = await scene(qfpay_gateway, client, operation)
    qfpay_gateway.faults.add("drop_after", operation=operation, times=None)
    errors = await asyncio.gather(*(one.fails() for _ in range(10)))
    assert {type(error) for error in errors} == {OutcomeUnknownError}
    assert (one.sent(), one.executed()) == (1, 1)


async def test_another_request_under_a_key_conflicts(client: PreauthClient, qfpay_gateway: Gateway) -> None:
    """Another amount, hold or operation under a used key is refused before anything is sent."""
    syssn, other = [await registered(client, qfpay_gateway) for _ in range(2)]
    capture = await client.capture(syssn, 1_000, idempotency_key="k")
    with pytest.raises(IdempotencyConflictError) as caught:
        await client.capture(syssn, 1_001, idempotency_key="k")
    assert caught.value.idempotency_key == "k"
    with pytest.raises(IdempotencyConflictError):
        await client.capture(other, 1_000, idempotency_key="k")
    with pytest.raises(IdempotencyConflictError):
        await client.unfreeze(syssn, idempotency_key="k")
    with pytest.raises(IdempotencyConflictError):
        await client.refund(str(capture.syssn), 1_000, idempotency_key="k")
    assert sent(qfpay_gateway) == 1


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_final_refusal_replays(client: PreauthClient, qfpay_gateway: Gateway, operation: str) -> None:
    """A sure refusal is the key's end: the same error again without a request; a new key tries anew."""
    one = await scene(qfpay_gateway, client, operation)
    qfpay_gateway.faults.add("respcd", operation=operation, code="1201")
    first, again = await one.fails(), await one.fails()
    assert isinstance(first, DeclinedError)
    assert isinstance(again, DeclinedError)
    assert (again.code, again.retry_later, str(again), one.sent()) == ("1201", False, str(first), 1)
    assert (await one.run("another")).replayed is False


# ------------------------------------------------------------------------------------------------ queues


async def test_equal_captures_run_one_after_another(client: PreauthClient, qfpay_gateway: Gateway) -> None:
    """Writes on one authorization queue in the order they came, so equal captures need no care in one process."""
    syssn = await registered(client, qfpay_gateway)
    qfpay_gateway.faults.add("hang_after", operation="capture")
    calls = [asyncio.create_task(client.capture(syssn, 5_000, idempotency_key=f"k{n}")) for n in range(5)]
    await qfpay_gateway.wait_hanging()
    assert sent(qfpay_gateway, "capture") == 1
    qfpay_gateway.release()
    results = await asyncio.gather(*calls)
    assert [result.idempotency_key for result in results] == [f"k{n}" for n in range(5)]
    assert [result.syssn for result in results] == sorted(str(result.syssn) for result in results)
    assert captured_at(qfpay_gateway, syssn) == {5_000: 5}


async def test_holds_do_not_wait_for_each_other(client: PreauthClient, qfpay_gateway: Gateway) -> None:
    """A hanging capture on one hold keeps no other hold waiting."""
    slow, quick = [await registered(client, qfpay_gateway) for _ in range(2)]
    qfpay_gateway.faults.add("hang_after", syssn=slow)
    hanging = asyncio.create_task(client.capture(slow, 5_000, idempotency_key="slow"))
    await qfpay_gateway.wait_hanging()
    assert (await client.capture(quick, 5_000, idempotency_key="quick")).amount == 5_000
    assert not hanging.done()
    qfpay_gateway.release()
    assert (await hanging).amount == 5_000


async def test_refunds_queue_with_their_hold(client: PreauthClient, qfpay_gateway: Gateway) -> None:
    """A refund waits for the other writes on its hold, and they for it (QFPay refuses refunds seconds apart)."""
    one = await scene(qfpay_gateway, client, "refund")
    qfpay_gateway.faults.add("hang_after", operation="refund")
    calls = [asyncio.create_task(one.run("refund-1"))]
    await qfpay_gateway.wait_hanging()
    calls.append(asyncio.create_task(one.run("refund-2")))
    calls.append(asyncio.create_task(one.client.capture(one.syssn, 700, idempotency_key="c")))
    await turns(30)
    assert (sent(qfpay_gateway, "refund"), sent(qfpay_gateway, "capture")) == (1, 1)
    qfpay_gateway.release()
    assert [result.amount for result in await asyncio.gather(*calls)] == [10_000, 10_000, 700]


async def test_a_queued_call_ends_at_its_deadline(qfpay_gateway: Gateway) -> None:
    """Whenever a call joins the queue, also while the turn passes on, it waits no longer than its deadline."""
    async with client_of(qfpay_gateway) as client:
        syssn = await registered(client, qfpay_gateway)
        for amount in (1_001, 1_002):
            qfpay_gateway.faults.add("hang_before", operation="capture", amount=amount)
        first = asyncio.create_task(client.capture(syssn, 1_001, idempotency_key="first"))
        await qfpay_gateway.wait_hanging()
        second = asyncio.create_task(client.capture(syssn, 1_002, idempotency_key="second"))
        await turns(5)
        qfpay_gateway.release()
        waiting: list[asyncio.Task[Capture]] = []
        while qfpay_gateway.server.hanging == 0 or len(waiting) < 40:
            key = f"k{len(waiting)}"
            waiting.append(asyncio.create_task(client.capture(syssn, 2_000, idempotency_key=key, deadline_s=0.1)))
            await asyncio.sleep(0)
        done, pending = await asyncio.wait(waiting, timeout=2)
        qfpay_gateway.release()
        await asyncio.gather(first, second, *pending, return_exceptions=True)
        assert not pending
        errors = [task.exception() for task in done]
        assert {type(error) for error in errors} == {OperationInProgressError}
        assert sent(qfpay_gateway, "capture") == 2


async def test_a_queue_time_out_names_its_key(client: PreauthClient, qfpay_gateway: Gateway) -> None:
    """A call that never got its turn says whose it was; nothing was written."""
    one = await scene(qfpay_gateway, client, "capture")
    qfpay_gateway.faults.add("hang_before", operation="capture")
    hanging = asyncio.create_task(one.fails("first"))
    await qfpay_gateway.wait_hanging()
    error = await one.fails("second", deadline_s=0.05)
    assert isinstance(error, OperationInProgressError)
    assert await client.entry("second") is None
    qfpay_gateway.release()
    assert isinstance(await hanging, OutcomeUnknownError)
    assert error.idempotency_key == "second"


async def test_a_queue_time_out_still_answers_for_its_key(client: PreauthClient, qfpay_gateway: Gateway) -> None:
    """What the ledger knows needs no turn: an ended key is replayed and a conflicting one told so, however long."""
    one = await scene(qfpay_gateway, client, "capture")
    done = await client.capture(one.syssn, 3_000, idempotency_key="done")
    qfpay_gateway.faults.add("drop_after", operation="capture", amount=3_500)
    with pytest.raises(OutcomeUnknownError):
        await client.capture(one.syssn, 3_500, idempotency_key="doubt", patience_s=0)
    qfpay_gateway.faults.add("hang_before", operation="capture")
    hanging = asyncio.create_task(one.fails("first"))
    await qfpay_gateway.wait_hanging()
    replay = await client.capture(one.syssn, 3_000, idempotency_key="done", deadline_s=0.05)
    assert (replay.syssn, replay.replayed) == (done.syssn, True)
    with pytest.raises(IdempotencyConflictError):
        await client.capture(one.syssn, 3_001, idempotency_key="done", deadline_s=0.05)
    with pytest.raises(OutcomeUnknownError):
        await client.capture(one.syssn, 3_500, idempotency_key="doubt", deadline_s=0.05, patience_s=0)
    assert one.sent() == 3
    qfpay_gateway.release()
    assert isinstance(await hanging, OutcomeUnknownError)


# ------------------------------------------------------------------------------------------------ two clients


async def test_two_clients_on_one_ledger(tmp_path: Path, qfpay_gateway: Gateway) -> None:
    """While one client holds an entry, another is told which: equal twins are refused, other amounts admitted."""
    url = sqlite_url(tmp_path)
    async with client_of(qfpay_gateway, url) as first, client_of(qfpay_gateway, url) as second:
        syssn = await registered(first, qfpay_gateway)
        qfpay_gateway.faults.add("hang_after", operation="capture")
        hanging = asyncio.create_task(first.capture(syssn, 5_000, idempotency_key="mine"))
        await qfpay_gateway.wait_hanging()
        for key in ("mine", "twin"):
            with pytest.raises(OperationInProgressError, match="'mine'") as caught:
                await second.capture(syssn, 5_000, idempotency_key=key)
            assert caught.value.idempotency_key == key
        with pytest.raises(OperationInProgressError, match="'mine'"):
            await second.unfreeze(syssn, idempotency_key="close")
        assert (await second.capture(syssn, 6_000, idempotency_key="other")).amount == 6_000
        with pytest.raises(OverCaptureError) as over:
            await second.capture(syssn, 39_001, idempotency_key="over")
        assert (over.value.requested, over.value.capturable) == (39_001, 39_000)
        qfpay_gateway.release()
        assert (await hanging).amount == 5_000
        assert (await second.capture(syssn, 5_000, idempotency_key="mine")).replayed is True
    assert captured_at(qfpay_gateway, syssn) == {5_000: 1, 6_000: 1}


async def test_ten_clients_with_one_key(tmp_path: Path, qfpay_gateway: Gateway) -> None:
    """Ten clients race for one key on one ledger: one request, and nobody gets anything but the result or "wait"."""
    url = sqlite_url(tmp_path)
    clients = [client_of(qfpay_gateway, url) for _ in range(10)]
    syssn = await registered(clients[0], qfpay_gateway)
    calls = (each.capture(syssn, 5_000, idempotency_key="k") for each in clients)
    found = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(each) for each in found} <= {Capture, OperationInProgressError}
    assert (await clients[9].capture(syssn, 5_000, idempotency_key="k")).amount == 5_000
    for each in clients:
        await each.aclose()
    assert captured_at(qfpay_gateway, syssn) == {5_000: 1}
    assert sent(qfpay_gateway, "capture") == 1


# ------------------------------------------------------------------------------------------------ our own books


async def test_a_twin_of_a_doubt_is_refused(client: PreauthClient, qfpay_gateway: Gateway) -> None:
    """While a capture is in doubt no equal one is let in on its hold; another amount and another hold are."""
    one = await scene(qfpay_gateway, client, "capture")
    qfpay_gateway.faults.add("drop_after", operation="capture")
    await one.fails()
    with pytest.raises(OperationInProgressError, match="'key'"):
        await client.capture(one.syssn, one.amount, idempotency_key="twin")
    with pytest.raises(OperationInProgressError, match="'key'"):
        await client.unfreeze(one.syssn, idempotency_key="close")
    assert one.sent() == 1
    assert (await client.capture(one.syssn, one.amount + 1, idempotency_key="c")).amount == one.amount + 1
    other = await registered(client, qfpay_gateway)
    assert (await client.capture(other, one.amount, idempotency_key="o")).amount == one.amount


async def test_over_capture_is_refused_with_numbers(client: PreauthClient, qfpay_gateway: Gateway) -> None:
    """What is left is counted with claims; one minor unit above is refused before sending, all of it is taken."""
    one = await scene(qfpay_gateway, client, "capture")
    await client.capture(one.syssn, 20_000, idempotency_key="a")
    qfpay_gateway.faults.add("drop_before", operation="capture")
    await one.fails("doubt")
    before = sent(qfpay_gateway)
    with pytest.raises(OverCaptureError) as caught:
        await client.capture(one.syssn, 20_001, idempotency_key="b")
    assert (caught.value.requested, caught.value.capturable) == (20_001, 20_000)
    assert caught.value.idempotency_key == "b"
    assert await client.entry("b") is None
    assert sent(qfpay_gateway) == before
    assert (await client.capture(one.syssn, 20_000, idempotency_key="b")).amount == 20_000


async def test_one_unfreeze_and_nothing_after_it(client: PreauthClient, qfpay_gateway: Gateway) -> None:
    """A second unfreeze and a capture after the first are refused before sending; a refund still goes."""
    syssn = await registered(client, qfpay_gateway)
    capture = await client.capture(syssn, 20_000, idempotency_key="a")
    with pytest.raises(OverCaptureError) as stale:
        await client.unfreeze(syssn, 29_999, idempotency_key="close")
    assert (stale.value.requested, stale.value.capturable) == (29_999, 30_000)
    assert (await client.unfreeze(syssn, 30_000, idempotency_key="close")).amount == 30_000
    before = sent(qfpay_gateway)
    with pytest.raises(AlreadyUnfrozenError):
        await client.unfreeze(syssn, idempotency_key="close-2")
    with pytest.raises(AuthorizationClosedError):
        await client.capture(syssn, 1_000, idempotency_key="b")
    assert sent(qfpay_gateway) == before
    assert (await client.refund(str(capture.syssn), 20_000, idempotency_key="r")).amount == 20_000
    balance = await client.balance(syssn)
    assert (balance.captured, balance.unfrozen, balance.refunded, balance.capturable) == (20_000, 30_000, 20_000, 0)


@pytest.mark.parametrize("kind", ["drop_before", "drop_after"])
async def test_an_unfreeze_in_doubt_closes_the_hold(client: PreauthClient, qfpay_gateway: Gateway, kind: str) -> None:
    """While an unfreeze is in doubt neither a capture nor a second unfreeze is sent."""
    one = await scene(qfpay_gateway, client, "unfreeze")
    qfpay_gateway.faults.add(kind, operation="unfreeze")
    await one.fails()
    with pytest.raises(AuthorizationClosedError):
        await client.capture(one.syssn, 1_000, idempotency_key="c")
    with pytest.raises(AlreadyUnfrozenError):
        await client.unfreeze(one.syssn, idempotency_key="u2")
    assert (sent(qfpay_gateway), (await client.balance(one.syssn)).capturable) == (1, 0)


async def test_a_refused_unfreeze_reopens(client: PreauthClient, qfpay_gateway: Gateway) -> None:
    """A sure refusal of an unfreeze leaves the hold as it was."""
    one = await scene(qfpay_gateway, client, "unfreeze")
    qfpay_gateway.faults.add("respcd", operation="unfreeze", code="1201")
    await one.fails()
    assert (await client.capture(one.syssn, 1_000, idempotency_key="c")).amount == 1_000
    assert (await client.unfreeze(one.syssn, idempotency_key="u2")).amount == 49_000


async def test_nothing_left_to_unfreeze(client: PreauthClient, qfpay_gateway: Gateway) -> None:
    """A hold that was captured whole has nothing to release."""
    syssn = await registered(client, qfpay_gateway)
    await client.capture(syssn, 50_000, idempotency_key="a")
    with pytest.raises(AuthorizationClosedError):
        await client.unfreeze(syssn, idempotency_key="close")
    assert sent(qfpay_gateway, "unfreeze") == 0


async def test_over_refund_is_refused_with_numbers(client: PreauthClient, qfpay_gateway: Gateway) -> None:
    """Refunds together never exceed their capture, those in doubt included."""
    one = await scene(qfpay_gateway, client, "refund")
    qfpay_gateway.faults.add("drop_before", operation="refund")
    await one.fails("doubt")
    await one.run("r1", 4_000)
    before = sent(qfpay_gateway)
    with pytest.raises(OverRefundError) as caught:
        await one.run("r2", 6_001)
    assert (caught.value.requested, caught.value.refundable) == (6_001, 6_000)
    assert sent(qfpay_gateway) == before
    assert (await one.run("r2", 6_000)).amount == 6_000
    assert await one.state("doubt") is State.IN_DOUBT


async def test_what_is_not_in_the_ledger(client: PreauthClient, qfpay_gateway: Gateway) -> None:
    """An unknown hold or capture, and a hold given for a capture, are refused before sending."""
    syssn = await registered(client, qfpay_gateway)
    with pytest.raises(UnknownAuthorizationError):
        await client.capture("20260101000000", 1_000, idempotency_key="a")
    with pytest.raises(UnknownAuthorizationError):
        await client.unfreeze("20260101000000", idempotency_key="a")
    for unknown in ("20260101000000", syssn):
        with pytest.raises(UnknownCaptureError):
            await client.refund(unknown, 1_000, idempotency_key="a")
    assert await client.entry("a") is None
    assert sent(qfpay_gateway) == 0
