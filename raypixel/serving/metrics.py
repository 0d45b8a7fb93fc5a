"""Metrics in Prometheus' text form: what the engines count, and how requests went."""

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from raypixel.serving.replica import Replica
from raypixel.serving.stats import COUNTERS, GAUGES, WAIT_BOUNDS_S

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_LATENCY_BOUNDS_S = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


def metric_name(attribute: str) -> str:
    """Return what metrics call an attribute of `EngineStats`."""
    return f"raypixel_{attribute.removeprefix('num_')}"


class Metrics:
    """The metrics of one replica."""

    def __init__(self, replica: Replica) -> None:
        """Make them, each of an engine with the replica's name as a label."""
        self._registry = CollectorRegistry()
        self._registry.register(_Engines(replica))
        self._requests = Counter(
            "raypixel_requests", "Requests answered", ("path", "status"), registry=self._registry
        )
        self._latency = Histogram(
            "raypixel_request_seconds",
            "From a request's arrival to the end of its answer",
            ("path",),
            buckets=_LATENCY_BOUNDS_S,
            registry=self._registry,
        )

    def note(self, path: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        self._requests.labels(path, str(status)).inc()
        self._latency.labels(path).observe(seconds)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text form."""
        return generate_latest(self._registry)


class _Engines(Collector):
    """Read the engines' statistics when they are asked for."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    def collect(self) -> Iterator[Metric]:
        labels = ("model", "replica")
        stats = {
            (name, self._replica.name): engine.stats for name, engine in self._replica.engines()
        }
        for family, attributes in ((GaugeMetricFamily, GAUGES), (CounterMetricFamily, COUNTERS)):
            for attribute, text in attributes.items():
                metric = family(metric_name(attribute), text, labels=labels)
                for values, each in stats.items():
                    metric.add_metric(values, getattr(each, attribute))
                yield metric
        waits = HistogramMetricFamily(
            "raypixel_queue_wait_seconds", "From a request to its first slot", labels=labels
        )
        bounds = [*map(str, WAIT_BOUNDS_S), "+Inf"]
        for values, each in stats.items():
            totals = map(float, accumulate(each.queue_waits.counts))
            buckets = list(zip(bounds, totals, strict=True))
            waits.add_metric(values, buckets, sum_value=each.queue_waits.total_s)
        yield waits
