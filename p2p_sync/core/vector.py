"""What this node holds of each origin: its version vector.

What a node holds of an origin is always the prefix 1 ... n, so that n and the running hash over it
say all. Origins that are ended count no more (see forgetting.py).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ..wire.cutoffs import began, is_cutoff
from ..wire.heads import Heads, hash_in, number_in, pack, unpack
from ..wire.logframes import NOTHING_HELD, Head, Run, Vector
from .deduplication import node_of
from .fingerprints import Fingerprints, key_of, leaf_of

_NOTHING = pack(NOTHING_HELD)


@dataclass(slots=True, eq=False)
class Origin:
    """What is held of one origin."""

    name: str
    leaf: int  # see fingerprints.py
    n: int = 0  # messages that are durable here
    packed: bytes = _NOTHING  # the head: there may be very many
    staged: int = 0  # messages that are durable or with the writer
    _staged_hash: str = ""  # "": nothing is with the writer
    revision: int = 0  # of the vector, when n last grew
    skip: int = 0  # no peer keeps what is before this: go on from there
    counts: bool = True  # as messages; not those of an ended origin, and not a cutoff
    ended: bool = False  # by its node (wire/cutoffs.py), so that it counts nowhere

    @property
    def next(self) -> int:
        """The position to ask peers for."""
        return max(self.staged, self.skip)

    @property
    def hash(self) -> str:
        """The running hash over what is durable."""
        return hash_in(self.packed)

    @property
    def staged_hash(self) -> str:
        """The running hash over what is durable or with the writer."""
        return self._staged_hash or self.hash

    @property
    def head(self) -> Head:
        """What HAVE says of it."""
        return unpack(self.packed)

    def stage(self, n: int, running: str) -> None:
        """Note that so many messages are durable or with the writer, and the running hash over
        them."""
        self.staged, self._staged_hash = n, running

    def hold(self, head: Head) -> None:
        """Note what is durable."""
        self.n, self.packed = head.n, pack(head)
        if self.staged <= head.n:
            self.stage(head.n, "")


class VersionVector:
    """The origins of which this node holds something, or wants to, and the order of changes."""

    def __init__(self, vector: Vector, ended: Collection[str] = ()) -> None:
        """`ended` are the origins that count no more."""
        heads = vector if isinstance(vector, Heads) else Heads(vector)
        self.origins = {
            name: Origin(name, leaf_of(key_of(name)), n := number_in(packed), packed, n)
            for name, packed in heads.packed.items()
        }
        self.branches: dict[str, Origin] = {}  # those of which something is held (wire/forks.py)
        self.cutoffs: dict[str, Origin] = {}  # of nodes, see wire/cutoffs.py
        self.ended: dict[str, Origin] = {}  # those that count no more
        self.fingerprints = Fingerprints()  # of those with n > 0, but for the ended ones
        self.revision = 0
        self._recent: dict[str, Origin] = {}  # those that changed, the latest last
        self._unstored: dict[str, Origin] = {}  # those with staged > n
        for name, origin in self.origins.items():
            origin.counts = not is_cutoff(name) and name not in ended
            if name in ended:
                self.end(origin)
            else:
                self._begin(origin)

    def get(self, name: str) -> Origin:
        """Return an origin, an empty one where it is not known yet."""
        origin = self.origins.get(name)
        if origin is None:
            origin = Origin(name, leaf_of(key_of(name)), counts=not is_cutoff(name))
            self.origins[name] = origin
        return origin

    def held(self, name: str) -> int:
        """Return how many messages of an origin are durable here."""
        origin = self.origins.get(name)
        return origin.n if origin else 0

    def shared(self, name: str) -> bool:
        """Return whether something of an origin is durable here that peers get: it is not ended."""
        origin = self.origins.get(name)
        return origin is not None and origin.n > 0 and not origin.ended

    def head(self, name: str) -> Head:
        """Return the head of an origin, NOTHING_HELD if nothing of it is durable here."""
        origin = self.origins.get(name)
        return origin.head if origin else NOTHING_HELD

    @property
    def size(self) -> int:
        """How many origins take room: those of which something is held."""
        return self.fingerprints.origins + len(self.ended)

    def drop(self, name: str) -> None:
        """Forget an origin of which nothing is held."""
        del self.origins[name]
        self.ended.pop(name, None)

    def cutoff(self, name: str) -> int:
        """Return the time before which the node of an origin has ended those of its origins that
        began before it, if this one did; else 0."""
        cutoff = self.cutoffs.get(node_of(name)) if self.cutoffs else None
        return cutoff.n if cutoff and began(name) < cutoff.n else 0

    def end(self, origin: Origin) -> None:
        """An origin is ended: it counts no more."""
        if origin.counts and origin.n:
            self.fingerprints.remove(origin)
        origin.counts, origin.ended = False, True
        self.ended[origin.name] = origin
        self.branches.pop(origin.name, None)
        self._recent.pop(origin.name, None)

    def go_on(self, origin: Origin) -> None:
        """An ended origin counts again."""
        del self.ended[origin.name]
        origin.counts, origin.ended = True, False
        if origin.n:
            self._begin(origin)
            self._change(origin)

    def stage(self, origin: Origin, run: Run) -> None:
        """The run, which goes on where `staged` ends, is with the writer."""
        origin.stage(run.end, run.hash)
        self._unstored[origin.name] = origin

    def unstage(self) -> list[Origin]:
        """The writer has dropped what was staged; return the origins that this concerns."""
        return [self.unstage_one(name) for name in list(self._unstored)]

    def unstage_one(self, name: str) -> Origin:
        """The writer has dropped what was staged of an origin."""
        origin = self._unstored.pop(name)
        origin.stage(origin.n, "")
        return origin

    def store(self, origin: Origin, run: Run) -> None:
        """The run, which was staged, is durable; its origin is not ended."""
        name, n, before = origin.name, origin.n, origin.packed
        origin.hold(run.head)
        if n == 0:
            self._begin(origin)
        else:
            self.fingerprints.update(origin, origin.n - n, before)
        if origin.staged == origin.n:
            del self._unstored[name]
        self._change(origin)

    def lose(self, origin: Origin, head: Head) -> None:
        """No more than this of an origin is durable; nothing of it is staged."""
        if not origin.ended:
            self.fingerprints.remove(origin)
        origin.stage(0, "")
        origin.hold(head)
        self.branches.pop(origin.name, None)
        if head.n and not origin.ended:
            self._begin(origin)
        else:
            self._recent.pop(origin.name, None)

    def _change(self, origin: Origin) -> None:
        """An origin has changed."""
        self.revision += 1
        origin.revision = self.revision
        self._recent.pop(origin.name, None)
        self._recent[origin.name] = origin

    def _begin(self, origin: Origin) -> None:
        """Something is held of an origin from now on."""
        if is_cutoff(origin.name):
            self.cutoffs[node_of(origin.name)] = origin
        self.fingerprints.add(origin)
        if "~" in origin.name:
            self.branches[origin.name] = origin

    def changed_since(self, revision: int) -> list[Origin]:
        """Return the origins that grew after a revision, the latest first."""
        changed = []
        for origin in reversed(self._recent.values()):
            if origin.revision <= revision:
                break
            changed.append(origin)
        return changed

    def heads(self) -> dict[str, Head]:
        """Return all that is durable and counts."""
        origins = self.origins.items()
        return {name: origin.head for name, origin in origins if origin.n and not origin.ended}
