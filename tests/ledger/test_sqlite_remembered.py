"""What the writer remembers from one transaction to the next is never stale, and has its bound."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from typing import Any

import pytest

from qfpay_preauth._models import State
from qfpay_preauth.errors import (
    LedgerUnavailableError,
    OperationInProgressError,
    OverCaptureError,
    UnknownAuthorizationError,
)
from qfpay_preauth.ledger import _sqlite_batch
from qfpay_preauth.ledger._sqlite_rows import SqliteTransaction
from qfpay_preauth.ledger.sqlite import SqliteLedger
from qfpay_preauth.testing._ledger_kit import HOLD, Scene, moment

from .kit import asked, in_a_batch, ledger_of, on_thread, sql, stalled, statements_of, transaction_of, wished


@pytest.fixture
async def two(s: Scene) -> AsyncIterator[Scene]:
    """A second ledger on the same file, with a connection of its own, as another process has it."""
    ledger = SqliteLedger(ledger_of(s).path)
    await ledger.open("sandbox")
    yield Scene(ledger)
    await ledger.close()


async def test_money_taken_by_another_process_is_seen(s: Scene, two: Scene) -> None:
    """What is remembered of a hold is forgotten as soon as another process has written: it is never overdrawn."""
    assert (await s.capture("k1", 600)).fresh
    assert (await two.capture("k2", 399)).fresh
    for scene in (s, two):
        error = await scene.refused(OverCaptureError, scene.request("k3", amount=2))
        assert error.capturable == 1
    assert (await s.capture("k4", 1)).fresh
    assert (await two.sums()).claimed == 1_000


async def test_entry_ended_by_another_process_stays_ended(s: Scene, two: Scene) -> None:
    """An entry that another process ended is seen as ended by the one that reserved it, and is left alone."""
    entry = (await s.capture("k1", 600)).entry
    ended = await two.executed(entry, "CAP-1")
    assert await s.entry("k1") == ended
    assert await s.executed(entry, "CAP-1") == ended
    assert (await s.sums()).captured == 600
    assert (await s.balance()).held == 0


async def test_forgotten_entries_are_looked_up_together(s: Scene, two: Scene) -> None:
    """After another process has written, a batch finds what it concludes, and the ids that are taken, in the file."""
    await s.captured("k0", 10, "CAP-0")
    entries = [(await s.capture(f"k{n}", 100 + n)).entry for n in (1, 2, 3)]
    await two.executed(entries[0], "CAP-1")
    with statements_of(s) as statements:
        async with stalled(ledger_of(s)):
            tasks = await asked(
                s.executed(entries[1], "CAP-0"),
                s.executed(entries[2], "CAP-3"),
                s.capture("k3", 103),
                s.capture("k1", 101),
            )
        outcomes = await asyncio.gather(*tasks)
    assert statements.count("BEGIN IMMEDIATE") == 1
    assert [each.state for each in outcomes[:2]] == [State.IN_DOUBT, State.EXECUTED]  # CAP-0 is another's
    assert [(each.fresh, each.entry.result_syssn) for each in outcomes[2:]] == [(False, "CAP-3"), (False, "CAP-1")]
    await s.check_fold([f"k{n}" for n in range(4)])


async def test_twin_of_another_process_is_seen(s: Scene, two: Scene) -> None:
    """The list of unresolved entries that is remembered of a hold has what another process adds to it."""
    await s.capture("k1", 100)
    await two.capture("k2", 200)
    await s.raises(OperationInProgressError, lambda: s.capture("k3", 200))
    await s.raises(OperationInProgressError, lambda: s.unfreeze("k4"))


async def test_hold_registered_by_another_process_is_seen(s: Scene, two: Scene) -> None:
    """That a hold is not known is not remembered either: nor that it had no entries."""
    await s.raises(UnknownAuthorizationError, lambda: s.capture("k1", 100, syssn="HOLD-2"))
    await two.hold(500, "HOLD-2")
    await two.capture("k2", 100, syssn="HOLD-2")
    await s.raises(OperationInProgressError, lambda: s.capture("k1", 100, syssn="HOLD-2"))
    assert (await s.capture("k1", 101, syssn="HOLD-2")).fresh


async def test_a_reading_transaction_is_of_one_moment(s: Scene) -> None:
    """What another process commits while a reading transaction is open is not seen in it, and is seen after it."""
    (before,) = await in_a_batch(s, lambda tx: tx.get_authorization(s.account, HOLD))

    def read(tx: SqliteTransaction) -> list[Any]:
        with sql(ledger_of(s).path) as other:
            other.execute("UPDATE authorizations SET claimed = 77")
        return [tx.get_authorization(s.account, HOLD), tx.get_doubts(s.account, moment(0), None, 1), _raw(tx)]

    assert await on_thread(ledger_of(s), read, writes=False) == [before, (), (0,)]
    assert (await s.sums()).claimed == 77


async def test_a_commit_between_begin_and_first_read_is_seen(s: Scene) -> None:
    """The snapshot is taken with the first read: what is committed just before that must not be missed."""
    await s.sums()
    path = ledger_of(s).path
    run = transaction_of(s)._run

    def late(text: str, *values: Any) -> sqlite3.Cursor:
        transaction_of(s)._run = run
        with sql(path) as other:
            other.execute("UPDATE authorizations SET claimed = 77")
        return run(text, *values)

    transaction_of(s)._run = late
    assert (await s.sums()).claimed == 77


def _raw(tx: SqliteTransaction) -> Any:
    return tx._run("SELECT claimed FROM authorizations").fetchone()


async def test_what_was_rolled_back_is_forgotten(s: Scene) -> None:
    """After a batch that came to nothing, the sums are those of the file, not those of the batch."""

    def half(tx: SqliteTransaction) -> None:
        wished(s, "k1", 900)(tx)
        raise ZeroDivisionError

    assert [type(each) for each in await in_a_batch(s, half)] == [ZeroDivisionError]
    assert (await s.capture("k1", 1_000)).entry.attempt == 1
    assert (await s.sums()).claimed == 1_000


async def test_row_that_is_gone_is_not_written(s: Scene) -> None:
    """Where a remembered entry is not in the file after all, the write fails whole; then it is read anew."""
    entry = (await s.capture("k1", 100)).entry
    await on_thread(ledger_of(s), lambda tx: tx._run("UPDATE entries SET idempotency_key = 'elsewhere'"))
    with pytest.raises(LedgerUnavailableError, match="a row is not there"):
        await s.executed(entry, "CAP-1")
    assert (await s.sums()).claimed == 100
    with pytest.raises(OperationInProgressError, match="has no entry"):
        await s.executed(entry, "CAP-1")


async def test_what_is_remembered_has_a_bound(s: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of holds leave no more behind than the bound allows, and are read again where they are asked for."""
    monkeypatch.setattr(_sqlite_batch, "REMEMBERED_MAX", 10)
    entries = []
    for number in range(50):
        await s.hold(500, f"HOLD-A{number}")
        entries.append((await s.capture(f"k{number}", 100, syssn=f"HOLD-A{number}")).entry)
    tx = transaction_of(s)
    assert max(len(tx._holds), len(tx._unresolved), len(tx._open), len(tx._seen), len(tx._movements)) <= 12
    assert [(await s.executed(each)).state for each in entries] == [State.EXECUTED] * 50


@pytest.mark.parametrize("from_file", [False, True], ids=["remembered", "from the file"])
async def test_what_was_handed_out_cannot_change_the_books(s: Scene, from_file: bool) -> None:
    """The answer kept with a doubt stays as it is, whatever is done with what was given, got or read before."""
    given = {"respcd": "1143"}
    doubt = await s.doubted((await s.capture("k1")).entry, raw=given)
    if from_file:
        transaction_of(s).forget()
    given["respcd"] = "0000"
    for entry in (doubt, await s.entry("k1"), (await s.capture("k1")).entry):
        raw: Any = entry.raw
        with pytest.raises(TypeError):
            raw["respcd"] = "0000"
    assert (await s.entry("k1")).raw == {"respcd": "1143"}


async def test_ended_entries_are_not_remembered(s: Scene) -> None:
    """What has ended is read from the file: one hold's history does not stay in memory."""
    for number in range(20):
        await s.captured(f"k{number}", 10)
    tx = transaction_of(s)
    assert len(tx._open) == 0
    assert len(tx._seen) + len(tx._movements) <= 3
