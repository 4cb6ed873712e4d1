"""A node whose standard error nobody reads: replication, HTTP and the end go on as ever."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from time import monotonic

import pytest

from p2p_sync.cli.outlet import Outlet
from tests.harness.support import (
    DEADLINE,
    RUN_NODE,
    SCALE,
    NodeProcess,
    free_port_pair,
    request,
    wait_until,
)


def with_trouble(statement: str) -> list[str]:
    """The command of a node that executes `statement` as soon as it has started."""
    code = (
        "import logging, sys, threading, warnings; from p2p_sync.cli import main, run\n"
        "log_peers = run._log_peers\n"
        f"def trouble(*rest):\n log_peers(*rest)\n {statement}\n"
        "run._log_peers = trouble\n"
        "sys.exit(main())"
    )
    return [sys.executable, "-c", code]


@contextmanager
def quiet(
    descriptor: int, *options: str, command: Sequence[str] = RUN_NODE
) -> Iterator[NodeProcess]:
    """A node whose standard error is `descriptor`, which is closed here."""
    node = NodeProcess("--ephemeral", *options, command=command, output=descriptor, wait=False)
    os.close(descriptor)
    with node:
        node.wait_ready()
        yield node


def dropped(node: NodeProcess) -> int:
    """How many lines of its log a node has dropped."""
    metrics = node.get("/metrics").text
    (number,) = re.findall(r"^p2p_sync_log_lines_dropped_total (\S+)", metrics, re.M)
    return int(float(number))


@contextmanager
def full_pipe() -> Iterator[tuple[int, int]]:
    """Both ends of a pipe that takes nothing more."""
    with ExitStack() as stack:
        ours, its = os.pipe()
        stack.callback(os.close, ours)
        os.set_blocking(its, False)
        with suppress(BlockingIOError):
            while True:
                os.write(its, b"x" * 4096)
        with suppress(BlockingIOError):
            while True:
                os.write(its, b"\n")
        os.set_blocking(its, True)
        yield ours, its


@contextmanager
def stopped_terminal() -> Iterator[tuple[int, int]]:
    """Both ends of a terminal that somebody has stopped with Ctrl-S."""
    ours, its = pty.openpty()
    termios.tcflow(its, termios.TCOOFF)
    try:
        yield ours, its
    finally:
        os.close(ours)


def shout(node: NodeProcess, count: int) -> None:
    """Have `node` log `count` lines: of addresses that nobody can be reached at."""
    for _ in range(count):
        request(node.port, "/add?address=ws://127.0.0.1:1")


@pytest.mark.parametrize("stuck", [full_pipe, stopped_terminal])
def test_nobody_reads_standard_error(
    stuck: Callable[[], AbstractContextManager[tuple[int, int]]],
) -> None:
    with NodeProcess("--ephemeral") as other, stuck() as (_, its), quiet(its) as node:
        node.add(other.address)
        shout(node, 20)
        node.commit("here")
        other.commit("there")

        def held(port: int) -> bool:
            return {"here", "there"} <= set(re.split("[ ,]", request(port, "/").text))

        wait_until(lambda: held(node.port) and held(other.port), "both have both messages")
        assert request(node.port, "/readyz").status == 200
        begin = monotonic()
        node.process.terminate()
        assert node.process.wait(DEADLINE) == 0
        assert monotonic() - begin < 6 * SCALE


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_standard_error_is_a_full_disk() -> None:
    with quiet(os.open("/dev/full", os.O_WRONLY)) as node:
        shout(node, 20)
        node.commit("text")
        assert node.line() == "No. sockets 0 text"
        node.process.terminate()
        assert node.process.wait(DEADLINE) == 0


def test_the_reader_of_standard_error_has_gone() -> None:
    ours, its = os.pipe()
    os.close(ours)
    with quiet(its) as node:
        shout(node, 20)
        node.commit("text")
        assert node.line() == "No. sockets 0 text"
        node.process.terminate()
        assert node.process.wait(DEADLINE) == 0


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_take_no_file_for_the_log(tmp_path: Path, closed: str) -> None:
    """The first file that is opened gets the free number 2: the log must not go into it."""
    port = free_port_pair()
    command = f"exec {' '.join(RUN_NODE)} {port} --data-dir {tmp_path}/data {closed}"
    process = subprocess.Popen(["sh", "-c", command])
    try:

        def up() -> bool:
            with suppress(OSError):
                return request(port, "/healthz").status == 200
            return False

        wait_until(up, "the node answers")
        for n in range(20):
            request(port, "/add?address=ws://127.0.0.1:1")
            request(port, f"/commit?msg={n}")
        process.terminate()
        assert process.wait(DEADLINE) == 0
    finally:
        process.kill()
        process.wait(DEADLINE)
    with NodeProcess(data_dir=tmp_path / "data") as node:
        assert node.texts() == [str(n) for n in range(20)]
    for file in (tmp_path / "data").iterdir():
        assert b"the page is at" not in file.read_bytes()


@pytest.mark.parametrize(
    "arguments", [["8000", "--no-such-option"], ["0"], ["8000", "--peer", "?"]]
)
def test_an_error_at_the_start_waits_for_no_reader(arguments: list[str]) -> None:
    with full_pipe() as (_, its):
        process = subprocess.Popen([*RUN_NODE, *arguments], stderr=its)
        os.close(its)
        assert process.wait(DEADLINE) == 2


def test_dropped_lines_are_counted_and_the_log_says_so_once_it_is_read() -> None:
    loud = with_trouble("[run.logger.info('line %d', n) for n in range(50_000)]")
    with full_pipe() as (ours, its), quiet(its, "--log-format", "json", command=loud) as node:
        lost = dropped(node)
        assert lost > 10_000
        found: list[str] = []

        def read() -> None:
            with os.fdopen(os.dup(ours), errors="replace") as pipe:
                found.extend(pipe)

        reader = threading.Thread(target=read)
        reader.start()
        wait_until(lambda: any("dropped here" in line for line in found), "the log says so")
        node.process.terminate()
        assert node.process.wait(DEADLINE) == 0
        reader.join(DEADLINE)
    told = [json.loads(line) for line in found if line.startswith("{")]
    note = next(line for line in told if "dropped here" in line["text"])
    assert note["level"] == "warning"
    assert int(note["text"].split()[0].replace(",", "")) == lost
    assert told[-1]["text"].startswith("stopping"), "later lines are written again"


def test_an_outlet_keeps_its_bounds_and_the_order_of_lines() -> None:
    ours, its = os.pipe()
    outlet = Outlet(its, room=400_000)
    for n in range(200_000):
        outlet.put(f"line {n}")
    assert outlet.dropped > 100_000, "nobody reads, so no more than the room waits"
    first = outlet.dropped
    data = b""
    with os.fdopen(ours, "rb") as pipe:
        while b"dropped" not in data:
            data += pipe.read1(65536)
        outlet.put("after it")
        outlet.drain(DEADLINE)
        os.close(its)
        data += pipe.read()
    lines = data.decode().splitlines()
    count = 200_000 - first
    assert lines == [
        *(f"line {n}" for n in range(count)),
        f"{first} lines were dropped",
        "after it",
    ]
    assert outlet.dropped == first


def test_an_outlet_survives_a_pipe_that_does_not_block() -> None:
    ours, its = os.pipe()
    os.set_blocking(its, False)
    outlet = Outlet(its)
    for n in range(20_000):
        outlet.put(f"line {n}")
    with os.fdopen(ours, "rb") as pipe:
        seen = [pipe.readline() for _ in range(20_000)]
    assert seen == [b"line %d\n" % n for n in range(20_000)]
    outlet.drain(DEADLINE)
    os.close(its)


@pytest.mark.parametrize(
    "trouble",
    [
        "print('one\\ntwo', file=sys.stderr)",
        "warnings.warn('two')",
        "threading.Thread(target=lambda: 1 / 0).start()",
        "run.logger.error('%d', 'two')",
        "logging.getLogger('other').error('two')",
    ],
    ids=["print", "warning", "thread", "format", "logger"],
)
def test_whatever_is_written_to_standard_error_is_a_line_of_the_log(trouble: str) -> None:
    command = with_trouble(trouble)
    with NodeProcess("--log-format", "json", "--ephemeral", command=command) as node:
        node.stop()
        lines = [json.loads(line) for line in node.log().splitlines()]
        assert any(re.search("two|the thread .* failed|%d", line["text"]) for line in lines)
        assert all({"time", "level", "text"} <= set(line) for line in lines)


def test_a_node_as_a_library_leaves_the_process_as_it_is() -> None:
    code = (
        "import logging, signal, sys, threading\n"
        "def state():\n"
        " return (sys.stderr, sys.excepthook, threading.excepthook, logging.root.handlers[:],\n"
        "         [signal.getsignal(n) for n in (2, 15, 1)])\n"
        "before = state()\n"
        "from p2p_sync import Node\n"
        "with Node(0) as node: assert state() == before and node.commit('x')\n"
        "assert state() == before\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=DEADLINE).returncode == 0
