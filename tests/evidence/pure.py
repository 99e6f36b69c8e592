"""What the tests of the rules share: one hold, its entries, rows and notices about it, and what is known of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from attrs import evolve

from qfpay_preauth._evidence import weigh
from qfpay_preauth._findings import Findings, Known
from qfpay_preauth._models import (
    Authorization,
    Entry,
    Judgement,
    Listing,
    Movement,
    Notification,
    Operation,
    Policy,
    State,
    Transaction,
    Verdict,
)
from qfpay_preauth._noticed import weigh_notification
from tests.unit.kit import HOLD, NOW, ORDER, OWN, REFUND_NUMBER, TAKEN, entry_of

__all__ = ["HOLD", "NOW", "ORDER", "OWN", "REFUND_NUMBER", "TAKEN"]

LATER = NOW + timedelta(hours=1)
BOTH_WORDS = {"capture": frozenset({"payment"}), "unfreeze": frozenset({"unfreeze"})}
NO_WORDS: Mapping[str, frozenset[str]] = {}


def doubt(operation: Operation = Operation.CAPTURE, **changes: Any) -> Entry:
    """An entry of 500 HKD in doubt, reserved at NOW."""
    return entry_of(operation, **{"state": State.IN_DOUBT, **changes})


def row(**changes: Any) -> Transaction:
    """A successful row, seconds after NOW, of a capture of 500 HKD on HOLD."""
    given: dict[str, Any] = {
        "syssn": OWN,
        "orig_syssn": HOLD,
        "out_trade_no": None,
        "order_type": "payment",
        "amount": 500,
        "currency": "HKD",
        "code": "0000",
        "message": None,
        "cancel": "0",
        "system_time": NOW + timedelta(seconds=2),
    }
    return Transaction(**{**given, **changes})


def notice(**changes: Any) -> Notification:
    """A notification of a capture of 500 HKD on HOLD, seconds after NOW."""
    given: dict[str, Any] = {
        "kind": "payment",
        "syssn": OWN,
        "orig_syssn": HOLD,
        "out_trade_no": None,
        "amount": 500,
        "currency": "HKD",
        "code": "0000",
        "system_time": NOW + timedelta(seconds=2),
        "digest": "digest",
    }
    return Notification(**{**given, **changes})


def hold(**changes: Any) -> Authorization:
    """HOLD, of 50,000 HKD."""
    return evolve(Authorization("M1", HOLD, 50_000, "HKD", ORDER, NOW - timedelta(hours=1)), **changes)


def capture(syssn: str = TAKEN, **changes: Any) -> Movement:
    """An executed capture of 20,000 on HOLD, of ours."""
    return evolve(Movement("M1", syssn, "capture", HOLD, 20_000, idempotency_key=f"key-of-{syssn}"), **changes)


def listing(*rows: Transaction, **changes: Any) -> Listing:
    """A complete enquiry that showed `rows`, an hour after NOW."""
    return evolve(Listing(rows, NOW - timedelta(minutes=10), LATER, stable=True, whole=True), **changes)


def known(
    *entries: Entry,
    owners: Iterable[Movement] = (),
    words: Mapping[str, frozenset[str]] = BOTH_WORDS,
    authorization: Authorization | None = None,
    linked_capture_shown: bool = False,
) -> Known:
    """What the ledger knows: HOLD, the entries, and whose the syssns are (results of the entries included)."""
    mine = [
        Movement(
            entry.account,
            entry.result_syssn,
            entry.operation.value,
            HOLD,
            entry.amount,
            idempotency_key=entry.idempotency_key,
            executed=entry.state is State.EXECUTED,
        )
        for entry in entries
        if entry.result_syssn
    ]
    movements = [Movement("M1", HOLD, "authorization", HOLD, 50_000), capture(), *mine, *owners]
    numbered = [entry for entry in entries if entry.out_trade_no and entry.operation is not Operation.UNFREEZE]
    return Known(
        owners={movement.syssn: movement for movement in movements},
        entries={entry.idempotency_key: entry for entry in entries},
        by_number={str(entry.out_trade_no): entry for entry in numbered},
        authorizations={HOLD: authorization or hold()},
        of_hold={HOLD: entries},
        words=words,
        linked_capture_shown=linked_capture_shown,
    )


def ends(found: Findings) -> dict[str, tuple[Judgement, str | None]]:
    """Key → how the findings end its entry, and with which syssn."""
    return {entry.idempotency_key: (verdict.judgement, verdict.result_syssn) for entry, verdict in found.verdicts}


def seen(what: Listing, knowledge: Known, **policy: Any) -> Findings:
    """`weigh`, with nothing granted to absence unless told."""
    return weigh(what, knowledge, Policy(**policy))


def notified(what: Notification, knowledge: Known, at: datetime = LATER) -> Verdict | None:
    """The verdict that a notification alone gives, if any."""
    meant = weigh_notification(what, knowledge, at)
    return meant[1] if meant else None
