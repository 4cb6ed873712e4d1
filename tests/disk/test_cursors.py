"""Places that readers keep: each is of one log, and in another one it is refused, not guessed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from p2p_sync.cursors import Cursors
from p2p_sync.errors import CursorGone, InputError
from tests.harness.api import PAGE, post_all, read_pages, wait_equal
from tests.harness.support import NodeProcess, wait_sockets

MESSAGES = "/api/v1/messages"


def refused(node: NodeProcess, after: str) -> str:
    """The place is gone for pages and streams; return the one to start from."""
    places: set[str] = set()
    for target in (f"{MESSAGES}?order=arrival&", f"{MESSAGES}?", f"{MESSAGES}/follow?"):
        answer = node.get(f"{target}after={after}")
        assert answer.status == 410, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        told = json.loads(answer.body)
        assert "next" in told["detail"]
        places.add(told["next"])
    (place,) = places
    return place


def texts(node: NodeProcess, after: str = "") -> list[str]:
    return [message["data"] for message in read_pages(node.port, "arrival", after)[0]]


def page(node: NodeProcess, limit: int = PAGE) -> dict[str, Any]:
    answer = node.get(f"{MESSAGES}?order=arrival&limit={limit}")
    assert answer.status == 200
    told: dict[str, Any] = json.loads(answer.body)
    return told


def test_a_node_that_keeps_nothing_knows_no_place_of_an_earlier_start() -> None:
    with NodeProcess("--ephemeral") as node:
        empty = page(node)["next"]
        post_all(node.port, [f"old {n}" for n in range(50)])
        places = [empty, page(node, 1)["next"], page(node)["next"]]
        node.stop()
        with NodeProcess("--ephemeral", port=node.port) as again:
            post_all(again.port, [f"new {n}" for n in range(60)])
            for after in places:
                assert texts(again, refused(again, after)) == [f"new {n}" for n in range(60)]


def test_a_log_that_a_peer_refilled_is_another_one(tmp_path: Path) -> None:
    with (
        NodeProcess() as peer,
        NodeProcess("--peer", peer.address, data_dir=tmp_path / "data") as node,
    ):
        wait_sockets(1, peer, node)
        for n in range(10):
            assert (peer if n % 2 else node).commit(f"m{n}").status == 302
        wait_equal([peer.port, node.port], 10)
        seen = page(node, 7)
        node.stop()
        shutil.rmtree(tmp_path / "data")
        with NodeProcess("--peer", peer.address, data_dir=tmp_path / "data", port=node.port):
            wait_equal([peer.port, node.port], 10)
            assert sorted(texts(node, refused(node, seen["next"]))) == [f"m{n}" for n in range(10)]
            refused(node, page(peer)["next"])  # of another node


def test_a_log_that_was_restored_goes_on_where_the_backup_ends(tmp_path: Path) -> None:
    data, backup = tmp_path / "data", tmp_path / "backup"
    with NodeProcess(data_dir=data) as node:
        post_all(node.port, ["a", "b"])
        shutil.copytree(data, backup)  # of a running node; nothing is written meanwhile
        post_all(node.port, ["lost 1", "lost 2"])
        kept, lost = page(node, 2)["next"], page(node)["next"]
        node.stop()
    with NodeProcess(data_dir=data) as node:
        later = page(node)["next"]
        node.stop()
    shutil.rmtree(data)
    backup.rename(data)
    with NodeProcess(data_dir=data) as node:
        post_all(node.port, [f"new {n}" for n in range(10)])
        new = [f"new {n}" for n in range(10)]
        assert texts(node, kept) == new
        assert texts(node, refused(node, lost)) == new, "though the log is longer than that now"
        assert texts(node, refused(node, later)) == ["a", "b", *new], "of a start that never was"


def test_a_place_beyond_the_end_is_refused() -> None:
    with NodeProcess("--ephemeral") as node:
        post_all(node.port, ["one", "two"])
        end = page(node)["next"]
        start, _, number = end.partition("-")
        assert refused(node, f"{start}-{int(number) + 1}") == end
        assert refused(node, f"{start}-{10**18}") == end


@pytest.mark.parametrize("after", ["", "0"])
def test_without_a_place_all_comes(after: str) -> None:
    with NodeProcess("--ephemeral") as node:
        post_all(node.port, ["one", "two"])
        assert texts(node, after) == ["one", "two"]
        for number in ("1", "2", "1000"):
            assert texts(node, refused(node, number)) == ["one", "two"], "a number names no log"


def test_places_outlive_many_starts() -> None:
    names = [f"{n:08x}" for n in range(5)]
    cursors = Cursors([(name, 10 * n) for n, name in enumerate(names)])
    assert cursors.text(47) == "00000004-47"
    for n, name in enumerate(names):
        end = 10 * (n + 1)
        assert cursors.number(f"{name}-{end}", 50) == end
        with pytest.raises(CursorGone) as caught:
            cursors.number(f"{name}-{end + 1}", 50)
        assert caught.value.next == f"00000004-{end}"


@pytest.mark.parametrize(
    "text",
    ["-", "-1", "x", "0000000-1", "00000000-", "00000000-\u0661", "0000000G-1", "1" * 20, " 1"],
)
def test_what_is_no_place_is_an_error(text: str) -> None:
    with pytest.raises(InputError, match="next") as caught:
        Cursors([("00000000", 0)]).number(text, 5)
    assert not isinstance(caught.value, CursorGone)
