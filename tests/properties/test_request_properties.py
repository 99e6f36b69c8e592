"""Requests, waits and amounts: what Hypothesis is asked beyond the unit tests of their rooms."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from email.utils import format_datetime
from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qfpay_preauth import InvalidRequestError, minor_units
from qfpay_preauth._checks import check_id, check_key
from qfpay_preauth._models import Answer, Operation, SignedRequest
from qfpay_preauth._money import EXPONENTS
from qfpay_preauth._retry import retry_after_s
from qfpay_preauth._signing import signing_string
from qfpay_preauth._wire import build, build_query, own_reference
from tests.unit.kit import HOLD, NOW, entry_of, sender_of

HOW = settings(max_examples=200, deadline=None, database=None, derandomize=True)
_texts = st.one_of(
    st.from_regex(r"[A-Za-z0-9_\-.:/@#~+]{1,6}", fullmatch=True),
    st.text(st.sampled_from("a0&=,%+ é\n"), min_size=1, max_size=6),
)


def _wish(data: st.DataObject) -> tuple[Any, ...] | None:
    """One request as a caller may state it, or None where it is refused."""
    kind = data.draw(st.sampled_from(["capture", "unfreeze", "refund", "query"]))
    syssn, number = data.draw(_texts), data.draw(st.none() | _texts)
    amount = data.draw(st.integers(1, 200))
    try:
        check_id("syssn", syssn)
        if number is not None:
            check_id("out_trade_no", number)
        check_key(syssn)
    except InvalidRequestError:
        return None
    return kind, syssn, number, amount, data.draw(st.sampled_from(["HKD", "USD"]))


def _request(wish: tuple[Any, ...]) -> SignedRequest:
    kind, syssn, number, amount, currency = wish
    if kind == "query":
        numbers = [number] if number else []
        return build_query(
            sender_of(mchid="M1"), syssn=[syssn], out_trade_no=numbers, window=(NOW, NOW + timedelta(1)), page=amount
        )
    entry = entry_of(Operation(kind), syssn=syssn, out_trade_no=number, amount=amount, currency=currency)
    return build(entry, sender_of(mchid="M1"))


def _said(wish: tuple[Any, ...]) -> tuple[Any, ...]:
    """What of a wish is on the wire: only a capture names its currency."""
    kind, syssn, number, amount, currency = wish
    return syssn, number, amount, currency if kind == "capture" else None, kind == "query"


@HOW
@given(st.data())
def test_two_requests_that_differ_share_no_signing_string(data: st.DataObject) -> None:
    """Whatever is accepted: the string that is signed tells the requests apart, and says what the body says."""
    wishes = [wish for wish in (_wish(data), _wish(data)) if wish is not None]
    texts = []
    for wish in wishes:
        request = _request(wish)
        fields = dict(parse_qsl(request.body.decode(), keep_blank_values=True, strict_parsing=True))
        texts.append(signing_string(fields))
        assert texts[-1].count("&") == len(fields) - 1
    if len(wishes) == 2 and _said(wishes[0]) != _said(wishes[1]):
        assert texts[0] != texts[1]


@HOW
@given(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20), st.sampled_from(Operation))
def test_own_numbers_are_ids(account: str, key: str, operation: Operation) -> None:
    """Whatever the account and the key are, our number is an id that may be signed, and not the key itself."""
    number = own_reference(account, operation, key)
    assert check_id("out_trade_no", number) == number
    assert (len(number), number.isalnum()) == (32, True)


@HOW
@given(st.integers(0, 10**12), st.integers(-(10**5), 10**6))
def test_retry_after_says_what_it_says(seconds: int, ahead_s: int) -> None:
    """Seconds and dates are read to the second, cut to 0 … a day; nine digits are the most."""
    wait_s = retry_after_s(Answer(429, {"Retry-After": str(seconds)}, b""), NOW)
    assert wait_s == (min(seconds, 86_400) if len(str(seconds)) <= 9 else None)
    date = format_datetime(NOW + timedelta(seconds=ahead_s), usegmt=True)
    assert retry_after_s(Answer(429, {"Retry-After": date}, b""), NOW) == min(max(ahead_s, 0), 86_400)
    assert retry_after_s(Answer(200, {"Retry-After": date}, b""), NOW) is None


@HOW
@given(st.integers(1, 99_999_999_999), st.sampled_from(sorted(EXPONENTS)), st.integers(0, 4), st.integers(0, 6))
def test_an_amount_is_the_same_however_it_is_written(minor: int, currency: str, places: int, zeros: int) -> None:
    """Decimal, text and trailing zeros give one amount, under any stated exponent; one more digit is refused."""
    value = Decimal(minor).scaleb(-places)
    text = f"{value:f}"
    longer = f"{text}{'' if '.' in text else '.'}{'0' * (zeros + 1)}"
    for written in (value, text, longer, Decimal(longer)):
        assert minor_units(written, currency, exponent=places) == minor
    with pytest.raises(InvalidRequestError):
        minor_units(f"{longer}1", currency, exponent=places)


def test_the_kit_is_what_is_signed() -> None:
    """The requests of these properties are real ones: a capture of the kit's hold names it."""
    assert HOLD.encode() in _request(("capture", HOLD, None, 5, "HKD")).body
