"""Two nodes with one id: a data directory that was copied, and started beside the original."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from p2p_sync import Node, Status
from p2p_sync.core import twins
from tests.harness.support import NodeProcess, holds, wait_until


def warned(node: Node | NodeProcess, *parts: str) -> Callable[[], bool]:
    """Return whether the node has one warning of two nodes with one id, with these parts."""

    def check() -> bool:
        status = node.status()
        texts = status.warnings if isinstance(status, Status) else status["warnings"]
        found = [text for text in texts if "two nodes have" in text]
        return len(found) == 1 and all(part in found[0] for part in parts)

    return check


def test_a_copy_beside_the_original_is_a_warning_on_it_and_on_the_node_that_refuses_it(
    tmp_path: Path,
) -> None:
    with NodeProcess() as hub, NodeProcess("--peer", hub.address, data_dir=tmp_path / "a") as one:
        wait_until(lambda: hub.sockets() == 1)
        the_id = f"the id {one.id[:8]}"
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        with NodeProcess(data_dir=tmp_path / "b") as copy:
            says = "one of them runs on a copy of the other's data directory; stop that one"
            wait_until(warned(hub, the_id, one.address, "127.0.0.1", says))
            wait_until(warned(copy, "this node's id", hub.address, says))
            assert hub.get("/readyz").status == 200 and hub.sockets() == 1
            assert the_id in hub.get("/", Accept="text/html").text
            assert not one.status()["warnings"], "it is linked, and does not know of the other"
            one.stop()
            wait_until(lambda: hub.sockets() == 1 and hub.addresses() == [copy.address])
            assert not hub.status()["warnings"], "the warning is over: there is one of them"
            wait_until(lambda: not copy.status()["warnings"], timeout=40)
            with NodeProcess("--peer", hub.address, data_dir=tmp_path / "a") as original:
                wait_until(warned(original, "this node's id", hub.address))
                wait_until(warned(hub, the_id))


def test_a_copy_that_meets_the_original_is_a_warning_on_both(tmp_path: Path) -> None:
    with Node(0, tmp_path / "a") as one:
        shutil.copytree(tmp_path / "a", tmp_path / "b", ignore=shutil.ignore_patterns("lock"))
        with Node(0, tmp_path / "b") as copy:
            assert copy.id == one.id
            one.connect(copy.address)
            wait_until(warned(one, "this node's id", copy.address))
            wait_until(warned(copy, "this node's id", "127.0.0.1"))
            copy.commit("it still takes commits")


def test_the_warning_of_a_copy_that_was_stopped_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(twins, "TWINS_SHOWN", 3.0)
    with Node(0) as hub, Node(0, tmp_path / "a", peers=[hub.address]):
        wait_until(lambda: hub.sockets() == 1)
        shutil.copytree(tmp_path / "a", tmp_path / "b", ignore=shutil.ignore_patterns("lock"))
        with Node(0, tmp_path / "b", redial_longest=1.0):
            wait_until(warned(hub))
            holds(warned(hub), duration=4.0)
        wait_until(lambda: not hub.status().warnings)


def test_a_node_that_is_no_copy_is_no_warning(tmp_path: Path) -> None:
    """It dials itself, and it starts again."""
    with Node(0) as hub:
        for _ in range(2):
            with Node(0, tmp_path / "a") as node:
                node.connect(node.address)
                node.connect(hub.address)
                wait_until(lambda: hub.sockets() == 1)
                wait_until(lambda: any(peer.state == "self" for peer in node.peers()))
                assert not node.status().warnings and not hub.status().warnings
