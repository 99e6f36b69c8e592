"""`python -m benchmarks`: measure, compare, judge."""

from __future__ import annotations

import argparse
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks import _accepted, _report
from benchmarks._measure import ROUNDS, Figure, Plan

QUESTIONS = ("capture", "throughput", "pairs", "growth", "batch_memory", "footprint", "reconciler", "retry")
PLOTTED = ("capture", "growth")
PLOTS = Path(__file__).with_name("plots")
TRIES = 3


def main(arguments: list[str] | None = None) -> int:
    """Run the questions that are asked for; 1: a ratio is worse than it may be."""
    given = _given(arguments)
    quick = given.check or given.accept
    plan = Plan(short=given.short or quick, rounds=given.rounds or ROUNDS, peers=not quick)
    accepted = _accepted.read()
    if not given.json:
        print(_report.machine())
    figures: list[Figure] = []
    for name in given.only or (PLOTTED if given.plot else QUESTIONS):
        began = time.monotonic()
        question = import_module(f"benchmarks.{name}")
        found = _checked(question, plan, accepted) if given.check else question.run(plan)
        figures += found
        if not given.json:
            table = _report.table(question.TITLE, found, accepted)
            print(f"\n{table}\n  ({time.monotonic() - began:.0f} s)", flush=True)
        if given.plot and name in PLOTTED:
            _plot(question, found)
    if given.json:
        print(_report.as_json(figures, accepted))
    if given.accept:
        _accepted.write(_accepted.with_figures(accepted, figures))
    return _judged(figures, accepted) if given.check else 0


def _given(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Ratios, each of two things in one run.")
    add = parser.add_argument
    add("--only", nargs="+", choices=QUESTIONS, metavar="QUESTION", help=", ".join(QUESTIONS))
    add("--rounds", type=int, help=f"alternating slices of everything (default: {ROUNDS})")
    add("--short", action="store_true", help="the middle of each question only")
    add("--json", action="store_true", help="for machines")
    add("--plot", action="store_true", help=f"write SVG figures into {PLOTS.name}/ (of {' and '.join(PLOTTED)})")
    what = f"worse than its target, or than what is accepted today, by more than {_report.MARGIN:.0%}%"
    add("--check", action="store_true", help=f"short, without peers; exit code 1 where a ratio is {what}")
    add("--accept", action="store_true", help="the same, but write what misses its target into accepted.json")
    given = parser.parse_args(arguments)
    if given.rounds is not None and given.rounds < 1:
        parser.error("--rounds must be at least 1")
    if given.check and given.accept:
        parser.error("--check and --accept: one of them")
    if given.plot and (given.short or given.check or given.accept):
        parser.error("--plot shows a whole run: not with --short, --check or --accept")
    return given


def _checked(question: Any, plan: Plan, accepted: _accepted.Accepted) -> list[Figure]:
    """The figures of a question; one that fails is measured again before it counts, and its best is taken."""
    best: dict[str, Figure] = {}
    for _ in range(TRIES):
        for figure in question.run(plan):
            known = best.get(figure.what)
            if known is None or _report.beyond(figure, accepted) < _report.beyond(known, accepted):
                best[figure.what] = figure
        if not any(_report.failed(figure, accepted) for figure in best.values()):
            break
    return list(best.values())


def _judged(figures: list[Figure], accepted: _accepted.Accepted) -> int:
    wrong = [figure for figure in figures if _report.failed(figure, accepted)]
    for figure in wrong:
        said = f"{_report.number(figure.spread.median)}, {_report.verdict(figure, accepted)}"
        print(f"FAILED: {figure.question}, {figure.what}: {said}, in each of {TRIES} measurements", file=sys.stderr)
    if not wrong:
        bound = f"its target, or than what is accepted today, by more than {_report.MARGIN:.0%}"
        print(f"\nNo ratio is worse than {bound}.", file=sys.stderr)
    return 1 if wrong else 0


def _plot(question: Any, figures: list[Figure]) -> None:
    PLOTS.mkdir(exist_ok=True)
    for name, text in question.plots(figures).items():
        (PLOTS / f"{name}.svg").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
