"""Competitor (p): p2pnetwork from PyPI, a broadcast between three processes; it keeps nothing."""

from __future__ import annotations

import importlib.util
import select
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from tests.bench.client import PATIENCE
from tests.bench.results import Missing, Sample, Scale
from tests.bench.spawn import running
from tests.bench.throughput import RATE
from tests.bench.usage import Meter
from tests.harness.support import DEADLINE, free_port_pair, wait_until

_PROGRAM = Path(__file__).with_name("p2pnet_node.py")

# It is slow, so it gets this part of the messages.
_SHARE = 10


class _Member:
    """One of the processes, and what it is told."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def tell(self, command: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()

    def answer(self, timeout: float = DEADLINE) -> str:
        stream = self.process.stdout
        assert stream and select.select([stream], [], [], timeout)[0], "p2pnetwork does not answer"
        return stream.readline().strip()

    def links(self) -> int:
        self.tell("links")
        return int(self.answer())


def throughput(scale: Scale) -> Sample:
    """Scenario 1."""
    if importlib.util.find_spec("p2pnetwork") is None:
        raise Missing("p2pnetwork is not installed")
    count = scale.messages // _SHARE
    with ExitStack() as stack:
        members: list[_Member] = []
        ports: list[str] = []
        for _ in range(3):
            port = str(free_port_pair())
            command = [sys.executable, str(_PROGRAM), port, *ports]
            member = _Member(stack.enter_context(running(command, pipes=True)))
            assert member.answer() == "ready"
            members.append(member)
            ports.append(port)
        wait_until(lambda: [member.links() for member in members] == [2, 2, 2], "links")
        names = {f"p2pnetwork {n}": m.process.pid for n, m in enumerate(members, 1)}
        with Meter(names) as meter:
            members[0].tell(f"send {count}")
            for member in members[1:]:
                member.tell(f"wait {count}")
            for member in members[1:]:
                assert member.answer(PATIENCE) == "held"
            meter.stop()
        for member in members:
            member.process.kill()  # it has threads that only end after ten seconds
    return meter.sample({RATE: count / meter.seconds})
