"""Mutations: of fields, as another gateway might say them, and of bytes, as a bad line might."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

PAN = "4111111111111111"
PAN_TEXTS = (PAN, "4111 1111 1111 1111", "4111-1111-1111-1111", f"card {PAN}.", f"{PAN}/{PAN}")
NASTY: tuple[Any, ...] = (
    None, "", " ", "0", 0, 1, -1, 500, "500", "0500", "\uff15\uff10\uff10", "500.0", 500.0, 5e2, "5e2",
    True, False, [], {}, [[]], {"a": {}}, {"a": {"b": [1]}},
    "0000", "1143", "1265", "1266", "1108", "9999", "HKD", "hkd", "USD", "payment", "unfreeze", "refund", "close",
    "99999999999", "100000000000", 10**30, "x" * 600, "\u0000", "\u202e", "\ud800", "é", "2026-03-16 04:30:06",
    "0001-01-01 00:00:00", "9999-12-31 23:59:59", "2026-03-16T04:30:06", "SOMEBODY", *PAN_TEXTS, int(PAN), [PAN],
    {"a": PAN}, [int(PAN)], {PAN: 1},
)  # fmt: skip
NAMES = (
    "respcd", "txamt", "txcurrcd", "syssn", "orig_syssn", "origssn", "out_trade_no", "orig_out_trade_no", "sysdtm",
    "cancel", "notify_type", "order_type", "errmsg", "respmsg", "resperr", "cardcd", "brand_new", "chnlsn", "userid",
    PAN,
)  # fmt: skip
IDS = frozenset(
    ["syssn", "orig_syssn", "origssn", "out_trade_no", "orig_out_trade_no", "chnlsn", "chnlsn2", "payment_intent"]
)
"""Fields that are ids by QFPay's documentation: they are kept as they are."""


def mutated(body: bytes, dice: Random, others: Sequence[bytes]) -> bytes:
    """One to three changes to a body."""
    for _ in range(dice.randrange(1, 4)):
        body = dice.choice(_CHANGES)(body, dice, others)[:20_000]
    return body


def _field(body: bytes, dice: Random, _: Sequence[bytes]) -> bytes:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return body
    where = value
    if isinstance(value, dict) and isinstance(value.get("data"), list) and value["data"] and dice.random() < 0.8:
        rows = value["data"]
        if dice.random() < 0.2:
            rows.insert(dice.randrange(len(rows) + 1), json.loads(json.dumps(dice.choice(rows))))
        where = dice.choice(rows)
    if isinstance(where, dict):
        name = dice.choice([*NAMES, *where])
        if dice.random() < 0.2:
            where.pop(name, None)
        else:
            where[name] = dice.choice([*NASTY, *where.values()])
    return json.dumps(value, ensure_ascii=dice.random() < 0.5).encode("utf-8", "surrogatepass")


def _byte(body: bytes, dice: Random, _: Sequence[bytes]) -> bytes:
    at = dice.randrange(len(body) + 1)
    return body[:at] + bytes([dice.randrange(256)]) + body[at + 1 :]


def _insert(body: bytes, dice: Random, _: Sequence[bytes]) -> bytes:
    at = dice.randrange(len(body) + 1)
    piece = dice.choice(
        (b'"', b",", b"{", b"}", b"[", b"]", b"\\", b"0", b"\x00", b"\xff", b"NaN", b"1e999", b"\xef\xbb\xbf")
    )
    return body[:at] + piece * dice.choice((1, 1, 1, 50)) + body[at:]


def _cut(body: bytes, dice: Random, _: Sequence[bytes]) -> bytes:
    low, high = sorted(dice.randrange(len(body) + 1) for _ in range(2))
    return dice.choice((body[:low], body[low:], body[:low] + body[high:]))


def _splice(body: bytes, dice: Random, others: Sequence[bytes]) -> bytes:
    other = dice.choice(others)
    return body[: dice.randrange(len(body) + 1)] + other[dice.randrange(len(other) + 1) :]


def _twice(body: bytes, dice: Random, _: Sequence[bytes]) -> bytes:
    name, value = dice.choice(NAMES), json.dumps(dice.choice(NASTY)).encode()
    return body.replace(b"{", b'{"' + name.encode() + b'": ' + value + b", ", 1)


_CHANGES: tuple[Callable[[bytes, Random, Sequence[bytes]], bytes], ...] = (
    _field, _field, _field, _field, _field, _byte, _insert, _cut, _splice, _twice,
)  # fmt: skip
