"""The transaction enquiry and the payment intent: pages, months, duplicates, and answers that are none."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from qfpay_preauth import (
    CredentialsRejectedError,
    DeclinedError,
    GatewayError,
    InvalidRequestError,
    NotSentError,
    RateLimitedError,
)
from qfpay_preauth._clock import SystemClock
from qfpay_preauth.testing import Gateway, Rule
from tests.client.kit import sent
from tests.support import client_of, registered


class At(SystemClock):
    """A wall clock that a test sets; the gateway and the client read the same."""

    def __init__(self, moment: datetime) -> None:
        self.moment = moment

    def now(self) -> datetime:
        return self.moment

    def __call__(self) -> datetime:
        return self.moment


@pytest.mark.parametrize("newest_first", [True, False])
async def test_pages_and_months(newest_first: bool) -> None:
    """A window over three months and more than a page: every row once, each request within a month of UTC+8."""
    clock = At(datetime(2026, 1, 31, 12, tzinfo=UTC))
    async with Gateway(clock=clock) as gateway:
        gateway.config.newest_first = newest_first
        made = []
        for _, count in (("January", 3), ("February", 230), ("March", 2)):
            made += [gateway.hold(1_000) for _ in range(count)]
            clock.moment += timedelta(days=28)
        clock.moment -= timedelta(days=28)
        client = client_of(gateway)
        client._clock = clock
        async with client:
            rows = [row async for row in client.query(start=datetime(2026, 1, 1, tzinfo=UTC))]
            assert sorted(row.syssn for row in rows) == sorted(made)
            assert sent(gateway, "query") == 5
            assert {request.params["page_size"] for request in gateway.requests} == {"100"}
            assert len({request.params["start_time"][:7] for request in gateway.requests}) == 3
            some = [row async for row in client.query(syssn=[made[0], made[-1]])]
            assert sorted(row.syssn for row in some) == [made[0], made[-1]]
            assert [row.syssn async for row in client.query(syssn=made[0])] == [made[0]]
            number = gateway.books.holds[made[-1]].out_trade_no
            assert [row.syssn async for row in client.query(out_trade_no=number)] == [made[-1]]
            assert [row async for row in client.query()] == [row for row in rows if row.syssn in made[-2:]]


async def test_rows(qfpay_gateway: Gateway) -> None:
    """A row says which transaction, of what, how much and how it stands."""
    async with client_of(qfpay_gateway) as client:
        syssn = await registered(client, qfpay_gateway)
        capture = await client.capture(syssn, 1_000, idempotency_key="k")
        (row,) = [row async for row in client.query(syssn=str(capture.syssn))]
        assert (row.syssn, row.orig_syssn, row.amount, row.currency) == (capture.syssn, syssn, 1_000, "HKD")
        assert (row.code, row.message, row.cancel, row.order_type) == ("0000", "交易成功", "0", "payment")
        assert row.system_time is not None
        assert row.system_time.utcoffset() == timedelta(hours=8)
        assert "cardcd" not in row.raw


async def test_many_ids(qfpay_gateway: Gateway) -> None:
    """More than a hundred ids are asked for in several requests, and no row comes twice."""
    async with client_of(qfpay_gateway) as client:
        made = [qfpay_gateway.hold(1_000) for _ in range(130)]
        rows = [row async for row in client.query(syssn=made)]
        assert len(rows) == len({row.syssn for row in rows}) == 130


async def test_a_row_that_moves_between_pages(qfpay_gateway: Gateway) -> None:
    """A row that comes again, because new ones pushed it onto the next page, is given once."""
    async with client_of(qfpay_gateway) as client:
        made = [qfpay_gateway.hold(1_000) for _ in range(150)]
        found = []
        async for row in client.query():
            found.append(row.syssn)
            if len(found) == 10:
                qfpay_gateway.hold(1_000)  # newest first: what was the 100th row is now the 101st
        assert len(found) == len(set(found))
        assert set(made) <= set(found)
        (first, second) = qfpay_gateway.requests
        assert (first.params["page"], second.params["page"]) == ("1", "2")


async def test_no_usable_answer(qfpay_gateway: Gateway) -> None:
    """An enquiry without a usable answer raises; an empty list is an answer."""
    async with client_of(qfpay_gateway, attempts_max=2) as client:
        cases: list[tuple[Rule, type[Exception]]] = [
            (Rule(kind="respcd", code="1108"), CredentialsRejectedError),
            (Rule(kind="respcd", code="1104"), DeclinedError),
            (Rule(kind="rate_limited", times=None), RateLimitedError),
            *((Rule(kind=kind), GatewayError) for kind in ("drop_before", "garbled", "cut", "huge", "status_before")),
            (Rule(kind="altered", changes={"data": None}), GatewayError),
            (Rule(kind="altered", changes={"data": [1]}), GatewayError),
            (Rule(kind="altered", changes={"data": [{"syssn": ""}]}), GatewayError),
        ]
        for rule, kind in cases:
            qfpay_gateway.faults.clear()
            qfpay_gateway.faults.add(rule)
            with pytest.raises(kind):
                [row async for row in client.query()]
        qfpay_gateway.faults.clear()
        assert [row async for row in client.query()] == []
        await qfpay_gateway.close_idle()
        await qfpay_gateway.refuse_connections()
        with pytest.raises(NotSentError):
            [row async for row in client.query()]


async def test_bad_input_of_an_enquiry(qfpay_gateway: Gateway) -> None:
    """Ids that would split a list, naive moments and a window that ends before it starts send nothing."""
    now = datetime.now(UTC)
    async with client_of(qfpay_gateway) as client:
        bad: list[tuple[str, dict[str, object]]] = [
            ("syssn", {"syssn": "a,b"}),
            ("syssn", {"syssn": ["1", ""]}),
            ("out_trade_no", {"out_trade_no": "a&b"}),
            ("start", {"start": datetime(2026, 1, 1)}),  # noqa: DTZ001 - naive is bad
            ("end", {"end": "now"}),
            ("start", {"start": now, "end": now - timedelta(seconds=1)}),
        ]
        for name, arguments in bad:
            with pytest.raises(InvalidRequestError, match=name):
                [row async for row in client.query(**arguments)]  # type: ignore[arg-type]
    assert qfpay_gateway.requests == []


async def test_payment_intent(qfpay_gateway: Gateway) -> None:
    """The intent that the browser needs; what the customer then confirms can be registered and captured."""
    async with client_of(qfpay_gateway) as client:
        urls = {"return_url": "https://shop.example/back/1", "notify_url": "https://shop.example/hook"}
        intent = await client.create_payment_intent(50_000, "HKD", out_trade_no="O1", pay_type="802801", **urls)
        assert len(intent.payment_intent) == 32
        assert intent.intent_expiry is not None
        assert intent.intent_expiry > datetime.now(UTC)
        assert (intent.out_trade_no, intent.amount, intent.currency) == ("O1", 50_000, "HKD")
        params = qfpay_gateway.requests[-1].params
        assert params == {"txamt": "50000", "txcurrcd": "HKD", "out_trade_no": "O1", "pay_type": "802801", **urls}
        hold = qfpay_gateway.books.confirm(intent.payment_intent, datetime.now(UTC))
        await client.register_authorization(hold.syssn, 50_000, "HKD", out_trade_no="O1")
        assert (await client.capture(hold.syssn, 50_000, idempotency_key="k")).amount == 50_000


async def test_payment_intent_may_be_repeated(qfpay_gateway: Gateway) -> None:
    """No money moves by it: a lost answer says that it is safe to call again, and bad input sends nothing."""
    async with client_of(qfpay_gateway) as client:
        qfpay_gateway.faults.add("drop_after")
        with pytest.raises(GatewayError, match="safe to call again"):
            await client.create_payment_intent(1_000, "HKD", out_trade_no="O1", pay_type="802801")
        before = len(qfpay_gateway.requests)
        good = {"amount": 1_000, "currency": "HKD", "out_trade_no": "O1", "pay_type": "802801"}
        bad = {"amount": 1.5, "currency": "JPY", "out_trade_no": "a,b", "pay_type": "", "return_url": "http://x/?a=b&c"}
        for name, value in bad.items():
            with pytest.raises(InvalidRequestError, match=name):
                await client.create_payment_intent(**{**good, name: value})  # type: ignore[arg-type]
        assert len(qfpay_gateway.requests) == before
