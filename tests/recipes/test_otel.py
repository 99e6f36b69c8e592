"""The OpenTelemetry eye with the real SDK: one span per call, an event per attempt, the figures; nothing leaks."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from attrs import evolve, frozen
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from qfpay_preauth import CallEvent, OperationInProgressError, OverCaptureError, PreauthClient
from qfpay_preauth._eyes_otel import CALLS_MAX, STEPS_MAX, Spans
from qfpay_preauth.instrumentation import Hook, opentelemetry_hook, watch_doubts
from qfpay_preauth.testing import Gateway
from tests.client.kit import until
from tests.evidence.kit import HOLD, hearing_client, lose, teach_words
from tests.support import registered

PAN = "4111111111111111"


@frozen
class Eyes:
    """The hook, and what the SDK got from it."""

    hook: Hook
    traces: TracerProvider
    exporter: InMemorySpanExporter
    reader: InMemoryMetricReader

    def spans(self, name: str = "qfpay_preauth.") -> list[ReadableSpan]:
        """The finished spans whose name starts with `name`, oldest first."""
        return [span for span in self.exporter.get_finished_spans() if span.name.startswith(name)]

    def figures(self) -> dict[str, dict[frozenset[tuple[str, Any]], NumberDataPoint | HistogramDataPoint]]:
        """Metric → labels → point."""
        data = self.reader.get_metrics_data()
        scopes = [scope for each in data.resource_metrics for scope in each.scope_metrics] if data else []
        found = [metric for scope in scopes for metric in scope.metrics]
        return {each.name: {_labels(point.attributes): point for point in each.data.data_points} for each in found}  # type: ignore[misc]


def _labels(attributes: Mapping[str, Any] | None) -> frozenset[tuple[str, Any]]:
    return frozenset((name, value) for name, value in (attributes or {}).items() if name != "account")


def eyes(*, amounts: bool = False) -> Eyes:
    """A hook on providers of its own."""
    exporter, reader, traces = InMemorySpanExporter(), InMemoryMetricReader(), TracerProvider()
    traces.add_span_processor(SimpleSpanProcessor(exporter))
    meters = MeterProvider(metric_readers=[reader])
    hook = opentelemetry_hook(tracer_provider=traces, meter_provider=meters, amounts=amounts)
    return Eyes(hook, traces, exporter, reader)


def fields(span: ReadableSpan) -> dict[str, Any]:
    """A span's attributes without the prefix."""
    return {name.removeprefix("qfpay_preauth."): value for name, value in (span.attributes or {}).items()}


async def test_one_span_for_a_call(qfpay_gateway: Gateway) -> None:
    """A capture is one span with its outcome, a child of the caller's, with an event per move and attempt, in time."""
    seen = eyes()
    async with hearing_client(qfpay_gateway, seen.hook) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        qfpay_gateway.faults.add("rate_limited", operation="capture", times=2)
        with seen.traces.get_tracer("shop").start_as_current_span("checkout") as checkout:
            await client.capture(syssn, 10_000, idempotency_key="order-1")
        assert [span.name for span in seen.spans()] == ["qfpay_preauth.capture"]
        span = seen.spans()[0]
        assert span.parent is not None
        assert span.parent.span_id == checkout.get_span_context().span_id
        assert span.status.status_code is StatusCode.UNSET
        told = fields(span)
        assert told.pop("duration_s") > 0
        assert told == {
            "account": client.account,
            "authorization": syssn,
            "idempotency_key": "order-1",
            "operation": "capture",
            "outcome": "happened",
            "detail": "executed",
        }
        assert [event.name for event in span.events] == ["capture", "attempt", "attempt", "attempt", "capture"]
        answers = [(event.attributes or {}).get("qfpay_preauth.detail") for event in span.events]
        assert answers[1:4] == ["HTTP 429", "HTTP 429", "HTTP 200"]
        times = [span.start_time, *(event.timestamp for event in span.events), span.end_time]
        margin_ns = 5_000_000  # the clocks of the moments and of the duration are two
        assert all(later - before >= -margin_ns for before, later in itertools.pairwise(times))  # type: ignore[operator]


async def test_errors_and_replays(qfpay_gateway: Gateway) -> None:
    """A refusal is a span with its error and no attempt; a replay is one without; neither shows an amount."""
    seen = eyes()
    async with hearing_client(qfpay_gateway, seen.hook) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        await client.capture(syssn, 12_345, idempotency_key="a")
        await client.capture(syssn, 12_345, idempotency_key="a")
        with pytest.raises(OverCaptureError):
            await client.capture(syssn, 49_999, idempotency_key="b")
        _, replay, refusal = seen.spans()
        assert (fields(replay)["detail"], replay.events) == ("replayed", ())
        assert refusal.status.status_code is StatusCode.ERROR
        assert (fields(refusal)["error.type"], fields(refusal)["outcome"]) == ("OverCaptureError", "nothing_happened")
        assert refusal.events == ()
        shown = "".join(span.to_json() for span in seen.spans())
        assert "12345" not in shown
        assert "49999" not in shown


async def test_amounts_where_asked(qfpay_gateway: Gateway) -> None:
    """With `amounts=True` a span and its events say how much, an unfreeze too."""
    seen = eyes(amounts=True)
    async with hearing_client(qfpay_gateway, seen.hook) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        await client.capture(syssn, 12_345, idempotency_key="a")
        await client.unfreeze(syssn, idempotency_key="u")
        assert [fields(span)["amount"] for span in seen.spans()] == [12_345, HOLD - 12_345]
        assert {(event.attributes or {})["qfpay_preauth.amount"] for event in seen.spans()[0].events} == {12_345}


async def test_a_doubt_and_its_end(qfpay_gateway: Gateway) -> None:
    """A lost answer is a span in error with outcome unknown; what ends the doubt later is a span of its own."""
    seen = eyes()
    async with hearing_client(qfpay_gateway, seen.hook) as client:
        await teach_words(client, qfpay_gateway)
        seen.exporter.clear()
        syssn = await registered(client, qfpay_gateway, HOLD)
        await lose(client, qfpay_gateway, syssn)
        await client.reconcile()
        lost, ended = seen.spans()
        assert (fields(lost)["error.type"], fields(lost)["outcome"]) == ("OutcomeUnknownError", "unknown")
        assert [event.name for event in lost.events] == ["capture", "attempt", "capture", "doubt"]
        assert (ended.name, fields(ended)["to_state"]) == ("qfpay_preauth.doubt_ended", "executed")
        assert fields(ended)["idempotency_key"] == fields(lost)["idempotency_key"] == "lost"
        figures = seen.figures()
        assert set(figures["qfpay_preauth.doubts_raised"]) == {frozenset({("operation", "capture")})}
        assert set(figures["qfpay_preauth.doubts_ended"]) == {
            frozenset({("operation", "capture"), ("state", "executed")})
        }


async def test_evidence_within_the_call(qfpay_gateway: Gateway) -> None:
    """A doubt that ends while the caller waits is one span that went well, as long as the whole call."""
    seen = eyes()
    async with hearing_client(qfpay_gateway, seen.hook) as client:
        await teach_words(client, qfpay_gateway)
        seen.exporter.clear()
        syssn = await registered(client, qfpay_gateway, HOLD)
        qfpay_gateway.faults.add("drop_after", operation="capture", amount=10_000)
        result = await client.capture(syssn, 10_000, idempotency_key="k", patience_s=10)
        assert result.confirmed_by == "enquiry"
        (span,) = seen.spans("qfpay_preauth.capture")
        assert span.status.status_code is StatusCode.UNSET
        assert fields(span)["duration_s"] > 0.3  # the first look for evidence comes after 0.4 s


async def test_discrepancies(qfpay_gateway: Gateway) -> None:
    """A movement made elsewhere is counted and shown with its kind, without the amounts that its text holds."""
    seen = eyes()
    async with hearing_client(qfpay_gateway, seen.hook) as client:
        await teach_words(client, qfpay_gateway)
        syssn = await registered(client, qfpay_gateway, HOLD)
        qfpay_gateway.portal_capture(syssn, 31_313)
        await client.reconcile()
        (span,) = seen.spans("qfpay_preauth.discrepancy")
        assert span.status.status_code is StatusCode.ERROR
        assert fields(span)["discrepancy"] == "missing_here"
        assert "31313" not in "".join(each.to_json() for each in seen.spans())
        figures = seen.figures()
        assert set(figures["qfpay_preauth.discrepancies"]) == {frozenset({("discrepancy", "missing_here")})}
        assert frozenset({("report", "foreign")}) in figures["qfpay_preauth.reports"]


async def test_figures(qfpay_gateway: Gateway) -> None:
    """Calls by what came of them, with their seconds; attempts by answer; doubts and their age; no id in a label."""
    seen = eyes()
    async with hearing_client(qfpay_gateway, seen.hook) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        for amount in (1_000, 2_000, 3_000):
            await client.capture(syssn, amount, idempotency_key=f"k{amount}")
        await lose(client, qfpay_gateway, syssn)
        with pytest.raises(OperationInProgressError):
            await client.unfreeze(syssn, idempotency_key="u")
        figures = seen.figures()

        def watched() -> bool:
            nonlocal figures  # an older SDK tells a gauge only to the first reading after it was set
            figures = seen.figures()
            return "qfpay_preauth.doubts" in figures

        watch = asyncio.create_task(watch_doubts(client, seen.hook, interval_s=0.01))
        await until(watched)
        watch.cancel()
        calls = figures["qfpay_preauth.call_duration"]
        done = calls[frozenset({("operation", "capture"), ("result", "executed"), ("outcome", "happened")})]
        assert isinstance(done, HistogramDataPoint)
        assert (done.count, done.sum > 0) == (3, True)
        labels = frozenset(
            {("operation", "unfreeze"), ("result", "OperationInProgressError"), ("outcome", "nothing_happened")}
        )
        assert labels in calls
        answered = figures["qfpay_preauth.attempts"][frozenset({("operation", "capture"), ("answer", "HTTP 200")})]
        assert isinstance(answered, NumberDataPoint)
        assert answered.value == 3
        gauges = {name: figures[f"qfpay_preauth.{name}"][frozenset()] for name in ("doubts", "ledger_up")}
        assert [point.value for point in gauges.values() if isinstance(point, NumberDataPoint)] == [1, 1]
        assert syssn not in repr(figures)


async def test_many_at_once_are_not_mixed_up(qfpay_gateway: Gateway) -> None:
    """Fifty calls at once are fifty spans with their own attempts; nothing is kept when they have ended."""
    spans = Spans((seen := eyes()).traces, amounts=False)
    qfpay_gateway.faults.add("rate_limited", operation="capture", times=20)
    async with hearing_client(qfpay_gateway, spans) as client:
        syssns = [await registered(client, qfpay_gateway) for _ in range(50)]
        await asyncio.gather(*(client.capture(each, 1_000, idempotency_key=each) for each in syssns))
    assert {fields(span)["authorization"] for span in seen.spans()} == set(syssns)
    for span in seen.spans():
        own = {(event.attributes or {})["qfpay_preauth.authorization"] for event in span.events}
        assert own == {fields(span)["authorization"]}
        assert [event.name for event in span.events][-2:] == ["attempt", "capture"]
    assert spans._steps == {}


async def test_who_leaves_and_who_is_cut_off(qfpay_gateway: Gateway) -> None:
    """The span of a caller that left, and of one that `aclose` cut off, come all the same, and nothing is kept."""
    spans = Spans((seen := eyes()).traces, amounts=False)
    client = hearing_client(qfpay_gateway, spans, timeout_total_s=30)
    async with client:
        first, second = [await registered(client, qfpay_gateway) for _ in range(2)]
        qfpay_gateway.faults.add("hang_after", operation="capture", syssn=first)
        leaving = asyncio.create_task(client.capture(first, 1_000, idempotency_key="left"))
        await qfpay_gateway.wait_hanging()
        leaving.cancel()
        qfpay_gateway.release()
        await until(lambda: bool(seen.spans()))
        assert (fields(seen.spans()[0])["idempotency_key"], fields(seen.spans()[0])["detail"]) == ("left", "executed")
        qfpay_gateway.faults.add("hang_after", operation="capture", syssn=second)
        cut = asyncio.create_task(client.capture(second, 1_000, idempotency_key="cut"))
        await qfpay_gateway.wait_hanging()
        await client.aclose(drain_s=0)
        await asyncio.wait((cut,))
    assert [fields(span)["outcome"] for span in seen.spans()] == ["happened", "unknown"]
    assert spans._steps == {}


def test_what_never_ends_is_bounded() -> None:
    """Calls whose end never comes, and one call with endless steps, keep a bounded number of events."""
    spans = Spans((seen := eyes()).traces, amounts=False)
    step = CallEvent("a", datetime.now(UTC), "attempt", "1", "k", call=1)
    for call in range(CALLS_MAX + 500):
        spans(evolve(step, call=call))
    for _ in range(STEPS_MAX + 50):
        spans(evolve(step, call=CALLS_MAX))
    assert len(spans._steps) == CALLS_MAX
    spans(evolve(step, kind="call", call=CALLS_MAX, duration_s=1.0))
    assert len(seen.spans()[0].events) == STEPS_MAX


def test_threads_share_a_hook() -> None:
    """Four threads, a loop and a client each, one hook: every call is a span with its own three events."""
    spans = Spans((seen := eyes()).traces, amounts=False)

    async def work() -> None:
        async with Gateway() as gateway, hearing_client(gateway, spans) as client:
            syssns = [await registered(client, gateway) for _ in range(15)]
            await asyncio.gather(*(client.capture(each, 1_000, idempotency_key=each) for each in syssns))

    threads = [threading.Thread(target=asyncio.run, args=(work(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [[event.name for event in span.events] for span in seen.spans()] == [["capture", "attempt", "capture"]] * 60
    assert spans._steps == {}


async def _a_bad_day(client: PreauthClient, gateway: Gateway) -> None:
    """Refusals, doubts and discrepancies whose texts hold a card number."""
    syssn = await registered(client, gateway, HOLD)
    text = f"card {PAN} refused"
    changes = {"respmsg": text, "resperr": text, "cardcd": PAN, "respcd": "1201"}
    gateway.faults.add("altered", operation="capture", changes=changes)
    with pytest.raises(Exception, match="declined"):
        await client.capture(syssn, 400, idempotency_key="k1")
    await lose(client, gateway, syssn, fault="garbled", text=f"<html>{PAN}")
    gateway.faults.add("altered", operation="query", rows=True, changes={"errmsg": text, "order_type": PAN}, times=None)
    await client.reconcile()


@pytest.mark.parametrize("amounts", [False, True])
async def test_no_secret_and_no_card(qfpay_gateway: Gateway, amounts: bool) -> None:
    """Whatever the gateway says, no span and no figure shows a key or a card number."""
    seen = eyes(amounts=amounts)
    async with hearing_client(qfpay_gateway, seen.hook) as client:
        await _a_bad_day(client, qfpay_gateway)
    shown = "".join(span.to_json() for span in seen.spans()) + repr(seen.figures())
    assert len(seen.spans()) > 1
    assert PAN not in shown
    assert qfpay_gateway.client_key not in shown


async def test_a_broken_exporter_harms_nothing(qfpay_gateway: Gateway) -> None:
    """An exporter that raises changes neither the capture nor the books."""

    class Broken(SimpleSpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            raise RuntimeError("the collector is down")

    traces = TracerProvider()
    traces.add_span_processor(Broken(InMemorySpanExporter()))
    hook = opentelemetry_hook(tracer_provider=traces, meter_provider=MeterProvider())
    async with hearing_client(qfpay_gateway, hook) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        assert (await client.capture(syssn, 10_000, idempotency_key="k")).amount == 10_000
        assert (await client.balance(syssn)).captured == qfpay_gateway.books.totals(syssn).captured == 10_000
