"""A moment of the fuzzer on each target, and the fuzzer itself: it finds what is planted, and makes it small."""

from __future__ import annotations

import pytest

from tests.fuzz.__main__ import main
from tests.fuzz.engine import fuzz, tried
from tests.fuzz.mutate import PAN
from tests.fuzz.oracle import Found
from tests.fuzz.targets import TARGETS, Judge, Target


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_two_seconds(name: str) -> None:
    """Whatever the mutations make of valid input: no exception, no execution on a mismatch, no secret, no card."""
    report = fuzz(TARGETS[name](), 2.0, seed=1)
    assert report.problem is None, str(report)
    assert report.runs > 200
    assert len(report.kinds) > 2


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_the_seeds_are_valid(name: str) -> None:
    """Every seed passes, and together they show different outcomes."""
    target = TARGETS[name]()
    outcomes = [tried(target, seed) for seed in target.seeds()]
    assert {problem for _, problem in outcomes} == {None}
    assert len({kind for kind, _ in outcomes}) > 1


class Planted(Judge):
    """A target with a defect: a card number in `brand_new` is an error."""

    def run(self, case: bytes) -> str:
        """Fail where the field is there."""
        if b'"brand_new": "' in case and PAN.encode() in case:
            raise Found("planted")
        return super().run(case)


def test_a_planted_defect_is_found_and_made_small() -> None:
    """The failing input shrinks to what fails, the report says how to replay it, and the run stops there."""
    target: Target = Planted()
    report = fuzz(target, 20.0, seed=1)
    assert report.problem == "Found: planted"
    assert len(report.case) <= 1 + len(b'"brand_new": "') + len(PAN)
    assert tried(target, report.case)[1] == "Found: planted"
    assert "--target judge --replay" in str(report)


def test_the_command_runs_and_replays(capsys: pytest.CaptureFixture[str]) -> None:
    """The command names what it ran and how fast, and tries one input again."""
    assert main(["--seconds", "0.05", "--target", "retry_after", "--seed", "7"]) == 0
    assert "retry_after: " in capsys.readouterr().out
    assert main(["--target", "retry_after", "--replay", "ADc="]) == 0
    assert capsys.readouterr().out == "all is well: True False\n"
