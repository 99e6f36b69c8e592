"""`python -m benchmarks`: measure, compare, judge."""

from __future__ import annotations

import argparse
import sys
import time
from importlib import import_module

from benchmarks import _report
from benchmarks._measure import ROUNDS, Figure, Plan

QUESTIONS = ("capture", "throughput")
TRIES = 3


def main(arguments: list[str] | None = None) -> int:
    """Run the questions that are asked for."""
    given = _parser().parse_args(arguments)
    plan = Plan(short=given.short or given.check, rounds=given.rounds, peers=not given.check)
    asked = given.only or QUESTIONS
    found: dict[str, list[Figure]] = {}
    if not given.json:
        print(_report.machine())
    for name in asked:
        began = time.monotonic()
        question = import_module(f"benchmarks.{name}")
        found[name] = _checked(question, plan) if given.check else question.run(plan)
        if not given.json:
            print(f"\n{_report.table(question.TITLE, found[name])}\n  ({time.monotonic() - began:.0f} s)", flush=True)
    figures = [figure for each in found.values() for figure in each]
    if given.json:
        print(_report.as_json(figures))
    return _judged(figures) if given.check else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Ratios, each of two things in one run.")
    parser.add_argument("--only", nargs="+", choices=QUESTIONS, metavar="QUESTION", help=", ".join(QUESTIONS))
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="pairs of alternating slices (default: %(default)s)")
    parser.add_argument("--short", action="store_true", help="the middle of each question only")
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument(
        "--check",
        action="store_true",
        help=f"short; exit code 1 where a ratio is worse than its target by more than {_report.MARGIN:.0%}%",
    )
    return parser


def _checked(question: object, plan: Plan) -> list[Figure]:
    """The figures of a question; one that fails is measured again before it counts, and its best is taken."""
    best: dict[str, Figure] = {}
    for _ in range(TRIES):
        for figure in question.run(plan):  # type: ignore[attr-defined]
            known = best.get(figure.what)
            if known is None or figure.excess < known.excess:
                best[figure.what] = figure
        if not any(map(_report.failed, best.values())):
            break
    return list(best.values())


def _judged(figures: list[Figure]) -> int:
    wrong = [figure for figure in figures if _report.failed(figure)]
    for figure in wrong:
        print(f"FAILED: {figure.question}, {figure.what}: {_report.verdict(figure)}, in each of {TRIES} measurements")
    if not wrong:
        print(f"\nNo ratio is worse than its target by more than {_report.MARGIN:.0%}.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
