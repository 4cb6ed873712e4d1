"""The state of a node in a word and in a line, the same for the page, the API and the command line.

Pure: the entries that the API lists as peers go in. The first of these states that fits is the
verdict; it says what is most urgent for the people who use this node:

    alone         no peer is connected; if peers are known, they are all unreachable
    catching_up   this node lacks messages that others have, or is about to learn whether it does
    behind        a connected peer lacks messages
    degraded      some peers are connected and have all messages, but others are unreachable
    in_sync       the connected peers have the same messages, and no other has been unreachable for
                  longer than a restart takes
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..names import labels
from ..results import PeerInfo, State, Unreachable, Verdict
from ..settings import MAX_UNREACHABLE, VERDICT_ANSWER, VERDICT_RESTART


def verdict(peers: Iterable[PeerInfo], held: int, behind: int, now: int = 0) -> Verdict:
    """Judge by the entries of `peers`, and the messages that this node holds and lacks.

    `now` is the current time in ms since the epoch. See `is_missed` for the peers that count.
    """
    peers = list(peers)
    connected = [peer for peer in peers if peer.state == "connected"]
    lags = [peer.late for peer in connected if peer.late is not None]
    silent = [peer for peer in connected if peer.late is None]
    mute = [peer for peer in silent if now - peer.since >= VERDICT_ANSWER]
    names = labels(peers)
    missed = [_missed(peer, names, "connected, but it has not said what it holds") for peer in mute]
    missed += [_missed(peer, names, peer.last_error) for peer in peers if is_missed(peer)]
    missed.sort(key=lambda peer: peer.since)
    count, synced = len(lags) + len(missed), lags.count(0)

    def judged(state: State, text: str) -> Verdict:
        return Verdict(state, text, synced, count, missed[:MAX_UNREACHABLE])

    if not connected:
        text = f"Disconnected: 0 of {numbered(count, 'peer')} reachable" if count else ""
        return judged("alone", text or "No peers yet")
    if behind:
        return judged("catching_up", f"Catching up: {held:,} of {held + behind:,}")
    if not lags and len(mute) < len(silent):
        return judged("catching_up", f"Connecting to {numbered(len(silent), 'peer')}")
    if any(lags):
        late = len(lags) - synced
        most = numbered(max(lags), "message")
        return judged("behind", f"{numbered(late, 'peer')} {_are(late)} up to {most} behind")
    if any(now - peer.since >= VERDICT_RESTART for peer in missed):
        of_all = f"{len(missed):,} of {numbered(count, 'peer')}"
        return judged("degraded", f"{of_all} {_are(len(missed))} unreachable")
    return judged("in_sync", f"In sync with {synced} of {numbered(count, 'peer')}")


def is_missed(peer: PeerInfo) -> bool:
    """Return whether a peer that is not connected should be: its address was given by hand, or has
    worked and does not answer now. One that was only learned and never worked does not count, nor
    one that has answered and has links enough, nor this node itself."""
    if peer.state in ("connected", "self"):
        return False
    if not peer.attempts:
        return peer.by_hand and not peer.last_error  # it was not dialled yet
    return bool(peer.by_hand or peer.id or peer.worked)


def _missed(peer: PeerInfo, names: Mapping[str, str], reason: str) -> Unreachable:
    """Return an unreachable peer; its `name` is what people call it, if need be its address."""
    named = names[peer.id] if peer.id and (peer.name or not peer.address) else peer.address
    return Unreachable(peer.key, named or "", peer.id, peer.address, peer.since, reason)


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def numbered(count: int, noun: str) -> str:
    """Return a count of things, for people."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
