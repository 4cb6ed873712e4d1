"""Scenario 13: two nodes that only a hub joins, next to two that have a link."""

from __future__ import annotations

import queue
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from p2p_sync import Node
from tests.bench import client, ours
from tests.bench.delay import QUIET, WARM_UP
from tests.bench.redis_streams import library
from tests.bench.results import Sample, Scale, in_ms
from tests.bench.throughput import RATE
from tests.harness.http import Http, commit_bytes
from tests.harness.redis import RedisServer
from tests.harness.support import RUN_NODE, NodeProcess


def by_hub(scale: Scale) -> Sample:
    """Each node knows nothing but the hub, which writes its append-only file each second."""
    with _hub() as redis:
        return _measured(scale, lambda _: ("--hub", redis.url), lambda _: {"hub": redis.url})


def by_link(scale: Scale) -> Sample:
    """The same over a link."""
    return _measured(scale, lambda first: ("--peer", first), lambda first: {"peers": [first]})


@contextmanager
def _hub() -> Iterator[RedisServer]:
    library()
    with tempfile.TemporaryDirectory(prefix="p2p-bench-") as folder:
        options = "--appendonly", "yes", "--appendfsync", "everysec"
        with RedisServer(Path(folder) / "redis", *options) as redis:
            yield redis


def _measured(
    scale: Scale, options: Callable[[str], Sequence[str]], settings: Callable[[str], Any]
) -> Sample:
    """`options` are those of a node, given the address of the first one; `settings` the same for
    the library."""
    with ExitStack() as stack:
        first = stack.enter_context(NodeProcess(*options("ws://127.0.0.1:9"), command=RUN_NODE))
        rest = options(first.address)
        nodes = [first, stack.enter_context(NodeProcess(*rest, command=RUN_NODE))]
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="p2p-bench-"))
        with Node(0, Path(folder) / "data", **settings(first.address)) as far:
            delays = list(_delays(first, far, scale.delays))
        held = first.count
        request = ours.bulk(first.port, ours.body(scale.messages))
        with ours.measured(nodes) as meter:
            ours.commit_all(first.port, request)
            ours.wait_all(nodes, held + scale.messages)
            meter.stop()
    return meter.sample({RATE: scale.messages / meter.seconds, **in_ms(delays)})


def _delays(near: NodeProcess, far: Node, count: int) -> Iterator[float]:
    """Yield the times from a request to commit at a node until another one has stored it."""
    stored: queue.Queue[str] = queue.Queue()
    far.on_message(lambda message: stored.put(message.data))
    with Http(near.port) as http:
        for number in range(-WARM_UP, count):
            what = client.text(number)
            time.sleep(QUIET)
            begun = time.perf_counter()
            http.send(commit_bytes(near.port, what))
            while stored.get(timeout=client.PATIENCE) != what:
                pass
            if number >= 0:
                yield time.perf_counter() - begun
            http.answer()
