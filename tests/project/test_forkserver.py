"""A node that the fork server makes is like one that `run_node.py` starts."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.harness.process import PROC
from tests.harness.support import DEADLINE, ROOT, RUN_NODE, NodeProcess, wait_until

pytestmark = pytest.mark.skipif(not PROC, reason="reads /proc, which is missing here")

STATUS = ("NSpgid", "NSsid", "SigBlk", "SigCgt", "SigIgn", "SigPnd", "Umask")

LEAVES_A_NODE = """
import sys
from tests.harness.support import NodeProcess
node = NodeProcess("--ephemeral")
print(node.process.pid, flush=True)
sys.stdin.readline()
"""


def without_numbers(text: str) -> str:
    return re.sub(r"\d+", "", text)


def opened(process: Path) -> set[str]:
    """What the descriptors of a process lead to."""
    found = set()
    for file in (process / "fd").iterdir():
        with suppress(FileNotFoundError):  # it has been closed meanwhile
            found.add(str(file.readlink()))
    return found


def in_proc(node: NodeProcess) -> dict[str, object]:
    """What the kernel tells about a node that is running."""
    process = Path(f"/proc/{node.process.pid}")
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    here, parent, its = map(opened, (Path("/proc/self"), parent_of(process), process))
    assert not {name for name in its & (here | parent) if name.startswith(("socket", "pipe"))}
    return {
        **{name: status[name] for name in STATUS},
        "directory": (process / "cwd").readlink(),
        "files": {without_numbers(name) for name in its},
        "limits": (process / "limits").read_text(),
    }


def state_and_parent(process: Path) -> list[str]:
    return (process / "stat").read_text().rpartition(")")[2].split()[:2]


def parent_of(process: Path) -> Path:
    return Path("/proc", state_and_parent(process)[1])


def has_ended(process: Path) -> bool:
    """Return whether a process has ended; its new parent may never ask for its exit code."""
    try:
        return state_and_parent(process)[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def while_it_runs(node: NodeProcess) -> object:
    return in_proc(node), node.status()["node"]["name"]


def after(number: signal.Signals) -> Callable[[NodeProcess], object]:
    """Return what ends a node by a signal, and returns all that can be seen of that."""

    def end(node: NodeProcess) -> object:
        assert node.process.poll() is None
        assert node.stop(number) == node.process.poll() == node.process.wait(0)
        node.process.kill()  # of one that has ended does nothing
        return node.process.poll(), without_numbers(node.log())

    return end


@pytest.mark.parametrize(
    "seen",
    [while_it_runs, *map(after, (signal.SIGTERM, signal.SIGINT, signal.SIGKILL))],
    ids=["running", "SIGTERM", "SIGINT", "SIGKILL"],
)
def test_a_forked_node_is_like_a_started_one(
    seen: Callable[[NodeProcess], object], tmp_path: Path
) -> None:
    both = []
    for command in (None, RUN_NODE):
        with NodeProcess(
            "--log-level",
            "debug",
            cwd=tmp_path,
            environment={"P2P_SYNC_NAME": "by variable"},
            command=command,
        ) as node:
            both.append(seen(node))
            assert (tmp_path / "p2p-data" / str(node.port)).is_dir()
    assert both[0] == both[1]


@pytest.mark.parametrize("option", ["--name=\n", "--no-such-option"])
def test_a_forked_node_refuses_options_like_a_started_one(option: str) -> None:
    both = []
    for command in (None, RUN_NODE):
        with closing(NodeProcess("--ephemeral", option, command=command, wait=False)) as node:
            both.append((node.process.wait(DEADLINE), node.log()))
    assert both[0] == both[1] and both[0][0] == 2


def test_nothing_is_left_of_tests_that_have_ended() -> None:
    """Neither a node that a test has left behind, nor the fork server."""
    with subprocess.Popen(
        [sys.executable, "-c", LEAVES_A_NODE],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as tests:
        assert tests.stdout
        node = Path("/proc", tests.stdout.readline().strip())
        server = parent_of(node)
        assert not has_ended(node) and not has_ended(server)
        tests.communicate("\n")
    wait_until(lambda: has_ended(node), "the node ends")
    wait_until(lambda: has_ended(server), "the fork server ends")
