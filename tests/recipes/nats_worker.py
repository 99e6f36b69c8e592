"""A worker that captures what a NATS JetStream stream tells it: delivered at least once, captured at most once.

Copy it with `again.py` into a package of yours, here `shop`:

    export NATS_URL=nats://127.0.0.1:4222 QFPAY_APP_CODE=… QFPAY_CLIENT_KEY=… QFPAY_LEDGER=sqlite:///ledger.db
    python -m shop.nats_worker

A message on `preauth.capture` is `{"syssn": …, "amount": …}`, with `"hold": {"amount", "currency", "out_trade_no"}`
where the hold may be new. Its id (the header `Nats-Msg-Id`) is the idempotency key. What became of it is published on
`preauth.outcome` under the same id, and only then is the message acknowledged:

| what is known | the message |
|---|---|
| captured, or refused for good | outcome published, acknowledged |
| it makes no sense: no id, no JSON, a bad amount | outcome published if it has an id, terminated: never comes again |
| nothing happened, and it may later: not sent, rate limited, something in the way, ledger down | comes again |
| unknown | comes again, which sends nothing and looks for evidence; the amount stays claimed in the ledger |
| unknown for DELIVERIES_MAX deliveries | "unknown" published, acknowledged: durably in doubt, for a person to end |

While a capture runs, heartbeats keep the broker from giving the message to somebody else. When a worker or the broker
is killed, the message comes again, and its key finds what happened. What a killed worker had written into the ledger
and not yet sent is in doubt until a person ends it, or QFPAY_QUIET_PERIOD_S lets its absence at the gateway do so.
SIGTERM lets what is under way end. Outcomes are published at least once too (after a crash again, under the same id).
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import nats
from nats.aio.msg import Msg
from nats.errors import Error as BrokerError
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, RetentionPolicy, StreamConfig

from qfpay_preauth import Capture, InvalidRequestError, PreauthClient, PreauthError

from .again import comes_again_s

WORK, OUTCOMES = "preauth.capture", "preauth.outcome"
PARALLEL = 16
ACK_WAIT_S = float(os.environ.get("ACK_WAIT_S", "30"))  # a message that nobody heartbeats for so long comes again
AGAIN_S = float(os.environ.get("AGAIN_S", "5"))
DELIVERIES_MAX = 1_000  # a doubt comes again every 6 * AGAIN_S: some eight hours

log = logging.getLogger("preauth.worker")


async def streams(jetstream: JetStreamContext) -> None:
    """The two streams: work that leaves when it is acknowledged, and outcomes that stay."""
    work = StreamConfig("PREAUTH_WORK", subjects=[WORK], retention=RetentionPolicy.WORK_QUEUE)
    for config in (work, StreamConfig("PREAUTH_OUTCOMES", subjects=[OUTCOMES])):
        await jetstream.add_stream(config)


async def ask(jetstream: JetStreamContext, key: str, order: dict[str, Any]) -> None:
    """Order a capture; the same key again is the same order."""
    await jetstream.publish(WORK, json.dumps(order).encode(), headers={"Nats-Msg-Id": key})


async def run(client: PreauthClient, jetstream: JetStreamContext, stop: asyncio.Event) -> None:
    """Take messages while there is room, until told to stop; then let what is under way end."""
    config = ConsumerConfig(ack_wait=ACK_WAIT_S, max_deliver=-1, max_ack_pending=10_000)
    orders = await jetstream.pull_subscribe(WORK, durable="capturer", config=config)
    under_way: set[asyncio.Task[None]] = set()
    while not stop.is_set():
        if len(under_way) >= PARALLEL:
            await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            continue
        try:
            messages = await orders.fetch(PARALLEL - len(under_way), timeout=1)
        except TimeoutError:  # nothing came; the client raises two kinds of it
            continue
        except (BrokerError, OSError) as error:  # it is away, and the connection looks for it
            log.warning("no messages: %r", error)
            await asyncio.sleep(0.5)
            continue
        for message in messages:
            task = asyncio.create_task(handle(client, jetstream, message))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
    log.info("stopping, with %d messages under way", len(under_way))
    if under_way:
        await asyncio.wait(under_way)


async def handle(client: PreauthClient, jetstream: JetStreamContext, message: Msg) -> None:
    """One message to its end. Where the broker or we fail, it simply comes again."""
    try:
        async with heartbeats(message):
            await decide(client, jetstream, message)
    except (BrokerError, OSError) as error:
        log.warning("the broker did not take what was said: %r", error)
    except Exception:
        log.exception("a message could not be handled")
        with suppress(BrokerError, OSError):
            await message.nak(delay=6 * AGAIN_S)


async def decide(client: PreauthClient, jetstream: JetStreamContext, message: Msg) -> None:
    """Capture, and tell the broker what is to become of the message."""
    key = (message.headers or {}).get("Nats-Msg-Id", "")
    try:
        result = await capture(client, key, message.data)
    except PreauthError as error:
        again_s = comes_again_s(error, AGAIN_S)
        if again_s is not None and message.metadata.num_delivered < DELIVERIES_MAX:
            await message.nak(delay=again_s)
            return
        if key:
            said = {"outcome": error.outcome.value, "error": type(error).__name__, "advice": error.advice}
            await publish(jetstream, key, said)
        if isinstance(error, InvalidRequestError):
            await message.term()
            return
    else:
        await publish(jetstream, key, {"outcome": "happened", "syssn": result.syssn, "amount": result.amount})
    await message.ack_sync()


async def capture(client: PreauthClient, key: str, data: bytes) -> Capture:
    """What the message asks for; whatever is wrong with it is an InvalidRequestError."""
    try:
        order = json.loads(data)
        syssn, amount, hold = order["syssn"], order["amount"], order.get("hold")
        if hold is not None:
            hold = hold["amount"], hold["currency"], hold["out_trade_no"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InvalidRequestError('{"syssn": …, "amount": …} is expected.') from None
    if hold is not None:
        await client.register_authorization(syssn, hold[0], hold[1], out_trade_no=hold[2])
    return await client.capture(syssn, amount, idempotency_key=key)


async def publish(jetstream: JetStreamContext, key: str, outcome: dict[str, Any]) -> None:
    """Tell what became of a message; told twice within two minutes, it is kept once."""
    await jetstream.publish(OUTCOMES, json.dumps({"key": key, **outcome}).encode(), headers={"Nats-Msg-Id": key})


@asynccontextmanager
async def heartbeats(message: Msg) -> AsyncIterator[None]:
    """Say "still at it" three times in every ACK_WAIT_S."""

    async def beat() -> None:
        while True:
            await asyncio.sleep(ACK_WAIT_S / 3)
            with suppress(BrokerError, OSError):
                await message.in_progress()

    beating = asyncio.create_task(beat())
    try:
        yield
    finally:
        beating.cancel()


async def main() -> None:
    """Connect, work until SIGTERM or SIGINT, drain."""
    logging.basicConfig(level=logging.INFO)
    stop = asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(each, stop.set)
    broker = await nats.connect(os.environ["NATS_URL"], max_reconnect_attempts=-1, reconnect_time_wait=1)
    async with PreauthClient.from_env() as client:
        reconciler = asyncio.create_task(client.run_reconciler(300))
        await streams(broker.jetstream())
        await run(client, broker.jetstream(), stop)
        reconciler.cancel()
        await asyncio.wait((reconciler,))
    await broker.close()


if __name__ == "__main__":
    asyncio.run(main())
