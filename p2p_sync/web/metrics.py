"""The metrics of a node in the text format of Prometheus: the one door to prometheus_client.

Nothing is kept here: each request reads the node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from ..metrics import BOUNDS
from ..node.node import Node
from ..wire.frames import Message, Sockets
from ..wire.logframes import LOG_FRAMES

CONTENT_TYPE = CONTENT_TYPE_LATEST
_PREFIX = "p2p_sync_"

# Name without the prefix: meaning, labels. What ends in _total counts up, the rest are gauges.
COUNTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "in_sync": ("1 if all is well: in sync, or alone while no other node is known; else 0.", ()),
    "peers": ("Known peers by state; see the API for the states.", ("state",)),
    "build_info": (
        "1, labelled with the versions of what is running, and with the name of the node.",
        ("version", "protocol", "python", "name"),
    ),
    "log_messages": (
        "Messages stored: of this node (own), of another (ours), heard from originals.",
        ("class",),
    ),
    "log_bytes": ("Size of the log on disk.", ()),
    "missed_messages_total": ("Messages that no connected peer kept any more.", ()),
    "deleted_messages_total": ("Messages deleted because this node does not keep more.", ()),
    "behind_messages": ("Messages that this node lacks, by the peer that claims most.", ()),
    "peer_lag_messages": (
        "Messages that a peer lacks, as far as it has said; for the 100 peers that lack most.",
        ("peer", "name"),
    ),
    "conflicts": (
        "Forks that are not acknowledged, and disputes about an origin.",
        (),
    ),
    "damaged_origins": ("Origins with a damaged entry that no peer has sent again yet.", ()),
    "waiting_origins": (
        "Origins whose next message is dated more than a day ahead of this machine's clock.",
        (),
    ),
    "clock_difference": (
        "Seconds by which this machine's clock seems to be ahead of at least two others; else 0.",
        (),
    ),
    "links": (
        "Links that this node accepted (in) or dialled (out), by state.",
        ("direction", "state"),
    ),
    "link_bytes_total": ("Bytes carried by links, ended ones included.", ("direction",)),
    "frames_total": ("Frames of the peer protocol.", ("direction", "type")),
    "duplicates_received_total": ("Duplicate messages received.", ()),
    "dials_total": ("Dial attempts, by result.", ("result",)),
    "refusals_total": (
        "Peers that were rejected, by reason: an HTTP status in the handshake, or a rule after it.",
        ("reason",),
    ),
    "misbehaviour_total": ("Protocol violations and other faults of peers, by kind.", ("kind",)),
    "consumer_lag_messages": ("Messages that a consumer has not handled.", ("consumer",)),
    "consumer_attempts": (
        "How often the message has failed that delays the others of a consumer.",
        ("consumer",),
    ),
    "consumer_parked_messages": ("Messages that a consumer has put aside.", ("consumer",)),
    "consumer_missed_total": (
        "Messages that were deleted before a consumer had time for them.",
        ("consumer",),
    ),
    "log_lines_dropped_total": (
        "Lines of the program's log that were dropped because nobody read standard error.",
        (),
    ),
    "http_streams": ("Open streams of the HTTP port; an open page has one.", ()),
    "threads": ("Threads of the process.", ()),
}
_WAYS = ("in", "out")
_FRAMES = (*(kind.__name__.upper() for kind in (Sockets, Message, *LOG_FRAMES)), "ignored")
_REFUSALS = (
    "bad_request",
    "forbidden",
    "upgrade_required",
    "request_header_fields_too_large",
    "service_unavailable",
    "not_proved",
    "other_protocol",
    "wrong_frame",
    "same_node",
    "links_enough",
)
# All values of the labels that have a fixed set. Each series exists from the start, so that rates
# and alerts work from the first event on.
SERIES: dict[str, list[tuple[str, ...]]] = {
    "peers": [(s,) for s in ("connected", "dialling", "waiting", "refused", "unreachable", "self")],
    "links": list(product(_WAYS, ("opening", "open", "closing"))),
    "frames_total": list(product(_WAYS, _FRAMES)),
    "dials_total": [(result,) for result in ("linked", "failed", "refused", "unneeded")],
    "refusals_total": [(reason,) for reason in _REFUSALS],
}
TIMES = {
    "commit_seconds": "Time until a single commit is on disk.",
    "peer_delay_seconds": "Round trips to peers.",
}


class Metrics(Collector):
    """The metrics of one node."""

    def __init__(
        self, node: Node, dropped: Callable[[], int], streams: Callable[[], int] = lambda: 0
    ) -> None:
        """`dropped` returns how many lines of the process's log were dropped, and `streams` how
        many streams are open."""
        self._node = node
        self._dropped = dropped
        self._streams = streams
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """Return all metrics as of now."""
        return generate_latest(self._registry)

    def describe(self) -> Iterator[Metric]:
        """Return the names, for the registry; the node need not run."""
        for name in (*COUNTS, *TIMES):
            yield Metric(_PREFIX + name.removesuffix("_total"), "", "untyped")

    def collect(self) -> Iterator[Metric]:
        counts, times = self._node.report.metrics()
        counts["log_lines_dropped_total"] = {(): self._dropped()}
        counts["http_streams"] = {(): self._streams()}
        for name, (meaning, labels) in COUNTS.items():
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            family = kind(_PREFIX + name, meaning, labels=labels)
            series = dict.fromkeys(SERIES.get(name, ()), 0.0) | counts.get(name, {})
            for values, number in series.items():
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
