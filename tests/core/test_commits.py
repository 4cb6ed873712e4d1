"""The origins that a node draws for its commits."""

from __future__ import annotations

import random

import pytest

from p2p_sync.core.commits import new_origin
from p2p_sync.wire.fields import ORIGIN

NODE, OTHER = "a" * 32, "b" * 32
WALL = 1_700_000_000_000


def number(origin: str) -> int:
    return int(origin.partition("-")[2])


@pytest.mark.parametrize("wall", [WALL, 0, 9_000_000_000_000])
def test_NewOrigin_AnyClock_NumberAboveAllOfTheNodeThatAreKnown(wall: int) -> None:
    rng = random.Random(1)
    known = [f"{OTHER}-{10**18}"]
    for _ in range(100):
        origin = new_origin(NODE, known, wall, rng)
        assert ORIGIN.fullmatch(origin)
        assert all(number(origin) > number(name) for name in known if name.startswith(NODE))
        known.append(origin)


def test_NewOrigin_CopiesThatStartAtTheSameMoment_DifferentNumbers() -> None:
    for known in ([], [f"{NODE}-{10**18 * 2}"]):  # the clock is right, or behind
        drawn = {new_origin(NODE, known, WALL, random.Random(seed)) for seed in range(100)}
        assert len(drawn) == 100


def test_NewOrigin_TheClockIsRight_NumberBeginsWithTheTime() -> None:
    assert number(new_origin(NODE, [], WALL, random.Random(1))) // 10**6 == WALL
