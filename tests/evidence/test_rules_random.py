"""Random rows, notices and entries: whatever is shown, nobody's syssn is taken, and unlinked evidence frees nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from attrs import evolve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qfpay_preauth._models import Entry, Judgement, Movement, Operation, State, Transaction, Why
from tests.evidence.pure import (
    BOTH_WORDS,
    HOLD,
    LATER,
    NO_WORDS,
    NOW,
    TAKEN,
    doubt,
    hold,
    known,
    listing,
    notice,
    notified,
    row,
    seen,
)

RULES = settings(max_examples=150, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
Case = Callable[[Callable[..., None]], Callable[..., None]]

SYSSNS = [f"S{number}" for number in range(6)]
AMOUNTS = [500, 500, 700]
NUMBERS = [f"N{number}" for number in range(3)]
moments = st.integers(-1_200, 1_200).map(lambda seconds: NOW + timedelta(seconds=seconds))


@st.composite
def entries(draw: st.DrawFn) -> list[Entry]:
    """Up to five entries of one hold in any state, their results distinct."""
    results = list(draw(st.permutations(SYSSNS)))
    made = []
    for number in range(draw(st.integers(0, 5))):
        operation = draw(st.sampled_from(Operation))
        state = draw(st.sampled_from(State))
        named = state is State.EXECUTED or draw(st.booleans())
        entry = doubt(
            operation,
            idempotency_key=f"k{number}",
            state=state,
            why=Why.DECLINED if state is State.NOT_EXECUTED else None,
            amount=draw(st.sampled_from(AMOUNTS)),
            out_trade_no=f"N{number}" if operation is Operation.REFUND else None,
            result_syssn=results[number] if named else None,
            attempt=draw(st.integers(1, 2)),
            reserved_at=draw(moments),
            doubt_at=draw(st.sampled_from([NOW, LATER + timedelta(seconds=1)])),
        )
        made.append(entry)
    return made


@st.composite
def rows(draw: st.DrawFn) -> list[Transaction]:
    """Rows about the hold, and about what nobody knows; a syssn may come several times."""
    return [
        row(
            syssn=draw(st.sampled_from([*SYSSNS, "X1", "X2", "X3", HOLD, TAKEN])),
            orig_syssn=draw(st.sampled_from([HOLD, HOLD, HOLD, TAKEN, "S0", "X1", None])),
            out_trade_no=draw(st.sampled_from([None, None, *NUMBERS, "SOMEBODY"])),
            order_type=draw(st.sampled_from(["payment", "unfreeze", "refund", "close", "new", None])),
            amount=draw(st.sampled_from([*AMOUNTS, 501, None])),
            currency=draw(st.sampled_from(["HKD", "HKD", "HKD", "USD", None])),
            code=draw(st.sampled_from(["0000", "0000", "0000", "1143", "1266", "9999", None])),
            system_time=draw(st.one_of(moments, st.none())),
        )
        for _ in range(draw(st.integers(0, 7)))
    ]


foreign = st.lists(
    st.builds(
        Movement,
        account=st.just("M1"),
        syssn=st.sampled_from(["X1", "X2"]),
        kind=st.sampled_from(["capture", "unfreeze", "refund", "unknown"]),
        authorization=st.just(HOLD),
        amount=st.sampled_from(AMOUNTS),
    ),
    max_size=2,
)
words = st.sampled_from([BOTH_WORDS, NO_WORDS, {"capture": frozenset({"payment"})}])


def linked(entry: Entry, shown: list[Transaction]) -> bool:
    """Whether a row speaks for the entry by its syssn or its number."""
    return any(
        each.syssn == entry.result_syssn or (entry.out_trade_no and each.out_trade_no == entry.out_trade_no)
        for each in shown
    )


@RULES
@given(entries(), rows(), foreign, words, st.booleans(), st.booleans(), st.sampled_from([None, timedelta(0)]))
def test_rows(  # noqa: PLR0917
    have: list[Entry],
    shown: list[Transaction],
    elsewhere: list[Movement],
    taught: Any,
    stable: bool,
    captures_shown: bool,
    quiet: timedelta | None,
) -> None:
    """No syssn of somebody else, no row for two entries, only doubtful entries, and never a no without a link."""
    book = known(*have, owners=elsewhere, words=taught, linked_capture_shown=captures_shown)
    found = seen(listing(*shown, stable=stable), book, quiet_period=quiet)
    used = Counter(verdict.result_syssn for _, verdict in found.verdicts if verdict.result_syssn)
    assert not used or max(used.values()) == 1
    assert len({entry.idempotency_key for entry, _ in found.verdicts}) == len(found.verdicts)
    for entry, verdict in found.verdicts:
        assert entry.doubtful(LATER)
        owner = book.owners.get(verdict.result_syssn or "")
        assert owner is None or owner.idempotency_key == entry.idempotency_key
        if verdict.judgement is Judgement.EXECUTED:
            _check_executed(entry, verdict.result_syssn, shown, taught, stable=stable)
        else:
            assert linked(entry, shown)
            assert verdict.judgement is Judgement.DECLINED
    taken = {each.syssn for each, _ in found.foreign}
    assert not taken & set(used)
    for entry in found.absent:
        assert entry.doubtful(LATER)
        assert stable
        assert captures_shown
        assert quiet is not None
        assert not linked(entry, [each for each in shown if each.syssn not in book.owners])
        assert entry.result_syssn is None
    assert not {entry.idempotency_key for entry in found.absent} & {e.idempotency_key for e, _ in found.verdicts}


def _check_executed(entry: Entry, syssn: str | None, shown: list[Transaction], taught: Any, *, stable: bool) -> None:
    """Some row of that syssn says so, and where it is not linked, nothing else could be meant."""
    mine = [each for each in shown if each.syssn == syssn and each.code == "0000"]
    by_link = [each for each in mine if linked(entry, [each])]
    assert mine
    for each in mine:
        assert each.amount in (None, entry.amount) or len(mine) > 1
    if by_link:
        return
    assert stable
    (each,) = mine if len(mine) == 1 else mine[:1]
    fitting = [one for one in mine if (one.orig_syssn, one.amount, one.currency) == (entry.syssn, entry.amount, "HKD")]
    assert fitting
    assert any(
        one.system_time is not None and one.system_time >= entry.reserved_at - timedelta(seconds=60) for one in fitting
    )
    if entry.operation is Operation.CAPTURE and taught is BOTH_WORDS:
        assert each.order_type not in ("unfreeze", "refund", "close")


@RULES
@given(entries(), rows(), foreign, words)
def test_rows_in_any_order(have: list[Entry], shown: list[Transaction], elsewhere: list[Movement], taught: Any) -> None:
    """The order of rows does not matter (each syssn shown once)."""
    once = list({each.syssn: each for each in shown}.values())
    book = known(*have, owners=elsewhere, words=taught)
    one, other = seen(listing(*once), book), seen(listing(*reversed(once)), book)
    key = lambda pair: pair[0].idempotency_key  # noqa: E731
    assert sorted(one.verdicts, key=key) == sorted(other.verdicts, key=key)
    assert set(one.attention) == set(other.attention)
    assert {(each.syssn, kind) for each, kind in one.foreign} == {(each.syssn, kind) for each, kind in other.foreign}


@RULES
@given(entries(), foreign, st.data())
def test_notifications(have: list[Entry], elsewhere: list[Movement], data: st.DataObject) -> None:
    """A notification only ever says executed, with a syssn that is new or already the entry's own."""
    (shown,) = data.draw(rows().filter(bool).map(lambda many: many[:1]))
    told = notice(
        kind=data.draw(st.sampled_from(["payment", "unfreeze", "refund", "cancel", "x"])),
        **{
            name: getattr(shown, name) for name in ("syssn", "orig_syssn", "out_trade_no", "amount", "currency", "code")
        },
        system_time=shown.system_time,
    )
    book = known(*have, owners=elsewhere)
    verdict = notified(told, book)
    if verdict is None:
        return
    assert (verdict.judgement, verdict.result_syssn, told.code) == (Judgement.EXECUTED, told.syssn, "0000")
    owner = book.owners.get(str(told.syssn))
    assert owner is None or (not owner.executed and owner.idempotency_key is not None)
    assert told.syssn not in (HOLD, TAKEN)


@RULES
@given(entries(), rows())
def test_nothing_is_written(have: list[Entry], shown: list[Transaction]) -> None:
    """The rules are pure: the same again gives the same."""
    book = known(*have, authorization=evolve(hold(), capture_window=timedelta(seconds=1)), linked_capture_shown=True)
    assert seen(listing(*shown), book) == seen(listing(*shown), book)
