"""What the tests of the PostgreSQL ledger share."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg

from .server import Server

if TYPE_CHECKING:
    from asyncpg import Connection, Record


def new_schema() -> str:
    """A schema's name that nobody has used."""
    return f"t{os.getpid()}_{uuid.uuid4().hex[:12]}"


def url_of(server: Server, schema: str, **more: str) -> str:
    """The URL of a ledger in that schema."""
    options = "&".join(f"{name}={value}" for name, value in {"schema": schema, **more}.items())
    return f"{server.dsn}{'&' if '?' in server.dsn else '?'}{options}"


@asynccontextmanager
async def sql(server: Server) -> AsyncIterator[Connection[Record]]:
    """A connection beside the ledger's own, in autocommit."""
    connection = await asyncpg.connect(server.dsn)
    try:
        yield connection
    finally:
        await connection.close()


async def drop_schema(server: Server, schema: str) -> None:
    """Take a test's schema away."""
    async with sql(server) as connection:
        await connection.execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE')
