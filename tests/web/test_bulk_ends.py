"""Bulk commits that end early: the answer says exactly which messages are stored."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from p2p_sync import LogError, LogFull, Node
from p2p_sync.disk.log import Log
from tests.harness.api import bulk, read_pages
from tests.harness.disk import small_disk
from tests.harness.support import (
    DEADLINE,
    RUN_NODE,
    Answer,
    NodeProcess,
    free_port_pair,
    request,
    silent_listener,
    wait_until,
)

NDJSON = {"Content-Type": "application/x-ndjson"}


def told(answer: Answer, status: int) -> tuple[int, str | None]:
    """What a problem document says is stored, and the last id."""
    assert answer.status == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    fields = json.loads(answer.body)
    return fields["stored"], fields["last"]


def assert_stored(port: int, texts: list[str], stored: int, last: str | None) -> None:
    """The log holds the first `stored` of `texts`, no other one, and the last has that id."""
    ours = set(texts)
    messages = [m for m in read_pages(port, "arrival")[0] if m["data"] in ours]
    assert [message["data"] for message in messages] == texts[:stored]
    assert last == (messages[-1]["id"] if messages else None)


@pytest.mark.parametrize("kill", [False, True], ids=["", "killed then"])
@pytest.mark.parametrize("size", [3, 6, 8], ids=lambda size: f"{size} MiB")
def test_a_full_disk(tmp_path: Path, size: int, kill: bool) -> None:
    """The smallest one has no room for the body either."""
    texts = [f"{n:06d}" + "y" * 94 for n in range(40_000)]
    data = tmp_path / "disk" / "data"
    with small_disk(data.parent, size << 20) as resize:
        node = NodeProcess(data_dir=data)
        try:
            answer = bulk(node.port, texts)
            stored, last = told(answer, 507)
            assert 0 <= stored < len(texts) and (stored > 0) == (size != 3)
            resize(60 << 20)
            if kill:
                node.stop(signal.SIGKILL)
                node.close()
                node = NodeProcess(data_dir=data)
            wait_until(lambda: node.commit("again").status == 302, "it takes messages again")
            assert_stored(node.port, texts, stored, last)
            assert bulk(node.port, texts[stored:]).status == 201
            messages = read_pages(node.port, "arrival")[0]
            assert [m["data"] for m in messages if m["data"] != "again"] == texts
        finally:
            node.close()


@pytest.mark.parametrize("good", range(5))
@pytest.mark.parametrize("error", [LogFull("full"), LogError("gone"), OSError("odd")], ids=repr)
def test_nothing_behind_a_failure_is_stored_once_the_disk_works_again(
    monkeypatch: pytest.MonkeyPatch, error: Exception, good: int
) -> None:
    """The lines come so slowly that the node recovers in the middle of the request."""
    appends = 0
    append = Log.append

    def failing(log: Log, *runs: Any) -> Any:
        nonlocal appends
        appends += 1
        if appends == good + 1:
            raise error
        return append(log, *runs)

    def tried(least: int) -> bool:
        return appends >= least

    monkeypatch.setattr(Log, "append", failing)
    with Node(0) as node:

        def texts() -> Iterator[str]:
            for n in range(7_000):
                batches = n // 1000
                if n % 1000 == 0 and batches:
                    least = min(batches, good + 1)
                    wait_until(partial(tried, least), "the batch is tried")
                if n == 1000 * (good + 1):
                    wait_until(node.unready, "it has failed")
                    wait_until(lambda: not node.unready(), "it recovers")
                yield f"line {n}"

        seen: list[str] = []
        with pytest.raises(LogError):
            for message in node.commit_all(texts()):
                seen.append(message.data)
        assert seen == [f"line {n}" for n in range(1000 * good)]
        held = [message.data for message in node.messages()]
        assert held == seen, "no more and no less than what was yielded"


def test_a_source_that_fails_leaves_what_came_before_it() -> None:
    def texts() -> Iterator[str]:
        yield from (f"line {n}" for n in range(4_321))
        raise OSError("the file cannot be read")

    with Node(0) as node:
        seen: list[str] = []
        with pytest.raises(OSError, match="cannot be read"):
            for message in node.commit_all(texts()):
                seen.append(message.data)
        assert seen == [message.data for message in node.messages()] and len(seen) == 4_321


def test_the_node_stops(tmp_path: Path) -> None:
    texts = [f"{n:06d}" + "y" * 300 for n in range(300_000)]
    with NodeProcess(data_dir=tmp_path / "data") as node:
        answers: list[Answer] = []

        def send() -> None:
            with suppress(OSError):
                answers.append(bulk(node.port, texts))

        sender = threading.Thread(target=send)
        sender.start()
        wait_until(lambda: node.count, "some are stored")
        assert node.stop() == 0
        sender.join(DEADLINE)
    with NodeProcess(data_dir=tmp_path / "data") as node:
        if answers:  # else the connection ended without one
            assert_stored(node.port, texts, *told(answers[0], 503))
        held = [message["data"] for message in read_pages(node.port, "arrival")[0]]
        assert held == texts[: len(held)] and len(held) < len(texts)


def test_a_bad_line_too_long_a_line_and_none() -> None:
    with NodeProcess("--ephemeral", "--max-message-bytes", "10") as node:
        answer = bulk(node.port, ["one", "two", "x" * 11, "three"])
        assert told(answer, 413) == (2, json.loads(answer.body)["last"])
        assert json.loads(answer.body)["line"] == 3
        assert_stored(node.port, ["one", "two", "three"], *told(answer, 413))
        assert told(request(node.port, "/api/v1/messages", "POST", NDJSON, b"?"), 400) == (0, None)


def test_requests_of_which_nothing_is_begun_say_so() -> None:
    with NodeProcess("--ephemeral") as node:
        for query in ("?copies=x", "?timeout=61", "?skip=some"):
            assert told(bulk(node.port, ["text"], query), 400) == (0, None)
        connection = socket.create_connection(("127.0.0.1", node.port), DEADLINE)
        with connection, connection.makefile("rb") as reader:
            connection.sendall(
                b"POST /api/v1/messages HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                b"Content-Type: application/x-ndjson\r\nContent-Length: 1073741825\r\n\r\n"
            )
            # What is too long is read to its end, for a client that is cut off gets no answer.
            with suppress(OSError):
                while True:
                    connection.sendall(b"\n" * 1_000_000)
            answer = reader.read()
        if answer:
            assert b" 413 " in answer.splitlines()[0] and b'"stored": 0, "last": null' in answer
        assert node.line() == "No. sockets 0 "


def test_too_few_copies_are_no_failure() -> None:
    with NodeProcess("--ephemeral") as node:
        answer = bulk(node.port, ["one", "two"], "?copies=1&timeout=0.1")
        fields = json.loads(answer.body)
        assert (answer.status, fields["count"], fields["copies"]) == (202, 2, 0)
        assert_stored(node.port, ["one", "two"], 2, fields["last"])


def test_a_client_that_leaves_in_the_middle_stores_nothing() -> None:
    with NodeProcess("--ephemeral") as node:
        with socket.create_connection(("127.0.0.1", node.port), DEADLINE) as connection:
            connection.sendall(
                b"POST /api/v1/messages HTTP/1.1\r\nHost: localhost\r\n"
                b'Content-Type: application/x-ndjson\r\nContent-Length: 1000\r\n\r\n"text"\n'
            )
        node.commit("later")
        assert node.texts() == ["later"]


# -- the command line ---------------------------------------------------------------------------


def command(node: NodeProcess | str, *arguments: str, stdin: bytes = b"") -> tuple[int, str]:
    url = node if isinstance(node, str) else f"http://127.0.0.1:{node.port}"
    done = subprocess.run(
        [*RUN_NODE, *arguments, "--node", url], input=stdin, capture_output=True, timeout=DEADLINE
    )
    assert b"Traceback" not in done.stderr
    return done.returncode, done.stderr.decode()


@pytest.mark.parametrize("name", ["commit", "import"])
def test_commands_say_what_is_stored_and_the_last_id(tmp_path: Path, name: str) -> None:
    with NodeProcess("--ephemeral", "--max-message-bytes", "10") as node:
        lines = ["one", "", "two", "x" * 11, "three"]
        file = tmp_path / "lines"
        file.write_text("".join(f"{json.dumps(line)}\n" if line else "\n" for line in lines))
        if name == "import":
            code, said = command(node, "import", str(file))
        else:
            code, said = command(node, "commit", stdin="\n".join(lines).encode())
        last = read_pages(node.port, "arrival")[0][-1]["id"]
        assert code == 5 and said.count("\n") == 1
        assert "line 4 of" in said and "2 messages are stored" in said and last in said


def test_commands_say_what_is_stored_when_the_disk_is_full(tmp_path: Path) -> None:
    lines = b"".join(b"%06d%s\n" % (n, b"y" * 94) for n in range(40_000))
    with (
        small_disk(tmp_path / "disk", 4 << 20) as resize,
        NodeProcess(data_dir=tmp_path / "disk" / "data") as node,
    ):
        code, said = command(node, "commit", "--timeout", "30", stdin=lines)
        (count, last) = re.findall(r"([\d,]+) messages? (?:is|are) stored, up to (\S+)$", said)[0]
        assert code == 6
        resize(60 << 20)
        held = read_pages(node.port, "arrival")[0]
        assert (len(held), held[-1]["id"]) == (int(count.replace(",", "")), last)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_commit_says_what_is_stored(signum: int) -> None:
    with NodeProcess("--ephemeral") as node:
        process = subprocess.Popen(
            [*RUN_NODE, "commit", "--node", f"127.0.0.1:{node.port}"],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdin and process.stderr
        process.stdin.write(b"one\ntwo\n")
        process.stdin.flush()
        wait_until(lambda: node.texts() == ["one", "two"], "both are stored")
        answered = read_pages(node.port, "arrival")[0][-1]["id"]
        process.send_signal(signum)
        said = process.stderr.read().decode()
        assert process.wait(DEADLINE) == 128 + signum
        process.stdin.close()
        process.stderr.close()
        assert "interrupted" in said and (answered in said or "may be stored" in said)


def test_what_a_silent_node_may_have_stored_is_named() -> None:
    with silent_listener() as (address, _):
        url = address.replace("ws://", "http://")
        code, said = command(url, "commit", "--timeout", "0", stdin=b"one\n\ntwo\n")
        assert code == 3 and "0 messages are stored" in said
        assert "lines 1 to 3 may be stored" in said
    code, said = command(f"127.0.0.1:{free_port_pair()}", "commit", stdin=b"one\n")
    assert code == 3


def test_an_empty_message_is_refused_by_the_command_line() -> None:
    with NodeProcess("--ephemeral") as node:
        code, said = command(node, "commit", "")
        assert code == 2 and "empty" in said
        assert command(node, "commit", " ")[0] == 0
        assert [message["data"] for message in read_pages(node.port, "arrival")[0]] == [" "]
        assert node.get("/commit?msg=").status == 302, "as the original does"
        shown = subprocess.run(
            [*RUN_NODE, "log", "--node", f"127.0.0.1:{node.port}"], capture_output=True, text=True
        )
        assert shown.stdout.splitlines()[-1].endswith("  (empty)")
