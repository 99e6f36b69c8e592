"""The benchmarks' own arithmetic, command line, stub and figures: what judges must be right itself."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks import __main__ as command
from benchmarks import _accepted, _report, capture, footprint, growth, reconciler
from benchmarks._ledgers import opened
from benchmarks._measure import (
    Cost,
    Figure,
    Plan,
    Spread,
    alternate,
    callers,
    exponent,
    ratio,
    requests_in_a_slice,
    spread_of,
)
from benchmarks._plot import Line, chart
from benchmarks._scene import AMOUNT, BODY, HOLD, client, run_on, stub
from benchmarks.stub import answer
from qfpay_preauth._models import Answer, Judgement
from qfpay_preauth._wire import judge

SVG = "{http://www.w3.org/2000/svg}"


def figure(median: float, target: float | None = 1.0, *, at_most: bool = True, what: str = "this") -> Figure:
    """A figure with this median."""
    return Figure("capture", what, Spread(median, median, median), target, at_most=at_most)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A stub gateway, in its own process."""
    with stub() as found:
        yield found


# ------------------------------------------------------------------------------------------------ arithmetic


def test_ratio_is_taken_round_by_round() -> None:
    """A machine that is twice as slow in one round changes no ratio; rates are the other way round."""
    ours, theirs = [Cost(2, 1, 4), Cost(4, 2, 8), Cost(3, 3, 6)], [Cost(1, 1, 1), Cost(2, 2, 2), Cost(1, 1, 2)]
    assert ratio(ours, theirs, lambda cost: cost.cpu).median == 2
    assert ratio(ours, theirs, lambda cost: cost.wall, per_second=True).median == 0.25


def test_spread_has_the_quartiles() -> None:
    """Median and quartiles of nine; one value alone is all three."""
    assert spread_of([9, 1, 8, 2, 7, 3, 6, 4, 5]) == Spread(2.5, 5, 7.5)
    assert spread_of([0.25]) == Spread(0.25, 0.25, 0.25)


@pytest.mark.parametrize(("power", "factor"), [(0.0, 3.0), (1.0, 0.5), (0.5, 7.0), (-0.2, 1.0)])
def test_exponent_is_that_of_a_power(power: float, factor: float) -> None:
    """What costs n to some power has this power as its exponent, whatever the factor."""
    sizes = (1_000.0, 10_000.0, 100_000.0)
    assert exponent(sizes, [factor * size**power for size in sizes]) == pytest.approx(power)


def test_exponent_needs_two_sizes() -> None:
    """One size says nothing about growth."""
    with pytest.raises(ValueError, match="two sizes"):
        exponent([1_000], [1.0])


@pytest.mark.parametrize(
    ("median", "target", "at_most", "excess"),
    [
        (1.5, 1.0, True, 0.5),
        (0.9, 1.0, True, 0.0),
        (0.5, 0.75, False, 0.5),
        (0.9, 0.75, False, 0.0),
        (0.0, 0.0, True, 0.0),
        (-0.3, 0.1, True, 0.0),
        (9.0, None, True, 0.0),
    ],
)
def test_excess_is_the_part_beyond_the_target(
    median: float, target: float | None, at_most: bool, excess: float
) -> None:
    """Ceilings are exceeded upwards, floors downwards; without a target nothing is."""
    assert figure(median, target, at_most=at_most).excess == pytest.approx(excess)


def test_nothing_is_let_through_where_the_target_is_nothing() -> None:
    """One module too many misses a target of none, whatever the margin."""
    brought = figure(1.0, 0.0)
    assert _report.failed(brought, {})
    assert _report.verdict(brought, {}) == "missed"


async def test_slices_alternate_forth_and_back() -> None:
    """A B C, C B A, and so on, after one slice of each that does not count."""
    order: list[str] = []

    def work(name: str) -> Callable[[int], Any]:
        async def run(count: int) -> None:
            order.append(name)

        return run

    costs = await alternate({name: work(name) for name in "ABC"}, 1, rounds=3)
    assert "".join(order) == "ABC" + "ABC" + "CBA" + "ABC"
    assert {name: len(each) for name, each in costs.items()} == dict.fromkeys("ABC", 3)


async def test_callers_share_a_slice() -> None:
    """Each of them does its part, and the whole is what was asked for."""
    calls: list[int] = []

    async def one(caller: int) -> None:
        calls.append(caller)

    count = requests_in_a_slice(16)
    await callers(16, one)(count)
    assert sorted(set(calls)) == list(range(16))
    assert len(calls) == count >= 32


# ------------------------------------------------------------------------------------------------ verdicts


@pytest.mark.parametrize(
    ("median", "accepted", "failed", "verdict"),
    [
        (1.0, None, False, "met"),
        (1.2, None, False, "missed by 20%"),
        (1.3, None, True, "missed by 30%"),
        (2.4, 2.0, False, "missed by 140% (accepted today: 2.00)"),
        (2.6, 2.0, True, "missed by 160% (accepted today: 2.00)"),
        (1.2, 0.5, False, "missed by 20% (accepted today: 0.50)"),
    ],
)
def test_what_is_accepted_today_is_the_bound(median: float, accepted: float | None, failed: bool, verdict: str) -> None:
    """A figure fails beyond the laxer of its target and what is accepted, and the margin; the verdict says both."""
    known = {} if accepted is None else {"capture": {"this": accepted}}
    assert _report.failed(figure(median), known) is failed
    assert _report.verdict(figure(median), known) == verdict


def test_accepting_keeps_what_misses_only() -> None:
    """An entry is added where a target is missed, and goes when it is met; other questions keep theirs."""
    before = {"capture": {"this": 2.0, "other": 3.0}, "pairs": {"x": 1.0}}
    met, missed = figure(0.9), figure(1.23456, what="new")
    after = _accepted.with_figures(before, [met, missed])
    assert after == {"capture": {"other": 3.0, "new": 1.235}, "pairs": {"x": 1.0}}


def test_accepted_file_names_known_questions(tmp_path: Path) -> None:
    """The file that is committed can be read and written, and every question in it is one that is asked."""
    accepted = _accepted.read()
    assert set(accepted) <= set(command.QUESTIONS)
    _accepted.write(accepted, tmp_path / "again.json")
    assert _accepted.read(tmp_path / "again.json") == accepted


class _Question:
    """Answers with one figure after another."""

    TITLE = "a question"

    def __init__(self, *medians: float) -> None:
        self.left = list(medians)

    def run(self, plan: Plan) -> list[Figure]:
        return [figure(self.left.pop(0))]


def test_what_fails_is_measured_again_and_its_best_counts() -> None:
    """Up to three times, and no longer than it fails."""
    once, twice, always = _Question(1.1, 9.0), _Question(2.0, 1.2, 9.0), _Question(3.0, 2.0, 4.0, 1.0)
    found = [command._checked(each, Plan(), {})[0].spread.median for each in (once, twice, always)]
    assert found == [1.1, 1.2, 2.0]
    assert [len(each.left) for each in (once, twice, always)] == [1, 1, 1]


def _asking(monkeypatch: pytest.MonkeyPatch, *medians: float) -> None:
    monkeypatch.setattr(command, "import_module", lambda name: _Question(*medians))


@pytest.mark.parametrize(("medians", "code"), [((1.1,), 0), ((2.0, 2.0, 2.0), 1)])
def test_check_says_no_by_its_exit_code(
    medians: tuple[float, ...], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """1 where a ratio stays worse than it may be, and the figure is named."""
    _asking(monkeypatch, *medians)
    monkeypatch.setattr(_accepted, "read", dict)
    assert command.main(["--check", "--only", "capture"]) == code
    assert ("FAILED: capture, this" in capsys.readouterr().err) is bool(code)


def test_without_check_nothing_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A plain run tells what is missed, and ends well."""
    _asking(monkeypatch, 9.0)
    assert command.main(["--only", "capture"]) == 0
    assert "missed by 800%" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------ the command line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "speed"], "invalid choice: 'speed'"),
        (["--rounds", "0"], "--rounds must be at least 1"),
        (["--rounds", "many"], "invalid int value"),
        (["--check", "--accept"], "one of them"),
        (["--plot", "--short"], "--plot shows a whole run"),
    ],
)
def test_bad_arguments_are_refused(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, and what was wrong."""
    with pytest.raises(SystemExit) as caught:
        command.main(arguments)
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_every_question_is_a_module_with_a_title() -> None:
    """What can be asked is there, and says what it measures; what is plotted can be."""
    asked = {name: import_module(f"benchmarks.{name}") for name in command.QUESTIONS}
    assert all(module.TITLE and module.run for module in asked.values())
    assert [name for name, module in asked.items() if hasattr(module, "plots")] == list(command.PLOTTED)


def test_json_has_all_that_was_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One document: the machine, and each figure with its spread, target and verdict."""
    _asking(monkeypatch, 1.5)
    monkeypatch.setattr(_accepted, "read", lambda: {"capture": {"this": 1.4}})
    assert command.main(["--json", "--only", "capture"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert "Python" in told["machine"]
    (only,) = told["figures"]
    assert only == {
        "question": "capture",
        "what": "this",
        "low": 1.5,
        "median": 1.5,
        "high": 1.5,
        "target": 1.0,
        "at_most": True,
        "verdict": "missed by 50% (accepted today: 1.40)",
        "accepted": 1.4,
        "failed": False,
        "note": "",
        "line": "",
        "points": [],
    }


# ------------------------------------------------------------------------------------------------ the stub


async def test_captures_on_the_stub_are_executed(url: str) -> None:
    """The library takes the stub's answers for what they say: whole captures, each with a new syssn."""
    async with client(url, "memory://") as merchant:
        await merchant.register_authorization("HOLD-1", HOLD, "HKD", out_trade_no="ORDER-1")
        captures = [await merchant.capture("HOLD-1", AMOUNT, idempotency_key=f"k{n}") for n in range(2)]
        assert [(each.orig_syssn, each.amount, each.code) for each in captures] == [("HOLD-1", AMOUNT, "0000")] * 2
        assert len({each.syssn for each in captures}) == 2
        assert (await merchant.balance("HOLD-1")).captured == 2 * AMOUNT


async def test_the_bare_posts_bytes_are_a_capture_too() -> None:
    """The floor's request gets an answer that the library would judge executed."""
    asked = dict(pair.split("=") for pair in BODY.decode().split("&"))
    async with opened("memory://") as book:
        await book.hold(asked["syssn"])
        entry = (await book.ledger.reserve(book.wish(asked["syssn"], int(asked["txamt"])))).entry
    _, _, content = answer(b"/trade/v1/authtrade", BODY).partition(b"\r\n\r\n")
    assert judge(entry, Answer(200, {}, content), ()).judgement is Judgement.EXECUTED


async def test_enquiries_show_the_rows_that_were_put_there() -> None:
    """By window, by number and page by page; and they are counted."""
    rows = [{"syssn": f"S{n}", "out_trade_no": f"N{n}", "sysdtm": f"2026-01-01 00:00:0{n}"} for n in (2, 0, 1)]
    answer(b"/rows", json.dumps(rows).encode())

    def shown(more: str) -> list[str]:
        body = f"start_time=2026-01-01 00:00:01&end_time=2026-01-01 00:00:09&page_size=1{more}"
        content = json.loads(answer(b"/trade/v1/query", body.encode()).partition(b"\r\n\r\n")[2])
        assert content["respcd"] == "0000"
        return [row["syssn"] for row in content["data"]]

    assert [shown("&page=1"), shown("&page=2"), shown("&page=3")] == [["S1"], ["S2"], []]
    assert shown("&page=1&out_trade_no=N2,N9") == ["S2"]
    assert answer(b"/enquiries", b"").endswith(b"\r\n\r\n4")


@pytest.mark.parametrize("numbered", [True, False])
def test_doubts_end_on_the_stub(url: str, numbered: bool) -> None:
    """The reconciler's question measures what it says: every doubt ends, by few enquiries."""
    cost = run_on("asyncio", reconciler._measure(url, 30, numbered=numbered))
    assert 0 < cost.requests < 1
    assert cost.cpu > 0


# ------------------------------------------------------------------------------------------------ figures


def _captured() -> list[Figure]:
    return [
        Figure("capture", f"{name}", Spread(1, 1, 1), line=f"{name}, {loop}", points=((at, at / 100 + 1),))
        for name in capture.TARGETS
        for loop in ("asyncio", "uvloop")
        for at in capture.CONCURRENCY
    ]


def test_capture_figure_has_every_line_and_target() -> None:
    """Valid SVG; a line for each ledger and loop, through each concurrency; a dotted target for each ledger."""
    (text,) = capture.plots(_captured()).values()
    root = ElementTree.fromstring(text)
    assert root.tag == f"{SVG}svg"
    lines = {each.findtext(f"{SVG}title"): each for each in root.iter(f"{SVG}g")}
    assert set(lines) == {f"{name}, {loop}" for name in capture.TARGETS for loop in ("asyncio", "uvloop")}
    assert all(len(each.findall(f"{SVG}circle")) == len(capture.CONCURRENCY) for each in lines.values())
    targets = [title for each in root.iter(f"{SVG}line") if (title := each.findtext(f"{SVG}title"))]
    assert targets == [f"{name}, asyncio: target {target:g}" for name, target in capture.TARGETS.items()]


def test_growth_figures_have_every_verb() -> None:
    """One figure for each ledger, one line for each verb, and no more room than they need."""
    points = ((1_000.0, 0.02), (1_000_000.0, 5.0))
    figures = [
        Figure("growth", verb, Spread(0, 0, 0), line=f"{ledger}, {verb}", points=points)
        for ledger in ("sqlite", "memory")
        for verb in growth.VERBS
    ]
    found = growth.plots(figures)
    assert set(found) == {"growth-sqlite", "growth-memory"}
    root = ElementTree.fromstring(found["growth-sqlite"])
    assert {each.findtext(f"{SVG}title") for each in root.iter(f"{SVG}g")} == set(growth.VERBS)
    texts = [each.text for each in root.iter(f"{SVG}text")]
    assert {"0.02", "0.1", "1", "5", "1,000", "1,000,000"} <= set(texts)
    assert not {"0.01", "10"} & set(texts)


@pytest.mark.parametrize("end", [1.0, 1.5, 2.0])
def test_names_beside_a_figure_do_not_overlap(end: float) -> None:
    """Lines that end at one place, high or low, have their names below each other and within the picture."""
    lines = [Line(f"line {n}", ((1, 1.0 + n / 5), (16, end)), "#000") for n in range(6)]
    root = ElementTree.fromstring(chart("many & <alike>", ("x", "y"), lines))
    names = {line.name for line in lines}
    heights = sorted(float(each.attrib["y"]) for each in root.iter(f"{SVG}text") if each.text in names)
    assert len(heights) == 6
    assert min(after - before for before, after in itertools.pairwise(heights)) >= 14
    assert heights[0] > 40
    assert heights[-1] < 380


def test_a_figure_without_lines_is_refused() -> None:
    """Nothing measured is no figure."""
    with pytest.raises(ValueError, match="needs lines"):
        chart("nothing", ("x", "y"), [])


# ------------------------------------------------------------------------------------------------ the footprint


def test_a_bare_import_brings_no_aiohttp() -> None:
    """The question's own measurement says so; with aiohttp imported it would say otherwise."""
    statement = "import sys, {}; print(sum(name.partition('.')[0] == 'aiohttp' for name in sys.modules))"
    assert int(footprint._prints(statement.format("qfpay_preauth"))) == 0
    assert int(footprint._prints(statement.format("aiohttp"))) > 0


def test_what_is_installed_is_counted_with_what_it_needs() -> None:
    """aiohttp brings others; our own closure holds aiohttp's; what is not there is None."""
    aiohttp = footprint._closure("aiohttp")
    assert aiohttp is not None
    assert {"aiohttp", "yarl", "multidict"} <= aiohttp <= footprint._our_closure()
    assert footprint._closure("no-such-package-anywhere") is None
    assert footprint._measured({"aiohttp"}).megabytes > 0.5


def test_imports_are_compared_less_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours ÷ the peer's, each less what an interpreter takes that imports nothing."""
    costs = dict(zip(footprint.STATEMENTS.values(), (1.0, 1.5, 4.0, 3.0, 3.0, 3.0), strict=True))
    monkeypatch.setattr(footprint, "_cpu", costs.__getitem__)
    found = footprint._imports(4, peers=False)
    medians = [each.spread.median for each in footprint._import_figures(found)]
    assert medians == [0.25, 1.5]
