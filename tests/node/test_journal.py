"""What people are told: each thing once, and the rest summed up."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable

import pytest

from p2p_sync.core.core import Core
from p2p_sync.core.effects import CLOCK, DIAL_FAILED, ENDED, JOINED, LEFT, LINKED, Note
from p2p_sync.node.journal import Journal
from p2p_sync.settings import FAILURE_FORGOTTEN, MAX_LINES_OF_A_HOST, Settings
from tests.harness.support import DEADLINE, SCALE, holds

START = "0" * 8
HERE = ("10.0.0.9", 8001)


def failure(about: str, reason: str) -> Note:
    return Note(DIAL_FAILED, f"dialling {about} failed: {reason}", about, reason, about)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The lines since the last call."""
    found = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return found


@pytest.fixture(autouse=True)
def every_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "p2p_sync")


# -- events -------------------------------------------------------------------------------------


def test_the_last_thousand_are_kept_and_numbered_without_gaps() -> None:
    journal = Journal(START)
    assert journal.wait(0, 0) == ([], 0)
    for n in range(1500):
        journal.note(Note(JOINED, f"{n}", f"host {n}", address="ws://a:1"))
    found, last = journal.wait(0, 0)
    assert [event.id for event in found] == list(range(501, 1501)) and last == 1500
    assert found[-1].text == "1499" and found[-1].peer == found[0].peer != ""
    assert [event.id for event in journal.wait(1498, 0)[0]] == [1499, 1500]
    assert journal.wait(2000, 10) == ([], 1500), "an id of another run does not wait"
    journal.note(Note(LEFT, "x" * 10_000))
    assert len(journal.wait(1500, 0)[0][0].text) < 1000


def test_waiting_ends_with_an_event_the_time_or_the_stop() -> None:
    journal = Journal(START)
    began = time.monotonic()
    assert journal.wait(0, 0.2) == ([], 0)
    assert 0.15 < time.monotonic() - began < 0.2 + 5 * SCALE
    found: list[object] = []
    ends: list[Callable[[], None]] = [lambda: journal.note(Note(JOINED, "text")), journal.stop]
    for end in ends:
        thread = threading.Thread(target=lambda: found.append(journal.wait(len(found), DEADLINE)))
        thread.start()
        holds(thread.is_alive, "it waits", 0.2)
        end()
        thread.join(DEADLINE / 2)
        assert not thread.is_alive()
    assert len(found) == 2
    assert journal.wait(1, DEADLINE) == ([], 1), "nobody waits after the stop"


def test_a_failure_is_an_event_once_for_each_reason_until_somebody_asks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    journal = Journal(START)
    for _ in range(10):
        for reason in ("no answer", "refused"):
            journal.note(failure("ws://a:1", reason))
    assert journal.wait(0, 0.0)[1] == 2
    journal.forget("ws://a:1")
    lines(caplog)
    for _ in range(2):
        journal.note(failure("ws://a:1", "refused"))
    assert journal.wait(0, 0.0)[1] == 3
    assert lines(caplog) == [], "the log has said so"
    for n in range(100):  # a peer may choose the reason
        journal.note(failure("ws://a:1", f"reason {n}"))
    assert journal.wait(0, 0.0)[1] < 20


# -- the log ------------------------------------------------------------------------------------


def test_repeated_failures_are_summed_up(caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal(START)
    for _ in range(20):
        journal.note(failure("a", "no answer"))
    text = "dialling a failed: no answer"
    assert lines(caplog) == [text, *(f"{text} ({n} times in a row)" for n in (2, 4, 8, 16))]
    journal.note(failure("a", "refused"))
    assert lines(caplog) == ["dialling a failed: refused (21 times in a row)"]
    journal.note(failure("b", "no answer"))
    assert lines(caplog) == ["dialling b failed: no answer"], "each thing by itself"
    for _ in range(2):
        journal.note(Note(LINKED, "linked with a", "a"))
    assert lines(caplog) == ["linked with a, after 21 dials in vain", "linked with a"]
    journal.note(failure("a", "no answer"))
    assert lines(caplog) == ["dialling a failed: no answer"], "it begins anew"


def test_reasons_that_alternate_are_summed_up_too(caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal(START)
    for n in range(100):
        journal.note(failure("a", ("no answer", "refused")[n % 2]))
    assert len(lines(caplog)) == 2 * 6


def test_failures_long_ago_and_too_many_are_forgotten(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(START)
    for _ in range(3):
        journal.note(failure("a", "x"))
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + FAILURE_FORGOTTEN + 1)
    lines(caplog)
    journal.note(failure("a", "x"))
    assert lines(caplog) == ["dialling a failed: x"]
    for n in range(2000):
        journal.note(failure(f"other {n}", "x"))
    lines(caplog)
    journal.note(Note(LINKED, "linked with a", "a"))
    assert lines(caplog) == ["linked with a"]


def test_what_a_host_causes_at_any_rate_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal(START)
    for n in range(3 * MAX_LINES_OF_A_HOST):
        journal.note(Note(ENDED, f"the link {n} ended", "10.0.0.1"))
    journal.note(Note(ENDED, "another", "10.0.0.2"))
    told = lines(caplog)
    assert len(told) == MAX_LINES_OF_A_HOST + 1 and told[-1] == "another"


def test_what_is_only_an_event_leaves_the_lines_of_a_host_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    journal = Journal(START)
    for n in range(3 * MAX_LINES_OF_A_HOST):
        journal.note(Note(JOINED, f"{n} connected", "10.0.0.1"))
    assert journal.wait(0, 0)[1] == MAX_LINES_OF_A_HOST, "events are bounded, too"
    journal.note(Note(ENDED, "the link ended", "10.0.0.1"))
    assert lines(caplog) == ["the link ended"]


def test_a_line_names_the_peer_for_programs(caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal(START)
    journal.note(
        Note(LINKED, "linked", "a", address="ws://a:1", node="0123456789abcdef0123456789abcdef")
    )
    journal.note(Note(CLOCK, "this clock is wrong"))
    one, other = caplog.records
    assert (one.levelname, vars(one)["address"], vars(one)["peer"]) == (
        "INFO",
        "ws://a:1",
        "0123456789abcdef0123456789abcdef",
    )
    assert (other.levelname, vars(other)["address"]) == ("WARNING", None)


def test_faults_of_one_host_are_summed_up_whatever_ids_its_peers_have(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A host can make any number of keys."""
    core = Core("0" * 32, "", 8001, Settings(), {}, 0, 0, random.Random(1))
    journal = Journal(START)
    for number in range(1, 1000):
        peer = core.links.opened("link", ("10.0.0.1", number), HERE, node=f"{number:032x}", start=1)
        core.links.fault(peer, "ignored", "ignored a frame of an unknown type")
        core.links.closed(peer, "gone")
        for effect in core.end()[0].others:
            if isinstance(effect, Note) and effect.kind == "ignored":
                journal.note(effect)
    assert len(lines(caplog)) < 20
