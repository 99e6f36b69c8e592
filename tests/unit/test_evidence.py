"""The rules of evidence, one by one: what ends an entry, and what does not (design section 4)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from qfpay_preauth._evidence import kinds_of
from qfpay_preauth._models import (
    ConfirmedBy,
    DiscrepancyKind,
    Entry,
    Judgement,
    Movement,
    Operation,
    State,
    Why,
)
from tests.evidence.pure import (
    BOTH_WORDS,
    LATER,
    NO_WORDS,
    NOW,
    OWN,
    REFUND_NUMBER,
    TAKEN,
    capture,
    doubt,
    ends,
    hold,
    known,
    listing,
    row,
    seen,
)

KEY = "order-17/parcel-1"
SECOND = timedelta(seconds=1)
OTHER = "20260315180500020000014099"
DONE = {KEY: (Judgement.EXECUTED, OWN)}
CAPTURE_WORD = {"capture": frozenset({"payment"})}

# ------------------------------------------------------------------------------------------------ linked rows


def remembered(**changes: Any) -> Entry:
    """A capture in doubt whose pending answer named OWN."""
    return doubt(result_syssn=OWN, **changes)


def refund(**changes: Any) -> Entry:
    """A refund of 500 in doubt, with a number of ours."""
    return doubt(Operation.REFUND, **changes)


def refund_row(**changes: Any) -> Any:
    """The row of that refund, by its number."""
    return row(**{"orig_syssn": TAKEN, "out_trade_no": REFUND_NUMBER, "order_type": "refund", **changes})


def test_done_by_remembered_syssn() -> None:
    """A row with the syssn that a pending answer named ends its entry as executed, whatever the words are."""
    found = seen(listing(row(order_type="never seen", orig_syssn=None)), known(remembered(), words=NO_WORDS))
    assert ends(found) == DONE
    assert found.verdicts[0][1].confirmed_by is ConfirmedBy.ENQUIRY


def test_done_by_own_number() -> None:
    """A row with our own number ends its entry as executed."""
    assert ends(seen(listing(refund_row()), known(refund()))) == DONE


@pytest.mark.parametrize(("code", "rerunnable"), [("1266", False), ("1201", False), ("1265", True), ("1269", True)])
def test_refused_by_remembered_syssn(code: str, rerunnable: bool) -> None:
    """A sure refusal of the remembered syssn ends its entry; "not now" lets the key run again."""
    ((_, verdict),) = seen(listing(row(code=code)), known(remembered())).verdicts
    assert (verdict.judgement, verdict.rerunnable, verdict.code) == (Judgement.DECLINED, rerunnable, code)


def test_refused_by_own_number() -> None:
    """A sure refusal under our own number ends a first and only attempt."""
    assert ends(seen(listing(refund_row(code="1272")), known(refund()))) == {KEY: (Judgement.DECLINED, None)}


@pytest.mark.parametrize("change", [{"attempt": 2}, {"reserved_at": NOW + timedelta(minutes=2)}])
def test_an_earlier_refusal_under_the_number(change: Mapping[str, Any]) -> None:
    """An earlier attempt's refusal under the same number does not end this attempt."""
    assert ends(seen(listing(refund_row(code="1272")), known(refund(**change)))) == {}


def test_an_untimed_refusal_under_the_number() -> None:
    """A refusal that does not say when it happened may be an earlier one's."""
    assert ends(seen(listing(refund_row(code="1272", system_time=None)), known(refund()))) == {}


@pytest.mark.parametrize("code", ["1143", "1145", "1298", "1264", "1251", "9999", None])
def test_pending_and_unclear_codes_are_asked_again(code: str | None) -> None:
    """A linked row with a pending or unclear code changes nothing, and its entry is not absent."""
    found = seen(
        listing(row(code=code)),
        known(remembered(doubt_at=NOW), linked_capture_shown=True),
        quiet_period=timedelta(0),
    )
    assert (ends(found), found.absent, found.discrepancies) == ({}, [], [])
    # a pending one is only asked again; an unclear one may stay so for ever: a person is told
    assert bool(found.attention) == (code not in ("1143", "1145", "1298"))


@pytest.mark.parametrize(
    "change", [{"amount": 501}, {"currency": "USD"}, {"orig_syssn": OTHER}, {"order_type": "refund"}]
)
@pytest.mark.parametrize("code", ["0000", "1266"])
def test_a_contradicting_linked_row(change: Mapping[str, Any], code: str) -> None:
    """A linked row that says another amount, currency, original or kind ends nothing: attention, and a discrepancy."""
    found = seen(listing(row(code=code, **change)), known(remembered()))
    assert (ends(found), list(found.attention)) == ({}, [KEY])
    expected = DiscrepancyKind.AMOUNT_DIFFERS if "amount" in change else DiscrepancyKind.MISMATCH
    assert [(each.kind, each.syssn, each.idempotency_key) for each in found.discrepancies] == [(expected, OWN, KEY)]


def test_a_held_entry_is_left_alone() -> None:
    """Nothing ends an entry that may still be under way, not even its own row."""
    at = NOW + timedelta(seconds=89)
    held = remembered(state=State.HELD)
    assert ends(seen(listing(row(), read_at=at), known(held))) == {}
    assert ends(seen(listing(row(), read_at=at + SECOND), known(held))) == DONE


def test_executed_though_ended() -> None:
    """A linked success of an entry that ended otherwise edits nothing: a discrepancy, and recorded apart."""
    ended = remembered(state=State.NOT_EXECUTED, why=Why.OPERATOR)
    found = seen(listing(row()), known(ended))
    assert ends(found) == {}
    assert [each.kind for each in found.discrepancies] == [DiscrepancyKind.EXECUTED_THOUGH_ENDED]
    assert [(each.syssn, kind) for each, kind in found.foreign] == [(OWN, "capture")]


def test_refused_though_executed() -> None:
    """A sure refusal of what we have as executed is a discrepancy; a pending code is not."""
    done = remembered(state=State.EXECUTED)
    found = seen(listing(row(code="1266")), known(done))
    assert [each.kind for each in found.discrepancies] == [DiscrepancyKind.REFUSED_THOUGH_EXECUTED]
    assert seen(listing(row(code="1143")), known(done)).discrepancies == []


def test_own_number_executed_twice() -> None:
    """A second execution under our own number is reported and recorded apart."""
    done = refund(state=State.EXECUTED, result_syssn=OTHER)
    found = seen(listing(refund_row()), known(done))
    assert [each.kind for each in found.discrepancies] == [DiscrepancyKind.MISSING_HERE]
    assert [each.syssn for each, _ in found.foreign] == [OWN]


def test_confirmed_and_words() -> None:
    """An answered execution is confirmed by its row and teaches the word; one that evidence ended does not."""
    found = seen(listing(row()), known(remembered(state=State.EXECUTED, confirmed_by=ConfirmedBy.ANSWER)))
    assert (found.confirmed, found.words) == ({KEY}, {("capture", "payment", True)})
    found = seen(listing(row()), known(remembered(state=State.EXECUTED, confirmed_by=ConfirmedBy.ENQUIRY)))
    assert (found.confirmed, found.words) == ({KEY}, set())


def test_an_unfreeze_row_may_say_close() -> None:
    """No page says that an unfreeze's row is not a `close`: linked, it speaks for its unfreeze."""
    entry = doubt(Operation.UNFREEZE, result_syssn=OWN)
    assert ends(seen(listing(row(order_type="close")), known(entry))) == DONE


# ------------------------------------------------------------------------------------------------ unlinked rows


def test_the_one_row_that_fits() -> None:
    """One row, one entry, a word that was shown to mean capture: executed."""
    found = seen(listing(row()), known(doubt()))
    assert (ends(found), found.attention, found.foreign) == (DONE, {}, [])


VIOLATIONS: Mapping[str, Mapping[str, Any]] = {
    "pending": {"code": "1143"},
    "refused": {"code": "1266"},
    "no code": {"code": None},
    "another hold": {"orig_syssn": OTHER},
    "no original": {"orig_syssn": None},
    "amount": {"amount": 501},
    "no amount": {"amount": None},
    "currency": {"currency": "USD"},
    "no currency": {"currency": None},
    "before the reservation": {"system_time": NOW - timedelta(seconds=61)},
    "long before": {"system_time": NOW - timedelta(hours=1)},
    "no time": {"system_time": None},
    "known syssn": {"syssn": TAKEN},
    "a refund": {"order_type": "refund"},
    "a close": {"order_type": "close"},
    "a cancel": {"order_type": "cancel"},
    "an unfreeze": {"order_type": "unfreeze"},
    "an unknown word": {"order_type": "authtrade"},
    "no word": {"order_type": None},
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_one_condition_violated(name: str) -> None:
    """Every condition counts: with any one of them violated, an unlinked row ends nothing."""
    assert ends(seen(listing(row(**VIOLATIONS[name])), known(doubt()))) == {}


@pytest.mark.parametrize(
    "change", [{"stable": False}, {"whole": False}, {"since": NOW - timedelta(seconds=59)}], ids=lambda c: next(iter(c))
)
def test_an_incomplete_listing(change: Mapping[str, Any]) -> None:
    """A listing that was narrowed, kept changing, or starts too late proves nothing by one row, and blames nobody."""
    found = seen(listing(row(), **change), known(doubt()))
    assert (ends(found), found.attention, found.foreign) == ({}, {}, [])


@pytest.mark.parametrize(
    "words",
    [NO_WORDS, CAPTURE_WORD, {"unfreeze": frozenset({"unfreeze"})}, {**BOTH_WORDS, "unfreeze": frozenset({"payment"})}],
    ids=["none", "capture only", "unfreeze only", "the same"],
)
def test_words_that_do_not_tell(words: Mapping[str, frozenset[str]]) -> None:
    """Unless both words were shown and differ, a row does not tell a capture from an unfreeze: attention."""
    found = seen(listing(row()), known(doubt(), words=words))
    assert (ends(found), list(found.attention), found.foreign) == ({}, [KEY], [])


def test_two_rows_one_entry() -> None:
    """Two rows that fit one entry: no guess, attention, and neither is taken for somebody else's."""
    found = seen(listing(row(), row(syssn=OTHER)), known(doubt()))
    assert (ends(found), list(found.attention), found.foreign) == ({}, [KEY], [])


def test_one_row_two_entries() -> None:
    """One row that fits two entries ends neither."""
    found = seen(listing(row()), known(doubt(), doubt(idempotency_key="b")))
    assert (ends(found), set(found.attention)) == ({}, {KEY, "b"})


def test_equal_twins() -> None:
    """As many rows as entries: one to one, no row twice."""
    found = seen(listing(row(), row(syssn=OTHER)), known(doubt(), doubt(idempotency_key="b")))
    assert {key: judgement for key, (judgement, _) in ends(found).items()} == dict.fromkeys((KEY, "b"), "executed")
    assert {syssn for _, syssn in ends(found).values()} == {OWN, OTHER}


def test_twins_of_which_one_may_be_under_way() -> None:
    """While an equal entry may still be under way, rows end neither."""
    young = doubt(idempotency_key="b", state=State.HELD, doubt_at=LATER + SECOND)
    assert ends(seen(listing(row(), row(syssn=OTHER)), known(doubt(), young))) == {}


def test_not_yet_doubtful() -> None:
    """A row that fits an entry under way ends nothing and is not taken for somebody else's."""
    held = doubt(state=State.HELD, doubt_at=LATER + SECOND)
    found = seen(listing(row()), known(held))
    assert (ends(found), found.attention, found.foreign, found.discrepancies) == ({}, {}, [], [])


def test_followed_by_a_capture() -> None:
    """Nothing can be captured after an unfreeze: a row that a known capture follows is a capture."""
    later = row(syssn=TAKEN, amount=20_000, system_time=NOW + timedelta(seconds=3))
    assert ends(seen(listing(row(), later), known(doubt(), words=NO_WORDS))) == DONE


@pytest.mark.parametrize(
    "change",
    [
        {"system_time": NOW + timedelta(seconds=2)},
        {"system_time": NOW},
        {"system_time": None},
        {"code": "1143"},
        {"syssn": OTHER},
    ],
)
def test_not_surely_followed_by_a_capture(change: Mapping[str, Any]) -> None:
    """A capture in the same second, earlier, untimed, pending or not known to us proves nothing about the row."""
    later = row(**{"syssn": TAKEN, "amount": 20_000, "system_time": NOW + timedelta(seconds=3), **change})
    assert ends(seen(listing(row(), later), known(doubt(), words=NO_WORDS))) == {}


def test_followed_by_another_holds_capture() -> None:
    """A capture on another hold says nothing about this one."""
    later = row(syssn=OTHER, orig_syssn="H2", amount=7, system_time=NOW + timedelta(seconds=3))
    other = Movement("M1", OTHER, "capture", "H2", 7, idempotency_key="k2")
    assert ends(seen(listing(row(), later), known(doubt(), owners=[other], words=NO_WORDS))) == {}


# ------------------------------------------------------------------------------------------------ unfreezes and refunds


def test_the_whole_remainder() -> None:
    """A row of the remainder while an unfreeze, and no capture, is in doubt is the unfreeze's, whatever its word."""
    found = seen(listing(row(order_type="???")), known(doubt(Operation.UNFREEZE), words=NO_WORDS))
    assert ends(found) == DONE


def test_the_whole_remainder_as_a_capture() -> None:
    """A row whose word was shown to mean capture never ends an unfreeze."""
    assert ends(seen(listing(row()), known(doubt(Operation.UNFREEZE)))) == {}


def test_the_remainder_followed_by_a_capture() -> None:
    """A row that a known capture follows is no unfreeze, and never ends one."""
    later = row(syssn=TAKEN, amount=20_000, system_time=NOW + timedelta(seconds=3))
    assert ends(seen(listing(row(), later), known(doubt(Operation.UNFREEZE), words=NO_WORDS))) == {}


def test_the_remainder_while_a_capture_is_in_doubt() -> None:
    """With a capture in doubt on the hold, a row of unknown kind does not end the unfreeze."""
    entries = doubt(Operation.UNFREEZE), doubt(idempotency_key="b", amount=700)
    assert ends(seen(listing(row()), known(*entries, words=NO_WORDS))) == {}


def test_a_close_row_may_be_the_unfreeze() -> None:
    """A `close` row of the remainder could be our unfreeze in doubt: it is not recorded as somebody else's."""
    found = seen(listing(row(order_type="close")), known(doubt(Operation.UNFREEZE), words=NO_WORDS))
    assert found.foreign == []


def test_a_refund_by_its_capture() -> None:
    """A refund's row without a number is unlinked; its capture, amount and currency decide."""
    found = seen(listing(refund_row(out_trade_no=None)), known(refund(), words=NO_WORDS))
    assert ends(found) == DONE


def test_a_refund_with_another_number() -> None:
    """Our refunds always carry our number: a row with another number is somebody else's."""
    found = seen(listing(refund_row(out_trade_no="PORTAL1")), known(refund()))
    assert ends(found) == {}
    assert [(each.syssn, kind) for each, kind in found.foreign] == [(OWN, "refund")]


def test_a_refund_of_another_capture() -> None:
    """The same amount back from another capture of the same hold is another refund."""
    found = seen(
        listing(refund_row(out_trade_no=None, orig_syssn=OTHER)),
        known(refund(), owners=[capture(OTHER)]),
    )
    assert ends(found) == {}


# ------------------------------------------------------------------------------------------------ made elsewhere


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"amount": 501}, "capture"),
        ({"order_type": "unfreeze"}, "unfreeze"),
        ({"order_type": "x", "amount": 501}, "unknown"),
        ({"system_time": NOW - timedelta(minutes=16)}, "capture"),
        ({"orig_syssn": TAKEN, "order_type": "refund"}, "refund"),
    ],
)
def test_foreign(change: Mapping[str, Any], kind: str) -> None:
    """A successful row that can be no open entry of ours is recorded as made elsewhere."""
    found = seen(listing(row(**change)), known(doubt()))
    assert ends(found) == {}
    assert all("does not show it" in why for _, why in found.attention.values())  # of the row nothing is said
    assert [(each.syssn, said) for each, said in found.foreign] == [(OWN, kind)]
    assert [each.kind for each in found.discrepancies] == [DiscrepancyKind.MISSING_HERE]


@pytest.mark.parametrize(
    "change",
    [
        {"system_time": NOW - timedelta(minutes=14)},
        {"system_time": None},
        {"order_type": None},
        {"order_type": "new word"},
        {"currency": None},
        {"amount": None},
        {"code": "1143"},
    ],
    ids=str,
)
def test_what_could_be_ours_is_not_foreign(change: Mapping[str, Any]) -> None:
    """While a row could be an open entry's, it is not recorded as somebody else's."""
    assert seen(listing(row(**change)), known(doubt())).foreign == []


def test_executed_though_ended_unlinked() -> None:
    """A row that fits an entry which ended not executed is a discrepancy of that entry."""
    found = seen(listing(row()), known(doubt(state=State.NOT_EXECUTED, why=Why.OPERATOR)))
    assert [(each.kind, each.idempotency_key) for each in found.discrepancies] == [
        (DiscrepancyKind.EXECUTED_THOUGH_ENDED, KEY)
    ]


def test_a_decision_without_syssn_meets_its_row() -> None:
    """What a person called executed without a syssn is not booked a second time when its row shows up."""
    decided = doubt(state=State.EXECUTED, confirmed_by=ConfirmedBy.OPERATOR)
    assert seen(listing(row()), known(decided)).foreign == []


def test_a_decision_without_syssn_may_own_the_row() -> None:
    """A row that may be the one of an entry which a person called executed never ends another entry."""
    decided = doubt(state=State.EXECUTED, confirmed_by=ConfirmedBy.OPERATOR, idempotency_key="decided")
    assert ends(seen(listing(row()), known(doubt(), decided))) == {}


def _seconds_for(rows: int) -> float:
    shown = [row(syssn=f"S{n}", amount=n) for n in range(rows)]
    ours = [capture(f"S{n}", amount=n) for n in range(0, rows, 2)]
    book = known(*(doubt(idempotency_key=f"k{n}", amount=n) for n in range(20)), owners=ours)
    took = []
    for _ in range(3):
        began = time.process_time()
        seen(listing(*shown), book)
        took.append(time.process_time() - began)
    return min(took)


def test_many_rows() -> None:
    """A busy day's rows take time in proportion to their number: they are weighed inside a transaction."""
    assert _seconds_for(2_400) < 8 * _seconds_for(600)  # four times as many; a quadratic rule takes sixteen times


def test_kinds_of_imported_rows() -> None:
    """Without words, all but the last row of a hold are captures, and refunds name a capture."""
    rows = [row(syssn=f"S{n}", order_type=None, system_time=NOW + n * SECOND) for n in range(3)]
    rows.append(row(syssn="R", orig_syssn="S0", system_time=NOW + 9 * SECOND))
    assert kinds_of(rows, hold(), NO_WORDS) == {"S0": "capture", "S1": "capture", "S2": "unknown", "R": "refund"}
    assert kinds_of([row(order_type="unfreeze")], hold(), BOTH_WORDS) == {OWN: "unfreeze"}
