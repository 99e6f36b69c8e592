"""An authorization from the gateway's own list, with the captures, unfreeze and refunds that it already has."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from qfpay_preauth import _enquiry
from qfpay_preauth._codes import SUCCESS, CodeClass, classify
from qfpay_preauth._looks import Reader
from qfpay_preauth._models import Authorization, Transaction
from qfpay_preauth.errors import (
    AuthorizationClosedError,
    GatewayError,
    InvalidRequestError,
    OperationInProgressError,
    UnknownAuthorizationError,
)

SEARCH = timedelta(days=62)
"""How far back a hold is looked for by its order number: twice the longest capture window that QFPay names."""

_GIVEN_BACK = ("refund", "close", "cancel")


async def find(reader: Reader, account: str, *, syssn: str | None, out_trade_no: str | None) -> Authorization:
    """The hold as the gateway shows it.

    Raises:
        UnknownAuthorizationError: it is not shown (which does not prove that there is none).
        InvalidRequestError: several holds carry the order number.
    """
    now = reader.desk.clock.now()
    start = (_enquiry.syssn_date(syssn) if syssn else None) or now - SEARCH
    numbers = [out_trade_no] if out_trade_no else []
    listing = await reader.listing(start, syssn=[syssn] if syssn else [], number=numbers)
    holds = [row for row in listing.rows if _is_hold(row, syssn, out_trade_no)]
    if not holds:
        raise UnknownAuthorizationError(
            f"The gateway shows no successful pre-authorisation {syssn or out_trade_no}.",
            advice="Check the id; a row may also come late, so try again before you give up.",
        )
    if len(holds) > 1:
        names = ", ".join(row.syssn for row in holds)
        raise InvalidRequestError(f"Several holds carry out_trade_no {out_trade_no}: {names}. Give syssn.")
    return authorization_of(holds[0], account, now)


def _is_hold(row: Transaction, syssn: str | None, out_trade_no: str | None) -> bool:
    named = row.syssn == syssn if syssn else row.out_trade_no == out_trade_no
    return named and row.orig_syssn is None and row.code == SUCCESS and row.order_type not in _GIVEN_BACK


def authorization_of(row: Transaction, account: str, now: datetime) -> Authorization:
    if row.amount is None or row.currency is None or row.out_trade_no is None:
        raise GatewayError(f"The gateway's row of {row.syssn} lacks its amount, currency or out_trade_no.")
    return Authorization(
        account, row.syssn, row.amount, row.currency, row.out_trade_no, now, authorized_at=row.system_time
    )


async def history(reader: Reader, hold: Authorization) -> list[Transaction]:
    """The successful rows of everything done on a hold since it was made, oldest first.

    Raises:
        OperationInProgressError: something on it is still pending.
        GatewayError: the list could not be read as a whole.
        AuthorizationClosedError: the hold is marked as ended, and no row explains it.
    """
    listing = await reader.listing((hold.authorized_at or hold.registered_at) - timedelta(days=1))
    if not listing.stable:
        raise GatewayError("The gateway's list kept changing while it was read.", advice="Try again.")
    first = [row for row in listing.rows if row.orig_syssn == hold.syssn]
    originals = {row.syssn for row in first}
    rows = first + [row for row in listing.rows if row.orig_syssn in originals]
    pending = [row.syssn for row in rows if classify(row.code or "") is CodeClass.PENDING]
    if pending:
        raise OperationInProgressError(f"{', '.join(pending)} on {hold.syssn} is still pending.", advice="Try later.")
    done = [row for row in rows if row.code == SUCCESS]
    if not all(row.amount for row in done):
        raise GatewayError(f"A row of {hold.syssn} does not say its amount.", advice="Look into the merchant portal.")
    own = next((row for row in listing.rows if row.syssn == hold.syssn), None)
    _check_explained(hold, own.cancel if own else None, done)
    return sorted(done, key=lambda row: (row.system_time or hold.registered_at, row.syssn))


def _check_explained(hold: Authorization, cancel: str | None, rows: Iterable[Transaction]) -> None:
    """QFPay, Transaction Enquiry, `cancel`: 0 none, 4 pre-auth finished, others given back in whole or in part."""
    if cancel in (None, "0"):
        return
    rows = list(rows)
    taken = sum(row.amount or 0 for row in rows if row.orig_syssn == hold.syssn)
    explained = taken == hold.amount if cancel == "4" else any(row.orig_syssn != hold.syssn for row in rows)
    if not explained:
        raise AuthorizationClosedError(
            f"The gateway marks {hold.syssn} with cancel={cancel}, and shows no rows that explain it "
            f"({taken} of {hold.amount} {hold.currency} are accounted for).",
            advice="Look into the merchant portal; it is not imported.",
        )
