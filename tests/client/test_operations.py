"""What the client does when all goes well: results, books, enquiries, intents, decisions; and bad input."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from qfpay_preauth import (
    AuthorizationExpiredError,
    Balance,
    Capture,
    Credentials,
    CredentialsRejectedError,
    DeclinedError,
    IdempotencyConflictError,
    InvalidRequestError,
    OperationInProgressError,
    Outcome,
    OutcomeUnknownError,
    PreauthClient,
    Refund,
    State,
    Unfreeze,
    UnknownAuthorizationError,
    Why,
    minor_units,
)
from qfpay_preauth.testing import Gateway
from tests.client.kit import scene, sent
from tests.support import client_of, registered, sqlite_url


@pytest.fixture(params=["memory", "sqlite"])
async def client(
    request: pytest.FixtureRequest, tmp_path: Path, qfpay_gateway: Gateway
) -> AsyncIterator[PreauthClient]:
    ledger = "memory://" if request.param == "memory" else sqlite_url(tmp_path)
    async with client_of(qfpay_gateway, ledger) as client:
        yield client


async def test_the_whole_way(client: PreauthClient, qfpay_gateway: Gateway) -> None:
    """Register, capture, refund, unfreeze: each result says what moved, and the books agree with the gateway's."""
    syssn = qfpay_gateway.hold(50_000, "HKD", out_trade_no="ORDER-17")
    hold = await client.register_authorization(syssn, 50_000, "HKD", out_trade_no="ORDER-17")
    assert (hold.amount, hold.currency, hold.capturable) == (50_000, "HKD", 50_000)
    capture = await client.capture(syssn, 20_000, idempotency_key="order-17/parcel-1")
    refund = await client.refund(str(capture.syssn), 5_000, idempotency_key="order-17/return-1")
    rest = await client.unfreeze(syssn, idempotency_key="order-17/close")
    assert [type(each) for each in (capture, refund, rest)] == [Capture, Refund, Unfreeze]
    assert [each.amount for each in (capture, refund, rest)] == [20_000, 5_000, 30_000]
    assert [each.orig_syssn for each in (capture, refund, rest)] == [syssn, capture.syssn, syssn]
    for each in (capture, refund, rest):
        assert (each.currency, each.code, each.replayed, each.confirmed_by) == ("HKD", "0000", False, "answer")
        assert each.system_time is not None
        assert abs(each.system_time - datetime.now(UTC)) < timedelta(minutes=1)
        assert "cardcd" not in each.raw
        assert each.raw["syssn"] == each.syssn
    assert capture.message == "Capture received / 交易成功"
    assert await client.balance(syssn) == Balance(50_000, 20_000, 0, 0, 0, 30_000, 5_000, 0, "HKD")
    totals = qfpay_gateway.books.totals(syssn)
    assert (totals.captured, totals.unfrozen, totals.refunded) == (20_000, 30_000, 5_000)
    entry = await client.entry("order-17/parcel-1")
    assert entry is not None
    assert (entry.state, entry.result_syssn, entry.attempt) == (State.EXECUTED, capture.syssn, 1)
    assert await client.entry("order-18") is None


async def test_registering_twice(client: PreauthClient, qfpay_gateway: Gateway) -> None:
    """The same hold again changes nothing; with another amount, currency or number it is an error."""
    syssn = await registered(client, qfpay_gateway)
    number = qfpay_gateway.books.holds[syssn].out_trade_no
    await client.capture(syssn, 1_000, idempotency_key="k")
    again = await client.register_authorization(syssn, 50_000, "HKD", out_trade_no=number)
    assert again.captured == 1_000
    for amount, currency, out_trade_no in ((50_001, "HKD", number), (50_000, "USD", number), (50_000, "HKD", "other")):
        with pytest.raises(IdempotencyConflictError):
            await client.register_authorization(syssn, amount, currency, out_trade_no=out_trade_no)
    with pytest.raises(UnknownAuthorizationError):
        await client.balance("1")


async def test_an_executed_capture_is_no_hold(client: PreauthClient, qfpay_gateway: Gateway) -> None:
    """The id of a capture cannot be registered as an authorization."""
    one = await scene(qfpay_gateway, client, "refund")
    with pytest.raises(IdempotencyConflictError):
        await client.register_authorization(one.target, 20_000, "HKD", out_trade_no="X")


async def test_small_amounts_warn_and_are_sent(
    client: PreauthClient, qfpay_gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    """An amount of 200 or less is logged (QFPay's risk control) and sent all the same."""
    syssn = await registered(client, qfpay_gateway)
    with caplog.at_level(logging.WARNING, "qfpay_preauth"):
        await client.capture(syssn, 201, idempotency_key="a")
        assert caplog.text == ""
        assert (await client.capture(syssn, 200, idempotency_key="b")).amount == 200
    assert "200" in caplog.text


# ------------------------------------------------------------------------------------------------ the capture window


@pytest.mark.parametrize("strict", [False, True])
async def test_after_the_capture_window(qfpay_gateway: Gateway, caplog: pytest.LogCaptureFixture, strict: bool) -> None:
    """Our clock warns and the gateway's decides; with strict_expiry the capture is refused before sending."""
    async with client_of(qfpay_gateway, strict_expiry=strict) as client:
        syssn, week = qfpay_gateway.hold(50_000, out_trade_no="O1"), timedelta(days=7)
        made = datetime.now(UTC) - timedelta(days=8)
        await client.register_authorization(
            syssn, 50_000, "HKD", out_trade_no="O1", authorized_at=made, capture_window=week
        )
        if strict:
            with pytest.raises(AuthorizationExpiredError):
                await client.capture(syssn, 1_000, idempotency_key="k")
        else:
            with caplog.at_level(logging.WARNING, "qfpay_preauth"):
                assert (await client.capture(syssn, 1_000, idempotency_key="k")).amount == 1_000
            assert "window" in caplog.text
        assert (await client.unfreeze(syssn, idempotency_key="close")).amount == (50_000 if strict else 49_000)


@pytest.mark.parametrize("days", [6, 8])
async def test_the_default_capture_window(qfpay_gateway: Gateway, days: int) -> None:
    """Holds without a window of their own take the setting's."""
    async with client_of(qfpay_gateway, strict_expiry=True, default_capture_window=timedelta(days=7)) as client:
        syssn = qfpay_gateway.hold(50_000, out_trade_no="O1")
        made = datetime.now(UTC) - timedelta(days=days)
        await client.register_authorization(syssn, 50_000, "HKD", out_trade_no="O1", authorized_at=made)
        try:
            result: object = await client.capture(syssn, 1_000, idempotency_key="k")
        except AuthorizationExpiredError as error:
            result = error
        assert isinstance(result, Capture if days == 6 else AuthorizationExpiredError)


# ------------------------------------------------------------------------------------------------ identity and keys


async def test_mchid_is_sent_where_assigned(qfpay_gateway: Gateway) -> None:
    """An assigned mchid is signed and sent with every request, and never without one."""
    async with client_of(qfpay_gateway) as client:
        await client.create_payment_intent(1_000, "HKD", out_trade_no="O1", pay_type="802801")
    assert "mchid" not in qfpay_gateway.requests[-1].params
    qfpay_gateway.mchid = "M17"
    async with client_of(qfpay_gateway) as client:
        one = await scene(qfpay_gateway, client, "refund")
        await one.run()
        await client.unfreeze(one.syssn, idempotency_key="u")
        _ = [row async for row in client.query()]
        await client.create_payment_intent(1_000, "HKD", out_trade_no="O2", pay_type="802801")
        assert client.account == "M17"
    assert {each.params.get("mchid") for each in qfpay_gateway.requests[1:]} == {"M17"}


@pytest.mark.parametrize("sign_type", ["MD5", "SHA256"])
async def test_sign_types(qfpay_gateway: Gateway, sign_type: str) -> None:
    """Both signatures are accepted; the header names SHA256 and is absent for MD5."""
    qfpay_gateway.config.sign_types = frozenset({sign_type})
    credentials = Credentials(qfpay_gateway.app_code, qfpay_gateway.client_key, sign_type=sign_type)
    async with PreauthClient(credentials, base_url=qfpay_gateway.url, ledger="memory://") as client:
        syssn = await registered(client, qfpay_gateway)
        assert (await client.capture(syssn, 1_000, idempotency_key="k")).amount == 1_000
    header = qfpay_gateway.requests[0].headers.get("x-qf-signtype")
    assert header == ("SHA256" if sign_type == "SHA256" else None)


@pytest.mark.parametrize(("previous", "known"), [("OLD_KEY", True), ("OTHER_KEY", False), (None, False)])
async def test_answers_signed_with_the_previous_key(qfpay_gateway: Gateway, previous: str | None, known: bool) -> None:
    """While a key is changed, answers signed with the previous one count; with an unknown one they leave doubt."""
    qfpay_gateway.config.sign_answers = True
    qfpay_gateway.client_key, qfpay_gateway.config.other_keys = "OLD_KEY", ("NEW_KEY",)
    credentials = Credentials(qfpay_gateway.app_code, "NEW_KEY", previous_client_key=previous)
    async with PreauthClient(credentials, base_url=qfpay_gateway.url, ledger="memory://") as client:
        syssn = await registered(client, qfpay_gateway)
        if known:
            assert (await client.capture(syssn, 1_000, idempotency_key="k")).code == "0000"
        else:
            with pytest.raises(OutcomeUnknownError, match="signature"):
                await client.capture(syssn, 1_000, idempotency_key="k", patience_s=0)


async def test_a_wrong_key_is_mended(qfpay_gateway: Gateway) -> None:
    """Code 1108 with a wrong key; the same idempotency key runs again with the right one."""
    ledger_client = client_of(qfpay_gateway)
    right, qfpay_gateway.client_key = qfpay_gateway.client_key, "ANOTHER"
    async with ledger_client as client:
        syssn = await registered(client, qfpay_gateway)
        with pytest.raises(CredentialsRejectedError, match="1108"):
            await client.capture(syssn, 1_000, idempotency_key="k")
        qfpay_gateway.client_key = right
        assert (await client.capture(syssn, 1_000, idempotency_key="k")).replayed is False


async def test_capture_reference(qfpay_gateway: Gateway) -> None:
    """With capture_reference captures carry a number of ours, the same on every attempt; a refusal of it is final."""
    async with client_of(qfpay_gateway, capture_reference=True) as client:
        syssn = await registered(client, qfpay_gateway)
        qfpay_gateway.faults.add("rate_limited", operation="capture")
        await client.capture(syssn, 1_000, idempotency_key="k")
        numbers = [each.params["out_trade_no"] for each in qfpay_gateway.requests]
        assert len(numbers) == 2
        assert len(set(numbers)) == 1
        assert numbers[0].isalnum()
        assert all("txdtm" in each.params for each in qfpay_gateway.requests)
        qfpay_gateway.config.capture_number = "refuse"
        with pytest.raises(DeclinedError, match="1104"):
            await client.capture(syssn, 2_000, idempotency_key="k2")


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
async def test_environment_proxies(qfpay_gateway: Gateway, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A proxy in the environment is ignored unless trust_env asks for it."""
    for each in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with client_of(qfpay_gateway) as client:
        syssn = await registered(client, qfpay_gateway)
        assert (await client.capture(syssn, 1_000, idempotency_key="k")).amount == 1_000
    if name != "ALL_PROXY":
        async with client_of(qfpay_gateway, trust_env=True, attempts_max=1) as client:
            syssn = await registered(client, qfpay_gateway)
            with pytest.raises(Exception, match="not sent"):
                await client.capture(syssn, 1_000, idempotency_key="k2")
    assert sent(qfpay_gateway) == 1


# ------------------------------------------------------------------------------------------------ decisions


async def test_resolve(client: PreauthClient, qfpay_gateway: Gateway) -> None:
    """A person's decision ends a doubt: replayed as a result, or freed; recorded with its reason."""
    one = await scene(qfpay_gateway, client, "capture")
    for key, kind in (("yes", "drop_after"), ("no", "drop_before")):
        qfpay_gateway.faults.add(kind, operation="capture")
        await one.fails(key, 1_000 + len(key))
    movement = next(iter(qfpay_gateway.books.of_hold(one.syssn)))
    entry = await client.resolve("yes", Outcome.HAPPENED, reason="seen in the portal", syssn=movement.syssn)
    assert (entry.state, entry.reason, entry.confirmed_by) == (State.EXECUTED, "seen in the portal", "operator")
    entry = await client.resolve("no", Outcome.NOTHING_HAPPENED, reason="QFPay said so by phone")
    assert (entry.state, entry.why) == (State.NOT_EXECUTED, Why.OPERATOR)
    before = sent(qfpay_gateway)
    replayed = await one.run("yes", 1_003)
    assert (replayed.replayed, replayed.confirmed_by, replayed.syssn) == (True, "operator", movement.syssn)
    with pytest.raises(DeclinedError, match="by phone"):
        await one.run("no", 1_002)
    assert sent(qfpay_gateway) == before
    balance = await client.balance(one.syssn)
    assert (balance.captured, balance.in_doubt, balance.capturable) == (1_003, 0, 48_997)
    again = await client.resolve("yes", Outcome.HAPPENED, reason="again", syssn=movement.syssn)
    assert again.reason == "seen in the portal"
    with pytest.raises(IdempotencyConflictError):
        await client.resolve("yes", Outcome.NOTHING_HAPPENED, reason="no, after all")
    assert (await one.run("yes", 1_003)).replayed is True


async def test_resolve_refuses_bad_input(client: PreauthClient, qfpay_gateway: Gateway) -> None:
    """No such entry, no outcome, no reason, a syssn that is another's: a clear error, and nothing changes."""
    one = await scene(qfpay_gateway, client, "capture")
    qfpay_gateway.faults.add("drop_after", operation="capture", after=1)
    done = await one.run("done", 1_000)
    await one.fails()
    bad: list[Callable[[], Coroutine[Any, Any, object]]] = [
        lambda: client.resolve("unknown", Outcome.HAPPENED, reason="r"),
        lambda: client.resolve("key", Outcome.UNKNOWN, reason="r"),
        lambda: client.resolve("key", "happened", reason="r"),  # type: ignore[arg-type]
        lambda: client.resolve("key", Outcome.HAPPENED, reason=" "),
        lambda: client.resolve("key", Outcome.HAPPENED, reason="r\nr"),
        lambda: client.resolve("key", Outcome.HAPPENED, reason="r" * 1_001),
        lambda: client.resolve("key", Outcome.HAPPENED, reason="r", syssn="a,b"),
        lambda: client.resolve("key", Outcome.NOTHING_HAPPENED, reason="r", syssn="1"),
        lambda: client.resolve(" ", Outcome.HAPPENED, reason="r"),
    ]
    for call in bad:
        with pytest.raises(InvalidRequestError):
            await call()
    with pytest.raises(IdempotencyConflictError):
        await client.resolve("key", Outcome.HAPPENED, reason="r", syssn=done.syssn)
    assert await one.doubts() == ["key"]


async def test_resolve_waits_for_what_is_under_way(client: PreauthClient, qfpay_gateway: Gateway) -> None:
    """An entry that may still be under way cannot be decided by a person."""
    one = await scene(qfpay_gateway, client, "capture")
    qfpay_gateway.faults.add("hang_after", operation="capture")
    call = asyncio.create_task(one.run())
    await qfpay_gateway.wait_hanging()
    with pytest.raises(OperationInProgressError):
        await client.resolve("key", Outcome.NOTHING_HAPPENED, reason="r")
    qfpay_gateway.release()
    assert (await call).amount == one.amount


# ------------------------------------------------------------------------------------------------ bad input

BAD_AMOUNTS: list[object] = [12.5, 1.0, True, -1, 0, 100_000_000_000, "100", None, Decimal(100), float("nan"), 10**5000]
BAD_KEYS: list[object] = ["", " ", "\t", "k" * 256, "a\nb", "a\x00b", None, 7, b"k", "\ud800"]
BAD_IDS: list[object] = ["", " ", "a,b", "a&b", "a=b", "a b", "1" * 129, None, 7, "é", "a\n"]


@pytest.mark.parametrize("operation", ["capture", "unfreeze", "refund"])
async def test_bad_input_writes_and_sends_nothing(
    client: PreauthClient, qfpay_gateway: Gateway, operation: str
) -> None:
    """A bad amount, key, id or time is refused with the argument's name; nothing is written, nothing sent."""
    one = await scene(qfpay_gateway, client, operation)
    before, balance = len(qfpay_gateway.requests), await client.balance(one.syssn)
    method: Any = getattr(client, operation)
    amounts = [each for each in BAD_AMOUNTS if not (operation == "unfreeze" and each is None)]
    cases: list[tuple[str, tuple[object, ...], dict[str, object]]] = []
    cases += [("amount", (one.target, amount), {"idempotency_key": "k"}) for amount in amounts]
    cases += [("idempotency_key", (one.target, one.amount), {"idempotency_key": key}) for key in BAD_KEYS]
    cases += [("syssn", (syssn, one.amount), {"idempotency_key": "k"}) for syssn in BAD_IDS]
    for name in ("deadline_s", "patience_s"):
        for value in (-1, True, "1", float("nan"), float("inf"), 86_401):
            cases.append((name, (one.target, one.amount), {"idempotency_key": "k", name: value}))
    for name, positional, named in cases:
        with pytest.raises(InvalidRequestError, match=name) as caught:
            await method(*positional, **named)
        assert isinstance(caught.value, ValueError)
        assert caught.value.outcome is Outcome.NOTHING_HAPPENED
    with pytest.raises(TypeError):
        await method(one.target, one.amount)
    assert (len(qfpay_gateway.requests), await client.balance(one.syssn)) == (before, balance)
    assert await client.entry("k") is None


async def test_bad_registrations(client: PreauthClient, qfpay_gateway: Gateway) -> None:
    """Unknown currencies, JPY without a stated exponent, naive times and the like are refused by name."""
    good: dict[str, Any] = {"syssn": "1", "amount": 1_000, "currency": "HKD", "out_trade_no": "O1"}
    bad: list[tuple[str, object]] = [
        *(("amount", each) for each in BAD_AMOUNTS),
        *(("syssn", each) for each in BAD_IDS),
        *(("out_trade_no", each) for each in BAD_IDS),
        *(("currency", each) for each in ("JPY", "XXX", "hkd", "", None, 344, ["HKD"])),
        *(("authorized_at", each) for each in (datetime(2026, 1, 1), "2026-01-01", 0)),  # noqa: DTZ001 - naive is bad
        *(("capture_window", each) for each in (timedelta(0), timedelta(days=-1), 7, timedelta(days=999))),
    ]
    for name, value in bad:
        with pytest.raises(InvalidRequestError, match=name):
            await client.register_authorization(**{**good, name: value})
    with pytest.raises(UnknownAuthorizationError):
        await client.balance("1")
    assert qfpay_gateway.requests == []


def test_minor_units() -> None:
    """Major units become minor units exactly, or not at all."""
    assert minor_units(Decimal("12.50"), "HKD") == 1_250
    assert minor_units("0.01", "USD") == 1
    assert minor_units(500, "JPY", exponent=0) == 500
    for amount in (Decimal("12.505"), 12.5, True, Decimal("NaN"), Decimal("Infinity"), "1e99", "x", 0, -1, 10**10):
        with pytest.raises(InvalidRequestError):
            minor_units(amount, "HKD")  # type: ignore[arg-type]
    with pytest.raises(InvalidRequestError, match="JPY"):
        minor_units(500, "JPY")


async def test_the_history_of_a_key_and_the_owner_of_a_syssn(client: PreauthClient, qfpay_gateway: Gateway) -> None:
    """What happened under a key, oldest first; and what a syssn is to us: a hold, that key's capture, or nobody's."""
    syssn = await registered(client, qfpay_gateway)
    capture = await client.capture(syssn, 1_000, idempotency_key="k")
    assert [(each.kind, each.to_state) for each in await client.history("k")] == [
        ("capture", State.HELD),
        ("capture", State.EXECUTED),
    ]
    assert await client.history("another") == ()
    hold, taken = await client.movement(syssn), await client.movement(str(capture.syssn))
    assert hold is not None
    assert taken is not None
    assert (hold.kind, taken.kind, taken.authorization, taken.idempotency_key) == (
        "authorization",
        "capture",
        syssn,
        "k",
    )
    assert await client.movement("20260101000000000000000001") is None
    for bad in ("", None, 5):
        with pytest.raises(InvalidRequestError):
            await client.history(bad)  # type: ignore[arg-type]
        with pytest.raises(InvalidRequestError):
            await client.movement(bad)  # type: ignore[arg-type]
