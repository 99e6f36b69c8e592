"""`python -m tests.postgres [--processes 16] [--holds 1000] [--seed 1] [--trouble none|backends|restart|cancel|all]`:
the long run of the load test. Exit code 0 where nothing is wrong."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from .load import Outcome, run, stop_and_start, terminate_backends
from .server import server

TROUBLES = {
    "none": ((), 0.0),
    "backends": ((terminate_backends,), 0.0),
    "restart": ((stop_and_start,), 0.0),
    "cancel": ((), 0.3),
    "all": ((terminate_backends, stop_and_start), 0.2),
}


def _report(outcome: Outcome, seconds: float) -> None:
    sys.stdout.write(
        f"{dict(outcome.said)}\n{outcome.executed} executed, {outcome.in_doubt} left in doubt, "
        f"{outcome.lost} answers lost, {len(outcome.wrong)} wrong, {seconds:.0f} s\n"
    )
    for each in outcome.wrong[:20]:
        sys.stdout.write(f"WRONG: {each}\n")


def main() -> int:
    """One run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=16)
    parser.add_argument("--holds", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--trouble", choices=TROUBLES, default="none")
    given = parser.parse_args()
    troubles, cancelled = TROUBLES[given.trouble]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, server(Path(folder) / "postgres") as found:
        outcome = asyncio.run(
            run(
                found,
                Path(folder),
                processes=given.processes,
                holds=given.holds,
                seed=given.seed,
                troubles=troubles,
                cancelled=cancelled,
            )
        )
    _report(outcome, time.monotonic() - began)
    return 1 if outcome.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
