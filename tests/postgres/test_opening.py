"""Opening and migrating: nothing is made, changed or taken for ours unless somebody said so."""

from __future__ import annotations

import asyncio
import pickle
import socket
import sys
import traceback
import uuid

import asyncpg
import pytest

from qfpay_preauth import Credentials, PreauthClient
from qfpay_preauth.errors import ConfigurationError, LedgerUnavailableError
from qfpay_preauth.ledger import _postgres_schema, ledger_from
from qfpay_preauth.ledger import postgres as postgres_module
from qfpay_preauth.ledger._postgres_schema import Migration
from qfpay_preauth.ledger._postgres_source import address_of
from qfpay_preauth.ledger.postgres import PostgresLedger
from qfpay_preauth.testing._ledger_kit import Scene

from .kit import new_schema, sql, url_of
from .proxy import proxied
from .server import Server

SECOND = Migration(2, "0002_second.sql", "ALTER TABLE meta ADD COLUMN remark text;\nCREATE TABLE second (n bigint);\n")


async def _relations(server: Server, schema: str) -> list[str]:
    query = "SELECT relname::text FROM pg_class WHERE relnamespace = to_regnamespace($1) ORDER BY 1"
    async with sql(server) as connection:
        return [name for (name,) in await connection.fetch(query, f'"{schema}"')]


async def _opened(url: str, environment: str = "sandbox", *, migrate: bool = False) -> PostgresLedger:
    ledger = PostgresLedger(url, migrate=migrate)
    await ledger.open(environment)
    return ledger


# ------------------------------------------------------------------------------------------------ what is not there


@pytest.mark.parametrize("environment", ["sandbox", "production"])
async def test_missing_ledger_is_refused(postgres: Server, url: str, environment: str) -> None:
    """Without `migrate` an empty database stays empty, everywhere; the error names the command."""
    ledger = ledger_from(url)
    assert isinstance(ledger, PostgresLedger)
    with pytest.raises(ConfigurationError, match=r"no ledger in schema .*qfpay-preauth ledger migrate --ledger"):
        await ledger.open(environment)
    assert await _relations(postgres, ledger.schema) == []


@pytest.mark.parametrize("environment", ["sandbox", "production"])
async def test_migrate_makes_it_once(postgres: Server, url: str, environment: str) -> None:
    """`?migrate=true` makes the schema, and opening it again applies nothing; without it, it then opens."""
    ledger = ledger_from(f"{url}&migrate=true")
    await ledger.open(environment)
    assert isinstance(ledger, PostgresLedger)
    assert await ledger.migrate(environment) == []
    await ledger.close()
    await (await _opened(url, environment)).close()
    assert "entries" in await _relations(postgres, ledger.schema)


async def test_the_command_reports_what_it_applied(url: str) -> None:
    """`migrate` returns the files' names, in order."""
    ledger = PostgresLedger(url)
    assert await ledger.migrate("sandbox") == ["0001_initial.sql"]
    assert await ledger.migrate("sandbox") == []


async def test_many_migrate_at_once(postgres: Server, url: str) -> None:
    """Several that start together agree: one makes the schema, the others find it made."""
    ledgers = await asyncio.gather(*(_opened(url, migrate=True) for _ in range(6)))
    async with sql(postgres) as connection:
        done = await connection.fetchval(f'SELECT count(*) FROM "{ledgers[0].schema}".migrations')
    assert done == 1
    await asyncio.gather(*(each.close() for each in ledgers))


async def test_a_client_opens_it_by_url(url: str) -> None:
    """A client takes a postgresql:// URL for its ledger, and closes what it opened."""
    await PostgresLedger(url).migrate("sandbox")
    async with PreauthClient(Credentials("app", "key"), ledger=url) as client:
        await client.register_authorization("S-1", 1_000, "HKD", out_trade_no="O-1")
        assert (await client.balance("S-1")).authorized == 1_000


# ------------------------------------------------------------------------------------------------ what is not ours


async def test_another_environment_is_refused(url: str) -> None:
    """A ledger of the sandbox does not open, nor migrate, for production."""
    await (await _opened(url, migrate=True)).close()
    for migrate in (False, True):
        with pytest.raises(ConfigurationError, match="belongs to 'sandbox', not to production"):
            await _opened(url, "production", migrate=migrate)
    ledger = await _opened(url)
    with pytest.raises(ConfigurationError, match="belongs to sandbox"):
        await ledger.open("production")
    await ledger.close()


async def test_another_programs_schema_is_left_alone(postgres: Server, url: str) -> None:
    """A schema with other tables is refused, with `migrate` too, and not touched."""
    schema = PostgresLedger(url).schema
    async with sql(postgres) as connection:
        await connection.execute(f'CREATE SCHEMA "{schema}"; CREATE TABLE "{schema}".entries (n bigint)')
    for migrate in (False, True):
        with pytest.raises(ConfigurationError, match="holds something else"):
            await _opened(url, migrate=migrate)
    assert await _relations(postgres, schema) == ["entries"]


async def test_other_migrations_are_refused(postgres: Server, url: str) -> None:
    """A schema that was made by files of another content is not ours, whatever its version says."""
    ledger = await _opened(url, migrate=True)
    await ledger.close()
    async with sql(postgres) as connection:
        await connection.execute(f"UPDATE \"{ledger.schema}\".migrations SET checksum = 'x'")
    for migrate in (False, True):
        with pytest.raises(LedgerUnavailableError, match="other migrations"):
            await _opened(url, migrate=migrate)


async def test_other_encodings_are_refused(postgres: Server) -> None:
    """A database that cannot hold every text is refused before anything is made."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    async with sql(postgres) as connection:
        await connection.execute(f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
        url = f"{postgres.dsn.rpartition('/')[0]}/{name}"
        with pytest.raises(ConfigurationError, match="LATIN1; a ledger needs UTF8"):
            await _opened(url, migrate=True)
        await connection.execute(f"DROP DATABASE {name}")


# ------------------------------------------------------------------------------------------------ versions


async def test_earlier_version_is_migrated_when_told(
    postgres: Server, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ledger of version 1 with entries in it: refused by version 2 until it is migrated; then all is still there."""
    ledger = await _opened(url, migrate=True)
    s = Scene(ledger)
    await s.hold()
    entry = await s.captured("k1", 300)
    await ledger.close()
    both = (*_postgres_schema.migrations(), SECOND)
    monkeypatch.setattr(_postgres_schema, "migrations", lambda: both)
    with pytest.raises(ConfigurationError, match=r"version 1, not 2\..*qfpay-preauth ledger migrate"):
        await _opened(url)
    assert await PostgresLedger(url).migrate("sandbox") == ["0002_second.sql"]
    newer = await _opened(url)
    assert await newer.entry(s.account, "k1") == entry
    await newer.close()
    assert "second" in await _relations(postgres, ledger.schema)


async def test_newer_version_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger that a later version of the library migrated is not opened, and never migrated back."""
    both = (*_postgres_schema.migrations(), SECOND)
    with monkeypatch.context() as later:
        later.setattr(_postgres_schema, "migrations", lambda: both)
        await (await _opened(url, migrate=True)).close()
    for migrate in (False, True):
        with pytest.raises(LedgerUnavailableError, match="version 2, newer than 1"):
            await _opened(url, migrate=migrate)


async def test_failing_migration_leaves_nothing(postgres: Server, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A migration happens whole or not at all: one that fails in its second file leaves what was there before."""
    broken = Migration(2, "0002_broken.sql", "CREATE TABLE half (n bigint);\nSELECT nonsense;\n")
    first = _postgres_schema.migrations()
    monkeypatch.setattr(_postgres_schema, "migrations", lambda: (*first, broken))
    schema = PostgresLedger(url).schema
    with pytest.raises(LedgerUnavailableError, match="nonsense"):
        await PostgresLedger(url).migrate("sandbox")
    assert await _relations(postgres, schema) == []
    monkeypatch.setattr(_postgres_schema, "migrations", lambda: first)
    await PostgresLedger(url).migrate("sandbox")
    before = await _relations(postgres, schema)
    monkeypatch.setattr(_postgres_schema, "migrations", lambda: (*first, broken))
    with pytest.raises(LedgerUnavailableError, match="nonsense"):
        await PostgresLedger(url).migrate("sandbox")
    assert await _relations(postgres, schema) == before


def test_checksums_do_not_depend_on_line_ends() -> None:
    """A check-out with other line ends is the same migration."""
    assert Migration(1, "x", "a\r\nb\r\n").checksum == Migration(1, "x", "a\nb\n").checksum
    assert [each.version for each in _postgres_schema.migrations()] == [1]


# ------------------------------------------------------------------------------------------------ names and URLs


async def _drop(server: Server, schema: str) -> None:
    async with sql(server) as connection:
        await connection.execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE')


async def test_schema_may_be_a_word_of_sql(postgres: Server) -> None:
    """Whatever the schema is called, it is quoted; and the search_path leads nowhere."""
    await _drop(postgres, "select")
    ledger = await _opened(url_of(postgres, "select"), migrate=True)
    s = Scene(ledger)
    await s.hold()
    assert (await s.captured("k1", 300)).result_syssn == "CAP-k1"
    await ledger.close()
    await _drop(postgres, "select")


@pytest.mark.parametrize("name", ["", "Upper", "a-b", "1a", "a" * 64, 'a"b', "pg_mine", "a.b", "ä"])
def test_other_schema_names_are_refused(name: str) -> None:
    """A schema's name that would need quoting is a ConfigurationError."""
    with pytest.raises(ConfigurationError, match="schema"):
        PostgresLedger("postgresql://h/d", schema=name or " ")
    with pytest.raises(ConfigurationError, match="schema"):
        PostgresLedger(f"postgresql://h/d?schema={name}")


@pytest.mark.parametrize(
    ("url", "rest", "where"),
    [
        ("postgresql://u:pw@h:1/d?schema=s&ssl=on&migrate=true", "postgresql://u:pw@h:1/d?ssl=on", "h:1/d"),
        ("postgresql://h/d", "postgresql://h/d", "h/d"),
        ("postgresql:///d?host=/tmp&user=u&password=pw", "postgresql:///d?host=%2Ftmp&user=u&password=pw", "/d"),
        ("postgresql://u:p@w@h/d", "postgresql://u:p@w@h/d", "h/d"),
        ("postgresql://u:p?w@h/d", "postgresql://u:p?w%40h%2Fd=", "…"),
    ],
)  # fmt: skip
def test_our_options_are_stripped(url: str, rest: str, where: str) -> None:
    """`schema` and `migrate` are ours, all else is the driver's; what is shown names neither user nor password."""
    address = address_of(url)
    assert address.url == rest
    assert address.where == f"postgresql://{where}"
    assert "pw" not in repr(address)


def test_odd_options_are_refused() -> None:
    """`?migrate=` is true or false; a ledger is made from a URL or a pool."""
    with pytest.raises(ConfigurationError, match="migrate"):
        ledger_from("postgresql://h/d?migrate=yes")
    with pytest.raises(ConfigurationError, match="URL or an asyncpg pool"):
        PostgresLedger(42)  # type: ignore[arg-type]


def test_without_asyncpg_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where asyncpg is not installed, the error says what to install."""
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(ConfigurationError, match=r"qfpay_preauth\[postgres\]"):
        ledger_from("postgresql://h/d")


# ------------------------------------------------------------------------------------------------ no password


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _told(error: BaseException) -> str:
    """Everything that a report of an error could show: messages, causes, frames with their variables."""
    told = repr(error) + str(error)
    seen: BaseException | None = error
    while seen is not None:
        captured = traceback.TracebackException.from_exception(seen, capture_locals=True)
        frames = [each for each in captured.stack if "qfpay_preauth/" in each.filename or "asyncpg" in each.filename]
        told += "".join(f"{each.name}: {each.locals}\n" for each in frames)
        seen = seen.__cause__ or seen.__context__
    return told


@pytest.mark.parametrize("what", ["no server", "no host", "bad port", "bad escape"])
async def test_no_password_is_ever_told(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the server cannot be reached or the URL not read: an error of ours, picklable, that shows no password."""
    place = {
        "no server": f"127.0.0.1:{_free_port()}/d",
        "no host": "no-such-host.invalid/d",
        "bad port": "127.0.0.1:port/d",
        "bad escape": "127.0.0.1:1/d?sslmode=S3CRET-mode",
    }[what]
    monkeypatch.setattr(postgres_module, "OPEN_PATIENCE_S", 0.0)
    ledger = PostgresLedger(f"postgresql://merchant:S3CRET@{place}")
    expected = LedgerUnavailableError if what.startswith("no") else ConfigurationError
    with pytest.raises(expected) as caught:
        await ledger.open("sandbox")
    assert "S3CRET" not in _told(caught.value)
    assert "S3CRET" not in repr(ledger)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again)) == (type(caught.value), str(caught.value))


async def test_opening_bridges_a_moments_absence(postgres: Server, url: str) -> None:
    """A server that takes no connections for a moment delays an opening; it does not make it fail."""
    await PostgresLedger(url).migrate("sandbox")
    async with proxied(postgres) as (proxy, seen):
        proxy.refusing = True
        opening = asyncio.create_task(_opened(url_of(seen, PostgresLedger(url).schema)))
        await proxy.refused.wait()
        assert not opening.done()
        proxy.refusing = False
        ledger = await opening
        await ledger.close()


async def test_refused_login_is_told_without_the_password(postgres: Server) -> None:
    """What the server itself says of a login is passed on: no such database, no such role."""
    base = postgres.dsn.partition("://")[2].rpartition("@")[2]
    for url in (f"postgresql://nobody-here:S3CRET@{base}", f"{postgres.dsn.rpartition('/')[0]}/nowhere"):
        with pytest.raises(LedgerUnavailableError, match=r"nobody-here|nowhere") as caught:
            await PostgresLedger(url).open("sandbox")
        assert "S3CRET" not in _told(caught.value)


async def test_lost_connection_is_told_without_the_password(url: str) -> None:
    """An error of a statement carries PostgreSQL's own as its cause, and no frame of the driver's."""
    ledger = await _opened(url.replace("postgres@", "postgres:S3CRET@"), migrate=True)

    async def nonsense(connection: asyncpg.Connection[asyncpg.Record]) -> None:
        await connection.execute("SELECT * FROM nowhere")

    with pytest.raises(LedgerUnavailableError, match="nowhere") as caught:
        await ledger._ask(nonsense)  # type: ignore[arg-type]
    assert isinstance(caught.value.__cause__, asyncpg.UndefinedTableError)
    assert "S3CRET" not in _told(caught.value)
    await ledger.close()


async def test_default_schema_is_ours(postgres: Server) -> None:
    """Without `?schema=` the tables are in qfpay_preauth."""
    assert PostgresLedger(postgres.dsn).schema == "qfpay_preauth"
    assert PostgresLedger(postgres.dsn, schema="mine").schema == "mine"
    assert new_schema() != new_schema()
