"""A TCP proxy before PostgreSQL that loses what it is told to lose: a COMMIT on its way, its answer, or everything."""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

from .server import Server


class Cut(enum.Enum):
    """What becomes of a COMMIT."""

    BEFORE = "the connection is cut before it gets to the server"
    AFTER = "it gets to the server, and the connection is cut instead of an answer"
    AT_ONCE = "it gets to the server, and the client hears at once that the connection is gone"
    SILENCE = "it gets to the server, and nobody answers"
    LATE = "the client hears that the connection is gone, and the message gets to the server much later"


class Proxy:
    """Its own address, and what to do with the next COMMITs."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.cuts: deque[Cut] = deque()
        self.commits = 0
        self.messages = 0
        self.refusing = False
        self.refused = asyncio.Event()
        self.open: set[asyncio.StreamWriter] = set()
        self._target = target
        self._late: list[tuple[asyncio.StreamWriter, bytes]] = []
        self._released = asyncio.Event()
        self.answers: list[bytes] = []
        """What the server said to messages that came late."""
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        if self.refusing:
            self.refused.set()
            writer.transport.abort()
            return
        upstream, server = await asyncio.open_connection(*self._target)
        silent: list[bool] = []
        self.open |= {writer, server}
        back = asyncio.create_task(self._back(upstream, writer, silent))
        self._tasks.add(back)
        try:
            while data := await reader.read(65536):
                if not await self._forward(data, writer, server, silent):
                    break
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._drop(server)
            await asyncio.wait((back,))
            self._tasks.discard(back)
            self._drop(writer)

    async def _forward(
        self, data: bytes, client: asyncio.StreamWriter, server: asyncio.StreamWriter, silent: list[bool]
    ) -> bool:
        cut = None
        self.messages += 1
        if data.endswith(b"COMMIT\0"):
            self.commits += 1
            cut = self.cuts.popleft() if self.cuts else None
        if cut is Cut.BEFORE:
            client.transport.abort()
            return False
        if cut is Cut.LATE:
            self._late.append((server, data))
            client.transport.abort()
            await self._released.wait()
            return False
        silent += [True] if cut else []
        server.write(data)
        await server.drain()
        if cut is Cut.AT_ONCE:
            client.transport.abort()
            await asyncio.sleep(0.05)  # the server is to see the message before the connection's end
            return False
        return True

    async def _back(self, upstream: asyncio.StreamReader, client: asyncio.StreamWriter, silent: list[bool]) -> None:
        with contextlib.suppress(OSError):
            while data := await upstream.read(65536):
                if client.transport.is_closing() and self._late:
                    self.answers.append(data)
                elif silent:  # the server has answered the COMMIT; nobody hears of it
                    if not self.mute:
                        client.transport.abort()
                    continue
                client.write(data)
                await client.drain()
        if not (silent and self.mute):
            self._drop(client)

    mute = False
    """Whether a connection that is cut stays open, so that the client hears nothing at all."""

    def _drop(self, writer: asyncio.StreamWriter) -> None:
        self.open.discard(writer)
        if not writer.transport.is_closing():
            writer.transport.abort()

    async def deliver_late(self) -> None:
        """Let the server have what it has not seen yet, and wait until it has answered."""
        for server, data in self._late:
            server.write(data)
        async with asyncio.timeout(20):
            while len(self.answers) < len(self._late):  # noqa: ASYNC110 - the answers come in another task
                await asyncio.sleep(0.01)
        self._released.set()

    def cut_all(self) -> None:
        """Every connection, now."""
        for writer in tuple(self.open):
            self._drop(writer)


@asynccontextmanager
async def proxied(server: Server) -> AsyncIterator[tuple[Proxy, Server]]:
    """A proxy before the server, and the server as seen through it."""
    parts = urlsplit(server.dsn)
    assert parts.hostname is not None
    proxy = Proxy((parts.hostname, parts.port or 5432))
    listener = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    proxy.port = listener.sockets[0].getsockname()[1]
    user = parts.netloc.rpartition("@")[0]
    netloc = f"{user}@127.0.0.1:{proxy.port}" if user else f"127.0.0.1:{proxy.port}"
    try:
        yield proxy, Server(urlunsplit(parts._replace(netloc=netloc)))
    finally:
        listener.close()
        proxy.cut_all()
        await listener.wait_closed()
