"""Machines whose clocks are wrong: what waits, what goes on, and who is told about it."""

from __future__ import annotations

import html
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.harness.clock import Machine
from tests.harness.support import holds, wait_sockets, wait_until

HOUR = 3600
DAY = 24 * HOUR


@contextmanager
def started(*offsets: float) -> Iterator[list[Machine]]:
    """A node for each offset of the clock, which dials nobody by itself."""
    with ExitStack() as stack:
        yield [stack.enter_context(Machine(offset, "--target-links", "0")) for offset in offsets]


@contextmanager
def machines(*offsets: float) -> Iterator[list[Machine]]:
    """A node for each offset of the clock, all linked with each other."""
    with started(*offsets) as nodes:
        for n, node in enumerate(nodes):
            for other in nodes[:n]:
                node.add(other.address)
        wait_sockets(len(nodes) - 1, *nodes)
        yield nodes


def test_a_message_from_beyond_tomorrow_waits_and_all_else_goes_on() -> None:
    with machines(0, 3 * DAY) as (here, ahead):
        ahead.commit("too early")
        ahead.commit("behind it")
        here.commit("from today")
        wait_until(lambda: "from today" in ahead.texts(), "the link carries all else")
        wait_until(lambda: here.metric("waiting_origins") == 1, "the metric shows it")
        assert here.texts() == ["from today"]
        assert "3 days ahead" in here.warnings()
        assert "3 days ahead" in here.peers()[0]["notice"]
        wait_until(lambda: here.logged("3 days ahead", "waits"), here.log)
        status = here.status()
        assert status["behind"] == 0 and status["verdict"]["state"] == "in_sync"
        assert here.get("/readyz").status == 200
        holds(lambda: here.sockets() == 1 and here.texts() == ["from today"], "nothing is closed")
        # The two messages may come in two frames: the 1st, 2nd, 4th ... of a fault is logged.
        assert here.log().count("3 days ahead") <= 2, "the log is not flooded"

        here.set_clock(2.5 * DAY)
        wait_until(lambda: len(here.texts()) == 3, "it goes on when the clock is corrected")
        assert here.texts() == ["from today", "too early", "behind it"] == ahead.texts()
        wait_until(lambda: not here.warnings() and here.metric("waiting_origins") == 0)


def test_an_origin_goes_on_by_itself_when_the_clock_catches_up() -> None:
    with machines(0, DAY + 4) as (here, ahead):
        ahead.commit("four seconds too early")
        wait_until(lambda: here.metric("waiting_origins") == 1, "it waits")
        wait_until(lambda: here.texts() == ["four seconds too early"], "it has come")


def test_a_message_of_less_than_a_day_ahead_sorts_by_its_time() -> None:
    with machines(0, DAY - 60) as (here, ahead):
        ahead.commit("tomorrow")
        wait_until(lambda: here.texts() == ["tomorrow"], "it is accepted")
        here.commit("today")
        assert here.texts() == ["today", "tomorrow"]


def test_a_node_learns_that_its_own_clock_is_far_ahead() -> None:
    with machines(0, 0, 3 * DAY) as (here, there, ahead):
        ahead.commit("too early")
        wait_until(lambda: "3 days ahead" in ahead.warnings(), ahead.warnings)
        assert "do not accept" in ahead.warnings()
        wait_until(lambda: [n.metric("waiting_origins") for n in (here, there)] == [1, 1])
        assert not any("clock seems" in node.warnings() for node in (here, there))


def test_a_node_whose_clock_is_behind_suspects_its_own() -> None:
    with machines(-2 * HOUR, 0, 0) as (behind, *others):
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


def test_the_dates_of_messages_from_further_away_count_too() -> None:
    with started(-2 * HOUR, 0, 0) as (behind, neighbour, beyond):
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


def test_a_clock_that_is_set_back_while_the_node_runs() -> None:
    with machines(DAY - 60, 0) as (node, other):
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
        assert node.status()["messages"] == other.status()["messages"]
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
        assert not any(other.status()["misbehaviour"][kind] for kind in ("frame", "gap"))


def test_a_small_correction_of_the_clock_keeps_the_origin() -> None:
    with Machine(50) as node:
        node.commit("one")
        node.set_clock(0)
        node.commit("two")
        first, second = node.api("messages")["messages"]
        assert first["origin"] == second["origin"] and first["time"] <= second["time"]
