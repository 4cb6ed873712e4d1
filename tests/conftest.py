"""For all tests: the settings of made-up examples, and a pair of nodes that a module may share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.support import NodeProcess, run_nodes, wait_sockets

# How long an example takes says nothing on a busy machine.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


@pytest.fixture(scope="module")
def pair() -> Iterator[list[NodeProcess]]:
    """Two linked nodes."""
    with run_nodes(2) as nodes:
        nodes[0].add(nodes[1].address)
        wait_sockets(1, *nodes)
        yield nodes
