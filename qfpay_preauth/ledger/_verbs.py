"""The verbs, written once over a few reads and writes, so that back-ends cannot drift apart.

Each verb decides first and writes after: when it raises, nothing was written.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from attrs import evolve

from qfpay_preauth._models import (
    Authorization,
    Discrepancy,
    DiscrepancyKind,
    Entry,
    Event,
    Judgement,
    Movement,
    Operation,
    Request,
    State,
    Verdict,
)
from qfpay_preauth._windows import Claim, Grant, exchanged_text
from qfpay_preauth.errors import (
    IdempotencyConflictError,
    OperationInProgressError,
    UnknownAuthorizationError,
    UnknownCaptureError,
)
from qfpay_preauth.ledger import _rules
from qfpay_preauth.ledger._store import Books, Reserved

AUTHORIZATION = "authorization"
"""The kind of the movement that is a hold itself; the other kinds are the operations."""


class Transaction(Protocol):
    """What a back-end offers inside one transaction."""

    def get_authorization(self, account: str, syssn: str) -> Authorization | None: ...
    def get_movement(self, account: str, syssn: str) -> Movement | None: ...
    def get_entry(self, account: str, idempotency_key: str) -> Entry | None: ...
    def get_unresolved(self, account: str, authorization: str) -> Sequence[Entry]: ...
    def put_authorization(self, authorization: Authorization) -> None: ...
    def put_movement(self, movement: Movement) -> None: ...
    def put_entry(self, entry: Entry) -> None: ...
    def add_event(self, event: Event) -> None: ...
    def lower_bookmark(self, account: str, moment: datetime) -> None: ...
    def put_discrepancy(self, account: str, at: datetime, discrepancy: Discrepancy) -> bool: ...
    def get_windows(self, name: str) -> str | None: ...
    def put_windows(self, name: str, state: str) -> None: ...


def register(tx: Transaction, authorization: Authorization) -> Authorization:
    """See Ledger.register."""
    stored = tx.get_authorization(authorization.account, authorization.syssn)
    if stored is not None:
        _check_same_hold(stored, authorization)
        return stored
    owner = tx.get_movement(authorization.account, authorization.syssn)
    if owner is not None:
        raise IdempotencyConflictError(f"{authorization.syssn} is already known as a {owner.kind}.")
    tx.put_authorization(authorization)
    tx.lower_bookmark(authorization.account, authorization.authorized_at or authorization.registered_at)
    hold = (authorization.account, authorization.syssn, AUTHORIZATION, authorization.syssn, authorization.amount)
    tx.put_movement(Movement(*hold))
    tx.add_event(
        Event(
            authorization.account,
            authorization.registered_at,
            "registered",
            authorization.syssn,
            amount=authorization.amount,
        )
    )
    return authorization


def _check_same_hold(stored: Authorization, given: Authorization) -> None:
    for name in ("amount", "currency", "out_trade_no", "authorized_at", "capture_window"):
        known, said = getattr(stored, name), getattr(given, name)
        if said is not None and said != known:
            raise IdempotencyConflictError(
                f"Authorization {stored.syssn} is registered with {name} {known}, not {said}.",
                advice="Check which is right; a registered authorization is never changed.",
            )


def reserve(tx: Transaction, request: Request) -> Reserved:
    """See Ledger.reserve."""
    existing = tx.get_entry(request.account, request.idempotency_key)
    first = _rules.replayed(existing, request)
    if first is not None:
        return Reserved(first, fresh=False)
    capture = _capture_to_refund(tx, request) if request.operation is Operation.REFUND else None
    authorization = _authorization(tx, request, capture.authorization if capture else request.syssn)
    unresolved = tx.get_unresolved(request.account, authorization.syssn)
    entry = _rules.admitted(request, existing, authorization, capture, unresolved)
    tx.put_entry(entry)
    if capture is None:
        tx.put_authorization(_rules.claim(authorization, entry.amount))
    else:
        tx.put_movement(evolve(capture, refund_claimed=capture.refund_claimed + entry.amount))
    tx.add_event(_move_event(entry, existing.state if existing else None, request.at))
    return Reserved(entry, fresh=True, expired=_rules.expired(request, authorization))


def _authorization(tx: Transaction, request: Request, syssn: str) -> Authorization:
    authorization = tx.get_authorization(request.account, syssn)
    if authorization is None:
        raise UnknownAuthorizationError(
            f"Authorization {syssn} is not registered for account {request.account!r}.",
            idempotency_key=request.idempotency_key,
        )
    return authorization


def _capture_to_refund(tx: Transaction, request: Request) -> Movement:
    capture = tx.get_movement(request.account, request.syssn)
    if capture is None or capture.kind != Operation.CAPTURE or not capture.executed:
        why = "is not known as an executed capture"
        if capture and capture.kind == "unknown":
            why = "was made elsewhere, and the gateway has not shown yet whether it is a capture: reconcile() first"
        elif capture and capture.kind != Operation.CAPTURE:
            why = f"is the syssn of an {capture.kind}, not of a capture".replace("an refund", "a refund")
        raise UnknownCaptureError(f"{request.syssn} {why}.", idempotency_key=request.idempotency_key)
    return capture


def conclude(tx: Transaction, entry: Entry, verdict: Verdict, at: datetime) -> Entry:
    """See Ledger.conclude."""
    stored = tx.get_entry(entry.account, entry.idempotency_key)
    if stored is None:
        raise OperationInProgressError(f"Key {entry.idempotency_key!r} has no entry in this ledger.")
    owner = tx.get_movement(entry.account, verdict.result_syssn) if verdict.result_syssn else None
    conclusion = _rules.concluded(stored, verdict, at, owner, entry.attempt)
    after = conclusion.entry
    if after is not stored:
        _write_conclusion(tx, stored, after, verdict, at)
    if conclusion.discrepancy:
        what = conclusion.discrepancy
        tx.put_discrepancy(after.account, at, _mismatch(after, verdict, what))
        where = (after.authorization, after.idempotency_key)
        tx.add_event(Event(after.account, at, "discrepancy", *where, amount=after.amount, detail=what))
    return after


def note(tx: Transaction, account: str, at: datetime, discrepancy: Discrepancy) -> None:
    """Record a discrepancy, once, in the list that reconciliation reports and in the history."""
    if tx.put_discrepancy(account, at, discrepancy):
        detail = f"{discrepancy.kind}: ours {discrepancy.ours}; theirs {discrepancy.theirs}"
        key = discrepancy.idempotency_key
        tx.add_event(Event(account, at, "discrepancy", discrepancy.authorization or "", key, detail=detail))


def _mismatch(entry: Entry, verdict: Verdict, what: str) -> Discrepancy:
    kind = DiscrepancyKind.MISMATCH
    if entry.state is State.NOT_EXECUTED and verdict.judgement is Judgement.EXECUTED:
        kind = DiscrepancyKind.EXECUTED_THOUGH_ENDED
    ours = f"{entry.operation.value} of {entry.amount} {entry.currency}, {entry.state.value}"
    return Discrepancy(kind, entry.authorization, verdict.result_syssn, entry.idempotency_key, ours, what)


def _write_conclusion(tx: Transaction, stored: Entry, after: Entry, verdict: Verdict, at: datetime) -> None:
    tx.put_entry(after)
    if after.result_syssn:
        own(tx, after)
    if not after.unresolved:
        _release(tx, after, flag=verdict.flags_authorization)
    if after.state is not stored.state:
        tx.add_event(_move_event(after, stored.state, at))


def own(tx: Transaction, entry: Entry) -> None:
    """Write down that the result's syssn is this entry's, executed or only remembered from a pending answer."""
    done = entry.state is State.EXECUTED
    key = entry.idempotency_key
    tx.put_movement(
        Movement(
            entry.account,
            str(entry.result_syssn),
            entry.operation._value_,
            entry.authorization,
            entry.amount,
            key,
            done,
        )
    )


def _release(tx: Transaction, entry: Entry, *, flag: bool) -> None:
    authorization = tx.get_authorization(entry.account, entry.authorization)
    assert authorization is not None  # noqa: S101 - an entry is only written beside its authorization
    ended = _rules.end_claim(authorization, entry)
    tx.put_authorization(evolve(ended, flagged=True) if flag else ended)
    if entry.operation is Operation.REFUND:
        capture = tx.get_movement(entry.account, entry.syssn)
        assert capture is not None  # noqa: S101 - nor a refund without its capture
        tx.put_movement(_rules.end_refund_claim(capture, entry))


def _move_event(entry: Entry, from_state: State | None, at: datetime) -> Event:
    return Event(
        entry.account,
        at,
        entry.operation._value_,
        entry.authorization,
        entry.idempotency_key,
        from_state,
        entry.state,
        entry.amount,
        entry.reason or entry.detail,
    )


def books(tx: Transaction, account: str, syssn: str) -> Books | None:
    """See Ledger.books."""
    authorization = tx.get_authorization(account, syssn)
    if authorization is None:
        return None
    return Books(authorization, tuple(tx.get_unresolved(account, syssn)))


def draw(tx: Transaction, claim: Claim) -> Grant:
    """See Ledger.draw."""
    state, grant = exchanged_text(tx.get_windows(claim.name), claim, claim.now())
    if state is not None:
        tx.put_windows(claim.name, state)
    return grant
