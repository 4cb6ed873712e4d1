"""The audit: damage that nobody reads is found, too, and comes again from a peer."""

from __future__ import annotations

import random
import shutil
import sqlite3
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from p2p_sync import LogError, Node, StartError, settings
from p2p_sync.web.metrics import Metrics
from tests.disk.test_damage import ALL, CHANGES, change, digest, everything, texts
from tests.harness.support import SCALE, wait_until

pytest_plugins = ["tests.disk.test_damage"]  # its fixtures


@pytest.fixture(autouse=True)
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each log counts as large, so only its ends are read at the start; the audit begins at once
    and does not pause."""
    monkeypatch.setattr(settings, "MAX_CHECKED_BYTES", 0)
    monkeypatch.setattr(settings, "AUDIT_DELAY", 0.0)
    monkeypatch.setattr(settings, "AUDIT_PAUSE", 0.01)


def shows_all(node: Node) -> bool:
    """Whether it shows all messages by each way to read them."""
    try:
        return all(shown == ALL for shown in everything(node))
    except LogError:  # the indexes are not made again yet
        return False


@pytest.mark.parametrize("what", CHANGES)
def test_it_finds_what_nobody_reads_and_that_comes_again(
    twin: Path, directory: Path, tmp_path: Path, what: str
) -> None:
    change(directory, CHANGES[what][0])
    good = Node(0, shutil.copytree(twin, tmp_path / "good"))
    with Node(0, directory) as node, good:
        wait_until(lambda: node.status().damaged, lambda: node.status())
        wait_until(lambda: "damaged" in [event.type for event in node.events()[0]], node.events)
        assert b"p2p_sync_damaged_origins 1.0" in Metrics(node, int).text() or what == "the last"
        assert node.unready()
        node.connect(good.address)
        wait_until(lambda: digest(node) == digest(good), node.status, 60 * SCALE)
        assert texts(node) == texts(good) == ALL
        wait_until(lambda: not node.unready(), node.unready)
        assert b"p2p_sync_damaged_origins 0.0" in Metrics(node, int).text()
        assert node.status().conflicts == good.status().conflicts == 0


MOVED = "UPDATE entries SET arrival = 1000 WHERE data LIKE 'single-010%'"
TWICE = """
    CREATE TEMP TABLE kept AS SELECT * FROM entries WHERE data LIKE 'single-010%';
    UPDATE kept SET arrival = 1000;
    INSERT INTO entries SELECT * FROM kept
"""


@pytest.mark.parametrize(
    ("name", "statement"),
    [("by_identity", MOVED), ("by_place", MOVED), ("by_identity", TWICE)],
    ids=["by_identity", "by_place", "twice"],
)
def test_it_finds_an_index_that_leads_nowhere(
    directory: Path, caplog: pytest.LogCaptureFixture, name: str, statement: str
) -> None:
    with closing(sqlite3.connect(directory / "node.db")) as database:
        database.execute("PRAGMA writable_schema = ON")
        kept = database.execute("SELECT * FROM sqlite_schema WHERE name = ?", (name,)).fetchone()
        database.execute("DELETE FROM sqlite_schema WHERE name = ?", (name,))
        database.commit()
    with closing(sqlite3.connect(directory / "node.db")) as database:
        database.executescript(statement)
        database.execute("PRAGMA writable_schema = ON")
        database.execute("INSERT INTO sqlite_schema VALUES (?, ?, ?, ?, ?)", kept)
        database.commit()
    with Node(0, directory) as node:
        wait_until(lambda: "made again" in caplog.text and shows_all(node), caplog.text)
        assert node.commit("new").seq == 1
    with closing(sqlite3.connect(directory / "node.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.parametrize("seed", range(40))
def test_any_byte_may_change(
    twin: Path, directory: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, seed: int
) -> None:
    """It is refused at the start, or reported, or mended with the help of a peer."""
    rng = random.Random(seed)
    data = bytearray((directory / "node.db").read_bytes())
    used = [n for n, byte in enumerate(data) if byte]  # most of a page is empty
    place = rng.choice(used)
    data[place] ^= 1 << rng.randrange(8)
    around = place % 4096, place // 4096 + 1, bytes(data[place - 20 : place + 20])
    (directory / "node.db").write_bytes(data)
    good, node = Node(0, shutil.copytree(twin, tmp_path / "good")), Node(0, directory)
    with ExitStack() as stack:
        stack.enter_context(good)
        try:
            stack.enter_context(node)
        except StartError:
            return
        node.connect(good.address)

        def right() -> bool:
            mended = digest(node) == digest(good) and shows_all(node)
            return mended or "put it aside" in caplog.text

        wait_until(right, lambda: (around, node.status(), caplog.text), 15 * SCALE)
        assert set(texts(good)) == set(ALL)


def test_it_finds_the_end_of_an_origin_that_is_gone(
    twin: Path, directory: Path, tmp_path: Path
) -> None:
    good = Node(0, shutil.copytree(twin, tmp_path / "good"))
    change(directory, "DELETE FROM entries WHERE data > 'single-035'")
    with Node(0, directory) as node, good:
        wait_until(lambda: node.status().damaged, node.status)
        node.connect(good.address)
        wait_until(lambda: texts(node) == ALL, node.status, 60 * SCALE)
        wait_until(lambda: not node.unready(), node.unready)


def test_a_step_is_short(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Node(0, directory) as node:
        whole = len([*node.log.audit()])
        monkeypatch.setattr("p2p_sync.disk.damage.AUDITED_BYTES", 100)
        assert len([*node.log.audit()]) > whole + 5
    monkeypatch.setattr("p2p_sync.disk.damage.AUDITED", 7)
    with Node(0) as empty, Node(0, directory) as node:
        assert len([*node.log.audit()]) > len(ALL) / 2 / 7
        assert len([*empty.log.audit()]) == 2
        assert node.status().damaged == []
