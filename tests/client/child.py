"""The other processes of the process tests: `work|race|burst …`, killed at any moment."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from qfpay_preauth import Credentials, PreauthClient, PreauthError, Settings
from qfpay_preauth.testing import Config
from tests.support import QUICK

ALLOWED = frozenset(
    [
        "OperationInProgressError",
        "OutcomeUnknownError",
        "OverCaptureError",
        "AuthorizationClosedError",
        "AlreadyUnfrozenError",
    ]
)


def client_to(url: str, ledger: str, deadline_s: float = 60) -> PreauthClient:
    """A client of the simulator at `url`."""
    config = Config()
    settings = Settings(**{**QUICK, "deadline_s": deadline_s, "timeout_total_s": min(30, deadline_s)})
    credentials = Credentials(config.app_code, config.client_key)
    return PreauthClient(credentials, base_url=url, ledger=ledger, settings=settings)


async def work(url: str, ledger: str, name: str, deadline_s: str, *syssns: str) -> None:
    """Capture on and on, eight tasks at a time, saying so on standard output; until killed."""
    dice = random.Random(name)
    async with client_to(url, ledger, float(deadline_s)) as client:

        async def one(number: int) -> None:
            key, syssn = f"{name}-{number}", dice.choice(syssns)
            try:
                await client.capture(syssn, 1_000 + number, idempotency_key=key)
            except PreauthError as error:
                _check(error)
            say(key)

        say("ready")
        for start in range(0, 100_000, 8):
            await asyncio.gather(*(one(start + step) for step in range(8)))


async def race(url: str, ledger: str, name: str, keys: str, *syssns: str) -> None:
    """Every key of a list that all processes share, in an order of our own, until each has an end."""
    dice = random.Random(name)
    plan = [(f"key-{number}", syssns[number % len(syssns)], 1_000 + number) for number in range(int(keys))]
    plan += [(f"close-{syssn}", syssn, 0) for syssn in syssns[:2]]
    dice.shuffle(plan)
    async with client_to(url, ledger) as client:

        async def one(key: str, syssn: str, amount: int) -> None:
            while True:
                try:
                    if amount:
                        await client.capture(syssn, amount, idempotency_key=key)
                    else:
                        await client.unfreeze(syssn, idempotency_key=key)
                    return
                except PreauthError as error:
                    _check(error)
                    if "(held)" not in str(error):
                        return  # an end, or a doubt in the way that no waiting ends
                await asyncio.sleep(0.005)

        async with asyncio.timeout(30):
            await asyncio.gather(*(one(*each) for each in plan[: len(plan) // 2]))
            async for doubt in client.in_doubt():
                say(doubt.idempotency_key)


async def burst(url: str, ledger: str, name: str, count: str, per_second: str, *syssns: str) -> None:
    """So many captures as fast as the budget lets them, with limits as a merchant sets them."""
    config = Config()
    settings = Settings(
        **{**QUICK, "requests_per_second": int(per_second), "requests_per_minute": int(per_second) * 50}
    )
    credentials = Credentials(config.app_code, config.client_key)
    async with PreauthClient(credentials, base_url=url, ledger=ledger, settings=settings) as client:
        amounts = range(1_000, 1_000 + int(count))
        calls = [
            client.capture(syssns[number % len(syssns)], number, idempotency_key=f"{name}-{number}")
            for number in amounts
        ]
        await asyncio.gather(*calls)
    say("done")


def _check(error: PreauthError) -> None:
    if type(error).__name__ not in ALLOWED:
        say(f"UNEXPLAINED {error!r}")
        raise error


def say(text: str) -> None:
    """One line to the parent."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def live(job: str, *words: str) -> None:
    """Do what the words say."""
    jobs: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {"work": work, "race": race, "burst": burst}
    asyncio.run(jobs[job](*words))
