"""Every wrong client is caught by the auditor, on a seed on which the right one is not."""

from __future__ import annotations

import pytest

from tests.simulation.batch import catch
from tests.simulation.mutants import names

SEEDS = 800


@pytest.mark.parametrize("name", names())
def test_every_mutant_is_caught(name: str) -> None:
    """The auditor sees what this wrong client does within a bounded number of seeds."""
    assert catch(name, SEEDS) is not None


def test_there_are_enough_mutants() -> None:
    """A machine that has little to catch shows little."""
    assert len(names()) >= 25
