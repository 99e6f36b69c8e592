"""An auditor's reading of the gateway's books: rules checked by a fold of their own, after the fact."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._books import Books
    from ._records import Hold, Movement


def violations(books: Books) -> list[str]:
    """Every broken rule in words (QFPay: "Pre-authorization"); empty when all is well."""
    return [each for hold in books.holds.values() for each in _of_hold(books, hold)]


def _of_hold(books: Books, hold: Hold) -> Iterator[str]:
    done = books.executions(hold.syssn)
    yield from _totals(hold, done)
    yield from _unfreezes(books, hold, done)
    yield from _refunds(hold, done)
    for each in done:
        if each.currency != hold.currency:
            yield f"{each.syssn}: {each.kind} in {each.currency} of a hold in {hold.currency}"


def _totals(hold: Hold, done: tuple[Movement, ...]) -> Iterator[str]:
    captured = sum(each.amount for each in done if each.kind == "capture")
    unfrozen = sum(each.amount for each in done if each.kind == "unfreeze")
    if captured > hold.amount:
        yield f"{hold.syssn}: captured {captured} of {hold.amount}"
    elif captured + unfrozen > hold.amount:
        yield f"{hold.syssn}: captured {captured} and unfroze {unfrozen} of {hold.amount}"


def _unfreezes(books: Books, hold: Hold, done: tuple[Movement, ...]) -> Iterator[str]:
    unfreezes = [each for each in done if each.kind == "unfreeze"]
    if len(unfreezes) > 1:
        yield f"{hold.syssn}: unfrozen {len(unfreezes)} times"
    if unfreezes:
        # A capture accepted before the unfreeze may end after it: what counts is when it was let in.
        accepted = [each.syssn for each in books.of_hold(hold.syssn)]
        limit = accepted.index(unfreezes[0].syssn)
        late = set(accepted[limit:])
        for each in done:
            if each.kind == "capture" and each.syssn in late:
                yield f"{each.syssn}: captured after the unfreeze of {hold.syssn}"


def _refunds(hold: Hold, done: tuple[Movement, ...]) -> Iterator[str]:
    captures = {each.syssn: each.amount for each in done if each.kind == "capture"}
    refunds: Counter[str] = Counter()
    for each in done:
        if each.kind == "refund":
            refunds[each.orig_syssn] += each.amount
    for syssn, amount in refunds.items():
        if amount > captures.get(syssn, 0):
            yield f"{syssn}: refunded {amount} of {captures.get(syssn, 0)}"
