"""b) Throughput (memory ledger) ÷ a bare aiohttp POST's and ÷ the peers'; and the stub's own ceiling."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

from benchmarks._measure import Cost, Figure, Plan, Work, alternate, callers, ratio, requests_in_a_slice
from benchmarks._scene import BODY, HEADERS, PATH, bare, capturing, run_on, stub

TITLE = "Throughput ÷ a bare POST's and ÷ the peers'"
CONCURRENCY = (16, 64)
PEERS = {16: ("stripe", "httpx"), 64: ("stripe",)}  # httpx takes so long that once is enough
TARGET = 0.75
PIPELINE = 16


def run(plan: Plan) -> list[Figure]:
    """Ours, the peers', and the stub's own ceiling, each ÷ a bare POST's; ours ÷ the peers'."""
    figures: list[Figure] = []
    with stub() as url:
        for concurrency in CONCURRENCY[:1] if plan.short else CONCURRENCY:
            costs = run_on("asyncio", _measure(url, concurrency, plan))
            figures += _figures(costs, f"{concurrency} at once")
    return figures


async def _measure(url: str, concurrency: int, plan: Plan) -> dict[str, list[Cost]]:
    async with AsyncExitStack() as stack:
        works = {
            "bare POST": await stack.enter_async_context(bare(url, concurrency)),
            "qfpay_preauth": await stack.enter_async_context(capturing(url, concurrency, "memory://")),
        }
        for name in PEERS[concurrency] if plan.peers else ():
            peer = {"stripe": _stripe, "httpx": _httpx}[name]
            work = await stack.enter_async_context(peer(url, concurrency))
            if work is not None:
                works[name] = work
        works["stub's ceiling"] = await stack.enter_async_context(_pipelined(url))
        return await alternate(works, requests_in_a_slice(concurrency), plan.rounds)


def _figures(costs: Mapping[str, list[Cost]], where: str) -> list[Figure]:
    def rate(name: str, other: str, target: float | None = None) -> Figure:
        what = f"{name} ÷ {other}, {where}"
        spread = ratio(costs[name], costs[other], lambda cost: cost.wall, per_second=True)
        return Figure("throughput", what, spread, target, at_most=False)

    peers = [name for name in ("stripe", "httpx") if name in costs]
    return [
        rate("qfpay_preauth", "bare POST", TARGET),
        *(rate(peer, "bare POST") for peer in peers),
        *(rate("qfpay_preauth", peer) for peer in peers),
        rate("stub's ceiling", "bare POST"),
    ]


# ------------------------------------------------------------------------------------------------ peers


@asynccontextmanager
async def _stripe(url: str, concurrency: int) -> AsyncIterator[Work | None]:
    """stripe-python with its aiohttp client: a capture of a payment intent."""
    try:
        stripe: Any = import_module("stripe")
    except ImportError:
        yield None
        return
    http = stripe.AIOHTTPClient()
    client = stripe.StripeClient("sk_test_benchmarks", http_client=http, base_addresses={"api": url})

    async def capture(caller: int) -> None:
        await client.v1.payment_intents.capture_async("pi_1", {"amount_to_capture": 1_000})

    yield callers(concurrency, capture)
    await http.close_async()


@asynccontextmanager
async def _httpx(url: str, concurrency: int) -> AsyncIterator[Work | None]:
    """A bare httpx POST of the same bytes."""
    try:
        httpx: Any = import_module("httpx")
    except ImportError:
        yield None
        return
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    async with httpx.AsyncClient(limits=limits) as client:

        async def post(caller: int) -> None:
            await client.post(url + PATH, content=BODY, headers=HEADERS)

        yield callers(concurrency, post)


# ------------------------------------------------------------------------------------------------ the stub's ceiling


@asynccontextmanager
async def _pipelined(url: str) -> AsyncIterator[Work]:
    """The cheapest client there is: prebuilt bytes, many at once down one connection, answers only counted."""
    where = urlsplit(url)
    head = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
    request = f"POST {PATH} HTTP/1.1\r\nHost: {where.netloc}\r\n{head}Content-Length: {len(BODY)}\r\n\r\n"
    reader, writer = await asyncio.open_connection(where.hostname, where.port)

    async def work(count: int) -> None:
        for first in range(0, count, PIPELINE):
            many = min(PIPELINE, count - first)
            writer.write((request.encode() + BODY) * many)
            for _ in range(many):
                await reader.readuntil(b'"cardcd":""}')

    yield work
    writer.close()
    await writer.wait_closed()
