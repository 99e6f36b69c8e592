"""`python -m tests.kills --kills 300 [--workers 4] [--seed N]`: processes killed on one file; 1 on a violation."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from tests.client.child import say
from tests.kills.harness import run


def main() -> int:
    """Run, print a line a round and the summary, and say by the exit code whether every rule held."""
    parser = argparse.ArgumentParser(prog="python -m tests.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=300, help="how many processes to kill (300)")
    parser.add_argument("--workers", type=int, default=4, help="processes on one file at a time (4)")
    parser.add_argument("--seed", type=int, default=1, help="of the first round; the next ones count on from it (1)")
    given = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        summary = asyncio.run(run(Path(folder), given.kills, given.workers, given.seed, say, pauses=True))
    for each in summary.violations:
        say(f"VIOLATION {each}")
    say(f"{summary} ({time.monotonic() - began:.0f} s)")
    return 1 if summary.violations else 0


if __name__ == "__main__":
    sys.exit(main())
