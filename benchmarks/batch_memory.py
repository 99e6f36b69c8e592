"""`python -m benchmarks.batch_memory`: what a batch adds, in memory and in CPU.

Memory: the resident size of the process, sampled while rows go through `capture_many` on a SQLite ledger, between row
10,000 and the end. CPU: of `capture_many` against plain workers that call `capture()` on the same rows, in alternating
slices; both register each row's hold, and each row has a hold of its own (where rows share holds the batch is the
cheaper way: it does not let them queue). The stub gateway runs in another process.

    python -m benchmarks.batch_memory                    # 1,000,000 rows
    python -m benchmarks.batch_memory --rows 200000      # a few minutes; memory does not depend on how many

Exit code 1 where a bound is broken: 10 MiB, and 5% CPU per row.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qfpay_preauth import BatchRow, Credentials, PreauthClient, RowOutcome, Settings

WORKERS = 16
PER_HOLD = 4
WARM_ROWS = 10_000
GROWTH_MAX_MIB = 10.0
CPU_MAX = 0.05
SLICE_ROWS = 2_000
SLICES = 12


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    with stub() as url, tempfile.TemporaryDirectory() as folder:
        growth = asyncio.run(_memory(url, Path(folder), rows))
    with stub() as url, tempfile.TemporaryDirectory() as folder:
        more = asyncio.run(_cpu(url, Path(folder)))
    _say(f"memory from row {WARM_ROWS:,} to row {rows:,}: {growth:+.1f} MiB (at most {GROWTH_MAX_MIB:g})")
    _say(f"CPU per row over plain workers: {more:+.1%} (at most {CPU_MAX:.0%}), median of {SLICES} pairs of slices")
    return 0 if growth <= GROWTH_MAX_MIB and more < CPU_MAX else 1


@contextmanager
def stub() -> Iterator[str]:
    """The URL of a stub gateway that runs as long as this."""
    with subprocess.Popen([sys.executable, "-m", "benchmarks.stub"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


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


def client_of(url: str, folder: Path) -> PreauthClient:
    """A client whose budget is no bound; all else as it is by default."""
    settings = Settings(requests_per_second=20_000, requests_per_minute=40_000)
    ledger = f"sqlite:///{folder / 'ledger.db'}"
    return PreauthClient(Credentials("APP", "KEY"), base_url=url, ledger=ledger, settings=settings)


# ------------------------------------------------------------------------------------------------ memory


async def _memory(url: str, folder: Path, count: int) -> float:
    """MiB by which the resident size grows after the first 10,000 rows."""
    warm = peak = 0.0
    began, done = time.monotonic(), 0
    async with client_of(url, folder) as client:
        async for outcome in client.capture_many(rows_of("memory", count, PER_HOLD), concurrency=WORKERS):
            assert outcome.outcome is RowOutcome.EXECUTED, outcome
            done += 1
            if done == WARM_ROWS:
                gc.collect()
                warm = peak = _resident_mib()
            elif done % 1_000 == 0:
                peak = max(peak, _resident_mib())
            if done % 100_000 == 0 or done == WARM_ROWS:
                rate = done / (time.monotonic() - began)
                _say(f"{done:>9,} rows, {rate:,.0f} a second, resident {_resident_mib():.1f} MiB")
    return peak - warm


def _resident_mib() -> float:
    with Path("/proc/self/statm").open(encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


# ------------------------------------------------------------------------------------------------ CPU


async def _cpu(url: str, folder: Path) -> float:
    """By which part a row through the batch costs more CPU than one through plain workers."""
    ratios = []
    async with client_of(url, folder) as client:
        await _batch(client, "warm-b", SLICE_ROWS)
        await _plain(client, "warm-p", SLICE_ROWS)
        for number in range(SLICES):
            pair = [_batch, _plain]
            costs = {}
            for way in pair if number % 2 else reversed(pair):
                costs[way] = await way(client, f"{way.__name__[1]}{number:03}-", SLICE_ROWS)
            ratios.append(costs[_batch] / costs[_plain])
    return statistics.median(ratios) - 1


async def _batch(client: PreauthClient, name: str, count: int) -> float:
    """CPU seconds of `count` rows through `capture_many`."""
    began = time.process_time()
    async for outcome in client.capture_many(rows_of(name, count, 1), concurrency=WORKERS):
        assert outcome.outcome is RowOutcome.EXECUTED, outcome
    return time.process_time() - began


async def _plain(client: PreauthClient, name: str, count: int) -> float:
    """CPU seconds of the same through workers that call `capture()`."""
    began = time.process_time()
    rows = rows_of(name, count, 1)

    async def work() -> None:
        for row in rows:
            assert row.authorized_amount is not None
            assert row.currency is not None
            assert row.out_trade_no is not None
            assert row.amount is not None
            await client.register_authorization(
                row.syssn, row.authorized_amount, row.currency, out_trade_no=row.out_trade_no
            )
            await client.capture(row.syssn, row.amount, idempotency_key=row.idempotency_key)

    await asyncio.gather(*(work() for _ in range(WORKERS)))
    return time.process_time() - began


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
