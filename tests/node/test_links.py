"""The rules of an open link, the same whichever side dialled."""

from __future__ import annotations

import itertools
import json
import socket

import pytest

from tests.harness.raw import (
    CLOSE,
    CONTINUATION,
    FRAME_LIMIT,
    PING,
    PONG,
    TEXT,
    RawPeer,
    close_payload,
    dial,
)
from tests.harness.support import NodeProcess, wait_until

counter = itertools.count()


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
    assert opening["port"] == node.port + 1, "where it accepts peers"


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
    def ignored() -> int:
        status = node.status()
        return int(status["misbehaviour"]["ignored"])

    before, count = node.messages(), ignored()
    peer.send_json({"type": "MESSAGE", **odd})
    peer.ping()
    assert node.messages() == before
    wait_until(lambda: ignored() == count + 1, "it is counted")
    line = "ignored a MESSAGE without a text"  # the third of a host is not logged
    wait_until(lambda: node.logged("from ", line), "the first of them is logged")


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


def test_the_reason_of_a_close_cannot_forge_a_line_of_the_log(
    node: NodeProcess, peer: RawPeer
) -> None:
    log = node.log()
    peer.send(CLOSE, close_payload(4000, "enough\r\nINFO all is well\x1b[2J"))
    peer.read_close()
    wait_until(lambda: "all is well" in node.log().removeprefix(log), "the reason is logged")
    news = node.log().removeprefix(log)
    assert "\nINFO all is well" not in news
    assert "\x1b" not in news


def test_nothing_counts_after_close(node: NodeProcess, peer: RawPeer, word: str) -> None:
    peer.send_bytes(
        peer.frame(CLOSE, close_payload(1000)) + peer.frame(TEXT, message(word + "late"))
    )
    assert peer.read_close()[0] == 1000
    assert word not in node.messages()


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
