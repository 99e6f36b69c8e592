"""`run --dry-run`: every refusal that the file alone shows, with line, column and reason. Sends and writes nothing.

What the books or the gateway would refuse (more than a hold has, an unknown hold) shows in the run itself.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing

from attrs import frozen

from qfpay_preauth._batch_files import RowFile
from qfpay_preauth._batch_rows import BatchOutcome, BatchRow, RowProblem
from qfpay_preauth._cli_screen import EXIT_OK, EXIT_REFUSED, emit_json, say, say_aside, shown
from qfpay_preauth._models import Operation
from qfpay_preauth._money import EXPONENTS


@frozen
class Known:
    """What the configuration says: the account of rows that name none, all accounts, and the currencies whose decimals
    it states."""

    default: str | None
    accounts: frozenset[str]
    stated: frozenset[str]


@frozen
class Refusal:
    """One reason why a row would not be sent."""

    line: int
    column: str
    reason: str


def rehearse(rows: RowFile, known: Known | None, *, json: bool, quiet: bool) -> int:
    """Check every row; the exit code: 0, or 3 where something is refused."""
    count = refused = 0
    if known is None and not quiet:
        say_aside("note: no credentials are set, so the column account and the decimals of currencies are not checked.")
    with closing(_Seen()) as seen:
        for row in rows.rows():
            count += 1
            found = list(_refusals(row, known, seen))
            refused += bool(found)
            for refusal in found:
                _tell(refusal, json=json)
    if json:
        emit_json({"event": "end", "rows": count, "refused": refused, "sent": 0})
    elif not quiet:
        say(f"{count:,} rows: {count - refused:,} can be sent, {refused:,} refused. Nothing was sent.")
    return EXIT_REFUSED if refused else EXIT_OK


def _tell(refusal: Refusal, *, json: bool) -> None:
    if json:
        said = {"line": refusal.line, "column": refusal.column, "reason": refusal.reason}
        emit_json({"event": "refusal", **said})
    else:
        say(shown(f"line {refusal.line}, {refusal.column}: {refusal.reason}"))


def _refusals(row: BatchRow | BatchOutcome, known: Known | None, seen: _Seen) -> Iterator[Refusal]:
    if isinstance(row, BatchOutcome):
        yield from (Refusal(row.line, each.column, each.reason) for each in row.problems)
        return
    line = row.line or 0
    for problem in (_account_problem(row, known), _currency_problem(row, known)):
        if problem is not None:
            yield Refusal(line, problem.column, problem.reason)
    default = known.default if known else None
    yield from seen.conflicts(row, row.account or default or "")


def _account_problem(row: BatchRow, known: Known | None) -> RowProblem | None:
    if known is None:
        return None
    names = ", ".join(sorted(known.accounts))
    if row.account is None:
        return None if known.default else RowProblem("account", f"is empty: give one of {names}")
    if row.account in known.accounts:
        return None
    return RowProblem("account", f"must be one of {names}, not {row.account!r:.60}")


def _currency_problem(row: BatchRow, known: Known | None) -> RowProblem | None:
    """A hold is registered only in a currency whose decimals QFPay or the settings state."""
    if known is None or row.authorized_amount is None or row.currency is None or row.currency in known.stated:
        return None
    if EXPONENTS[row.currency] is not None:
        return None
    return RowProblem("currency", f"{row.currency} has no documented exponent: state it in currency_exponents")


class _Seen:
    """What earlier rows said of a key or a hold; in a temporary database that the system keeps, not in memory."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)  # "": a private file, gone when it is closed
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("PRAGMA cache_size = -4096")
        self._db.execute("CREATE TABLE seen (name TEXT PRIMARY KEY, line INTEGER, said TEXT) WITHOUT ROWID")
        self._db.execute("BEGIN")

    def close(self) -> None:
        """Forget everything."""
        self._db.close()

    def conflicts(self, row: BatchRow, account: str) -> Iterator[Refusal]:
        """What contradicts an earlier row. The same request again is none: it will be replayed."""
        line = row.line or 0
        amount = "" if row.operation is Operation.UNFREEZE else row.amount  # with and without is one and the same
        what = f"{row.operation} {row.syssn} {amount}"
        earlier = self._first(f"key {account} {row.idempotency_key}", line, what)
        if earlier is not None:
            reason = f"is already used on line {earlier} for another request: another request needs its own key"
            yield Refusal(line, "idempotency_key", reason)
        if row.authorized_amount is not None:
            hold = f"{row.authorized_amount} {row.currency} {row.out_trade_no}"
            earlier = self._first(f"hold {account} {row.syssn}", line, hold)
            if earlier is not None:
                said = "with another authorized_amount, currency or out_trade_no"
                yield Refusal(line, "authorized_amount", f"line {earlier} registers the same hold {said}")

    def _first(self, name: str, line: int, said: str) -> int | None:
        """The line that said something else of this name first, or None."""
        self._db.execute("INSERT OR IGNORE INTO seen VALUES (?, ?, ?)", (name, line, said))
        known, what = self._db.execute("SELECT line, said FROM seen WHERE name = ?", (name,)).fetchone()
        return int(known) if what != said else None
