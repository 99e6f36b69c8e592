"""Bytes from outside: one flat object or nothing, and no card data in what is kept."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfpay_preauth._json import clean, is_empty, masked, read_object, redacted, text_of

from .kit import HOLD, PAN


def test_an_object_is_read_with_its_own_types() -> None:
    """Text, numbers, null and nesting come through as they were sent."""
    body = '{"a": "交易", "b": 1, "c": null, "d": [1, {"e": true}], "f": 1.5}'.encode()
    assert read_object(body) == {"a": "交易", "b": 1, "c": None, "d": [1, {"e": True}], "f": 1.5}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"<html>502</html>",
        b"SUCCESS",
        b'"text"',
        b"0",
        b"null",
        b"[]",
        b'[{"respcd":"0000"}]',
        b'{"respcd":"0000"',
        b'{"respcd":"0000"}}',
        b'{"respcd":"0000"}{"respcd":"0000"}',
        b"{'respcd':'0000'}",
        b'{"respcd":"0000",}',
        b'\xef\xbb\xbf{"respcd":"0000"}',
        b'{"respcd":"\xff0000"}',
        '{"respcd":"0000"}'.encode("utf-16"),
        b'{"respcd":"00\n00"}',
        b'{"respcd":"0000","respcd":"0000"}',
        b'{"respcd":"1143","\\u0072espcd":"0000"}',
        b'{"respcd":"0000","x":{"y":1,"y":2}}',
        b'{"x":NaN}',
        b'{"x":Infinity}',
        b'{"x":-Infinity}',
        b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"x":' * 100_000 + b"1" + b"}" * 100_000,
        b"[" * 100_000,
        b'{"x":' + b"9" * 100_000 + b"}",
    ],
    ids=lambda body: repr(body[:32]),
)
def test_what_two_parsers_could_read_differently_is_nothing(body: bytes) -> None:
    """Not UTF-8, not JSON, not an object, duplicate keys, NaN, too deep, too long: None."""
    assert read_object(body) is None


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1.5e400"])
def test_a_number_that_overflows_to_infinity_is_nothing(number: str) -> None:
    """An infinity that is spelled as a number is as little evidence as one spelled as a word."""
    assert read_object(b'{"respcd":"0000","x":%s}' % number.encode()) is None


@given(st.binary(max_size=300))
def test_reading_is_total(body: bytes) -> None:
    """Any bytes give an object or None."""
    found = read_object(body)
    assert found is None or isinstance(found, dict)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("500", "500"),
        ("", ""),
        (500, "500"),
        (0, "0"),
        (-1, "-1"),
        (True, ""),
        (500.0, ""),
        (None, ""),
        ([], ""),
        ({}, ""),
    ],
)
def test_only_text_and_ints_are_text(value: object, text: str) -> None:
    """A bool or a float is never taken for an amount, whatever it would print as."""
    assert text_of(value) == text


@pytest.mark.parametrize(
    ("value", "empty"), [(None, True), ("", True), (" ", False), (0, False), (False, False), ([], False), ("0", False)]
)
def test_a_field_is_empty_only_if_it_says_nothing(value: object, empty: bool) -> None:
    """Null and empty text say nothing; zero, false and an empty list say something strange."""
    assert is_empty(value) is empty


@given(st.text(st.characters()))
def test_clean_text_can_be_kept_and_printed(text: str) -> None:
    """Clean text is bounded, encodable and without control characters, whatever came."""
    cleaned = clean(text)
    assert len(cleaned) <= 500
    assert cleaned.isprintable()
    assert cleaned.encode().decode() == cleaned


@pytest.mark.parametrize(
    "text",
    [
        PAN,
        "card 4111 1111 1111 1111 declined",
        "card 4111-1111-1111-1111 declined",
        f"({PAN})",
        "378282246310005",
        "4000000000000000006",
        "交易卡號4111111111111111失敗",
    ],
)
def test_a_card_number_in_a_text_is_starred_out(text: str) -> None:
    """Digits with a card number's length and check digit do not survive, however they are grouped."""
    assert sum(c.isdigit() for c in masked(text)) == 0


@pytest.mark.parametrize(
    "text",
    [
        "4111111111111111 12/27",
        "4111111111111111 123",
        "no 12 4111111111111111",
        "2026-01-01 4111 1111 1111 1111",
        "4111111111111111 5500000000000004",
    ],
)
def test_a_card_number_beside_other_digits_is_starred_out(text: str) -> None:
    """An expiry, a security code or a date beside the number does not hide it."""
    shown = masked(text).replace(" ", "")
    assert PAN not in shown
    assert "5500000000000004" not in shown


@pytest.mark.parametrize("before", range(484, 497))
def test_a_card_number_at_the_cut_is_not_kept_in_part(before: int) -> None:
    """Where a long text is cut, no more than ten digits of a card number stay."""
    shown = masked("x" * before + PAN + "x" * 100)
    assert sum(c.isdigit() for c in shown) <= 10


def test_numbers_that_are_no_card_numbers_stay() -> None:
    """Ids, amounts and times stay readable: another length, or another check digit."""
    text = f"syssn {HOLD} amount 99999999999 at 2026-01-01 12:00:00, ref 4111111111111112"
    assert masked(text) == text


def test_card_fields_are_left_out_and_ids_are_kept() -> None:
    """Fields that name a card or its holder go; ids stay as they came even where they look like a card number."""
    fields = {
        "cardcd": PAN,
        "card_no": "1",
        "CardHolder": "A B",
        "cvv": "123",
        "pan": "1",
        "userid": "u",
        "account_no": "9",
        "syssn": PAN,
        "orig_syssn": HOLD,
        "respcd": "0000",
        "unknown": f"paid with {PAN}",
        "nested": {"cardcd": PAN},
        "list": [PAN],
    }
    kept = redacted(fields, frozenset(["syssn", "orig_syssn"]))
    assert kept == {
        "syssn": PAN,
        "orig_syssn": HOLD,
        "respcd": "0000",
        "unknown": "paid with " + "*" * 16,
        "nested": {},
        "list": ["*" * 16],
    }


@pytest.mark.parametrize(
    "fields", [{"unknown": int(PAN)}, {"unknown": float(PAN)}, {PAN: "x"}], ids=["int", "float", "name"]
)
def test_a_card_number_is_not_kept_in_another_form(fields: dict[str, Any]) -> None:
    """A card number sent as a JSON number, or as a field's name, is not kept either."""
    assert PAN not in str(redacted(fields, frozenset())).replace("_", "")


@given(st.dictionaries(st.text(st.characters(), max_size=12), st.text(st.characters(), max_size=40) | st.integers()))
def test_what_is_kept_can_be_stored(fields: dict[str, Any]) -> None:
    """What is kept is JSON and UTF-8, whatever came: lone surrogates and control characters too."""
    kept = redacted(fields, frozenset(["syssn"]))
    assert json.loads(json.dumps(kept, ensure_ascii=False).encode()) == kept


def test_numbers_are_bounded_by_python_itself() -> None:
    """The guard against endless numbers is on: no part of the package may lift the interpreter's limit."""
    assert 0 < sys.get_int_max_str_digits() <= 4300
