"""The server itself: closing leaves nothing, the wire is real HTTP, connections can be refused."""

from __future__ import annotations

import asyncio
import gc
import os
from datetime import timedelta

import aiohttp
import pytest

from qfpay_preauth.testing import Config, Gateway

from .kit import Merchant


async def _raw(gateway: Gateway, *parts: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.server.port)
    for part in parts:
        writer.write(part)
        await writer.drain()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_closing_leaves_no_task_and_no_socket() -> None:
    """Hanging, slow, swapping, delayed and idle connections all end at once with the gateway."""
    before, sockets = asyncio.all_tasks(), len(os.listdir("/dev/fd"))
    loop = asyncio.get_running_loop()
    async with aiohttp.ClientSession() as session:
        async with Gateway() as gateway:
            merchant = Merchant(gateway, session)
            syssn = gateway.hold(1_000_000)
            await merchant.capture(syssn, 1)
            for kind in ("hang_before", "hang_after", "late_hang", "swapped"):
                gateway.faults.add(kind, operation="capture", seconds=3_600)
            asking = [asyncio.create_task(merchant.capture(syssn, 1)) for _ in range(4)]
            await gateway.wait_hanging(4)
            for kind in ("slow", "delay"):
                gateway.faults.add(kind, operation="capture", seconds=3_600)
            asking += [asyncio.create_task(merchant.capture(syssn, 1)) for _ in range(2)]
            while gateway.faults.hits.total() < 6:
                await merchant.ask("query")
            started = loop.time()
        assert loop.time() - started < 0.5
        for task in asking:
            with pytest.raises(aiohttp.ClientError):
                await task
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
    gc.collect()
    assert len(os.listdir("/dev/fd")) == sockets
    assert gateway.server.connections == 0


async def test_a_client_may_leave_in_the_middle(gateway: Gateway, merchant: Merchant) -> None:
    """A client that gives up on a hanging request disturbs nobody."""
    syssn = gateway.hold(1_000)
    gateway.faults.add("hang_after")
    asking = asyncio.create_task(merchant.capture(syssn, 100))
    await gateway.wait_hanging()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert gateway.release() == 1
    assert (await merchant.capture(syssn, 100))["respcd"] == "0000"


async def test_connections_can_be_refused(gateway: Gateway, merchant: Merchant) -> None:
    """While it does not listen, new connections fail; then it is there again under the same url."""
    url, syssn = gateway.url, gateway.hold(1_000)
    await gateway.refuse_connections()
    with pytest.raises(aiohttp.ClientConnectorError):
        await merchant.capture(syssn, 100)
    await gateway.accept_connections()
    assert gateway.url == url
    assert (await merchant.capture(syssn, 100))["respcd"] == "0000"
    assert len(gateway.requests) == 1


async def test_idle_connections_can_be_closed(gateway: Gateway, merchant: Merchant) -> None:
    """A kept-alive connection is reused, until the gateway closes it; a busy one is left alone."""
    syssn = gateway.hold(1_000)
    for _ in range(3):
        await merchant.capture(syssn, 1)
    assert len({request.remote for request in gateway.requests}) == 1
    gateway.faults.add("hang_after")
    asking = asyncio.create_task(merchant.capture(syssn, 1))
    await gateway.wait_hanging()
    await merchant.ask("query")
    assert gateway.server.connections == 2
    assert await gateway.close_idle() == 1
    gateway.release()
    assert (await asking)["respcd"] == "0000"


async def test_idle_connections_time_out(gateway: Gateway) -> None:
    """With keepalive_s a silent connection is closed by the gateway."""
    gateway.config.keepalive_s = 0.01
    assert await _raw(gateway) == b""


async def test_a_fixed_port_is_taken_or_an_error(gateway: Gateway) -> None:
    """The second gateway on one port cannot start."""
    with pytest.raises(OSError, match="address already in use"):
        await Gateway(port=gateway.server.port).__aenter__()


async def test_chunked_bodies_and_expectations(gateway: Gateway) -> None:
    """Clients of other languages send chunks, or wait for 100 Continue."""
    head = (
        b"POST /trade/v1/query HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nConnection: close\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    answer = await _raw(gateway, head, b"3\r\npag\r\n4;x=y\r\ne=71\r\n0\r\nA: b\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert gateway.requests[0].params == {"page": "71"}


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 101\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", 431),
    ],
)
async def test_bad_http_is_answered_and_closed(gateway: Gateway, sent: bytes, status: int) -> None:
    """Bytes that are no request get an error status, and the connection ends."""
    gateway.config.body_bytes_max = 100
    assert (await _raw(gateway, sent)).startswith(f"HTTP/1.1 {status} ".encode())
    assert gateway.requests == []


async def test_a_body_that_never_ends_is_no_request(gateway: Gateway) -> None:
    """A client that closes before its body is complete executed nothing."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.server.port)
    writer.write(b"POST /trade/v1/authtrade HTTP/1.1\r\nContent-Length: 50\r\n\r\ntxamt=1")
    writer.write_eof()
    assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
    writer.close()
    await writer.wait_closed()
    assert gateway.requests == []


async def test_many_at_once(gateway: Gateway, merchant: Merchant) -> None:
    """Hundreds of concurrent captures are all answered, each with its own syssn."""
    syssn = gateway.hold(500)
    answers = await asyncio.gather(*(merchant.capture(syssn, 1) for _ in range(500)))
    assert len({answer["syssn"] for answer in answers}) == 500
    assert gateway.books.totals(syssn).captured == 500


async def test_credentials_and_clock_have_defaults() -> None:
    """A gateway of the merchant's own settings, on the machine's clock."""
    config = Config(app_code="A", client_key="K", mchid="M", capture_window=timedelta(days=28))
    async with Gateway(config) as gateway, aiohttp.ClientSession() as session:
        gateway.app_code = "B"
        assert (gateway.app_code, gateway.client_key, gateway.mchid) == ("B", "K", "M")
        answer = await Merchant(gateway, session).capture(gateway.hold(100), 100, mchid="M")
        assert answer["respcd"] == "0000"
