"""Where the nodes' CPU time goes, by PyPI's py-spy: it looks at their stacks from outside.

A sampler inside of the process would not do: it gets to run when another thread lets go of the
interpreter's lock, so all would seem to happen where threads begin to wait.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.results import Missing
from tests.harness.process import cpu_seconds
from tests.harness.support import DEADLINE

_RATE = "200"  # looks a second
_LONGEST = "600"  # seconds
_TOP = 12
_EVERYWHERE = "threading.py Thread."  # at the root of all stacks
_LEAST = 0.02  # of the process's time; of threads below only the name is told


def _tool() -> str:
    found = shutil.which("py-spy") or shutil.which(str(Path(sys.executable).with_name("py-spy")))
    if not found:
        raise Missing("py-spy (from PyPI) is not installed")
    return found


class Profiler:
    """Watches processes from `start` to `stop`, and leaves a file for each in `folder`."""

    def __init__(self, folder: Path, locked: bool = False) -> None:
        """`locked`: look only at the thread that has the interpreter's lock."""
        self._folder = folder
        self._options = ["--gil"] if locked else []
        self._spies: list[subprocess.Popen[bytes]] = []
        self._used: list[tuple[int, dict[str, float]]] = []  # of each process: thread -> CPU
        self._tool = _tool()

    def start(self, pids: Sequence[int]) -> None:
        """Begin to look; those that wait are not counted."""
        for pid in pids:
            file = self._file(len(self._used))
            self._used.append((pid, {}))
            command = [self._tool, "record", "--pid", str(pid), "--output", str(file)]
            command += ["--format", "raw", "--threads", "--nonblocking"]
            command += ["--rate", _RATE, "--duration", _LONGEST, *self._options]
            quiet = subprocess.DEVNULL
            self._spies.append(subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet))
        time.sleep(1)  # until they look
        self._count(-1)

    def stop(self) -> None:
        """End it, and wait for the files."""
        self._count(1)
        spies, self._spies = self._spies, []
        for spy in spies:
            spy.send_signal(signal.SIGINT)
        for spy in spies:
            try:
                spy.wait(DEADLINE)
            finally:
                spy.kill()

    def _count(self, sign: int) -> None:
        """Add or take away what each thread has used by now."""
        for pid, used in self._used[-len(self._spies) :]:
            for task in Path(f"/proc/{pid}/task").iterdir():
                seconds = cpu_seconds(f"{pid}/task/{task.name}")
                used[task.name] = used.get(task.name, 0.0) + sign * seconds

    def _file(self, number: int) -> Path:
        return self._folder / f"{number:03d}"

    def told(self) -> Iterator[str]:
        """The lines that show all profiles."""
        for number, (_, used) in enumerate(self._used):
            yield ""
            yield f"profile {number + 1}"
            yield from summary(self._file(number).read_text().splitlines(), used)


@dataclass
class _Thread:
    """What was seen of the threads of one role."""

    cpu_s: float = 0.0
    looks: int = 0
    itself: Counter[str] = field(default_factory=Counter)
    whole: Counter[str] = field(default_factory=Counter)


def summary(stacks: Sequence[str], used: Mapping[str, float]) -> Iterator[str]:
    """Add up stacks as py-spy writes them, `thread (id): name;caller;...;function count`.

    `used` tells the CPU seconds of threads by id.
    """
    threads: dict[str, _Thread] = defaultdict(_Thread)
    names: dict[str, str] = {}
    for line in stacks:
        stack, _, count = line.rpartition(" ")
        first, *functions = stack.split(";")
        looks = int(count)
        names[first.partition("(")[2].partition(")")[0]] = _role(first)
        thread = threads[_role(first)]
        thread.looks += looks
        if functions:
            thread.itself[_short(functions[-1])] += looks
        for function in {_short(function, line=False) for function in functions}:
            if not function.startswith(_EVERYWHERE):
                thread.whole[function] += looks
    for number, seconds in used.items():
        threads[names.get(number, "not seen")].cpu_s += seconds
    total = sum(thread.looks for thread in threads.values()) or 1
    yield f"  {total} looks, {sum(used.values()):.2f} s of CPU"
    for name, thread in sorted(threads.items(), key=lambda item: -item[1].looks):
        yield f"  thread {name}: {thread.looks / total:.0%} of the looks, {thread.cpu_s:.2f} s"
        if thread.looks >= _LEAST * total:
            yield from _table("the line itself", thread.itself, thread.looks, total)
            yield from _table("with what it calls", thread.whole, thread.looks, total)


def _role(name: str) -> str:
    """The name of a thread without its id, address or number: `thread (7F): send ws://...`."""
    return name.rpartition("): ")[2].split(" ")[0].rstrip("0123456789").rstrip("-")


def _short(function: str, line: bool = True) -> str:
    """`name (path/of/a/file.py:12)` as `a/file.py:12 name`, or without the line."""
    name, _, place = function.partition(" (")
    file, _, number = place.rstrip(")").rpartition(":")
    file = "/".join(file.split("/")[-2:])
    return f"{file}{f':{number}' if line else ''} {name}"


def _table(title: str, looks: Counter[str], thread: int, total: int) -> Iterator[str]:
    yield f"    {title}: % of the thread, % of the process"
    for name, count in looks.most_common(_TOP):
        yield f"      {count / thread:5.0%} {count / total:5.0%}  {name}"
