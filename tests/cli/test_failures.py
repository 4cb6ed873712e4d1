"""Commands that fail: wrong input, no node, one that does not answer, and files that stay whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tests.cli.test_client import run
from tests.harness.support import (
    DEADLINE,
    RUN_NODE,
    SCALE,
    NodeProcess,
    free_port_pair,
    silent_listener,
    wait_until,
)

# -- what goes wrong --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("status", "--wait", "-1"), 2, "--wait"),
        (("status", "--no-such-option"), 2, "--no-such-option"),
        (("add",), 2, "ADDRESS"),
        (("commit", "x", "--copies", "many"), 2, "--copies"),
        (("import", "/no/such/file"), 2, "/no/such/file"),
        (("backup", "/no/such/directory/file"), 2, "/no/such/directory/file"),
        (("status", "--token-file", "/no/such/file"), 2, "token file"),
        (("commit", "x" * 70_000), 5, "65536"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_is_refused(
    pair: list[NodeProcess], arguments: tuple[str, ...], code: int, says: str
) -> None:
    done = run(pair[0], *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr


@pytest.mark.parametrize("node", ["", "ftp://x", "http://", "http://x:99999", "http://[", "a b"])
def test_what_is_no_url_is_refused(node: str) -> None:
    done = run(node, "status")
    assert done.returncode == 2 and "--node" in done.stderr


@pytest.mark.parametrize(
    "node", ["http://u:Pa55word@x:1", "u:Pa55word@x", "http://x:1/?token=Pa55word"]
)
def test_a_secret_in_a_url_is_refused_and_not_shown(node: str) -> None:
    done = run(node, "status")
    assert done.returncode == 2 and "--token-file" in done.stderr
    assert "Pa55word" not in done.stderr


def test_input_that_is_no_text_is_refused(pair: list[NodeProcess]) -> None:
    assert run(pair[0], "commit", stdin=b"\xff\n").returncode == 2
    assert run(pair[0], "import", "-", stdin=b'"\xff"\n').returncode == 5
    assert run(pair[0], "commit", stdin=b"x" * 2_000_000).returncode == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_told(pair: list[NodeProcess]) -> None:
    pair[0].commit("something")
    done = run(pair[0], "backup", "/dev/full")
    assert done.returncode == 2 and "No space" in done.stderr


def test_nobody_there_or_no_node() -> None:
    done = run(f"http://127.0.0.1:{free_port_pair()}", "status")
    assert done.returncode == 3 and "refused" in done.stderr and "--node" in done.stderr
    with NodeProcess("--ephemeral") as node:
        done = run(f"http://127.0.0.1:{node.port}/healthz?", "status")
        assert done.returncode in (3, 5)


@pytest.mark.parametrize("answer", [b"{}", b"[1]", b"hello", b"\xff", b'{"verdict":7}'])
def test_what_answers_like_no_node_is_told(answer: bytes) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = run(f"127.0.0.1:{server.server_port}", "status")
        server.shutdown()
        assert (done.returncode, done.stdout) == (3, "")


def test_the_token_is_sent_where_it_is_given(tmp_path: Path) -> None:
    with NodeProcess("--http-host", "0.0.0.0") as node:
        done = run(node, "status")
        assert done.returncode == 4 and "--token-file" in done.stderr
        token = str(node.data_dir / "http-token")
        assert run(node, "status", "--token-file", token).returncode == 0
        wrong = tmp_path / "wrong"
        wrong.write_text("x" * 32)
        wrong.chmod(0o600)
        assert run(node, "status", "--token-file", str(wrong)).returncode == 4


@pytest.mark.parametrize(
    "command", [("commit", "text"), ("import", "-"), ("status",), ("log", "-f")], ids=" ".join
)
def test_the_peer_port_is_no_page(node: NodeProcess, command: tuple[str, ...]) -> None:
    for url in (f"http://127.0.0.1:{node.port + 1}", f"127.0.0.1:{node.port + 1}", node.address):
        done = run(url, *command, stdin='"text"')
        assert done.returncode == 2
        assert "is the address of a peer port" in done.stderr
        assert f"http://127.0.0.1:{node.port}, " in done.stderr
        assert "may be stored" not in done.stderr


def test_a_misspelt_command_names_the_way_out(tmp_path: Path) -> None:
    done = subprocess.run([*RUN_NODE, "statsu"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and "--help" in done.stderr and "Traceback" not in done.stderr


# -- a node that does not answer ----------------------------------------------------------------


@contextmanager
def stopped_node() -> Iterator[NodeProcess]:
    """A node that accepts connections, as the kernel does, and answers nothing."""
    with NodeProcess("--ephemeral") as node:
        node.process.send_signal(signal.SIGSTOP)
        yield node


@contextmanager
def dribbling_node() -> Iterator[str]:
    """A server that sends a byte of each answer now and then, for ever."""
    over = threading.Event()

    class Dribbling(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            with suppress(OSError):
                while not over.wait(0.2):
                    self.wfile.write(b" ")

        do_POST = do_GET

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Dribbling) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        over.set()
        server.shutdown()
        serving.join()


LIMITED = {
    ("status", "--wait", "2"): 2,
    ("status", "--wait", "0"): 1,
    ("add", "ws://127.0.0.1:1", "--wait", "2"): 2,
    ("commit", "text", "--timeout", "1"): 4,
    ("peers",): 10,
}
"""Commands, and the seconds that each has against a node that does not answer."""


@pytest.mark.parametrize("silent", [stopped_node, dribbling_node])
def test_each_command_keeps_to_its_time(silent: Callable[[], AbstractContextManager[Any]]) -> None:
    with silent() as node, ThreadPoolExecutor(len(LIMITED)) as pool:

        def took(arguments: tuple[str, ...]) -> float:
            begin = monotonic()
            done = run(node, *arguments)
            assert done.returncode == 3 and "timed out" in done.stderr, arguments
            return monotonic() - begin

        for (arguments, limit), seconds in zip(
            LIMITED.items(), pool.map(took, LIMITED), strict=True
        ):
            assert seconds < limit + 8 * SCALE, f"{arguments}, with the start of the program"


def test_a_node_that_stops_while_status_waits_leaves_the_last_answer() -> None:
    with silent_listener() as (address, _), NodeProcess("--ephemeral", "--peer", address) as node:
        begin = monotonic()
        url = f"127.0.0.1:{node.port}"
        command = [*RUN_NODE, "status", "--wait", "4", "--node", url]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        wait_until(lambda: node.get("/metrics").text and monotonic() - begin > 2, "it polls")
        node.process.send_signal(signal.SIGSTOP)
        out, err = process.communicate(timeout=DEADLINE)
        assert process.returncode == 1 and b"timed out" not in err and out
        assert monotonic() - begin < 4 + 8 * SCALE


# -- a backup is whole or not there --------------------------------------------------------------


def slow_node(pages: int) -> tuple[ThreadingHTTPServer, threading.Event]:
    """A server of an export of `pages` thousands of messages; one more comes once the event is
    set."""
    go_on = threading.Event()
    message = {"id": "x", "origin": "o", "seq": 1, "time": 0, "data": "x" * 100}
    line = json.dumps(message).encode() + b"\n"

    class Node(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):
                if "status" in self.path:
                    self.wfile.write(json.dumps({"messages": {"count": 1000 * pages}}).encode())
                    return
                self.wfile.write(line * 1000 * pages)
                self.wfile.flush()
                go_on.wait(DEADLINE)
                self.wfile.write(line + json.dumps({"exported": 1000 * pages + 1}).encode())

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Node)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, go_on


@pytest.mark.parametrize("before", [None, "what was there"], ids=["new", "there already"])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, None])
def test_an_interrupted_backup_leaves_what_was_there(
    tmp_path: Path, signum: int | None, before: str | None
) -> None:
    file = tmp_path / "log.ndjson"
    if before:
        file.write_text(before)
        file.chmod(0o640)
    server, go_on = slow_node(3)
    url = f"127.0.0.1:{server.server_port}"
    process = subprocess.Popen([*RUN_NODE, "backup", str(file), "--node", url])
    try:
        wait_until(
            lambda: sum(path.stat().st_size for path in tmp_path.glob(".*.part")) > 300_000,
            "three pages are on disk",
        )
        assert (file.read_text() if file.exists() else None) == before
        if signum:
            process.send_signal(signum)
            assert process.wait(DEADLINE) == 128 + signum
            assert (file.read_text() if file.exists() else None) == before
        else:
            go_on.set()
            assert process.wait(DEADLINE) == 0
            assert len(file.read_text().splitlines()) == 3002
            assert before is None or file.stat().st_mode & 0o777 == 0o640
        assert [path.name for path in tmp_path.iterdir()] == ([file.name] if file.exists() else [])
    finally:
        go_on.set()
        process.kill()
        process.wait(DEADLINE)
        server.shutdown()
        server.server_close()


def test_a_backup_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "log.ndjson"
    file.write_text("what was there")
    done = run(f"127.0.0.1:{free_port_pair()}", "backup", str(file))
    assert done.returncode == 3 and file.read_text() == "what was there"
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_a_backup_goes_to_where_a_link_leads_and_through_a_pipe(
    pair: list[NodeProcess], tmp_path: Path
) -> None:
    pair[0].commit("exported")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "file").write_text("old")
    assert run(pair[0], "backup", str(tmp_path / "link")).returncode == 0
    assert (tmp_path / "link").is_symlink() and "exported" in (tmp_path / "file").read_text()
    os.mkfifo(tmp_path / "pipe")
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append((tmp_path / "pipe").read_text()))
    reader.start()
    assert run(pair[0], "backup", str(tmp_path / "pipe")).returncode == 0
    reader.join(DEADLINE)
    assert found == [(tmp_path / "file").read_text()]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device /dev/full")
def test_a_backup_to_a_full_device_says_that_it_is_full(pair: list[NodeProcess]) -> None:
    pair[0].commit("exported")
    done = run(pair[0], "backup", "/dev/full")
    assert done.returncode == 2
    assert "No space left" in done.stderr and "opened" not in done.stderr


def test_an_empty_token_file_is_refused(pair: list[NodeProcess]) -> None:
    done = run(pair[0], "status", "--token-file", "")
    assert done.returncode == 2 and "--token-file" in done.stderr
