"""The simulation in the suite: some hundred seeds (`.ci/run` runs thousands of others); one seed is one run."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from tests.simulation.batch import Total, run_many, undisturbed
from tests.simulation.kinds import ALL_KINDS
from tests.simulation.world import run_seed

pytestmark = pytest.mark.xdist_group("simulation")  # one process makes the seeds' worlds, once for all tests here
SEEDS = 300
_CHUNK = 75
_ROOT = Path(__file__).parents[2]
_HASH = """
import sys
from tests.simulation.world import run_seed
print(run_seed(int(sys.argv[1]), verbose=True).history_hash)
"""


@pytest.fixture(scope="module")
def total() -> Total:
    """All seeds of the suite, once, on all cores: each run is its own world."""
    total = Total()
    starts = range(0, SEEDS, _CHUNK)
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        for part in pool.map(run_many, starts, [_CHUNK] * len(starts)):
            total.merge(part)
    return total


def test_no_seed_violates_an_invariant(total: Total) -> None:
    """The auditor finds nothing in any run (`python -m tests.simulation --seed N` shows the history of one)."""
    assert total.violations == {}
    assert total.seeds == SEEDS


def test_every_kind_of_trouble_struck(total: Total) -> None:
    """A kind that never hits anything would prove nothing."""
    assert [kind for kind in ALL_KINDS if not total.hits[kind]] == []


def test_money_moved(total: Total) -> None:
    """The runs are about something: entries, executions, whole days of virtual time."""
    assert total.entries > SEEDS
    assert total.executions > SEEDS
    assert total.virtual_s > 86_400


@pytest.mark.parametrize("seed", [3, 12, 40])
def test_the_same_seed_is_the_same_run(seed: int) -> None:
    """One seed, one history: again in this process, and with an audience (a history) or without."""
    with undisturbed():
        first, second, silent = run_seed(seed, verbose=True), run_seed(seed, verbose=True), run_seed(seed)
    assert first.log == second.log
    assert first.loop.steps == silent.loop.steps
    assert first.hits == silent.hits


def test_the_same_seed_is_the_same_run_elsewhere() -> None:
    """One seed, one history, whatever the order of sets of text is in a process."""
    found = {_hash_elsewhere(seed_of_hashes) for seed_of_hashes in ("1", "2")}
    with undisturbed():
        assert found == {run_seed(12, verbose=True).history_hash}


def _hash_elsewhere(hash_seed: str) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(_ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", _HASH, "12"], cwd=_ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
