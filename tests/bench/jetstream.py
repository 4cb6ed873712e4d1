"""Competitor (n): NATS JetStream, a stream in three copies (R3) on three servers."""

from __future__ import annotations

import asyncio
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tests.bench import client
from tests.bench.delay import QUIET, WARM_UP
from tests.bench.results import Missing, Sample, Scale, in_ms
from tests.bench.spawn import running
from tests.bench.throughput import RATE
from tests.bench.usage import Meter
from tests.harness.support import free_port_pair, wait_until

_CONFIGURATION = """
server_name: n{number}
listen: "127.0.0.1:{port}"
jetstream {{ store_dir: "{folder}", max_mem: 64M, max_file: 4G }}
cluster {{ name: bench, listen: "127.0.0.1:{cluster}", routes: [{routes}] }}
"""

# Messages that may be under way at a time.
_PENDING = 4_000
# How often it is tried to make the stream.
_ATTEMPTS = 100
# It is slower than some, so it gets this part of the messages.
_SHARE = 2


def _library() -> Any:
    if not shutil.which("nats-server"):
        raise Missing("nats-server is not on this machine")
    try:
        import nats
    except ImportError:
        raise Missing("PyPI's nats-py is not installed") from None
    return nats


@contextmanager
def _servers() -> Iterator[tuple[list[int], Meter]]:
    """The ports of three servers, and a meter."""
    _library()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="p2p-bench-nats-")))
        ports = [free_port_pair() for _ in range(3)]
        routes = ", ".join(f'"nats://127.0.0.1:{port + 1}"' for port in ports)
        pids = {}
        for number, port in enumerate(ports, 1):
            file = folder / f"{number}.conf"
            values = {"number": number, "port": port, "cluster": port + 1, "routes": routes}
            file.write_text(_CONFIGURATION.format(folder=folder / str(number), **values))
            process = stack.enter_context(running(["nats-server", "-c", str(file)]))
            pids[f"nats {number}"] = process.pid
        for port in ports:
            wait_until(partial(_listens, port), "nats-server listens")
        yield ports, Meter(pids)


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@asynccontextmanager
async def _stream(port: int) -> AsyncIterator[Any]:
    """JetStream's client, once a stream with three copies could be made."""
    nats = _library()
    link = await nats.connect(f"nats://127.0.0.1:{port}")
    try:
        manager = link.jsm(timeout=1)
        for _ in range(_ATTEMPTS):
            try:
                await manager.add_stream(name="log", subjects=["log"], num_replicas=3)
                break
            except (nats.errors.Error, asyncio.TimeoutError):
                await asyncio.sleep(0.1)  # the servers have no leader yet
        stream = link.jetstream(timeout=30, publish_async_max_pending=_PENDING)
        while not await _current(stream):
            await asyncio.sleep(0.1)
        yield stream
    finally:
        await link.close()


async def _current(stream: Any) -> bool:
    """Do both replicas have all?"""
    cluster = (await stream.stream_info("log")).cluster
    replicas = (cluster and cluster.replicas) or []
    return len(replicas) == 2 and all(one.current and not one.lag for one in replicas)


def throughput(scale: Scale) -> Sample:
    """Scenario 1."""
    payloads = [client.text(n).encode() for n in range(scale.messages // _SHARE)]

    async def publish(port: int, meter: Meter) -> None:
        async with _stream(port) as stream:
            with meter:
                for payload in payloads:
                    await stream.publish_async("log", payload, wait_stall=30)
                await stream.publish_async_completed()
                info = await stream.stream_info("log")
                assert info.state.messages == len(payloads)
                while not await _current(stream):
                    await asyncio.sleep(0.005)
                meter.stop()

    with _servers() as (ports, meter):
        asyncio.run(asyncio.wait_for(publish(ports[0], meter), client.PATIENCE))
    return meter.sample({RATE: len(payloads) / meter.seconds})


def with_copy(scale: Scale) -> Sample:
    """Scenario 4: held by two of the three."""
    delays = []

    async def publish(port: int, meter: Meter) -> None:
        async with _stream(port) as stream:
            with meter:
                for number in range(-WARM_UP, scale.delays):
                    payload = client.text(number).encode()
                    await asyncio.sleep(QUIET)
                    begun = time.perf_counter()
                    await stream.publish("log", payload)
                    if number >= 0:
                        delays.append(time.perf_counter() - begun)

    with _servers() as (ports, meter):
        asyncio.run(asyncio.wait_for(publish(ports[0], meter), client.PATIENCE))
    return meter.sample(in_ms(delays))
