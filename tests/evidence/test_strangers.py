"""A merchant's other sales are notified to the same URL: they are looked up together, once, and then let go."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import pytest

from qfpay_preauth import PreauthClient, _looks
from qfpay_preauth.testing import Gateway
from tests.evidence.kit import HOLD, queries, teach_words, until
from tests.support import client_of, registered

SALES = 30


async def told_of_sales(client: PreauthClient, gateway: Gateway, count: int = SALES) -> list[str]:
    """So many sales, each notified."""
    sales = [gateway.hold(999) for _ in range(count)]
    for syssn in sales:
        await client.handle_notification(*gateway.notification(syssn))
    return sales


def asked_for(gateway: Gateway, syssn: str, since: int) -> int:
    """How many enquiries after the first `since` requests named a syssn."""
    return sum(syssn in each.params.get("syssn", "") for each in gateway.requests[since:])


async def test_other_sales_are_looked_up_once(qfpay_gateway: Gateway) -> None:
    """What the enquiry has shown to be somebody else's is neither counted nor asked for by any later pass."""
    async with client_of(qfpay_gateway) as client:
        await teach_words(client, qfpay_gateway)
        sales = await told_of_sales(client, qfpay_gateway)
        assert (await client.reconcile()).unexplained_notices == 0
        since = len(qfpay_gateway.requests)
        await client.reconcile()
        assert [asked_for(qfpay_gateway, each, since) for each in sales] == [0] * SALES


async def test_many_notices_are_one_enquiry(qfpay_gateway: Gateway) -> None:
    """What is notified within a second is looked up together, and not one by one beside the captures."""
    async with client_of(qfpay_gateway) as client:
        await teach_words(client, qfpay_gateway)
        since, before = len(qfpay_gateway.requests), queries(qfpay_gateway)
        sales = await told_of_sales(client, qfpay_gateway)

        async def all_asked_for() -> bool:
            return all(asked_for(qfpay_gateway, each, since) for each in sales)

        await until(all_asked_for)
        assert queries(qfpay_gateway) - before <= 3


async def test_where_it_never_ends_it_asks_ever_more_rarely(
    qfpay_gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A merchant with a sale every moment: the pause between lookups doubles, and the last one is asked for as well."""
    monkeypatch.setattr(_looks, "_GATHER_S", 0.05)
    monkeypatch.setattr(_looks, "_GATHER_MAX_S", 0.4)
    async with client_of(qfpay_gateway) as client:
        await teach_words(client, qfpay_gateway)
        before, ends = queries(qfpay_gateway), time.monotonic() + 1.5
        while time.monotonic() < ends:
            sales = await told_of_sales(client, qfpay_gateway, 1)
            await asyncio.sleep(0.005)  # the pace of the sales
        assert queries(qfpay_gateway) - before <= 6  # at 0.05, 0.15, 0.35, 0.75, 1.15 and perhaps 1.55 s
        since = len(qfpay_gateway.requests)

        async def last_asked_for() -> bool:
            return asked_for(qfpay_gateway, sales[0], since) > 0

        await until(last_asked_for)


async def test_lookups_stay_within_their_share(qfpay_gateway: Gateway) -> None:
    """However many are notified, the lookups take at most reconciliation's quarter of the minute's budget."""
    async with client_of(qfpay_gateway, requests_per_second=4, requests_per_minute=8) as client:
        await registered(client, qfpay_gateway, HOLD)
        await told_of_sales(client, qfpay_gateway, 250)  # three enquiries, of which two fit

        async def two_asked() -> bool:
            return queries(qfpay_gateway) == 2

        await until(two_asked)
        syssn = await registered(client, qfpay_gateway, HOLD)
        await client.capture(syssn, 700, idempotency_key="k", deadline_s=3)
        assert queries(qfpay_gateway) == 2


async def test_a_capture_on_a_hold_that_nobody_registered(qfpay_gateway: Gateway) -> None:
    """It is told once, by the pass that finds it out, for somebody may have forgotten to register; then let go."""
    async with client_of(qfpay_gateway) as client:
        await teach_words(client, qfpay_gateway)
        other = qfpay_gateway.portal_capture(qfpay_gateway.hold(HOLD), 3_000)
        await client.handle_notification(*qfpay_gateway.notification(other))
        assert [(await client.reconcile()).unexplained_notices for _ in range(2)] == [1, 0]


async def test_what_the_enquiry_does_not_show_yet(qfpay_gateway: Gateway) -> None:
    """A notice that the enquiry knows nothing of stays open, until it does."""
    async with client_of(qfpay_gateway) as client:
        await teach_words(client, qfpay_gateway)
        qfpay_gateway.config.query_lag = timedelta(hours=1)
        await told_of_sales(client, qfpay_gateway, 2)
        assert [(await client.reconcile()).unexplained_notices for _ in range(2)] == [2, 2]
        qfpay_gateway.config.query_lag = timedelta(0)
        assert (await client.reconcile()).unexplained_notices == 0


async def test_a_hold_that_is_registered_later(qfpay_gateway: Gateway) -> None:
    """A freeze that was let go as a stranger's harms nothing: registered afterwards, the hold works as any other."""
    async with client_of(qfpay_gateway) as client:
        await teach_words(client, qfpay_gateway)
        (syssn,) = await told_of_sales(client, qfpay_gateway, 1)
        portal = qfpay_gateway.portal_capture(syssn, 300)
        await client.handle_notification(*qfpay_gateway.notification(portal))
        await client.reconcile()
        number = qfpay_gateway.books.holds[syssn].out_trade_no
        at = qfpay_gateway.books.holds[syssn].at
        await client.register_authorization(syssn, 999, "HKD", out_trade_no=number, authorized_at=at)
        report = await client.reconcile()
        assert [each.syssn for each in report.foreign] == [portal]
        await client.capture(syssn, 699, idempotency_key="k")
        assert (await client.balance(syssn)).capturable == 0
