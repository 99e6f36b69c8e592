"""The public face with its types: only type-checked (`mypy --strict`), never run. What breaks callers breaks this."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, assert_type

from qfpay_preauth import (
    Authorization,
    Balance,
    BatchOutcome,
    BatchRow,
    Capture,
    Credentials,
    CredentialsRejectedError,
    DeclinedError,
    Doubt,
    Entry,
    Event,
    GatewayError,
    InvalidRequestError,
    Ledger,
    LedgerUnavailableError,
    Movement,
    Operation,
    Outcome,
    OutcomeUnknownError,
    OverCaptureError,
    OverRefundError,
    PaymentIntent,
    PreauthClient,
    PreauthError,
    RateLimitedError,
    RecoverReport,
    Refund,
    RowOutcome,
    Settings,
    State,
    Transaction,
    Unfreeze,
    Why,
    minor_units,
)


def made(credentials: Credentials, ledger: Ledger, environ: Mapping[str, str]) -> None:
    """Ways to make a client."""
    assert_type(PreauthClient(credentials, ledger="memory://"), PreauthClient)
    settings = Settings(deadline_s=30, patience_s=0.5, currency_exponents={"JPY": 0}, quiet_period_s=None)
    client = PreauthClient(credentials, environment="live_test", base_url=None, ledger=ledger, settings=settings)
    assert_type(client.account, str)
    assert_type(client.environment, str)
    assert_type(client.settings, Settings)
    assert_type(PreauthClient.from_env(), PreauthClient)
    assert_type(PreauthClient.from_env(environ), PreauthClient)
    Credentials(
        "APP1", "key", mchid=None, sign_type="MD5", notification_key=None, previous_client_key="old", account="a"
    )
    PreauthClient(credentials)  # type: ignore[call-arg] # the ledger has no default: it is the memory of every hold


async def moved(client: PreauthClient, syssn: str) -> None:
    """What moves money: the idempotency key has no default."""
    capture = await client.capture(syssn, 20_000, idempotency_key="order-17/parcel-1", deadline_s=5, patience_s=0)
    assert_type(capture, Capture)
    assert_type(capture.syssn, str | None)
    assert_type(capture.orig_syssn, str)
    assert_type(capture.amount, int)
    assert_type(capture.currency, str)
    assert_type(capture.code, str | None)
    assert_type(capture.message, str | None)
    assert_type(capture.system_time, datetime | None)
    assert_type(capture.replayed, bool)
    assert_type(capture.confirmed_by, str)
    assert_type(capture.raw, Mapping[str, Any])
    assert_type(await client.refund("C1", 5_000, idempotency_key="order-17/return-1"), Refund)
    assert_type(await client.unfreeze(syssn, idempotency_key="order-17/close"), Unfreeze)
    assert_type(await client.unfreeze(syssn, 30_000, idempotency_key="order-17/close"), Unfreeze)
    await client.capture(syssn, 1)  # type: ignore[call-arg] # the dangerous argument has no default
    await client.refund("C1", 1)  # type: ignore[call-arg]
    await client.unfreeze(syssn)  # type: ignore[call-arg]
    await client.capture(syssn, 1, "k")  # type: ignore[call-arg] # and it is named
    await client.capture(syssn, 12.5, idempotency_key="k")  # type: ignore[arg-type] # amounts are int minor units


async def prepared(client: PreauthClient, at: datetime, window: timedelta) -> None:
    """What comes before the first capture."""
    intent = await client.create_payment_intent(
        500, "HKD", out_trade_no="ORDER-17", pay_type="802801", return_url="https://shop.example/r", notify_url=None
    )
    assert_type(intent, PaymentIntent)
    assert_type(intent.payment_intent, str)
    assert_type(intent.intent_expiry, datetime | None)
    hold = await client.register_authorization(
        "S1", 50_000, "HKD", out_trade_no="ORDER-17", authorized_at=at, capture_window=window
    )
    assert_type(hold, Authorization)
    assert_type(hold.capturable, int)


async def looked_up(client: PreauthClient, at: datetime) -> None:
    """What only reads."""
    rows = client.query(syssn=["S1", "S2"], out_trade_no="ORDER-17", start=at, end=None)
    assert_type(rows, AsyncGenerator[Transaction, None])
    async for row in client.query(syssn="S1"):
        assert_type(row.amount, int | None)
        assert_type(row.code, str | None)
    balance = await client.balance("S1")
    assert_type(balance, Balance)
    assert_type(balance.capturable, int)
    entry = await client.entry("order-17/parcel-1")
    assert_type(entry, Entry | None)
    if entry is not None:
        assert_type(entry.state, State)
        assert_type(entry.operation, Operation)
        assert_type(entry.why, Why | None)
    assert_type(await client.history("order-17/parcel-1"), Sequence[Event])
    assert_type(await client.movement("C1"), Movement | None)
    async for doubt in client.in_doubt():
        assert_type(doubt, Doubt)
        assert_type(doubt.since, datetime)
    decided = await client.resolve("order-17/parcel-1", Outcome.HAPPENED, reason="seen in the portal", syssn="C1")
    assert_type(decided, Entry)


async def in_bulk(client: PreauthClient) -> None:
    """Many rows."""
    async for outcome in client.capture_many([BatchRow("k", "S1", 1)], stop=asyncio.Event()):
        assert_type(outcome, BatchOutcome)
        assert_type(outcome.outcome, RowOutcome)
        assert_type(outcome.result_syssn, str | None)
    assert_type(await client.recover(), RecoverReport)


async def lived(credentials: Credentials) -> None:
    """A client's lifetime."""
    async with PreauthClient(credentials, ledger="sqlite:///ledger.db") as client:
        assert_type(client, PreauthClient)
    await client.aclose()
    await client.aclose(drain_s=1.5)


def failed(error: Exception) -> None:
    """What errors carry."""
    if isinstance(error, PreauthError):
        assert_type(error.outcome, Outcome)
        assert_type(error.advice, str)
        assert_type(error.idempotency_key, str | None)
    if isinstance(error, OverCaptureError):
        assert_type(error.requested, int)
        assert_type(error.capturable, int)
    if isinstance(error, OverRefundError):
        assert_type(error.refundable, int)
    if isinstance(error, GatewayError):
        assert_type(error.code, str | None)
        assert_type(error.message, str | None)
    if isinstance(error, DeclinedError):
        assert_type(error.retry_later, bool)
    if isinstance(error, RateLimitedError):
        assert_type(error.retry_after_s, float | None)
    if isinstance(error, LedgerUnavailableError):
        assert_type(error.result, object | None)
    caught: ValueError = InvalidRequestError("a ValueError too")
    kinds: list[type[PreauthError]] = [CredentialsRejectedError, OutcomeUnknownError]
    raise kinds[0]() from caught


def converted() -> None:
    """Amounts."""
    assert_type(minor_units(Decimal("12.50"), "HKD"), int)
    assert_type(minor_units("12.50", "JPY", exponent=0), int)
    minor_units(12.5, "HKD")  # type: ignore[arg-type] # a float is never exact
