"""Nobody links under the id of another node: attacks on the opening handshake of real nodes, with
and without a secret. The attacker sees all that two honest nodes say when their link opens, and has
a key of its own; it does not have theirs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pytest

from p2p_sync import Node
from p2p_sync.wire.frames import Proof, encode
from p2p_sync.wire.identity import Identity
from p2p_sync.wire.proof import HEADER
from tests.harness import raw
from tests.harness.member import hello, identities
from tests.harness.raw import CLOSE, RawPeer, RawServer, header_in
from tests.harness.secret import OLD
from tests.harness.support import holds, wait_until

pytestmark = pytest.mark.parametrize("secret", [None, OLD], ids=["open", "secret"])

ATTACKER = Identity.of_seed(b"attacker" * 4)
NOT_ITS_KEY = (4401, "it did not prove its key: the signature is wrong")


@dataclass
class Recorded:
    """What a stranger between two nodes has seen of the opening of their link."""

    asked: str  # the header in the GET
    answered: str  # the header in the 101
    proof: dict[str, str]


def text_of(peer: RawPeer) -> dict[str, str]:
    found: dict[str, str] = peer.read_json()
    return found


def record(victim: Node, other: Node) -> Recorded:
    """Pass on the handshake of a dial from `victim` to `other`, and then end it."""
    with RawServer() as between:
        victim.connect(between.address)
        with between.accept_tcp() as sock:
            head, rest = raw.read_head(sock)
            asked = header_in(head) or ""
            with raw.dial(other.address, extra=(f"{HEADER}: {asked}",)) as there:
                answered = header_in(there.head) or ""
                sock.sendall(raw.welcome(head, answered))
                here = RawPeer(sock, client=False, head=head, rest=rest)
                seen = Recorded(asked, answered, text_of(here))
    wait_until(lambda: victim.sockets() == 1 == other.sockets())
    return seen


@contextlib.contextmanager
def linked(secret: str | None) -> Iterator[tuple[Node, Node]]:
    """Two honest nodes, which must stay linked whatever happens in the block, and unblamed."""
    with Node(0, secret=secret) as one, Node(0, secret=secret) as other:
        one.connect(other.address)
        wait_until(lambda: one.sockets() == other.sockets() == 1)
        links = [joined(node) for node in (one, other)]
        yield one, other
        holds(lambda: one.sockets() == other.sockets() == 1)
        assert [joined(node) for node in (one, other)] == links, "it is the same link"
        for node in (one, other):
            assert not any(node.status().misbehaviour.values())
        one.commit("still linked")
        wait_until(lambda: [message.data for message in other.messages()] == ["still linked"])


def joined(node: Node) -> int:
    """Since when its peer is connected."""
    return next(int(peer.since) for peer in node.peers() if peer.state == "connected")


def test_a_recorded_opening_opens_no_link(secret: str | None) -> None:
    with linked(secret) as (node, other):
        seen = record(other, node)
        for _ in range(3):
            with raw.dial(node.address, extra=(f"{HEADER}: {seen.asked}",)) as thief:
                assert header_in(thief.head) != seen.answered, "its nonce is fresh"
                thief.send_json(seen.proof)
                assert thief.read_close() == NOT_ITS_KEY


def test_a_recorded_answer_is_no_answer_to_another_dial(secret: str | None) -> None:
    with linked(secret) as (node, other):
        seen = record(node, other)
        check_refused_answer(node, seen.answered)


def check_refused_answer(node: Node, header: str) -> None:
    """Let a node dial the attacker, which answers with a header that is not its own."""
    with RawServer() as trap:
        node.connect(trap.address)
        with trap.accept_tcp() as sock:
            head, rest = raw.read_head(sock)
            sock.sendall(raw.welcome(head, header))
            with RawPeer(sock, client=False, head=head, rest=rest) as victim:
                found = next(victim.frames())
                assert found.opcode == CLOSE, "not even a proof is sent"
                assert found.payload[2:].decode() == NOT_ITS_KEY[1]
        wait_until(partial(last_error, node, trap.address))
        assert NOT_ITS_KEY[1] in last_error(node, trap.address)


def last_error(node: Node, address: str) -> str:
    return next(str(p.last_error) for p in node.peers() if address in p.addresses)


def test_a_link_needs_the_key_of_the_header(secret: str | None) -> None:
    """The header of another node, but the attacker's own signature; and a signature of nothing."""
    with linked(secret) as (node, other):
        seen = record(other, node)
        for signature in (ATTACKER.sign(b"anything"), "00" * 64, seen.answered[-128:], ""):
            with raw.dial(node.address, extra=(f"{HEADER}: {seen.asked}",)) as thief:
                thief.send(raw.TEXT, encode(Proof(signature, "ab" * 32)).encode())
                assert thief.read_close() == NOT_ITS_KEY
        theirs = " ".join(seen.answered.split(" ")[:4])
        for answer in (theirs, f"{theirs} {ATTACKER.sign(b'anything')}", seen.asked):
            check_refused_answer(node, answer)


def test_a_signature_holds_for_its_direction_alone(secret: str | None) -> None:
    """What a node signs as the side that accepts does not prove that it has dialled."""
    with linked(secret) as (node, other), RawServer() as trap:
        node.connect(trap.address)
        with trap.accept_tcp() as sock:
            head, _ = raw.read_head(sock)
            # The attacker has `other` sign with the nonce of `node`, and turns that round.
            with raw.dial(other.address, extra=(f"{HEADER}: {header_in(head)}",)) as there:
                signed = (header_in(there.head) or "").split(" ")
            with raw.dial(node.address, extra=(f"{HEADER}: {' '.join(signed[:4])}",)) as thief:
                thief.send_json({"type": "PROOF", "signature": signed[4]})
                assert thief.read_close() == NOT_ITS_KEY


def test_a_reflected_handshake_shows_a_node_itself_and_opens_no_link(secret: str | None) -> None:
    with linked(secret) as (node, _), RawServer() as mirror:
        node.connect(mirror.address)
        with mirror.accept_tcp() as sock:
            head, rest = raw.read_head(sock)
            with raw.dial(node.address, extra=(f"{HEADER}: {header_in(head)}",)) as back:
                sock.sendall(raw.welcome(head, header_in(back.head) or ""))
                with RawPeer(sock, client=False, head=head, rest=rest) as victim:
                    back.send_json(text_of(victim))
                    assert back.read_close() == (1000, "this node dialled itself")
                    assert victim.read_close() == (1000, "this node dialled itself")


def test_the_own_header_of_a_node_is_no_answer_without_its_signature(secret: str | None) -> None:
    with linked(secret) as (node, _), RawServer() as trap:
        node.connect(trap.address)
        with trap.accept_tcp() as sock:
            head, rest = raw.read_head(sock)
            sock.sendall(raw.welcome(head, f"{header_in(head)} {ATTACKER.sign(b'x')}"))
            with RawPeer(sock, client=False, head=head, rest=rest) as victim:
                assert victim.read_close() == NOT_ITS_KEY


def test_nobody_can_say_that_a_node_runs_on_a_copied_directory(secret: str | None) -> None:
    """The key of the node with another start: only who has the key is believed."""
    with linked(secret) as (node, other):
        seen = record(node, other)
        version, public, start, nonce = seen.asked.split(" ")
        header = f"{version} {public} {int(start) ^ 1} {nonce}"
        with raw.dial(node.address, extra=(f"{HEADER}: {header}",)) as liar:
            liar.send_json(seen.proof)
            assert liar.read_close() == NOT_ITS_KEY


def test_an_id_in_a_frame_counts_for_nothing(secret: str | None) -> None:
    """A link under the id of another node with a higher number, and bad frames there, as an
    attacker could send them that names the id in its first frame."""
    with linked(secret) as (node, other):
        claim = hello(id=other.id, start=7, protocol=2, link=2**53 - 1)
        with raw.dial(node.address, identity=ATTACKER, secret=secret or "") as liar:
            if secret:
                assert text_of(liar).keys() == {"type", "proof"}
            liar.send_json(claim)
            wait_until(lambda: {peer.id for peer in node.peers()} == {other.id, ATTACKER.node})
            assert node.sockets() == 2
        wait_until(lambda: node.sockets() == 1)
        with raw.dial(node.address) as original:  # without a key it is an original
            original.send_json(claim)
            if secret:
                assert original.read_close()[0] == 4401
            else:
                wait_until(lambda: node.sockets() == 2)
        wait_until(lambda: node.sockets() == 1)


def test_bad_frames_of_a_stranger_are_held_against_nobody_else(secret: str | None) -> None:
    with Node(0, secret=secret) as node, Node(0, secret=secret) as other:
        node.connect(other.address)
        wait_until(lambda: node.sockets() == other.sockets() == 1)
        since = joined(node)
        for count in range(1, 6):
            with raw.dial(node.address, identity=next(identities), secret=secret or "") as liar:
                if secret:
                    assert text_of(liar).keys() == {"type", "proof"}
                liar.send_json(hello(id=other.id))
                liar.send(raw.TEXT, b"no json")
                assert liar.read_close()[0] == 1002
            wait_until(partial(counted, node, count))
        holds(lambda: node.sockets() == other.sockets() == 1)
        assert joined(node) == since


def counted(node: Node, count: int) -> bool:
    return bool(node.status().misbehaviour["frame"] == count)


def test_two_that_have_one_key_are_refused_by_a_third(secret: str | None) -> None:
    """A thief of a data directory has the key: it is that node. The first of the two is linked."""
    shared = next(identities)
    with Node(0, secret=secret) as node:
        dial = partial(raw.dial, node.address, identity=shared, secret=secret or "")
        with dial(start=1) as first:
            first.ping()
            code, reason = dial(start=2).read_close()
            assert code == 4409 and "a copy of the other's data directory; stop that one" in reason
            first.send_json(hello())
            wait_until(lambda: node.sockets() == 1)
