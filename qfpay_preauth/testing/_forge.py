"""What a fault makes of a notification: no bytes, other bytes, or the same ones more than once. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from ._courier import Letter
from ._faults import Rule
from ._notice import signed
from ._plan import changed

#: A body and its headers.
Post = tuple[bytes, Mapping[str, str]]


def posts(letter: Letter, rule: Rule | None, key: str) -> list[Post]:
    """What is posted for a letter, in order; ``key`` is the gateway's own."""
    return [(letter.body, letter.headers)] if rule is None else _FORGERS[rule.kind](letter, rule, key)


def counts(rule: Rule | None) -> bool:
    """Whether the answer to such posts counts as the answer to the letter."""
    return rule is None or rule.kind == "notice_repeated"


def _lost(letter: Letter, rule: Rule, key: str) -> list[Post]:
    return []


def _unheard(letter: Letter, rule: Rule, key: str) -> list[Post]:
    return [(letter.body, letter.headers)]


def _repeated(letter: Letter, rule: Rule, key: str) -> list[Post]:
    return [(letter.body, letter.headers)] * (1 + rule.count)


def _wrong_key(letter: Letter, rule: Rule, key: str) -> list[Post]:
    body = json.dumps(changed(json.loads(letter.body), rule.changes)).encode()
    return [signed(body, f"NOT_{key}")]


def _altered(letter: Letter, rule: Rule, key: str) -> list[Post]:
    fields = json.loads(letter.body)
    changes = rule.changes or {"txamt": str(int(fields["txamt"]) + 1)}
    return [(json.dumps(changed(fields, changes)).encode(), letter.headers)]


def _reserialised(letter: Letter, rule: Rule, key: str) -> list[Post]:
    return [(json.dumps(json.loads(letter.body), indent=1, sort_keys=True).encode(), letter.headers)]


def _unsigned(letter: Letter, rule: Rule, key: str) -> list[Post]:
    return [(letter.body, {name: value for name, value in letter.headers.items() if name != "X-QF-SIGN"})]


def _oversize(letter: Letter, rule: Rule, key: str) -> list[Post]:
    return [signed(letter.body.ljust(rule.padded_size), key)]


_FORGERS: Mapping[str, Callable[[Letter, Rule, str], list[Post]]] = {
    "notice_lost": _lost,
    "notice_unheard": _unheard,
    "notice_repeated": _repeated,
    "notice_wrong_key": _wrong_key,
    "notice_altered": _altered,
    "notice_reserialised": _reserialised,
    "notice_unsigned": _unsigned,
    "notice_oversize": _oversize,
}
