"""One working process: `ORDER work|finish|again|make URL LEDGER SEED LAP OWNER SYSSNS…`.

`work` goes on until it is killed, `finish` until every key has an end or a doubt in its way, `again` once through all
keys, `make` only opens the file.
It says `got KEY SYSSN` for each result: what was said must be in the ledger, whatever happens next.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import time
from collections.abc import Iterator

from qfpay_preauth import (
    AlreadyUnfrozenError,
    AuthorizationClosedError,
    Credentials,
    DeclinedError,
    NotSentError,
    OperationInProgressError,
    OutcomeUnknownError,
    OverCaptureError,
    PreauthClient,
    PreauthError,
    RateLimitedError,
    Settings,
    State,
)
from qfpay_preauth.testing import Config
from tests.client.child import say
from tests.kills.plan import SHARED, Job, jobs
from tests.kills.steps import arm
from tests.support import QUICK

DEADLINE_S, EXCHANGE_S = 1.5, 0.5
AT_ONCE = 6
EXPLAINED = (
    OperationInProgressError,
    OutcomeUnknownError,
    OverCaptureError,
    AuthorizationClosedError,
    AlreadyUnfrozenError,
    DeclinedError,
    NotSentError,
    RateLimitedError,
)


class Worker:
    """One process's client and keys."""

    def __init__(self, client: PreauthClient, seed: int, owner: int, holds: list[list[str]], *, patient: bool) -> None:
        self._client = client
        self._seed = seed
        self._owner = owner
        self._holds = holds
        # by then whatever a killed process held is in doubt
        patience_s = DEADLINE_S + EXCHANGE_S + 0.5 if patient else 0.0
        self._patient_until = time.monotonic() + patience_s

    async def run(self, plan: Iterator[tuple[int, Job]]) -> None:
        """Work through `plan`, a few keys at a time."""

        async def one_after_another() -> None:
            for lap, job in plan:
                await self._one(job, self._holds[lap][job.hold])

        await asyncio.gather(*(one_after_another() for _ in range(AT_ONCE)))

    def plan(self, laps: range) -> list[tuple[int, Job]]:
        """The shared keys and our own of these laps, in an order of our own."""
        dice = random.Random(f"{self._seed}/{self._owner}/{os.getpid()}")
        found = [(lap, job) for lap in laps for owner in (SHARED, self._owner) for job in jobs(self._seed, lap, owner)]
        dice.shuffle(found)
        return found

    async def _one(self, job: Job, syssn: str) -> None:
        if not job.amount:
            await self._tried(job.key, lambda: self._client.unfreeze(syssn, idempotency_key=job.key))
            return
        await self._tried(job.key, lambda: self._client.capture(syssn, job.amount, idempotency_key=job.key))
        entry = await self._client.entry(job.key) if job.refund else None
        if entry is not None and entry.state is State.EXECUTED and entry.result_syssn is not None:
            capture, back = entry.result_syssn, f"{job.key}/back"
            await self._tried(back, lambda: self._client.refund(capture, job.amount // 3, idempotency_key=back))

    async def _tried(self, key: str, call: object) -> None:
        while True:
            try:
                result = await call()  # type: ignore[operator]
            except EXPLAINED as error:
                if time.monotonic() > self._patient_until or "(held)" not in str(error):
                    return
            except PreauthError as error:
                say(f"UNEXPLAINED {error!r}")
                raise
            else:
                say(f"got {key} {result.syssn}")
                return
            await asyncio.sleep(0.02)


def live(order: str, *words: str) -> None:
    """Do what the words say, and die where `order` says."""
    arm(order)
    asyncio.run(_main(*words))


async def _main(verb: str, url: str, ledger: str, seed: str, lap: str, owner: str, *syssns: str) -> None:  # noqa: PLR0917
    holds = [list(syssns[low : low + 3]) for low in range(0, len(syssns), 3)]
    config = Config()
    timing = {"deadline_s": DEADLINE_S, "timeout_total_s": EXCHANGE_S, "timeout_connect_s": EXCHANGE_S}
    settings = Settings(**{**QUICK, **timing, "capture_reference": int(seed) % 3 == 0})
    credentials = Credentials(config.app_code, config.client_key)
    async with PreauthClient(credentials, base_url=url, ledger=ledger, settings=settings) as client:
        say("ready")
        if verb == "make":
            return
        worker = Worker(client, int(seed), int(owner), holds, patient=verb == "finish")
        if verb in ("finish", "again"):
            await worker.run(iter(worker.plan(range(int(lap) + 1))))
            say("done")
            return
        background = asyncio.create_task(client.run_reconciler(0.3))  # killed in the midst of this, too
        recent = worker.plan(range(max(0, int(lap) - 1), int(lap) + 1))
        await worker.run(itertools.chain(recent, itertools.cycle(recent)))
        with contextlib.suppress(asyncio.CancelledError):
            await background
