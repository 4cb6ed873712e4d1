"""The command line against running nodes: what it prints, what it returns, and how it fails."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from p2p_sync.cli.exits import MEANINGS
from p2p_sync.cli.options import option_fields
from p2p_sync.cli.program import program
from tests.harness.api import post_all, read_pages, wait_equal
from tests.harness.support import (
    DEADLINE,
    RUN_NODE,
    SCALE,
    NodeProcess,
    free_port_pair,
    run_nodes,
    silent_listener,
    wait_sockets,
    wait_until,
)
from tests.project.documents import DOCUMENTS, README

TEXTS = ["plain", "a,b", "line\nbreak", "\x1b[31mred", "\u202etfel", "\U0001f600", " ", '{"x":1}']
Done = subprocess.CompletedProcess[str]


def run(
    node: NodeProcess | str | None,
    command: str,
    *arguments: str,
    stdin: bytes | str = "",
    **more: str,
) -> Done:
    """Run a command against `node`, None without one; both streams as text."""
    url = node if isinstance(node, str | None) else f"http://127.0.0.1:{node.port}"
    data = stdin.encode() if isinstance(stdin, str) else stdin
    done = subprocess.run(
        [*RUN_NODE, command, *(() if url is None else ("--node", url)), *arguments],
        input=data,
        capture_output=True,
        timeout=DEADLINE,
        env={**os.environ, **more},
    )
    result = Done(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())
    assert "Traceback" not in result.stderr, result.stderr
    if result.returncode > 1:
        assert re.fullmatch(r"p2p-sync: [^\n]+\n", result.stderr), "one sentence"
        assert f"| {result.returncode} |" in "".join(text.text for text in DOCUMENTS), (
            "the code is documented"
        )
    return result


def test_the_readme_names_each_command_with_its_options() -> None:
    section = README.text.partition("## Check its health")[2].partition("\n## ")[0]
    for name, command in program.commands.items():
        if name == "run":
            continue  # options.md names its options
        row = re.search(rf"^\| `(?:\.venv/bin/)?p2p-sync {name}\b.*$", section, re.M)
        assert row, name
        for option in (option for p in command.params for option in p.opts if option[:2] == "--"):
            shown = {"--follow": "-f", "--last": "-n"}.get(option, option)
            assert shown in row[0] or option in section.rpartition("Each takes")[2], option


@pytest.mark.parametrize("name", sorted(program.commands))
def test_each_command_has_help(name: str) -> None:
    done = run(None, name, "--help")
    assert done.returncode == 0 and run(None, name, "-h").stdout == done.stdout
    common = {"run": (), "restore": ("--json",), "verify": ("--json",)}
    options = common.get(name, ("--node", "--token-file", "--json"))
    assert all(option in done.stdout for option in options)


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_the_help_lists_commands_and_exit_codes(option: str) -> None:
    done = run(None, option)
    shown = " ".join(done.stdout.split())
    for name, command in program.commands.items():
        first = re.split(r"(?<=\.)\s", " ".join((command.help or "").split()))[0]
        assert f" {name} {first}" in shown and len(first) <= 75, name
    codes = shown.partition(" Exit codes: ")[2]
    assert all(f"{code} {text}" in codes for code, text in MEANINGS.items())
    assert done.returncode == 0 and "p2p-sync run 8000" in shown


def test_the_help_of_run_has_each_option_in_whole_sentences() -> None:
    shown = " ".join(run(None, "run", "--help").stdout.split())
    assert "..." not in shown and "RANGE" not in shown
    for name, field in option_fields().items():
        assert f"--{name} " in shown and field.metadata["option"].help in shown, name


@pytest.mark.parametrize(
    "arguments",
    [
        ("commit", "--bogus"),
        ("commit", "--copies", "many", "text"),
        ("commit", "--topic", "!", "text"),
        ("erase",),
        ("erase", "7"),
        ("restore", "file"),
        ("status", "--wait"),
        ("verify", "one", "two"),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_names_the_help_of_its_command(arguments: tuple[str, ...]) -> None:
    done = run(None, *arguments)
    assert done.returncode == 2
    assert done.stderr.endswith(f"; see p2p-sync {arguments[0]} --help\n"), done.stderr
    assert "range" not in done.stderr and len(done.stderr.splitlines()) == 1


# -- status -----------------------------------------------------------------------------------


def test_status_tells_the_verdict_and_is_0_only_in_sync(pair: list[NodeProcess]) -> None:
    done = run(pair[0], "status")
    assert (done.returncode, done.stdout, done.stderr) == (0, "In sync with 1 of 1 peer\n", "")
    told = json.loads(run(pair[0], "status", "--json").stdout)
    assert told["verdict"]["state"] == "in_sync" and told["node"]["address"] == pair[0].address


def test_status_waits_for_it_to_settle(pair: list[NodeProcess]) -> None:
    for n in range(3):
        pair[0].commit(f"just now {n}")
        assert run(pair[0], "status").returncode == 0


def test_status_of_a_node_alone() -> None:
    with NodeProcess("--ephemeral") as node:
        done = run(node, "status")
        assert (done.returncode, done.stdout) == (0, "No peers yet\n")
    with silent_listener() as (address, _), NodeProcess("--ephemeral", "--peer", address) as node:
        done = run(node, "status", "--wait", "0.2")
        assert (done.returncode, done.stdout) == (1, "Disconnected: 0 of 1 peer reachable\n")


def test_status_is_1_while_a_peer_is_unreachable() -> None:
    with run_nodes(3, "--ephemeral") as nodes:
        for other in nodes[1:]:
            nodes[0].add(other.address)
        wait_sockets(2, nodes[0])
        assert run(nodes[0], "status", "--wait", "10").returncode == 0
        nodes[1].process.kill()

        def told() -> bool:
            done = run(nodes[0], "status", "--wait", "0")
            named = f"{nodes[1].address} is unreachable since 20" in done.stderr
            return (done.returncode, done.stdout, named) == (
                1,
                "1 of 2 peers is unreachable\n",
                True,
            )

        wait_until(told, "which one, and since when")


def test_a_url_may_be_short_or_come_from_the_environment(pair: list[NodeProcess]) -> None:
    assert run(f"127.0.0.1:{pair[0].port}", "status").returncode == 0
    command = [*RUN_NODE, "status"]
    environment = {**os.environ, "P2P_SYNC_NODE": f"http://localhost:{pair[0].port}/"}
    assert subprocess.run(command, env=environment, capture_output=True).returncode == 0


# -- peers and add ----------------------------------------------------------------------------


def test_peers_are_a_table(pair: list[NodeProcess]) -> None:
    lines = run(pair[0], "peers").stdout.splitlines()
    other = pair[1].id
    header = "NAME ADDRESS ID LINK STATE DELAY SENT RECEIVED BEHIND VERSION"
    assert " ".join(lines[0].split()) == header
    (row,) = [line for line in lines if pair[1].address in line]
    assert row.split()[2:5] == [other[:8], "out", "connected"]
    told = json.loads(run(pair[0], "peers", "--json").stdout)
    assert [peer["id"] for peer in told["peers"]] == [other]


def test_adding_tells_what_came_of_it() -> None:
    with run_nodes(2, "--ephemeral") as (node, other):
        done = run(node, "add", other.address.removeprefix("ws://"))
        assert done.returncode == 0 and f"Connected to {other.address}" in done.stdout
        done = run(node, "add", "ws://127.0.0.1:1")
        assert done.returncode == 1 and "refused" in done.stdout, "the reason"
        done = run(node, "add", f"http://127.0.0.1:{other.port}")
        assert done.returncode == 1 and str(other.port + 1) in done.stdout, "the usual slip"
        shown = run(node, "peers").stdout
        assert re.search(r"ws://127\.0\.0\.1:1 .* waiting .*\n  .*refused.*the next try", shown)
        done = run(node, "add", "no address")
        assert done.returncode == 5 and "ws://host:8001" in done.stderr


# -- commit and log ---------------------------------------------------------------------------


def test_commits_are_printed_by_log_safe_for_a_terminal() -> None:
    with NodeProcess("--ephemeral") as node:
        for text in TEXTS:
            done = run(node, "commit", "--", text)
            assert done.returncode == 0 and re.fullmatch(r"Committed [0-9a-f-]+:\d+\n", done.stdout)
        shown = run(node, "log").stdout
        assert len(shown.splitlines()) == len(TEXTS)
        assert "\x1b" not in shown and "\u202e" not in shown and "\\x1b[31mred" in shown
        found = [json.loads(line) for line in run(node, "log", "--json").stdout.splitlines()]
        assert found == read_pages(node.port, "time")[0]
        assert [message["data"] for message in found] == TEXTS
        assert run(node, "log", PYTHONIOENCODING="ascii").stdout.isascii()


def test_lines_of_the_standard_input_are_commits(pair: list[NodeProcess]) -> None:
    before = len(read_pages(pair[0].port, "time")[0])
    done = run(pair[0], "commit", "--copies", "1", "--json", stdin="one\n\n\u20ac\r\nthree")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"count": 3, "copies": 1})
    texts = [message["data"] for message in read_pages(pair[1].port, "time")[0]]
    assert texts[before:] == ["one", "\u20ac", "three"]


def shows(node: NodeProcess, text: str) -> bool:
    return text in node.line()


def test_lines_are_committed_as_they_come(pair: list[NodeProcess]) -> None:
    url = f"http://127.0.0.1:{pair[0].port}"
    process = subprocess.Popen([*RUN_NODE, "commit", "--node", url], stdin=subprocess.PIPE)
    assert process.stdin
    for line in ("the first of two", "the second of two"):
        process.stdin.write(f"{line}\n".encode())
        process.stdin.flush()
        wait_until(partial(shows, pair[0], line), line)
    process.stdin.close()
    assert process.wait(DEADLINE) == 0


def test_too_few_copies_are_told(pair: list[NodeProcess]) -> None:
    done = run(pair[0], "commit", "text", "--copies", "2", "--timeout", "0.1")
    assert done.returncode == 1 and re.search("only [01] of 2 copies", done.stdout)
    done = run(pair[0], "commit", "--copies", "2", "--timeout", "0.1", stdin="text\n")
    assert done.returncode == 1


def test_following_the_log_until_the_node_stops() -> None:
    with NodeProcess("--ephemeral") as node:
        node.commit("before")
        command = [*RUN_NODE, "log", "-f", "--node", f"127.0.0.1:{node.port}"]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout
        assert "before" in process.stdout.readline()
        node.commit("after")
        assert "after" in process.stdout.readline()
        name = read_pages(node.port, "time")[0][0]["id"]
        assert run(node, "erase", name).returncode == 0
        assert process.stdout.readline().endswith(f"by node {node.id[:8]}: {name})\n")
        node.stop()
        assert process.communicate(timeout=DEADLINE)[1].startswith("p2p-sync: ")
        assert process.returncode == 3


@pytest.mark.parametrize("how", ["interrupted", "its reader goes"])
def test_following_ends_without_a_word(pair: list[NodeProcess], how: str) -> None:
    command = [*RUN_NODE, "log", "-f", "--node", f"127.0.0.1:{pair[0].port}"]
    pair[0].commit("a line")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout and process.stderr
    process.stdout.readline()
    if how == "interrupted":
        process.send_signal(signal.SIGINT)
    else:
        process.stdout.close()
        pair[0].commit("nobody reads this")
    assert process.wait(DEADLINE) == (130 if how == "interrupted" else 141)
    assert process.stderr.read() == b""
    process.stderr.close()
    process.stdout.close()


# -- export and import ------------------------------------------------------------------------


def test_a_backup_is_skipped_where_it_is_held_and_new_elsewhere(tmp_path: Path) -> None:
    file = str(tmp_path / "log.ndjson")
    with run_nodes(2, "--ephemeral") as (node, other):
        post_all(node.port, [*TEXTS, *(f"line {n}" for n in range(3000))])
        done = run(node, "backup", file)
        count = 3000 + len(TEXTS)
        assert (done.returncode, done.stdout) == (0, f"{count:,} saved\n")
        lines = Path(file).read_text().split("\n")[:-1]
        exported = [json.loads(line) for line in lines]
        assert exported.pop() == {"exported": count}
        for line, message in zip(exported, read_pages(node.port, "time")[0], strict=True):
            assert line.items() >= message.items()
        assert run(node, "export").stdout.split("\n")[:-1] == lines
        told = json.loads(run(node, "import", file, "--json").stdout)
        assert told == {"imported": 0, "skipped": count}
        told = json.loads(run(other, "import", "-", "--json", stdin=Path(file).read_bytes()).stdout)
        assert told == {"imported": count, "skipped": 0}
        texts = [message["data"] for message in read_pages(other.port, "arrival")[0]]
        assert texts == [line["data"] for line in exported]
        node.add(other.address)
        wait_equal([node.port, other.port], 2 * count)
        assert json.loads(run(other, "import", file, "--json").stdout)["skipped"] == count


def test_a_bad_line_is_named_with_its_number_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "bad.ndjson"
    file.write_text('"good"\n' * 60_000 + '{"data":7}\n"after it"\n')
    with NodeProcess("--ephemeral") as node:
        done = run(node, "import", str(file))
        assert done.returncode == 5
        assert "line 60001 " in done.stderr and " 60,000 messages" in done.stderr
        assert node.status()["messages"]["count"] == 60_000


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


# -- terminals --------------------------------------------------------------------------------


def on_a_terminal(*arguments: str, **environment: str) -> str:
    """What a command prints on a terminal."""
    ours, its = pty.openpty()
    process = subprocess.Popen(
        [*RUN_NODE, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=its,
        stderr=its,
        env={**os.environ, "TERM": "xterm", **environment},
    )
    os.close(its)
    printed = b""
    try:
        while data := os.read(ours, 65536):
            printed += data
    except OSError:
        pass  # so ends a terminal on Linux
    os.close(ours)
    process.wait(DEADLINE)
    return printed.decode()


def test_colours_and_bars_are_for_terminals_alone(pair: list[NodeProcess], tmp_path: Path) -> None:
    url = f"127.0.0.1:{pair[0].port}"
    plain = {"NO_COLOR": ""}
    assert "\x1b[32mIn sync" in on_a_terminal("status", "--node", url, **plain)
    assert "\x1b[" not in on_a_terminal("status", "--node", url, NO_COLOR="1")
    assert "\x1b[" not in run(pair[0], "status").stdout + run(pair[0], "peers").stdout
    file = str(tmp_path / "log")
    pair[0].commit("something")
    assert "100%" in on_a_terminal("backup", file, "--node", url)
    assert "100%" in on_a_terminal("import", file, "--node", url)
    assert "%" not in run(pair[0], "import", file).stderr


@pytest.mark.skipif(
    not shutil.which("p2p-sync", path=str(Path(sys.executable).parent)), reason="not installed"
)
def test_the_console_script_is_the_same(pair: list[NodeProcess]) -> None:
    script = str(Path(sys.executable).with_name("p2p-sync"))
    command: list[Any] = [script, "status", "--node", f"127.0.0.1:{pair[0].port}"]
    assert subprocess.run(command, capture_output=True).returncode == 0


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
