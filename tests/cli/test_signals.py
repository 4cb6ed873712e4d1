"""Signals: during a start, as PID 1 of a container, and from a terminal that is closed."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from p2p_sync.cli.program import program
from tests.harness.support import (
    DEADLINE,
    RUN_NODE,
    SCALE,
    NodeProcess,
    free_port_pair,
    holds,
    request,
    wait_until,
)

NAMESPACE = ["unshare", "--fork", "--pid", "--kill-child"]
WAYS = {"": [], "as PID 1": NAMESPACE}


def can_unshare() -> bool:
    return (
        shutil.which("unshare") is not None
        and not subprocess.run([*NAMESPACE, "true"], stderr=subprocess.DEVNULL).returncode
    )


def child_of(process: subprocess.Popen[bytes]) -> int:
    """The only child of a process, once it has one."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return int(wait_until(lambda: children.read_text().split(), "it has a child")[0])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("library", ["click", "flask", "websocket", "sqlite3"])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_libraries_are_loaded_ends_the_process(
    tmp_path: Path, way: str, library: str, signum: int
) -> None:
    if way and not can_unshare():
        pytest.skip("needs unshare, and the right to make a PID namespace")
    # A library that takes for ever to load stands for a machine on which all of them are slow.
    (tmp_path / f"{library}.py").write_text(
        f"import pathlib, time\npathlib.Path({str(tmp_path / 'loading')!r}).touch()\n"
        "while True: time.sleep(0.05)\n"
    )
    process = subprocess.Popen(
        [*WAYS[way], *RUN_NODE, str(free_port_pair()), "--ephemeral"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    try:
        wait_until((tmp_path / "loading").exists, "it is being loaded")
        os.kill(child_of(process) if way else process.pid, signum)
        assert process.wait(DEADLINE) == 0
    finally:
        process.kill()
        process.wait(DEADLINE)


def test_a_hang_up_during_the_start_of_a_daemon_does_not_end_it() -> None:
    code = (
        "import os, signal, sys; from p2p_sync.cli import main, signals\n"
        "install = signals.NodeSignals.__init__\n"
        "def early(self):\n install(self)\n os.kill(os.getpid(), signal.SIGHUP)\n"
        "signals.NodeSignals.__init__ = early\n"
        "sys.exit(main())"
    )
    with NodeProcess("--ephemeral", command=["setsid", sys.executable, "-c", code]) as node:
        wait_until(lambda: node.logged("reloaded secrets"), node.log)
        assert node.stop() == 0


@contextmanager
def on_a_terminal(*command: str) -> Iterator[tuple[int, int]]:
    """The master side of a terminal, and the process that leads the session on it."""
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        os.execvp(command[0], command)
    try:
        yield pid, terminal
    finally:
        with suppress(OSError):
            os.close(terminal)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)


def up(port: int) -> bool:
    with suppress(OSError):
        return request(port, "/healthz").status == 200
    return False


def ended(pid: int) -> bool:
    return os.waitpid(pid, os.WNOHANG)[0] == pid


def test_a_node_ends_with_its_terminal() -> None:
    port = free_port_pair()
    with on_a_terminal(*RUN_NODE, str(port), "--ephemeral") as (pid, terminal):
        wait_until(lambda: up(port), "it answers")
        os.close(terminal)
        wait_until(lambda: ended(pid), "it ends", 5 * SCALE)
        assert not up(port)


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
@pytest.mark.parametrize("prefix", ["", "nohup "])
def test_a_background_job_ends_with_its_terminal_unless_it_runs_under_nohup(
    tmp_path: Path, prefix: str
) -> None:
    port = free_port_pair()
    node = f"{' '.join(RUN_NODE)} {port} --ephemeral >{tmp_path}/log 2>&1 </dev/null"
    job = f"{prefix}{node} & echo $! >{tmp_path}/pid; while :; do sleep 0.1; done"
    with on_a_terminal("bash", "--norc", "-ic", job) as (_, terminal):
        wait_until(lambda: up(port), "it answers")
        pid = int((tmp_path / "pid").read_text())
        try:
            os.close(terminal)
            if prefix:
                holds(lambda: up(port), "nohup keeps it alive")
                os.kill(pid, signal.SIGHUP)
                log = tmp_path / "log"
                wait_until(lambda: "reloaded secrets" in log.read_text(), log.read_text)
                assert up(port)
            else:
                wait_until(lambda: not up(port), "it ends", 5 * SCALE)
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            wait_until(lambda: not Path(f"/proc/{pid}/fd/0").exists(), "it is gone")


def test_a_hang_up_reloads_while_the_terminal_is_there() -> None:
    port = free_port_pair()
    with on_a_terminal(*RUN_NODE, str(port), "--ephemeral") as (pid, terminal):
        wait_until(lambda: up(port), "it answers")
        os.kill(pid, signal.SIGHUP)
        seen = b""
        begin = time.monotonic()
        while b"reloaded secrets" not in seen:
            seen += os.read(terminal, 65536)
            assert time.monotonic() - begin < DEADLINE, seen
        assert up(port)


def test_a_command_is_known_from_a_port_before_it_is_loaded() -> None:
    assert program.commands and all(name.isalpha() for name in program.commands)
