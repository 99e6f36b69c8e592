"""What these tests share: clients whose clock can be moved, a hold whose words were shown, and doubts made to order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from qfpay_preauth import Event, OutcomeUnknownError, PreauthClient, State
from qfpay_preauth._models import Entry, ReconcileReport
from qfpay_preauth.testing import Config, Gateway
from tests.support import client_of, registered

HOLD = 50_000
LOST = 10_000


class Clock:
    """A wall clock that stands `ahead` of the machine's, or at `fixed`; shared by client and gateway."""

    def __init__(self, fixed: datetime | None = None) -> None:
        self.fixed = fixed
        self.ahead = timedelta(0)
        self.monotonic_ahead_s = 0.0

    def now(self) -> datetime:
        """The wall clock's time."""
        return (self.fixed or datetime.now(UTC)) + self.ahead

    def monotonic(self) -> float:
        """The loop's own time (waits are real), unless a test lets a minute of the budget pass at once."""
        return time.monotonic() + self.monotonic_ahead_s  # the ledger's thread reads it too


def set_clock(client: PreauthClient, clock: Clock) -> PreauthClient:
    """The client with another clock, before it is entered."""
    client._clock = clock
    return client


def gateway_at(clock: Clock, **config: Any) -> Gateway:
    """A gateway whose time is the clock's."""
    return Gateway(Config(**config), clock=clock.now)


async def teach_words(client: PreauthClient, gateway: Gateway) -> None:
    """Let the client's own answered capture and unfreeze show which word is which."""
    syssn = await registered(client, gateway, 1_000)
    await client.capture(syssn, 400, idempotency_key=f"taught-capture-{syssn}")
    await client.unfreeze(syssn, idempotency_key=f"taught-unfreeze-{syssn}")
    await client.reconcile()


async def lose(
    client: PreauthClient,
    gateway: Gateway,
    syssn: str,
    amount: int = LOST,
    key: str = "lost",
    *,
    fault: str = "drop_after",
    **how: Any,
) -> None:
    """A capture whose answer is lost, left in doubt."""
    gateway.faults.add(fault, operation="capture", amount=amount, **how)
    with pytest.raises(OutcomeUnknownError):
        await client.capture(syssn, amount, idempotency_key=key, patience_s=0)


async def lose_unfreeze(
    client: PreauthClient, gateway: Gateway, syssn: str, key: str, fault: str = "drop_after"
) -> None:
    """An unfreeze whose answer is lost, left in doubt."""
    gateway.faults.add(fault, operation="unfreeze")
    with pytest.raises(OutcomeUnknownError):
        await client.unfreeze(syssn, idempotency_key=key, patience_s=0)


async def lose_refund(  # noqa: PLR0917 - one story in a few words
    client: PreauthClient, gateway: Gateway, capture: str, amount: int, key: str, fault: str = "drop_after"
) -> None:
    """A refund whose answer is lost, left in doubt."""
    gateway.faults.add(fault, operation="refund")
    with pytest.raises(OutcomeUnknownError):
        await client.refund(capture, amount, idempotency_key=key, patience_s=0)


async def entry_of(client: PreauthClient, key: str = "lost") -> Entry:
    """The entry under a key, which must be there."""
    entry = await client.entry(key)
    assert entry is not None
    return entry


async def state(client: PreauthClient, key: str = "lost") -> State:
    """The state of the entry under a key."""
    return (await entry_of(client, key)).state


async def doubts(client: PreauthClient) -> list[str]:
    """The keys that are listed in doubt."""
    return [doubt.idempotency_key async for doubt in client.in_doubt()]


def writes(gateway: Gateway) -> int:
    """Requests that could move money, as they reached the gateway."""
    return sum(each.operation in ("capture", "unfreeze", "refund") for each in gateway.requests)


def queries(gateway: Gateway) -> int:
    """Enquiries that reached the gateway."""
    return sum(each.operation == "query" for each in gateway.requests)


def kinds(report: ReconcileReport) -> list[str]:
    """The kinds of discrepancies of a report, sorted."""
    return sorted(each.kind.value for each in report.discrepancies)


def executed(gateway: Gateway, syssn: str, kind: str = "capture") -> list[tuple[str, int]]:
    """Syssn and amount of what the gateway executed on a hold."""
    return [(each.syssn, each.amount) for each in gateway.books.executions(syssn) if each.kind == kind]


async def check_equal(client: PreauthClient, gateway: Gateway, *syssns: str) -> None:
    """Our books of the holds say what the gateway's say, to the cent, and the gateway's are sound."""
    assert gateway.books.audit() == []
    for syssn in syssns:
        ours, theirs = await client.balance(syssn), gateway.books.totals(syssn)
        assert (ours.captured + ours.foreign, ours.unfrozen, ours.refunded) == (
            theirs.captured,
            theirs.unfrozen,
            theirs.refunded,
        )
        assert (ours.held, ours.in_doubt) == (0, 0)


async def until(condition: Callable[[], Awaitable[bool]], within_s: float = 15.0) -> None:
    """Poll what a background task or another process brings about."""
    async with asyncio.timeout(within_s):
        while not await condition():  # noqa: ASYNC110 - another task or process brings it about
            await asyncio.sleep(0.01)


class Heard:
    """An `on_event` hook that keeps everything."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        """Keep one event."""
        self.events.append(event)

    def kinds(self) -> list[str]:
        """The kinds heard, in order."""
        return [event.kind for event in self.events]


def hearing_client(
    gateway: Gateway, hook: Callable[[Event], None], ledger: Any = "memory://", **settings: Any
) -> PreauthClient:
    """A client with an `on_event` hook."""
    client = client_of(gateway, ledger, **settings)
    client._on_event = hook
    return client
