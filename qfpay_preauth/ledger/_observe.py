"""The verbs of evidence, written once over a few reads and writes: what the rules found is applied at one stroke."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from attrs import evolve

from qfpay_preauth import _absence, _evidence, _findings, _noticed
from qfpay_preauth._models import (
    Authorization,
    Discrepancy,
    DiscrepancyKind,
    Entry,
    Event,
    Listing,
    Movement,
    Notification,
    Observed,
    Operation,
    Policy,
    State,
    Transaction,
    Verdict,
)
from qfpay_preauth.errors import IdempotencyConflictError
from qfpay_preauth.ledger import _verbs
from qfpay_preauth.ledger._verbs import Transaction as Tx


class EvidenceTx(Tx, Protocol):
    """What a back-end offers beyond the verbs of money."""

    def get_by_number(self, account: str, out_trade_no: str) -> Entry | None: ...
    def owns_movement(self, account: str, idempotency_key: str) -> bool: ...
    def get_of_hold(self, account: str, authorization: str) -> Sequence[Entry]: ...
    def get_words(self, account: str) -> Mapping[str, Mapping[str, bool]]: ...
    def put_word(self, account: str, kind: str, word: str, linked: bool) -> None: ...
    def put_discrepancy(self, account: str, at: datetime, discrepancy: Discrepancy) -> bool: ...
    def put_notice(self, account: str, at: datetime, notice: Notification) -> bool: ...
    def get_open_notices(self, account: str, orig_syssn: str | None) -> Sequence[Notification]: ...
    def end_notice(self, account: str, digest: str) -> None: ...


# ------------------------------------------------------------------------------------------------ listings


def observe(tx: EvidenceTx, account: str, listing: Listing, policy: Policy, asked: Sequence[str]) -> Observed:
    """See Ledger.observe."""
    entries = [entry for key in asked if (entry := tx.get_entry(account, key)) is not None]
    known = _known(tx, account, listing.rows, entries)
    found = _evidence.weigh(listing, known, policy)
    for kind, word, linked in found.words:
        tx.put_word(account, kind, word, linked)
    at = listing.read_at
    ended = [_verbs.conclude(tx, entry, verdict, at) for entry, verdict in found.verdicts]
    ended += _count_absences(tx, found.absent, policy, at)
    ended += [after for entry in entries if (after := _notified(tx, entry, at)) is not None]
    for row, entry in found.belonging:
        _verbs.own(tx, evolve(entry, result_syssn=row.syssn))
    for owner, kind in found.kinds:
        _tell_kind(tx, owner, kind, at)
    found.foreign.sort(key=lambda each: each[1] == Operation.REFUND)  # a refund comes after its capture
    foreign = [moved for row, kind in found.foreign if (moved := _record(tx, account, row, kind, known, found, at))]
    for entry, why in found.attention.values():
        _mark(tx, entry, why)
    for discrepancy in found.discrepancies:
        _verbs.note(tx, account, at, discrepancy)
    done = tuple(entry for entry in ended if not entry.unresolved)
    waiting = any(
        kind == Operation.REFUND and tx.get_movement(account, row.orig_syssn or "") is None
        for row, kind in found.foreign
    )
    strangers = _end_strangers(tx, account, {row.syssn: row for row in listing.rows}, known)
    return Observed(done, tuple(found.discrepancies), tuple(foreign), waiting=waiting, strangers=strangers)


def _known(tx: EvidenceTx, account: str, rows: Iterable[Transaction], asked: Iterable[Entry]) -> _findings.Known:
    owners: dict[str, Movement] = {}
    by_number: dict[str, Entry] = {}
    entries: dict[str, Entry] = {}
    holds = {entry.authorization for entry in asked}
    for row in rows:
        for syssn in filter(None, (row.syssn, row.orig_syssn)):
            if syssn not in owners and (owner := tx.get_movement(account, syssn)):
                owners[syssn] = owner
        if row.out_trade_no and (named := tx.get_by_number(account, row.out_trade_no)):
            by_number[row.out_trade_no] = named
    holds.update(owner.authorization for owner in owners.values())
    holds.update(entry.authorization for entry in by_number.values())
    for owner in owners.values():
        if owner.idempotency_key and (entry := tx.get_entry(account, owner.idempotency_key)):
            entries[owner.idempotency_key] = entry
    authorizations = {hold: found for hold in holds if (found := tx.get_authorization(account, hold))}
    words = tx.get_words(account)
    return _findings.Known(
        owners=owners,
        entries=entries,
        by_number=by_number,
        authorizations=authorizations,
        of_hold={hold: tx.get_of_hold(account, hold) for hold in authorizations},
        words={kind: frozenset(shown) for kind, shown in words.items()},
        linked_capture_shown=any(words.get(Operation.CAPTURE.value, {}).values()),
        owning=frozenset(
            entry.idempotency_key
            for hold in authorizations
            for entry in tx.get_of_hold(account, hold)
            if entry.state is State.EXECUTED
            and (entry.result_syssn is not None or tx.owns_movement(account, entry.idempotency_key))
        ),
    )


def _count_absences(tx: EvidenceTx, absent: Iterable[Entry], policy: Policy, at: datetime) -> list[Entry]:
    ended = []
    for entry in absent:
        if entry.absences + 1 < _findings.ABSENCES_NEEDED:
            tx.put_entry(evolve(entry, absences=entry.absences + 1))
            continue
        hold = tx.get_authorization(entry.account, entry.authorization)
        assert hold is not None  # noqa: S101 - an entry is only written beside its authorization
        ended.append(_verbs.conclude(tx, entry, _absence.absent_verdict(entry, hold, at, policy), at))
    return ended


def _mark(tx: EvidenceTx, entry: Entry, why: str) -> None:
    """Write down that a person has to look, unless the entry ended meanwhile or it is known already."""
    stored = tx.get_entry(entry.account, entry.idempotency_key)
    if stored is not None and stored.unresolved and stored.attention != why:
        tx.put_entry(evolve(stored, attention=why))


# ------------------------------------------------------------------------------------------------ made elsewhere


def _record(  # noqa: PLR0917 - one step of `observe`, with what it has in hand
    tx: EvidenceTx,
    account: str,
    row: Transaction,
    kind: str,
    known: _findings.Known,
    found: _findings.Findings,
    at: datetime,
) -> Movement | None:
    """Record a movement that no open entry of ours made: apart from ours, and lowering what is capturable."""
    owner = tx.get_movement(account, row.syssn)
    if (owner is not None and owner.executed) or row.amount is None:
        return None
    if kind == Operation.REFUND and tx.get_movement(account, row.orig_syssn or "") is None:
        return None  # its capture may be one of ours in doubt: this waits for that to end
    named = known.by_number.get(row.out_trade_no or "") or known.entries.get(
        (owner.idempotency_key if owner else None) or ""
    )
    hold = named.authorization if named else _hold_of(tx, account, row)
    key = owner.idempotency_key if owner else None
    movement = Movement(account, row.syssn, kind, hold, row.amount, idempotency_key=key)
    orig = named.syssn if named else row.orig_syssn
    found.discrepancies.extend(add_foreign(tx, movement, orig, at))
    return movement


def _hold_of(tx: EvidenceTx, account: str, row: Transaction) -> str:
    """The hold of a row whose original is a hold, or a movement that is known by now."""
    original = tx.get_movement(account, row.orig_syssn or "")
    assert original is not None  # noqa: S101 - the rules only name rows whose original is known
    return original.authorization


def add_foreign(tx: EvidenceTx, movement: Movement, orig: str | None, at: datetime) -> list[Discrepancy]:
    """Write a movement made elsewhere and its sums; returns what is wrong about it."""
    hold = tx.get_authorization(movement.account, movement.authorization)
    assert hold is not None  # noqa: S101 - movements are only recorded on known authorizations
    tx.put_movement(movement)
    after = _with_foreign(hold, movement)
    if movement.kind == Operation.REFUND and (capture := tx.get_movement(movement.account, orig or "")):
        tx.put_movement(evolve(capture, foreign_refunded=capture.foreign_refunded + movement.amount))
    wrong = []
    if movement.kind == Operation.UNFREEZE:
        wrong.append(_about(DiscrepancyKind.UNFROZEN_ELSEWHERE, movement, "not unfrozen here"))
    taken = after.captured + after.claimed + after.unfrozen + after.foreign_captured + after.foreign_unfrozen
    if taken > after.amount:
        after = evolve(after, flagged=True)
        wrong.append(_about(DiscrepancyKind.OVER_HOLD, movement, f"{taken} taken or claimed of {after.amount}"))
    tx.put_authorization(after)
    tx.add_event(
        Event(
            movement.account,
            at,
            "foreign",
            movement.authorization,
            amount=movement.amount,
            detail=f"{movement.kind} {movement.syssn}",
        )
    )
    return wrong


def _tell_kind(tx: EvidenceTx, movement: Movement, kind: str, at: datetime) -> None:
    """A movement made elsewhere of which it was not known whether it was a capture or the unfreeze."""
    tx.put_movement(evolve(movement, kind=kind))
    detail = f"{movement.syssn} is a {kind}".replace("a unfreeze", "an unfreeze")
    tx.add_event(Event(movement.account, at, "foreign", movement.authorization, detail=detail))
    hold = tx.get_authorization(movement.account, movement.authorization)
    if hold is not None and kind == Operation.UNFREEZE:
        moved = hold.foreign_captured - movement.amount
        tx.put_authorization(
            evolve(hold, foreign_captured=moved, foreign_unfrozen=hold.foreign_unfrozen + movement.amount)
        )


def _with_foreign(hold: Authorization, movement: Movement) -> Authorization:
    if movement.kind == Operation.REFUND:
        return evolve(hold, foreign_refunded=hold.foreign_refunded + movement.amount)
    if movement.kind == Operation.UNFREEZE:
        return evolve(hold, foreign_unfrozen=hold.foreign_unfrozen + movement.amount)
    return evolve(hold, foreign_captured=hold.foreign_captured + movement.amount)


def _about(kind: DiscrepancyKind, movement: Movement, ours: str) -> Discrepancy:
    theirs = f"{movement.kind} of {movement.amount}"
    return Discrepancy(kind, movement.authorization, movement.syssn, movement.idempotency_key, ours, theirs)


def adopt(tx: EvidenceTx, authorization: Authorization, rows: Sequence[Transaction], at: datetime) -> Authorization:
    """See Ledger.adopt."""
    words = {kind: frozenset(shown) for kind, shown in tx.get_words(authorization.account).items()}
    kinds = _evidence.kinds_of(rows, authorization, words)
    hold = authorization.syssn
    unresolved = tx.get_unresolved(authorization.account, hold)
    new: list[tuple[Movement, str | None]] = []
    for row in rows:
        movement = Movement(authorization.account, row.syssn, kinds[row.syssn], hold, row.amount or 0)
        if not _known_alike(tx, movement, at) and not any(_might_be(row, entry) for entry in unresolved):
            new.append((movement, row.orig_syssn))
    registered = _verbs.register(tx, authorization)
    for movement, orig in new:
        for wrong in add_foreign(tx, movement, orig, at):
            _verbs.note(tx, movement.account, at, wrong)
    return tx.get_authorization(registered.account, registered.syssn) or registered


def _might_be(row: Transaction, entry: Entry) -> bool:
    """A row that may be an entry's of ours in doubt is left to reconciliation."""
    return (row.orig_syssn, row.amount) == (entry.syssn, entry.amount)


def _known_alike(tx: EvidenceTx, movement: Movement, at: datetime) -> bool:
    owner = tx.get_movement(movement.account, movement.syssn)
    if owner is None:
        return False
    if owner.amount != movement.amount or len({owner.kind, movement.kind} - {"unknown"}) > 1:
        raise IdempotencyConflictError(f"{movement.syssn} is known as a {owner.kind} of {owner.amount}.")
    if owner.kind == "unknown" != movement.kind:
        _tell_kind(tx, owner, movement.kind, at)
    return True


# ------------------------------------------------------------------------------------------------ notifications


def conclude(tx: EvidenceTx, entry: Entry, verdict: Verdict, at: datetime) -> Entry:
    """See Ledger.conclude; an entry that is left in doubt is at once held against the notices that came before it."""
    after = _verbs.conclude(tx, entry, verdict, at)
    return (_notified(tx, after, at) if after.unresolved else None) or after


def _notified(tx: EvidenceTx, entry: Entry, at: datetime) -> Entry | None:
    """The entry after a notice that arrived earlier, if one ends it."""
    stored = tx.get_entry(entry.account, entry.idempotency_key)
    if stored is None or not stored.doubtful(at):
        return None
    for notice in tx.get_open_notices(entry.account, stored.syssn):
        ended = _apply(tx, entry.account, notice, at)
        if ended is not None and ended.idempotency_key == entry.idempotency_key:
            return ended
    return None


def notice(tx: EvidenceTx, account: str, notification: Notification, at: datetime) -> Observed:
    """See Ledger.notice."""
    if not tx.put_notice(account, at, notification):
        return Observed(fresh=False)
    known = _known(tx, account, (_as_row(notification),), ())
    ended = _apply(tx, account, notification, at)
    wrong = _noticed.notified_though_ended(notification, known)
    if wrong is not None:
        _verbs.note(tx, account, at, wrong)
    if ended is None and _explained(tx, account, notification):
        tx.end_notice(account, notification.digest)
        return Observed(discrepancies=(wrong,) if wrong else ())
    done = (ended,) if ended is not None else ()
    return Observed(done, (wrong,) if wrong else (), explained=ended is not None)


def _as_row(notice: Notification) -> Transaction:
    return Transaction(
        syssn=notice.syssn or "",
        orig_syssn=notice.orig_syssn,
        out_trade_no=notice.out_trade_no,
        order_type=None,
        amount=notice.amount,
        currency=notice.currency,
        code=notice.code,
        message=None,
        cancel=None,
        system_time=notice.system_time,
    )


def _apply(tx: EvidenceTx, account: str, notification: Notification, at: datetime) -> Entry | None:
    known = _known(tx, account, (_as_row(notification),), ())
    meant = _noticed.weigh_notification(notification, known, at)
    if meant is None:
        return None
    after = _verbs.conclude(tx, meant[0], meant[1], at)
    if after.state is not State.EXECUTED:
        return None
    tx.end_notice(account, notification.digest)
    return after


def _explained(tx: EvidenceTx, account: str, notification: Notification) -> bool:
    """Whether what it tells of is in the books already: a hold, an execution, or a movement made elsewhere."""
    owner = tx.get_movement(account, notification.syssn or "")
    return owner is not None and owner.executed


def _end_strangers(tx: EvidenceTx, account: str, rows: Mapping[str, Transaction], known: _findings.Known) -> int:
    """End the open notices that rows show to be about no authorization of ours: a merchant's other sales are notified
    too, and must not be looked up for ever. Returns how many were about holds that nobody registered."""
    others = {syssn: row for syssn, row in rows.items() if _noticed.of_others(row, rows, known)}
    if not others:
        return 0
    strangers = 0
    for each in tx.get_open_notices(account, None):
        row = others.get(each.syssn or "")
        if row is not None and not (each.orig_syssn and tx.get_movement(account, each.orig_syssn)):
            tx.end_notice(account, each.digest)
            strangers += row.orig_syssn is not None and _noticed.moves_a_hold(each)
    return strangers


def sweep_notices(tx: EvidenceTx, account: str) -> Sequence[Notification]:
    """See Ledger.sweep_notices."""
    left = []
    for each in tx.get_open_notices(account, None):
        if _explained(tx, account, each):
            tx.end_notice(account, each.digest)
        else:
            left.append(each)
    return left
