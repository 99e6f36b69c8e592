"""What callers may hand in. Every text that is signed is whitelisted, so no two requests share a signing string.

QFPay signs `name=value&name=value` with raw values: a value that could hold `&`, `=` or a comma could imitate another
request (or split a list), so such values are refused instead of escaped.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from qfpay_preauth.errors import InvalidRequestError, shown

ID_ALLOWED = "1 to 128 letters, digits or _ - . : / @ # ~ +"
_ID = re.compile(r"[A-Za-z0-9_\-.:/@#~+]{1,128}")
_URL = re.compile(r"https?://[A-Za-z0-9_\-.:/@#~+?%;!*()\[\]]{1,493}")
_CODE = re.compile(r"[0-9A-Za-z]{1,32}")

KEY_LENGTH_MAX = 255
REASON_LENGTH_MAX = 1000


def check_id(name: str, value: object) -> str:
    """`value` itself if it is an id that QFPay takes (QFPay, Payment API: at most 128 characters).

    Raises:
        InvalidRequestError: naming the argument and what is allowed.
    """
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise InvalidRequestError(f"{name} must be {ID_ALLOWED}, not {shown(value, 80)}.")
    return value


def is_id(value: object) -> bool:
    """Whether `value` could be an id of the gateway's."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def check_key(value: object) -> str:
    """The caller's idempotency key: 1 to 255 printable characters, not blank.

    Raises:
        InvalidRequestError: naming the argument and what is allowed.
    """
    return _printable("idempotency_key", value, KEY_LENGTH_MAX)


def check_reason(value: object) -> str:
    """A person's reason: 1 to 1,000 printable characters, not blank.

    Raises:
        InvalidRequestError: naming the argument and what is allowed.
    """
    return _printable("reason", value, REASON_LENGTH_MAX)


def _printable(name: str, value: object, length_max: int) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > length_max or not value.isprintable():
        shown = f"{len(value)} characters: {value[:40]!r}" if isinstance(value, str) else type(value).__name__
        raise InvalidRequestError(f"{name} must be 1 to {length_max} printable characters and not blank, not {shown}.")
    return value


def check_url(name: str, value: object) -> str:
    """A URL that can be signed: http(s), at most 500 characters, no `&`, `=` or comma.

    Raises:
        InvalidRequestError: naming the argument and what is allowed.
    """
    if not isinstance(value, str) or len(value) > 500 or not _URL.fullmatch(value):
        raise InvalidRequestError(
            f"{name} must be an http(s) URL of at most 500 characters without & = and comma, not {shown(value, 80)}.",
            advice="Put what you need to know into the path: /return/ORDER-17 instead of /return?order=ORDER-17.",
        )
    return value


def check_pay_type(value: object) -> str:
    """QFPay's pay_type: letters and digits.

    Raises:
        InvalidRequestError: naming the argument and what is allowed.
    """
    if not isinstance(value, str) or not _CODE.fullmatch(value):
        raise InvalidRequestError(f"pay_type must be 1 to 32 letters or digits, not {shown(value, 80)}.")
    return value


def check_moment(name: str, value: object) -> datetime:
    """An aware datetime of this century.

    Raises:
        InvalidRequestError: it is not one; a naive datetime would be guessed into a zone.
    """
    if not isinstance(value, datetime) or value.utcoffset() is None or not 2000 < value.year < 2100:
        raise InvalidRequestError(
            f"{name} must be an aware datetime (with a time zone) of this century, not {shown(value, 80)}."
        )
    return value


def check_window(value: object) -> timedelta:
    """A capture window: a timedelta from a minute to 366 days.

    Raises:
        InvalidRequestError: it is not one.
    """
    if not isinstance(value, timedelta) or not timedelta(minutes=1) <= value <= timedelta(days=366):
        raise InvalidRequestError(
            f"capture_window must be a timedelta from a minute to 366 days, not {shown(value, 60)}."
        )
    return value


def check_seconds(name: str, value: object, *, low: float = 0.0) -> float:
    """A number of seconds from `low` to a day.

    Raises:
        InvalidRequestError: it is not one.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= 86_400:
        raise InvalidRequestError(f"{name} must be a number of seconds from {low} to 86400, not {shown(value, 40)}.")
    return float(value)
