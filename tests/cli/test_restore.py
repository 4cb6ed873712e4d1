"""A new node from a backup: it has the same log and another id, and gets the rest from peers."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from p2p_sync import InputError, Node
from p2p_sync.cli.files import batches
from p2p_sync.disk import origins
from p2p_sync.disk.log import Log
from p2p_sync.disk.origins import Floor
from p2p_sync.disk.restore import restore as restored
from p2p_sync.disk.store import Store
from p2p_sync.wire.entries import HEARD, NOTICE, Entry, Erasure, chain
from p2p_sync.wire.export import to_lines
from p2p_sync.wire.identity import Identity
from p2p_sync.wire.logframes import NO_HASH
from p2p_sync.wire.signing import sign
from tests.cli.test_backup import Done, backup, run
from tests.cli.test_verify import BROKEN, MANIPULATIONS, good, written
from tests.harness.api import post_all, read_pages, wait_equal
from tests.harness.disk import small_disk
from tests.harness.original import heard_by_two
from tests.harness.support import DEADLINE, RUN_NODE, NodeProcess, run_nodes, wait_until


def restore(file: Path | str, directory: Path) -> Done:
    return run("restore", file, "--data-dir", directory)


def test_a_new_node_holds_the_same_and_is_another_one(tmp_path: Path) -> None:
    file, directory = tmp_path / "backup.gz", tmp_path / "deep" / "data"
    with run_nodes(2) as (one, two):
        one.add(two.address)
        one.commit("single")
        post_all(one.port, [f"many {n} \u20ac" for n in range(2500)])
        two.commit("of the other")
        wait_equal([one.port, two.port], 2502)
        assert backup(one, file).returncode == 0
        done = restore(file, directory)
        assert (done.returncode, done.stdout) == (0, "2,502 restored\n"), done.stderr
        assert {path.name for path in directory.iterdir()} == {"lock", "node.db"}
        assert directory.stat().st_mode & 0o077 == 0
        assert (directory / "node.db").stat().st_mode & 0o077 == 0
        with NodeProcess(data_dir=directory) as new:
            assert new.id not in (one.id, two.id)
            assert new.digest == one.digest
            logs = [read_pages(node.port, "time")[0] for node in (one, new)]
            assert logs[0] == logs[1] == read_pages(new.port, "arrival")[0]
            new.commit("of the new one")
            new.add(two.address)
            wait_equal([node.port for node in (one, two, new)], 2503)
            last = read_pages(two.port, "time")[0][-1]
            assert last["data"] == "of the new one" and last["origin"].startswith(new.id)
            again = tmp_path / "again"
            assert backup(new, again).returncode == 0
            assert run("verify", again).returncode == 0


def history(total: int, each: int) -> Iterator[bytes]:
    """The lines of a backup of one origin, with `each` messages in an entry."""
    node = Identity.of_seed(b"7" * 32)
    origin, previous = f"{node.node}-1", NO_HASH
    for seq in range(1, total, each):
        texts = [f"message number {n} of this log" for n in range(seq, seq + each)]
        entry = Entry.of(1_700_000_000_000 + seq, texts)
        (running,) = chain(previous, [entry])
        signature = sign(node, origin, seq + each - 1, running)
        for line in to_lines(origin, seq, entry, previous, signature, False):
            yield line.encode()
        previous = running
    yield b'{"exported":%d}\n' % total


def received(node: NodeProcess) -> int:
    """How many messages its peers have sent to a node."""
    return sum(peer["received"]["messages"] for peer in node.api("peers")["peers"])


def test_a_seeded_node_receives_the_difference_alone(tmp_path: Path) -> None:
    """One of 200,000 messages starts from a file, and one more from that of the first."""
    file = tmp_path / "backup"
    with file.open("wb") as target:
        target.writelines(history(200_000, 1000))
    for name in ("one", "two"):
        assert restore(file, tmp_path / name).returncode == 0
    with NodeProcess(data_dir=tmp_path / "one") as one:
        post_all(one.port, [f"new {n}" for n in range(100)])
        with NodeProcess(data_dir=tmp_path / "two") as two:
            assert two.count == 200_000
            two.add(one.address)
            wait_equal([one.port, two.port], 200_100)
            assert received(two) == 100 and received(one) == 0


# -- what is wrong --------------------------------------------------------------------------------


def wrong(name: str) -> tuple[bytes, str]:
    """A wrong backup, and what is said about it."""
    if name in BROKEN:
        return BROKEN[name]
    lines = good()
    manipulate, expected = MANIPULATIONS[name]
    manipulate(lines)
    return b"".join(line + b"\n" for line in written(lines)), expected


@pytest.mark.parametrize("name", [*MANIPULATIONS, *BROKEN])
def test_a_wrong_backup_creates_nothing(tmp_path: Path, name: str) -> None:
    data, expected = wrong(name)
    parts = [lines for _, lines in batches(BytesIO(data).read1)]
    with pytest.raises(InputError, match=re.escape(expected)):
        restored(tmp_path / "deep" / "data", parts)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("there", [False, True], ids=["new", "an empty directory"])
@pytest.mark.parametrize("name", ["a text", "cut in a line"])
def test_a_wrong_backup_is_refused_by_the_command(tmp_path: Path, name: str, there: bool) -> None:
    data, expected = wrong(name)
    file, directory = tmp_path / "backup", tmp_path / "data"
    file.write_bytes(data)
    if there:
        directory.mkdir()
    done = restore(file, directory)
    assert done.returncode == 2 and f"cannot restore {file}: " in done.stderr
    assert expected in done.stderr
    assert directory.exists() == there
    assert not there or not [*directory.iterdir()]
    file.write_bytes(b"".join(line + b"\n" for line in written(good())))
    assert restore(file, directory).returncode == 0, "the right one can be restored then"


def test_a_directory_with_a_log_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "backup"
    with NodeProcess() as node:
        node.commit("kept")
        assert backup(node, file).returncode == 0
        done = restore(file, node.data_dir)
        assert done.returncode == 2 and "is in use by another node" in done.stderr
        node.stop()
        before = (node.data_dir / "node.db").read_bytes()
        done = restore(file, node.data_dir)
        assert done.returncode == 2 and "holds a log" in done.stderr
        assert (node.data_dir / "node.db").read_bytes() == before
        other = tmp_path / "of another program"
        other.mkdir()
        (other / "file").touch()
        done = restore(file, other)
        assert done.returncode == 2 and "not a node's" in done.stderr
        assert [path.name for path in other.iterdir()] == ["file"]


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert "No such file" in restore(tmp_path / "none", tmp_path / "data").stderr
    (tmp_path / "cut.gz").write_bytes(b"\x1f\x8b")
    assert restore(tmp_path / "cut.gz", tmp_path / "data").returncode == 2
    assert not (tmp_path / "data").exists()
    assert run("restore", tmp_path / "none").returncode == 2, "DIR is missing"


def test_a_full_disk_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    file = tmp_path / "backup"
    with file.open("wb") as target:
        target.writelines(history(20_000, 1))
    with small_disk(tmp_path / "disk", 1 << 20):
        done = restore(file, tmp_path / "disk" / "data")
        assert done.returncode == 2 and "full" in done.stderr
        assert not [*(tmp_path / "disk").iterdir()]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_one_leaves_nothing(tmp_path: Path, signum: int) -> None:
    directory = tmp_path / "data"
    command = [*RUN_NODE, "restore", "-", "--data-dir", str(directory)]
    lines = [*history(10_000, 1)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin and process.stderr
        process.stdin.writelines(lines[:5000])
        process.stdin.flush()
        wait_until((directory / "node.db.new").exists, "it has begun")
        process.send_signal(signum)
        assert process.wait(DEADLINE) == 128 + signum
        process.stdin.close()
    assert not directory.exists()


# -- copies, memory -------------------------------------------------------------------------------


@pytest.mark.parametrize("claim", ["as it is", "nothing hidden", "all hidden"])
def test_copies_are_matched_whatever_the_file_says(tmp_path: Path, claim: str) -> None:
    """Which copies are hidden is signed by nobody, so a changed file must not hide a message."""
    file = tmp_path / "backup"
    with heard_by_two() as (one, two, original):
        for text in ("from an original", "another"):
            original.commit(text)
        wait_until(lambda: one.count == two.count == 2)
        wait_until(lambda: one.get("/api/v1/messages/export").body.count(b'"hidden"') == 2)
        assert backup(one, file).returncode == 0
        shown = read_pages(one.port, "time")[0]
    lines: list[dict[str, Any]] = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines[:-1]:
        if claim == "nothing hidden":
            line.pop("hidden", None)
        elif claim == "all hidden":
            line["hidden"] = True
    file.write_bytes(b"\n".join(written(lines)))
    assert restore(file, tmp_path / "data").stdout == "2 restored, 2 hidden\n"
    with Node(0, tmp_path / "data") as new:
        assert [message.id for message in new.messages()] == [message["id"] for message in shown]


def peak(command: Sequence[str]) -> int:
    """The most memory that a command has had, in MB."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, code, usage = os.wait4(process.pid, 0)
    process.returncode = code
    assert code == 0
    return usage.ru_maxrss // 1024


def test_memory_does_not_grow_with_the_messages(tmp_path: Path) -> None:
    peaks = []
    for total in (20_000, 200_000):
        file = tmp_path / f"{total}"
        with file.open("wb") as target:
            target.writelines(history(total, 1000))
        directory = tmp_path / f"data{total}"
        peaks.append(peak([*RUN_NODE, "restore", str(file), "--data-dir", str(directory)]))
        with closing(Store(directory)) as store:
            assert Log(store).count() == (total, 0)
    assert peaks[1] < peaks[0] + 40, peaks


# -- logs that have forgotten their first messages ------------------------------------------------


def forget(directory: Path, upto: int, kept: int = 0) -> None:
    """Take the messages up to `upto` out of the log of a node that has stopped, and leave the first
    `kept` of them there."""
    with closing(Store(directory)) as store:
        ((name, head),) = Log(store).vector().items()
        with store.writing() as database:
            database.execute("DELETE FROM entries WHERE seq > ? AND seq <= ?", (kept, upto))
            origins.write(database, {name: head}, {name: Floor(upto, kept)})


@pytest.mark.parametrize("kept", [0, 3])
def test_a_log_without_its_first_messages_comes_back_as_it_was(tmp_path: Path, kept: int) -> None:
    old, file, directory = tmp_path / "old", tmp_path / "backup", tmp_path / "data"
    with NodeProcess(data_dir=old) as node:
        for n in range(10):
            node.commit(f"text {n}")
        node.stop()
    forget(old, 7, kept)
    with NodeProcess(data_dir=old) as node:
        texts = [f"text {n}" for n in range(10) if not kept <= n < 7]
        assert node.texts() == texts
        assert backup(node, file).stdout == f"{3 + kept} saved\n"
        verified = run("verify", file)
        assert verified.returncode == 0
        assert f"{7 - kept} older messages deleted before" in verified.stdout
        assert restore(file, directory).stdout == f"{3 + kept} restored\n"
        with NodeProcess(data_dir=directory) as new:
            assert new.texts() == texts and new.digest == node.digest
            since = new.status()["messages"]["complete_since"]
            assert since == read_pages(new.port, "time")[0][kept]["time"]
            new.add(node.address)
            node.commit("more")
            wait_equal([node.port, new.port], 4 + kept)
            assert received(new) == 1
        with closing(Store(directory)) as store:
            assert Log(store).count() == (4 + kept, 0) and Log(store).damaged() == []
            assert [*Log(store).floors().values()] == [7]


def test_an_entry_that_is_gone_by_itself_is_no_floor(tmp_path: Path) -> None:
    with NodeProcess() as node:
        for n in range(10):
            node.commit(f"text {n}")
        with closing(sqlite3.connect(node.data_dir / "node.db")) as database:
            database.execute("DELETE FROM entries WHERE seq = 5")
            database.commit()
        done = backup(node, tmp_path / "backup")
        assert done.returncode == 6 and "1 entry is damaged" in done.stderr
        assert not [*tmp_path.iterdir()]
        wait_until(lambda: node.status()["damaged"], node.status)


# -- all kinds of entries -------------------------------------------------------------------------


def lines_of(identity: Identity, origin: str, runs: list[list[Entry]], n: int = 0) -> list[str]:
    """The lines of an origin, with a signature at the end of each run; its first `n` messages are
    gone."""
    lines: list[str] = []
    previous = "ab" * 16 if n else NO_HASH
    gap = n > 0
    for entries in runs:
        for index, entry in enumerate(entries, 1):
            (running,) = chain(previous, [entry])
            end = n + entry.length
            signature = sign(identity, origin, end, running) if index == len(entries) else ""
            lines += to_lines(origin, n + 1, entry, previous, signature, entry.kind == NOTICE, gap)
            n, previous, gap = end, running, False
    return lines


def test_all_kinds_of_entries_come_back_as_they_were(tmp_path: Path) -> None:
    one, two, three = (Identity.of_seed(bytes([n]) * 32) for n in (1, 2, 3))
    ours, theirs = f"{one.node}-1", f"{two.node}-7"
    notices = [Entry(40, f"{ours}:{seq}", NOTICE) for seq in (3, 5)]
    hashes = chain(NO_HASH, notices)
    erasures = [
        Erasure(3, theirs, 0, NO_HASH, 40, sign(two, theirs, 1, hashes[0])),
        Erasure(5, theirs, 1, hashes[0], 40, sign(two, theirs, 2, hashes[1])),
    ]
    erased = Entry.of(2, ["a", "b", "c \u20ac"], topic="of/many").erase(2, erasures[0])
    runs = [
        [Entry.of(1, ["plain"]), erased, Entry.of(3, ["text"]).erase(5, erasures[1])],
        [Entry.of(4, ["a copy"], HEARD), Entry.of(5, ["with \n a topic"], topic="a.topic")],
        [Entry.of(6, [f"{n}" for n in range(50)])],
    ]
    lines = lines_of(one, ours, runs)
    lines += lines_of(two, theirs, [[notice] for notice in notices])
    lines += lines_of(three, f"{three.node}-9", [[Entry.of(8, ["late", "later"])]], 12)
    lines.sort(key=lambda line: [json.loads(line)[name] for name in ("time", "origin", "seq")])
    file = tmp_path / "backup"
    file.write_text("".join([*lines, f'{{"exported":{len(lines)}}}\n']))
    done = run("verify", file)
    assert done.returncode == 0, done.stdout
    assert restore(file, tmp_path / "data").returncode == 0
    with closing(Store(tmp_path / "data")) as store:
        log = Log(store)
        assert [line for page in log.export() for line in page] == lines
        assert log.count()[0] == len(lines) and log.floors() == {f"{three.node}-9": 12}
        assert [*log.audit()] and not log.damaged()
    with Node(0, tmp_path / "data") as node, Node(0) as peer:
        peer.connect(node.address)
        wait_until(lambda: peer.status().messages.count > 50, peer.status)
        assert not any(peer.status().misbehaviour.values()), peer.status()
