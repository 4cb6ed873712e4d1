"""Nobody but a node itself adds to its history: attacks of a member on the logs of real nodes, with
and without a secret. The attacker has a key of its own, and knows all that the others have said."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from p2p_sync import Message, Node
from p2p_sync.wire.entries import Entry, chain
from p2p_sync.wire.identity import Identity
from p2p_sync.wire.logframes import NO_HASH
from p2p_sync.wire.signing import sign
from tests.harness import raw
from tests.harness.library import texts
from tests.harness.member import claims, hello, identities, run
from tests.harness.raw import RawPeer
from tests.harness.secret import OLD
from tests.harness.support import holds, wait_until

pytestmark = pytest.mark.parametrize("secret", [None, OLD], ids=["open", "secret"])

UNSIGNED = (1008, "it sent messages, or a claim to hold some, that their node has not signed")


@contextlib.contextmanager
def mesh(secret: str | None, **settings: Any) -> Iterator[tuple[Node, Node]]:
    """Two honest nodes that are linked, and stay so, with equal logs."""
    with Node(0, secret=secret, **settings) as one, Node(0, secret=secret, **settings) as other:
        one.connect(other.address)
        wait_until(lambda: one.sockets() == other.sockets() == 1)
        one.commit("first")
        wait_until(lambda: texts(other) == ["first"])
        yield one, other
        one.commit("from one")
        other.commit("from the other")
        both = {"from one", "from the other"}
        wait_until(lambda: both <= set(texts(one)) & set(texts(other)))
        # Of invented origins each takes what it has room for in this hour.
        if "max_new_origins" not in settings:
            wait_until(lambda: digest(one) == digest(other))
        assert linked(one, other) and linked(other, one)


def digest(node: Node) -> Any:
    return node.status().messages.digest


def linked(node: Node, other: Node) -> bool:
    return any(peer.id == other.id and peer.state == "connected" for peer in node.peers())


@contextlib.contextmanager
def attacker(node: Node, secret: str | None, identity: Identity | None = None) -> Iterator[RawPeer]:
    """A member with a key of its own, linked with a node, which has said all that it holds."""
    own = identity or next(identities)
    with raw.dial(node.address, identity=own, secret=secret or "") as peer:
        peer.send_json(hello())
        peer.send_json({"type": "HAVE", "have": {}, "last": True})
        yield peer


def next_run(message: Message, signer: Identity) -> dict[str, Any]:
    """The run after the only message of an origin, as a node other than its own would forge it."""
    running = chain(NO_HASH, [Entry(message.time, message.data)])[-1]
    forged = Entry(message.time + 1, "forged")
    after = chain(running, [forged])[-1]
    return {
        "origin": message.origin,
        "after": 1,
        "previous": running,
        "entries": [[forged.time, forged.text]],
        "signature": sign(signer, message.origin, 2, after),
    }


def forgeries(node: Node) -> dict[str, dict[str, Any]]:
    """Runs that an attacker may ship in the name of a node, or of nobody."""
    thief, other = next(identities), next(identities)
    (message,) = [message for message in node.messages() if message.data == "first"]
    following = next_run(message, thief)
    stranger = run(other, text="forged")
    signed = run(thief, text="forged")
    heads = node._running().state  # the attacker is a member: it has got this, too
    with heads.turn() as core:
        genuine = core.replica.vector.heads()[message.origin]
    return {
        "the next message": following,
        "with the signature before it": {**following, "signature": genuine.signature},
        "with the key of the node": {
            **following,
            "signature": genuine.signature[:64] + following["signature"][64:],
        },
        "other contents for the first": {
            **following,
            "after": 0,
            "previous": "",
            "signature": genuine.signature,
        },
        "the first of a new start": {**signed, "origin": f"{node.id}-77"},
        "the first of a node that never was": {**stranger, "origin": f"{'ab' * 16}-1"},
        "another text": {**signed, "entries": [[1, "another forged"]]},
        "another time": {**signed, "entries": [[2, "forged1"]]},
        "another number": {**signed, "after": 1, "previous": "ab" * 16},
        "a text that was heard": {**signed, "entries": [[1, "forged1", 1]]},
        "no signature": {**signed, "signature": "00" * 96},
    }


@pytest.mark.parametrize("kind", range(11))
def test_a_forged_message_gets_no_further_than_the_first_node(
    secret: str | None, kind: int
) -> None:
    """Sent to one node only, the origin's own or another one."""
    for victim in (0, 1):
        with mesh(secret) as nodes:
            (what, forged) = list(forgeries(nodes[0]).items())[kind]
            with attacker(nodes[victim], secret) as peer:
                peer.send_json({"type": "MESSAGES", "runs": [forged]})
                assert peer.read_close() == UNSIGNED, what
            assert nodes[victim].status().misbehaviour["signature"] == 1
            for node in nodes:
                assert not any("forged" in text for text in texts(node)), what


def test_a_run_without_a_signature_breaks_the_protocol(secret: str | None) -> None:
    with mesh(secret) as (node, _), attacker(node, secret) as peer:
        unsigned = run(next(identities))
        del unsigned["signature"]
        peer.send_json({"type": "MESSAGES", "runs": [unsigned]})
        code, reason = peer.read_close()
        assert code == 1002 and "signature" in reason


def test_a_good_run_beside_a_forged_one_is_not_taken(secret: str | None) -> None:
    own = next(identities)
    with mesh(secret) as (node, other), attacker(node, secret, own) as peer:
        good, bad = run(own, text="good"), {**run(own, text="bad", start=2), "signature": "0" * 192}
        peer.send_json({"type": "MESSAGES", "runs": [good, bad]})
        assert peer.read_close() == UNSIGNED
        assert texts(node) == ["first"] == texts(other)


def test_a_claim_counts_only_with_the_signature_of_the_origins_node(secret: str | None) -> None:
    """Otherwise a member could make nodes seem behind, unready, or the node renew its origin."""
    with mesh(secret) as (node, _):
        (message,) = [message for message in node.messages() if message.data == "first"]
        own = next(identities)
        (mine,) = claims(own, [1], 10**12).values()
        for name in (message.origin, f"{'ab' * 16}-1", f"{own.node}-2"):
            with attacker(node, secret, own) as peer:
                peer.send_json({"type": "HAVE", "have": {name: mine}})
                assert peer.read_close() == UNSIGNED
        assert node.status().behind == 0 and node.unready() == ""
        assert node.commit("second").origin == message.origin, "not renewed"
        with attacker(node, secret, own) as peer:
            peer.send_json({"type": "HAVE", "have": {f"{own.node}-1": mine}})
            wait_until(lambda: node.status().behind)
            holds(lambda: node.unready() == "")
            assert node.status().behind <= 1_000, "its own claim is believed as far as it ships"
        wait_until(lambda: node.status().behind == 0)


def test_a_question_about_a_fork_that_is_none_changes_nothing(secret: str | None) -> None:
    with mesh(secret) as (node, _):
        (message,) = [message for message in node.messages() if message.data == "first"]
        own = next(identities)
        with node._running().state.turn() as core:
            genuine = list(core.replica.vector.heads()[message.origin])
        with attacker(node, secret, own) as peer:
            fork = {"type": "FORK", "origin": message.origin, "head": genuine, "marks": []}
            peer.send_json(fork)
            peer.ping()
        with attacker(node, secret, next(identities)) as peer:
            peer.send_json({**fork, "head": [1, "ab" * 16, genuine[2]]})
            assert peer.read_close() == UNSIGNED
        assert node.status().conflicts == 0
        assert node.commit("second").origin == message.origin, "not renewed"


def test_forked_origins_are_the_attackers_own_and_honest_nodes_stay_linked(
    secret: str | None,
) -> None:
    own = next(identities)
    starts = range(1, 301)
    with Node(0, secret=secret) as one, Node(0, secret=secret) as other:
        for node, text in ((one, "one"), (other, "other")):
            with attacker(node, secret, own) as peer:
                runs = [run(own, start=start, text=text) for start in starts]
                peer.send_json({"type": "MESSAGES", "runs": runs})
                wait_until(partial(has_count, node, 300))
        one.connect(other.address)
        wait_until(lambda: linked(one, other) and linked(other, one))
        for n in range(10):
            one.commit(f"from one {n}")
            other.commit(f"from the other {n}")
        wait_until(lambda: has_count(one, 620) and has_count(other, 620))
        wait_until(lambda: [n.status().conflicts for n in (one, other)] == [300, 300])
        assert digest(one) == digest(other)
        assert linked(one, other) and linked(other, one)
        for node in (one, other):
            told = node.status()
            assert not any(told.misbehaviour.values())
            assert any(own.node[:8] in warning for warning in told.warnings)
            assert len(told.forks) == 20
            for fork in told.forks:
                assert fork.node == own.node and fork.origin.startswith(fork.base)
                assert (fork.after, fork.messages) == (0, 1)


def has_count(node: Node, count: int) -> bool:
    return node.log.count() == (count, 0)


def test_invented_origins_are_bounded_and_honest_ones_still_accepted(secret: str | None) -> None:
    with mesh(secret, max_new_origins=50) as (node, other):
        numbers = itertools.count(1)
        with attacker(node, secret) as peer:
            code = None
            with contextlib.suppress(OSError):
                for _ in range(40):
                    runs = [run(next(identities), start=next(numbers)) for _ in range(50)]
                    peer.send_json({"type": "MESSAGES", "runs": runs})
                    peer.send(raw.PING, b"?")
            code, reason = peer.read_close()
            assert code == 1008 and "new origins" in reason
        assert len(texts(node)) <= 51, "the first, and at most 50 of the attacker"
        assert node.status().misbehaviour["origins"]
        assert any("max_new_origins=50" in warning for warning in node.status().warnings)
        # All of them are on one host with the attacker, so there is no room for strangers any more.
        with Node(0, secret=secret) as honest:
            honest.connect(node.address)
            honest.commit("from a new node")
            wait_until(lambda: "from a new node" in texts(node))
            wait_until(lambda: honest.id in {peer.id for peer in other.peers()})
            honest.commit("and once more")
            wait_until(lambda: "from a new node" in texts(other), "on the other node, too")


def test_one_program_under_three_ids_is_one_copy(secret: str | None) -> None:
    with mesh(secret) as (node, _), contextlib.ExitStack() as stack:
        peers = [stack.enter_context(attacker(node, secret)) for _ in range(3)]
        wait_until(lambda: node.sockets() == 4)
        message = node.commit("text")
        with node._running().state.turn() as core:
            head = list(core.replica.vector.heads()[message.origin])
        for peer in peers:
            peer.send_json({"type": "HAVE", "have": {message.origin: head}})
            peer.ping()
        assert node.intake.wait_copies({message.origin: message.seq}, 3, 0.5) == 1
        assert node.report.spread([message])[0].copies == 4, "so many nodes say that they hold it"
