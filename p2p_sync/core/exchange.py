"""What peers exchange of the log: runs of messages, what each side holds, and what each lacks.

The rules are those of the replica (see replica.py). Here their results meet everything else: new
runs go to the disk, conflicts and faults to people, times to the clocks, and messages to originals.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..codes import MAX_NUMBER
from ..settings import LONG_LAG, MANY_MISSING, MAX_AHEAD_MS, MAX_EARLY_MS, NEVER
from ..wire.cutoffs import is_cutoff
from ..wire.forks import Branch
from ..wire.frames import Message, messages_in
from ..wire.logframes import Have, Head, LogFrame, Messages, Run, Sums
from .commits import Commits
from .dates import Dates
from .effects import CAUGHT_UP, CONFLICT, MISSED, Note
from .faults import KINDS
from .links import Links
from .originals import Originals
from .peer import Peer
from .placing import Placed
from .receiver import Conflict
from .replica import Replica
from .replica_link import NOTHING, Work
from .shipping import Ship
from .turn import COPIES, Turn
from .verdict import numbered

_CONFLICT = (
    "conflict: node {peer} and this node hold different messages of the origin {origin}, and its "
    "own node has signed both (was its disk set back?); both keep all of them"
)
_SET_BACK = (
    "peers hold more of this node's messages than its own log, so its disk was set back to an "
    "earlier state; the peers send them again, and new messages get a new origin"
)


class _Lag(NamedTuple):
    """Since when messages are missing here (monotonic), how many were held then, and whether a peer
    announced them while its link opened."""

    since: float
    held: int
    opening: bool


class Exchange:
    """The log of one node, as peers send and get it. Part of the core."""

    def __init__(
        self,
        turn: Turn,
        replica: Replica,
        originals: Originals,
        links: Links,
        commits: Commits,
        dates: Dates,
    ) -> None:
        self.missed = 0  # messages that no peer kept any more, since the start
        self._turn = turn
        self._replica = replica
        self._originals = originals
        self._links = links
        self._commits = commits
        self._dates = dates
        self._lag: _Lag | None = None

    def received(self, peer: Peer, frame: LogFrame) -> bool:
        """A frame about the log has come; return whether it brought something new. Raises
        ProtocolError."""
        if peer.log is None:
            return False
        now, wall, replica = self._turn.now, self._turn.wall, self._replica
        latest, newest = MAX_NUMBER, 0
        if isinstance(frame, Messages):
            for run in frame.runs:
                peer.received += run.count
                newest = max(newest, run.newest)
            if newest > wall + MAX_EARLY_MS:
                latest = wall + MAX_EARLY_MS
        if replica.receiver.outdoes(frame):
            about = f"conflict {peer.log.peer}"
            self._turn.effects.add(Note(CONFLICT, _SET_BACK, about, CONFLICT, node=peer.log.peer))
            self._commits.renew()
        opening = not peer.log.introduced
        received = replica.receiver.receive(peer.log, frame, now, latest)
        runs, conflicts, offences, disputed = received
        if conflicts:
            self._note_conflicts(conflicts)
        for run in disputed:
            self._commits.dispute(peer, run)
        for kind, times in offences.items():
            self._links.fault(peer, kind, f"it {KINDS[kind]}", times)
        if isinstance(frame, Messages) and newest > wall + MAX_AHEAD_MS:
            sentence, times = self._dates.compare(frame, replica.catch_up.early, wall, now)
            if times:
                self._links.fault(peer, "future", sentence, times)
        elif isinstance(frame, (Have, Sums)):
            if frame.clock is not None:
                self._dates.announced(peer.log.peer, frame.clock, wall, now)
            self._note_lag(opening)
        if runs:
            self.note_skipped(runs)
            self._dates.follow(newest, runs, wall)
            self._commits.put(runs)
        if frame.have:
            self._turn.changed.add(COPIES)
        self._links.joined(peer)
        return bool(runs)

    def doubtful(self, peer: Peer, frame: LogFrame) -> dict[str, Head]:
        """Return the heads in a frame whose signatures are to be checked before `received`."""
        return self._replica.receiver.doubtful(peer.log, frame) if peer.log else {}

    def placed(self, peer: Peer, run: Run, placed: Placed | None) -> None:
        """The writer has looked for the place of a run of a peer; None: it has found none."""
        base = Branch.of(run.origin).base
        if peer.log and not (placed and placed.run is None):
            peer.log.asked_at = NEVER  # it has shipped something that is not held
        if placed is None:
            self._replica.await_place(base, run.origin)
            return
        if placed.run is None:
            if peer.log and run.origin in peer.log.refused:  # the histories differ further on
                peer.log.disputes.ask(run.origin, run.end)
                peer.log.wake()
            return
        self._commits.clear(base)  # what has come since cannot follow what was changed
        if peer.log and (placed.move or Branch.of(placed.run.origin).first):
            self._replica.count_new(peer.log, self._turn.now)
        last = self._replica.vector.held(placed.move.source) if placed.move else 0
        self._replica.placed(placed.run, placed.move, self._turn.now)
        self._note_forked(placed, last)

    # -- what a peer gets -----------------------------------------------------------------------

    def take(self, peer: Peer) -> Work:
        """Return what the sender of a peer has to send next. It asks again until there is nothing,
        and then at the time that this says, or when the peer is woken."""
        work, peer.handed = peer.handed or NOTHING, None
        if work is NOTHING and peer.log and peer in self._links and not peer.leaving:
            work = peer.log.take(self._turn.now)
            if work.ships:  # most often all of it fits into a frame; see `correct` for the rest
                peer.log.shipped(work.ships, self._turn.now)
            for _, after, upto in work.ships:
                peer.sent += upto - after
        if peer.outbox:
            work = work._replace(frames=[peer.outbox, *work.frames])
            peer.outbox = None
        peer.idle = not work.frames and not work.ships
        return work

    def hand(self, peers: Iterable[Peer]) -> None:
        """Take for the senders of these peers that wait, so that each has its work when it wakes.

        A sender that waits has got nothing from `take`, and nobody but this gives it work then; so
        its frames stay in order.
        """
        for peer in peers:
            if peer.idle and not peer.leaving:
                work = self.take(peer)
                peer.handed = None if peer.idle else work

    def hand_originals(
        self, peers: Iterable[Peer], runs: Sequence[Run], before: int, last: int
    ) -> None:
        """Give the senders of originals their part of the runs that were just stored, as arrivals
        `before`+1 to `last`. Those that lack something else, too, read all of it themselves."""
        waiting = [
            peer for peer in peers if peer.handed is None and self.waits_after(peer) == before
        ]
        messages = [message for run in runs for message in messages_in(run)] if waiting else []
        if last - before != len(messages):
            return  # a copy that was hidden has arrived once more, or there are notices
        for peer in waiting:
            found = self.pass_on(peer, enumerate(messages, before + 1), last)
            if found:
                peer.handed = NOTHING._replace(frames=found)

    def correct(self, peer: Peer, planned: Sequence[Ship], ships: Sequence[Ship]) -> None:
        """The sender of a peer could not send what it was to, but `ships`: the frame was full, or
        an entry of the log does not end there."""
        for sign, pieces in ((1, ships), (-1, planned)):
            peer.sent += sign * sum(upto - after for _, after, upto in pieces)
        if peer.log:
            peer.log.correct(planned, ships, self._turn.now)

    def withhold(self, peer: Peer, planned: Sequence[Ship], origin: str, floor: int) -> None:
        """The sender of a peer sends nothing of what was planned: the messages of one origin that
        come next there, up to `floor`, are not kept any more. The peer is told so, and the other
        origins follow."""
        self.correct(peer, planned, ())
        if peer.log:
            self._replica.withhold(peer.log, origin, floor, self._turn.now)

    def waits_after(self, peer: Peer) -> int | None:
        """Return the arrival after which an original is to be sent messages; None where the peer is
        no original, or not yet known for one."""
        original = peer.original and peer in self._links and not peer.leaving
        return peer.arrival if original else None

    def pass_on(
        self, peer: Peer, arrivals: Iterable[tuple[int, Message]], upto: int
    ) -> list[Message]:
        """Return those of the arrivals that an original gets. All up to `upto` count as sent."""
        found = []
        for number, message in arrivals:
            if number <= peer.arrival:
                continue  # it was handed over while the sender read it, too
            own = message.origin == self._replica.origin
            is_history = not own and message.time < peer.since - MAX_AHEAD_MS
            copied = peer.copies.of(message) if message.heard else None
            if message.erased or is_history or (copied and copied.sent):
                continue
            if self._originals.gets(peer, message, self._commits.source(message)):
                found.append(message)
                if copied:
                    copied.sent = True
        peer.arrival = max(peer.arrival, upto)
        peer.sent += len(found)
        return found

    # -- the journal ----------------------------------------------------------------------------

    def note_skipped(self, runs: Sequence[Run]) -> None:
        """Note the messages that no peer keeps any more, and that this node has not got."""
        cutoff = self._replica.vector.cutoff
        skipped = sum(
            run.skipped
            for run in runs
            if run.skipped and (run.entries or not (is_cutoff(run.origin) or cutoff(run.origin)))
        )
        if skipped:
            self.missed += skipped
            text = (
                f"missed {numbered(skipped, 'message')}: the connected peers have deleted them, so "
                "this node goes on after them"
            )
            self._turn.effects.add(Note(MISSED, text))

    def _note_conflicts(self, found: Sequence[Conflict]) -> None:
        """Keep the conflicts that a frame has shown, for people.

        The peer that holds the other contents has not made them, so it is no fault of its own. A
        conflict over our own origin means that this machine was restored from a snapshot, and
        has committed since: its commits go under another origin from now on.
        """
        if any(conflict.origin == self._replica.origin for conflict in found):
            self._commits.renew()
        for conflict in found:
            text = _CONFLICT.format(**conflict._asdict())
            note = Note(CONFLICT, text, f"conflict {conflict.peer}", CONFLICT, node=conflict.peer)
            self._turn.effects.add(note)

    def _note_forked(self, placed: Placed, last: int) -> None:
        """Note that messages got other ids, or that a branch begins."""
        assert placed.run
        base, after, first = Branch.of(placed.move.to if placed.move else placed.run.origin)
        if not first:
            return
        text = f"the history of {base} forks after message {after}"
        if placed.move:
            source, start, to = placed.move
            count = last - start
            text += f": its messages {source}:{start + 1} to {source}:{last} have the ids "
            text += f"{to}:1 to {to}:{count} from now on"
        self._turn.effects.add(Note(CONFLICT, text))

    def _note_lag(self, opening: bool) -> None:
        """A peer has announced what it holds: note since when messages are missing here."""
        if not self._replica.catch_up.behind(self._turn.now):
            return
        lag = self._lag or _Lag(self._turn.now, self._replica.count, False)
        self._lag = lag._replace(opening=lag.opening or opening)

    def note_caught_up(self) -> None:
        """Messages were stored: note it where they were many, or took long to come."""
        if not self._lag or self._replica.catch_up.behind(self._turn.now):
            return
        lag, self._lag = self._lag, None
        spent, more = self._turn.now - lag.since, self._replica.count - lag.held
        if more and (lag.opening or spent >= LONG_LAG or more >= MANY_MISSING):
            text = f"caught up: {numbered(more, 'message')} in {spent:.1f} s"
            self._turn.effects.add(Note(CAUGHT_UP, text))
