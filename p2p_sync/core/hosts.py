"""How often one host is dialled at addresses that peers have named.

A peer may name many ports of a host that has nothing to do with this network, and name them again
and again. So a host on which no node of ours is known gets few dials at a time, and after a failed
one all its addresses wait for a backoff of the host. Addresses given by hand are not limited.
"""

from __future__ import annotations

import random
from typing import TypeVar

from ..address import site
from ..settings import MAX_KNOWN_ADDRESSES, Settings

V = TypeVar("V")


class Hosts:
    """What is known of remote hosts: which have a node of ours, and which are failing."""

    def __init__(self, settings: Settings, rng: random.Random) -> None:
        self._settings = settings
        self._rng = rng
        self._with_nodes: dict[str, None] = {}
        self._failing: dict[str, tuple[int, float]] = {}  # failures, and when to dial again

    def has_node(self, host: str) -> None:
        """A node of ours is on the host with this IP address: it was dialled there, or dialled
        us from there."""
        self._failing.pop(site(host), None)
        _put(self._with_nodes, site(host), None)

    def is_limited(self, host: str) -> bool:
        """Return whether dials to a host are limited."""
        return site(host) not in self._with_nodes

    def failed(self, host: str, now: float) -> None:
        """A dial to a host has failed. Further failures do not count while it waits."""
        failures, next_try = self._failing.get(site(host), (0, 0.0))
        if self.is_limited(host) and next_try <= now:
            pause = backoff(failures + 1, self._settings, self._rng)
            _put(self._failing, site(host), (failures + 1, now + pause))

    def next_try(self, host: str) -> float:
        """Return when a host may be dialled again."""
        return self._failing.get(site(host), (0, 0.0))[1]


def backoff(failures: int, settings: Settings, rng: random.Random) -> float:
    """Return the pause after a number of failures in a row, in seconds.

    Exponential backoff with full jitter (M. Brooker, "Exponential Backoff And Jitter"): a random
    time between the first pause and 2, 4, 8 ... times that, up to the longest.
    """
    first = settings.redial_first
    most = min(first * 2.0 ** min(failures, 16), settings.redial_longest)
    return first + (most - first) * rng.random()


def _put(of_host: dict[str, V], host: str, value: V) -> None:
    """Put a value last, and forget the first one if there are too many."""
    of_host.pop(host, None)
    of_host[host] = value
    if len(of_host) > MAX_KNOWN_ADDRESSES:
        del of_host[next(iter(of_host))]
