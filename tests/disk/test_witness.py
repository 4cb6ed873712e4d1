"""Whether a start goes on with the origin of the last one: only if nothing was put back since."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest

from p2p_sync import Node
from p2p_sync.disk import witness
from p2p_sync.disk.directory import WITNESSES
from p2p_sync.disk.log import Log
from p2p_sync.disk.store import Store
from p2p_sync.disk.witness import Left, Witness
from p2p_sync.node import parts as parts_module
from p2p_sync.node import state as state_module
from p2p_sync.wire.entries import Entry, chain
from p2p_sync.wire.logframes import NO_HASH, Run
from p2p_sync.wire.signing import signed
from tests.harness.forked import Forked, forked
from tests.harness.library import texts
from tests.harness.support import pause, wait_until

STARTS = 1_000
LINUX = witness.BOOT_ID.exists()
pytestmark = pytest.mark.skipif(not LINUX, reason="this system does not show the id of its boot")


class Machine:
    """Runs nodes in processes of their own, below `directory`. No two messages may ever get one
    id."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._texts: dict[tuple[str, int], str] = {}  # by origin and number
        self._count = 0

    def commit(self, data: str = "data", *, kill: bool = False, boot: Path | None = None) -> str:
        """Start a node, commit two messages and stop or kill the node; return their origin."""
        with self.node(data, kill=kill, boot=boot) as node:
            first = self.say(node)
            assert self.say(node) == first
        return first

    def node(
        self, data: str, *, kill: bool = False, boot: Path | None = None
    ) -> AbstractContextManager[Forked]:
        """Run a node that is stopped, or killed, at the end of the block."""
        return forked(self.directory / data, kill=kill, boot=boot)

    def say(self, node: Forked) -> str:
        """Have a node commit a message; return its origin."""
        self._count += 1
        identity = node.commit(f"text {self._count}")
        assert identity not in self._texts, "two messages have one id"
        self._texts[identity] = f"text {self._count}"
        return identity[0]

    def do(self, command: str) -> None:
        """Run a command of the shell; skip the test where a tool or the file system lacks it."""
        for tool in ("rsync", "tar"):
            if tool in command and not shutil.which(tool):
                pytest.skip(f"{tool} is not installed")
        done = subprocess.run(
            ["sh", "-ec", command], cwd=self.directory, capture_output=True, text=True
        )
        if "reflink" in command and done.returncode:
            pytest.skip("the file system cannot share the blocks of two files")
        assert done.returncode == 0, done.stderr


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


ends = pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])

# -- the same origin ------------------------------------------------------------------------------


@ends
def test_the_next_start_goes_on_with_the_origin(machine: Machine, kill: bool) -> None:
    assert len({machine.commit(kill=kill) for _ in range(10)}) == 1


def test_a_start_without_commits_changes_nothing(machine: Machine) -> None:
    first = machine.commit()
    for number in range(6):
        with machine.node("data", kill=number % 3 > 0):
            pause(number * 0.05)
    assert machine.commit() == first


@pytest.fixture
def quick_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory, where syncs take no time, if the system has one."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as directory:
        yield Path(directory)


def test_a_thousand_starts_make_one_origin(quick_disk: Path) -> None:
    origins = set()
    for number in range(STARTS):
        with closing(Store(quick_disk)) as store:
            log = Log(store)
            origin = log.origin(time.time_ns()) or f"{store.node}-{number}"
            origins.add(origin)
            log.begin(origin)
            held = log.vector().get(origin)
            after, previous = (held.n, held.hash) if held else (0, NO_HASH)
            entries = (Entry(number, f"text {number}"),)
            own = Run(origin, after, previous, entries, chain(previous, entries))
            log.append(signed([own], store.identity))
    assert len(origins) == 1
    with closing(Store(quick_disk)) as store:
        assert Log(store).count() == (STARTS, 0)


@ends
@pytest.mark.parametrize(
    "command", ["mv data moved", "mkdir deep && mv data deep && mv deep/data moved"]
)
def test_a_directory_that_was_moved_is_the_same(machine: Machine, command: str, kill: bool) -> None:
    first = machine.commit(kill=kill)
    machine.do(command)
    assert machine.commit("moved") == first


def test_what_only_reads_the_files_changes_nothing(machine: Machine) -> None:
    first = machine.commit()
    machine.do("tar -cf backup.tar data && cat data/* > /dev/null && cp -a data copy")
    database = machine.directory / "data/node.db"
    with closing(sqlite3.connect(database)) as ours, closing(sqlite3.connect(":memory:")) as copy:
        ours.backup(copy)
    assert machine.commit() == first


# -- copies ---------------------------------------------------------------------------------------

TAR = "tar -C {0} -cf - . | tar -C {1} -xf -"
COPIES = {
    "cp -r": "cp -r data copy",
    "cp -a": "cp -a data copy",
    "cp --reflink": "cp -a --reflink=always data copy",
    "rsync -a": "rsync -a data/ copy",
    "tar": "mkdir -m 700 copy && " + TAR.format("data", "copy"),
}
copies = pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)


@copies
@ends
def test_a_copy_gets_a_new_origin(machine: Machine, copy: str, kill: bool) -> None:
    first = machine.commit(kill=kill)
    machine.do(copy)
    second = machine.commit("copy", kill=kill)
    assert second != first
    assert machine.commit(kill=kill) == first
    assert machine.commit("copy", kill=kill) == second
    machine.do("rm -r data && mv copy data")
    assert machine.commit() == second


@copies
def test_a_copy_of_a_running_node_gets_a_new_origin(machine: Machine, copy: str) -> None:
    machine.commit()
    with machine.node("data") as node:
        first = machine.say(node)
        machine.do(copy)
        assert machine.commit("copy") != first
        assert machine.say(node) == first
    assert machine.commit() == first


@ends
def test_a_copy_by_hard_links_is_refused(machine: Machine, kill: bool) -> None:
    first = machine.commit(kill=kill)
    machine.do("cp -al data copy")
    for data in ("data", "copy"):
        with pytest.raises(EOFError):
            machine.commit(data)
    machine.do("rm -r copy")
    assert machine.commit() != first, "both names were of the same files, and either may be gone"


# -- older states ---------------------------------------------------------------------------------

RESTORES = {
    "whole, cp -r": "cp -r older/. data",
    "whole, cp -a": "cp -a older/. data",
    "whole, rsync -a": "rsync -a older/ data",
    "whole, rsync -a --delete": "rsync -a --delete older/ data",
    "whole, rsync -a --inplace": "rsync -a --inplace older/ data",
    "whole, tar": TAR.format("older", "data"),
    "whole, tar --overwrite": TAR.format("older", "data") + " --overwrite",
    "whole, in its place": "rm -r data && cp -a older data",
    "whole, beside it": "mv data gone && cp -a older data",
    "the copy itself": "rm -r data && mv older data",
    "the copy itself, beside it": "mv data gone && mv older data",
    "the database, cp": "cp older/node.db data",
    "the database, cp -a": "cp -a older/node.db data",
    "the database, mv": "mv older/node.db data",
    "the database, rsync": "rsync -a --inplace -I older/node.db data",
    "the database and its log": "cp -a older/node.db* data",
    "the database and the witnesses": "cp -a older/node.db older/witness-? data",
    "the witnesses": "cp -a older/witness-? data",
    "one witness": "cp -a older/witness-1 data",
    "the other witness": "cp -a older/witness-2 data",
    "the database and the key alone": "rm data/* && cp older/node.db older/*.pem data",
}


@pytest.mark.parametrize("restore", RESTORES.values(), ids=RESTORES)
@ends
def test_an_older_state_gets_a_new_origin(machine: Machine, restore: str, kill: bool) -> None:
    before = machine.commit(kill=kill)
    machine.do("cp -a data older && touch -d '1 hour ago' older/*")  # rsync compares the times
    machine.commit(kill=kill)
    machine.do(restore)
    after = machine.commit()
    assert after > before
    assert machine.commit() == after


@pytest.mark.parametrize(
    "restore",
    [
        "cp older/node.db-wal data",
        "cp older/node.db-wal older/witness-? data",
        "rsync -a --inplace --size-only older/ data",
    ],
)
def test_an_older_write_ahead_log_gets_a_new_origin(machine: Machine, restore: str) -> None:
    before = machine.commit(kill=True)
    machine.do("cp -a data older")
    machine.commit(kill=True)
    machine.do(restore)
    assert machine.commit() > before


def test_the_same_state_put_back_gets_a_new_origin(machine: Machine) -> None:
    before = machine.commit()
    machine.do("cp data/node.db older.db && cp older.db data/node.db")
    assert machine.commit() > before


# -- other machines, and disks that are set back --------------------------------------------------


@ends
def test_another_boot_gets_a_new_origin(machine: Machine, kill: bool) -> None:
    boot = machine.directory / "boot_id"
    boot.write_text("first\n")
    first = machine.commit(kill=kill, boot=boot)
    assert machine.commit(kill=kill, boot=boot) == first
    boot.write_text("second\n")
    second = machine.commit(kill=kill, boot=boot)
    assert second > first
    assert machine.commit(boot=boot) == second


def test_a_start_logs_that_it_takes_a_new_origin(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "p2p_sync")
    for word, logged in (("first", False), ("again", False), ("copied", True)):
        if logged:
            (tmp_path / "data").rename(tmp_path / "old")
            shutil.copytree(tmp_path / "old", tmp_path / "data")
        with Node(0, tmp_path / "data") as node:
            node.commit(word)
        assert ("new messages get a new origin" in caplog.text) == logged


@pytest.mark.parametrize("text", [None, "", "\xff"], ids=["missing", "empty", "no text"])
def test_without_the_id_of_the_boot_each_start_gets_a_new_origin(
    machine: Machine, text: str | None
) -> None:
    boot = machine.directory / "boot_id"
    if text is not None:
        boot.write_bytes(text.encode("latin-1"))
    assert len({machine.commit(boot=boot) for _ in range(3)}) == 3


def set_back(directory: Path, older: Path) -> None:
    """Put an older state back as the machine below the file system does it: no file shows it."""
    shutil.rmtree(directory)
    shutil.copytree(older, directory)
    records = [json.loads((older / name).read_text()) for name in WITNESSES]
    own = Left(*max(records, key=lambda record: int(record[1]))[2:5])
    with closing(Witness(directory)) as proof:
        assert proof.left is None
        proof.keep((directory / "node.db").lstat(), own)


@pytest.mark.parametrize("again", [False, True], ids=["at once", "after one more start"])
def test_peers_show_that_the_disk_was_set_back(
    tmp_path: Path, again: bool, caplog: pytest.LogCaptureFixture
) -> None:
    data, older = tmp_path / "data", tmp_path / "older"
    with Node(0, data) as node:
        before = node.commit("kept").origin
    shutil.copytree(data, older)
    with Node(0) as peer:
        with Node(0, data) as node:
            assert node.commit("lost").origin == before
            node.connect(peer.address)
            wait_until(lambda: texts(peer) == ["kept", "lost"], "the peer has it")
        set_back(data, older)
        with Node(0, data) as node:
            assert texts(node) == ["kept"]
            node.connect(peer.address)
            wait_until(lambda: texts(node) == ["kept", "lost"], "it came back")
            after = "" if again else node.commit("new").origin
        if again:
            with Node(0, data) as node:
                node.connect(peer.address)
                after = node.commit("new").origin
                wait_until(lambda: "new" in texts(peer), "the peer has it")
        wait_until(lambda: texts(peer) == ["kept", "lost", "new"], "the peer has it")
        assert after > before
        assert not peer.status().forks
    assert "its disk was set back" in caplog.text


@pytest.mark.parametrize("there", [True, False], ids=["a directory", "none"])
def test_a_witness_that_cannot_be_written_costs_the_origin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    first = None
    if there:
        with Node(0, tmp_path) as node:
            first = node.commit("one").origin
    with monkeypatch.context() as patch, Node(0, tmp_path) as node:
        patch.setattr(os, "pwrite", full)
        second = node.commit("two").origin
        assert first in (None, second)
        assert node.commit("three").origin == second
    with Node(0, tmp_path) as node:
        assert texts(node)[-2:] == ["two", "three"]
        assert node.commit("four").origin > second


@pytest.mark.parametrize("told", [1, 2])
def test_a_damaged_end_of_the_log_costs_the_origin(machine: Machine, told: int) -> None:
    before = machine.commit()  # two messages; after kill -9 the witness may know of the first alone
    data = machine.directory / "data"
    with closing(Store(data)) as store:
        own = Left(before, told, Log(store).hash_at(before, told) or "")
    with closing(sqlite3.connect(data / "node.db")) as log:
        log.execute("UPDATE entries SET data = 'other' WHERE seq = 2")
        log.commit()
    with closing(Witness(data)) as proof:
        proof.keep((data / "node.db").lstat(), own)
    assert machine.commit() > before


def test_a_clock_that_was_set_back_costs_the_origin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hour = 3_600_000
    with monkeypatch.context() as patch:
        for module in (parts_module, state_module):
            patch.setattr(module, "wall_ms", lambda: time.time_ns() // 1_000_000 + hour)
        with Node(0, tmp_path) as node:
            ahead = node.commit("in an hour")
    with Node(0, tmp_path) as node:
        message = node.commit("now")
        assert message.time < ahead.time - hour / 2
        assert message.origin > ahead.origin
    with Node(0, tmp_path) as node:
        assert node.commit("later").origin == message.origin
