"""What must never be written is refused by PostgreSQL itself, whoever writes it; and a role needs neither DELETE nor
TRUNCATE."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from qfpay_preauth import PreauthClient
from qfpay_preauth.errors import ConfigurationError, LedgerUnavailableError
from qfpay_preauth.ledger.postgres import PostgresLedger
from qfpay_preauth.testing import Gateway
from qfpay_preauth.testing._ledger_kit import Scene
from tests.ledger.test_rules import REFUSED
from tests.support import client_of, registered

from .kit import drop_schema, new_schema, sql, url_of
from .server import Server

TABLES = (
    *("authorizations", "bookmarks", "discrepancies", "entries", "events", "meta", "movements", "notices"),
    *("windows", "words", "writers"),
)
_NEEDED = (
    'account, idempotency_key, operation, "authorization", syssn, amount, currency, state, attempt, reserved_at, '
    "send_by, doubt_at, rerunnable, absences"
)
MORE = {
    "events truncated": "TRUNCATE events",
    "entries truncated": "TRUNCATE entries",
    "authorizations truncated": "TRUNCATE authorizations CASCADE",
    "movements truncated": "TRUNCATE movements",
    "notices truncated": "TRUNCATE notices",
    "discrepancies truncated": "TRUNCATE discrepancies",
    "key twice": f"INSERT INTO entries ({_NEEDED}) SELECT {_NEEDED} FROM entries WHERE idempotency_key = 'held'",
}


def _of_postgres(statement: str) -> str:
    return statement.replace("rerunnable = 1", "rerunnable = true").replace("SET authorization", 'SET "authorization"')


@pytest.fixture(scope="module")
def written(postgres: Server) -> Iterator[str]:
    """The schema of a closed ledger with an entry in every state."""
    schema = asyncio.run(_write(postgres))
    yield schema
    asyncio.run(drop_schema(postgres, schema))


async def _write(postgres: Server) -> str:
    ledger = PostgresLedger(url_of(postgres, new_schema()), migrate=True)
    await ledger.open("sandbox")
    s = Scene(ledger)
    await s.hold()
    await s.captured("yes", 300, "CAP-1")
    await s.declined((await s.capture("final", 50)).entry)
    await s.not_sent((await s.capture("again", 60)).entry)
    await s.capture("held", 70)
    await s.doubted((await s.capture("doubt", 80)).entry)
    await ledger.close()
    return ledger.schema


async def _contents(connection: asyncpg.Connection[Any]) -> list[Any]:
    return [await connection.fetch(f"SELECT * FROM {table} ORDER BY 1, 2") for table in TABLES]


@pytest.mark.parametrize("statement", [*REFUSED.values(), *MORE.values()], ids=[*REFUSED, *MORE])
async def test_postgresql_refuses(postgres: Server, written: str, statement: str) -> None:
    """Every statement that SQLite refuses, PostgreSQL refuses too, even to a superuser; nothing changes."""
    async with sql(postgres) as connection:
        await connection.execute(f'SET search_path TO "{written}"')
        before = await _contents(connection)
        with pytest.raises((asyncpg.IntegrityConstraintViolationError, asyncpg.DataError)):
            await connection.execute(_of_postgres(statement))
        assert await _contents(connection) == before


async def test_postgresql_lets_a_rerunnable_end_run_again(postgres: Server, written: str) -> None:
    """The one move back that the table of moves has is not in the triggers' way."""
    async with sql(postgres) as connection:
        transaction = connection.transaction()
        await transaction.start()
        changed = await connection.execute(
            f"UPDATE \"{written}\".entries SET state = 'held', concluded_at = NULL WHERE idempotency_key = 'again'"
        )
        await transaction.rollback()
    assert changed == "UPDATE 1"


# ------------------------------------------------------------------------------------------------ few rights

GRANTS = """
GRANT USAGE ON SCHEMA "{schema}" TO {role};
GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA "{schema}" TO {role};
REVOKE UPDATE ON "{schema}".events, "{schema}".migrations, "{schema}".meta FROM {role};
REVOKE INSERT ON "{schema}".migrations, "{schema}".meta FROM {role};
"""


@pytest.fixture
async def role(postgres: Server, url: str) -> AsyncIterator[tuple[str, str]]:
    """A role that may log in and nothing else, and the ledger's URL for it; the schema is there."""
    name = f"role_{new_schema()}"
    parts = urlsplit(url)
    async with sql(postgres) as connection:
        await connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'S3CRET'")
    await PostgresLedger(url).migrate("sandbox")
    place = parts.netloc.rpartition("@")[2]
    yield name, urlunsplit(parts._replace(netloc=f"{name}:S3CRET@{place}"))
    async with sql(postgres) as connection:
        await connection.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


async def test_a_role_without_delete_suffices(postgres: Server, role: tuple[str, str], qfpay_gateway: Gateway) -> None:
    """With the documented rights everything works, through a client; the role can delete and truncate nothing."""
    name, url = role
    schema = PostgresLedger(url).schema
    async with sql(postgres) as connection:
        await connection.execute(GRANTS.format(schema=schema, role=name))
        rights = (
            "SELECT count(*) FROM information_schema.role_table_grants WHERE grantee = $1 AND privilege_type = ANY($2)"
        )
        assert await connection.fetchval(rights, name, ["DELETE", "TRUNCATE"]) == 0
    async with client_of(qfpay_gateway, url) as client:
        await _everything(client, qfpay_gateway)
    assert qfpay_gateway.books.audit() == []


async def _everything(client: PreauthClient, gateway: Gateway) -> None:
    syssn = await registered(client, gateway)
    capture = await client.capture(syssn, 20_000, idempotency_key="k1")
    assert (await client.capture(syssn, 20_000, idempotency_key="k1")).replayed
    await client.refund(str(capture.syssn), 5_000, idempotency_key="r1")
    assert (await client.unfreeze(syssn, idempotency_key="u1")).amount == 30_000
    gateway.hold(9_000, "HKD", out_trade_no="ELSE")
    (other,) = [hold for hold, found in gateway.books.holds.items() if found.out_trade_no == "ELSE"]
    await client.import_authorization(syssn=other)
    report = await client.reconcile()
    assert report.complete
    assert (await client.balance(syssn)).refunded == 5_000


async def test_missing_rights_are_told(postgres: Server, role: tuple[str, str]) -> None:
    """Without USAGE the error names what to grant; without UPDATE nothing is written, and PostgreSQL is quoted."""
    name, url = role
    schema = PostgresLedger(url).schema
    with pytest.raises(ConfigurationError, match="USAGE on the schema"):
        await PostgresLedger(url).open("sandbox")
    async with sql(postgres) as connection:
        await connection.execute(f'GRANT USAGE ON SCHEMA "{schema}" TO {name}')
        await connection.execute(f'GRANT SELECT ON ALL TABLES IN SCHEMA "{schema}" TO {name}')
    ledger = PostgresLedger(url)
    await ledger.open("sandbox")
    with pytest.raises(LedgerUnavailableError, match="permission denied"):
        await Scene(ledger).hold()
    await ledger.close()
