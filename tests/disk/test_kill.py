"""kill -9 in a loop, during a stream of commits: nothing acknowledged is lost, nothing doubled."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from pathlib import Path
from typing import Any

from p2p_sync.disk.witness import BOOT_ID
from tests.harness.api import Load, check_log, read_pages
from tests.harness.support import NodeProcess, pause

LINUX = BOOT_ID.exists()
ROUNDS = int(os.environ.get("P2P_SYNC_TEST_KILLS", "30"))
WRITERS = 4
LONGEST = 0.3  # seconds of commits before a kill


def test_kill_in_a_loop_loses_nothing(tmp_path: Path) -> None:
    seed = int(os.environ.get("P2P_SYNC_TEST_SEED", random.randrange(2**32)))
    rng = random.Random(seed)
    acknowledged: list[str] = []
    identities: dict[str, str] = {}
    followed: list[dict[str, Any]] = []  # by a reader that goes on after each kill
    after = ""
    for number in range(ROUNDS):

        def note(number: int = number) -> str:
            return f"(seed {seed}, round {number})"

        with NodeProcess(data_dir=tmp_path / "data") as node:
            new, after = read_pages(node.port, "arrival", after)
            followed += new
            held = Counter(message["data"] for message in followed)
            lost = [text for text in acknowledged if held[text] != 1]
            assert not lost, f"lost or doubled: {lost[:10]} ({len(lost)}) {note()}"
            with Load([node.port], f"r{number}", 0.0, WRITERS) as load:
                if number % 2:  # so that some kills hit a start, and some a stream under way
                    load.wait_for(10)
                pause(rng.uniform(0, LONGEST))
                node.stop(signal.SIGKILL)
            acknowledged += load.acknowledged
            for identity, text in load.identities.items():
                assert identities.setdefault(identity, text) == text, f"{identity} twice {note()}"
    with NodeProcess(data_dir=tmp_path / "data") as node:
        new, after = read_pages(node.port, "arrival", after)
        followed += new
        log, _ = read_pages(node.port, "time")
    check_log(log, acknowledged, lambda: f"(seed {seed})", identities)
    assert sorted(m["id"] for m in followed) == sorted(m["id"] for m in log), f"seed {seed}"
    assert len(acknowledged) > ROUNDS, "hardly anything was committed"
    # A kill costs the origin only while SQLite empties its write-ahead log.
    origins = {identity.partition(":")[0] for identity in identities}
    assert not LINUX or len(origins) <= 1 + ROUNDS // 10, f"{len(origins)} origins (seed {seed})"
