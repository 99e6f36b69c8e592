"""The demonstration's comparison of both sides' books, and how each doubt ended. Pure: it only reads."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from attrs import frozen

from qfpay_preauth._models import Balance, ConfirmedBy, Entry, Operation, State, Why

if TYPE_CHECKING:  # the simulator is loaded when the demonstration runs
    from qfpay_preauth.testing import Movement, Totals


@frozen
class Line:
    """One kind of sum, in minor units: in our books and in the gateway's, and how much of it was in doubt before."""

    name: str
    ours: int
    was_in_doubt: int
    theirs: int


@frozen
class Check:
    """One promise, and every way in which it was broken (none: kept)."""

    promise: str
    broken: tuple[str, ...]


class Ending(enum.StrEnum):
    """What ended a doubt."""

    NOTIFIED = "executed: by a notification"
    FOUND = "executed: by the answer to an enquiry"
    REFUSED = "refused: by the answer to an enquiry"
    ABSENT = "not sent: absent from two complete enquiries after the quiet period"
    LEFT = "left for a person"


@frozen
class Ended:
    """One entry that was in doubt: all that our side saw, how it ended, and (if it did not) why."""

    idempotency_key: str
    amount: int
    saw: str
    ending: Ending
    reason: str = ""


def ended(before: Entry, after: Entry) -> Ended:
    """What became of an entry that was in doubt."""
    saw = before.detail or "nothing was recorded"
    how = ending(after)
    reason = after.attention or "no enquiry shows it, and nothing proves its absence" if how is Ending.LEFT else ""
    return Ended(after.idempotency_key, after.amount, saw, how, reason)


def ending(entry: Entry) -> Ending:
    """How the doubt of an entry ended."""
    if entry.unresolved:
        return Ending.LEFT
    if entry.state is State.EXECUTED:
        return Ending.NOTIFIED if entry.confirmed_by is ConfirmedBy.NOTIFICATION else Ending.FOUND
    return Ending.REFUSED if entry.why is Why.DECLINED else Ending.ABSENT


def lines(balances: Iterable[Balance], totals: Iterable[Totals], doubts: Iterable[Entry]) -> tuple[Line, ...]:
    """The sums of both books, and those of the entries that were in doubt."""
    ours, theirs = Counter[str](), Counter[str]()
    for balance in balances:
        ours.update({name: getattr(balance, name) for name in _SUMS})
    for total in totals:
        theirs.update({name: getattr(total, name) for name in _SUMS})
    doubtful = Counter[str]()
    for doubt in doubts:
        doubtful[_SUM_OF[doubt.operation]] += doubt.amount
    return tuple(Line(name, ours[name], doubtful[name], theirs[name]) for name in _SUMS)


_SUMS = ("authorized", "captured", "unfrozen", "refunded")
_SUM_OF = {Operation.CAPTURE: "captured", Operation.UNFREEZE: "unfrozen", Operation.REFUND: "refunded"}


def run_wrongly(entries: Sequence[Entry], executions: Sequence[Movement]) -> list[str]:
    """Every key that ran twice, ran although it is recorded as not executed, or did not run although it is recorded;
    and every execution that no key asked for."""
    runs = Counter((each.kind, each.orig_syssn, each.amount) for each in executions)
    amounts = {each.syssn: each.amount for each in executions}
    wrong = []
    for entry in entries:
        count = runs.pop((entry.operation.value, entry.syssn, entry.amount), 0)
        recorded = entry.state is State.EXECUTED
        if count > 1:
            wrong.append(f"{entry.idempotency_key} ran {count} times")
        elif (count != recorded and not entry.unresolved) or (
            recorded and amounts.get(entry.result_syssn or "") != entry.amount
        ):
            wrong.append(f"{entry.idempotency_key} is recorded as {entry.state.value} and ran {count} times")
    return wrong + [f"{kind} of {amount} on {syssn} has no key" for kind, syssn, amount in runs]


def unexplained(ours: Mapping[str, Balance], theirs: Mapping[str, Totals], doubts: Sequence[Entry]) -> list[str]:
    """Every difference that is not the sum of some of that authorization's `doubts`."""
    wrong = []
    for syssn, balance in ours.items():
        for operation, name in _SUM_OF.items():
            amounts = [each.amount for each in doubts if each.authorization == syssn and each.operation is operation]
            more = getattr(theirs[syssn], name) - getattr(balance, name)
            if more not in _sums(amounts):
                wrong.append(f"{syssn}: the gateway has {more:+d} {name}, in doubt are {amounts}")
        if balance.authorized != theirs[syssn].authorized:
            wrong.append(f"{syssn}: the gateway holds {theirs[syssn].authorized}, we have {balance.authorized}")
    return wrong


def _sums(amounts: Iterable[int]) -> set[int]:
    """The sum of each selection from `amounts`, none included."""
    sums = {0}
    for amount in amounts:
        sums |= {each + amount for each in sums}
    return sums
