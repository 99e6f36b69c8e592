"""Figures as SVG, by hand: lines on logarithmic axes, each named where it ends. Pure: values in, text out.

Text and grid follow the reader's light or dark mode; the lines' colours are seen on both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from xml.sax.saxutils import escape

from attrs import frozen

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 64, 590, 52, 364
LABEL_APART = 17.0
COLOURS = ("#2f81f7", "#d29922", "#3fb950", "#f85149", "#a371f7", "#db61a2")
STYLE = """<style>
text { font: 14px sans-serif; fill: #57606a }
.title { font-size: 16px; font-weight: bold }
.grid { stroke: #8c959f; stroke-opacity: 0.35 }
@media (prefers-color-scheme: dark) { text { fill: #c9d1d9 } }
</style>"""


@frozen
class Line:
    """One line of a figure; `target`: a level of the same colour; `dashed`: a variant of another line."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: str
    dashed: bool = False
    target: float | None = None


@frozen
class Axis:
    """Where a value goes, and the values that are marked."""

    place: Callable[[float], float]
    ticks: Sequence[float]


def chart(title: str, labels: tuple[str, str], lines: Sequence[Line]) -> str:
    """A whole SVG document. `labels`: of the x and of the y axis.

    Raises:
        ValueError: there is no line, or one without a point.
    """
    if not lines or not all(line.points for line in lines):
        raise ValueError("a figure needs lines, and each of them a point")
    across = sorted({point[0] for line in lines for point in line.points})
    up = [point[1] for line in lines for point in line.points]
    x = _axis(across, LEFT, RIGHT)
    y = _axis(_marks(up + [line.target for line in lines if line.target is not None]), BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">',
        STYLE,
        f"<title>{escape(title)}</title>",
        f'<text class="title" x="{LEFT}" y="22">{escape(title)}</text>',
        f'<text x="{LEFT}" y="42">{escape(labels[1])}</text>',
        f'<text x="{(LEFT + RIGHT) // 2}" y="{HEIGHT - 12}" text-anchor="middle">{escape(labels[0])}</text>',
        *_grid(x, y),
        *(_target(line, y) for line in lines if line.target is not None),
        *(_drawn(line, x, y) for line in lines),
        *_names(lines, y),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _axis(ticks: Sequence[float], start: float, end: float) -> Axis:
    low = math.log10(ticks[0])
    width = (math.log10(ticks[-1]) - low) or 1.0
    return Axis(lambda value: start + (math.log10(value) - low) / width * (end - start), ticks)


def _marks(values: Sequence[float]) -> list[float]:
    """1, 2, 5, 10, … that hold all values between them; decades only, where these are many."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1
    steps = (1, 2, 5) if high - low <= 4 else (1,)
    marks = [step * 10.0**power for power in range(low, high + 1) for step in steps]
    first = max(mark for mark in marks if mark <= min(values))
    last = min(mark for mark in marks if mark >= max(values) and mark > first)
    return [mark for mark in marks if first <= mark <= last]


def _grid(x: Axis, y: Axis) -> Iterable[str]:
    for tick in y.ticks:
        at = y.place(tick)
        yield f'<line class="grid" x1="{LEFT}" y1="{at:.1f}" x2="{RIGHT}" y2="{at:.1f}"/>'
        yield f'<text x="{LEFT - 8}" y="{at + 5:.1f}" text-anchor="end">{tick:g}</text>'
    for tick in x.ticks:
        yield f'<text x="{x.place(tick):.1f}" y="{BOTTOM + 20}" text-anchor="middle">{tick:,.0f}</text>'


def _target(line: Line, y: Axis) -> str:
    at = y.place(line.target or 0.0)
    return (
        f'<line x1="{LEFT}" y1="{at:.1f}" x2="{RIGHT}" y2="{at:.1f}" stroke="{line.colour}" stroke-dasharray="1 5" '
        f'stroke-width="2"><title>{escape(line.name)}: target {line.target:g}</title></line>'
    )


def _drawn(line: Line, x: Axis, y: Axis) -> str:
    places = [(x.place(across), y.place(up)) for across, up in line.points]
    path = " ".join(f"{across:.1f},{up:.1f}" for across, up in places)
    dash = ' stroke-dasharray="7 4"' if line.dashed else ""
    dots = "".join(f'<circle cx="{across:.1f}" cy="{up:.1f}" r="3.5" fill="{line.colour}"/>' for across, up in places)
    return (
        f'<g><title>{escape(line.name)}</title><polyline points="{path}" fill="none" stroke="{line.colour}" '
        f'stroke-width="2.5"{dash}/>{dots}</g>'
    )


def _names(lines: Sequence[Line], y: Axis) -> Iterable[str]:
    """Each line's name beside its end, pushed down where another is in the way, and up where the picture ends."""
    ordered = sorted(lines, key=lambda line: y.place(line.points[-1][1]))
    places: list[float] = []
    for line in ordered:
        places.append(max(y.place(line.points[-1][1]) + 5, places[-1] + LABEL_APART if places else TOP))
    lowest = BOTTOM + 5 + LABEL_APART
    for number in reversed(range(len(places))):
        places[number] = min(places[number], lowest - LABEL_APART)
        lowest = places[number]
    for line, at in zip(ordered, places, strict=True):
        yield f'<text x="{RIGHT + 10}" y="{at:.1f}" style="fill: {line.colour}">{escape(line.name)}</text>'
