"""Carries plans out on real sockets, with HTTP/1.1 by hand.

A wire that must misbehave needs every byte in its grip, and a witness that shares no code with the client's HTTP
library also notices that library's mistakes.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from email.utils import formatdate
from http import HTTPStatus

import attrs

from ._core import Core, plain
from ._plan import Answer, Plan, Wire

_HEAD_BYTES_MAX = 65_536
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class _BadRequest(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(str(status))
        self.status = status


@attrs.frozen
class _Received:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Server:
    """Listens on one address and lets ``core`` decide. ``clock`` gives the gateway's time (aware)."""

    def __init__(self, core: Core, clock: Callable[[], datetime]) -> None:
        self._core = core
        self._clock = clock
        self._listener: asyncio.Server | None = None
        self._address: tuple[str, int] = ("", 0)
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._idle: set[asyncio.Task[None]] = set()
        self._hanging: set[asyncio.Future[None]] = set()
        self._swaps: dict[int, asyncio.Future[Answer | None]] = {}
        self._watchers: set[asyncio.Future[None]] = set()

    @property
    def port(self) -> int:
        """The port listened on; it stays the same over ``pause`` and ``resume``."""
        return self._address[1]

    @property
    def hanging(self) -> int:
        """How many requests are waiting for an answer that will not come by itself."""
        return len(self._hanging) + len(self._swaps)

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._connections)

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises ``OSError`` if the port is taken."""
        self._listener = await asyncio.start_server(self._connected, host, port, limit=_HEAD_BYTES_MAX, backlog=1024)
        self._address = (host, self._listener.sockets[0].getsockname()[1])

    async def pause(self) -> None:
        """Stop listening: new connections are refused, open ones go on."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            await asyncio.sleep(0)

    async def resume(self) -> None:
        """Listen again on the same port."""
        if self._listener is None:
            await self.start(*self._address)

    async def stop(self) -> None:
        """Close everything at once; nothing is left behind."""
        await self.pause()
        # A connection accepted a moment ago reaches its task some turns of the loop later.
        for _ in range(5):
            await asyncio.sleep(0)
            await self._cut(list(self._connections))

    async def close_idle(self) -> int:
        """Close kept-alive connections on which no request is under way, as gateways do; how many."""
        idle = [task for task in self._connections if task in self._idle]
        await self._cut(idle)
        return len(idle)

    def release(self) -> int:
        """Let go of every hanging request: it is answered if it has an answer, else closed. How many."""
        waiting = [*self._hanging, *self._swaps.values()]
        for future in self._hanging:
            future.set_result(None)
        for swap in self._swaps.values():
            swap.set_result(None)
        self._hanging.clear()
        self._swaps.clear()
        return len(waiting)

    async def wait_hanging(self, count: int = 1) -> None:
        """Return as soon as ``count`` requests hang at the same time."""
        while self.hanging < count:
            watcher: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._watchers.add(watcher)
            try:
                await watcher
            finally:
                self._watchers.discard(watcher)

    async def _cut(self, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            self._connections[task].transport.abort()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = writer
        # Nagle would hold back the second part of a slow or cut answer.
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            with suppress(ConnectionError, TimeoutError, asyncio.CancelledError):
                while await self._exchange(task, reader, writer):
                    pass
        finally:
            writer.close()
            with suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()
            self._idle.discard(task)
            del self._connections[task]

    async def _exchange(
        self, task: asyncio.Task[None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        self._idle.add(task)
        try:
            head = await self._head(reader)
            self._idle.discard(task)
            if not head:
                return False
            received = await self._receive(head, reader, writer)
        except _BadRequest as problem:
            _send_whole(writer, plain(problem.status, "bad request"), close=True)
            await writer.drain()
            return False
        peer = writer.get_extra_info("peername")
        plan = self._core.handle(
            received.method, received.path, received.headers, received.body, self._clock(), f"{peer[0]}:{peer[1]}"
        )
        closing = received.headers.get("connection", "").lower() == "close"
        return await self._carry_out(plan, writer, closing) and not closing

    async def _head(self, reader: asyncio.StreamReader) -> bytes:
        try:
            async with asyncio.timeout(self._core.config.keepalive_s):
                return await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return b""
        except asyncio.LimitOverrunError as error:
            raise _BadRequest(431) from error

    async def _receive(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> _Received:
        method, path, headers = _parse_head(head)
        if headers.get("expect", "").lower() == "100-continue":
            writer.write(_CONTINUE)
        try:
            body = await self._body(headers, reader)
        except (asyncio.IncompleteReadError, ValueError, asyncio.LimitOverrunError) as error:
            raise _BadRequest(400) from error
        return _Received(method, path, headers, body)

    async def _body(self, headers: dict[str, str], reader: asyncio.StreamReader) -> bytes:
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return await self._chunks(reader)
        length = int(headers.get("content-length", "0"))
        self._check_size(length)
        return await reader.readexactly(length)

    async def _chunks(self, reader: asyncio.StreamReader) -> bytes:
        body = b""
        while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
            self._check_size(len(body) + size)
            body += (await reader.readexactly(size + 2))[:-2]
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass  # trailers
        return body

    def _check_size(self, length: int) -> None:
        if not 0 <= length <= self._core.config.body_bytes_max:
            raise _BadRequest(413)

    async def _carry_out(self, plan: Plan, writer: asyncio.StreamWriter, close: bool) -> bool:
        """Do what the plan says; whether the connection may be used again."""
        if plan.hand_over is not None:
            self._hand_over(*plan.hand_over)
        if plan.delay_s:
            await asyncio.sleep(plan.delay_s)
        answer = plan.answer
        if plan.wire is Wire.HANG:
            await self._hang()
        elif plan.wire is Wire.SWAP:
            answer = await self._swap(plan.ticket or 0)
        elif plan.wire is Wire.RESET:
            _reset(writer)
        if answer is None or plan.wire in (Wire.CLOSE, Wire.RESET):
            return False
        return await _send(writer, answer, plan, close)

    async def _hang(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._hanging.add(future)
        self._tell_watchers()
        try:
            await future
        finally:
            self._hanging.discard(future)

    async def _swap(self, ticket: int) -> Answer | None:
        future: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        self._swaps[ticket] = future
        self._tell_watchers()
        try:
            return await future
        finally:
            self._swaps.pop(ticket, None)

    def _hand_over(self, ticket: int, answer: Answer) -> None:
        waiting = self._swaps.pop(ticket, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

    def _tell_watchers(self) -> None:
        for watcher in self._watchers:
            if not watcher.done():
                watcher.set_result(None)


def _parse_head(head: bytes) -> tuple[str, str, dict[str, str]]:
    first, *lines = head[:-4].decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise _BadRequest(400)
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise _BadRequest(400)
        headers[name.strip().lower()] = value.strip()
    return words[0], words[1], headers


async def _send(writer: asyncio.StreamWriter, answer: Answer, plan: Plan, close: bool) -> bool:
    if plan.send_bytes is None and plan.pieces == 1:
        _send_whole(writer, answer, close)
        await writer.drain()
        return True
    writer.write(_head_bytes(answer, close))
    body = answer.body if plan.send_bytes is None else answer.body[: plan.send_bytes]
    step = max(1, -(-len(body) // plan.pieces))
    for start in range(0, len(body), step):
        writer.write(body[start : start + step])
        await writer.drain()
        await asyncio.sleep(plan.pause_s)
    return plan.send_bytes is None


def _send_whole(writer: asyncio.StreamWriter, answer: Answer, close: bool) -> None:
    writer.write(_head_bytes(answer, close) + answer.body)


def _head_bytes(answer: Answer, close: bool) -> bytes:
    try:
        reason = HTTPStatus(answer.status).phrase
    except ValueError:
        reason = "Unknown"
    lines = [f"HTTP/1.1 {answer.status} {reason}", f"Content-Length: {len(answer.body)}"]
    lines += [f"{name}: {value}" for name, value in answer.headers]
    if not any(name.lower() == "date" for name, _ in answer.headers):
        lines.append(f"Date: {formatdate(usegmt=True)}")  # RFC 9110, 6.6.1
    lines.append(f"Connection: {'close' if close else 'keep-alive'}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _reset(writer: asyncio.StreamWriter) -> None:
    """Linger of zero seconds: closing then sends RST instead of FIN."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
