"""A node with 88,000 origins: it holds its lock for a moment only, and sends only what differs."""

from __future__ import annotations

import gc
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest

from p2p_sync import Node
from p2p_sync.disk.directory import KEY_FILE
from p2p_sync.disk.log import Log
from p2p_sync.disk.store import Store
from tests.harness import raw
from tests.harness.origins import make_origins, runs_of
from tests.harness.support import SCALE, NodeProcess, wait_until

NODES, STARTS = 44, 2_000  # a little below the limit for nodes that are never met
LINKS = 16


class TimedLock:
    """A lock that notes for how long it was held at most: the CPU time of who held it, in s."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._lock = threading.Lock()
        self._since = 0.0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        got = self._lock.acquire(blocking, timeout)
        if got:
            self._since = time.thread_time()
        return got

    def release(self) -> None:
        self.longest = max(self.longest, time.thread_time() - self._since)
        self._lock.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("many") / "data"
    make_origins(place, NODES, STARTS, 1)
    return place


@pytest.fixture
def unbothered() -> Iterator[None]:
    """Python's garbage collector does not run meanwhile; run_node.py keeps it off the log, too."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize(("differ", "kilobytes"), [(1, 10), (10, 60)])
def test_a_node_of_very_many_origins_sends_what_differs_and_locks_for_a_moment(
    tmp_path: Path,
    directory: Path,
    differ: int,
    kilobytes: int,
    unbothered: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    places = tmp_path / "less", tmp_path / "more"
    for place in places:
        shutil.copytree(directory, place)
        (place / KEY_FILE).unlink()
    with closing(Store(places[1])) as store:
        more = runs_of(NODES + differ, STARTS, 1)
        Log(store).append(list(islice(more, NODES, NODES + differ)))
    lock = TimedLock()
    timed = SimpleNamespace(**{**vars(threading), "RLock": lambda: lock})
    monkeypatch.setattr("p2p_sync.node.state.threading", timed)
    with ExitStack() as stack:
        node = stack.enter_context(Node(0, places[0]))
        other = stack.enter_context(NodeProcess("--peer", node.address, data_dir=places[1]))

        def is_equal() -> bool:
            return bool(node.status().messages.digest == other.digest)

        wait_until(lambda: node.status().messages.digest == other.digest, "the logs are equal")
        wait_until(lambda: node.status().verdict.state == "in_sync", "in sync", 5 * SCALE)
        (link,) = node.peers()
        carried = link.sent.bytes + link.received.bytes
        assert carried < 1000 * kilobytes, carried
        for _ in range(LINKS - 1):
            stack.enter_context(raw.dial(node.address)).send_sockets()
        wait_until(lambda: node.status().sockets == LINKS, "all are linked")
        for _ in range(20):
            node.status(), node.peers(), node.report.metrics(), node.commit("text")
        wait_until(lambda: node.status().messages.digest == other.digest, "the logs are equal")
    assert 0.0 < lock.longest < 0.005 * SCALE, lock.longest
