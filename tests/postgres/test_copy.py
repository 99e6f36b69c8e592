"""Moving a ledger: whole, verified, nobody writing meanwhile, and never two ledgers that both say they are the one."""

from __future__ import annotations

import asyncio
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from qfpay_preauth._models import (
    Discrepancy,
    DiscrepancyKind,
    Judgement,
    Listing,
    Notification,
    Policy,
    State,
    Transaction,
)
from qfpay_preauth.errors import (
    ConfigurationError,
    LedgerError,
    LedgerUnavailableError,
    OperationInProgressError,
    PreauthError,
)
from qfpay_preauth.ledger import Ledger, ledger_from
from qfpay_preauth.ledger._copy import TABLES, NotCommitted, Row, Table, copy_ledger
from qfpay_preauth.ledger._copy_postgres import PostgresSide
from qfpay_preauth.ledger._copy_sqlite import SqliteSide
from qfpay_preauth.ledger.postgres import PostgresLedger
from qfpay_preauth.ledger.sqlite import SqliteLedger
from qfpay_preauth.testing import Gateway
from qfpay_preauth.testing._ledger_kit import HOLD, START, Scene, moment
from tests.support import client_of, registered, sqlite_url

from .kit import drop_schema, new_schema, sql, url_of
from .proxy import Cut, proxied
from .server import Server

DAY = timedelta(days=1)
KEYS = ("yes", "no", "again", "held", "doubt", "back", "🔑 \" ' \\ é")


async def _fill(s: Scene) -> None:
    """Something in every table and in every state."""
    await s.hold(100_000, capture_window=timedelta(days=7), authorized_at=START - timedelta(hours=1))
    await s.hold(500, "HOLD-2", flagged=True)
    await s.captured("yes", 30_000, "CAP-1")
    await s.declined((await s.capture("no", 50)).entry)
    await s.not_sent((await s.capture("again", 60)).entry)
    await s.capture("held", 70)
    await s.doubted((await s.capture("doubt", 80)).entry)
    await s.executed((await s.refund("back", "CAP-1", 1_000)).entry, "REF-1")
    entry = (await s.capture(KEYS[-1], 90)).entry
    await s.end(entry, Judgement.EXECUTED, "CAP-2", raw={"résumé": ["ü", 1, None, {"a": True}], "big": 10**30})
    await s.end(entry, Judgement.EXECUTED, "CAP-3")  # contradicts: a discrepancy
    await _see(s)
    await s.ledger.bookmark(s.account, moment(500))


async def _see(s: Scene) -> None:
    """Words, a movement made elsewhere, notices open and ended."""

    def row(syssn: str, amount: int, word: str, **changes: Any) -> Transaction:
        values = (syssn, HOLD, None, word, amount, "HKD", "0000", None, None, moment(5))
        return evolve(Transaction(*values), **changes)

    listing = Listing((row("CAP-1", 30_000, "word-c"), row("ELSE", 7, "word-c")), START, moment(400), True, True)
    await s.ledger.observe(s.account, listing, Policy(), ["doubt"])
    for digest, orig in (("d1", "NOBODY"), ("d2", HOLD)):
        notice = Notification("payment", f"N-{digest}", orig, None, 5, "HKD", "0000", {"x": 1}, None, moment(6), digest)
        await s.ledger.notice(s.account, notice, moment(7))


async def _seen(s: Scene) -> list[object]:
    """Everything that the ledger says, through its verbs."""
    ledger, account = s.ledger, s.account
    known = {("hold", account, HOLD), ("hold", account, "HOLD-2")} | {("key", account, key) for key in KEYS}
    known |= {("movement", account, each) for each in (HOLD, "CAP-1", "CAP-2", "CAP-3", "REF-1", "ELSE")}
    listed = [
        await ledger.doubts(account, moment(10_000), None, 100),
        await ledger.executed(account, START, moment(10_000), None, 100),
        await ledger.span(account),
        await ledger.expiring(account, moment(10**8), timedelta(days=7)),
    ]
    return [*(await s.everything(known)), *map(_plain, listed)]


def _plain(found: Any) -> Any:
    return list(found) if isinstance(found, tuple | list) else found


@pytest.fixture
async def source(tmp_path: Path) -> str:
    """The URL of a closed SQLite ledger with something of everything in it."""
    ledger = SqliteLedger(tmp_path / "source.db")
    await ledger.open("sandbox")
    await _fill(Scene(ledger))
    await ledger.close()
    return sqlite_url(tmp_path, "source.db")


@pytest.fixture
async def target(url: str) -> str:
    """The URL of a schema that was just migrated."""
    await PostgresLedger(url).migrate("sandbox")
    return url


async def _opened(url: str) -> Scene:
    ledger: Ledger = ledger_from(url)
    await ledger.open("sandbox")
    return Scene(ledger)


async def _everything_at(url: str) -> list[object]:
    scene = await _opened(url)
    try:
        return await _seen(scene)
    finally:
        await scene.ledger.close()


# ------------------------------------------------------------------------------------------------ there and back


async def test_there_and_back_nothing_is_lost(source: str, target: str, tmp_path: Path) -> None:
    """From SQLite to PostgreSQL and back into another file, every verb says the same; and each goes on from there."""
    before = await _everything_at(source)
    report = await copy_ledger(source, target, "sandbox")
    assert report.target == target.partition("&application_name")[0].replace("postgres@", "")
    assert {name for name, count in report.rows.items() if count} == {table.name for table in TABLES}
    assert await _everything_at(target) == before
    back = sqlite_url(tmp_path, "back.db")
    again = await copy_ledger(target, back, "sandbox")
    assert again.rows == report.rows
    assert await _everything_at(back) == before
    scene = await _opened(back)
    assert not (await scene.capture("yes", 30_000)).fresh
    assert (await scene.capture("again", 60)).entry.attempt == 2
    assert (await scene.executed(await scene.entry("held"), "CAP-9")).state is State.EXECUTED
    found = [each for each in await scene.ledger.report(scene.account) if each.kind is DiscrepancyKind.MISMATCH]
    assert found == [_mismatch(found[0])]
    await scene.ledger.close()


def _mismatch(found: Discrepancy) -> Discrepancy:
    return evolve(found, idempotency_key=KEYS[-1], syssn="CAP-3")


async def test_a_discrepancy_is_known_after_the_move(source: str, target: str) -> None:
    """What was noted once is not noted a second time by the other back-end: its fingerprint came along."""
    await copy_ledger(source, target, "sandbox")
    scene = await _opened(target)
    entry = await scene.entry(KEYS[-1])
    noted = len(await scene.ledger.report(scene.account))
    await scene.end(entry, Judgement.EXECUTED, "CAP-3")
    assert noted > 0
    assert await scene.ledger.report(scene.account) == []
    await scene.ledger.close()


# ------------------------------------------------------------------------------------------------ the old place


async def test_the_moved_file_refuses_everybody(source: str, target: str) -> None:
    """Who opens the old file is told where it went; who has it open cannot write to it any more, and can read it."""
    scene = await _opened(source)
    await copy_ledger(source, target, "sandbox")
    for verb in (lambda: scene.capture("new"), lambda: scene.hold(syssn="NEW")):
        with pytest.raises(LedgerUnavailableError, match="moved to postgresql://"):
            await verb()
    entry = await scene.entry("held")
    with pytest.raises(LedgerUnavailableError, match="moved to postgresql://"):
        await scene.executed(entry)
    await scene.ledger.close()
    with pytest.raises(ConfigurationError, match="moved to postgresql://"):
        await _opened(source)


async def test_the_moved_schema_refuses_everybody(source: str, target: str, tmp_path: Path) -> None:
    """The same for PostgreSQL: for who opens it, who wrote to it before, and who never wrote to it yet."""
    await copy_ledger(source, target, "sandbox")
    wrote, idle = await _opened(target), await _opened(target)
    await wrote.capture("one more", 40)
    await copy_ledger(target, sqlite_url(tmp_path, "back.db"), "sandbox")
    entry = await wrote.entry("held")
    for verb in (
        lambda: wrote.capture("new"),
        lambda: idle.capture("new"),
        lambda: wrote.executed(entry),
        lambda: idle.ledger.bookmark("M-1", moment(900)),
        lambda: idle.ledger.report("M-1"),
    ):
        with pytest.raises(LedgerUnavailableError, match="moved to sqlite://"):
            await verb()
    await wrote.ledger.close()
    await idle.ledger.close()
    with pytest.raises(ConfigurationError, match="moved to sqlite://"):
        await _opened(target)
    with pytest.raises(ConfigurationError, match="moved"):
        await PostgresLedger(target).migrate("sandbox")


async def test_a_client_in_the_middle_of_its_job(qfpay_gateway: Gateway, target: str, tmp_path: Path) -> None:
    """While a capture is under way nothing is moved; afterwards the old client sends nothing, the new one goes on."""
    url = sqlite_url(tmp_path)
    async with client_of(qfpay_gateway, url) as client:
        syssn = await registered(client, qfpay_gateway)
        await client.capture(syssn, 10_000, idempotency_key="before")
        qfpay_gateway.faults.add("hang_after", operation="capture")
        call = asyncio.create_task(client.capture(syssn, 20_000, idempotency_key="during"))
        await qfpay_gateway.wait_hanging()
        with pytest.raises(OperationInProgressError, match=r"1 operations .* under way"):
            await copy_ledger(url, target, "sandbox")
        qfpay_gateway.release()
        assert (await call).amount == 20_000
        await copy_ledger(url, target, "sandbox")
        sent = len(qfpay_gateway.requests)
        with pytest.raises(LedgerUnavailableError, match="moved"):
            await client.capture(syssn, 5_000, idempotency_key="after")
        assert len(qfpay_gateway.requests) == sent
    async with client_of(qfpay_gateway, target) as client:
        assert (await client.capture(syssn, 20_000, idempotency_key="during")).replayed
        assert not (await client.capture(syssn, 5_000, idempotency_key="after")).replayed
        assert (await client.balance(syssn)).captured == 35_000
    assert qfpay_gateway.books.audit() == []


# ------------------------------------------------------------------------------------------------ refused


async def test_a_writer_at_work_stops_the_move(source: str, target: str, tmp_path: Path, postgres: Server) -> None:
    """While somebody writes to the source, or to the target, nothing is moved; later it is."""
    with sqlite3.connect(tmp_path / "source.db", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(OperationInProgressError, match="writing"):
            await copy_ledger(source, target, "sandbox")
        other.execute("ROLLBACK")
    other.close()
    schema = PostgresLedger(target).schema
    async with sql(postgres) as beside:
        await beside.execute(f"BEGIN; UPDATE \"{schema}\".writers SET mark = ''")
        with pytest.raises(OperationInProgressError, match="writing"):
            await copy_ledger(source, target, "sandbox")
        await beside.execute("ROLLBACK")
        await copy_ledger(source, target, "sandbox")
        await beside.execute(f'BEGIN; SELECT * FROM "{schema}".authorizations FOR UPDATE')
        with pytest.raises(OperationInProgressError, match="writing"):
            await copy_ledger(target, sqlite_url(tmp_path, "back.db"), "sandbox")
        await beside.execute("ROLLBACK")


async def test_what_may_be_under_way_stops_the_move(source: str, target: str, tmp_path: Path) -> None:
    """A held entry whose exchange may not have ended: the error says which; nothing was changed. Both ways."""
    back = sqlite_url(tmp_path, "back.db")
    for amount, url, other in ((33, source, target), (34, target, back)):
        scene = await _opened(url)
        now = datetime.now(UTC)
        entry = (
            await scene.ledger.reserve(evolve(scene.request(url, amount=amount), at=now, doubt_at=now + DAY))
        ).entry
        with pytest.raises(OperationInProgressError, match=r"1 operations .* under way until"):
            await copy_ledger(url, other, "sandbox")
        await scene.doubted(entry)
        await scene.ledger.close()
        await copy_ledger(url, other, "sandbox")


@pytest.mark.parametrize("what", ["full", "unmigrated", "environment", "itself", "memory", "missing"])
async def test_what_cannot_be_meant_is_refused(
    what: str, source: str, target: str, postgres: Server, tmp_path: Path
) -> None:
    """A target that has rows, is not there or is the source itself; another environment; nothing to move."""
    pairs = {
        "full": (source, target, "not empty"),
        "unmigrated": (source, url_of(postgres, new_schema()), "no ledger in schema"),
        "environment": (source, target, "belongs to"),
        "itself": (source, source, "to itself"),
        "memory": ("memory://", target, "SQLite and PostgreSQL"),
        "missing": (sqlite_url(tmp_path, "nowhere.db"), target, "no ledger at"),
    }
    one, other, message = pairs[what]
    if what == "full":
        scene = await _opened(target)
        await scene.hold()
        await scene.ledger.close()
    with pytest.raises(ConfigurationError, match=message):
        await copy_ledger(one, other, "production" if what == "environment" else "sandbox")
    await (await _opened(source)).ledger.close()
    assert not (tmp_path / "nowhere.db").exists()


async def test_a_second_move_is_refused(source: str, target: str, tmp_path: Path, postgres: Server) -> None:
    """What was moved is not moved anywhere else; the same again says that it was done."""
    await copy_ledger(source, target, "sandbox")
    with pytest.raises(ConfigurationError, match=r"moved to .* before"):
        await copy_ledger(source, sqlite_url(tmp_path, "other.db"), "sandbox")
    with pytest.raises(ConfigurationError, match="already done"):
        await copy_ledger(source, target, "sandbox")
    back = sqlite_url(tmp_path, "back.db")
    await copy_ledger(target, back, "sandbox")
    with pytest.raises(ConfigurationError, match="itself a ledger that was moved"):
        await copy_ledger(back, target, "sandbox")


# ------------------------------------------------------------------------------------------------ trouble on the way


@pytest.mark.parametrize("there", [True, False], ids=["to PostgreSQL", "to SQLite"])
@pytest.mark.parametrize("how", ["changed", "dropped", "doubled"])
async def test_a_row_that_comes_out_otherwise_stops_the_move(  # noqa: PLR0917 - pytest hands them over by name
    source: str, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool, how: str
) -> None:
    """Every row is read again and compared before anything is final; nothing of the move stays."""
    if not there:
        await copy_ledger(source, target, "sandbox")
        source, target = target, sqlite_url(tmp_path, "back.db")
    side: Any = PostgresSide if there else SqliteSide
    honest = side.write

    async def spoilt(self: Any, table: Table, batch: list[Row]) -> None:
        if table.name == "events":
            last = list(batch[-1])
            last[table.columns.index("detail")] = "other"
            batch = {"changed": [*batch[:-1], tuple(last)], "dropped": batch[:-1], "doubled": [*batch, batch[-1]]}[how]
        await honest(self, table, batch)

    with monkeypatch.context() as patch:
        patch.setattr(side, "write", spoilt)
        with pytest.raises(LedgerError, match="row of events was not copied"):
            await copy_ledger(source, target, "sandbox")
    report = await copy_ledger(source, target, "sandbox")
    assert report.rows["events"] > 10


@pytest.mark.parametrize("there", [True, False], ids=["to PostgreSQL", "to SQLite"])
async def test_a_move_that_died_at_its_end_is_gone_on_with(
    source: str, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """Between marking the source and committing the target there is no ledger, never two; the same completes it."""
    before = await _everything_at(source)
    if not there:
        await copy_ledger(source, target, "sandbox")
        source, target = target, sqlite_url(tmp_path, "back.db")

    async def die(self: Any) -> None:
        raise asyncio.CancelledError

    with monkeypatch.context() as patch:
        patch.setattr(PostgresSide if there else SqliteSide, "commit", die)
        with pytest.raises(asyncio.CancelledError):
            await copy_ledger(source, target, "sandbox")
    with pytest.raises(ConfigurationError, match="moved to"):
        await _opened(source)
    await copy_ledger(source, target, "sandbox")
    assert await _everything_at(target) == before


@pytest.mark.parametrize("there", [True, False], ids=["to PostgreSQL", "to SQLite"])
async def test_a_move_that_could_not_be_committed_is_taken_back(
    source: str, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """Where the target surely did not commit, the source is the ledger again, and writes."""
    if not there:
        await copy_ledger(source, target, "sandbox")
        source, target = target, sqlite_url(tmp_path, "back.db")

    async def refuse(self: Any) -> None:
        raise NotCommitted(LedgerUnavailableError("the disk is full"))

    with monkeypatch.context() as patch:
        patch.setattr(PostgresSide if there else SqliteSide, "commit", refuse)
        with pytest.raises(LedgerUnavailableError, match="disk is full"):
            await copy_ledger(source, target, "sandbox")
    scene = await _opened(source)
    assert (await scene.capture("new", 44)).fresh
    await scene.ledger.close()


@pytest.mark.parametrize("cut", [Cut.BEFORE, Cut.AFTER, Cut.AT_ONCE])
async def test_a_lost_commit_of_the_target_is_judged(source: str, postgres: Server, cut: Cut) -> None:
    """A COMMIT of the target without an answer is found out: the move is done whole, or taken back whole."""
    schema = new_schema()
    before = await _everything_at(source)
    async with proxied(postgres) as (proxy, seen):
        await PostgresLedger(url_of(seen, schema)).migrate("sandbox")
        proxy.cuts.append(cut)
        if cut is Cut.BEFORE:
            with pytest.raises(PreauthError):
                await copy_ledger(source, url_of(seen, schema), "sandbox")
            assert await _everything_at(source) == before
        else:
            await copy_ledger(source, url_of(seen, schema), "sandbox")
            assert await _everything_at(url_of(postgres, schema)) == before
        assert not proxy.cuts
    await drop_schema(postgres, schema)
