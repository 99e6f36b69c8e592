"""A day's file, run by the installed command against a gateway that spoils it, killed at random, and run to its end.

Then the gateway's books against the results file, row by row, and the arrival times against both rate windows.
"""

from __future__ import annotations

import asyncio
import random
from asyncio.subprocess import DEVNULL, PIPE
from collections import Counter
from pathlib import Path

from attrs import define, field, frozen

from qfpay_preauth import BatchRow, Operation
from qfpay_preauth.testing import Faults, Gateway
from tests.batch.kit import WIDE, captures, checked_against, results_of
from tests.cli.kit import COMMAND, environment
from tests.client.kit import until

ROOT = Path(__file__).parents[2]
FAULTS = (
    "drop_before",
    "drop_after",
    "reset_after",
    "status_after",
    "cut",
    "garbled",
    "pending",
    "rate_limited",
    "late",
)
PER_HOLD = 5
HELD_S = {"QFPAY_DEADLINE_S": "1", "QFPAY_TIMEOUT_TOTAL_S": "0.5", "QFPAY_PATIENCE_S": "0.2"}
"""A killed run leaves its rows held for so long; longer only makes the story longer."""
_WAYS_TO_END = {0, 3, 4}


@frozen
class Plan:
    """What is to be played; `per_second` and `per_minute` are the budget of each account."""

    rows: int
    kills: int
    seed: int
    processes: int = 1
    fault_rate: float = 0.05
    per_second: int = 400
    per_minute: int = 20_000


@define
class Told:
    """How it went."""

    outcomes: Counter[str] = field(factory=Counter)
    kills: int = 0
    runs: int = 0
    hits: int = 0
    wrong: list[str] = field(factory=list)


async def play(plan: Plan, folder: Path) -> Told:
    """The whole story; `wrong` says what did not agree."""
    told, dice = Told(), random.Random(plan.seed)
    async with Gateway() as gateway:
        env = _variables(gateway, folder, plan)
        rows, bad = write_file(gateway, folder / "rows.csv", plan, dice)
        gateway.faults = Faults.random(plan.seed, plan.fault_rate, FAULTS, seconds=0.05)
        for _ in range(plan.kills):
            await _run_and_kill(gateway, folder, env, plan, dice, told)
        await _run_to_the_end(folder, env, plan, told)
        told.hits = gateway.faults.hits.total()
        gateway.faults = Faults()
        gateway.run_late()
        gateway.settle_pending()
        await _run_to_the_end(folder, env, plan, told)
        for number in range(plan.processes):
            told.wrong += _checked(gateway, folder / f"results-{number}.csv", rows, bad)
        told.outcomes = Counter(line["outcome"] for line in results_of(folder / "results-0.csv"))
        told.wrong += _too_fast(gateway, plan)
    return told


def _variables(gateway: Gateway, folder: Path, plan: Plan) -> dict[str, str]:
    return environment(
        QFPAY_APP_CODE=gateway.app_code,
        QFPAY_CLIENT_KEY=gateway.client_key,
        QFPAY_BASE_URL=gateway.url,
        QFPAY_LEDGER=f"sqlite:///{folder / 'ledger.db'}",
        QFPAY_REQUESTS_PER_SECOND=str(plan.per_second),
        QFPAY_REQUESTS_PER_MINUTE=str(plan.per_minute),
        QFPAY_BACKOFF_INITIAL_S="0.01",
        QFPAY_BACKOFF_MAX_S="0.1",
        **HELD_S,
    )


# ------------------------------------------------------------------------------------------------ the file


def write_file(gateway: Gateway, path: Path, plan: Plan, dice: random.Random) -> tuple[dict[int, BatchRow], set[int]]:
    """Captures, an unfreeze behind those of each second hold, 1% of the lines malformed: line → row, and bad lines."""
    holds = [gateway.hold(9_000_000) for _ in range(-(-plan.rows // PER_HOLD))]
    wanted = captures(gateway, holds, plan.rows)
    wanted += [BatchRow(f"close-{hold}", hold, None, Operation.UNFREEZE) for hold in holds[::2]]
    lines = [_line(row) for row in wanted]
    rows = dict(enumerate(wanted, 2))
    bad = set(dice.sample(sorted(rows), max(4, len(rows) // 100)))
    for number in bad:
        lines[number - 2] = _spoilt(lines[number - 2], dice)
        del rows[number]
    path.write_bytes(b"\xef\xbb\xbf" + ",".join(WIDE).encode() + b"\r\n" + b"".join(lines))
    return rows, bad


def _line(row: BatchRow) -> bytes:
    cells = [getattr(row, name) for name in WIDE]
    text = [each.value if isinstance(each, Operation) else "" if each is None else str(each) for each in cells]
    return ",".join(text).encode() + b"\r\n"


def _spoilt(line: bytes, dice: random.Random) -> bytes:
    key, rest = line.split(b",", 1)
    return dice.choice(
        [
            key + b"\xff," + rest,
            key + b"\0," + rest,
            b"," + rest,
            key + b"\r\n",
            line.rstrip() + b",more\r\n",
            b'"' + key + b'"x,' + rest,
            rest.replace(b",", b";") + b"\r\n",
            key + b"," + rest.replace(b",capture,", b",void,").replace(b",unfreeze,", b",Unfreeze,"),
        ]
    ).replace(b"\r\n\r\n", b"\r\n")


# ------------------------------------------------------------------------------------------------ runs


async def _start(folder: Path, env: dict[str, str], number: int) -> asyncio.subprocess.Process:
    arguments = ["run", str(folder / "rows.csv"), "--results", str(folder / f"results-{number}.csv"), "--quiet"]
    return await asyncio.create_subprocess_exec(
        *COMMAND, *arguments, env=env, cwd=ROOT, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE
    )


async def _run_and_kill(  # noqa: PLR0917 - one lap, with all that it needs
    gateway: Gateway, folder: Path, env: dict[str, str], plan: Plan, dice: random.Random, told: Told
) -> None:
    """Start, wait until it has sent a random share of what is left, and kill it."""
    running = [await _start(folder, env, number) for number in range(plan.processes)]
    told.runs += plan.processes
    goal = len(gateway.requests) + dice.randint(5, plan.rows // (plan.kills + 1))
    await until(lambda: len(gateway.requests) >= goal or all(each.returncode is not None for each in running), 300)
    for process in running:
        if process.returncode is None:
            process.kill()
            told.kills += 1
        _, said = await process.communicate()
        if said:
            told.wrong.append(f"said: {said.decode(errors='replace')}")


async def _run_to_the_end(folder: Path, env: dict[str, str], plan: Plan, told: Told) -> None:
    running = [await _start(folder, env, number) for number in range(plan.processes)]
    told.runs += plan.processes
    for process in running:
        _, said = await process.communicate()
        if process.returncode not in _WAYS_TO_END or said:
            told.wrong.append(f"ended with {process.returncode}: {said.decode(errors='replace')}")


# ------------------------------------------------------------------------------------------------ the audit


def _checked(gateway: Gateway, path: Path, rows: dict[int, BatchRow], bad: set[int]) -> list[str]:
    """Every line once, as its row says; the gateway's books row by row; nothing moved twice."""
    lines = results_of(path)
    wrong = checked_against(gateway, lines)
    numbers = Counter(int(line["line"]) for line in lines)
    wrong += [f"line {number} is there {count} times" for number, count in numbers.items() if count > 1]
    missing = sorted({*rows, *bad} - set(numbers))
    wrong += [f"lines without an outcome: {missing}"] if missing else []
    for line in lines:
        row = rows.get(int(line["line"]))
        if (row is None) is not (line["outcome"] == "invalid"):
            wrong.append(f"invalid, or not: {line}")
        elif row is not None and (line["idempotency_key"], line["syssn"]) != (row.idempotency_key, row.syssn):
            wrong.append(f"another row: {line}")
    moved = Counter((each.kind, each.orig_syssn, each.amount) for each in gateway.books.executions())
    wrong += [f"moved {count} times: {what}" for what, count in moved.items() if count > 1]
    return wrong + [f"the gateway's audit: {each}" for each in gateway.books.audit()]


def _too_fast(gateway: Gateway, plan: Plan) -> list[str]:
    """Arrivals against both windows. What is counted at sending may arrive a little closer together."""
    arrivals = [each.at.timestamp() for each in gateway.requests]
    late_s = 0.25
    return [
        f"{limit + 1} requests in {width_s} s, at {first}"
        for limit, width_s in ((plan.per_second, 1.0), (plan.per_minute, 60.0))
        for first, last in zip(arrivals, arrivals[limit:], strict=False)
        if last - first < width_s - late_s
    ]
