"""The ledger's schema: numbered SQL files, applied only when somebody says so, and checked whenever it is opened."""

from __future__ import annotations

import hashlib
from importlib import resources

from attrs import frozen

from qfpay_preauth.errors import ConfigurationError, LedgerUnavailableError, shown
from qfpay_preauth.ledger._postgres_source import Connection

MOVED_ADVICE = "Configure the new place; this one is not kept up."
COMMAND = "qfpay-preauth ledger migrate --ledger URL"
_LOCK = 0x71667061  # "qfpa": migrations of one database run one after another
_TABLE = """
CREATE TABLE "{schema}".migrations (
    version     bigint PRIMARY KEY,
    name        text NOT NULL,
    checksum    text NOT NULL,
    applied_at  timestamptz NOT NULL DEFAULT now()
)"""
_FOUND = """
SELECT current_setting('server_encoding'), has_schema_privilege(n.oid, 'USAGE'),
    CASE WHEN has_schema_privilege(n.oid, 'USAGE') THEN to_regclass(quote_ident(n.nspname) || '.migrations') END,
    (SELECT count(*) FROM pg_catalog.pg_class c WHERE c.relnamespace = n.oid)
FROM (SELECT 1) one LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = $1"""


@frozen
class Migration:
    """One numbered file."""

    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """The same whatever the line ends."""
        return hashlib.sha256(self.sql.replace("\r\n", "\n").encode()).hexdigest()


def migrations() -> tuple[Migration, ...]:
    """Every file in its order: `0001_name.sql` and so on, without a gap."""
    folder = resources.files("qfpay_preauth.ledger").joinpath("sql/postgres")
    files = sorted((each for each in folder.iterdir() if each.name.endswith(".sql")), key=lambda each: each.name)
    return tuple(Migration(n, each.name, each.read_text("utf-8")) for n, each in enumerate(files, start=1))


async def migrate(connection: Connection, where: str, schema: str, environment: str) -> list[str]:
    """Bring the schema to our version, whole or not at all; returns the names of the files that were applied.

    Raises:
        ConfigurationError: it belongs to another environment, or holds something else.
        LedgerUnavailableError: it is of a newer version, or was made by other files.
    """
    async with connection.transaction():
        await connection.execute(f"SELECT pg_advisory_xact_lock({_LOCK})")
        done = await _applied(connection, where, schema)
        if done is None:
            await _make(connection, schema)
        _check_same(done or [], where)
        todo = migrations()[len(done or []) :]
        await connection.execute(f'SET LOCAL search_path TO "{schema}", pg_catalog')
        for each in todo:
            await connection.execute(each.sql)
            await connection.execute(
                f'INSERT INTO "{schema}".migrations (version, name, checksum) VALUES ($1, $2, $3)',
                each.version,
                each.name,
                each.checksum,
            )
        await connection.execute(
            f"INSERT INTO \"{schema}\".meta (name, value) VALUES ('environment', $1) ON CONFLICT DO NOTHING",
            environment,
        )
        await _check_meta(connection, where, schema, environment)
        return [each.name for each in todo]


async def _make(connection: Connection, schema: str) -> None:
    # CREATE SCHEMA IF NOT EXISTS wants the right to make schemas even where it is there
    if not await connection.fetchval("SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = $1", schema):
        await connection.execute(f'CREATE SCHEMA "{schema}"')
    await connection.execute(_TABLE.format(schema=schema))


async def check(connection: Connection, where: str, schema: str, environment: str, *, moved_too: bool = False) -> None:
    """Raise unless the schema is ours, of exactly our version, and of this environment.

    `moved_too`: also where it says that it was moved elsewhere.

    Raises:
        ConfigurationError: it is not there, of an earlier version, another environment's, or was moved elsewhere.
        LedgerUnavailableError: it is of a newer version, or was made by other files.
    """
    async with connection.transaction():
        done = await _applied(connection, where, schema)
        if done is None:
            raise ConfigurationError(
                f"There is no ledger in schema {schema} at {where}.",
                advice=f"Check the URL; to make one, run `{COMMAND}`, or open it once with ?migrate=true.",
            )
        _check_same(done, where)
        if len(done) < len(migrations()):
            raise ConfigurationError(
                f"The ledger in schema {schema} at {where} has version {len(done)}, not {len(migrations())}.",
                advice=f"Stop what uses it, make a backup, and run `{COMMAND}`.",
            )
        await _check_meta(connection, where, schema, environment, moved_too=moved_too)


async def _applied(connection: Connection, where: str, schema: str) -> list[tuple[int, str]] | None:
    """The versions and checksums that were applied; None: the schema is missing or empty."""
    ((encoding, usable, table, relations),) = await connection.fetch(_FOUND, schema)
    if encoding != "UTF8":
        raise ConfigurationError(f"The database at {where} is encoded in {encoding}; a ledger needs UTF8.")
    if usable is False:
        raise ConfigurationError(
            f"The ledger's role may not use schema {schema} at {where}.",
            advice="Grant it what the documentation names: USAGE on the schema; SELECT, INSERT, UPDATE on its tables.",
        )
    if table is None:
        if relations:
            raise ConfigurationError(f"Schema {schema} at {where} holds something else than a ledger.")
        return None
    found = await connection.fetch(f'SELECT version, checksum FROM "{schema}".migrations ORDER BY version')
    return [(version, checksum) for version, checksum in found]


def _check_same(done: list[tuple[int, str]], where: str) -> None:
    known = [(each.version, each.checksum) for each in migrations()]
    if len(done) > len(known):
        raise LedgerUnavailableError(
            f"The ledger at {where} has version {len(done)}, newer than {len(known)}, which this library knows.",
            advice="Use the library's version that migrated it, or a later one.",
        )
    if done != known[: len(done)]:
        raise LedgerUnavailableError(
            f"The ledger at {where} was made by other migrations than this library's.",
            advice="Use the library's version that migrated it.",
        )


async def _check_meta(
    connection: Connection, where: str, schema: str, environment: str, *, moved_too: bool = False
) -> None:
    rows = await connection.fetch(f'SELECT name, value FROM "{schema}".meta')
    found: dict[str, str] = dict(rows)
    if "moved_to" in found and not moved_too:
        raise ConfigurationError(moved(where, found["moved_to"]), advice=MOVED_ADVICE)
    if found.get("environment") != environment:
        owner = shown(found.get("environment"))
        raise ConfigurationError(f"The ledger in schema {schema} at {where} belongs to {owner}, not to {environment}.")


def moved(where: str, target: str) -> str:
    """What is said of a ledger that was moved elsewhere."""
    return f"The ledger at {where} was moved to {target}."
