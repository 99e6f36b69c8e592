"""What the client's tests share: one operation ready to be run, and what must hold whatever happened to it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

from attrs import frozen

from qfpay_preauth import Entry, Outcome, OutcomeUnknownError, PreauthClient, PreauthError, State
from qfpay_preauth._models import Result
from qfpay_preauth.testing import Gateway
from tests.support import registered

OPERATIONS = ("capture", "unfreeze", "refund")
HOLD = 50_000
CAPTURED = 20_000


@frozen
class Scene:
    """One operation on one hold, ready to be run under any key. `amount` is what it moves."""

    gateway: Gateway
    client: PreauthClient
    operation: str
    syssn: str
    target: str
    amount: int

    async def run(self, key: str = "key", amount: int | None = None, **timing: float) -> Result:
        """The operation once, through the public face."""
        if self.operation == "unfreeze":
            return await self.client.unfreeze(self.target, None, idempotency_key=key, **timing)
        method = self.client.capture if self.operation == "capture" else self.client.refund
        return await method(self.target, amount or self.amount, idempotency_key=key, **timing)

    async def fails(self, key: str = "key", amount: int | None = None, **timing: float) -> PreauthError:
        """The one error that the operation ends with."""
        try:
            result = await self.run(key, amount, **timing)
        except PreauthError as error:
            return error
        raise AssertionError(f"no error but {result}")

    def sent(self) -> int:
        """Requests for this operation that reached the gateway."""
        found = [each for each in self.gateway.requests if each.operation == self.operation]
        return sum(each.params["syssn"] == self.target for each in found)

    def executed(self) -> int:
        """How often the gateway executed this operation."""
        return sum(each.kind == self.operation for each in self.gateway.books.executions(self.syssn))

    async def state(self, key: str = "key") -> State | None:
        """The state of the entry under `key`."""
        entry = await self.client.entry(key)
        return entry.state if entry else None

    async def doubts(self) -> list[str]:
        """The keys that are listed in doubt."""
        return [doubt.idempotency_key async for doubt in self.client.in_doubt()]

    async def check_doubt_stays(self, key: str = "key") -> None:
        """In doubt: listed, claimed, and another call with the same key sends nothing and says the same."""
        assert await self.state(key) is State.IN_DOUBT
        assert await self.doubts() == [key]
        before = len(self.gateway.requests)
        error = await self.fails(key)
        assert isinstance(error, OutcomeUnknownError)
        assert (error.outcome, error.idempotency_key) == (Outcome.UNKNOWN, key)
        assert len(self.gateway.requests) == before
        if self.operation != "refund":
            assert (await self.client.balance(self.syssn)).in_doubt == self.amount


async def scene(gateway: Gateway, client: PreauthClient, operation: str, amount: int = 10_000) -> Scene:
    """A hold of 50,000 on which `operation` can be run; a refund finds 20,000 captured."""
    syssn = await registered(client, gateway, HOLD)
    if operation == "capture":
        return Scene(gateway, client, operation, syssn, syssn, amount)
    if operation == "unfreeze":
        return Scene(gateway, client, operation, syssn, syssn, HOLD)
    capture = await client.capture(syssn, CAPTURED, idempotency_key="captured-before")
    assert capture.syssn is not None
    return Scene(gateway, client, operation, syssn, capture.syssn, amount)


def sent(gateway: Gateway, operation: str | None = None) -> int:
    """Writes that reached the gateway."""
    return sum(each.operation == operation or operation is None for each in gateway.requests)


def captured_at(gateway: Gateway, syssn: str) -> Counter[int]:
    """Amount → how many captures of it the gateway executed on a hold."""
    done = gateway.books.executions(syssn)
    return Counter(each.amount for each in done if each.kind == "capture")


async def turns(count: int) -> None:
    """Let the event loop turn `count` times."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool | Awaitable[bool]], within_s: float = 20.0) -> None:
    """Wait for what no event tells: another process, a thread, an entry in the ledger."""
    async with asyncio.timeout(within_s):
        while True:
            found = condition()
            if found if isinstance(found, bool) else await found:
                return
            await asyncio.sleep(0.0002)


async def ended(client: PreauthClient, key: str) -> Entry | None:
    """The entry under `key` once it is no longer held; None where there is none."""

    async def settled() -> bool:
        entry = await client.entry(key)
        return entry is None or entry.state is not State.HELD

    await until(settled)
    return await client.entry(key)


async def reserved(client: PreauthClient, key: str) -> None:
    """Return as soon as there is an entry under `key`."""

    async def there() -> bool:
        return await client.entry(key) is not None

    await until(there)


def bytes_in(folder: Path) -> bytes:
    """Everything that the files of a folder hold."""
    return b"".join(path.read_bytes() for path in sorted(folder.iterdir()))
