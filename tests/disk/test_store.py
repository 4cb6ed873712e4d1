"""The data directory: what outlives a restart, and who may use it."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from p2p_sync import StartError
from p2p_sync.core.book import Known
from p2p_sync.disk.schema import VERSION
from p2p_sync.disk.store import Store
from tests.harness.support import DEADLINE, ROOT


def test_identity_and_addresses_outlive_a_restart(tmp_path: Path) -> None:
    first = Store(tmp_path / "node")
    given = Known("ws://a:1", by_hand=True, local=True)
    learned = Known("ws://b:2", False, False, "a" * 32, "b" * 32, "web-2", 3, "refused", 90.0, 95.0)
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
    program = (
        f"import os; from p2p_sync.disk.store import Store; Store({str(tmp_path)!r}); os._exit(9)"
    )
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


def refused_untouched(directory: Path, reason: str) -> None:
    """The directory is refused for `reason`, and the log in it is as it was before."""

    def contents() -> dict[str, bytes]:
        files = (directory / "node.db", directory / "node.db-wal")
        return {file.name: file.read_bytes() for file in files if file.exists()}

    before = contents()
    with pytest.raises(StartError, match=reason):
        Store(directory)
    after = contents()
    assert {name: data for name, data in after.items() if data or name in before} == before


@pytest.mark.parametrize("version", [1, VERSION - 1, VERSION + 1, 1000])
@pytest.mark.parametrize("where", ["in the database", "in the write-ahead log"])
def test_another_schema_is_refused_and_untouched(tmp_path: Path, version: int, where: str) -> None:
    Store(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / "node.db")) as database:
        if where == "in the write-ahead log":  # as a crash leaves it
            program = (
                "import os, sqlite3; "
                f"database = sqlite3.connect({str(tmp_path / 'node.db')!r}); "
                f"database.execute('PRAGMA user_version = {version}'); os._exit(9)"
            )
            subprocess.run([sys.executable, "-c", program], timeout=DEADLINE)
        else:
            database.execute("PRAGMA journal_mode = DELETE")
            database.execute(f"PRAGMA user_version = {version}")
    refused_untouched(tmp_path, f"another version of p2p_sync .* version {version}, .* data_dir=")


def test_an_empty_database_is_no_new_node(tmp_path: Path) -> None:
    (tmp_path / "node.db").touch()
    refused_untouched(tmp_path, "empty")


def test_a_write_ahead_log_without_its_database_is_no_new_node(tmp_path: Path) -> None:
    program = (
        "import os; from p2p_sync.disk.store import Store; "
        f"store = Store({str(tmp_path)!r}); store.keep_addresses([], 0); os._exit(9)"
    )
    Store(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / "node.db")) as database:
        database.execute("INSERT INTO addresses VALUES ('ws://a:1', 1, 1, '', 0, '', 0, '', 0, 0)")
        database.commit()
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=DEADLINE)
    (tmp_path / "node.db").unlink()
    assert (tmp_path / "node.db-wal").stat().st_size
    refused_untouched(tmp_path, "node.db-wal")
    (tmp_path / "node.db-wal").unlink()
    Store(tmp_path).close()


def test_a_start_that_was_killed_while_it_made_the_database_is_made_up_for(tmp_path: Path) -> None:
    for ending in ("", "-wal", "-shm", "-journal"):
        (tmp_path / f"node.db.new{ending}").write_bytes(b"half of it")
    Store(tmp_path).close()
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {"lock", "node-key.pem", "node.db", "witness-1", "witness-2"}


@pytest.mark.parametrize("when", ["the first start", "a later start"])
def test_a_file_system_without_shared_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    if when == "a later start":  # the directory was copied to it
        Store(tmp_path).close()
        with closing(sqlite3.connect(tmp_path / "node.db")) as database:
            database.execute("PRAGMA journal_mode = DELETE")
    real = sqlite3.connect

    def connect(path: Any, **options: Any) -> Any:
        # This way of locking files, one of SQLite's own, has no shared memory either.
        options["uri"] = True
        if isinstance(path, Path):
            path = f"{path.absolute().as_uri()}?vfs=unix-dotfile"
        return real(path, **options)

    monkeypatch.setattr("sqlite3.connect", connect)
    with pytest.raises(StartError, match="local disk"):
        Store(tmp_path)


def test_damaged_addresses_are_left_out(tmp_path: Path) -> None:
    good = Known("ws://a:1", by_hand=True, local=True)
    with closing(Store(tmp_path)) as store:
        store.keep_addresses(
            [good, Known("ws://b:2", True, True), Known("ws://c:3", True, True)], 0
        )
    with closing(sqlite3.connect(tmp_path / "node.db")) as database:
        database.execute(
            "UPDATE addresses SET address = CAST(x'ff' AS TEXT) WHERE address LIKE '%b%'"
        )
        database.execute("UPDATE addresses SET address = 'ws:/c:3' WHERE address LIKE '%c%'")
        database.commit()
    with closing(Store(tmp_path)) as store:
        assert store.addresses(0) == [good]
