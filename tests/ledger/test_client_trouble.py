"""A ledger in trouble under a real client and the simulated gateway: nothing is sent, and a yes is never lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from qfpay_preauth import Capture, LedgerUnavailableError, OperationInProgressError, Outcome, PreauthClient
from qfpay_preauth.ledger import _sqlite_file
from qfpay_preauth.ledger.sqlite import SqliteLedger
from qfpay_preauth.testing import Gateway
from tests.support import client_of, registered

from .kit import connection_of, sql


@pytest.fixture
async def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SqliteLedger]:
    """An open SQLite ledger that does not wait long for locks."""
    monkeypatch.setattr(_sqlite_file, "BUSY_TIMEOUT_S", 0.05)
    made = SqliteLedger(tmp_path / "ledger.db")
    await made.open("sandbox")
    yield made
    await made.close()


@pytest.fixture
async def client(qfpay_gateway: Gateway, ledger: SqliteLedger) -> AsyncIterator[PreauthClient]:
    """A client of the simulated gateway on that ledger."""
    async with client_of(qfpay_gateway, ledger) as made:
        yield made


async def test_locked_ledger_sends_nothing(client: PreauthClient, qfpay_gateway: Gateway, ledger: SqliteLedger) -> None:
    """While the file is locked, capture, unfreeze and refund raise before any request; later the same keys run."""
    syssn = await registered(client, qfpay_gateway)
    capture = await client.capture(syssn, 10_000, idempotency_key="k0")
    sent = len(qfpay_gateway.requests)
    with sql(ledger.path) as other:
        other.execute("BEGIN EXCLUSIVE")
        for call in (
            lambda: client.capture(syssn, 20_000, idempotency_key="k1"),
            lambda: client.refund(str(capture.syssn), 5_000, idempotency_key="r1"),
            lambda: client.unfreeze(syssn, idempotency_key="u1"),
        ):
            with pytest.raises(LedgerUnavailableError) as caught:
                await call()
            assert caught.value.outcome is Outcome.NOTHING_HAPPENED
            assert caught.value.result is None
        assert len(qfpay_gateway.requests) == sent
    assert (await client.capture(syssn, 20_000, idempotency_key="k1")).replayed is False
    await client.refund(str(capture.syssn), 5_000, idempotency_key="r1")
    assert (await client.unfreeze(syssn, idempotency_key="u1")).amount == 20_000
    assert qfpay_gateway.books.audit() == []


async def test_full_disk_sends_nothing(client: PreauthClient, qfpay_gateway: Gateway, ledger: SqliteLedger) -> None:
    """Where the reservation does not fit on the disk, there is no request and no claim; with room, it runs."""
    syssn = await registered(client, qfpay_gateway)
    key = "🔑" * 255  # too long for one page: it always needs another
    connection_of(ledger).execute("PRAGMA max_page_count = 1")  # SQLite never takes less than what is there
    with pytest.raises(LedgerUnavailableError, match="full") as caught:
        await client.capture(syssn, 300, idempotency_key=key)
    assert caught.value.outcome is Outcome.NOTHING_HAPPENED
    assert qfpay_gateway.requests == []
    assert await client.entry(key) is None
    assert (await client.balance(syssn)).capturable == 50_000
    connection_of(ledger).execute("PRAGMA max_page_count = 1000000")
    assert (await client.capture(syssn, 300, idempotency_key=key)).replayed is False
    assert len(qfpay_gateway.requests) == 1


async def test_reservation_on_a_read_only_disk_sends_nothing(
    client: PreauthClient, qfpay_gateway: Gateway, ledger: SqliteLedger
) -> None:
    """Where the first write already fails there is no request at all, and no trace of the key."""
    syssn = await registered(client, qfpay_gateway)
    connection_of(ledger).execute("PRAGMA query_only = ON")
    with pytest.raises(LedgerUnavailableError) as caught:
        await client.capture(syssn, 300, idempotency_key="k1")
    connection_of(ledger).execute("PRAGMA query_only = OFF")
    assert caught.value.outcome is Outcome.NOTHING_HAPPENED
    assert qfpay_gateway.requests == []
    assert await client.entry("k1") is None
    assert (await client.balance(syssn)).capturable == 50_000


@pytest.mark.parametrize("trouble", ["locked", "read-only"])
async def test_yes_that_cannot_be_recorded_is_handed_over(
    client: PreauthClient, qfpay_gateway: Gateway, ledger: SqliteLedger, trouble: str
) -> None:
    """After 0000 a failing ledger raises with outcome HAPPENED and the result; the claim stays, nothing is re-sent."""
    syssn = await registered(client, qfpay_gateway)
    qfpay_gateway.faults.add("hang_after", operation="capture")
    call = asyncio.create_task(client.capture(syssn, 20_000, idempotency_key="k1"))
    await qfpay_gateway.wait_hanging()
    with sql(ledger.path) as other:
        if trouble == "locked":
            other.execute("BEGIN EXCLUSIVE")
        else:
            connection_of(ledger).execute("PRAGMA query_only = ON")
        qfpay_gateway.release()
        with pytest.raises(LedgerUnavailableError) as caught:
            await call
    connection_of(ledger).execute("PRAGMA query_only = OFF")
    error = caught.value
    assert (error.outcome, error.idempotency_key) == (Outcome.HAPPENED, "k1")
    assert isinstance(error.result, Capture)
    assert (error.result.amount, error.result.orig_syssn, error.result.code) == (20_000, syssn, "0000")
    assert error.result.syssn in qfpay_gateway.books.movements
    assert (await client.balance(syssn)).held == 20_000
    with pytest.raises(OperationInProgressError):
        await client.capture(syssn, 20_000, idempotency_key="k1")
    assert len(qfpay_gateway.requests) == 1
