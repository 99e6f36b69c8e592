"""`intent`, `register`, `import`, `balance`, `expiring`, `query`: holds, before and beside the movement of money."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Annotated

from cyclopts import Parameter

from qfpay_preauth._cli_screen import EXIT_OK, shown
from qfpay_preauth._cli_session import (
    DEFAULTS,
    Amount,
    Moment,
    Options,
    Session,
    Span,
    account_of,
    enquiring_profile_of,
    opened,
    profile_of,
)
from qfpay_preauth._models import Authorization, Balance, Expiring, PaymentIntent, Transaction

Number = Annotated[str, Parameter(help="The merchant's order number of the pre-authorisation.")]
WITHIN = timedelta(days=2)


def intent(
    amount: Amount,
    currency: str,
    /,
    *,
    out_trade_no: str,
    pay_type: str,
    return_url: str | None = None,
    failed_url: str | None = None,
    notify_url: str | None = None,
    options: Options = DEFAULTS,
) -> int:
    """Ask for the payment intent that the browser's Payment Element needs. No money moves by it.

    Example: `qfpay-preauth intent 50000 HKD --out-trade-no ORDER-17 --pay-type 802801`

    Args:
        amount: Minor units (50000 is HKD 500.00).
        currency: One of QFPay's.
        out_trade_no: The merchant's order number, new for each intent.
        pay_type: As QFPay told the merchant.
        return_url: Where the customer goes after success; without & = and comma.
        failed_url: Where the customer goes after a failure.
        notify_url: Where QFPay posts notifications.
    """

    async def work() -> int:
        profile = enquiring_profile_of(options)
        account_of(profile, options)
        async with opened(profile, options) as session:
            made = await session.client.create_payment_intent(
                amount,
                currency,
                out_trade_no=out_trade_no,
                pay_type=pay_type,
                return_url=return_url,
                failed_url=failed_url,
                notify_url=notify_url,
            )
            _tell_intent(session, made)
            return EXIT_OK

    return asyncio.run(work())


def _tell_intent(session: Session, made: PaymentIntent) -> None:
    session.show(
        made,
        f"payment_intent  {made.payment_intent}",
        f"expires         {made.intent_expiry or 'the gateway does not say when'}",
        f"for             {session.money(made.amount, made.currency)}, {made.out_trade_no}",
    )


def register(
    syssn: str,
    amount: Amount,
    currency: str,
    /,
    *,
    out_trade_no: Number,
    authorized_at: Moment | None = None,
    capture_window: Span | None = None,
    options: Options = DEFAULTS,
) -> int:
    """Write a hold into the ledger, before its first capture; the same again changes nothing.

    Example: `qfpay-preauth register 20260101180500020000014079 50000 HKD --out-trade-no ORDER-17`

    Args:
        syssn: The pre-authorisation's id, as the browser's Payment Element got it.
        amount: The held sum in minor units (50000 is HKD 500.00).
        currency: One of QFPay's.
        authorized_at: When it was held, like 2026-11-22T18:00:00+08:00.
        capture_window: How long it can be captured, like 7d; default: the setting.
    """

    async def work() -> int:
        profile = profile_of(options, makes_ledger=True)
        account_of(profile, options)
        async with opened(profile, options) as session:
            hold = await session.client.register_authorization(
                syssn,
                amount,
                currency,
                out_trade_no=out_trade_no,
                authorized_at=authorized_at,
                capture_window=capture_window,
            )
            _tell_hold(session, hold, await session.client.balance(syssn), "Registered")
            return EXIT_OK

    return asyncio.run(work())


def import_(
    *,
    syssn: Annotated[str | None, Parameter(help="The hold's id, or")] = None,
    out_trade_no: Annotated[str | None, Parameter(help="its merchant order number (of the last 62 days).")] = None,
    options: Options = DEFAULTS,
) -> int:
    """Register a hold from the gateway's own list, with the captures, unfreeze and refunds it already has.

    Example: `qfpay-preauth import --syssn 20260101180500020000014079`
    """

    async def work() -> int:
        profile = profile_of(options, makes_ledger=True)
        account_of(profile, options)
        async with opened(profile, options) as session:
            hold = await session.client.import_authorization(syssn=syssn, out_trade_no=out_trade_no)
            _tell_hold(session, hold, await session.client.balance(hold.syssn), "Imported")
            return EXIT_OK

    return asyncio.run(work())


def _tell_hold(session: Session, hold: Authorization, balance: Balance, done: str) -> None:
    session.show(
        {"authorization": hold, "balance": balance},
        f"{done}: hold {hold.syssn} of {session.money(hold.amount, hold.currency)}, {hold.out_trade_no}.",
        *_balance_lines(session, balance),
    )


# ------------------------------------------------------------------------------------------------ the books


def balance(syssn: str, /, *, options: Options = DEFAULTS) -> int:
    """Show our books of one hold: what was captured, claimed, unfrozen, refunded, and what is left.

    Example: `qfpay-preauth balance 20260101180500020000014079`

    Args:
        syssn: The authorization's (the hold's) id.
    """

    async def work() -> int:
        profile = profile_of(options)
        account_of(profile, options)
        async with opened(profile, options) as session:
            found = await session.client.balance(syssn)
            session.show({"syssn": syssn, "balance": found}, *_balance_lines(session, found))
            return EXIT_OK

    return asyncio.run(work())


_BALANCE_WORDS = {
    "authorized": "",
    "captured": "",
    "held": "on its way to the gateway",
    "in_doubt": "claimed: the outcome is not known",
    "foreign": "captured or unfrozen elsewhere",
    "unfrozen": "",
    "refunded": "of what was captured",
    "capturable": "what is left",
}


def _balance_lines(session: Session, found: Balance) -> list[str]:
    lines = []
    for name, words in _BALANCE_WORDS.items():
        minor: int = getattr(found, name)
        if minor or not words or name == "capturable":
            amount = session.money(minor, found.currency)
            lines.append(f"{name.replace('_', ' '):<12}{amount:>20}{'  ' if words else ''}{words}")
    return lines


def expiring(*, within: Span = WITHIN, options: Options = DEFAULTS) -> int:
    """List the holds whose capture window ends soon (or has ended) with money uncaptured or in doubt.

    Example: `qfpay-preauth expiring --within 2d`

    Args:
        within: How soon, like 36h or 2d.
    """

    async def work() -> int:
        count = 0
        async with opened(profile_of(options), options) as session:
            for name, client in session.chosen().items():
                async for hold in client.expiring(within):
                    count += 1
                    session.show(hold, _hold_line(session, name, hold), account=name)
            if not count:
                session.note(f"No hold with money on it ends within {within}.")
            return EXIT_OK

    return asyncio.run(work())


def _hold_line(session: Session, account: str, hold: Expiring) -> str:
    doubt = f", {session.money(hold.unresolved, hold.currency)} held or in doubt" if hold.unresolved else ""
    return (
        f"{hold.expires_at.isoformat(timespec='seconds')}  {hold.syssn}  "
        f"{session.money(hold.capturable, hold.currency)} left of {session.money(hold.authorized, hold.currency)}"
        f"{doubt}{f'  ({account})' if len(session.clients) > 1 else ''}"
    )


# ------------------------------------------------------------------------------------------------ the gateway's rows


def query(
    *syssn: Annotated[str, Parameter(help="Ids of holds, captures, unfreezes or refunds.")],
    out_trade_no: Annotated[tuple[str, ...], Parameter(negative=(), help="Merchant order numbers.")] = (),
    start: Moment | None = None,
    end: Moment | None = None,
    options: Options = DEFAULTS,
) -> int:
    """Show the gateway's own rows as they come, page by page and month by month. A row that is absent proves nothing.

    Example: `qfpay-preauth query 20260101180500020000014079 --start 2026-01-01T00:00:00+08:00`

    Args:
        start: The first moment; default: the oldest date in the ids, or this month's first.
        end: The last moment; default: now.
    """

    async def work() -> int:
        profile = enquiring_profile_of(options)
        account_of(profile, options)
        async with opened(profile, options) as session:
            count = 0
            async for row in session.client.query(syssn=syssn, out_trade_no=out_trade_no, start=start, end=end):
                count += 1
                session.show(row, _row_line(session, row))
            if not count:
                session.note("The gateway shows no such row; that proves nothing about what happened.")
            return EXIT_OK

    return asyncio.run(work())


def _row_line(session: Session, row: Transaction) -> str:
    when = row.system_time.isoformat(timespec="seconds") if row.system_time else "-"
    amount = "-" if row.amount is None else session.money(row.amount, row.currency or "?")
    code = row.code if row.code in ("0000", None) else f"{row.code} {row.message or ''}".strip()
    more = [f"of {row.orig_syssn}" if row.orig_syssn else "", row.out_trade_no or ""]
    if row.cancel not in (None, "0"):
        more.append(f"cancel={row.cancel}")
    if row.unreadable:
        more.append("(not as QFPay documents it)")
    fields = f"{when:<25}  {row.order_type or '-':<9} {amount:>16}  {code or '-'}  {row.syssn}"
    return shown("  ".join([fields, *filter(None, more)]))
