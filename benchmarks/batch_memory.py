"""e) What a batch adds, in memory and in CPU.

Memory: the resident size of the process, sampled while rows go through `capture_many` on a SQLite ledger, from row
10,000 on. CPU: of `capture_many` against plain workers that call `capture()` on the same rows, in alternating slices;
both register each row's hold, and each row has a hold of its own (where rows share holds the batch is the cheaper way:
it does not let them queue).

    python -m benchmarks.batch_memory                    # 1,000,000 rows
    python -m benchmarks.batch_memory --rows 200000      # a few minutes; memory does not depend on how many

Exit code 1 where a bound is broken: 10 MiB, and 5% CPU per row.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import _report
from benchmarks._measure import ROUNDS, Figure, Plan, Spread, alternate, ratio, spread_of
from benchmarks._scene import client, run_on, stub
from qfpay_preauth import BatchRow, PreauthClient, RowOutcome

TITLE = "What a batch adds to the captures in it"
WORKERS = 16
PER_HOLD = 4
WARM_ROWS = 10_000
ROWS = 20_000
GROWTH_MAX_MIB = 10.0
CPU_MAX = 1.05
SLICE_ROWS = 320
SAY_EVERY = 100_000
_names = itertools.count()


def run(plan: Plan) -> list[Figure]:
    """Few rows, in the whole run; a short one looks at CPU only."""
    memory = [] if plan.short else [_memory_figure(ROWS)]
    return [*memory, _cpu_figure(plan.rounds)]


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    given = parser.parse_args(arguments)
    if given.rows <= WARM_ROWS:
        parser.error(f"--rows must be more than {WARM_ROWS:,}: what comes before them is not counted")
    figures = [_memory_figure(given.rows), _cpu_figure(ROUNDS)]
    print(_report.table(TITLE, figures, {}))
    return 1 if any(figure.excess for figure in figures) else 0


def rows_of(name: str, count: int, per_hold: int) -> Iterator[BatchRow]:
    """Captures, so many to a hold, each registering its hold."""
    for number in range(count):
        hold, part = divmod(number, per_hold)
        yield BatchRow(
            f"{name}-{number}",
            f"20261122{name}{hold:09}",
            1_000 + part,
            currency="HKD",
            out_trade_no=f"ORDER-{hold}",
            authorized_amount=50_000,
        )


# ------------------------------------------------------------------------------------------------ memory


def _memory_figure(rows: int) -> Figure:
    with stub() as url, tempfile.TemporaryDirectory() as folder:
        growth = asyncio.run(_memory(url, Path(folder), rows))
    what = f"MiB that the process grows, row {WARM_ROWS:,} to {rows:,}"
    return Figure("batch_memory", what, spread_of([growth]), GROWTH_MAX_MIB)


async def _memory(url: str, folder: Path, count: int) -> float:
    """MiB by which the resident size grows after the first 10,000 rows."""
    warm = peak = 0.0
    began, done = time.monotonic(), 0
    async with client(url, _ledger(folder)) as merchant:
        async for outcome in merchant.capture_many(rows_of("memory", count, PER_HOLD), concurrency=WORKERS):
            assert outcome.outcome is RowOutcome.EXECUTED, outcome
            done += 1
            if done == WARM_ROWS:
                gc.collect()
                warm = peak = _resident_mib()
            elif done % 1_000 == 0:
                peak = max(peak, _resident_mib())
            if done % SAY_EVERY == 0:
                rate = done / (time.monotonic() - began)
                print(f"{done:>9,} rows, {rate:,.0f} a second, resident {_resident_mib():.1f} MiB", flush=True)
    return peak - warm


def _resident_mib() -> float:
    with Path("/proc/self/statm").open(encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _ledger(folder: Path) -> str:
    return f"sqlite:///{folder / 'ledger.db'}"


# ------------------------------------------------------------------------------------------------ CPU


def _cpu_figure(rounds: int) -> Figure:
    with stub() as url, tempfile.TemporaryDirectory() as folder:
        spread = run_on("asyncio", _cpu(url, Path(folder), rounds))
    return Figure("batch_memory", "CPU of a row ÷ that of one through plain workers", spread, CPU_MAX)


async def _cpu(url: str, folder: Path, rounds: int) -> Spread:
    async with client(url, _ledger(folder)) as merchant:
        works = {"batch": lambda count: _batch(merchant, count), "plain": lambda count: _plain(merchant, count)}
        costs = await alternate(works, SLICE_ROWS, rounds)
    return ratio(costs["batch"], costs["plain"], lambda cost: cost.cpu)


async def _batch(merchant: PreauthClient, count: int) -> None:
    """So many rows through `capture_many`."""
    async for outcome in merchant.capture_many(rows_of(f"b{next(_names)}-", count, 1), concurrency=WORKERS):
        assert outcome.outcome is RowOutcome.EXECUTED, outcome


async def _plain(merchant: PreauthClient, count: int) -> None:
    """The same through workers that call `capture()`."""
    rows = rows_of(f"p{next(_names)}-", count, 1)

    async def work() -> None:
        for row in rows:
            assert row.authorized_amount is not None
            assert row.currency is not None
            assert row.out_trade_no is not None
            assert row.amount is not None
            await merchant.register_authorization(
                row.syssn, row.authorized_amount, row.currency, out_trade_no=row.out_trade_no
            )
            await merchant.capture(row.syssn, row.amount, idempotency_key=row.idempotency_key)

    await asyncio.gather(*(work() for _ in range(WORKERS)))


if __name__ == "__main__":
    sys.exit(main())
