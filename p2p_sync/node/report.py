"""What a node says about itself: its peers, its state in a word, its metrics.

Each answer reads the core in several short turns, so that none holds the lock for long.
"""

from __future__ import annotations

import platform
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from ..core.clock import early_notice
from ..core.core import Core
from ..core.deduplication import node_of
from ..core.peer import Peer
from ..core.peertable import Entry, Traffic, entries
from ..core.verdict import is_missed, verdict
from ..disk.store import Store
from ..errors import LogError
from ..metrics import Counters, Counts, Times
from ..results import LogInfo, NodeInfo, PeerInfo, Status, Verdict
from ..settings import GATHERING, MAX_FORKS_SHOWN, MAX_LAGS, NEARLY_READY, SHORT_ID
from ..version import __version__
from ..wire.frames import PROTOCOL_VERSION, Message
from .consumer_status import summary
from .consumers import Consumers
from .forks import branches, disputes, warnings
from .machine import resources
from .state import State


class Spread(NamedTuple):
    """How many connected nodes have confirmed that a message is on their disk, and which have not,
    by their ids."""

    copies: int
    lacking: list[str]


class Report:
    """The questions that can be asked about one node. For any thread."""

    def __init__(
        self,
        state: State,
        store: Store,
        counters: Counters,
        consumers: Consumers,
        about: NodeInfo,
        join: Callable[[Iterable[PeerInfo]], str],
        dangers: Sequence[str],
    ) -> None:
        """`join` returns the command by which another node joins this one and these peers;
        `dangers` are the warnings about the settings of the node."""
        self._state = state
        self._consumers = consumers
        self._about = about
        self._join = join
        self._dangers = dangers
        self._store = store
        self._log = state.log
        self._counters = counters
        self._begun = time.monotonic()
        with state.turn() as core:
            self._caught_up = not _seeks(core)  # with no peer known there is nothing to wait for

    # -- peers ----------------------------------------------------------------------------------

    def peers(self) -> list[PeerInfo]:
        """Return an entry for each known node or address; connected nodes come first."""
        with self._state.turn() as core:
            peers = list(core.peers)
        # A turn for each: with many origins it takes a while to see how far a peer is behind.
        traffic = {peer: self._traffic(peer) for peer in peers}
        with self._state.turn() as core:
            now, wall = time.monotonic(), time.time()
            return [entry.info(traffic, now, wall) for entry in _table(core)]

    def _traffic(self, peer: Peer) -> Traffic:
        lag: int | None = None
        late: int | None = None
        notice = ""
        with self._state.turn() as core:
            if peer.log and peer.log.introduced:
                replica, log = core.replica, peer.log
                lag = replica.lag(log)
                late = max(0, lag - replica.latest(core.now))
                notice = early_notice(replica.early_at(log), core.wall)
            sent, received = peer.link.volume
            volumes = (peer.sent, sent), (peer.received, received)
            return Traffic(peer.rtt, *volumes, lag, late, notice)

    def forget(self, key: str) -> bool:
        """Close the link to the peer whose entry in `peers` has that `key`, and forget its
        addresses; return False if there is none."""
        with self._state.turn() as core:
            entry = _entry(core, key)
            if entry is not None:
                core.forget(entry.known, entry.peers)
            return entry is not None

    def retry(self, key: str) -> bool:
        """Dial the addresses of the peer whose entry in `peers` has that `key`, without waiting any
        longer; return False if there is none."""
        with self._state.turn() as core:
            entry = _entry(core, key)
            if entry is not None:
                core.retry(entry.known)
            return entry is not None

    # -- messages -------------------------------------------------------------------------------

    def holds(self, name: str) -> bool:
        """Return whether the message with that identity, `origin:seq`, is on disk here."""
        origin, _, seq = name.rpartition(":")
        number = int(seq) if seq.isascii() and seq.isdigit() and len(seq) < 17 else 0
        with self._state.turn() as core:
            return 0 < number <= core.replica.vector.held(origin)

    def spread(self, messages: Iterable[Message]) -> list[Spread]:
        """Return of each message on which connected nodes it is."""
        wanted = list(messages)
        with self._state.turn() as core:
            linked = {link.peer for link in core.replica.links}
            held = [core.replica.copies(each.origin, each.seq) for each in wanted]
        return [Spread(len(nodes), sorted(linked - nodes)) for nodes in held]

    # -- state ----------------------------------------------------------------------------------

    def verdict(self, peers: Iterable[PeerInfo] | None = None) -> Verdict:
        """Return the state of the node in a word and a line. `peers` are those of `peers()`, for a
        caller that has asked already."""
        held, _ = self._log.count()
        peers = self.peers() if peers is None else peers
        return verdict(peers, held, self.behind(), int(time.time() * 1000))

    def behind(self) -> int:
        """Return how many messages are missing here, as far as is known."""
        with self._state.turn() as core:
            return core.replica.catch_up.behind(core.now)

    def status(self) -> Status:
        """Return the state of the node."""
        held, hidden = self._log.count()
        damaged = self._log.damaged()
        with self._state.turn() as core:
            fingerprints = core.replica.vector.fingerprints
            digest, missed = fingerprints.digest, core.exchange.missed
            sockets, behind = core.overlay.count(), core.replica.catch_up.behind(core.now)
            disputed = disputes(core)
            faults = dict(core.links.faults)
            twins = core.links.twins.warnings()
            clocks = core.dates.warnings(core.replica.catch_up.early, core.wall, core.now)
            left_out = core.replica.warnings(core.now)
        found = branches(self._state, self._store)
        consumers, troubles = summary(self._store)
        problems = clocks + twins + left_out + _damage(damaged) + warnings(found, disputed)
        peers = self.peers()
        return Status(
            verdict=self.verdict(peers),
            node=replace(self._about, join=self._join(peers)),
            sockets=sockets,
            messages=LogInfo(held - hidden, digest, self._log.complete_since()),
            behind=behind,
            missed=missed,
            conflicts=len(found) + len(disputed),
            forks=found[:MAX_FORKS_SHOWN],
            disputes=disputed[:MAX_FORKS_SHOWN],
            consumers=consumers,
            resources=resources(self._store.size(), self._store.directory),
            misbehaviour=faults,
            damaged=damaged,
            warnings=[*self._dangers, *problems, *troubles],
        )

    def unready(self) -> str:
        """Return why the node is not ready; "" if it is (see `Node.unready`)."""
        with self._state.turn() as core:
            problem = str(core.commits.failure or "")
            behind, seeks = core.replica.catch_up.behind(core.now), _seeks(core)
            caught_up = core.replica.catch_up.caught_up(core.now)
        if problem:
            return problem
        if damaged := self._log.damaged():
            return f"its log is damaged at {damaged[0]}, and no peer has sent that again yet"
        if not self._caught_up and time.monotonic() - self._begun < GATHERING and seeks:
            return "it has just started, and waits for what its peers hold"
        self._caught_up = self._caught_up or caught_up
        if behind > NEARLY_READY or not self._caught_up:
            return f"it is catching up: {behind} messages are missing here"
        return ""

    # -- what is measured -----------------------------------------------------------------------

    def metrics(self) -> tuple[Counts, dict[str, Times]]:
        """Return all measurements, by the names in `GET /metrics`."""
        counts = self._counters.counts() | self._links() | self._messages()
        counts |= self._consumer_counts()
        peers = self.peers()
        counts["in_sync"] = {(): self.verdict(peers).good}
        counts["peers"] = dict(
            Counter(("unreachable",) if is_missed(peer) else (peer.state,) for peer in peers)
        )
        lags = {
            (peer.id[:SHORT_ID], peer.name or ""): peer.behind
            for peer in peers
            if peer.state == "connected" and peer.id and peer.behind is not None
        }
        most = sorted(lags.items(), key=lambda lag: -lag[1])[:MAX_LAGS]
        counts["peer_lag_messages"] = dict(most)
        versions = __version__, str(PROTOCOL_VERSION), platform.python_version()
        counts["build_info"] = {(*versions, self._about.name): 1}
        with self._state.turn() as core:
            disputed = len(disputes(core))
        counts["conflicts"] = {(): disputed + len(branches(self._state, self._store))}
        counts["damaged_origins"] = {(): len(self._log.damaged())}
        counts["log_bytes"] = {(): self._store.size()}
        counts["deleted_messages_total"] = {(): self._log.deleted()}
        counts["threads"] = {(): threading.active_count()}
        return counts, self._counters.times()

    def _links(self) -> Counts:
        with self._state.turn() as core:
            links = Counter[tuple[str, ...]](
                (
                    "out" if peer.known else "in",
                    "closing" if peer.leaving else "open" if peer.introduced else "opening",
                )
                for peer in core.peers
            )
            volumes = [core.links.carried, *(peer.link.volume for peer in core.peers)]
            sent, received = map(sum, zip(*volumes, strict=True))
            return {
                "links": dict(links),
                "link_bytes_total": {("out",): sent, ("in",): received},
                "duplicates_received_total": {(): core.replica.receiver.duplicates},
                "behind_messages": {(): core.replica.catch_up.behind(core.now)},
                "missed_messages_total": {(): core.exchange.missed},
                "waiting_origins": {(): len(core.replica.catch_up.early)},
                "clock_difference": {(): core.dates.difference(core.wall, core.now) / 1000},
                "misbehaviour_total": {(kind,): count for kind, count in core.links.faults.items()},
            }

    def _consumer_counts(self) -> Counts:
        try:
            found = self._consumers.status()
        except LogError:
            return {}
        return {
            "consumer_lag_messages": {(each.name,): each.lag for each in found},
            "consumer_attempts": {(each.name,): each.attempts for each in found},
            "consumer_parked_messages": {(each.name,): each.parked for each in found},
            "consumer_missed_total": {(each.name,): each.missed for each in found},
        }

    def _messages(self) -> Counts:
        heard, (held, _) = self._log.heard(), self._log.count()
        mine = sum(count for origin, count in heard.items() if node_of(origin) == self._store.node)
        try:
            own = self._log.of_node(self._store.node) - mine
        except LogError:
            return {}  # the log cannot be read; the other measurements are needed all the more
        of_originals = sum(heard.values())
        return {
            "log_messages": {
                ("own",): own,
                ("ours",): held - own - of_originals,
                ("heard",): of_originals,
            }
        }


def _table(core: Core) -> list[Entry]:
    """Return the table of peers and addresses."""
    known, dialling = core.book.known.values(), core.dialling.under_way
    return entries(known, core.peers, dialling, lambda end: core.book.node_at(end, core.now))


def _entry(core: Core, key: str) -> Entry | None:
    """Return the entry of the table with that key, if there is one."""
    return next((entry for entry in _table(core) if entry.has(key)), None)


def _seeks(core: Core) -> bool:
    """Return whether addresses are known, and no peer has said yet what it holds."""
    answered = any(peer.log and peer.log.introduced for peer in core.peers)
    return not answered and any(not known.oneself for known in core.book.known.values())


def _damage(damaged: Sequence[str]) -> list[str]:
    """Return the warning about damaged entries, if there are any."""
    if not damaged:
        return []
    more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
    return [
        f"the log of this node is damaged at {damaged[0]}{more}: check its disk; damaged messages "
        "are not shown until a peer sends them again"
    ]
