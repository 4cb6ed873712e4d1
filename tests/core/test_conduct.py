"""How many lines are logged about the faults of peers."""

from __future__ import annotations

import pytest

from p2p_sync.core import conduct as rules
from p2p_sync.core.conduct import LOG_EVERY, Conduct

ONE, OTHER = "b" * 16, "a" * 16


def test_one_line_a_minute_says_how_many_were_left_out() -> None:
    conduct = Conduct()
    assert conduct.line("gap", ONE, 0.0) == 0
    assert [conduct.line("gap", ONE, 1.0) for _ in range(5)] == [None] * 5
    assert conduct.line("gap", OTHER, 1.0) == 0
    assert conduct.line("graft", ONE, 1.0) == 0
    assert conduct.line("gap", ONE, LOG_EVERY) == 5
    assert [conduct.line("linked", "host", 0.0, 2) for _ in range(3)] == [0, 0, None]


def test_peers_with_very_many_ids_share_the_lines_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "MAX_LINES", 10)
    conduct = Conduct()
    written = [conduct.line("frame", f"{number:016x}", 1.0) for number in range(1_000)]
    assert len([line for line in written if line is not None]) == 11
    assert conduct.line("frame", ONE, LOG_EVERY + 1.0) == 0, "a minute later they are forgotten"
