"""Carries out what the core decides. Owns the threads that the core needs: one that waits for time,
one for each dial, which then reads its link, and one for each accepted link.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from concurrent.futures import Future
from functools import partial

from ..address import Address, parse_address, site
from ..codes import SAME_NODE, TRY_AGAIN_LATER
from ..core.effects import REFUSED_HERE, Close, Dial, Effect, Effects, Keep, Note, Settle
from ..core.peertable import key_of
from ..core.turn import LINKS
from ..disk.store import Store
from ..errors import DialError, LogError, LogGone
from ..metrics import Counters
from ..net.credentials import Credentials
from ..net.dialer import Dialer, resolve
from ..net.link import Link
from ..net.opening import Opened
from ..net.redis import HubLog
from ..net.stream import Endpoint
from ..settings import CLOSE_PATIENCE, TIMER_RETRY, Settings
from ..urls import HubUrl
from ..wire.proof import Handshake
from .hub import HubLink
from .journal import Journal
from .session import Session
from .state import State

logger = logging.getLogger("p2p_sync")

# Closing with these turns a peer down, for the metrics.
_REFUSALS = {SAME_NODE: "same_node", TRY_AGAIN_LATER: "links_enough"}


class Shell:
    """Connects the core of one node to links, dials, the disk and the clock. Owns the peer port."""

    state: State

    def __init__(
        self,
        store: Store,
        settings: Settings,
        credentials: Credentials,
        start: int,
        counters: Counters,
        journal: Journal,
    ) -> None:
        """`start` is the number of this start of the node. Set `state` before any other call."""
        self._store = store
        self._settings = settings
        self._credentials = credentials
        self._start = start
        self._counters = counters
        self._journal = journal
        self._dialer = Dialer(settings, credentials)
        self._timer = threading.Thread(target=self._keep_time, name="timer", daemon=True)

    # -- the owner's thread ---------------------------------------------------------------------

    def start(self) -> None:
        """Begin to dial the addresses in the data directory and in the settings."""
        kept = self._store.addresses(_epoch())
        with self.state.turn() as core:
            for known in kept:
                core.book.restore(known, core.now)
            for peer in self._settings.peers:
                core.connect(str(peer))
            if self._credentials.hub:
                core.connect(str(self._credentials.hub))
        self._timer.start()

    def stop(self) -> None:
        """Close every link with 1001 and end all threads, within about two seconds."""
        self._dialer.stop()
        with self.state.turn() as core:
            core.stop()
        if not self._wait_unlinked():
            for link in self.state.sockets:
                link.cut("it did not answer the CLOSE")
            self._wait_unlinked()
        if self._timer.ident:
            self._timer.join(CLOSE_PATIENCE)
            self._keep_addresses()

    def _wait_unlinked(self) -> bool:
        """Wait a short time until all links have ended; return whether they have."""
        with self.state.turn(LINKS, lambda core: not core.peers, CLOSE_PATIENCE) as core:
            return not core.peers

    # -- any thread -----------------------------------------------------------------------------

    def connect(self, address: Address) -> str:
        """Dial an address given by hand and remember it; return its key at once."""
        self._journal.forget(str(address))
        with self.state.turn() as core:
            core.connect(str(address))
        return key_of(str(address))

    def perform(self, effects: Effects) -> None:
        """Carry out what a turn has decided, in the thread that has ended it, with no lock held."""
        for peer in effects.woken:
            peer.link.wake()
        for effect in effects.others:
            try:
                self._perform(effect)
            except Exception:  # others wait for the rest, such as a commit for its result
                logger.exception("an effect has failed: %s", type(effect).__name__)

    def _perform(self, effect: Effect) -> None:
        if isinstance(effect, Settle):
            _settle(effect)
        elif isinstance(effect, Note):
            self._journal.note(effect)
        elif isinstance(effect, Close):
            self._close(effect)
        elif isinstance(effect, Dial):
            self._begin_dial(effect)
        elif isinstance(effect, Keep):
            self._keep_addresses()

    def _close(self, effect: Close) -> None:
        if effect.code in _REFUSALS:
            self._counters.add("refusals_total", _REFUSALS[effect.code])
        effect.peer.link.close(effect.code, effect.reason)

    def _begin_dial(self, effect: Dial) -> None:
        thread = threading.Thread(
            target=self._dial,
            args=(effect.address, effect.number),
            name=f"dial {effect.address}",
            daemon=True,
        )
        try:
            thread.start()
        except RuntimeError as error:  # there can be no more threads
            self._dial_failed(effect.address, DialError(f"no connection: {error}"))

    # -- the listener's thread ------------------------------------------------------------------

    def room(self, host: str) -> str:
        """Return why there is no room for another connection from `host`; "" if there is."""
        with self.state.turn() as core:
            return core.links.room_for(host)

    def handshake(self, binding: str, dialled: bool = False) -> Handshake:
        """Return the handshake of a new connection. `binding` is the SHA-256 of the certificate
        that the accepting side has shown."""
        identity, keys = self._store.identity, self._credentials.keys
        return Handshake(identity, self._start, secrets.token_hex(32), keys, dialled, binding)

    def take(self, opened: Opened) -> None:
        """Make a link of an accepted connection, and read it in a thread. Raises RuntimeError if
        there can be no more threads."""
        session, link = self._session(opened)
        try:
            threading.Thread(target=link.run, name=f"read {link}", daemon=True).start()
        except RuntimeError:
            session.closed(link, "there can be no more threads")
            raise

    def refused(self, remote: Endpoint, kind: str, reason: str) -> None:
        """Note a connection that was refused."""
        self._counters.add("refusals_total", kind)
        where = str(Address(*remote)).partition("://")[2]
        about = f"a connection from {site(remote[0])}"
        text = f"refused a connection from {where}: {reason}"
        self._journal.note(Note(REFUSED_HERE, text, about, reason))
        if kind == _REFUSALS[SAME_NODE]:
            with self.state.turn() as core:
                core.links.met_twin(f"the host {remote[0]}")

    def _session(
        self, opened: Opened, dialled: str | None = None, dial: int = 0
    ) -> tuple[Session, Link]:
        """Make a link of an open connection, known to the core."""
        session = Session(self.state, self._counters)
        link = Link(opened, session, self._settings, dialled)
        session.open(link, dial, opened.node, opened.start)
        return session, link

    # -- the timer's thread ---------------------------------------------------------------------

    def _keep_time(self) -> None:
        while self.state.wait_due():
            try:
                with self.state.turn() as core:
                    core.tick()
            except Exception:
                logger.exception("what is due by time has failed; it is tried again")
                time.sleep(TIMER_RETRY)

    def _keep_addresses(self) -> None:
        try:
            self._store.keep_addresses(self.state.addresses, _epoch())
        except LogGone:
            return  # the writer finds it too, and says so
        except LogError as error:
            logger.warning("the addresses could not be kept: %s", error)

    # -- the dials' threads ---------------------------------------------------------------------

    def _dial(self, address: str, number: int) -> None:
        """Dial `address`; if that succeeds, read the link until it ends."""
        if self._credentials.hub and address == str(self._credentials.hub):
            self._dial_hub(self._credentials.hub, number)
            return
        parsed = parse_address(address)
        try:
            endpoints = resolve(parsed)
            with self.state.turn() as core:
                endpoints = core.dialling.resolved(address, endpoints)
            if not endpoints:
                self._counters.add("dials_total", "unneeded")
                return
            handshake = partial(self.handshake, dialled=True)
            opened = self._dialer.dial(parsed, endpoints, handshake)
        except DialError as error:
            self._dial_failed(address, error)
            return
        except Exception:
            logger.exception("dialling %s failed", address)
            self._dial_failed(address, DialError("this node failed; see its log"))
            return
        self._counters.add("dials_total", "linked")
        _, link = self._session(opened, address, number)
        link.run()

    def _dial_hub(self, hub: HubUrl, number: int) -> None:
        """Connect to the hub, and serve its link until it ends."""
        session = Session(self.state, self._counters)
        settings, address = self._settings, str(hub)
        try:
            log = HubLog(hub, settings.hub_prefix, settings.hub_messages)
        except DialError as error:
            self._dial_failed(address, error)
            return
        except Exception:
            logger.exception("connecting to the hub %s failed", address)
            self._dial_failed(address, DialError("this node failed; see its log"))
            return
        self._counters.add("dials_total", "linked")
        limit = settings.max_message_bytes
        link = HubLink(log, session, address, self._store.identity, self.state, limit)
        session.open(link, number, link.node, 0)
        link.run()

    def _dial_failed(self, address: str, error: DialError) -> None:
        result = "unneeded" if error.oneself else "refused" if error.refused else "failed"
        self._counters.add("dials_total", result)
        with self.state.turn() as core:
            core.dialling.failed(address, error)
            if error.twin:
                core.links.met_twin(address)


def _settle(effect: Settle) -> None:
    """Give a commit its result."""
    future: Future[None] = effect.commit.future
    if effect.error is None:
        future.set_result(None)
    else:
        future.set_exception(effect.error)


def _epoch() -> float:
    """Return the time on the monotonic clock at which the system's clock showed zero."""
    return time.monotonic() - time.time()
