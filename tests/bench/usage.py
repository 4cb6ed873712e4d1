"""CPU seconds and memory of processes from /proc, and what else the machine was doing."""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.bench.results import Process, Sample
from tests.harness.process import cpu_seconds, memory_mb

_TICK = os.sysconf("SC_CLK_TCK")


def _busy_seconds() -> float:
    """CPU time that all processes of the machine have used."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    user, nice, system, _idle, _wait, interrupt, soft, _steal = map(int, fields)
    return (user + nice + system + interrupt + soft) / _TICK


class Meter:
    """Measures processes, by name, from entering to leaving; a context manager."""

    def __init__(
        self,
        pids: Mapping[str, int],
        began: Callable[[], None] = lambda: None,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        """`began` and `ended` are called just outside the time that is measured."""
        self._pids = dict(pids)
        self._began, self._ended = began, ended
        self.processes: tuple[Process, ...] = ()
        self.seconds = 0.0
        self._others = 0.0

    def __enter__(self) -> Meter:
        self._began()
        self._load = os.getloadavg()[0]
        self._before = {name: cpu_seconds(pid) for name, pid in self._pids.items()}
        self._all = _busy_seconds() - self._own()
        self.start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = self.seconds or self.elapsed()
        whole = self.elapsed()
        others = _busy_seconds() - self._own() - self._all
        self.processes = tuple(
            Process(name, cpu_seconds(pid) - self._before[name], memory_mb(pid))
            for name, pid in self._pids.items()
        )
        used = sum(process.cpu_s for process in self.processes)
        self._others = max(0.0, (others - used) / whole)
        self._ended()

    def elapsed(self) -> float:
        """Seconds since entering."""
        return time.perf_counter() - self.start

    def stop(self) -> float:
        """Take the time now; what else is measured goes on."""
        self.seconds = self.elapsed()
        return self.seconds

    def sample(self, figures: Mapping[str, float]) -> Sample:
        """What was measured, together with `figures`."""
        return Sample(dict(figures), self.processes, self.seconds, self._load, self._others)

    @staticmethod
    def _own() -> float:
        """What this process used, and children of it that have ended (wrk)."""
        times = os.times()
        return times.user + times.system + times.children_user + times.children_system


def machine() -> dict[str, str | int | float]:
    """What the figures were taken on."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "cores": os.cpu_count() or 0,
        "cpu": model,
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1024**2,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "fsync_ms": round(_fsync_ms(), 3),
        "load": os.getloadavg()[0],
    }


def _fsync_ms() -> float:
    """What it takes to have 4 KiB more on the disk where data directories are made."""
    times = []
    with tempfile.TemporaryFile() as file:
        for _ in range(20):
            file.write(bytes(4096))
            file.flush()
            begun = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - begun)
    return statistics.median(times) * 1000
