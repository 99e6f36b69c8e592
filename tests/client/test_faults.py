"""Every fault of the gateway on every operation: the right error, the claim, and never a second execution."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from qfpay_preauth import (
    CredentialsRejectedError,
    DeclinedError,
    Outcome,
    OutcomeUnknownError,
    OverCaptureError,
    PreauthClient,
    RateLimitedError,
    State,
    Why,
)
from qfpay_preauth.testing import KINDS, Gateway
from tests.client.kit import OPERATIONS, Scene, scene
from tests.support import client_of, sqlite_url

# kind → the settings of the rule, and whether the gateway executed it by the time the call ended
DOUBTFUL: dict[str, tuple[dict[str, Any], bool]] = {
    "drop_before": ({}, False),
    "drop_after": ({}, True),
    "reset_before": ({}, False),
    "reset_after": ({}, True),
    "hang_before": ({}, False),
    "hang_after": ({}, True),
    "status_before": ({"status": 503}, False),
    "status_after": ({"status": 500}, True),
    "respcd": ({"code": "1205"}, False),
    "pending": ({}, False),
    "cut": ({}, True),
    "garbled": ({}, True),
    "huge": ({}, True),
    "redirect": ({}, False),
    "altered": ({"changes": {"txamt": "1"}}, True),
    "missigned": ({}, True),
    "late": ({}, False),
    "late_hang": ({}, False),
}
WELL: dict[str, dict[str, Any]] = {"slow": {"seconds": 0.001}, "delay": {"seconds": 0.02}, "hidden": {}, "shifted": {}}
ALONE = {"rate_limited", "swapped"}

# more ways in which an answer says nothing sure, each executed by the gateway
ODD_ANSWERS: dict[str, dict[str, Any]] = {
    "other_hold": {"changes": {"orig_syssn": "20260101180500020000099999"}},
    "no_hold": {"changes": {"orig_syssn": None}},
    "no_amount": {"changes": {"txamt": None}},
    "other_currency": {"changes": {"txcurrcd": "USD"}},
    "amount_as_float": {"changes": {"txamt": 10000.0}},
    "no_syssn": {"changes": {"syssn": None}},
    "syssn_list": {"changes": {"syssn": ["1"]}},
    "no_code": {"changes": {"respcd": None}},
    "int_code": {"changes": {"respcd": 0}},
    "refusal_of_another": {"changes": {"respcd": "1266", "orig_syssn": "20260101180500020000099999"}},
    "unlisted_code": {"changes": {"respcd": "7777"}},
}
LEDGERS = ("memory", "sqlite")


@pytest.fixture(params=LEDGERS)
async def client(
    request: pytest.FixtureRequest, tmp_path: Path, qfpay_gateway: Gateway
) -> AsyncIterator[PreauthClient]:
    ledger = "memory://" if request.param == "memory" else sqlite_url(tmp_path)
    async with client_of(qfpay_gateway, ledger, timeout_total_s=2) as client:
        yield client


async def _doubt(one: Scene, executed: bool, deadline_s: float = 30) -> None:
    error = await one.fails(deadline_s=deadline_s)
    assert isinstance(error, OutcomeUnknownError)
    assert error.outcome is Outcome.UNKNOWN
    assert (one.sent(), one.executed()) == (1, int(executed))
    await one.check_doubt_stays()


async def _after_doubt(one: Scene) -> None:
    """Whatever the gateway still does with it, it happens once, and nothing beside it is let in."""
    gateway = one.gateway
    gateway.release()
    gateway.settle_pending()
    gateway.run_late()
    before = one.sent()
    if one.operation == "capture":
        with pytest.raises(OverCaptureError) as caught:
            await one.client.capture(one.syssn, 50_000 - one.amount + 1, idempotency_key="too much")
        assert caught.value.capturable == 50_000 - one.amount
    await one.check_doubt_stays()
    assert one.sent() == before
    assert one.executed() <= 1
    assert gateway.books.audit() == []


def test_every_kind_is_tried() -> None:
    """Every kind of fault that the simulator knows is in one of the lists here."""
    assert set(DOUBTFUL) | set(WELL) | ALONE == set(KINDS)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("kind", sorted(DOUBTFUL))
async def test_what_proves_nothing_is_in_doubt(
    client: PreauthClient, qfpay_gateway: Gateway, kind: str, operation: str
) -> None:
    """A lost, late, cut, garbled, mismatching or pending answer leaves doubt, and is never sent again."""
    how, executed = DOUBTFUL[kind]
    one = await scene(qfpay_gateway, client, operation)
    qfpay_gateway.faults.add(kind, operation=operation, times=None, **how)
    await _doubt(one, executed, deadline_s=0.25 if "hang" in kind else 30)
    await _after_doubt(one)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", sorted(ODD_ANSWERS))
async def test_an_answer_must_match_the_question(qfpay_gateway: Gateway, name: str, operation: str) -> None:
    """An answer about something else, or about nothing, never concludes."""
    async with client_of(qfpay_gateway) as client:
        one = await scene(qfpay_gateway, client, operation)
        qfpay_gateway.faults.add("altered", operation=operation, **ODD_ANSWERS[name])
        await _doubt(one, executed=True)
        await _after_doubt(one)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("kind", sorted(WELL))
async def test_slow_answers_are_answers(
    client: PreauthClient, qfpay_gateway: Gateway, kind: str, operation: str
) -> None:
    """A slow body and a late answer within the time-out are read whole."""
    one = await scene(qfpay_gateway, client, operation)
    qfpay_gateway.faults.add(kind, operation=operation, **WELL[kind])
    result = await one.run()
    assert (result.amount, result.code, result.replayed) == (one.amount, "0000", False)
    assert (one.sent(), one.executed(), qfpay_gateway.books.audit()) == (1, 1, [])


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_rate_limited_is_retried(client: PreauthClient, qfpay_gateway: Gateway, operation: str) -> None:
    """HTTP 429 was refused before processing: it is tried again, and executed once."""
    one = await scene(qfpay_gateway, client, operation)
    qfpay_gateway.faults.add("rate_limited", operation=operation, times=2)
    assert (await one.run()).amount == one.amount
    assert (one.sent(), one.executed()) == (3, 1)


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_rate_limited_for_good(client: PreauthClient, qfpay_gateway: Gateway, operation: str) -> None:
    """When every attempt gets 429 the call ends with the gateway's wait, frees its claim, and may run again."""
    one = await scene(qfpay_gateway, client, operation)
    qfpay_gateway.faults.add("rate_limited", operation=operation, times=3, retry_after="0")
    error = await one.fails()
    assert isinstance(error, RateLimitedError)
    assert (error.retry_after_s, error.code, error.outcome) == (0.0, "429", Outcome.NOTHING_HAPPENED)
    assert error.idempotency_key == "key"
    assert (one.sent(), one.executed(), await one.doubts()) == (3, 0, [])
    entry = await client.entry("key")
    assert entry is not None
    assert (entry.state, entry.why, entry.attempt) == (State.NOT_EXECUTED, Why.NOT_SENT, 1)
    assert (await client.balance(one.syssn)).held == 0
    assert (await one.run()).replayed is False
    assert (one.sent(), one.executed(), qfpay_gateway.books.audit()) == (4, 1, [])


@pytest.mark.parametrize("operation", ["capture", "refund"])
async def test_swapped_answers_conclude_nothing(client: PreauthClient, qfpay_gateway: Gateway, operation: str) -> None:
    """Two answers exchanged on the wire: both operations are in doubt, none is executed twice."""
    first = await scene(qfpay_gateway, client, operation, amount=10_000)
    syssn = qfpay_gateway.hold(50_000)
    await client.register_authorization(syssn, 50_000, "HKD", out_trade_no="other")
    target = syssn
    if operation == "refund":
        target = str((await client.capture(syssn, 20_000, idempotency_key="other-capture")).syssn)
    second = Scene(qfpay_gateway, client, operation, syssn, target, 10_000)
    qfpay_gateway.faults.add("swapped", operation=operation, times=2)
    errors = await asyncio.gather(first.fails("a"), second.fails("b"))
    assert [type(error) for error in errors] == [OutcomeUnknownError, OutcomeUnknownError]
    assert sorted(await first.doubts()) == ["a", "b"]
    assert [one.sent() for one in (first, second)] == [one.executed() for one in (first, second)] == [1, 1]
    assert qfpay_gateway.books.audit() == []


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    ("code", "kind", "retry_later"),
    [
        ("1104", DeclinedError, False),
        ("1266", DeclinedError, False),
        ("1201", DeclinedError, False),
        ("1155", DeclinedError, False),
        ("1265", DeclinedError, True),
        ("1269", DeclinedError, True),
        ("1108", CredentialsRejectedError, None),
        ("1242", CredentialsRejectedError, None),
    ],
)
async def test_sure_refusals_end_the_entry(  # noqa: PLR0917 - two parametrisations, and what pytest hands in
    client: PreauthClient,
    qfpay_gateway: Gateway,
    operation: str,
    code: str,
    kind: type[DeclinedError | CredentialsRejectedError],
    retry_later: bool | None,
) -> None:
    """A listed refusal frees the claim; the re-runnable ones run again under the same key, the others replay."""
    one = await scene(qfpay_gateway, client, operation)
    qfpay_gateway.faults.add("respcd", operation=operation, code=code)
    error = await one.fails()
    assert type(error) is kind
    assert isinstance(error, DeclinedError | CredentialsRejectedError)
    assert (error.code, error.outcome, error.idempotency_key) == (code, Outcome.NOTHING_HAPPENED, "key")
    assert getattr(error, "retry_later", None) is retry_later
    balance = await client.balance(one.syssn)
    assert (balance.held, balance.in_doubt, one.sent()) == (0, 0, 1)
    if retry_later is False:
        again = await one.fails()
        assert (type(again), str(again), one.sent()) == (kind, str(error), 1)
    else:
        assert (await one.run()).replayed is False
        entry = await client.entry("key")
        assert entry is not None
        assert (entry.attempt, one.sent(), one.executed()) == (2, 2, 1)
    assert qfpay_gateway.books.audit() == []


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("code", ["1143", "1145", "1298", "1100", "1102", "1205", "1251", "1297", "2011", "0001", ""])
async def test_other_codes_leave_doubt(qfpay_gateway: Gateway, operation: str, code: str) -> None:
    """Pending, ambiguous and unlisted codes are no refusal: the gateway may have executed it."""
    async with client_of(qfpay_gateway) as client:
        one = await scene(qfpay_gateway, client, operation)
        qfpay_gateway.faults.add("respcd", operation=operation, code=code, executed=True)
        await _doubt(one, executed=True)
        await _after_doubt(one)


async def test_a_refund_that_is_too_old_is_refused_for_good(client: PreauthClient, qfpay_gateway: Gateway) -> None:
    """1265 with the text that the time for refunds is over is final; other 1265 may run again later."""
    one = await scene(qfpay_gateway, client, "refund")
    changes = {"respcd": "1265", "resperr": "已經超出可退款時限"}
    qfpay_gateway.faults.add("altered", operation="refund", changes=changes)
    error = await one.fails()
    assert isinstance(error, DeclinedError)
    assert (error.retry_later, error.code) == (False, "1265")


async def test_strange_system_time(client: PreauthClient, qfpay_gateway: Gateway) -> None:
    """A time that no calendar of ours reaches is dropped; the entry stays readable and its doubt listed."""
    one = await scene(qfpay_gateway, client, "capture")
    qfpay_gateway.faults.add("altered", changes={"sysdtm": "0001-01-01 00:00:00"})
    await one.run("done")
    qfpay_gateway.faults.add("altered", changes={"sysdtm": "0001-01-01 00:00:00", "respcd": "1143"})
    error = await one.fails("open", deadline_s=5)
    assert isinstance(error, OutcomeUnknownError)
    assert (await one.run("done")).replayed is True
    assert await one.state("done") is State.EXECUTED
    assert await one.doubts() == ["open"]


async def test_a_doubt_is_logged_for_people(
    client: PreauthClient, qfpay_gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    """A doubt is a warning in the log, and its listing says what was tried and what to do."""
    one = await scene(qfpay_gateway, client, "capture")
    qfpay_gateway.faults.add("drop_after", operation="capture")
    with caplog.at_level(logging.WARNING, "qfpay_preauth"):
        await one.fails()
    assert "unknown" in caplog.text
    (doubt,) = [each async for each in client.in_doubt()]
    assert (doubt.operation, doubt.syssn, doubt.amount, doubt.currency) == ("capture", one.syssn, 10_000, "HKD")
    assert "attempt 1" in doubt.tried
    assert "resolve" in doubt.advice
