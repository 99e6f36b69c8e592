"""Rows: what is taken, what is refused and why, and which outcome an error is."""

from __future__ import annotations

from typing import Any

import pytest

from qfpay_preauth import (
    BatchOutcome,
    BatchRow,
    Capture,
    ConfigurationError,
    CredentialsRejectedError,
    DeclinedError,
    IdempotencyConflictError,
    InvalidRequestError,
    LedgerUnavailableError,
    NotSentError,
    Operation,
    OperationInProgressError,
    Outcome,
    OutcomeUnknownError,
    OverCaptureError,
    PreauthError,
    RateLimitedError,
    RowOutcome,
    UnknownAuthorizationError,
)
from qfpay_preauth._batch_rows import failed, judged, read_row, stops

GOOD: dict[str, Any] = {"idempotency_key": "order-17/parcel-1", "syssn": "20260101180500020000014079", "amount": "500"}
FULL_WIDTH, ARABIC = "\uff15\uff10\uff10", "\u0665\u0660\u0660"
FULL = {**GOOD, "currency": "HKD", "out_trade_no": "ORDER-17", "authorized_amount": "50000"}


def _columns(**changes: Any) -> list[str]:
    read = read_row({**GOOD, **changes}, 7)
    assert isinstance(read, BatchOutcome), read
    assert (read.outcome, read.line, read.row) == (RowOutcome.INVALID, 7, None)
    assert read.message
    return [problem.column for problem in read.problems]


def test_a_row_of_text_is_read() -> None:
    """The cells of a file become a row; what is empty says nothing."""
    read = read_row({**FULL, "operation": "", "account": ""}, 3)
    assert read == BatchRow(
        "order-17/parcel-1",
        "20260101180500020000014079",
        500,
        Operation.CAPTURE,
        "HKD",
        "ORDER-17",
        50_000,
        None,
        line=3,
    )


@pytest.mark.parametrize("operation", list(Operation))
def test_every_operation_is_read_from_its_word(operation: Operation) -> None:
    """A word becomes the Operation itself, in mappings and in rows."""
    for given in ({**GOOD, "operation": operation.value}, BatchRow("k", "S1", 1, operation.value)):  # type: ignore[arg-type]
        read = read_row(given, 1)
        assert isinstance(read, BatchRow)
        assert read.operation is operation


@pytest.mark.parametrize("given", [{"amount": ""}, {"amount": None}, {}])
def test_only_an_unfreeze_may_leave_the_amount_out(given: dict[str, Any]) -> None:
    """Without an amount it releases what is left; a capture or refund without one is invalid."""
    row = {name: value for name, value in GOOD.items() if name != "amount"} | given
    read = read_row({**row, "operation": "unfreeze"}, 1)
    assert isinstance(read, BatchRow)
    assert read.amount is None
    for operation in ("capture", "refund"):
        refused = read_row({**row, "operation": operation}, 1)
        assert isinstance(refused, BatchOutcome)
        assert [each.column for each in refused.problems] == ["amount"]


@pytest.mark.parametrize(
    "amount",
    [
        *(
            "12.50",
            "1e3",
            " 500",
            "500 ",
            FULL_WIDTH,
            ARABIC,
            "-5",
            "+5",
            "0",
            "00",
            "0500",
            "1_000",
            "1,000",
            "0x10",
            "five",
        ),
        *("9" * 12, "9" * 400, "500\x00", "500\n"),
        *(0, -1, 10**11, 10**4000, 12.0, True, [500], {"amount": 500}, b"500"),
    ],
    ids=lambda value: f"{type(value).__name__}-{str(value)[:12]!a}" if value != 10**4000 else "huge",
)
def test_an_amount_is_plain_minor_units(amount: Any) -> None:
    """Anything but an int (or its plain ASCII digits) from 1 to 11 digits is refused, whatever it might have meant."""
    assert _columns(amount=amount) == ["amount"]


@pytest.mark.parametrize(
    "key",
    ["", " ", " k", "k ", "a\nb", "a\x00b", "a\tb", "k" * 256, "\ud800", "\u202ek", 17, None, ["k"]],
    ids=lambda value: ascii(value)[:14],
)
def test_a_key_is_printable_and_bare(key: Any) -> None:
    """Blanks around a key would make another key of it; control characters and other types are refused."""
    assert _columns(idempotency_key=key) == ["idempotency_key"]


@pytest.mark.parametrize(
    "syssn", ["", "S 1", "S,1", "S=1", "x" * 129, "2.02601E+25", "2,02601E+25", "2E25", 20260101, None]
)
def test_a_syssn_is_an_id(syssn: Any) -> None:
    """What QFPay cannot have given is refused, and what a spreadsheet made of an id."""
    assert _columns(syssn=syssn) == ["syssn"]


@pytest.mark.parametrize(
    ("changes", "columns"),
    [
        ({"operation": "Capture"}, ["operation"]),
        ({"operation": "void"}, ["operation"]),
        ({"operation": ["capture"]}, ["operation"]),
        ({"currency": "hkd"}, ["currency"]),
        ({"currency": "XXX"}, ["currency"]),
        ({"currency": ["HKD"]}, ["currency"]),
        ({"out_trade_no": "A&B"}, ["out_trade_no"]),
        ({"account": 7}, ["account"]),
        ({"authorized_amount": "50000"}, ["currency", "out_trade_no"]),
        ({"authorized_amount": "500.00"}, ["authorized_amount"]),
        ({**FULL, "operation": "refund"}, ["authorized_amount"]),
        ({"note": "x"}, ["'note'"]),
        ({7: "x"}, ["7"]),
        ({"amount": "x", "syssn": "a b", "idempotency_key": ""}, ["amount", "idempotency_key", "syssn"]),
    ],
)
def test_every_other_column_is_checked(changes: dict[Any, Any], columns: list[str]) -> None:
    """Each problem names its column, and all of them are told at once."""
    assert _refused({**GOOD, **changes}) == columns


def _refused(given: Any) -> list[str]:
    read = read_row(given, 1)
    assert isinstance(read, BatchOutcome)
    return [problem.column for problem in read.problems]


@pytest.mark.parametrize("missing", ["idempotency_key", "syssn", "amount"])
def test_a_mapping_needs_its_names(missing: str) -> None:
    """A name that is not there is named."""
    assert _refused({name: value for name, value in GOOD.items() if name != missing}) == [missing]


@pytest.mark.parametrize("given", [None, 7, "k,S1,500", ["k", "S1", "500"], object()])
def test_what_is_no_row_is_invalid(given: Any) -> None:
    """Anything else is an outcome too, never an exception."""
    assert _refused(given) == ["row"]


def test_a_row_of_code_is_checked_like_one_of_a_file() -> None:
    """A BatchRow with wrong values is invalid, whatever their types."""
    row = BatchRow(["k"], {"S": 1}, "500", operation=7, line=9)  # type: ignore[arg-type]
    read = read_row(row, 1)
    assert isinstance(read, BatchOutcome)
    assert (read.line, read.given) == (9, row)
    assert {each.column for each in read.problems} == {"idempotency_key", "syssn", "amount", "operation"}


_OUTCOMES: list[tuple[PreauthError, RowOutcome, bool]] = [
    (InvalidRequestError("x"), RowOutcome.INVALID, False),
    (OverCaptureError("x"), RowOutcome.REFUSED, False),
    (UnknownAuthorizationError("x"), RowOutcome.REFUSED, False),
    (IdempotencyConflictError("x"), RowOutcome.REFUSED, False),
    (OperationInProgressError("x"), RowOutcome.NOT_SENT, False),
    (NotSentError("x"), RowOutcome.NOT_SENT, False),
    (NotSentError("x", outcome=Outcome.UNKNOWN), RowOutcome.IN_DOUBT, False),
    (RateLimitedError("x"), RowOutcome.NOT_SENT, False),
    (DeclinedError("x", code="1265", retry_later=True), RowOutcome.DECLINED, False),
    (CredentialsRejectedError("x", code="1108"), RowOutcome.DECLINED, True),
    (OutcomeUnknownError("x"), RowOutcome.IN_DOUBT, False),
    (OutcomeUnknownError("x", outcome=Outcome.HAPPENED), RowOutcome.IN_DOUBT, False),
    (LedgerUnavailableError("x"), RowOutcome.NOT_SENT, True),
    (LedgerUnavailableError("x", outcome=Outcome.UNKNOWN), RowOutcome.IN_DOUBT, True),
    (LedgerUnavailableError("x", outcome=Outcome.HAPPENED), RowOutcome.EXECUTED, True),
    (ConfigurationError("x"), RowOutcome.NOT_SENT, True),
]


@pytest.mark.parametrize(("error", "outcome", "stop"), _OUTCOMES, ids=lambda value: getattr(value, "value", None))
def test_every_error_is_one_outcome(error: PreauthError, outcome: RowOutcome, stop: bool) -> None:
    """What an error says about the money is what the row's outcome says; three kinds stop the batch."""
    assert (judged(error), stops(error)) == (outcome, stop)


def test_what_could_not_be_recorded_still_says_what_was_done() -> None:
    """A yes that the ledger could not take comes with its result."""
    result = Capture("C1", "S1", 500, "HKD", "k", code="0000")
    error = LedgerUnavailableError("disk full", outcome=Outcome.HAPPENED, result=result)
    outcome = failed(BatchRow("k", "S1", 500), 1, error)
    assert (outcome.outcome, outcome.result_syssn, outcome.currency) == (RowOutcome.EXECUTED, "C1", "HKD")
    assert "disk full" in outcome.message
