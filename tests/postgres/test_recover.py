"""An older ledger was restored: what the gateway did since is in the books before anything is written."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from qfpay_preauth import (
    AuthorizationClosedError,
    InvalidRequestError,
    OutcomeUnknownError,
    OverCaptureError,
    OverRefundError,
    PreauthClient,
)
from qfpay_preauth._looks import Reader
from qfpay_preauth._recover import RecoverReport, recover
from qfpay_preauth.ledger._copy import copy_ledger
from qfpay_preauth.ledger.postgres import PostgresLedger
from qfpay_preauth.testing import Gateway
from tests.support import client_of, registered, sqlite_url


async def _recover(client: PreauthClient, since: datetime | None = None) -> RecoverReport:
    desk = await client._desk()
    assert client._running is not None
    return await recover(Reader(desk), client._running.reconciler, client.account, since)


@pytest.fixture(params=["sqlite", "postgresql"])
async def restored(request: pytest.FixtureRequest, qfpay_gateway: Gateway, tmp_path: Path, url: str) -> dict[str, str]:
    """The ledger of this morning (`url`), and the syssns of what was done since."""
    now = sqlite_url(tmp_path, "now.db")
    ids: dict[str, str] = {}
    async with client_of(qfpay_gateway, now) as client:
        ids["known"] = await registered(client, qfpay_gateway)
        ids["closed"] = await registered(client, qfpay_gateway)
        taught = await registered(client, qfpay_gateway)
        await client.capture(taught, 1_000, idempotency_key="t1")
        await client.unfreeze(taught, idempotency_key="t2")
        ids["capture"] = str((await client.capture(ids["known"], 10_000, idempotency_key="k1")).syssn)
        await client.reconcile()
    shutil.copy(tmp_path / "now.db", tmp_path / "morning.db")
    async with client_of(qfpay_gateway, now) as client:
        await client.capture(ids["known"], 15_000, idempotency_key="k2")
        await client.refund(ids["capture"], 4_000, idempotency_key="r1")
        await client.unfreeze(ids["closed"], idempotency_key="u1")
        ids["new"] = await registered(client, qfpay_gateway)
        capture = await client.capture(ids["new"], 20_000, idempotency_key="k3")
        await client.refund(str(capture.syssn), 5_000, idempotency_key="r3")
        ids["untouched"] = await registered(client, qfpay_gateway)
    ids["url"] = sqlite_url(tmp_path, "morning.db")
    if request.param == "postgresql":
        await PostgresLedger(url).migrate("sandbox")
        await copy_ledger(ids["url"], url, "sandbox")
        ids["url"] = url
    return ids


async def test_recovering_brings_in_what_was_done_since(qfpay_gateway: Gateway, restored: dict[str, str]) -> None:
    """Captures, refunds and unfreezes since the backup lower what is left, on known holds and on lost ones."""
    sent = [request for request in qfpay_gateway.requests if request.operation != "query"]
    async with client_of(qfpay_gateway, restored["url"]) as client:
        report = await _recover(client)
        assert [hold.syssn for hold in report.imported] == [restored["new"]]
        assert report.not_imported == ()
        assert report.report.complete
        known = await client.balance(restored["known"])
        assert (known.captured, known.foreign, known.capturable) == (10_000, 15_000, 25_000)
        new = await client.balance(restored["new"])
        assert (new.foreign, new.refunded, new.capturable) == (20_000, 5_000, 30_000)
        with pytest.raises(OverCaptureError):
            await client.capture(restored["new"], 30_001, idempotency_key="k4")
        with pytest.raises(OverRefundError):
            await client.refund(restored["capture"], 6_001, idempotency_key="r4")
        with pytest.raises(AuthorizationClosedError):
            await client.capture(restored["closed"], 1_000, idempotency_key="k5")
    assert [request for request in qfpay_gateway.requests if request.operation != "query"] == sent
    assert qfpay_gateway.books.audit() == []


async def test_registering_a_lost_hold_again_changes_nothing(qfpay_gateway: Gateway, restored: dict[str, str]) -> None:
    """An application that registers its holds again after the recovery finds them as they are."""
    async with client_of(qfpay_gateway, restored["url"]) as client:
        await _recover(client)
        for name, left in (("new", 30_000), ("untouched", 50_000)):
            hold = qfpay_gateway.books.holds[restored[name]]
            await client.register_authorization(hold.syssn, 50_000, "HKD", out_trade_no=hold.out_trade_no)
            assert (await client.balance(hold.syssn)).capturable == left


async def test_recovering_twice_does_nothing_more(qfpay_gateway: Gateway, restored: dict[str, str]) -> None:
    """The second time nothing is new, and no sum moves."""
    async with client_of(qfpay_gateway, restored["url"]) as client:
        await _recover(client)
        before = [await client.balance(restored[name]) for name in ("known", "closed", "new")]
        again = await _recover(client)
        assert (again.imported, again.report.foreign) == ((), ())
        assert [await client.balance(restored[name]) for name in ("known", "closed", "new")] == before


async def test_what_is_pending_needs_a_person(qfpay_gateway: Gateway, restored: dict[str, str]) -> None:
    """A lost hold on which something is still pending is named, not imported; the rest is."""
    syssn = qfpay_gateway.hold(9_000)
    qfpay_gateway.portal_capture(syssn, 1_000)
    qfpay_gateway.faults.add("pending", operation="capture", amount=2_000)
    async with client_of(qfpay_gateway, "memory://") as other:
        await other.register_authorization(
            syssn, 9_000, "HKD", out_trade_no=qfpay_gateway.books.holds[syssn].out_trade_no
        )
        with pytest.raises(OutcomeUnknownError):
            await other.capture(syssn, 2_000, idempotency_key="p")
    async with client_of(qfpay_gateway, restored["url"]) as client:
        report = await _recover(client)
        assert report.not_imported == ((syssn, "Something on it is still pending."),)
        assert [hold.syssn for hold in report.imported] == [restored["new"]]


async def test_an_empty_ledger_must_be_told_since_when(qfpay_gateway: Gateway) -> None:
    """Where the whole ledger is lost, everything that was done is brought in, once it is said since when."""
    syssn = qfpay_gateway.hold(9_000)
    qfpay_gateway.portal_capture(syssn, 1_000)
    async with client_of(qfpay_gateway, "memory://") as client:
        with pytest.raises(InvalidRequestError, match="since when"):
            await _recover(client)
        report = await _recover(client, datetime.now(UTC) - timedelta(days=2))
        assert [hold.syssn for hold in report.imported] == [syssn]
        assert (await client.balance(syssn)).capturable == 8_000
