"""Many jobs in one transaction: each sees what those before it wrote, and together they do what each alone would."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from qfpay_preauth._models import Judgement, Operation, State, Verdict
from qfpay_preauth.errors import (
    LedgerUnavailableError,
    OverCaptureError,
    PreauthError,
)
from qfpay_preauth.ledger import Reserved, _verbs, _writer
from qfpay_preauth.ledger import _sqlite_many as many
from qfpay_preauth.ledger._sqlite_rows import SqliteTransaction
from qfpay_preauth.ledger._sqlite_values import _json_of
from qfpay_preauth.testing._ledger_kit import HOLD, Scene, moment

from .kit import (
    Job,
    asked,
    connection_of,
    dump,
    ended_by,
    in_a_batch,
    ledger_of,
    on_thread,
    opened,
    stalled,
    statements_of,
    wished,
)

YES = Verdict(Judgement.EXECUTED, code="0000", result_syssn="CAP-1", raw={"syssn": "CAP-1"})
LOST = Verdict(Judgement.IN_DOUBT, detail="the answer was lost")
NOT_SENT = Verdict(Judgement.NOT_SENT, detail="connection refused", rerunnable=True)


# ------------------------------------------------------------------------------------------------ within a batch


READS: dict[str, Callable[[SqliteTransaction, str], Any]] = {
    "entry": lambda tx, account: getattr(tx.get_entry(account, "k1"), "state", None),
    "movement": lambda tx, account: getattr(tx.get_movement(account, "CAP-1"), "amount", None),
    "authorization": lambda tx, account: getattr(tx.get_authorization(account, HOLD), "captured", None),
    "unresolved": lambda tx, account: [each.idempotency_key for each in tx.get_unresolved(account, HOLD)],
    "of hold": lambda tx, account: [each.state for each in tx.get_of_hold(account, HOLD)],
    "doubts": lambda tx, account: [each.idempotency_key for each in tx.get_doubts(account, moment(2), None, 9)],
    "executed": lambda tx, account: [
        each.idempotency_key for each in tx.get_executed(account, moment(0), moment(9), None, 9)
    ],
    "events": lambda tx, account: [each.to_state for each in tx.get_events(account, "k1")],
    "number": lambda tx, account: getattr(tx.get_by_number(account, "REF-2"), "idempotency_key", None),
    "owner": lambda tx, account: tx.owns_movement(account, "k1"),
    "expiring": lambda tx, account: [
        each.captured for each in tx.get_expiring(account, moment(9), moment(1) - moment(0))
    ],
}
SEEN = {
    "entry": [None, State.HELD, State.EXECUTED],
    "movement": [None, None, 1_000],
    "authorization": [0, 0, 1_000],
    "unresolved": [[], ["k1"], []],
    "of hold": [[], [State.HELD], [State.EXECUTED]],
    "doubts": [[], [], []],
    "executed": [[], [], ["k1"]],
    "events": [[], [State.HELD], [State.HELD, State.EXECUTED]],
    "number": [None, "k1", "k1"],
    "owner": [False, False, True],
    "expiring": [[0], [0], []],
}


@pytest.mark.parametrize("what", SEEN)
async def test_every_read_sees_what_its_batch_wrote(s: Scene, what: str) -> None:
    """Whatever a job reads, it is answered as if every job before it had been a transaction of its own."""

    def look(tx: SqliteTransaction) -> Any:
        return READS[what](tx, s.account)

    wish = wished(s, "k1", 1_000, out_trade_no="REF-2")
    outcomes = await in_a_batch(s, look, wish, look, ended_by(s, "k1", YES), look)
    assert [outcomes[0], outcomes[2], outcomes[4]] == SEEN[what]


async def test_doubts_of_the_same_batch_are_listed(s: Scene) -> None:
    """A doubt that a job of the batch has brought about is in the list that a later job reads."""

    def doubts(tx: SqliteTransaction) -> list[str]:
        return [each.idempotency_key for each in tx.get_doubts(s.account, moment(2), None, 9)]

    outcomes = await in_a_batch(s, wished(s, "k1"), doubts, ended_by(s, "k1", LOST), doubts)
    assert [outcomes[1], outcomes[3]] == [[], ["k1"]]


async def test_every_step_of_an_entry_is_written(s: Scene) -> None:
    """An entry that moves four times in one batch passes SQLite's own checks, and has its whole history."""
    again = wished(s, "k1")
    steps = [
        wished(s, "k1"),
        ended_by(s, "k1", NOT_SENT),
        again,
        ended_by(s, "k1", LOST, 100),
        ended_by(s, "k1", YES, 101),
    ]
    with statements_of(s) as statements:
        outcomes = await in_a_batch(s, *steps)
    assert [each.state for each in outcomes] == ["held", "not_executed", "held", "in_doubt", "executed"]
    assert statements.count("BEGIN IMMEDIATE") == 1
    entry = await s.entry("k1")
    assert (entry.state, entry.attempt, entry.raw) == (State.EXECUTED, 2, {"syssn": "CAP-1"})
    assert [after for _, after in await s.moves("k1")] == [each.state for each in outcomes]
    await s.check_fold(["k1"])


async def test_two_refunds_of_one_capture_in_a_batch(s: Scene) -> None:
    """Refunds of one capture that share a batch count together; the one too much is refused."""
    await s.captured("k1", 1_000, "CAP-1")
    wishes = [wished(s, f"r{n}", 400, operation=Operation.REFUND, syssn="CAP-1") for n in range(3)]
    outcomes = await in_a_batch(s, *wishes)
    assert [type(each).__name__ for each in outcomes] == ["Entry", "Entry", "OverRefundError"]
    movement = await s.ledger.movement(s.account, "CAP-1")
    assert movement is not None
    assert movement.refund_claimed == 800


async def test_refund_in_the_batch_that_ends_its_capture(s: Scene) -> None:
    """A capture that ends and is partly given back in one batch is one movement, with the claim on it."""
    await s.capture("k1", 1_000)
    refund = wished(s, "r1", 400, operation=Operation.REFUND, syssn="CAP-1")
    with statements_of(s) as statements:
        outcomes = await in_a_batch(s, ended_by(s, "k1", YES), refund)
    assert [each.state for each in outcomes] == ["executed", "held"]
    assert statements.count("BEGIN IMMEDIATE") == 1
    movement = await s.ledger.movement(s.account, "CAP-1")
    assert movement is not None
    assert (movement.executed, movement.refund_claimed) == (True, 400)


async def test_refused_job_does_not_undo_its_batch(s: Scene) -> None:
    """A job that is refused after it made the batch write what waited has itself written nothing: one transaction."""

    def looks_and_refuses(tx: SqliteTransaction) -> None:
        assert tx.get_events(s.account, "k1")
        raise OverCaptureError("no", requested=1, capturable=0)

    with statements_of(s) as statements:
        outcomes = await in_a_batch(s, wished(s, "k1"), looks_and_refuses, wished(s, "k2", 200))
    assert isinstance(outcomes[1], OverCaptureError)
    assert statements.count("BEGIN IMMEDIATE") == 1
    assert (await s.sums()).claimed == 300


@pytest.mark.parametrize("put", ["authorization", "new entry", "entry", "movement", "event", "word"])
async def test_job_that_wrote_before_it_refused_is_undone(s: Scene, put: str) -> None:
    """A job that wrote, and then raised what only refuses, leaves nothing of it; its neighbours stay."""
    entry = (await s.capture("k0", 5)).entry
    before = (await s.events("k0"), await s.entry("k0"))

    def late(tx: SqliteTransaction) -> None:
        hold, mine, of_capture = (
            tx.get_authorization(s.account, HOLD),
            tx.get_entry(s.account, "k0"),
            tx.get_movement(s.account, "CAP-9"),
        )
        assert hold is not None
        assert mine is not None
        assert of_capture is None
        assert tx.get_entry(s.account, "k9") is None
        {
            "authorization": lambda: tx.put_authorization(evolve(hold, claimed=hold.claimed + 1)),
            "new entry": lambda: tx.put_entry(evolve(mine, idempotency_key="k9")),
            "entry": lambda: tx.put_entry(evolve(mine, state=State.IN_DOUBT)),
            "movement": lambda: _verbs.own(tx, evolve(entry, result_syssn="CAP-9")),
            "event": lambda: tx.add_event(_verbs._move_event(entry, None, moment(0))),
            "word": lambda: tx.put_word(s.account, "capture", "payment", linked=True),
        }[put]()
        raise OverCaptureError("too late", requested=1, capturable=0)

    outcomes = await in_a_batch(s, wished(s, "k1"), late, wished(s, "k2", 200))
    assert [type(each).__name__ for each in outcomes] == ["Entry", "OverCaptureError", "Entry"]
    assert (await s.sums()).claimed == 305
    assert (await s.events("k0"), await s.entry("k0")) == before
    assert await s.ledger.movement(s.account, "CAP-9") is None
    assert await s.ledger.entry(s.account, "k9") is None
    words = await on_thread(ledger_of(s), lambda tx: tx.get_words(s.account), writes=False)
    assert words == {}


@pytest.mark.parametrize("sums", [{"claimed": -1}, {"captured": 1_001}, {"refunded": -1}], ids=str)
async def test_wrong_sums_are_refused_though_they_were_mended(s: Scene, sums: dict[str, Any]) -> None:
    """Sums that SQLite refuses are refused even where the next job of the batch would have put them right."""

    def wrong(tx: SqliteTransaction) -> None:
        hold = tx.get_authorization(s.account, HOLD)
        assert hold is not None
        tx.put_authorization(evolve(hold, **sums))

    def right(tx: SqliteTransaction) -> None:
        hold = tx.get_authorization(s.account, HOLD)
        assert hold is not None
        tx.put_authorization(evolve(hold, claimed=0, captured=7, refunded=0))

    outcomes = await in_a_batch(s, wrong, right)
    assert [type(each) for each in outcomes] == [LedgerUnavailableError, type(None)]
    assert (await s.sums()).captured == 7


async def test_a_large_batch_takes_few_statements(s: Scene) -> None:
    """Reserving three hundred captures in one batch takes thirty statements, ending them one each and a few more."""
    await s.hold(1_000_000, "HOLD-2")
    keys = [f"k{number}" for number in range(300)]
    with statements_of(s) as statements:
        async with stalled(ledger_of(s)):
            tasks = await asked(*(s.capture(key, 10 + n, syssn="HOLD-2") for n, key in enumerate(keys)))
        held = [(await task).entry for task in tasks]
        reserving = len(set(statements))  # a trigger tells its statement again
        async with stalled(ledger_of(s)):
            tasks = await asked(*(s.executed(entry, f"CAP-{entry.idempotency_key}") for entry in held))
        ended = [await task for task in tasks]
    assert reserving <= 30
    assert len(set(statements)) - reserving <= 300 + 30  # what changes is written one by one, what is new is not
    assert {each.state for each in ended} == {State.EXECUTED}
    await s.check_fold(keys, "HOLD-2")
    assert [await s.entry(each.idempotency_key) for each in ended] == ended


async def test_a_batch_of_two_accounts(s: Scene) -> None:
    """Jobs of two accounts that use the same names in one batch do not see each other's."""
    other = Scene(s.ledger)
    other.account = "M-2"
    await other.hold(500)
    async with stalled(ledger_of(s)):
        tasks = await asked(*(scene.capture(f"k{n}", 400 + n) for n in range(2) for scene in (s, other)))
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(each) for each in outcomes] == [Reserved, Reserved, Reserved, OverCaptureError]
    assert ((await s.sums()).claimed, (await other.sums()).claimed) == (801, 400)


# ------------------------------------------------------------------------------------------------ alone or together


def _story(s: Scene, seed: int) -> list[Job]:
    """Jobs on three holds, few keys and few ids, so that they often meet."""
    dice = random.Random(seed)
    jobs: list[Job] = []
    for number in range(60):
        key, hold, at_s = f"k{dice.randrange(12)}", f"HOLD-{dice.randrange(1, 4)}", float(number * 10)
        kind = dice.choice(["capture", "capture", "capture", "unfreeze", "refund", "end", "end", "end", "end", "look"])
        result = f"CAP-{dice.randrange(9)}"
        if kind == "look":
            jobs.append(_look(s, hold))
        elif kind == "end":
            verdict = dice.choice([YES, YES, LOST, NOT_SENT, Verdict(Judgement.DECLINED, code="1265")])
            named = evolve(verdict, result_syssn=result) if dice.random() < 0.8 else verdict
            jobs.append(ended_by(s, key, named, at_s))
        else:
            where = result if kind == "refund" else hold
            amount = None if kind == "unfreeze" else dice.choice([100, 200, 300])
            jobs.append(wished(s, key, amount, operation=Operation(kind), syssn=where, at_s=at_s))  # type: ignore[arg-type]
    return jobs


def _look(s: Scene, hold: str) -> Job:
    return lambda tx: tx.get_of_hold(s.account, hold)


@pytest.mark.parametrize("seed", range(30))
async def test_batches_do_what_single_transactions_do(tmp_path: Path, seed: int) -> None:
    """The same jobs, each alone in a plain transaction, or many in one: the same outcomes, and the same file."""
    outcomes, files = [], []
    for size in (1, 7, 60):
        (tmp_path / str(size)).mkdir()
        ledger, s = await opened(tmp_path / str(size))
        for hold in ("HOLD-1", "HOLD-2", "HOLD-3"):
            await s.hold(1_000, hold)
        jobs = _story(s, seed)
        if size == 1:
            said = _plainly(connection_of(ledger), jobs)
        else:
            said = [each for n in range(0, 60, size) for each in await in_a_batch(s, *jobs[n : n + size])]
        await ledger.close()
        outcomes.append([_told(each) for each in said])
        files.append(dump(ledger.path))
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert files[0] == files[1] == files[2]
    assert any("state=" in each for each in outcomes[0])


def _plainly(connection: sqlite3.Connection, jobs: Sequence[Job]) -> list[Any]:
    """Each job in a transaction of its own that remembers nothing."""
    said: list[Any] = []
    for job in jobs:
        connection.execute("BEGIN")
        try:
            said.append(job(SqliteTransaction(connection)))
        except PreauthError as error:
            said.append(error)
        connection.execute("COMMIT")
    return said


def _told(outcome: Any) -> str:
    return f"{type(outcome).__name__}: {outcome}"


# ------------------------------------------------------------------------------------------------ gathering


async def test_a_lone_caller_waits_for_nobody(s: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """One verb after another is never made to wait; after a crowd, the first batch waits for the others once."""
    waits: list[float] = []
    monkeypatch.setattr(_writer, "time", _Clock(waits))
    for number in range(3):
        await s.capture(f"k{number}", 10 + number)
    assert waits == []
    async with stalled(ledger_of(s)):
        tasks = await asked(*(s.capture(f"c{number}", 20 + number) for number in range(8)))
    await asyncio.gather(*tasks)
    for number in range(3):
        await s.capture(f"a{number}", 50 + number)
    assert waits == [_writer.GATHER_S]


class _Clock:
    """Stands in for `time`: says how long it was asked to wait."""

    def __init__(self, waits: list[float]) -> None:
        self._waits = waits

    def sleep(self, seconds: float) -> None:
        """Do not wait."""
        self._waits.append(seconds)


@pytest.mark.parametrize("rows", [1, 2, 3, 8])
def test_many_rows_are_changed_by_one_statement(rows: int) -> None:
    """An UPDATE made for many rows changes each of them as the one for a single row does, and no other."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE t (a TEXT, b INTEGER, c TEXT)")
        connection.executemany("INSERT INTO t VALUES (?, 0, 'x')", [(f"k{number}",) for number in range(rows + 2)])
        values = [value for number in range(rows) for value in (number * 10, "" if number % 2 else "y", f"k{number}")]
        text = many.update("UPDATE t SET b = ?, c = nullif(?, '') WHERE a = ?", rows)
        assert connection.execute(text, values).rowcount == rows
        found = connection.execute("SELECT b, c FROM t ORDER BY rowid").fetchall()
    assert found == [*((n * 10, None if n % 2 else "y") for n in range(rows)), (0, "x"), (0, "x")]


@given(st.dictionaries(st.text(), st.text() | st.none() | st.integers() | st.booleans() | st.lists(st.text())))
def test_an_answer_is_kept_as_json_has_it(raw: dict[str, Any]) -> None:
    """The quick way to write an answer's fields gives what `json.dumps` gives."""
    assert _json_of(raw) == json.dumps(raw)
