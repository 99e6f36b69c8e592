"""The OpenTelemetry eye: one span per call with an event per attempt and move, and the figures of `_figures`."""

from __future__ import annotations

import threading
from datetime import datetime
from typing import Any

from opentelemetry.metrics import MeterProvider, get_meter
from opentelemetry.trace import SpanKind, StatusCode, TracerProvider, get_tracer

from qfpay_preauth._events import CallEvent
from qfpay_preauth._figures import BUCKETS_S, METRICS, BooksEvent, measures, shown
from qfpay_preauth._models import Event
from qfpay_preauth.errors import Outcome

CALLS_MAX = 10_000  # calls under way at one time whose events are kept; of more, the oldest span lacks its events
STEPS_MAX = 100  # events of one span


class Spans:
    """Keeps what happens in a call, and writes it as one span when the call ends; bounded, and safe across threads."""

    def __init__(self, provider: TracerProvider | None, *, amounts: bool) -> None:
        self._tracer = get_tracer("qfpay_preauth", tracer_provider=provider)
        self._amounts = amounts
        self._steps: dict[int, list[Event]] = {}
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        """Keep a call's step, end a call's span, or write what stands alone."""
        if isinstance(event, CallEvent) and event.kind != "call":
            self._keep(event)
        elif not isinstance(event, BooksEvent):
            self._write(event)

    def _keep(self, event: CallEvent) -> None:
        with self._lock:
            steps = self._steps.setdefault(event.call, [])
            if len(steps) < STEPS_MAX:
                steps.append(event)
            if len(self._steps) > CALLS_MAX:
                del self._steps[next(iter(self._steps))]

    def _write(self, event: Event) -> None:
        call = event if isinstance(event, CallEvent) else None
        end_ns = _ns(event.at)
        began_ns = end_ns - round((call.duration_s or 0.0) * 1e9) if call else end_ns
        span = self._tracer.start_span(
            f"qfpay_preauth.{call.operation if call else _alone(event)}",
            kind=SpanKind.CLIENT if call else SpanKind.INTERNAL,
            attributes=self._fields(event),
            start_time=began_ns,
        )
        with self._lock:
            steps = self._steps.pop(call.call, []) if call else []
        for step in steps:
            span.add_event(step.kind, self._fields(step), timestamp=_ns(step.at))
        if event.kind == "discrepancy" or (call and call.outcome is not Outcome.HAPPENED):
            span.set_attribute("error.type", (call and call.detail) or "discrepancy")
            span.set_status(StatusCode.ERROR)
        span.end(end_time=end_ns)

    def _fields(self, event: Event) -> dict[str, Any]:
        return {f"qfpay_preauth.{name}": value for name, value in shown(event, amounts=self._amounts).items()}


class Metrics:
    """A hook with the figures as OpenTelemetry instruments."""

    def __init__(self, provider: MeterProvider | None) -> None:
        meter = get_meter("qfpay_preauth", meter_provider=provider)
        self._tell: dict[str, Any] = {}
        for name, metric in METRICS.items():
            full, unit = f"qfpay_preauth.{name.removesuffix('_seconds')}", "s" if name.endswith("_seconds") else "1"
            if metric.kind == "counter":
                self._tell[name] = meter.create_counter(full, unit, metric.help).add
            elif metric.kind == "histogram":
                self._tell[name] = meter.create_histogram(
                    full, unit, metric.help, explicit_bucket_boundaries_advisory=BUCKETS_S
                ).record
            else:
                self._tell[name] = meter.create_gauge(full, unit, metric.help).set

    def __call__(self, event: Event) -> None:
        """Add, record or set what the event says."""
        for name, value, labels in measures(event):
            self._tell[name](value, {"account": event.account, **labels})


def _alone(event: Event) -> str:
    """The name of a span of no length: a doubt's end, or the kind of what was seen."""
    return "doubt_ended" if event.to_state else event.kind


def _ns(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000) * 1_000
