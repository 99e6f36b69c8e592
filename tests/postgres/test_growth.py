"""History may grow for years: every statement of the verbs finds its rows by an index that leads to nothing else."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import asyncpg
import pytest
from attrs import evolve

from qfpay_preauth._models import Operation, Request
from qfpay_preauth.ledger import After, _postgres_load, _postgres_plans, _postgres_reads, _verbs
from qfpay_preauth.ledger._postgres_flush import Marks, flush_of, locking
from qfpay_preauth.ledger._postgres_load import Loader
from qfpay_preauth.ledger._postgres_reads import Reads
from qfpay_preauth.ledger._postgres_rows import micros
from qfpay_preauth.ledger._postgres_snapshot import ALL, Snapshot, Wants
from qfpay_preauth.ledger.postgres import PostgresLedger
from qfpay_preauth.testing._ledger_kit import HOLD, Scene, moment

from .kit import sql
from .server import Server

MANY = 20_000
BIG = ("entries", "movements", "events")  # the tables that have many rows here
NAMES = {("M-1", "old-7"), ("M-1", HOLD), ("M-1", "new")}
BUFFERS_MAX = 40  # pages that a look-up of three names may touch, however many rows there are

PLANS = {
    "entries": "entries_pkey",
    "unresolved": "entries_unresolved",
    "numbers": "entries_number",
    "movements": "movements_pkey",
    "owning": "movements_of_entry",
    "digests": "notices_account_digest_key",
    "holds": "authorizations_pkey",
    "via_movements": "movements_pkey",
    "via_entries": "entries_pkey",
    "via_numbers": "entries_number",
}
SMALL = {
    # grows with what is open, with the words of an account, or with one hold's own entries: never with history
    "words": "a handful for each account",
    "notices": "open ones only",
    "of_hold": "one hold's entries; asked for evidence, not for money",
}
READS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "doubts": ("entries_doubts", ("M-1", micros(moment(MANY * 2)), 0, "", 10)),
    "events": ("events_of_entry", ("M-1", "old-7")),
    "executed": ("entries_executed", ("M-1", micros(moment(0)), "", micros(moment(99)), 10)),
    "span": ("bookmarks_pkey", ("M-1",)),
    "take_discrepancies": ("discrepancies_new", ("M-1",)),
    "put_bookmark": ("", ("M-1", 5)),
    "begin_windows": ("", ("M-1",)),
    "lock_windows": ("windows_pkey", ("M-1",)),
}


async def _multiply(connection: asyncpg.Connection[Any], schema: str) -> None:
    """Copy what `old-0` left behind under other keys, ids and moments: the verbs would take too long."""
    await connection.execute(f'SET search_path TO "{schema}"')
    changed = {
        "idempotency_key": "'old-' || n",
        "result_syssn": "'CAP-' || n",
        "concluded_at": "concluded_at + 1000000000 + n",
        "reserved_at": "reserved_at + n",
    }
    for table, where in (
        ("entries", "idempotency_key = 'old-0'"),
        ("movements", "syssn = 'CAP-0'"),
        ("events", "idempotency_key = 'old-0'"),
    ):
        query = (
            "SELECT attname::text FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND attgenerated = ''"
        )
        names = [name for (name,) in await connection.fetch(query, table) if name != "id"]
        own = {**changed, "syssn": "'CAP-' || n"} if table == "movements" else changed
        values = ", ".join(own.get(name, f'"{name}"') for name in names)
        columns = ", ".join(f'"{name}"' for name in names)
        await connection.execute(
            f"INSERT INTO {table} ({columns}) SELECT {values} FROM {table}, generate_series(1, {MANY}) n WHERE {where}"
        )
    await connection.execute(f"UPDATE authorizations SET captured = 100 * {MANY}")


@pytest.fixture
async def old(ledger: PostgresLedger, postgres: Server) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A connection beside a ledger with 20,000 executed entries on one hold, and five doubts."""
    s = Scene(ledger)
    await s.hold(99_999_999_999)
    await s.captured("old-0", 100, "CAP-0")
    async with sql(postgres) as connection:
        await _multiply(connection, ledger.schema)
        for number in range(5):
            await s.doubted((await s.capture(f"doubt-{number}", 500 + number, at_s=MANY + number)).entry)
        yield connection


async def _analyze(connection: asyncpg.Connection[Any]) -> None:
    """Statistics of this ledger's tables: the database has those of the other tests as well."""
    for (table,) in await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"):
        await connection.execute(f'ANALYZE "{table}"')


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from _nodes(inner)


async def _explained(connection: asyncpg.Connection[Any], statement: str, *values: Any) -> tuple[list[str], int]:
    """What a statement reads by: the indexes, or "Seq Scan on …"; and how many pages it touches."""
    async with connection.transaction():
        found = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", *values)
    (plan,) = json.loads(found)
    used = []
    for node in _nodes(plan["Plan"]):
        if node["Node Type"] == "Seq Scan":
            used.append(f"Seq Scan on {node['Relation Name']}")
        elif "Index Name" in node:
            used.append(node["Index Name"])
    return used, plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"]


@pytest.mark.parametrize("analyzed", [False, True], ids=["without statistics", "with statistics"])
async def test_loading_leads_to_its_rows_only(
    ledger: PostgresLedger, old: asyncpg.Connection[Any], analyzed: bool
) -> None:
    """Each part of the loading statements uses the index made for it, and touches few pages, statistics or not."""
    if analyzed:
        await _analyze(old)
    loader = Loader(f'"{ledger.schema}"')
    for kind, index in PLANS.items():
        build = loader.locking if kind.startswith("via") else loader.reading
        statement, names = build(Wants(**{kind: set(NAMES)}))
        used, pages = await _explained(old, statement, *names)
        assert index in used or not index.startswith(BIG), (kind, used)
        assert [each for each in used if each.startswith("Seq") and each.endswith(BIG)] == [], kind
        assert pages <= BUFFERS_MAX, (kind, pages, used)


@pytest.mark.parametrize("analyzed", [False, True], ids=["without statistics", "with statistics"])
async def test_reads_lead_to_their_rows_only(
    ledger: PostgresLedger, old: asyncpg.Connection[Any], analyzed: bool
) -> None:
    """The same for the listings: a page of them touches few pages of the disk."""
    if analyzed:
        await _analyze(old)
    texts = Reads(f'"{ledger.schema}"').texts
    for name, (index, values) in READS.items():
        used, pages = await _explained(old, texts[name], *values)
        assert [each for each in used if each.startswith("Seq") and each.endswith(BIG)] == [], name
        assert pages <= 2 * BUFFERS_MAX, (name, pages, used)
        assert index in used or not index.startswith(BIG), name


@pytest.mark.parametrize("analyzed", [False, True], ids=["without statistics", "with statistics"])
async def test_writing_leads_to_its_rows_only(
    ledger: PostgresLedger, old: asyncpg.Connection[Any], analyzed: bool
) -> None:
    """The statements that lock and write find what is there by its key, however much else there is."""
    if analyzed:
        await _analyze(old)
    snapshot = await _written(ledger, old)
    schema = f'"{ledger.schema}"'
    for statement in (locking(snapshot, schema, "word"), flush_of(snapshot, schema, Marks("w", "", "0" * 24))):
        (plan,) = json.loads(await old.fetchval(f"EXPLAIN (FORMAT JSON) {statement}"))
        nodes = list(_nodes(plan["Plan"]))
        assert [each for each in nodes if each["Node Type"] == "Seq Scan" and each["Relation Name"] in BIG] == []
    assert {"entries_pkey", "movements_pkey"} <= {each.get("Index Name") for each in nodes}


async def _written(ledger: PostgresLedger, connection: asyncpg.Connection[Any]) -> Snapshot:
    """A new entry, a changed one, and a changed movement."""
    s, snapshot = Scene(ledger), Snapshot()
    refund = Request(s.account, "r1", Operation.REFUND, "CAP-1", 10, "REF", moment(0), moment(60), moment(90))
    wants = Wants(holds={(s.account, HOLD)}, entries={(s.account, "doubt-1"), (s.account, "r1")})
    wants.movements, wants.unresolved = {(s.account, "CAP-1")}, {(s.account, HOLD)}
    async with connection.transaction():
        await Loader(f'"{ledger.schema}"').load(connection, snapshot, wants, lock=True)
    _verbs.reserve(snapshot, refund)
    doubt = snapshot.get_entry(s.account, "doubt-1")
    assert doubt is not None
    snapshot.put_entry(evolve(doubt, attention="look"))
    return snapshot


def test_every_statement_has_its_plan_tested() -> None:
    """A statement that is added must be added to the plans above."""
    assert set(_postgres_load._PARTS) | set(_postgres_load._VIA) == set(PLANS) | set(SMALL)
    small = {"expiring"}  # the holds that are open
    assert set(_postgres_reads.STATEMENTS) == set(READS) | small


# ------------------------------------------------------------------------------------------------ round trips


class _Counted:
    """Counts the statements of a transaction."""

    def __init__(self, connection: asyncpg.Connection[Any]) -> None:
        self._connection = connection
        self.count = 0

    async def fetch(self, query: str, *values: Any) -> list[Any]:
        self.count += 1
        return await self._connection.fetch(query, *values)


async def test_plans_leave_nothing_missing(ledger: PostgresLedger, postgres: Server) -> None:
    """What a reservation asks for is loaded in two statements, one locking, one reading; a refund takes one more."""
    s = Scene(ledger)
    await s.hold()
    entry = await s.captured("k1", 300)
    refund = Request(s.account, "r1", Operation.REFUND, "CAP-k1", 10, "REF", moment(0), moment(60), moment(90))
    capture = s.request("k2", amount=100)
    plans: dict[str, tuple[Any, int, Callable[[Snapshot], Any]]] = {
        "capture": (_postgres_plans.reserve(capture), 2, lambda tx: tx.get_unresolved(s.account, HOLD)),
        "refund": (_postgres_plans.reserve(refund), 3, lambda tx: tx.get_unresolved(s.account, HOLD)),
        "entry": (_postgres_plans.entry(s.account, "k1"), 1, lambda tx: tx.get_entry(s.account, "k1")),
    }
    async with sql(postgres) as connection, connection.transaction():
        for name, (plan, statements, use) in plans.items():
            counted, snapshot = _Counted(connection), Snapshot()
            for wants in plan(snapshot):
                await Loader(f'"{ledger.schema}"').load(counted, snapshot, wants, lock=True)  # type: ignore[arg-type]
            assert counted.count <= statements, name
            use(snapshot)
        assert snapshot.get_entry(s.account, "k1") == entry


async def test_words_and_notices_are_loaded_by_account(ledger: PostgresLedger, postgres: Server) -> None:
    """What belongs to an account as a whole is loaded whole."""
    async with sql(postgres) as connection, connection.transaction():
        snapshot = Snapshot()
        wants = Wants(words={("M-1", ALL)}, notices={("M-1", ALL)})
        await Loader(f'"{ledger.schema}"').load(connection, snapshot, wants, lock=True)
    assert snapshot.get_words("M-1") == {}
    assert snapshot.get_open_notices("M-1", None) == []


async def test_doubts_go_on_where_they_stopped(ledger: PostgresLedger, old: asyncpg.Connection[Any]) -> None:
    """Behind all that history the doubts are found in order, page by page."""
    first = await ledger.doubts("M-1", moment(MANY * 2), None, 2)
    rest = await ledger.doubts("M-1", moment(MANY * 2), After(first[1].reserved_at, first[1].idempotency_key), 10)
    assert [each.idempotency_key for each in (*first, *rest)] == [f"doubt-{n}" for n in range(5)]
