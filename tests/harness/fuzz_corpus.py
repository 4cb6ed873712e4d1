"""What was once found to be taken wrongly, as steps for a replica, or as texts and bytes.

By reading, measuring and fuzzing; each entry is a test in test_fuzz.py.
"""

from __future__ import annotations

import json
from typing import Any

HASH = "0123456789abcdef" * 2
SIG = "0123456789abcdef" * 12

TEXTS: dict[str, str] = {
    "a number of a start that 64 bits cannot hold": json.dumps(
        {"type": "HAVE", "have": {f"{'a' * 32}-{'9' * 20}": [1, HASH, SIG]}}
    ),
    "more leaves than a frame may name": json.dumps(
        {
            "type": "SOCKETS", "addresses": [],
            "leaves": [f"ws://192.0.2.1:{port}" for port in range(1, 300)],
        }
    ),
}  # fmt: skip
"""Texts that decode has to refuse."""

LONG_HOST = {"type": "SOCKETS", "addresses": ["ws://" + "\u00e9" * 900_000 + ":1"]}
"""An address that took long to be found wrong."""

UNKNOWN = [f"{number:032x}-1" for number in range(1, 200)]


def storm() -> list[dict[str, Any]]:
    """Each of these made a table grow with every frame, or kept what nobody holds for ever."""
    claims = {"type": "HAVE", "have": {name: [5, HASH, SIG] for name in UNKNOWN}, "last": True}
    more = {"type": "HAVE", "have": {name: [6, HASH, SIG] for name in UNKNOWN}}
    forks = [
        {"type": "FORK", "origin": name, "head": [6, HASH, SIG], "marks": []} for name in UNKNOWN
    ]
    graft = {"type": "GRAFT", "after": dict.fromkeys(UNKNOWN, 0)}
    gaps = {
        "type": "MESSAGES",
        "runs": [
            {"origin": name, "after": 5, "previous": HASH, "entries": [[1, "x"]], "signature": SIG}
            for name in UNKNOWN
        ],
    }
    frames: list[list[dict[str, Any]]] = [[claims], [graft, more] * 30, [*forks, claims] * 30]
    return [frame for part in frames for frame in part] + [gaps] * 30
