"""The benchmarks' ledgers: old ones are ledgers, and group commit is really taken away."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks import _history, growth, pairs, statements
from benchmarks._ledgers import Book, one_transaction_per_step, opened
from benchmarks._measure import Cost
from benchmarks._scene import stub
from qfpay_preauth.ledger import _sqlite_file
from qfpay_preauth.ledger.sqlite import SqliteLedger
from tests.ledger.kit import connection_of


async def test_one_transaction_per_step_is_one_commit_for_each(tmp_path: Path) -> None:
    """Without group commit each reserve and each conclude has its own COMMIT; with it they share."""
    statements: list[str] = []
    ledger = SqliteLedger(tmp_path / "ledger.db")
    async with opened(ledger) as book:
        work = await pairs._pairs(book, 8)
        await work(8)
        connection_of(ledger).set_trace_callback(statements.append)
        with one_transaction_per_step("sqlite"):
            await work(16)
        alone = statements.count("COMMIT")
        statements.clear()
        await work(16)
        connection_of(ledger).set_trace_callback(None)
    assert alone == 32
    assert statements.count("COMMIT") <= 16


@pytest.mark.parametrize(("cpu", "target"), [(0.001, None), (1.0, 0.1)])
def test_what_costs_next_to_nothing_is_held_to_no_exponent(cpu: float, target: float | None) -> None:
    """A verb that costs a few cache misses grows by chance; one that costs something must not grow."""
    costs = {("entry", size): [Cost(cpu, cpu, cpu)] * 3 for size in (1_000, 10_000)}
    costs["bare", 0] = [Cost(1, 1, 1)] * 3
    figure = growth._figure("sqlite", "entry", (1_000, 10_000), costs)
    assert (figure.target, round(figure.spread.median, 9)) == (target, 0)


@pytest.mark.parametrize(("share", "target"), [(0.1, None), (1.0, 4.0)])
def test_where_an_fsync_is_free_no_target_holds(share: float, target: float | None) -> None:
    """On a disk that keeps nothing there is nothing to share, so group commit is held to nothing."""
    one = [Cost(1, 1, 1)] * 3
    fsync = pairs._fsync_figure({"bare": one, "append": [Cost(share, share, share)] * 3})
    costs = dict.fromkeys(("bare", "memory", "sqlite", "sqlite, by steps"), one)
    assert [figure.target for figure in pairs._figures(costs, 16, pairs._targets(fsync))] == [target, None]


@pytest.mark.parametrize(("name", "writer"), [("sqlite", "_writer"), ("postgresql", "_postgres_writer")])
def test_group_commit_comes_back(name: str, writer: str) -> None:
    """A batch is bounded by one job for as long as it is measured, and by what it was afterwards."""
    module = import_module(f"qfpay_preauth.ledger.{writer}")
    usual = module.BATCH_MAX
    with one_transaction_per_step(name):
        assert module.BATCH_MAX == 1
    assert module.BATCH_MAX == usual > 1


async def test_callers_on_one_hold_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """The hot authorization: all captures are on it, and none is refused as another's twin."""
    async with opened(f"sqlite:///{tmp_path / 'ledger.db'}") as book:
        await (await pairs._hot(book, 8))(16)
        books = await book.ledger.books(book.account, "HOT")
    assert books is not None
    assert books.authorization.captured == 2 * sum(1_000 + caller for caller in range(8))


@pytest.mark.parametrize("name", ["sqlite", "memory"])
async def test_an_old_ledger_is_a_ledger(name: str, tmp_path: Path) -> None:
    """Its copied history is what the verbs would have left: sums, entries, events, movements, doubts."""
    size = 20
    made = _history.old_sqlite(tmp_path / "old.db", size) if name == "sqlite" else _history.old_memory(size)
    source, account = await made
    async with opened(source) as other:
        book = Book(other.ledger, account)
        await _history.doubted(book)
        busy = await book.ledger.books(account, _history.BUSY)
        assert busy is not None
        assert busy.authorization.captured == size // 2 * 1_000
        assert len(busy.unresolved) == len(await book.ledger.doubts(account, datetime.now(UTC), None, 99)) == 5
        last = _history.FIRST + size - 1
        for number in (_history.FIRST, last):
            entry = await book.ledger.entry(account, f"old-{number}")
            assert entry is not None
            assert len(await book.ledger.events(account, entry.idempotency_key)) == 2
            owner = await book.ledger.movement(account, entry.result_syssn or "")
            assert owner is not None
            assert owner.authorization == entry.authorization
        assert await book.ledger.books(account, f"OLD-{last}") is not None
        await book.pair(_history.BUSY)


async def test_an_old_file_has_all_its_indexes(tmp_path: Path) -> None:
    """They are dropped while history is copied; a file without one would show a growth that is not the ledger's."""
    async with opened(f"sqlite:///{tmp_path / 'new.db'}"):
        pass
    await _history.old_sqlite(tmp_path / "old.db", 3)
    query = "SELECT type, name, sql FROM sqlite_master ORDER BY 1, 2"
    schemas = []
    for name in ("new.db", "old.db"):
        connection = sqlite3.connect(tmp_path / name)
        schemas.append(connection.execute(query).fetchall())
        mode = connection.execute("PRAGMA journal_mode").fetchone()
        connection.close()
        assert mode == ("wal",)
    assert schemas[0] == schemas[1]


async def test_recorded_statements_replayed_write_the_same_rows(tmp_path: Path) -> None:
    """What is compared with a bare POST is all that SQLite was asked to do for these captures, no less."""
    with stub() as url:
        said = await statements._statements(url, tmp_path, 4, 8)
    with closing(_sqlite_file.connect(tmp_path / "again.db", "sandbox", create=True)) as again:
        statements._replay(again, said)
    made, again_made = (_rows(tmp_path / name) for name in ("ledger.db", "again.db"))
    assert again_made == made
    assert len(made) == 8
    assert said.count(("COMMIT",)) > 1


async def test_a_journal_leaves_the_same_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables that are made of a journal, some captures at a time, lack no row, and the journal is empty then."""
    monkeypatch.setattr(statements, "MADE_TOGETHER", 4)
    with stub() as url:
        await statements._statements(url, tmp_path, 2, 10)
    tables = statements._tables(tmp_path)
    with closing(_sqlite_file.connect(tmp_path / "journal.db", "sandbox", create=True)) as journal:
        statements._append(journal, 2, 10, tables)
        assert journal.execute("SELECT count(*) FROM rows").fetchone() == (0,)
    assert _rows(tmp_path / "journal.db") == _rows(tmp_path / "ledger.db")
    assert {name: len(rows) for name, rows in tables[1].items()} == {"entries": 10, "movements": 10, "events": 20}


def _rows(path: Path) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT * FROM entries ORDER BY idempotency_key").fetchall()
