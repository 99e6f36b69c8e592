"""c) Ledger pairs (reserve + conclude) a second ÷ the same with one transaction per step; one hot authorization.

One transaction per step: the same ledger, statements and callers, with a writer whose batch is one job, so that each
reserve and each conclude has a BEGIN and a COMMIT (and its fsync) of its own: see `_ledgers.one_transaction_per_step`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import AsyncExitStack, nullcontext
from pathlib import Path

from benchmarks._ledgers import Book, one_transaction_per_step, opened, sources
from benchmarks._measure import Cost, Figure, Plan, Work, alternate, callers, ratio
from benchmarks._postgres import postgres_url
from benchmarks._scene import bare, run_on, stub

TITLE = "Ledger pairs (reserve + conclude) a second ÷ one transaction per step"
CONCURRENCY = (1, 16, 64, 256)
SHORT_CONCURRENCY = (16, 64)
POSTGRES_MAX = 64  # beyond that one transaction per step takes seconds for a slice
TARGETS = {"sqlite": {16: 4.0, 64: 8.0, 256: 10.0}}
FSYNC_MIN = 0.4  # of a bare POST's time; where a disk keeps nothing (as in memory), there is nothing to share
SLICE_PAIRS = {1: 16, 16: 48, 64: 64, 256: 256}
HOT_AT_ONCE = 64
APPENDS = 40
PAGE = b"\0" * 4096


def run(plan: Plan) -> list[Figure]:
    """Each durable ledger, at each concurrency; what a pair costs at all; and all captures on one hold.

    A short run leaves PostgreSQL out: there is no target for it.
    """
    figures: list[Figure] = []
    with stub() as url, nullcontext() if plan.short else postgres_url() as postgres:
        fsync = _fsync_figure(run_on("asyncio", _fsync(url, plan.rounds)))
        for concurrency in SHORT_CONCURRENCY if plan.short else CONCURRENCY:
            server = postgres if concurrency <= POSTGRES_MAX else None
            costs = run_on("asyncio", _measure(url, server, concurrency, plan.rounds))
            figures += _figures(costs, concurrency, _targets(fsync))
    return [*figures, fsync]


async def _measure(url: str, postgres: str | None, concurrency: int, rounds: int) -> dict[str, list[Cost]]:
    with tempfile.TemporaryDirectory() as folder:
        async with AsyncExitStack() as stack:
            memory = await stack.enter_async_context(opened("memory://"))
            works = {
                "bare": await stack.enter_async_context(bare(url, concurrency)),
                "memory": await _pairs(memory, concurrency),
            }
            for name, source in sources(Path(folder), postgres).items():
                book = await stack.enter_async_context(opened(source))
                works[name] = await _pairs(book, concurrency)
                works[f"{name}, by steps"] = _by_steps(name, works[name])
                if concurrency == HOT_AT_ONCE:
                    works[f"{name}, hot"] = await _hot(book, concurrency)
            return await alternate(works, SLICE_PAIRS[concurrency], rounds)


async def _pairs(book: Book, concurrency: int) -> Work:
    """Pairs of so many callers, each on a hold of its own."""
    holds = [f"2026010118050002{caller:010}" for caller in range(concurrency)]
    for hold in holds:
        await book.hold(hold)
    return callers(concurrency, lambda caller: book.pair(holds[caller]))


async def _hot(book: Book, concurrency: int) -> Work:
    """The same on one hold; each caller takes another amount, because equal ones wait for each other."""
    await book.hold("HOT")
    return callers(concurrency, lambda caller: book.pair("HOT", 1_000 + caller))


def _by_steps(name: str, work: Work) -> Work:
    async def alone(count: int) -> None:
        with one_transaction_per_step(name):
            await work(count)

    return alone


def _figures(
    costs: Mapping[str, list[Cost]], concurrency: int, targets: Mapping[str, Mapping[int, float]]
) -> list[Figure]:
    figures = []
    for name in [name for name in ("sqlite", "postgresql") if name in costs]:
        figures.append(
            Figure(
                "pairs",
                f"{name}, {concurrency} at once",
                ratio(costs[name], costs[f"{name}, by steps"], lambda cost: cost.wall, per_second=True),
                targets.get(name, {}).get(concurrency),
                at_most=False,
                note=_price(costs, name),
            )
        )
        if f"{name}, hot" in costs:
            what = f"{name}, {concurrency} at once, all on one hold"
            spread = ratio(costs[f"{name}, hot"], costs[f"{name}, by steps"], lambda cost: cost.wall, per_second=True)
            figures.append(Figure("pairs", what, spread, note=_price(costs, f"{name}, hot")))
    what = f"memory ÷ sqlite, {concurrency} at once"
    spread = ratio(costs["memory"], costs["sqlite"], lambda cost: cost.wall, per_second=True)
    figures.append(Figure("pairs", what, spread, note=_price(costs, "memory")))
    return figures


def _price(costs: Mapping[str, list[Cost]], name: str) -> str:
    price = ratio(costs[name], costs["bare"], lambda cost: cost.cpu).median
    return f"a pair's CPU: {price:.2f} of a bare POST's"


# ------------------------------------------------------------------------------------------------ the disk


async def _fsync(url: str, rounds: int) -> dict[str, list[Cost]]:
    """A small append that is made durable, beside a bare POST."""
    with tempfile.TemporaryDirectory() as folder:
        handle = os.open(Path(folder) / "append", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)

        async def append(count: int) -> None:
            for _ in range(count):
                os.write(handle, PAGE)
                os.fdatasync(handle)

        try:
            async with bare(url, 1) as post:
                return await alternate({"bare": post, "append": append}, APPENDS, rounds)
        finally:
            os.close(handle)


def _targets(fsync: Figure) -> Mapping[str, Mapping[int, float]]:
    return TARGETS if fsync.spread.median >= FSYNC_MIN else {}


def _fsync_figure(costs: Mapping[str, list[Cost]]) -> Figure:
    cpu = ratio(costs["append"], costs["bare"], lambda cost: cost.cpu).median
    spread = ratio(costs["append"], costs["bare"], lambda cost: cost.wall)
    note = f"time; CPU {cpu:.2f}. This is what group commit shares: below {FSYNC_MIN} no target holds"
    return Figure("pairs", "for comparison: 4 KiB appended and fdatasync ÷ a bare POST", spread, note=note)
