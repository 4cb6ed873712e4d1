"""A log of very many origins: it opens fast, and says what it holds of each."""

from __future__ import annotations

import random
import sqlite3
import time
import tracemalloc
from contextlib import closing
from pathlib import Path

import pytest

from p2p_sync.core.replica import Replica
from p2p_sync.disk.log import Log
from p2p_sync.disk.store import Store
from tests.harness.origins import make_origins, runs_of
from tests.harness.support import SCALE

NODES, STARTS = 50, 2_000


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with 100,000 origins of three messages each: 100 MB."""
    place = tmp_path_factory.mktemp("many") / "data"
    make_origins(place, NODES, STARTS)
    return place


def test_a_log_of_100_000_origins_opens_in_a_second(directory: Path) -> None:
    """It takes 0.7 s; the limit leaves room for a machine that is busy."""
    took = []
    for _ in range(3):
        begun = time.process_time()
        with closing(Store(directory)) as store:
            log = Log(store)
            vector = log.vector()
            took.append(time.process_time() - begun)
    assert min(took) < 1.5 * SCALE
    assert len(vector) == NODES * STARTS and log.count() == (3 * NODES * STARTS, 0)
    assert all(vector[run.origin] == run.head for run in runs_of(NODES, 3, 3))


def test_100_000_origins_take_little_memory(directory: Path) -> None:
    """From the log to the core; with all heads as text it was 62 MB, now it is 44."""
    tracemalloc.start()
    try:
        with closing(Store(directory)) as store:
            replica = Replica("a-1", Log(store).vector(), random.Random(1))
            held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 52_000_000, held
    for run in runs_of(2, 2, 3):
        assert replica.vector.origins[run.origin].head == run.head


def test_a_damaged_row_of_a_large_log_is_made_again(directory: Path) -> None:
    (run,) = runs_of(1, 1, 3)
    with closing(sqlite3.connect(directory / "node.db")) as database:
        change = "UPDATE origins SET n = 2 WHERE origin = ?"
        assert database.execute(change, (run.origin,)).rowcount == 1
        database.commit()
    for _ in range(2):
        with closing(Store(directory)) as store:
            log = Log(store)
            vector = log.vector()
            assert vector[run.origin] == run.head == log.head(run.origin)
            assert len(vector) == NODES * STARTS and log.damaged() == []
            assert log.count() == (3 * NODES * STARTS, 0)
