"""Which requests a fault strikes: by rule and by seed."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest

from qfpay_preauth.testing import NOTICE_KINDS, QUICK_KINDS, Faults, Gateway, Rule

from .kit import Merchant


async def test_rules_choose_their_requests(gateway: Gateway, merchant: Merchant) -> None:
    """By operation, syssn, amount and number; after some, for so many; the first rule that fits wins."""
    one, two = gateway.hold(1_000), gateway.hold(1_000)
    gateway.faults.add("respcd", operation="capture", syssn=two, amount=7, after=1, times=2, code="1145")
    gateway.faults.add("respcd", operation="refund", out_trade_no="R9", times=None, code="1204")
    seen = [(await merchant.capture(two, 7))["respcd"] for _ in range(4)]
    assert seen == ["0000", "1145", "1145", "0000"]
    assert (await merchant.capture(one, 7))["respcd"] == "0000"
    assert (await merchant.capture(two, 8))["respcd"] == "0000"
    capture = gateway.books.executions()[0].syssn
    assert [(await merchant.refund(capture, 1, f"R{n}"))["respcd"] for n in (8, 9, 9)] == [
        "0000",
        "1204",
        "1204",
    ]
    gateway.faults.clear()
    assert (await merchant.refund(capture, 1, "R9"))["respcd"] == "0000"
    assert gateway.faults.hits["respcd"] == 4


def _drawn(seed: int, rate: float = 0.5, **how: Any) -> list[Rule | None]:
    faults = Faults.random(seed, rate, **how)
    return [faults.pick("capture", "/trade/v1/authtrade", {}) for _ in range(400)]


def test_the_same_seed_gives_the_same_faults() -> None:
    """Reproducible by seed; the rate is about kept; every quick kind comes up."""
    assert _drawn(7) == _drawn(7)
    assert _drawn(7) != _drawn(8)
    struck = [rule for rule in _drawn(7) if rule is not None]
    assert 150 < len(struck) < 250
    assert {rule.kind for rule in struck} == set(QUICK_KINDS)
    assert {rule.http_status for rule in struck if rule.kind == "status_after"} > {500, 502}
    assert {rule.code for rule in struck if rule.kind == "respcd"} > {"1205", "1265"}


def test_random_faults_can_be_narrowed() -> None:
    """By kinds, by operation and by every field of a rule; rate 0 is none, rate 1 is all."""
    assert {rule.kind for rule in _drawn(7, 1.0, kinds=["cut"]) if rule} == {"cut"}
    assert not any(_drawn(7, 1.0, operation="refund"))
    assert not any(_drawn(7, 0.0))
    assert all(_drawn(7, 1.0))
    fixed = [rule for rule in _drawn(7, 1.0, kinds=["status_after"], status=418) if rule]
    assert {rule.status for rule in fixed} == {418}


def test_mistakes_in_faults_are_said_at_once() -> None:
    """Unknown kinds and impossible rates are errors."""
    with pytest.raises(ValueError, match="unknown kind of fault 'dorp_before'"):
        Rule(kind="dorp_before")
    with pytest.raises(ValueError, match="unknown kind"):
        Faults.random(1, 0.1, kinds=["?"])
    with pytest.raises(ValueError, match="between 0 and 1"):
        Faults.random(1, 1.1)


async def test_random_faults_never_unbalance_the_books(gateway: Gateway, merchant: Merchant) -> None:
    """A storm over capture, unfreeze and refund leaves sound books, and every hit is counted."""
    gateway.faults = Faults.random(11, 0.6)
    syssn = gateway.hold(5_000)
    for number in range(150):
        try:
            capture = (await merchant.capture(syssn, 50)).get("syssn", syssn)
            await merchant.refund(capture, 30, f"R{number}")
        except (aiohttp.ClientError, AssertionError, json.JSONDecodeError):
            continue
    gateway.run_late()
    gateway.settle_pending()
    assert gateway.books.audit() == []
    assert gateway.faults.hits.total() == sum(request.fault is not None for request in gateway.requests)


def _drawn_notices(faults: Faults, deliveries: int) -> list[str | None]:
    return [rule.kind if (rule := faults.pick_notice("capture", {})) else None for _ in range(deliveries)]


def test_notifications_have_dice_of_their_own() -> None:
    """By seed too; when notifications are delivered does not change which requests are struck."""
    kinds = [*QUICK_KINDS, *NOTICE_KINDS]
    mixed = Faults.random(7, 0.5, kinds=kinds)
    requests = []
    for _ in range(400):
        requests.append(mixed.pick("capture", "/trade/v1/authtrade", {}))
        assert _drawn_notices(mixed, 2)
    assert requests == _drawn(7, kinds=kinds) == _drawn(7)
    drawn = _drawn_notices(Faults.random(7, 0.5, kinds=kinds), 400)
    assert drawn == _drawn_notices(Faults.random(7, 0.5, kinds=kinds), 400)
    assert 150 < sum(kind is not None for kind in drawn) < 250
    assert {kind for kind in drawn if kind} == set(NOTICE_KINDS)


def test_a_rule_strikes_requests_or_notifications() -> None:
    """Each kind has its own side; the two do not use up each other's times."""
    faults = Faults([Rule(kind="notice_lost"), Rule(kind="drop_after")])
    assert [rule and rule.kind for rule in (faults.pick("capture", "", {}), faults.pick("capture", "", {}))] == [
        "drop_after",
        None,
    ]
    assert _drawn_notices(faults, 2) == ["notice_lost", None]
    assert faults.hits == {"notice_lost": 1, "drop_after": 1}
