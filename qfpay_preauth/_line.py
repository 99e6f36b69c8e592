"""One kept connection: a request goes out whole, and aiohttp's parser reads what comes back.

aiohttp makes the connection (names, addresses, TLS) and counts it; from then on it is read here, without the queue,
the stream and the two futures that `session.post` puts between the parser and who waits for a whole answer.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from aiohttp import ClientOSError, ClientPayloadError, ServerDisconnectedError
from aiohttp.base_protocol import BaseProtocol
from aiohttp.connector import Connection
from aiohttp.http import HttpResponseParser
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from multidict import CIMultiDictProxy

Reply = tuple[int, CIMultiDictProxy[str], bytes | None]
"""Status, headers and whole body; None: it was longer than allowed."""

BUFFER_BYTES = 16_384  # the answer to a write takes less than one; an enquiry's page takes some
_NO_BODY = frozenset([204, 304])  # RFC 9110, 6.4.1: these have none, whatever their headers say


class Line(asyncio.BufferedProtocol):
    """One connection for one request after another; `usable` until anything happens that leaves doubt about it."""

    def __init__(self, connection: Connection, loop: asyncio.AbstractEventLoop, body_max: int) -> None:
        protocol = connection.protocol
        assert protocol is not None and protocol.transport is not None  # noqa: S101, PT018 - it was just made
        self.usable = not protocol.should_close  # else somebody spoke before anything was asked
        self.idle_since = 0.0
        self._connection = connection
        self._protocol = protocol
        self._transport = protocol.transport
        self._loop = loop
        self._body_max = body_max
        self._asked: asyncio.Future[Reply] | None = None
        self._parser: Any = None
        self._message: Any = None
        self._payload: Any = None
        # a buffer of its own: asyncio would make one of 256 KiB for each answer
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._transport.set_protocol(self)

    def ask(self, data: bytes) -> asyncio.Future[Reply]:
        """Send a request; the future has its answer, or the error that kept it from coming whole."""
        self._parser = HttpResponseParser(
            cast(BaseProtocol, self),  # all that it asks of it is to pause and to go on
            self._loop,
            self._body_max,
            payload_exception=ClientPayloadError,
            read_until_eof=True,
            auto_decompress=False,  # nothing is decoded blindly
        )
        self._message = self._payload = None
        self._asked = asked = self._loop.create_future()
        self._transport.write(data)
        return asked

    def close(self) -> None:
        """Let go of it, whatever it is doing."""
        self.usable = False
        self._connection.close()

    # ------------------------------------------------------------------ what asyncio tells

    def get_buffer(self, sizehint: int) -> memoryview:
        """See asyncio.BufferedProtocol."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """See asyncio.BufferedProtocol."""
        asked = self._asked
        if asked is None or asked.done():
            self.close()  # somebody spoke while nobody had asked: that is no answer to what comes next
            return
        try:
            messages, upgraded, _ = self._parser.feed_data(bytes(self._buffer[:nbytes]))
            for message, payload in messages:
                self._begin(message, payload)
        except Exception as error:
            self._fail(error)
            return
        self.usable = self.usable and not upgraded
        if self._message is not None:
            self._look(asked)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.BufferedProtocol."""
        self.usable = False
        self._protocol.connection_lost(exc)
        asked = self._asked
        if asked is not None and not asked.done():
            self._end_of_stream(asked, exc)
        self._connection.close()

    # ------------------------------------------------------------------ what the parser tells

    def pause_reading(self) -> None:
        """The parser's stream is full; an answer so long is given up as soon as its piece was read."""

    def resume_reading(self, resume_parser: bool = True) -> None:
        """See `pause_reading`."""

    # ------------------------------------------------------------------ the answer

    def _begin(self, message: Any, payload: StreamReader) -> None:
        if 100 <= message.code <= 199 and message.code != 101:
            return  # RFC 9110, 15.2: not the answer yet
        if self._message is not None:
            self.usable = False  # two answers to one question: the first counts, and nothing comes after it
            return
        self._message = message
        self._payload = EMPTY_PAYLOAD if message.code in _NO_BODY else payload
        self.usable = self.usable and not message.should_close

    def _look(self, asked: asyncio.Future[Reply]) -> None:
        """Answer if it is whole, or longer than it may be."""
        message, payload = self._message, self._payload
        if (error := payload.exception()) is not None:
            self._fail(error)
        elif payload is EMPTY_PAYLOAD:
            asked.set_result((message.code, message.headers, b""))
        elif payload.total_bytes > self._body_max:
            self.usable = False
            asked.set_result((message.code, message.headers, None))
        elif payload.is_eof():
            asked.set_result((message.code, message.headers, payload.read_nowait()))

    def _end_of_stream(self, asked: asyncio.Future[Reply], exc: Exception | None) -> None:
        """The connection ended before the answer did, unless its end is what ends the answer (RFC 9112, 6.3)."""
        try:
            self._parser.feed_eof()
        except Exception as error:
            asked.set_exception(error)
            return
        if exc is None and self._message is not None:
            self._look(asked)
        if not asked.done():
            ended = ServerDisconnectedError() if exc is None else ClientOSError(*exc.args)
            ended.__cause__ = exc
            asked.set_exception(ended)

    def _fail(self, error: BaseException) -> None:
        self.usable = False
        if self._asked is not None and not self._asked.done():
            self._asked.set_exception(error)
