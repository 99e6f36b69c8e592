"""`python -m tests.fuzz --seconds 60 [--target judge|rows|notices|retry_after] [--seed N]`; 1 if something fails."""

from __future__ import annotations

import argparse
import sys
from base64 import urlsafe_b64decode

from tests.client.child import say
from tests.fuzz.engine import Report, fuzz, tried
from tests.fuzz.targets import TARGETS


def main(words: list[str] | None = None) -> int:
    """Fuzz each target for an equal share of the time, or try one input again."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="for all targets together (60)")
    parser.add_argument("--target", choices=sorted(TARGETS), help="only this one")
    parser.add_argument("--seed", type=int, default=1, help="of the mutations (1)")
    parser.add_argument("--replay", help="one input, as a failing run printed it (needs --target)")
    given = parser.parse_args(words)
    names = [given.target] if given.target else sorted(TARGETS)
    if given.replay is not None:
        if given.target is None:
            parser.error("--replay needs --target")
        kind, problem = tried(TARGETS[given.target](), urlsafe_b64decode(given.replay))
        say(problem or f"all is well: {kind}")
        return 1 if problem else 0
    reports: list[Report] = []
    for name in names:
        reports.append(fuzz(TARGETS[name](), given.seconds / len(names), given.seed))
        say(str(reports[-1]))
    return 1 if any(report.problem for report in reports) else 0


if __name__ == "__main__":
    sys.exit(main())
