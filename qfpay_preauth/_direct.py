"""One POST on aiohttp's own connections, read by aiohttp's own parser, without what lies between them in `session.post`.

`session.post` prepares for redirects, cookies, middlewares, traces, encodings and uploads, and writes the body from a
task of its own; that is two thirds of what a POST costs, and nothing of it is ever used for a signed request that must
leave once. What is called here instead aiohttp does not document for this use: its connector's `connect`, a connection's
`protocol`, and the parser behind it. A contract test holds them, and where one is missing, `session.post` serves.
"""

from __future__ import annotations

from collections.abc import Mapping

import aiohttp
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from aiohttp.http import SERVER_SOFTWARE
from multidict import CIMultiDictProxy
from yarl import URL


class Line:
    """Posts to one gateway over the connections of an aiohttp session."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        assert session.connector is not None  # noqa: S101 - it is only taken from a session that is closed
        self._connector = session.connector
        where = URL(url)
        # never sent itself: it names the host, the port and the way (TLS or not) to the connector
        self._host = ClientRequest("POST", where, loop=session._loop, session=session)
        self._path = where.raw_path.rstrip("/")
        self._always = f"Host: {where.host_port_subcomponent}\r\nAccept: */*\r\nUser-Agent: {SERVER_SOFTWARE}\r\n"

    def head(self, path: str, headers: Mapping[str, str], length: int) -> bytes:
        """The request's line and headers."""
        own = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        head = f"POST {self._path}{path} HTTP/1.1\r\n{self._always}{own}Content-Length: {length}\r\n\r\n"
        return head.encode("ascii")

    async def connection(self, timeout: aiohttp.ClientTimeout) -> Connection:
        """A connection on which nothing is waiting to be read."""
        while True:
            connection = await self._connector.connect(self._host, traces=[], timeout=timeout)
            protocol = connection.protocol
            if protocol is not None and not protocol.should_close:
                protocol.set_response_params(read_until_eof=True, auto_decompress=False)
                return connection
            connection.close()  # somebody spoke on it while nobody had asked: that is no answer to what comes next

    @staticmethod
    def write(connection: Connection, data: bytes) -> None:
        """Hand the request to the connection."""
        if connection.transport is None:
            raise aiohttp.ClientConnectionResetError("Cannot write to closing transport")
        connection.transport.write(data)

    @staticmethod
    async def answer(connection: Connection, limit: int) -> tuple[int, CIMultiDictProxy[str], bytes | None]:
        """Status, headers and whole body (None: longer than `limit`); raises where there is none, or it was cut."""
        protocol = connection.protocol
        assert protocol is not None  # noqa: S101 - `connection` has looked
        while True:
            message, payload = await protocol.read()
            if not 100 <= message.code <= 199 or message.code == 101:
                break
        content = await payload.readany()
        while not payload.at_eof():
            if len(content) > limit:
                return message.code, message.headers, None
            content += await payload.readany()
        return message.code, message.headers, content if len(content) <= limit else None
