"""Times, references, months and rows: read and made without guessing."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfpay_preauth._models import Answer, Operation, Transaction
from qfpay_preauth._wire import (
    IntentRequest,
    gateway_time,
    month_windows,
    own_reference,
    read_code,
    read_intent,
    read_rows,
    read_time,
)

from .kit import HOLD, NOW, ORDER, PAN, TAKEN

HK = timezone(timedelta(hours=8))


# ------------------------------------------------------------------------------------------------ times, references


def test_times_are_sent_in_the_gateways_zone() -> None:
    """A moment in any zone is written in UTC+8, without a zone and without fractions."""
    assert gateway_time(datetime(2025, 12, 31, 16, 0, 0, 999_999, tzinfo=UTC)) == "2026-01-01 00:00:00"
    assert gateway_time(datetime(2026, 1, 1, 0, 0, tzinfo=timezone(timedelta(hours=-5)))) == "2026-01-01 13:00:00"


def test_a_time_is_read_as_the_gateways() -> None:
    """sysdtm is UTC+8."""
    assert read_time("2026-03-16 04:30:05") == NOW


@pytest.mark.parametrize(
    "value",
    [None, "", "soon", 20260316, 1.5, True, [], "2026-03-16", "2026-03-16T04:30:05", "2026-13-01 00:00:00", "\udc80"],
)
def test_what_is_no_time_is_none(value: object) -> None:
    """Anything that is not the documented form is no time, and never a crash."""
    assert read_time(value) is None


@pytest.mark.parametrize("value", ["0001-01-01 00:00:00", "0001-01-01 07:59:59", "9999-12-31 23:59:59"])
def test_a_time_that_was_read_can_be_turned_into_utc(value: str) -> None:
    """A time at the edge of the calendar is either refused or can be converted and stored; nothing in between."""
    moment = read_time(value)
    assert moment is None or moment.astimezone(UTC)


def test_our_own_reference_is_stable() -> None:
    """The reference depends on account, operation and key alone, on every machine and in every version."""
    assert own_reference("M1", Operation.REFUND, "order-17/return-1") == "C8E04B394C719A5A82431DD523A97F4D"


_key = st.text(min_size=1, max_size=20)


_names = st.tuples(_key, st.sampled_from(Operation), _key)


@given(_names, _names)
def test_our_own_references_are_distinct(a: tuple[str, Operation, str], b: tuple[str, Operation, str]) -> None:
    """32 letters and digits, and different unless account, operation and key are the same."""
    one, other = own_reference(*a), own_reference(*b)
    assert len(one) == 32
    assert one.isascii()
    assert one.isalnum()
    assert (one == other) is (a == b)


def test_the_parts_of_a_reference_do_not_run_into_each_other() -> None:
    """Moving a character from the account to the key gives another reference."""
    assert own_reference("M1", Operation.REFUND, "1-k") != own_reference("M11", Operation.REFUND, "-k")


# ------------------------------------------------------------------------------------------------ months


def _hk(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=HK)  # type: ignore[misc,arg-type] # the zone is given by name only


@pytest.mark.parametrize(
    ("start", "end", "windows"),
    [
        (_hk(2026, 3, 2), _hk(2026, 3, 9), [(_hk(2026, 3, 2), _hk(2026, 3, 9))]),
        (_hk(2026, 3, 9), _hk(2026, 3, 9), [(_hk(2026, 3, 9), _hk(2026, 3, 9))]),
        (
            _hk(2025, 12, 31, 23, 59, 59),
            _hk(2026, 1, 1),
            [(_hk(2025, 12, 31, 23, 59, 59), _hk(2025, 12, 31, 23, 59, 59)), (_hk(2026, 1, 1), _hk(2026, 1, 1))],
        ),
        (
            _hk(2024, 1, 31, 12),
            _hk(2024, 3, 1, 12),
            [
                (_hk(2024, 1, 31, 12), _hk(2024, 1, 31, 23, 59, 59)),
                (_hk(2024, 2, 1), _hk(2024, 2, 29, 23, 59, 59)),
                (_hk(2024, 3, 1), _hk(2024, 3, 1, 12)),
            ],
        ),
        (
            datetime(2026, 1, 31, 15, 59, 59, tzinfo=UTC),
            datetime(2026, 1, 31, 16, 0, 0, tzinfo=UTC),
            [(_hk(2026, 1, 31, 23, 59, 59), _hk(2026, 1, 31, 23, 59, 59)), (_hk(2026, 2, 1), _hk(2026, 2, 1))],
        ),
        (_hk(2026, 3, 9), _hk(2026, 3, 8), []),
    ],
    ids=["within", "moment", "year", "leap", "utc", "backwards"],
)
def test_windows_are_cut_at_months_of_the_gateways_zone(
    start: datetime, end: datetime, windows: list[tuple[datetime, datetime]]
) -> None:
    """Each window lies in one calendar month of UTC+8, whatever zone the caller's moments have."""
    assert month_windows(start, end) == windows


_BEFORE, _AFTER = datetime(2020, 1, 1), datetime(2030, 1, 1)  # noqa: DTZ001 - hypothesis adds the zone itself
_moments = st.datetimes(_BEFORE, _AFTER, timezones=st.just(UTC))


@given(_moments, st.timedeltas(timedelta(0), timedelta(days=500)))
def test_windows_cover_everything_without_overlap(start: datetime, length: timedelta) -> None:
    """Every second from start to end is in exactly one window, and every window in one month."""
    end = start + length
    windows = month_windows(start, end)
    assert windows[0][0] == start
    assert windows[-1][1] <= end < windows[-1][1] + timedelta(seconds=1)
    assert all((low.year, low.month) == (high.year, high.month) and low <= high for low, high in windows)
    gaps = {later[0] - earlier[1] for earlier, later in itertools.pairwise(windows)}
    assert gaps <= {timedelta(seconds=1)}


# ------------------------------------------------------------------------------------------------ reads


def test_rows_are_read_from_strings() -> None:
    """A row as QFPay documents it becomes a Transaction, its card data left out."""
    row = {
        "syssn": TAKEN,
        "origssn": HOLD,
        "out_trade_no": ORDER,
        "txamt": "500",
        "txcurrcd": "HKD",
        "respcd": "0000",
        "errmsg": "交易成功",
        "pay_type": "802801",
        "order_type": "payment",
        "sysdtm": "2026-03-16 04:30:05",
        "cancel": "0",
        "cardcd": PAN,
        "userid": "u-1",
    }
    rows = read_rows({"respcd": "0000", "data": [row]})
    assert rows == [
        Transaction(
            syssn=TAKEN,
            orig_syssn=HOLD,
            out_trade_no=ORDER,
            order_type="payment",
            amount=500,
            currency="HKD",
            code="0000",
            message="交易成功",
            cancel="0",
            system_time=NOW,
            raw={name: value for name, value in row.items() if name not in ("cardcd", "userid")},
        )
    ]


def test_rows_are_read_from_numbers_nulls_and_new_keys() -> None:
    """Numbers are read like their text, null like absence, and unknown keys are kept in raw only."""
    row = {"syssn": int(TAKEN), "txamt": 500, "cancel": 3, "origssn": None, "respcd": "1143", "brand_new": "x"}
    found = read_rows({"data": [row]})
    assert found is not None
    assert (found[0].syssn, found[0].amount, found[0].cancel, found[0].code) == (TAKEN, 500, "3", "1143")
    assert (found[0].orig_syssn, found[0].currency, found[0].message, found[0].system_time) == (None,) * 4
    assert found[0].raw["brand_new"] == "x"


def test_a_row_with_only_an_id_is_read() -> None:
    """All keys but the id may be missing."""
    assert read_rows({"data": [{"syssn": TAKEN}]}) == [
        Transaction(TAKEN, None, None, None, None, None, None, None, None, None, raw={"syssn": TAKEN})
    ]


def test_both_names_of_the_original_are_read() -> None:
    """Rows say origssn, write answers orig_syssn: either names the original."""
    found = read_rows({"data": [{"syssn": TAKEN, "orig_syssn": HOLD}]})
    assert found is not None
    assert found[0].orig_syssn == HOLD


@pytest.mark.parametrize("amount", ["5.00", "-5", "", "five", 5.0, True, None, [], "\uff19", "1" * 12, "0x5", " 5"])
def test_an_amount_that_is_no_amount_is_none(amount: object) -> None:
    """A row's amount is digits or nothing: never a guess."""
    found = read_rows({"data": [{"syssn": TAKEN, "txamt": amount}]})
    assert found is not None
    assert found[0].amount is None


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"data": None},
        {"data": {}},
        {"data": "[]"},
        {"data": [None]},
        {"data": [[]]},
        {"data": [{}]},
        {"data": [{"syssn": ""}]},
        {"data": [{"syssn": TAKEN}, {"syssn": "a,b"}]},
        {"data": [{"syssn": TAKEN}, {"out_trade_no": ORDER}]},
    ],
)
def test_a_list_that_cannot_be_read_as_a_whole_is_none(fields: dict[str, Any]) -> None:
    """One unreadable row makes the list unusable: half a list would look like absence."""
    assert read_rows(fields) is None


def test_an_empty_list_is_a_list() -> None:
    """No rows is a readable answer (and proves nothing)."""
    assert read_rows({"data": []}) == []


_json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["syssn", "txamt", "sysdtm", "x"]), inner)
    ),
    max_leaves=12,
)


@given(_json_values)
def test_reading_rows_is_total(data: object) -> None:
    """Any JSON in the place of the list gives rows or None."""
    rows = read_rows({"data": data})
    assert rows is None or len(rows) == len(data)  # type: ignore[arg-type]


def test_the_outer_code_of_a_read_counts_only_under_200() -> None:
    """Code, message and fields are read from a 200; everything else is no readable answer."""
    body = json.dumps({"respcd": "0000", "resperr": "ok", "data": []}).encode()
    assert read_code(Answer(200, {}, body)) == ("0000", "ok", json.loads(body))
    for answer in (Answer(201, {}, body), Answer(500, {}, body), Answer(200, {}, body[:-1]), Answer(200, {}, b"{}")):
        code, message, fields = read_code(answer)
        assert (code, fields) == (None, {})
        assert str(answer.status) in message


def test_an_intent_is_read_with_its_expiry() -> None:
    """payment_intent and intent_expiry (assumed UTC+8) come out; without an intent there is none."""
    wish = IntentRequest(500, "HKD", ORDER, "802801", {})
    fields = {"respcd": "0000", "payment_intent": "f" * 32, "intent_expiry": "2026-03-16 04:30:05"}
    intent = read_intent(fields, wish)
    assert intent is not None
    assert (intent.payment_intent, intent.intent_expiry) == ("f" * 32, NOW)
    assert (intent.amount, intent.currency, intent.out_trade_no) == (500, "HKD", ORDER)
    assert read_intent({"respcd": "0000", "payment_intent": None}, wish) is None
