"""Disks that change what they hold: what is damaged is neither shown nor sent, the rest is."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from p2p_sync import LogError, Node, StartError
from p2p_sync.wire.identity import Identity
from tests.harness.api import read_pages, status, wait_equal
from tests.harness.support import SCALE, NodeProcess, holds, run_to_end, wait_until

TEXTS = [f"single-{n:03d}-abcdefghij" for n in range(40)]
MANY = [f"many-{n:03d}-abcdefghij" for n in range(40)]
ALL = sorted([*TEXTS, *MANY])
OTHER_KIND = """-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VuBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f
-----END PRIVATE KEY-----
"""
"""A private key of another kind, X25519, which signs nothing."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory of a node that has stopped: 40 entries of one message, one of 40."""
    directory = tmp_path_factory.mktemp("whole") / "data"
    with Node(0, directory) as node:
        for text in TEXTS[:20]:
            node.commit(text)
        list(node.commit_all(MANY))
        for text in TEXTS[20:]:
            node.commit(text)
    return directory


@pytest.fixture(scope="module")
def twin(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory of another node that holds the same."""
    directory = tmp_path_factory.mktemp("twin") / "data"
    source = shutil.copytree(whole, directory.with_name("source"))
    with Node(0, source) as one, Node(0, directory) as other:
        other.connect(one.address)
        wait_until(lambda: texts(other) == ALL, "the other node has all")
    return directory


@pytest.fixture
def directory(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return shutil.copytree(whole, tmp_path / "data")


@pytest.fixture(params=["at the start", "when it is read"])
def found(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """When damage is found: only logs that are not large are checked whole at the start."""
    if request.param == "when it is read":
        monkeypatch.setattr("p2p_sync.settings.MAX_CHECKED_BYTES", 0)
    return str(request.param)


def change(directory: Path, statement: str) -> None:
    with closing(sqlite3.connect(directory / "node.db")) as database:
        assert database.execute(statement).rowcount > 0
        database.commit()


def texts(node: Node) -> list[str]:
    return sorted(message.data for message in node.messages())


def digest(node: Node) -> str:
    return str(node.status().messages.digest)


HIT = "WHERE data LIKE 'single-010%'"
BULK = "WHERE data LIKE '[%'"
# What is changed of an entry, and which texts cannot be shown then.
CHANGES: dict[str, tuple[str, list[str]]] = {
    "a letter": (f"UPDATE entries SET data = 'single-010-Abcdefghij' {HIT}", ["single-010"]),
    "no UTF-8": (f"UPDATE entries SET data = CAST(x'73ff' AS TEXT) {HIT}", ["single-010"]),
    "a NUL": (f"UPDATE entries SET data = 'single' || char(0) {HIT}", ["single-010"]),
    "no text": (f"UPDATE entries SET data = '' {HIT}", ["single-010"]),
    "a number": (f"UPDATE entries SET data = 5 {HIT}", ["single-010"]),
    "binary": (f"UPDATE entries SET data = CAST('x' AS BLOB) {HIT}", ["single-010"]),
    "time": (f"UPDATE entries SET time = time + 1 {HIT}", ["single-010"]),
    "a text as time": (f"UPDATE entries SET time = 'x' {HIT}", ["single-010"]),
    "heard": (f"UPDATE entries SET kind = 1 {HIT}", ["single-010"]),
    "count": (f"UPDATE entries SET count = 2 {HIT}", ["single-010"]),
    "previous": (f"UPDATE entries SET previous = x'00' {HIT}", ["single-010"]),
    "checksum": (f"UPDATE entries SET sum = sum + 1 {HIT}", ["single-010"]),
    "sequence number": (f"UPDATE entries SET seq = 1000 {HIT}", ["single-010"]),
    "origin": (f"UPDATE entries SET origin = '{'f' * 32}-1' {HIT}", ["single-010"]),
    "an origin that is none": (
        f"UPDATE entries SET origin = CAST(x'ff' AS TEXT) {HIT}", ["single-010"]
    ),
    "the first": ("UPDATE entries SET data = 'x' WHERE seq = 1", ["single-000"]),
    "the last": ("UPDATE entries SET data = 'x' WHERE data LIKE 'single-039%'", ["single-039"]),
    "one that is gone": (f"DELETE FROM entries {HIT}", ["single-010"]),
    "two": (
        "UPDATE entries SET data = 'x' WHERE data LIKE 'single-010%' OR data LIKE 'single-030%'",
        ["single-010", "single-030"],
    ),
    "no JSON": (f"UPDATE entries SET data = '[\"many' {BULK}", ["many"]),
    "other JSON": (f"UPDATE entries SET data = '[\"a\", \"b\"]' {BULK}", ["many"]),
}  # fmt: skip


def left(prefixes: list[str]) -> list[str]:
    return [text for text in ALL if not text.startswith(tuple(prefixes))]


def everything(node: Node) -> Iterator[list[str]]:
    """The texts, by each way to read them."""
    log = node.log
    yield texts(node)
    yield sorted(message.data for _, message in log.arrivals(0, 1000))
    yield sorted(message.data for message in log.newest(1000))
    yield sorted(message.data for message in log.search("abcdefghij", 1000))
    paged: list[str] = []
    after = (-1, "", 0)
    while page := log.ordered(after, 7):
        paged += [message.data for message in page]
        after = page[-1].order
    yield sorted(paged)


@pytest.mark.parametrize("what", CHANGES)
def test_the_rest_is_shown_and_new_commits_work(directory: Path, found: str, what: str) -> None:
    statement, gone = CHANGES[what]
    change(directory, statement)
    with Node(0, directory) as node:
        for shown in everything(node):
            assert shown == left(gone)
        if found == "at the start":
            assert node.status().damaged and node.unready()
        assert node.commit("new").seq == 1
        assert texts(node) == sorted([*left(gone), "new"])
    with Node(0, directory) as node:
        assert texts(node) == sorted([*left(gone), "new"])


@pytest.mark.parametrize("what", CHANGES)
def test_it_comes_again_from_a_peer_and_nobody_conflicts(
    twin: Path, directory: Path, tmp_path: Path, found: str, what: str
) -> None:
    change(directory, CHANGES[what][0])
    good, node, late = nodes = [
        Node(0, shutil.copytree(twin, tmp_path / "good")), Node(0, directory), Node(0)
    ]  # fmt: skip
    with good, node, late:
        late.connect(node.address)  # knows the damaged one alone
        wait_until(lambda: node.status().damaged, "it reads for the late one what is damaged")
        assert set(texts(late)) <= set(ALL)
        late.connect(good.address)
        wait_until(
            lambda: all(texts(one) == ALL for one in (good, late)),
            lambda: [(len(texts(one)), one.status(), one.peers()) for one in nodes],
            60 * SCALE,
        )
        node.messages()  # reads all
        wait_until(lambda: texts(node) == ALL, lambda: node.status(), 60 * SCALE)
        wait_until(
            lambda: len({digest(one) for one in nodes}) == 1,
            lambda: [one.status() for one in nodes],
        )
        for one in nodes:
            told = one.status()
            assert told.conflicts == 0 and told.damaged == []
            assert not any(told.misbehaviour.values()), told


ORIGINS = {
    "the name": f"UPDATE origins SET origin = '{'f' * 32}-1'",
    "no name": "UPDATE origins SET origin = CAST(x'ff' AS TEXT)",
    "a row that is gone": "DELETE FROM origins",
    "the number": "UPDATE origins SET n = n - 1",
    "no number": "UPDATE origins SET n = 'x'",
    "the hash": "UPDATE origins SET hash = x'00'",
    "the signature": "UPDATE origins SET signature = x''",
    "the floor": "UPDATE origins SET floor = 3",
    "a place without damage": "INSERT INTO damage SELECT origin, 7 FROM origins",
    "a place that is none": "INSERT INTO damage VALUES (x'ff', 'x'), ('x', 1000)",
}


@pytest.mark.parametrize("what", ORIGINS)
def test_damage_beside_the_entries_does_no_harm(
    whole: Path, directory: Path, tmp_path: Path, found: str, what: str
) -> None:
    with Node(0, shutil.copytree(whole, tmp_path / "good")) as good:
        before = digest(good)
    change(directory, ORIGINS[what])
    with Node(0, directory) as node:
        assert texts(node) == ALL and digest(node) == before
        assert node.status().damaged == [] and not node.unready()
        assert node.status().messages.count == len(ALL)


def test_a_damaged_log_says_so_by_every_way(directory: Path, tmp_path: Path) -> None:
    change(directory, CHANGES["no UTF-8"][0])
    with NodeProcess(data_dir=directory) as node:
        told = status(node.port)
        (name,) = told["damaged"]
        assert name.endswith(":11")
        answer = node.get("/readyz")
        assert (answer.status, name in answer.text) == (503, True)
        assert sorted(node.texts()) == left(["single-010"])
        page = node.get("/", Accept="text/html")
        assert (page.status, name in page.text) == (200, True)
        for order in ("arrival", "time", "newest"):
            answer = node.get(f"/api/v1/messages?order={order}&limit=1000")
            assert (answer.status, json.loads(answer.body)["damaged"]) == (200, 1)
        assert len(read_pages(node.port, "time")[0]) == len(ALL) - 1
        url = f"http://127.0.0.1:{node.port}"
        result = run_to_end("status", "--node", url, "--wait", "0")
        assert (result.returncode, name in result.stderr) == (1, True)
        result = run_to_end("export", "--node", url)
        assert result.returncode == 6 and "1 entry is damaged" in result.stderr
        assert len(result.stdout.splitlines()) == len(ALL), "and the last line"
        (tmp_path / "all").write_text("an older backup")
        result = run_to_end("backup", str(tmp_path / "all"), "--node", url)
        assert result.returncode == 6 and "1 entry is damaged" in result.stderr
        assert (tmp_path / "all").read_text() == "an older backup"
        result = run_to_end("log", "--node", url)
        assert (result.returncode, "1 entry is damaged" in result.stderr) == (0, True)
        assert len(result.stdout.splitlines()) == len(ALL) - 1
        lines = [line for line in node.log().splitlines() if "ERROR" in line]
        assert len(lines) == 1 and name in lines[0]


def test_damage_while_it_runs_is_found_by_those_who_follow(directory: Path) -> None:
    with Node(0, directory) as node:
        change(directory, CHANGES["a letter"][0])
        pages = node.follow(0, 0.5)
        seen: list[str] = []
        damaged = 0
        for page in pages:
            seen += [message.data for _, message in page]
            damaged += page.damaged
            if not page and not page.damaged:
                break
        assert (sorted(seen), damaged) == (left(["single-010"]), 1)
        wait_until(lambda: node.status().damaged, "it says so")
        assert node.commit("new").seq == 1
        assert [message.data for _, message in next(pages)] == ["new"]


def test_own_commits_go_on_where_one_of_them_is_damaged(tmp_path: Path) -> None:
    with Node(0, tmp_path / "data") as node:
        first = [node.commit(f"{n}") for n in range(5)]
        change(tmp_path / "data", "UPDATE entries SET data = 'x' WHERE seq = 3")
        assert len(node.messages()) == 4
        wait_until(lambda: node.status().damaged == [first[2].id], "it says so")
        later = node.commit("later")
        assert later.origin != first[0].origin, "no identity is used twice"
        assert texts(node) == ["0", "1", "3", "4", "later"]


def test_damage_is_remembered_where_the_log_is_too_large_to_be_checked(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2p_sync.settings.MAX_CHECKED_BYTES", 0)
    change(directory, CHANGES["a letter"][0])
    with Node(0, directory) as node:
        assert node.status().damaged == []
        assert texts(node) == left(["single-010"])
        wait_until(lambda: node.status().damaged, "it says so")
        told = node.status()
    with Node(0, directory) as node:
        assert node.status().damaged == told.damaged
        assert node.status().messages.digest == told.messages.digest


@pytest.mark.parametrize("count", [1, 3, 20])
def test_damaged_entries_at_the_end_come_again(
    twin: Path, directory: Path, tmp_path: Path, found: str, count: int
) -> None:
    change(directory, f"UPDATE entries SET data = 'x' WHERE data > 'single-{39 - count:03d}-z'")
    with Node(0, directory) as node:
        assert len(texts(node)) == len(ALL) - count
        wait_until(lambda: node.status().damaged, "it says so")
        assert [name[-3:] for name in node.status().damaged] == [f":{81 - count}"]
        with Node(0, shutil.copytree(twin, tmp_path / "good")) as good:
            node.connect(good.address)
            wait_until(lambda: texts(node) == ALL, node.status, 60 * SCALE)
            wait_until(lambda: not node.unready(), node.status)
    with Node(0, directory) as node:
        assert texts(node) == ALL and node.status().damaged == []


def test_what_follows_the_damage_does_not_arrive_twice(
    twin: Path, directory: Path, tmp_path: Path
) -> None:
    """The peer got it by catching up, so fewer entries are signed there than here."""
    change(directory, CHANGES["a letter"][0])
    with Node(0, directory) as node, Node(0, shutil.copytree(twin, tmp_path / "good")) as good:
        before = node.log.last_arrival()
        node.connect(good.address)
        wait_until(lambda: texts(node) == ALL, node.status, 60 * SCALE)
        wait_until(lambda: node.log.last_arrival() > before, "the arrival is counted")
        again = [message.data for _, message in node.log.arrivals(before, 1_000)]
        assert again == [TEXTS[10]]


def test_an_origin_without_a_whole_entry_comes_again(tmp_path: Path, found: str) -> None:
    with Node(0, tmp_path / "data") as node, Node(0) as peer:
        peer.connect(node.address)
        message = node.commit("only", copies=1, timeout=60 * SCALE)
        node.stop()
        change(tmp_path / "data", "UPDATE entries SET data = 'x'")
        with Node(0, tmp_path / "data") as again:
            assert texts(again) == []
            wait_until(lambda: again.status().damaged == [message.id], "it says so")
            again.connect(peer.address)
            wait_until(lambda: texts(again) == ["only"], again.status, 60 * SCALE)
            wait_until(lambda: not again.unready(), again.status)


def test_an_entry_that_belongs_nowhere_is_counted_once(directory: Path, found: str) -> None:
    change(directory, CHANGES["origin"][0])
    with Node(0, directory) as node:
        texts(node)  # in a large log it is found now
        wait_until(lambda: not node.log.newest(1000).damaged, node.status)
        assert texts(node) == left(["single-010"])


# -- a byte anywhere ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(30))
def test_any_byte_may_change(whole: Path, directory: Path, tmp_path: Path, seed: int) -> None:
    """It is refused at the start, or noticed: nothing else than what was committed is shown, and
    a peer that holds all conflicts with nobody."""
    rng = random.Random(seed)
    data = bytearray((directory / "node.db").read_bytes())
    used = [n for n, byte in enumerate(data) if byte]  # most of a page is empty
    data[rng.choice(used)] ^= 1 << rng.randrange(8)
    (directory / "node.db").write_bytes(data)
    with Node(0, shutil.copytree(whole, tmp_path / "good")) as probe:
        held = {message.id: message.data for message in probe.messages()}
        before = digest(probe)
    node = Node(0, directory)
    try:
        node.start()
    except StartError:
        return
    with node, Node(0) as late:
        late.connect(node.address)
        wait_until(node.sockets, "linked")

        def shown(one: Node) -> dict[str, Any]:
            try:
                return {message.id: message.data for message in one.messages()}
            except LogError:
                return {}  # a page of the database cannot be read: an answer of 503

        def right() -> bool:
            return all(shown(one).items() <= held.items() for one in (node, late))

        holds(right, lambda: (shown(node), shown(late)), 0.3)
        told = node.status()
        assert told.conflicts == late.status().conflicts == 0
        if told.messages.digest == before and shown(node):
            assert shown(node) == held or told.damaged


def test_a_damaged_name_of_a_table_or_column_is_refused(whole: Path, directory: Path) -> None:
    """SQLite takes most of them for names that somebody chose."""
    data = (whole / "node.db").read_bytes()
    names = [b"previous", b"leader", b"last_error", b"by_place", b"damage", b"worked", b"CREATE"]
    for name in names:
        for bit in (1, 128):
            at = data.index(name)
            changed = bytes([data[at] ^ bit])
            (directory / "node.db").write_bytes(data[:at] + changed + data[at + 1 :])
            with pytest.raises(StartError, match=r"is damaged .* put it aside"):
                Node(0, directory).start()


@pytest.mark.parametrize("text", ["", "x", "short", "-----BEGIN PRIVATE KEY-----\n", OTHER_KIND])
def test_a_damaged_key_is_refused_and_a_deleted_one_replaced(directory: Path, text: str) -> None:
    path = directory / "node-key.pem"
    with Node(0, directory) as node:
        first = node.id
    kept = path.read_text()
    path.write_text(text)
    with pytest.raises(StartError, match=r"node-key.pem is damaged .* delete it: then this node"):
        Node(0, directory).start()
    path.write_text(kept)
    with Node(0, directory) as node:
        assert node.id == first
    path.unlink()
    with Node(0, directory) as node, Node(0) as peer:
        assert node.id != first
        peer.connect(node.address)
        wait_until(lambda: texts(peer) == ALL, "they understand each other")


def test_any_byte_of_the_key_may_change() -> None:
    """Any 32 bytes are a key; but the file says which node it belongs to."""
    identity = Identity.new()
    text = identity.to_pem()
    refused = 0
    for place in range(len(text)):
        for bit in range(8):
            changed = text[:place] + bytes([text[place] ^ 1 << bit]) + text[place + 1 :]
            try:
                assert Identity.from_pem(changed).node == identity.node
            except ValueError:
                refused += 1
    assert refused > 8 * 32
    assert Identity.from_pem(text).node == identity.node
    pem = text[text.index(b"-----BEGIN") :]  # made by another program
    assert Identity.from_pem(pem).node == identity.node


def test_a_disk_that_fails_at_the_start_is_reported(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise LogError("disk I/O error")

    monkeypatch.setattr("p2p_sync.disk.store.Store.addresses", fail)
    with pytest.raises(StartError, match="disk I/O error"):
        Node(0, directory).start()
    monkeypatch.undo()
    with Node(0, directory) as node:  # nothing of the first attempt holds the directory
        assert texts(node) == ALL


@pytest.mark.parametrize("seed", range(8))
def test_any_byte_of_the_write_ahead_log_may_change(tmp_path: Path, seed: int) -> None:
    """The log then ends before the transaction that is damaged; the rest comes again from a peer,
    and no identity is used twice."""
    directory, rng = tmp_path / "data", random.Random(seed)
    with NodeProcess("--ephemeral") as peer, NodeProcess(data_dir=directory) as node:
        peer.add(node.address)
        for n in range(20):
            node.commit(f"text {n}")
        wait_equal([node.port, peer.port], 20)
        node.process.kill()
        node.process.wait()
        path = directory / "node.db-wal"
        data = bytearray(path.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        with NodeProcess(data_dir=directory) as again:
            held = again.texts()
            assert held == [f"text {n}" for n in range(len(held))]
            again.commit("new")
            again.add(peer.address)
            wait_equal([again.port, peer.port], 21)
            assert sorted(again.texts()) == sorted([*(f"text {n}" for n in range(20)), "new"])
            for one in (again, peer):
                assert one.status()["conflicts"] == 0 and not one.status()["forks"]
