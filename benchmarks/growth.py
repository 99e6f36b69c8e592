"""d) What the ledger's verbs cost after so many entries and holds, and the exponent of that growth: 0 is not at all."""

from __future__ import annotations

import asyncio
import gc
import tempfile
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from random import randrange

from attrs import frozen

from benchmarks._history import BUSY, FIRST, doubted, old_memory, old_postgres, old_sqlite
from benchmarks._ledgers import ENVIRONMENT, Book
from benchmarks._measure import Cost, Figure, Plan, Work, cost_of, exponent, ratio, settled, spread_of
from benchmarks._plot import COLOURS, Line, chart
from benchmarks._postgres import postgres_url
from benchmarks._scene import bare, run_on, stub
from qfpay_preauth.ledger import Ledger, ledger_from

TITLE = "How the cost of a verb grows with the ledger: the exponent of cost over entries"
TARGET = 0.1
WORTH = 0.02  # of a bare POST's: what costs less is a few cache misses, which no target can hold
_TO_100_000 = (1_000, 10_000, 100_000)
SIZES = {"sqlite": (*_TO_100_000, 1_000_000), "memory": _TO_100_000, "postgresql": _TO_100_000}
SHORT_SIZES = {"sqlite": (1_000, 100_000), "memory": (1_000, 10_000)}
VERBS = ("reserve", "conclude", "balance", "entry", "in_doubt", "open")
STEPS = {"sqlite": 16, "memory": 64, "postgresql": 8}  # of each verb in a slice, one after another
OPENS = 3
POSTS = 64

Costs = dict[tuple[str, int], list[Cost]]


@frozen
class Old:
    """A kind of ledger with a history of so many entries; `source` opens another one on the same books."""

    name: str
    size: int
    book: Book
    source: str | None


def run(plan: Plan) -> list[Figure]:
    """Each ledger by itself; the slices of its sizes take turns."""
    with stub() as url, postgres_url() as postgres:
        known = SHORT_SIZES if plan.short else SIZES
        sizes = {name: each for name, each in known.items() if name != "postgresql" or postgres is not None}
        costs = run_on("asyncio", _measure(url, postgres or "", sizes, plan.rounds))
    return [figure for name in sizes for figure in _figures(name, sizes[name], costs[name])]


async def _measure(url: str, postgres: str, sizes: Mapping[str, Sequence[int]], rounds: int) -> dict[str, Costs]:
    with tempfile.TemporaryDirectory() as folder:
        async with AsyncExitStack() as stack:
            post = await stack.enter_async_context(bare(url, 1))
            wanted = [(name, size) for name, each in sizes.items() for size in each]
            # all at once: SQLite and the server need no interpreter to copy rows
            made = await asyncio.gather(*(_old(stack, name, size, Path(folder), postgres) for name, size in wanted))
            old = {name: [each for each in made if each.name == name] for name in sizes}
            with settled():  # the history, too, is not walked while others are measured
                return {name: await _rounds(each, post, rounds) for name, each in old.items()}


async def _rounds(old: Sequence[Old], post: Work, rounds: int) -> Costs:
    costs: Costs = defaultdict(list)
    await _round(old, post)  # connections are made, caches are filled
    for number in range(rounds):
        turn = number % len(old)  # each size is at each place in turn, forth and back
        order = [*old[turn:], *old[:turn]]
        for which, cost in (await _round(order if number % 2 == 0 else order[::-1], post)).items():
            costs[which].append(cost)
    return costs


async def _old(stack: AsyncExitStack, name: str, size: int, folder: Path, postgres: str) -> Old:
    source: str | None = None
    ledger: Ledger
    if name == "memory":
        ledger, account = await old_memory(size)
    else:
        make = old_sqlite(folder / f"{size}.db", size) if name == "sqlite" else old_postgres(postgres, size)
        source, account = await make
        ledger = ledger_from(source)
        await ledger.open(ENVIRONMENT)
    stack.push_async_callback(ledger.close)
    book = Book(ledger, account)
    await doubted(book)
    return Old(name, size, book, source)


async def _round(old: Sequence[Old], post: Work) -> dict[tuple[str, int], Cost]:
    """Every size once, and a bare POST after them."""
    costs: dict[tuple[str, int], Cost] = {}
    for each in old:
        costs |= await _slice(each)
    gc.collect()
    costs["bare", 0] = await cost_of(post(POSTS))
    return costs


async def _slice(old: Old) -> dict[tuple[str, int], Cost]:
    """Some steps of each verb, one after another: on the busy hold, and of old keys from all over the history."""
    costs = {}
    ledger, account = old.book.ledger, old.book.account
    now, steps = datetime.now(UTC), STEPS[old.name]
    wishes = [old.book.wish(BUSY, 1_000 + number) for number in range(steps)]
    keys = [f"old-{FIRST + randrange(old.size)}" for _ in range(steps)]
    entries = []
    gc.collect()
    await old.book.pair(BUSY)  # whose turn it was before must not matter
    await ledger.entry(account, keys[0])

    async def reserve(number: int) -> None:
        entries.append((await ledger.reserve(wishes[number])).entry)

    async def entry(number: int) -> None:
        assert await ledger.entry(account, keys[number]) is not None

    verbs: dict[str, Callable[[int], Awaitable[object]]] = {
        "reserve": reserve,
        "conclude": lambda number: old.book.end(entries[number]),
        "balance": lambda _: ledger.books(account, BUSY),
        "entry": entry,
        "in_doubt": lambda _: ledger.doubts(account, now, None, 100),
    }
    for verb, step in verbs.items():
        costs[verb, old.size] = await cost_of(_one_by_one(step, steps))
    if old.source is not None:
        costs["open", old.size] = await _opening(old.source)
    return costs


async def _opening(source: str) -> Cost:
    """What it takes to open a ledger some times; closing it does not count."""
    cost = Cost(0.0, 0.0, 0.0)
    for _ in range(OPENS):
        another = ledger_from(source)
        cost += await cost_of(another.open(ENVIRONMENT))
        await another.close()
    return cost


async def _one_by_one(step: Callable[[int], Awaitable[object]], steps: int) -> None:
    for number in range(steps):
        await step(number)


def _figures(name: str, sizes: Sequence[int], costs: Costs) -> list[Figure]:
    return [_figure(name, verb, sizes, costs) for verb in VERBS if (verb, sizes[0]) in costs]


def _figure(name: str, verb: str, sizes: Sequence[int], costs: Costs) -> Figure:
    """The exponent, round by round; and for the plot what one step costs, in bare POSTs."""
    of = _wall if name == "postgresql" else _cpu
    rounds = [[of(cost) for cost in costs[verb, size]] for size in sizes]
    spread = spread_of([exponent(sizes, each) for each in zip(*rounds, strict=True)])
    a_step = POSTS / (OPENS if verb == "open" else STEPS[name])
    bare = costs["bare", 0]
    prices = [a_step * ratio(costs[verb, size], bare, of).median for size in sizes]
    what = "time" if name == "postgresql" else "CPU"
    note = f"{what} of one: " + ", ".join(f"{price:.2f}" for price in prices) + " of a bare POST's"
    said = f"{name}, {verb}, {sizes[0]:,} to {sizes[-1]:,}"
    points = tuple(zip(map(float, sizes), prices, strict=True))
    target = TARGET if max(prices) >= WORTH else None
    return Figure("growth", said, spread, target, note=note, line=f"{name}, {verb}", points=points)


def plots(figures: Sequence[Figure]) -> dict[str, str]:
    """What each verb costs over the entries in the ledger; a figure for each ledger."""
    found: dict[str, list[Line]] = {}
    for figure in figures:
        ledger, _, verb = figure.line.partition(", ")
        found.setdefault(ledger, []).append(Line(verb, figure.points, COLOURS[VERBS.index(verb)]))
    labels = ("entries, and as many holds, in the ledger", "cost of one call, in bare POSTs")
    return {
        f"growth-{ledger}": chart(f"What a verb costs in an old ledger: {ledger}", labels, lines)
        for ledger, lines in found.items()
    }


def _cpu(cost: Cost) -> float:
    return cost.cpu


def _wall(cost: Cost) -> float:
    return cost.wall
