"""Competitor (o): a stand-in for the original system, on Node.js with npm's express and ws."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import quote

from tests.bench import client
from tests.bench.delay import until_frame
from tests.bench.results import Missing, Sample, Scale, in_ms
from tests.bench.spawn import running
from tests.bench.throughput import CLIENTS, RATE
from tests.bench.usage import Meter
from tests.harness.http import Http, get_bytes
from tests.harness.npm import node_modules
from tests.harness.support import free_port_pair, wait_until

_PROGRAM = Path(__file__).with_name("express_node.js")


def _modules() -> str:
    try:
        return node_modules("express", "ws")
    except LookupError as error:
        raise Missing(str(error)) from None


def _told(port: int) -> dict[str, int]:
    try:
        with Http(port) as http:
            told: dict[str, int] = json.loads(http.ask(get_bytes(port, "/count"), 200))
    except OSError:
        return {"sockets": -1, "messages": 0}
    return told


@contextmanager
def _mesh() -> Iterator[tuple[list[int], Meter]]:
    """Three linked nodes: their HTTP ports, and a meter."""
    environment = {"NODE_PATH": _modules()}
    with ExitStack() as stack:
        ports = [free_port_pair() for _ in range(3)]
        processes = [
            stack.enter_context(running(["node", str(_PROGRAM), str(port)], environment))
            for port in ports
        ]
        wait_until(lambda: all(_sockets(port) == 0 for port in ports), "Node.js starts")
        # Each pair is linked once: the later dials the earlier, and has no address told of itself.
        for number, port in enumerate(ports):
            for earlier in ports[:number]:
                with Http(port) as http:
                    address = quote(f"ws://127.0.0.1:{earlier + 1}", safe="")
                    http.ask(get_bytes(port, f"/add?address={address}"), 302)
                wait_until(partial(_sockets, earlier), "a link")
        wait_until(lambda: all(_sockets(port) >= 2 for port in ports), "links")
        pids = {f"express {number}": p.pid for number, p in enumerate(processes, 1)}
        yield ports, Meter(pids)


def _sockets(port: int) -> int:
    return _told(port)["sockets"]


def _counter(port: int) -> Callable[[], int]:
    return lambda: _told(port)["messages"]


def _by_get(scale: Scale) -> tuple[Meter, client.Served]:
    target = f"/commit?msg={client.text(0)}"
    with _mesh() as (ports, meter), meter:
        load = client.drive(ports[0], target, CLIENTS, scale.seconds)
        committed = _told(ports[0])["messages"]
        for port in ports:
            client.wait_held(_counter(port), committed)
        meter.stop()
    return meter, load


def throughput(scale: Scale) -> Sample:
    """Scenario 1, by GET, for it knows no other way."""
    meter, load = _by_get(scale)
    return meter.sample({RATE: load.requests / meter.seconds})


def by_get(scale: Scale) -> Sample:
    """Scenario 5."""
    meter, load = _by_get(scale)
    return meter.sample({"requests/s": load.requests / meter.seconds, **load.figures})


def to_original(scale: Scale) -> Sample:
    """Scenario 3."""
    with _mesh() as (ports, meter), meter:
        delays = until_frame(ports[0], f"ws://127.0.0.1:{ports[0] + 1}", scale.delays)
    return meter.sample(in_ms(delays))
