"""Disputes: the two nodes of a link hold different histories of an origin (see wire/forks.py).

Neither says which one goes on. Each finds out for itself where they differ:

- It sends FORK, its head and marks of its history, and takes nothing of the origin from the peer.
- The peer looks for the last of the marks in its own history, and sends a run from there on. The
  writer compares the run with what is on disk and puts it where it belongs (placing.py). If all of
  it is held, the next FORK begins where it has ended.
- If the writer has replaced a part of a history, the node asks all peers: it is in dispute with
  those that held what it held. So the history that comes first goes from link to link.
- A peer that finds the whole head in its history, or all of its own history among the marks,
  answers that the two agree. Then both go on as before.

What a peer answers is believed only as far as a run proves it. Called with the state's lock held.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..settings import MAX_ORIGINS_NAMED, MAX_SHIPPED
from ..wire.logframes import Fork, Head, LogFrame
from .shipping import Ship
from .vector import VersionVector


class Disputes:
    """The disputes on one link."""

    def __init__(self) -> None:
        self._answers: dict[str, int] = {}  # origins to send a run of, from that number on
        self._questions: dict[str, int] = {}  # origins to ask about, with marks above that number
        self._agreed: dict[str, str] = {}  # origins to say that we agree, with the head shown
        self._above: dict[str, int] = {}  # the histories are equal up to there
        self._asked: dict[str, str] = {}  # the hashes of the heads that were shown to the peer

    def __bool__(self) -> bool:
        """Whether there is something to send."""
        return bool(self._questions or self._agreed or self._answers)

    def ask(self, name: str, above: int = 0) -> None:
        """Ask where the histories differ, which is above that number. A later question is about
        less, so this ends."""
        if above == 0 or above > self._above.get(name, 0):
            self._above[name] = self._questions[name] = above

    def agree(self, name: str, head: Head) -> None:
        """Tell the peer that the head which it has shown is no dispute."""
        if len(self._agreed) < MAX_ORIGINS_NAMED:
            self._agreed[name] = head.hash
        self._questions.pop(name, None)

    def answer(self, name: str, common: int) -> None:
        """Send the peer a run of our history, from that number on."""
        if len(self._answers) < MAX_ORIGINS_NAMED:
            self._answers[name] = common

    def end(self, name: str, agreed: str) -> bool:
        """The peer agrees to the head with that hash; return whether that was the last one that it
        was shown. Then the dispute is over."""
        if self._asked.get(name) != agreed:
            return False
        for table in (self._questions, self._above, self._answers, self._asked):
            table.pop(name, None)
        return True

    def cut(self, name: str) -> None:
        """Our history of an origin was replaced: what was to be said of the old one is void, and so
        is what the peer says of it."""
        for table in (self._asked, self._answers, self._agreed):
            table.pop(name, None)

    def asked(self, name: str) -> bool:
        """Return whether the peer was asked for its history."""
        return name in self._asked

    # -- the sender -----------------------------------------------------------------------------

    def take(self, vector: VersionVector) -> Iterable[LogFrame]:
        """Return the frames to send. What is with the writer is asked about when it is durable."""
        frames: list[LogFrame] = []
        for name, shown in self._agreed.items():
            frames.append(Fork(name, vector.head(name), agree=shown))
        self._agreed.clear()
        for name in list(self._questions)[:MAX_ORIGINS_NAMED]:
            origin = vector.origins.get(name)
            if origin is None or origin.staged == origin.n:
                head = vector.head(name)
                self._asked[name] = head.hash
                frames.append(Fork(name, head, above=self._questions.pop(name)))
        return frames

    def ships(self, vector: VersionVector) -> list[Ship]:
        """Return the pieces of our histories that the peer compares with its own."""
        answers, self._answers = self._answers, {}
        share = max(1, MAX_SHIPPED // max(1, len(answers)))
        return [
            Ship(name, after, min(after + share, origin.n))
            for name, after in answers.items()
            if (origin := vector.origins.get(name)) and after < origin.n
        ]
