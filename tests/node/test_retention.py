"""Nodes that keep a part of the log: what goes, and how those who read learn of it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from p2p_sync import InputError, LogInfo, Message, Node
from tests.harness.origins import make_origins
from tests.harness.support import SCALE, NodeProcess, holds, request, run_to_end, wait_until


def texts(node: Node) -> list[str]:
    return [message.data for message in node.messages()]


def digest(node: Node) -> str:
    return str(node.status().messages.digest)


def numbers(first: int, end: int) -> list[str]:
    return [str(n) for n in range(first, end)]


def test_the_newest_messages_stay_also_after_a_restart(tmp_path: Path) -> None:
    with Node(0, tmp_path, keep_messages=10) as node:
        sent = [node.commit(f"{n}") for n in range(30)]
        wait_until(lambda: texts(node) == numbers(20, 30), lambda: texts(node))
        digest = node.status().messages.digest
        assert node.status().messages == LogInfo(10, digest, sent[19].time + 1)
        assert node.commit("30").seq == 31
        wait_until(lambda: texts(node) == numbers(21, 31), lambda: texts(node))
        before = node.status().messages
    with Node(0, tmp_path) as node:  # now it keeps all that is left
        assert texts(node) == numbers(21, 31) and node.status().messages == before
        assert node.status().damaged == []


def test_equal_digests_mean_equal_logs_as_far_back_as_each_keeps_them() -> None:
    with Node(0) as all_, Node(0, keep_messages=5) as few:
        few.connect(all_.address)
        for n in range(20):  # what is sent together goes together
            assert all_.commit(f"{n}", copies=1, timeout=20 * SCALE).copies == 1
        wait_until(lambda: texts(few) == numbers(15, 20), lambda: texts(few))
        here, there = all_.status().messages, few.status().messages
        assert here.digest == there.digest and (here.count, there.count) == (20, 5)
        assert here.complete_since is None
        few.commit("20")
        wait_until(lambda: texts(all_) == numbers(0, 21), "the other one has all")
        assert few.status().conflicts == all_.status().conflicts == 0


def test_a_peer_that_lacks_what_is_gone_gets_all_else() -> None:
    with Node(0) as other, Node(0, keep_messages=5) as few, Node(0) as late:
        for n in range(20):
            few.commit(f"{n}")
        wait_until(lambda: texts(few) == numbers(15, 20), lambda: texts(few))
        few.connect(other.address)
        late.connect(few.address)
        wait_until(lambda: few.sockets() == 2, few.peers)
        other.commit("from elsewhere")
        late.commit("from the late one")
        wait_until(lambda: len(texts(late)) == 2, lambda: texts(late))
        wait_until(lambda: "from the late one" in texts(other), lambda: texts(other))
        holds(lambda: few.sockets() == 2, few.peers)


def test_a_node_that_joins_late_starts_where_its_peer_does() -> None:
    with Node(0, keep_messages=5) as few, Node(0) as late:
        sent = [few.commit(f"{n}") for n in range(20)]
        wait_until(lambda: texts(few) == numbers(15, 20), lambda: texts(few))
        late.connect(few.address)
        wait_until(lambda: texts(late) == numbers(15, 20), lambda: late.status())
        since = [node.status().messages.complete_since for node in (few, late)]
        # Only the node that has deleted the others knows when they were committed.
        assert since == [sent[14].time + 1, sent[15].time + 1]
        few.commit("20")
        late.commit("from the late one")
        wait_until(lambda: len(texts(late)) == 7, lambda: texts(late))
        wait_until(lambda: len({digest(node) for node in (few, late)}) == 1)
        status = late.status()
        assert status.missed == 15 and not status.behind
        wait_until(lambda: late.status().verdict.state == "in_sync", lambda: late.status())
        assert any(event.text.startswith("missed 15 messages") for event in late.events()[0])
        with Node(0) as later:  # from a node that has started at a floor itself
            later.connect(late.address)
            wait_until(lambda: digest(later) == digest(late), lambda: later.status())
            assert texts(later) == texts(late)


def test_a_node_that_was_away_for_longer_than_its_peers_keep_keeps_its_own(tmp_path: Path) -> None:
    with Node(0, keep_messages=5) as few:
        with Node(0, tmp_path) as away:
            away.connect(few.address)
            for n in range(4):
                few.commit(f"{n}", copies=1, timeout=20 * SCALE)
        for n in range(4, 20):
            few.commit(f"{n}")
        wait_until(lambda: texts(few) == numbers(15, 20), lambda: texts(few))
        with Node(0, tmp_path) as away:
            away.connect(few.address)
            wait_until(lambda: texts(away) == [*numbers(0, 4), *numbers(15, 20)], away.status)
            assert away.status().missed == 11
            wait_until(lambda: digest(away) == digest(few))


def test_the_peer_that_keeps_most_is_asked() -> None:
    with Node(0) as all_, Node(0, keep_messages=5) as few, Node(0) as late:
        few.connect(all_.address)
        for n in range(20):
            all_.commit(f"{n}", copies=1, timeout=20 * SCALE)
        wait_until(lambda: texts(few) == numbers(15, 20), lambda: texts(few))
        late.connect(few.address)
        late.connect(all_.address)
        wait_until(lambda: texts(late) == numbers(0, 20), lambda: texts(late))
        assert late.status().missed == 0


def test_an_origin_of_which_nothing_is_kept_ends_where_its_peer_says() -> None:
    with Node(0) as source, Node(0, keep_messages=5) as few, Node(0) as late:
        source.connect(few.address)
        for n in range(4):
            source.commit(f"{n}", copies=1, timeout=20 * SCALE)
        source.stop()
        for n in range(20):
            few.commit(f"{n}")
        wait_until(lambda: texts(few) == numbers(15, 20), lambda: texts(few))
        late.connect(few.address)
        wait_until(lambda: digest(late) == digest(few), lambda: (late.status(), few.status()))
        assert texts(late) == numbers(15, 20)


def test_messages_of_an_age_go_while_nothing_else_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2p_sync.node.retention.KEEP_CLOCK", 0.0)
    with Node(0, keep=2.0) as node:
        node.commit("old")
        holds(lambda: texts(node) == ["old"], "it stays", 1.0)
        wait_until(lambda: texts(node) == [], lambda: texts(node))
        node.commit("new")
        holds(lambda: texts(node) == ["new"], "it stays", 1.0)


def test_the_limit_that_is_reached_first_applies(tmp_path: Path) -> None:
    with Node(0, tmp_path, keep_messages=1_000, keep_bytes=1 << 20, keep=86_400.0) as node:
        list(node.commit_all(f"{n:050000}" for n in range(60)))
        wait_until(lambda: 10 <= len(node.messages()) <= 21, lambda: len(node.messages()))
        list(node.commit_all(f"{n}" for n in range(3_000)))
        wait_until(lambda: 1_000 <= len(node.messages()) < 2_000, lambda: len(node.messages()))


def test_who_follows_and_is_overtaken_learns_how_much_was_missed() -> None:
    with Node(0, keep_messages=10) as node:
        for n in range(5):
            node.commit(f"{n}")
        pages = node.follow(0, 0.5)
        assert len(next(pages)) == 5
        for n in range(5, 40):
            node.commit(f"{n}")
        wait_until(lambda: len(node.messages()) == 10, "the others are gone")
        page = next(pages)
        assert [message.data for _, message in page] == numbers(30, 40) and page.missed == 25
        assert next(node.follow(0, 0.5)).missed == 0, "who begins has missed nothing"


def test_a_callback_that_is_overtaken_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    got: list[str] = []
    go = threading.Event()

    def slow(message: Message) -> None:
        got.append(message.data)
        go.wait(20 * SCALE)

    with Node(0, keep_messages=10) as node:
        node.on_message(slow)
        for n in range(300):
            node.commit(f"{n}")
        wait_until(lambda: len(node.messages()) == 10, "the others are gone")
        go.set()
        wait_until(lambda: got and got[-1] == "299", lambda: got)
        missed = 300 - len(got)
        assert f"callbacks missed {missed} messages" in caplog.text


@pytest.fixture(scope="module")
def short() -> Iterator[tuple[NodeProcess, list[str]]]:
    """A node that keeps ten of 30 messages, and the cursors behind each of them; no test adds
    more."""
    with NodeProcess("--keep-messages", "10") as node:
        cursors = ["0"]
        for n in range(30):
            node.commit(f"{n}")
            cursors.append(node.api(f"messages?after={cursors[-1]}")["next"])
        wait_until(lambda: node.count == 10, node.status)
        yield node, cursors[1:]


def follow(node: NodeProcess, cursor: str) -> Any:
    answer = node.get(f"/api/v1/messages?after={cursor}")
    return answer.status, json.loads(answer.body)


def test_a_place_before_what_is_kept_is_gone(short: tuple[NodeProcess, list[str]]) -> None:
    node, cursors = short
    assert follow(node, cursors[19])[0] == 200
    for path in ("messages", "messages/follow"):
        answer = node.get(f"/api/v1/{path}?after={cursors[11]}")
        problem = json.loads(answer.body)
        kind = "urn:p2p-sync:cursor_gone"
        assert (answer.status, problem["type"], problem["missed"]) == (410, kind, 8)
        assert problem["next"] == cursors[19] and "8 messages" in problem["detail"]
    _, page = follow(node, problem["next"])
    assert [message["data"] for message in page["messages"]] == numbers(20, 30)
    _, page = follow(node, "0")
    assert [message["data"] for message in page["messages"]] == numbers(20, 30)
    assert "missed" not in page


def test_the_node_says_what_it_keeps_by_every_way(short: tuple[NodeProcess, list[str]]) -> None:
    node, _ = short
    since = node.status()["messages"]["complete_since"]
    assert 0 < time.time() * 1000 - since < 60_000 * SCALE
    assert "p2p_sync_deleted_messages_total 20.0" in node.get("/metrics").text
    assert 'p2p_sync_log_messages{class="own"} 10.0' in node.get("/metrics").text
    url = f"http://127.0.0.1:{node.port}"
    told = run_to_end("status", "--node", url)
    day = time.strftime("%Y-%m-%d", time.localtime(since / 1000))
    assert f"older messages were deleted; complete since {day}" in told.stderr


def test_the_command_says_what_a_late_joiner_has_missed() -> None:
    with Node(0, keep_messages=5) as few:
        for n in range(20):
            few.commit(f"{n}")
        wait_until(lambda: texts(few) == numbers(15, 20), lambda: texts(few))
        with NodeProcess("--ephemeral", "--peer", few.address) as late:
            wait_until(lambda: late.count == 5, late.status)
            told = run_to_end("status", "--node", f"http://127.0.0.1:{late.port}", "--wait", "20")
        missed = "15 messages missed since the start: the connected peers had deleted them"
        assert missed in told.stderr


BAD = {
    "--keep": ["30", "d", "30x", "-1d", "0s", "1e3s", "nan"],
    "--keep-bytes": ["2GB", "x", "-1", "0", "1.5.2MiB", "2", "63KiB"],
    "--keep-messages": ["0", "-1", "x", "1.5"],
}


@pytest.mark.parametrize("option", BAD)
def test_a_wrong_limit_is_refused_in_a_sentence(option: str) -> None:
    for value in BAD[option]:
        result = run_to_end("8000", "--ephemeral", option, value)
        assert result.returncode == 2, result.stderr
        lines = [line for line in result.stderr.splitlines() if option in line]
        assert lines and value in lines[-1] and "Traceback" not in result.stderr


@pytest.mark.parametrize("limit", ["keep", "keep_bytes", "keep_messages"])
def test_a_wrong_limit_of_the_library_is_refused(limit: str) -> None:
    wrong: dict[str, Any] = {limit: 0}
    with pytest.raises(InputError, match=f"{limit}= is a .*number.* from "):
        Node(0, **wrong)


def test_limits_have_units() -> None:
    with NodeProcess("--keep", "1.5h", "--keep-bytes", "64 KiB", "--ephemeral") as node:
        assert request(node.port, "/healthz").status == 200


def slowest(node: Node, commits: int) -> float:
    """The time that 1 % of some commits, one after the other, exceed. Seconds."""
    took = []
    for n in range(commits):
        begun = time.perf_counter()
        node.commit(f"{n}")
        took.append(time.perf_counter() - begun)
    took.sort()
    return took[len(took) * 99 // 100]


def test_commits_hardly_wait_while_much_is_deleted(tmp_path: Path) -> None:
    make_origins(tmp_path, 20, 1_000, 4)
    with Node(0, tmp_path) as node:
        before = slowest(node, 500)
    with Node(0, tmp_path, keep_messages=1_000) as node:
        wait_until(lambda: node.log.count()[0] < 80_000, "it has begun")
        during = slowest(node, 500)
        assert node.log.count()[0] > 1_000, "it has not come to an end yet"
    assert during < 2 * before + 0.03 * SCALE  # the margin is for other programs
