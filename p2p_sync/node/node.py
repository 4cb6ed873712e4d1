"""A node: what programs use as a library."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count, repeat
from typing import TypeVar, overload

from ..address import parse_address
from ..core.core import Core
from ..core.turn import LINKS
from ..disk.log import Log, Page
from ..disk.wanted import Wanted
from ..errors import ConsumerError, InputError, LogError, NotRunning, StartError
from ..names import checked_name, host_name
from ..results import Events, PeerInfo, Status
from ..settings import (
    CONSUMER_ALONE,
    CONSUMER_ATTEMPTS,
    Bytes,
    Seconds,
    Settings,
    called,
)
from ..urls import parse_hub
from ..wire.frames import Message, check_topic
from .arguments import File, addresses_of, check_node, path_of, seconds_of, urls_of
from .consumers import ConsumerOptions, Consumers
from .consuming import Consuming
from .delivery import Callback
from .follow import follow
from .forks import acknowledge
from .intake import Intake
from .journal import Journal
from .keys import check_key
from .parts import Parts
from .report import Report

logger = logging.getLogger("p2p_sync")
logger.addHandler(logging.NullHandler())  # a program that sets up no logging sees no lines

Function = TypeVar("Function", bound=Callable[[Message], object])


class Node:
    """One member of the network: it holds the messages and is connected with its peers.

    Any thread may call any method. A `with` statement starts the node and stops it; before and
    after that most methods raise NotRunning. The logger `p2p_sync` gets what operators should know;
    a program that sets up no logging sees none of it.
    """

    def __init__(
        self,
        peer_port: int,
        data_dir: File | None = None,
        *,
        name: str | None = Settings.name,
        host: str = Settings.host,
        advertise: str | None = None,
        peers: Sequence[str] = (),
        hub: str | None = None,
        hub_file: File | None = Settings.hub_file,
        hub_prefix: str = Settings.hub_prefix,
        hub_messages: bool = Settings.hub_messages,
        target_links: int = Settings.target_links,
        max_peers: int = Settings.max_peers,
        max_peers_per_host: int = Settings.max_peers_per_host,
        keep: Seconds | None = Settings.keep,
        keep_bytes: Bytes | None = Settings.keep_bytes,
        keep_messages: int | None = Settings.keep_messages,
        keep_keys: Seconds = Settings.keep_keys,
        max_new_origins: int = Settings.max_new_origins,
        secret: str | None = Settings.secret,
        secret_file: File | None = Settings.secret_file,
        tls_cert: File | None = Settings.tls_cert,
        tls_key: File | None = Settings.tls_key,
        tls_ca: File | None = Settings.tls_ca,
        hooks: Sequence[str] = (),
        hook_topic: str | None = Settings.hook_topic,
        hook_of: str = Settings.hook_of,
        hook_secret_file: File | None = Settings.hook_secret_file,
        max_message_bytes: Bytes = Settings.max_message_bytes,
        max_frame_bytes: Bytes = Settings.max_frame_bytes,
        heartbeat: Seconds = Settings.heartbeat,
        send_timeout: Seconds = Settings.send_timeout,
        handshake_timeout: Seconds = Settings.handshake_timeout,
        greeting_pause: Seconds = Settings.greeting_pause,
        introduction_timeout: Seconds = Settings.introduction_timeout,
        redial_first: Seconds = Settings.redial_first,
        redial_longest: Seconds = Settings.redial_longest,
        probe: Seconds = Settings.probe,
        exchange: Seconds = Settings.exchange,
    ) -> None:
        """Make a node that will accept peers on `peer_port` (0: any free port).

        `data_dir` is for the log, the node's identity and the addresses it knows; None: keep
        nothing. The other parameters are the settings of a node, as docs/library.md lists them.
        Raises InputError for an invalid value.
        """
        if type(peer_port) is not int or not 0 <= peer_port <= 65535:
            raise InputError(f"{called('peer_port')} is from 0 to 65535, not {peer_port!r}")
        if data_dir is not None and not str(data_dir).strip():
            raise InputError(f"{called('data_dir')} is empty; name a directory, or leave it out")
        self._settings = Settings(
            name=host_name() if name is None else checked_name(name),
            host=host,
            advertise=None if advertise in (None, "none") else parse_address(advertise),
            dialable=advertise != "none",
            peers=addresses_of(peers),
            hub=None if hub is None else parse_hub(hub),
            hub_file=path_of(hub_file),
            hub_prefix=hub_prefix,
            hub_messages=hub_messages,
            target_links=target_links,
            max_peers=max_peers,
            max_peers_per_host=max_peers_per_host,
            keep=keep,
            keep_bytes=keep_bytes,
            keep_messages=keep_messages,
            keep_keys=keep_keys,
            max_new_origins=max_new_origins,
            secret=secret,
            secret_file=path_of(secret_file),
            tls_cert=path_of(tls_cert),
            tls_key=path_of(tls_key),
            tls_ca=path_of(tls_ca),
            hooks=urls_of(hooks),
            hook_topic=hook_topic,
            hook_of=hook_of,
            hook_secret_file=path_of(hook_secret_file),
            max_message_bytes=max_message_bytes,
            max_frame_bytes=max_frame_bytes,
            heartbeat=heartbeat,
            send_timeout=send_timeout,
            handshake_timeout=handshake_timeout,
            greeting_pause=greeting_pause,
            introduction_timeout=introduction_timeout,
            redial_first=redial_first,
            redial_longest=redial_longest,
            probe=probe,
            exchange=exchange,
        )
        check_topic(hook_topic or "")
        self._peer_port = peer_port
        self._data_dir = path_of(data_dir)
        self._callbacks: list[Callback] = []
        self._idle = threading.Condition()  # guards the next one
        self._changing = False  # it starts or stops: one of these at a time
        self._parts: Parts | None = None

    # -- starting and stopping ------------------------------------------------------------------

    def start(self) -> None:
        """Open the data directory, accept peers and begin to dial.

        Raises StartError, which says what to do, if the port or the directory cannot be used.
        """
        if not self._claim(running=False):
            return
        parts: Parts | None = None
        try:
            parts = Parts(self._peer_port, self._data_dir, self._settings, self._callbacks)
            parts.start()
            self._parts = parts
            if self._callbacks:  # one may have come while the parts started
                parts.delivery.listen()
        except BaseException as error:
            if parts:
                parts.stop()
            if not isinstance(error, LogError):
                raise
            raise StartError(
                f"the data directory {self._data_dir} cannot be used ({error}); check the "
                f"disk, or choose another directory with {called('data_dir')}"
            ) from None
        finally:
            self._release()

    def stop(self) -> None:
        """Close all links and end all threads within about two seconds. Twice is fine."""
        if not self._claim(running=True):
            return
        parts, self._parts = self._parts, None
        try:
            if parts:
                parts.stop()
        finally:
            self._release()

    def _claim(self, running: bool) -> bool:
        """Wait until no other start or stop is under way, and begin one. Return False, and begin
        none, unless the node is `running` or not."""
        with self._idle:
            self._idle.wait_for(lambda: not self._changing)
            self._changing = (self._parts is not None) == running
            return self._changing

    def _release(self) -> None:
        with self._idle:
            self._changing = False
            self._idle.notify_all()

    def __enter__(self) -> Node:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- peers and messages ---------------------------------------------------------------------

    def connect(self, address: str) -> str:
        """Dial the node at `address` and remember the address; return at once.

        Returns the key of its entry in `peers`. Raises AddressError if `address` is invalid.
        """
        return self._running().shell.connect(parse_address(address))

    def commit(
        self,
        text: str,
        copies: int = 0,
        timeout: float = 5.0,
        *,
        topic: str = "",
        key: str = "",
    ) -> Message:
        """Add a message, send it to all peers, and return it once it is on disk.

        With `copies` this waits until nodes on that many other hosts hold it, too, for `timeout`
        seconds at most; the `copies` of the message say how many do. Nodes that connect from one
        host count once. `topic` is a short text beside the message, up to 64 letters, digits, `.`,
        `_`, `-` and `/`, by which readers can choose; "": none.

        `key` is an idempotency key of up to 128 printable ASCII characters; "": none. If it has
        named a message at this node within `keep_keys` seconds, also before a crash, that message
        is returned, and nothing is added. Raises MessageTooLong, MessageError, TopicError or
        KeyInvalid if an argument is not valid, KeyReused if the key has named another text or
        topic, LogFull or LogError if the message cannot be stored.
        """
        if key:
            check_key(key)
        return self.intake.commit(text, copies, seconds_of(timeout), topic, key).message()

    def commit_all(self, texts: Iterable[str], topic: str = "", key: str = "") -> Iterator[Message]:
        """Add a message for each of `texts`, all of one topic, many in a transaction. Yield each
        once it is on disk. With a `key` (see `commit`) each message has the key and its number: if
        the same texts come again with it, those that are stored are not added again.

        This is a generator: nothing is added until its result is read, as by `list(...)`. Raises
        what `commit` raises; the messages before the error are stored and yielded.
        """
        if key:
            check_key(key)
        keys = (f"{key}\n{number}" for number in count(1)) if key else repeat("")
        for commit in self.intake.commit_many(zip(texts, repeat(topic), keys, repeat(""))):
            for index in range(len(commit.texts)):
                yield commit.message(index)

    def erase(self, id: str) -> Message:
        """Erase the message with that id on all nodes, and return it without its text once that is
        on disk here.

        Its place, id and time remain, with the `time` and the origin of the notice as `erased`. One
        that is erased already is returned as it is. Peers that are not connected erase it when they
        are again. Raises UnknownMessage if this node has no such message, LogFull or LogError.
        """
        return self.intake.erase(id)

    def messages(self, topic: str = "") -> list[Message]:
        """Return all messages that are kept, or those of a topic, in the order that is the same on
        every node. Raises TopicError."""
        check_topic(topic)
        return list(self._running().state.messages(topic))

    @property
    def log(self) -> Log:
        """The log, for the parts of this package."""
        return self._running().log

    @property
    def intake(self) -> Intake:
        """Commits messages, for the parts of this package."""
        return self._running().intake

    @property
    def report(self) -> Report:
        """Answers questions about this node, for the parts of this package."""
        return self._running().report

    @property
    def journal(self) -> Journal:
        """The events and their cursors, for the parts of this package."""
        return self._running().journal

    def status(self) -> Status:
        """Return the state of the node: `status().verdict.text` says it to people."""
        return self.report.status()

    def acknowledge_forks(self) -> None:
        """Report the forks that are known now no more (see `forks` in `status`). Their messages
        stay. For any thread. Raises LogError if that cannot be written."""
        parts = self._running()
        acknowledge(parts.state, parts.store)

    def unready(self) -> str:
        """Return why the node is not ready; "" if it is.

        A node is ready once it has caught up, or at once if it knows no other node. It stays ready
        until many messages are missing. It is not ready while its log is damaged or cannot be
        written.
        """
        return self.report.unready()

    def follow(
        self,
        after: int = 0,
        pause: float | None = None,
        topic: str = "",
        node: str = "",
        since: int = 0,
    ) -> Iterator[Page[tuple[int, Message]]]:
        """Yield pages of the messages after arrival `after`, each with its number, as they come. A
        message that is erased comes once more, without its text.

        With a `topic` only its own messages come, with a `node` those of nodes whose id begins with
        it, and with `since` those from that time on (ms since the epoch). An empty page means that
        nothing has come for `pause` seconds (None: there are none). Ends when the node stops.
        Raises TopicError or InputError, and LogError if the log cannot be read.
        """
        check_topic(topic)
        check_node(node)
        return follow(self._running().state, after, pause, Wanted(topic, node, since))

    def sockets(self) -> int:
        """Return the number of connected sockets; a node of ours counts once."""
        with self._running().state.turn() as core:
            return core.overlay.count()

    def wait_linked(self, count: int = 1, timeout: float = 10.0) -> bool:
        """Wait until at least `count` sockets are connected, as `sockets` counts them, for
        `timeout` seconds at most. Return whether they are; False also if the node stops.

        A thread that waits costs nothing: it is woken when a peer comes. Raises InputError if
        `timeout` is negative, NotRunning.
        """

        def is_over(core: Core) -> bool:
            return core.stopped or core.overlay.count() >= count

        with self._running().state.turn(LINKS, is_over, seconds_of(timeout)) as core:
            return not core.stopped and core.overlay.count() >= count

    def peers(self) -> list[PeerInfo]:
        """Return an entry for each known node or address; connected nodes come first."""
        return self.report.peers()

    def forget(self, key: str) -> bool:
        """Close the link to the peer whose entry in `peers` has that `key`, and forget its
        addresses. Return False if there is none. A peer that knows this node may dial it again.
        """
        return self.report.forget(key)

    def retry(self, key: str) -> bool:
        """Dial the peer whose entry in `peers` has that `key` now, instead of after the pause that
        follows its last failure. Return False if there is none.

        A peer whose address was only learned is dialled if this node needs more links.
        """
        return self.report.retry(key)

    def events(self, after: int = 0, timeout: float = 0.0) -> Events:
        """Return the events after the one with that id.

        Waits for an event, for `timeout` seconds at most, if there is none. The last 1,000 are
        kept. The ids begin again at each start of the node.
        """
        parts = self._running()
        return Events(*parts.journal.wait(after, seconds_of(timeout)), parts.started)

    @contextmanager
    def watched(self, watcher: Callable[[], object]) -> Iterator[None]:
        """During the block, have `watcher` called when there may be news: messages, copies, links,
        addresses or events. The thread that has brought them calls it, with no lock held, so it
        must be quick; it is called as well when the node stops."""
        watchers = self._running().watchers
        watchers.append(watcher)
        try:
            yield
        finally:
            watchers.remove(watcher)

    @overload
    def on_message(self, callback: Function, topic: str = "") -> Function: ...

    @overload
    def on_message(self, *, topic: str = "") -> Callable[[Function], Function]: ...

    def on_message(
        self, callback: Function | None = None, topic: str = ""
    ) -> Function | Callable[[Function], Function]:
        """Call `callback` with each message that arrives from now on, or from the start on; with a
        `topic` only with its own. A message that is erased comes once more, without its text.

        Returns `callback`, so this is a decorator, too: `@node.on_message`, or
        `@node.on_message(topic="deploy")`. All callbacks run in one thread of their own, in order
        of arrival; a slow one delays the others, but not the node. An error in one is logged, an
        exit, too. Raises TopicError.
        """
        check_topic(topic)
        if callback is None:
            return lambda function: self.on_message(function, topic)
        parts = self._parts
        after = parts.log.last_arrival() if parts else 0
        self._callbacks.append(Callback(callback, topic, after))
        if parts := self._parts:
            parts.delivery.listen()
        return callback

    def off_message(self, callback: Callable[[Message], object]) -> bool:
        """Call `callback` no more, for any topic; return False if it was not called before.

        A call that is under way in the thread of the callbacks goes on.
        """
        found = [entry for entry in [*self._callbacks] if entry.function == callback]
        for entry in found:
            self._callbacks.remove(entry)
        return bool(found)

    def consume(
        self,
        name: str,
        handle: Callable[[Message], object],
        topic: str = "",
        *,
        start: str = "first",
        max_attempts: int = CONSUMER_ATTEMPTS,
    ) -> Consuming:
        """Call `handle` with each message, in order of arrival, one at a time, whatever crashes.

        The node must be running. It remembers under `name`, which has up to 64 letters, digits,
        `.`, `_` and `-`, which messages are handled. If `handle` returns, one is; if it raises an
        error, it is called again after a pause of 1 s to 5 minutes, and messages behind wait. After
        `max_attempts` (0: no limit) the message is parked, see `consumers`. The first call of a
        name begins at the first message that is kept, or with `start` "new" at the next one; later
        ones, also after a crash, go on where the last one was. If this process is killed while
        `handle` runs, it is called with that message again, and that counts as an attempt; a stop
        does not. Erased messages are left out; `topic`
        chooses those of one topic.

        Calls come from one thread of their own, with no lock held; each name has one at a time.
        Returns that thread: its `stop()` ends it, as stopping the node does. Raises ConsumerError,
        TopicError, CursorGone, NotRunning or LogError.
        """
        if not callable(handle):
            raise ConsumerError(f"handle is a function that takes a message, not {handle!r:.40}")
        options = ConsumerOptions(topic, False, CONSUMER_ALONE, max_attempts)
        return self._running().consume(name, handle, options, start)

    @property
    def consumers(self) -> Consumers:
        """The consumers: how far each one is, and which messages it has put aside."""
        return self._running().consumers

    def reload(self) -> None:
        """Read the files of the secrets and certificates again.

        Raises StartError if one cannot be used; then those read before stay in use.
        """
        self._running().credentials.reload()

    # -- properties -----------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The node's id: 32 hexadecimal digits, derived from its key in the data directory."""
        return self._running().store.node

    @property
    def certificate_names(self) -> tuple[str, ...]:
        """The host names and IP addresses in the certificate of the peer port."""
        return self._running().credentials.names

    @property
    def warnings(self) -> list[str]:
        """What is dangerous about the node's settings, a short sentence each; they are among the
        warnings in `status`."""
        return list(self._running().warnings)

    @property
    def address(self) -> str:
        """The address for peers: the advertised one, or the one that this machine can use."""
        return self._running().address

    def _running(self) -> Parts:
        parts = self._parts
        if parts is None:
            raise NotRunning("the node is not running; call start() or use it in a with statement")
        return parts
