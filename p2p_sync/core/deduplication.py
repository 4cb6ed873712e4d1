"""Deduplication: for each commit of an original node one message is shown, however many of our
nodes logged it.

An original node's commit has no identity, so each node of ours that receives it logs a copy of its
own, marked `heard`. Two copies belong to one commit if they have the same text, come from different
nodes of ours, and lie within COPY_WINDOW. Copies are matched in the shared order, each to the
oldest commit in the window that its node has no copy of yet, so every node that holds the same
messages shows the same ones.

A new copy must not cause the whole history of a text to be matched again, so two rules keep the
effect of a copy near it. Both depend on nothing but the copies that are held:

- Of each COPY_WINDOW of the clock only the first MAX_MATCHED copies of a text are matched. The
  others are shown as they are.
- Matching starts afresh after each silence of more than COPY_WINDOW, and once in each COPY_STRETCH
  of the clock that has no such silence: after the longest pause in it.

So the copies in one stretch cannot change what is shown of those beyond the next one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from ..settings import COPY_STRETCH, COPY_WINDOW, MAX_COPIES, MAX_MATCHED
from ..wire.frames import Message

# A copy: its time, and the id of the node that logged it.
Copy = tuple[int, str]


def node_of(origin: str) -> str:
    """Return the node's id in an origin."""
    return origin.partition("-")[0]


class Crowd:
    """Counts the copies of one text in each COPY_WINDOW of the clock, in the shared order."""

    def __init__(self) -> None:
        self._window = -1
        self._count = 0

    def admit(self, time: int) -> int:
        """Count one copy. Return 0 if it is matched, else by how many it is beyond MAX_MATCHED."""
        window = time // COPY_WINDOW
        if window != self._window:
            self._window, self._count = window, 0
        self._count += 1
        return max(0, self._count - MAX_MATCHED)


def spans(times: Iterable[int]) -> list[tuple[int, int]]:
    """Return the spans of time (from, up to but without) whose copies have to be matched again
    when copies with these `times` are new: the stretch of each, the one before and the one after.
    """
    found: list[tuple[int, int]] = []
    for stretch in sorted({time // COPY_STRETCH for time in times}):
        start, end = (stretch - 1) * COPY_STRETCH, (stretch + 2) * COPY_STRETCH
        if found and start <= found[-1][1]:
            start = found.pop()[0]
        found.append((start, end))
    return found


def match(copies: Sequence[Copy], start: int) -> list[int]:
    """Return for each of the `copies` the index of the first copy of its commit, which is shown.

    They are all copies of one text that are to be matched from the time `start` on, a multiple of
    COPY_STRETCH, in the shared order. Those before the first fresh start depend on earlier ones:
    -1.
    """
    leaders = [-1] * len(copies)
    starts = sorted(_fresh_starts(copies, start))
    for first, end in pairwise([*starts, len(copies)]):
        _match_run(copies, first, end, leaders)
    return leaders


def _fresh_starts(copies: Sequence[Copy], start: int) -> Iterator[int]:
    """Yield the indices at which matching starts afresh, not always in order."""
    index = 0
    before = start
    for stretch, group in groupby(copies, lambda copy: copy[0] // COPY_STRETCH):
        times = [time for time, _ in group]
        pauses = [after - time for time, after in pairwise(times)]
        silences = [n for n, pause in enumerate(pauses, index + 1) if pause > COPY_WINDOW]
        silent = silences or times[0] - stretch * COPY_STRETCH > COPY_WINDOW
        if not silent and (stretch + 1) * COPY_STRETCH - times[-1] <= COPY_WINDOW:
            yield index + 1 + pauses.index(max(pauses))
        if times[0] - before > COPY_WINDOW:
            yield index
        yield from silences
        before = times[-1]
        index += len(times)


def _match_run(copies: Sequence[Copy], first: int, end: int, leaders: list[int]) -> None:
    """Match the copies from index `first` up to `end`. Linear: a node has copies of the oldest
    commits in the window, without a gap, so its next one is known."""
    commits: list[int] = []  # the index of the first copy of each
    oldest = 0  # the first of them that is in the window
    nexts: dict[str, int] = {}  # node -> the first commit that it has no copy of
    for index in range(first, end):
        time, node = copies[index]
        while oldest < len(commits) and time - copies[commits[oldest]][0] > COPY_WINDOW:
            oldest += 1
        commit = max(oldest, nexts.get(node, 0))
        if commit == len(commits):
            commits.append(index)
        nexts[node] = commit + 1
        leaders[index] = commits[commit]


@dataclass
class Copied:
    """A commit of an original: when it was first logged, which nodes of ours have logged a copy of
    it, and whether the original that these are counted for has it."""

    time: int
    nodes: set[str]
    sent: bool = False


class Copies:
    """The latest commits of other originals, as they are counted for one original.

    Several nodes of ours may log a copy of one commit, which are matched as above, but in the
    order in which they arrive here.
    """

    def __init__(self) -> None:
        self._of_text: dict[int, list[Copied]] = {}  # by a hash of the text, which may be long
        self._of_copy: dict[tuple[str, int], Copied] = {}

    def of(self, message: Message) -> Copied:
        """Return the commit that `message` is a copy of, a new one if it is the first."""
        identity = message.origin, message.seq
        if identity in self._of_copy:
            return self._of_copy[identity]
        node, text = node_of(message.origin), hash(message.data)
        recent = [c for c in self._of_text.pop(text, []) if message.time - c.time <= COPY_WINDOW]
        fitting = (
            c for c in recent if node not in c.nodes and c.time - message.time <= COPY_WINDOW
        )
        commit = next(fitting, None)
        if commit is None:
            commit = Copied(message.time, set())
            recent.append(commit)
        commit.nodes.add(node)
        self._of_text[text] = recent[-MAX_MATCHED:]
        self._of_copy[identity] = commit
        if len(self._of_text) > MAX_COPIES:
            del self._of_text[next(iter(self._of_text))]
        if len(self._of_copy) > MAX_COPIES:
            del self._of_copy[next(iter(self._of_copy))]
        return commit
