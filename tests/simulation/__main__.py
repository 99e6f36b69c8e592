"""`python -m tests.simulation --seeds 20000 [--start N]`, `--seed N`, `--mutant NAME`, `--list`."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.simulation.batch import run_many, undisturbed
from tests.simulation.kinds import ALL_KINDS
from tests.simulation.mutants import focus_of, names, planted
from tests.simulation.world import run_seed


def main(argv: list[str] | None = None) -> int:
    """Run what the command line asks; 0 if nothing was violated and every kind of fault had hits."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--seed", type=int, help="replay one seed and print its history")
    parser.add_argument("--mutant", choices=names(), help="plant a wrong client")
    parser.add_argument("--keep-going", action="store_true", help="do not stop after ten violating seeds")
    given = parser.parse_args(argv)
    with planted(given.mutant):
        if given.seed is not None:
            return _replay(given.seed, focus_of(given.mutant))
        return _many(
            given.start, given.seeds, stop_after=1_000_000 if given.keep_going else 10, focus=focus_of(given.mutant)
        )


def _replay(seed: int, focus: frozenset[str]) -> int:
    with undisturbed():
        world = run_seed(seed, verbose=True, focus=focus)
    out = sys.stdout.write
    scenario = world.scenario
    out(f"seed {seed}: on {', '.join(sorted(scenario.on)) or 'nothing'}\n")
    out(f"start {scenario.start.isoformat()}, config {scenario.config}\nsettings {scenario.settings}\n")
    out("\n".join(world.log or ()) + "\n")
    for violation in world.violations:
        out(f"seed {seed}: {violation}\n")
    out(f"history {world.history_hash}, {len(world.violations)} violations\n")
    return 1 if world.violations else 0


def _many(start: int, seeds: int, stop_after: int, focus: frozenset[str]) -> int:
    out = sys.stdout.write
    began = time.perf_counter()
    total = run_many(start, seeds, stop_after=stop_after, focus=focus)
    took = time.perf_counter() - began
    for seed, violations in total.violations.items():
        for violation in violations[:3]:
            out(f"seed {seed}: {violation}\n")
    out(f"{total.seeds} seeds in {took:.1f} s: {total.seeds / took:.0f} seeds per second\n")
    out(f"{total.virtual_s / 86_400:.1f} virtual days, {total.steps} steps, {total.requests} requests, ")
    out(f"{total.entries} entries, {total.executions} executions\n")
    _print_hits(total.hits)
    missing = [kind for kind in ALL_KINDS if not total.hits[kind]]
    if missing:
        out(f"kinds without a hit: {', '.join(missing)}\n")
    invariants = Counter(text.partition(":")[0] for each in total.violations.values() for text in each)
    out(f"violating seeds: {len(total.violations)} {dict(invariants) or ''}\n")
    return 1 if total.violations or missing else 0


def _print_hits(hits: Counter[str]) -> None:
    cells = [f"{kind} {hits[kind]}" for kind in ALL_KINDS]
    for low in range(0, len(cells), 6):
        sys.stdout.write("  " + ", ".join(cells[low : low + 6]) + "\n")


if __name__ == "__main__":
    sys.exit(main())
