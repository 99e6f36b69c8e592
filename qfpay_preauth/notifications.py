"""QFPay's asynchronous notifications: raw body + headers → a verified `Notification`; adapters for web applications.

    app.router.add_post("/qfpay", aiohttp_handler(client))   # aiohttp.web
    app.add_route("/qfpay", asgi_app(client))                # FastAPI, Starlette

Both answer 200 `SUCCESS` only after the notice is durable in the ledger; otherwise 401 (signature), 405 (method),
413 (size), 415 (not JSON) or 500 (ledger), and QFPay sends it again after 2 min, 10 min, 10 min, 60 min, 2 h, 6 h and
15 h.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from qfpay_preauth._models import Notification
from qfpay_preauth._signing import Signer
from qfpay_preauth._wire import read_notification
from qfpay_preauth.errors import InvalidRequestError, InvalidSignatureError, PreauthError

if TYPE_CHECKING:
    from aiohttp import web

BODY_BYTES_MAX = 65_536

log = logging.getLogger("qfpay_preauth")


class Handles(Protocol):
    """What the adapters need: `PreauthClient` has it."""

    async def handle_notification(self, body: bytes, headers: Mapping[str, str]) -> Notification:
        """Verify, keep and apply one notification."""
        ...


def verified(body: bytes, headers: Mapping[str, str], keys: Sequence[Signer]) -> Notification:
    """The notification in `body` (untouched bytes), if one of `keys` signed it.

    QFPay, Asynchronous Notifications: `X-QF-SIGN` is the hex MD5 of the raw body followed by the key.

    Raises:
        InvalidRequestError: it is not bytes, longer than 64 KiB, or (though signed) not a JSON object.
        InvalidSignatureError: the signature is missing or not ours.
    """
    if not isinstance(body, bytes | bytearray | memoryview):
        raise InvalidRequestError("body must be the raw bytes as they came, before any parsing.")
    raw = bytes(body)
    if len(raw) > BODY_BYTES_MAX:
        raise InvalidRequestError(f"body must be at most {BODY_BYTES_MAX} bytes, not {len(raw)}.")
    signature = _signature(headers)
    # every key is tried, so that the time taken does not tell which one it was
    matches = [key.body_matches(raw, signature) for key in keys]
    if not signature or not any(matches):
        raise InvalidSignatureError()
    notice = read_notification(raw)
    if notice is None:
        raise InvalidRequestError("body is signed, but it is not a JSON object.")
    return notice


def _signature(headers: Mapping[Any, Any]) -> str:
    for name, value in headers.items():
        if _text(name).lower() == "x-qf-sign":
            return _text(value)
    return ""


def _text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


# ------------------------------------------------------------------------------------------------ adapters


async def _answer(client: Handles, content_type: str, headers: Mapping[str, str], body: bytes) -> tuple[int, str]:
    if content_type.partition(";")[0].strip().lower() != "application/json":
        return 415, "application/json is expected"
    try:
        await client.handle_notification(body, headers)
    except InvalidSignatureError:
        return 401, "invalid signature"
    except InvalidRequestError:
        return 415, "a JSON object is expected"
    except PreauthError as error:
        log.error("a notification could not be kept: %s", error)
        return 500, "try again later"
    except Exception:
        log.exception("a notification could not be handled")
        return 500, "try again later"
    return 200, "SUCCESS"


def aiohttp_handler(client: Handles) -> Callable[[web.Request], Awaitable[web.Response]]:
    """A handler for aiohttp.web: `app.router.add_post(path, aiohttp_handler(client))`."""
    from aiohttp import web

    async def handle(request: web.Request) -> web.Response:
        if request.method != "POST":
            return web.Response(status=405, text="POST only", headers={"Allow": "POST"})
        body = b""
        while chunk := await request.content.readany():
            body += chunk
            if len(body) > BODY_BYTES_MAX:
                return web.Response(status=413, text="too long")
        status, text = await _answer(client, request.headers.get("Content-Type", ""), request.headers, body)
        return web.Response(status=status, text=text)

    return handle


Message = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class AsgiApp:
    """What `asgi_app` makes; an object, since Starlette's `add_route` takes a function for a handler of requests."""

    def __init__(self, client: Handles) -> None:
        self._client = client

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer one request, whatever the path; or take part in a server's lifespan."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            answer = await _asgi_answer(self._client, scope, receive)
            if answer is not None:
                await _send(send, *answer)
        else:
            await send({"type": "websocket.close", "code": 1003})


def asgi_app(client: Handles) -> AsgiApp:
    """A plain ASGI application, for the path that QFPay was told: `app.add_route(path, asgi_app(client))`.

    Where it is mounted instead (`app.mount`), Starlette answers the path without a slash at its end with a redirect,
    which QFPay is not known to follow: tell QFPay the path with the slash then.
    """
    return AsgiApp(client)


async def _asgi_answer(client: Handles, scope: Any, receive: Receive) -> tuple[int, str] | None:
    """Status and text, or None where the other side left before its whole body came."""
    if scope["method"] != "POST":
        return 405, "POST only"
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > BODY_BYTES_MAX:
            return 413, "too long"
    headers = {_text(name).lower(): _text(value) for name, value in scope["headers"]}
    return await _answer(client, headers.get("content-type", ""), headers, body)


async def _send(send: Send, status: int, text: str) -> None:
    content = text.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(content)).encode())]
    if status == 405:
        headers.append((b"allow", b"POST"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        else:
            await send({"type": "lifespan.shutdown.complete"})
            return
