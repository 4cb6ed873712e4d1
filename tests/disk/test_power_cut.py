"""A power cut at every point: what a node has written and synced is replayed up to there, and a new
start must find all acknowledged messages, and use no id again.

`strace` records the system calls of a real process. Until a file is synced, what was written to it
may be on the disk as a whole, in parts, or not at all, and the same is true of the names in a
directory, in their order.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from p2p_sync import Node
from p2p_sync.disk import witness
from tests.harness.support import DEADLINE, ROOT

SECTOR = 512
"""What a disk writes as a whole."""
TORN = 40
"""How many times a cut hits what is not synced at random."""

PROGRAM = """
import json, os, sys
from p2p_sync import Node

told = os.open("told", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
for start in range(3):
    with Node(0, "data") as node:
        for number in range(4):
            message = node.commit(f"text {start}-{number} " + number * 2000 * "x")
            os.write(told, json.dumps([message.origin, message.seq, message.data]).encode())
"""
CALLS = "openat,write,pwrite64,ftruncate,fsync,fdatasync,rename,unlink"


@dataclass(frozen=True)
class Call:
    """A system call: its name, its texts (paths and data), its other arguments, and its result."""

    name: str
    texts: list[bytes]
    numbers: list[int]
    result: bytes


def recorded(directory: Path) -> list[Call]:
    """Run the program; return its system calls in the order in which they ended. Skips the test
    where that cannot be done."""
    if not shutil.which("strace"):
        pytest.skip("strace is not installed")
    trace = directory / "trace"
    options = ["-f", "-y", "-xx", "-s", "1000000", "-o", str(trace), "-e", f"trace={CALLS}"]
    done = subprocess.run(
        ["strace", *options, sys.executable, "-c", PROGRAM],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE,
    )
    if "ptrace" in done.stderr:
        pytest.skip("processes cannot be traced here")
    assert done.returncode == 0, done.stderr
    return list(parsed(trace.read_text().splitlines()))


def parsed(lines: list[str]) -> Iterator[Call]:
    begun: dict[str, str] = {}  # by thread
    for line in lines:
        thread, _, text = line.partition(" ")
        text = text.strip()
        if text.endswith("<unfinished ...>"):
            begun[thread] = text.removesuffix("<unfinished ...>")
            continue
        if match := re.match(r"<\.\.\. \w+ resumed>", text):
            text = begun.pop(thread) + text[match.end() :]
        call = re.fullmatch(r"(\w+)\((.*)\)\s+= (-?\d+)(?:<(.*)>)?.*", text)
        if not call or int(call[3]) < 0:
            continue
        texts = re.findall(r'"((?:\\x[0-9a-f]{2})*)"|<((?:\\x[0-9a-f]{2})+)>', call[2])
        plain = re.sub(r'"[^"]*"|<[^>]*>', "", call[2])
        numbers = [int(word) for word in re.findall(r"\d+", plain)]
        path = unhex(call[4] or "")
        yield Call(call[1], [unhex(one or other) for one, other in texts], numbers, path)


def unhex(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


@dataclass(eq=False)
class File:
    """A file: what is certainly on the disk, and what was written since: (where, data), or
    (length, None) where it was cut."""

    safe: bytearray = field(default_factory=bytearray)
    since: list[tuple[int, bytes | None]] = field(default_factory=list)
    length: int = 0

    def write(self, at: int, data: bytes) -> None:
        self.since.append((at, data))
        self.length = max(self.length, at + len(data))

    def cut(self, length: int) -> None:
        self.since.append((length, None))
        self.length = length

    def sync(self) -> None:
        self.safe = self.content(None, 1.0)
        self.since.clear()

    def content(self, rng: random.Random | None, part: float) -> bytearray:
        """What a cut leaves: of what was written since, each sector with the chance `part`."""
        content = self.safe[:]
        for at, data in self.since:
            if data is None:
                if rng is None or rng.random() < part:
                    del content[at:]
                continue
            for start in range(0, len(data), SECTOR):
                piece = data[start : start + SECTOR]
                if part == 1.0 or (rng and rng.random() < part):
                    content.extend(bytes(max(0, at + start - len(content))))
                    content[at + start : at + start + len(piece)] = piece
        return content


class Disk:
    """The data directory, as a disk has it."""

    def __init__(self) -> None:
        self.names: dict[str, File] = {}  # as programs see them
        self.safe_names: dict[str, File] = {}  # those certainly on the disk
        self.since: list[tuple[str, File | None]] = []  # changes of names that are not

    def apply(self, call: Call, data: bytes) -> bool:
        """Take in a call about a file below the path `data`; return whether it is a sync."""
        prefix = data + b"/"
        paths = [t[len(prefix) :].decode() for t in call.texts if t.startswith(prefix)]
        if call.name == "openat" and call.result.startswith(prefix):
            name = call.result[len(prefix) :].decode()
            if name not in self.names:
                self._name(name, File())
        elif "sync" in call.name and data in call.texts:
            for name, file in self.since:
                _set(self.safe_names, name, file)
            self.since.clear()
            return True
        elif not paths or (call.name != "rename" and paths[0] not in self.names):
            return False
        elif call.name == "rename":
            file = self.names[paths[0]]
            self._name(paths[0], None)
            self._name(paths[1], file)
        elif call.name == "unlink":
            self._name(paths[0], None)
        elif call.name == "write":
            self.names[paths[0]].write(self.names[paths[0]].length, call.texts[1])
        elif call.name == "pwrite64":
            self.names[paths[0]].write(call.numbers[-1], call.texts[1])
        elif call.name == "ftruncate":
            self.names[paths[0]].cut(call.numbers[-1])
        elif call.name in ("fsync", "fdatasync"):
            self.names[paths[0]].sync()
            return True
        return False

    def _name(self, name: str, file: File | None) -> None:
        _set(self.names, name, file)
        self.since.append((name, file))

    def after_a_cut(self, directory: Path, rng: random.Random, part: float) -> None:
        """Write what the disk may hold: of what is not synced, the `part` 0, 1, or between."""
        names = dict(self.safe_names)
        count = len(self.since) if part == 1.0 else int(part > 0) * rng.randint(0, len(self.since))
        for name, file in self.since[:count]:
            _set(names, name, file)
        directory.mkdir(mode=0o700)
        for name, file in names.items():
            if not name.endswith("-shm"):  # it is in memory alone
                (directory / name).write_bytes(file.content(rng, part))
                (directory / name).chmod(0o600)


def _set(names: dict[str, File], name: str, file: File | None) -> None:
    if file is None:
        names.pop(name, None)
    else:
        names[name] = file


def unsynced(calls: list[Call], data: bytes) -> list[int]:
    """The numbers of the calls after which something is not synced."""
    disk, found = Disk(), list[int]()
    for number, call in enumerate(calls):
        disk.apply(call, data)
        if disk.since or any(file.since for file in disk.names.values()):
            found.append(number)
    return found


def test_no_cut_of_the_power_loses_a_message_or_uses_an_id_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = int(os.environ.get("P2P_SYNC_TEST_SEED", random.randrange(2**32)))
    rng = random.Random(seed)
    boot = tmp_path / "boot_id"  # after a cut, it is another boot
    boot.write_text("another boot")
    monkeypatch.setattr(witness, "BOOT_ID", boot)
    calls = recorded(tmp_path)
    data, told = os.fsencode(tmp_path / "data"), os.fsencode(tmp_path / "told")
    ever = {}  # all that was ever told, by id
    for call in calls:
        if call.name == "write" and call.texts[0] == told:
            origin, seq, text = json.loads(call.texts[1])
            ever[origin, seq] = text
    assert len(ever) == 12 and len({origin for origin, _ in ever}) == 1
    dirty = unsynced(calls, data)  # elsewhere a cut leaves what it leaves after the last sync
    torn = set(rng.sample(dirty, min(TORN, len(dirty))))
    disk, acknowledged, checked = Disk(), dict[tuple[str, int], str](), 0

    def check(part: float) -> None:
        nonlocal checked
        checked += 1
        place = tmp_path / f"cut-{checked}"
        about = f"{part} of what is not synced at cut {checked} (seed {seed})"
        disk.after_a_cut(place, rng, part)
        with Node(0, place) as node:
            held = {(m.origin, m.seq): m.data for m in node.messages()}
            assert acknowledged.items() <= held.items(), f"lost: {about}"
            assert held.items() <= ever.items(), f"another message: {about}"
            new = node.commit("after the cut")
            assert (new.origin, new.seq) not in ever, f"an id is used again: {about}"
        shutil.rmtree(place)

    for number, call in enumerate(calls):
        synced = disk.apply(call, data)
        if call.name == "write" and call.texts[0] == told:
            origin, seq, text = json.loads(call.texts[1])
            acknowledged[origin, seq] = text
            check(0.0)
        elif synced:
            check(0.0)
        if number in torn:
            check(rng.choice((0.5, 0.1, 0.9, 1.0)))
    assert acknowledged == ever
    assert checked > 60, checked
