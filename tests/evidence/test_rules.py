"""The rules of evidence for absence and for notifications alone, one by one (design section 4)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from attrs import evolve

from qfpay_preauth._absence import absent_verdict
from qfpay_preauth._models import (
    ConfirmedBy,
    DiscrepancyKind,
    Entry,
    Judgement,
    Movement,
    Operation,
    Policy,
    State,
    Why,
)
from qfpay_preauth._noticed import notified_though_ended
from tests.evidence.pure import (
    HOLD,
    NOW,
    ORDER,
    OWN,
    REFUND_NUMBER,
    TAKEN,
    doubt,
    ends,
    hold,
    known,
    listing,
    notice,
    notified,
    row,
    seen,
)

KEY = "order-17/parcel-1"
SECOND = timedelta(seconds=1)
OTHER = "20260315180500020000014099"


def remembered(**changes: Any) -> Entry:
    """A capture in doubt whose pending answer named OWN."""
    return doubt(**{"result_syssn": OWN, **changes})


def refund(**changes: Any) -> Entry:
    """A refund of 500 in doubt, with a number of ours."""
    return doubt(Operation.REFUND, **changes)


# ------------------------------------------------------------------------------------------------ absence

QUIET = timedelta(minutes=5)
WINDOW = timedelta(days=7)
AFTER_QUIET = NOW + timedelta(seconds=90) + QUIET


def absent(entry: Entry, *rows: Any, at: Any = AFTER_QUIET, shown: bool = True, **listed: Any) -> bool:
    """Whether a complete enquiry at `at` counts as an absence of the entry, with a quiet period of five minutes."""
    found = seen(listing(*rows, read_at=at, **listed), known(entry, linked_capture_shown=shown), quiet_period=QUIET)
    assert ends(found) == {}
    return found.absent == [entry]


def test_absent_after_the_quiet_period() -> None:
    """Past the quiet period, counted from when the entry became doubtful, a complete enquiry counts as an absence."""
    assert absent(doubt())
    assert not absent(doubt(), at=AFTER_QUIET - SECOND)


def test_absent_without_a_quiet_period() -> None:
    """Without a quiet period, time alone never makes an absence."""
    found = seen(listing(read_at=NOW + timedelta(days=400)), known(doubt(), linked_capture_shown=True))
    assert found.absent == []


@pytest.mark.parametrize("change", [{"stable": False}, {"whole": False}, {"since": NOW}], ids=str)
def test_absent_from_an_incomplete_listing(change: Mapping[str, Any]) -> None:
    """An incomplete enquiry shows no absence."""
    assert not absent(doubt(), **change)


def test_absent_before_captures_were_shown() -> None:
    """Unless the enquiry has ever shown, linked, an answered capture, not showing one says nothing."""
    assert not absent(doubt(), shown=False)


@pytest.mark.parametrize("code", ["1143", "1266", "0000"])
def test_mentioned_is_not_absent(code: str) -> None:
    """A row that might be the entry's, whatever its code, keeps it from being absent."""
    assert not absent(doubt(), row(code=code, order_type="new word"))


@pytest.mark.parametrize(
    "change", [{"orig_syssn": None}, {"amount": None}, {"orig_syssn": None, "amount": None}], ids=str
)
def test_an_incomplete_row_is_not_absence(change: Mapping[str, Any]) -> None:
    """A row that nobody here knows and that lacks its original or its amount might be the entry's."""
    assert not absent(doubt(), row(**change))


def test_a_remembered_syssn_is_never_absent() -> None:
    """What a pending answer named exists: it is asked for, and never absent."""
    assert not absent(remembered())


def test_lapsed_only_after_window_and_margin() -> None:
    """A capture lapses only after its window and a day more; a refund never."""
    ended = NOW - timedelta(hours=1) + WINDOW + timedelta(hours=24)
    book = known(doubt(), authorization=hold(capture_window=WINDOW), linked_capture_shown=True)
    assert seen(listing(read_at=ended - SECOND), book).absent == []
    assert seen(listing(read_at=ended), book).absent == [doubt()]
    verdict = absent_verdict(doubt(), hold(capture_window=WINDOW), ended, Policy())
    assert (verdict.judgement, verdict.why, verdict.rerunnable) == (Judgement.NOT_SENT, Why.LAPSED, False)
    back = known(refund(), authorization=hold(capture_window=WINDOW), linked_capture_shown=True)
    assert seen(listing(read_at=ended), back).absent == []


def test_absent_verdict_within_the_window() -> None:
    """Absence after the quiet period means not sent, and the key may run again."""
    verdict = absent_verdict(doubt(), hold(), AFTER_QUIET, Policy(QUIET))
    assert (verdict.judgement, verdict.why, verdict.rerunnable) == (Judgement.NOT_SENT, Why.NOT_SENT, True)


# ------------------------------------------------------------------------------------------------ notifications


def test_a_notification_that_fits() -> None:
    """Original, type, amount and currency match and the syssn is new: executed."""
    verdict = notified(notice(), known(doubt()))
    assert verdict is not None
    assert (verdict.judgement, verdict.result_syssn) == (Judgement.EXECUTED, OWN)
    assert verdict.confirmed_by is ConfirmedBy.NOTIFICATION


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "unfreeze"},
        {"kind": "refund"},
        {"kind": "brand_new"},
        {"kind": ""},
        {"syssn": None},
        {"syssn": TAKEN},
        {"syssn": HOLD, "orig_syssn": None},
        {"syssn": HOLD},
        {"orig_syssn": None},
        {"orig_syssn": OTHER},
        {"amount": 501},
        {"amount": None},
        {"currency": "USD"},
        {"currency": None},
        {"code": "1143"},
        {"code": "1266"},
        {"code": None},
        {"system_time": NOW - timedelta(seconds=61)},
        {"system_time": None},
    ],
    ids=str,
)
def test_a_notification_that_does_not_fit(change: Mapping[str, Any]) -> None:
    """With any one condition violated a notification ends nothing."""
    assert notified(notice(**change), known(doubt())) is None


def test_a_notification_before_the_answer() -> None:
    """An entry that may still be under way is not ended by a notification."""
    held = doubt(state=State.HELD)
    assert notified(notice(), known(held), NOW + timedelta(seconds=89)) is None
    assert notified(notice(), known(held), NOW + timedelta(seconds=90)) is not None


def test_a_notification_between_twins() -> None:
    """A notification that fits two entries ends neither."""
    assert notified(notice(), known(doubt(), doubt(idempotency_key="b"))) is None


def test_a_notification_of_a_refund_by_number() -> None:
    """`refund` and `cancel` are refunds; one with another's number is not ours."""
    told = notice(orig_syssn=TAKEN, kind="cancel", out_trade_no=REFUND_NUMBER)
    assert notified(told, known(refund())) is not None
    assert notified(evolve(told, kind="refund"), known(refund())) is not None
    assert notified(evolve(told, out_trade_no="SOMEBODY"), known(refund())) is None


def test_a_notification_of_a_foreign_movement() -> None:
    """A syssn already recorded as made elsewhere ends nothing."""
    foreign = Movement("M1", OWN, "capture", HOLD, 500)
    assert notified(notice(), known(doubt(), owners=[foreign])) is None


def test_a_notification_for_a_pending_answer() -> None:
    """A syssn that a pending answer gave to one entry ends that one and no other."""
    assert notified(notice(), known(remembered())) is not None
    other = remembered(idempotency_key="b", amount=700)
    assert notified(notice(), known(doubt(), other)) is None


def test_notified_though_ended() -> None:
    """A success notified for a syssn whose entry ended not executed is a discrepancy."""
    ended = remembered(state=State.NOT_EXECUTED, why=Why.DECLINED)
    wrong = notified_though_ended(notice(), known(ended))
    assert wrong is not None
    assert wrong.kind is DiscrepancyKind.EXECUTED_THOUGH_ENDED
    assert notified_though_ended(notice(), known(remembered())) is None
    assert hold().out_trade_no == ORDER
