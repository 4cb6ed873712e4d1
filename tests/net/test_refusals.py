"""What closes a link, the same whichever side dialled: the code, the reason and the log."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.harness.raw import (
    BINARY,
    CLOSE,
    CONTINUATION,
    DIRECTIONS,
    FRAME_LIMIT,
    PING,
    TEXT,
    RawPeer,
    close_payload,
    dial,
    linked,
)
from tests.harness.support import NodeProcess, wait_until

BAD_CLOSES = {
    **{str(code): close_payload(code) for code in (0, 999, 1004, 1005, 1006, 1015, 1100, 2999)},
    "5000": close_payload(5000),
    "65535": close_payload(65535),
    "half a code": b"\x03",
    "a reason that is not text": close_payload(1000, b"\xff"),
}


@pytest.mark.parametrize("payload", BAD_CLOSES.values(), ids=BAD_CLOSES)
def test_a_bad_close_gets_1002(peer: RawPeer, payload: bytes) -> None:
    peer.send(CLOSE, payload)
    assert peer.read_close()[0] in ((1002, 1007) if payload.endswith(b"\xff") else (1002,))


def wrong_mask(peer: RawPeer) -> bytes:
    return peer.frame(TEXT, b"{}", masked=not peer.client)


def fragments_without_end(peer: RawPeer) -> bytes:
    return peer.frame(TEXT, b"{", fin=False) + peer.frame(TEXT, b"}")


def too_long_a_sum(peer: RawPeer) -> bytes:
    most = FRAME_LIMIT - 10
    first = peer.frame(TEXT, b"x" * most, fin=False)
    return first + peer.frame(CONTINUATION, announced=11)


def header(announced: int) -> Callable[[RawPeer], bytes]:
    return lambda peer: peer.frame(TEXT, announced=announced)


def one(opcode: int, payload: bytes = b"", **how: int) -> Callable[[RawPeer], bytes]:
    return lambda peer: peer.frame(opcode, payload, **how)


def empty_fragments(peer: RawPeer) -> bytes:
    more = peer.frame(CONTINUATION, fin=False) * 20
    return peer.frame(TEXT, fin=False) + more


def empty_fragments_between_others(peer: RawPeer) -> bytes:
    some = peer.frame(CONTINUATION, b" ", fin=False) + peer.frame(CONTINUATION, fin=False)
    return peer.frame(TEXT, b"{", fin=False) + (some + peer.frame(PING)) * 20


WRONG_FRAMES = {
    **{f"reserved bit {rsv}": (one(TEXT, b"{}", rsv=rsv), {1002}) for rsv in (1, 2, 4)},
    **{f"reserved opcode {opcode}": (one(opcode), {1002}) for opcode in (3, 7, 11, 15)},
    "the wrong masking": (wrong_mask, {1002}),
    "a long ping": (one(PING, b"x" * 126), {1002}),
    "a long close": (one(CLOSE, close_payload(1000, "x" * 124)), {1002}),
    "a fragmented ping": (one(PING, fin=False), {1002}),
    "a fragmented close": (one(CLOSE, close_payload(1000), fin=False), {1002}),
    "a continuation of nothing": (one(CONTINUATION, b"{}"), {1002}),
    "a message in a message": (fragments_without_end, {1002}),
    "binary": (one(BINARY, b"{}"), {1003}),
    "empty binary": (one(BINARY), {1003}),
    "bytes that are no text": (one(TEXT, b'{"type":"\xff"}'), {1007}),
    "a surrogate in UTF-8": (one(TEXT, b'{"type":"\xed\xa0\x80"}'), {1007}),
    "an overlong form": (one(TEXT, b'{"type":"\xc0\x80"}'), {1007}),
    "half a character": (one(TEXT, b'{"type":"\xf0\x9f'), {1007}),
    "one byte over the limit": (header(FRAME_LIMIT + 1), {1009}),
    "a tebibyte": (header(1 << 40), {1009}),
    "a length with the top bit": (header(1 << 63), {1002, 1009}),
    "too long a sum": (too_long_a_sum, {1009}),
    "empty fragments": (empty_fragments, {1008}),
    "empty fragments between others": (empty_fragments_between_others, {1008}),
}


@pytest.mark.parametrize(("build", "codes"), WRONG_FRAMES.values(), ids=WRONG_FRAMES)
def test_a_wrong_frame_closes_the_link(
    peer: RawPeer, build: Callable[[RawPeer], bytes], codes: set[int]
) -> None:
    peer.send_bytes(build(peer))
    assert peer.read_close()[0] in codes


def test_a_few_empty_fragments_are_no_fault(peer: RawPeer) -> None:
    """RFC 6455 allows them, and some libraries end a message with one."""
    text = b'{"type":"LATER"}'
    for _ in range(5):
        peer.send(TEXT, fin=False)
        peer.send(CONTINUATION, text, fin=False)
        peer.send(CONTINUATION, fin=False)
        peer.ping()
        peer.send(CONTINUATION)
    peer.ping(b"still there")
    peer.send(CLOSE, close_payload(1000))
    assert peer.read_close()[0] == 1000


def test_a_peer_that_has_sent_too_much_can_read_why(peer: RawPeer) -> None:
    """Were the connection ended with much of it unread, a reset would come instead."""
    peer.send(TEXT, b"x" * (8 * FRAME_LIMIT))
    assert peer.read_close()[0] == 1009


WRONG_CONTENTS = {
    "a list": b"[]",
    "a number": b"1",
    "a string": b'"text"',
    "null": b"null",
    "not JSON": b"hello",
    "nothing": b"",
    "half an object": b'{"type":"SOCKETS"',
    "two objects": b"{}{}",
    "an endless list": b"[" * 100_000,
    "a type that is a number": b'{"type":5}',
    "addresses that are a string": b'{"type":"SOCKETS","addresses":"ws://127.0.0.1:1"}',
    "addresses that are an object": b'{"type":"SOCKETS","addresses":{"0":"a"}}',
    "an address that is a number": b'{"type":"SOCKETS","addresses":[1]}',
    "257 addresses": json.dumps(
        {"type": "SOCKETS", "addresses": [f"ws://192.0.2.1:{n}" for n in range(1, 258)]}
    ).encode(),
    "data that is a number": b'{"type":"MESSAGE","data":5}',
    "data that is a huge number": b'{"type":"MESSAGE","data":1%s}' % (b"0" * 5000),
}


@pytest.mark.parametrize("payload", WRONG_CONTENTS.values(), ids=WRONG_CONTENTS)
def test_wrong_contents_close_the_link_and_are_logged_once(
    node: NodeProcess, peer: RawPeer, payload: bytes
) -> None:
    before, log, messages = node.sockets() - 1, node.log(), node.messages()
    peer.send(TEXT, payload)
    code, reason = peer.read_close()
    assert code in (1002, 1008)
    assert reason, "says why"

    def lines() -> list[str]:
        news = node.log().removeprefix(log).splitlines()
        return [line for line in news if peer.name in line and reason in line]

    wait_until(lines, "logged with the peer's address and the reason")
    wait_until(lambda: node.sockets() == before, "the link leaves the list")
    assert len(lines()) == 1
    assert node.messages() == messages


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_each_field_of_ours_with_a_wrong_type_closes_the_link(
    node: NodeProcess, direction: str
) -> None:
    """The names are learned from what the node itself says."""
    with dial(node.address) as peer:
        templates = [{**peer.read_json(), "addresses": []}]
        peer.send_sockets()
        wait_until(lambda: node.sockets() == 1, "the link is counted")
        node.commit("a template")
        while (said := peer.read_json())["type"] != "MESSAGE":
            pass
        templates.append(said)
    fields = [(whole, name) for whole in templates for name in whole]
    assert len(fields) > 8, "id, start, version and port; origin, number and time"
    for whole, name in fields:
        if (whole["type"], name) in {("MESSAGE", "data"), ("SOCKETS", "name")}:
            continue  # what originals send by accident, and names for people, are ignored
        with linked(direction, node.address, node.add) as peer:
            peer.send_json({**whole, name: [5]})
            code, reason = peer.read_close()
            assert (name, code) in ((name, 1002), (name, 1008))
            assert reason, "says why"
    wait_until(lambda: node.sockets() == 0, "all have left")
    assert "Traceback" not in node.log()
