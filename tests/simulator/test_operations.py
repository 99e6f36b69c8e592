"""Capture, unfreeze, refund and payment intent: documented shapes, and the money rules behind them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from qfpay_preauth.testing import Gateway, Refusal

from .conftest import Clock
from .kit import TXDTM, Merchant


async def test_a_capture_is_answered_as_documented(gateway: Gateway, merchant: Merchant) -> None:
    """A capture's answer has exactly the keys and texts of QFPay's sample."""
    syssn = gateway.hold(50_000)
    answer = await merchant.capture(syssn, 500, txcurrcd="HKD")
    assert answer == {
        "sysdtm": "2026-03-15 12:00:00",
        "paydtm": "2026-03-15 12:00:00",
        "udid": "qiantai2",
        "txcurrcd": "HKD",
        "txdtm": "2026-03-15 04:00:00",
        "txamt": "500",
        "resperr": "交易成功",
        "respmsg": "Capture received",
        "out_trade_no": "",
        "syssn": "20260315180500020000014080",
        "orig_syssn": syssn,
        "respcd": "0000",
        "chnlsn": "",
        "cardcd": "",
    }
    assert syssn == "20260315180500020000014079"


async def test_captures_add_up_to_the_hold_and_no_further(gateway: Gateway, merchant: Merchant) -> None:
    """Partial captures are executed until the hold is used up; the next one is refused."""
    syssn = gateway.hold(1_000)
    codes = [(await merchant.capture(syssn, amount))["respcd"] for amount in (600, 401, 400, 1)]
    assert codes == ["0000", "1266", "0000", "1266"]
    assert gateway.books.totals(syssn).captured == 1_000
    assert [each.amount for each in gateway.books.executions(syssn)] == [600, 400]


async def test_unfreeze_releases_exactly_the_rest_once(gateway: Gateway, merchant: Merchant) -> None:
    """Only the uncaptured rest is released, once, and nothing can be captured afterwards."""
    syssn = gateway.hold(1_000)
    await merchant.capture(syssn, 300)
    assert [(await merchant.unfreeze(syssn, amount))["respcd"] for amount in (701, 699)] == ["1266"] * 2
    answer = await merchant.unfreeze(syssn, 700)
    assert (answer["respcd"], answer["respmsg"], answer["orig_syssn"]) == ("0000", "Void received", syssn)
    assert (await merchant.unfreeze(syssn, 700))["respcd"] == "1264"
    assert (await merchant.capture(syssn, 1))["respcd"] == "1264"
    totals = gateway.books.totals(syssn)
    assert (totals.captured, totals.unfrozen) == (300, 700)


async def test_partial_unfreeze_can_be_allowed(gateway: Gateway, merchant: Merchant) -> None:
    """With the switch on, less than the rest is released, and the hold is finished all the same."""
    gateway.config.partial_unfreeze = True
    syssn = gateway.hold(1_000)
    assert (await merchant.unfreeze(syssn, 10))["respcd"] == "0000"
    assert (await merchant.capture(syssn, 1))["respcd"] == "1264"


async def test_unfreeze_needs_the_holds_own_number(gateway: Gateway, merchant: Merchant) -> None:
    """Another order's out_trade_no does not open this hold."""
    syssn = gateway.hold(1_000)
    params = {"syssn": syssn, "txamt": "1000", "txdtm": TXDTM, "out_trade_no": "OTHER"}
    assert await merchant.code("unfreeze", **params) == "1267"


async def test_refund_names_its_capture_and_stays_within_it(gateway: Gateway, merchant: Merchant) -> None:
    """A refund answers with orig_syssn = the capture, and refunds never exceed it."""
    capture = (await merchant.capture(gateway.hold(1_000), 500))["syssn"]
    answer = await merchant.refund(capture, 300, "R1")
    assert (answer["respcd"], answer["orig_syssn"], answer["out_trade_no"]) == ("0000", capture, "R1")
    assert answer["txdtm"] == TXDTM
    assert (await merchant.refund(capture, 201, "R2"))["respcd"] == "1272"
    assert (await merchant.refund(capture, 200, "R3"))["respcd"] == "0000"
    assert gateway.books.refunded(capture) == 500


async def test_a_refund_number_is_used_once(gateway: Gateway, merchant: Merchant) -> None:
    """A second refund under the same out_trade_no is told that the number is used."""
    capture = (await merchant.capture(gateway.hold(1_000), 500))["syssn"]
    assert (await merchant.refund(capture, 100, "R1"))["respcd"] == "0000"
    assert (await merchant.refund(capture, 100, "R1"))["respcd"] == "1251"


async def test_refund_of_anything_but_a_capture_is_refused(gateway: Gateway, merchant: Merchant) -> None:
    """Neither a hold nor an unknown id can be refunded."""
    syssn = gateway.hold(1_000)
    assert (await merchant.refund(syssn, 100))["respcd"] == "1268"
    assert (await merchant.refund("20260315180500020099999999", 100))["respcd"] == "1268"


async def test_refund_customs_of_cards_can_be_switched_on(gateway: Gateway, merchant: Merchant, clock: Clock) -> None:
    """Same-day refunds must be full, and two refunds need a gap, if so configured."""
    gateway.config.same_day_full_refund = True
    gateway.config.refund_gap = timedelta(seconds=10)
    capture = (await merchant.capture(gateway.hold(1_000), 500))["syssn"]
    assert (await merchant.refund(capture, 100, "R1"))["respcd"] == "1270"
    clock.move(days=1)
    assert (await merchant.refund(capture, 100, "R1"))["respcd"] == "0000"
    assert (await merchant.refund(capture, 100, "R2"))["respcd"] == "1269"
    clock.move(seconds=10)
    assert (await merchant.refund(capture, 100, "R2"))["respcd"] == "0000"


async def test_a_hold_expires_after_its_window(gateway: Gateway, merchant: Merchant, clock: Clock) -> None:
    """A capture a second before the window's end is executed, one at its end is not."""
    gateway.config.capture_window = timedelta(days=2)
    syssn = gateway.hold(1_000)
    clock.move(days=2, seconds=-1)
    assert (await merchant.capture(syssn, 100))["respcd"] == "0000"
    clock.move(seconds=1)
    assert (await merchant.capture(syssn, 100))["respcd"] == "1181"


async def test_currency_must_be_the_holds(gateway: Gateway, merchant: Merchant) -> None:
    """A capture in another currency is refused."""
    assert (await merchant.capture(gateway.hold(1_000, "HKD"), 100, txcurrcd="USD"))["respcd"] == "1267"


async def test_refusal_codes_are_settable(gateway: Gateway, merchant: Merchant) -> None:
    """What nobody knows about the real gateway is one mapping here."""
    gateway.config.codes["over_capture"] = "1136"
    assert (await merchant.capture(gateway.hold(100), 101))["respcd"] == "1136"


@pytest.mark.parametrize(("mode", "code", "echo"), [("echo", "0000", "C1"), ("ignore", "0000", "")])
async def test_a_captures_number_is_echoed_or_ignored(
    gateway: Gateway, merchant: Merchant, mode: str, code: str, echo: str
) -> None:
    """An out_trade_no on authtrade comes back or not, as configured."""
    gateway.config.capture_number = mode
    answer = await merchant.capture(gateway.hold(1_000), 100, out_trade_no="C1", txdtm=TXDTM)
    assert (answer["respcd"], answer["out_trade_no"], answer["txdtm"]) == (code, echo, TXDTM)


async def test_a_captures_number_can_be_refused(gateway: Gateway, merchant: Merchant) -> None:
    """The card page does not list out_trade_no for authtrade: a strict gateway answers 1104."""
    gateway.config.capture_number = "refuse"
    assert (await merchant.capture(gateway.hold(1_000), 100, out_trade_no="C1"))["respcd"] == "1104"


async def test_an_intent_becomes_a_hold_when_confirmed(gateway: Gateway, merchant: Merchant) -> None:
    """create_payment_intent gives a 32-digit token; the customer's confirmation makes the hold."""
    answer = await merchant.ask(
        "create_payment_intent", txamt="1000", txcurrcd="HKD", pay_type="802801", out_trade_no="ORDER_17"
    )
    assert (answer["respcd"], answer["intent_expiry"]) == ("0000", "2026-03-15 13:00:00")
    assert len(answer["payment_intent"]) == 32
    hold = gateway.books.holds[gateway.confirm(answer["payment_intent"])]
    assert (hold.amount, hold.currency, hold.out_trade_no) == (1_000, "HKD", "ORDER_17")
    with pytest.raises(KeyError):
        gateway.confirm(answer["payment_intent"])


async def test_the_portal_moves_the_same_money(gateway: Gateway, merchant: Merchant) -> None:
    """What is done in the portal counts against the hold, is marked, and obeys the same rules."""
    syssn = gateway.hold(1_000)
    capture = gateway.portal_capture(syssn, 400)
    gateway.portal_refund(capture, 100)
    assert (await merchant.capture(syssn, 601))["respcd"] == "1266"
    gateway.portal_unfreeze(syssn)
    with pytest.raises(Refusal, match="hold_closed"):
        gateway.portal_capture(syssn, 1)
    totals = gateway.books.totals(syssn)
    assert (totals.captured, totals.refunded, totals.unfrozen) == (400, 100, 600)
    assert all(each.portal for each in gateway.books.executions(syssn))
    assert gateway.books.audit() == []


async def test_a_lax_gateway_shows_every_slip_in_its_audit(gateway: Gateway, merchant: Merchant) -> None:
    """Without enforcement everything is executed, and the audit names each broken rule."""
    gateway.config.enforce = False
    syssn = gateway.hold(1_000)
    capture = (await merchant.capture(syssn, 800))["syssn"]
    assert gateway.books.audit() == []
    await merchant.unfreeze(syssn, 300)
    await merchant.unfreeze(syssn, 300)
    await merchant.refund(capture, 801)
    slips = " | ".join(gateway.books.audit())
    assert f"{syssn}: captured 800 and unfroze 600 of 1000" in slips
    assert f"{syssn}: unfrozen 2 times" in slips
    assert f"{capture}: refunded 801 of 800" in slips
    late = (await merchant.capture(syssn, 500))["syssn"]
    slips = " | ".join(gateway.books.audit())
    assert f"{syssn}: captured 1300 of 1000" in slips
    assert f"{late}: captured after the unfreeze of {syssn}" in slips


async def test_a_hold_needs_an_amount(gateway: Gateway) -> None:
    """Holding nothing is a mistake in the test, said at once."""
    with pytest.raises(ValueError, match="positive"):
        gateway.hold(0)
