"""Many seeds one after the other, and what they came to."""

from __future__ import annotations

import gc
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from unittest import mock

from qfpay_preauth import _json, _wire
from tests.simulation.mutants import focus_of, planted
from tests.simulation.world import World, run_seed

_COLLECT_EVERY = 100


@dataclass
class Total:
    """Sums over seeds."""

    seeds: int = 0
    violations: dict[int, list[str]] = field(default_factory=dict)
    hits: Counter[str] = field(default_factory=Counter)
    virtual_s: float = 0.0
    steps: int = 0
    requests: int = 0
    entries: int = 0
    executions: int = 0

    def merge(self, other: Total) -> None:
        """Add another's sums."""
        self.seeds += other.seeds
        self.violations.update(other.violations)
        self.hits.update(other.hits)
        self.virtual_s += other.virtual_s
        self.steps += other.steps
        self.requests += other.requests
        self.entries += other.entries
        self.executions += other.executions

    def add(self, seed: int, world: World) -> None:
        """Count one run."""
        self.seeds += 1
        if world.violations:
            self.violations[seed] = world.violations
        self.hits.update(world.hits)
        self.virtual_s += world.loop.virtual
        self.steps += world.loop.steps
        for auditor in (site.auditor for site in world.sites):
            self.requests += sum(len(sent) for sent in auditor.sent.values())
            self.entries += len(auditor.entries)
            self.executions += sum(moved.hold_syssn in auditor.holds for moved in auditor.gateway.values())


_printable = lru_cache(maxsize=4096)(_json._printable)
_masked = lru_cache(maxsize=4096)(_json.masked)
_time_of = lru_cache(maxsize=4096)(_wire.read_time)


def _read_time(value: object) -> datetime | None:
    return _time_of(value if isinstance(value, str) else None)


@contextmanager
def undisturbed() -> Iterator[None]:
    """No log lines, and no collector in the middle of a run: it would cost a third, and its moment is not drawn.

    The pure functions that clean texts and read times, half of a run's time, remember what they returned.
    """
    log = logging.getLogger("qfpay_preauth")
    level, were = log.level, gc.isenabled()
    log.setLevel(logging.CRITICAL + 1)
    gc.disable()
    try:
        with (
            mock.patch.multiple(_json, _printable=_printable, masked=_masked),
            mock.patch.multiple(_wire, masked=_masked, read_time=_read_time),
        ):
            yield
    finally:
        log.setLevel(level)
        if were:
            gc.enable()


def run_many(start: int, seeds: int, *, stop_after: int = 10, focus: frozenset[str] = frozenset()) -> Total:
    """Run `seeds` seeds from `start` on; ends early after `stop_after` violating ones."""
    total = Total()
    with undisturbed():
        for seed in range(start, start + seeds):
            total.add(seed, run_seed(seed, focus=focus))
            if seed % _COLLECT_EVERY == 0:
                gc.collect()
            if len(total.violations) >= stop_after:
                break
    return total


def catch(name: str, seeds: int, start: int = 0) -> tuple[int, str] | None:
    """The first seed on which a wrong client is caught and the right one is not, and how; None: it got away."""
    with undisturbed():
        for seed in range(start, start + seeds):
            with planted(name):
                wrong = run_seed(seed, focus=focus_of(name)).violations
            if wrong and not run_seed(seed, focus=focus_of(name)).violations:
                return seed, wrong[0]
    return None
