"""What is counted, and what of repeated failures is logged."""

from __future__ import annotations

import json
import logging
import threading
from typing import cast

from p2p_sync.cli.logline import JsonLine
from p2p_sync.metrics import BOUNDS, Counters
from p2p_sync.net.link import Link
from p2p_sync.repeats import Repeats


def test_counts_by_name_and_labels() -> None:
    counters = Counters()

    def count() -> None:
        for _ in range(1000):
            counters.add("a", "x", "y")

    workers = [threading.Thread(target=count) for _ in range(4)]
    for worker in workers:
        worker.start()
    counters.add("b")
    for worker in workers:
        worker.join()
    assert counters.counts() == {"a": {("x", "y"): 4000}, "b": {(): 1}}


def test_times_are_sorted_into_classes() -> None:
    counters = Counters()
    for seconds in (0.0005, BOUNDS[0], 0.3, 1000.0):
        counters.time("t", seconds)
    counts, total = counters.times()["t"]
    assert (counts[0], counts[-1], len(counts)) == (2, 4, len(BOUNDS) + 1)
    assert counts[BOUNDS.index(0.25)] == 2 and counts[BOUNDS.index(0.5)] == 3
    assert total > 1000.3


def test_repeated_failures_are_summed_up() -> None:
    repeats = Repeats()
    said = [repeats.failed("a", "no answer", float(n)) for n in range(20)]
    assert [line for line in said if line] == [
        "no answer",
        *(f"no answer ({n} times in a row)" for n in (2, 4, 8, 16)),
    ]
    assert repeats.failed("a", "refused", 21.0) == "refused (21 times in a row)"
    assert repeats.failed("b", "no answer", 21.0) == "no answer", "each thing by itself"
    assert (repeats.worked("a"), repeats.worked("a")) == (21, 0)
    assert repeats.failed("a", "no answer", 22.0) == "no answer", "it begins anew"


def test_failures_long_ago_and_too_many_are_forgotten() -> None:
    repeats = Repeats()
    assert repeats.failed("a", "x", 0.0) and repeats.failed("a", "x", 1.0)
    assert repeats.failed("a", "x", 9000.0) == "x"
    for n in range(2000):
        repeats.failed(f"other {n}", "x", 9000.0)
    assert repeats.worked("a") == 0
    assert repeats.worked("other 1999") == 1


def test_a_json_line_tells_whom_it_is_about() -> None:
    class Fake(Link):
        def __init__(self) -> None:
            self.remote, self.dialled, self.node = ("10.0.0.1", 7), None, "0123456789abcdef"

    record = logging.makeLogRecord(
        {"levelname": "INFO", "msg": "linked with %s\n", "args": (cast(Link, Fake()),)}
    )
    line = JsonLine().format(record)
    told = json.loads(line)
    assert "\n" not in line
    assert told["text"] == "linked with 10.0.0.1:7 (01234567)\n"
    assert (told["level"], told["address"], told["peer"]) == (
        "info",
        "10.0.0.1:7",
        "0123456789abcdef",
    )
