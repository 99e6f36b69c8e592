"""Eyes: hooks for `PreauthClient(..., on_event=…)` that feed OpenTelemetry, Prometheus and structlog.

    eyes = all_of(opentelemetry_hook(), structlog_hook())      # make one, give it to every client
    async with PreauthClient(..., on_event=eyes) as client:
        watch = asyncio.create_task(watch_doubts(client, eyes))    # doubts' number and age, from the ledger

Each needs its extra: `[otel]`, `[prometheus]`, `[structlog]`. No key of QFPay's and no card is ever in an event;
amounts are shown only where `amounts=True` says so; ids and idempotency keys are in spans and logs, never in the labels
of a metric. A hook that fails is logged and harms nothing. Clients, tasks and threads may share one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from qfpay_preauth._clock import SystemClock
from qfpay_preauth._figures import BooksEvent
from qfpay_preauth._models import Doubt, Event
from qfpay_preauth.errors import ConfigurationError, PreauthError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider
    from prometheus_client import CollectorRegistry

__all__ = ["BooksEvent", "all_of", "opentelemetry_hook", "prometheus_hook", "structlog_hook", "watch_doubts"]

log = logging.getLogger("qfpay_preauth")

Hook = Callable[[Event], None]
"""What `on_event` takes."""


@contextmanager
def _extra(name: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ConfigurationError(
            f"This hook needs {error.name}.", advice=f"Install it: python -m pip install 'qfpay_preauth[{name}]'"
        ) from error


def opentelemetry_hook(
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    amounts: bool = False,
) -> Hook:
    """Spans and metrics through OpenTelemetry's API (extra `[otel]`).

    One span per call, named `qfpay_preauth.capture` and so on, a child of the caller's current span, with an event per
    attempt and move; status ERROR where the caller got an error, which `error.type` names. What evidence or a person
    ends later, and discrepancies, are spans of no length. Metrics: `qfpay_preauth.call_duration` and so on.

    Args:
        tracer_provider, meter_provider: default: the global ones.
        amounts: show amounts (int minor units) in spans.

    Raises:
        ConfigurationError: opentelemetry-api is not installed.
    """
    with _extra("otel"):
        from qfpay_preauth._eyes_otel import Metrics, Spans
    return all_of(Spans(tracer_provider, amounts=amounts), Metrics(meter_provider))


def prometheus_hook(registry: CollectorRegistry | None = None) -> Hook:
    """Metrics in prometheus_client (extra `[prometheus]`): `qfpay_preauth_call_duration_seconds` and so on.

    Args:
        registry: default: prometheus_client's own. A registry takes one such hook: give it to all clients.

    Raises:
        ConfigurationError: prometheus-client is not installed.
    """
    with _extra("prometheus"):
        from qfpay_preauth._eyes_prometheus import Metrics
    return Metrics(registry)


def structlog_hook(logger: Any = None, *, amounts: bool = False) -> Hook:
    """One structured line per event (extra `[structlog]`): debug for attempts and moves, info for calls that ended as
    known, warning for doubts and lapsing holds, error for discrepancies and a ledger that does not answer.

    Args:
        logger: a structlog logger; default: `structlog.get_logger("qfpay_preauth")`.
        amounts: show amounts (int minor units).

    Raises:
        ConfigurationError: structlog is not installed.
    """
    with _extra("structlog"):
        from qfpay_preauth._eyes_structlog import lines
    return lines(logger, amounts=amounts)


def all_of(*hooks: Hook) -> Hook:
    """One hook that calls each of `hooks`; one that raises is logged, and the others still hear the event."""

    def hook(event: Event) -> None:
        for each in hooks:
            try:
                each(event)
            except (Exception, asyncio.CancelledError):  # as the client treats its hook
                log.exception("an event hook raised on %s", event.kind)

    return hook


class Watched(Protocol):
    """What `watch_doubts` needs: `PreauthClient` has it."""

    account: str

    def in_doubt(self) -> AsyncIterator[Doubt]:
        """Every entry whose outcome is not known."""
        ...


async def watch_doubts(client: Watched, hook: Hook, *, interval_s: float = 30.0) -> None:
    """Tell `hook` every `interval_s` seconds what is in doubt and since when (a `BooksEvent`), until cancelled.

    Events alone cannot tell the age of a doubt, nor the doubts of a process that was killed: the ledger can. It sends
    nothing. Run it as a task: `asyncio.create_task(watch_doubts(client, eyes))`.

    Raises:
        ConfigurationError: the client was closed.
    """
    tell = all_of(hook)
    while True:
        tell(await _look(client))
        await asyncio.sleep(interval_s)


async def _look(client: Watched) -> BooksEvent:
    now = SystemClock().now()
    doubts, oldest_s, attention = 0, 0.0, 0
    try:
        async for doubt in client.in_doubt():
            doubts += 1
            oldest_s = max(oldest_s, doubt.age_s)
            attention += doubt.needs_attention
    except ConfigurationError:
        raise
    except PreauthError as error:
        log.error("the doubts cannot be read: %s", error.args[0])
        return BooksEvent(client.account, now, "books", "", readable=False)
    return BooksEvent(
        client.account, now, "books", "", doubts=doubts, oldest_doubt_s=oldest_s, needs_attention=attention
    )
