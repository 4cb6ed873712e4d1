"""The verdict: what a node says of itself in a word and in a line."""

from __future__ import annotations

from dataclasses import replace

import pytest

from p2p_sync import PeerInfo, Verdict, Volume
from p2p_sync.core.verdict import verdict

PEER = PeerInfo(
    key="k", id=None, name=None, address=None, addresses=[], direction=None, state="waiting",
    since=0, rtt_ms=None, attempts=0, last_error="", next_try_s=None, sent=Volume(0, 0),
    received=Volume(0, 0), behind=None, late=0, notice="", links={}, version=None, worked=False,
    by_hand=False, source=None,
)  # fmt: skip


def linked(behind: int = 0) -> PeerInfo:
    return replace(PEER, state="connected", late=behind, id="a" * 32)


def away(by_hand: bool = False, known: bool = False, attempts: int = 1) -> PeerInfo:
    identity = "b" * 32 if known else None
    return replace(PEER, by_hand=by_hand, id=identity, attempts=attempts, since=-60_000)


def said(found: Verdict) -> tuple[str, str]:
    return found.state, found.text


@pytest.mark.parametrize(
    ("peers", "held", "behind", "state", "text"),
    [
        ([], 0, 0, "alone", "No peers yet"),
        ([away()], 5, 0, "alone", "No peers yet"),
        ([away(by_hand=True, attempts=0)], 5, 0, "alone", "Disconnected: 0 of 1 peer reachable"),
        ([away(known=True)] * 2, 5, 0, "alone", "Disconnected: 0 of 2 peers reachable"),
        ([linked()], 5, 0, "in_sync", "In sync with 1 of 1 peer"),
        ([linked()] * 4, 5, 0, "in_sync", "In sync with 4 of 4 peers"),
        ([linked(), away()], 5, 0, "in_sync", "In sync with 1 of 1 peer"),
        ([linked()] * 3 + [away(known=True)], 5, 0, "degraded", "1 of 4 peers is unreachable"),
        ([linked()] * 2 + [away(True)] * 6, 5, 0, "degraded", "6 of 8 peers are unreachable"),
        ([linked(), away(known=True, attempts=0)], 5, 0, "in_sync", "In sync with 1 of 1 peer"),
        (
            [linked(), replace(away(True, True, 0), last_error="enough")],
            5,
            0,
            "in_sync",
            "In sync with 1 of 1 peer",
        ),
        ([linked(1), linked()], 5, 0, "behind", "1 peer is up to 1 message behind"),
        ([linked(37), linked(2)], 99, 0, "behind", "2 peers are up to 37 messages behind"),
        ([linked(37), away(True)], 99, 0, "behind", "1 peer is up to 37 messages behind"),
        ([linked(3)], 41_200, 58_800, "catching_up", "Catching up: 41,200 of 100,000"),
        ([linked(3), away(True)], 1, 1, "catching_up", "Catching up: 1 of 2"),
    ],
)
def test_the_verdict_in_a_word_and_a_line(
    peers: list[PeerInfo], held: int, behind: int, state: str, text: str
) -> None:
    assert said(verdict(peers, held, behind)) == (state, text)


def test_the_verdict_counts() -> None:
    found = verdict([linked(), linked(2), away(by_hand=True)], 2, 0)
    assert (found.synced, found.peers, len(found.unreachable)) == (1, 3, 1)


def test_all_is_well_in_sync_and_alone_while_nobody_is_known() -> None:
    assert (
        verdict([linked()], 5, 0).good and verdict([], 5, 0).good and verdict([away()], 5, 0).good
    )
    for peers in ([away(True)], [linked(), away(True)], [linked(1)], [unanswered(0)]):
        assert not verdict(peers, 5, 0).good
    assert not verdict([linked()], 5, 1).good


def test_this_node_itself_is_no_peer() -> None:
    assert verdict([linked(), replace(away(True), state="self")], 5, 0).text.endswith("1 of 1 peer")


def test_a_peer_that_restarts_raises_no_alarm() -> None:
    peers = [linked(), replace(away(True), since=0)]
    assert said(verdict(peers, 5, 0, 4_000)) == ("in_sync", "In sync with 1 of 2 peers")
    assert verdict(peers, 5, 0, 6_000).state == "degraded"
    assert verdict(peers[1:], 5, 0, 1_000).text == "Disconnected: 0 of 1 peer reachable"


def unanswered(since: int) -> PeerInfo:
    """A peer that is connected since then and has not said what it holds."""
    return replace(linked(), late=None, since=since)


def test_a_link_that_has_delivered_nothing_is_not_in_sync() -> None:
    assert said(verdict([unanswered(0)], 5, 0, 1_000)) == ("catching_up", "Connecting to 1 peer")
    assert verdict([unanswered(0), linked()], 5, 0, 1_000).text == "In sync with 1 of 1 peer"
    assert said(verdict([unanswered(0)], 5, 0, 9_000)) == ("degraded", "1 of 1 peer is unreachable")
    found = verdict([unanswered(0), linked()], 5, 0, 9_000)
    assert said(found) == ("degraded", "1 of 2 peers is unreachable")
    assert "has not said" in found.unreachable[0].reason


def test_an_unreachable_peer_has_its_name_and_its_id_if_two_have_that_name() -> None:
    web = replace(away(known=True), name="web", address="ws://a:1")
    (found,) = verdict([web], 5, 0).unreachable
    assert (found.name, found.address, found.id) == ("web", "ws://a:1", "b" * 32)
    (found,) = verdict([web, replace(linked(), name="Web")], 5, 0).unreachable
    assert found.name == "web (bbbbbbbb)"
    (found,) = verdict([away(known=True)], 5, 0).unreachable
    assert found.name == "bbbbbbbb"


def test_the_peer_that_has_been_away_longest_is_named_first() -> None:
    peers = [replace(away(True), since=n, address=f"ws://a:{n}", last_error="x") for n in (3, 1)]
    named = verdict(peers, 5, 0).unreachable
    assert [(peer.name, peer.since, peer.reason) for peer in named] == [
        ("ws://a:1", 1, "x"),
        ("ws://a:3", 3, "x"),
    ]
