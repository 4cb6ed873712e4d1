"""A node: builds the parts, starts and stops them. What programs use as a library."""

from __future__ import annotations

import logging
import os
import platform
import random
import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ..address import Address, parse_address, reachable
from ..codes import MAX_NUMBER
from ..core.clock import MAX_AHEAD_MS, HybridClock
from ..core.deduplication import node_of
from ..core.overlay import Overlay
from ..core.replica import Replica
from ..core.vector import digest
from ..core.verdict import Verdict, is_missed, verdict
from ..disk.log import Log, Page
from ..disk.store import Store
from ..errors import InputError, LogError, MessageError, MessageTooLong, NotRunning, StartError
from ..metrics import Counters, Counts, Times
from ..net.credentials import Credentials
from ..net.listener import Listener
from ..settings import MAX_MESSAGE_BYTES, Settings
from ..version import __version__
from ..wire.frames import PROTOCOL_VERSION, Message, check_text
from ..wire.logframes import MAX_BATCH, MAX_ENTRY_BYTES
from .events import Event, Events
from .mesh import Mesh
from .reporter import Reporter
from .state import State, Ticket
from .writer import Writer

logger = logging.getLogger("p2p_sync")

_STOP_TIMEOUT = 1.0

# A node that was once ready stays so while it lacks no more messages than this.
_NEARLY = 1000
# A node that knows addresses waits this long for a peer before it counts as alone. Seconds.
_GATHERING = 5.0

# Messages that one who follows is given at a time.
_FOLLOWED = 100


class Node:
    """One member of the network: it holds the messages and links with its peers.

    All methods may be called by any thread. As a context manager it is started and stopped.
    """

    def __init__(
        self,
        peer_port: int,
        data_dir: str | os.PathLike[str] | None = None,
        *,
        peers: Sequence[str] = (),
        advertise: str | None = None,
        **settings: Any,
    ) -> None:
        """Make a node that will accept peers on `peer_port` (0: any free port).

        `data_dir` holds its identity and the addresses it knows; None keeps nothing. `peers` are
        addresses to dial, `advertise` is the address that peers are told ("none": this node
        cannot be dialled; None: they form it from the connection). Further options are the
        fields of `settings.Settings`. Raises InputError for what cannot be meant.
        """
        if not 0 <= peer_port <= 65535:
            raise InputError(f"{peer_port} is no port; ports go up to 65535")
        if not 0 <= settings.get("max_message_bytes", 0) <= MAX_MESSAGE_BYTES:
            raise InputError(f"the limit of a message is at most {MAX_MESSAGE_BYTES} bytes")
        dialable = advertise != "none"
        self._settings = Settings(
            peers=tuple(parse_address(peer) for peer in peers),
            advertise=parse_address(advertise) if advertise and dialable else None,
            dialable=dialable,
            **settings,
        )
        self._peer_port = peer_port
        self._data_dir = data_dir
        self._callbacks: list[Callable[[Message], object]] = []
        self._lifecycle = threading.Lock()  # one start or stop at a time
        self._parts: _Parts | None = None

    # -- starting and stopping ------------------------------------------------------------------

    def start(self) -> None:
        """Open the data directory, accept peers and begin to dial.

        Raises StartError, which says what to do, where the port or the directory cannot be had.
        """
        with self._lifecycle:
            if self._parts is None:
                try:
                    self._parts = _Parts(self._peer_port, self._data_dir, self._settings)
                    self._parts.start(self._callbacks)
                except BaseException as error:
                    parts, self._parts = self._parts, None
                    if parts:
                        parts.stop()
                    if not isinstance(error, LogError):
                        raise
                    raise StartError(
                        f"the data directory {self._data_dir} cannot be used ({error}); check the "
                        "disk, or choose another directory with --data-dir"
                    ) from None

    def stop(self) -> None:
        """Close all links and end all threads within about two seconds. Twice is fine."""
        with self._lifecycle:
            parts, self._parts = self._parts, None
        if parts:
            parts.stop()

    def __enter__(self) -> Node:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- what it does ---------------------------------------------------------------------------

    def connect(self, address: str) -> str:
        """Dial the node at `address` and keep that address; returns at once.

        Returns the key of its entry in `peers`. Raises AddressError where `address` cannot be one.
        """
        return self._running().mesh.connect(parse_address(address))

    def commit(self, text: str, copies: int = 0, timeout: float = 5.0) -> Message:
        """Add a message, and return it once it is on disk; peers are sent it.

        With `copies` it waits, `timeout` seconds at most, until that many other nodes hold it
        too; the message's `copies` tells how many do. Raises MessageTooLong or MessageError where
        `text` cannot be a message, LogFull or LogError where it cannot be stored.
        """
        parts = self._running()
        self.check(text)
        ticket = parts.state.commit([text], ack=copies > 0)
        parts.finish(ticket)
        message = ticket.message()
        if not copies:
            return message
        wait = parts.state.wait_copies
        return replace(
            message, copies=wait(message.origin, message.seq, copies, timeout, asked=True)
        )

    def begin(self, text: str, then: Callable[[bool], object]) -> Callable[[], None] | None:
        """Begin to add a message; returns what waits for the end, and raises as `commit` does.

        `then` is called in any thread, with True once the message is on disk, with False where it
        cannot be stored. Returns None, and has begun nothing, where this would have to wait.
        """
        parts = self._running()
        self.check(text)
        ticket = parts.state.begin(text, then)
        return partial(parts.finish, ticket) if ticket else None

    def commit_all(self, texts: Iterable[str]) -> Iterator[Message]:
        """Add a message for each of `texts`, many in a transaction, and yield those on disk.

        Raises as `commit` does; what was yielded before is stored.
        """
        for ticket in self._commit(texts):
            for index in range(len(ticket.texts)):
                yield ticket.message(index)

    def commit_many(self, texts: Iterable[str]) -> Iterator[tuple[Message, Message]]:
        """Do as `commit_all`, and yield the first and the last of each batch on disk, which are of
        one origin and have no gap between them."""
        for ticket in self._commit(texts):
            yield ticket.message(), ticket.message(len(ticket.texts) - 1)

    def _commit(self, texts: Iterable[str]) -> Iterator[Ticket]:
        """Commit `texts` in batches; yield those on disk, all of them before anything raises."""
        state = self._running().state
        waiting: deque[Ticket] = deque()
        last: Ticket | None = None
        problem: Exception | None = None
        try:
            for batch in self._batches(texts):
                last = state.commit(batch, after=last)
                waiting.append(last)
                if len(waiting) > 2:
                    state.wait_stored(waiting[0])
                    yield waiting.popleft()
        except Exception as error:
            problem = error
        for ticket in waiting:
            state.wait_stored(ticket)
            yield ticket
        if problem:
            raise problem

    def wait_copies(self, message: Message, copies: int, timeout: float) -> int:
        """Wait, `timeout` seconds at most, until `copies` other nodes hold a message of this
        node's own; return how many do."""
        return self._running().state.wait_copies(message.origin, message.seq, copies, timeout)

    def check(self, text: str) -> None:
        """Raise MessageTooLong or MessageError where `text` cannot be a message."""
        limit = self._settings.max_message_bytes
        if problem := check_text(text, limit):
            long = type(text) is str and len(text.encode("utf-8", "surrogatepass")) > limit
            raise (MessageTooLong if long else MessageError)(problem)

    def _batches(self, texts: Iterable[str]) -> Iterator[list[str]]:
        """Yield `texts` in batches for one entry of the log; those before an error come first."""
        batch: list[str] = []
        size = 0
        try:
            for text in texts:
                self.check(text)
                length = len(text.encode())
                if size + length > MAX_ENTRY_BYTES:
                    yield batch
                    batch, size = [], 0
                batch.append(text)
                size += length
                if len(batch) == MAX_BATCH:
                    yield batch
                    batch, size = [], 0
        except Exception:
            if batch:
                yield batch
            raise
        if batch:
            yield batch

    def messages(self) -> list[Message]:
        """Return the messages, in the order that is the same on every node.

        All of them are in memory then; `log` reads a part.
        """
        return list(self._running().state.messages)

    @property
    def log(self) -> Log:
        """The log, to read pages of it."""
        return self._running().log

    def status(self) -> dict[str, Any]:
        """Return what the node is and holds, as `GET /api/v1/status` tells it."""
        parts = self._running()
        held, hidden = parts.log.count()
        damaged = parts.log.damaged()
        behind = parts.state.behind()
        return {
            "verdict": self._verdict(parts)._asdict(),
            "node": {
                "id": parts.store.node,
                "address": parts.address,
                "version": __version__,
                "protocol": PROTOCOL_VERSION,
                "started": parts.started,
            },
            "sockets": parts.state.count(),
            "messages": {"count": held - hidden, "digest": digest(parts.state.vector())},
            "behind": behind,
            "conflicts": parts.state.conflicts(),
            "misbehaviour": parts.state.misbehaviour(),
            "damaged": damaged,
            "warnings": self.warnings + parts.state.clock_warnings() + _damage(damaged),
        }

    @staticmethod
    def _verdict(parts: _Parts) -> Verdict:
        held, _ = parts.log.count()
        peers, behind = parts.state.peers(late=True), parts.state.behind()
        return verdict(peers, held, behind, int(time.time() * 1000))

    def unready(self) -> str:
        """Return why this node should not be asked yet; nothing where it may be.

        It may be once it has caught up, and until it lacks many again; a node alone may at once. A
        node may not be while a part of its log is damaged.
        """
        parts = self._running()
        if problem := parts.state.problem():
            return problem
        if damaged := parts.log.damaged():
            return f"its log is damaged at {damaged[0]}, and no peer has sent that again yet"
        behind = parts.state.behind()
        age = time.monotonic() - parts.begun
        if not parts.caught_up and age < _GATHERING and parts.state.seeks():
            return "it has just started, and waits for what its peers hold"
        parts.caught_up = parts.caught_up or parts.state.caught_up()
        if behind > _NEARLY or not parts.caught_up:
            return f"it is catching up: {behind} messages are missing here"
        return ""

    def holds(self, name: str) -> bool:
        """Return whether the message with that identity, `origin:seq`, is on disk here."""
        origin, _, seq = name.rpartition(":")
        number = int(seq) if seq.isascii() and seq.isdigit() and len(seq) < 17 else 0
        return 0 < number <= self._running().state.held(origin)

    def follow(self, after: int, pause: float) -> Iterator[Page[tuple[int, Message]]]:
        """Yield what comes to be shown after arrival `after`, with its numbers, as it comes.

        An empty page says that nothing has come for `pause` seconds; the `damaged` of a page counts
        the entries that were left out of it. Ends when the node stops.
        """
        parts = self._running()
        return _follow(parts.state, parts.log, after, pause)

    def metrics(self) -> tuple[Counts, dict[str, Times]]:
        """Return what there is to measure, by the names of `GET /metrics`."""
        parts = self._running()
        held = {origin: count for origin, (count, _) in parts.state.vector().items()}
        heard = parts.log.heard()
        mine = [origin for origin in held if node_of(origin) == parts.store.node]
        own = sum(held[origin] - heard.get(origin, 0) for origin in mine)
        of_originals = sum(heard.values())
        counts = parts.counters.counts() | parts.state.traffic()
        counts["log_messages"] = {
            ("own",): own,
            ("ours",): sum(held.values()) - own - of_originals,
            ("heard",): of_originals,
        }
        counts["misbehaviour_total"] = {
            (kind,): count for kind, count in parts.state.misbehaviour().items()
        }
        peers = parts.state.peers()
        counts["in_sync"] = {(): self._verdict(parts).good}
        counts["peers"] = dict(
            Counter(("unreachable",) if is_missed(peer) else (peer["state"],) for peer in peers)
        )
        counts["build_info"] = {(__version__, str(PROTOCOL_VERSION), platform.python_version()): 1}
        counts["log_bytes"] = {(): parts.store.size()}
        counts["threads"] = {(): threading.active_count()}
        return counts, parts.counters.times()

    def sockets(self) -> int:
        """Return the number of connected sockets; a node of ours counts once."""
        return self._running().state.count()

    def peers(self) -> list[dict[str, Any]]:
        """Return an entry for each node and address known, as `GET /api/v1/peers` tells them."""
        return self._running().state.peers()

    def forget(self, key: str) -> bool:
        """Hang up on the peer whose entry in `peers` has that `key`, and forget its addresses.

        Returns False where there is none. A peer that knows this node may dial it again.
        """
        return self._running().mesh.forget(key)

    def copies(self, messages: Iterable[Message]) -> list[int]:
        """Return of each message how many linked nodes have told that it is on their disk."""
        return self._running().state.copies((message.origin, message.seq) for message in messages)

    def events(self, after: int = 0, timeout: float = 0.0) -> tuple[list[Event], int, int]:
        """Return the events after the one with that id, the last id, and when the node started.

        With none it waits for one, `timeout` seconds at most. The last 1,000 are kept; the ids
        begin anew with each start (ms since the epoch), by which a restart shows.
        """
        parts = self._running()
        return *parts.events.wait(after, timeout), parts.started

    def event_cursor(self, number: int) -> str:
        """Return the id of an event as a place that names this start of the node, too."""
        return self._running().events.cursors.text(number)

    def event_number(self, cursor: str) -> int:
        """Return the id in a place; raises CursorGone for one of another start, InputError for
        what is no place."""
        events = self._running().events
        return events.cursors.number(cursor, events.last())

    def on_message(self, callback: Callable[[Message], object]) -> None:
        """Have `callback` called with each message that comes to be held from the start on.

        All callbacks run in one thread of their own, in order of arrival; what one raises is
        logged. To be set before `start`, or it misses what came before.
        """
        self._callbacks.append(callback)
        if self._parts:
            self._parts.listen()

    def reload(self) -> None:
        """Read the files of the secrets and certificates again.

        Raises StartError where one cannot be used; then all goes on with what was read before.
        """
        self._running().credentials.reload()

    # -- what it is -----------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The node's id: 16 hexadecimal digits, kept in the data directory."""
        return self._running().store.node

    @property
    def certificate_names(self) -> tuple[str, ...]:
        """The names and addresses that the certificate of the peer port is for."""
        return self._running().credentials.names

    @property
    def warnings(self) -> list[str]:
        """What is dangerous about the node's settings, a short sentence each; `status` tells it
        with the other warnings."""
        return self._settings.warnings(self._running().server.server_address[0])

    @property
    def address(self) -> str:
        """The address for peers, as seen from this machine, or the one that is advertised."""
        return self._running().address

    def _running(self) -> _Parts:
        parts = self._parts
        if parts is None:
            raise NotRunning("the node is not running; call start() or use it in a with statement")
        return parts


def _damage(damaged: Sequence[str]) -> list[str]:
    """Return the warning about damaged entries, if there are any."""
    if not damaged:
        return []
    more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
    return [
        f"the log of this node is damaged at {damaged[0]}{more}: check its disk; damaged messages "
        "are not shown until a peer sends them again"
    ]


def _follow(
    state: State, log: Log, after: int, pause: float
) -> Iterator[Page[tuple[int, Message]]]:
    while not state.stopped:
        newest = log.last_arrival()
        page = log.arrivals(after, _FOLLOWED)
        # What a page that is not full has passed over, up to the newest, is not shown.
        last = page[-1][0] if page else after
        after = last if len(page) >= _FOLLOWED else max(last, newest)
        if page or page.damaged or not (state.wait_arrival(after, pause) or state.stopped):
            yield page


class _Parts:
    """What exists from a node's start to its stop."""

    def __init__(
        self, port: int, data_dir: str | os.PathLike[str] | None, settings: Settings
    ) -> None:
        self.credentials = Credentials(settings)
        self.counters = Counters()
        self.caught_up = False
        self.store = Store(data_dir)
        try:
            self.server = Listener(port, settings, self.credentials)
            self.log = Log(self.store)
        except OSError as error:
            self.store.close()
            raise StartError(
                f"the peer port {port} on {settings.host} cannot be had "
                f"({error.strerror or error}); choose another with --peer-port"
            ) from None
        except BaseException:
            self.store.close()
            raise
        wall = int(time.time() * 1000)
        clock = HybridClock()
        clock.observe(self.log.newest_time(wall + MAX_AHEAD_MS), wall)
        start = secrets.randbelow(MAX_NUMBER)
        replica = Replica(self._new_origin(start), self.log.vector(), random.Random())
        overlay = Overlay(self.store.node, start, settings, self.server.port, random.Random())
        self.state = State(overlay, replica, self.log, clock, self._new_origin)
        self.events = Events(self.store.start)
        reporter = Reporter(self.events, self.state, self.log)
        self.mesh = Mesh(
            self.state,
            self.store,
            self.log,
            settings,
            self.credentials,
            start,
            self.counters,
            reporter,
        )
        self.writer = Writer(self.state, self.log, reporter)
        self.address = str(
            settings.advertise
            or Address(reachable(settings.host), self.server.port, bool(settings.tls_cert))
        )
        self.started = wall
        self.begun = time.monotonic()
        self._listened = threading.Event()  # there is somebody to call back
        self._delivery = threading.Thread(target=self._deliver, name="callbacks", daemon=True)

    def _new_origin(self, number: int | None = None) -> str:
        return f"{self.store.node}-{secrets.randbelow(MAX_NUMBER) if number is None else number}"

    def start(self, callbacks: list[Callable[[Message], object]]) -> None:
        self._callbacks = callbacks
        if callbacks:
            self.listen()
        self.writer.start()
        self.server.start(self.mesh)
        self.mesh.start()
        self.caught_up = not self.state.seeks()  # with no peer known there is nothing to wait for
        self._delivery.start()

    def listen(self) -> None:
        """Hand on messages to the callbacks from now on."""
        if not self._listened.is_set():
            self._delivered = self.log.last_arrival()
            self._listened.set()

    def stop(self) -> None:
        self.events.stop()
        self.state.stop()
        self._listened.set()
        self.mesh.stop()
        self.server.stop()
        self.writer.stop()
        self.state.give_up()
        if self._delivery.ident and threading.current_thread() is not self._delivery:
            self._delivery.join(_STOP_TIMEOUT)
        self.store.close()

    def finish(self, ticket: Ticket) -> None:
        """Wait until a single message is on disk; raises LogError where it cannot be."""
        self.state.wait_stored(ticket)
        self.counters.time("commit_seconds", time.monotonic() - ticket.begun)

    def _deliver(self) -> None:
        """The thread `callbacks`: hand on each message, in order of arrival."""
        self._listened.wait()  # else each message would wake this thread for nothing
        while not self.state.stopped and self.state.wait_arrival(self._delivered):
            try:
                self._deliver_new()
            except LogError as error:
                logger.error("messages could not be read for callbacks: %s", error)
                return

    def _deliver_new(self) -> None:
        newest = self.log.last_arrival()
        page = self.log.arrivals(self._delivered, MAX_BATCH) if self._callbacks else []
        numbers = [number for number, _ in page]
        # A short page is the last one; what was passed over in it is not shown.
        self._delivered = numbers[-1] if len(page) == MAX_BATCH else max([newest, *numbers])
        for _, message in page:
            for callback in list(self._callbacks):
                try:
                    callback(message)
                except Exception:
                    logger.exception("the callback %r failed", callback)
