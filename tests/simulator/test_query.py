"""The transaction enquiry: filters, windows, pages, lag, and the words that are open questions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from qfpay_preauth.testing import Gateway

from .conftest import Clock
from .kit import TXDTM, Merchant


async def test_rows_have_the_documented_keys(gateway: Gateway, merchant: Merchant) -> None:
    """Freeze, capture, refund and unfreeze appear newest first, linked by origssn, with their `cancel`."""
    syssn = gateway.hold(1_000, out_trade_no="ORDER_17")
    capture = (await merchant.capture(syssn, 400))["syssn"]
    refund = (await merchant.refund(capture, 100, "R1"))["syssn"]
    unfreeze = (await merchant.unfreeze(syssn, 600))["syssn"]
    rows = await merchant.rows()
    assert [row["syssn"] for row in rows] == [unfreeze, refund, capture, syssn]
    assert [row["order_type"] for row in rows] == ["unfreeze", "refund", "payment", "payment"]
    assert [row.get("origssn") for row in rows] == [syssn, capture, syssn, None]
    assert [row["cancel"] for row in rows] == ["0", "0", "5", "4"]
    assert [row["txamt"] for row in rows] == ["600", "100", "400", "1000"]
    assert rows[1]["txdtm"] == TXDTM
    assert rows[3] == {
        "syssn": syssn,
        "out_trade_no": "ORDER_17",
        "txamt": "1000",
        "txcurrcd": "HKD",
        "respcd": "0000",
        "errmsg": "交易成功",
        "pay_type": "802801",
        "order_type": "payment",
        "txdtm": "2026-03-15 12:00:00",
        "sysdtm": "2026-03-15 12:00:00",
        "paydtm": "2026-03-15 12:00:00",
        "cancel": "4",
        **dict.fromkeys(("chnlsn", "chnlsn2", "cardcd", "userid", "clisn", "cash_fee", "cash_fee_type"), ""),
    }


async def test_cancel_tells_refunds_and_ends(gateway: Gateway, merchant: Merchant, clock: Clock) -> None:
    """A fully refunded capture is 3; a hold is 4 once used up or expired, 0 before."""
    syssn, other = gateway.hold(500), gateway.hold(500)
    capture = (await merchant.capture(syssn, 500))["syssn"]
    await merchant.refund(capture, 500)
    cancels = {row["syssn"]: row["cancel"] for row in await merchant.rows()}
    assert (cancels[capture], cancels[syssn], cancels[other]) == ("3", "4", "0")
    clock.move(days=7)
    assert (await merchant.rows(syssn=other))[0]["cancel"] == "4"


async def test_ids_filter_as_comma_lists(gateway: Gateway, merchant: Merchant) -> None:
    """Several syssn or several out_trade_no; both together must both fit; unknown ids give an empty list."""
    first, second, third = (gateway.hold(100, out_trade_no=name) for name in "ABC")
    assert [row["syssn"] for row in await merchant.rows(syssn=f"{first},{third}")] == [third, first]
    assert [row["syssn"] for row in await merchant.rows(out_trade_no="A,B")] == [second, first]
    assert await merchant.rows(syssn=first, out_trade_no="B") == []
    assert await merchant.rows(syssn="20260315000000000000000000") == []
    assert await merchant.code("query", syssn=f"{first},") == "1104"


async def test_codes_and_pay_types_filter(gateway: Gateway, merchant: Merchant) -> None:
    """respcd and pay_type narrow the rows."""
    gateway.faults.add("pending", operation="capture")
    pending = await merchant.capture(gateway.hold(100), 100)
    assert [row["syssn"] for row in await merchant.rows(respcd="1143")] == [pending["syssn"]]
    assert len(await merchant.rows(pay_type="802801,800101")) == 2
    assert await merchant.rows(pay_type="800101") == []


async def test_the_window_is_one_calendar_month_of_utc8(gateway: Gateway, merchant: Merchant, clock: Clock) -> None:
    """By default the current month in UTC+8; both ends included; across months is a parameter error."""
    clock.now = datetime(2026, 3, 31, 15, 59, 59, tzinfo=UTC)  # 23:59:59 on 31 March in UTC+8
    march = gateway.hold(100)
    clock.move(seconds=1)
    april = gateway.hold(100)
    assert [row["syssn"] for row in await merchant.rows()] == [april]
    assert await merchant.rows(syssn=march) == []
    window = {"start_time": "2026-03-31 23:59:59", "end_time": "2026-03-31 23:59:59"}
    assert [row["syssn"] for row in await merchant.rows(**window)] == [march]
    assert len(await merchant.rows(start_time="2026-03-01 00:00:00")) == 1
    assert len(await merchant.rows(end_time="2026-04-30 00:00:00")) == 1
    for start, end in (
        ("2026-03-31", "2026-04-01"),
        ("2025-04-01", "2026-04-01"),
        ("2026-04-02", "2026-04-01"),
    ):
        params = {"start_time": f"{start} 00:00:00", "end_time": f"{end} 00:00:00"}
        assert await merchant.code("query", **params) == "1104"
    assert await merchant.code("query", start_time="yesterday") == "1104"


async def test_december_has_an_end(gateway: Gateway, merchant: Merchant, clock: Clock) -> None:
    """The default window of December reaches to its last second."""
    clock.now = datetime(2026, 12, 31, 15, 59, 59, tzinfo=UTC)
    gateway.hold(100)
    assert len(await merchant.rows()) == 1


async def test_ids_may_override_the_window(gateway: Gateway, merchant: Merchant, clock: Clock) -> None:
    """The documentation disagrees with itself here, so both readings can be tried."""
    syssn = gateway.hold(100)
    clock.move(days=40)
    assert await merchant.rows(syssn=syssn) == []
    gateway.config.ids_override_window = True
    assert len(await merchant.rows(syssn=syssn)) == 1
    assert await merchant.rows() == []


async def test_pages(gateway: Gateway, merchant: Merchant) -> None:
    """Ten rows a page unless asked for up to a hundred; the pages join without gap or overlap."""
    made = [gateway.hold(100) for _ in range(23)]
    assert len(await merchant.rows()) == 10
    pages = [await merchant.rows(page=str(page), page_size="9") for page in (1, 2, 3, 4)]
    assert [len(page) for page in pages] == [9, 9, 5, 0]
    assert [row["syssn"] for page in pages for row in page] == made[::-1]
    gateway.config.newest_first = False
    assert [row["syssn"] for row in await merchant.rows(page_size="100")] == made


@pytest.mark.parametrize("params", [{"page": "0"}, {"page": "x"}, {"page_size": "101"}, {"page_size": "-1"}])
async def test_impossible_pages_are_refused(merchant: Merchant, params: dict[str, str]) -> None:
    """Page numbers start at 1 and a page has at most 100 rows."""
    assert await merchant.code("query", **params) == "1104"


async def test_young_rows_are_not_shown_yet(gateway: Gateway, merchant: Merchant, clock: Clock) -> None:
    """With a lag a capture that was executed is missing from the enquiry for a while."""
    gateway.config.query_lag = timedelta(seconds=3)
    gateway.hold(100)
    assert await merchant.rows() == []
    clock.move(seconds=3)
    assert len(await merchant.rows()) == 1


async def test_words_and_links_are_settable(gateway: Gateway, merchant: Merchant) -> None:
    """Which order_type a capture has, and whether it is linked, is unknown: both are settings."""
    gateway.config.order_types["capture"] = "preauth_finish"
    gateway.config.link_rows = False
    capture = (await merchant.capture(gateway.hold(100), 60))["syssn"]
    await merchant.refund(capture, 60)
    refund_row, capture_row = (await merchant.rows())[:2]
    assert capture_row["order_type"] == "preauth_finish"
    assert "origssn" not in capture_row
    assert refund_row["origssn"] == capture
