"""The rules of an open link, the same whichever side dialled."""

from __future__ import annotations

import itertools
import json
import re
import socket
from collections.abc import Callable, Iterator

import pytest

from tests.raw import (
    BINARY,
    CLOSE,
    CONTINUATION,
    DIRECTIONS,
    FRAME_LIMIT,
    PING,
    PONG,
    TEXT,
    RawPeer,
    close_payload,
    dial,
    linked,
)
from tests.support import NodeProcess, wait_until

counter = itertools.count()


@pytest.fixture(scope="module")
def node() -> Iterator[NodeProcess]:
    with NodeProcess() as node:
        yield node


@pytest.fixture(params=DIRECTIONS)
def peer(node: NodeProcess, request: pytest.FixtureRequest) -> Iterator[RawPeer]:
    """A link in each direction; after the test it is gone, it alone, and without a traceback."""
    before = node.sockets()
    with linked("accepted", node.address, node.add) as bystander:
        with linked(request.param, node.address, node.add) as peer:
            wait_until(lambda: node.sockets() == before + 2, "the links are counted")
            yield peer
        wait_until(lambda: node.sockets() == before + 1, "the link leaves the list")
        bystander.ping()
    wait_until(lambda: node.sockets() == before, "the bystander leaves, too")
    assert "Traceback" not in node.log()


@pytest.fixture
def word() -> str:
    """A text that no other test commits."""
    return f"word-{next(counter)}-"


def message(text: str) -> bytes:
    return json.dumps({"type": "MESSAGE", "data": text}, ensure_ascii=False).encode()


# What a link opens with


def test_the_first_frame_is_sockets_with_addresses(node: NodeProcess, peer: RawPeer) -> None:
    first = peer.read()
    assert (first.fin, first.opcode) == (True, TEXT)
    opening = json.loads(first.payload)
    assert opening["type"] == "SOCKETS"
    assert isinstance(opening["addresses"], list)
    assert all(isinstance(address, str) for address in opening["addresses"])
    further = [value for name, value in opening.items() if name not in ("type", "addresses")]
    assert [v for v in further if isinstance(v, str) and re.fullmatch("[0-9a-f]{16}", v)], "its id"
    assert node.port + 1 in further, "where it accepts peers"


def test_sockets_comes_without_waiting_for_the_other_side(node: NodeProcess) -> None:
    with dial(node.address) as silent:
        assert silent.read_json()["type"] == "SOCKETS"


# Frames


def test_fragments_with_control_frames_between_are_one_message(
    node: NodeProcess, peer: RawPeer, word: str
) -> None:
    data = message(word + "\N{GRINNING FACE}")
    cut = data.index(b"\xf0") + 2  # in the middle of a character
    peer.send(TEXT, data[:cut], fin=False)
    peer.send(PING, b"between")
    assert peer.read_until(PONG).payload == b"between"
    peer.send(CONTINUATION, b"", fin=False)
    peer.send(PONG, b"unasked")
    assert word not in node.messages()
    peer.send(CONTINUATION, data[cut:], fin=True)
    peer.ping()
    assert node.messages().count(word + "\N{GRINNING FACE}") == 1


@pytest.mark.parametrize("payload", [b"", b"\x00\xff\xfe", b"p" * 125], ids=len)
def test_ping_is_answered_with_the_same_bytes(peer: RawPeer, payload: bytes) -> None:
    peer.ping(payload)


def test_pings_in_a_row_are_answered_in_order(peer: RawPeer) -> None:
    peer.send_bytes(b"".join(peer.frame(PING, b"%d" % i) for i in range(10)))
    last = b""
    while last != b"9":  # a node may answer the latest alone (RFC 6455, 5.5.3)
        answer = peer.read_until(PONG).payload
        assert answer > last
        last = answer


def test_frames_may_arrive_byte_by_byte(node: NodeProcess, peer: RawPeer, word: str) -> None:
    for byte in peer.frame(TEXT, message(word + "x" * 200)):
        peer.send_bytes(bytes([byte]))
    peer.ping()
    assert word + "x" * 200 in node.messages()


def test_many_frames_may_arrive_in_one_segment(node: NodeProcess, peer: RawPeer, word: str) -> None:
    words = [f"{word}{i:03}" for i in range(200)]
    peer.send_bytes(b"".join(peer.frame(TEXT, message(text)) for text in words))
    peer.ping()
    assert [text for text in node.messages().split(",") if text.startswith(word)] == words


def test_a_frame_of_exactly_the_limit_is_taken(peer: RawPeer) -> None:
    empty = b'{"type":"LATER","pad":""}'
    peer.send(TEXT, empty[:-2] + b"x" * (FRAME_LIMIT - len(empty)) + empty[-2:])
    peer.ping()


def test_unknown_types_and_fields_are_ignored(node: NodeProcess, peer: RawPeer, word: str) -> None:
    peer.send_json({"type": "LATER", "data": {"any": [1, None]}, "addresses": 5})
    peer.send_json({"type": "sockets", "addresses": "ws://127.0.0.1:1"})
    peer.send_json({"type": "SOCKETS", "addresses": [], "x-later": {"a": [1.5, True]}})
    peer.send_json({"type": "MESSAGE", "data": word, "x-later": None})
    peer.ping()
    assert node.messages().count(word) == 1


@pytest.mark.parametrize("odd", [{}, {"data": ["a", "b"]}], ids=str)
def test_odd_messages_of_original_nodes_are_ignored_and_logged(
    node: NodeProcess, peer: RawPeer, odd: dict[str, object]
) -> None:
    before, log = node.messages(), node.log()
    peer.send_json({"type": "MESSAGE", **odd})
    peer.ping()
    assert node.messages() == before
    wait_until(lambda: peer.name in node.log().removeprefix(log), "logged with the address")


def test_a_lone_surrogate_becomes_the_replacement_character(
    node: NodeProcess, peer: RawPeer, word: str
) -> None:
    peer.send(TEXT, b'{"type":"MESSAGE","data":"%s\\ud800."}' % word.encode())
    peer.ping()
    assert word + "\N{REPLACEMENT CHARACTER}." in node.messages()


# The end


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1011, 3000, 4999])
def test_close_is_echoed_and_the_connection_ends(peer: RawPeer, code: int) -> None:
    peer.send(CLOSE, close_payload(code, "thank you"))
    answer = peer.read_until(CLOSE)
    assert int.from_bytes(answer.payload[:2], "big") == code
    peer.read_end()


def test_close_without_a_code_is_answered(peer: RawPeer) -> None:
    peer.send(CLOSE)
    assert peer.read_close()[0] in (None, 1000)


def test_nothing_counts_after_close(node: NodeProcess, peer: RawPeer, word: str) -> None:
    peer.send_bytes(
        peer.frame(CLOSE, close_payload(1000)) + peer.frame(TEXT, message(word + "late"))
    )
    assert peer.read_close()[0] == 1000
    assert word not in node.messages()


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


@pytest.mark.parametrize("cut", [1, 5, 20, -1])
def test_a_connection_cut_in_a_frame_delivers_nothing(
    node: NodeProcess, peer: RawPeer, word: str, cut: int
) -> None:
    before = node.sockets()
    peer.send_bytes(peer.frame(TEXT, message(word + "x" * 200))[:cut])
    peer.close()
    wait_until(lambda: node.sockets() == before - 1, "the link leaves the list")
    assert word not in node.messages()


def test_a_connection_cut_between_fragments_delivers_nothing(
    node: NodeProcess, peer: RawPeer, word: str
) -> None:
    before = node.sockets()
    peer.send(TEXT, message(word), fin=False)
    peer.ping()
    peer.abort()
    wait_until(lambda: node.sockets() == before - 1, "the link leaves the list")
    assert word not in node.messages()


def test_the_end_of_the_stream_ends_the_link(node: NodeProcess, peer: RawPeer) -> None:
    before = node.sockets()
    peer.sock.shutdown(socket.SHUT_WR)
    peer.read_end()
    wait_until(lambda: node.sockets() == before - 1, "the link leaves the list")


# Refused


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
}


@pytest.mark.parametrize(("build", "codes"), WRONG_FRAMES.values(), ids=WRONG_FRAMES)
def test_a_wrong_frame_closes_the_link(
    peer: RawPeer, build: Callable[[RawPeer], bytes], codes: set[int]
) -> None:
    peer.send_bytes(build(peer))
    assert peer.read_close()[0] in codes


WRONG_CONTENTS = {
    "a list": b"[]",
    "a number": b"1",
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
