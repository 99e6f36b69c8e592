"""The ready adapters: an aiohttp.web handler and a plain ASGI app, which answer SUCCESS only after the commit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from attrs import frozen

from qfpay_preauth import ConfigurationError, Notification, PreauthClient, State
from qfpay_preauth.notifications import aiohttp_handler, asgi_app
from qfpay_preauth.testing import Gateway
from tests.evidence.broken import unwritable
from tests.evidence.kit import HOLD, executed, lose, state
from tests.support import client_of, registered, sqlite_url

ADAPTERS = ("aiohttp", "asgi")
JSON = {"Content-Type": "application/json"}


@frozen
class Reply:
    """What the other side sees."""

    status: int
    text: str
    headers: Mapping[str, str]


async def call_asgi(app: Any, method: str, headers: Mapping[str, str], parts: Iterable[bytes]) -> Reply:
    """Drive an ASGI application by hand: a request in pieces, and what it sends."""
    pieces = list(parts) or [b""]
    incoming = [
        {"type": "http.request", "body": piece, "more_body": place < len(pieces) - 1}
        for place, piece in enumerate(pieces)
    ]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return incoming.pop(0) if incoming else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    scope = {"type": "http", "asgi": {"version": "3.0"}, "method": method, "path": "/", "headers": raw}
    await app(scope, receive, send)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    got = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    assert got["content-length"] == str(len(sent[1]["body"]))
    return Reply(sent[0]["status"], sent[1]["body"].decode(), got)


@asynccontextmanager
async def served(client: PreauthClient) -> AsyncIterator[str]:
    """The aiohttp adapter on a real port."""
    app = web.Application()
    app.router.add_route("*", "/qfpay", aiohttp_handler(client))
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/qfpay"
    finally:
        await runner.cleanup()


async def post(
    adapter: str, client: PreauthClient, body: bytes, headers: Mapping[str, str], method: str = "POST"
) -> Reply:
    """One request to an adapter."""
    if adapter == "asgi":
        parts = [body[low : low + 16_384] for low in range(0, len(body), 16_384)]
        return await call_asgi(asgi_app(client), method, headers, parts)
    async with (
        served(client) as url,
        aiohttp.ClientSession() as session,
        session.request(method, url, data=_chunks(body), headers=headers) as answer,
    ):
        return Reply(answer.status, await answer.text(), {name.lower(): v for name, v in answer.headers.items()})


async def _chunks(body: bytes) -> AsyncIterator[bytes]:
    for low in range(0, len(body), 16_384):
        yield body[low : low + 16_384]


async def lost_one(client: PreauthClient, gateway: Gateway) -> tuple[bytes, dict[str, str]]:
    """The notification of a capture whose answer was lost."""
    syssn = await registered(client, gateway, HOLD)
    await lose(client, gateway, syssn)
    return gateway.notification(executed(gateway, syssn)[0][0])


@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_success(qfpay_gateway: Gateway, adapter: str) -> None:
    """A genuine notice is answered 200 SUCCESS, again and again, and ends its doubt."""
    async with client_of(qfpay_gateway) as client:
        told = await lost_one(client, qfpay_gateway)
        for _ in range(3):
            reply = await post(adapter, client, *told)
            assert (reply.status, reply.text) == (200, "SUCCESS")
        assert await state(client) is State.EXECUTED


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("kind", ["application/json", "application/json;charset=utf-8", "Application/JSON ; charset=x"])
async def test_content_types(qfpay_gateway: Gateway, adapter: str, kind: str) -> None:
    """JSON with or without a charset, in any case."""
    async with client_of(qfpay_gateway) as client:
        body, headers = await lost_one(client, qfpay_gateway)
        assert (await post(adapter, client, body, {**headers, "Content-Type": kind})).status == 200


@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_refusals(qfpay_gateway: Gateway, adapter: str) -> None:
    """401 for the signature, 405 for the method, 413 for the size, 415 for what is not JSON; nothing is changed."""
    async with client_of(qfpay_gateway) as client:
        body, headers = await lost_one(client, qfpay_gateway)
        from tests.evidence.test_notifications import signed

        cases = [
            (401, body, JSON, "POST"),
            (401, body + b" ", headers, "POST"),
            (401, body, {**JSON, "X-QF-SIGN": "\xe4\xff"}, "POST"),
            (405, b"", {}, "GET"),
            (405, body, headers, "PUT"),
            (415, body, {**headers, "Content-Type": "text/plain"}, "POST"),
            (415, *signed(b"[1]", qfpay_gateway.client_key), "POST"),
        ]
        for status, content, given, method in cases:
            reply = await post(adapter, client, content, given, method)
            assert (reply.status, reply.text == "SUCCESS") == (status, False), (given, method)
            assert ("allow" in reply.headers) == (status == 405)
        assert await state(client) is State.IN_DOUBT


async def test_five_megabytes_over_asgi(qfpay_gateway: Gateway) -> None:
    """413 as soon as there is too much: the rest of the body is not even asked for."""
    async with client_of(qfpay_gateway) as client:
        asked = 0

        async def receive() -> dict[str, Any]:
            nonlocal asked
            asked += 1
            return {"type": "http.request", "body": b"x" * 16_384, "more_body": asked < 320}

        sent: list[dict[str, Any]] = []

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await asgi_app(client)({"type": "http", "method": "POST", "headers": []}, receive, send)
        assert (sent[0]["status"], asked) == (413, 5)


async def test_five_megabytes_over_aiohttp(qfpay_gateway: Gateway) -> None:
    """413 over a real socket, and the server goes on; a sender that stops reading is cut off without harm."""
    async with client_of(qfpay_gateway) as client, served(client) as url:
        body, headers = await lost_one(client, qfpay_gateway)
        async with aiohttp.ClientSession() as session:
            for size in (70_000, 5_000_000):
                try:
                    async with session.post(url, data=_chunks(b"x" * size), headers=JSON) as answer:
                        assert answer.status == 413
                except aiohttp.ClientError:  # cut off while still sending
                    assert size == 5_000_000
            async with session.post(url, data=body, headers=headers) as answer:
                assert (answer.status, await answer.text()) == (200, "SUCCESS")


@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_ledger_down_once(qfpay_gateway: Gateway, tmp_path: Path, adapter: str) -> None:
    """500 while the ledger cannot write, so that it is sent again; the redelivery then works."""
    async with client_of(qfpay_gateway, sqlite_url(tmp_path)) as client:
        told = await lost_one(client, qfpay_gateway)
    async with client_of(qfpay_gateway, sqlite_url(tmp_path)) as client:
        with unwritable(tmp_path / "ledger.db"):
            reply = await post(adapter, client, *told)
        assert (reply.status, reply.text != "SUCCESS") == (500, True)
        assert (await post(adapter, client, *told)).status == 200
        assert await state(client) is State.EXECUTED


class Broken:
    """A handler that fails in a way nobody foresaw, or waits until it is let go."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.go = asyncio.Event()
        self.entered = asyncio.Event()

    async def handle_notification(self, body: bytes, headers: Mapping[str, str]) -> Notification:
        """Fail or wait."""
        if self.error:
            raise self.error
        self.entered.set()
        await self.go.wait()
        return Notification("x", None, None, None, None, None, None)


@pytest.mark.parametrize(
    "error", [RuntimeError("secret"), ConfigurationError("The client is closed."), OSError(28, "x")]
)
async def test_any_other_failure(error: Exception) -> None:
    """Whatever goes wrong inside is a 500 that tells nothing."""
    reply = await call_asgi(asgi_app(Broken(error)), "POST", JSON, [b"{}"])
    assert (reply.status, "secret" in reply.text) == (500, False)


async def test_success_only_after_the_commit() -> None:
    """Nothing is sent until the notice was handled."""
    handler = Broken(None)
    answer = asyncio.create_task(call_asgi(asgi_app(handler), "POST", JSON, [b"{}"]))
    await handler.entered.wait()
    assert not answer.done()
    handler.go.set()
    assert (await answer).text == "SUCCESS"


async def test_the_sender_leaves() -> None:
    """A sender that leaves before its whole body came gets no answer, and nothing is handled."""
    handler, sent = Broken(None), []
    incoming = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]

    async def receive() -> Any:
        return incoming.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    await asgi_app(handler)(
        {"type": "http", "method": "POST", "headers": [(b"content-type", b"application/json")]}, receive, send
    )
    assert (sent, handler.entered.is_set()) == ([], False)


async def test_lifespan_and_websocket() -> None:
    """Run alone under a server, it takes part in its life; a websocket is closed."""
    app, sent = asgi_app(Broken(None)), []
    incoming = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

    async def receive() -> Any:
        return incoming.pop(0) if incoming else {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await app({"type": "lifespan"}, receive, send)
    await app({"type": "websocket", "headers": []}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete", "websocket.close"]
