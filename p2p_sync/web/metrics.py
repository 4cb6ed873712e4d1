"""What the node measures, in Prometheus' text format: the one door to prometheus_client.

Nothing is kept here: the node is read when it is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from ..counters import BOUNDS
from ..node import Node

CONTENT_TYPE = CONTENT_TYPE_LATEST
_PREFIX = "p2p_sync_"

# Name without the prefix: meaning, labels. What ends in _total counts up, the rest are gauges.
COUNTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "log_messages": ("Messages held, by where they come from.", ("class",)),
    "log_bytes": ("Size of the log on disk.", ()),
    "behind_messages": ("Messages that peers have told of and this node lacks.", ()),
    "peer_lag_messages": ("Messages that the peer lacks, as far as it has told.", ("peer",)),
    "conflicts": ("Identities under which two contents were seen.", ()),
    "waiting_origins": ("Origins whose next message is dated over a day ahead of the clock.", ()),
    "clock_difference": ("Seconds by which the clock seems to be ahead of others.", ()),
    "links": ("Links with peers.", ("direction", "state")),
    "link_bytes_total": ("Bytes carried by links.", ("direction",)),
    "frames_total": ("Frames of the peer protocol.", ("direction", "type")),
    "duplicates_received_total": ("Messages that came and were held already.", ()),
    "dials_total": ("Dials by what came of them.", ("result",)),
    "refusals_total": ("Peers that were turned down.", ("reason",)),
    "misbehaviour_total": ("Faults of peers, by kind.", ("kind",)),
    "log_lines_dropped_total": ("Lines of this program's log that nobody read in time.", ()),
    "threads": ("Threads of the process.", ()),
}
TIMES = {
    "commit_seconds": "Time until a single commit is on disk.",
    "peer_delay_seconds": "Round trips to peers.",
}


class Metrics(Collector):
    """The measures of one node."""

    def __init__(self, node: Node, dropped: Callable[[], int]) -> None:
        """`dropped` returns how many lines of the process's log were dropped."""
        self._node = node
        self._dropped = dropped
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """Return all measures as of now."""
        return generate_latest(self._registry)

    def describe(self) -> Iterator[Metric]:
        """The names, for the registry; the node need not run for that."""
        for name in (*COUNTS, *TIMES):
            yield Metric(_PREFIX + name.removesuffix("_total"), "", "untyped")

    def collect(self) -> Iterator[Metric]:
        counts, times = self._node.metrics()
        counts["log_lines_dropped_total"] = {(): self._dropped()}
        for name, (meaning, labels) in COUNTS.items():
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            family = kind(_PREFIX + name, meaning, labels=labels)
            for values, number in counts.get(name, {}).items():
                family.add_metric(values, number)
            yield family
        bounds = [*map(str, BOUNDS), "+Inf"]
        for name, meaning in TIMES.items():
            histogram = HistogramMetricFamily(_PREFIX + name, meaning)
            measured = times.get(name)
            sums = measured.counts if measured else [0] * len(bounds)
            buckets = list(zip(bounds, sums, strict=True))
            histogram.add_metric([], buckets, measured.total if measured else 0.0)
            yield histogram
