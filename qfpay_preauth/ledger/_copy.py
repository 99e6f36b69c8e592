"""Moving a ledger from one place to another: whole, verified row by row, and with nobody writing meanwhile.

    lock the source ─► copy into the target's transaction ─► read both again and compare
                    ─► mark the source as moved (durable) ─► commit the target

Between the last two nobody can write anywhere; if the process dies there, the same move again goes on from it. What was
moved refuses every writer, also those that had it open, and says where it went.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from attrs import frozen

from qfpay_preauth.errors import ConfigurationError, LedgerError, OperationInProgressError, PreauthError
from qfpay_preauth.ledger import _postgres_rows as rows
from qfpay_preauth.ledger import ledger_from
from qfpay_preauth.ledger._store import Ledger
from qfpay_preauth.ledger.sqlite import SqliteLedger

BATCH = 1_000
_CHANGING = ("id", "fingerprint")


@frozen
class Table:
    """A table as it is copied: its columns, by what its rows are ordered, which of its columns are yes or no."""

    name: str
    columns: tuple[str, ...]
    order: tuple[str, ...]
    flags: tuple[str, ...] = ()


def _table(source: rows.Table, order: tuple[str, ...], *flags: str) -> Table:
    return Table(source.name, tuple(name for name in source.columns if name not in _CHANGING), order, flags)


TABLES = (
    _table(rows.AUTHORIZATIONS, rows.AUTHORIZATIONS.key, "flagged"),
    _table(rows.MOVEMENTS, rows.MOVEMENTS.key, "executed"),
    _table(rows.ENTRIES, rows.ENTRIES.key, "rerunnable"),
    _table(rows.EVENTS, ("id",)),
    _table(rows.WORDS, rows.WORDS.key, "linked"),
    _table(rows.DISCREPANCIES, ("id",), "reported"),
    _table(rows.NOTICES, ("id",), "open"),
    _table(rows.BOOKMARKS, rows.BOOKMARKS.key),
)
"""Every table of the books, each after those that it refers to. The rate windows are no part of the books."""

Row = tuple[Any, ...]


class NotCommitted(Exception):
    """What was written is surely not there, and why."""

    def __init__(self, error: PreauthError) -> None:
        super().__init__(str(error))
        self.error = error


class Side(Protocol):
    """One end of a move: it is locked while it is open. Rows come and go in batches, flags as bool."""

    where: str

    async def open(self, environment: str) -> None:
        """Lock it for this process alone, without waiting.

        Raises:
            OperationInProgressError: somebody is writing.
            ConfigurationError, LedgerUnavailableError: as a ledger's `open`.
        """

    async def moved_to(self) -> str | None: ...
    async def count(self, table: Table) -> int: ...
    async def held_until(self, at: datetime) -> Sequence[tuple[str, datetime]]: ...
    def read(self, table: Table) -> AsyncIterator[list[Row]]: ...
    async def write(self, table: Table, batch: list[Row]) -> None: ...
    async def mark_moved(self, target: str) -> None:
        """Refuse every writer from now on, durably. The lock ends with it."""

    async def unmark(self) -> None:
        """Take that back: the move did not happen."""

    async def commit(self) -> None:
        """Make what was written durable.

        Raises:
            NotCommitted: it surely is not. After anything else nobody knows.
        """

    async def close(self) -> None:
        """Let go; what was not committed is gone."""


@frozen
class CopyReport:
    """What was moved: how many rows of each table, all verified."""

    source: str
    target: str
    rows: Mapping[str, int]


async def copy_ledger(source_url: str, target_url: str, environment: str) -> CopyReport:
    """Move a ledger, with all its history. Everything that uses it must have been stopped.

    Args:
        source_url, target_url: `sqlite:///…` or `postgresql://…`. The target must be empty: a new SQLite file, or a
            schema that was just migrated.
        environment: the one that both belong to.

    Raises:
        OperationInProgressError: somebody is writing, or an exchange may still be under way; nothing was changed.
        ConfigurationError: the target is not empty, the source was moved before, or a URL is wrong.
        LedgerError: what was written differs from what was read; nothing was changed.
        LedgerUnavailableError: one of the two could not be read or written; nothing was moved. If the process dies
            at the very end, the source says that it was moved while the target is still empty: run the same again.
    """
    source, target = side_of(source_url, create=False), side_of(target_url, create=True)
    if source.where == target.where:
        raise ConfigurationError(f"{source.where} cannot be moved to itself.")
    await source.open(environment)
    try:
        before = await source.moved_to()
        if before not in (None, target.where):
            raise ConfigurationError(f"The ledger at {source.where} was moved to {before} before.")
        await _check_idle(source)
        await target.open(environment)
        try:
            await _check_empty(source, target, before)
            counts = {table.name: await _copy(source, target, table) for table in TABLES}
            for table in TABLES:
                await _verify(source, target, table)
            await _exchange(source, target, before)
        finally:
            await target.close()
    finally:
        await source.close()
    return CopyReport(source.where, target.where, counts)


async def _exchange(source: Side, target: Side, before: str | None) -> None:
    """From the one to the other; in between there is neither."""
    if before is None:
        await source.mark_moved(target.where)
    try:
        await target.commit()
    except NotCommitted as failed:
        # only then: where nobody knows, the source stays closed, and the same move says later what is true
        if before is None:
            await source.unmark()
        raise failed.error from None


async def _check_idle(source: Side) -> None:
    held = await source.held_until(datetime.now(UTC))
    if held:
        last = max(until for _, until in held)
        raise OperationInProgressError(
            f"{len(held)} operations of {source.where} may still be under way until {last.isoformat()}, "
            f"for example under key {held[0][0]!r}.",
            advice="Stop what uses the ledger, wait until then, and move it after that; nothing was changed.",
        )


async def _check_empty(source: Side, target: Side, before: str | None) -> None:
    where = await target.moved_to()
    if where is not None:
        raise ConfigurationError(f"The target {target.where} is itself a ledger that was moved, to {where}.")
    for table in TABLES:
        if await target.count(table):
            done = before == target.where and await target.count(table) == await source.count(table)
            raise ConfigurationError(
                f"The target {target.where} is not empty: it has rows in {table.name}.",
                advice="The move was already done: use the target."
                if done
                else "Move to a new SQLite file, or to a schema that was just migrated.",
            )


async def _copy(source: Side, target: Side, table: Table) -> int:
    count = 0
    async for batch in source.read(table):
        await target.write(table, batch)
        count += len(batch)
    return count


async def _verify(source: Side, target: Side, table: Table) -> None:
    """Both sides, read again, say the same, row by row."""
    theirs = target.read(table)
    written: list[Row] = []
    async for batch in source.read(table):
        while len(written) < len(batch) and (more := await _next(theirs)):
            written += more
        for ours, copied in zip(batch, written, strict=False):
            if ours != copied:
                raise _differs(table, ours, copied)
        if len(written) < len(batch):
            raise _differs(table, batch[len(written)], None)
        del written[: len(batch)]
    written += await _next(theirs)
    if written:
        raise _differs(table, None, written[0])


async def _next(batches: AsyncIterator[list[Row]]) -> list[Row]:
    """The next batch; nothing after the last."""
    try:
        return await anext(batches)
    except StopAsyncIteration:
        return []


def _differs(table: Table, ours: Row | None, copied: Row | None) -> LedgerError:
    row = ours or copied or ()
    named = {name: value for name, value in zip(table.columns, row, strict=False) if name in (*table.order, "account")}
    return LedgerError(
        f"A row of {table.name} was not copied as it is: {named or 'one too many'}.",
        advice="Nothing was changed. This is a defect of the library or of a database: report it.",
    )


def side_of(url: str, *, create: bool) -> Side:
    """An end of a move.

    Raises:
        ConfigurationError: it is neither a SQLite file nor a PostgreSQL schema.
    """
    ledger: Ledger = ledger_from(url)
    if isinstance(ledger, SqliteLedger):
        from qfpay_preauth.ledger._copy_sqlite import SqliteSide

        return SqliteSide(ledger.path, create=create)
    if url.startswith(("postgresql://", "postgres://")):
        from qfpay_preauth.ledger._copy_postgres import PostgresSide
        from qfpay_preauth.ledger.postgres import PostgresLedger

        assert isinstance(ledger, PostgresLedger)  # noqa: S101 - it was made from this URL
        return PostgresSide(ledger)
    raise ConfigurationError("Only SQLite and PostgreSQL ledgers can be moved; memory:// forgets everything anyway.")
