"""What the tests of the PostgreSQL ledger share."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg

from .server import Server

if TYPE_CHECKING:
    from asyncpg import Connection, Record


def new_schema() -> str:
    """A schema's name that nobody has used."""
    return f"t{os.getpid()}_{uuid.uuid4().hex[:12]}"


def url_of(server: Server, schema: str, **more: str) -> str:
    """The URL of a ledger in that schema."""
    options = "&".join(
        f"{name}={value}" for name, value in {"schema": schema, "application_name": schema, **more}.items()
    )
    return f"{server.dsn}{'&' if '?' in server.dsn else '?'}{options}"


@asynccontextmanager
async def sql(server: Server) -> AsyncIterator[Connection[Record]]:
    """A connection beside the ledger's own, in autocommit."""
    connection = await asyncpg.connect(server.dsn)
    try:
        yield connection
    finally:
        await connection.close()


async def until(condition: Callable[[], Awaitable[Any]]) -> None:
    """Wait for what happens in the server; at most 20 s."""
    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110 - the server has no event to wait for
            await asyncio.sleep(0.01)


async def drop_schema(server: Server, schema: str) -> None:
    """Take a test's schema away; a server of our own goes with all of them."""
    if server.keeper is not None:
        return
    async with sql(server) as connection:
        await connection.execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE')
