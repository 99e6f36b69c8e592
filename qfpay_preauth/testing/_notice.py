"""Notifications as QFPay sends them (QFPay: "Asynchronous notifications"); the test delivers them."""

from __future__ import annotations

import json
from collections.abc import Mapping

from ._books import DONE, Books, Hold, Movement
from ._config import GATEWAY_ZONE
from ._plan import Reply
from ._protocol import sign_body

_TIME = "%Y-%m-%d %H:%M:%S"
_TYPES: Mapping[str, str] = {"capture": "payment", "unfreeze": "unfreeze", "refund": "refund"}


def notification(books: Books, syssn: str, changes: Mapping[str, str | None]) -> tuple[bytes, dict[str, str]]:
    """Raw body and headers for one record. Raises ``KeyError`` if the syssn is unknown."""
    record = books.holds.get(syssn) or books.movements[syssn]
    fields = {**_fields(books, record), **changes}
    body = json.dumps({name: value for name, value in fields.items() if value is not None}).encode()
    signature = sign_body(body, books.config.client_key)
    return body, {"Content-Type": "application/json", "X-QF-SIGN": signature}


def _fields(books: Books, record: Hold | Movement) -> Reply:
    moment = record.at if isinstance(record, Hold) else record.at or record.accepted_at
    local = moment.astimezone(GATEWAY_ZONE).strftime(_TIME)
    common: Reply = {
        "sysdtm": local,
        "txdtm": local,
        "txcurrcd": record.currency,
        "txamt": str(record.amount),
        "mchid": books.config.mchid or "",
        "out_trade_no": record.out_trade_no,
        "syssn": record.syssn,
        "respcd": DONE,
        "status": "1",
    }
    if isinstance(record, Hold):
        return common | _payment(books, local)
    common |= {"notify_type": _TYPES[record.kind], "orig_syssn": record.orig_syssn}
    if record.kind == "refund":
        original = books.movements[record.orig_syssn]
        return common | {"orig_out_trade_no": original.out_trade_no}
    return common if record.kind == "unfreeze" else common | _payment(books, local)


def _payment(books: Books, local: str) -> Reply:
    blank = ("goods_name", "exchange_rate", "chnlsn2", "cash_fee_type", "goods_info", "chnlsn", "cardcd")
    rest = {"notify_type": "payment", "pay_type": books.config.pay_type, "paydtm": local, "cancel": "0"}
    return dict.fromkeys(blank, "") | rest | {"cash_fee": "0"}
