"""For all tests: how they are divided among processes, the settings of made-up examples, and nodes
that the tests of a module share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.harness.browser import browser
from tests.harness.page import Open, pages_of
from tests.harness.raw import DIRECTIONS, RawPeer, alone
from tests.harness.support import NodeProcess, run_nodes, wait_sockets

# How long an example takes says nothing on a busy machine.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

MOST_WORKERS = 8
GROUPS = {
    # They measure delays, or keep all cores busy.
    **dict.fromkeys(("test_bench", "test_link_load", "test_misbehaviour"), "heavy"),
    **dict.fromkeys(
        ("test_page", "test_page_access", "test_page_messages", "test_page_start"), "heavy"
    ),
    # They do nothing but compute, so that two of them would leave no core to the others.
    **dict.fromkeys(("test_simulation", "test_mesh_simulation"), "computing"),
    # It makes an environment, which takes a while.
    "test_readme_commands": "copy",
}
"""Modules whose tests take long, so that they begin first; one worker runs those of a group."""


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Divide the whole suite among workers of pytest-xdist, one more than there are cores, for most
    tests wait. Tests that are named on the command line run in this process."""
    option = config.option
    whole = config.args == config.getini("testpaths")
    free = getattr(option, "numprocesses", 0) is None and not (option.usepdb or option.collectonly)
    if whole and free and "PYTEST_XDIST_WORKER" not in os.environ:
        option.numprocesses = min((os.cpu_count() or 1) + 1, MOST_WORKERS)
        option.dist = "loadfile"
        option.loadscopereorder = False


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let one worker run all tests of a module, so that what they share is made once, and all
    modules of a group.

    pytest-xdist has a mark for groups, which it ignores silently with some versions of pytest.
    """
    if config.option.dist != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    scheduler: Any = LoadFileScheduling(config, log)
    scheduler._split_scope = group_of
    return scheduler


def group_of(test: str) -> str:
    """Return the group of a test, or its module: whatever one worker runs."""
    module = test.partition("::")[0]
    return GROUPS.get(Path(module).stem, module)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the groups where there are workers, or the others end sooner and are idle."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: item.path.stem not in GROUPS)


@pytest.fixture(scope="module")
def node() -> Iterator[NodeProcess]:
    """A node that was started with no options. In the end it must not have logged a traceback.

    A module that needs other options has a fixture of its own by this name.
    """
    with NodeProcess() as node:
        yield node
        assert "Traceback" not in node.log(), node.log()


@pytest.fixture
def unharmed(node: NodeProcess) -> Iterator[None]:
    """A test leaves no link and no message on the shared node."""
    yield
    node.assert_unharmed()


@pytest.fixture(params=DIRECTIONS)
def peer(node: NodeProcess, request: pytest.FixtureRequest) -> Iterator[RawPeer]:
    """A link with the shared node in each direction, beside another one that has to survive it."""
    with alone(request.param, node) as peer:
        yield peer


@pytest.fixture(scope="module")
def pair() -> Iterator[list[NodeProcess]]:
    """Two linked nodes. In the end neither must have logged a traceback."""
    with run_nodes(2) as nodes:
        nodes[0].add(nodes[1].address)
        wait_sockets(1, *nodes)
        yield nodes
        for node in nodes:
            assert "Traceback" not in node.log(), node.log()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser."""
    with browser() as running:
        yield running


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Open]:
    """Opens the page of a node, as often as called, see `pages_of`."""
    with pages_of(chromium) as opened:
        yield opened
