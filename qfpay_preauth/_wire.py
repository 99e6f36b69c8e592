"""Entry → signed bytes; delivery → verdict. Pure and total; the only file that knows QFPay's field names."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from attrs import frozen

from qfpay_preauth._checks import is_id
from qfpay_preauth._clock import GATEWAY_TZ
from qfpay_preauth._codes import CONTRADICTS_BOOKS, SET_UP, CodeClass, classify
from qfpay_preauth._json import clean, is_empty, masked, read_object, redacted, text_of
from qfpay_preauth._models import (
    Answer,
    Delivery,
    Entry,
    Judgement,
    Notification,
    NotSent,
    Operation,
    PaymentIntent,
    SignedRequest,
    Transaction,
    Unknown,
    Verdict,
)
from qfpay_preauth._signing import Signer, signing_string

PATHS: Mapping[Operation, str] = {
    Operation.CAPTURE: "/trade/v1/authtrade",
    Operation.UNFREEZE: "/trade/v1/unfreeze",
    Operation.REFUND: "/trade/v1/refund",
}
PATH_QUERY = "/trade/v1/query"
PATH_INTENT = "/payment_element/v1/create_payment_intent"
PAGE_SIZE = 100  # QFPay, Transaction Enquiry: page_size at most 100

_IDS = frozenset(
    ["syssn", "orig_syssn", "origssn", "out_trade_no", "orig_out_trade_no", "chnlsn", "chnlsn2", "payment_intent"]
)
_PLAIN = _IDS | frozenset(
    [
        *("sysdtm", "paydtm", "txdtm", "udid", "txcurrcd", "txamt", "respcd", "resperr", "respmsg", "errmsg", "cancel"),
        *("pay_type", "order_type", "notify_type", "status", "clisn", "goods_name", "goods_info", "mchid"),
        *("cash_fee", "cash_fee_type", "cash_refund_fee", "cash_refund_fee_type", "exchange_rate", "intent_expiry"),
    ]
)
"""Names that QFPay documents, and that name no card."""
_PLAIN_FORM = re.compile(r"[A-Za-z0-9_.~&=-]*")
_OF_WHAT = ("orig_syssn", "txamt", "txcurrcd")  # a yes has to name these
_TIME = "%Y-%m-%d %H:%M:%S"
_TIME_READ = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}")  # as documented, and nothing laxer


# ------------------------------------------------------------------------------------------------ requests


def build(entry: Entry, sender: Sender) -> SignedRequest:
    """The request of one entry (QFPay, Online Pre-Authorisation: Capture, Unfreeze; Payment API: Refund)."""
    params = {"txamt": str(entry.amount), "syssn": entry.syssn}
    if entry.operation is Operation.CAPTURE:
        params["txcurrcd"] = entry.currency
    if entry.out_trade_no is not None:
        params["out_trade_no"] = entry.out_trade_no
        params["txdtm"] = gateway_time(entry.reserved_at)
    return sender.signed(PATHS[entry.operation], params)


@frozen
class IntentRequest:
    """What a payment intent is asked for; `urls` are return_url, failed_url and notify_url, if given."""

    amount: int
    currency: str
    out_trade_no: str
    pay_type: str
    urls: Mapping[str, str]


def build_intent(sender: Sender, wish: IntentRequest) -> SignedRequest:
    """QFPay, Payment Element: create_payment_intent."""
    params = {"txamt": str(wish.amount), "txcurrcd": wish.currency, "out_trade_no": wish.out_trade_no}
    return sender.signed(PATH_INTENT, {**params, "pay_type": wish.pay_type, **wish.urls})


def build_query(
    sender: Sender,
    *,
    syssn: Sequence[str],
    out_trade_no: Sequence[str],
    window: tuple[datetime, datetime],
    page: int,
) -> SignedRequest:
    """QFPay, Transaction Enquiry: ids as comma lists, a window within one calendar month (UTC+8), one page."""
    params = {
        "syssn": ",".join(syssn),
        "out_trade_no": ",".join(out_trade_no),
        "start_time": gateway_time(window[0]),
        "end_time": gateway_time(window[1]),
        "page": str(page),
        "page_size": str(PAGE_SIZE),
    }
    return sender.signed(PATH_QUERY, {name: value for name, value in params.items() if value})


class Sender:
    """One merchant's way of signing requests: app code, key, and `mchid` only if one was assigned."""

    __slots__ = ("_extra", "_headers", "_signer")

    def __init__(self, app_code: str, signer: Signer, mchid: str | None) -> None:
        self._signer = signer
        self._extra = {"mchid": mchid} if mchid else {}
        self._headers = {
            "X-QF-APPCODE": app_code,
            "Content-Type": "application/x-www-form-urlencoded",
            "Accept-Encoding": "identity",  # an answer is never decoded blindly, so none may be encoded
            **({"X-QF-SIGNTYPE": "SHA256"} if signer.sign_type == "SHA256" else {}),
        }

    def signed(self, path: str, params: dict[str, str]) -> SignedRequest:
        """QFPay, Signature Generation: raw values are signed, the body carries the same text percent-encoded."""
        if self._extra:
            params = {**params, **self._extra}
        text = signing_string(params)
        data = text.encode()
        headers = {**self._headers, "X-QF-SIGN": self._signer.sign_bytes(data)}
        # what needs no percent-encoding is sent as it was signed
        body = data if _PLAIN_FORM.fullmatch(text) else urlencode(params).encode("ascii")
        return SignedRequest(path, headers, body)


def gateway_time(moment: datetime) -> str:
    """QFPay, Payment API: `YYYY-MM-DD HH:MM:SS`, no zone; UTC+8 is the gateway's own."""
    return moment.astimezone(GATEWAY_TZ).strftime(_TIME)


def own_reference(account: str, operation: Operation, idempotency_key: str) -> str:
    """Our `out_trade_no` for an entry: 32 letters and digits, the same on every attempt and after a lost ledger."""
    name = json.dumps([account, operation.value, idempotency_key])
    return hashlib.sha256(name.encode()).hexdigest()[:32].upper()


# ------------------------------------------------------------------------------------------------ the judge


def judge(entry: Entry, delivery: Delivery, keys: Sequence[Signer]) -> Verdict:
    """What a delivery says about an entry. Total: any status and any bytes give a verdict, never an exception.

    An answer concludes only under HTTP 200, with a listed code, matching the question, and not wrongly signed;
    HTTP 429 is the only status that is a "no" by itself (QFPay, Rate limits: refused before processing).
    """
    if isinstance(delivery, NotSent):
        return Verdict(Judgement.NOT_SENT, detail=delivery.detail, rerunnable=True)
    if isinstance(delivery, Unknown):
        return _doubt(delivery.detail)
    if delivery.status == 429:
        return Verdict(Judgement.NOT_SENT, code="429", detail="HTTP 429: too many requests", rerunnable=True)
    if delivery.status != 200:
        return _doubt(f"HTTP {delivery.status} says nothing sure")
    fields = read_object(delivery.body)
    if fields is None:
        return _doubt("the answer is not the expected JSON object")
    return _judge_fields(entry, fields, signed_wrongly=_signed_wrongly(delivery, keys))


def _doubt(detail: str, **known: Any) -> Verdict:
    return Verdict(Judgement.IN_DOUBT, detail=detail, **known)


def _signed_wrongly(answer: Answer, keys: Sequence[Signer]) -> bool:
    """QFPay, API Reference 2018, 3.4: answers carried X-QF-SIGN. Absent is accepted, wrong is not."""
    signature = answer.headers.get("X-QF-SIGN")
    return bool(signature) and not any(key.body_matches(answer.body, str(signature)) for key in keys)


def _judge_fields(entry: Entry, fields: dict[str, Any], *, signed_wrongly: bool) -> Verdict:
    code = fields.get("respcd")
    if not isinstance(code, str):
        return _doubt("the answer has no response code")
    known = _known(fields, code)
    if signed_wrongly:
        return _doubt("the answer's signature is wrong", mismatch=True, **known)
    strange = _contradiction(entry, fields)
    if strange:
        return _doubt(f"the answer belongs to another question: {strange}", mismatch=True, **known)
    kind = classify(code, known["message"])
    if kind is CodeClass.SUCCESS:
        return _judge_success(entry, fields, known)
    if kind in (CodeClass.REFUSED, CodeClass.NOT_NOW, CodeClass.DENIED):
        return _declined(code, kind, known)
    # only an id whose original is named is remembered: a swapped answer must not link a stranger's row
    linked = _new_syssn(entry, fields) if text_of(fields.get("orig_syssn")) == entry.syssn else None
    return _doubt(f"code {_short(code)} leaves the outcome open", result_syssn=linked, **known)


def _known(fields: dict[str, Any], code: str) -> dict[str, Any]:
    raw = redacted(fields, _IDS, _PLAIN)
    return {
        "code": _short(code),
        "message": _said(text_of(raw.get("respmsg")), text_of(raw.get("resperr"))),
        "system_time": read_time(fields.get("sysdtm")),
        "raw": raw,
    }


def _said(respmsg: str, resperr: str) -> str:
    """What the gateway says in two fields, once."""
    return f"{respmsg} / {resperr}" if respmsg and resperr and respmsg != resperr else respmsg or resperr


def _short(code: str) -> str:
    """A response code as it is kept: QFPay's have four digits, and nothing longer than eight is one."""
    return clean(code)[:8]


def _contradiction(entry: Entry, fields: dict[str, Any]) -> str:
    """Which of the echoed fields that are present says something else than was asked; "" for none."""
    asked = {"orig_syssn": entry.syssn, "txamt": str(entry.amount), "txcurrcd": entry.currency}
    if entry.operation is Operation.REFUND:
        asked["out_trade_no"] = str(entry.out_trade_no)
    for name, value in asked.items():
        given = fields.get(name)
        if given != value and not is_empty(given) and text_of(given) != value:
            return name
    return ""


def _judge_success(entry: Entry, fields: dict[str, Any], known: dict[str, Any]) -> Verdict:
    if missing := [name for name in _OF_WHAT if fields.get(name) in (None, "")]:
        return _doubt(f"the answer says 0000 but not of what: no {', '.join(missing)}", mismatch=True, **known)
    syssn = _new_syssn(entry, fields)
    if syssn is None:
        return _doubt("the answer says 0000 without a new syssn", mismatch=True, **known)
    return Verdict(Judgement.EXECUTED, result_syssn=syssn, **known)


def _new_syssn(entry: Entry, fields: dict[str, Any]) -> str | None:
    syssn = text_of(fields.get("syssn"))
    return syssn if is_id(syssn) and syssn not in (entry.syssn, entry.authorization) else None


def _declined(code: str, kind: CodeClass, known: dict[str, Any]) -> Verdict:
    return Verdict(
        Judgement.DECLINED,
        rerunnable=kind is CodeClass.NOT_NOW or code in SET_UP,
        flags_authorization=code in CONTRADICTS_BOOKS,
        **known,
    )


# ------------------------------------------------------------------------------------------------ reads


def read_time(value: object) -> datetime | None:
    """QFPay's `sysdtm`: UTC+8 without a zone; None where it is not a time of this century."""
    text = text_of(value)
    if not _TIME_READ.fullmatch(text):
        return None
    try:
        moment = datetime.fromisoformat(f"{text}+08:00")
    except ValueError:
        return None
    return moment if 2000 <= moment.year < 2100 else None


def read_code(answer: Answer) -> tuple[str | None, str, dict[str, Any]]:
    """The outer code, message and fields of an answer that moves no money; code None: unreadable."""
    fields = read_object(answer.body) if answer.status == 200 else None
    code = fields.get("respcd") if fields else None
    if fields is None or not isinstance(code, str):
        return None, f"HTTP {answer.status}, no readable answer", {}
    respmsg, resperr = (masked(text_of(fields.get(name))) for name in ("respmsg", "resperr"))
    return _short(code), _said(respmsg, resperr), fields


def read_rows(fields: dict[str, Any]) -> list[Transaction] | None:
    """The rows of a transaction enquiry, or None where the list cannot be read as a whole."""
    rows = fields.get("data")
    if not isinstance(rows, list) or not all(isinstance(row, dict) and is_id(_row_id(row)) for row in rows):
        return None
    return [_transaction(row) for row in rows]


def _row_id(row: dict[str, Any]) -> str:
    return text_of(row.get("syssn"))


def _amount(text: str | None) -> int | None:
    """QFPay, Payment API, `txamt`: 1 to 11 digits, more than zero; None for anything else."""
    readable = text is not None and text.isascii() and text.isdigit() and len(text) <= 11
    return (int(text) or None) if text and readable else None


def _transaction(row: dict[str, Any]) -> Transaction:
    def text(*names: str) -> str | None:
        return next((found for name in names if (found := clean(text_of(row.get(name))))), None)

    amount = text("txamt")
    return Transaction(
        syssn=_row_id(row),
        orig_syssn=text("origssn", "orig_syssn"),
        out_trade_no=text("out_trade_no"),
        order_type=masked(text("order_type") or "")[:32] or None,
        amount=_amount(amount),
        currency=masked(text("txcurrcd") or "")[:8] or None,
        code=_short(text("respcd") or "") or None,
        message=masked(text("errmsg", "respmsg", "resperr") or "") or None,
        cancel=masked(text("cancel") or "")[:8] or None,
        system_time=read_time(row.get("sysdtm")),
        raw=redacted(row, _IDS, _PLAIN),
        unreadable=(not is_empty(row.get("txamt")) and _amount(amount) is None)
        or any(not is_empty(row.get(name)) and not text(name) for name in ("txcurrcd", "origssn", "orig_syssn")),
    )


def read_notification(body: bytes) -> Notification | None:
    """QFPay, Asynchronous Notifications: the fields of a notice, unknown ones tolerated; None: not a JSON object."""
    fields = read_object(body)
    if fields is None:
        return None
    row = _transaction(fields)
    return Notification(
        kind=masked(text_of(fields.get("notify_type")))[:32],
        syssn=row.syssn if is_id(row.syssn) else None,
        orig_syssn=row.orig_syssn,
        out_trade_no=row.out_trade_no,
        amount=row.amount,
        currency=row.currency,
        code=row.code,
        raw=row.raw,
        orig_out_trade_no=clean(text_of(fields.get("orig_out_trade_no"))) or None,
        system_time=row.system_time,
        digest=hashlib.sha256(body).hexdigest(),
    )


def read_intent(fields: dict[str, Any], wish: IntentRequest) -> PaymentIntent | None:
    """The answer of create_payment_intent, or None where it names no intent."""
    intent = text_of(fields.get("payment_intent"))
    if not intent:
        return None
    expiry = read_time(fields.get("intent_expiry"))
    return PaymentIntent(
        intent, expiry, wish.out_trade_no, wish.amount, wish.currency, raw=redacted(fields, _IDS, _PLAIN)
    )


def month_windows(start: datetime, end: datetime) -> list[tuple[datetime, datetime]]:
    """`start` to `end` cut at month boundaries in UTC+8 (QFPay, Transaction Enquiry: one calendar month a query)."""
    windows = []
    low, last = start.astimezone(GATEWAY_TZ), end.astimezone(GATEWAY_TZ)
    while low <= last:
        next_month = (low.replace(day=1, hour=0, minute=0, second=0, microsecond=0) + timedelta(days=32)).replace(day=1)
        windows.append((low, min(last, next_month - timedelta(seconds=1))))
        low = next_month
    return windows
