"""What the tests of the pure rooms share: one entry of each operation, and the answer that fits it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from attrs import evolve

from qfpay_preauth._models import Answer, Entry, Operation, State, Verdict
from qfpay_preauth._signing import Signer
from qfpay_preauth._wire import Sender, judge

NOW = datetime(2026, 3, 15, 20, 30, 5, tzinfo=UTC)
"""In UTC+8 already 2026-03-16 04:30:05."""

HOLD = "20260315180500020000014079"
TAKEN = "20260315180500020000014080"
OWN = "20260315180500020000014081"
ORDER = "ORDER-17"
REFUND_NUMBER = "0123456789ABCDEF0123456789ABCDEF"
CLIENT_KEY = "c49ce1d444994b419934286eb07b40f2"
PAN = "4111111111111111"

_TARGETS: Mapping[Operation, tuple[str, str | None]] = {
    Operation.CAPTURE: (HOLD, None),
    Operation.UNFREEZE: (HOLD, ORDER),
    Operation.REFUND: (TAKEN, REFUND_NUMBER),
}


def entry_of(operation: Operation = Operation.CAPTURE, **changes: Any) -> Entry:
    """A held entry of 500 HKD: on the hold, or for a refund on a capture of it."""
    syssn, out_trade_no = _TARGETS[operation]
    entry = Entry(
        account="M1",
        idempotency_key="order-17/parcel-1",
        operation=operation,
        authorization=HOLD,
        syssn=syssn,
        amount=500,
        currency="HKD",
        out_trade_no=out_trade_no,
        state=State.HELD,
        attempt=1,
        reserved_at=NOW,
        send_by=NOW + timedelta(seconds=60),
        doubt_at=NOW + timedelta(seconds=90),
    )
    return evolve(entry, **changes)


def sender_of(sign_type: str = "SHA256", mchid: str | None = None) -> Sender:
    """A merchant's sender with the test key."""
    return Sender("APP1", Signer(CLIENT_KEY, sign_type), mchid)


def fields_for(entry: Entry, code: str = "0000", **changes: Any) -> dict[str, Any]:
    """The fields of an answer that fits the entry; a change to None removes the field."""
    fields: dict[str, Any] = {
        "sysdtm": "2026-03-16 04:30:06",
        "txcurrcd": entry.currency,
        "txamt": str(entry.amount),
        "resperr": "",
        "respmsg": "said",
        "out_trade_no": entry.out_trade_no if entry.operation is Operation.REFUND else "",
        "syssn": OWN,
        "orig_syssn": entry.syssn,
        "respcd": code,
        "cardcd": "",
        **changes,
    }
    return {name: value for name, value in fields.items() if value is not None}


def judged(entry: Entry, fields: Mapping[str, Any], status: int = 200) -> Verdict:
    """The verdict on an unsigned answer with these fields."""
    return judge(entry, Answer(status, {}, json.dumps(dict(fields)).encode()), [Signer(CLIENT_KEY)])
