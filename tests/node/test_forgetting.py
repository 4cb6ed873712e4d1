"""Origins that restarts have closed are forgotten, once nobody keeps a message of them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from p2p_sync import Node
from p2p_sync.disk import witness
from p2p_sync.disk.restore import restore
from p2p_sync.wire.cutoffs import NO_HISTORY, cutoff_of
from p2p_sync.wire.identity import Identity
from p2p_sync.wire.signing import sign
from tests.harness import raw
from tests.harness.library import texts
from tests.harness.member import hello, identities
from tests.harness.support import holds, wait_until

HIDDEN = {"advertise": "none"}  # a node that others do not miss while it is away


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2p_sync.node.forgetting.CUTOFF_CHECK", 0.1)
    monkeypatch.setattr("p2p_sync.core.comparing.AUDIT_INTERVAL", 2.0)


@pytest.fixture
def boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], object]:
    """Boots the machine again: nodes that start from then on get a new origin."""
    file = tmp_path / "boot_id"
    boots = iter(range(1_000))

    def boot() -> object:
        return file.write_text(f"boot {next(boots)}\n")

    boot()
    monkeypatch.setattr(witness, "BOOT_ID", file)
    return boot


class Mesh:
    """Nodes that dial `hub`, which never stops."""

    def __init__(self, directory: Path, boot: Callable[[], object], **settings: Any) -> None:
        self._stack = ExitStack()
        self._directory, self._boot, self._settings = directory, boot, settings
        self.hub = self._stack.enter_context(Node(0, directory / "hub", **settings))
        self.nodes: dict[str, Node] = {"hub": self.hub}

    def start(self, name: str, *others: str, **settings: Any) -> Node:
        """Start a node on its directory, after another boot; it connects to others, too."""
        self._boot()
        node = Node(0, self._directory / name, **{**self._settings, **HIDDEN, **settings})
        node.start()
        self._stack.callback(node.stop)
        for other in (*others, "hub"):
            node.connect(self.nodes[other].address)
        self.nodes[name] = node
        wait_until(lambda: equal(*self.nodes.values()), lambda: [*map(state, self.nodes.values())])
        return node

    def stop(self, name: str) -> None:
        self.nodes.pop(name).stop()
        wait_until(lambda: self.hub.sockets() == len(self.nodes) - 1)

    def restart(self, name: str, times: int = 1) -> set[str]:
        """Have a node commit a message and restart it; return its former origins."""
        left = set()
        for n in range(times):
            left.add(self.nodes[name].commit(f"{name} {n}", copies=1, timeout=30).origin)
            self.stop(name)
            self.start(name)
        return left

    def fill(self, *names: str) -> None:
        """Commit so much on some nodes that all before goes."""
        for name in names:
            for n in range(20):
                self.nodes[name].commit(f"{name} fills {n}")

    def rows(self, name: str) -> set[str]:
        """The origins and cutoffs in the database of a node."""
        return rows(self._directory / name)

    def lacks(self, name: str, origins: set[str]) -> bool:
        """Whether the database of a node has none of these origins."""
        return not self.rows(name) & origins

    def has_of(self, name: str, node: str, origins: set[str]) -> bool:
        """Whether the database of a node has just these origins and cutoffs of a node."""
        return {row for row in self.rows(name) if row.startswith(node)} == origins

    def close(self) -> None:
        self._stack.close()


def rows(directory: Path) -> set[str]:
    with closing(sqlite3.connect(f"file:{directory / 'node.db'}?mode=ro", uri=True)) as database:
        return {name for (name,) in database.execute("SELECT origin FROM origins")}


def is_left(directory: Path, wanted: set[str]) -> bool:
    return rows(directory) == wanted


def state(node: Node) -> Any:
    status = node.status()
    return status.messages, status.verdict.text, sorted(heads(node))


def lines(node: Node) -> list[list[bytes]]:
    """A backup of a node."""
    pages = [[line.encode() for line in page] for page in node.log.export()]
    return [*pages, [json.dumps({"exported": sum(map(len, pages))}).encode()]]


def heads(node: Node) -> Any:
    with node._running().state.turn() as core:
        return core.replica.vector.heads()


def equal(*nodes: Node) -> bool:
    """Whether these nodes hold the same, and know it."""
    found = [node.status() for node in nodes]
    same = len({status.messages.digest for status in found}) == 1
    return same and all(status.verdict.state in ("in_sync", "alone") for status in found)


@contextmanager
def meshed(directory: Path, boot: Callable[[], object], **settings: Any) -> Iterator[Mesh]:
    mesh = Mesh(directory, boot, **settings)
    try:
        yield mesh
    finally:
        mesh.close()


def test_all_nodes_forget_the_old_origins_of_a_node(
    tmp_path: Path, boot: Callable[[], object]
) -> None:
    with meshed(tmp_path, boot, keep_messages=10) as mesh:
        mesh.start("a")
        mesh.start("b")
        left = mesh.restart("b", 5)
        assert len(left) == 5
        mesh.fill("hub", "a", "b")
        last = mesh.nodes["b"].commit("last").origin
        names = {last, cutoff_of(mesh.nodes["b"].id)}
        for name in mesh.nodes:
            wait_until(partial(mesh.lacks, name, left), partial(state, mesh.nodes[name]))
            wait_until(partial(mesh.has_of, name, last[:32], names), partial(mesh.rows, name))
        nodes = [*mesh.nodes.values()]
        wait_until(lambda: equal(*nodes), lambda: [*map(state, nodes)])
        assert len({frozenset(heads(node)) for node in nodes}) == 1
        assert not any(node.status().missed for node in nodes)
        digest = mesh.hub.status().messages.digest
        mesh.stop("a")
        assert mesh.start("a").status().messages.digest == digest, "also after a restart"
        assert not mesh.rows("a") & left


def test_a_node_that_was_away_does_not_bring_them_back(
    tmp_path: Path, boot: Callable[[], object]
) -> None:
    with meshed(tmp_path, boot, keep_messages=10) as mesh:
        mesh.start("a")
        mesh.start("b")
        (left,) = mesh.restart("b")
        old = mesh.nodes["b"].commit("needle", copies=1, timeout=30)
        mesh.restart("b")
        assert old.origin != left
        wait_until(lambda: "needle" in texts(mesh.nodes["a"]))
        mesh.stop("a")
        mesh.fill("hub", "b")
        wait_until(lambda: old.origin not in mesh.rows("hub"), lambda: state(mesh.hub))
        away = mesh.start("a", keep_messages=None)  # with messages of it
        assert old.origin not in heads(away) and old.origin in mesh.rows("a")
        assert {left, old.origin}.isdisjoint({*heads(mesh.hub), *mesh.rows("hub")})
        found = away.log.message(f"{old.origin}:{old.seq}")
        assert found and found.data == "needle" and "needle" in texts(away)
        assert [message.data for message in away.log.search("needle", 10)] == ["needle"]
        assert away.erase(f"{old.origin}:{old.seq}").erased
        assert "needle" not in texts(away)
        mesh.stop("a")
        again = mesh.start("a")  # with its own limit
        mesh.fill("hub")
        wait_until(lambda: old.origin not in mesh.rows("a"), lambda: state(again))
        wait_until(lambda: equal(*mesh.nodes.values()))


def test_nothing_is_ended_while_a_peer_keeps_it_or_a_known_node_is_missing(
    tmp_path: Path, boot: Callable[[], object]
) -> None:
    with meshed(tmp_path, boot, keep_messages=10) as mesh:
        mesh.start("archive", keep_messages=None)
        mesh.start("b")
        left = mesh.restart("b", 2)
        mesh.fill("hub", "b")
        wait_until(lambda: len(texts(mesh.nodes["b"])) <= 11)
        mesh.nodes["b"].connect(mesh.nodes["archive"].address)
        holds(lambda: left <= mesh.rows("hub"), lambda: state(mesh.hub))
        late = mesh.start("late", "archive", keep_messages=None)
        wait_until(lambda: {"b 0", "b 1"} <= set(texts(late)), lambda: state(late))
        mesh.stop("late")
        b = mesh.nodes["b"]
        mesh.stop("archive")
        wait_until(lambda: any(p.state != "connected" for p in b.peers()), b.peers)
        holds(lambda: left <= mesh.rows("hub"), lambda: state(mesh.hub))
        for peer in b.peers():
            if peer.state != "connected":
                b.forget(peer.key)
        wait_until(lambda: not left & mesh.rows("hub"), lambda: (state(b), b.peers()))


def test_a_node_alone_forgets_its_own(tmp_path: Path, boot: Callable[[], object]) -> None:
    for n in range(5):
        boot()
        with Node(0, tmp_path / "data", keep_messages=3) as node:
            last = [node.commit(f"{n} {k}").origin for k in range(4)][-1]
            wanted = {last, cutoff_of(node.id)} if n else {last}
            wait_until(partial(is_left, tmp_path / "data", wanted))


def test_what_comes_from_an_old_backup_is_forgotten_again(
    tmp_path: Path, boot: Callable[[], object]
) -> None:
    """A backup needs no cutoffs: the peers have them."""
    with meshed(tmp_path, boot, keep_messages=10) as mesh:
        mesh.start("b")
        (left,) = mesh.restart("b")
        mesh.restart("b")
        restore(tmp_path / "restored", lines(mesh.hub))
        mesh.fill("hub", "b")
        wait_until(lambda: left not in mesh.rows("hub"), lambda: state(mesh.hub))
        restored = mesh.start("restored", keep_messages=None)
        assert left in mesh.rows("restored") and left not in heads(restored)
        assert left not in mesh.rows("hub") and "b 0" in texts(restored)


FORGED = 1_800_000_000_000


def forged(node: Node, thief: Identity) -> dict[str, tuple[str, list[Any]]]:
    """Cutoffs that nobody but the thief has signed."""
    name, signature = cutoff_of(node.id), sign(thief, cutoff_of(node.id), FORGED, NO_HISTORY)
    (origin, head) = next((n, head) for n, head in heads(node).items() if n.startswith(node.id))
    own = cutoff_of(thief.node), sign(thief, cutoff_of(thief.node), FORGED, NO_HISTORY)
    return {
        "another key": (name, [FORGED, NO_HISTORY, signature]),
        "the key of the node": (name, [FORGED, NO_HISTORY, head.signature[:64] + signature[64:]]),
        "the signature of a head": (name, [head.n, NO_HISTORY, head.signature]),
        "a later time": (own[0], [FORGED + 1, NO_HISTORY, own[1]]),
        "the end of another node's origin": (origin, [head.n + 1, NO_HISTORY, signature]),
        "cut short": (own[0], [FORGED, NO_HISTORY, own[1][:-1]]),
    }


@pytest.mark.parametrize("kind", range(6))
def test_a_forged_cutoff_changes_nothing(
    kind: int, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    with Node(0, tmp_path) as node:
        node.commit("first")
        what, (name, head) = list(forged(node, thief := next(identities)).items())[kind]
        before = heads(node)
        with raw.dial(node.address, identity=thief) as peer:
            peer.send_json(hello())
            peer.send_json({"type": "HAVE", "have": {name: head}})
            code, reason = peer.read_close()
        assert (code, reason) in (
            (1008, "it sent messages, or a claim to hold some, that their node has not signed"),
            (1002, "a frame about the log: not a signature"),
        ), what
        assert heads(node) == before and rows(tmp_path) == {*before}
        if code == 1008:
            assert node.status().misbehaviour["signature"] == 1
            wait_until(lambda: "that their node has not signed" in caplog.text, what)
