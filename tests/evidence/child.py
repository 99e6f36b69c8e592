"""The other processes of these tests: `same|work …`; `work` is killed at any moment."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine

from qfpay_preauth import OutcomeUnknownError, PreauthClient, PreauthError
from tests.client.child import ALLOWED, client_to, say


async def same(url: str, ledger: str, syssn: str, amount: str, patience: str) -> None:
    """The key "lost" ten times, four at a time; says what each call gave."""
    async with client_to(url, ledger) as client:

        async def one() -> None:
            try:
                result = await client.capture(syssn, int(amount), idempotency_key="lost", patience_s=float(patience))
            except OutcomeUnknownError as error:
                say(type(error).__name__)
            else:
                say(str(result.syssn))

        for left in range(10, 0, -4):
            await asyncio.gather(*(one() for _ in range(min(4, left))))


async def work(url: str, ledger: str, name: str, *syssns: str) -> None:
    """Captures, refunds and an unfreeze, eight tasks at a time, on and on until killed."""
    dice = random.Random(name)
    async with client_to(url, ledger, 1.0) as client:
        say("ready")
        for start in range(0, 100_000, 8):
            await asyncio.gather(*(_one(client, dice, f"{name}-{start + step}", syssns) for step in range(8)))


async def _one(client: PreauthClient, dice: random.Random, key: str, syssns: tuple[str, ...]) -> None:
    syssn, amount = dice.choice(syssns), dice.randrange(201, 2_000)
    try:
        if dice.random() < 0.005:
            await client.unfreeze(syssn, idempotency_key=key)
            return
        capture = await client.capture(syssn, amount, idempotency_key=key)
        if dice.random() < 0.3:
            await client.refund(str(capture.syssn), dice.randrange(1, amount), idempotency_key=f"{key}-back")
    except PreauthError as error:
        if type(error).__name__ not in ALLOWED:
            say(f"UNEXPLAINED {error!r}")
            raise


def live(job: str, *words: str) -> None:
    """Do what the words say."""
    jobs: dict[str, Callable[..., Coroutine[None, None, None]]] = {"same": same, "work": work}
    asyncio.run(jobs[job](*words))
