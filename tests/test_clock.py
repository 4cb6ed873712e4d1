"""The hybrid clock: never back, always behind what was seen, and nobody drags it away."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2p_sync.clock import HybridClock

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


def test_what_is_committed_after_another_was_seen_sorts_after_it() -> None:
    clock = HybridClock()
    assert clock.observe(NOW + 30_000, NOW)
    assert clock.tick(NOW) > NOW + 30_000
    assert clock.tick(NOW + 45_000) == NOW + 45_000, "the wall clock has caught up"


def test_what_was_seen_in_the_past_changes_nothing() -> None:
    clock = HybridClock()
    assert clock.observe(5, NOW)
    assert clock.tick(NOW) == NOW


def test_a_time_is_followed_up_to_a_minute_ahead_and_no_further() -> None:
    for ahead, followed in ((MINUTE, True), (MINUTE + 1, False), (2**53 - 1 - NOW, False)):
        clock = HybridClock()
        assert clock.observe(NOW + ahead, NOW) is followed
        assert (clock.tick(NOW) > NOW + ahead) is followed
        if not followed:
            assert clock.tick(NOW) == NOW


def test_the_minute_is_counted_from_the_wall_clock_not_from_what_was_followed() -> None:
    """Else a few nodes, each a little ahead of the one before, would drag all along."""
    clock = HybridClock()
    assert clock.observe(NOW + MINUTE, NOW)
    assert not clock.observe(NOW + MINUTE + 2, NOW)
    assert clock.tick(NOW) == NOW + MINUTE + 1


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
            assert followed == (time <= wall + MINUTE)
            if followed:
                seen = max(seen, time)
            continue
        ticked = clock.tick(wall)
        assert ticked >= wall and ticked >= last and ticked > seen
        assert ticked <= newest_wall + MINUTE + 1, "it is not dragged along"
        last = ticked
