"""Legal moves, and the one rule of admission. Pure: values in, values out, an error or a change, never both.

    (nothing) ──► held ──► in doubt ──► executed
                   │  └────────┴──────► not executed ──► held (only `not_sent` and re-runnable refusals)
                   └──► executed / not executed

Source of the money rules: QFPay, Online Pre-Authorisation (captures up to the authorised amount; one unfreeze, after
which neither capture nor unfreeze is possible) and Payment API, Refund.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType

from attrs import evolve

from qfpay_preauth._frozen import passing
from qfpay_preauth._models import (
    Authorization,
    Balance,
    ConfirmedBy,
    Entry,
    Judgement,
    Movement,
    Operation,
    Request,
    State,
    Verdict,
    Why,
)
from qfpay_preauth.errors import (
    AlreadyUnfrozenError,
    AuthorizationClosedError,
    AuthorizationExpiredError,
    IdempotencyConflictError,
    LedgerError,
    OperationInProgressError,
    OverCaptureError,
    OverRefundError,
)

LEGAL_MOVES: Mapping[State, frozenset[State]] = {
    State.HELD: frozenset({State.IN_DOUBT, State.EXECUTED, State.NOT_EXECUTED}),
    State.IN_DOUBT: frozenset({State.IN_DOUBT, State.EXECUTED, State.NOT_EXECUTED}),
    State.EXECUTED: frozenset(),
    State.NOT_EXECUTED: frozenset({State.HELD}),
}
"""From → to. NOT_EXECUTED → HELD needs a re-runnable end as well; every other end is final."""


class IllegalMoveError(LedgerError):
    """An entry was asked to make a move that the table does not allow; it stays as it was."""

    default_advice = "This is a defect of the library or of a ledger back-end: report it."


def check_move(entry: Entry, to: State) -> None:
    """Raise IllegalMoveError unless `entry` may become `to`."""
    again = entry.state is not State.NOT_EXECUTED or entry.rerunnable
    if to not in LEGAL_MOVES[entry.state] or not again:
        raise IllegalMoveError(f"An entry that is {entry.state} cannot become {to}.")


# ------------------------------------------------------------------------------------------------ reserving


def replayed(existing: Entry | None, request: Request) -> Entry | None:
    """The entry that got there first, or None where the request has to be admitted.

    Raises:
        IdempotencyConflictError: the key was used for another request.
        OperationInProgressError: the same request is under way elsewhere.
    """
    if existing is None:
        return None
    _check_same(existing, request)
    if existing.state is State.NOT_EXECUTED and existing.rerunnable:
        return None
    if existing.state is State.HELD and not existing.doubtful(request.at):
        raise _in_progress(existing, request, "is under way in another call")
    return existing


def _check_same(entry: Entry, request: Request) -> None:
    asked = (request.operation, request.syssn, entry.amount if request.amount is None else request.amount)
    if (entry.operation, entry.syssn, entry.amount) != asked:
        raise IdempotencyConflictError(
            f"Key {request.idempotency_key!r} already belongs to: {entry.operation} of {entry.amount} "
            f"{entry.currency} on {entry.syssn}.",
            idempotency_key=request.idempotency_key,
        )


def admitted(
    request: Request,
    existing: Entry | None,
    authorization: Authorization,
    capture: Movement | None,
    unresolved: Sequence[Entry],
) -> Entry:
    """The held entry of a request that our books allow.

    Raises:
        AuthorizationClosedError, AlreadyUnfrozenError, AuthorizationExpiredError, OverCaptureError,
        OverRefundError, OperationInProgressError: what forbids it; nothing was written.
    """
    if existing is not None:
        check_move(existing, State.HELD)
    if request.operation is Operation.REFUND:
        assert capture is not None  # noqa: S101 - the verb has looked it up
        amount = _refundable(request, capture, authorization)
    elif request.operation is Operation.CAPTURE:
        amount = _capturable(request, authorization, unresolved)
    else:
        amount = _unfreezable(request, authorization, unresolved)
    return Entry(
        request.account,
        request.idempotency_key,
        request.operation,
        authorization.syssn,
        request.syssn,
        amount,
        authorization.currency,
        # QFPay, Unfreeze: out_trade_no is the pre-authorisation's own
        authorization.out_trade_no if request.operation is Operation.UNFREEZE else request.out_trade_no,
        State.HELD,
        existing.attempt + 1 if existing else 1,
        request.at,
        request.send_by,
        request.doubt_at,
    )


def _capturable(request: Request, authorization: Authorization, unresolved: Sequence[Entry]) -> int:
    amount = request.amount or 0
    _check_open(request, authorization, unresolved)
    if request.strict_expiry and expired(request, authorization):
        ended = authorization.expires_at(request.default_window)
        raise AuthorizationExpiredError(
            f"The capture window of {authorization.syssn} ended at {ended}.", idempotency_key=request.idempotency_key
        )
    if amount > authorization.capturable:
        raise OverCaptureError(
            f"Capturing {amount} {authorization.currency} on {authorization.syssn} exceeds what is capturable: "
            f"{authorization.capturable} of {authorization.amount}.",
            requested=amount,
            capturable=authorization.capturable,
            idempotency_key=request.idempotency_key,
        )
    twin = _first(unresolved, Operation.CAPTURE, amount)
    if twin and not request.twins_allowed:
        # two unresolved captures of one amount could not be told apart by any evidence
        raise _in_progress(twin, request, "of the same amount is unresolved")
    return amount


def expired(request: Request, authorization: Authorization) -> bool:
    """Whether the capture window, as far as it is known here, is over; the gateway's clock decides."""
    ends = authorization.expires_at(request.default_window)
    return ends is not None and request.at >= ends


def _unfreezable(request: Request, authorization: Authorization, unresolved: Sequence[Entry]) -> int:
    _check_open(request, authorization, unresolved)
    blocking = _first(unresolved, Operation.CAPTURE)
    if blocking:
        raise _in_progress(blocking, request, "is unresolved")
    rest = authorization.capturable
    if not rest:
        raise AuthorizationClosedError(
            f"Nothing is left to unfreeze on {authorization.syssn}.", idempotency_key=request.idempotency_key
        )
    if request.amount not in (None, rest):
        raise OverCaptureError(
            f"An unfreeze releases exactly what is left, {rest} {authorization.currency}, not {request.amount}.",
            requested=request.amount,
            capturable=rest,
            advice="Look at balance(): the caller's view is stale. Leave amount out to release what is left.",
            idempotency_key=request.idempotency_key,
        )
    return rest


def _check_open(request: Request, authorization: Authorization, unresolved: Sequence[Entry]) -> None:
    if authorization.unfrozen or authorization.foreign_unfrozen:
        raise AlreadyUnfrozenError(
            f"The rest of {authorization.syssn} was already unfrozen.", idempotency_key=request.idempotency_key
        )
    unfreeze = _first(unresolved, Operation.UNFREEZE)
    if unfreeze:
        kind = AlreadyUnfrozenError if request.operation is Operation.UNFREEZE else AuthorizationClosedError
        raise kind(
            f"An unfreeze of {authorization.syssn} under key {unfreeze.idempotency_key!r} is {unfreeze.state.value}.",
            advice="It closes the authorization until it ends; look at entry() and in_doubt().",
            idempotency_key=request.idempotency_key,
        )


def _refundable(request: Request, capture: Movement, authorization: Authorization) -> int:
    amount = request.amount or 0
    given_back = capture.refunded + capture.refund_claimed + capture.foreign_refunded
    refundable = max(0, capture.amount - given_back)
    if amount > refundable:
        raise OverRefundError(
            f"Refunding {amount} {authorization.currency} of capture {capture.syssn} exceeds what is refundable: "
            f"{refundable} of {capture.amount}.",
            requested=amount,
            refundable=refundable,
            idempotency_key=request.idempotency_key,
        )
    return amount


def _first(unresolved: Sequence[Entry], operation: Operation, amount: int | None = None) -> Entry | None:
    for entry in unresolved:
        if entry.operation is operation and amount in (None, entry.amount):
            return entry
    return None


def _in_progress(entry: Entry, request: Request, why: str) -> OperationInProgressError:
    return OperationInProgressError(
        f"The {entry.operation} of {entry.amount} {entry.currency} on {entry.syssn} under key "
        f"{entry.idempotency_key!r} {why} ({entry.state.value}).",
        idempotency_key=request.idempotency_key,
    )


# ------------------------------------------------------------------------------------------------ concluding


@passing
class Conclusion:
    """What a verdict does: the entry after it, and what was contradictory about it, if anything."""

    entry: Entry
    discrepancy: str | None = None


def concluded(stored: Entry, verdict: Verdict, at: datetime, owner: Movement | None, attempt: int) -> Conclusion:
    """`stored` after `verdict`, given to whom the verdict's syssn already belongs.

    An ended entry never changes: a verdict that disagrees with it is a discrepancy. A yes whose syssn belongs to
    somebody else is not this entry's: it stays in doubt.

    Raises:
        OperationInProgressError: somebody else wants to end an entry that may still be under way.
    """
    if not stored.unresolved or stored.attempt != attempt:
        return Conclusion(stored, _disagreement(stored, verdict))
    if verdict.confirmed_by is not ConfirmedBy.ANSWER and not stored.doubtful(at):
        raise OperationInProgressError(
            f"Key {stored.idempotency_key!r} may still be under way until {stored.doubt_at.isoformat()}.",
            idempotency_key=stored.idempotency_key,
        )
    taken = _taken_by_another(stored, owner)
    if verdict.judgement in (Judgement.EXECUTED, Judgement.IN_DOUBT) and taken:
        detail = f"syssn {verdict.result_syssn} already belongs to {taken}"
        doubt = evolve(verdict, judgement=Judgement.IN_DOUBT, result_syssn=None, detail=detail, mismatch=True)
        return Conclusion(_moved(stored, doubt, at), detail)
    if taken:
        verdict = evolve(verdict, result_syssn=None)  # a refusal takes nobody's id
    return Conclusion(_moved(stored, verdict, at), verdict.detail if verdict.mismatch else None)


def _taken_by_another(entry: Entry, owner: Movement | None) -> str | None:
    if owner is None or (owner.idempotency_key == entry.idempotency_key and owner.kind == entry.operation):
        return None
    return f"{owner.kind} {owner.idempotency_key or 'made elsewhere'!r}"


def _disagreement(stored: Entry, verdict: Verdict) -> str | None:
    said = verdict.judgement
    if said is Judgement.IN_DOUBT:
        return None
    if said is Judgement.EXECUTED and stored.state is State.EXECUTED:
        same = verdict.result_syssn in (None, stored.result_syssn) or stored.result_syssn is None
        return None if same else f"executed as {stored.result_syssn}, and said to be {verdict.result_syssn}"
    ended = said is not Judgement.EXECUTED and stored.state is State.NOT_EXECUTED
    return None if ended else f"ended {stored.state.value}, and is now said to be {said.value}"


_STATE_AFTER: Mapping[Judgement, State] = {
    Judgement.EXECUTED: State.EXECUTED,
    Judgement.DECLINED: State.NOT_EXECUTED,
    Judgement.NOT_SENT: State.NOT_EXECUTED,
    Judgement.IN_DOUBT: State.IN_DOUBT,
}
_WHY: Mapping[Judgement, Why] = {Judgement.DECLINED: Why.DECLINED, Judgement.NOT_SENT: Why.NOT_SENT}


def _moved(stored: Entry, verdict: Verdict, at: datetime) -> Entry:
    state = _STATE_AFTER[verdict.judgement]
    check_move(stored, state)
    ended = state is not State.IN_DOUBT
    return Entry(
        stored.account,
        stored.idempotency_key,
        stored.operation,
        stored.authorization,
        stored.syssn,
        stored.amount,
        stored.currency,
        stored.out_trade_no,
        state,
        stored.attempt,
        stored.reserved_at,
        stored.send_by,
        stored.doubt_at,
        verdict.why or _WHY.get(verdict.judgement),
        verdict.rerunnable,
        verdict.result_syssn or stored.result_syssn,
        verdict.code or stored.code,
        verdict.message or stored.message,
        verdict.detail,
        verdict.system_time or stored.system_time,
        verdict.confirmed_by if ended else None,
        at if ended else None,
        verdict.reason,
        None if ended else stored.attention,
        stored.absences,
        MappingProxyType(dict(verdict.raw)) if verdict.raw else stored.raw,
    )


# ------------------------------------------------------------------------------------------------ sums


def claim(authorization: Authorization, amount: int) -> Authorization:
    """The authorization after a capture or an unfreeze of `amount` was reserved."""
    return _with_sums(authorization, claimed=amount)


def end_claim(authorization: Authorization, entry: Entry) -> Authorization:
    """The authorization after its entry ended: the claim goes, and what was executed is added."""
    done = entry.amount if entry.state is State.EXECUTED else 0
    if entry.operation is Operation.REFUND:
        return _with_sums(authorization, refunded=done)
    if entry.operation is Operation.CAPTURE:
        return _with_sums(authorization, claimed=-entry.amount, captured=done)
    return _with_sums(authorization, claimed=-entry.amount, unfrozen=done)


def _with_sums(
    hold: Authorization, *, claimed: int = 0, captured: int = 0, unfrozen: int = 0, refunded: int = 0
) -> Authorization:
    return Authorization(
        hold.account,
        hold.syssn,
        hold.amount,
        hold.currency,
        hold.out_trade_no,
        hold.registered_at,
        hold.authorized_at,
        hold.capture_window,
        hold.captured + captured,
        hold.claimed + claimed,
        hold.unfrozen + unfrozen,
        hold.refunded + refunded,
        hold.foreign_captured,
        hold.foreign_unfrozen,
        hold.foreign_refunded,
        hold.flagged,
    )


def end_refund_claim(capture: Movement, entry: Entry) -> Movement:
    """The capture after a refund of it ended."""
    done = entry.amount if entry.state is State.EXECUTED else 0
    return evolve(capture, refund_claimed=capture.refund_claimed - entry.amount, refunded=capture.refunded + done)


def balance_of(authorization: Authorization, unresolved: Sequence[Entry], at: datetime) -> Balance:
    """The books of one authorization at `at`; claims are captures' and the unfreeze's, not refunds'."""
    claims = [entry for entry in unresolved if entry.operation is not Operation.REFUND]
    in_doubt = sum(entry.amount for entry in claims if entry.doubtful(at))
    closed = authorization.unfrozen or authorization.foreign_unfrozen or _first(claims, Operation.UNFREEZE)
    return Balance(
        authorized=authorization.amount,
        captured=authorization.captured,
        held=sum(entry.amount for entry in claims) - in_doubt,
        in_doubt=in_doubt,
        foreign=authorization.foreign_captured,
        unfrozen=authorization.unfrozen + authorization.foreign_unfrozen,
        refunded=authorization.refunded + authorization.foreign_refunded,
        capturable=0 if closed else authorization.capturable,
        currency=authorization.currency,
    )
