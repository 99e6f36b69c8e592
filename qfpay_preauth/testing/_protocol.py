"""QFPay's requests and answers as the gateway sees them: form bodies in, documented shapes out."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from urllib.parse import parse_qsl

from ._books import Books
from ._config import GATEWAY_ZONE, Config
from ._plan import Reply
from ._query import enquire
from ._records import DONE, PENDING, Movement, Refusal, Write

#: Path -> operation (QFPay: "Pre-authorization", "Transaction enquiry").
OPERATIONS: Mapping[str, str] = {
    "/payment_element/v1/create_payment_intent": "create_payment_intent",
    "/trade/v1/authtrade": "capture",
    "/trade/v1/unfreeze": "unfreeze",
    "/trade/v1/refund": "refund",
    "/trade/v1/query": "query",
}
WRITES = frozenset({"capture", "unfreeze", "refund"})

_REQUIRED: Mapping[str, tuple[str, ...]] = {
    "create_payment_intent": ("txamt", "pay_type", "out_trade_no"),
    "capture": ("txamt", "syssn"),
    "unfreeze": ("txamt", "txdtm", "syssn", "out_trade_no"),
    "refund": ("syssn", "out_trade_no", "txamt", "txdtm"),
    "query": (),
}
_SUCCESS = {"capture": "Capture received", "unfreeze": "Void received", "refund": "Refund received"}
_CURRENCIES = frozenset(
    ("AED", "CNY", "EUR", "HKD", "IDR", "JPY", "MMK", "MYR", "SGD", "THB", "USD", "CAD", "AUD", "NZD", "PHP")
)
_TIME = "%Y-%m-%d %H:%M:%S"
_ID = re.compile(r"[^,\s]{1,128}")
_AMOUNT = re.compile(r"[1-9][0-9]{0,10}")


def parse_form(body: bytes) -> dict[str, str]:
    """Decode a form body. Raises ``Refusal`` (``format``) if it is no UTF-8 form or repeats a name."""
    try:
        text = body.decode("utf-8")
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=True, errors="strict") if text else []
    except ValueError as error:
        raise Refusal("format", "not a form") from error
    params = dict(pairs)
    if len(params) != len(pairs):
        raise Refusal("format", "a parameter is repeated")
    return params


def sign_params(params: Mapping[str, str], key: str, sign_type: str) -> str:
    """The signature of a request: upper-case hex (QFPay: "Signature generation")."""
    joined = "&".join(f"{name}={params[name]}" for name in sorted(params)) + key
    return _digest(sign_type, joined.encode())


def sign_body(body: bytes, key: str) -> str:
    """The signature of an answer or notification: upper-case hex MD5 of the raw body and the key."""
    return _digest("MD5", body + key.encode())


def signature_ok(config: Config, headers: Mapping[str, str], params: Mapping[str, str]) -> bool:
    """Whether ``X-QF-SIGN`` fits one of the accepted keys; an absent ``X-QF-SIGNTYPE`` means MD5."""
    sign_type = headers.get("x-qf-signtype", "MD5")
    if sign_type not in config.sign_types:
        return False
    given = headers.get("x-qf-sign", "").encode()
    keys = (config.client_key, *config.other_keys)
    return any(hmac.compare_digest(given, sign_params(params, key, sign_type).encode()) for key in keys)


def check(config: Config, operation: str, headers: Mapping[str, str], params: Mapping[str, str], signed: bool) -> None:
    """Refuse what QFPay's pages call a bad request; ``signed`` is ``signature_ok``. Raises ``Refusal``."""
    if not headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        raise Refusal("format", "the body must be application/x-www-form-urlencoded")
    if headers.get("x-qf-appcode") != config.app_code:
        raise Refusal("app_code", "unknown X-QF-APPCODE")
    if not signed:
        raise Refusal("signature", "X-QF-SIGN does not fit")
    if config.mchid is not None and "mchid" not in params:
        raise Refusal("parameter", "mchid is missing")
    if params.get("mchid") != config.mchid:
        raise Refusal("mchid", "this account has no such mchid")
    _check_params(operation, params)


def _check_params(operation: str, params: Mapping[str, str]) -> None:
    empty = sorted(name for name, value in params.items() if not value)
    if empty:
        raise Refusal("parameter", f"empty: {', '.join(empty)}")
    missing = [name for name in _REQUIRED[operation] if name not in params]
    if missing:
        raise Refusal("parameter", f"missing: {', '.join(missing)}")
    for name, test in _TESTS.items():
        # An enquiry's ids are comma lists, which its own rules take apart.
        lists = operation == "query" and name in ("syssn", "out_trade_no")
        if name in params and not lists and not test(params[name]):
            raise Refusal("parameter", f"wrong: {name}")


def _is_time(text: str) -> bool:
    try:
        return datetime.strptime(text, _TIME).replace(tzinfo=GATEWAY_ZONE).strftime(_TIME) == text
    except ValueError:
        return False


_TESTS: Mapping[str, Callable[[str], bool]] = {
    "txamt": lambda text: _AMOUNT.fullmatch(text) is not None,
    "txdtm": _is_time,
    "txcurrcd": _CURRENCIES.__contains__,
    "syssn": lambda text: _ID.fullmatch(text) is not None,
    "out_trade_no": lambda text: _ID.fullmatch(text) is not None,
}


def perform(
    books: Books, operation: str, params: Mapping[str, str], now: datetime, pending: bool = False
) -> tuple[Reply, Movement | None]:
    """Do what a checked request asks for: the answer, and what it moved. Raises ``Refusal``."""
    if operation == "query":
        return enquire(books, params, now), None
    if operation == "create_payment_intent":
        return _intend(books, params, now), None
    movement = _move(books, operation, params, now, pending)
    return _write_reply(movement, params, now), movement


def refuse(config: Config, refusal: Refusal) -> Reply:
    """A refusal's answer: the code that ``Config.codes`` names for its reason."""
    return {"respcd": config.codes[refusal.reason], "resperr": refusal.text, "respmsg": ""}


def _move(books: Books, operation: str, params: Mapping[str, str], now: datetime, pending: bool) -> Movement:
    number = params.get("out_trade_no", "")
    if operation == "capture" and number:
        if books.config.capture_number == "refuse":
            raise Refusal("parameter", "out_trade_no is no parameter of authtrade")
        number = number if books.config.capture_number == "echo" else ""
    write = Write(
        syssn=params["syssn"],
        amount=int(params["txamt"]),
        currency=params.get("txcurrcd"),
        out_trade_no=number,
        txdtm=params.get("txdtm", ""),
        pending=pending,
    )
    moves = {"capture": books.capture, "unfreeze": books.unfreeze, "refund": books.refund}
    return moves[operation](write, now)


def _write_reply(movement: Movement, params: Mapping[str, str], now: datetime) -> Reply:
    local = now.astimezone(GATEWAY_ZONE).strftime(_TIME)
    done = movement.code == DONE
    return {
        "sysdtm": local,
        "paydtm": local,
        "udid": params.get("udid", "qiantai2"),
        "txcurrcd": movement.currency,
        "txdtm": movement.txdtm or now.astimezone(UTC).strftime(_TIME),
        "txamt": str(movement.amount),
        "resperr": "交易成功" if done else "处理中",
        "respmsg": _SUCCESS[movement.kind] if done else "",
        "out_trade_no": movement.out_trade_no,
        "syssn": movement.syssn,
        "orig_syssn": movement.orig_syssn,
        "respcd": DONE if done else PENDING,
        "chnlsn": "",
        "cardcd": "",
    }


def _intend(books: Books, params: Mapping[str, str], now: datetime) -> Reply:
    currency = params.get("txcurrcd", "HKD")
    intent = books.intend(int(params["txamt"]), currency, params["out_trade_no"], now)
    return {
        "respcd": DONE,
        "resperr": "",
        "respmsg": "",
        "payment_intent": intent.token,
        "intent_expiry": intent.expires_at.astimezone(GATEWAY_ZONE).strftime(_TIME),
    }


def _digest(sign_type: str, data: bytes) -> str:
    algorithm = hashlib.sha256 if sign_type == "SHA256" else hashlib.md5
    return algorithm(data).hexdigest().upper()
