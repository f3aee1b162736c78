"""What the service counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The counters of one service.

    >>> metrics = Metrics()
    >>> metrics.answered("/search", 200, 0.01)
    >>> b'permafrost_requests_total{route="/search",status="200"} 1.0' in metrics.text()
    True
    """

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter("permafrost_requests", "Requests answered.", ["route", "status"], registry=registry)
        self._seconds = Histogram(
            "permafrost_request_seconds", "Seconds to an answer.", ["route"], buckets=_SECONDS, registry=registry
        )
        self._batches = Histogram(
            "permafrost_batch_size", "Requests that shared a batch.", ["queue"], buckets=_SIZES, registry=registry
        )
        self._waiting = Gauge("permafrost_waiting", "Requests that wait in a queue.", ["queue"], registry=registry)
        self.rows = Gauge("permafrost_gallery_images", "Images of the gallery that is served.", registry=registry)
        self._snapshots = Counter(
            "permafrost_snapshots", "Newer snapshots that were opened or refused.", ["outcome"], registry=registry
        )

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def snapshot(self, outcome: str) -> None:
        """Count a newer snapshot that was ``opened`` or ``refused``."""
        self._snapshots.labels(outcome).inc()

    def watch(self, queue: str, waiting: Callable[[], int]) -> Callable[[int], None]:
        """Report the length of a ``queue``; call what is returned with the size of each of its batches."""
        self._waiting.labels(queue).set_function(waiting)
        return self._batches.labels(queue).observe

    def text(self) -> bytes:
        """All of it in the text format of Prometheus."""
        return generate_latest(self._registry)
