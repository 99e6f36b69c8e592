"""Mutants of evidence: what an enquiry or a notification is wrongly taken to prove."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from attrs import evolve

from qfpay_preauth import _absence, _codes, _enquiry, _evidence, _findings, _noticed
from qfpay_preauth._models import ConfirmedBy, Judgement, Operation, Verdict, Why
from qfpay_preauth.ledger import _observe, _verbs
from tests.simulation.mutants import Patch, mutant


@mutant
def release_on_an_empty_enquiry(patch: Patch) -> None:
    """What one enquiry does not show was not executed."""
    patch(_absence, "_long_enough", lambda entry, hold, at, policy: True)
    patch(_absence, "_never_absent", lambda entry, hold, known, policy: "")
    patch(_findings, "ABSENCES_NEEDED", 1)


@mutant
def the_quiet_period_is_skipped(patch: Patch) -> None:
    """Absence counts at once, where a quiet period is set."""
    patch(_absence, "_long_enough", lambda entry, hold, at, policy: policy.quiet_period is not None)


@mutant
def first_page_only(patch: Patch) -> None:
    """The enquiry's first rows are taken for all of them."""
    right = _enquiry._pages

    async def pages(page: Any, sender: Any, ids: Any, month: Any) -> Any:
        count = 0
        async for row in right(page, sender, ids, month):
            count += 1
            if count > 2:
                return
            yield row

    patch(_enquiry, "_pages", pages)


@mutant
def this_month_only(patch: Patch) -> None:
    """The enquiry asks for the last month of its window only."""
    from qfpay_preauth import _wire

    right = _wire.month_windows
    patch(_wire, "month_windows", lambda start, end: right(start, end)[-1:])


@mutant
def a_notice_is_matched_by_its_amount(patch: Patch) -> None:
    """A notification ends whatever doubt has its amount."""
    patch(
        _noticed,
        "_notified",
        lambda notice, entry, at: entry.doubtful(at) and notice.amount == entry.amount,
    )


@mutant
def a_notice_of_any_kind_counts(patch: Patch) -> None:
    """The type of a notification is not looked at."""
    patch(
        _noticed,
        "_notified",
        lambda notice, entry, at: (
            entry.doubtful(at) and (notice.orig_syssn, notice.amount) == (entry.syssn, entry.amount)
        ),
    )


@mutant
def a_portal_unfreeze_is_taken_for_a_capture(patch: Patch) -> None:
    """The kind of an unlinked row is not looked at."""
    right = _evidence._kinds

    def kinds(row: Any, known: Any) -> Any:
        found = right(row, known)
        return frozenset({Operation.CAPTURE}) if Operation.REFUND not in found else found

    patch(_evidence, "_kinds", kinds)


@mutant
def a_row_of_any_hold_counts(patch: Patch) -> None:
    """The original of a row is not looked at."""
    right = _evidence._weigh_unlinked

    def weigh(rows: Any, listing: Any, known: Any, found: Any) -> None:
        open_ones = [e for entries in known.of_hold.values() for e in entries if e.doubtful(listing.read_at)]
        for row in rows:
            for entry in open_ones:
                if row.amount == entry.amount and row.code == "0000" and row.orig_syssn is not None:
                    found.verdicts.append((entry, _evidence.executed(row.syssn, ConfirmedBy.ENQUIRY, row)))
                    return
        right(rows, listing, known, found)

    patch(_evidence, "_weigh_unlinked", weigh)


@mutant
def a_failed_row_counts(patch: Patch) -> None:
    """The inner code of a row is not looked at."""
    right = _evidence._best_rows

    def best(rows: Any) -> Any:
        return [evolve(row, code="0000") if row.code in ("1143", "1201") else row for row in right(rows)]

    patch(_evidence, "_best_rows", best)


@mutant
def an_unlinked_row_proves_a_no(patch: Patch) -> None:
    """A refusal of the same amount on the hold is taken for ours."""
    right = _evidence.weigh

    def weigh(listing: Any, known: Any, policy: Any) -> Any:
        found = right(listing, known, policy)
        decided = {entry.idempotency_key for entry, _ in found.verdicts}
        for entries in known.of_hold.values():
            for entry in entries:
                others = [row for row in listing.rows if row.orig_syssn == entry.syssn and row.amount != entry.amount]
                if entry.doubtful(listing.read_at) and entry.idempotency_key not in decided and others:
                    found.verdicts.append((entry, _NO))
        return found

    patch(_evidence, "weigh", weigh)


_NO = Verdict(Judgement.NOT_SENT, detail="mutant", why=Why.NOT_SENT, rerunnable=True, confirmed_by=ConfirmedBy.ENQUIRY)


@mutant
def a_doubt_lapses_with_time(patch: Patch) -> None:
    """A doubt that is old enough is taken for not executed."""
    right = _observe.observe

    def observe(tx: Any, account: str, listing: Any, policy: Any, asked: Any) -> Any:
        observed = right(tx, account, listing, policy, asked)
        for key in asked:
            entry = tx.get_entry(account, key)
            if entry is not None and entry.doubtful(listing.read_at) and listing.read_at > entry.doubt_at + _OLD:
                _verbs.conclude(tx, entry, _NO, listing.read_at)
        return observed

    patch(_observe, "observe", observe)


_OLD = timedelta(seconds=3)


@mutant
def portal_movements_are_not_recorded(patch: Patch) -> None:
    """What was made elsewhere is left out of the books."""
    patch(_observe, "_record", lambda *args: None)


@mutant
def our_own_is_booked_as_foreign(patch: Patch) -> None:
    """A row that no entry is linked to was made elsewhere, whatever is under way."""
    patch(_evidence, "_fits", lambda row, entry, known: False)


@mutant
def an_ended_entry_takes_the_row(patch: Patch) -> None:
    """A wrong decision of a person is not contradicted by what the gateway shows."""
    right = _evidence._made_elsewhere

    def made_elsewhere(row: Any, entries: Any, known: Any, found: Any) -> None:
        if not any((entry.syssn, entry.amount) == (row.orig_syssn, row.amount) for entry in entries):
            right(row, entries, known, found)

    patch(_evidence, "_made_elsewhere", made_elsewhere)


@mutant
def a_pending_row_is_a_no(patch: Patch) -> None:
    """A pending row is taken for a refusal."""
    from qfpay_preauth._codes import CodeClass

    right = _codes.classify
    patch(_evidence, "classify", lambda code, text="": CodeClass.REFUSED if code == "1143" else right(code, text))
