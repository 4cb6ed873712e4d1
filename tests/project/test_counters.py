"""What is counted, and the form of the log for programs."""

from __future__ import annotations

import json
import logging
import threading

from p2p_sync.cli.logline import JsonLine
from p2p_sync.metrics import BOUNDS, Counters


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


def test_a_json_line_tells_whom_it_is_about() -> None:
    record = logging.makeLogRecord(
        {
            "levelname": "INFO",
            "msg": "linked with %s\n",
            "args": ("10.0.0.1:7 (01234567)",),
            "address": "10.0.0.1:7",
            "peer": "0123456789abcdef0123456789abcdef",
        }
    )
    line = JsonLine().format(record)
    told = json.loads(line)
    assert "\n" not in line
    assert told["text"] == "linked with 10.0.0.1:7 (01234567)\n"
    assert (told["level"], told["address"], told["peer"]) == (
        "info",
        "10.0.0.1:7",
        "0123456789abcdef0123456789abcdef",
    )
