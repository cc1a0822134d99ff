"""Metrics of what is live in this process."""

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from ferrule.streams.connections import ConnectionManager
from ferrule.streams.node import Node


class StreamMetrics(Collector):
    """Counts when it is asked."""

    def __init__(self, registry: CollectorRegistry, manager: ConnectionManager, node: Node) -> None:
        self._manager = manager
        self._node = node
        registry.register(self)

    def collect(self) -> list[GaugeMetricFamily]:
        counts = self._manager.counts()
        return [
            _gauge("live_connections", "Live connections of this process.", counts.connections),
            _gauge("live_users", "Users with a live connection here.", counts.users),
            _gauge("live_rooms", "Rooms with a connection here.", counts.rooms),
            _gauge(
                "bus_deaf_seconds",
                "Seconds since this process last heard itself over the bus.",
                self._node.deaf_for,
            ),
        ]


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)
