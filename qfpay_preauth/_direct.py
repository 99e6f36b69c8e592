"""One POST on aiohttp's own connections, read by aiohttp's own parser, without what else `session.post` does.

`session.post` prepares for redirects, cookies, middlewares, traces, encodings and uploads, and writes the body from a
task of its own: half of what a POST costs, and none of it is ever used for a signed request that must leave once. What
is called instead aiohttp does not document for this use: its connector's `connect`, a connection's `protocol`, and the
parser behind that. So it is done only with the versions of aiohttp on which the contract tests were passed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import aiohttp
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from aiohttp.http import SERVER_SOFTWARE
from multidict import CIMultiDictProxy
from yarl import URL

TESTED = ("3.14.5",)
"""The versions of aiohttp on which the tests of both ways were passed; with any other, `session.post` serves."""

_AIOHTTP = vars(aiohttp.client)


def serves(session: aiohttp.ClientSession, version: str = aiohttp.__version__) -> bool:
    """Whether `session.post` may be left out: its inner calls are known, and nobody listens in.

    A proxy needs `session.post`, and so do those who want to be told of requests (OpenTelemetry, Sentry).
    """
    return version.startswith(TESTED) and not session.trust_env and not session.trace_configs


def mocked() -> bool:
    """Whether something stands in for aiohttp's own requests, as aioresponses does in tests."""
    return getattr(aiohttp.ClientSession._request, "__globals__", None) is not _AIOHTTP


class Line:
    """Posts to one gateway over the connections of an aiohttp session."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        assert session.connector is not None  # noqa: S101 - the session was just made
        self._connector = session.connector
        where = URL(url)
        # never sent itself: it names the host, the port and the way (TLS or not) to the connector
        self._host = ClientRequest("POST", where, loop=asyncio.get_running_loop(), session=session)
        self._path = where.raw_path.rstrip("/")
        self._always = f"Host: {where.host_port_subcomponent}\r\nAccept: */*\r\nUser-Agent: {SERVER_SOFTWARE}\r\n"

    def head(self, path: str, headers: Mapping[str, str], length: int) -> bytes:
        """The request's first line and headers."""
        own = "\r\n".join(map(": ".join, headers.items()))
        head = f"POST {self._path}{path} HTTP/1.1\r\n{self._always}{own}\r\nContent-Length: {length}\r\n\r\n"
        return head.encode("ascii")

    async def connection(self, timeout: aiohttp.ClientTimeout) -> Connection:
        """A connection on which nothing waits to be read."""
        while True:
            connection = await self._connector.connect(self._host, traces=[], timeout=timeout)
            if connection.protocol is not None and not connection.protocol.should_close:
                return connection
            connection.close()  # somebody spoke on it while nobody had asked: that is no answer to what comes next

    @staticmethod
    def send(connection: Connection, data: bytes) -> None:
        """Make the connection ready for an answer, and give it the request."""
        protocol = connection.protocol
        assert protocol is not None  # noqa: S101 - `connection` has looked, and nobody was awaited since
        assert protocol.transport is not None  # noqa: S101
        protocol.set_response_params(read_until_eof=True, auto_decompress=False)
        protocol.transport.write(data)

    @staticmethod
    async def answer(connection: Connection, limit: int) -> tuple[int, CIMultiDictProxy[str], bytes | None]:
        """Status, headers and whole body (None: longer than `limit`); raises where there is none, or it was cut."""
        protocol = connection.protocol
        assert protocol is not None  # noqa: S101 - the request was just sent on it
        while True:
            message, payload = await protocol.read()
            if not 100 <= message.code <= 199 or message.code == 101:
                break
        chunks = [await payload.readany()]
        size = len(chunks[0])
        while size <= limit and not payload.at_eof():
            chunks.append(await payload.readany())
            size += len(chunks[-1])
        return message.code, message.headers, b"".join(chunks) if size <= limit else None
