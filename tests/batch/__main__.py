"""`python -m tests.batch`: the long story: 3,000 rows, killed three times, from outside.

    python -m tests.batch --rows 3000 --kills 3 --seed 1 --processes 2 --per-second 95 --per-minute 390

The budget is opened by default so that it takes a minute or two; with the last two options it is QFPay's own, and the
arrival times are compared with both windows.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from tests.batch.story import Plan, play


def main() -> int:
    """Play, and say how it went; 1 where something does not agree."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=3_000)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--per-second", type=int, default=400)
    parser.add_argument("--per-minute", type=int, default=20_000)
    given = parser.parse_args()
    plan = Plan(
        given.rows,
        given.kills,
        given.seed,
        given.processes,
        per_second=given.per_second,
        per_minute=given.per_minute,
    )
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        told = asyncio.run(play(plan, Path(folder)))
    sys.stdout.write(
        f"{plan}\n{told.runs} runs, {told.kills} killed, {told.hits} faults, {time.monotonic() - began:.0f} s\n"
        f"{dict(told.outcomes)}\n"
    )
    for each in told.wrong[:50]:
        sys.stdout.write(f"WRONG: {each}\n")
    sys.stdout.write(f"{len(told.wrong)} disagreements between the results and the gateway's books\n")
    return 1 if told.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
