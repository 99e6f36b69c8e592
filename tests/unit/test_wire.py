"""Requests as QFPay documents them, and rows, times and references read and made without guessing."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfpay_preauth import _checks
from qfpay_preauth._models import Operation, SignedRequest
from qfpay_preauth._wire import (
    IntentRequest,
    build,
    build_intent,
    build_query,
)
from qfpay_preauth.errors import InvalidRequestError

from .kit import CLIENT_KEY, HOLD, ORDER, REFUND_NUMBER, TAKEN, entry_of, sender_of

HK = timezone(timedelta(hours=8))
MARCH = (datetime(2026, 3, 1, tzinfo=HK), datetime(2026, 3, 31, 23, 59, 59, tzinfo=HK))


def params_of(request: SignedRequest) -> dict[str, str]:
    """The decoded form, after checking by lines of our own that the signature covers exactly these values."""
    pairs = parse_qsl(request.body.decode("ascii"), keep_blank_values=True, strict_parsing=True)
    params = dict(pairs)
    assert len(params) == len(pairs)
    assert all(params.values())
    text = "&".join(f"{name}={params[name]}" for name in sorted(params)) + CLIENT_KEY
    digest = hashlib.sha256 if request.headers.get("X-QF-SIGNTYPE") == "SHA256" else hashlib.md5
    assert request.headers["X-QF-SIGN"] == digest(text.encode()).hexdigest().upper()
    return params


# ------------------------------------------------------------------------------------------------ requests


def test_a_capture_is_asked_as_documented() -> None:
    """authtrade carries the amount, the hold's syssn and the currency, and nothing else."""
    request = build(entry_of(), sender_of())
    assert request.path == "/trade/v1/authtrade"
    assert params_of(request) == {"txamt": "500", "syssn": HOLD, "txcurrcd": "HKD"}


def test_a_capture_with_a_reference_adds_number_and_time() -> None:
    """With the switch on, a capture carries its own out_trade_no and txdtm in UTC+8."""
    request = build(entry_of(out_trade_no=REFUND_NUMBER), sender_of())
    assert params_of(request) == {
        "txamt": "500",
        "syssn": HOLD,
        "txcurrcd": "HKD",
        "out_trade_no": REFUND_NUMBER,
        "txdtm": "2026-03-16 04:30:05",
    }


def test_an_unfreeze_is_asked_as_documented() -> None:
    """unfreeze carries the hold's own merchant order number and the moment in UTC+8."""
    request = build(entry_of(Operation.UNFREEZE), sender_of())
    assert request.path == "/trade/v1/unfreeze"
    assert params_of(request) == {"txamt": "500", "syssn": HOLD, "out_trade_no": ORDER, "txdtm": "2026-03-16 04:30:05"}


def test_a_refund_is_asked_as_documented() -> None:
    """refund carries the capture's syssn and a number of its own."""
    request = build(entry_of(Operation.REFUND), sender_of())
    assert request.path == "/trade/v1/refund"
    assert params_of(request) == {
        "txamt": "500",
        "syssn": TAKEN,
        "out_trade_no": REFUND_NUMBER,
        "txdtm": "2026-03-16 04:30:05",
    }


def test_an_intent_is_asked_as_documented() -> None:
    """create_payment_intent carries what was given; URLs that were not given are absent."""
    wish = IntentRequest(12_345, "USD", ORDER, "802801", {"return_url": "https://shop.example/r/1?x"})
    request = build_intent(sender_of(), wish)
    assert request.path == "/payment_element/v1/create_payment_intent"
    assert params_of(request) == {
        "txamt": "12345",
        "txcurrcd": "USD",
        "out_trade_no": ORDER,
        "pay_type": "802801",
        "return_url": "https://shop.example/r/1?x",
    }


def test_an_enquiry_is_asked_as_documented() -> None:
    """query joins ids with commas, states its window in UTC+8, and asks for the largest page."""
    window = (datetime(2026, 2, 28, 16, 0, tzinfo=UTC), datetime(2026, 3, 31, 15, 59, 59, tzinfo=UTC))
    request = build_query(sender_of(), syssn=[HOLD, TAKEN], out_trade_no=[ORDER], window=window, page=3)
    assert request.path == "/trade/v1/query"
    assert params_of(request) == {
        "syssn": f"{HOLD},{TAKEN}",
        "out_trade_no": ORDER,
        "start_time": "2026-03-01 00:00:00",
        "end_time": "2026-03-31 23:59:59",
        "page": "3",
        "page_size": "100",
    }


def test_an_enquiry_without_ids_sends_no_empty_list() -> None:
    """Ids that were not given are absent, never empty."""
    params = params_of(build_query(sender_of(), syssn=[], out_trade_no=[], window=MARCH, page=1))
    assert sorted(params) == ["end_time", "page", "page_size", "start_time"]


@pytest.mark.parametrize("operation", Operation)
def test_mchid_is_sent_and_signed_only_if_assigned(operation: Operation) -> None:
    """An assigned mchid is one more signed parameter of every request; without one there is no trace of it."""
    without = params_of(build(entry_of(operation), sender_of()))
    assert "mchid" not in without
    assert params_of(build(entry_of(operation), sender_of(mchid="ZaMVg12345"))) == {**without, "mchid": "ZaMVg12345"}
    assert (
        params_of(build_query(sender_of(mchid="M1"), syssn=[], out_trade_no=[], window=MARCH, page=1))["mchid"] == "M1"
    )


@pytest.mark.parametrize("sign_type", ["SHA256", "MD5"])
def test_the_sign_type_header_is_sent_for_sha256_only(sign_type: str) -> None:
    """X-QF-SIGNTYPE appears with SHA256 and is absent with MD5; the rest of the headers stay."""
    headers = dict(build(entry_of(), sender_of(sign_type)).headers)
    assert headers.pop("X-QF-SIGNTYPE", None) == ("SHA256" if sign_type == "SHA256" else None)
    assert headers.pop("X-QF-SIGN").isalnum()
    assert headers == {
        "X-QF-APPCODE": "APP1",
        "Content-Type": "application/x-www-form-urlencoded",
        "Accept-Encoding": "identity",
    }


def test_raw_values_are_signed_and_encoded_values_are_sent() -> None:
    """Characters that a form must escape are escaped in the body, and signed as they are."""
    order = "A/b:c@d#e~f+g"
    request = build(entry_of(Operation.UNFREEZE, out_trade_no=order), sender_of("MD5"))
    assert params_of(request)["out_trade_no"] == order
    assert b"out_trade_no=A%2Fb%3Ac%40d%23e~f%2Bg" in request.body


def test_a_request_shows_neither_signature_nor_body() -> None:
    """A request in a log line shows its path only."""
    assert repr(build(entry_of(), sender_of())) == "SignedRequest(path='/trade/v1/authtrade')"


_nasty = st.text(st.sampled_from("aB0_-.:/@#~+?%&=, \n\x00é"), min_size=1, max_size=6)
_ids = st.one_of(_nasty, st.text(st.characters(), max_size=3))


def _accepted(check: Any, *args: Any) -> bool:
    try:
        check(*args)
    except InvalidRequestError:
        return False
    return True


@given(_ids, _ids, st.integers(1, 99_999_999_999), st.sampled_from(Operation))
def test_a_signing_string_can_be_read_back_in_one_way(
    syssn: str, number: str, amount: int, operation: Operation
) -> None:
    """No two different accepted requests share a signing string: splitting it gives the parameters back."""
    syssn = syssn if _accepted(_checks.check_id, "syssn", syssn) else HOLD
    number = number if _accepted(_checks.check_id, "out_trade_no", number) else ORDER
    params = params_of(build(entry_of(operation, syssn=syssn, out_trade_no=number, amount=amount), sender_of()))
    text = "&".join(f"{name}={params[name]}" for name in sorted(params))
    assert [tuple(pair.split("=")) for pair in text.split("&")] == sorted(params.items())
    assert (params["syssn"], params["out_trade_no"], params["txamt"]) == (syssn, number, str(amount))


@given(st.lists(_ids, max_size=4), st.lists(_ids, max_size=4))
def test_a_list_of_ids_can_be_read_back_in_one_way(syssn: list[str], numbers: list[str]) -> None:
    """No accepted id can split a query's comma list or the signing string."""
    syssn = [each for each in syssn if _accepted(_checks.check_id, "syssn", each)]
    numbers = [each for each in numbers if _accepted(_checks.check_id, "out_trade_no", each)]
    params = params_of(build_query(sender_of(), syssn=syssn, out_trade_no=numbers, window=MARCH, page=1))
    assert params.get("syssn", "").split(",") == (syssn or [""])
    assert params.get("out_trade_no", "").split(",") == (numbers or [""])
    assert not set("&=") & set("".join(params.values()))


@given(_nasty.map("https://h.example/{}".format), st.text(st.characters(), max_size=6).map("http://{}".format))
def test_an_accepted_url_cannot_imitate_a_parameter(first: str, second: str) -> None:
    """Whatever URL is accepted, the signing string still reads back in one way."""
    urls = {"return_url": first, "notify_url": second}
    urls = {name: url for name, url in urls.items() if _accepted(_checks.check_url, name, url)}
    params = params_of(build_intent(sender_of(), IntentRequest(1, "HKD", ORDER, "802801", urls)))
    text = "&".join(f"{name}={params[name]}" for name in sorted(params))
    assert dict(pair.split("=") for pair in text.split("&")) == params
    assert text.isprintable()
