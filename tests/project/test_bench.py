"""The suite that measures (tests/bench) runs, and each scenario gives its figures; never a time."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.client import by_hand, text
from tests.bench.profiles import summary
from tests.bench.results import Goal, Results, Sample
from tests.bench.scenarios import SCENARIOS
from tests.harness.support import ROOT, SCALE, NodeProcess

if not Path("/proc/self/stat").exists():
    pytest.skip("measures processes by /proc, which is missing here", allow_module_level=True)


def run(*options: str) -> str:
    """What `python -m tests.bench` prints."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", *options],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600 * SCALE,  # a fixed amount of work, however busy the machine
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_short_form_gives_a_figure_for_each_scenario(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    printed = run("--short", "--json", str(file))
    told = json.loads(file.read_text())
    assert [one["number"] for one in told["scenarios"]] == list(range(1, 14))
    for scenario, one in zip(SCENARIOS, told["scenarios"], strict=True):
        assert scenario.title in printed
        if "redis" in one["skipped"].get("ours", ""):
            continue  # a hub needs a redis-server
        assert one["samples"]["ours"], one
        for samples in one["samples"].values():
            for sample in samples:
                assert sample["figures"] and sample["processes"], one
                assert all(math.isfinite(value) for value in sample["figures"].values()), one
        assert len(one["goals"]) == len(scenario.goals)
    assert told["machine"]["cores"] > 0


def test_a_profile_adds_up_by_role_and_line() -> None:
    stacks = [
        "thread (7): waitress-1;run (/a/b/c/task.py:3);commit (/a/b/node.py:10) 3",
        "thread (8): waitress-12;run (/a/b/c/task.py:3);commit (/a/b/node.py:10) 4",
        "thread (9): send ws://127.0.0.1:9;run (/a/b/link.py:5) 3",
        "thread (10): writer 0",
    ]
    printed = "\n".join(summary(stacks, {"7": 1.0, "8": 0.5}))
    assert "10 looks" in printed and "thread waitress: 70% of the looks, 1.50 s" in printed
    assert "100%   70%  b/node.py:10 commit" in printed and "100%   70%  c/task.py run" in printed
    assert "thread send: 30%" in printed


def test_the_load_of_many_clients_needs_no_tool() -> None:
    with NodeProcess("--ephemeral") as node:
        load = by_hand(node.port, f"/commit?msg={text(0)}", 4, 0.3)
        assert load.requests > 4 and len(node.texts()) == load.requests


def test_goals_and_ratios() -> None:
    results = Results(
        {
            "ours": [Sample({"x": 2.0}), Sample({"x": 6.0}), Sample({"x": 4.0})],
            "o": [Sample({"x": 1.0}), Sample({"x": 2.0}), Sample({"x": 4.0})],
        }
    )
    assert (results.middle("x"), results.ratio("x", "o")) == (4.0, 2.0)
    assert Goal("", lambda r: r.ratio("x", "o"), most=2).met(results) is True
    assert Goal("", lambda r: r.ratio("x", "o"), least=2.1).met(results) is False
    assert Goal("", lambda r: r.ratio("x", "p")).met(results) is None
