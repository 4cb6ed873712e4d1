"""What is on its way to the disk: commits of this node, and the messages that links have brought.

One thread stores all of it, a transaction at a time. While one transaction is on its way, what
comes meanwhile gathers here for the next (group commit). The order here is the order on the disk.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from typing import Any

from ..codes import MAX_NUMBER
from ..errors import LogError
from ..settings import MAX_PENDING, MAX_SOURCES
from ..wire.frames import Message
from ..wire.logframes import Entry, Run
from .commit import Commit
from .dates import Dates
from .effects import Settle
from .peer import Peer
from .replica import Replica
from .turn import ROOM, WORK, Turn


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
        self._messages = 0  # in these
        # From which originals the latest of their messages came, by the identities these got.
        self._sources: dict[tuple[str, int], Peer] = {}
        self._turn = turn
        self._node = node
        self._replica = replica
        self._dates = dates
        self._rng = rng

    # -- those who bring messages ---------------------------------------------------------------

    @property
    def full(self) -> bool:
        """Whether those who bring more have to wait."""
        return self._messages >= MAX_PENDING and not self._turn.stopped

    def put(self, runs: Sequence[Run]) -> None:
        """Add runs, in the order in which they are to be stored."""
        self._runs += runs
        self._messages += sum(run.count for run in runs)
        self._turn.changed.add(WORK)

    def commit(
        self,
        draft: Entry,
        texts: Sequence[str],
        future: Any,
        *,
        ack: bool = False,
        after: Commit | None = None,
    ) -> Commit:
        """Give messages of this node their identities, and have them stored as one entry.

        `draft` is the entry without its time, `texts` are those in it. `future` is the shell's and
        is settled later. `ack`: somebody waits for copies. `after`: these messages must not be
        stored without those. Raises LogError while the log cannot be written, and where it has
        failed since `after`.
        """
        failed = after is not None and self._failures > after.failures
        if self._turn.stopped or failed or self.failure:
            raise self.refusal()
        time, is_set_back = self._dates.next(self._turn.wall)
        if is_set_back:
            self.renew()
        entry = draft._replace(time=time)
        run = self._replica.commit([entry], self._turn.now, ack)
        now = self._turn.now
        commit = Commit(run.origin, run.after + 1, entry, texts, self._failures, now, future)
        self.waiting.append(commit)
        self.put([run])
        return commit

    def hear(self, peer: Peer, draft: Entry, text: str, future: Any) -> Commit:
        """Commit what an original has committed; as `commit`."""
        commit = self.commit(draft, [text], future)
        peer.copies.of(commit.message()).sent = True
        self._sources[commit.origin, commit.first] = peer
        if len(self._sources) > MAX_SOURCES:
            del self._sources[next(iter(self._sources))]
        return commit

    def source(self, message: Message) -> Peer | None:
        """Return the original that a message came from, if it was an original lately."""
        return self._sources.get((message.origin, message.seq))

    def renew(self) -> None:
        """Commit under a new origin from now on."""
        self._dates.clock.renew()
        self._replica.renew(f"{self._node}-{self._rng.randrange(MAX_NUMBER)}")

    def refusal(self) -> LogError:
        """Return why nothing can be committed now."""
        if self._turn.stopped:
            return LogError("this node is stopping")
        return self.failure or LogError("the log could not be written; try again")

    # -- the writer -----------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        """Whether the writer has something to do."""
        return self._turn.stopped or bool(self._runs)

    def to_store(self) -> list[Run]:
        """Take all runs that wait, for one transaction; then call `stored` or `failed`."""
        runs, self._runs = self._runs, []
        if runs:
            self._messages = 0
            self._turn.changed.add(ROOM)
        return runs

    def stored(self, runs: Sequence[Run]) -> None:
        """The runs are on disk: they may be told and shipped, and those who wait are told."""
        self._replica.stored(runs, self._turn.now)
        waiting, held = self.waiting, self._replica.vector.held
        while waiting and held(waiting[0].origin) >= waiting[0].last:
            self._turn.effects.add(Settle(waiting.popleft()))

    def failed(self, error: LogError) -> None:
        """The log could not be written; all that waited for it is dropped.

        Commits go on under a new origin, lest an identity that is half on disk is used again.
        """
        self._failures += 1
        self.failure = error
        self._replica.failed(self._turn.now)
        self.renew()
        self.to_store()
        self.give_up()

    def recovered(self) -> None:
        """The log can be written again."""
        self.failure = None
        self._replica.catch_up.resume(self._turn.now)

    def give_up(self) -> None:
        """Settle the commits that will not be stored."""
        for commit in self.waiting:
            self._turn.effects.add(Settle(commit, self.refusal()))
        self.waiting.clear()
