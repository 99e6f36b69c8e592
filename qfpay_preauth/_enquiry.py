"""What only reads, or moves no money: the transaction enquiry and the payment intent."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime, timedelta

from qfpay_preauth import _wire
from qfpay_preauth._calls import Call
from qfpay_preauth._clock import GATEWAY_TZ
from qfpay_preauth._codes import SET_UP, SUCCESS
from qfpay_preauth._models import Answer, Delivery, NotSent, PaymentIntent, SignedRequest, Transaction
from qfpay_preauth._operations import LAPSED, Desk, tell
from qfpay_preauth._retry import retry_after_s, send_with_retries
from qfpay_preauth._turnstile import Turnstile
from qfpay_preauth._windows import Lane
from qfpay_preauth.errors import (
    CredentialsRejectedError,
    DeclinedError,
    GatewayError,
    NotSentError,
    RateLimitedError,
)

IDS_MAX = 100
SHARE_WAIT_MAX_S = 300.0  # a share is counted by the minute
_NO_MONEY = "No money moves by this call: it is safe to call again."


async def ask(desk: Desk, call: Call, request: SignedRequest, share: Turnstile | None = None) -> dict[str, object]:
    """Send a request that moves no money and return the fields of its answer; with a `share`, no faster than it allows.

    Raises:
        NotSentError, RateLimitedError, CredentialsRejectedError, DeclinedError, GatewayError: no usable answer.
    """

    async def attempt() -> Delivery:
        if share is not None:
            # a share is waited for as long as it takes: the deadline is for what comes after
            began = desk.clock.monotonic()
            (await share.permit(began + SHARE_WAIT_MAX_S)).spend()
            call.deadline += desk.clock.monotonic() - began
        permit = await desk.turnstile.permit(call.deadline, call.lane if share is None else Lane.RECONCILIATION)
        try:
            body = call.body = desk.transport.body(request, permit, lambda: LAPSED if permit.lapsed else None)
            delivery = await desk.transport.exchange(request, body, call.deadline)
            tell(permit, delivery, desk.clock)
        finally:
            call.body = None  # between attempts nothing is under way
            permit.give_back()
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError  # no money is at stake: who is cancelled here, ends
        return delivery

    delivery = await send_with_retries(
        attempt,
        settings=desk.settings,
        deadline=call.deadline,
        monotonic=desk.clock.monotonic,
        now=desk.clock.now,
        give_up=lambda: call.off,
    )
    return _fields(request, delivery, desk.clock.now)


def _fields(request: SignedRequest, delivery: Delivery, now: Callable[[], datetime]) -> dict[str, object]:
    if isinstance(delivery, NotSent):
        raise NotSentError(f"{request.path}: not sent ({delivery.detail}).")
    if not isinstance(delivery, Answer):
        raise GatewayError(f"{request.path}: no answer ({delivery.detail}).", advice=_NO_MONEY)
    if delivery.status == 429:
        wait_s = retry_after_s(delivery, now())
        raise RateLimitedError(f"{request.path}: over the rate limit.", code="429", retry_after_s=wait_s)
    code, message, fields = _wire.read_code(delivery)
    if code == SUCCESS:
        return fields
    if code is None:
        raise GatewayError(f"{request.path}: {message}.", message=message, advice=_NO_MONEY)
    kind = CredentialsRejectedError if code in SET_UP else DeclinedError
    raise kind(f"{request.path}: declined with {code}: {message or 'no message'}.", code=code, message=message)


async def payment_intent(desk: Desk, call: Call, wish: _wire.IntentRequest) -> PaymentIntent:
    """QFPay, Payment Element: create_payment_intent."""
    request = _wire.build_intent(desk.sender, wish)
    intent = _wire.read_intent(await ask(desk, call, request), wish)
    if intent is None:
        raise GatewayError(f"{request.path}: the answer names no payment_intent.", advice=_NO_MONEY)
    return intent


async def transactions(
    page: Callable[[SignedRequest], Awaitable[dict[str, object]]],
    sender: _wire.Sender,
    syssn: Sequence[str],
    out_trade_no: Sequence[str],
    window: tuple[datetime, datetime],
) -> AsyncIterator[Transaction]:
    """Every row of every page of every month of `window`, each syssn once (QFPay, Transaction Enquiry).

    Raises:
        GatewayError: a page could not be read as a whole.
    """
    seen: set[str] = set()
    for month in _wire.month_windows(*window):
        for ids in _chunks(syssn, out_trade_no):
            async for row in _pages(page, sender, ids, month):
                if row.syssn not in seen:
                    seen.add(row.syssn)
                    yield row


async def _pages(
    page: Callable[[SignedRequest], Awaitable[dict[str, object]]],
    sender: _wire.Sender,
    ids: tuple[Sequence[str], Sequence[str]],
    month: tuple[datetime, datetime],
) -> AsyncIterator[Transaction]:
    for number in itertools.count(1):
        request = _wire.build_query(sender, syssn=ids[0], out_trade_no=ids[1], window=month, page=number)
        rows = _wire.read_rows(await page(request))
        if rows is None:
            raise GatewayError(f"{request.path}: the list of transactions cannot be read.", advice=_NO_MONEY)
        for row in rows:
            yield row
        if len(rows) < _wire.PAGE_SIZE:
            return


def _chunks(syssn: Sequence[str], out_trade_no: Sequence[str]) -> list[tuple[Sequence[str], Sequence[str]]]:
    """Lists of at most 100 ids; both kinds of id given together mean a row must match both."""
    if len(syssn) <= IDS_MAX and len(out_trade_no) <= IDS_MAX:
        return [(syssn, out_trade_no)]
    return [
        (syssn[low : low + IDS_MAX], out_trade_no[start : start + IDS_MAX])
        for low in range(0, max(1, len(syssn)), IDS_MAX)
        for start in range(0, max(1, len(out_trade_no)), IDS_MAX)
    ]


def first_month(syssn: Sequence[str], out_trade_no: Sequence[str], now: datetime) -> datetime:
    """Where an enquiry starts if nobody says: at the oldest date in the syssns, else with the current month."""
    month = now.astimezone(GATEWAY_TZ).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    dates = [syssn_date(each) for each in syssn]
    known = [date for date in dates if date is not None]
    if out_trade_no or not known or len(known) < len(dates):
        return min([month, *known])
    return min(known)


def syssn_date(syssn: str) -> datetime | None:
    """The day before the date that a syssn starts with (YYYYMMDD, UTC+8); None where it is not of this century."""
    try:
        day = datetime.strptime(syssn[:8], "%Y%m%d").replace(tzinfo=GATEWAY_TZ)
    except ValueError:
        return None
    return day - timedelta(days=1) if 2000 < day.year < 2100 else None
