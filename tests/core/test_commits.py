"""The origins that a node draws for its commits."""

from __future__ import annotations

import random

import pytest

from p2p_sync.core.commits import new_origin
from p2p_sync.wire.cutoffs import began, cutoff_of
from p2p_sync.wire.fields import ORIGIN
from p2p_sync.wire.logframes import NOTHING_HELD, Head

NODE, OTHER = "a" * 32, "b" * 32
WALL = 1_700_000_000_000


def number(origin: str) -> int:
    return int(origin.partition("-")[2])


@pytest.mark.parametrize("wall", [WALL, 0, 9_000_000_000_000])
def test_NewOrigin_AnyClock_NumberAboveAllOfTheNodeThatAreKnown(wall: int) -> None:
    rng = random.Random(1)
    known = {f"{OTHER}-{10**18}": NOTHING_HELD}
    for _ in range(100):
        origin = new_origin(NODE, known, wall, rng)
        assert ORIGIN.fullmatch(origin)
        assert all(number(origin) > number(name) for name in known if name.startswith(NODE))
        known[origin] = NOTHING_HELD


def test_NewOrigin_CopiesThatStartAtTheSameMoment_DifferentNumbers() -> None:
    behind = {f"{NODE}-{10**18 * 2}": NOTHING_HELD}
    for known in ({}, behind):  # the clock is right, or behind
        drawn = {new_origin(NODE, known, WALL, random.Random(seed)) for seed in range(100)}
        assert len(drawn) == 100


def test_NewOrigin_TheClockIsRight_NumberBeginsWithTheTime() -> None:
    assert number(new_origin(NODE, {}, WALL, random.Random(1))) // 10**6 == WALL


def test_NewOrigin_TheClockIsBehindTheCutoff_BeginsAfterTheCutoff() -> None:
    known = {cutoff_of(NODE): Head(WALL, "", "")}
    for time in (0, WALL - 1, WALL, WALL + 1):
        assert began(new_origin(NODE, known, time, random.Random(1))) >= max(WALL, time)
