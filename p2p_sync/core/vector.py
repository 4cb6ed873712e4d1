"""What this node holds of each origin: its version vector.

What a node holds of an origin is always the prefix 1 ... n, so that n and the running hash over it
say all.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..wire.logframes import NO_HASH, NO_SIGNATURE, Head, Run, Vector
from .fingerprints import Fingerprints, key_of


@dataclass(slots=True, eq=False)
class Origin:
    """What is held of one origin."""

    name: str
    key: int  # see fingerprints.py
    n: int = 0  # messages that are durable here
    hash: str = NO_HASH
    signature: str = NO_SIGNATURE
    staged: int = 0  # messages that are durable or with the writer
    staged_hash: str = NO_HASH
    revision: int = 0  # of the vector, when n last grew
    skip: int = 0  # no peer keeps what is before this: go on from there

    @property
    def next(self) -> int:
        """The position to ask peers for."""
        return max(self.staged, self.skip)

    @property
    def head(self) -> Head:
        """What HAVE says of it."""
        return Head(self.n, self.hash, self.signature)


class VersionVector:
    """The origins of which this node holds something, or wants to, and the order of changes."""

    def __init__(self, vector: Vector) -> None:
        self.origins = {
            name: Origin(name, key_of(name), *head, head.n, head.hash)
            for name, head in vector.items()
        }
        self.branches: dict[str, Origin] = {}  # those of which something is held (wire/forks.py)
        self.fingerprints = Fingerprints()  # of those with n > 0
        for origin in self.origins.values():
            self._begin(origin)
        self.revision = 0
        self._recent: dict[str, Origin] = {}  # those that changed, the latest last
        self._unstored: dict[str, Origin] = {}  # those with staged > n

    def get(self, name: str) -> Origin:
        """Return an origin, an empty one where it is not known yet."""
        origin = self.origins.get(name)
        if origin is None:
            origin = self.origins[name] = Origin(name, key_of(name))
        return origin

    def held(self, name: str) -> int:
        """Return how many messages of an origin are durable here."""
        origin = self.origins.get(name)
        return origin.n if origin else 0

    def drop(self, name: str) -> None:
        """Forget an origin of which nothing is held."""
        del self.origins[name]

    def stage(self, origin: Origin, run: Run) -> None:
        """The run, which goes on where `staged` ends, is with the writer."""
        origin.staged, origin.staged_hash = run.end, run.head.hash
        self._unstored[origin.name] = origin

    def unstage(self) -> list[Origin]:
        """The writer has dropped what was staged; return the origins that this concerns."""
        return [self.unstage_one(name) for name in list(self._unstored)]

    def unstage_one(self, name: str) -> Origin:
        """The writer has dropped what was staged of an origin."""
        origin = self._unstored.pop(name)
        origin.staged, origin.staged_hash = origin.n, origin.hash
        return origin

    def store(self, origin: Origin, run: Run) -> None:
        """The run, which was staged, is durable."""
        name, n, running = origin.name, origin.n, origin.hash
        origin.n, origin.hash, origin.signature = run.head
        if n == 0:
            self._begin(origin)
        else:
            self.fingerprints.update(origin, n, running)
        if origin.staged == origin.n:
            del self._unstored[name]
        self.revision += 1
        origin.revision = self.revision
        self._recent.pop(name, None)
        self._recent[name] = origin

    def lose(self, origin: Origin, head: Head) -> None:
        """No more than this of an origin is durable; nothing of it is staged."""
        self.fingerprints.remove(origin)
        origin.n, origin.hash, origin.signature = head
        origin.staged, origin.staged_hash = head.n, head.hash
        self.branches.pop(origin.name, None)
        if head.n:
            self._begin(origin)
        else:
            self._recent.pop(origin.name, None)

    def _begin(self, origin: Origin) -> None:
        """Something is held of an origin from now on."""
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
        """Return all that is durable."""
        return {name: origin.head for name, origin in self.origins.items() if origin.n}
