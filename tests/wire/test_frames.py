"""The codec: any text survives, and what is wrong is refused with a close code."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p_sync.codes import OTHER_PROTOCOL
from p2p_sync.errors import ProtocolError
from p2p_sync.settings import MAX_ADDRESSES, MAX_MESSAGE_BYTES, Settings
from p2p_sync.wire.frames import Heard, Ignored, Message, Proof, Sockets, decode, encode

ORIGIN = "0123456789abcdef0123456789abcdef-42"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(1, 2**53 - 1), st.booleans())
def test_any_text_survives(text: str, number: int, heard: bool) -> None:
    message = Message(ORIGIN, number, number, text, heard)
    assert decode(encode(message)) == message
    assert json.loads(encode(message))["data"] == text


def test_the_largest_message_fits_a_frame_though_each_byte_is_escaped() -> None:
    message = Message(ORIGIN, 1, 1, "\0" * MAX_MESSAGE_BYTES)
    text = encode(message)
    assert len(text.encode()) < Settings().max_frame_bytes
    assert decode(text) == message


def test_sockets_survive() -> None:
    frame = Sockets(
        ("ws://a:1", "ws://[::1]:2"), 8001, "wss://b:3", 4,
        "1.2.3", True, {"f" * 32: "web", "e" * 32: ""},
        ("ws://c:1",), ("ws://d:1",),
    )  # fmt: skip
    assert decode(encode(frame)) == frame


@pytest.mark.parametrize("signature", ["", "01" * 64])
@pytest.mark.parametrize("proof", ["", "ab" * 32])
def test_proofs_survive(signature: str, proof: str) -> None:
    assert decode(encode(Proof(signature, proof))) == Proof(signature, proof)


def test_an_original_reads_what_it_knows_in_our_frames() -> None:
    sockets = json.loads(encode(Sockets(("ws://a:1",), 8001)))
    assert (sockets["type"], sockets["addresses"]) == ("SOCKETS", ["ws://a:1"])
    message = json.loads(encode(Message(ORIGIN, 1, 1, "text")))
    assert (message["type"], message["data"]) == ("MESSAGE", "text")


def test_what_an_original_sends_is_understood() -> None:
    frame = decode('{"type":"SOCKETS","addresses":["ws://LOCALHOST:1/","nonsense"],"x":1}')
    assert frame == Sockets(("ws://localhost:1",))
    assert decode('{"type":"MESSAGE","data":"text"}') == Heard("text")
    assert decode('{"type":"MESSAGE","data":"a\\ud800b"}') == Heard("a\ufffdb")
    for odd in ('{"type":"MESSAGE"}', '{"type":"MESSAGE","data":["a","b"]}', '{"type":"X"}', "{}"):
        assert isinstance(decode(odd), Ignored)


MESSAGE: dict[str, Any] = {
    "type": "MESSAGE", "data": "text", "origin": ORIGIN, "seq": 1, "time": 1,
}  # fmt: skip
SOCKETS: dict[str, Any] = {
    "type": "SOCKETS", "addresses": [],
}  # fmt: skip


def each(frame: dict[str, Any], field: str, *values: object) -> list[dict[str, Any]]:
    """Copies of `frame` with one of `values` in `field`."""
    return [{**frame, field: value} for value in values]


WRONG = [
    *each(MESSAGE, "seq", 0, -1, True, 1.0, "1", None, 2**53),
    *each(MESSAGE, "time", -1, None, "now"),
    *each(MESSAGE, "origin", 1, "", "X-1", ORIGIN + "\n"),
    *each(MESSAGE, "data", 1, None, ["a"], "\ud800", "x" * 131073),
    {**MESSAGE, "heard": 1},
    {"type": 5},
    {"type": "MESSAGE", "data": 5},
    *each(SOCKETS, "addresses", None, "ws://a:1", [1], {}, ["ws://a:1"] * 257),
    *each(SOCKETS, "port", 0, 65536, "8001", None),
    *each(SOCKETS, "leaves", {}, [1], ["ws://a:1"] * 257),
    *each(SOCKETS, "guests", "ws://a:1", [None]),
    {"type": "SOCKETS"},
    *each({"type": "PROOF"}, "signature", None, 1, "", "0" * 127, "X" * 128),
    *each({"type": "PROOF"}, "proof", None, 1, "", "0" * 63, "X" * 64),
]


@pytest.mark.parametrize("wrong", WRONG)
def test_fields_of_a_wrong_type_close_the_link(wrong: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(json.dumps(wrong))
    assert caught.value.code in (1002, 1008)
    assert caught.value.reason


@pytest.mark.parametrize("text", ["", "x", "[]", "1", "null", '"a"', "{", "[" * 100_000, "NaN"])
def test_what_is_no_json_object_closes_the_link(text: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(text)
    assert caught.value.code == 1002


def test_what_is_no_address_in_the_form_of_the_wire_is_left_out() -> None:
    odd = ["ws://b\u00fccher.example:1", "ws://[fd00::1%\ud800]:80", "ws://\ud800:1", "ws://x"]
    frame = decode(json.dumps({"type": "SOCKETS", "addresses": [*odd, "ws://h:1"]}))
    assert frame == Sockets(("ws://h:1",))
    encode(frame).encode()


def test_as_many_addresses_as_fit_are_taken() -> None:
    addresses = [f"ws://a:{port}" for port in range(1, MAX_ADDRESSES + 1)]
    frame = decode(json.dumps({"type": "SOCKETS", "addresses": addresses}))
    assert isinstance(frame, Sockets) and len(frame.addresses) == MAX_ADDRESSES


@given(st.dictionaries(st.sampled_from([*SOCKETS, *MESSAGE, "port", "heard", "link"]), JSON))
def test_any_object_is_a_frame_or_a_clear_refusal(fields: dict[str, Any]) -> None:
    for kind in ("SOCKETS", "MESSAGE"):
        try:
            decode(json.dumps({**fields, "type": kind}))
        except ProtocolError as error:
            assert error.code in (1002, 1008, OTHER_PROTOCOL)
