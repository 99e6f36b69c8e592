"""Connections are kept, shared in order and let go of: what the direct way does where aiohttp's pool would."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator

import aiohttp
import pytest
import trustme

from qfpay_preauth import Capture, NotSentError, PreauthClient
from qfpay_preauth._direct import TESTED, Lines
from tests.client.kit import until
from tests.client.test_not_sent import client_to, hold

PATIENCE_S = 10

pytestmark = pytest.mark.skipif(aiohttp.__version__ not in TESTED, reason="session.post serves with this aiohttp")


class Server:
    """Answers captures with their own amount, where it is let to; knows its connections."""

    def __init__(self) -> None:
        self.port = 0
        self.opened = self.closed = self.most = self.answered = 0
        self.ends = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.asked = asyncio.Semaphore(0)
        self.then_closes = False
        self.behind = b""
        self.writers: list[asyncio.StreamWriter] = []

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        self.writers.append(writer)
        self.most = max(self.most, self.opened - self.closed)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while not (self.then_closes and self.answered):
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                fields = dict(pair.split("=") for pair in (await reader.readexactly(length)).decode().split("&"))
                self.asked.release()
                await self.may_answer.wait()
                self.answered += 1
                body = (
                    f'{{"respcd":"0000","syssn":"{1_000 + self.answered}","orig_syssn":"{fields["syssn"]}",'
                    f'"txamt":"{fields["txamt"]}","txcurrcd":"HKD"}}'
                )
                writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode() + self.behind)
                await writer.drain()
        self.closed += 1
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()
        self.ends.set()


@contextlib.asynccontextmanager
async def serving(context: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """A server as above."""
    server = Server()
    listener = await asyncio.start_server(server.talk, "127.0.0.1", 0, ssl=context)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()


@contextlib.asynccontextmanager
async def scene(**settings: float) -> AsyncIterator[tuple[PreauthClient, Server]]:
    """A client on such a server, with holds "1" to "8"."""
    async with serving() as server, client_to(f"http://127.0.0.1:{server.port}", **settings) as client:
        await hold(client)
        for name in "2345678":
            await client.register_authorization(name, 50_000, "HKD", out_trade_no=f"O{name}")
        yield client, server


def lines_of(client: PreauthClient) -> Lines:
    """The client's lines."""
    assert client._running is not None
    lines = client._running.desk.transport._lines
    assert lines is not None
    return lines


async def test_a_connection_serves_one_request_after_another() -> None:
    """Captures one after another need one connection."""
    async with scene() as (client, server):
        for number in range(5):
            assert isinstance(await client.capture("1", 100 + number, idempotency_key=f"k{number}"), Capture)
        assert (server.opened, server.answered) == (1, 5)


async def test_no_more_connections_than_allowed_and_everybody_comes_through() -> None:
    """Eight captures at once over two connections: two are open at most, and all are answered."""
    async with scene(connections_max=2) as (client, server):
        done = await asyncio.gather(*(client.capture(name, 1_000, idempotency_key=name) for name in "12345678"))
        assert all(isinstance(each, Capture) for each in done)
        assert (server.most, server.opened, server.answered) == (2, 2, 8)


async def test_who_waits_the_longest_comes_first() -> None:
    """A line that is given back goes to the first who waits for it, not to who comes just then."""
    async with scene(connections_max=1) as (client, server):
        server.may_answer.clear()
        order: list[str] = []

        async def capture(name: str) -> None:
            await client.capture(name, 1_000, idempotency_key=name)
            order.append(name)

        calls = [asyncio.create_task(capture("1"))]
        await server.asked.acquire()
        for waiting, name in enumerate("234", 1):
            calls.append(asyncio.create_task(capture(name)))
            await until(lambda known=waiting: len(lines_of(client)._waiting) == known)  # type: ignore[misc]
        server.may_answer.set()
        await calls[0]
        await capture("5")
        await asyncio.gather(*calls)
        assert order == ["1", "2", "3", "4", "5"]


async def test_a_caller_that_leaves_the_queue_holds_up_nobody() -> None:
    """The first of two who wait for a connection is cancelled: nothing of it is sent, and the second gets its turn."""
    async with scene(connections_max=1) as (client, server):
        server.may_answer.clear()
        calls = [asyncio.create_task(client.capture(name, 1_000, idempotency_key=name)) for name in "123"]
        await until(lambda: len(lines_of(client)._waiting) == 2)
        calls[1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await calls[1]
        server.may_answer.set()
        assert isinstance(await calls[2], Capture)
        assert (server.opened, server.answered) == (1, 2)
        entry = await client.entry("2")
        assert entry is not None
        assert entry.why == "not_sent"


async def test_a_turn_that_comes_as_its_caller_leaves_goes_to_the_next() -> None:
    """A line handed over in the very moment in which its waiter is cancelled is not lost."""
    async with scene(connections_max=1) as (client, _):
        await client.capture("1", 1_000, idempotency_key="1")
        lines = lines_of(client)
        timeout = client._running.desk.transport._connecting  # type: ignore[union-attr]
        line = lines.idle()
        assert line is not None
        leaving, staying = (asyncio.create_task(lines.line(timeout)) for _ in range(2))
        await until(lambda: len(lines._waiting) == 2)
        lines.give_back(line)
        leaving.cancel()
        assert await staying is line
        with pytest.raises(asyncio.CancelledError):
            await leaving
        lines.give_back(line)


async def test_an_idle_connection_is_closed() -> None:
    """A connection that nobody used for `keepalive_s` is closed by us, and the next capture gets another."""
    async with scene(keepalive_s=0.05) as (client, server):
        await client.capture("1", 1_000, idempotency_key="1")
        async with asyncio.timeout(PATIENCE_S):
            await server.ends.wait()
        await client.capture("1", 2_000, idempotency_key="2")
        assert (server.opened, server.answered) == (2, 2)


async def test_a_connection_that_the_gateway_closed_is_not_used_again() -> None:
    """Once the other side's end has arrived the next capture takes another connection, and is no doubt."""
    async with scene(keepalive_s=600) as (client, server):
        server.then_closes = True
        await client.capture("1", 1_000, idempotency_key="1")
        (line,) = lines_of(client)._idle
        await until(lambda: not line.usable)
        server.then_closes = False
        await client.capture("1", 2_000, idempotency_key="2")
        assert server.opened == 2


@pytest.mark.parametrize("when", ["with the answer", "unasked"])
async def test_a_connection_on_which_too_much_was_said_is_not_used_again(when: str) -> None:
    """What nobody asked for, behind an answer or between two requests, leaves doubt about all that follows there."""
    async with scene(keepalive_s=600) as (client, server):
        more = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
        server.behind = more if when == "with the answer" else b""
        await client.capture("1", 1_000, idempotency_key="1")
        server.behind = b""
        if when == "unasked":
            (line,) = lines_of(client)._idle
            server.writers[0].write(more)
            await until(lambda: not line.usable)
        await client.capture("1", 2_000, idempotency_key="2")
        assert server.opened == 2


async def test_room_that_a_failed_connection_leaves_is_used() -> None:
    """A gateway that is away takes no place for ever: when it is back, every place is there."""
    async with serving() as server, client_to("http://127.0.0.1:1", connections_max=1, attempts_max=1) as client:
        await hold(client)
        for _ in range(3):
            with pytest.raises(NotSentError):
                await client.capture("1", 1_000, idempotency_key="k")
        lines = lines_of(client)
        assert (lines._open, list(lines._waiting), server.opened) == (0, [], 0)


async def test_nothing_is_left_when_the_client_closes() -> None:
    """`aclose()` ends every connection, idle ones too."""
    async with scene() as (client, server):
        await asyncio.gather(*(client.capture(name, 1_000, idempotency_key=name) for name in "1234"))
        lines = lines_of(client)
        await client.aclose()
        assert (lines._idle, lines._open) == ([], 0)
        await until(lambda: server.closed == server.opened)


async def test_over_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same over TLS: one connection, checked against the authorities that the machine trusts."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", trusting)
    async with serving(context) as server, client_to(f"https://127.0.0.1:{server.port}") as client:
        await hold(client)
        for number in range(3):
            await client.capture("1", 1_000 + number, idempotency_key=f"k{number}")
        assert (server.opened, server.answered) == (1, 3)
