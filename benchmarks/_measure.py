"""How it is measured: alternating slices in one event loop, and the ratio of what each took, with its quartiles.

Seconds of one machine at one moment say little; what two things take in turn, A B B A, says how they compare: what
slows the machine down for a while slows both. CPU is of the whole process (all its threads), so that other processes
on the same cores do not count.
"""

from __future__ import annotations

import asyncio
import gc
import math
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from attrs import frozen

ROUNDS = 9
SLICE_REQUESTS, ALONE_REQUESTS = 128, 24

Work = Callable[[int], Awaitable[None]]
"""Does so many requests, with as many callers at once as it was made for."""


@frozen
class Plan:
    """How much is measured. `short`: for a CI step, the middle of each question; `rounds`: pairs of slices."""

    short: bool = False
    rounds: int = ROUNDS
    peers: bool = True


@frozen
class Spread:
    """The median of the rounds' ratios, and their quartiles."""

    low: float
    median: float
    high: float


@frozen
class Figure:
    """One ratio that was measured, and what it ought to be.

    Args:
        question: the module that asked.
        what: ours ÷ what, under which circumstances.
        spread: the ratio.
        target: None where the figure is only for information.
        at_most: whether the target is a ceiling; else a floor.
        note: what else the reader should know.
        line: which line of the question's plot it belongs to; "" for none.
        points: where that line goes: (concurrency, ratio), or (entries, cost).
    """

    question: str
    what: str
    spread: Spread
    target: float | None = None
    at_most: bool = True
    note: str = ""
    line: str = ""
    points: tuple[tuple[float, float], ...] = ()

    @property
    def excess(self) -> float:
        """By which part it is worse than its target; 0 where it is met."""
        return 0.0 if self.target is None else self.worse_than(self.target)

    def worse_than(self, bound: float) -> float:
        """By which part it is worse than `bound`; 0 where it is not."""
        if not self.at_most:
            return max(0.0, bound / max(self.spread.median, 1e-9) - 1)
        if bound == 0:
            return math.inf if self.spread.median > 0 else 0.0
        return max(0.0, self.spread.median / bound - 1)


@frozen
class Cost:
    """What one thing took in one round: CPU of the process, CPU of the event loop's thread, and time."""

    cpu: float
    thread: float
    wall: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.cpu + other.cpu, self.thread + other.thread, self.wall + other.wall)


async def alternate(works: Mapping[str, Work], count: int, rounds: int) -> dict[str, list[Cost]]:
    """What each work cost in each round; one round runs all of them forth, the next one back (A B C, C B A, ...)."""
    names = list(works)
    for name in names:  # connections are made, caches are filled
        await works[name](count)
    costs: dict[str, list[Cost]] = {name: [] for name in names}
    with settled():
        for number in range(rounds):
            for name in names if number % 2 == 0 else names[::-1]:
                gc.collect()  # nobody pays for another's garbage
                costs[name].append(await cost_of(works[name](count)))
    return costs


@contextmanager
def settled() -> Iterator[None]:
    """What is there by now is not walked by the garbage collector: neither between slices nor at anyone's cost."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


async def cost_of(work: Awaitable[object]) -> Cost:
    """What it takes to await this."""
    cpu, thread, wall = time.process_time(), time.thread_time(), time.perf_counter()
    await work
    return Cost(time.process_time() - cpu, time.thread_time() - thread, time.perf_counter() - wall)


def callers(concurrency: int, one: Callable[[int], Awaitable[object]]) -> Work:
    """A work of `concurrency` callers that do `one(caller)` again and again."""

    async def work(count: int) -> None:
        async def calls(caller: int) -> None:
            for _ in range(count // concurrency):
                await one(caller)

        await asyncio.gather(*(calls(caller) for caller in range(concurrency)))

    return work


def requests_in_a_slice(concurrency: int) -> int:
    """Enough for a slice of some tens of milliseconds, and at least two for each caller; one caller alone is slow."""
    return ALONE_REQUESTS if concurrency == 1 else max(SLICE_REQUESTS // concurrency, 2) * concurrency


def ratio(
    ours: Sequence[Cost], theirs: Sequence[Cost], of: Callable[[Cost], float], *, per_second: bool = False
) -> Spread:
    """Ours ÷ theirs, round by round; `per_second`: of rates, which are the other way round than what they took."""
    pairs = [(of(mine), of(other)) for mine, other in zip(ours, theirs, strict=True)]
    return spread_of([other / mine if per_second else mine / other for mine, other in pairs])


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """How a cost grows with a size: the slope of log(cost) over log(size), by least squares. 0: not at all; 1: with it.

    Raises:
        ValueError: fewer than two sizes.
    """
    if len(sizes) < 2:
        raise ValueError("an exponent needs at least two sizes")
    x, y = [math.log(size) for size in sizes], [math.log(cost) for cost in costs]
    return statistics.linear_regression(x, y).slope


def spread_of(values: Sequence[float]) -> Spread:
    """Median and quartiles."""
    low, median, high = statistics.quantiles(values, n=4) if len(values) > 1 else (values[0],) * 3
    return Spread(low, median, high)
