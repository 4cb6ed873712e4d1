"""Forks as people see them (wire/forks.py): the branches of this node's log, until the operator has
acknowledged them, and the disputes with peers that are not settled."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from ..core.core import Core
from ..core.deduplication import node_of
from ..disk import forks
from ..disk.store import Store
from ..errors import LogError
from ..results import Dispute, Fork, HeadInfo
from ..settings import SHORT_ID
from ..wire.forks import Branch
from .state import State


def disputes(core: Core) -> list[Dispute]:
    """Return the disputes that are not settled, with what both sides have signed to show for it."""
    found = []
    for link in core.replica.links:
        for name, theirs in link.refused.items():
            if not theirs.n:
                continue  # this node only asks again, since it has changed what it holds
            ours = core.replica.vector.head(name)
            found.append(Dispute(name, link.peer, HeadInfo(*ours), HeadInfo(*theirs)))
    return found


def branches(state: State, store: Store) -> list[Fork]:
    """Return the branches that the operator has not acknowledged yet. For any thread."""
    with state.turn() as core:
        held = {name: origin.n for name, origin in core.replica.vector.branches.items()}
    if not held:
        return []
    seen: set[str] = set()
    with suppress(LogError), store.reading() as database:
        seen = forks.acknowledged(database)
    return [_fork(name, n) for name, n in sorted(held.items()) if name not in seen]


def acknowledge(state: State, store: Store) -> None:
    """Note that the operator has seen all branches. For any thread. Raises LogError."""
    names = [branch.origin for branch in branches(state, store)]
    if names:
        with store.writing() as database:
            forks.acknowledge(database, names)


def warnings(found: Sequence[Fork], disputed: Sequence[Dispute]) -> list[str]:
    """Return sentences about branches and disputes, if there are any."""
    sentences = []
    nodes = [*dict.fromkeys(branch.node[:SHORT_ID] for branch in found)]
    if nodes:
        more = f" and {len(nodes) - 1} more" if len(nodes) > 1 else ""
        sentences.append(
            f"the node {nodes[0]}{more} has signed two different histories: its disk was set back "
            "to an earlier state, or it lies; all nodes keep the messages of both"
        )
    if disputed:
        peer, node = disputed[0].peer[:SHORT_ID], disputed[0].origin[:SHORT_ID]
        sentences.append(
            f"the peer {peer} holds other messages of the node {node} than this node; the two "
            "histories are being compared"
        )
    return sentences


def _fork(name: str, n: int) -> Fork:
    """Return the fork whose branch has that name and `n` messages."""
    base, after, _ = Branch.of(name)
    return Fork(name, base, after, n, node_of(base))
