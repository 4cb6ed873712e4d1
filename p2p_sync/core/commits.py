"""The queue to the disk: commits of this node, and messages received from peers.

One thread stores them, one transaction at a time. While a transaction is under way, further
messages gather here for the next one (group commit). They are stored in the order of this queue.
"""

from __future__ import annotations

import random
import re
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import LogError
from ..settings import MAX_PENDING, MAX_SOURCE_PEERS, MAX_SOURCES
from ..wire.cutoffs import START_STEP, cutoff_of
from ..wire.entries import NOTICE, Entry
from ..wire.forks import Branch, committed_id
from ..wire.frames import Message
from ..wire.logframes import Head, Run
from .commit import Commit, Key, Keyed
from .dates import Dates
from .effects import Settle
from .peer import Peer
from .replica import Replica
from .turn import COPIES, ROOM, WORK, Turn
from .vector import Origin

_NUMBER = re.compile(r"-([0-9]+)")


def new_origin(node: str, known: Mapping[str, Head | Origin], time: int, rng: random.Random) -> str:
    """Return an origin for a node that was never used before. It begins at a `time` (ms since the
    epoch) after all commits of the node.

    Its start number is larger than that of each origin of the node among those `known`, so they
    show which one is the newest, and not before the node's cutoff. The rest of it is drawn at
    random, so two copies of a data directory that start at the same moment do not draw the same
    one. Where the clock is behind, chance alone keeps them apart, hence the larger step.
    """
    numbers = (_NUMBER.match(name, len(node)) for name in known if name.startswith(node))
    newest = max((int(number[1]) for number in numbers if number), default=0)
    if cutoff := known.get(cutoff_of(node)):
        newest = max(newest, cutoff.n * START_STEP)
    number = time * START_STEP + rng.randrange(START_STEP)
    if number <= newest:
        number = newest + 1 + rng.randrange(1000 * START_STEP)
    return f"{node}-{number}"


class Commits:
    """The runs that wait for the writer, and the commits that are not settled yet. Part of the
    core."""

    def __init__(
        self, turn: Turn, node: str, replica: Replica, dates: Dates, rng: random.Random
    ) -> None:
        """`node` is this node's id."""
        self.waiting: deque[Commit] = deque()  # those that are not settled yet
        self.failure: LogError | None = None  # why nothing can be stored now
        self._failures = 0  # how often the disk has failed
        self._runs: list[Run] = []
        self._disputed: dict[tuple[Peer, str], Run] = {}
        self._disputed_messages = 0
        self._messages = 0  # in these runs
        self._keyed: list[Keyed] = []  # the messages in them that have keys
        # The originals that committed the latest of their messages, by the ids that these got.
        self._sources: dict[tuple[str, int], Peer] = {}
        self._originals: dict[Peer, None] = {}  # these originals, the latest last
        self._turn = turn
        self._node = node
        self._replica = replica
        self._dates = dates
        self._rng = rng

    # -- filling the queue ----------------------------------------------------------------------

    @property
    def full(self) -> bool:
        """Whether the queue is full: a thread that has more messages must wait for ROOM."""
        waiting = self._messages + self._disputed_messages
        return waiting >= MAX_PENDING and not self._turn.stopped

    def put(self, runs: Sequence[Run]) -> None:
        """Add runs, in the order in which they must be stored."""
        self._runs += runs
        for run in runs:
            self._messages += run.count
        self._turn.changed.add(WORK)

    def cut(self, time: int, signature: str) -> None:
        """Store a cutoff of this node."""
        run = self._replica.forgetting.cut(cutoff_of(self._node), time, signature)
        if run:
            self.put([run])

    def commit(
        self,
        draft: Entry,
        texts: Sequence[str],
        future: Any,
        *,
        ack: bool = False,
        after: Commit | None = None,
        keys: Sequence[Key | None] = (),
    ) -> Commit:
        """Give messages of this node their ids, and put them into the queue as one entry.

        `draft` is the entry without its time, and `texts` are its messages. `future` belongs to the
        shell and is settled later. `ack`: a client waits until peers have copies. `after`: an
        earlier commit, without which these messages must not be stored. `keys`: the idempotency
        key of each message, to be stored with it. Raises LogError while the log cannot be written,
        and if writing has failed since `after`.
        """
        failed = after is not None and self._failures > after.failures
        if self._turn.stopped or failed or self.failure:
            raise self.refusal()
        time = self.next_time()
        entry = Entry(time, *draft[1:])
        run = self._replica.commit([entry], self._turn.now, ack)
        now = self._turn.now
        commit = Commit(run.origin, run.after + 1, entry, texts, self._failures, now, future)
        for seq, key in enumerate(keys, commit.first):
            if key:
                self._keyed.append(Keyed(*key, commit.origin, seq, time))
        self.waiting.append(commit)
        self.put([run])
        return commit

    def erase(self, name: str, future: Any) -> Commit:
        """Commit a notice that erases the message with that id; see `commit`."""
        origin, _, seq = name.rpartition(":")
        name = committed_id(origin, int(seq))
        return self.commit(Entry(0, name, NOTICE), [name], future)

    def hear(self, peer: Peer, draft: Entry, text: str, future: Any) -> Commit:
        """Commit a message that an original has committed; see `commit`."""
        commit = self.commit(draft, [text], future)
        peer.copies.of(commit.message()).sent = True
        self._sources[commit.origin, commit.first] = peer
        if len(self._sources) > MAX_SOURCES:
            del self._sources[next(iter(self._sources))]
        self._originals.pop(peer, None)
        self._originals[peer] = None
        if len(self._originals) > MAX_SOURCE_PEERS:
            oldest = next(iter(self._originals))
            del self._originals[oldest]
            self._sources = {id: peer for id, peer in self._sources.items() if peer is not oldest}
        return commit

    def has_failed(self, commit: Commit) -> bool:
        """Return whether the disk has failed since a commit; if it was not stored before, it never
        will be."""
        return self._failures > commit.failures

    def source(self, message: Message) -> Peer | None:
        """Return the original that has committed a message, if it is one of the latest."""
        return self._sources.get((message.origin, message.seq))

    def next_time(self) -> int:
        """Return the time (ms) of a message that is committed now. Where the clock was set back,
        commits go on under a new origin."""
        time, is_set_back = self._dates.next(self._turn.wall)
        if is_set_back:
            self.renew()
        return time

    def renew(self) -> None:
        """Commit under a new origin from now on."""
        self._dates.clock.renew()
        self._replica.renew(self.another_origin())

    def another_origin(self) -> str:
        """Return an origin of this node that was never used before."""
        known, time = self._replica.vector.origins, self._dates.clock.soonest(self._turn.wall)
        return new_origin(self._node, known, time, self._rng)

    def refusal(self) -> LogError:
        """Return the reason why nothing can be committed now."""
        if self._turn.stopped:
            return LogError("this node is stopping")
        return self.failure or LogError("the log could not be written; try again")

    def dispute(self, peer: Peer, run: Run) -> None:
        """Add a run whose place the writer has to find (see placing.py)."""
        before = self._disputed.get((peer, run.origin))
        self._disputed_messages += run.count - (before.count if before else 0)
        self._disputed[peer, run.origin] = run
        self._turn.changed.add(WORK)

    # -- the writer -----------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        """Whether the writer has something to do."""
        return self._turn.stopped or bool(self._runs or self._disputed)

    def next_disputed(self) -> tuple[Peer, Run] | None:
        """Take the next run whose place is to be found; None with none."""
        for (peer, _), run in self._disputed.items():
            del self._disputed[peer, run.origin]
            self._disputed_messages -= run.count
            self._turn.changed.add(ROOM)
            return peer, run
        return None

    def clear(self, base: str) -> bool:
        """Histories of an origin are about to change, or have changed: nothing that waits for the
        writer may follow them any more. Runs of peers are dropped, and come again; commits of this
        node get another origin from now on. Returns False if some wait already: they come first."""
        if base == self._replica.origin:
            self.renew()
        waiting = {run.origin: None for run in self._runs if _base(run) == base}
        if any(_base(run) == base and not run.signature for run in self._runs):
            return False
        self._runs = [run for run in self._runs if run.origin not in waiting]
        self._messages = sum(run.count for run in self._runs)
        self._turn.changed.add(ROOM)
        self._replica.drop(waiting, self._turn.now)
        return True

    def take_keyed(self) -> list[Keyed]:
        """Take the keys of the messages that `to_store` returns next."""
        keyed, self._keyed = self._keyed, []
        return keyed

    def to_store(self) -> list[Run]:
        """Take all runs of the queue for one transaction; then call `stored` or `failed`."""
        runs, self._runs = self._runs, []
        if runs:
            self._messages = 0
            self._turn.changed.add(ROOM)
        return runs

    def stored(self, runs: Sequence[Run]) -> None:
        """The runs are on disk: they may be announced and sent, and their commits are settled."""
        self._replica.stored(runs, self._turn.now)
        if self._replica.vector.cutoff(self._replica.origin):
            self.renew()  # a copy of this node has ended the present origin
        waiting, held = self.waiting, self._replica.vector.held
        while waiting and held(waiting[0].origin) >= waiting[0].last:
            self._turn.effects.add(Settle(waiting.popleft()))

    def failed(self, error: LogError) -> None:
        """The log could not be written: empty the queue.

        Later commits get a new origin, so that no id that may be on disk is used again.
        """
        self._failures += 1
        self.failure = error
        self._turn.changed.add(COPIES)  # those who wait for copies wait in vain
        self._replica.failed(self._turn.now)
        self.renew()
        self.take_keyed()
        self.to_store()
        self._disputed.clear()
        self._disputed_messages = 0
        self.give_up()

    def recovered(self) -> None:
        """The log can be written again."""
        self.failure = None
        self._replica.catch_up.resume(self._turn.now)
        for link in self._replica.links:
            for name in link.refused:
                link.disputes.ask(name)

    def give_up(self) -> None:
        """Settle the commits that will not be stored, with an error."""
        for commit in self.waiting:
            self._turn.effects.add(Settle(commit, self.refusal()))
        self.waiting.clear()


def _base(run: Run) -> str:
    return Branch.of(run.origin).base
