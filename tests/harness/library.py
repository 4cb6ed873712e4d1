"""Nodes of the library in the tests' own process."""

from __future__ import annotations

from p2p_sync import Node
from tests.harness.support import DEADLINE, wait_until

PROBE = "is the link open?"


def texts(node: Node) -> list[str]:
    """The texts of all messages but the probes of `link`, in the shared order."""
    return [message.data for message in node.messages() if message.data != PROBE]


def link(here: Node, *others: Node) -> None:
    """Connect `here` with the others, and return when it knows what they hold."""
    for other in others:
        here.connect(other.address)
    assert here.wait_linked(len(others), DEADLINE), "all are linked"
    message = here.commit(PROBE)
    wait_until(lambda: here.report.spread([message])[0].copies == len(others), "all have answered")
