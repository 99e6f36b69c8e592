"""What was measured, as a table for people, as JSON for machines."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks._measure import Figure

MARGIN = 0.25
"""By which part a ratio may be worse than its target before `--check` says no: machines are noisy."""
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


def verdict(figure: Figure) -> str:
    """Whether the target is met, and if not, by how much it is missed."""
    if figure.target is None:
        return ""
    return "met" if not figure.excess else f"missed by {figure.excess:.0%}"


def failed(figure: Figure) -> bool:
    """Whether a figure is worse than its target by more than the margin."""
    return figure.excess > MARGIN


def table(title: str, figures: Sequence[Figure]) -> str:
    """The figures of one question."""
    width = max((len(figure.what) for figure in figures), default=0)
    lines = [title, f"  {'':{width}}   median   quartiles         target   verdict"]
    for figure in figures:
        spread = figure.spread
        sign = "≤" if figure.at_most else "≥"
        target = "" if figure.target is None else f"{sign} {_number(figure.target)}"
        quartiles = f"{_number(spread.low)} … {_number(spread.high)}"
        end = "; ".join(filter(None, (verdict(figure), figure.note)))
        line = f"  {figure.what:{width}}   {_number(spread.median):>6}   {quartiles:<16}  {target:<7}  {end}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def as_json(figures: Iterable[Figure]) -> str:
    """The same for machines."""
    return json.dumps(
        {
            "machine": machine(),
            "figures": [
                {
                    "question": figure.question,
                    "what": figure.what,
                    "low": figure.spread.low,
                    "median": figure.spread.median,
                    "high": figure.spread.high,
                    "target": figure.target,
                    "at_most": figure.at_most,
                    "verdict": verdict(figure),
                    "note": figure.note,
                }
                for figure in figures
            ],
        },
        indent=2,
        ensure_ascii=False,
    )
