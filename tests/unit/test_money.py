"""Currencies and exact conversion: an amount is converted exactly or refused."""

from __future__ import annotations

import decimal
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfpay_preauth import InvalidRequestError, minor_units
from qfpay_preauth._money import AMOUNT_MAX, EXPONENTS, check_amount, exponent_of

CURRENCIES = ["AED", "AUD", "CAD", "CNY", "EUR", "HKD", "IDR", "JPY", "MMK", "MYR", "NZD", "PHP", "SGD", "THB", "USD"]


def test_the_currencies_are_those_of_qfpay() -> None:
    """Every currency of QFPay's pages and no other; all have two decimals but JPY, which is undocumented."""
    assert sorted(EXPONENTS) == CURRENCIES
    assert {currency for currency, exponent in EXPONENTS.items() if exponent != 2} == {"JPY"}


@pytest.mark.parametrize(
    ("amount", "minor"),
    [
        (Decimal("12.50"), 1250),
        (Decimal("12.5"), 1250),
        (Decimal("12.5000"), 1250),
        (Decimal("1.25E+1"), 1250),
        (Decimal("0.01"), 1),
        (Decimal("999999999.99"), 99_999_999_999),
        (12, 1200),
        ("12.50", 1250),
        ("12", 1200),
    ],
)
def test_exact_amounts_are_converted(amount: Decimal | int | str, minor: int) -> None:
    """Decimal, int and text in major units become minor units."""
    assert minor_units(amount, "HKD") == minor
    assert type(minor_units(amount, "HKD")) is int


@pytest.mark.parametrize(
    ("amount", "allowed"),
    [
        (12.5, "Decimal"),
        (True, "Decimal"),
        (None, "Decimal"),
        (Fraction(25, 2), "Decimal"),
        (b"12.50", "Decimal"),
        (Decimal("12.505"), "2 decimals"),
        (Decimal("1." + "0" * 70 + "1"), "decimals"),
        (Decimal("0.001"), "2 decimals"),
        (Decimal("1E-20"), "2 decimals"),
        (Decimal("NaN"), "finite"),
        (Decimal("sNaN"), "finite"),
        (Decimal("Infinity"), "finite"),
        (Decimal("1E+999999"), "11 digits"),
        (Decimal("1E-999999"), "finite"),
        (0, "from 1"),
        (Decimal("-0.00"), "from 1"),
        (-1, "from 1"),
        (Decimal(10**9), "11 digits"),
        (10**30, "11 digits"),
        (10**5000, "11 digits"),
        ("", "decimal number"),
        ("12,50", "decimal number"),
        ("$12.50", "decimal number"),
        ("1" * 5000, "11 digits"),
    ],
    ids=lambda value: repr(value)[:20] if not isinstance(value, int) or value < 10**30 else "huge",
)
def test_what_is_not_exact_is_refused(amount: Any, allowed: str) -> None:
    """A float, a bool, too many decimals, NaN, zero, too many digits: the error says what is allowed."""
    with pytest.raises(InvalidRequestError, match=allowed) as caught:
        minor_units(amount, "HKD")
    assert "amount" in str(caught.value)
    assert len(str(caught.value)) < 300


def test_jpy_needs_a_stated_exponent() -> None:
    """QFPay does not document how JPY is scaled: without a statement it is refused, with one it is exact."""
    with pytest.raises(InvalidRequestError, match=r"JPY.*currency_exponents"):
        minor_units(100, "JPY")
    assert minor_units(100, "JPY", exponent=0) == 100
    assert minor_units(100, "JPY", exponent=2) == 10_000
    with pytest.raises(InvalidRequestError, match="0 decimals of JPY"):
        minor_units("100.5", "JPY", exponent=0)


@pytest.mark.parametrize("exponent", [-1, 5, True, 2.0, "2"])
def test_an_exponent_is_an_int_from_0_to_4(exponent: Any) -> None:
    """Any other exponent is refused by name."""
    with pytest.raises(InvalidRequestError, match="exponent must be an int from 0 to 4"):
        minor_units(1, "HKD", exponent=exponent)


@pytest.mark.parametrize("currency", ["", "hkd", "HKD ", "XXX", "BTC", None, 344, True, ["HKD"], b"HKD", "\ud800"])
def test_an_unknown_currency_is_refused(currency: Any) -> None:
    """The error lists what is allowed."""
    with pytest.raises(InvalidRequestError, match="currency must be one of AED, AUD"):
        exponent_of(currency)


def test_a_stated_exponent_counts() -> None:
    """The merchant's statement fills what QFPay leaves open."""
    assert exponent_of("JPY", {"JPY": 0}) == 0
    assert exponent_of("HKD", {"JPY": 0}) == 2


class _Int(int):
    pass


@pytest.mark.parametrize(
    "amount",
    [True, False, 1.0, "1", None, Decimal(1), _Int(1), 0, -1, AMOUNT_MAX + 1, 10**5000, -(10**5000), float("nan"), [1]],
    ids=lambda value: type(value).__name__,
)
def test_an_amount_is_an_int_of_at_most_11_digits(amount: Any) -> None:
    """Anything else names the argument and what is allowed, in a short message."""
    with pytest.raises(
        InvalidRequestError, match=r"tip must be (an int of minor units|from 1 to 99999999999)"
    ) as caught:
        check_amount(amount, "tip")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("amount", [1, 200, AMOUNT_MAX])
def test_every_amount_in_range_is_accepted(amount: int) -> None:
    """1 to 99,999,999,999 minor units, small ones too: QFPay's advice only warns."""
    assert check_amount(amount) == amount


_currency = st.sampled_from([each for each in CURRENCIES if each != "JPY"])


@given(st.integers(1, AMOUNT_MAX), _currency)
def test_conversion_is_an_exact_round_trip(amount: int, currency: str) -> None:
    """Minor units to major units and back is the same amount, in every spelling."""
    major = Decimal(amount).scaleb(-2)
    assert minor_units(major, currency) == amount
    assert minor_units(str(major), currency) == amount
    assert minor_units(major.normalize(), currency) == amount


@given(st.decimals() | st.text(max_size=10) | st.integers(), _currency)
def test_conversion_is_exact_or_refused(amount: Decimal | str | int, currency: str) -> None:
    """Whatever number is given: the result is exactly a hundred times it, or there is none."""
    try:
        minor = minor_units(amount, currency)
    except InvalidRequestError:
        return
    assert Fraction(minor) == Fraction(Decimal(amount)) * 100
    assert 1 <= minor <= AMOUNT_MAX


@pytest.mark.parametrize("trap", [decimal.Inexact, decimal.Rounded, decimal.InvalidOperation])
@pytest.mark.parametrize("precision", [1, 4, 28])
def test_the_callers_decimal_context_changes_nothing(trap: type[decimal.DecimalException], precision: int) -> None:
    """A context of few digits, with or without traps, neither rounds an amount nor breaks the conversion."""
    for traps in ([trap], []):
        with decimal.localcontext(decimal.Context(prec=precision, traps=traps)):
            assert minor_units(Decimal("123456789.01"), "HKD") == 12_345_678_901
            with pytest.raises(InvalidRequestError):
                minor_units("12.505", "HKD")
            with pytest.raises(InvalidRequestError):
                minor_units("abc", "HKD")
