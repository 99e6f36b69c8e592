"""A disk with little room: `python -m tests.kills.disk FOLDER`, one child for each size, and what each said.

Every child gets a copy of one new ledger and tells the story to it, with `RLIMIT_FSIZE` or `PRAGMA max_page_count` set
so that another write fails each time; or it has to make its file with little room. It prints one JSON line a child.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path

from qfpay_preauth.errors import PreauthError
from qfpay_preauth.ledger.sqlite import SqliteLedger
from qfpay_preauth.testing._ledger_kit import Scene
from tests.client.child import say
from tests.kills.story import story, told

PAGE = 4_096
Work = Callable[[], Coroutine[None, None, list[str]]]


async def with_file_size(path: Path, limit: int, checkpoint: int) -> list[str]:
    """One chapter while no file may be written beyond `limit`; then all of it. A checkpoint after so many pages."""
    ledger = await _opened(path)
    _pragma(ledger, f"wal_autocheckpoint = {checkpoint}")
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    said = [await told(step) for step in story(Scene(ledger), 1)]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    said += [await told(step) for step in story(Scene(ledger))]
    await ledger.close()
    return said


async def with_pages(path: Path, more: int) -> list[str]:
    """One chapter while the file may have only so many pages more; then all of it."""
    ledger = await _opened(path)
    (used,) = _pragma(ledger, "page_count")
    _pragma(ledger, f"max_page_count = {used + more}")
    said = [await told(step) for step in story(Scene(ledger), 1)]
    _pragma(ledger, f"max_page_count = {used + 10_000}")
    said += [await told(step) for step in story(Scene(ledger))]
    await ledger.close()
    return said


async def making(path: Path, limit: int) -> list[str]:
    """Making a file that may not be longer than `limit`."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    ledger = SqliteLedger(path)
    try:
        await ledger.open("sandbox")
    except PreauthError as error:
        return [type(error).__name__]
    finally:
        await ledger.close()
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))  # what is said may go to a file
    return ["made"]


async def _opened(path: Path) -> SqliteLedger:
    ledger = SqliteLedger(path)
    await ledger.open("sandbox")
    return ledger


def _pragma(ledger: SqliteLedger, text: str) -> tuple[int]:
    assert ledger._writer is not None
    row: tuple[int] = ledger._writer._connection.execute(f"PRAGMA {text}").fetchone()
    return row


def in_child(name: str, work: Coroutine[None, None, list[str]]) -> None:
    """Fork, do the work there, and wait; says what became of it."""
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        try:
            said = asyncio.run(work)
        except BaseException as error:
            said = [f"UNEXPLAINED {error!r}"]
        say(json.dumps({"name": name, "said": said}))
        os._exit(0)
    work.close()
    os.waitpid(pid, 0)


def main(folder: Path) -> None:
    """One child for each kind of trouble and each size."""
    new = folder / "new.db"
    in_child("new", making(new, 2**40))
    for number, limit in enumerate(range(0, 190 * PAGE, 4 * PAGE + 321)):
        name = f"size-{limit}"
        shutil.copy(new, folder / f"{name}.db")
        in_child(name, with_file_size(folder / f"{name}.db", limit, (1_000, 8)[number % 2]))
    for more in range(16):
        shutil.copy(new, folder / f"pages-{more}.db")
        in_child(f"pages-{more}", with_pages(folder / f"pages-{more}.db", more))
    for limit in range(0, 45 * PAGE, 5 * PAGE):
        in_child(f"making-{limit}", making(folder / f"making-{limit}.db", limit))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
