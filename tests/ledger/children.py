"""What runs in other processes: `python -m tests.ledger.children VERB ARGUMENTS`. Each waits for one line first."""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Coroutine

from qfpay_preauth._models import Judgement
from qfpay_preauth.errors import LedgerUnavailableError, PreauthError
from qfpay_preauth.ledger.sqlite import SqliteLedger
from qfpay_preauth.testing._ledger_kit import Scene


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _ready() -> None:
    _say("ready")
    sys.stdin.readline()


async def make(path: str, name: str) -> None:
    """Open a file that may be missing, and register one hold of one's own."""
    ledger = SqliteLedger(path)
    _ready()
    await ledger.open("sandbox")
    await Scene(ledger).hold(syssn=name)
    await ledger.close()


async def work(path: str, name: str, seed: str) -> None:
    """Capture and conclude on shared holds, own keys and shared keys, and say what was executed."""
    dice = random.Random(int(seed))
    ledger = SqliteLedger(path)
    await ledger.open("sandbox")
    s = Scene(ledger)
    _ready()
    said: Counter[str] = Counter()
    ran: list[str] = []

    async def one(number: int) -> None:
        shared = dice.random() < 0.4
        key, amount = (f"shared-{number}", 100 + number) if shared else (f"{name}-{number}", dice.randrange(50, 250))
        end = dice.choice((Judgement.EXECUTED, Judgement.EXECUTED, Judgement.DECLINED, Judgement.NOT_SENT))
        hold = f"HOLD-{number % 4}"
        try:
            reserved = await s.capture(key, amount, syssn=hold)
        except PreauthError as error:
            said[type(error).__name__] += 1
            return
        said["fresh" if reserved.fresh else "replay"] += 1
        if reserved.fresh:
            result = f"CAP-{name}-{number}" if end is Judgement.EXECUTED else None
            await s.end(reserved.entry, end, result, rerunnable=end is Judgement.NOT_SENT)
            ran.extend([key] if end is Judgement.EXECUTED else [])

    for start in range(0, 120, 8):
        await asyncio.gather(*map(one, range(start, start + 8)))
    await ledger.close()
    _say(json.dumps({"ran": ran, "said": said}))


async def fill(path: str, limit: str) -> None:
    """Reserve until the file may not grow any more, then say what went wrong and what can still be read."""
    ledger = SqliteLedger(path)
    await ledger.open("sandbox")
    s = Scene(ledger)
    await s.hold(10_000_000)
    _ready()
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    kept, problem = 0, ""
    try:
        for number in range(10_000):
            await s.capture(f"k{number}", 100 + number)
            kept += 1
    except LedgerUnavailableError as error:
        problem = error.outcome.value
    books = await ledger.books(s.account, "HOLD-1")
    assert books is not None
    unresolved = len(books.unresolved)
    _say(
        json.dumps({"kept": kept, "problem": problem, "unresolved": unresolved, "claimed": books.authorization.claimed})
    )
    await ledger.close()


def fork(path: str) -> None:
    """Use a ledger in a forked child; exits 0 if the child was refused and the parent is unharmed."""
    ledger = SqliteLedger(path)
    asyncio.run(ledger.open("sandbox"))
    s = Scene(ledger)
    asyncio.run(s.hold())
    _ready()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads: that is the point here
        pid = os.fork()
    if pid == 0:
        os._exit(_forked(s))
    _, status = os.waitpid(pid, 0)
    fresh = asyncio.run(s.capture("parent")).fresh
    asyncio.run(ledger.close())
    _say(json.dumps({"child": os.waitstatus_to_exitcode(status), "parent": fresh}))


def _forked(s: Scene) -> int:
    try:
        asyncio.run(s.capture("child"))
    except LedgerUnavailableError as error:
        return 0 if "forked" in str(error) else 2
    return 3


async def hold_and_die(path: str) -> None:
    """Reserve, say so, and end without closing anything."""
    ledger = SqliteLedger(path)
    await ledger.open("sandbox")
    s = Scene(ledger)
    await s.hold()
    await s.capture("k1", 300)
    _ready()
    os._exit(0)


VERBS: dict[str, Callable[..., Coroutine[None, None, None]]] = {
    "make": make,
    "work": work,
    "fill": fill,
    "die": hold_and_die,
}

if __name__ == "__main__":
    verb, *arguments = sys.argv[1:]
    if verb == "fork":
        fork(*arguments)
    else:
        asyncio.run(VERBS[verb](*arguments))
