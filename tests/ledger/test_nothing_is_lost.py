"""What a rule makes anew keeps every field that it does not change, also fields that are added one day."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from attrs import evolve, fields

from qfpay_preauth._models import Authorization, Entry, Judgement, Operation, State, Verdict
from qfpay_preauth.ledger import _rules

AT = datetime(2026, 3, 10, 12, 0, 0, tzinfo=UTC)
LATER = AT + timedelta(minutes=1)
_ENDING = {"why", "rerunnable", "detail", "confirmed_by", "concluded_at", "reason"}
"""What a verdict says anew even where it says nothing."""


def _filled(kind: type[Any], **given: Any) -> Any:
    """A value in which every field says something of its own."""
    names = [each.name for each in fields(kind) if each.name not in given]
    return kind(**{name: f"{name}'s" for name in names}, **given)


def test_sums_leave_the_rest_of_a_hold_alone() -> None:
    """A claim of nothing changes nothing, and a claim changes the claim alone."""
    sums = ("captured", "claimed", "unfrozen", "refunded", "foreign_captured", "foreign_unfrozen", "foreign_refunded")
    hold: Authorization = _filled(Authorization, **{name: 10 + place for place, name in enumerate(sums)})
    assert _rules.claim(hold, 0) == hold
    assert _rules.claim(hold, 5) == evolve(hold, claimed=hold.claimed + 5)


def test_a_verdict_leaves_the_rest_of_an_entry_alone() -> None:
    """A doubt that stays one, with nothing said about it, keeps all else that was known."""
    states = {"state": State.IN_DOUBT, "operation": Operation.CAPTURE, "reserved_at": AT, "doubt_at": AT}
    stored: Entry = _filled(Entry, **states, attempt=1, raw={"respcd": "1143"})
    after = _rules.concluded(stored, Verdict(Judgement.IN_DOUBT), LATER, None, 1).entry
    kept = [each.name for each in fields(Entry) if each.name not in _ENDING]
    assert [getattr(after, name) for name in kept] == [getattr(stored, name) for name in kept]
