"""Which messages are shown: one for each commit of an original node, however many heard it.

An original node's commit has no identity, so each node of ours that hears it logs a message of
its own, marked `heard`. Two hearings are of one commit if they have the same text, come from
different nodes of ours, and lie within WINDOW; matched in the shared order, every node that
holds the same messages shows the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable

from .protocol import Message

# How far apart two nodes may hear one commit. Milliseconds.
WINDOW = 10_000


class _Commit:
    """One commit of an original node: when it was first heard, and which nodes heard it."""

    def __init__(self, time: int) -> None:
        self.time = time
        self.nodes: set[str] = set()


def node_of(origin: str) -> str:
    """Return the node's id in an origin."""
    return origin.partition("-")[0]


def shown(messages: Iterable[Message]) -> list[Message]:
    """Return those of `messages` that are shown; both are in the shared order."""
    commits: dict[str, list[_Commit]] = {}
    result = []
    for message in messages:
        if not message.heard:
            result.append(message)
            continue
        node = node_of(message.origin)
        recent = [c for c in commits.get(message.data, ()) if message.time - c.time <= WINDOW]
        commit = next((commit for commit in recent if node not in commit.nodes), None)
        if commit is None:
            commit = _Commit(message.time)
            recent.append(commit)
            result.append(message)
        commit.nodes.add(node)
        commits[message.data] = recent
    return result
