"""What a batch is made of: rows, what became of each, and which word of the results file that is. Pure."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from typing import Any

from attrs import evolve, field, frozen

from qfpay_preauth import _checks
from qfpay_preauth._models import Operation, Result
from qfpay_preauth._money import AMOUNT_MAX, EXPONENTS
from qfpay_preauth.errors import (
    ConfigurationError,
    CredentialsRejectedError,
    DeclinedError,
    GatewayError,
    InvalidRequestError,
    LedgerError,
    LedgerUnavailableError,
    OperationInProgressError,
    Outcome,
    PreauthError,
    shown,
)

REQUIRED = ("idempotency_key", "syssn", "amount")
COLUMNS = (*REQUIRED, "operation", "currency", "out_trade_no", "authorized_amount", "account")

_DIGITS = re.compile(r"[0-9]+")
_SPOILT_ID = re.compile(r"[0-9][.,]?[0-9]*[Ee]\+?[0-9]+")


class RowOutcome(enum.StrEnum):
    """What became of a row.

    EXECUTED: now, by this run. REPLAYED: by an earlier one; nothing was sent. REFUSED: our books say no, nothing was
    sent. DECLINED: the gateway said a sure no. NOT_SENT: it did not happen; run it again as it is. IN_DOUBT: nobody
    knows yet; its amount stays claimed. INVALID: the row cannot be read; nothing was written or sent.
    """

    EXECUTED = "executed"
    REPLAYED = "replayed"
    REFUSED = "refused"
    DECLINED = "declined"
    NOT_SENT = "not_sent"
    IN_DOUBT = "in_doubt"
    INVALID = "invalid"


@frozen
class BatchRow:
    """One operation to do.

    Args:
        idempotency_key: the caller's name for this business intent, the same in every run.
        syssn: the authorization's, for a refund the capture's.
        amount: int minor units; None only for an unfreeze (all that is left).
        operation: capture, unfreeze or refund.
        currency, out_trade_no: the hold's. With `authorized_amount` they register it, alone they are compared with it.
        authorized_amount: the held sum (int minor units): the row registers its authorization first.
        account: one of `capture_many(accounts=…)`; None: the client's own.
        line: where it stood; it comes back in the outcome.
    """

    idempotency_key: str
    syssn: str
    amount: int | None
    operation: Operation = Operation.CAPTURE
    currency: str | None = None
    out_trade_no: str | None = None
    authorized_amount: int | None = None
    account: str | None = None
    line: int | None = None


@frozen
class RowProblem:
    """Why a row cannot be taken: the column, and what to do about it."""

    column: str
    reason: str

    def __str__(self) -> str:
        return f"{self.column}: {self.reason}"


@frozen
class BatchOutcome:
    """What became of one row.

    Attributes:
        line: the row's own, else its number in the batch, from 1.
        outcome: in one word.
        row: the row, or None where it could not be read (an unknown account can).
        result: what the gateway confirmed (executed, replayed).
        error: why not (every other outcome but invalid rows); its `advice` is the next safe step.
        problems: of an invalid row.
        given: what was handed in, untouched.
    """

    line: int
    outcome: RowOutcome
    row: BatchRow | None = None
    result: Result | None = None
    error: PreauthError | None = None
    problems: tuple[RowProblem, ...] = ()
    given: Any = field(default=None, repr=False)

    @property
    def idempotency_key(self) -> str | None:
        """The row's key; None where it could not be read."""
        return None if self.row is None else self.row.idempotency_key

    @property
    def operation(self) -> Operation | None:
        """The row's operation; None where it could not be read."""
        return None if self.row is None else self.row.operation

    @property
    def syssn(self) -> str | None:
        """The syssn that the row named; None where it could not be read."""
        return None if self.row is None else self.row.syssn

    @property
    def amount(self) -> int | None:
        """What moved, or what the row asks for; int minor units."""
        if self.result is not None:
            return self.result.amount
        return None if self.row is None else self.row.amount

    @property
    def currency(self) -> str | None:
        """The money's currency, where it is known."""
        if self.result is not None:
            return self.result.currency
        return None if self.row is None else self.row.currency

    @property
    def result_syssn(self) -> str | None:
        """The operation's own id (a refund needs a capture's)."""
        return None if self.result is None else self.result.syssn

    @property
    def code(self) -> str | None:
        """The gateway's code; else the error's name."""
        if self.result is not None:
            return self.result.code
        if isinstance(self.error, GatewayError) and self.error.code:
            return self.error.code
        return None if self.error is None else type(self.error).__name__

    @property
    def message(self) -> str:
        """The gateway's words, or what is wrong and the next safe step."""
        if self.error is not None:
            return str(self.error)
        if self.problems:
            return "; ".join(map(str, self.problems))
        return (self.result.message if self.result else None) or ""


Row = BatchRow | Mapping[str, Any] | BatchOutcome
"""What a batch takes; an outcome stands for a row that somebody could not read."""


# ------------------------------------------------------------------------------------------------ reading


def read_row(given: object, line: int) -> BatchRow | BatchOutcome:
    """A BatchRow or a mapping with the file's column names → a checked row, or its `invalid` outcome.

    Args:
        given: a BatchRow, or a mapping in which amounts are ints or text of digits, and "" and None say nothing.
        line: its number, where it has none of its own.
    """
    if isinstance(given, BatchRow):
        line = given.line if type(given.line) is int else line
        row = given if type(given.operation) is Operation else evolve(given, operation=_operation(given.operation))
        problems = problems_of(row)
        return row if not problems else invalid(line, problems, given)
    if not isinstance(given, Mapping):
        return invalid(line, [RowProblem("row", f"is {type(given).__name__}, not a BatchRow or a mapping")], given)
    return _from_mapping(given, line)


def invalid(line: int, problems: list[RowProblem], given: object) -> BatchOutcome:
    """The outcome of a row that cannot be read."""
    return BatchOutcome(line, RowOutcome.INVALID, problems=tuple(problems), given=given)


def _from_mapping(given: Mapping[Any, Any], line: int) -> BatchRow | BatchOutcome:
    problems = [
        RowProblem(shown(name, 40), f"is no column; known are {', '.join(COLUMNS)}")
        for name in given
        if name not in COLUMNS
    ]
    problems += [
        RowProblem(name, "is missing") for name in REQUIRED if name not in given and not _may_lack(name, given)
    ]
    if problems:
        return invalid(line, problems, given)
    values: dict[str, Any] = {name: _said(given.get(name)) for name in COLUMNS}
    for name in ("amount", "authorized_amount"):
        values[name] = _number(name, values[name], problems)
    values["operation"] = Operation.CAPTURE if values["operation"] is None else _operation(values["operation"])
    for name in REQUIRED[:2]:
        values[name] = "" if values[name] is None else values[name]
    row = BatchRow(**values, line=line)
    known = {problem.column for problem in problems}
    problems += [problem for problem in problems_of(row) if problem.column not in known]
    return row if not problems else invalid(line, problems, given)


def _said(value: object) -> object:
    """A cell, or None where it says nothing."""
    return None if isinstance(value, str) and not value else value


def _operation(value: object) -> Any:
    """The operation of that name; anything else stays as it is, and is refused by the check."""
    try:
        return Operation(value)  # type: ignore[arg-type] # whatever it is
    except ValueError:
        return value


def _may_lack(name: str, given: Mapping[Any, Any]) -> bool:
    return name == "amount" and given.get("operation") == Operation.UNFREEZE


def _number(name: str, value: object, problems: list[RowProblem]) -> Any:
    """Text of plain digits as an int; what is no text is left to the check."""
    if not isinstance(value, str):
        return value
    if value.isascii() and _DIGITS.fullmatch(value) and (value[0] != "0" or value == "0") and len(value) <= 30:
        return int(value)
    problems.append(RowProblem(name, _not_a_number(value)))
    return None


def _not_a_number(value: str) -> str:
    said = f"must be minor units in plain digits (12.50 is written 1250), not {shown(value, 40)}"
    if value.strip() != value:
        return f"{said}: remove the blanks around it"
    return f"{said}: it has leading zeros" if value.isascii() and value.isdigit() and value[0] == "0" else said


def problems_of(row: BatchRow) -> list[RowProblem]:
    """Everything that is wrong with a row, as far as the row alone tells."""
    problems: list[RowProblem] = []

    def refuse(column: str, reason: str) -> None:
        problems.append(RowProblem(column, reason))

    if type(row.operation) is not Operation:
        refuse("operation", f"must be capture, unfreeze or refund, not {shown(row.operation, 40)}")
    _check_key(row.idempotency_key, refuse)
    _check_id("syssn", row.syssn, refuse)
    if row.amount is not None:
        _check_amount("amount", row.amount, refuse)
    elif row.operation != Operation.UNFREEZE:
        refuse("amount", "is empty: only an unfreeze may leave it out (it releases what is left)")
    if row.currency is not None and (not isinstance(row.currency, str) or row.currency not in EXPONENTS):
        refuse("currency", f"must be one of {', '.join(EXPONENTS)}, not {shown(row.currency, 40)}")
    if row.out_trade_no is not None:
        _check_id("out_trade_no", row.out_trade_no, refuse)
    if row.account is not None and not isinstance(row.account, str):
        refuse("account", f"must be text, not {shown(row.account, 40)}")
    if row.authorized_amount is not None:
        _check_registration(row, refuse)
    return problems


def _check_key(value: object, refuse: Any) -> None:
    if value == "":
        refuse("idempotency_key", "is empty: give each row the name of its business intent, the same in every run")
        return
    try:
        _checks.check_key(value)
    except InvalidRequestError as error:
        refuse("idempotency_key", str(error.args[0]).removeprefix("idempotency_key ").removesuffix("."))
        return
    if isinstance(value, str) and value.strip() != value:
        refuse("idempotency_key", f"has blanks around it: {shown(value, 40)} would be another key than without them")


def _check_id(name: str, value: object, refuse: Any) -> None:
    if isinstance(value, str) and not value.isdigit() and _SPOILT_ID.fullmatch(value):
        refuse(name, f"is {shown(value, 40)}: a spreadsheet made a number of it; format the column as text")
    elif value == "":
        refuse(name, "is empty")
    elif not _checks.is_id(value):
        refuse(name, f"must be {_checks.ID_ALLOWED}, not {shown(value, 80)}")


def _check_amount(name: str, value: object, refuse: Any) -> None:
    if type(value) is not int:
        refuse(name, f"must be an int of minor units (12.50 is 1250), not {shown(value, 40)}")
    elif not 1 <= value <= AMOUNT_MAX:
        said = shown(value, 40) if abs(value) < 10**30 else "a number of more than 30 digits"
        refuse(name, f"must be from 1 to {AMOUNT_MAX} minor units, not {said}")


def _check_registration(row: BatchRow, refuse: Any) -> None:
    _check_amount("authorized_amount", row.authorized_amount, refuse)
    if row.operation == Operation.REFUND:
        refuse("authorized_amount", "belongs to captures and unfreezes: a refund's syssn is the capture's")
    for name in ("currency", "out_trade_no"):
        if getattr(row, name) is None:
            refuse(name, "is empty: with authorized_amount the row registers its authorization, which needs it")


# ------------------------------------------------------------------------------------------------ judging


def judged(error: PreauthError) -> RowOutcome:
    """The outcome that an error of an operation is.

    OperationInProgressError is `not_sent`: something else has to end first, nothing was written, and the same row again
    is right. A yes that could not be recorded is `executed`.
    """
    if isinstance(error, LedgerUnavailableError) and error.outcome is Outcome.HAPPENED:
        return RowOutcome.EXECUTED
    if error.outcome is not Outcome.NOTHING_HAPPENED:
        return RowOutcome.IN_DOUBT
    if isinstance(error, InvalidRequestError):
        return RowOutcome.INVALID
    if isinstance(error, DeclinedError | CredentialsRejectedError):
        return RowOutcome.DECLINED
    again = isinstance(error, OperationInProgressError | LedgerUnavailableError)
    return RowOutcome.REFUSED if isinstance(error, LedgerError) and not again else RowOutcome.NOT_SENT


def stops(error: PreauthError | None) -> bool:
    """Whether the next row would only meet the same: rejected credentials, a ledger that is gone, a closed client."""
    return isinstance(error, CredentialsRejectedError | LedgerUnavailableError | ConfigurationError)


def ended(row: BatchRow, line: int, result: Result) -> BatchOutcome:
    """The outcome of a row that the gateway confirmed, now or before."""
    word = RowOutcome.REPLAYED if result.replayed else RowOutcome.EXECUTED
    return BatchOutcome(line, word, row, result, given=row)


def failed(row: BatchRow, line: int, error: PreauthError, outcome: RowOutcome | None = None) -> BatchOutcome:
    """The outcome of a row that ended with an error."""
    result = error.result if isinstance(error, LedgerUnavailableError) else None
    confirmed = result if isinstance(result, Result) else None
    return BatchOutcome(line, outcome or judged(error), row, confirmed, error, given=row)
