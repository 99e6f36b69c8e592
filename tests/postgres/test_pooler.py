"""Behind a transaction pooler every transaction meets another session: the ledger relies on none."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from qfpay_preauth import PreauthClient
from qfpay_preauth.ledger.postgres import PostgresLedger
from qfpay_preauth.testing import Gateway
from tests.support import client_of, registered

from .kit import url_of
from .pooler import pooled
from .server import Server


async def _use(client: PreauthClient, gateway: Gateway) -> None:
    """Twenty holds at once, captured, repeated, refunded and unfrozen; then a pass of reconciliation."""

    async def one(number: int) -> None:
        syssn = await registered(client, gateway, 50_000)
        capture = await client.capture(syssn, 20_000 + number, idempotency_key=f"k{number}")
        assert (await client.capture(syssn, 20_000 + number, idempotency_key=f"k{number}")).replayed
        await client.refund(str(capture.syssn), 5_000, idempotency_key=f"r{number}")
        await client.unfreeze(syssn, idempotency_key=f"u{number}")
        assert (await client.balance(syssn)).refunded == 5_000

    await asyncio.gather(*map(one, range(20)))
    report = await client.reconcile()
    assert (report.confirmed, report.discrepancies) == (60, ())
    assert gateway.books.audit() == []


async def test_the_pooler_is_one(postgres: Server) -> None:
    """The negative control: a driver that keeps statements prepared breaks behind this pooler."""
    async with pooled(postgres) as (pooler, seen):
        connection = await asyncpg.connect(seen.dsn, statement_cache_size=10)
        assert await connection.fetchval("SELECT $1::int", 1) == 1
        with pytest.raises(asyncpg.InvalidSQLStatementNameError):
            await connection.fetchval("SELECT $1::int", 1)
        connection.terminate()
        assert pooler.named


async def test_everything_works_behind_a_pooler(postgres: Server, url: str, qfpay_gateway: Gateway) -> None:
    """Migrating, opening and every verb work where no two transactions share a session; nothing is prepared."""
    schema = PostgresLedger(url).schema
    async with pooled(postgres) as (pooler, seen):
        pooled_url = url_of(seen, schema)
        assert await PostgresLedger(pooled_url).migrate("sandbox") == ["0001_initial.sql"]
        async with client_of(qfpay_gateway, pooled_url) as client:
            await _use(client, qfpay_gateway)
        assert pooler.transactions > 20
        assert pooler.named == []


async def test_an_applications_pool_works_behind_a_pooler(postgres: Server, url: str, qfpay_gateway: Gateway) -> None:
    """The same with the application's own pool, set up for a pooler as asyncpg advises."""
    ledger = PostgresLedger(url)
    await ledger.migrate("sandbox")
    async with pooled(postgres) as (pooler, seen):
        async with asyncpg.create_pool(seen.dsn, min_size=0, max_size=3, statement_cache_size=0) as pool:
            mine = PostgresLedger(pool, schema=ledger.schema)
            async with client_of(qfpay_gateway, mine) as client:
                await _use(client, qfpay_gateway)
            await mine.close()
        assert pooler.named == []


# ------------------------------------------------------------------------------------------------ PgBouncer itself


@asynccontextmanager
async def _bouncer(server: Server) -> AsyncIterator[Server]:
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed; the pooler above stands in for it")
    parts = urlsplit(server.dsn)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = Path(tempfile.mkdtemp())  # not below tmp_path, which only its owner may enter
    (folder / "users").write_text('"postgres" ""\n')
    (folder / "ini").write_text(
        f"[databases]\n* = host={parts.hostname} port={parts.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\nauth_type = trust\nauth_file = {folder / 'users'}\npool_mode = transaction\n"
        "default_pool_size = 3\nunix_socket_dir =\nlogfile =\n"
    )
    user = "nobody" if os.geteuid() == 0 else None
    for each in (folder, folder / "users", folder / "ini"):
        each.chmod(0o755)
    process = subprocess.Popen(  # noqa: ASYNC220 - it does not block
        [program, "-q", str(folder / "ini")], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, user=user
    )
    seen = Server(urlunsplit(parts._replace(netloc=f"postgres@127.0.0.1:{port}")))
    try:
        async with asyncio.timeout(20):
            while not await _answers(seen):
                assert process.poll() is None, "pgbouncer ended"
                await asyncio.sleep(0.05)
        yield seen
    finally:
        process.terminate()
        process.wait(20)


async def _answers(server: Server) -> bool:
    try:
        connection = await asyncpg.connect(server.dsn, statement_cache_size=0)
    except (OSError, asyncpg.PostgresError):
        return False
    await connection.close()
    return True


async def test_everything_works_behind_pgbouncer(postgres: Server, url: str, qfpay_gateway: Gateway) -> None:
    """The same behind PgBouncer in transaction mode, where it is installed."""
    schema = PostgresLedger(url).schema
    async with _bouncer(postgres) as seen:
        bounced = url_of(seen, schema)
        assert await PostgresLedger(bounced).migrate("sandbox") == ["0001_initial.sql"]
        async with client_of(qfpay_gateway, bounced) as client:
            await _use(client, qfpay_gateway)
