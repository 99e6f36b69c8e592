"""a) CPU of a whole capture ÷ a bare aiohttp POST of the same bytes to the same stub."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from benchmarks._measure import Cost, Figure, Plan, alternate, ratio, requests_in_a_slice
from benchmarks._plot import COLOURS, Line, chart
from benchmarks._postgres import postgres_url
from benchmarks._scene import bare, capturing, loops, run_on, stub

TITLE = "CPU of a whole capture ÷ a bare aiohttp POST"
CONCURRENCY = (1, 16, 64, 256)
SHORT_CONCURRENCY = (16, 64)
# design section 8: at 16 or more at once; one at a time there is a target for SQLite only
TARGETS = {"memory": 1.30, "sqlite": 1.60, "postgresql": 1.80}
ONE_AT_A_TIME = {"sqlite": 3.0}


def run(plan: Plan) -> list[Figure]:
    """Every ledger, at each concurrency, on each event loop."""
    figures: list[Figure] = []
    with stub() as url, postgres_url() as postgres:
        for loop in ["asyncio"] if plan.short else loops():
            for concurrency in SHORT_CONCURRENCY if plan.short else CONCURRENCY:
                costs = run_on(loop, _measure(url, postgres, concurrency, plan.rounds))
                figures += _figures(costs, concurrency, loop)
    return figures


async def _measure(url: str, postgres: str | None, concurrency: int, rounds: int) -> dict[str, list[Cost]]:
    with tempfile.TemporaryDirectory() as folder:
        ledgers = {"memory": "memory://", "sqlite": f"sqlite:///{Path(folder) / 'ledger.db'}"}
        if postgres is not None:
            ledgers["postgresql"] = postgres
        async with AsyncExitStack() as stack:
            works = {"bare": await stack.enter_async_context(bare(url, concurrency))}
            for name, ledger in ledgers.items():
                works[name] = await stack.enter_async_context(capturing(url, concurrency, ledger))
            return await alternate(works, requests_in_a_slice(concurrency), rounds)


def _figures(costs: Mapping[str, list[Cost]], concurrency: int, loop: str) -> list[Figure]:
    return [
        Figure(
            "capture",
            f"{name}, {concurrency} at once, {loop}",
            ratio(costs[name], costs["bare"], lambda cost: cost.cpu),
            (TARGETS if concurrency > 1 else ONE_AT_A_TIME).get(name),
            note=f"event loop's thread alone {ratio(costs[name], costs['bare'], lambda cost: cost.thread).median:.2f}",
            line=f"{name}, {loop}",
            points=((concurrency, ratio(costs[name], costs["bare"], lambda cost: cost.cpu).median),),
        )
        for name in costs
        if name != "bare"
    ]


def plots(figures: Sequence[Figure]) -> dict[str, str]:
    """The ratio over concurrency: a line for each ledger and event loop, a dotted one for each target."""
    found: dict[str, list[tuple[float, float]]] = {}
    for figure in figures:
        found.setdefault(figure.line, []).extend(figure.points)
    lines = []
    for name, points in found.items():
        ledger, _, loop = name.partition(", ")
        colour = COLOURS[list(TARGETS).index(ledger)]
        usual = loop == "asyncio"
        lines.append(Line(name, points, colour, dashed=not usual, target=TARGETS[ledger] if usual else None))
    return {"capture": chart(TITLE, ("captures at once", "dotted: the targets at 16 or more at once"), lines)}
