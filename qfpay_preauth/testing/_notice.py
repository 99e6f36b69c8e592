"""Notifications as QFPay writes them (QFPay: "Asynchronous notifications"): raw bodies and their signatures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ._books import Books
from ._config import GATEWAY_ZONE, linked
from ._plan import Reply, changed
from ._protocol import sign_body
from ._records import DONE, Hold, Record

_TIME = "%Y-%m-%d %H:%M:%S"


def notification(books: Books, syssn: str, changes: Mapping[str, Any]) -> tuple[bytes, dict[str, str]]:
    """Raw body and headers for one record. Raises ``KeyError`` if the syssn is unknown."""
    record = books.holds.get(syssn) or books.movements[syssn]
    return signed(json.dumps(changed(_fields(books, record), changes)).encode(), books.config.client_key)


def signed(body: bytes, key: str) -> tuple[bytes, dict[str, str]]:
    """A body and the headers that go with it."""
    return body, {"Content-Type": "application/json", "X-QF-SIGN": sign_body(body, key)}


def _fields(books: Books, record: Record) -> Reply:
    moment = record.at if isinstance(record, Hold) else record.at or record.accepted_at
    local = moment.astimezone(GATEWAY_ZONE).strftime(_TIME)
    kind = "hold" if isinstance(record, Hold) else record.kind
    fields: Reply = {
        "sysdtm": local,
        "txdtm": local,
        "txcurrcd": record.currency,
        "txamt": str(record.amount),
        "mchid": books.config.mchid or "",
        "out_trade_no": books.number_shown(record),
        "syssn": record.syssn,
        "respcd": DONE,
        "status": "1",
        "notify_type": books.config.notify_types[kind],
    }
    if kind in ("hold", "capture"):
        fields |= _payment(books, local)
    if not isinstance(record, Hold) and linked(books.config.link_notices, kind):
        fields["orig_syssn"] = record.orig_syssn
    if kind == "refund" and not isinstance(record, Hold):
        fields["orig_out_trade_no"] = books.number_shown(books.movements[record.orig_syssn])
    return fields


def _payment(books: Books, local: str) -> Reply:
    blank = ("goods_name", "exchange_rate", "chnlsn2", "cash_fee_type", "goods_info", "chnlsn", "cardcd")
    rest = {"pay_type": books.config.pay_type, "paydtm": local, "cancel": "0", "cash_fee": "0"}
    return dict.fromkeys(blank, "") | rest
