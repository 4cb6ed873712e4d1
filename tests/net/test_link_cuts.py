"""Links over socket pairs: whole messages or none, wherever the connection is cut."""

from __future__ import annotations

import socket

import pytest

from p2p_sync.net import websocket as frames
from p2p_sync.net.link import Link
from tests.harness.links import Keeper, Served
from tests.harness.support import wait_until


def dialled_frames(*texts: str) -> list[bytes]:
    return [frames.format_frame(frames.TEXT, text.encode(), masked=True) for text in texts]


def test_a_cut_at_any_byte_loses_no_whole_message_and_invents_none() -> None:
    texts = ["first", "", "z\u00e9ro \U0001f600", "x" * 130, "last"]
    whole = dialled_frames(*texts)
    stream = b"".join(whole)
    ends = [sum(map(len, whole[:count])) for count in range(1, len(whole) + 1)]
    for cut in range(len(stream) + 1):
        ours, theirs = socket.socketpair()
        keeper = Keeper()
        served = Served(ours, keeper)
        theirs.sendall(stream[:cut])
        theirs.close()
        served.join()
        assert keeper.messages == texts[: sum(end <= cut for end in ends)], cut
        assert len(keeper.ends) == 1


def test_one_byte_at_a_time_is_as_good_as_all_at_once() -> None:
    ours, theirs = socket.socketpair()
    keeper = Keeper()
    served = Served(ours, keeper)
    for byte in b"".join(dialled_frames("one", "two")):
        theirs.send(bytes([byte]))
    theirs.close()
    served.join()
    assert keeper.messages == ["one", "two"]


@pytest.mark.parametrize("code", [1000, 1001, 4409])
def test_two_ends_wired_together_agree(code: int) -> None:
    ours, theirs = socket.socketpair()
    texts = ["", "a", "b" * 70_000, "\0\u202e\U0001f600"]

    one, other = Keeper(*texts), Keeper(*texts)
    dialler = Served(ours, one, dialled="ws://peer:1")
    acceptor = Served(theirs, other)
    wait_until(lambda: len(one.messages) == len(other.messages) == len(texts))
    dialler.link.close(code, "enough")
    dialler.join()
    acceptor.join()
    assert one.messages == other.messages == texts
    assert one.ends == ["enough"]
    assert len(other.ends) == 1
    assert "stops" in other.ends[0] if code == 1001 else "enough" in other.ends[0]


def test_what_the_owner_still_has_arrives_before_the_close() -> None:
    ours, theirs = socket.socketpair()
    one, other = Keeper(), Keeper()
    dialler, acceptor = Served(ours, one, dialled="ws://peer:1"), Served(theirs, other)
    one.texts += [str(number) for number in range(1000)]
    dialler.link.close(1000, "done")
    dialler.join()
    acceptor.join()
    assert other.messages == [str(number) for number in range(1000)]


class Failing(Keeper):
    """A handler with a fault."""

    def received(self, link: Link, message: str | bytes) -> bool:
        return bool(1 / 0)


def test_a_handler_that_fails_ends_its_link_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ours, theirs = socket.socketpair()
    keeper = Failing()
    served = Served(ours, keeper)
    theirs.sendall(dialled_frames("boom")[0])
    served.join()
    assert "ZeroDivisionError" in caplog.text
    assert keeper.ends == ["this node failed; see its log"]
    theirs.close()
