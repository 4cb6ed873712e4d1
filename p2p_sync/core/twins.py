"""Two nodes with one id: one of them runs on a copy of the other's data directory.

Each refusal says so again, and a node that is refused dials again within `redial_longest`. So what
was not seen for a while is over. It is over at once if the node that refused the link accepts it,
or if the link of one of the two ends: it was stopped, or had only restarted.
"""

from __future__ import annotations

from ..settings import MAX_TWINS, SHORT_ID, TWINS_SHOWN
from .turn import Turn


class Twins:
    """The pairs of nodes with one id that a node has met. Part of the core."""

    def __init__(self, turn: Turn, node: str) -> None:
        """`node` is this node's own id."""
        self._turn = turn
        self._node = node
        self._seen: dict[str, tuple[float, str]] = {}  # by the node at the other end; latest last

    def seen(self, by: str, node: str, places: str) -> None:
        """At the other end of a link is the node `by`; the link ends because two nodes have the id
        `node`. `places` says where they are."""
        whose = "this node's id" if node == self._node else f"the id {node[:SHORT_ID]}"
        text = (
            f"two nodes have {whose}, {places}: one of them runs on a copy of the other's data "
            "directory; stop that one and delete its directory"
        )
        self._seen.pop(by, None)
        self._seen[by] = self._turn.now, text
        if len(self._seen) > MAX_TWINS:
            del self._seen[next(iter(self._seen))]

    def over(self, by: str) -> None:
        """A link with the node `by` was introduced, or has ended for another reason."""
        self._seen.pop(by, None)

    def warnings(self) -> list[str]:
        """Return a sentence about each pair."""
        since = self._turn.now - TWINS_SHOWN
        return [*dict.fromkeys(text for at, text in self._seen.values() if at > since)]
