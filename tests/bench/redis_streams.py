"""Competitor (r): Redis Streams, one primary and two replicas, append-only file on."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.bench import client
from tests.bench.delay import QUIET, WARM_UP
from tests.bench.results import Missing, Sample, Scale, in_ms
from tests.bench.spawn import running
from tests.bench.throughput import RATE
from tests.bench.usage import Meter
from tests.harness.support import free_port_pair, wait_until

_PIPELINE = 1_000
_WAIT_MS = 60_000


def library() -> Any:
    if not shutil.which("redis-server"):
        raise Missing("redis-server is not on this machine")
    try:
        import redis
    except ImportError:
        raise Missing("PyPI's redis is not installed") from None
    return redis


@contextmanager
def _servers() -> Iterator[tuple[Any, Meter]]:
    """A client of the primary, once both replicas follow it, and a meter."""
    redis = library()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="p2p-bench-redis-")))
        ports = [free_port_pair() for _ in range(3)]
        pids: dict[str, int] = {}
        for number, port in enumerate(ports):
            place = folder / str(port)
            place.mkdir()
            command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1"]
            command += ["--dir", str(place), "--save", "", "--appendonly", "yes"]
            command += ["--appendfsync", "everysec"]
            if number:
                command += ["--replicaof", "127.0.0.1", str(ports[0])]
            name = f"redis {'replica' if number else 'primary'} {number or ''}".strip()
            pids[name] = stack.enter_context(running(command)).pid
        link = stack.enter_context(redis.Redis("127.0.0.1", ports[0], socket_timeout=60))

        def followed() -> bool:
            try:
                told = link.info("replication")
            except redis.exceptions.ConnectionError:
                return False
            states = [told.get(f"slave{n}", {}).get("state") for n in range(2)]
            return states == ["online", "online"]

        wait_until(followed, "two replicas", 60)
        yield link, Meter(pids)


def throughput(scale: Scale) -> Sample:
    """Scenario 1."""
    texts = [client.text(number) for number in range(scale.messages)]
    with _servers() as (link, meter), meter:
        for first in range(0, len(texts), _PIPELINE):
            pipeline = link.pipeline(transaction=False)
            for text in texts[first : first + _PIPELINE]:
                pipeline.xadd("log", {"data": text})
            pipeline.execute()
        assert link.wait(2, _WAIT_MS) == 2
        meter.stop()
    return meter.sample({RATE: len(texts) / meter.seconds})


def with_copy(scale: Scale) -> Sample:
    """Scenario 4: in both replicas' memory."""
    delays = []
    with _servers() as (link, meter), meter:
        for number in range(-WARM_UP, scale.delays):
            time.sleep(QUIET)
            begun = time.perf_counter()
            pipeline = link.pipeline(transaction=False)
            pipeline.xadd("log", {"data": client.text(number)})
            pipeline.execute_command("WAIT", 2, _WAIT_MS)
            answers = pipeline.execute()
            if number >= 0:
                delays.append(time.perf_counter() - begun)
            assert answers[1] == 2
    return meter.sample(in_ms(delays))
