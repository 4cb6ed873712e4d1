"""The data directory: what outlives a restart, and who may use it."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from p2p_sync import StartError
from p2p_sync.addressbook import Known
from p2p_sync.store import Store
from tests.support import DEADLINE, ROOT


def test_identity_and_addresses_outlive_a_restart(tmp_path: Path) -> None:
    first = Store(tmp_path / "node")
    given = Known("ws://a:1", by_hand=True, local=True)
    learned = Known("ws://b:2", False, False, "a" * 16, "b" * 16, False, 3, "refused", 90.0, 95.0)
    first.keep_addresses([given, learned], 40.0)
    first.close()
    second = Store(tmp_path / "node")
    assert second.node == first.node
    assert second.addresses(40.0) == [given, learned]
    (_, moved) = second.addresses(-1000.0)  # on a clock that began anew
    assert (moved.worked, moved.failing) == (-950.0, -945.0)
    second.close()


def test_without_a_directory_each_start_is_a_node_of_its_own() -> None:
    first, second = Store(None), Store(None)
    assert first.node != second.node
    first.close()
    second.close()


def test_one_node_a_directory(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(StartError, match="in use"):
        Store(tmp_path)
    store.close()
    Store(tmp_path).close()


def test_the_lock_goes_with_the_process(tmp_path: Path) -> None:
    program = f"import os; from p2p_sync.store import Store; Store({str(tmp_path)!r}); os._exit(9)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=DEADLINE)
    Store(tmp_path).close()


def test_files_that_are_not_a_nodes_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(StartError, match="not a node's"):
        Store(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("content", [b"not a database, but long enough to be one" * 9, b"x"])
def test_a_database_of_something_else_is_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "node.db").write_bytes(content)
    with pytest.raises(StartError, match="not a node's"):
        Store(tmp_path)
    assert (tmp_path / "node.db").read_bytes() == content


def test_a_newer_schema_is_refused_and_untouched(tmp_path: Path) -> None:
    Store(tmp_path).close()
    database = sqlite3.connect(tmp_path / "node.db")
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(StartError, match="newer"):
        Store(tmp_path)
