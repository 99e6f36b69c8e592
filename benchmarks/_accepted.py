"""What is accepted today of what misses its target: `--check` fails where a figure is worse than this, not for ever.

`accepted.json` says it openly, and every table names it beside the verdict. `python -m benchmarks --accept` measures
again and writes it, so that what was gained is kept.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks._measure import Figure

FILE = Path(__file__).with_name("accepted.json")
Accepted = dict[str, dict[str, float]]


def read(file: Path = FILE) -> Accepted:
    """Question, figure, ratio."""
    found: Accepted = json.loads(file.read_text(encoding="utf-8"))
    return found


def accepted_for(figure: Figure, accepted: Accepted) -> float | None:
    """What is accepted of a figure that misses its target; None: only the target itself."""
    return accepted.get(figure.question, {}).get(figure.what)


def bound_of(figure: Figure, accepted: Accepted) -> float | None:
    """What a figure is held to: its target, or what is accepted where that is laxer; None: nothing."""
    known = [bound for bound in (figure.target, accepted_for(figure, accepted)) if bound is not None]
    if not known:
        return None
    return max(known) if figure.at_most else min(known)


def with_figures(accepted: Accepted, figures: Sequence[Figure]) -> Accepted:
    """What is accepted after these were measured: a figure that meets its target needs no entry any more."""
    after = {question: dict(known) for question, known in accepted.items()}
    for figure in figures:
        known = after.setdefault(figure.question, {})
        known.pop(figure.what, None)
        if figure.excess:
            known[figure.what] = round(figure.spread.median, 3)
    return {question: known for question, known in after.items() if known}


def write(accepted: Accepted, file: Path = FILE) -> None:
    """Write it as `read` reads it."""
    file.write_text(json.dumps(accepted, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
