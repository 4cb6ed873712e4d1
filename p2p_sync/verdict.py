"""The state of a node in a word and in a line, the same for the page, the API and the command line.

Pure: what the API tells goes in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class Verdict(NamedTuple):
    """`state` is "in_sync", "behind" (a peer lacks something), "catching_up" (this node does) or
    "alone"; `text` says it to people."""

    state: str
    text: str
    synced: int  # linked peers that hold all that this node holds
    peers: int  # linked peers, and those that are missed


def verdict(peers: Iterable[Mapping[str, Any]], held: int, behind: int) -> Verdict:
    """Judge by the entries of `peers`, and the messages that this node holds and lacks.

    A peer is missed that was given by hand, or was found and does not answer now.
    """
    lags: list[int] = []
    missed = 0
    for peer in peers:
        if peer["state"] == "connected":
            lags.append(peer["behind"])
        else:
            missed += bool(peer["by_hand"] or (peer["id"] and peer["attempts"]))
    count = len(lags) + missed
    synced = lags.count(0)
    if not lags:
        text = f"Alone: linked with 0 of {numbered(count, 'peer')}" if count else ""
        return Verdict("alone", text or "Alone: no peer yet", synced, count)
    if behind:
        return Verdict("catching_up", f"Catching up: {held:,} of {held + behind:,}", synced, count)
    if max(lags):
        late = numbered(len(lags) - synced, "peer")
        text = f"{late} behind, by {numbered(max(lags), 'message')}"
        return Verdict("behind", text, synced, count)
    return Verdict("in_sync", f"In sync with {synced} of {numbered(count, 'peer')}", synced, count)


def numbered(count: int, noun: str) -> str:
    """Return a count of things, for people."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
