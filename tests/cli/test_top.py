"""`top`: one screen, lines, JSON; how it ends, and what it shows."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.cli.test_client import run
from tests.harness.support import DEADLINE, RUN_NODE, NodeProcess, free_port_pair
from tests.harness.terminal import Terminal


@contextmanager
def top(node: NodeProcess, *options: str, **environment: str) -> Iterator[Terminal]:
    command = [*RUN_NODE, "top", "--node", f"127.0.0.1:{node.port}", *options]
    with Terminal(*command, NO_COLOR=environment.pop("NO_COLOR", ""), **environment) as terminal:
        yield terminal


@pytest.mark.parametrize("key", ["q", "Q"])
def test_a_screen_until_somebody_presses_q(pair: list[NodeProcess], key: str) -> None:
    with top(pair[0]) as terminal:
        for text in ("In sync with 1 of 1 peer", "BEHIND", pair[1].address, pair[1].id[:8]):
            terminal.wait_shown(text)
        assert "\x1b[?1049h" in terminal.shown and "\x1b[?1049l" not in terminal.shown
        assert "\x1b[32mIn sync" in terminal.shown, "green"
        terminal.type(f"x{key}")
        assert terminal.wait_end() == 0
        assert "\x1b[?1049l" in terminal.shown, "the terminal is as it was"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (None, 130)])
def test_a_signal_and_ctrl_c_restore_the_terminal(
    pair: list[NodeProcess], number: int | None, code: int
) -> None:
    with top(pair[0]) as terminal:
        terminal.wait_shown("In sync")
        if number:
            os.kill(terminal.process.pid, number)
        else:
            terminal.type("\x03")  # Ctrl-C
        assert terminal.wait_end() == code
        assert "\x1b[?1049l" in terminal.shown and "Traceback" not in terminal.shown


def test_no_colours_where_nobody_wants_them(pair: list[NodeProcess]) -> None:
    with top(pair[0], NO_COLOR="1") as terminal:
        terminal.wait_shown("In sync")
        terminal.type("q")
        assert terminal.wait_end() == 0
        assert not re.search(r"\x1b\[[34][0-7]m", terminal.shown)


@pytest.mark.parametrize("term", ["dumb", "no-such-terminal", ""])
def test_lines_where_the_terminal_has_no_screen(pair: list[NodeProcess], term: str) -> None:
    with top(pair[0], TERM=term) as terminal:
        terminal.wait_shown("In sync with 1 of 1 peer  messages ")
        assert "\x1b" not in terminal.shown


def test_the_screen_goes_on_when_the_node_comes_back() -> None:
    port = free_port_pair()
    with NodeProcess("--ephemeral", port=port) as node, top(node) as terminal:
        terminal.wait_shown("No peers yet")
        node.stop()
        terminal.wait_shown("is the node running")
        with NodeProcess("--ephemeral", "--name", "back-again", port=port):
            terminal.wait_shown("back-again")
            terminal.type("q")
            assert terminal.wait_end() == 0


@contextmanager
def lines_of(node: NodeProcess, *options: str) -> Iterator[Iterator[str]]:
    """The lines that `top` prints into a pipe."""
    command = [*RUN_NODE, "top", "--node", f"127.0.0.1:{node.port}", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield iter(process.stdout)
        finally:
            process.terminate()
            assert process.wait(DEADLINE) == 143


def test_a_line_each_second_without_a_terminal(pair: list[NodeProcess]) -> None:
    with lines_of(pair[0]) as lines:
        for _ in range(2):
            wanted = r"[\d:]{8}  .*  messages \d+ \(.*/s\)  log .* [KM]iB  behind \d+  in .*/s.*\n"
            assert re.fullmatch(wanted, next(lines))


def test_json_has_the_rates_of_each_second(pair: list[NodeProcess]) -> None:
    node, other = pair
    over = threading.Event()

    def commit() -> None:
        while not over.wait(0.05):
            node.commit("from here")

    writer = threading.Thread(target=commit)
    writer.start()
    try:
        with lines_of(node, "--json") as lines, lines_of(other, "--json") as others:
            here, there = json.loads(next(lines)), json.loads(next(others))
    finally:
        over.set()
        writer.join()
    assert here["messages"]["per_second"] > 1 and there["messages"]["per_second"] > 1
    assert here["messages"]["count"] > 0 and here["messages"]["bytes"] > 1000
    sent, received = one(here, "sent_per_second"), one(there, "received_per_second")
    assert sent > 1 and received > 1
    assert here["received_per_second"] == 0 == there["sent_per_second"]


def one(told: dict[str, Any], name: str) -> float:
    """The value of the only peer, which is that of all peers."""
    (peer,) = told["peers"]
    assert peer[name] == told[name] and peer["state"] == "connected"
    return float(peer[name])


def test_one_screen_without_a_terminal(pair: list[NodeProcess]) -> None:
    done = run(pair[0], "top", "--once")
    assert done.returncode == 0 and done.stderr == "" and "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    assert pair[0].id[:8] in lines[0] and lines[2].startswith("messages ")
    assert " ".join(lines[-2].split()) == "NAME ADDRESS ID STATE DELAY IN/S OUT/S BEHIND"
    assert pair[1].address in lines[-1] and "connected" in lines[-1]
    assert json.loads(run(pair[0], "top", "--once", "--json").stdout)["behind"] == 0


def test_no_node_is_an_error_at_once() -> None:
    for options in ((), ("--once",), ("--json",)):
        done = run(f"127.0.0.1:{free_port_pair()}", "top", *options)
        assert done.returncode == 3 and done.stdout == ""
