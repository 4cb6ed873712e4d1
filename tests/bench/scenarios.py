"""The scenarios of issue 7's table, with their goals."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tests.bench import (
    cost,
    delay,
    express,
    flask_route,
    hub,
    jetstream,
    origins,
    p2pnet,
    redis_streams,
    throughput,
)
from tests.bench.results import Goal, Results, Scenario, quotient
from tests.bench.throughput import RATE


def _ours(figure: str) -> Callable[[Results], float | None]:
    return lambda results: results.middle(figure)


def _ratio(figure: str, system: str) -> Callable[[Results], float | None]:
    return lambda results: results.ratio(figure, system)


def _p99_to_median(results: Results) -> float | None:
    return quotient(results.middle("p99 ms"), results.middle("median ms"))


def _growth(kind: str) -> Callable[[Results], float | None]:
    """How much a message costs in the largest mesh, next to the smallest."""

    def growth(results: Results) -> float | None:
        samples = results.samples.get("ours")
        if not samples:
            return None
        names = [name for name in samples[0].figures if name.endswith(f"{kind} us")]
        return quotient(results.middle(names[-1]), results.middle(names[0]))

    return growth


SCENARIOS = (
    Scenario(
        1,
        "replicated throughput: a bulk commit at one of three, until all hold all",
        {
            "ours": throughput.from_one,
            "o": express.throughput,
            "p": p2pnet.throughput,
            "r": redis_streams.throughput,
            "n": jetstream.throughput,
        },
        [
            Goal("at least 100,000/s", _ours(RATE), least=100_000),
            Goal("at least 2 x r", _ratio(RATE, "r"), least=2),
        ],
    ),
    Scenario(
        2,
        "the same with all three committing at once",
        {"ours": throughput.from_all, "one": throughput.from_one},
        [Goal("at least the figure of 1", _ratio(RATE, "one"), least=1)],
    ),
    Scenario(
        3,
        "delay of a single GET /commit until an original client has the frame",
        {"ours": delay.to_original, "o": express.to_original},
        [
            Goal("median at most 1.5 x o", _ratio("median ms", "o"), most=1.5),
            Goal("p99 at most 1.5 x o", _ratio("p99 ms", "o"), most=1.5),
        ],
    ),
    Scenario(
        4,
        "delay of a single commit with copies=1, until the answer",
        {"ours": delay.with_copy, "n": jetstream.with_copy, "r": redis_streams.with_copy},
        [
            Goal("median at most 3 x n", _ratio("median ms", "n"), most=3),
            Goal("p99 at most 4 x its median", _p99_to_median, most=4),
        ],
    ),
    Scenario(
        5,
        "GET /commit by 16 keep-alive clients, until all three hold all",
        {"ours": throughput.by_get, "flask": flask_route.by_get, "o": express.by_get},
        [Goal("at least 0.9 x a bare Flask route", _ratio("requests/s", "flask"), least=0.9)],
    ),
    Scenario(
        6,
        "late joiner: an empty node dials one with a long log",
        {"ours": throughput.late_joiner},
        [
            Goal("at least 100,000/s", _ours(RATE), least=100_000),
            Goal("memory of both under 150 MB", _ours("peak MB"), most=150),
            Goal("commits meanwhile at most 2 x slower", _ours("slower"), most=2),
        ],
    ),
    Scenario(
        7,
        "relay over a line of six nodes, durable at each",
        {"ours": delay.over_a_line},
        [Goal("at most 0.7 ms a hop, median", _ours("a hop, median ms"), most=0.7)],
    ),
    Scenario(
        8,
        "one node with idle peers",
        {"ours": cost.idle_peers},
        [
            Goal("under 1 % of a core", _ours("% of a core"), most=1),
            Goal("under 100 kB a peer", _ours("kB a peer"), most=100),
        ],
    ),
    Scenario(
        9,
        "a long log: memory, start, first page",
        {"ours": cost.long_log},
        [
            Goal("under 100 MB", _ours("peak MB"), most=100),
            Goal("under 0.5 s to ready", _ours("ready s"), most=0.5),
            Goal("the first page under 50 ms", _ours("first page ms"), most=50),
        ],
    ),
    Scenario(
        10,
        "cost as the mesh grows: CPU time a message and node",
        {"ours": cost.growing_mesh},
        [
            Goal("bulk: the largest at most 1.25 x the smallest", _growth("bulk"), most=1.25),
            Goal("steady: the same", _growth("steady"), most=1.25),
        ],
    ),
    Scenario(
        11,
        "one of three stopped by SIGSTOP during 1",
        {"ours": throughput.one_stopped, "two": partial(throughput.from_one, nodes=2)},
        [Goal("at least 0.9 x two nodes", _ratio(RATE, "two"), least=0.9)],
    ),
    Scenario(
        12,
        "very many origins, as years of restarts leave them",
        {"ours": origins.many_origins},
        [
            Goal("under 2 s to ready", _ours("ready s"), most=2),
            Goal("under 100 MB", _ours("RSS MB"), most=100),
            Goal("under 1 MB a link", _ours("kB a link"), most=1000),
            Goal("at most 400 kB if 100 differ", _ours("kB for 100 that differ"), most=400),
            Goal("at most 2 kB if equal, handshakes included", _ours("kB if equal"), most=2),
            Goal("in sync within 5 s", _ours("in sync s"), most=5),
            Goal("status under 10 ms", _ours("status ms"), most=10),
            Goal("metrics under 10 ms", _ours("metrics ms"), most=10),
            Goal("peers under 10 ms", _ours("peers ms"), most=10),
        ],
    ),
    Scenario(
        13,
        "two nodes that only a hub joins: a bulk commit, and a single commit until it is there",
        {"ours": hub.by_hub, "link": hub.by_link},
        [
            Goal("at least 0.5 x a link", _ratio(RATE, "link"), least=0.5),
            Goal("median at most 5 ms", _ours("median ms"), most=5),
        ],
    ),
)
