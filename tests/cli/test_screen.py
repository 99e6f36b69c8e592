"""What the commands share: money as people read it, JSON lines, advice in the words of the command line."""

from __future__ import annotations

import ast
import io
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

import qfpay_preauth
from qfpay_preauth import Credentials, DeclinedError, LedgerUnavailableError, Operation, Outcome, State, errors
from qfpay_preauth._cli_errors import error_object, exit_code_of, in_commands, in_words
from qfpay_preauth._cli_screen import (
    CalledOffError,
    FailedError,
    UsageError,
    confirm,
    confirm_money,
    emit_json,
    money,
    plain,
    shown,
)
from qfpay_preauth._models import Balance, Capture
from qfpay_preauth._settings import Hidden


@pytest.mark.parametrize(
    ("minor", "currency", "stated", "text"),
    [
        (123_456, "HKD", None, "HKD 1,234.56"),
        (5, "HKD", None, "HKD 0.05"),
        (0, "HKD", None, "HKD 0.00"),
        (-5, "HKD", None, "HKD -0.05"),
        (99_999_999_999, "USD", None, "USD 999,999,999.99"),
        (500, "JPY", None, "JPY 500 (minor units)"),
        (1_500, "JPY", {"JPY": 0}, "JPY 1,500"),
        (1_500, "MMK", {"MMK": 3}, "MMK 1.500"),
        (500, "???", None, "??? 500 (minor units)"),
    ],
)
def test_money_as_people_read_it(minor: int, currency: str, stated: Mapping[str, int] | None, text: str) -> None:
    """Exact, with the currency's decimals; what nobody has stated stays as it is."""
    assert money(minor, currency, stated) == text


def test_what_is_shown_cannot_steer_the_terminal() -> None:
    """Control and bidirectional characters, and lone surrogates, are escaped; all letters stay."""
    assert shown("a\x1b[2J\u202e\n\udc80") == "a\\x1b[2J\\u202e\\n\\udc80"
    assert shown("訂單 café") == "訂單 café"


def test_a_json_line() -> None:
    """One ASCII line: times in ISO 8601 with their zone, spans in seconds, enums by value, values as objects."""
    stream = io.StringIO()
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=8)))
    result = Capture("C", "A", 5, "HKD", "訂單\n1", system_time=at, raw={"x": None})
    value = {"result": result, "state": State.IN_DOUBT, "outcome": Outcome.UNKNOWN, "wait": timedelta(minutes=1)}
    emit_json({**value, "many": (Operation.REFUND, {1})}, stream)
    text = stream.getvalue()
    assert text.isascii()
    assert text.count("\n") == 1
    found = json.loads(text)
    assert found["result"]["system_time"] == "2026-01-02T03:04:05+08:00"
    assert found["result"]["idempotency_key"] == "訂單\n1"
    assert (found["state"], found["outcome"], found["wait"]) == ("in_doubt", "unknown", 60.0)
    assert found["many"] == ["refund", [1]]


def test_json_never_holds_a_secret() -> None:
    """Credentials and hidden texts are stars, however deep; what has no place in an answer is an error."""
    credentials = Credentials("APP", "SECRET")
    assert plain({"a": [credentials, Hidden("SECRET")], "b": credentials.client_key}) == {"a": ["***"] * 2, "b": "***"}
    for wrong in (b"bytes", object(), datetime(2026, 1, 1)):  # noqa: DTZ001 - a naive time is the point
        with pytest.raises(TypeError):
            plain(wrong)
    with pytest.raises(ValueError, match="JSON"):
        emit_json({"x": float("nan")}, io.StringIO())


def test_without_stdout_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was started without one has no reader."""
    monkeypatch.setattr("sys.stdout", None)
    emit_json({"a": Balance(1, 1, 0, 0, 0, 0, 0, 0, "HKD")})
    assert plain(datetime(2026, 1, 1, tzinfo=UTC)) == "2026-01-01T00:00:00+00:00"


# ------------------------------------------------------------------------------------------------ the question


def test_only_production_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere nobody is asked; with --yes neither; without a terminal it is usage."""
    monkeypatch.setattr("sys.stdin", io.StringIO("no\n"))
    confirm_money("sandbox", "Capture", yes=False)
    confirm_money("live_test", "Capture", yes=False)
    confirm_money("production", "Capture", yes=True)
    with pytest.raises(UsageError, match="PRODUCTION: Capture: there is no terminal"):
        confirm_money("production", "Capture", yes=False)
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(UsageError):
        confirm("Record", yes=False)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Yes."""
        return True


@pytest.mark.parametrize(
    ("typed", "goes_on"),
    [("yes\n", True), ("Y\n", True), (" YES \n", True), ("\n", False), ("", False), ("no\n", False), ("yess\n", False)],
)
def test_only_a_yes_is_one(monkeypatch: pytest.MonkeyPatch, typed: str, goes_on: bool) -> None:
    """Anything else, also the end of the input, calls it off."""
    screen = Terminal()
    monkeypatch.setattr("sys.stdin", Terminal(typed))
    monkeypatch.setattr("sys.stderr", screen)
    if goes_on:
        confirm("Record \x1b[2J", yes=False)
    else:
        with pytest.raises(CalledOffError, match="nothing was done"):
            confirm("Record \x1b[2J", yes=False)
    assert screen.getvalue() == "Record \\x1b[2J? Type yes to go on: "


# ------------------------------------------------------------------------------------------------ errors


def advice_in_the_library() -> set[str]:
    """Every advice that the library's source has, f-strings with their gaps filled."""
    found = set()
    for path in Path(qfpay_preauth.__file__).parent.glob("**/*.py"):
        if path.name.startswith(("_cli", "_demo")) or "testing" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "advice":
                found.update(texts_in(node.value))
            if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "default_advice" and node.value:
                found.update(texts_in(node.value))
    return found


def texts_in(node: ast.AST) -> list[str]:
    """The texts of an expression, whole."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.JoinedStr):
        return ["".join(str(each.value) if isinstance(each, ast.Constant) else "X" for each in node.values)]
    return [text for each in ast.iter_child_nodes(node) for text in texts_in(each)]


def test_no_advice_names_a_method() -> None:
    """The command line speaks of commands: every advice of the library is in its words."""
    texts = advice_in_the_library()
    assert len(texts) > 15
    assert [text for text in texts if re.search(r"\w+\(\)", in_commands(text))] == []
    assert in_commands("Call register_authorization() first.").startswith("Call `qfpay-preauth register`")
    missing = [in_commands(text) for text in texts if "mode=rwc" in text]
    assert missing and all("`qfpay-preauth register`" in text for text in missing)  # noqa: PT018 - one saying


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("u"), 2),
        (FailedError("f"), 1),
        (CalledOffError("c"), 1),
        (OSError(28, "full"), 1),
        (errors.InvalidRequestError("i"), 2),
        (errors.ConfigurationError("c"), 2),
        (errors.OverCaptureError("o"), 3),
        (errors.AlreadyUnfrozenError("a"), 3),
        (errors.OperationInProgressError("p"), 3),
        (errors.IdempotencyConflictError("i"), 3),
        (DeclinedError("d", retry_later=True), 3),
        (errors.CredentialsRejectedError("c"), 1),
        (errors.NotSentError("n"), 1),
        (errors.NotSentError("n", outcome=Outcome.UNKNOWN), 4),
        (errors.RateLimitedError("r"), 1),
        (errors.GatewayError("g"), 1),
        (errors.OutcomeUnknownError("u"), 4),
        (errors.OutcomeUnknownError("u", outcome=Outcome.HAPPENED), 4),
        (LedgerUnavailableError("l"), 1),
        (LedgerUnavailableError("l", outcome=Outcome.HAPPENED), 4),
    ],
)
def test_exit_codes(error: Exception, code: int) -> None:
    """Money first: whatever may have moved some is 4, whatever surely did not is less."""
    assert exit_code_of(error) == code
    found = error_object(error, code)
    assert found["exit_code"] == code
    assert {"error", "outcome", "message", "advice", "idempotency_key"} <= set(found)
    assert json.loads(json.dumps(plain(found)))


def test_an_unrecorded_yes_keeps_its_result() -> None:
    """A capture that could not be recorded: the object holds what the gateway confirmed."""
    result = Capture("C", "A", 5, "HKD", "key")
    error = LedgerUnavailableError("full", result=result, outcome=Outcome.HAPPENED, idempotency_key="key")
    found = plain(error_object(error, 4))
    assert (found["outcome"], found["result"]["syssn"]) == ("happened", "C")
    assert "See: qfpay-preauth events key" in in_words(error)
