"""Idempotency keys: a commit that is sent again with its key is not committed again.

A key is claimed before it is looked up, and until its message is on disk. Whoever brings the same
key meanwhile waits for that. So no two commits of one key can be on their way at once, and one that
is not on its way is found on disk (disk/keyed.py). All keys of a batch are claimed at once, so no
two batches wait for each other.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterable, Sequence

from ..core.commit import Key, Keyed
from ..disk import keyed
from ..disk.store import Store
from ..errors import KeyInvalid
from ..settings import MAX_KEY

_BYTES = 16  # of the hash of a key, and of a message


def check_key(key: object) -> None:
    """Raise KeyInvalid unless `key` can be an idempotency key."""
    if type(key) is not str or not (key.isascii() and key.isprintable()):
        raise KeyInvalid("an idempotency key has printable ASCII characters only")
    if not 1 <= len(key) <= MAX_KEY:
        raise KeyInvalid(f"an idempotency key has 1 to {MAX_KEY} characters, not {len(key)}")


def key_of(key: str, text: str, topic: str) -> Key:
    """Return the key of a message. It need not be one that `check_key` allows."""
    return Key(_hash(key), _hash(f"{topic}\n{text}"))


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_BYTES).digest()


class Keys:
    """The keys that are on their way to the disk. For any thread."""

    def __init__(self, store: Store, keep: float) -> None:
        """`keep` is for how many seconds keys are known."""
        self._store = store
        self._keep = int(keep * 1000)
        self._changed = threading.Condition()  # guards the next one
        self._claimed: set[bytes] = set()

    def claim(self, keys: Sequence[Key]) -> dict[bytes, Keyed]:
        """Return which of the keys have named a message already, and claim the others.

        All must differ. Raises LogError; then none is claimed.
        """
        names = [key.name for key in keys]
        with self._changed:
            self._changed.wait_for(lambda: self._claimed.isdisjoint(names))
            self._claimed.update(names)
        since = int(time.time() * 1000) - self._keep
        found: dict[bytes, Keyed] = {}
        try:
            with self._store.reading() as database:
                found = keyed.find(database, names, since)
            if self._store.gone:  # whoever brought them was told that they may be lost
                raise self._store.gone
        except BaseException:
            self.release(keys)
            raise
        self.release(key for key in keys if key.name in found)
        return found

    def release(self, keys: Iterable[Key]) -> None:
        """The keys are on disk, or their messages could not be stored."""
        with self._changed:
            self._claimed.difference_update(key.name for key in keys)
            self._changed.notify_all()
