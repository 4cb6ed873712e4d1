"""What an original commits is shown once, however many of ours heard it."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from p2p_sync.core.deduplication import Copies, node_of
from p2p_sync.settings import COPY_WINDOW, MAX_MATCHED
from p2p_sync.wire.frames import Message
from tests.harness.deduplication import shown

A, B, C = (f"{digit * 32}-1" for digit in "abc")


def heard(origin: str, seq: int, time: int, data: str = "text") -> Message:
    return Message(origin, seq, time, data, heard=True)


def test_one_commit_that_three_heard_is_shown_once() -> None:
    messages = [heard(A, 1, 1000), heard(B, 1, 1002), heard(C, 1, 1900)]
    assert shown(messages) == messages[:1]


def test_two_commits_of_one_text_are_shown_twice() -> None:
    messages = [heard(A, 1, 1), heard(B, 1, 2), heard(A, 2, 3), heard(B, 2, 4), heard(C, 1, 5)]
    assert shown(messages) == [messages[0], messages[2]]


def test_what_one_node_heard_twice_is_two_commits() -> None:
    messages = [heard(A, 1, 1), heard(A, 2, 2)]
    assert shown(messages) == messages


def test_hearings_further_apart_than_the_window_are_two_commits() -> None:
    messages = [heard(A, 1, 0), heard(B, 1, COPY_WINDOW), heard(C, 1, COPY_WINDOW + 1)]
    assert shown(messages) == [messages[0], messages[2]]


def test_a_commit_of_ours_is_never_taken_for_a_hearing() -> None:
    messages = [heard(A, 1, 1), Message(B, 1, 2, "text"), heard(C, 1, 3)]
    assert shown(messages) == messages[:2]


def test_every_node_shows_the_same_whatever_came_first() -> None:
    rng = random.Random(7)
    held = [
        heard(o, n, rng.randrange(60_000), rng.choice("xyz")) for o in (A, B) for n in range(50)
    ]
    expected = shown(sorted(held, key=lambda m: m.order))
    for _ in range(10):
        rng.shuffle(held)
        assert shown(sorted(held, key=lambda m: m.order)) == expected


def oldest_first(messages: list[Message]) -> list[Message]:
    """The plain rule: a copy goes to the oldest commit in the window that its node lacks."""
    commits: list[tuple[Message, set[str]]] = []
    leaders = []
    for message in messages:
        node = node_of(message.origin)
        for leader, nodes in commits:
            if message.time - leader.time <= COPY_WINDOW and node not in nodes:
                nodes.add(node)
                break
        else:
            commits.append((message, {node}))
            leaders.append(message)
    return leaders


@given(
    st.lists(
        st.tuples(st.sampled_from([A, B, C]), st.integers(0, 2 * COPY_WINDOW - 1)), max_size=40
    )
)
def test_what_is_shown_follows_the_plain_rule(copies: list[tuple[str, int]]) -> None:
    """Where a silence ends the stretch; else matching starts afresh in it."""
    messages = [heard(origin, n, time) for n, (origin, time) in enumerate(copies)]
    messages.sort(key=lambda message: message.order)
    assert shown(messages) == oldest_first(messages)


def test_a_text_that_is_committed_for_ever_is_shown_once_each_time() -> None:
    """Once a second for an hour, and three of ours log it within 0.2 s."""
    messages = [
        heard(origin, n, 1000 * n + late)
        for n in range(3600)
        for origin, late in ((A, 0), (B, 50), (C, 200))
    ]
    assert shown(messages) == messages[::3]


def test_what_is_remembered_of_one_text_is_bounded() -> None:
    copies = Copies()
    for n in range(MAX_MATCHED + 50):
        copies.of(heard(A, n, 7))
    (recent,) = copies._of_text.values()
    assert len(recent) == MAX_MATCHED


def test_copies_beyond_the_limit_are_shown_and_those_below_it_are_not() -> None:
    crowd = [heard(f"{n:032x}-1", 1, 7) for n in range(MAX_MATCHED + 50)]
    assert shown(crowd[:MAX_MATCHED]) == crowd[:1]
    assert shown(crowd) == [crowd[0], *crowd[MAX_MATCHED:]]
