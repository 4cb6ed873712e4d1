"""The counters and the times of a node, for its metrics."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter, defaultdict
from itertools import accumulate
from typing import NamedTuple

# Upper bounds of the buckets of times. Seconds.
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

# Name -> labels -> number.
Counts = dict[str, dict[tuple[str, ...], float]]


class Times(NamedTuple):
    """How many times were up to each of BOUNDS, and in all; and the sum of all. Seconds."""

    counts: list[int]
    total: float


class Counters:
    """Counts by name and labels, and times by name. For any thread.

    A name is that of the metric (see web/metrics.py) without `p2p_sync_`. Labels come in the same
    order as there; their values come from small sets in this program, never from peers.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, Counter[tuple[str, ...]]] = defaultdict(Counter)
        self._times: dict[str, tuple[list[int], list[float]]] = {}

    def add(self, name: str, *labels: str) -> None:
        """Count one more."""
        with self._lock:
            self._counts[name][labels] += 1

    def time(self, name: str, seconds: float) -> None:
        """Record how long something took."""
        with self._lock:
            counts, total = self._times.setdefault(name, ([0] * (len(BOUNDS) + 1), [0.0]))
            counts[bisect_left(BOUNDS, seconds)] += 1
            total[0] += seconds

    def counts(self) -> Counts:
        """Return all counts so far."""
        with self._lock:
            return {name: dict(counts) for name, counts in self._counts.items()}

    def times(self) -> dict[str, Times]:
        """Return all times so far."""
        with self._lock:
            return {
                name: Times(list(accumulate(counts)), total)
                for name, (counts, (total,)) in self._times.items()
            }
