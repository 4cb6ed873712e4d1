"""Commands that may be run again: commit --key, and import."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from p2p_sync.cli import backups, files
from p2p_sync.cli.api import Failure
from tests.harness.api import bulk
from tests.harness.support import DEADLINE, ROOT, NodeProcess, run_to_end, wait_until


def at(node: NodeProcess) -> str:
    return f"http://127.0.0.1:{node.port}"


def test_a_commit_with_a_key_may_be_run_again() -> None:
    with NodeProcess("--ephemeral") as node:
        command = ("commit", "deployed", "--key", "deploy-1", "--node", at(node))
        first, again = (run_to_end(*command) for _ in range(2))
        (message,) = node.api("messages")["messages"]
        assert first.stdout == f"Committed {message['id']}\n", first.stderr
        assert again.stdout == f"Committed before as {message['id']}\n", again.stderr
        assert json.loads(run_to_end(*command, "--json").stdout)["repeated"] is True
        new = run_to_end("commit", "deployed", "--json", "--key", "deploy-2", "--node", at(node))
        assert json.loads(new.stdout)["repeated"] is False
        other = run_to_end("commit", "other", "--key", "deploy-1", "--node", at(node))
        assert other.returncode != 0
        assert f"'deploy-1' has named another message, {message['id']}; use" in other.stderr
        assert node.texts() == ["deployed", "deployed"]
        wrong = run_to_end("commit", "text", "--key", "\u00e4", "--node", at(node))
        assert wrong.returncode == 2 and "printable ASCII" in wrong.stderr


def test_lines_with_a_key_may_be_sent_again_and_continued() -> None:
    with NodeProcess("--ephemeral") as node:
        for lines, said in {
            b"a\nb\na\n": b"Committed 3 messages\n",
            b"a\nb\na\nc\n": b"Committed 4 messages, 3 of them before\n",
        }.items():
            done = subprocess.run(
                [sys.executable, "-m", "p2p_sync", "commit", "--key", "k", "--node", at(node)],
                input=lines,
                cwd=ROOT,
                capture_output=True,
                timeout=DEADLINE,
            )
            assert (done.returncode, done.stdout) == (0, said), done.stderr
        assert sorted(node.texts()) == ["a", "a", "b", "c"]


def test_an_answer_that_does_not_come_says_how_to_send_it_again(tmp_path: Path) -> None:
    with NodeProcess(data_dir=tmp_path) as node:
        os.kill(node.process.pid, signal.SIGSTOP)
        try:
            late = run_to_end("commit", "text", "--timeout", "0", "--node", at(node))
        finally:
            os.kill(node.process.pid, signal.SIGCONT)
        assert late.returncode != 0
        key = late.stderr.partition("add --key ")[2].partition(":")[0]
        assert key, late.stderr
        wait_until(lambda: node.texts() == ["text"])
        again = run_to_end("commit", "text", "--key", key, "--node", at(node))
        assert again.returncode == 0 and node.texts() == ["text"]


def test_an_import_may_be_run_again_and_says_so(tmp_path: Path) -> None:
    file = tmp_path / "texts.ndjson"
    file.write_text('"same"\n"same"\n{"data": "other", "topic": "t"}\n')
    with NodeProcess("--ephemeral") as node:
        for said in ("3 imported, 0 skipped", "0 imported, 3 skipped"):
            done = run_to_end("import", str(file), "--node", at(node))
            assert (done.returncode, done.stdout.strip()) == (0, said), done.stderr
        beyond = run_to_end("import", str(file), "--after", "4", "--node", at(node))
        assert beyond.returncode == 2 and beyond.stdout == ""
        assert "has only 3 lines, and --after 4 is beyond" in beyond.stderr
        assert run_to_end("import", str(file), "--after", "3", "--node", at(node)).returncode == 0
        file.write_text('"same"\n')  # it is another file now
        done = run_to_end("import", str(file), "--node", at(node))
        assert done.stdout.strip() == "1 imported, 0 skipped"
        assert sorted(node.texts()) == ["other", "same", "same", "same"]


def test_lines_of_standard_input_are_messages_of_their_own_each_time() -> None:
    with NodeProcess("--ephemeral") as node:
        for _ in range(2):
            done = subprocess.run(
                [sys.executable, "-m", "p2p_sync", "import", "-", "--node", at(node)],
                input=b'"tick"\n',
                cwd=ROOT,
                capture_output=True,
                timeout=DEADLINE,
            )
            assert done.returncode == 0, done.stderr
        assert node.texts() == ["tick", "tick"]


def test_an_import_that_was_interrupted_goes_on_and_shows_time_and_node(tmp_path: Path) -> None:
    """Kill the node in the middle, several times; each message is there once in the end."""
    count = 30_000
    file = tmp_path / "backup.gz"
    with NodeProcess("--ephemeral", "--name", "old") as node:
        assert bulk(node.port, (f"text {n}" for n in range(count))).status == 201
        old = node.id
        times = {m["data"]: m["time"] for m in node.api("messages?limit=1000")["messages"]}
        assert run_to_end("backup", str(file), "--node", at(node)).returncode == 0
    with gzip.open(file) as lines:
        assert sum(1 for _ in lines) == count + 1
    data = tmp_path / "data"
    for round in range(3):
        with NodeProcess(data_dir=data) as node:
            before = node.count
            command = [sys.executable, "-m", "p2p_sync", "import", str(file), "--node", at(node)]
            importing = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
            wait_until(lambda node=node, before=before: node.count > before)  # type: ignore[misc]
            node.stop(signal.SIGKILL)
            _, problem = importing.communicate(timeout=DEADLINE)
            assert importing.returncode, "it says that it was interrupted"
            assert b"stored" in problem, (round, problem)
            assert b"to go on, run the same command again" in problem, (round, problem)
    with NodeProcess(data_dir=data) as node:
        done = run_to_end("import", str(file), "--node", at(node))
        assert done.returncode == 0, done.stderr
        assert node.count == count
        page = node.api("messages?limit=1000")["messages"]
        for message in page:
            assert message["imported"] == {"time": times[message["data"]], "node": old}
        shown = run_to_end("log", "-n", "1", "--node", at(node)).stdout
        assert old[:8] in shown and "(imported by " in shown
        # An import of an import still names the first node.
        export = tmp_path / "export"
        export.write_text(run_to_end("export", "--node", at(node)).stdout)
        assert run_to_end("verify", str(export)).returncode == 0
    with NodeProcess("--ephemeral") as other:
        assert run_to_end("import", str(export), "--node", at(other)).returncode == 0
        (first,) = other.api("messages?limit=1")["messages"]
        assert first["imported"] == {"time": times[first["data"]], "node": old}
        listed = run_to_end("log", "--json", "-n", "1", "--node", at(other)).stdout
        assert json.loads(listed)["imported"]["node"] == old


def test_an_import_takes_no_time_beyond_the_year_9999(tmp_path: Path) -> None:
    last, by, file = 253_402_300_799_999, "a" * 32, tmp_path / "export"
    known = [
        {"id": f"{by}-1:1", "origin": f"{by}-1", "time": last + 1, "data": "later"},
        {"id": f"{by}-1:2", "imported": {"time": 9 * 10**15, "node": by}, "data": "imported twice"},
        {"id": f"{by}-1:3", "origin": f"{by}-1", "time": last, "data": "just"},
    ]
    file.write_text("".join(f"{json.dumps(line)}\n" for line in known))
    with NodeProcess("--ephemeral") as node:
        assert run_to_end("import", str(file), "--node", at(node)).returncode == 0
        shown = {each["data"]: each.get("imported") for each in node.api("messages")["messages"]}
    assert shown == {"later": None, "imported twice": None, "just": {"time": last, "node": by}}


def test_an_import_of_more_lines_than_a_node_remembers_says_where_to_go_on(
    node: NodeProcess,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(backups, "MAX_KEYS", 5)
    monkeypatch.setattr(files, "CLI_CHUNK", 12)  # a few lines at a time
    file = tmp_path / "lines.ndjson"

    def import_(count: int, after: int = 0, last: str = "") -> tuple[int, str]:
        # Its size and its time are the same: the node takes it for the same file.
        text = "".join(f'"{number}"\n' for number in range(count))
        file.write_text(f"{text}{last or '':13}\n")
        os.utime(file, (1, 1))
        assert backups.import_.callback
        try:
            backups.import_.callback(
                node=at(node), token_file=None, file=str(file), after=after, as_json=False
            )
        except Failure as error:
            return error.code, capsys.readouterr().err
        return 0, capsys.readouterr().err

    assert import_(2, last="no JSON") == (5, ""), "it may be run again"
    code, said = import_(10, last="no JSON")
    first, second = said.splitlines()
    assert code == 5
    assert "if this import is interrupted from here on, run it again with the --after" in first
    going_on = re.fullmatch(rf"p2p-sync: to go on: p2p-sync import {file} --after (\d+)", second)
    assert going_on and 5 < int(going_on[1]) <= 10
    assert import_(10, int(going_on[1]), last='"10"') == (0, "")
    texts = ["0", "1", *(f"{number}" for number in range(11))]
    assert [each["data"] for each in node.api("messages?order=arrival")["messages"]] == texts
