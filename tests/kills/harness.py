"""Rounds of laps: workers on one file are killed, the books are checked, the same keys go on; at the end all agrees."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from attrs import define, field

from qfpay_preauth import PreauthClient, ReconcileReport
from qfpay_preauth.testing import Config, Faults, Gateway
from tests.evidence.kit import Clock, set_clock, teach_words, writes
from tests.kills import audit
from tests.kills.plan import hold_amounts
from tests.kills.steps import MAKING, PAUSE, WORKING
from tests.nursery import Child, Nursery
from tests.support import client_of, registered

FAULTS = (
    "drop_before",
    "drop_after",
    "reset_before",
    "reset_after",
    "status_before",
    "status_after",
    "rate_limited",
    "respcd",
    "pending",
    "cut",
    "garbled",
    "late",
)
LAPS = 10
RANDOM = "at random"
KILL_WITHIN_S = 0.5
GIVE_UP_S = 2.0
PAUSE_S = 4.0
AGAIN_MAX = 5


@define
class Summary:
    """What a run did, and everything that was wrong."""

    kills: int = 0
    rounds: int = 0
    requests: int = 0
    executions: int = 0
    doubts_ended: int = 0
    doubts_left: int = 0
    doubts_executed: int = 0
    where: Counter[str] = field(factory=Counter)
    violations: list[str] = field(factory=list)

    def __str__(self) -> str:
        steps = ", ".join(f"{step} {count}" for step, count in sorted(self.where.items()))
        return (
            f"{self.kills} kills ({steps}) in {self.rounds} rounds: {self.requests} writes reached the gateway, "
            f"{self.executions} executions, {self.doubts_ended} doubts ended by evidence, {self.doubts_left} left "
            f"and listed ({self.doubts_executed} of them executed there), {len(self.violations)} violations"
        )


class Round:
    """One gateway, one ledger file, and the processes that are killed on it."""

    def __init__(
        self, nursery: Nursery, folder: Path, seed: int, workers: int, summary: Summary, *, pauses: bool
    ) -> None:
        self._nursery = nursery
        self._dice = random.Random(seed)
        self._seed = seed
        self._workers = workers
        self._pauses = pauses
        self._summary = summary
        self._path = folder / f"ledger-{seed}.db"
        self._url = f"sqlite:///{self._path}"
        self._syssns: list[str] = []
        self._said: dict[str, str] = {}
        self._taught = self._dice.random() < 0.8
        # now and then captures do not name their hold, or the enquiry lags: then doubts are left, and listed
        config = Config(
            enforce=False,  # a second execution is let through, so that it would show
            unique_numbers=False,
            link_rows=self._dice.random() < 0.8,
            query_lag=timedelta(seconds=self._dice.choice((0, 0, 1))),
        )
        self._gateway = Gateway(config)
        self._certain = self._taught and config.link_rows is True

    async def run(self, kills: int) -> None:
        """Kill so many processes, then let the books come to agree."""
        async with self._gateway:
            before = self._summary.kills
            await self._make_file()
            lap = 0
            while self._summary.kills < before + kills:
                await self._lap(lap, min(self._workers, before + kills - self._summary.kills))
                lap += 1
            await self._end(lap - 1)
            self._summary.rounds += 1
            self._summary.requests += writes(self._gateway)
            self._summary.executions += len(self._gateway.books.executions())

    # ------------------------------------------------------------------ laps

    async def _make_file(self) -> None:
        """Processes that are killed while they make the file leave a whole one or none."""
        steps = [f"{self._dice.choice(MAKING)}:1" for _ in range(self._dice.randrange(2))]
        await asyncio.gather(*(self._killed("make", 0, owner, step) for owner, step in enumerate(steps, 1)))
        async with client_of(self._gateway, self._url) as client:
            if self._taught:
                await teach_words(client, self._gateway)
        self._check()

    async def _lap(self, lap: int, kills: int) -> None:
        async with client_of(self._gateway, self._url) as client:
            self._syssns += [await registered(client, self._gateway, amount) for amount in hold_amounts(lap)]
        self._gateway.faults = Faults.random(self._dice.randrange(2**32), self._dice.choice((0, 0.05, 0.2)), FAULTS)
        orders = [self._order() for _ in range(kills)]
        await asyncio.gather(*(self._killed("work", lap, owner, order) for owner, order in enumerate(orders, 1)))
        self._check()
        if self._dice.random() < 0.5:
            self._gateway.run_late()
        if self._dice.random() < 0.5:
            self._gateway.settle_pending()
        await self._reconcile(Clock())
        self._check()

    def _order(self) -> str:
        if self._dice.random() < 0.4:
            return RANDOM
        if self._pauses and self._dice.random() < 0.1:
            return f"{PAUSE}{self._dice.choice(('reserved', 'handing'))}:{self._dice.randrange(1, 12)}"
        step = self._dice.choice(WORKING)
        return f"{step}:{self._dice.randrange(1, 3 if step.startswith('observ') else 12)}"

    async def _end(self, lap: int) -> None:
        """Without faults and kills: the same keys, reconciliation, and again, until nothing moves any more."""
        self._gateway.faults = Faults()
        await asyncio.gather(*(self._finished("finish", lap, owner) for owner in range(1, self._workers + 1)))
        self._gateway.run_late()
        self._gateway.settle_pending()
        self._gateway.config.query_lag = timedelta(0)  # whatever was executed is shown by now
        later = Clock()
        later.ahead = timedelta(minutes=10)
        for _ in range(AGAIN_MAX):
            before = writes(self._gateway)
            report = await self._reconcile(later)
            await self._finished("again", lap, 1)
            self._check()
            if report.complete and not report.ended and writes(self._gateway) == before:
                break
        else:
            self._wrong(f"after {AGAIN_MAX} times the same keys still send, or the enquiry still changes")
        left = audit.difference(self._path, self._gateway)
        for each in left.unlisted:
            self._wrong(f"{each} is executed at the gateway, and not even in doubt here")
        if self._certain and left.executed:
            self._wrong(f"{left.executed} doubts are not ended, though the gateway shows what they need")
        self._summary.doubts_left += left.doubts
        self._summary.doubts_executed += left.executed

    async def _reconcile(self, clock: Clock) -> ReconcileReport:
        faults, self._gateway.faults = self._gateway.faults, Faults()
        async with set_clock(client_of(self._gateway, self._url), clock) as client:
            report = await client.reconcile()
            await self._check_listing(client)
        self._gateway.faults = faults
        self._summary.doubts_ended += len(report.ended)
        for each in report.foreign:
            self._wrong(f"{each} is said to be made elsewhere")
        return report

    async def _check_listing(self, client: PreauthClient) -> None:
        """What is in doubt is what the client lists."""
        listed = {doubt.idempotency_key async for doubt in client.in_doubt()}
        entries = {each["idempotency_key"]: each["state"] for each in audit.read(self._path).entries}
        unlisted = {key for key, state in entries.items() if state == "in_doubt"} - listed
        strange = {key for key in listed if entries[key] not in audit.UNRESOLVED}
        if unlisted or strange:
            self._wrong(f"in doubt and not listed: {unlisted}; listed and ended: {strange}")

    def _check(self) -> None:
        for each in audit.violations(self._path, self._gateway, self._said):
            self._wrong(each)

    def _wrong(self, what: str) -> None:
        text = f"seed {self._seed}: {what}"
        if text not in self._summary.violations:
            self._summary.violations.append(text)

    # ------------------------------------------------------------------ processes

    async def _start(self, verb: str, lap: int, owner: int, order: str = "") -> Child:
        words = [verb, self._gateway.url, self._url, str(self._seed), str(lap), str(owner), *self._syssns]
        return await self._nursery.start("tests.kills.worker", order, *words)

    async def _killed(self, verb: str, lap: int, owner: int, order: str) -> None:
        """Run a process until it kills itself at its step, or is killed at a random moment."""
        pause_s = GIVE_UP_S if order != RANDOM else self._dice.random() * KILL_WITHIN_S
        child = await self._start(verb, lap, owner, order)
        heard = asyncio.create_task(self._hear(child))
        await asyncio.wait((heard,), timeout=pause_s)
        step = order.partition(":")[0] if heard.done() else RANDOM
        if order.startswith(PAUSE):
            step = order.partition(":")[0]
            await asyncio.sleep(PAUSE_S)
            child.signal(signal.SIGCONT)  # long after its send-by: it must not send any more
            await asyncio.sleep(KILL_WITHIN_S)
        if not heard.done():
            child.signal(signal.SIGKILL)
        await heard
        _, code = await child.ended()
        if code == -signal.SIGKILL:
            self._summary.kills += 1
            self._summary.where[step] += 1
        else:
            self._wrong(f"{verb} {owner} ended with {code} before it was killed ({order})")

    async def _finished(self, verb: str, lap: int, owner: int) -> None:
        """Run a process to its end."""
        child = await self._start(verb, lap, owner)
        heard = asyncio.create_task(self._hear(child))
        await asyncio.wait((heard,), timeout=60)
        if not heard.done():
            child.signal(signal.SIGKILL)
        await heard
        _, code = await child.ended()
        if code:
            self._wrong(f"{verb} {owner} ended with {code}")

    async def _hear(self, child: Child) -> None:
        """Keep what callers were told, until the process is dead; whatever else it says is a defect."""
        while (line := await child.said.readline()).endswith(b"\n"):
            text = line.decode().rstrip()
            result = audit.result_in(text)
            if result and self._said.setdefault(*result) != result[1]:
                self._wrong(f"{result[0]}: one caller got {self._said[result[0]]}, another {result[1]}")
            elif not result and text not in ("ready", "done"):
                self._wrong(text)


async def run(
    folder: Path,
    kills: int,
    workers: int,
    seed: int,
    tell: Callable[[str], None] = lambda line: None,
    *,
    laps: int = LAPS,
    pauses: bool = False,
) -> Summary:
    """So many kills, a new file every few laps; stops at the first round that breaks a rule."""
    summary = Summary()
    with Nursery() as nursery:
        while summary.kills < kills and not summary.violations:
            one = Round(nursery, folder, seed, workers, summary, pauses=pauses)
            await one.run(min(laps * workers, kills - summary.kills))
            tell(f"seed {seed}: {summary}")
            seed += 1
    return summary
