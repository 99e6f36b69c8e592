"""A disk that is full or fails, at every write: what was answered is there, and of what failed there is nothing."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from qfpay_preauth.ledger.memory import MemoryLedger
from qfpay_preauth.ledger.sqlite import SqliteLedger
from qfpay_preauth.testing._ledger_kit import Scene
from tests.kills import audit
from tests.kills.story import CHAPTERS, UNAVAILABLE, known, story, told
from tests.ledger.kit import dump
from tests.nursery import ROOT

FIRST = [name for name, _ in story(Scene(MemoryLedger()), 1)]


async def remembered(said: Sequence[str], chapters: Sequence[int]) -> MemoryLedger:
    """A ledger in memory that was told the same steps, less those that failed; each must answer alike."""
    ledger = MemoryLedger()
    await ledger.open("sandbox")
    steps = [step for count in chapters for step in story(Scene(ledger), count)]
    for step, answer in zip(steps, said, strict=False):
        if answer != UNAVAILABLE:
            assert await told(step) == answer
    return ledger


async def check(path: Path, said: Sequence[str], chapters: Sequence[int]) -> None:
    """The file is sound, and holds what was answered and nothing else."""
    assert audit.read(path).damage == []
    ledger = SqliteLedger(path)
    await ledger.open("sandbox")
    assert await known(ledger) == await known(await remembered(said, chapters))
    await ledger.close()


def test_little_room(tmp_path: Path) -> None:
    """RLIMIT_FSIZE and max_page_count at many sizes: every writing verb fails somewhere, whole, and works later."""
    command = [sys.executable, "-W", "error", "-m", "tests.kills.disk", str(tmp_path)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (process.returncode, process.stderr) == (0, "")
    lines: list[dict[str, Any]] = [json.loads(line) for line in process.stdout.splitlines()]
    failed = set()
    for line in lines:
        said, name = line["said"], line["name"]
        if name.startswith(("size", "pages")):
            failed |= {step for step, answer in zip(FIRST, said, strict=False) if answer == UNAVAILABLE}
            assert UNAVAILABLE not in said[len(FIRST) :], name
            asyncio.run(check(tmp_path / f"{name}.db", said, (1, CHAPTERS)))
    assert failed >= {name for name in FIRST if not name.startswith(("sweep", "report"))}
    made = {line["name"]: line["said"] for line in lines if line["name"].startswith("making")}
    assert {said for (said,) in made.values()} == {"made", UNAVAILABLE}
    for name, (said,) in made.items():
        assert (tmp_path / f"{name}.db").exists() is (said == "made")
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []


class Broken:
    """A connection whose statements fail from the `left`th on, as often as told."""

    def __init__(self, connection: sqlite3.Connection, left: int, times: int) -> None:
        self._connection = connection
        self._left = left
        self._times = times
        self.failed: list[str] = []

    def execute(self, text: str, *values: Any) -> sqlite3.Cursor:
        """Run a statement, or fail as a disk does."""
        self._left -= 1
        if self._left < 0 and self._times and text != "ROLLBACK":
            self._times -= 1
            self.failed.append(text)
            raise sqlite3.OperationalError("disk I/O error")
        return self._connection.execute(text, *values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


@pytest.mark.parametrize("step", range(len(FIRST)), ids=FIRST)
async def test_an_error_at_each_statement(tmp_path: Path, step: int) -> None:
    """Whichever statement of a verb fails, the COMMIT too: nothing of it is written, and asked again it works."""
    ledger = SqliteLedger(tmp_path / "ledger.db")
    await ledger.open("sandbox")
    steps = list(story(Scene(ledger), 1))
    for each in steps[:step]:
        assert await told(each) == each[0]
    before = dump(ledger.path)
    for left in range(100):
        broken = _break(ledger, left)
        answer = await told(steps[step])
        _mend(ledger)
        if not broken.failed:
            assert answer == steps[step][0]
            break
        assert (answer, dump(ledger.path)) == (UNAVAILABLE, before), broken.failed
    assert left > 1
    await ledger.close()
    await check(ledger.path, FIRST[: step + 1], (1,))


def _break(ledger: SqliteLedger, left: int) -> Broken:
    """The job's statements go through a connection that fails once more when the job is run again alone."""
    assert ledger._writer is not None
    broken = Broken(ledger._writer._connection, left, 1)
    ledger._writer._connection = broken  # type: ignore[assignment]
    ledger._writer._tx._run = broken.execute
    return broken


def _mend(ledger: SqliteLedger) -> None:
    assert ledger._writer is not None
    broken: Any = ledger._writer._connection
    ledger._writer._connection = broken._connection
    ledger._writer._tx._run = broken._connection.execute
