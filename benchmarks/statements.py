"""What SQLite itself takes for a capture: the very statements of a run, replayed in a bare loop, ÷ a bare POST.

No thread, no event loop, no rules, no value turned into a row: what is left is what any ledger with these tables and
indexes pays. Beside it the least that a durable ledger could write: two rows for each capture, appended to one table
with one index. And what lies between: such a journal as the truth, from which the tables are made 512 captures at a
time, each row of theirs written once, as it is in the end.

    python -m benchmarks.statements
"""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks import _report
from benchmarks._ledgers import ENVIRONMENT
from benchmarks._measure import ROUNDS, Cost, Figure, Work, alternate, ratio
from benchmarks._scene import bare, capturing, stub
from qfpay_preauth.ledger import _sqlite_file, _writer
from qfpay_preauth.ledger import _sqlite_many as many

TITLE = "What SQLite's own work for a capture takes ÷ a bare POST, CPU"
CONCURRENCY = (1, 16, 64, 256)
CAPTURES = {1: 256, 16: 2_048, 64: 2_048, 256: 2_048}  # so many that opening, holds and closing hardly count
RESERVED, ANSWERED = "x" * 120, "y" * 450  # about as long as what the ledger keeps of each
MADE_TOGETHER = 512
TABLES = {"entries": "reserved_at, idempotency_key", "movements": "syssn", "events": "id"}

Statement = tuple[Any, ...]
Row = tuple[Any, ...]


class Recording:
    """A connection, or its cursor, that writes down what it is asked."""

    def __init__(self, of: Any, said: list[Statement]) -> None:
        self._of, self._said = of, said

    def __getattr__(self, name: str) -> Any:
        return getattr(self._of, name)

    def execute(self, *statement: Any) -> Any:
        """Write it down, and do it."""
        self._said.append(statement)
        return self._of.execute(*statement)

    def cursor(self) -> Recording:
        """One that writes into the same list."""
        return Recording(self._of.cursor(), self._said)


def main() -> None:
    """Measure and print."""
    with stub() as url:
        figures = [figure for number in CONCURRENCY for figure in asyncio.run(_measure(url, number))]
    print(f"{_report.machine()}\n\n{_report.table(TITLE, figures, {})}")


async def _measure(url: str, concurrency: int) -> list[Figure]:
    with tempfile.TemporaryDirectory() as name:
        folder, count = Path(name), CAPTURES[concurrency]
        said = await _statements(url, folder, concurrency, count)
        async with bare(url, concurrency) as post:
            holds, made = _tables(folder)
            works = {
                "bare": post,
                "its own statements": _in_new_files(folder, "replay", lambda connection: _replay(connection, said)),
                "two rows appended": _in_new_files(folder, "rows", lambda each: _append(each, concurrency, count)),
                "a journal, and the tables made of it": _in_new_files(
                    folder, "journal", lambda each: _append(each, concurrency, count, (holds, made))
                ),
            }
            costs = await alternate(works, count, ROUNDS)
    return [
        Figure("statements", f"{what}, {concurrency} at once", ratio(costs[what], costs["bare"], _cpu))
        for what in list(works)[1:]
    ]


async def _statements(url: str, folder: Path, concurrency: int, count: int) -> list[Statement]:
    """All that a new ledger's writer asks of SQLite for so many captures."""
    said: list[Statement] = []
    usual = _writer.Writer.__init__

    def recorded(writer: _writer.Writer, connection: sqlite3.Connection, path: Path) -> None:
        usual(writer, Recording(connection, said), path)  # type: ignore[arg-type]

    with mock.patch.object(_writer.Writer, "__init__", recorded):
        async with capturing(url, concurrency, f"sqlite:///{folder / 'ledger.db'}") as captures:
            await captures(count)
    return said


def _in_new_files(folder: Path, name: str, work: Callable[[sqlite3.Connection], None]) -> Work:
    files = iter([folder / f"{name}-{number}.db" for number in range(ROUNDS + 1)])

    async def run(_: int) -> None:
        with closing(_sqlite_file.connect(next(files), ENVIRONMENT, create=True)) as connection:
            work(connection)

    return run


def _replay(connection: sqlite3.Connection, said: list[Statement]) -> None:
    cursor = connection.cursor()
    for statement in said:
        cursor.execute(*statement).fetchall()


def _tables(folder: Path) -> tuple[list[Row], dict[str, list[Row]]]:
    """The holds, and the rows of the other tables, as a run left them; captures only."""
    with closing(sqlite3.connect(folder / "ledger.db")) as connection:
        holds = connection.execute("SELECT * FROM authorizations").fetchall()
        found = {
            name: connection.execute(f"SELECT * FROM {name} ORDER BY {order}").fetchall()  # noqa: S608 - our own names
            for name, order in TABLES.items()
        }
    found["movements"] = [row for row in found["movements"] if "capture" in row]
    found["events"] = [row for row in found["events"] if "capture" in row]
    return holds, found


def _append(
    connection: sqlite3.Connection,
    concurrency: int,
    count: int,
    tables: tuple[list[Row], dict[str, list[Row]]] | None = None,
) -> None:
    cursor = connection.cursor()
    cursor.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, account TEXT, key TEXT, hold TEXT, body TEXT) STRICT")
    cursor.execute("CREATE INDEX rows_key ON rows (account, key)")
    if tables is not None:
        cursor.execute(*_inserting("authorizations", tables[0]))
    insert = many.insert("INSERT INTO rows (account, key, hold, body) VALUES (?, ?, ?, ?)", concurrency)
    search = many.among("SELECT id FROM rows WHERE account = ? AND key IN (?)", concurrency)
    made = 0
    for first in range(0, count, concurrency):
        names = [(f"BENCH-{first + caller}", f"2026010118050002{caller:010}") for caller in range(concurrency)]
        for body in (RESERVED, ANSWERED):
            cursor.execute("BEGIN IMMEDIATE")
            cursor.execute(search, ("BENCH", *(key for key, _ in names))).fetchall()
            cursor.execute(insert, [each for key, hold in names for each in ("BENCH", key, hold, body)])
            done = first + concurrency
            if tables is not None and body is ANSWERED and (done - made >= MADE_TOGETHER or done == count):
                _make_tables(cursor, tables, made / count, done / count)
                made = done
            cursor.execute("COMMIT")


def _make_tables(
    cursor: sqlite3.Cursor, tables: tuple[list[Row], dict[str, list[Row]]], start: float, end: float
) -> None:
    """Write this part of all rows, and the sums of their holds, and empty the journal."""
    for hold in tables[0]:
        cursor.execute("UPDATE authorizations SET claimed = claimed + 1 WHERE account = ? AND syssn = ?", hold[:2])
    for name, rows in tables[1].items():
        for part in many.parts(rows[int(len(rows) * start) : int(len(rows) * end)]):
            cursor.execute(*_inserting(name, part))
    cursor.execute("DELETE FROM rows")


def _inserting(table: str, rows: list[Row]) -> Statement:
    marks = f"({', '.join('?' * len(rows[0]))})"
    return f"INSERT INTO {table} VALUES {', '.join([marks] * len(rows))}", list(chain.from_iterable(rows))  # noqa: S608


def _cpu(cost: Cost) -> float:
    return cost.cpu


if __name__ == "__main__":
    main()
