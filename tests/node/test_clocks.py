"""Machines whose clocks are wrong: what waits, what goes on, and who is told about it."""

from __future__ import annotations

import html
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.harness.support import NodeProcess, holds, wait_sockets, wait_until

HOUR = 3600
DAY = 24 * HOUR

SITE = """
import os, time
_time, _time_ns, _path = time.time, time.time_ns, os.environ["TEST_CLOCK"]
def _offset():
    with open(_path) as file:
        return float(file.read() or 0)
time.time = lambda: _time() + _offset()
time.time_ns = lambda: _time_ns() + int(_offset() * 1e9)
"""


class Machine(NodeProcess):
    """A node on a machine whose clock is wrong by some seconds."""

    def __init__(self, directory: Path, offset: float, *options: str) -> None:
        directory.mkdir()
        (directory / "sitecustomize.py").write_text(SITE)
        self._clock = directory / "clock"
        self.set_clock(offset)
        super().__init__(
            *options,
            environment={"PYTHONPATH": str(directory), "TEST_CLOCK": str(self._clock)},
        )

    def __enter__(self) -> Machine:
        return self

    def set_clock(self, offset: float) -> None:
        new = self._clock.with_name("clock.new")
        new.write_text(str(offset))
        new.replace(self._clock)  # at once, for the node reads it at any moment

    def api(self, path: str) -> Any:
        return json.loads(self.get(f"/api/v1/{path}").body)

    def warnings(self) -> str:
        return " | ".join(self.api("status")["warnings"])

    def metric(self, name: str) -> float:
        lines = self.get("/metrics").text.splitlines()
        return next(
            float(line.split()[-1]) for line in lines if line.startswith(f"p2p_sync_{name}")
        )


@contextmanager
def started(directory: Path, *offsets: float) -> Iterator[list[Machine]]:
    """A node for each offset of the clock, which dials nobody by itself."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(Machine(directory / str(n), offset, "--target-links", "0"))
            for n, offset in enumerate(offsets)
        ]


@contextmanager
def machines(directory: Path, *offsets: float) -> Iterator[list[Machine]]:
    """A node for each offset of the clock, all linked with each other."""
    with started(directory, *offsets) as nodes:
        for n, node in enumerate(nodes):
            for other in nodes[:n]:
                node.add(other.address)
        wait_sockets(len(nodes) - 1, *nodes)
        yield nodes


def test_a_message_from_beyond_tomorrow_waits_and_all_else_goes_on(tmp_path: Path) -> None:
    with machines(tmp_path, 0, 3 * DAY) as (here, ahead):
        ahead.commit("too early")
        ahead.commit("behind it")
        here.commit("from today")
        wait_until(lambda: "from today" in ahead.texts(), "the link carries all else")
        wait_until(lambda: here.metric("waiting_origins") == 1, "the metric shows it")
        assert here.texts() == ["from today"]
        assert "3 days ahead" in here.warnings()
        assert "3 days ahead" in here.api("peers")["peers"][0]["notice"]
        wait_until(lambda: here.logged("3 days ahead", "waits"), here.log)
        status = here.api("status")
        assert status["behind"] == 0 and status["verdict"]["state"] == "in_sync"
        assert here.get("/readyz").status == 200
        holds(lambda: here.sockets() == 1 and here.texts() == ["from today"], "nothing is closed")
        assert here.log().count("3 days ahead") == 1, "the log is not flooded"

        here.set_clock(2.5 * DAY)
        wait_until(lambda: len(here.texts()) == 3, "it goes on when the clock is corrected")
        assert here.texts() == ["from today", "too early", "behind it"] == ahead.texts()
        wait_until(lambda: not here.warnings() and here.metric("waiting_origins") == 0)


def test_an_origin_goes_on_by_itself_when_the_clock_catches_up(tmp_path: Path) -> None:
    with machines(tmp_path, 0, DAY + 4) as (here, ahead):
        ahead.commit("four seconds too early")
        wait_until(lambda: here.metric("waiting_origins") == 1, "it waits")
        wait_until(lambda: here.texts() == ["four seconds too early"], "it has come")


def test_a_message_of_less_than_a_day_ahead_sorts_by_its_time(tmp_path: Path) -> None:
    with machines(tmp_path, 0, DAY - 60) as (here, ahead):
        ahead.commit("tomorrow")
        wait_until(lambda: here.texts() == ["tomorrow"], "it is accepted")
        here.commit("today")
        assert here.texts() == ["today", "tomorrow"]


def test_a_node_learns_that_its_own_clock_is_far_ahead(tmp_path: Path) -> None:
    with machines(tmp_path, 0, 0, 3 * DAY) as (here, there, ahead):
        ahead.commit("too early")
        wait_until(lambda: "3 days ahead" in ahead.warnings(), ahead.warnings)
        assert "do not accept" in ahead.warnings()
        wait_until(lambda: [n.metric("waiting_origins") for n in (here, there)] == [1, 1])
        assert not any("clock seems" in node.warnings() for node in (here, there))


def test_a_node_whose_clock_is_behind_suspects_its_own(tmp_path: Path) -> None:
    with machines(tmp_path, -2 * HOUR, 0, 0) as (behind, *others):
        for n, node in enumerate(others):
            node.commit(f"right {n}")
        seems = "this machine's clock seems to be 2 h behind"
        wait_until(lambda: seems in behind.warnings(), behind.warnings)
        assert behind.metric("clock_difference") < -7100
        assert seems in html.unescape(behind.get("/", Accept="text/html").text)
        wait_until(lambda: behind.logged(seems), behind.log)
        wait_until(lambda: len(behind.texts()) == 2, "all is accepted")
        for n in range(5):
            others[0].commit(f"more {n}")
        wait_until(lambda: len(behind.texts()) == 7, "all is accepted")
        assert behind.log().count(seems) == 1
        assert behind.log().count("a message of origin") <= 1, "peers are not accused"
        events = behind.api("events")["events"]
        assert [seems in event["text"] for event in events if event["type"] == "clock"] == [True]
        assert "this machine's clock" not in others[0].warnings()

        behind.set_clock(0)
        wait_until(lambda: not behind.warnings(), behind.warnings)


def test_the_dates_of_messages_from_further_away_count_too(tmp_path: Path) -> None:
    with started(tmp_path, -2 * HOUR, 0, 0) as (behind, neighbour, beyond):
        neighbour.add(behind.address)
        neighbour.add(beyond.address)
        wait_sockets(2, neighbour)
        behind.commit("here")
        neighbour.commit("beside")
        wait_until(lambda: len(beyond.texts()) == 2 == len(behind.texts()), "all are linked")
        assert not behind.warnings(), "one other clock is not enough"
        beyond.commit("from afar")
        seems = "this machine's clock seems to be 2 h behind"
        wait_until(lambda: seems in behind.warnings(), behind.warnings)
        assert behind.sockets() == 1
        assert not neighbour.warnings() and not beyond.warnings()


def test_a_clock_that_is_set_back_while_the_node_runs(tmp_path: Path) -> None:
    with machines(tmp_path, DAY - 60, 0) as (node, other):
        node.commit("tomorrow")
        wait_until(lambda: other.texts() == ["tomorrow"], "it is accepted")
        node.set_clock(0)
        said = []
        for n in range(3):
            for speaker in (node, other):
                said.append(f"{n} {speaker.port}")
                speaker.commit(said[-1])
                wait_until(lambda: node.texts()[:-1] == said == other.texts()[:-1], "it is there")
        assert node.texts() == [*said, "tomorrow"] == other.texts()
        assert node.api("status")["messages"] == other.api("status")["messages"]
        first = node.api("messages?order=newest&q=tomorrow")["messages"][0]["origin"]
        assert first not in {
            found["origin"] for found in node.api("messages?order=newest&q=2")["messages"]
        }
        wait_until(lambda: node.logged("clock was set back by 24 h"), node.log)
        events = [event for event in node.api("events")["events"] if event["type"] == "clock"]
        assert any("set back" in event["text"] for event in events)
        assert (
            abs(node.api("messages?order=newest&q=2")["messages"][0]["time"] / 1000 - time.time())
            < 60
        )
        assert not any(other.api("status")["misbehaviour"][kind] for kind in ("frame", "gap"))


def test_a_small_correction_of_the_clock_keeps_the_origin(tmp_path: Path) -> None:
    with Machine(tmp_path / "a", 50) as node:
        node.commit("one")
        node.set_clock(0)
        node.commit("two")
        first, second = node.api("messages")["messages"]
        assert first["origin"] == second["origin"] and first["time"] <= second["time"]
