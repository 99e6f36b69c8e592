"""What was measured, as a table for people, as JSON for machines."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks._accepted import Accepted, accepted_for, bound_of
from benchmarks._measure import Figure

MARGIN = 0.25
"""By which part a ratio may be worse than its target (or than what is accepted today) before `--check` says no."""
PACKAGES = ("aiohttp", "attrs", "tenacity", "uvloop", "stripe", "httpx", "asyncpg")


def machine() -> str:
    """The machine and the versions, in one line."""
    return f"{_processor()}, Python {platform.python_version()}, " + ", ".join(_versions())


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} times {names[0]}" if names else platform.machine()


def _versions() -> Iterable[str]:
    for name in PACKAGES:
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            continue


def verdict(figure: Figure, accepted: Accepted) -> str:
    """Whether the target is met, and if not, by how much it is missed, and what is accepted today."""
    if figure.target is None:
        return ""
    if not figure.excess:
        return "met"
    missed = f"missed by {figure.excess:.0%}" if figure.target else "missed"
    today = accepted_for(figure, accepted)
    return missed if today is None else f"{missed} (accepted today: {number(today)})"


def beyond(figure: Figure, accepted: Accepted) -> float:
    """By which part a figure is worse than its target, or than what is accepted where that is laxer."""
    bound = bound_of(figure, accepted)
    return 0.0 if bound is None else figure.worse_than(bound)


def failed(figure: Figure, accepted: Accepted) -> bool:
    """Whether that is more than the margin."""
    return beyond(figure, accepted) > MARGIN


def table(title: str, figures: Sequence[Figure], accepted: Accepted) -> str:
    """The figures of one question."""
    width = max((len(figure.what) for figure in figures), default=0)
    lines = [title, f"  {'':{width}}   median   quartiles         target   verdict"]
    for figure in figures:
        spread = figure.spread
        sign = "≤" if figure.at_most else "≥"
        target = "" if figure.target is None else f"{sign} {number(figure.target)}"
        quartiles = f"{number(spread.low)} … {number(spread.high)}"
        end = "; ".join(filter(None, (verdict(figure, accepted), figure.note)))
        line = f"  {figure.what:{width}}   {number(spread.median):>6}   {quartiles:<16}  {target:<7}  {end}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def number(value: float) -> str:
    """Two places; three for what is small, none for what is large."""
    if 0 < abs(value) < 0.1:
        return f"{value:.3f}"
    return f"{value:.2f}" if abs(value) < 100 else f"{value:,.0f}"


def as_json(figures: Iterable[Figure], accepted: Accepted) -> str:
    """The same for machines."""
    told = {"machine": machine(), "figures": [_told(figure, accepted) for figure in figures]}
    return json.dumps(told, indent=2, ensure_ascii=False)


def _told(figure: Figure, accepted: Accepted) -> dict[str, object]:
    return {
        "question": figure.question,
        "what": figure.what,
        "low": figure.spread.low,
        "median": figure.spread.median,
        "high": figure.spread.high,
        "target": figure.target,
        "at_most": figure.at_most,
        "verdict": verdict(figure, accepted),
        "accepted": accepted_for(figure, accepted),
        "failed": failed(figure, accepted),
        "note": figure.note,
        "line": figure.line,
        "points": figure.points,
    }
