"""The demonstration: it runs, it is repeatable, and its comparison of the books sees what is wrong."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import attrs
import pytest

from qfpay_preauth import Balance, Doubt, Entry, Operation, State
from qfpay_preauth._demo import Report, demonstrate, plan, run_wrongly, unexplained
from qfpay_preauth.testing import Movement, Totals

from .kit import COMMAND, environment, run

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_the_demo_of_the_readme() -> None:
    """The default run: exit code 0, progress, the table, the doubts with what to do, in under 15 seconds."""
    begun = time.monotonic()
    done = run("demo")
    assert time.monotonic() - begun < 15
    assert (done.returncode, done.stderr) == (0, "")
    assert "200 of 200 captures" in done.stdout
    for name in ("authorized", "captured", "unfrozen", "refunded", "requests", "over-captures", "second unfreezes"):
        assert re.search(rf"^{name} ", done.stdout, re.MULTILINE), name
    assert "HKD, holds: 50" in done.stdout
    assert "in doubt" in done.stdout
    assert len(re.findall(r"^ok ", done.stdout, re.MULTILINE)) == 4
    assert len(re.findall(r"^  order-\d+/", done.stdout, re.MULTILINE)) <= 10
    assert "resolve(" in done.stdout
    assert max(len(line.rstrip()) for line in done.stdout.splitlines()) <= 80


async def test_the_same_seed_gives_the_same_report(tmp_path: Path) -> None:
    """Every count, sum and doubt, whatever order the tasks ran in; another seed gives another."""
    reports = []
    for number, seed in enumerate((5, 5, 6)):
        folder = tmp_path / str(number)
        folder.mkdir()
        reports.append(await demonstrate(folder, seed=seed, captures=60, fault_rate=0.3, advance=lambda: None))
    first, again, other = (_timeless(report) for report in reports)
    assert first == again
    assert first != other
    assert all(report.ok for report in reports)


def _timeless(report: Report) -> dict[str, object]:
    seen = [(each.doubt.idempotency_key, each.doubt.amount, each.saw, each.executed) for each in report.doubts]
    counts = (report.tally.calls, sorted(report.tally.keys), report.tally.over_captures_refused)
    return {**attrs.asdict(report, recurse=False), "doubts": seen, "tally": counts}


@pytest.mark.parametrize("fault_rate", [0.0, 1.0])
async def test_the_extremes_hold_too(tmp_path: Path, fault_rate: float) -> None:
    """Nothing wrong: nothing in doubt. Everything wrong: still no double and no unexplained difference."""
    told: list[None] = []
    report = await demonstrate(tmp_path, seed=2, captures=40, fault_rate=fault_rate, advance=lambda: told.append(None))
    assert report.ok
    assert len(told) == 40
    assert bool(report.doubts) is bool(fault_rate)
    assert report.tally.over_captures_refused == len(report.tally.over_captures) > 0
    assert [line.theirs - line.ours >= 0 for line in report.lines] == [True] * 4
    assert report.requests == report.attempts + report.limited


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


def doubt(amount: int, operation: Operation = Operation.CAPTURE) -> Doubt:
    """An entry in doubt."""
    return Doubt("k", operation, "H", amount, "HKD", NOW, "", "", "H", 1.0, "", needs_attention=False)


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
def test_only_doubts_explain_a_difference(theirs: Totals, doubts: list[Doubt], sound: bool) -> None:
    """The gateway's surplus must be the sum of some of that hold's doubts of that kind; a deficit never is."""
    found = unexplained({"H": balance(captured=100)}, {"H": theirs}, [("H", each) for each in doubts])
    assert (found == []) is sound


def test_a_doubt_explains_nothing_on_another_hold() -> None:
    """Differences are compared hold by hold."""
    assert unexplained({"H": balance()}, {"H": totals(captured=200)}, [("OTHER", doubt(200))])


def entry(state: State, syssn: str | None = None) -> Entry:
    """Our entry of a capture of 100."""
    return Entry(
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
