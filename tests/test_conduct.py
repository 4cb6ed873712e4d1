"""What counts as misbehaviour, who is cut off for how long, and what is logged of it."""

from __future__ import annotations

from typing import Any

import pytest

from p2p_sync import conduct as rules
from p2p_sync.conduct import FIRST_CUT, LIMIT, LOG_EVERY, LONGEST_CUT, POINTS, Conduct
from p2p_sync.replica import Replica
from tests.histories import History

BAD, GOOD = "b" * 16, "a" * 16


def offend(conduct: Conduct, now: float, kind: str = "frame", node: str = BAD) -> int:
    """Offend again and again at one moment; return how often until it is cut off."""
    for count in range(1, 1_000):
        if conduct.note(kind, node, now):
            return count
    raise AssertionError("never cut off")


def test_a_repeat_offender_is_cut_off_and_nobody_else() -> None:
    conduct = Conduct()
    assert offend(conduct, 0.0) == 3 == -(-LIMIT // POINTS["frame"])
    assert "frame" in conduct.cut_off(BAD, 1.0)
    assert not conduct.cut_off(GOOD, 1.0)
    assert conduct.all_cut_off(1.0).keys() == {BAD}
    assert not conduct.cut_off(BAD, FIRST_CUT + 0.1)


def test_points_fade() -> None:
    conduct = Conduct()
    assert not any(conduct.note("frame", BAD, now * 101.0) for now in range(100))
    assert conduct.counts == {"frame": 100}


def test_each_cut_off_is_twice_as_long_up_to_an_hour() -> None:
    conduct, now, lasted = Conduct(), 0.0, []
    for _ in range(8):
        offend(conduct, now)
        (_, until) = conduct.all_cut_off(now)[BAD]
        lasted.append(until - now)
        now = until + 1.0
    assert lasted[:3] == [FIRST_CUT, 2 * FIRST_CUT, 4 * FIRST_CUT]
    assert lasted[-1] == LONGEST_CUT
    now += rules.MEMORY + 1.0
    offend(conduct, now)
    assert conduct.all_cut_off(now)[BAD][1] - now == FIRST_CUT


def test_what_may_come_of_a_wrong_clock_a_backup_or_a_cable_cuts_nobody_off() -> None:
    conduct = Conduct()
    for now in range(1_000):
        assert not conduct.note("future", BAD, float(now), 1_000)
        assert not conduct.note("silent", BAD, float(now))
        assert not conduct.note("conflict", BAD, float(now)), "one a second"
    assert not conduct.note("identity", GOOD, 0.0) and not conduct.note("identity", GOOD, 1.0)
    for minute in range(1, 100):
        assert not conduct.note("deaf", GOOD, 60.0 * minute)
        assert not conduct.note("slow", GOOD, 60.0 * minute)


def test_who_is_not_known_by_an_id_is_counted_and_not_cut_off() -> None:
    conduct = Conduct()
    assert not any(conduct.note("frame", None, 0.0) for _ in range(100))
    assert conduct.counts == {"frame": 100}
    assert conduct.all_cut_off(0.0) == {}


def test_very_many_offenders_cost_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "MAX_NODES", 10)
    conduct = Conduct()
    offend(conduct, 0.0)
    for number in range(1_000):
        conduct.note("frame", f"{number:016x}", 1.0)
        conduct.line("frame", f"{number:016x}", 1.0)
    assert len(conduct._records) == 10 and len(conduct._lines) <= 11
    assert conduct.cut_off(BAD, 1.0), "those that are cut off are remembered"


def test_one_line_a_minute_says_how_many_were_left_out() -> None:
    conduct = Conduct()
    assert conduct.line("gap", BAD, 0.0) == 0
    assert [conduct.line("gap", BAD, 1.0) for _ in range(5)] == [None] * 5
    assert conduct.line("gap", GOOD, 1.0) == 0
    assert conduct.line("graft", BAD, 1.0) == 0
    assert conduct.line("gap", BAD, LOG_EVERY) == 5
    assert [conduct.line("linked", "host", 0.0, 2) for _ in range(3)] == [0, 0, None]


def test_honest_nodes_with_faults_of_every_kind_stay_far_below_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Crashes, cuts, full disks, restored backups and wrong clocks, in the simulator."""
    conducts: dict[Replica, Conduct] = {}
    receive = Replica.receive

    def watched(replica: Replica, link: Any, frame: Any, now: float) -> Any:
        runs = receive(replica, link, frame, now)
        conduct = conducts.setdefault(replica, Conduct())
        for kind, times in replica.offences.items():
            assert not conduct.note(kind, link.peer, now, times)
        for conflict in replica.conflicts:
            kind = "identity" if conflict.origin == replica.origin else "conflict"
            assert not conduct.note(kind, link.peer, now)
        replica.offences.clear()
        points = [record.points for record in conduct._records.values()]
        assert max(points, default=0.0) < LIMIT / 2
        return runs

    monkeypatch.setattr(Replica, "receive", watched)
    for seed in range(40):
        conducts.clear()
        History(seed).run()
