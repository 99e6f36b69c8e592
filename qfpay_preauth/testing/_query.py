"""The transaction enquiry: which rows are shown, and what a row looks like (QFPay: "Transaction enquiry")."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import islice

import attrs

from ._books import Books
from ._config import GATEWAY_ZONE, linked
from ._plan import Reply
from ._records import DONE, PENDING, Hold, Movement, Record, Refusal

_TIME = "%Y-%m-%d %H:%M:%S"
_PAGE_SIZE = 10
_PAGE_SIZE_MAX = 100


@attrs.frozen
class _Question:
    syssn: tuple[str, ...]
    out_trade_no: tuple[str, ...]
    pay_type: tuple[str, ...]
    respcd: str
    start: datetime
    end: datetime
    page: int
    size: int


def enquire(books: Books, params: Mapping[str, str], now: datetime) -> Reply:
    """Answer an enquiry; the outer ``respcd`` is its own. Raises ``Refusal`` (``parameter``)."""
    question = _read(params, now)
    matching = (each for each in _candidates(books, question) if _shown(books, each, question, now))
    first = (question.page - 1) * question.size
    rows = [_row(books, each, now) for each in islice(matching, first, first + question.size)]
    return {
        "respcd": DONE,
        "resperr": "请求成功",
        "respmsg": "",
        "page": question.page,
        "page_size": question.size,
        "data": rows,
    }


def _read(params: Mapping[str, str], now: datetime) -> _Question:
    start, end = _window(params, now)
    return _Question(
        syssn=_ids(params, "syssn"),
        out_trade_no=_ids(params, "out_trade_no"),
        pay_type=_ids(params, "pay_type"),
        respcd=params.get("respcd", ""),
        start=start,
        end=end,
        page=_number(params, "page", 1, 10**9),
        size=_number(params, "page_size", _PAGE_SIZE, _PAGE_SIZE_MAX),
    )


def _ids(params: Mapping[str, str], name: str) -> tuple[str, ...]:
    ids = tuple(params[name].split(",")) if name in params else ()
    if not all(ids):
        raise Refusal("parameter", f"wrong: {name}")
    return ids


def _number(params: Mapping[str, str], name: str, default: int, limit: int) -> int:
    text = params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= limit):
        raise Refusal("parameter", f"wrong: {name}")
    return int(text)


def _window(params: Mapping[str, str], now: datetime) -> tuple[datetime, datetime]:
    """The window on ``sysdtm``, both ends included: one calendar month of UTC+8, by default this one."""
    start, end = (_moment(params, name) for name in ("start_time", "end_time"))
    month = (start or end or now.astimezone(GATEWAY_ZONE)).replace(day=1, hour=0, minute=0, second=0)
    month = month.replace(microsecond=0)
    start, end = start or month, end or _month_end(month)
    if (start.year, start.month) != (end.year, end.month) or start > end:
        raise Refusal("parameter", "start_time and end_time must lie in one calendar month")
    return start, end.replace(microsecond=999_999)


def _moment(params: Mapping[str, str], name: str) -> datetime | None:
    if name not in params:
        return None
    try:
        return datetime.strptime(params[name], _TIME).replace(tzinfo=GATEWAY_ZONE)
    except ValueError as error:
        raise Refusal("parameter", f"wrong: {name}") from error


def _month_end(month: datetime) -> datetime:
    following = month.replace(year=month.year + month.month // 12, month=month.month % 12 + 1)
    return datetime.fromtimestamp(following.timestamp() - 1, GATEWAY_ZONE)


def _candidates(books: Books, question: _Question) -> Iterator[Record]:
    if question.syssn:
        known = {each for each in question.syssn if each in books.holds or each in books.movements}
        ordered = sorted(known, key=lambda syssn: syssn[-8:])
    else:
        ordered = books.order
    for syssn in reversed(ordered) if books.config.newest_first else ordered:
        yield books.holds.get(syssn) or books.movements[syssn]


def _shown(books: Books, record: Record, question: _Question, now: datetime) -> bool:
    born = _born(record)
    by_id = bool(question.syssn or question.out_trade_no) and books.config.ids_override_window
    return (
        record.syssn not in books.hidden
        and (by_id or question.start <= born <= question.end)
        and now - born >= books.config.query_lag
        and (not question.out_trade_no or books.number_shown(record) in question.out_trade_no)
        and (not question.pay_type or books.config.pay_type in question.pay_type)
        and (not question.respcd or _code(record) == question.respcd)
    )


def _born(record: Record) -> datetime:
    return record.at if isinstance(record, Hold) else record.accepted_at


def _code(record: Record) -> str:
    return DONE if isinstance(record, Hold) else record.code


def _row(books: Books, record: Record, now: datetime) -> Reply:
    local = _born(record).astimezone(GATEWAY_ZONE).strftime(_TIME)
    code = _code(record)
    row: Reply = {
        "syssn": record.syssn,
        "out_trade_no": books.number_shown(record),
        "txamt": str(record.amount),
        "txcurrcd": record.currency,
        "respcd": code,
        "errmsg": {DONE: "交易成功", PENDING: "处理中"}.get(code, "交易失败"),
        "pay_type": books.config.pay_type,
        "txdtm": (record.txdtm if isinstance(record, Movement) else "") or local,
        "sysdtm": local,
        "paydtm": local if code == DONE else "",
        "cancel": _cancel(books, record, now),
    }
    word = books.config.order_types[_kind(record)]
    if word is not None:
        row["order_type"] = word
    if isinstance(record, Movement) and linked(books.config.link_rows, record.kind):
        row["origssn"] = record.orig_syssn
    empty = ("chnlsn", "chnlsn2", "cardcd", "userid", "clisn", "cash_fee", "cash_fee_type")
    return row | dict.fromkeys(empty, "")


def _kind(record: Record) -> str:
    return "hold" if isinstance(record, Hold) else record.kind


def _cancel(books: Books, record: Record, now: datetime) -> str:
    """0 none, 3 refunded, 5 partly refunded, 4 pre-authorization finished."""
    if isinstance(record, Hold):
        totals = books.totals(record.syssn)
        ended = totals.captured + totals.unfrozen >= totals.authorized or totals.unfrozen > 0
        return "4" if ended or now >= record.expires_at else "0"
    if record.kind != "capture" or not (refunded := books.refunded(record.syssn)):
        return "0"
    return "3" if refunded >= record.amount else "5"
