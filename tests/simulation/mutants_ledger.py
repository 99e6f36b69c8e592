"""Mutants of the books: admission, claims, replay, and who may end what."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from attrs import evolve

from qfpay_preauth._models import Operation, State
from qfpay_preauth.ledger import _rules, _verbs
from qfpay_preauth.ledger._store import Reserved
from tests.simulation.mutants import Patch, mutant


@mutant
def sum_then_insert(patch: Patch) -> None:
    """Admission looks at sums that were read a moment before."""
    right = _verbs._authorization
    seen: dict[str, Any] = {}

    def stale(tx: Any, request: Any, syssn: str) -> Any:
        now = right(tx, request, syssn)
        before = seen.get(syssn)
        seen[syssn] = now
        return before if before is not None and before.registered_at == now.registered_at else now

    patch(_verbs, "_authorization", stale)


@mutant
def a_claim_counts_only_when_done(patch: Patch) -> None:
    """What is held or in doubt is still capturable."""
    patch(_verbs, "reserve", _reserve_unclaimed(_verbs.reserve))


def _reserve_unclaimed(right: Any) -> Any:
    def reserve(tx: Any, request: Any) -> Reserved:
        hold = tx.get_authorization(request.account, request.syssn)
        if hold is None or request.operation is not Operation.CAPTURE:
            reserved: Reserved = right(tx, request)
            return reserved
        tx.put_authorization(evolve(hold, claimed=0))
        return right(tx, request)  # type: ignore[no-any-return]

    return reserve


@mutant
def twins_are_allowed(patch: Patch) -> None:
    """Two unresolved captures of one amount on one hold."""
    right = _rules.admitted
    patch(_rules, "admitted", lambda request, *known: right(evolve(request, twins_allowed=True), *known))


@mutant
def unfreeze_while_in_doubt(patch: Patch) -> None:
    """An unfreeze does not look for unresolved captures."""
    right = _rules._first

    def first(unresolved: Any, operation: Operation, amount: int | None = None) -> Any:
        return None if operation is Operation.CAPTURE and amount is None else right(unresolved, operation, amount)

    patch(_rules, "_first", first)


@mutant
def capture_beside_an_unfreeze(patch: Patch) -> None:
    """A capture does not look for an unresolved unfreeze."""
    right = _rules._check_open

    def check_open(request: Any, authorization: Any, unresolved: Any) -> None:
        if request.operation is not Operation.CAPTURE:
            right(request, authorization, unresolved)

    patch(_rules, "_check_open", check_open)
    capturable = _rules._capturable

    def roomy(request: Any, authorization: Any, unresolved: Any) -> Any:
        open_ones = sum(each.amount for each in unresolved if each.operation is Operation.UNFREEZE)
        return capturable(request, evolve(authorization, claimed=authorization.claimed - open_ones), unresolved)

    patch(_rules, "_capturable", roomy)


@mutant
def a_second_unfreeze(patch: Patch) -> None:
    """An unfreeze does not look whether there is one."""
    right = _rules._unfreezable

    def unfreezable(request: Any, authorization: Any, unresolved: Any) -> int:
        others = [each for each in unresolved if each.operation is not Operation.UNFREEZE]
        claimed = sum(each.amount for each in others if each.operation is not Operation.REFUND)
        return right(request, evolve(authorization, unfrozen=0, claimed=claimed), others)

    patch(_rules, "_unfreezable", unfreezable)


@mutant
def unfreeze_the_whole_hold(patch: Patch) -> None:
    """An unfreeze releases what was held, not what is left."""
    right = _rules._unfreezable

    def unfreezable(request: Any, authorization: Any, unresolved: Any) -> int:
        right(request, authorization, unresolved)
        return int(authorization.amount)

    patch(_rules, "_unfreezable", unfreezable)


@mutant
def a_refund_without_a_claim(patch: Patch) -> None:
    """Refunds under way do not count against their capture."""
    right = _rules._refundable
    patch(
        _rules,
        "_refundable",
        lambda request, capture, hold: right(request, evolve(capture, refunded=0, refund_claimed=0), hold),
    )


@mutant
def a_replay_sends_again(patch: Patch) -> None:
    """A key that ended in doubt is sent again."""
    right = _rules.replayed

    def replayed(existing: Any, request: Any) -> Any:
        first = right(existing, request)
        return None if first is not None and first.state is State.IN_DOUBT else first

    patch(_rules, "replayed", replayed)
    patch(_rules, "check_move", lambda entry, to: None)


@mutant
def an_executed_key_runs_again(patch: Patch) -> None:
    """A key that succeeded is done again."""
    right = _rules.replayed

    def replayed(existing: Any, request: Any) -> Any:
        first = right(existing, request)
        return None if first is not None and first.state is State.EXECUTED else first

    patch(_rules, "replayed", replayed)
    patch(_rules, "check_move", lambda entry, to: None)


@mutant
def a_key_conflict_is_ignored(patch: Patch) -> None:
    """The same key for another amount replays the first result."""
    patch(_rules, "_check_same", lambda entry, request: None)


@mutant
def held_entries_expire(patch: Patch) -> None:
    """An entry that is held for too long is taken for dead, and its key runs again."""
    right = _rules.replayed

    def replayed(existing: Any, request: Any) -> Any:
        if existing is not None and existing.state is State.HELD and request.at > existing.reserved_at + _TTL:
            return None
        return right(existing, request)

    patch(_rules, "replayed", replayed)
    patch(_rules, "check_move", lambda entry, to: None)


_TTL = timedelta(seconds=2)


@mutant
def anybody_ends_a_fresh_entry(patch: Patch) -> None:
    """A held entry counts as in doubt at once, for everybody."""
    from qfpay_preauth._models import Entry

    patch(Entry, "doubtful", lambda self, now: self.unresolved)


@mutant
def late_evidence_edits_an_ended_entry(patch: Patch) -> None:
    """A verdict that comes after the end overwrites it."""
    from qfpay_preauth._models import Judgement

    right = _rules.concluded

    def concluded(stored: Any, verdict: Any, at: Any, owner: Any, attempt: int) -> Any:
        if stored.state is State.NOT_EXECUTED and verdict.judgement is Judgement.EXECUTED:
            stored_again = evolve(stored, state=State.EXECUTED, result_syssn=verdict.result_syssn, why=None)
            return _rules.Conclusion(stored_again)
        if stored.state is State.EXECUTED and verdict.judgement is not Judgement.EXECUTED:
            return _rules.Conclusion(evolve(stored, state=State.NOT_EXECUTED))
        return right(stored, verdict, at, owner, attempt)

    patch(_rules, "concluded", concluded)


@mutant
def a_syssn_is_claimed_twice(patch: Patch) -> None:
    """Nobody looks to whom a syssn belongs already."""
    from qfpay_preauth import _evidence

    patch(_rules, "_taken_by_another", lambda entry, owner: None)
    right = _evidence.weigh

    def weigh(listing: Any, known: Any, policy: Any) -> Any:
        return right(listing, evolve(known, owners={}), policy)

    patch(_evidence, "weigh", weigh)


@mutant
def the_claim_is_never_released(patch: Patch) -> None:
    """What ended not executed stays claimed."""
    right = _rules.end_claim

    def end_claim(hold: Any, entry: Any) -> Any:
        return hold if entry.state is State.NOT_EXECUTED else right(hold, entry)

    patch(_rules, "end_claim", end_claim)


@mutant
def the_claim_of_a_doubt_is_released(patch: Patch) -> None:
    """An entry that comes into doubt frees its amount."""
    right = _verbs._write_conclusion

    def write(tx: Any, stored: Any, after: Any, verdict: Any, at: Any) -> None:
        right(tx, stored, after, verdict, at)
        if after.state is State.IN_DOUBT and stored.state is State.HELD and after.operation is Operation.CAPTURE:
            hold = tx.get_authorization(after.account, after.authorization)
            tx.put_authorization(evolve(hold, claimed=hold.claimed - after.amount))

    patch(_verbs, "_write_conclusion", write)
