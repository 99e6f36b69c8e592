"""Entry → what the caller gets: a result, or exactly one error. Pure; the table is design "What ends an entry"."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from attrs import evolve

from qfpay_preauth._codes import SET_UP
from qfpay_preauth._models import (
    Capture,
    ConfirmedBy,
    Doubt,
    Entry,
    Judgement,
    Operation,
    Refund,
    Result,
    State,
    Unfreeze,
    Verdict,
    Why,
)
from qfpay_preauth.errors import (
    CredentialsRejectedError,
    DeclinedError,
    LedgerUnavailableError,
    NotSentError,
    Outcome,
    OutcomeUnknownError,
    PreauthError,
    RateLimitedError,
)

_RESULTS: Mapping[Operation, type[Result]] = {
    Operation.CAPTURE: Capture,
    Operation.UNFREEZE: Unfreeze,
    Operation.REFUND: Refund,
}


def result_of(entry: Entry, *, replayed: bool, retry_after_s: float | None = None) -> Result:
    """The result of an executed entry.

    Raises:
        OutcomeUnknownError: the entry is not resolved.
        PreauthError: it ended not executed; which error, says why.
    """
    if entry.unresolved:
        raise _unknown(entry)
    if entry.state is State.NOT_EXECUTED:
        raise _not_executed(entry, retry_after_s)
    return _RESULTS[entry.operation](
        entry.result_syssn,
        entry.syssn,
        entry.amount,
        entry.currency,
        entry.idempotency_key,
        entry.code,
        entry.message,
        entry.system_time,
        replayed=replayed,
        confirmed_by=(entry.confirmed_by or ConfirmedBy.ANSWER)._value_,
        raw=dict(entry.raw or {}),
    )


def handed_out(entry: Entry) -> Entry:
    """An entry of the books as a caller gets it: its `raw` is the caller's own, to be dumped, pickled or changed."""
    return entry if entry.raw is None else evolve(entry, raw=dict(entry.raw))


def _what(entry: Entry) -> str:
    return f"{entry.operation.capitalize()} of {entry.amount} {entry.currency} on {entry.syssn}"


def _unknown(entry: Entry) -> OutcomeUnknownError:
    return OutcomeUnknownError(
        f"{_what(entry)}: the outcome is unknown ({entry.detail or 'no answer was recorded'}).",
        idempotency_key=entry.idempotency_key,
    )


def _not_executed(entry: Entry, retry_after_s: float | None) -> PreauthError:
    key = entry.idempotency_key
    said = f"{_what(entry)}: "
    if entry.why is Why.NOT_SENT and entry.code == "429":
        return RateLimitedError(
            f"{said}the gateway is over its rate limit.",
            code="429",
            message=entry.detail,
            retry_after_s=retry_after_s,
            idempotency_key=key,
        )
    if entry.why is Why.NOT_SENT:
        return NotSentError(f"{said}not sent ({entry.detail}).", idempotency_key=key)
    if entry.why is not Why.DECLINED:
        reason = entry.reason or entry.detail
        return DeclinedError(f"{said}recorded as not executed ({reason}).", message=reason, idempotency_key=key)
    said += f"declined with {entry.code}: {entry.message or 'no message'}."
    if entry.code in SET_UP:
        return CredentialsRejectedError(said, code=entry.code, message=entry.message, idempotency_key=key)
    return DeclinedError(
        said,
        code=entry.code,
        message=entry.message,
        retry_later=entry.rerunnable,
        advice="Not now: call again later with the same key." if entry.rerunnable else None,
        idempotency_key=key,
    )


_KNOWN_OUTCOME: Mapping[Judgement, Outcome] = {
    Judgement.EXECUTED: Outcome.HAPPENED,
    Judgement.DECLINED: Outcome.NOTHING_HAPPENED,
    Judgement.NOT_SENT: Outcome.NOTHING_HAPPENED,
    Judgement.IN_DOUBT: Outcome.UNKNOWN,
}


def recording_failed(entry: Entry, verdict: Verdict, error: LedgerUnavailableError) -> LedgerUnavailableError:
    """The gateway's answer could not be recorded: the caller is told what it was, and the claim stays."""
    outcome = _KNOWN_OUTCOME[verdict.judgement]
    result = None
    if outcome is Outcome.HAPPENED:
        result = _RESULTS[entry.operation](
            syssn=verdict.result_syssn,
            orig_syssn=entry.syssn,
            amount=entry.amount,
            currency=entry.currency,
            idempotency_key=entry.idempotency_key,
            code=verdict.code,
            message=verdict.message,
            system_time=verdict.system_time,
            raw=dict(verdict.raw or {}),
        )
    return LedgerUnavailableError(
        f"{_what(entry)}: {outcome.value.replace('_', ' ')}, but it could not be recorded ({error.args[0]})",
        result=result,
        outcome=outcome,
        advice="The amount stays claimed. Restore the ledger, then record it with resolve().",
        idempotency_key=entry.idempotency_key,
    )


def contradicted(entry: Entry, verdict: Verdict) -> OutcomeUnknownError:
    """The gateway says executed, and the entry had already been ended as not executed."""
    return OutcomeUnknownError(
        f"{_what(entry)}: the gateway says executed as {verdict.result_syssn}, but the entry was ended as not "
        f"executed ({entry.reason or entry.detail}). A discrepancy is recorded.",
        outcome=Outcome.HAPPENED,
        advice="Compare with the gateway's books; do not send it again.",
        idempotency_key=entry.idempotency_key,
    )


def doubt_of(entry: Entry, now: datetime) -> Doubt:
    """An entry in doubt as it is listed for people."""
    seen = entry.detail or "no answer was recorded: the process may have been killed"
    return Doubt(
        idempotency_key=entry.idempotency_key,
        operation=entry.operation,
        syssn=entry.syssn,
        amount=entry.amount,
        currency=entry.currency,
        since=entry.reserved_at,
        tried=f"attempt {entry.attempt}, sent by {entry.send_by.isoformat(timespec='seconds')} at the latest",
        advice="Look into the gateway's books, then resolve()."
        if entry.attention
        else "Run the reconciler, or call again with the same key (it sends nothing); resolve() it once you know.",
        authorization=entry.authorization,
        age_s=(now - entry.reserved_at).total_seconds(),
        seen=f"{seen}; {entry.attention}" if entry.attention else seen,
        needs_attention=entry.attention is not None,
    )
