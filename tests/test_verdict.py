"""The verdict: what a node says of itself in a word and in a line."""

from __future__ import annotations

from typing import Any

import pytest

from p2p_sync.verdict import verdict


def linked(behind: int = 0) -> dict[str, Any]:
    return {"state": "connected", "behind": behind, "by_hand": False, "id": "a" * 16, "attempts": 0}


def away(by_hand: bool = False, known: bool = False, attempts: int = 1) -> dict[str, Any]:
    identity = "b" * 16 if known else None
    return {
        "state": "waiting",
        "behind": 0,
        "by_hand": by_hand,
        "id": identity,
        "attempts": attempts,
    }


@pytest.mark.parametrize(
    ("peers", "held", "behind", "state", "text"),
    [
        ([], 0, 0, "alone", "Alone: no peer yet"),
        ([away()], 5, 0, "alone", "Alone: no peer yet"),
        ([away(by_hand=True, attempts=0)], 5, 0, "alone", "Alone: linked with 0 of 1 peer"),
        ([linked()], 5, 0, "in_sync", "In sync with 1 of 1 peer"),
        ([linked()] * 4, 5, 0, "in_sync", "In sync with 4 of 4 peers"),
        ([linked()] * 3 + [away(known=True)], 5, 0, "in_sync", "In sync with 3 of 4 peers"),
        ([linked(), away(known=True, attempts=0)], 5, 0, "in_sync", "In sync with 1 of 1 peer"),
        ([linked(1), linked()], 5, 0, "behind", "1 peer behind, by 1 message"),
        ([linked(37), linked(2)], 99, 0, "behind", "2 peers behind, by 37 messages"),
        ([linked(3)], 41_200, 58_800, "catching_up", "Catching up: 41,200 of 100,000"),
    ],
)
def test_the_verdict_in_a_word_and_a_line(
    peers: list[dict[str, Any]], held: int, behind: int, state: str, text: str
) -> None:
    assert verdict(peers, held, behind)[:2] == (state, text)


def test_the_verdict_counts() -> None:
    assert verdict([linked(), linked(2), away(by_hand=True)], 2, 0)[2:] == (1, 3)
