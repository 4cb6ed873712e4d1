"""What all open pages show alike: the state of the node, its peers and consumers, and the copies of
the latest messages. It is made once for all of them, and only if something may have changed.

For the thread `streams` alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import LogError
from ..node.node import Node
from ..node.report import Spread
from ..settings import BOARD_CHECK, BOARD_PAUSE, BOARD_PEERS_PAUSE, NEVER, PAGE_COPIES
from ..wire.frames import Message


class Board:
    """The state of one node, with a revision for each part of it."""

    def __init__(self, node: Node) -> None:
        self.revision = 0
        self._node = node
        self._parts: dict[str, tuple[int, Any]] = {}  # kind of event -> revision, value
        # Of the latest messages, by id: revision, where they are.
        self._copies: OrderedDict[str, tuple[int, Spread]] = OrderedDict()
        self._messages: OrderedDict[str, Message] = OrderedDict()
        self._problem: LogError | None = None
        self._looked = self._showed_peers = -NEVER  # when, on the monotonic clock

    def look(self, now: float) -> float:
        """See what has changed, if it is time; `now` is on the monotonic clock. Return when to look
        again, if nothing is reported."""
        if now - self._looked < BOARD_PAUSE:
            return self._looked + BOARD_PAUSE
        self._looked = now
        self.revision += 1
        self._problem = None
        try:
            status = self._node.status()
            self._show("state", status)
            consumers = self._node.consumers.status() if status.consumers.count else []
            self._show("consumers", {"consumers": consumers})
        except LogError as error:  # the state stays as it was shown last
            self._problem = error
        peers = self._node.peers()
        if now - self._showed_peers >= BOARD_PEERS_PAUSE * len(peers):
            self._showed_peers = now
            self._show("peers", {"peers": peers})
        messages = [*self._messages.values()]
        for message, spread in zip(messages, self._node.report.spread(messages), strict=True):
            if self._copies[message.id][1] != spread:
                self._copies[message.id] = self.revision, spread
        return now + BOARD_CHECK

    def since(self, revision: int) -> Iterator[tuple[str, Any]]:
        """Yield the events, type and value, that bring a page up to date that has seen a
        `revision`. Raises LogError if there is no state to show."""
        if self._problem and "state" not in self._parts:
            raise self._problem
        for kind, (changed, value) in self._parts.items():
            if changed > revision:
                yield kind, value
        news = (each for each in self._copies.items() if each[1][0] > revision >= 0)
        copies = {id: spread._asdict() for id, (_, spread) in news}
        if copies:
            yield "copies", copies

    def watch_copies(self, messages: Sequence[Message]) -> list[Spread]:
        """Return on which connected peers each of the messages is, as it was shown last. From now
        on `since` tells what changes."""
        new = [message for message in messages if message.id not in self._copies]
        for message, spread in zip(new, self._node.report.spread(new), strict=True):
            self._copies[message.id] = self.revision, spread
            self._messages[message.id] = message
        spreads = [self._copies[message.id][1] for message in messages]
        while len(self._messages) > PAGE_COPIES:
            id, _ = self._messages.popitem(last=False)
            del self._copies[id]
        return spreads

    def _show(self, kind: str, value: Any) -> None:
        if self._parts.get(kind, (0, None))[1] != value:
            self._parts[kind] = self.revision, value
