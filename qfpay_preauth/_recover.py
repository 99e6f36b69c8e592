"""After an older ledger was restored: what the gateway did since is brought into the books, before the first write.

What was done on holds that the restored ledger knows is found by reconciliation. What was done on holds that it does
not know any more (they were registered after the backup) is found here: whoever registered such a hold again would take
it for untouched. The keys of what was done since are lost for good; only the movements are known.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from attrs import frozen

from qfpay_preauth import _enquiry, _import
from qfpay_preauth._codes import SUCCESS, CodeClass, classify
from qfpay_preauth._looks import Reader
from qfpay_preauth._models import Authorization, ReconcileReport, Transaction
from qfpay_preauth._reconcile import OVERLAP, Reconciler
from qfpay_preauth.errors import GatewayError, InvalidRequestError, PreauthError

_GIVEN_BACK = ("refund", "close", "cancel")  # QFPay, Transaction Enquiry, order_type
_A_DAY = timedelta(days=1)


@frozen
class RecoverReport:
    """What was brought in.

    Attributes:
        since: from when on the gateway was read.
        imported: holds that the ledger did not know, with what was done on them.
        not_imported: (syssn, why) of such holds that a person has to look at before anybody registers them.
        report: the pass of reconciliation over everything else; `report.foreign` are the movements that the restored
            ledger does not know a key of. Do not run the jobs of that time again before they are compared with these.
    """

    since: datetime
    imported: tuple[Authorization, ...]
    not_imported: tuple[tuple[str, str], ...]
    report: ReconcileReport


async def recover(reader: Reader, reconciler: Reconciler, account: str, since: datetime | None = None) -> RecoverReport:
    """Bring in what the gateway did since the restored ledger was last compared with it.

    Args:
        reader, reconciler: the client's.
        account: the client's.
        since: from when on; default: the ledger's last comparison, or its first hold.

    Raises:
        InvalidRequestError: `since` is not given, and the ledger knows no holds.
        GatewayError (and its kinds), NotSentError, LedgerUnavailableError: it could not go on; call again.
    """
    ledger = reader.desk.ledger
    start = since or await ledger.span(account)
    if start is None:
        raise InvalidRequestError("The ledger knows no holds yet, so it has to be said since when to recover.")
    start -= OVERLAP
    rows = await _read(reader, start)
    unknown = [syssn for syssn in _originals(rows) if await ledger.movement(account, syssn) is None]
    holds, missing = await _holds(reader, account, rows, unknown)
    rows += await _earlier(reader, holds, start)
    imported, failed = [], list(missing)
    for hold in holds:
        try:
            done = _history(hold, rows)
            imported.append(await ledger.adopt(hold, done, reader.desk.clock.now()))
        except PreauthError as error:
            failed.append((hold.syssn, error.args[0]))
    return RecoverReport(start, tuple(imported), tuple(failed), await reconciler.run())


async def _read(reader: Reader, start: datetime, until: datetime | None = None) -> list[Transaction]:
    listing = await reader.listing(start, until)
    if not listing.stable:
        raise GatewayError("The gateway's list kept changing while it was read.", advice="Try again.")
    return list(listing.rows)


def _originals(rows: Iterable[Transaction]) -> list[str]:
    """What successful captures and unfreezes name as their hold; a refund names a capture, or an ordinary payment."""
    named = (row for row in rows if row.code == SUCCESS and row.order_type not in _GIVEN_BACK)
    return list(dict.fromkeys(row.orig_syssn for row in named if row.orig_syssn))


async def _holds(
    reader: Reader, account: str, rows: Sequence[Transaction], unknown: Sequence[str]
) -> tuple[list[Authorization], list[tuple[str, str]]]:
    """The holds of these ids, from the rows in hand or by an enquiry of their own; and those that are not shown."""
    found = {row.syssn: row for row in rows}
    absent = [syssn for syssn in unknown if syssn not in found]
    if absent:
        now = reader.desk.clock.now()
        listing = await reader.listing(_enquiry.first_month(absent, (), now), syssn=absent)
        found.update({row.syssn: row for row in listing.rows})
    holds, missing = [], []
    for syssn in unknown:
        row = found.get(syssn)
        try:
            if row is None or row.orig_syssn is not None or row.code != SUCCESS:
                raise GatewayError("The gateway does not show it as a successful pre-authorisation.")
            holds.append(_import.authorization_of(row, account, reader.desk.clock.now()))
        except GatewayError as error:
            missing.append((syssn, error.args[0]))
    return holds, missing


async def _earlier(reader: Reader, holds: Sequence[Authorization], start: datetime) -> list[Transaction]:
    """What happened on these holds before `start`."""
    first = min(((hold.authorized_at or hold.registered_at) for hold in holds), default=start) - _A_DAY
    return await _read(reader, first, start) if first + _A_DAY < start else []


def _history(hold: Authorization, rows: Sequence[Transaction]) -> list[Transaction]:
    """The successful rows of what was done on a hold, oldest first.

    Raises:
        GatewayError: something on it is still pending, or a row does not say its amount.
    """
    first = [row for row in rows if row.orig_syssn == hold.syssn]
    originals = {row.syssn for row in first}
    found = {row.syssn: row for row in (*first, *(row for row in rows if row.orig_syssn in originals))}
    if any(classify(row.code or "") is CodeClass.PENDING for row in found.values()):
        raise GatewayError("Something on it is still pending.")
    done = [row for row in found.values() if row.code == SUCCESS]
    if not all(row.amount for row in done):
        raise GatewayError("A row of it does not say its amount.")
    return sorted(done, key=lambda row: (row.system_time or hold.registered_at, row.syssn))
