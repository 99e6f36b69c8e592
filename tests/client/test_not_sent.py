"""What provably never left this machine: said so, its claim freed, and the same key runs again."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from qfpay_preauth import (
    Credentials,
    NotSentError,
    Outcome,
    OutcomeUnknownError,
    PreauthClient,
    RateLimitedError,
    Settings,
    State,
    Why,
)
from qfpay_preauth._clock import SystemClock
from qfpay_preauth._limits import Budget
from qfpay_preauth._transport import Body, Payload
from qfpay_preauth._turnstile import Permit, Turnstile
from qfpay_preauth.testing import Gateway
from tests.client.kit import OPERATIONS, reserved, scene, sent
from tests.support import QUICK, client_of, registered

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

TEXT = b"txamt=500"
# a self-signed certificate for 127.0.0.1, made for this test, and its key; neither protects anything
_PEM = Path(__file__).with_name("self_signed.pem")


@contextlib.asynccontextmanager
async def server(handler: Handler, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A raw server; its port."""
    listener = await asyncio.start_server(handler, "127.0.0.1", 0, ssl=context)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()


def client_to(url: str, **settings: Any) -> PreauthClient:
    """A client of something that is no simulator, with a hold registered under "1"."""
    credentials = Credentials("APP", "SIMULATED_CLIENT_KEY")
    return PreauthClient(credentials, base_url=url, ledger="memory://", settings=Settings(**{**QUICK, **settings}))


async def not_sent(client: PreauthClient, key: str = "k", **timing: float) -> NotSentError:
    """A capture that is not sent: the error, after what must hold for the entry."""
    with pytest.raises(NotSentError) as caught:
        await client.capture("1", 1_000, idempotency_key=key, **timing)
    entry = await client.entry(key)
    assert entry is not None
    assert (entry.state, entry.why, entry.rerunnable) == (State.NOT_EXECUTED, Why.NOT_SENT, True)
    assert (caught.value.outcome, caught.value.idempotency_key) == (Outcome.NOTHING_HAPPENED, key)
    assert (await client.balance("1")).capturable == 50_000
    return caught.value


async def hold(client: PreauthClient) -> None:
    """A hold of 50,000 under "1"."""
    await client.register_authorization("1", 50_000, "HKD", out_trade_no="O1")


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_refused_connection(qfpay_gateway: Gateway, operation: str) -> None:
    """Nobody listens: not sent after the retries, and the same key runs again as attempt 2."""
    async with client_of(qfpay_gateway) as client:
        one = await scene(qfpay_gateway, client, operation)
        await qfpay_gateway.close_idle()
        await qfpay_gateway.refuse_connections()
        error = await one.fails()
        assert isinstance(error, NotSentError)
        assert await one.state() is State.NOT_EXECUTED
        assert (await client.balance(one.syssn)).held == 0
        await qfpay_gateway.accept_connections()
        assert (await one.run()).replayed is False
        entry = await client.entry("key")
        assert entry is not None
        assert (entry.attempt, one.sent(), one.executed()) == (2, 1, 1)


async def test_a_connection_comes_back_between_attempts(qfpay_gateway: Gateway) -> None:
    """A refused connection is tried again within the call."""
    async with client_of(qfpay_gateway, backoff_initial_s=0.05, backoff_max_s=0.05, attempts_max=100) as client:
        syssn = await registered(client, qfpay_gateway)
        await qfpay_gateway.refuse_connections()
        call = asyncio.create_task(client.capture(syssn, 1_000, idempotency_key="k"))
        await asyncio.wait([call], timeout=0.05)
        await qfpay_gateway.accept_connections()
        assert (await call).amount == 1_000
        assert sent(qfpay_gateway) == 1


async def test_connect_time_out() -> None:
    """A host that never completes the connection: not sent after timeout_connect_s."""
    with socket.socket() as listener, contextlib.ExitStack() as others:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(8):  # fill the backlog, so that the kernel leaves further connections waiting
            filler = others.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(address)
        async with client_to(f"http://127.0.0.1:{address[1]}", timeout_connect_s=0.05, attempts_max=1) as client:
            await hold(client)
            error = await not_sent(client)
            assert "imeout" in str(error)


async def test_pool_wait(qfpay_gateway: Gateway) -> None:
    """A call that waits for a free connection until its deadline was not sent."""
    async with client_of(qfpay_gateway, connections_max=1) as client:
        first, second = [await registered(client, qfpay_gateway) for _ in range(2)]
        qfpay_gateway.faults.add("hang_after", syssn=first)
        hanging = asyncio.create_task(client.capture(first, 1_000, idempotency_key="a"))
        await qfpay_gateway.wait_hanging()
        with pytest.raises(NotSentError):
            await client.capture(second, 1_000, idempotency_key="b", deadline_s=0.1)
        qfpay_gateway.release()
        assert (await hanging).amount == 1_000
        assert (await client.capture(second, 1_000, idempotency_key="b")).amount == 1_000
        assert sent(qfpay_gateway, "capture") == 2


async def test_unknown_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that does not resolve: not sent."""

    async def no_such_name(*_: object, **__: object) -> list[Any]:
        raise OSError("Name or service not known")

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", no_such_name)
    monkeypatch.setattr(aiohttp.resolver.DefaultResolver, "resolve", no_such_name)
    async with client_to("https://gateway.invalid") as client:
        await hold(client)
        await not_sent(client)


async def test_untrusted_certificate() -> None:
    """A self-signed certificate is refused, and not one byte of the request is handed over."""
    received: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read())
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_PEM)
    async with server(listen, context) as port, client_to(f"https://127.0.0.1:{port}") as client:
        await hold(client)
        error = await not_sent(client)
        assert "ertificate" in str(error)
    assert b"".join(received) == b""


async def test_deadline_before_sending(qfpay_gateway: Gateway) -> None:
    """Where the budget has no room before the deadline nothing is written, and nothing is sent."""
    async with client_of(qfpay_gateway, requests_per_second=2, requests_per_minute=100) as client:
        syssn = await registered(client, qfpay_gateway)
        for amount in (1_000, 1_001):
            await client.capture(syssn, amount, idempotency_key=f"k{amount}")
        with pytest.raises(RateLimitedError) as caught:
            await client.capture(syssn, 1_002, idempotency_key="late", deadline_s=0.05)
        assert caught.value.outcome is Outcome.NOTHING_HAPPENED
        assert await client.entry("late") is None
        assert (await client.capture(syssn, 1_001, idempotency_key="k1001", deadline_s=0.05)).replayed is True
        assert sent(qfpay_gateway) == 2
        assert caught.value.idempotency_key == "late"


class Adjustable(SystemClock):
    """A wall clock that a test can move; the monotonic one goes on as ever."""

    ahead = timedelta(0)

    def now(self) -> datetime:
        return super().now() + self.ahead


async def test_send_by_is_kept(qfpay_gateway: Gateway) -> None:
    """A request that waited past its send-by does not leave: others may have judged it since."""
    client = client_of(qfpay_gateway, connections_max=1)
    client._clock = clock = Adjustable()
    async with client:
        first, second = [await registered(client, qfpay_gateway) for _ in range(2)]
        qfpay_gateway.faults.add("hang_after", syssn=first)
        hanging = asyncio.create_task(client.capture(first, 1_000, idempotency_key="a"))
        await qfpay_gateway.wait_hanging()
        waiting = asyncio.create_task(client.capture(second, 1_000, idempotency_key="b"))
        await reserved(client, "b")
        clock.ahead = timedelta(hours=1)
        qfpay_gateway.release()
        with pytest.raises(NotSentError) as caught:
            await waiting
        assert (await hanging).amount == 1_000
        assert sent(qfpay_gateway, "capture") == 1
        assert (await client.capture(second, 1_000, idempotency_key="b")).amount == 1_000
        assert "send-by" in str(caught.value)


# ------------------------------------------------------------------------------------------------ Retry-After


async def test_retry_after_in_seconds_is_waited_for(qfpay_gateway: Gateway) -> None:
    """The next attempt comes no sooner than the gateway asked."""
    async with client_of(qfpay_gateway) as client:
        syssn = await registered(client, qfpay_gateway)
        qfpay_gateway.faults.add("rate_limited", retry_after="1")
        assert (await client.capture(syssn, 1_000, idempotency_key="k")).amount == 1_000
        first, second = (each.at for each in qfpay_gateway.requests)
        assert second - first >= timedelta(seconds=0.95)


@pytest.mark.parametrize("dated", [False, True])
async def test_retry_after_beyond_the_deadline(qfpay_gateway: Gateway, dated: bool) -> None:
    """A wait that the deadline does not allow ends the call at once, saying how long it is."""
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=300), usegmt=True) if dated else "300"
    async with client_of(qfpay_gateway) as client:
        syssn = await registered(client, qfpay_gateway)
        qfpay_gateway.faults.add("rate_limited", retry_after=later, times=None)
        began = asyncio.get_running_loop().time()
        with pytest.raises(RateLimitedError) as caught:
            await client.capture(syssn, 1_000, idempotency_key="k", deadline_s=60)
        assert asyncio.get_running_loop().time() - began < 5
        assert caught.value.retry_after_s == pytest.approx(300, abs=5)
        assert sent(qfpay_gateway) == 1


@pytest.mark.parametrize("junk", ["soon", "-5", "1e3", "", "9" * 400, "Thu, 99 Foo 2026 00:00:00 GMT", "0x10"])
async def test_junk_in_retry_after_is_ignored(qfpay_gateway: Gateway, junk: str) -> None:
    """What is no wait is no reason to stop or to fail: the usual back-off applies."""
    async with client_of(qfpay_gateway) as client:
        syssn = await registered(client, qfpay_gateway)
        qfpay_gateway.faults.add("rate_limited", retry_after=junk)
        assert (await client.capture(syssn, 1_000, idempotency_key="k")).amount == 1_000
        assert sent(qfpay_gateway) == 2


# ------------------------------------------------------------------------------------------------ the body-left flag


async def test_a_kept_connection_that_dies_is_no_reason_to_send_again() -> None:
    """The gateway answers once, keeps the connection, reads the next request and closes: one request, in doubt."""
    bodies: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            for reply in (b'{"respcd":"1201"}', None):
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                bodies.append(await reader.readexactly(length))
                if reply is not None:
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(reply), reply))
                    await writer.drain()
        writer.close()

    async with server(talk) as port, client_to(f"http://127.0.0.1:{port}") as client:
        await hold(client)
        with pytest.raises(Exception, match="1201"):
            await client.capture("1", 1_000, idempotency_key="declined")
        with pytest.raises(OutcomeUnknownError):
            await client.capture("1", 2_000, idempotency_key="lost")
        with pytest.raises(OutcomeUnknownError):
            await client.capture("1", 2_000, idempotency_key="lost")
    assert [b"txamt=1000" in body for body in bodies] == [True, False]
    assert len(bodies) == 2


async def test_taken_means_that_bytes_were_written() -> None:
    """`Body.taken` turns True after the headers' event and before any byte of the body can reach the other side."""
    seen: list[tuple[str, bool]] = []
    got = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(9) == b"txamt=500"
        seen.append(("server has the body", body.taken))
        got.set()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    async def headers_sent(*_: object) -> None:
        seen.append(("headers sent", body.taken))

    async def connected(*_: object) -> None:
        seen.append(("connected", body.taken))

    trace = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(connected)
    trace.on_request_headers_sent.append(headers_sent)
    body = _body(lambda: None)
    assert body.taken is False
    async with server(talk) as port, aiohttp.ClientSession(trace_configs=[trace]) as session:
        async with session.post(f"http://127.0.0.1:{port}/", data=Payload(body, TEXT)) as response:
            assert await response.read() == b"ok"
        await got.wait()
    assert seen == [("connected", False), ("headers sent", False), ("server has the body", True)]


@pytest.mark.parametrize("how", ["revoked", "refused", "taken"])
async def test_a_closed_body_is_never_written(how: str) -> None:
    """Revoked, past its time, or taken before: the server gets headers at most, never a byte of the body."""
    received: list[bytes] = []
    gone = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            received.append(await reader.read())
        writer.close()
        gone.set()

    body = _body(lambda: "too late" if how == "refused" else None)
    body.revoked = how == "revoked"
    body.taken = how == "taken"
    async with server(talk) as port, aiohttp.ClientSession() as session:
        with pytest.raises(Exception, match=r"(?i)fail|handed|called off|too late|connection"):
            await session.post(
                f"http://127.0.0.1:{port}/", data=Payload(body, TEXT), timeout=aiohttp.ClientTimeout(total=2)
            )
        await gone.wait()
    assert body.taken is (how == "taken")
    assert all(b"txamt" not in each for each in received)


def _body(why_not: Callable[[], str | None]) -> Body:
    budget = Budget(1_000, 10_000)
    budget.take(0)
    return Body(TEXT, why_not, Permit(Turnstile(budget, lambda: 0.0), None))
