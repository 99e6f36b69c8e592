"""What must hold of every output, judged by a reading of the input of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from qfpay_preauth._models import Entry
from tests.fuzz.mutate import IDS, PAN

_PAN = re.compile(r"(?<!\d)" + "[ -]?".join(PAN) + r"(?!\d)")


class Found(Exception):
    """A rule was broken."""


def need(holds: bool, rule: str) -> None:
    """Raise unless a rule holds."""
    if not holds:
        raise Found(rule)


def plain(body: bytes) -> dict[str, Any] | None:
    """The object in a body, read strictly and on our own: each name once."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) != len(pairs):
            raise ValueError("twice")
        return dict(pairs)

    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=once)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def says(value: object) -> str:
    """A field's text; a number in digits."""
    return str(value) if isinstance(value, str) or type(value) is int else ""


def matches(fields: dict[str, Any], entry: Entry, *, partly: bool) -> bool:
    """Whether an answer tells of an entry: nothing says otherwise, and (unless `partly`) everything is said."""
    wanted = {"orig_syssn": entry.syssn, "txamt": str(entry.amount), "txcurrcd": entry.currency}
    return all(
        says(fields.get(name)) == value or (partly and fields.get(name) in (None, "")) for name, value in wanted.items()
    )


def told_of(fields: dict[str, Any], entry: Entry, *, partly: bool) -> bool:
    """Whether a row or a notice does: it names the original in one of two ways, and what cannot be read is not said."""
    original = says(fields.get("origssn")) or says(fields.get("orig_syssn"))
    amount = says(fields.get("txamt"))
    readable = amount.isascii() and amount.isdigit() and len(amount) <= 11 and int(amount) > 0
    said = (original, str(int(amount)) if readable else "", says(fields.get("txcurrcd")))
    wanted = (entry.syssn, str(entry.amount), entry.currency)
    return all(one == other or (partly and not one) for one, other in zip(said, wanted, strict=True))


def unreadable(row: dict[str, Any]) -> bool:
    """Whether a row says something decisive in a way that cannot be read: that proves nothing."""
    return any(
        row.get(name) not in (None, "") and not says(row[name])
        for name in ("origssn", "orig_syssn", "txcurrcd", "txamt")
    )


def check_text(*values: object) -> None:
    """What is kept can be stored and printed."""
    for value in values:
        if isinstance(value, str):
            need(value.isprintable() and value.encode().decode() == value, f"unprintable text {value!r:.80}")


def check_hidden(body: bytes, shown: str, secret: str) -> None:
    """No card number where it was not sent as an id, and no key at all."""
    need(secret not in shown, "the key is shown")
    text = body.decode("utf-8", "replace")
    ids = (json.dumps(value, ensure_ascii=False) for value in _ids(text))
    if not any(_PAN.search("".join(c if c.isprintable() else " " for c in each)) for each in ids):
        need(not _PAN.search(shown), "a card number is shown")


def _ids(text: str) -> Iterator[Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            yield from (inner for name, inner in each.items() if name in IDS)
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each


def shown(value: object) -> str:
    """Everything that a value holds, also what its repr leaves out."""
    return repr(value) + json.dumps(getattr(value, "raw", None), default=str, ensure_ascii=False)
