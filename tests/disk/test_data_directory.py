"""The data directory while others share the machine, and while it is taken away."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from p2p_sync import Node, StartError
from p2p_sync.disk.store import Store
from p2p_sync.errors import LogGone
from p2p_sync.web.token import kept_token
from tests.harness.support import (
    RUN_NODE,
    SCALE,
    NodeProcess,
    free_port_pair,
    holds,
    request,
    run_to_end,
    wait_until,
)

NOBODY = 65534
FILES = [
    "lock",
    "node-key.pem",
    "node.db",
    "node.db-wal",
    "node.db-shm",
    "http-token",
    "http-token.part",
    "witness-1",
    "witness-2",
]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


def modes(directory: Path) -> dict[str, str]:
    """The permissions of all that is below `directory`."""
    return {
        str(path.relative_to(directory)): f"{stat.S_IMODE(path.lstat().st_mode):o}"
        for path in directory.rglob("*")
    }


# -- who may read it ------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", ["000", "022", "777"])
def test_all_that_a_node_makes_is_its_owners_alone(tmp_path: Path, umask: str) -> None:
    command = ("sh", "-c", f'umask {umask}; exec "$@"', "sh", *RUN_NODE)
    quiet = {"PYTHONDONTWRITEBYTECODE": "1"}
    with NodeProcess(cwd=tmp_path, command=command, environment=quiet) as node:
        assert node.commit("for my eyes only").status == 302
        found = modes(tmp_path)
        data = f"p2p-data/{node.port}"
        assert found.pop("p2p-data") == found.pop(data) == "700"
        names = {f"{data}/{name}" for name in FILES if not name.endswith(".part")}
        assert names <= found.keys()
        assert set(found.values()) == {"600"}, found


def test_what_was_open_to_others_is_closed_to_them(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    with Node(0, directory) as node:
        node.commit("text")
    directory.chmod(0o755)
    for file in directory.iterdir():
        file.chmod(0o644)
    with Node(0, directory):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert set(modes(directory).values()) == {"600"}


def test_a_directory_of_another_program_stays_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "letter.txt").write_text("not ours")
    for _ in range(2):
        with pytest.raises(StartError, match="holds files that are not a node's"):
            Node(0, tmp_path).start()
        assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
        assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


@as_root
@pytest.mark.parametrize("name", ["", *FILES])
def test_what_another_user_owns_is_refused(tmp_path: Path, name: str) -> None:
    directory = tmp_path / "data"
    Store(directory).close()
    if name and not (directory / name).exists():
        (directory / name).write_text("0123456789abcdef-known")
    os.chown(directory / name, NOBODY, NOBODY)
    result = run_to_end(str(free_port_pair()), "--data-dir", str(directory))
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert str(directory / name) in line and "belongs to" in line and "--data-dir" in line
    assert (directory / name).stat().st_uid == NOBODY


def symbolic_link(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


def dangling_link(path: Path, victim: Path) -> None:
    path.symlink_to(victim.with_name("nothing"))


def hard_link(path: Path, victim: Path) -> None:
    path.hardlink_to(victim)


def pipe(path: Path, victim: Path) -> None:
    os.mkfifo(path)


def directory_instead(path: Path, victim: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("trap", [symbolic_link, dangling_link, hard_link, pipe, directory_instead])
def test_what_is_no_file_of_its_own_is_refused(
    tmp_path: Path, trap: Callable[[Path, Path], None], name: str
) -> None:
    directory, victim = tmp_path / "data", tmp_path / "victim"
    Store(directory).close()
    victim.write_text("0123456789abcdef-mine")
    (directory / name).unlink(missing_ok=True)
    trap(directory / name, victim)
    with pytest.raises(StartError, match=name):
        Store(directory)
    assert victim.read_text() == "0123456789abcdef-mine"
    assert not victim.with_name("nothing").exists()
    if name == "http-token":
        with pytest.raises(StartError, match=name):
            kept_token(str(directory))


@pytest.mark.parametrize("there", [True, False], ids=["a directory", "nothing"])
def test_a_directory_by_a_symbolic_link_is_refused_by_its_real_name(
    tmp_path: Path, there: bool
) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    if there:
        real.mkdir()
    link.symlink_to(real)
    result = run_to_end(str(free_port_pair()), "--data-dir", f"{link}/")
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "symbolic link" in line and f"--data-dir {real}" in line
    assert not there or list(real.iterdir()) == []


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a letter")
    with pytest.raises(StartError, match="not a directory"):
        Store(tmp_path / "data")


# -- while it is taken away -----------------------------------------------------------------------


def delete_all(directory: Path) -> None:
    shutil.rmtree(directory)


def move_away(directory: Path) -> None:
    directory.rename(f"{directory}-aside")


def swap_directories(directory: Path) -> None:
    move_away(directory)
    Path(f"{directory}-other").rename(directory)


def delete_database(directory: Path) -> None:
    (directory / "node.db").unlink()


def replace_database(directory: Path) -> None:
    shutil.copy(directory / "node.db", directory / "copy")
    (directory / "copy").replace(directory / "node.db")


def delete_write_ahead_log(directory: Path) -> None:
    (directory / "node.db-wal").unlink()


def delete_shared_memory(directory: Path) -> None:
    (directory / "node.db-shm").unlink()


def delete_lock(directory: Path) -> None:
    (directory / "lock").unlink()


def empty_database(directory: Path) -> None:
    os.truncate(directory / "node.db", 0)


def empty_write_ahead_log(directory: Path) -> None:
    os.truncate(directory / "node.db-wal", 0)


def copy_over_database(directory: Path) -> None:
    """As `cp` does, which keeps the file and overwrites what is in it."""
    (directory / "node.db").write_bytes(b"SQLite format 3\0")


def link_instead(directory: Path) -> None:
    move_away(directory)
    directory.symlink_to(f"{directory}-nowhere")


def mount_over(directory: Path) -> None:
    result = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(directory)], capture_output=True)
    if result.returncode:
        pytest.skip("a file system of our own cannot be mounted here")


LOSSES = [
    delete_all,
    move_away,
    swap_directories,
    delete_database,
    replace_database,
    delete_write_ahead_log,
    delete_shared_memory,
    delete_lock,
    link_instead,
    mount_over,
    empty_database,
    empty_write_ahead_log,
    copy_over_database,
]
OVERWRITES = (empty_database, empty_write_ahead_log, copy_over_database)
ASIDE = (move_away, swap_directories, link_instead)


@pytest.mark.parametrize("busy", [True, False], ids=["busy", "idle"])
@pytest.mark.parametrize("lose", LOSSES)
def test_a_log_that_is_taken_away_is_noticed(
    tmp_path: Path, lose: Callable[[Path], None], busy: bool
) -> None:
    directory, other = tmp_path / "data", tmp_path / "data-other"
    with Node(0, other) as node:
        node.commit("of another node")
        shutil.copytree(other, tmp_path / "data-copy")  # with its write-ahead log
    shutil.rmtree(other)
    (tmp_path / "data-copy").rename(other)
    kept = {file.name: file.read_bytes() for file in other.iterdir()}
    try:
        with NodeProcess(data_dir=directory) as node:
            assert node.commit("before").status == 302
            lose(directory)
            if busy and lose not in (delete_shared_memory, delete_lock):  # within a second
                assert node.commit("not acknowledged").status == 503
            wait_until(lambda: node.get("/readyz").status == 503, "not ready", 1.0 * SCALE)
            answer = node.commit("not acknowledged either")
            assert answer.status == 503 and "is lost" not in answer.text, answer.text
            if lose not in OVERWRITES:
                assert node.messages() == "before", "what was read can be read still"
            holds(lambda: node.get("/readyz").status == 503)
            lines = [line for line in node.log().splitlines() if "ERROR" in line or "WARN" in line]
            assert len(lines) == 1 and "cannot be stored" in lines[0], lines
            assert request(node.port, "/metrics").status == 200
            assert node.stop() == 0
            assert "Traceback" not in node.log()
        if lose is swap_directories:
            assert {file.name: file.read_bytes() for file in directory.iterdir()} == kept
        if lose in (delete_write_ahead_log, delete_shared_memory, delete_lock):
            with NodeProcess(data_dir=directory) as node:
                assert "before" in node.texts()
        if lose in ASIDE:
            with NodeProcess(data_dir=f"{directory}-aside") as node:
                assert node.texts() == ["before"], "what was not acknowledged was undone"
    finally:
        if lose is mount_over:
            subprocess.run(["umount", "-l", str(directory)], capture_output=True)


@pytest.mark.parametrize("lose", [delete_all, move_away, replace_database, empty_database])
def test_a_loss_in_the_midst_of_a_commit_is_noticed(
    tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    """It comes when the files have been looked at, at the moment at which SQLite writes."""
    directory = tmp_path / "data"
    lost: list[str] = []

    def on_statement(statement: str) -> None:
        if statement == "COMMIT" and not lost:
            lost.append(statement)
            lose(directory)

    store = Store(directory)
    with closing(store):
        store.keep_addresses([], 0.0)  # the write-ahead log is not empty
        with pytest.raises(LogGone), store.writing() as database:
            database.set_trace_callback(on_statement)
            database.execute("DELETE FROM addresses")
        assert lost
        with pytest.raises(LogGone):
            store.check()


def test_a_write_ahead_log_that_is_deleted_takes_nothing_with_it_though_the_node_is_killed(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "data"
    with NodeProcess(data_dir=directory) as node:
        assert node.commit("before").status == 302
        delete_write_ahead_log(directory)
        wait_until(lambda: node.get("/readyz").status == 503, "it is noticed")
        node.process.kill()
        node.process.wait()
    with NodeProcess(data_dir=directory) as node:
        assert node.texts() == ["before"]
