"""The Prometheus eye: every figure of `_figures` as a metric of prometheus_client."""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from qfpay_preauth._figures import BUCKETS_S, METRICS, Metric, measures
from qfpay_preauth._models import Event


class Metrics:
    """A hook with its metrics in one registry; prometheus_client is safe across threads."""

    def __init__(self, registry: CollectorRegistry | None) -> None:
        where = REGISTRY if registry is None else registry
        self._made = {name: _make(f"qfpay_preauth_{name}", metric, where) for name, metric in METRICS.items()}

    def __call__(self, event: Event) -> None:
        """Count, time or set what the event says."""
        for name, value, labels in measures(event):
            metric = self._made[name].labels(account=event.account, **labels)
            if isinstance(metric, Counter):
                metric.inc(value)
            elif isinstance(metric, Histogram):
                metric.observe(value)
            else:
                metric.set(value)


def _make(name: str, metric: Metric, registry: CollectorRegistry) -> Counter | Histogram | Gauge:
    labels = ("account", *metric.labels)
    if metric.kind == "counter":
        return Counter(name, metric.help, labels, registry=registry)
    if metric.kind == "histogram":
        return Histogram(name, metric.help, labels, registry=registry, buckets=BUCKETS_S)
    return Gauge(name, metric.help, labels, registry=registry)
