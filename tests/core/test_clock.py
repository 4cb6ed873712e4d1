"""The hybrid clock: never back, always behind what was seen, and nobody drags it away."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2p_sync.core.clock import HybridClock, Skew, span

NOW = 1_700_000_000_000
MINUTE = 60_000

WALLS = st.integers(NOW - 2 * MINUTE, NOW + 2 * MINUTE)
# What happens to a clock: the wall clock, and the time of a message that is seen, or a commit.
EVENTS = st.lists(st.tuples(WALLS, st.none() | st.integers(0, NOW + 10 * MINUTE)), max_size=40)


def test_alone_it_is_the_wall_clock() -> None:
    clock = HybridClock()
    assert [clock.tick(wall) for wall in (NOW, NOW + 5, NOW + 500)] == [NOW, NOW + 5, NOW + 500]


def test_it_does_not_go_back_with_the_wall_clock() -> None:
    clock = HybridClock()
    clock.tick(NOW)
    assert clock.tick(NOW - MINUTE) >= NOW


def test_the_first_commit_of_a_new_origin_is_later_than_the_last_of_the_old_one() -> None:
    clock = HybridClock()
    before = clock.tick(NOW)
    clock.renew()
    assert clock.tick(NOW) > before


def test_what_is_committed_after_another_was_seen_sorts_after_it() -> None:
    clock = HybridClock()
    assert clock.observe(NOW + 30_000, NOW)
    assert clock.tick(NOW) > NOW + 30_000
    assert clock.tick(NOW + 45_000) == NOW + 45_000, "the wall clock has caught up"


def test_what_was_seen_in_the_past_changes_nothing() -> None:
    clock = HybridClock()
    assert clock.observe(5, NOW)
    assert clock.tick(NOW) == NOW


def test_a_time_is_followed_less_than_a_minute_ahead_and_no_further() -> None:
    for ahead, followed in ((MINUTE - 1, True), (MINUTE, False), (2**53 - 1 - NOW, False)):
        clock = HybridClock()
        assert clock.observe(NOW + ahead, NOW) is followed
        assert (clock.tick(NOW) > NOW + ahead) is followed
        if not followed:
            assert clock.tick(NOW) == NOW


def test_the_minute_is_counted_from_the_wall_clock_not_from_what_was_followed() -> None:
    """Else a few nodes, each a little ahead of the one before, would drag all along."""
    clock = HybridClock()
    assert clock.observe(NOW + MINUTE - 1, NOW)
    assert not clock.observe(NOW + MINUTE + 1, NOW)
    assert clock.tick(NOW) == NOW + MINUTE
    assert clock.corrected(NOW) == 0, "that is not taken for a clock that was set back"


def test_a_clock_that_is_taken_up_again_goes_on_from_the_log() -> None:
    before = HybridClock()
    before.observe(NOW + 20_000, NOW)
    last = before.tick(NOW)
    after = HybridClock()
    after.observe(last, NOW)
    assert after.tick(NOW) > last


@given(EVENTS)
def test_whatever_happens_it_keeps_its_promises(events: list[tuple[int, int | None]]) -> None:
    clock = HybridClock()
    last = seen = newest_wall = 0
    for wall, time in events:
        newest_wall = max(newest_wall, wall)
        if time is not None:
            followed = clock.observe(time, wall)
            assert followed == (time < wall + MINUTE)
            if followed:
                seen = max(seen, time)
            continue
        ticked = clock.tick(wall)
        assert ticked >= wall and ticked >= last and ticked > seen
        assert ticked <= newest_wall + MINUTE, "it is not dragged along"
        last = ticked


def test_a_wall_clock_that_is_set_back_far_starts_again() -> None:
    clock = HybridClock()
    clock.tick(NOW + MINUTE + 1)
    assert clock.corrected(NOW + 1) == 0, "a minute is no correction"
    assert clock.corrected(NOW) == MINUTE + 1
    assert clock.tick(NOW) == NOW
    assert clock.corrected(NOW) == 0, "once is enough"


def test_what_was_followed_before_the_clock_was_set_back_is_not_followed_after_it() -> None:
    clock = HybridClock()
    assert clock.observe(NOW + 60 * MINUTE, NOW + 60 * MINUTE)
    assert clock.corrected(NOW) == 0, "nothing of our own is ahead"
    assert clock.tick(NOW) == NOW


def suspicion(*told: int, dated: tuple[int, ...] = (), passed: float = 0.0, step: int = 0) -> int:
    """By how much a clock that shows NOW seems to be off, where others' differ from it by so much;
    `passed` seconds later, and after the clock was set on by `step` ms."""
    skew = Skew()
    for n, difference in enumerate(told):
        skew.announced(f"told {n}", NOW + difference, 1000.0)
    for n, difference in enumerate(dated):
        skew.dated(f"dated {n}", NOW + difference, 1000.0)
    return skew.suspicion(NOW + int(1000 * passed) + step, 1000.0 + passed)[0]


def test_one_node_that_differs_is_not_enough_to_suspect_the_own_clock() -> None:
    assert suspicion(2 * MINUTE) == 0 == suspicion(dated=(2 * MINUTE,))
    assert suspicion(MINUTE, MINUTE, MINUTE) == 0, "that is close enough"


def test_two_nodes_that_differ_the_same_way_are() -> None:
    assert suspicion(2 * MINUTE, 2 * MINUTE) == -2 * MINUTE
    assert suspicion(-2 * MINUTE, -3 * MINUTE) in (2 * MINUTE, 3 * MINUTE)
    assert suspicion(dated=(2 * MINUTE, 2 * MINUTE)) == -2 * MINUTE
    assert suspicion(2 * MINUTE, dated=(5 * MINUTE,)) < 0
    assert suspicion(2 * MINUTE, -2 * MINUTE) == 0


def test_most_nodes_have_to_differ() -> None:
    assert suspicion(2 * MINUTE, 2 * MINUTE, 0, 0) == 0
    assert suspicion(2 * MINUTE, 2 * MINUTE, 2 * MINUTE, 0, 0) == -2 * MINUTE


def test_messages_of_the_past_say_nothing_about_a_clock() -> None:
    assert suspicion(2 * MINUTE, 2 * MINUTE, dated=(-9 * MINUTE,) * 9) == -2 * MINUTE
    assert suspicion(0, 0, dated=(-9 * MINUTE,) * 9) == 0


def test_the_suspicion_ends_when_the_own_clock_is_corrected_and_when_nobody_is_heard_of() -> None:
    assert suspicion(2 * MINUTE, 2 * MINUTE, passed=3000.0) == -2 * MINUTE, "it is as wrong as ever"
    assert suspicion(2 * MINUTE, 2 * MINUTE, passed=30.0, step=2 * MINUTE) == 0
    assert suspicion(2 * MINUTE, 2 * MINUTE, passed=3601.0) == 0


def test_what_a_node_says_of_its_clock_counts_more_than_what_it_has_dated() -> None:
    skew = Skew()
    for node in "ab":
        skew.dated(node, NOW + 9 * MINUTE, 1.0)
        skew.announced(node, NOW, 1.0)
        skew.dated(node, NOW + 9 * MINUTE, 1.0)
    assert skew.suspicion(NOW, 1.0) == (0, 0)


def test_lengths_of_time_for_people() -> None:
    told = {1_000: "1 s", 119_000: "119 s", 7_199_900: "2 h", 3 * 86_400_000: "3 days"}
    assert {ms: span(ms) for ms in told} == told
    assert span(-90 * MINUTE) == "90 min"
    assert span(2**53 - 1 - NOW) == "285,367 years"
