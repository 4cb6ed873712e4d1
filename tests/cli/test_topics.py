"""Topics on the command line: committing with one, printing one alone, and what is no topic."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.test_client import run
from tests.harness.support import RUN_NODE, NodeProcess, wait_until


@pytest.fixture(scope="module")
def node() -> Iterator[NodeProcess]:
    """A node with messages of two topics and one without; no test adds more."""
    with NodeProcess("--ephemeral") as process:
        assert run(process, "commit", "22 C", "--topic", "sensors/a").returncode == 0
        assert run(process, "commit", "plain").returncode == 0
        lines = run(process, "commit", "--topic=x.y_z-1", stdin="one\n\ntwo\n")
        assert lines.stdout == "Committed 2 messages\n"
        yield process


def shown(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line.split(None, 4)[4] for line in done.stdout.splitlines()]


def test_the_log_shows_topics_beside_the_messages(node: NodeProcess) -> None:
    expected = ["[sensors/a] 22 C", "plain", "[x.y_z-1] one", "[x.y_z-1] two"]
    assert shown(run(node, "log")) == expected


def test_the_log_of_one_topic(node: NodeProcess) -> None:
    assert shown(run(node, "log", "--topic", "x.y_z-1")) == ["[x.y_z-1] one", "[x.y_z-1] two"]
    assert run(node, "log", "--topic", "none").stdout == ""
    (line,) = run(node, "log", "--topic", "sensors/a", "--json").stdout.splitlines()
    assert json.loads(line)["topic"] == "sensors/a" and json.loads(line)["data"] == "22 C"


def test_following_one_topic(node: NodeProcess) -> None:
    url = f"http://127.0.0.1:{node.port}"
    command = [*RUN_NODE, "log", "-f", "--topic", "x.y_z-1", "--node", url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        found: list[str] = []
        thread = threading.Thread(target=lambda: found.extend(process.stdout or ()), daemon=True)
        thread.start()
        wait_until(lambda: len(found) == 2, lambda: found)
        process.terminate()
        thread.join()
    assert [line.split("] ")[1] for line in found] == ["one\n", "two\n"]


@pytest.mark.parametrize("command", [("commit", "text"), ("commit",), ("log",), ("log", "-f")])
@pytest.mark.parametrize("topic", ["a b", "\u00e4", "a" * 65, "#a"])
def test_what_is_no_topic_is_refused(node: NodeProcess, command: list[str], topic: str) -> None:
    done = run(node, *command, f"--topic={topic}", stdin="x\n")
    assert done.returncode == 2 and done.stdout == ""
    assert "at most 64 letters" in done.stderr and "--topic" in done.stderr
    assert node.count == 4


def test_topics_survive_a_backup_an_import_and_a_restore(node: NodeProcess, tmp_path: Path) -> None:
    file, data = tmp_path / "backup.ndjson.gz", tmp_path / "data"
    assert run(node, "backup", str(file)).returncode == 0
    assert run(None, "verify", str(file)).returncode == 0
    assert run(None, "restore", str(file), "--data-dir", str(data)).returncode == 0
    for directory in (data, None):
        with NodeProcess("--name=third", data_dir=directory) as other:
            if not directory:
                assert run(other, "import", str(file)).returncode == 0
            mark = "" if directory else "  (imported by third)"
            expected = [f"{line}{mark}" for line in shown(run(node, "log"))]
            assert shown(run(other, "log")) == expected
            assert shown(run(other, "log", "--topic=sensors/a")) == [f"[sensors/a] 22 C{mark}"]
