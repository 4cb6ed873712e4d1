"""A backup is an export in a file: consistent, whole or not there, and without secrets."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from p2p_sync import Node
from tests.harness.api import Load, post_all, read_pages
from tests.harness.disk import small_disk
from tests.harness.secret import NEW, secret_file
from tests.harness.support import DEADLINE, RUN_NODE, NodeProcess, wait_until

Done = subprocess.CompletedProcess[str]


def run(command: str, *arguments: str | Path) -> Done:
    """Run a command; both streams as text, and a failure is one sentence."""
    done = subprocess.run(
        [*RUN_NODE, command, *map(str, arguments)], capture_output=True, text=True, timeout=DEADLINE
    )
    if done.returncode > 1:
        assert done.stderr.startswith("p2p-sync: ") and len(done.stderr.splitlines()) == 1
    return done


def backup(node: NodeProcess, file: Path) -> Done:
    return run("backup", file, "--node", f"http://127.0.0.1:{node.port}")


def data_of(file: Path) -> list[str]:
    """The texts in a backup, in its order."""
    lines = map(json.loads, file.read_text().splitlines())
    return [line["data"] for line in lines if "data" in line]


def test_it_contains_nothing_but_messages_and_nobody_else_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "backup"
    secret = ("--secret-file", str(secret_file(tmp_path, NEW)))
    with NodeProcess("--http-host", "0.0.0.0", *secret) as node, NodeProcess(*secret) as other:
        token = (node.data_dir / "http-token").read_text().strip()
        options = ("--node", f"http://127.0.0.1:{node.port}", "--token-file")
        key = (node.data_dir / "node-key.pem").read_text().splitlines()[-2]
        assert run("add", other.address, *options, node.data_dir / "http-token").returncode == 0
        run("commit", "a message", *options, node.data_dir / "http-token")
        done = run("backup", file, *options, node.data_dir / "http-token")
        assert (done.returncode, done.stdout) == (0, "1 saved\n"), done.stderr
    found = file.read_text()
    for kept in (token, key, NEW, other.address, node.address, str(other.port + 1)):
        assert kept not in found
    assert {name for line in found.splitlines() for name in json.loads(line)} == {
        "id", "origin", "seq", "time", "data", "hash", "signature", "public_key", "exported"
    }  # fmt: skip
    assert file.stat().st_mode & 0o777 == 0o600


def test_it_is_compressed_if_its_name_says_so(tmp_path: Path) -> None:
    packed, plain = tmp_path / "backup.gz", tmp_path / "backup"
    with NodeProcess("--ephemeral") as node:
        post_all(node.port, [f"text {n} \u20ac" for n in range(3000)])
        assert backup(node, packed).stdout == backup(node, plain).stdout == "3,000 saved\n"
        assert gzip.decompress(packed.read_bytes()) == plain.read_bytes()
        assert packed.stat().st_size < plain.stat().st_size / 4
        for file in (packed, plain):
            done = run("import", file, "--node", f"http://127.0.0.1:{node.port}")
            assert done.stdout == "0 imported, 3,000 skipped\n"
    assert run("verify", packed).stdout == run("verify", plain).stdout


def test_compressed_files_are_read_whatever_their_names_are(tmp_path: Path) -> None:
    packed, plain = tmp_path / "packed", tmp_path / "plain.gz"
    with NodeProcess("--ephemeral") as node:
        url = f"http://127.0.0.1:{node.port}"
        node.commit("a message")
        assert backup(node, tmp_path / "backup").returncode == 0
        plain.write_bytes((tmp_path / "backup").read_bytes())
        packed.write_bytes(gzip.compress(plain.read_bytes()))
        for file in (packed, plain):
            assert run("verify", file).returncode == 0
            assert run("restore", file, "--data-dir", f"{file}.d").stdout == "1 restored\n"
            assert run("import", file, "--node", url).stdout == "0 imported, 1 skipped\n"
            with file.open("rb") as source:
                command = [*RUN_NODE, "verify", "-"]
                assert subprocess.run(command, stdin=source, timeout=DEADLINE).returncode == 0


@pytest.mark.parametrize(
    "data",
    [b"", b"hello\nworld\n", b"\x89PNG\r\n\x00", b'{"name": "x"}\n' * 9, bz2.compress(b"hello")],
    ids=["empty", "text", "picture", "JSON", "bzip2"],
)
def test_a_file_that_is_no_backup_is_named_in_one_line(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(data)
    hint = "this is no backup, or it is damaged: give a file that `backup` has written\n"
    done = run("verify", file)
    assert done.returncode == 1 and hint in done.stdout and len(done.stdout.splitlines()) == 2
    done = run("restore", file, "--data-dir", tmp_path / "data")
    assert done.returncode == 2 and hint in done.stderr and f"cannot restore {file}" in done.stderr


@pytest.mark.parametrize("how", ["cut", "changed"])
def test_what_cannot_be_decompressed_is_refused(tmp_path: Path, how: str) -> None:
    file = tmp_path / "backup.gz"
    data = bytearray(gzip.compress(b"".join(b'"text %d"\n' % n for n in range(10_000))))
    if how == "changed":
        data[-8] ^= 1  # of the checksum
    file.write_bytes(data[:-100] if how == "cut" else data)
    with NodeProcess("--ephemeral") as node:
        for command in (
            ("verify", file),
            ("import", file, "--node", f"http://127.0.0.1:{node.port}"),
            ("restore", file, "--data-dir", tmp_path / "data"),
        ):
            done = run(*command)
            assert done.returncode == 2, done.stderr
            if command[0] != "restore":  # which ends at the first line, that is no message
                assert f"cannot read {file} (what gzip has compressed is cut short" in done.stderr


def test_commits_go_on_and_it_is_consistent(tmp_path: Path) -> None:
    """It ends where it began: what is committed meanwhile is in the next one."""
    with NodeProcess("--ephemeral") as node, Load([node.port], "busy", each=2) as load:
        post_all(node.port, [f"text {n}" for n in range(20_000)])
        for number in range(3):
            load.wait_for(10)
            file = tmp_path / f"{number}"
            before = {*load.acknowledged}
            assert backup(node, file).returncode == 0
            assert before <= {*data_of(file)}
            assert run("verify", file).returncode == 0
        load.stop()
        texts = [message["data"] for message in read_pages(node.port, "time")[0]]
    held = {*data_of(file)}
    assert data_of(file) == [text for text in texts if text in held]


def test_a_full_disk_leaves_an_older_backup(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1 << 20), NodeProcess("--ephemeral") as node:
        file = tmp_path / "disk" / "backup"
        node.commit("small")
        assert backup(node, file).returncode == 0
        before = file.read_bytes()
        post_all(node.port, ["x" * 1000] * 2000)
        done = backup(node, file)
        assert done.returncode == 2 and "No space left on device" in done.stderr
        assert f"cannot write {file}" in done.stderr
        assert file.read_bytes() == before and [*file.parent.iterdir()] == [file]
        new = file.with_name("new.gz")
        post_all(node.port, [os.urandom(1000).hex() for _ in range(2000)])
        assert backup(node, new).returncode == 2
        assert [*file.parent.iterdir()] == [file]


def test_a_copy_that_arrives_again_meanwhile_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets a new number of arrival when it is shown after all."""
    monkeypatch.setattr("p2p_sync.settings.EXPORTED", 2)
    with Node(0, tmp_path / "data") as node:
        for n in range(10):
            node.commit(f"text {n}")
        pages = node.log.export()
        lines = [*next(pages)]
        with closing(sqlite3.connect(tmp_path / "data" / "node.db")) as database:
            database.execute("UPDATE entries SET arrival = 100 WHERE seq = 5")
            database.commit()
        with Node(0) as other:
            other.connect(node.address)
            other.commit("later")
            wait_until(lambda: len(node.messages()) == 11, node.status)
            for page in pages:
                lines += page
    assert [json.loads(line)["data"] for line in lines] == [f"text {n}" for n in range(10)]


@pytest.mark.parametrize(
    "data",
    [b"plain text\n", b"{'data': 'single quotes'}\n", b'{"text": "x"}\n', b"\x00" * 2_000_000],
    ids=["plain text", "no JSON", "another object", "binary"],
)
def test_import_says_what_it_expects(node: NodeProcess, tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "some file"
    file.write_bytes(data)
    before = node.count
    done = run("import", file, "--node", f"http://127.0.0.1:{node.port}")
    assert done.returncode in (2, 5) and node.count == before
    for part in ("line 1 ", "NDJSON", '{"data": "text"}', f"commit < '{file}'", "0 messages are"):
        assert part in done.stderr, part
