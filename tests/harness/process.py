"""What /proc tells about a process: its CPU time, memory, threads and descriptors. Linux only."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from tests.harness.support import NodeProcess

PROC = Path("/proc/self/status").exists()
_TICK = os.sysconf("SC_CLK_TCK")
_MB = 1024.0


def cpu_seconds(pid: int | str) -> float:
    """User and system time of a process, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def memory_mb(pid: int, what: str = "VmHWM") -> float:
    """The peak (VmHWM) or the present (VmRSS) of a process's resident memory, in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) / _MB
    return 0.0


def cpu(node: NodeProcess) -> float:
    """The seconds of CPU that a node has used; skips the test where there is no /proc."""
    _need_proc()
    return cpu_seconds(node.process.pid)


def memory(node: NodeProcess) -> float:
    """The resident memory of a node in MiB; skips the test where there is no /proc."""
    _need_proc()
    return memory_mb(node.process.pid, "VmRSS")


def peak_memory(node: NodeProcess) -> float:
    """The most resident memory that a node has had, in MiB; skips where there is no /proc."""
    _need_proc()
    return memory_mb(node.process.pid)


def held(node: NodeProcess, what: str) -> int:
    """How many threads ("task") or descriptors ("fd") a node has; skips where there is no /proc."""
    _need_proc()
    return sum(1 for _ in Path(f"/proc/{node.process.pid}/{what}").iterdir())


def voluntary_waits(thread: threading.Thread) -> int:
    """How often a thread of this process has begun to wait for something; skips where there is no
    /proc."""
    _need_proc()
    for line in Path(f"/proc/self/task/{thread.native_id}/status").read_text().splitlines():
        if line.startswith("voluntary_ctxt_switches:"):
            return int(line.split()[1])
    raise LookupError(f"nothing is known of {thread}")


def _need_proc() -> None:
    if not PROC:
        pytest.skip("reads /proc, which is missing here")
