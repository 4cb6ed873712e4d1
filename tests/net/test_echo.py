"""The echo programs, which the Autobahn test suite talks to, with a raw peer in its place.

Both are the classes that a node uses, so this is a short form of the suite: what goes through
unchanged. What closes a link is in test_refusals.py, with a whole node.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.autobahn import accepts, started
from tests.harness.raw import (
    BINARY,
    CLOSE,
    CONTINUATION,
    DIRECTIONS,
    PING,
    TEXT,
    RawPeer,
    RawServer,
    close_payload,
    dial,
)
from tests.harness.support import DEADLINE, free_port_pair, wait_until

SERVER = [sys.executable, "-m", "tests.echo_server"]
CLIENT = [sys.executable, "-m", "tests.echo_client"]
LENGTHS = (0, 1, 125, 126, 127, 65_535, 65_536, 1_000_000)  # both sides of each form of a length


def finish(peer: RawPeer) -> None:
    """Close the connection as the side that begins."""
    peer.send(CLOSE, close_payload(1000))
    assert peer.read_close()[0] == 1000


@contextmanager
def echo(direction: str, folder: Path) -> Iterator[RawPeer]:
    """A raw peer on a connection whose other end sends everything back."""
    log = folder / "log"
    if direction == "accepted":
        port = free_port_pair()
        with started([*SERVER, str(port)], log) as process:
            wait_until(lambda: accepts(port) or process.poll() is not None, "the server listens")
            assert process.poll() is None, log.read_text()
            with dial(f"ws://127.0.0.1:{port}") as peer:
                yield peer
                finish(peer)
    else:
        with RawServer() as server, started([*CLIENT, server.address], log) as process:
            with server.accept() as peer:
                assert peer.head.startswith("GET /getCaseCount "), log.read_text()
                peer.send(TEXT, b"1")
                finish(peer)
            with server.accept() as peer:
                assert peer.head.startswith("GET /runCase?case=1&agent=p2p_sync ")
                yield peer
                finish(peer)
            with server.accept() as peer:
                assert peer.head.startswith("GET /updateReports?agent=p2p_sync ")
                finish(peer)
            assert process.wait(DEADLINE) == 0, log.read_text()
    assert "Traceback" not in log.read_text(), log.read_text()


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_what_is_sent_to_an_echo_comes_back(direction: str, tmp_path: Path) -> None:
    with echo(direction, tmp_path) as peer:
        for length in LENGTHS:
            for opcode in (TEXT, BINARY):
                peer.send(opcode, b"*" * length)
                assert peer.read_until(opcode).payload == b"*" * length, (opcode, length)
        text = "a \N{GRINNING FACE} in pieces".encode()
        for size in (1, 2, 3, len(text)):
            pieces = [text[at : at + size] for at in range(0, len(text), size)]
            peer.send(TEXT, b"", fin=False)
            for number, piece in enumerate(pieces):
                peer.ping(b"between %d" % number)
                peer.send(CONTINUATION, piece, fin=False)
            peer.send(CONTINUATION)
            assert peer.read_until(TEXT).payload == text, size
        peer.send(PING, b"once more")
        assert peer.read().payload == b"once more"
