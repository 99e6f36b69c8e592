"""One server for the whole run, one schema for each test."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator

import pytest

from qfpay_preauth.ledger.postgres import PostgresLedger
from qfpay_preauth.testing._ledger_kit import Scene

from .kit import drop_schema, new_schema, url_of
from .server import Server, server


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real PostgreSQL, shared by all processes of this test run."""
    base = tmp_path_factory.getbasetemp()
    with server((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "postgres") as found:
        yield found


@pytest.fixture
async def url(postgres: Server) -> AsyncIterator[str]:
    """The URL of a ledger that is not there yet, in a schema of its own."""
    schema = new_schema()
    yield url_of(postgres, schema)
    await drop_schema(postgres, schema)


@pytest.fixture
async def ledger(url: str) -> AsyncIterator[PostgresLedger]:
    """An open, empty ledger."""
    made = PostgresLedger(url, migrate=True)
    await made.open("sandbox")
    yield made
    await made.close()


@pytest.fixture
def s(ledger: PostgresLedger) -> Scene:
    """A scene on it."""
    return Scene(ledger)
