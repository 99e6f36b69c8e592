"""A SQLite file as one end of a move."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from qfpay_preauth.errors import ConfigurationError, LedgerUnavailableError, OperationInProgressError
from qfpay_preauth.ledger import _sqlite_file
from qfpay_preauth.ledger._copy import BATCH, TABLES, NotCommitted, Row, Table

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NOBODY = "nobody any more (it was moved to {})"
_FINGERPRINT = ("kind", "authorization", "syssn", "idempotency_key", "ours", "theirs")


class SqliteSide:
    """See `_copy.Side`."""

    def __init__(self, path: Path, *, create: bool) -> None:
        self.where = f"sqlite:///{path.absolute()}"
        self._path = path
        self._create = create
        self._connection: sqlite3.Connection | None = None
        self._environment = ""

    @property
    def _run(self) -> sqlite3.Connection:
        assert self._connection is not None  # noqa: S101 - it was opened
        return self._connection

    async def open(self, environment: str) -> None:
        """Lock it."""
        self._environment = environment
        try:
            with self._told():
                self._connection = self._connect(environment)
                self._run.execute("PRAGMA busy_timeout = 0")
                self._run.execute("BEGIN EXCLUSIVE")
        except BaseException:
            await self.close()
            raise

    def _connect(self, environment: str) -> sqlite3.Connection:
        """A file that says that it was moved is opened all the same: the move may have to be gone on with."""
        try:
            return _sqlite_file.connect(self._path, environment, create=self._create)
        except ConfigurationError:
            if self._create or (target := self._marked(environment)) is None:
                raise
            return _sqlite_file.connect(self._path, _NOBODY.format(target), create=False)

    def _marked(self, environment: str) -> str | None:
        if not self._path.is_file():
            return None
        connection = sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            found = dict(connection.execute("SELECT name, value FROM meta"))
        finally:
            connection.close()
        return found.get("moved_to") if found.get("environment_before") == environment else None

    @contextmanager
    def _told(self) -> Iterator[None]:
        """SQLite's errors as ours."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) and "busy" not in str(error):
                raise self._unavailable(error) from error
            raise OperationInProgressError(
                f"Somebody is writing to {self.where}.", advice="Stop what uses it, and move it then."
            ) from error
        except sqlite3.Error as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: sqlite3.Error) -> LedgerUnavailableError:
        return LedgerUnavailableError(f"{self.where} could not be read or written: {error}.")

    async def moved_to(self) -> str | None:
        """Where it went."""
        row = self._run.execute("SELECT value FROM meta WHERE name = 'moved_to'").fetchone()
        return row[0] if row else None

    async def count(self, table: Table) -> int:
        """How many rows there are."""
        (count,) = self._run.execute(f"SELECT count(*) FROM {table.name}").fetchone()
        return int(count)

    async def held_until(self, at: datetime) -> Sequence[tuple[str, datetime]]:
        """Keys whose exchange may be under way, and until when."""
        micros = (at - _EPOCH) // timedelta(microseconds=1)
        found = self._run.execute(
            "SELECT idempotency_key, doubt_at FROM entries WHERE state = 'held' AND doubt_at > ?", (micros,)
        )
        return [(key, _EPOCH + timedelta(microseconds=until)) for key, until in found]

    async def read(self, table: Table) -> AsyncIterator[list[Row]]:
        """All rows, in order."""
        names = ", ".join(f'"{name}"' for name in table.columns)
        order = ", ".join(table.order)
        places = [table.columns.index(name) for name in table.flags]
        with self._told():
            found = self._run.execute(f"SELECT {names} FROM {table.name} ORDER BY {order}")
            while batch := found.fetchmany(BATCH):
                yield [_with_flags(row, places) for row in batch]

    async def write(self, table: Table, batch: list[Row]) -> None:
        """Append rows."""
        columns = table.columns
        if table.name == "discrepancies":
            columns = (*columns, "fingerprint")
            places = [table.columns.index(name) for name in _FINGERPRINT]
            batch = [(*row, json.dumps([row[place] for place in places])) for row in batch]
        names, marks = ", ".join(f'"{name}"' for name in columns), ", ".join("?" * len(columns))
        with self._told():
            self._run.executemany(f"INSERT INTO {table.name} ({names}) VALUES ({marks})", batch)

    async def mark_moved(self, target: str) -> None:
        """Nobody writes here any more: who opens it is told so, and who has it open meets the triggers."""
        with self._told():
            self._run.execute(
                "INSERT INTO meta VALUES ('moved_to', ?), ('environment_before', ?)", (target, self._environment)
            )
            self._run.execute("UPDATE meta SET value = ? WHERE name = 'environment'", (_NOBODY.format(target),))
            message = f"the ledger was moved to {target}".replace("'", "''")
            for name, action in _guards():
                self._run.execute(
                    f"CREATE TRIGGER moved_{name}_{action} BEFORE {action} ON {name} "
                    f"BEGIN SELECT RAISE(ABORT, '{message}'); END"
                )
            self._run.execute("COMMIT")

    async def unmark(self) -> None:
        """As if nothing had been."""
        with self._told():
            self._run.execute("BEGIN EXCLUSIVE")
            for name, action in _guards():
                self._run.execute(f"DROP TRIGGER IF EXISTS moved_{name}_{action}")
            self._run.execute("DELETE FROM meta WHERE name IN ('moved_to', 'environment_before')")
            self._run.execute("UPDATE meta SET value = ? WHERE name = 'environment'", (self._environment,))
            self._run.execute("COMMIT")

    async def commit(self) -> None:
        """Durable: the file is written with synchronous=FULL."""
        try:
            self._run.execute("COMMIT")
        except sqlite3.Error as error:
            if self._run.in_transaction:
                self._run.execute("ROLLBACK")
                raise NotCommitted(self._unavailable(error)) from error
            raise self._unavailable(error) from error

    async def close(self) -> None:
        """Roll back what was not committed."""
        if self._connection is not None:
            self._connection.close()


def _guards() -> Iterator[tuple[str, str]]:
    return ((table.name, action) for table in TABLES for action in ("INSERT", "UPDATE"))


def _with_flags(row: Row, places: Sequence[int]) -> Row:
    values = list(row)
    for place in places:
        values[place] = bool(values[place])
    return tuple(values)
