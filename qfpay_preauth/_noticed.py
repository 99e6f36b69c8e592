"""Which entry, if any, a notification alone ends. Pure. It never frees money, and an unknown type proves nothing.

Source: QFPay, Asynchronous Notifications (only successes are notified; the freeze probably sends `payment` too).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from qfpay_preauth._codes import SUCCESS
from qfpay_preauth._evidence import executed, numbered, other_number
from qfpay_preauth._findings import MARGIN, Known
from qfpay_preauth._models import (
    ConfirmedBy,
    Discrepancy,
    DiscrepancyKind,
    Entry,
    Notification,
    Operation,
    State,
    Transaction,
    Verdict,
)

_SALE_WORD = "payment"  # QFPay, Transaction Enquiry, order_type
_NOTIFY_TYPES: Mapping[str, Operation] = {
    # QFPay, Asynchronous Notifications, notify_type
    "payment": Operation.CAPTURE,
    "unfreeze": Operation.UNFREEZE,
    "refund": Operation.REFUND,
    "cancel": Operation.REFUND,
}


def weigh_notification(notice: Notification, known: Known, at: datetime) -> tuple[Entry, Verdict] | None:
    """The entry that a notification alone ends as executed, if exactly one is meant.

    Its original, type, amount and currency must match, its code be 0000, and its syssn be new or already this entry's
    by a pending answer. It never frees money: everything else is left to the enquiry.
    """
    if not notice.syssn or notice.code != SUCCESS:
        return None
    owner = known.owners.get(notice.syssn)
    if owner is not None and (owner.executed or owner.idempotency_key is None):
        return None
    entries = [entry for group in known.of_hold.values() for entry in group if _notified(notice, entry, at)]
    if owner is not None:
        entries = [entry for entry in entries if entry.idempotency_key == owner.idempotency_key]
    named = [entry for entry in entries if numbered(entry) and entry.out_trade_no == notice.out_trade_no]
    meant = named or [
        entry for entry in entries if not (numbered(entry) and other_number(notice.out_trade_no, entry, known))
    ]
    if len(meant) != 1:
        return None
    return meant[0], executed(notice.syssn, ConfirmedBy.NOTIFICATION, notice)


def _notified(notice: Notification, entry: Entry, at: datetime) -> bool:
    in_time = notice.system_time is not None and notice.system_time >= entry.reserved_at - MARGIN
    return (
        entry.doubtful(at)
        and in_time
        and entry.result_syssn in (None, notice.syssn)
        and _NOTIFY_TYPES.get(notice.kind) is entry.operation
        and (notice.orig_syssn, notice.amount, notice.currency) == (entry.syssn, entry.amount, entry.currency)
    )


def of_others(row: Transaction, rows: Mapping[str, Transaction], known: Known) -> bool:
    """Whether a row (one of `rows`, by syssn) is surely about no authorization of ours: another sale of the merchant.

    Its original is unknown here; or it names none, though this gateway names it in captures.
    """
    if row.code != SUCCESS or row.syssn in known.owners or row.out_trade_no in known.by_number:
        return False
    if row.orig_syssn is None:
        return known.linked_capture_shown and row.order_type == _SALE_WORD
    original = rows.get(row.orig_syssn)
    on_our_hold = original is not None and original.orig_syssn in known.owners
    return row.orig_syssn not in known.owners and not on_our_hold


def moves_a_hold(notice: Notification) -> bool:
    """Whether a notice with an original tells of a capture or an unfreeze (other sales are refunded, too)."""
    return _NOTIFY_TYPES.get(notice.kind) is not Operation.REFUND


def notified_though_ended(notice: Notification, known: Known) -> Discrepancy | None:
    """A success notified for a syssn that belongs to an entry which ended not executed."""
    owner = known.owners.get(notice.syssn or "")
    entry = known.entries.get(owner.idempotency_key) if owner and owner.idempotency_key else None
    if entry is None or entry.state is not State.NOT_EXECUTED or notice.code not in (None, SUCCESS):
        return None
    return Discrepancy(
        DiscrepancyKind.EXECUTED_THOUGH_ENDED,
        entry.authorization,
        notice.syssn,
        entry.idempotency_key,
        f"{entry.operation.value} of {entry.amount}, not executed",
        f"notified as {notice.kind} of {notice.amount}",
    )
