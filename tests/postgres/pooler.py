"""A transaction pooler, as strict as one can be: every transaction goes to another session than the one before.

It speaks just enough of PostgreSQL's protocol to tell where a transaction ends (ReadyForQuery says "idle"). Statements
that were prepared in one transaction are not there in the next, and whatever a session was told is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

from .server import Server

_SSL_REQUEST, _CANCEL_REQUEST = 80877103, 80877102


class Session:
    """One session of the server's."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer


class Turn:
    """One client's transactions, one after another, each on a session of its own."""

    def __init__(self, pooler: Pooler, client: asyncio.StreamWriter) -> None:
        self.session: Session | None = None
        self._pooler, self._client = pooler, client
        self._answering: asyncio.Task[None] | None = None

    def begin(self, session: Session) -> None:
        """From now on the client talks to this session."""
        self.session = session
        self._answering = asyncio.create_task(self._answer(session))

    def forward(self, message: bytes) -> None:
        """From the client to the server."""
        assert self.session is not None
        self.session.writer.write(message)

    async def _answer(self, session: Session) -> None:
        """From the server to the client, until the server says that no transaction is open."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                _, message = await read_message(session.reader)
                if idle := message == b"Z\0\0\0\5I":
                    self.session = None
                    self._pooler.give_back(session)
                self._client.write(message)
                if idle:
                    return
        self._client.transport.abort()

    def abort(self) -> None:
        """The client has left; if it did so in the middle, so does the session."""
        if self._answering is not None:
            self._answering.cancel()
        if self.session is not None:
            self.session.writer.transport.abort()


class Pooler:
    """Hands every transaction to the session that has rested longest."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._idle: deque[Session] = deque()
        self._freed = asyncio.Event()
        self._greeting = b""
        self._tasks: set[asyncio.Task[None]] = set()
        self.transactions = 0
        self.named: list[bytes] = []
        """Statements that somebody prepared under a name."""

    async def connect(self, sessions: int, user: str, database: str) -> None:
        """Open the server's sessions."""
        for _ in range(sessions):
            reader, writer = await asyncio.open_connection(*self._target)
            body = f"user\0{user}\0database\0{database}\0client_encoding\0UTF8\0\0".encode()
            writer.write(struct.pack("!ii", 8 + len(body), 196608) + body)
            greeting = b""
            while True:
                kind, message = await read_message(reader)
                greeting += message
                if kind == b"Z":
                    break
            self._greeting = greeting
            self._idle.append(Session(reader, writer))

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if await self._greet(reader, writer):
                await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        while True:
            length, code = struct.unpack("!ii", await reader.readexactly(8))
            await reader.readexactly(length - 8)
            if code == _CANCEL_REQUEST:
                return False
            if code != _SSL_REQUEST:
                writer.write(self._greeting)
                return True
            writer.write(b"N")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        turn = Turn(self, writer)
        try:
            while True:
                kind, message = await read_message(reader)
                if kind == b"X":
                    return
                if kind == b"P" and not message.startswith(b"\0", 5):
                    self.named.append(message)
                if turn.session is None:
                    turn.begin(await self.take())
                turn.forward(message)
        finally:
            turn.abort()

    async def take(self) -> Session:
        """The session that has rested longest."""
        while not self._idle:
            self._freed.clear()
            await self._freed.wait()
        self.transactions += 1
        return self._idle.popleft()

    def give_back(self, session: Session) -> None:
        """It has rested least now."""
        self._idle.append(session)
        self._freed.set()

    async def close(self) -> None:
        """Hang up on everybody."""
        for session in self._idle:
            session.writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


async def read_message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """One message: its kind, and all its bytes."""
    head = await reader.readexactly(5)
    (length,) = struct.unpack("!i", head[1:])
    return head[:1], head + await reader.readexactly(length - 4)


@asynccontextmanager
async def pooled(server: Server, sessions: int = 3) -> AsyncIterator[tuple[Pooler, Server]]:
    """A pooler before the server, and the server as seen through it."""
    parts = urlsplit(server.dsn)
    assert parts.hostname is not None
    pooler = Pooler((parts.hostname, parts.port or 5432))
    await pooler.connect(sessions, parts.username or "postgres", parts.path.strip("/"))
    listener = await asyncio.start_server(pooler.accept, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    try:
        yield pooler, Server(urlunsplit(parts._replace(netloc=f"{parts.username}@127.0.0.1:{port}")))
    finally:
        listener.close()
        await pooler.close()
        await listener.wait_closed()
