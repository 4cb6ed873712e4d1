"""The life of a link: it opens, the peer introduces itself, it breaks a rule, the link ends.

A peer goes through these states. Each is reported to people once.

    open        the link is open; it is known which node of ours the peer is, or that it is an
                original
    linked      it has introduced itself, or is an original that was silent for a while
    joined      it has sent something after that. So a second link to the same node, which one side
                closes at once, is not reported
    left        its last link has ended
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from ..address import host_and_port, is_loopback, site
from ..codes import GOING_AWAY, NORMAL, POLICY_VIOLATION, SAME_NODE, TRY_AGAIN_LATER
from ..settings import FIRST_RTT, MANY_ADDRESSES, SPARE_PEERS, Settings
from ..wire.frames import Sockets
from .book import Endpoint, Known
from .deduplication import Copies
from .effects import ENDED, JOINED, LEFT, LINKED, NOT_LINKED, Note
from .faults import KINDS, VIOLATIONS
from .overlay import Overlay
from .peer import Peer
from .replica import Replica
from .turn import COPIES, LINKS, Turn
from .twins import Twins


class Links:
    """The links of one node. Part of the core."""

    def __init__(
        self, turn: Turn, node: str, overlay: Overlay, replica: Replica, settings: Settings
    ) -> None:
        """`node` is this node's own id."""
        self.faults: Counter[str] = Counter(dict.fromkeys(KINDS, 0))  # of peers, by kind
        self.carried = (0, 0)  # bytes that closed links have sent and received
        self.twins = Twins(turn, node)
        self._turn = turn
        self._node = node
        self._overlay = overlay
        self._replica = replica
        self._settings = settings

    def __contains__(self, peer: Peer) -> bool:
        """Whether the link to `peer` is still open."""
        return peer in self._overlay.peers

    def room_for(self, host: str) -> str:
        """Return why there is no room for one more connection of a remote host, or "" if there is.
        A peer in a spare place is sent addresses, and its link is closed."""
        hosts = [site(peer.remote[0]) for peer in self._overlay.peers if not peer.known]
        settings = self._settings
        if len(hosts) >= settings.max_peers + SPARE_PEERS:
            return f"This node is full: it accepts {settings.max_peers} links."
        limit = settings.max_peers_per_host
        if hosts.count(site(host)) >= limit and not is_loopback(host):
            return f"This node accepts {limit} links from one host, and has as many from yours."
        return ""

    def opened(
        self,
        link: Any,
        remote: Endpoint,
        local: Endpoint,
        *,
        dialled: str | None = None,
        dial: int = 0,
        node: str | None = None,
        start: int = 0,
        arrival: int = 0,
    ) -> Peer:
        """A link is open: return the record of its peer.

        `link` belongs to the shell and is only stored. `dialled` is the address that this node
        dialled (None: it accepted the link), and `dial` the number of that dial. `node` is the id
        that the peer has proved (None: it is an original) and `start` the number of its start.
        `arrival` is the number of the last arrival in the log.
        """
        turn = self._turn
        known = Known(dialled) if dialled else None
        peer = Peer(link, known, dial, remote, turn.now, node, start)
        peer.arrival, peer.since = arrival, turn.wall
        self._overlay.opened(peer, local)
        if turn.stopped:
            turn.effects.close(peer, GOING_AWAY, "this node stops")
        turn.look()
        return peer

    def greet(self, peer: Peer) -> None:
        """The peer of an accepted link has sent nothing for `greeting_pause` seconds."""
        if peer in self:
            self._overlay.gossip.greet(peer)

    def silent(self, peer: Peer) -> None:
        """A peer has sent nothing for `introduction_timeout` seconds, or something else than
        SOCKETS first. An original counts as introduced then."""
        if peer in self and not peer.ours:
            self._overlay.silent(peer)
            self._linked(peer)
            self.joined(peer)
            self._turn.look()

    def measured(self, peer: Peer, rtt: float) -> None:
        """The round trip to a peer was measured; seconds."""
        peer.rtt = rtt
        if peer.log:
            peer.log.rtt = rtt

    def introduced(self, peer: Peer, frame: Sockets) -> bool:
        """A peer has sent SOCKETS; return whether it is its first."""
        first = not peer.introduced
        self._overlay.received(peer, frame)
        if not first and len(frame.addresses) > MANY_ADDRESSES:
            self.fault(peer, "addresses", "it sends many addresses again and again")
        if peer.node and not peer.log and not peer.leaving:
            rtt = FIRST_RTT if peer.rtt is None else peer.rtt
            host = "" if peer.is_hub else site(peer.remote[0])
            peer.log = self._replica.open(peer.node, rtt, self._turn.now, peer, host)
        self._linked(peer)
        if not peer.node:
            self.joined(peer)
        self._turn.look()
        return first

    def joined(self, peer: Peer) -> None:
        """A peer has sent something after it has introduced itself."""
        if peer.joined or not peer.introduced or peer.leaving:
            return
        # If the first of two links is about to end, the peer stays: it joins only once.
        known = any(other.joined and _leads_to(other, peer) for other in self._overlay.peers)
        peer.joined = True
        if not known:
            kind = "" if peer.node else ", an original node"
            way = "outgoing" if peer.known else "incoming"
            self._note(JOINED, f"{peer.label_at(_where(peer))} connected{kind}, {way}", peer)

    def fault(self, peer: Peer, kind: str, sentence: str, times: int = 1) -> None:
        """A peer did something wrong. If that violates the protocol, its link is closed."""
        self.faults[kind] += times
        about = f"{kind} {site(peer.remote[0])}"  # a host may have very many ids
        self._note(kind, f"from {peer.label}: {sentence}", peer, about, sentence)
        if kind in VIOLATIONS:
            self._turn.effects.close(peer, POLICY_VIOLATION, sentence)

    def closed(
        self,
        peer: Peer,
        reason: str,
        code: int | None = None,
        fault: str = "",
        volume: tuple[int, int] = (0, 0),
    ) -> None:
        """A link has ended for `reason`; it has carried `volume` bytes (sent, received).

        `code` is that of the CLOSE that began the end. `fault` is the kind of fault, if this node
        has closed the link for one.
        """
        self.carried = self.carried[0] + volume[0], self.carried[1] + volume[1]
        if fault:
            self.faults[fault] += 1
        self._overlay.closed(peer, reason, code)
        if peer.node:
            self._note_twins(peer, peer.node, code)
        if peer.log:
            self._replica.close(peer.log, self._turn.now)
        peer.copies = Copies()  # the record may be kept as the source of what it has sent
        self._note_end(peer, reason, code)
        self._turn.changed.add(COPIES)
        self._turn.look()

    def met_twin(self, where: str) -> None:
        """A connection has led to a node with this node's own id, at `where`."""
        self.twins.seen(self._node, self._node, f"this one and one at {where}")

    def _note_twins(self, peer: Peer, node: str, code: int | None) -> None:
        """Note whether the link to `peer` has ended since two nodes have one id."""
        if code != SAME_NODE:
            self.twins.over(node)
        elif not peer.leaving:  # the peer has closed it, being linked with the other one
            self.twins.seen(node, self._node, f"as {peer.label} says")
        else:
            others = (other for other in self._overlay.peers if other.node == node)
            first = next((f"one at {_where(other)} and " for other in others), "")
            self.twins.seen(node, node, f"{first}one on the host {peer.remote[0]}")

    def _note_end(self, peer: Peer, reason: str, code: int | None) -> None:
        """Report that a link has ended and, if it was the last one, that the peer has left."""
        others = [other for other in self._overlay.peers if _leads_to(other, peer)]
        heir = next((other for other in others if other.joined or not other.leaving), None)
        if peer.joined and heir:
            heir.joined = True
        elif peer.joined:
            self._note(LEFT, f"{peer.label_at(_where(peer))} disconnected: {reason}", peer)
        elif code not in (None, NORMAL, GOING_AWAY, TRY_AGAIN_LATER):
            text = f"{peer.label} and this node do not link: {reason}"
            about = f"links {peer.dialled or site(peer.remote[0])}"
            self._note(NOT_LINKED, text, peer, about, reason)
        failing = peer.dialled if peer.dialled and not peer.linked else None
        text = f"the link with {peer.label} ended: {reason}"
        self._note(ENDED, text, peer, failing or "", reason if failing else "")

    def _linked(self, peer: Peer) -> None:
        """A peer has introduced itself: report it once, if the link stays. If the peer is an
        original, its sender may have messages to send from now on."""
        if peer.leaving or peer.linked:
            return
        peer.linked = True
        if peer.node:
            self.twins.over(peer.node)
        self._turn.effects.wake(peer)
        self._turn.changed.add(LINKS)
        way = "dialled" if peer.known else "accepted"
        kind = "" if peer.node else ", an original node"
        text = f"linked with {peer.label}, {way}{kind}"
        self._note(LINKED, text, peer, peer.dialled or "")

    def _note(self, kind: str, text: str, peer: Peer, about: str = "", reason: str = "") -> None:
        about = about or site(peer.remote[0])  # what one host may cause is limited
        self._turn.effects.add(Note(kind, text, about, reason, _where(peer), peer.node))


def _leads_to(other: Peer, peer: Peer) -> bool:
    """Return whether another link leads to the same node, even if that has not joined yet."""
    if other is peer:
        return False
    if peer.node and other.node == peer.node:
        return True
    return other.dialled == _where(peer) and not (other.introduced and peer.node)


def _where(peer: Peer) -> str:
    """Return what the table of peers calls a peer: its address, as far as it is known."""
    return peer.dialled or peer.address or host_and_port(peer.remote)
