"""Metrics in Prometheus' text form: what the engines count, and how requests went."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from raypixel.serving.engine import EngineStats
from raypixel.serving.hosts import Hosts
from raypixel.serving.stats import WAIT_BOUNDS_S

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_LATENCY_BOUNDS_S = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_GAUGES: dict[str, tuple[str, Callable[[EngineStats], float]]] = {
    "active_slots": ("Images that are being made", lambda stats: stats.active_slots),
    "slots": ("Images that can be made at a time", lambda stats: stats.num_slots),
    "queued_images": ("Images that wait for a slot", lambda stats: stats.queued_images),
    "remaining_sub_pixels": (
        "Sub-pixels that accepted images still lack",
        lambda stats: stats.remaining_sub_pixels,
    ),
    "sub_pixels_per_second": ("Recent speed", lambda stats: stats.sub_pixels_per_second),
}
_COUNTERS: dict[str, tuple[str, Callable[[EngineStats], float]]] = {
    "sub_pixels": ("Sub-pixels written", lambda stats: stats.sub_pixels),
    "images": ("Images completed", lambda stats: stats.images),
    "jobs_finished": ("Requests for images that were finished", lambda stats: stats.jobs_finished),
    "jobs_cancelled": (
        "Requests for images that were cancelled",
        lambda stats: stats.jobs_cancelled,
    ),
    "jobs_failed": ("Requests for images that failed", lambda stats: stats.jobs_failed),
}


class Metrics:
    """The metrics of one process.

    Attributes:
        replica: Name of the process.
        requests: Answered requests by path and status.
        latency: Seconds by path.
    """

    def __init__(self, hosts: Hosts, *, replica: str) -> None:
        """Make them.

        Args:
            hosts: Whose engines are told of.
            replica: Name of the process, a label of every engine's metric.
        """
        self.replica = replica
        self._registry = CollectorRegistry()
        self._registry.register(_Engines(hosts, replica))
        self.requests = Counter(
            "raypixel_requests",
            "Requests answered",
            ("path", "status"),
            registry=self._registry,
        )
        self.latency = Histogram(
            "raypixel_request_seconds",
            "From a request's arrival to the end of its answer",
            ("path",),
            buckets=_LATENCY_BOUNDS_S,
            registry=self._registry,
        )

    def note(self, path: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        self.requests.labels(path, str(status)).inc()
        self.latency.labels(path).observe(seconds)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text form."""
        return generate_latest(self._registry)


class _Engines(Collector):
    """Read the engines' statistics when they are asked for."""

    def __init__(self, hosts: Hosts, replica: str) -> None:
        self._hosts = hosts
        self._replica = replica

    def collect(self) -> Iterator[Metric]:
        labels = ("model", "replica")
        loaded = list(self._hosts.loaded.items())
        for name, (text, value) in _GAUGES.items():
            gauge = GaugeMetricFamily(f"raypixel_{name}", text, labels=labels)
            for model, host in loaded:
                gauge.add_metric((model, self._replica), value(host.engine.stats))
            yield gauge
        for name, (text, value) in _COUNTERS.items():
            counter = CounterMetricFamily(f"raypixel_{name}", text, labels=labels)
            for model, host in loaded:
                counter.add_metric((model, self._replica), value(host.engine.stats))
            yield counter
        waits = HistogramMetricFamily(
            "raypixel_queue_wait_seconds", "From a request to its first slot", labels=labels
        )
        for model, host in loaded:
            buckets, total = [], 0
            bounds = [*map(str, WAIT_BOUNDS_S), "+Inf"]
            for bound, count in zip(bounds, host.engine.stats.queue_waits.counts, strict=True):
                total += count
                buckets.append((bound, float(total)))
            seconds = host.engine.stats.queue_waits.total_s
            waits.add_metric((model, self._replica), buckets, sum_value=seconds)
        yield waits
