"""History may grow for years: reserve, books, doubts and replays must not notice. Steps are counted, not seconds."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from qfpay_preauth._models import Judgement, Request, State
from qfpay_preauth.ledger import After, _sqlite_rows
from qfpay_preauth.ledger._sqlite_batch import BatchTransaction
from qfpay_preauth.ledger._sqlite_rows import SqliteTransaction
from qfpay_preauth.ledger.memory import MemoryLedger
from qfpay_preauth.ledger.sqlite import SqliteLedger
from qfpay_preauth.testing._ledger_kit import HOLD, Scene, moment

from .kit import connection_of, on_thread, opened

FEW, MANY = 100, 20_000
HOLD_AMOUNT = 99_999_999_999
VERBS = ("reserve", "conclude", "replay", "books", "doubts", "doubts_after")


async def _populate(s: Scene, entries: int) -> None:
    """That much history on one hold, executed, and five doubts at its end."""
    if isinstance(s.ledger, SqliteLedger):
        connection = connection_of(s.ledger)
        await s.captured("old-0", 100, "CAP-0")
        await on_thread(s.ledger, lambda tx: _multiply(tx, connection, entries))
    else:
        for number in range(entries):
            await s.captured(f"old-{number}", 100, f"CAP-{number}")
    for number in range(5):
        await s.doubted((await s.capture(f"doubt-{number}", 500 + number, at_s=entries + number)).entry)


def _multiply(tx: SqliteTransaction, connection: sqlite3.Connection, entries: int) -> None:
    """Copy what `old-0` left behind, row by row, under other keys and ids: the verbs would take too long."""
    changed = {"idempotency_key": "'old-' || n", "result_syssn": "'CAP-' || n", "id": "NULL"}
    for table, where in (
        ("entries", "idempotency_key = 'old-0'"),
        ("movements", "syssn = 'CAP-0'"),
        ("events", "idempotency_key = 'old-0'"),
    ):
        names = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        own = {**changed, "syssn": "'CAP-' || n"} if table == "movements" else changed
        values = ", ".join(own.get(name, name) for name in names)
        connection.execute(
            "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < ?) "
            f"INSERT INTO {table} SELECT {values} FROM {table}, numbers WHERE {where}",
            (entries,),
        )
    connection.execute("UPDATE authorizations SET captured = 100 * ?", (entries,))
    assert isinstance(tx, BatchTransaction)
    tx.forget()  # it was written past it


async def _use(s: Scene, entries: int, measure: Callable[[str, Callable[[], Awaitable[Any]]], Awaitable[Any]]) -> None:
    """Every verb once, each measured."""
    late = float(entries + 100)
    wish: Request = s.request("new", amount=700, at_s=late)
    reserved = await measure("reserve", lambda: s.ledger.reserve(wish))
    assert reserved.fresh
    ended = await measure("conclude", lambda: s.end(reserved.entry, Judgement.EXECUTED, "CAP-new"))
    assert ended.state is State.EXECUTED
    replayed = await measure("replay", lambda: s.capture("old-7", 100))
    assert not replayed.fresh
    assert len(await s.events(f"old-{entries - 1}")) == 2
    books = await measure("books", lambda: s.ledger.books(s.account, HOLD))
    assert len(books.unresolved) == 5
    found = await measure("doubts", lambda: s.ledger.doubts(s.account, moment(late), None, 10))
    assert len(found) == 5
    after = After(found[1].reserved_at, found[1].idempotency_key)
    rest = await measure("doubts_after", lambda: s.ledger.doubts(s.account, moment(late), after, 10))
    assert list(rest) == list(found)[2:]


async def _sqlite_steps(folder: Path, entries: int) -> dict[str, int]:
    """Instructions of SQLite's virtual machine that each verb takes."""
    ledger, s = await opened(folder, f"{entries}.db")
    await s.hold(HOLD_AMOUNT)
    await _populate(s, entries)
    steps: dict[str, int] = {}

    async def measure(name: str, verb: Callable[[], Awaitable[Any]]) -> Any:
        def count() -> int:
            steps[name] = steps.get(name, 0) + 1
            return 0

        connection_of(ledger).set_progress_handler(count, 1)
        try:
            return await verb()
        finally:
            connection_of(ledger).set_progress_handler(None, 1)

    await _use(s, entries, measure)
    await ledger.close()
    return steps


async def _memory_steps(entries: int) -> dict[str, int]:
    """Lines of Python that each verb takes."""
    ledger = MemoryLedger()
    await ledger.open("sandbox")
    s = Scene(ledger)
    await s.hold(HOLD_AMOUNT)
    await _populate(s, entries)
    steps: dict[str, int] = {}

    async def measure(name: str, verb: Callable[[], Awaitable[Any]]) -> Any:
        def count(frame: FrameType, event: str, argument: object) -> Any:
            steps[name] = steps.get(name, 0) + 1
            return count

        before = sys.gettrace()
        sys.settrace(count)
        try:
            return await verb()
        finally:
            sys.settrace(before)

    await _use(s, entries, measure)
    return steps


async def test_sqlite_verbs_do_not_slow_down(tmp_path: Path) -> None:
    """Each verb takes as many steps after 20,000 entries as after 100, but for a tenth."""
    few, many = await _sqlite_steps(tmp_path, FEW), await _sqlite_steps(tmp_path, MANY)
    assert set(few) == set(many) == set(VERBS)
    slower = {name: (few[name], many[name]) for name in VERBS if many[name] > 1.1 * few[name] + 10}
    assert slower == {}


async def test_memory_verbs_do_not_slow_down() -> None:
    """The same for the ledger in memory."""
    few, many = await _memory_steps(FEW), await _memory_steps(MANY)
    assert set(few) == set(many) == set(VERBS)
    slower = {name: (few[name], many[name]) for name in VERBS if many[name] > 1.1 * few[name] + 10}
    assert slower == {}


# ------------------------------------------------------------------------------------------------ plans

_KEY_OF_ENTRIES = "sqlite_autoindex_entries_1"  # the index of its primary key, which is not the table itself

PLANS = {
    "_GET_AUTHORIZATION": "PRIMARY KEY",
    "_GET_MOVEMENT": "PRIMARY KEY",
    "_GET_ENTRY": _KEY_OF_ENTRIES,
    "_GET_UNRESOLVED": "entries_unresolved",
    "_GET_DOUBTS": "entries_doubts",
    "_GET_EVENTS": "events_of_entry",
    "_GET_BY_NUMBER": "entries_number",
    "_GET_EXECUTED": "entries_executed",
    "_GET_EXPIRING": "authorizations_open",
    "_GET_OF_HOLD": "entries_of_hold",
    "_GET_OPEN_NOTICES": "notices_open",
    "GET_ENTRIES": _KEY_OF_ENTRIES,
    "GET_MOVEMENTS": "PRIMARY KEY",
}


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[SqliteLedger]:
    """An open, empty ledger."""
    made, _ = await opened(tmp_path)
    yield made
    await made.close()


@pytest.mark.parametrize(("statement", "index"), PLANS.items())
async def test_reads_search_their_index(ledger: SqliteLedger, statement: str, index: str) -> None:
    """Every read searches the index made for it: no scan of a table, no sorting."""
    text = getattr(_sqlite_rows, statement)
    plan = connection_of(ledger).execute(f"EXPLAIN QUERY PLAN {text}", (1,) * text.count("?")).fetchall()
    steps = [row[3] for row in plan]
    # a sort is only allowed where what is sorted is small: the entries of one hold, the holds that are open
    assert [step for step in steps[1:] if "ORDER BY" not in step] == []
    assert len(steps) == 1 or statement in ("_GET_OF_HOLD", "_GET_EXPIRING", "_GET_BY_NUMBER")
    assert steps[0].startswith("SEARCH")
    assert index in steps[0]


def test_every_read_has_its_plan_tested() -> None:
    """A read that is added to the ledger must be added to the plans above."""
    assert {name for name in vars(_sqlite_rows) if name.lstrip("_").startswith("GET_")} == set(PLANS)
