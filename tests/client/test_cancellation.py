"""A cancelled call never loses its entry, and closing leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from qfpay_preauth import NotSentError, OutcomeUnknownError, PreauthClient, PreauthError, State
from qfpay_preauth.testing import Gateway
from tests.client.kit import OPERATIONS, Scene, captured_at, ended, reserved, scene, sent, turns, until
from tests.support import client_of, registered, sqlite_url


@pytest.fixture(params=["memory", "sqlite"])
async def client(
    request: pytest.FixtureRequest, tmp_path: Path, qfpay_gateway: Gateway
) -> AsyncIterator[PreauthClient]:
    ledger = "memory://" if request.param == "memory" else sqlite_url(tmp_path)
    async with client_of(qfpay_gateway, ledger, timeout_total_s=5) as client:
        yield client


async def cancelled(call: asyncio.Task[object]) -> None:
    """Cancel a call and wait until its caller is gone."""
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def check_afterwards(one: Scene, key: str) -> None:
    """Whatever the cancelling hit: no second execution, no lost claim, and the key answers sensibly."""
    entry = await ended(one.client, key)
    before = one.sent()
    executed_before = one.executed()
    if entry is not None and entry.state is State.NOT_EXECUTED:
        assert executed_before == 0
    try:
        result = await one.run(key)
    except PreauthError as error:
        assert isinstance(error, OutcomeUnknownError)  # noqa: PT017 - either end is right; both are checked
        assert entry is not None
        assert entry.state is State.IN_DOUBT
        assert one.sent() == before
        assert await one.doubts() == [key]
    else:
        assert result.replayed is (entry is not None and entry.state is State.EXECUTED)
        assert one.executed() == 1
        assert result.syssn in {each.syssn for each in one.gateway.books.executions()}
    assert one.executed() <= 1
    assert one.gateway.books.audit() == []


# ------------------------------------------------------------------------------------------------ step by step


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_cancelled_after_any_number_of_turns(
    request: pytest.FixtureRequest, client: PreauthClient, qfpay_gateway: Gateway, operation: str
) -> None:
    """However many turns of the event loop a call had before it was cancelled, the entry ends rightly."""

    async def of_its_own(key: str) -> Scene:
        syssn = await registered(client, qfpay_gateway)
        target = syssn
        if operation == "refund":
            target = str((await client.capture(syssn, 20_000, idempotency_key=f"{key}-captured")).syssn)
        return Scene(qfpay_gateway, client, operation, syssn, target, 10_000)

    whole = await of_its_own("whole")
    begun = time.perf_counter()
    await whole.run("whole")
    # turns of the loop alone are over before a disk has answered: the pauses reach twice as far as one whole call took
    pause_s = 0.0 if "memory" in request.node.name else 2 * (time.perf_counter() - begun) / 90
    finished = 0
    for steps in range(90):
        one = await of_its_own(f"k{steps}")
        call = asyncio.create_task(one.run(f"k{steps}"))
        await turns(steps)
        await asyncio.sleep(steps * pause_s)
        finished += call.done()
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await check_afterwards(one, f"k{steps}")
    assert await one.doubts() == []
    assert 0 < finished < 90


@pytest.mark.parametrize("kind", ["drop_before", "drop_after", "cut", "rate_limited", "slow", "delay"])
async def test_cancelled_in_the_middle_of_a_fault(client: PreauthClient, qfpay_gateway: Gateway, kind: str) -> None:
    """The same where the answer is lost, refused or slow at that time."""
    for steps in range(0, 90, 3):
        qfpay_gateway.faults.clear()
        syssn = await registered(client, qfpay_gateway)
        qfpay_gateway.faults.add(kind, operation="capture", times=2, seconds=0.002)
        call = asyncio.create_task(client.capture(syssn, 1_000, idempotency_key=f"k{steps}"))
        await turns(steps)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        entry = await ended(client, f"k{steps}")
        qfpay_gateway.faults.clear()
        claim = 1_000 if entry is not None and entry.state in (State.IN_DOUBT, State.EXECUTED) else 0
        assert (await client.balance(syssn)).capturable == 50_000 - claim
        await asyncio.gather(client.capture(syssn, 1_000, idempotency_key=f"k{steps}"), return_exceptions=True)
        assert captured_at(qfpay_gateway, syssn)[1_000] <= 1
        if claim == 0:
            assert captured_at(qfpay_gateway, syssn) == {1_000: 1}
    assert qfpay_gateway.books.audit() == []


# ------------------------------------------------------------------------------------------------ each step


async def test_cancelled_in_the_queue(client: PreauthClient, qfpay_gateway: Gateway) -> None:
    """A call that waits for its turn and is cancelled has written nothing; the turn passes on."""
    syssn = await registered(client, qfpay_gateway)
    qfpay_gateway.faults.add("hang_after", operation="capture")
    first = asyncio.create_task(client.capture(syssn, 1_000, idempotency_key="first"))
    await qfpay_gateway.wait_hanging()
    waiting: asyncio.Task[object] = asyncio.create_task(client.capture(syssn, 1_000, idempotency_key="waiting"))
    third = asyncio.create_task(client.capture(syssn, 1_000, idempotency_key="third"))
    await turns(10)
    await cancelled(waiting)
    qfpay_gateway.release()
    assert [(await each).amount for each in (first, third)] == [1_000, 1_000]
    assert await client.entry("waiting") is None
    assert captured_at(qfpay_gateway, syssn) == {1_000: 2}


async def test_cancelled_waiting_for_the_budget(qfpay_gateway: Gateway) -> None:
    """A call that waits for the budget and is cancelled has written nothing, and takes no permit with it."""
    async with client_of(qfpay_gateway, requests_per_second=1, requests_per_minute=30) as client:
        first, second = [await registered(client, qfpay_gateway) for _ in range(2)]
        await client.capture(first, 1_000, idempotency_key="first")
        waiting: asyncio.Task[object] = asyncio.create_task(client.capture(second, 1_000, idempotency_key="waiting"))
        await turns(10)
        await cancelled(waiting)
        assert await client.entry("waiting") is None
        assert (await client.capture(second, 1_000, idempotency_key="waiting")).amount == 1_000
        assert sent(qfpay_gateway) == 2


async def test_cancelled_while_connecting(qfpay_gateway: Gateway) -> None:
    """Cancelled before a byte left, for want of a connection: not sent, the claim is free, the key runs again."""
    async with client_of(qfpay_gateway, connections_max=1) as client:
        first, second = [await registered(client, qfpay_gateway) for _ in range(2)]
        qfpay_gateway.faults.add("hang_after", syssn=first)
        hanging = asyncio.create_task(client.capture(first, 1_000, idempotency_key="first"))
        await qfpay_gateway.wait_hanging()
        call: asyncio.Task[object] = asyncio.create_task(client.capture(second, 1_000, idempotency_key="k"))
        await reserved(client, "k")
        await turns(10)
        await cancelled(call)
        entry = await ended(client, "k")
        assert entry is not None
        assert (entry.state, entry.rerunnable) == (State.NOT_EXECUTED, True)
        assert (await client.balance(second)).capturable == 50_000
        qfpay_gateway.release()
        assert (await hanging).amount == 1_000
        assert (await client.capture(second, 1_000, idempotency_key="k")).amount == 1_000
        assert sent(qfpay_gateway) == 2


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_cancelled_after_sending(client: PreauthClient, qfpay_gateway: Gateway, operation: str) -> None:
    """Cancelled while the gateway is silent: the exchange goes on, and the answer is recorded when it comes."""
    one = await scene(qfpay_gateway, client, operation)
    qfpay_gateway.faults.add("hang_after", operation=operation)
    call: asyncio.Task[object] = asyncio.create_task(one.run())
    await qfpay_gateway.wait_hanging()
    await cancelled(call)
    assert await one.state() is State.HELD
    qfpay_gateway.release()
    assert (await one.run()).replayed is True
    assert (await one.state(), one.sent(), one.executed()) == (State.EXECUTED, 1, 1)


@pytest.mark.parametrize("kind", ["hang_before", "hang_after"])
async def test_a_time_out_of_the_caller(client: PreauthClient, qfpay_gateway: Gateway, kind: str) -> None:
    """asyncio.timeout around a call raises TimeoutError; what was sent stays claimed until it ends by itself."""
    one = await scene(qfpay_gateway, client, "capture")
    qfpay_gateway.faults.add(kind, operation="capture")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await one.run(deadline_s=0.4)
    assert (await client.balance(one.syssn)).held == one.amount
    await one.fails()  # queued behind the exchange, which ends at its own deadline
    await one.check_doubt_stays()
    assert one.executed() == (kind == "hang_after")


async def test_cancelled_between_attempts(client: PreauthClient, qfpay_gateway: Gateway) -> None:
    """Cancelled while it waits to try again after 429: nothing happened, and the key runs again."""
    one = await scene(qfpay_gateway, client, "capture")
    qfpay_gateway.faults.add("rate_limited", operation="capture", retry_after="1")
    call: asyncio.Task[object] = asyncio.create_task(one.run())
    await until(lambda: one.sent() > 0)
    await turns(50)
    await cancelled(call)
    async with asyncio.timeout(5):
        assert (await one.run()).replayed is False
    entry = await client.entry("key")
    assert entry is not None
    assert (entry.attempt, one.sent(), one.executed()) == (2, 2, 1)


async def test_many_cancelled_at_once(client: PreauthClient, qfpay_gateway: Gateway) -> None:
    """Ten callers of one key, nine of them cancelled: the tenth has the result, of one request."""
    one = await scene(qfpay_gateway, client, "capture")
    qfpay_gateway.faults.add("hang_after", operation="capture")
    calls = [asyncio.create_task(one.run()) for _ in range(10)]
    await qfpay_gateway.wait_hanging()
    for call in calls[:9]:
        call.cancel()
    qfpay_gateway.release()
    await asyncio.wait(calls)
    assert (await calls[9]).amount == one.amount
    assert (one.sent(), one.executed()) == (1, 1)


# ------------------------------------------------------------------------------------------------ closing


def _sockets() -> int:
    links = []
    for name in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            continue  # the listing's own descriptor
    return sum(link.startswith("socket:") for link in links)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts this process's descriptors in /proc")
async def test_nothing_is_left(tmp_path: Path, qfpay_gateway: Gateway) -> None:
    """After closing no task, no thread and no socket is left, whatever the calls met."""
    tasks, threads, sockets = asyncio.all_tasks(), set(threading.enumerate()), _sockets()
    async with client_of(qfpay_gateway, sqlite_url(tmp_path)) as client:
        syssn = await registered(client, qfpay_gateway)
        for number, kind in enumerate(
            ("delay", "drop_after", "cut", "huge", "rate_limited", "redirect", "reset_after")
        ):
            qfpay_gateway.faults.add(kind, operation="capture")
            call = client.capture(syssn, 1_000 + number, idempotency_key=f"k{number}")
            await asyncio.gather(call, return_exceptions=True)
    await qfpay_gateway.close_idle()
    await turns(10)
    gc.collect()
    assert {task for task in asyncio.all_tasks() if "Server" not in repr(task)} - tasks == set()
    assert set(threading.enumerate()) - threads == set()
    assert _sockets() == sockets


async def test_closing_while_calls_hang(client: PreauthClient, qfpay_gateway: Gateway) -> None:
    """aclose() drains to its deadline; what has no answer by then is in doubt, what waited was never sent."""
    syssn = await registered(client, qfpay_gateway)
    qfpay_gateway.faults.add("hang_after", operation="capture")
    hanging = asyncio.create_task(client.capture(syssn, 1_000, idempotency_key="hanging"))
    await qfpay_gateway.wait_hanging()
    queued = asyncio.create_task(client.capture(syssn, 2_000, idempotency_key="queued"))
    await turns(20)
    began = asyncio.get_running_loop().time()
    await client.aclose(drain_s=0.05)
    assert asyncio.get_running_loop().time() - began < 2
    errors = await asyncio.gather(hanging, queued, return_exceptions=True)
    assert [type(error) for error in errors] == [OutcomeUnknownError, NotSentError]
    assert [getattr(error, "idempotency_key", None) for error in errors] == ["hanging", "queued"]
    assert sent(qfpay_gateway) == 1
    async with client:
        assert [doubt.idempotency_key async for doubt in client.in_doubt()] == ["hanging"]
        assert await client.entry("queued") is None


async def test_closing_lets_calls_end(client: PreauthClient, qfpay_gateway: Gateway) -> None:
    """aclose() waits for the answer of what is under way."""
    syssn = await registered(client, qfpay_gateway)
    qfpay_gateway.faults.add("delay", operation="capture", seconds=0.05)
    calls = [asyncio.create_task(client.capture(syssn, 1_000, idempotency_key=f"k{n}")) for n in range(5)]
    await until(lambda: sent(qfpay_gateway) > 0)
    await client.aclose()
    assert [(await call).amount for call in calls] == [1_000] * 5
    assert captured_at(qfpay_gateway, syssn) == {1_000: 5}


async def test_a_cancelled_close_can_be_finished(client: PreauthClient, qfpay_gateway: Gateway) -> None:
    """aclose() cancelled while it drains leaves nothing open that a second aclose() does not close."""
    syssn = await registered(client, qfpay_gateway)
    qfpay_gateway.faults.add("hang_after", operation="capture")
    hanging = asyncio.create_task(client.capture(syssn, 1_000, idempotency_key="k"))
    await qfpay_gateway.wait_hanging()
    gc.collect()
    closing = asyncio.create_task(client.aclose())
    await turns(5)
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    await client.aclose(drain_s=0)
    assert hanging.done()
    assert isinstance(hanging.exception(), OutcomeUnknownError)
    gc.collect()  # an unclosed session would warn now, and a warning is an error here
    async with client:
        assert [doubt.idempotency_key async for doubt in client.in_doubt()] == ["k"]


async def test_a_loop_that_ends_under_a_call(tmp_path: Path) -> None:
    """asyncio.run() ends with a call under way: the entry is not lost, and is never sent again."""
    url = sqlite_url(tmp_path)

    async def left_alone() -> None:
        async with Gateway() as gateway:
            client = client_of(gateway, url, deadline_s=0.2, timeout_total_s=0.2)
            async with client:
                syssn = await registered(client, gateway)
                gateway.faults.add("hang_after", operation="capture")
                call = asyncio.create_task(client.capture(syssn, 1_000, idempotency_key="k"))
                await gateway.wait_hanging()
                asyncio.get_running_loop().call_soon(call.cancel)

    await asyncio.to_thread(lambda: asyncio.run(left_alone()))
    async with Gateway() as gateway, client_of(gateway, url) as client:
        entry = await client.entry("k")
        assert entry is not None
        assert entry.state in (State.HELD, State.IN_DOUBT, State.EXECUTED)
        assert len(gateway.requests) == 0
