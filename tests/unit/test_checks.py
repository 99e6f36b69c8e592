"""What callers may hand in: each error names the argument and what is allowed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfpay_preauth import InvalidRequestError, Outcome
from qfpay_preauth._checks import (
    check_id,
    check_key,
    check_moment,
    check_pay_type,
    check_reason,
    check_seconds,
    check_url,
    check_window,
    is_id,
)

Check = Callable[[Any], Any]
NO_TEXT: list[Any] = [None, 0, 1, True, 1.5, b"A", [], ["A"], {}, object()]
UNSIGNABLE = ["a&b", "a=b", "a,b", "a b", "a\n", "\n", "a\x00", "a\t", "a\x7f", "é", "交易", "\ud800", "a\u200b"]

ID, URL = partial(check_id, "syssn"), partial(check_url, "return_url")
BAD: list[tuple[Check, str, list[Any]]] = [
    (ID, "syssn must be 1 to 128 letters, digits or", [*NO_TEXT, *UNSIGNABLE, "", " ", "A" * 129, 10**5000]),
    (
        URL,
        r"return_url must be an http\(s\) URL of at most 500 characters without & = and comma",
        [
            *NO_TEXT,
            *(f"https://h/{text}" for text in UNSIGNABLE),
            "",
            "h.example",
            "ftp://h",
            "//h",
            "https://",
            "HTTPS://h\n",
            "javascript:alert(1)",
            "https://h/" + "a" * 500,
            10**5000,
        ],
    ),
    (
        check_pay_type,
        "pay_type must be 1 to 32 letters or digits",
        [*NO_TEXT, *UNSIGNABLE, "", "8-1", "1" * 33, "802801\n", 10**5000],
    ),
    (
        check_key,
        "idempotency_key must be 1 to 255 printable characters and not blank",
        [*NO_TEXT, "", " ", "\u3000", "\n", "a\nb", "a\x00", "\ud800", "a\x7f", "k" * 256, "\u202ek", 10**5000],
    ),
    (
        check_reason,
        "reason must be 1 to 1000 printable characters and not blank",
        [*NO_TEXT, "", " ", "a\nb", "r" * 1001],
    ),
    (
        partial(check_moment, "start"),
        "start must be an aware datetime",
        [None, 0, "2026-01-01", date(2026, 1, 1), datetime(2026, 1, 1), 10**5000],  # noqa: DTZ001 - naive on purpose
    ),
    (
        check_window,
        "capture_window must be a timedelta from a minute to 366 days",
        [
            None,
            7,
            "7",
            timedelta(0),
            -timedelta(days=1),
            timedelta(seconds=59),
            timedelta(days=367),
            timedelta.max,
            10**5000,
        ],
    ),
    (
        partial(check_seconds, "deadline_s"),
        r"deadline_s must be a number of seconds from 0\.0 to 86400",
        [
            None,
            True,
            False,
            "1",
            -1,
            -0.001,
            86_401,
            float("nan"),
            float("inf"),
            -float("inf"),
            [],
            timedelta(1),
            10**5000,
        ],
    ),
]
BAD_CASES = [(check, allowed, value) for check, allowed, values in BAD for value in values]


def _name(value: object) -> str:
    return (
        f"huge {type(value).__name__}"
        if isinstance(value, int) and value > 10**9
        else repr(value)[:40].partition(" at 0x")[0]
    )


@pytest.mark.parametrize(("check", "allowed", "value"), BAD_CASES, ids=[_name(value) for _, _, value in BAD_CASES])
def test_bad_input_names_the_argument_and_what_is_allowed(check: Check, allowed: str, value: Any) -> None:
    """Each refusal is an InvalidRequestError that names the argument, says what is allowed, and stays short."""
    with pytest.raises(InvalidRequestError, match=allowed) as caught:
        check(value)
    assert isinstance(caught.value, ValueError)
    assert caught.value.outcome is Outcome.NOTHING_HAPPENED
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("check", "value"),
    [
        *[(ID, value) for value in ("1", "A" * 128, "20260315180500020000014079", "O_r-d.e:r/1@7#8~9+0")],
        *[
            (URL, value)
            for value in ("https://shop.example/return/ORDER-17", "http://127.0.0.1:8000/x?y", "https://[::1]/")
        ],
        *[(URL, "https://" + "a" * length) for length in (1, 480)],
        *[(check_pay_type, value) for value in ("802801", "A" * 32)],
        *[(check_key, value) for value in ("order-17/parcel-2", " k ", "k" * 255, "訂單-17", "a&b=c,d", "🧾")],
        *[(check_reason, value) for value in ("seen in the portal", "r" * 1000)],
        (partial(check_moment, "start"), datetime(2026, 1, 1, tzinfo=UTC)),
        *[(check_window, timedelta(minutes=1)), (check_window, timedelta(days=366))],
        *[(partial(check_seconds, "x"), value) for value in (0, 0.5, 86_400)],
    ],
)
def test_good_input_is_handed_back(check: Check, value: Any) -> None:
    """What is allowed comes back as it was given."""
    assert check(value) == value


def test_a_number_of_seconds_has_a_lowest_value() -> None:
    """A deadline of zero is refused where the argument needs more."""
    assert check_seconds("deadline_s", 0.001, low=0.001) == 0.001
    with pytest.raises(InvalidRequestError, match=r"deadline_s must be a number of seconds from 0\.001"):
        check_seconds("deadline_s", 0, low=0.001)


def test_a_url_of_500_characters_is_allowed_as_the_message_says() -> None:
    """The limit that the error names is the limit that is kept."""
    url = "https://h.example/" + "a" * (500 - 18)
    assert len(url) == 500
    assert check_url("notify_url", url) == url
    with pytest.raises(InvalidRequestError, match="500 characters"):
        check_url("notify_url", url + "a")


@given(st.text(st.characters(), max_size=8))
def test_an_id_that_is_accepted_can_be_signed_and_listed(text: str) -> None:
    """No accepted id has a separator, a space, a control character, or anything outside ASCII."""
    if is_id(text):
        assert check_id("syssn", text) == text
        assert text.isascii()
        assert text.isprintable()
        assert not set(text) & set("&=, %")
    else:
        with pytest.raises(InvalidRequestError, match="syssn"):
            check_id("syssn", text)


@given(
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary() | st.lists(st.text(max_size=2), max_size=2)
)
def test_what_is_no_text_is_no_id(value: object) -> None:
    """Only text is an id, whatever it would print as."""
    assert is_id(value) is False
