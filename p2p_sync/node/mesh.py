"""Keeps the links: what happens when one opens, says something or ends, and whom to dial when.

The rules are the overlay's, the facts are the state's; here are the threads that act on them:
`upkeep` starts dials when they are due, each dial has a thread, which goes on to read its link,
and the links call back in their own threads.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from functools import partial

from ..address import Address, is_loopback, parse_address, site
from ..codes import (
    GOING_AWAY,
    NORMAL,
    NOT_PROVED,
    OTHER_PROTOCOL,
    POLICY_VIOLATION,
    SAME_NODE,
    TRY_AGAIN_LATER,
    UNSUPPORTED_DATA,
)
from ..core.conduct import VIOLATIONS
from ..core.peer import Close, Tell, Work
from ..core.peertable import key_of
from ..core.replica_link import Ship
from ..core.replica_link import Work as LinkWork
from ..core.verdict import numbered
from ..disk.log import Log
from ..disk.store import Store
from ..errors import DialError, LogError, LogGone, ProtocolError
from ..metrics import Counters
from ..net.credentials import Credentials
from ..net.dialer import Dialer, resolve
from ..net.link import Link, wake
from ..net.opening import Opened
from ..net.stream import Endpoint
from ..repeats import Repeats
from ..settings import SPARE_PEERS, Settings
from ..wire.frames import Frame, Heard, Ignored, Message, Sockets, decode, encode
from ..wire.logframes import (
    LOG_FRAMES,
    MAX_BATCH,
    MAX_SHIPPED,
    Have,
    LogFrame,
    Messages,
    PackedRun,
    messages_to_json,
)
from ..wire.proof import Challenge
from .reporter import Reporter
from .state import Offence, State

logger = logging.getLogger("p2p_sync")

# How long peers have to answer the CLOSE of a node that stops, and then its threads. Seconds.
_STOP_TIMEOUT = 0.7

# Bytes of text in one MESSAGES frame; six times as much, each byte escaped, stays below the limit
# of a frame.
BATCH_BYTES = 160 * 1024
# Messages that an original node is sent at a time, a frame each.
_ORIGINAL_BATCH = 20

# Closing with these turns a peer down.
_REFUSALS = {SAME_NODE: "same_node", TRY_AGAIN_LATER: "links_enough"}

# More addresses than this in a SOCKETS frame that is not a peer's first are looked at askance.
_MANY_ADDRESSES = 16
# Links of one host that are logged as they come and go. A minute.
_MANY_LINES = 600
_ADDRESSES_AGAIN = "it sends many addresses again and again"
_CONFLICT = (
    "conflict: two different messages have the id {0.origin}:{0.seq}, or one before it; this node "
    "does not take the one that node {0.peer} holds"
)


class Mesh:
    """The links of one node. It is the owner of the listener, and the handler of every link."""

    def __init__(
        self,
        state: State,
        store: Store,
        log: Log,
        settings: Settings,
        credentials: Credentials,
        start: int,
        counters: Counters,
        reporter: Reporter,
    ) -> None:
        """`start` is the number of this start of the node."""
        self._state = state
        self._counters = counters
        self._repeats = Repeats()
        self._log = log
        self._store = store
        self._settings = settings
        self._reporter = reporter
        self._credentials = credentials
        self._start = start
        self._dialer = Dialer(settings, credentials)
        self._upkeep = threading.Thread(target=self._keep_up, name="upkeep", daemon=True)

    # -- the owner's thread ---------------------------------------------------------------------

    def start(self) -> None:
        """Begin to dial: what was kept, and what the settings name."""
        now = time.monotonic()
        kept = self._store.addresses(_epoch())
        with self._state.overlay() as overlay:
            for known in kept:
                overlay.book.restore(known, now)
            for peer in self._settings.peers:
                overlay.book.add(str(peer), now)
        self._upkeep.start()

    def stop(self) -> None:
        """Close every link with 1001 and end all threads, within about two seconds."""
        self._dialer.stop()
        for link in self._state.sockets:
            link.close(GOING_AWAY, "this node stops")
        if not self._state.wait_unlinked(_STOP_TIMEOUT):
            for link in self._state.sockets:
                link.cut("it did not answer the CLOSE")
            self._state.wait_unlinked(_STOP_TIMEOUT)
        if self._upkeep.ident:
            self._upkeep.join(_STOP_TIMEOUT)
            self._keep_addresses()

    # -- any thread -----------------------------------------------------------------------------

    def connect(self, address: Address) -> str:
        """Dial `address`, given by hand, and keep it; return its key at once."""
        self._reporter.asked_for(str(address))
        with self._state.overlay() as overlay:
            overlay.book.add(str(address), time.monotonic())
        return key_of(str(address))

    def forget(self, key: str) -> bool:
        """Hang up on the peer with that key and forget its addresses; False: there is none."""
        links = self._state.forget(key)
        for link in links or ():
            link.close(NORMAL, "this node was told to forget it")
        return links is not None

    def challenge(self, binding: str, dialled: bool = False) -> Challenge | None:
        """Return what both sides of a new connection have to prove; None in an open network.

        `binding` is the digest of the certificate that the accepting side has shown.
        """
        keys = self._credentials.keys
        if not keys:
            return None
        nonce = secrets.token_hex(32)
        return Challenge(keys, self._store.node, self._start, nonce, dialled, binding)

    # -- the listener's thread ------------------------------------------------------------------

    def room(self, host: str) -> str:
        """Return why there is no room for one more link of `host`; nothing if there is.

        Those in the spare places are sent addresses, then their links are closed (see overlay.py).
        """
        accepted = [link for link in self._state.sockets if not link.dialled]
        if len(accepted) >= self._settings.max_peers + SPARE_PEERS:
            return f"This node is full: it accepts {self._settings.max_peers} links."
        limit = self._settings.max_peers_per_host
        same = sum(site(link.remote[0]) == site(host) for link in accepted)
        if same >= limit and not is_loopback(host):
            return f"This node accepts {limit} links of one host, and has them of yours."
        return ""

    def take(self, opened: Opened) -> None:
        link = Link(opened, self, self._settings)
        self._state.link_opened(link)  # here, so that the next has room only if there is some
        try:
            threading.Thread(target=link.run, name=f"read {link}", daemon=True).start()
        except RuntimeError:
            wake(self._state.link_closed(link))
            raise

    def refused(self, remote: Endpoint, kind: str, reason: str) -> None:
        self._counters.add("refusals_total", kind)
        where = str(Address(*remote)).partition("://")[2]
        what = f"{site(remote[0])!r} {reason}"
        if news := self._repeats.failed(what, reason, time.monotonic()):
            logger.info("refused a connection from %s: %s", where, news)

    # -- the readers' threads -------------------------------------------------------------------

    def opened(self, link: Link) -> None:
        """Begin to talk with a peer that may be one of ours."""
        now = time.monotonic()
        work: list[Work] = []
        if link.dialled:
            self._state.link_opened(link)
        with self._state.overlay() as overlay:
            if link.dialled:
                work = overlay.dialled(link.number, link.dialled, link.dial, link.remote, now)
            else:
                overlay.accepted(link.number, link.remote, link.local, now)
        self._do(work)

    def received(self, link: Link, message: str | bytes) -> bool:
        if isinstance(message, bytes):
            raise ProtocolError(UNSUPPORTED_DATA, "a message must be text, not binary")
        try:
            frame = decode(message)
        except ProtocolError as error:
            if error.code == OTHER_PROTOCOL:
                self.waiting(link)  # send our opening first: the peer can then say so, too
            raise
        self._counters.add("frames_total", "in", _kind(frame))
        if isinstance(frame, Sockets):
            if link.proved and frame.node != link.proved:
                raise ProtocolError(POLICY_VIOLATION, "the id is not the one that was proved")
            if frame.nonce and not link.proved:
                raise ProtocolError(
                    NOT_PROVED, "that network has a secret: start this node with --secret-file"
                )
            link.node = link.node or frame.node or ""
            with self._state.overlay() as overlay:
                again = link.number in overlay.peers and overlay.peers[link.number].introduced
                work = overlay.hello(link.number, frame, time.monotonic())
            self._do(work)
            if again and len(frame.addresses) > _MANY_ADDRESSES:
                self._misbehaved(link, Offence("addresses", _ADDRESSES_AGAIN))
            self._linked(link)
            if frame.node:
                link.ping()  # the rules of the log count in round trips
            else:
                self._reporter.heard(link)
            wake(self._state.link_known(link))
            link.wake()
            return not again
        if isinstance(frame, LOG_FRAMES):
            if isinstance(frame, Messages):
                link.received += sum(run.count for run in frame.runs)
            taken = self._state.receive(link, frame)
            wake(taken.woken)
            self._reporter.heard(link)
            self._reporter.told(frame)
            for offence in taken.offences:
                self._misbehaved(link, offence)
            for conflict in taken.conflicts:
                self._warn(link, "conflict", _CONFLICT.format(conflict))
            return taken.new
        link.received += isinstance(frame, Message | Heard)
        self.silent(link)  # whoever says something else first is an original
        if isinstance(frame, Heard):
            self._hear(link, frame)
        elif isinstance(frame, Ignored):
            self._misbehaved(link, Offence("ignored", f"ignored {frame.why}"))
        return not isinstance(frame, Ignored)

    def _hear(self, link: Link, frame: Heard) -> None:
        try:
            self._state.wait_stored(self._state.hear(frame.data, link))
        except LogError as error:
            logger.error("a message of the original node %s is lost here: %s", link, error)

    def _misbehaved(self, link: Link, offence: Offence) -> None:
        """Count and log what a peer did wrong; close the link if it is a violation."""
        self._state.misbehaved(offence.kind, offence.times)
        self._warn(link, offence.kind, offence.sentence)
        if offence.kind in VIOLATIONS:
            link.close(POLICY_VIOLATION, offence.sentence)

    def _warn(self, link: Link, kind: str, sentence: str) -> None:
        if line := self._state.line(link, kind, sentence):
            logger.warning("%s", line)

    def waiting(self, link: Link) -> None:
        with self._state.overlay() as overlay:
            work = overlay.greet(link.number, time.monotonic())
        self._do(work)

    def silent(self, link: Link) -> None:
        if link.proved:
            return  # a node that knows the secret is no original
        with self._state.overlay() as overlay:
            work = overlay.not_ours(link.number, time.monotonic())
        self._do(work)
        self._linked(link)
        self._reporter.heard(link)
        link.wake()

    def _linked(self, link: Link) -> None:
        """The other end is known for what it is; the first time it is news, if the link stays."""
        if link.linked or link.closing():
            return
        link.linked = True
        in_vain = self._repeats.worked(link.dialled) if link.dialled else 0
        if not self._state.may_log("linked", link.remote[0], _MANY_LINES):
            return
        logger.info(
            "linked with %s, %s%s%s",
            link,
            "dialled" if link.dialled else "accepted",
            "" if link.node else ", an original node",
            f", after {numbered(in_vain, 'dial')} in vain" if in_vain else "",
        )

    def measured(self, link: Link) -> None:
        self._counters.time("peer_delay_seconds", link.rtt)

    def closed(self, link: Link, reason: str) -> None:
        if link.fault:
            self._state.misbehaved(link.fault)  # logged below
        with self._state.overlay() as overlay:
            overlay.closed(link.number, reason, time.monotonic(), link.code)
        wake(self._state.link_closed(link))
        self._reporter.closed(link, reason)
        if link.dialled and not link.linked:
            reason = self._repeats.failed(link.dialled, reason, time.monotonic())
        if reason and self._state.may_log("ended", link.remote[0], _MANY_LINES):
            logger.info("the link with %s ended: %s", link, reason)

    # -- the senders' threads -------------------------------------------------------------------

    def next_texts(self, link: Link) -> tuple[list[str], float]:
        try:
            work = self._state.take(link)
            if work is None:
                return self._texts_for_original(link), float("inf")
            return self._texts(link, work), work.until
        except LogError as error:
            link.cut(str(error))
            return [], float("inf")

    def _texts(self, link: Link, work: LinkWork) -> list[str]:
        """Return what the rules would have sent to a node of ours."""
        texts = [self._encode(frame) for frame in work.frames]
        runs: list[PackedRun] = []
        room, count = BATCH_BYTES, 0
        for origin, after, upto in work.ships:
            run, left = self._log.read(origin, after, upto, room)
            if runs and (left < 0 or count + run.count > MAX_SHIPPED):
                break  # it begins the next frame
            runs.append(run)
            room, count = left, count + run.count
            if room <= 0 or count >= MAX_BATCH:
                break
        if runs:
            asked = zip(work.ships, runs, strict=False)
            self._state.shipped(
                link, [Ship(ship.origin, ship.after, run.end) for ship, run in asked]
            )
            link.sent += count
            self._counters.add("frames_total", "out", "MESSAGES")
            have = work.have if room >= 0 else {}  # one entry may fill the frame alone
            texts.append(messages_to_json(runs, have, work.ack))
            if work.have and not have:
                texts.append(self._encode(Have(work.have, ack=work.ack)))
        return texts

    def _texts_for_original(self, link: Link) -> list[str]:
        """Return what an original node is sent: messages one by one (see gossip.py)."""
        messages: list[Message] = []
        while not messages and (after := self._state.arrival(link)) is not None:
            newest = self._log.last_arrival()
            arrivals = self._log.arrivals(after, _ORIGINAL_BATCH, hidden=True)
            # What the writer is about to count can be read already: never go back behind that.
            last = arrivals[-1][0] if arrivals else after
            upto = last if len(arrivals) == _ORIGINAL_BATCH else max(last, newest)
            if upto == after:
                break
            messages = self._state.for_original(link, arrivals, upto)
        link.sent += len(messages)
        return [self._encode(message) for message in messages]

    # -- the thread `upkeep` --------------------------------------------------------------------

    def _keep_up(self) -> None:
        while (due := self._state.due()) is not None:
            wake(due.woken)
            self._do(due.tells)
            for link in due.stalled:
                self._misbehaved(link, Offence("claims", "it does not send what it says it has"))
            for address, number in due.dials:
                thread = threading.Thread(
                    target=self._dial, args=(address, number), name=f"dial {address}", daemon=True
                )
                try:
                    thread.start()
                except RuntimeError as error:  # there can be no more threads
                    self._dial_failed(address, DialError(f"no connection: {error}"))
            if due.keep:
                self._keep_addresses()
            for note in due.notes:
                self._reporter.clock(note)

    def _keep_addresses(self) -> None:
        try:
            self._store.keep_addresses(self._state.addresses, _epoch())
        except LogGone:
            return  # the writer finds it too, and says so
        except LogError as error:
            logger.warning("the addresses could not be kept: %s", error)

    # -- the dials' threads ---------------------------------------------------------------------

    def _dial(self, address: str, number: int) -> None:
        """Dial `address`, and serve the link if it comes about."""
        parsed = parse_address(address)
        try:
            endpoints = resolve(parsed)
            with self._state.overlay() as overlay:
                endpoints = overlay.resolved(address, endpoints, time.monotonic())
            if not endpoints:
                logger.info("not dialled: %s leads to this node or a connected peer", address)
                self._counters.add("dials_total", "unneeded")
                return
            challenge = partial(self.challenge, dialled=True)
            opened = self._dialer.dial(parsed, endpoints, challenge)
        except DialError as error:
            self._dial_failed(address, error)
            return
        self._counters.add("dials_total", "linked")
        Link(opened, self, self._settings, address, number).run()

    def _dial_failed(self, address: str, error: DialError) -> None:
        """Note that a dial is over, and report why it failed, if that is news."""
        if error.oneself:
            with self._state.overlay() as overlay:
                overlay.reached_oneself(address, error.oneself, time.monotonic())
            self._counters.add("dials_total", "unneeded")
            logger.info("dialling %s has reached this node itself", address)
            return
        with self._state.overlay() as overlay:
            trouble = overlay.failed(address, str(error), time.monotonic(), error.refused)
            known = overlay.book.known.get(address)
        self._counters.add("dials_total", "refused" if error.refused else "failed")
        if not trouble:
            return
        if news := self._repeats.failed(address, str(error), time.monotonic()):
            name = f"{address} ({known.node[:8]})" if known and known.node else address
            logger.warning("dialling %s failed: %s", name, news, extra={"address": address})
        self._reporter.dial_failed(address, error)

    # -- shared ---------------------------------------------------------------------------------

    def _do(self, work: Iterable[Work]) -> None:
        """Carry out what the rules ask for; with no lock held."""
        links = {link.number: link for link in self._state.sockets}
        for item in work:
            link = links.get(item.link)
            if link is None:
                continue
            if isinstance(item, Tell):
                link.send(self._encode(item.frame))
            elif isinstance(item, Close):
                if item.code in _REFUSALS:
                    self._counters.add("refusals_total", _REFUSALS[item.code])
                link.close(item.code, item.reason)

    def _encode(self, frame: Sockets | Message | LogFrame) -> str:
        if isinstance(frame, Have):  # as late as possible, so that it is right
            frame = replace(frame, clock=int(time.time() * 1000))
        self._counters.add("frames_total", "out", _kind(frame))
        return encode(frame)


def _kind(frame: Frame) -> str:
    """Return the type of `frame` for people who count."""
    if isinstance(frame, Ignored):
        return "ignored"
    return "MESSAGE" if isinstance(frame, Heard) else type(frame).__name__.upper()


def _epoch() -> float:
    """Return when, on the monotonic clock, the system's clock stood at zero."""
    return time.monotonic() - time.time()
