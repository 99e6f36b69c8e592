"""The Prometheus and structlog eyes with the real packages, the watch over doubts, and what is said without them."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog
from prometheus_client import CollectorRegistry, generate_latest
from structlog.testing import capture_logs

from qfpay_preauth import (
    CallEvent,
    ConfigurationError,
    Doubt,
    Event,
    LedgerUnavailableError,
    OverCaptureError,
    PreauthClient,
    RateLimitedError,
)
from qfpay_preauth.instrumentation import (
    BooksEvent,
    Hook,
    all_of,
    opentelemetry_hook,
    prometheus_hook,
    structlog_hook,
    watch_doubts,
)
from qfpay_preauth.testing import Gateway
from tests.evidence.broken import unwritable
from tests.evidence.kit import HOLD, Heard, hearing_client, lose, teach_words, until
from tests.recipes.test_otel import PAN, _a_bad_day
from tests.support import registered, sqlite_url


def figure(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    """One sample of ours, summed over nothing: all its labels are given but the account."""
    found = [
        sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == f"qfpay_preauth_{name}"
        and {key: value for key, value in sample.labels.items() if key != "account"} == labels
    ]
    return found[0] if found else None


async def test_prometheus_figures(qfpay_gateway: Gateway) -> None:
    """Calls by what came of them, attempts by answer, doubts raised and ended, and what was done elsewhere."""
    registry = CollectorRegistry()
    async with hearing_client(qfpay_gateway, prometheus_hook(registry)) as client:
        await teach_words(client, qfpay_gateway)
        syssn = await registered(client, qfpay_gateway, HOLD)
        await client.capture(syssn, 1_000, idempotency_key="k")
        await client.capture(syssn, 1_000, idempotency_key="k")
        with pytest.raises(OverCaptureError):
            await client.capture(syssn, HOLD, idempotency_key="over")
        await lose(client, qfpay_gateway, syssn)
        qfpay_gateway.portal_capture(syssn, 3_000)
        await client.reconcile()
    call = {"operation": "capture", "outcome": "happened"}
    assert figure(registry, "call_duration_seconds_count", **call, result="executed") == 2
    assert figure(registry, "call_duration_seconds_count", **call, result="replayed") == 1
    refused = {"operation": "capture", "outcome": "nothing_happened", "result": "OverCaptureError"}
    assert figure(registry, "call_duration_seconds_count", **refused) == 1
    assert figure(registry, "attempts_total", operation="capture", answer="HTTP 200") == 2
    assert figure(registry, "attempts_total", operation="capture", answer="Unknown") == 1
    assert figure(registry, "doubts_raised_total", operation="capture") == 1
    assert figure(registry, "doubts_ended_total", operation="capture", state="executed") == 1
    assert figure(registry, "discrepancies_total", discrepancy="missing_here") == 1
    assert figure(registry, "reports_total", report="foreign") == 1


async def test_budget_starvation_is_a_figure(qfpay_gateway: Gateway) -> None:
    """A call that found no room in the budget before its deadline, and sent nothing, is counted as rate limited."""
    registry = CollectorRegistry()
    hook = prometheus_hook(registry)
    async with hearing_client(qfpay_gateway, hook, requests_per_minute=2, requests_per_second=1) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        await client.capture(syssn, 1_000, idempotency_key="first")
        with pytest.raises(RateLimitedError):
            await client.capture(syssn, 2_000, idempotency_key="second", deadline_s=0.1)
    labels = {"operation": "capture", "outcome": "nothing_happened", "result": "RateLimitedError"}
    assert figure(registry, "call_duration_seconds_count", **labels) == 1


async def test_a_failing_ledger_is_a_figure(qfpay_gateway: Gateway, tmp_path: Path) -> None:
    """A call that the ledger could not keep is counted, and an error in the log."""
    registry, heard = CollectorRegistry(), Heard()
    hook = all_of(prometheus_hook(registry), structlog_hook(), heard)
    async with hearing_client(qfpay_gateway, hook, sqlite_url(tmp_path)) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        with unwritable(tmp_path / "ledger.db"), capture_logs() as lines, pytest.raises(LedgerUnavailableError):
            await client.capture(syssn, 1_000, idempotency_key="k")
    labels = {"operation": "capture", "outcome": "nothing_happened", "result": "LedgerUnavailableError"}
    assert figure(registry, "call_duration_seconds_count", **labels) == 1
    assert [(line["event"], line["log_level"]) for line in lines] == [("qfpay_preauth.call", "error")]


async def test_labels_stay_few(qfpay_gateway: Gateway) -> None:
    """Whatever the gateway says, labels hold no id, key, secret or card, and their values stay few."""
    registry = CollectorRegistry()
    async with hearing_client(qfpay_gateway, prometheus_hook(registry)) as client:
        await _a_bad_day(client, qfpay_gateway)
        syssns = [await registered(client, qfpay_gateway) for _ in range(30)]
        await asyncio.gather(*(client.capture(each, 1_000, idempotency_key=f"key-{each}") for each in syssns))
    text = generate_latest(registry).decode()
    assert [each for each in (PAN, qfpay_gateway.client_key, "key-", *syssns) if each in text] == []
    assert text.count("qfpay_preauth_call_duration_seconds_count{") < 5


def test_one_registry_one_hook() -> None:
    """A registry takes one hook, which all clients share; a second says so at once."""
    registry = CollectorRegistry()
    prometheus_hook(registry)
    with pytest.raises(ValueError, match="Duplicated"):
        prometheus_hook(registry)


async def test_structlog_lines(qfpay_gateway: Gateway) -> None:
    """One line per event with its fields: steps at debug, ends at info, doubts at warning; no amounts unless asked."""
    async with hearing_client(qfpay_gateway, structlog_hook()) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        with capture_logs() as lines:
            await client.capture(syssn, 12_345, idempotency_key="k")
            await lose(client, qfpay_gateway, syssn)
    told = [(line["event"].removeprefix("qfpay_preauth."), line["log_level"]) for line in lines]
    steps = [("capture", "debug"), ("attempt", "debug"), ("capture", "debug")]
    assert told == [*steps, ("call", "info"), *steps, ("doubt", "warning"), ("call", "warning")]
    assert (lines[3]["authorization"], lines[3]["idempotency_key"], lines[3]["outcome"]) == (syssn, "k", "happened")
    assert "12345" not in repr(lines)


async def test_structlog_shows_what_elsewhere_happened(qfpay_gateway: Gateway) -> None:
    """Discrepancies are errors; with `amounts=True` their text says both sides."""
    async with hearing_client(qfpay_gateway, structlog_hook(amounts=True)) as client:
        await teach_words(client, qfpay_gateway)
        syssn = await registered(client, qfpay_gateway, HOLD)
        qfpay_gateway.portal_capture(syssn, 31_313)
        with capture_logs() as lines:
            await client.reconcile()
    (line,) = [line for line in lines if line["event"] == "qfpay_preauth.discrepancy"]
    assert (line["log_level"], line["discrepancy"], "31313" in line["detail"]) == ("error", "missing_here", True)


async def test_structlog_with_a_logger_of_the_users(qfpay_gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    """A logger of the user's own, here on the standard library's logging, gets the lines; no secret in them."""
    logger = structlog.wrap_logger(logging.getLogger("shop"), processors=[structlog.processors.JSONRenderer()])
    caplog.set_level(logging.DEBUG, "shop")
    async with hearing_client(qfpay_gateway, structlog_hook(logger)) as client:
        await _a_bad_day(client, qfpay_gateway)
    lines = [record.getMessage() for record in caplog.records if record.name == "shop"]
    assert len(lines) > 5
    assert [line for line in lines if PAN in line or qfpay_gateway.client_key in line] == []


# ------------------------------------------------------------------------------------------------ the watch


async def test_the_watch_tells_number_and_age(qfpay_gateway: Gateway) -> None:
    """How many doubts there are and how old the oldest is, at once and then again and again; it sends nothing."""
    heard, registry = Heard(), CollectorRegistry()
    async with hearing_client(qfpay_gateway, heard) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        await lose(client, qfpay_gateway, syssn)
        before = len(qfpay_gateway.requests)
        watch = asyncio.create_task(watch_doubts(client, all_of(heard, prometheus_hook(registry)), interval_s=0.01))
        await until(lambda: _many(heard, 3))
        watch.cancel()
        books = [event for event in heard.events if isinstance(event, BooksEvent)]
        assert [(each.doubts, each.needs_attention, each.readable) for each in books[:3]] == [(1, 0, True)] * 3
        assert 0 < books[0].oldest_doubt_s < books[2].oldest_doubt_s
        assert len(qfpay_gateway.requests) == before
    assert figure(registry, "doubts") == 1
    assert figure(registry, "ledger_up") == 1


async def _many(heard: Heard, count: int) -> bool:
    return sum(isinstance(event, BooksEvent) for event in heard.events) >= count


async def test_the_watch_ends_with_the_client(qfpay_gateway: Gateway) -> None:
    """Once the client is closed there is nothing to watch: it says so and ends."""
    heard = Heard()
    async with hearing_client(qfpay_gateway, heard) as client:
        watch = asyncio.create_task(watch_doubts(client, heard, interval_s=0.01))
        await until(lambda: _many(heard, 1))
    with pytest.raises(ConfigurationError, match="closed"):
        await watch


class Blind:
    """A client whose ledger does not answer."""

    account = "shop"

    async def in_doubt(self) -> AsyncIterator[Doubt]:
        """Fail as a ledger does, at the first step."""
        for error in [LedgerUnavailableError("The disk is gone.")]:
            raise error
            yield


async def test_the_watch_over_a_dead_ledger(caplog: pytest.LogCaptureFixture) -> None:
    """A ledger that cannot be read is told as such, again and again, and a hook that raises does not end the watch."""
    heard, registry = Heard(), CollectorRegistry()
    hook = all_of(_raise, heard, prometheus_hook(registry), structlog_hook())
    with capture_logs() as lines:
        watch = asyncio.create_task(watch_doubts(Blind(), hook, interval_s=0.01))
        await until(lambda: _many(heard, 3))
        watch.cancel()
    assert (figure(registry, "ledger_up"), figure(registry, "doubts")) == (0, None)
    assert {line["log_level"] for line in lines} == {"error"}
    assert "an event hook raised on books" in caplog.text


def _raise(event: Event) -> None:
    raise RuntimeError(event.kind)


def _cancelled(event: Event) -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize("bad", [_raise, _cancelled])
async def test_a_bad_hook_among_others(qfpay_gateway: Gateway, bad: Callable[[Event], None]) -> None:
    """Of several hooks one that raises, even a cancellation, keeps no other from hearing, and harms no capture."""
    heard = Heard()
    async with hearing_client(qfpay_gateway, all_of(bad, heard)) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        assert (await client.capture(syssn, 1_000, idempotency_key="k")).amount == 1_000
    assert heard.kinds() == ["capture", "attempt", "capture", "call"]


# ------------------------------------------------------------------------------------------------ without the extras


@pytest.mark.parametrize(
    ("make", "package", "extra"),
    [
        (opentelemetry_hook, "opentelemetry", "otel"),
        (prometheus_hook, "prometheus_client", "prometheus"),
        (structlog_hook, "structlog", "structlog"),
    ],
)
def test_a_missing_extra(monkeypatch: pytest.MonkeyPatch, make: Callable[[], Hook], package: str, extra: str) -> None:
    """Without its package a hook is a ConfigurationError that says what to install."""
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"qfpay_preauth._eyes_{extra}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigurationError, match=rf"pip install 'qfpay_preauth\[{extra}\]'"):
        make()


def test_unknown_kinds_are_reports() -> None:
    """An event of a kind that is not known yet is counted, never lost or an error."""
    registry = CollectorRegistry()
    hook = all_of(prometheus_hook(registry), structlog_hook(), opentelemetry_hook())
    now = datetime.now(UTC)
    with capture_logs() as lines:
        hook(Event("a", now, "something-new", "1"))
        hook(CallEvent("a", now, "call", "1"))
    assert figure(registry, "reports_total", report="something-new") == 1
    assert [line["log_level"] for line in lines] == ["info", "info"]


def test_a_client_takes_the_hook() -> None:
    """`from_env` hands the hook on, so that a program set up by its environment has eyes."""
    heard = Heard()
    environ = {"QFPAY_APP_CODE": "a", "QFPAY_CLIENT_KEY": "k", "QFPAY_LEDGER": "memory://"}
    assert PreauthClient.from_env(environ, on_event=heard)._on_event is heard
