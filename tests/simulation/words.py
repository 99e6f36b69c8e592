"""Entries in few words, and their sums, for the auditor."""

from __future__ import annotations

from collections.abc import Sequence

from qfpay_preauth._models import Entry, Operation, State


def done_sum(entries: Sequence[Entry], operation: Operation) -> int:
    """What was executed of one operation."""
    return sum(e.amount for e in entries if e.operation is operation and e.state is State.EXECUTED)


def short(entry: Entry) -> str:
    """An entry in a few words."""
    why = f"/{entry.why}" if entry.why else ""
    return (
        f"{entry.idempotency_key}#{entry.attempt} {entry.operation.value} {entry.amount} on {entry.syssn[-5:]} "
        f"{entry.state.value}{why}"
    )
