"""One POST on aiohttp's own connections, read by aiohttp's own parser, without what else `session.post` does.

`session.post` prepares for redirects, cookies, middlewares, traces, encodings and uploads, and writes the body from a
task of its own: more than half of what a POST costs, and none of it is ever used for a signed request that must leave
once. What is called instead aiohttp does not document for this use: its connector's `connect`, a connection's
`protocol`, and its parser. So it is done only with the versions of aiohttp on which the contract tests were passed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping

import aiohttp
from aiohttp.client_reqrep import ClientRequest
from aiohttp.http import SERVER_SOFTWARE
from yarl import URL

from qfpay_preauth._line import Line

TESTED = ("3.14.5",)
"""The versions of aiohttp on which the tests of both ways were passed; with any other, `session.post` serves."""

_AIOHTTP = vars(aiohttp.client)


def serves(session: aiohttp.ClientSession, version: str = aiohttp.__version__) -> bool:
    """Whether `session.post` may be left out: its inner calls are known, and nobody listens in.

    A proxy needs `session.post`, and so do those who want to be told of requests (OpenTelemetry, Sentry).
    """
    return version in TESTED and not session.trust_env and not session.trace_configs


def mocked() -> bool:
    """Whether something stands in for aiohttp's own requests, as aioresponses does in tests."""
    return getattr(aiohttp.ClientSession._request, "__globals__", None) is not _AIOHTTP


class Lines:
    """The lines to one gateway: at most `most` at once, each kept for the next request for `keepalive_s`."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, *, most: int, keepalive_s: float, body_max: int
    ) -> None:
        assert session.connector is not None  # noqa: S101 - the session was just made
        self._connector = session.connector
        self._loop = asyncio.get_running_loop()
        where = URL(url)
        # never sent itself: it names the host, the port and the way (TLS or not) to the connector
        self._host = ClientRequest("POST", where, loop=self._loop, session=session)
        self._path = where.raw_path.rstrip("/")
        self._always = f"Host: {where.host_port_subcomponent}\r\nAccept: */*\r\nUser-Agent: {SERVER_SOFTWARE}\r\n"
        self._most = most
        self._open = 0
        self._waiting: deque[asyncio.Future[Line | None]] = deque()
        self._keepalive_s = keepalive_s
        self._body_max = body_max
        self._idle: list[Line] = []
        self._sweeper: asyncio.TimerHandle | None = None

    def head(self, path: str, headers: Mapping[str, str], length: int) -> bytes:
        """The request's first line and headers."""
        own = "\r\n".join(map(": ".join, headers.items()))
        head = f"POST {self._path}{path} HTTP/1.1\r\n{self._always}{own}\r\nContent-Length: {length}\r\n\r\n"
        return head.encode("ascii")

    def idle(self) -> Line | None:
        """A line that waits for its next request, if there is one."""
        fresh = self._loop.time() - self._keepalive_s
        while self._idle:
            line = self._idle.pop()
            if line.usable and line.idle_since >= fresh:
                return line
            self._drop(line)
        return None

    async def line(self, timeout: aiohttp.ClientTimeout) -> Line:
        """A line for one request, to be given back; who comes first where as many as may be are in use, waits least."""
        while True:
            if self._open < self._most:
                self._open += 1
                line = None
            else:
                line = await self._turn()
            if line is None:
                line = await self._new(timeout)
            if line.usable:
                return line
            self.give_back(line)

    async def _new(self, timeout: aiohttp.ClientTimeout) -> Line:
        """Make one where there is room for it."""
        try:
            while True:
                connection = await self._connector.connect(self._host, traces=[], timeout=timeout)
                if connection.protocol is not None and connection.protocol.transport is not None:
                    line = Line(connection, self._loop, self._body_max)
                    if line.usable:
                        return line
                connection.close()
        except BaseException:
            self._leave_room()
            raise

    async def _turn(self) -> Line | None:
        """Wait for a line that is given back; None: for room to make one."""
        turn: asyncio.Future[Line | None] = self._loop.create_future()
        self._waiting.append(turn)
        try:
            return await turn
        except BaseException:
            if turn.done() and not turn.cancelled():  # it came in the same moment
                line = turn.result()
                self._leave_room() if line is None else self.give_back(line)
            raise

    def _next(self) -> asyncio.Future[Line | None] | None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                return turn
        return None

    def give_back(self, line: Line) -> None:
        """The request has ended; the line is kept if nothing is left of it."""
        if not line.usable or self._connector.closed:
            line.close()
            self._leave_room()
        elif (turn := self._next()) is not None:
            turn.set_result(line)
        else:
            line.idle_since = self._loop.time()
            self._idle.append(line)
            if self._sweeper is None:
                self._sweeper = self._loop.call_later(self._keepalive_s, self._sweep)

    def _leave_room(self) -> None:
        """There may be one line more: for who waits the longest, or for who comes next."""
        if (turn := self._next()) is not None:
            turn.set_result(None)
        else:
            self._open -= 1

    def _drop(self, line: Line) -> None:
        line.close()
        self._open -= 1  # nobody waits where lines are idle

    def close(self) -> None:
        """Let go of the idle ones; those in use are let go of as they are given back."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        while self._idle:
            self._drop(self._idle.pop())

    def _sweep(self) -> None:
        """Close what nobody has used for too long."""
        self._sweeper = None
        now = self._loop.time()
        kept = [line for line in self._idle if line.usable and now - line.idle_since < self._keepalive_s]
        for line in self._idle:
            if line not in kept:
                self._drop(line)
        self._idle = kept
        if kept:
            self._sweeper = self._loop.call_at(kept[0].idle_since + self._keepalive_s, self._sweep)
