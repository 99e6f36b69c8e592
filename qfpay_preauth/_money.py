"""Currencies, exponents and exact conversion. Amounts are int minor units everywhere else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation, localcontext

from qfpay_preauth.errors import InvalidRequestError, shown

AMOUNT_MAX = 99_999_999_999
"""QFPay, Payment API, `txamt`: at most 11 digits."""

AMOUNT_ADVISED_ABOVE = 200
"""QFPay, Payment API, `txamt`: more than 200 is advised (risk control); below it only warns."""

EXPONENTS: Mapping[str, int | None] = {
    # QFPay, Currencies; NZD and PHP from the Alipay pre-authorisation page. 100 = $1.00.
    "AED": 2, "AUD": 2, "CAD": 2, "CNY": 2, "EUR": 2, "HKD": 2, "IDR": 2, "MMK": 2,
    "MYR": 2, "NZD": 2, "PHP": 2, "SGD": 2, "THB": 2, "USD": 2,
    "JPY": None,  # QFPay does not say how JPY is scaled: the merchant has to state it
}  # fmt: skip

EXPONENT_LIMIT = 4
_DECIMAL_TEXT = re.compile(r"-?[0-9]+(\.[0-9]+)?")


def exponent_of(currency: object, stated: Mapping[str, int] | None = None) -> int:
    """How many decimals `currency` has at QFPay.

    Raises:
        InvalidRequestError: the currency is not one QFPay lists, or it is JPY and `stated` does not name it.
    """
    if not isinstance(currency, str) or currency not in EXPONENTS:
        raise InvalidRequestError(f"currency must be one of {', '.join(EXPONENTS)}, not {shown(currency, 40)}.")
    exponent = (stated or {}).get(currency, EXPONENTS[currency])
    if exponent is None:
        raise InvalidRequestError(
            f"currency {currency} has no documented exponent at QFPay.",
            advice=f'State it: Settings(currency_exponents={{"{currency}": 0}}), as QFPay confirmed it to you.',
        )
    return exponent


def check_amount(amount: object, name: str = "amount") -> int:
    """`amount` itself if it is an int from 1 to 99,999,999,999 minor units.

    Raises:
        InvalidRequestError: for anything else (a bool, a float, zero, a negative, more than 11 digits).
    """
    if type(amount) is not int:
        raise InvalidRequestError(
            f"{name} must be an int of minor units (100 = $1.00), not {type(amount).__name__}.",
            advice="Convert exactly with minor_units(Decimal('12.50'), 'HKD').",
        )
    if not 1 <= amount <= AMOUNT_MAX:
        shown = str(amount) if abs(amount) < 10**30 else "a number of more than 30 digits"
        raise InvalidRequestError(f"{name} must be from 1 to {AMOUNT_MAX} minor units (11 digits), not {shown}.")
    return amount


def minor_units(amount: Decimal | int | str, currency: str, *, exponent: int | None = None) -> int:
    """Convert an amount in major units to minor units, exactly or not at all.

    Args:
        amount: Decimal, int or decimal text in major units (`Decimal("12.50")` is $12.50).
        currency: one of QFPay's currencies.
        exponent: the number of decimals, needed where QFPay states none (JPY).

    Returns: int minor units (1250), from 1 to 99,999,999,999.

    Raises:
        InvalidRequestError: a float or bool, an unknown currency, more decimals than it has, or out of range.
    """
    if isinstance(amount, bool) or not isinstance(amount, Decimal | int | str):
        raise InvalidRequestError(f"amount must be a Decimal, an int or text, not {type(amount).__name__}.")
    if isinstance(amount, str) and not _DECIMAL_TEXT.fullmatch(amount):
        raise InvalidRequestError(f"amount must be a decimal number like 12.50, not {shown(amount, 40)}.")
    if exponent is not None and (type(exponent) is not int or not 0 <= exponent <= EXPONENT_LIMIT):
        raise InvalidRequestError(f"exponent must be an int from 0 to {EXPONENT_LIMIT}, not {shown(exponent, 40)}.")
    places = exponent_of(currency, None if exponent is None else {currency: exponent})
    return check_amount(_scaled(amount, currency, places))


def _scaled(amount: Decimal | int | str, currency: str, places: int) -> int:
    try:
        value = Decimal(amount)
    except (InvalidOperation, ValueError) as error:
        raise InvalidRequestError(f"amount must be a decimal number, not {shown(amount, 40)}.") from error
    if not value.is_finite() or abs(value.adjusted()) > 20:
        raise InvalidRequestError(f"amount must be a finite number of at most 11 digits, not {shown(amount, 40)}.")
    with localcontext(prec=len(value.as_tuple().digits) + 60):  # exact, however many digits were given
        scaled = value.scaleb(places)
        if scaled != scaled.to_integral_value():
            raise InvalidRequestError(f"amount {shown(amount, 40)} has more than the {places} decimals of {currency}.")
        return int(scaled)
