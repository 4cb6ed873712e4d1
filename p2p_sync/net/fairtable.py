"""A bounded table in which the host with the most entries loses its oldest first.

Pure. It holds what strangers can fill: connections that have not proved anything yet. One host can
therefore not push out the connections of another one, whatever their number.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)


class FairTable(Generic[Item]):
    """Up to `limit` items, each of a host. Not for more than one thread at a time."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._hosts: OrderedDict[Item, Hashable] = OrderedDict()  # the oldest first
        self._counts: Counter[Hashable] = Counter()

    def __iter__(self) -> Iterator[Item]:
        """Iterate over the items, the oldest first."""
        return iter(self._hosts)

    def __len__(self) -> int:
        return len(self._hosts)

    def add(self, item: Item, host: Hashable) -> Item | None:
        """Add an item; return the one that was removed to make room for it, if any."""
        self._hosts[item] = host
        self._counts[host] += 1
        if len(self._hosts) <= self._limit:
            return None
        most = max(self._counts.values())
        victim = next(old for old, of in self._hosts.items() if self._counts[of] == most)
        self.remove(victim)
        return victim

    def demote(self, item: Item) -> None:
        """Have an item, if it is there, count as the oldest."""
        if item in self._hosts:
            self._hosts.move_to_end(item, last=False)

    def remove(self, item: Item) -> None:
        """Remove an item, if it is there."""
        if item in self._hosts:
            host = self._hosts.pop(item)
            self._counts[host] -= 1
            if not self._counts[host]:
                del self._counts[host]
