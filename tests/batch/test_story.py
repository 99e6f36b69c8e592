"""From outside: the command is killed at random and run to its end, once and by two processes at a time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.batch.story import Plan, play

ROWS = int(os.environ.get("QFPAY_TEST_BATCH_ROWS", "300"))


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
@pytest.mark.parametrize("processes", [1, 2])
async def test_killed_three_times_and_run_to_the_end(tmp_path: Path, processes: int) -> None:
    """Lost answers, 429s, malformed lines, three kills: the results are the gateway's books, row by row."""
    rows = ROWS // processes
    told = await play(Plan(rows, 3, seed=processes, processes=processes), tmp_path)
    assert told.wrong == []
    assert told.kills >= 3
    assert told.hits > 5
    assert told.outcomes["invalid"] >= 4
    assert told.outcomes["executed"] + told.outcomes["replayed"] > 0.8 * rows
