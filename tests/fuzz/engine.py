"""The loop: mutate, run, keep what is new; and the smallest input that fails in the same way."""

from __future__ import annotations

import random
import time
from base64 import urlsafe_b64encode

from attrs import define, field

from tests.fuzz.targets import Target

CORPUS_MAX = 2_000


@define
class Report:
    """What a run found."""

    target: str
    seed: int
    runs: int = 0
    seconds: float = 0.0
    kinds: set[str] = field(factory=set)
    problem: str | None = None
    case: bytes = b""

    def __str__(self) -> str:
        rate = self.runs / self.seconds if self.seconds else 0.0
        said = f"{self.target}: {self.runs} executions, {rate:.0f} a second, {len(self.kinds)} kinds of outcome"
        if self.problem is None:
            return said
        replay = f"python -m tests.fuzz --target {self.target} --replay {urlsafe_b64encode(self.case).decode()}"
        return f"{said}\nFAILED (seed {self.seed}): {self.problem}\n  smallest input: {self.case!r}\n  replay: {replay}"


def fuzz(target: Target, seconds: float, seed: int) -> Report:
    """Run mutations of the seeds for so long, or until one fails."""
    dice, report = random.Random(seed), Report(target.name, seed)
    corpus = target.seeds()
    waiting = list(corpus)
    began = time.monotonic()
    while report.seconds < seconds:
        case = waiting.pop() if waiting else target.mutate(dice.choice(corpus), dice, corpus)
        kind, problem = tried(target, case)
        report.runs += 1
        report.seconds = time.monotonic() - began
        if problem is not None:
            report.problem, report.case = problem, smallest(target, case, problem)
            return report
        if kind not in report.kinds:
            report.kinds.add(kind)
            corpus.append(case)
            del corpus[CORPUS_MAX:]
    return report


def tried(target: Target, case: bytes) -> tuple[str, str | None]:
    """The kind of outcome, and what was wrong."""
    try:
        return target.run(case), None
    except Exception as error:
        return "", f"{type(error).__name__}: {error}"


def smallest(target: Target, case: bytes, problem: str) -> bytes:
    """Take away pieces, ever smaller ones, as long as it fails in the same way (the same error or rule)."""
    kind = problem[:30]
    size = len(case) // 2
    while size:
        at = 1
        while at < len(case):
            shorter = case[:at] + case[at + size :]
            if (tried(target, shorter)[1] or "")[:30] == kind:
                case = shorter
            else:
                at += size
        size //= 2
    return case
