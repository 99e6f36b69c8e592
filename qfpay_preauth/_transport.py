"""The aiohttp session: one exchange, and how far it got. Never raises a network error upward.

Exception classes do not tell whether money may have moved; whether the body was handed to the connection does, for
without its body the gateway cannot execute a request. The body marks itself when its bytes are taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import BytesPayload

from qfpay_preauth import _direct
from qfpay_preauth._clock import Clock
from qfpay_preauth._deadlines import Deadlines
from qfpay_preauth._direct import Lines
from qfpay_preauth._json import masked
from qfpay_preauth._models import Answer, Delivery, NotSent, SignedRequest, Unknown
from qfpay_preauth._settings import Settings
from qfpay_preauth._turnstile import Permit


class BodyRefusedError(Exception):
    """The body was not handed over: its time is over, its caller left, or it was taken before."""


class Body:
    """A request body that is handed over at most once, never after its send-by, and remembers that it was.

    `taken` is the line between "nothing happened" and "money may have moved". Once `revoked`, it is never handed over:
    whoever calls a request off decides and closes the door in one step.
    """

    __slots__ = ("_data", "_permit", "_why_not", "refusal", "revoked", "taken")

    def __init__(self, data: bytes, why_not: Callable[[], str | None], permit: Permit) -> None:
        self._data = data
        self.taken = False
        self.revoked = False
        self.refusal: str | None = None
        self._why_not = why_not
        self._permit = permit

    def hand_over(self) -> bytes:
        """The bytes, which are written at once.

        Raises:
            BodyRefusedError: they may not leave.
        """
        if self.taken:
            # a second time would be a second request with our signature
            raise BodyRefusedError("the body was already handed over")
        self.refusal = "the request was called off" if self.revoked else self._why_not()
        if self.refusal:
            raise BodyRefusedError(self.refusal)
        self.taken = True
        self._permit.spend()
        return self._data


class Payload(BytesPayload):
    """A body as aiohttp takes it, where `session.post` sends it: handed over as its first byte is taken."""

    def __init__(self, body: Body, data: bytes) -> None:
        super().__init__(data, content_type="application/x-www-form-urlencoded")
        self._body = body

    async def write(self, writer: AbstractStreamWriter) -> None:
        self._body.hand_over()
        await super().write(writer)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        self._body.hand_over()
        await super().write_with_length(writer, content_length)


class Transport:
    """One aiohttp session to one gateway, for one event loop."""

    def __init__(self, url: str, settings: Settings, clock: Clock) -> None:
        self._url = url
        self._settings = settings
        self._clock = clock
        connector = aiohttp.TCPConnector(
            limit=settings.connections_max, keepalive_timeout=settings.keepalive_s, enable_cleanup_closed=False
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=settings.trust_env,
        )
        self._connecting = aiohttp.ClientTimeout(sock_connect=settings.timeout_connect_s)
        self._lines = self._make_lines() if _direct.serves(self._session) else None
        self._deadlines = Deadlines(asyncio.get_running_loop())

    def _make_lines(self) -> Lines:
        settings = self._settings
        return Lines(
            self._session,
            self._url,
            most=settings.connections_max,
            keepalive_s=settings.keepalive_s,
            body_max=settings.response_bytes_max,
        )

    async def close(self) -> None:
        """Close the session and its connections."""
        self._deadlines.close()
        await self._session.close()
        if self._lines is not None:
            self._lines.close()

    def body(self, request: SignedRequest, permit: Permit, refusal: Callable[[], str | None]) -> Body:
        """The body of one attempt; `refusal` is asked when its first byte is taken, and may still say why not."""
        return Body(request.body, refusal, permit)

    async def exchange(self, request: SignedRequest, body: Body, deadline: float) -> Delivery:
        """One POST: NotSent (no byte of the body left), Answer, or Unknown. Cancelling it gives one of these too."""
        left = deadline - self._clock.monotonic()
        if left <= 0:
            return NotSent("the deadline passed before it could be sent")
        try:
            return await self._post(request, body, min(self._settings.timeout_total_s, left))
        except (Exception, asyncio.CancelledError) as error:  # only `taken` tells what an error means
            return _delivery_of(error, body)

    async def _post(self, request: SignedRequest, body: Body, total_s: float) -> Delivery:
        """The seam where a simulation puts its own wire: an answer, or whatever went wrong."""
        lines = self._lines
        if lines is None or _direct.mocked():
            return await self._post_by_session(request, body, total_s)
        with self._deadlines.within(total_s):
            line = lines.idle() or await lines.line(self._connecting)
            try:
                head = lines.head(request.path, request.headers, len(request.body))
                status, headers, content = await line.ask(head + body.hand_over())
            except BaseException:
                line.close()
                raise
            finally:
                lines.give_back(line)
        return _too_long(status) if content is None else Answer(status, headers, content)

    async def _post_by_session(self, request: SignedRequest, body: Body, total_s: float) -> Delivery:
        response = await self._session.post(
            self._url + request.path,
            data=Payload(body, request.body),
            headers=request.headers,
            allow_redirects=False,  # a 307 would post the money again, with our signature, to another host
            timeout=aiohttp.ClientTimeout(total=total_s, sock_connect=min(total_s, self._settings.timeout_connect_s)),
        )
        try:
            content = await _read(response, self._settings.response_bytes_max)
        except BaseException:
            response.close()
            raise
        if content is None:
            response.close()
            return _too_long(response.status)
        response.release()
        return Answer(response.status, response.headers, content)


def _too_long(status: int) -> Unknown:
    return Unknown(f"HTTP {status} with a body of more than the allowed bytes")


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes | None:
    """The whole body, or None where it is longer than `limit`; raises where it was cut."""
    chunks: list[bytes] = []
    size = 0
    while chunk := await response.content.readany():
        size += len(chunk)
        if size > limit:
            return None
        chunks.append(chunk)
    return b"".join(chunks)


def _delivery_of(error: BaseException, body: Body) -> Delivery:
    what = masked(f"{type(error).__name__}: {error}".removesuffix(": "))[:200]  # it may quote what was received
    if body.taken:
        return Unknown(what)
    body.revoked = True  # from here on nothing can hand it over any more
    return NotSent(body.refusal or what)
