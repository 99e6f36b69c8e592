"""What a person does in the merchant portal: movements that no request of the client explains."""

from __future__ import annotations

from datetime import datetime

from ._books import Books
from ._records import Movement, Write


def act(books: Books, action: str, syssn: str, amount: int | None, now: datetime) -> Movement:
    """``capture`` or ``unfreeze`` a hold or ``refund`` a capture; without an amount, all that is left of it.
    Raises ``Refusal``, and ``ValueError`` for another action."""
    moves = {"capture": books.capture, "unfreeze": books.unfreeze, "refund": books.refund}
    if action not in moves:
        raise ValueError(f"action must be one of {', '.join(moves)}, not {action!r}")
    known = syssn in books.holds or syssn in books.movements
    whole = books.left(syssn) if known else 0  # an unknown one is refused as such
    return moves[action](Write(syssn=syssn, amount=whole if amount is None else amount, portal=True), now)
