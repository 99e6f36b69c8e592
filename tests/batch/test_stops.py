"""How a batch ends before its end: a stop, rejected credentials, a ledger that is gone, a loop that is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from qfpay_preauth import (
    Authorization,
    BatchRow,
    ConfigurationError,
    CredentialsRejectedError,
    LedgerUnavailableError,
    Outcome,
    OutcomeUnknownError,
    PreauthClient,
    RowOutcome,
)
from qfpay_preauth.ledger.memory import MemoryLedger
from qfpay_preauth.testing import Gateway
from tests.batch.kit import broken, captures, executed, holds_of, ran, sent, words
from tests.client.kit import ended, turns, until
from tests.support import client_of, sqlite_url


async def test_rejected_credentials_stop_everything(qfpay_gateway: Gateway, tmp_path: Path) -> None:
    """At the first rejection nothing further is sent; mended, the same rows run to their end."""
    url = sqlite_url(tmp_path)
    rows = captures(qfpay_gateway, holds_of(qfpay_gateway), 200)
    qfpay_gateway.faults.add("respcd", operation="capture", code="1108", after=20, times=None)
    async with client_of(qfpay_gateway, url) as client:
        outcomes, error = await broken(client, rows, concurrency=4)
    assert isinstance(error, CredentialsRejectedError)
    found = words(outcomes)
    assert found["executed"] == 20
    assert 1 <= found["declined"] <= 4
    assert sent(qfpay_gateway) <= 24
    qfpay_gateway.faults.clear()
    async with client_of(qfpay_gateway, url) as client:
        assert words(await ran(client, rows)) == {"replayed": 20, "executed": 180}


async def test_a_ledger_that_is_gone_stops_everything(qfpay_gateway: Gateway, tmp_path: Path) -> None:
    """Nothing is sent that could not be recorded."""
    rows = captures(qfpay_gateway, holds_of(qfpay_gateway), 50)
    async with client_of(qfpay_gateway, sqlite_url(tmp_path)) as client:

        async def pulled() -> AsyncIterator[BatchRow]:
            for number, row in enumerate(rows):
                if number == 10:
                    (tmp_path / "ledger.db").rename(tmp_path / "moved.db")
                yield row

        outcomes, error = await broken(client, pulled(), concurrency=2)
    assert isinstance(error, LedgerUnavailableError)
    assert len(outcomes) <= 14
    assert sent(qfpay_gateway) <= 12


@pytest.mark.parametrize("holds", [40, 8])
async def test_a_stop_calls_off_what_waits_for_the_budget(qfpay_gateway: Gateway, holds: int) -> None:
    """Rows at the turnstile are not sent any more; one that was sent is waited for, and its outcome comes."""
    settings = {"requests_per_second": 3, "requests_per_minute": 4, "deadline_s": 60}
    stop = asyncio.Event()
    qfpay_gateway.faults.add("hang_after", operation="capture")
    async with client_of(qfpay_gateway, **settings) as client:
        rows = captures(qfpay_gateway, holds_of(qfpay_gateway, holds), 40)
        running = asyncio.create_task(ran(client, rows, concurrency=8, stop=stop))
        await qfpay_gateway.wait_hanging()
        await until(lambda: sent(qfpay_gateway) == 3)
        stop.set()
        await turns(200)
        assert not running.done()
        qfpay_gateway.release()
        async with asyncio.timeout(5):  # not the minute that the budget would take
            outcomes = await running
    found = words(outcomes)
    assert found["executed"] == executed(qfpay_gateway).total() == sent(qfpay_gateway)
    assert 3 <= found["executed"] <= 4
    assert found["not_sent"] == len(outcomes) - found["executed"] >= 4
    assert len(outcomes) <= 12


async def test_a_stop_while_evidence_is_looked_for(qfpay_gateway: Gateway) -> None:
    """The row was sent and its answer is lost: that is what its outcome says, not that it was called off unsent."""
    stop = asyncio.Event()
    qfpay_gateway.faults.add("drop_after", operation="capture", hidden=True)
    async with client_of(qfpay_gateway, patience_s=30) as client:
        rows = captures(qfpay_gateway, holds_of(qfpay_gateway, 1), 3)
        running = asyncio.create_task(ran(client, rows, concurrency=1, stop=stop))
        await until(lambda: sent(qfpay_gateway) == 1)
        await ended(client, "k0")
        stop.set()
        outcomes = await running
    assert [(each.outcome, type(each.error)) for each in outcomes] == [(RowOutcome.IN_DOUBT, OutcomeUnknownError)]
    assert "the outcome is unknown" in outcomes[0].message
    assert "before anything was written or sent" not in outcomes[0].message


class _SlowToRegister(MemoryLedger):
    """A ledger whose registrations wait."""

    def __init__(self) -> None:
        super().__init__()
        self.registering, self.go_on = asyncio.Event(), asyncio.Event()

    async def register(self, authorization: Authorization) -> Authorization:
        self.registering.set()
        await self.go_on.wait()
        return await super().register(authorization)


async def test_a_stop_while_a_hold_is_registered(qfpay_gateway: Gateway) -> None:
    """A row that had not come to its request yet does not send it any more."""
    stop, ledger = asyncio.Event(), _SlowToRegister()
    async with client_of(qfpay_gateway, ledger) as client:
        running = asyncio.create_task(ran(client, captures(qfpay_gateway, holds_of(qfpay_gateway), 8), stop=stop))
        await ledger.registering.wait()
        stop.set()
        await turns(10)
        ledger.go_on.set()
        assert words(await running) == {"not_sent": 8}
    assert sent(qfpay_gateway) == 0


async def test_a_stop_ends_the_look_for_evidence(qfpay_gateway: Gateway) -> None:
    """A row whose answer was lost, and that would go on looking, is in doubt at once."""
    stop = asyncio.Event()
    async with client_of(qfpay_gateway, patience_s=60) as client:
        rows = captures(qfpay_gateway, holds_of(qfpay_gateway), 1)
        qfpay_gateway.faults.add("drop_after", operation="capture")
        qfpay_gateway.faults.add("hang_before", operation="query", times=None)
        running = asyncio.create_task(ran(client, rows, stop=stop))
        await qfpay_gateway.wait_hanging()
        stop.set()
        async with asyncio.timeout(5):
            assert words(await running) == {"in_doubt": 1}


async def test_a_cancelled_loop_drains(client: PreauthClient, qfpay_gateway: Gateway) -> None:
    """What was sent runs to its end and is in the ledger; nothing else is begun."""
    qfpay_gateway.faults.add("hang_after", operation="capture", times=2)
    rows = captures(qfpay_gateway, holds_of(qfpay_gateway), 50)
    running = asyncio.create_task(ran(client, rows, concurrency=2))
    await qfpay_gateway.wait_hanging(2)
    running.cancel()
    await turns(50)
    assert not running.done()
    qfpay_gateway.release()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert sent(qfpay_gateway) == 2
    assert words(await ran(client, rows)) == {"replayed": 2, "executed": 48}


async def test_a_client_that_closes_ends_the_batch(qfpay_gateway: Gateway) -> None:
    """`aclose()` ends the workers; who waits for outcomes is told, and no task is left."""
    client = client_of(qfpay_gateway)
    await client.__aenter__()
    qfpay_gateway.faults.add("hang_after", operation="capture", times=2)
    running = asyncio.create_task(broken(client, captures(qfpay_gateway, holds_of(qfpay_gateway), 50), concurrency=2))
    await qfpay_gateway.wait_hanging(2)
    closing = asyncio.create_task(client.aclose())
    await turns(20)
    qfpay_gateway.release()
    await closing
    _, error = await running
    assert isinstance(error, ConfigurationError)
    assert error.outcome is Outcome.UNKNOWN  # two rows were captured, and nobody here has seen it
    assert "nothing was sent" not in str(error)
    assert sent(qfpay_gateway) == 2


async def test_a_client_that_closes_before_the_first_row(qfpay_gateway: Gateway, tmp_path: Path) -> None:
    """While evidence is looked for: the consumer hears of it as an error, not as a cancellation of its own."""
    url = sqlite_url(tmp_path)
    rows = captures(qfpay_gateway, holds_of(qfpay_gateway), 2)
    async with client_of(qfpay_gateway, url) as client:
        qfpay_gateway.faults.add("drop_after", operation="capture")
        await ran(client, rows[:1])
    client = client_of(qfpay_gateway, url)
    await client.__aenter__()
    qfpay_gateway.faults.add("hang_before", operation="query", times=None)
    running = asyncio.create_task(broken(client, rows))
    await qfpay_gateway.wait_hanging()
    await client.aclose()
    found, error = await running
    assert (found, type(error)) == ([], ConfigurationError)


async def test_a_loop_left_and_never_closed_leaves_no_task(qfpay_gateway: Gateway) -> None:
    """A generator that somebody keeps and forgets ends with its client."""
    before = asyncio.all_tasks()
    async with client_of(qfpay_gateway) as client:
        rows = captures(qfpay_gateway, holds_of(qfpay_gateway), 50)
        outcomes = client.capture_many(rows, concurrency=3, stop=asyncio.Event())
        await anext(outcomes)
        mine = asyncio.all_tasks() - before
    assert [each for each in mine if not each.done() and "_batch" in repr(each)] == []
    await outcomes.aclose()
