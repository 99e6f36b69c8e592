"""What an enquiry's rows may be like: the open questions both ways, rows that never come, pages that shift."""

from __future__ import annotations

import aiohttp
import pytest

from qfpay_preauth.testing import Gateway, Refusal

from .conftest import Clock
from .kit import Merchant


async def _closed_hold(gateway: Gateway, merchant: Merchant) -> str:
    """Captured, refunded and unfrozen; the hold's syssn."""
    syssn = gateway.hold(1_000, out_trade_no="ORDER_17")
    capture = (await merchant.capture(syssn, 400, out_trade_no="C1"))["syssn"]
    await merchant.refund(capture, 100, "R1")
    await merchant.unfreeze(syssn, 600)
    return syssn


@pytest.mark.parametrize("word", ["payment", "unfreeze", None])
async def test_words_may_be_equal_or_absent(gateway: Gateway, merchant: Merchant, word: str | None) -> None:
    """A capture's row may say the same as an unfreeze's, or nothing."""
    gateway.config.order_types |= {"capture": word, "unfreeze": word}
    await _closed_hold(gateway, merchant)
    words = [row.get("order_type", "absent") for row in await merchant.rows()]
    assert words == [word or "absent", "refund", word or "absent", "payment"]


@pytest.mark.parametrize(
    ("setting", "linked"),
    [
        (True, [True, True, True, False]),
        (False, [False, True, False, False]),
        (("capture",), [False, True, True, False]),
        (["unfreeze"], [True, True, False, False]),
    ],
)
async def test_rows_may_be_linked_by_kind(
    gateway: Gateway, merchant: Merchant, setting: bool | list[str], linked: list[bool]
) -> None:
    """Refunds name their capture; captures and unfreezes their hold or not."""
    gateway.config.link_rows = setting
    await _closed_hold(gateway, merchant)
    assert ["origssn" in row for row in await merchant.rows()] == linked


@pytest.mark.parametrize(
    ("way", "numbers"),
    [
        ("own", ["ORDER_17", "R1", "C1", "ORDER_17"]),
        ("hold", ["ORDER_17", "R1", "ORDER_17", "ORDER_17"]),
        ("none", ["", "R1", "", "ORDER_17"]),
    ],
)
async def test_rows_show_one_number_or_another(
    gateway: Gateway, merchant: Merchant, way: str, numbers: list[str]
) -> None:
    """A capture's row may show its own number, the hold's or none; an enquiry by number goes by what is shown."""
    gateway.config.shown_numbers = {"capture": way, "unfreeze": way}
    await _closed_hold(gateway, merchant)
    assert [row["out_trade_no"] for row in await merchant.rows()] == numbers
    assert len(await merchant.rows(out_trade_no="ORDER_17")) == numbers.count("ORDER_17")


async def test_hidden_rows_never_come(gateway: Gateway, merchant: Merchant, clock: Clock) -> None:
    """Executed and answered, but no enquiry shows it, by window or id; until it is taken out of ``hidden``."""
    gateway.config.ids_override_window = True
    syssn = gateway.hold(1_000)
    gateway.faults.add("hidden", amount=1)
    capture = (await merchant.capture(syssn, 1, out_trade_no="C1"))["syssn"]
    shown = (await merchant.capture(syssn, 2))["syssn"]
    for params in ({}, {"syssn": capture}, {"out_trade_no": "C1"}):
        assert capture not in [row["syssn"] for row in await merchant.rows(**params)]
        clock.move(days=1)
    assert [row["syssn"] for row in await merchant.rows()] == [shown, syssn]
    assert gateway.books.totals(syssn).captured == 3
    assert gateway.books.hidden == {capture}
    gateway.books.hidden.clear()
    assert len(await merchant.rows(syssn=capture)) == 1


@pytest.mark.parametrize("kind", ["drop_after", "status_after", "pending", "late"])
async def test_any_fault_may_hide_its_row(gateway: Gateway, merchant: Merchant, kind: str) -> None:
    """The worst day: the answer is lost, and the enquiry shows nothing either."""
    syssn = gateway.hold(1_000)
    gateway.faults.add(kind, operation="capture", hidden=True)
    try:
        async with merchant.post("capture", syssn=syssn, txamt="100"):
            pass
    except aiohttp.ServerDisconnectedError:
        assert kind == "drop_after"
    gateway.run_late()
    gateway.settle_pending()
    assert gateway.books.totals(syssn).captured == 100
    assert [row["syssn"] for row in await merchant.rows()] == [syssn]


@pytest.mark.parametrize("newest_first", [True, False])
async def test_new_rows_shift_the_pages(gateway: Gateway, merchant: Merchant, newest_first: bool) -> None:
    """Between two pages others trade: newest first, a row is read twice; oldest first, none is."""
    gateway.config.newest_first = newest_first
    made = [gateway.hold(100) for _ in range(6)]
    gateway.faults.add("shifted", operation="query", count=2)
    pages = [await merchant.rows(page=str(page), page_size="3") for page in (1, 2, 3)]
    read = [row["syssn"] for page in pages for row in page]
    twice = [syssn for syssn in made if read.count(syssn) == 2]
    assert twice == (made[3:5] if newest_first else [])
    assert set(made) <= set(read)
    assert len(gateway.books.holds) == 8


async def test_a_portal_unfreeze_is_of_what_is_left(gateway: Gateway, merchant: Merchant) -> None:
    """All that no capture has claimed, pending ones included; a pending refund claims nothing of the hold. Without a
    hold there is a refusal."""
    syssn = gateway.hold(1_000)
    capture = (await merchant.capture(syssn, 300))["syssn"]
    gateway.faults.add("pending", times=2)
    await merchant.capture(syssn, 200)
    await merchant.refund(capture, 50)
    unfreeze = gateway.portal_unfreeze(syssn)
    assert gateway.books.movements[unfreeze].amount == 500
    assert gateway.books.movements[unfreeze].portal
    with pytest.raises(Refusal, match="hold_unknown"):
        gateway.portal_unfreeze("1")
