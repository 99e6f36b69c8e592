"""The demonstration: it runs, ends its doubts, is repeatable, and its comparison of the books sees what is wrong."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import pytest

from qfpay_preauth import Balance, Entry, Operation, State
from qfpay_preauth import _cli as cli
from qfpay_preauth._demo import Report, Tally, demonstrate, plan
from qfpay_preauth._demo_books import Check, Ended, Ending, Line, ended, ending, run_wrongly, unexplained
from qfpay_preauth._models import ConfirmedBy, Why
from qfpay_preauth.testing import Movement, Totals

from .kit import COMMAND, environment, run

pytestmark = pytest.mark.xdist_group("demo")  # one process plays the demos, once for all tests here
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_the_demo_of_the_readme() -> None:
    """The default run: exit code 0, progress, every doubt ended, equal books, in under 15 seconds."""
    begun = time.monotonic()
    done = run("demo")
    assert time.monotonic() - begun < 15
    assert (done.returncode, done.stderr) == (0, "")
    assert "200 of 200 captures" in done.stdout
    for name in ("requests", "over-captures", "second unfreezes"):
        assert re.search(rf"^{name} ", done.stdout, re.MULTILINE), name
    for name in ("captured", "unfrozen", "refunded"):
        row = re.search(rf"^{name} +([\d,.]+) +([\d,.]+) +([\d,.]+) +-$", done.stdout, re.MULTILINE)
        assert row is not None, name
        assert row[2] == row[3], name
    assert "HKD, holds: 50" in done.stdout
    assert len(re.findall(r"^ok ", done.stdout, re.MULTILINE)) == 4
    assert len(re.findall(r"^  order-\d+/", done.stdout, re.MULTILINE)) == 10
    assert done.stdout.endswith("So nobody paid twice, and both books agree.\n")
    assert "resolve(" not in done.stdout
    assert all(len(line) <= 80 and line == line.rstrip() for line in done.stdout.splitlines())


def test_the_demo_counts_its_doubts_down() -> None:
    """How many are in doubt after each step, down to none, with the wait before absence counts; each with its end."""
    out = run("demo", "--captures", "60", "--fault-rate", "0.3").stdout
    counts = [int(each) for each in re.findall(r"^ *(\d+) (?:in doubt|left after)", out, re.MULTILINE)]
    assert len(counts) == 4
    assert counts == sorted(set(counts), reverse=True)
    assert counts[-1] == 0
    waiting, last = out.index("waiting for the quiet period"), out.index("twice more")
    assert out.index("left after reconcile(): ") < waiting < last
    assert f"Doubts: {counts[0]}. How they ended:" in out
    shown = re.findall(r"^ *(\d+) (?:executed: by a not|executed: by the ans|refused|not sent)", out, re.MULTILINE)
    assert [int(each) > 0 for each in shown] == [True] * 4
    assert sum(int(each) for each in shown) == counts[0]


def test_what_is_left_for_a_person_says_why() -> None:
    """One capture, lost on its way: no answered capture was ever shown, so absence proves nothing. Exit code 0."""
    done = run("demo", "--seed", "3", "--captures", "1", "--fault-rate", "1")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^  order-01/parcel-1: the gateway does not show it", done.stdout, re.MULTILINE)
    assert re.search(r"^  order-01/parcel-1 .* left for a person$", done.stdout, re.MULTILINE)
    assert "resolve(key" in done.stdout
    assert "in doubt, claimed, and" in done.stdout
    assert "both books agree" not in done.stdout


def test_books_that_do_not_agree_end_it_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A broken promise is shown with what broke it, and is the exit code."""
    broken = Check("every difference is an entry still in doubt", ("H: the gateway has +5 captured",))
    line = Line("captured", 100, 0, 105)
    report = Report(1, (line,), 1, 1, 0, 0, 0, 0, Tally(), (Ended("k", 5, "HTTP 504", Ending.FOUND),), (broken,))

    async def demonstrated(*_: object, **__: object) -> Report:
        return report

    monkeypatch.setattr("qfpay_preauth._demo.demonstrate", demonstrated)
    assert cli.run(["demo"]) == 1
    shown = capsys.readouterr().out
    assert re.search(r"^captured +- +1.00 +1.05 +\+0.05$", shown, re.MULTILINE)
    assert "BROKEN every difference" in shown
    assert "H: the gateway has +5 captured" in shown
    assert "do NOT agree" in shown
    assert "both books agree" not in shown


# ------------------------------------------------------------------------------------------------ the runs


@attrs.frozen
class Played:
    """One run in this process: its report, how often it told of a capture, and what it said."""

    report: Report
    told: int
    said: tuple[str, ...]


PLANS = {
    "1": (1, 60, 0.3),
    "1 again": (1, 60, 0.3),
    "3": (3, 60, 0.3),
    "nothing wrong": (2, 40, 0.0),
    "everything wrong": (2, 40, 1.0),
}


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Played]:
    """All runs at once, because each waits for its quiet period."""

    async def play(folder: Path, seed: int, captures: int, fault_rate: float) -> Played:
        told: list[None] = []
        said: list[str] = []
        report = await demonstrate(
            folder,
            seed=seed,
            captures=captures,
            fault_rate=fault_rate,
            advance=lambda: told.append(None),
            say=said.append,
        )
        return Played(report, len(told), tuple(said))

    async def play_all() -> list[Played]:
        return await asyncio.gather(*(play(tmp_path_factory.mktemp("run"), *each) for each in PLANS.values()))

    return dict(zip(PLANS, asyncio.run(play_all()), strict=True))


def test_the_same_seed_gives_the_same_report(played: dict[str, Played]) -> None:
    """Every count, sum, doubt and ending, whatever order the tasks ran in; another seed gives another."""
    first, again, other = (_comparable(played[name]) for name in ("1", "1 again", "3"))
    assert first == again
    assert first != other


def _comparable(run: Played) -> dict[str, object]:
    tally = run.report.tally
    counts = (tally.calls, sorted(tally.keys), tally.over_captures_refused)
    return {**attrs.asdict(run.report, recurse=False), "tally": counts, "said": run.said}


@pytest.mark.parametrize("name", PLANS)
def test_each_run_keeps_its_promises(played: dict[str, Played], name: str) -> None:
    """No double, no unexplained difference, every capture told of, every retry accounted for."""
    report = played[name].report
    assert report.ok
    assert played[name].told == PLANS[name][1]
    assert report.tally.over_captures_refused == len(report.tally.over_captures) > 0
    assert report.requests == report.attempts + report.limited


@pytest.mark.parametrize("name", ["1", "3"])
def test_every_doubt_ends_and_the_books_are_equal(played: dict[str, Played], name: str) -> None:
    """Each way is taken; every fourth execution is told by a notification; nothing is left, and nothing differs."""
    report = played[name].report
    ways = Counter(each.ending for each in report.doubts)
    assert set(ways) == set(Ending) - {Ending.LEFT}
    assert ways[Ending.NOTIFIED] == -(-(ways[Ending.NOTIFIED] + ways[Ending.FOUND]) // 4)
    assert all(line.ours == line.theirs for line in report.lines)
    assert sum(line.was_in_doubt for line in report.lines) == sum(each.amount for each in report.doubts) > 0


def test_with_nothing_wrong_nothing_is_in_doubt(played: dict[str, Played]) -> None:
    """No doubt, no waiting, equal books."""
    report, said = played["nothing wrong"].report, played["nothing wrong"].said
    assert report.doubts == ()
    assert all(line.ours == line.theirs and not line.was_in_doubt for line in report.lines)
    assert not any("waiting" in line for line in said)


def test_with_everything_wrong_what_is_left_has_its_reason(played: dict[str, Played]) -> None:
    """No unfreeze was ever answered, so a row's word proves no capture: those stay in doubt, and explain the rest."""
    report = played["everything wrong"].report
    left = [each for each in report.doubts if each.ending is Ending.LEFT]
    assert left
    assert all("does not tell a capture from an unfreeze" in each.reason for each in left)
    more = sum(line.theirs - line.ours for line in report.lines)
    assert 0 < more == sum(each.amount for each in left)
    assert not any(each.reason for each in report.doubts if each not in left)


def test_the_plan_is_as_ordered() -> None:
    """200 captures are 50 holds of four in different amounts, about a tenth of the operations go wrong."""
    orders = plan(1, 200, 0.1)
    parcels = [[step.amount for step in order.parcels] for order in orders]
    assert [len(each) for each in parcels] == [4] * 50
    assert all(len(set(each)) == 4 and sum(each) < order.amount for each, order in zip(parcels, orders, strict=True))
    faults = sum(step.fault is not None for order in orders for step in order.parcels)
    assert 10 <= faults <= 30
    assert [sum(len(order.parcels) for order in plan(1, count, 0.1)) for count in (1, 3, 7, 203)] == [1, 3, 7, 203]


def test_interrupted_it_ends_silently() -> None:
    """Ctrl-C in the middle: exit code 130, no traceback."""
    process = subprocess.Popen(
        [*COMMAND, "demo", "--captures", "2000"],
        env=environment(PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    watchdog = threading.Timer(30, process.kill)
    watchdog.start()
    assert process.stdout is not None
    assert any("500 of 2000" in line for line in process.stdout)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    watchdog.cancel()
    assert (process.returncode, errors) == (130, "")


# ------------------------------------------------------------------------------------------------ the comparison


def balance(captured: int = 0, unfrozen: int = 0, refunded: int = 0) -> Balance:
    """Our books of one hold of 1,000."""
    return Balance(1_000, captured, 0, 0, 0, unfrozen, refunded, 0, "HKD")


def totals(captured: int = 0, unfrozen: int = 0, refunded: int = 0, authorized: int = 1_000) -> Totals:
    """The gateway's."""
    return Totals(authorized=authorized, captured=captured, unfrozen=unfrozen, refunded=refunded, pending=0)


def doubt(amount: int, operation: Operation = Operation.CAPTURE, hold: str = "H") -> Entry:
    """An entry in doubt."""
    return attrs.evolve(entry(State.IN_DOUBT), amount=amount, operation=operation, authorization=hold)


def entry(state: State, syssn: str | None = None, **more: Any) -> Entry:
    """Our entry of a capture of 100."""
    plain = Entry(
        account="A",
        idempotency_key="k",
        operation=Operation.CAPTURE,
        authorization="H",
        syssn="H",
        amount=100,
        currency="HKD",
        out_trade_no=None,
        state=state,
        attempt=1,
        reserved_at=NOW,
        send_by=NOW,
        doubt_at=NOW,
        result_syssn=syssn,
    )
    return attrs.evolve(plain, **more)


@pytest.mark.parametrize(
    ("theirs", "doubts", "sound"),
    [
        (totals(captured=100), [], True),
        (totals(captured=300), [doubt(200)], True),
        (totals(captured=350), [doubt(200), doubt(50), doubt(7)], True),
        (totals(captured=100), [doubt(200)], True),
        (totals(captured=300), [], False),
        (totals(captured=299), [doubt(200)], False),
        (totals(captured=0), [doubt(100)], False),
        (totals(captured=300), [doubt(200, Operation.REFUND)], False),
        (totals(captured=100, refunded=30), [doubt(30, Operation.REFUND)], True),
        (totals(captured=100, unfrozen=900), [doubt(900, Operation.UNFREEZE)], True),
        (totals(captured=100, unfrozen=900), [], False),
        (totals(captured=100, authorized=999), [], False),
    ],
)
def test_only_doubts_explain_a_difference(theirs: Totals, doubts: list[Entry], sound: bool) -> None:
    """The gateway's surplus must be the sum of some of that hold's doubts of that kind; a deficit never is."""
    found = unexplained({"H": balance(captured=100)}, {"H": theirs}, doubts)
    assert (found == []) is sound


def test_a_doubt_explains_nothing_on_another_hold() -> None:
    """Differences are compared hold by hold."""
    assert unexplained({"H": balance()}, {"H": totals(captured=200)}, [doubt(200, hold="OTHER")])


def movement(syssn: str, amount: int = 100) -> Movement:
    """An execution in the gateway's books."""
    return Movement(
        syssn=syssn,
        kind="capture",
        orig_syssn="H",
        hold_syssn="H",
        amount=amount,
        currency="HKD",
        out_trade_no="",
        txdtm="",
        accepted_at=NOW,
        code="0000",
        at=NOW,
        portal=False,
    )


@pytest.mark.parametrize(
    ("mine", "executions", "sound"),
    [
        (entry(State.EXECUTED, "C1"), [movement("C1")], True),
        (entry(State.IN_DOUBT), [movement("C1")], True),
        (entry(State.IN_DOUBT), [], True),
        (entry(State.NOT_EXECUTED), [], True),
        (entry(State.EXECUTED, "C1"), [movement("C1"), movement("C2")], False),
        (entry(State.IN_DOUBT), [movement("C1"), movement("C2")], False),
        (entry(State.NOT_EXECUTED), [movement("C1")], False),
        (entry(State.EXECUTED, "C1"), [], False),
        (entry(State.EXECUTED, "C9"), [movement("C1")], False),
        (entry(State.EXECUTED, "C1"), [movement("C1"), movement("C2", 5)], False),
    ],
)
def test_each_key_ran_as_recorded_and_once(mine: Entry, executions: list[Movement], sound: bool) -> None:
    """Twice, unrecorded, recorded but absent, under another id, or without a key: each is seen."""
    assert (run_wrongly([mine], executions) == []) is sound


@pytest.mark.parametrize(
    ("after", "how"),
    [
        (entry(State.EXECUTED, "C1", confirmed_by=ConfirmedBy.NOTIFICATION), Ending.NOTIFIED),
        (entry(State.EXECUTED, "C1", confirmed_by=ConfirmedBy.ENQUIRY), Ending.FOUND),
        (entry(State.NOT_EXECUTED, why=Why.DECLINED, confirmed_by=ConfirmedBy.ENQUIRY), Ending.REFUSED),
        (entry(State.NOT_EXECUTED, why=Why.NOT_SENT, confirmed_by=ConfirmedBy.ENQUIRY), Ending.ABSENT),
        (entry(State.IN_DOUBT), Ending.LEFT),
        (entry(State.HELD), Ending.LEFT),
    ],
)
def test_how_a_doubt_ended(after: Entry, how: Ending) -> None:
    """Read off the entry: its state, what ended it, and why."""
    assert ending(after) is how


def test_an_ended_doubt_keeps_what_was_seen_of_it() -> None:
    """What we saw is from before the evidence; the reason is given only for what is left."""
    before = entry(State.IN_DOUBT, detail="HTTP 504")
    done = entry(State.EXECUTED, "C1", detail="found", attention="two rows", confirmed_by=ConfirmedBy.ENQUIRY)
    assert ended(before, done) == Ended("k", 100, "HTTP 504", Ending.FOUND, "")
    assert ended(before, attrs.evolve(before, attention="two rows")).reason == "two rows"
    assert "nothing proves its absence" in ended(before, before).reason
