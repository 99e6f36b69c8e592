"""A PostgreSQL schema as one end of a move."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any

from qfpay_preauth.errors import LedgerUnavailableError, OperationInProgressError, PreauthError
from qfpay_preauth.ledger import _postgres_rows as rows
from qfpay_preauth.ledger import _postgres_schema
from qfpay_preauth.ledger._copy import BATCH, TABLES, NotCommitted, Row, Table
from qfpay_preauth.ledger._postgres_source import Unreachable
from qfpay_preauth.ledger._postgres_trouble import error_of
from qfpay_preauth.ledger.postgres import PostgresLedger

_FINGERPRINT = ("kind", "authorization", "syssn", "idempotency_key", "ours", "theirs")


class PostgresSide:
    """See `_copy.Side`."""

    def __init__(self, ledger: PostgresLedger) -> None:
        self.where = f"{ledger.where}?schema={ledger.schema}"
        self._ledger = ledger
        self._s = f'"{ledger.schema}"'
        self._mark = secrets.token_hex(12)
        self._connection: Any = None

    async def open(self, environment: str) -> None:
        """Lock it: whoever writes, or locks a hold to write, holds a lock that this one does not get beside."""
        trouble: PreauthError
        try:
            self._connection = await self._ledger._source.acquire()
            where = (self._connection, self._ledger.where, self._ledger.schema, environment)
            await _postgres_schema.check(*where, moved_too=True)
            await self._lock()
            return
        except PreauthError:
            await self.close()
            raise
        except Exception as error:
            await self.close()
            trouble = self._error(error)
        raise trouble  # outside the handler, so that no frame of the driver's, with the password, hangs on it

    async def _lock(self) -> None:
        tables = ", ".join(f"{self._s}.{table.name}" for table in TABLES if table.name not in ("events",))
        await self._connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
        await self._connection.execute(f"LOCK TABLE {self._s}.writers, {tables} IN EXCLUSIVE MODE NOWAIT")

    def _error(self, error: Exception) -> PreauthError:
        if getattr(error, "sqlstate", None) == "55P03":
            return OperationInProgressError(
                f"Somebody is writing to {self.where}.", advice="Stop what uses it, and move it then."
            )
        return error.error if isinstance(error, Unreachable) else error_of(self.where, error)

    async def _told(self, work: Any) -> Any:
        """PostgreSQL's errors as ours."""
        trouble: PreauthError
        try:
            return await work
        except Exception as error:
            trouble = self._error(error)
        raise trouble

    async def moved_to(self) -> str | None:
        """Where it went."""
        query = f"SELECT value FROM {self._s}.meta WHERE name = 'moved_to'"
        found: str | None = await self._told(self._connection.fetchval(query))
        return found

    async def count(self, table: Table) -> int:
        """How many rows there are."""
        return int(await self._told(self._connection.fetchval(f"SELECT count(*) FROM {self._s}.{table.name}")))

    async def held_until(self, at: datetime) -> Sequence[tuple[str, datetime]]:
        """Keys whose exchange may be under way, and until when."""
        query = (
            f"SELECT idempotency_key, doubt_at FROM {self._s}.entries "
            "WHERE unresolved_of IS NOT NULL AND state = 'held' AND doubt_at > $1"
        )
        found = await self._told(self._connection.fetch(query, rows.micros(at)))
        return [(key, until) for key, us in found if (until := rows.moment(us)) is not None]

    async def read(self, table: Table) -> AsyncIterator[list[Row]]:
        """All rows, in order."""
        names = ", ".join(f'"{name}"' for name in table.columns)
        order = ", ".join(f'"{name}"' for name in table.order)
        cursor = await self._told(self._open(f"SELECT {names} FROM {self._s}.{table.name} ORDER BY {order}"))
        while batch := await self._told(cursor.fetch(BATCH)):
            yield [tuple(row) for row in batch]

    async def _open(self, query: str) -> Any:
        return await self._connection.cursor(query)

    async def write(self, table: Table, batch: list[Row]) -> None:
        """Append rows."""
        columns = table.columns
        if table.name == "discrepancies":
            columns = (*columns, "fingerprint")
            places = [table.columns.index(name) for name in _FINGERPRINT]
            batch = [(*row, _hash([row[place] for place in places])) for row in batch]
        await self._told(
            self._connection.copy_records_to_table(
                table.name, schema_name=self._ledger.schema, columns=columns, records=batch
            )
        )

    async def mark_moved(self, target: str) -> None:
        """Nobody writes here any more: every writing transaction asks for this, or finds its own mark gone."""
        await self._told(self._move(target))

    async def _move(self, target: str) -> None:
        await self._connection.execute(f"INSERT INTO {self._s}.meta (name, value) VALUES ('moved_to', $1)", target)
        await self._connection.execute(f"UPDATE {self._s}.writers SET mark = 'moved'")
        await self._connection.execute("COMMIT")

    async def unmark(self) -> None:
        """As if nothing had been; the writers find their marks gone, and begin new ones."""
        await self._told(self._connection.execute(f"DELETE FROM {self._s}.meta WHERE name = 'moved_to'"))

    async def commit(self) -> None:
        """Durable; where the answer is lost, another connection finds out whether it is."""
        mark = f"INSERT INTO {self._s}.writers (writer, mark) VALUES ($1, 'copied')"
        await self._told(self._connection.execute(mark, self._mark))
        trouble: PreauthError
        try:
            if await self._connection.execute("COMMIT") == "COMMIT":
                return
            trouble = LedgerUnavailableError(f"{self.where} rolled the copy back.")
        except Exception as error:
            trouble = self._error(error)
            self._connection.terminate()
            if await self._told(self._was_committed()):
                return
        raise NotCommitted(trouble)

    async def _was_committed(self) -> bool:
        """Waits for the old transaction to end: it has written the same key."""
        self._connection = await self._ledger._source.acquire()
        async with self._connection.transaction():
            found = await self._connection.fetchval(
                f"INSERT INTO {self._s}.writers AS w (writer, mark) VALUES ($1, 'judged') "
                "ON CONFLICT (writer) DO UPDATE SET mark = w.mark RETURNING mark",
                self._mark,
            )
        return bool(found == "copied")

    async def close(self) -> None:
        """Roll back what was not committed."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            if connection.is_in_transaction():
                connection.terminate()
            await self._ledger._source.release(connection)


def _hash(values: list[Any]) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()
