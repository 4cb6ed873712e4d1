"""Members that misbehave: a hostile peer plays each row against a real node under load.

The node is linked with an honest one, and commits flow from the one to the other all the time.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from p2p_sync import Node
from tests.harness import raw
from tests.harness.api import origins_of, read_pages
from tests.harness.http import Http, commit_bytes, get_bytes
from tests.harness.library import texts
from tests.harness.member import claims, hello, identities, run
from tests.harness.process import held, memory
from tests.harness.raw import CONTINUATION, PING, PONG, TEXT, RawPeer, RawServer, frame, tcp
from tests.harness.support import (
    DEADLINE,
    SCALE,
    NodeProcess,
    equal,
    holds,
    pause,
    wait_until,
)

ATTACK = 2.5 * SCALE
"""Seconds that an attack lasts at least, and samples of the delay that are taken meanwhile."""
SAMPLES = 25
WINDOWS = 4
"""Times that this is done while the median is too high: the machine may have other work."""
FLOOR = 0.012 * SCALE
"""A median delay below this (seconds) is taken for this: noise of a machine with other work."""
MEMORY = 50.0
"""MiB that an attack may cost."""
Pair = list[NodeProcess]
"""A node, and the honest one that it is linked with."""


class Delays:
    """Measures how long commits on one node take to show on another; a context manager."""

    def __init__(self, here: NodeProcess, there: NodeProcess) -> None:
        self.count = 0
        _, self.after = read_pages(there.port, "arrival")
        self.here, self.there = Http(here.port), Http(there.port)

    def measure(self) -> float:
        """Seconds from a commit to when it shows on the other node."""
        self.count += 1
        text = f"load-{self.count}"
        began = time.monotonic()
        self.here.ask(commit_bytes(self.here.port, text), 302)
        while time.monotonic() < began + DEADLINE:
            target = f"/api/v1/messages?order=arrival&after={self.after}"
            page = json.loads(self.there.ask(get_bytes(self.there.port, target), 200))
            self.after = page["next"]
            if any(message["data"] == text for message in page["messages"]):
                return time.monotonic() - began
        raise AssertionError(f"{text} does not show")

    def median(self, count: int) -> float:
        return statistics.median(self.measure() for _ in range(count))

    def __enter__(self) -> Delays:
        return self

    def __exit__(self, *_: object) -> None:
        self.here.__exit__()
        self.there.__exit__()


class Hostile:
    """A peer with an id of its own that dials again as soon as its link is closed."""

    def __init__(self, address: str, receive_buffer: int = 0, pace: float = 0.0) -> None:
        self.address = address
        self.identity = next(identities)
        self.id = self.identity.node
        self.origin = f"{self.id}-1"
        self.receive_buffer = receive_buffer
        self.reading = not receive_buffer
        self.pace = pace
        self.stopped = threading.Event()
        self.frames = 0  # sent
        self.links = 0
        self.closes: list[tuple[int | None, str]] = []
        self.grafted = threading.Event()

    def text(self, kind: str, **fields: Any) -> bytes:
        return frame(TEXT, json.dumps({"type": kind, **fields}).encode(), masked=True)

    def hello(self, **fields: Any) -> bytes:
        return frame(TEXT, json.dumps(hello(**fields)).encode(), masked=True)

    def dial(self, **options: Any) -> RawPeer:
        return raw.dial(self.address, identity=self.identity, **options)

    def have(self, vector: dict[str, Any], last: bool = False) -> bytes:
        return self.text("HAVE", have=vector, last=last)

    def run(self, build: Callable[[Hostile], Iterator[bytes]]) -> None:
        """Play a row until told to stop: what `build` yields is sent on each new link, with a
        pause of `pace` seconds after each piece."""
        while not self.stopped.is_set():
            with contextlib.suppress(OSError, AssertionError, EOFError):
                peer = self.dial(receive_buffer=self.receive_buffer)
                self.links += 1
                with peer:
                    self.peer = peer
                    self._play(peer, build)
            self.stopped.wait(0.02)

    def stop(self) -> None:
        """End it, though it be in the middle of a write that nobody takes."""
        self.stopped.set()
        with contextlib.suppress(AttributeError, OSError):
            self.peer.sock.shutdown(socket.SHUT_RDWR)

    def _play(self, peer: RawPeer, build: Callable[[Hostile], Iterator[bytes]]) -> None:
        reader = threading.Thread(target=self._read, args=(peer,), daemon=True)
        if self.reading:
            reader.start()
        try:
            for data in build(self):
                peer.send_bytes(data)
                self.frames += 1
                if self.stopped.wait(self.pace):
                    break
        finally:
            if self.reading:
                with contextlib.suppress(OSError):
                    peer.send(raw.CLOSE, raw.close_payload(1000))
                reader.join(2.0)

    def _read(self, peer: RawPeer) -> None:
        with contextlib.suppress(OSError, EOFError, ValueError):
            while True:
                found = peer.read()
                if found.opcode == raw.CLOSE:
                    code = int.from_bytes(found.payload[:2], "big") or None
                    self.closes.append((code, found.payload[2:].decode()))
                    # Data on its way to a connection that has ended would be held for long.
                    peer.send(raw.CLOSE, found.payload[:2])
                    peer.sock.shutdown(socket.SHUT_RDWR)
                    return
                if b'"GRAFT"' in found.payload[:20]:
                    self.grafted.set()


@pytest.fixture(scope="module")
def pair(pair: list[NodeProcess]) -> Pair:
    """The second of two nodes is attacked, for it was not told by hand to keep the link.

    All of both is loaded, and the trees have grown.
    """
    honest, node = pair
    with Delays(node, honest) as delays:
        delays.median(20)
    return [node, honest]


@contextlib.contextmanager
def under_attack(
    pair: Pair,
    build: Callable[[Hostile], Iterator[bytes]],
    *,
    receive_buffer: int = 0,
    pace: float = 0.0,
) -> Iterator[Hostile]:
    """Play a row, and hold the node to what it owes: the delay, the memory, and that all is as
    before in the end."""
    node, honest = pair
    hostile = Hostile(node.address, receive_buffer, pace)
    log = len(node.log())
    medians: list[float] = []
    with Delays(node, honest) as load:
        before = load.median(SAMPLES)
        tasks, at_first = held(node, "task"), memory(node)
        attacker = threading.Thread(target=hostile.run, args=(build,), daemon=True)
        attacker.start()
        try:
            wait_until(lambda: hostile.links or hostile.frames, "the attack has begun")
            most = 0.0
            while len(medians) < WINDOWS and (not medians or medians[-1] > 2 * max(before, FLOOR)):
                began = time.monotonic()
                delays: list[float] = []
                while len(delays) < SAMPLES or time.monotonic() < began + ATTACK:
                    delays.append(load.measure())
                    most = max(most, memory(node))
                medians.append(statistics.median(delays))
            yield hostile
        finally:
            hostile.stop()
            attacker.join(DEADLINE)
        during = min(medians)
        told = [f"{median * 1000:.1f}" for median in medians]
        print(
            f"\nmedian delay {before * 1000:.1f} ms, under attack {', '.join(told)} ms; "
            f"{most - at_first:.1f} MiB; {hostile.links} links, {hostile.frames} frames; "
            f"{node.status()['misbehaviour']}; last closes {hostile.closes[-2:]}"
        )
        assert not attacker.is_alive()
        assert most - at_first < MEMORY
        wait_until(
            lambda: load.median(5) <= 2 * max(before, FLOOR),
            "the delay is what it was",
        )
        if during > 2 * max(before, FLOOR):  # has the machine got other work meanwhile?
            before = max(before, load.median(SAMPLES))
        assert during <= 2 * max(before, FLOOR)
    wait_until(lambda: equal(node, honest), "the same on both")
    wait_until(lambda: node.sockets() == 1, "the hostile one is gone, the honest one is linked")
    wait_until(lambda: held(node, "task") <= tasks, f"threads are back at {tasks}")
    lines = [line for line in node.log()[log:].splitlines() if "from " in line]
    assert len([line for line in lines if "linked with" not in line]) < 100, "bounded"


def counted(pair: Pair, kind: str) -> int:
    return int(pair[0].status()["misbehaviour"][kind])


def entry(node: NodeProcess, node_id: str) -> Any:
    return next((peer for peer in node.peers() if peer["id"] == node_id), None)


def check_others_welcome(pair: Pair, hostile: Hostile) -> None:
    """Another node of the same host can link meanwhile, and so can the hostile one."""
    with Hostile(pair[0].address).dial() as other:
        other.send_json(hello())
        wait_until(lambda: (entry(pair[0], hostile.id) or {}).get("state") != "refused")
        other.ping()


# -- The rows -------------------------------------------------------------------------------------


def test_wrong_frames(pair: Pair) -> None:
    wrong = itertools.cycle([b"[", b"[]", b'{"type":"HAVE"}', b'{"type":"GRAFT","after":[]}'])

    def attack(hostile: Hostile) -> Iterator[bytes]:
        yield hostile.hello()
        yield frame(TEXT, next(wrong), masked=True)
        while True:  # until its link is closed
            yield frame(PING, b"?", masked=True)

    before = counted(pair, "frame")
    with under_attack(pair, attack, pace=0.001) as hostile:
        check_others_welcome(pair, hostile)
        wait_until(lambda: [code for code, _ in hostile.closes if code == 1002])
    wait_until(lambda: counted(pair, "frame") - before >= hostile.links - 1 > 3, "each is counted")


FLOODS: dict[str, Callable[[Hostile], list[bytes]]] = {
    "pings": lambda hostile: [frame(PING, b"x" * 125, masked=True) * 200],
    "empty pings": lambda hostile: [frame(PING, masked=True) * 1_000],
    "pongs": lambda hostile: [frame(PONG, b"?", masked=True) * 1_000],
    "small fragments": lambda hostile: [fragment(TEXT)] + [fragment(CONTINUATION) * 1_000] * 9_999,
    "pings in a message": lambda hostile: (
        [(fragment(TEXT) + (fragment(CONTINUATION) + frame(PING, masked=True)) * 500)]
        + [(fragment(CONTINUATION) + frame(PING, masked=True)) * 500] * 9_999
    ),
    "empty fragments": lambda hostile: [
        frame(TEXT, fin=False, masked=True) + frame(CONTINUATION, fin=False, masked=True) * 1_000
    ],
    "unknown types": lambda hostile: [hostile.text("LATER", pad="x" * 100) * 100],
    "big ones": lambda hostile: [hostile.text("LATER", pad="x" * 900_000)],
    "HAVE": lambda hostile: [hostile.have(claims(hostile.identity, range(1, 801), 3))],
    "the same messages": lambda hostile: [
        hostile.text("MESSAGES", runs=[run(hostile.identity, 1_000)])
    ],
}


def fragment(opcode: int) -> bytes:
    return frame(opcode, b" ", fin=False, masked=True)


@pytest.mark.parametrize("kind", FLOODS)
def test_floods(pair: Pair, kind: str) -> None:
    def attack(hostile: Hostile) -> Iterator[bytes]:
        yield hostile.hello() + hostile.have({}, last=True)
        yield from itertools.cycle(FLOODS[kind](hostile))

    with under_attack(pair, attack):
        pass


def test_enormous_vectors(pair: Pair) -> None:
    """Claims beyond what one link may claim are ignored."""

    def attack(hostile: Hostile) -> Iterator[bytes]:
        yield hostile.hello()
        for part in range(25):
            starts = range(1 + part * 800, 1 + (part + 1) * 800)
            yield hostile.have(claims(hostile.identity, starts, 5))
        while True:
            yield frame(PING, b"?", masked=True)

    with under_attack(pair, attack, pace=0.01) as hostile:
        assert hostile.closes == []
        assert pair[0].status()["behind"] <= 1_000


def test_vectors_of_which_nothing_is_shipped(pair: Pair) -> None:
    """As many origins as one link may claim, and new ones on each link."""
    numbers = itertools.count(1)

    def attack(hostile: Hostile) -> Iterator[bytes]:
        yield hostile.hello()
        for part in range(10):
            starts = [next(numbers) for _ in range(800)]
            yield hostile.have(claims(hostile.identity, starts, 5), last=part == 9)
        for _ in range(20):
            yield frame(PING, b"?", masked=True)

    with under_attack(pair, attack, pace=0.003):
        pass
    wait_until(lambda: pair[0].status()["behind"] == 0, "nobody says to hold more")


def test_sequence_gaps(pair: Pair) -> None:
    """The node answers a gap with GRAFT, and counts gaps that follow the answer to it."""

    def attack(hostile: Hostile) -> Iterator[bytes]:
        yield hostile.hello() + hostile.have({}, last=True)
        gap = hostile.text("MESSAGES", runs=[run(hostile.identity, 5, after=5)])
        yield gap
        hostile.grafted.wait(5.0)
        yield hostile.text("MESSAGES", runs=[run(hostile.identity)])
        while True:
            yield gap

    before = counted(pair, "gap")
    with under_attack(pair, attack, pace=0.002) as hostile:
        assert hostile.grafted.is_set()
        check_others_welcome(pair, hostile)
    assert counted(pair, "gap") > before


def test_identities_with_other_contents(pair: Pair) -> None:
    node, _ = pair
    before = node.status()["conflicts"]

    def attack(hostile: Hostile) -> Iterator[bytes]:
        yield hostile.hello() + hostile.have({}, last=True)
        first, other = run(hostile.identity, 3), run(hostile.identity, 5, time_ms=2)
        yield hostile.text("MESSAGES", runs=[first])
        wait_until(lambda: held_of(node, hostile))
        while True:
            yield hostile.text("MESSAGES", runs=[other], have=claims(hostile.identity, [1], 3))
            if hostile.frames % 10 == 0:
                return  # and back again

    with under_attack(pair, attack, pace=0.01) as hostile:
        wait_until(lambda: node.status()["conflicts"] > before)
        wait_until(lambda: node.logged("conflict", hostile.origin), node.log)
        for each in pair:
            wait_until(partial(holds_first_three, each, hostile))


def holds_first_three(node: NodeProcess, hostile: Hostile) -> bool:
    return [message["time"] for message in held_of(node, hostile)] == [1, 1, 1]


def held_of(node: NodeProcess, hostile: Hostile) -> list[Any]:
    """The messages of the hostile one that a node holds; theirs are the oldest."""
    after = f"1.{hostile.origin}.0"
    page = node.api(f"messages?order=time&after={after}")["messages"]
    return [message for message in page if message["origin"] == hostile.origin]


def test_times_in_the_far_future(pair: Pair) -> None:
    node, _ = pair

    def attack(hostile: Hostile) -> Iterator[bytes]:
        yield hostile.hello() + hostile.have({}, last=True)
        for seq in itertools.count():
            yield hostile.text("MESSAGES", runs=[run(hostile.identity, 1, seq, 2**52)])

    before = counted(pair, "future")
    with under_attack(pair, attack, pace=0.02) as hostile:
        assert entry(node, hostile.id)["state"] == "connected", "it may be an honest wrong clock"
    assert counted(pair, "future") > before
    node.commit("after the future")
    newest = node.api("messages?order=time&limit=1000")["messages"]
    ours = [message for message in newest if message["data"] == "after the future"]
    assert not ours or abs(ours[0]["time"] - time.time() * 1000) < 60_000, "not followed"


def test_graft_storms(pair: Pair) -> None:
    node, _ = pair
    origins = origins_of(node)

    def attack(hostile: Hostile) -> Iterator[bytes]:
        yield hostile.hello() + hostile.have({}, last=True)
        names = [*origins, *(f"{n:032x}-9" for n in range(800 - len(origins)))]
        while True:
            yield hostile.text("GRAFT", after=dict.fromkeys(names, 0))

    before = counted(pair, "graft")
    with under_attack(pair, attack, pace=0.002) as hostile:
        check_others_welcome(pair, hostile)
    assert counted(pair, "graft") > before


def test_addresses_by_the_thousand(pair: Pair) -> None:
    numbers = itertools.count(1)

    def address() -> str:
        number = next(numbers)
        return f"ws://127.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}:9"

    def attack(hostile: Hostile) -> Iterator[bytes]:
        yield hostile.hello() + hostile.have({}, last=True)
        while True:
            yield hostile.hello(
                addresses=[address() for _ in range(256)],
                leaves=[address() for _ in range(256)],
            )

    before = counted(pair, "addresses")
    with under_attack(pair, attack, pace=0.005):
        pass
    assert counted(pair, "addresses") > before


def test_half_open_links(pair: Pair) -> None:
    """Handshakes that do not end, and links on which nothing is sent."""
    node, _ = pair

    def attack(hostile: Hostile) -> Iterator[bytes]:
        yield hostile.hello()
        with contextlib.ExitStack() as stack:
            for number in range(100):
                stack.enter_context(tcp(node.address)).sendall(b"GET / HTTP/1.1\r\n"[: number % 16])
            for _ in range(16):
                stack.enter_context(raw.dial(node.address))
            while True:
                yield b""

    with under_attack(pair, attack, pace=0.01):
        pass


def test_reading_nothing(pair: Pair) -> None:
    node, _ = pair
    origins = origins_of(node)

    def attack(hostile: Hostile) -> Iterator[bytes]:
        yield hostile.hello() + hostile.have({}, last=True)
        while True:
            yield hostile.text("GRAFT", after=dict.fromkeys(origins, 0))
            yield frame(PING, b"x" * 125, masked=True) * 10

    with under_attack(pair, attack, receive_buffer=4096, pace=0.01):
        pass


def test_one_byte_a_second(pair: Pair) -> None:
    """Ten of them at once, in the handshake, in a header and in a frame."""
    node, _ = pair

    def attack(hostile: Hostile) -> Iterator[bytes]:
        slow = hostile.text("LATER", pad="x" * 1_000)
        with contextlib.ExitStack() as stack:
            peers = [stack.enter_context(Hostile(node.address).dial()) for _ in range(5)]
            peers[0].send_json(hello())
            socks = [stack.enter_context(tcp(node.address)) for _ in range(5)]
            yield hostile.hello()
            for at in range(1_000):
                for sock in (*(peer.sock for peer in peers), *socks):
                    with contextlib.suppress(OSError):
                        sock.sendall((b"GET / HTTP/1.1\r\n" if sock in socks else slow)[at:][:1])
                yield slow[at:][:1]

    with under_attack(pair, attack, pace=1.0):
        pass


# -- What is counted, with shorter deadlines ------------------------------------------------------


def kinds(node: Node, kind: str) -> int:
    return int(node.status().misbehaviour[kind])


def counts(node: Node, kind: str, count: int) -> bool:
    return kinds(node, kind) == count


def test_a_peer_that_takes_for_ever_over_a_frame_is_cut_and_counted() -> None:
    with Node(0, heartbeat=0.25) as node, Hostile(node.address).dial() as peer:
        peer.send_json(hello())
        wait_until(lambda: node.sockets() == 1)
        data = frame(TEXT, b"x" * 1_000, masked=True)
        with contextlib.suppress(OSError):
            for byte in data:
                peer.send_bytes(bytes([byte]))
                if node.sockets() == 0:
                    break
                pause(0.02)
        wait_until(lambda: node.sockets() == 0)
        wait_until(lambda: kinds(node, "slow") == 1)


def test_a_peer_that_reads_nothing_is_cut_and_counted() -> None:
    with (
        Node(0, send_timeout=0.3) as node,
        Hostile(node.address).dial(receive_buffer=4096) as peer,
    ):
        peer.send_bytes(Hostile("").hello() + Hostile("").have({}, last=True))
        wait_until(lambda: node.sockets() == 1)
        for number in range(400):
            node.commit("x" * 60_000)
            if number % 10 == 0 and node.sockets() == 0:
                break
        wait_until(lambda: kinds(node, "deaf") == 1)


def test_a_peer_that_says_nothing_any_more_is_cut_and_counted() -> None:
    with Node(0, heartbeat=0.2) as node, Hostile(node.address).dial() as peer:
        peer.send_json(hello())
        wait_until(lambda: kinds(node, "silent") == 1)


def violate(peer: RawPeer) -> None:
    """Break a rule as a node of ours, and have the link closed."""
    peer.send_json(hello())
    peer.send_json({"type": "HAVE"})
    assert peer.read_close() == (1002, "a frame about the log: have is not an object")


def test_no_id_and_no_host_is_refused_for_what_it_did_before() -> None:
    identity = next(identities)
    with Node(0) as honest, Node(0) as node:
        for count in range(1, 21):
            with raw.dial(node.address, identity=identity) as peer:
                violate(peer)
            wait_until(partial(counts, node, "frame", count))
        honest.connect(node.address)
        wait_until(lambda: honest.sockets() == node.sockets() == 1)
        holds(lambda: honest.sockets() == node.sockets() == 1)
        (entry,) = node.peers()
        assert (entry.id, entry.state) == (honest.id, "connected")


def test_a_violation_ends_one_link_and_leaves_the_others() -> None:
    with Node(0) as node, Node(0) as other, raw.dial(node.address) as bystander:
        other.connect(node.address)
        bystander.send_sockets()
        wait_until(lambda: node.sockets() == 2)
        with raw.dial(node.address, identity=next(identities)) as peer:
            violate(peer)
        wait_until(lambda: kinds(node, "frame") == 1)
        bystander.ping()
        node.commit("after it")
        wait_until(lambda: [message.data for message in other.messages()] == ["after it"])
        assert node.sockets() == 2


def test_an_address_behind_which_rules_are_broken_is_dialled_less_and_less_often() -> None:
    with RawServer() as server, Node(0, redial_first=0.1, redial_longest=30.0) as node:
        node.connect(server.address)
        for count in range(1, 5):
            with server.accept(next(identities)) as peer:
                violate(peer)
            wait_until(partial(counts, node, "frame", count))
            wait_until(partial(failed_dials, node, count))
        (entry,) = node.peers()
        assert entry.state in ("refused", "dialling") and "is not" in entry.last_error


def failed_dials(node: Node, count: int) -> bool:
    return bool(node.peers()[0].attempts == count)


def test_two_nodes_with_a_conflict_over_a_third_ones_messages_stay_linked() -> None:
    """The third gave each of them another message under one id; neither of them is to blame."""
    third = next(identities)
    with Node(0) as one, Node(0) as two:
        for node, text in ((one, "one"), (two, "two")):
            with raw.dial(node.address, identity=third) as peer:
                peer.send_json(hello())
                peer.send_json({"type": "HAVE", "have": {}, "last": True})
                peer.send_json({"type": "MESSAGES", "runs": [run(third, text=text)]})
                wait_until(partial(has_text, node, f"{text}1"))
        one.connect(two.address)
        for count in range(1, 31):  # each news of either side brings the conflict up again
            one.commit(f"from one {count}")
            two.commit(f"from two {count}")
        wait_until(lambda: len(texts(one)) == len(texts(two)) == 62)
        wait_until(lambda: one.status().conflicts == two.status().conflicts == 1)
        holds(lambda: one.sockets() == two.sockets() == 1)
        for node in (one, two):
            assert not any(node.status().misbehaviour.values())
            assert "closed" not in str(node.peers()) and len(node.peers()) == 1
        assert texts(one) == texts(two) and {"one1", "two1"} <= {*texts(one)}, "both are kept"


def has_text(node: Node, text: str) -> bool:
    return texts(node) == [text]
