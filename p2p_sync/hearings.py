"""Which messages are shown: one for each commit of an original node, however many heard it.

An original node's commit has no identity, so each node of ours that hears it logs a message of
its own, marked `heard`. Two hearings are of one commit if they have the same text, come from
different nodes of ours, and lie within WINDOW; matched in the shared order, every node that
holds the same messages shows the same ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from .protocol import Message

# How far apart two nodes may hear one commit. Milliseconds.
WINDOW = 10_000


def node_of(origin: str) -> str:
    """Return the node's id in an origin."""
    return origin.partition("-")[0]


@dataclass
class _Commit:
    """One commit of an original node: when it was first heard, and which nodes heard it."""

    time: int
    nodes: set[str] = field(default_factory=set)


class Matcher:
    """Matches the hearings of one text, given in the shared order, to commits.

    A hearing is known by a number of the caller's; its commit by that of the first hearing.
    """

    def __init__(self) -> None:
        self._commits: dict[int, _Commit] = {}  # by leader, the oldest first

    def match(self, hearing: int, time: int, node: str) -> int:
        """Return the leader of `hearing`: the first hearing of the same commit, or itself."""
        for leader in list(itertools.takewhile(self._is_old(time), self._commits)):
            del self._commits[leader]
        for leader, commit in self._commits.items():
            if node not in commit.nodes:
                commit.nodes.add(node)
                return leader
        self._commits[hearing] = _Commit(time, {node})
        return hearing

    def note(self, leader: int, leads: bool, time: int, node: str) -> None:
        """Take a hearing whose leader is known; it `leads` if that is itself."""
        if leads:
            self._commits[leader] = _Commit(time)
        if leader in self._commits:
            self._commits[leader].nodes.add(node)

    def _is_old(self, now: int) -> Callable[[int], bool]:
        return lambda leader: now - self._commits[leader].time > WINDOW


def shown(messages: Iterable[Message]) -> list[Message]:
    """Return those of `messages` that are shown; both are in the shared order."""
    matchers: dict[str, Matcher] = {}
    result = []
    for number, message in enumerate(messages):
        if message.heard:
            matcher = matchers.setdefault(message.data, Matcher())
            if matcher.match(number, message.time, node_of(message.origin)) != number:
                continue
        result.append(message)
    return result
