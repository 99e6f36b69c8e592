"""Ledgers that have grown old: so many holds and so many executed captures, copied row by row from one real capture.

Every second capture is on one busy hold, the others each on a hold of their own. `DOUBTS` entries are in doubt. Rows
are copied by SQL (in memory by the ledger's own `put_…`), because the verbs would take hours for a million.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from benchmarks._ledgers import Book, opened
from qfpay_preauth._models import Judgement
from qfpay_preauth.ledger.memory import MemoryLedger

BUSY = "BUSY"
DOUBTS = 5
FIRST = 100_000_001  # copies are numbered from here on, so that keys and ids come in order, as a merchant's do
# what differs from the pattern (hold OLD-0 with its one capture) in its n-th copy
HOLD, KEY, RESULT = "'OLD-' || n", "'old-' || n", "'CAP-' || n"
ON = f"CASE n % 2 WHEN 0 THEN {HOLD} ELSE '{BUSY}' END"
OF_ENTRY = "idempotency_key = '{key}'"
COPIED: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("authorizations", "syssn = 'OLD-0'", {"syssn": HOLD, "out_trade_no": f"'ORDER-' || {HOLD}"}),
    ("movements", "syssn = 'OLD-0'", {"syssn": HOLD, "authorization": HOLD}),
    ("movements", OF_ENTRY, {"syssn": RESULT, "authorization": ON, "idempotency_key": KEY}),
    (
        "entries",
        OF_ENTRY,
        {"idempotency_key": KEY, "authorization": ON, "syssn": ON, "result_syssn": RESULT}
        | {"reserved_at": "reserved_at + n", "concluded_at": "concluded_at + n"},
    ),
    ("events", OF_ENTRY, {"idempotency_key": KEY, "authorization": ON, "at": "at + n"}),
)


@frozen
class Pattern:
    """What is copied: the key of one executed capture on hold OLD-0."""

    account: str
    key: str


async def patterned(book: Book) -> Pattern:
    """The busy hold, and one captured hold to copy."""
    await book.hold(BUSY)
    await book.hold("OLD-0")
    entry = await book.end((await book.ledger.reserve(book.wish("OLD-0"))).entry)
    return Pattern(book.account, entry.idempotency_key)


async def doubted(book: Book) -> None:
    """Some doubts at the end of the history, on the busy hold."""
    for number in range(DOUBTS):
        reserved = await book.ledger.reserve(book.wish(BUSY, 500 + number))
        await book.end(reserved.entry, Judgement.IN_DOUBT)


# ------------------------------------------------------------------------------------------------ SQLite


async def old_sqlite(path: Path, size: int) -> tuple[str, str]:
    """A ledger file with `size` holds and captures; its URL and its account."""
    url = f"sqlite:///{path}"
    async with opened(url) as book:
        pattern = await patterned(book)
    await asyncio.to_thread(_multiply_rows, path, pattern, size)  # SQLite lets others run meanwhile
    return url, pattern.account


def _multiply_rows(path: Path, pattern: Pattern, size: int) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    # only while it is made: the rows are copies of good ones, and nobody else is there
    for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -200000", "ignore_check_constraints = ON"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("BEGIN")
    indexes = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql > ''").fetchall()
    for name, _ in indexes:
        connection.execute(f"DROP INDEX {name}")
    numbers = f"numbers (n) AS (SELECT {FIRST} UNION ALL SELECT n + 1 FROM numbers LIMIT {size})"
    for table, where, changed in COPIED:
        names = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        connection.execute(_copy(table, names, {"id": "NULL", **changed}, _of(where, pattern), numbers))
    connection.execute(_busy(size))
    for _, statement in indexes:  # made at the end they cost half
        connection.execute(statement)
    connection.execute("COMMIT")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()


def _copy(table: str, names: Iterable[str], changed: dict[str, str], where: str, numbers: str) -> str:
    columns = ", ".join(f'"{name}"' for name in names)
    values = ", ".join(changed.get(name, f'"{name}"') for name in names)
    pattern = f"pattern AS MATERIALIZED (SELECT * FROM {table} WHERE {where})"  # found once, not for each copy
    return f"WITH RECURSIVE {pattern}, {numbers} INSERT INTO {table} ({columns}) SELECT {values} FROM pattern, numbers"


def _of(where: str, pattern: Pattern) -> str:
    return where.replace("{key}", pattern.key)


def _busy(size: int) -> str:
    return f"UPDATE authorizations SET captured = 1000 * {(size + 1) // 2} WHERE syssn = '{BUSY}'"


# ------------------------------------------------------------------------------------------------ PostgreSQL


async def old_postgres(url: str, size: int) -> tuple[str, str]:
    """The same in a schema of its own."""
    import asyncpg

    from qfpay_preauth.ledger._postgres_source import address_of

    address, schema = address_of(url).url, f"bench_{size}"
    own = f"{address}{'&' if '?' in address else '?'}schema={schema}&migrate=true"
    connection = await asyncpg.connect(address)
    try:
        await connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
        async with opened(own) as book:
            pattern = await patterned(book)
        await connection.execute(f"SET search_path TO {schema}; SET synchronous_commit TO off")
        numbers = f"numbers (n) AS (SELECT generate_series({FIRST}, {FIRST + size - 1}))"
        for table, where, changed in COPIED:
            names = await _columns(connection, table)
            await connection.execute(_copy(table, names, changed, _of(where, pattern), numbers))
        await connection.execute(_busy(size))
        # of this schema only: of another that is still being filled it would say that there is next to nothing in it
        await connection.execute(f"ANALYZE {', '.join(sorted({table for table, _, _ in COPIED}))}")
    finally:
        await connection.close()
    return own, pattern.account


async def _columns(connection: Any, table: str) -> list[str]:
    query = (
        "SELECT attname::text FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 "
        "AND attgenerated = '' AND attname <> 'id'"
    )
    return [name for (name,) in await connection.fetch(query, table)]


# ------------------------------------------------------------------------------------------------ memory


async def old_memory(size: int) -> tuple[MemoryLedger, str]:
    """The same in memory."""
    ledger = MemoryLedger()
    async with opened(ledger) as book:
        pattern = await patterned(book)
        await _multiply(ledger, pattern, size)
    return ledger, pattern.account


async def _multiply(ledger: MemoryLedger, pattern: Pattern, size: int) -> None:
    account = pattern.account
    entry = ledger.get_entry(account, pattern.key)
    hold, busy = ledger.get_authorization(account, "OLD-0"), ledger.get_authorization(account, BUSY)
    assert entry is not None
    assert entry.result_syssn is not None
    assert hold is not None
    assert busy is not None
    own, result = ledger.get_movement(account, "OLD-0"), ledger.get_movement(account, entry.result_syssn)
    assert own is not None
    assert result is not None
    events = await ledger.events(account, pattern.key)
    for n in range(FIRST, FIRST + size):
        syssn, key = f"OLD-{n}", f"old-{n}"
        on = BUSY if n % 2 else syssn
        ledger.put_authorization(evolve(hold, syssn=syssn, out_trade_no=f"ORDER-{syssn}"))
        ledger.put_movement(evolve(own, syssn=syssn, authorization=syssn))
        ledger.put_movement(evolve(result, syssn=f"CAP-{n}", authorization=on, idempotency_key=key))
        ledger.put_entry(evolve(entry, idempotency_key=key, authorization=on, syssn=on, result_syssn=f"CAP-{n}"))
        for event in events:
            ledger.add_event(evolve(event, idempotency_key=key, authorization=on))
    ledger.put_authorization(evolve(busy, captured=1_000 * ((size + 1) // 2)))
