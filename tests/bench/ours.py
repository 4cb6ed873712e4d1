"""Our nodes as processes, the way every scenario uses them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.bench import client
from tests.bench.client import wait_held
from tests.bench.profiles import Profiler
from tests.bench.usage import Meter
from tests.harness.http import Http, get_bytes, post_bytes
from tests.harness.support import RUN_NODE, NodeProcess, wait_sockets, wait_until

_LINES = "application/x-ndjson"
_STATUS = "/api/v1/status"

# How many messages a request brings where a long log is made.
_FILL = 100_000

# The profiler, with --profile.
profilers: list[Profiler] = []


@contextmanager
def mesh(count: int, *options: str, degree: int | None = None) -> Iterator[list[NodeProcess]]:
    """`count` nodes that have found each other, each with `degree` links or more."""
    with ExitStack() as stack:
        first = stack.enter_context(NodeProcess(*options, command=RUN_NODE))
        rest = [
            stack.enter_context(
                NodeProcess("--peer", first.address, *options, command=RUN_NODE, wait=False)
            )
            for _ in range(count - 1)
        ]
        nodes = [first, *rest]
        for other in rest:
            other.wait_ready()
        if degree is None:
            wait_sockets(count - 1, *nodes)
        else:
            least = degree
            wait_until(lambda: all(n.sockets() >= least for n in nodes), "a mesh", 60)
        yield nodes


def measured(nodes: Sequence[NodeProcess]) -> Meter:
    """A meter of all `nodes`, which are watched by the profiler where there is one."""
    pids = {f"node {number}": node.process.pid for number, node in enumerate(nodes, 1)}
    if not profilers:
        return Meter(pids)
    profiler = profilers[0]
    return Meter(pids, lambda: profiler.start(list(pids.values())), profiler.stop)


@contextmanager
def counting(port: int) -> Iterator[Callable[[], int]]:
    """A question for how many messages the node holds on disk."""
    request = get_bytes(port, _STATUS)
    with Http(port) as http:

        def held() -> int:
            return int(json.loads(http.ask(request, 200))["messages"]["count"])

        yield held


def body(count: int, name: str = "m") -> bytes:
    """NDJSON of `count` messages."""
    return "".join(f'"{client.text(number, name)}"\n' for number in range(count)).encode()


def bulk(port: int, lines: bytes) -> bytes:
    """The request that commits all `lines`."""
    return post_bytes(port, "/api/v1/messages", lines, _LINES)


def commit_all(port: int, request: bytes) -> None:
    """Send such a request and wait until all of it is stored there."""
    with Http(port, client.PATIENCE) as http:
        http.ask(request, 201)


def wait_all(nodes: Sequence[NodeProcess], count: int) -> None:
    """Wait until each of `nodes` holds `count` messages; ask one at a time, till the last."""
    for process in nodes:
        with counting(process.port) as held:
            wait_held(held, count)


class LongLog:
    """Data directories with many messages, each made once and deleted when the process ends."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[tempfile.TemporaryDirectory[str], Path]] = {}

    def directory(self, count: int) -> Path:
        if count not in self._kept:
            parent = tempfile.TemporaryDirectory(prefix="p2p-bench-")
            path = Path(parent.name) / "data"
            self._kept[count] = parent, path
            with NodeProcess(data_dir=path, command=RUN_NODE) as process:
                for done in range(0, count, _FILL):
                    lines = body(min(_FILL, count - done), f"old{done}")
                    commit_all(process.port, bulk(process.port, lines))
                process.stop()
        return self._kept[count][1]

    def close(self) -> None:
        for parent, _ in self._kept.values():
            parent.cleanup()
        self._kept.clear()


LONG_LOG = LongLog()
