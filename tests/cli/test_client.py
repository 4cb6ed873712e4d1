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
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from p2p_sync.cli.exits import MEANINGS
from p2p_sync.cli.options import help_of, option_fields
from p2p_sync.cli.program import program
from tests.harness.api import post_all, read_pages, wait_equal
from tests.harness.support import (
    DEADLINE,
    RUN_NODE,
    NodeProcess,
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


def test_the_readme_names_each_command_and_options_that_it_has() -> None:
    section = README.text.partition("## Check its health")[2].partition("\n## ")[0]
    assert "docs/options.md#the-other-commands" in section, "there are all options"
    named = 0
    for name, command in program.commands.items():
        row = re.search(rf"^\| `(?:\.venv/bin/)?p2p-sync {name}\b(.*)$", section, re.M)
        assert row, name
        options = {option for param in command.params for option in param.opts}
        shown = set(re.findall(r"`(--?[a-z][a-z-]*)", row[1]))
        assert shown <= options, (name, shown - options)
        named += len(shown)
    assert named > 5


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
        assert f"--{name} " in shown and help_of(field) in shown, name


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


def test_a_text_that_begins_with_a_dash_is_sent_as_the_error_says(pair: list[NodeProcess]) -> None:
    done = run(pair[0], "commit", "-1 degree")
    assert done.returncode == 2
    assert "if it belongs to TEXT, write -- before TEXT" in done.stderr
    assert "-- before a TEXT that begins with -" in run(None, "commit", "--help").stdout
    assert "write --" not in run(None, "commit", "--topik", "t", "text").stderr, "--topic is meant"
    assert run(pair[0], "commit", "--", "-1 degree").returncode == 0
    assert run(pair[0], "log", "-n", "1").stdout.endswith("-1 degree\n")


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
    assert (done.returncode, json.loads(done.stdout)) == (
        0,
        {"count": 3, "repeated": 0, "copies": 1},
    )
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
