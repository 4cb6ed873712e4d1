"""The core: every decision of a node, behind one interface.

Events go in: a link opens, brings a frame or ends; a message is committed; the disk has stored
messages or has failed; time passes. Effects come out (see effects.py). The core has no thread,
lock, socket, file, clock or randomness of its own: the simulator runs it in virtual time.

| part | file | decides |
|---|---|---|
| `links` | links.py | what an opening, an introduction, a fault and an end mean |
| `overlay` | overlay.py | which node a peer is, which link stays, which is closed |
| | gossip.py | which addresses are sent to which peer |
| | originals.py | which messages an original node gets |
| `dialling` | dialling.py | which address to dial, when, and what the result means |
| `book` | book.py | which addresses are known, and what is known of each |
| `exchange` | exchange.py | what becomes of a frame about the log, and what a peer gets next |
| `replica` | replica.py | what is new, what is missing, which link to ask for it |
| `commits` | commits.py | what is on its way to the disk |
| `dates` | dates.py, clock.py | which of two clocks is wrong |

The state (node/state.py) calls every method with its lock held, after `begin` has said what time it
is. So nothing here may take long: nothing grows with the log.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Sequence

from ..codes import GOING_AWAY, NORMAL
from ..settings import (
    CLOCK_PAUSE,
    HANDED_LINKS,
    HANDED_MESSAGES,
    KEEP_RARELY,
    KEEP_SOON,
    MAX_EARLY_MS,
    MAX_NOTED_TOPICS,
    NEVER,
    SHORT_ID,
    Settings,
)
from ..wire.frames import Frame, Heard, Ignored, Sockets
from ..wire.logframes import LOG_FRAMES, Head, Run, Vector
from .book import Known
from .commits import Commits, new_origin
from .dates import Dates
from .effects import DAMAGED, ERASED, Effects, Keep, Note
from .exchange import Exchange
from .links import Links
from .overlay import Overlay
from .peer import Peer
from .placing import Placed
from .replica import Replica
from .turn import ARRIVAL, COPIES, SIGNALS, Turn


class Core:
    """All that one node decides."""

    def __init__(
        self,
        node: str,
        origin: str,
        port: int,
        settings: Settings,
        vector: Vector,
        newest: int,
        wall: int,
        rng: random.Random,
        ended: Collection[str] = (),
    ) -> None:
        """`node` is this node's id, `port` the peer port. Commits go on with `origin` where the log
        ends with it, with a new origin if it is empty.

        `vector` is what the log holds and `newest` its newest time less than MAX_AHEAD_MS ahead of
        `wall`, what this machine's clock shows (both in ms since the epoch). `ended` are the
        origins in it that their nodes have ended (forgetting.py).
        """
        self._turn = turn = Turn(wall=wall)
        self.overlay = Overlay(turn, node, settings, port, rng)
        self.peers = self.overlay.peers
        self.book = self.overlay.book
        self.dialling = self.overlay.dialling
        self.replica = Replica(
            origin or new_origin(node, vector, max(wall, newest + 1), rng),
            vector,
            rng,
            settings.max_new_origins,
            self.overlay.vouches,
            self.overlay.is_alone,
            ended,
        )
        self.dates = Dates(newest, wall, turn.effects)
        self.links = Links(turn, node, self.overlay, self.replica, settings)
        self.commits = Commits(turn, node, self.replica, self.dates, rng)
        self.exchange = Exchange(
            turn, self.replica, self.overlay.originals, self.links, self.commits, self.dates
        )
        self.transactions = 0  # that the disk has stored since the start
        self._topics: dict[str, int] = {}  # the last transaction with messages of each topic
        self._topics_since = 0  # the transaction up to which that is not known any more
        # When to check whether an origin that waits for the clock may go on: nothing reports that
        # the clock was corrected.
        self._clock_at = -NEVER
        self._kept = -1  # the revision of the address book that is on disk
        self._keep_at = -NEVER

    # -- turns ----------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """What time it is in this turn, on the monotonic clock; seconds."""
        return self._turn.now

    @property
    def wall(self) -> int:
        """What this machine's clock shows in this turn; ms since the epoch."""
        return self._turn.wall

    @property
    def stopped(self) -> bool:
        """Whether the node stops."""
        return self._turn.stopped

    def begin(self, now: float, wall: int) -> None:
        """Begin a turn: it is `now` on the monotonic clock (seconds), and this machine's clock
        shows `wall` (ms since the epoch)."""
        self._turn.now, self._turn.wall = now, wall

    def end(self) -> tuple[Effects, set[str]]:
        """End a turn: return what it has decided, and what has changed (of SIGNALS)."""
        turn, woken = self._turn, self.replica.woken
        for link in woken:
            turn.effects.woken[link.owner] = None
        woken.clear()
        changed, turn.changed = turn.changed, set()
        return turn.effects.take(), changed

    # -- links and the disk ---------------------------------------------------------------------

    def received(self, peer: Peer, frame: Frame) -> bool:
        """A frame has come from a peer; return whether it brought something new. Raises
        ProtocolError.

        What an original commits, Heard, goes to `commits.hear` after this.
        """
        if peer not in self.peers:
            return False
        if isinstance(frame, Sockets):
            return self.links.introduced(peer, frame)
        if isinstance(frame, LOG_FRAMES):
            return self.exchange.received(peer, frame)
        self.links.silent(peer)
        if isinstance(frame, Ignored):
            self.links.fault(peer, "ignored", f"ignored {frame.why}")
        heard = isinstance(frame, Heard)
        peer.received += heard
        return heard

    def stored(self, runs: Sequence[Run], arrivals: tuple[int, int] = (0, 0)) -> None:
        """The runs are on disk. `arrivals` are the last one before them, and now."""
        self.transactions += 1
        self._note_topics({entry.topic for run in runs for entry in run.entries})
        self.commits.stored(runs)
        originals = [peer for peer in self.peers if peer.original]
        for peer in originals:
            self._turn.effects.wake(peer)
        self.exchange.note_caught_up()
        self._turn.changed.add(ARRIVAL)
        if sum([run.count for run in runs]) <= HANDED_MESSAGES:
            if originals:
                self.exchange.hand_originals(originals, runs, *arrivals)
            woken = [link.owner for link in self.replica.woken]
            self.exchange.hand(woken[:HANDED_LINKS])

    def last_transaction(self, topic: str) -> int:
        """Return the number of the last transaction that stored messages of a topic ("": any), or
        erased some. It may be too large for a topic of which there was none for a while."""
        return self._topics.get(topic, self._topics_since) if topic else self.transactions

    def note_erased(self, name: str, topic: str, node: str) -> None:
        """The last transaction has erased a shown message, as `node` wanted."""
        text = f"message {name} was erased by node {node[:SHORT_ID]}"
        self._turn.effects.add(Note(ERASED, text, node, node=node))
        self._note_topics({topic})

    def _note_topics(self, topics: set[str]) -> None:
        for topic in topics - {""}:
            if len(self._topics) == MAX_NOTED_TOPICS and topic not in self._topics:
                self._topics.clear()
                self._topics_since = self.transactions
            self._topics[topic] = self.transactions

    def placed(self, peer: Peer, run: Run, placed: Placed | None) -> None:
        """The writer has looked for the place of a run, see `Commits.next_disputed`."""
        self.exchange.placed(peer, run, placed)
        if placed and placed.run:
            self.transactions += 1
            self._note_topics({entry.topic for entry in placed.run.entries})
            for other in self.peers:
                if other.original:
                    self._turn.effects.wake(other)
            self._turn.changed.update((ARRIVAL, COPIES))

    def lose(self, name: str, head: Head) -> int | None:
        """Hold no more than this of an origin: what follows is damaged on disk.

        Returns how many were held, None if that has to wait for messages that are being stored.
        Commits of this node go on under a new origin, for these numbers were used. All links are
        closed; they open again, and then each side tells what it holds.
        """
        if name == self.replica.origin:
            self.commits.renew()
        held = self.replica.vector.held(name)
        if not self.replica.lose(name, head):
            return None
        if held > head.n:
            text = f"messages of {name} after {head.n} are damaged here; peers send them again"
            self._turn.effects.add(Note(DAMAGED, text))
        for peer in self.peers:
            if held > head.n and peer.log and not peer.leaving:
                reason = "a part of this node's log is damaged; link again"
                self._turn.effects.close(peer, GOING_AWAY, reason)
        return held

    def cutoff(self) -> int:
        """Return the latest time that a cutoff of this node may have, as far as other nodes are
        concerned; 0: none, a known node is missing."""
        return 0 if self.dialling.lacks_known() else self.replica.forgetting.before()

    # -- addresses ------------------------------------------------------------------------------

    def connect(self, address: str) -> None:
        """An address is given by hand."""
        self.book.add(address, self.now)
        self._turn.look()

    def retry(self, addresses: Iterable[Known]) -> None:
        """Known addresses are due now, however often they have failed."""
        for known in addresses:
            self.book.retry(known, self.now)
        self._turn.look()

    def forget(self, addresses: Iterable[Known], peers: Iterable[Peer]) -> None:
        """Forget addresses, and close the links to the peers there."""
        for known in addresses:
            self.book.forget(known)
        for peer in peers:
            self._turn.effects.close(peer, NORMAL, "this node was told to forget it")
        self._turn.look()

    # -- time -----------------------------------------------------------------------------------

    def tick(self) -> None:
        """Do all that is due. Called at `deadline`, or earlier."""
        turn, catch_up = self._turn, self.replica.catch_up
        now = turn.now
        catch_up.tick(now)
        if catch_up.skips:
            skips, catch_up.skips = catch_up.skips, []
            self.exchange.note_skipped(skips)
            self.commits.put(skips)
        for link in catch_up.stalled(now):
            self.links.fault(
                link.owner, "claims", "it did not send messages that it claims to hold"
            )
        if catch_up.early and now >= self._clock_at:
            catch_up.clock_at(turn.wall + MAX_EARLY_MS, now)
            self._clock_at = now + CLOCK_PAUSE
        if now >= turn.look_at:
            turn.look_at = self.overlay.tick()
        if now >= self._keep_due():
            self._kept = self.book.revision
            self._keep_at = now + KEEP_SOON
            turn.effects.add(Keep())

    @property
    def deadline(self) -> float:
        """When `tick` is due."""
        catch_up = self.replica.catch_up
        deadline = min(self._turn.look_at, self._keep_due(), catch_up.deadline)
        return min(deadline, self._clock_at) if catch_up.early else deadline

    def _keep_due(self) -> float:
        return self._keep_at + (0.0 if self.book.revision != self._kept else KEEP_RARELY)

    def stop(self) -> None:
        """Reject further commits, and close all links. The writer still stores what is in its
        queue; commits that are left after that fail."""
        self._turn.stopped = True
        self._turn.look()  # now, so that the thread that waits for time ends
        for peer in self.peers:
            self._turn.effects.close(peer, GOING_AWAY, "this node stops")
        self._turn.changed.update(SIGNALS)
