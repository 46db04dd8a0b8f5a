"""GatewayMetrics: the counters of one gateway, as Prometheus reads them.

Counting is adding to an attribute.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_HELP = {
    "welcomed": "clients that said hello and were let in",
    "refused": "clients that said no hello that can be read, or whose token was refused",
    "received": "frames from clients",
    "sent": "messages that clients sent and the service took",
    "failed": "messages of clients that were answered with an error",
    "pushed": "messages pushed to clients",
    "held_back": "messages not pushed, as their client was too slow; it gets a hint to pull",
    "reminded": "clients that were reminded of messages they had not acknowledged",
    "too_fast": "frames refused because their client asked too often",
    "unreadable": "frames that could not be read",
    "silent": "clients closed because they were silent for too long",
    "slow": "clients closed because they did not read what was sent to them",
    "replaced": "connections closed because the same device connected again",
}


@dataclass
class GatewayMetrics:
    """The counters of one gateway, from its start."""

    welcomed: int = 0
    refused: int = 0
    received: int = 0
    sent: int = 0
    failed: int = 0
    pushed: int = 0
    held_back: int = 0
    reminded: int = 0
    too_fast: int = 0
    unreadable: int = 0
    silent: int = 0
    slow: int = 0
    replaced: int = 0


class MetricsCollector(Collector):
    """Prometheus' collector of one gateway's metrics."""

    def __init__(
        self,
        gateway: str,
        metrics: GatewayMetrics,
        connected: Callable[[], int],
        is_up: Callable[[], bool],
    ) -> None:
        self._gateway, self._metrics = gateway, metrics
        self._connected, self._is_up = connected, is_up

    def collect(self) -> Iterator[Metric]:
        """Return the metrics; Prometheus calls this."""
        labels = ["gateway"]
        for each in fields(self._metrics):
            counter = CounterMetricFamily(f"mpim_{each.name}", _HELP[each.name], labels=labels)
            counter.add_metric([self._gateway], getattr(self._metrics, each.name))
            yield counter
        for name, text, value in (
            ("mpim_connected_clients", "clients that are connected now", self._connected()),
            ("mpim_redis_up", "1 while both connections to the server are up", int(self._is_up())),
        ):
            gauge = GaugeMetricFamily(name, text, labels=labels)
            gauge.add_metric([self._gateway], value)
            yield gauge


def render_metrics(collector: MetricsCollector) -> bytes:
    """Return the metrics in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return generate_latest(registry)
