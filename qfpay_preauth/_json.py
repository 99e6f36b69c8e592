"""Bytes from outside → one flat object, or nothing: total, and without card data in what is kept."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

TEXT_LENGTH_MAX = 500

_CARD_NAME = re.compile(r"card|pan\b|cvv|cvc|cvn|holder|track2|userid|account_?no", re.IGNORECASE)
_DIGITS = re.compile(r"\d(?<!\d\d)(?<!\d[ -]\d)(?:[ -]?+\d){12,}+")  # only tried where a run of digits begins
_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}")
_DIGITS_MIN = 13  # no shorter text holds a card number
_DEPTH_MAX = 8  # nothing that QFPay sends is nested deeper
_GROUP = re.compile(r"\d+")
_CARD_LENGTHS = range(13, 20)  # ISO/IEC 7812: 13 to 19 digits


def read_object(body: bytes) -> dict[str, Any] | None:
    """The JSON object in `body`, or None for anything else.

    Anything else is: not UTF-8, not JSON, not an object, a duplicate key, NaN or infinity, a number too long for
    Python, nested too deep. A value that two parsers could read differently is not evidence about money.
    """
    try:
        text = body.decode("utf-8").strip(_BLANK)
        value, end = _DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and end == len(text) else None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate key")
    return found


def _refuse(name: str) -> NoReturn:
    raise ValueError(name)


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text)


_BLANK = " \t\n\r"  # RFC 8259, 2
_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite)


def text_of(value: object) -> str:
    """A field as text: text itself, an int in digits; "" for absent, null, and every other type."""
    if isinstance(value, str):
        return value
    return str(value) if type(value) is int else ""


def is_empty(value: object) -> bool:
    """Whether a field says nothing: absent, null or empty text."""
    return value is None or value == ""


def clean(text: str) -> str:
    """Text of the gateway's that is safe to keep and print: bounded, without control characters."""
    return _printable(text[:TEXT_LENGTH_MAX])


def masked(text: str) -> str:
    """`clean` text in which whatever looks like a card number (13 to 19 digits, Luhn) is starred out."""
    if len(text) < _DIGITS_MIN:
        return _printable(text)
    beyond = TEXT_LENGTH_MAX + 40  # a card number at the cut is seen whole
    return _DIGITS.sub(_mask, _printable(text[:beyond]))[:TEXT_LENGTH_MAX]


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    kept = text.encode("utf-8", "replace").decode()
    return "".join(c if c.isprintable() else " " for c in kept)


def redacted(fields: Mapping[str, Any], ids: frozenset[str], plain: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The fields as they came, less those that name a card, and masked but for the fields in `ids`.

    `plain` are names that are known to name no card: they need not be looked at again and again.
    """
    kept: dict[str, Any] = {}
    for name, value in fields.items():
        shown = name if name in plain else _kept_name(name)
        if shown is None:
            continue
        # most are so: printable, and short, an id or a time (which has no thirteen digits together)
        as_it_is = (
            type(value) is str
            and value.isprintable()
            and (
                len(value) < _DIGITS_MIN or (len(value) <= TEXT_LENGTH_MAX if name in ids else _MOMENT.fullmatch(value))
            )
        )
        kept[shown] = value if as_it_is else _kept(value, is_id=name in ids)
    return kept


def _kept_name(name: str) -> str | None:
    """A field's name as it is kept, or None where it names a card."""
    return None if _CARD_NAME.search(name) else masked(name)


def _kept(value: Any, *, is_id: bool = False, depth: int = 0) -> Any:
    if isinstance(value, str):
        return clean(value) if is_id else masked(value)
    if isinstance(value, dict | list) and depth == _DEPTH_MAX:
        return None
    if isinstance(value, dict):
        inner = [(kept, each) for name, each in value.items() if (kept := _kept_name(name)) is not None]
        return {name: _kept(each, depth=depth + 1) for name, each in inner}
    if isinstance(value, list):
        return [_kept(each, depth=depth + 1) for each in value]
    if value is None or is_id or isinstance(value, bool):
        return value
    text = masked(str(value))  # a number can be a card number too
    return value if text == clean(str(value)) else text


def _mask(found: re.Match[str]) -> str:
    """Star out every card number in a run of digit groups: whole groups that together have 13 to 19 digits."""
    text = found.group()
    groups = list(_GROUP.finditer(text))
    for first in range(len(groups)):
        for last in range(first, len(groups)):
            start, end = groups[first].start(), groups[last].end()
            digits = [int(c) for c in found.group()[start:end] if c.isdigit()]
            if len(digits) in _CARD_LENGTHS and _luhn(digits):
                text = text[:start] + "*" * (end - start) + text[end:]
            if len(digits) >= _CARD_LENGTHS.stop:
                break
    return text


def _luhn(digits: list[int]) -> bool:
    doubled = [d if i % 2 == 0 else sum(divmod(2 * d, 10)) for i, d in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0
