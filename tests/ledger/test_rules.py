"""The table of legal moves: every move that is not in it raises and changes nothing, in Python and in SQL."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from attrs import evolve

from qfpay_preauth._models import Authorization, Entry, Judgement, Operation, Request, State, Verdict
from qfpay_preauth.ledger import _rules, ledger_from
from qfpay_preauth.ledger._rules import LEGAL_MOVES, IllegalMoveError, check_move
from qfpay_preauth.testing._ledger_kit import HOLD, START, Scene, moment

from .kit import dump, opened, sql

HELD, IN_DOUBT, EXECUTED, NOT_EXECUTED = State
ENTRY = Entry("M-1", "k1", Operation.CAPTURE, HOLD, HOLD, 100, "HKD", None, HELD, 1, START, moment(60), moment(90))

LEGAL = {
    (HELD, IN_DOUBT), (HELD, EXECUTED), (HELD, NOT_EXECUTED),
    (IN_DOUBT, IN_DOUBT), (IN_DOUBT, EXECUTED), (IN_DOUBT, NOT_EXECUTED),
    (NOT_EXECUTED, HELD),
}  # fmt: skip
"""Design section 4, written down a second time: NOT_EXECUTED → HELD only where the end is re-runnable."""
ILLEGAL = [(a, b, again) for a in State for b in State for again in (False, True) if (a, b) not in LEGAL]
ILLEGAL.append((NOT_EXECUTED, HELD, False))


def test_the_table_is_the_designs() -> None:
    """The moves that the library allows are exactly those of the design."""
    assert {(a, b) for a, targets in LEGAL_MOVES.items() for b in targets} == LEGAL
    assert set(LEGAL_MOVES) == set(State)


@pytest.mark.parametrize(("before", "after", "rerunnable"), ILLEGAL)
def test_illegal_move_raises(before: State, after: State, rerunnable: bool) -> None:
    """A move that is not in the table raises IllegalMoveError, and the entry is the same value as before."""
    entry = evolve(ENTRY, state=before, rerunnable=rerunnable)
    same = evolve(entry)
    with pytest.raises(IllegalMoveError, match=rf"{before.value} cannot become {after.value}"):
        check_move(entry, after)
    assert entry == same


@pytest.mark.parametrize(("before", "after"), sorted(LEGAL))
def test_legal_move_is_allowed(before: State, after: State) -> None:
    """A move of the table raises nothing, from a re-runnable end at least."""
    entry = evolve(ENTRY, state=before, rerunnable=before is NOT_EXECUTED)
    allowed = {each for each in State if _allowed(entry, each)}
    assert after in allowed


def _allowed(entry: Entry, to: State) -> bool:
    try:
        check_move(entry, to)
    except IllegalMoveError:
        return False
    return True


@pytest.mark.parametrize("state", [HELD, IN_DOUBT, EXECUTED])
def test_admission_never_reopens(state: State) -> None:
    """The rule of admission itself refuses to run an entry again that did not end re-runnable."""
    hold = Authorization("M-1", HOLD, 1_000, "HKD", "ORDER", START)
    request = Request("M-1", "k1", Operation.CAPTURE, HOLD, 100, None, START, moment(60), moment(90))
    with pytest.raises(IllegalMoveError):
        _rules.admitted(request, evolve(ENTRY, state=state), hold, None, ())


@pytest.mark.parametrize("state", [EXECUTED, NOT_EXECUTED])
@pytest.mark.parametrize("judgement", list(Judgement))
def test_no_verdict_moves_an_ended_entry(state: State, judgement: Judgement) -> None:
    """Whatever is said about an ended entry, the very same value comes back."""
    entry = evolve(ENTRY, state=state, rerunnable=True, concluded_at=START)
    conclusion = _rules.concluded(entry, Verdict(judgement), moment(1), None, 1)
    assert conclusion.entry is entry


@pytest.mark.parametrize("url", ["memory://", "sqlite"])
async def test_illegal_move_through_a_verb_changes_nothing(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a verb ever asked for an illegal move, the books would stay as they were."""
    ledger = ledger_from(url if url == "memory://" else f"sqlite:///{tmp_path / 'ledger.db'}")
    await ledger.open("sandbox")
    s = Scene(ledger)
    await s.hold()
    entry = (await s.capture("k1")).entry
    monkeypatch.setitem(_rules._STATE_AFTER, Judgement.EXECUTED, HELD)
    await s.raises(IllegalMoveError, lambda: s.executed(entry, "CAP-1"))
    monkeypatch.undo()
    assert (await s.executed(entry, "CAP-1")).state is EXECUTED
    await ledger.close()


# ------------------------------------------------------------------------------------------------ held by SQLite itself

_END_GONE = "UPDATE entries SET state = '{}', concluded_at = {} WHERE idempotency_key = '{}'"
REFUSED = {
    "executed changes its amount": "UPDATE entries SET amount = 1 WHERE idempotency_key = 'yes'",
    "executed changes its syssn": "UPDATE entries SET result_syssn = 'X' WHERE idempotency_key = 'yes'",
    "executed to held": _END_GONE.format("held", "NULL", "yes"),
    "executed to in doubt": _END_GONE.format("in_doubt", "NULL", "yes"),
    "executed to not executed": _END_GONE.format("not_executed", 1, "yes"),
    "final to held": _END_GONE.format("held", "NULL", "final"),
    "final to executed": _END_GONE.format("executed", 1, "final"),
    "final becomes re-runnable": "UPDATE entries SET rerunnable = 1 WHERE idempotency_key = 'final'",
    "re-runnable to executed": _END_GONE.format("executed", 1, "again"),
    "re-runnable to in doubt": _END_GONE.format("in_doubt", "NULL", "again"),
    "re-runnable changes its code": "UPDATE entries SET code = '0000' WHERE idempotency_key = 'again'",
    "unknown state": "UPDATE entries SET state = 'cancelled' WHERE idempotency_key = 'held'",
    "ended without a time": _END_GONE.format("executed", "NULL", "held"),
    "held with an end": "UPDATE entries SET concluded_at = 1 WHERE idempotency_key = 'held'",
    "entry deleted": "DELETE FROM entries WHERE idempotency_key = 'held'",
    "event deleted": "DELETE FROM events",
    "event changed": "UPDATE events SET detail = 'never mind'",
    "authorization deleted": "DELETE FROM authorizations",
    "movement deleted": "DELETE FROM movements",
    "captured above the hold": "UPDATE authorizations SET captured = 1001",
    "claimed above the hold": "UPDATE authorizations SET claimed = 1001 - captured - unfrozen",
    "unfrozen above the hold": "UPDATE authorizations SET unfrozen = 1001 - captured - claimed",
    "captured below zero": "UPDATE authorizations SET captured = -1, refunded = 0",
    "claimed below zero": "UPDATE authorizations SET claimed = -1",
    "refunded above captured": "UPDATE authorizations SET refunded = captured + 1",
    "refunds above their capture": "UPDATE movements SET refund_claimed = amount - refunded + 1 WHERE kind = 'capture'",
    "amount of 12 digits": "UPDATE authorizations SET amount = 100000000000",
    "amount of zero": "UPDATE authorizations SET amount = 0, captured = 0, claimed = 0",
    "amount as text": "UPDATE authorizations SET amount = 'much'",
    "stranger's entry": "UPDATE entries SET authorization = 'NOBODY' WHERE idempotency_key = 'held'",
    "second unfreeze": "UPDATE entries SET operation = 'unfreeze' WHERE idempotency_key IN ('held', 'doubt')",
}  # fmt: skip


@pytest.fixture
async def written(tmp_path: Path) -> Path:
    """A closed ledger file with an entry in every state."""
    ledger, s = await opened(tmp_path)
    await s.hold()
    await s.captured("yes", 300, "CAP-1")
    await s.declined((await s.capture("final", 50)).entry)
    await s.not_sent((await s.capture("again", 60)).entry)
    await s.capture("held", 70)
    await s.doubted((await s.capture("doubt", 80)).entry)
    await ledger.close()
    return ledger.path


@pytest.mark.parametrize("statement", REFUSED.values(), ids=REFUSED.keys())
async def test_sqlite_refuses(written: Path, statement: str) -> None:
    """What must never be written is refused by the file itself, whoever writes it, and changes nothing."""
    before = dump(written)
    with sql(written) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(statement)
    assert dump(written) == before


async def test_sqlite_lets_a_rerunnable_end_run_again(written: Path) -> None:
    """The one move back that the table has is not in the triggers' way."""
    with sql(written) as connection:
        connection.execute(_END_GONE.format("held", "NULL", "again"))
        found = connection.execute("SELECT state FROM entries WHERE idempotency_key = 'again'").fetchone()
    assert found == ("held",)
