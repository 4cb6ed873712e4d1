"""Signed history: only a node itself can say what its origin has committed.

The running hash over an origin's messages 1 ... n covers all of them. So one signature over the
origin, n and that hash (a *head*) proves them all. A node signs the last entry of each of its
transactions, and further ones so that no more than a frame holds lies between two signatures. What
is shipped ends at a signed entry: a run is checked by its hashes and one signature, however long it
is. What HAVE announces is a head, too, so nobody can claim messages of an origin that its node has
not signed.

A signature on the wire and in the log is the public key followed by the Ed25519 signature, 192
hexadecimal digits. The key must be the one that the node's id in the origin derives from. So a
receiver needs to know nothing but what it is sent.

A node can sign two different continuations of its own log: a *fork*. Who holds one of them and is
shown a head of the other knows that, and that nobody else did it. The running hash has 128 bits, so
a node that spends 2**64 hashes on it can make two logs with one head, of its own origin only.

Pure. Any thread may call it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache

from ..settings import MAX_BATCH, MAX_ENTRY_BYTES, MAX_ERASURES
from .entries import NOTICE, Entry, size_of
from .forks import Branch, committed_id
from .identity import KEY_DIGITS, Identity, is_signed, node_of_key
from .logframes import Fork, Head, LogFrame, Messages, Run, Vector


def sign(identity: Identity, origin: str, n: int, running: str) -> str:
    """Return the signature of a head of one of the node's own origins."""
    return identity.key + identity.sign(_text(origin, n, running))


@lru_cache(maxsize=2048)  # one head comes over many links
def is_genuine(origin: str, head: Head) -> bool:
    """Return whether the node that `origin` belongs to has signed this head of it."""
    key, signature = head.signature[:KEY_DIGITS], head.signature[KEY_DIGITS:]
    try:
        if not origin.startswith(f"{node_of_key(key)}-"):
            return False
    except ValueError:
        return False
    return is_signed(key, signature, _text(origin, head.n, head.hash))


def is_proven(run: Run) -> bool:
    """Return whether the node of a run's origin has signed it, and those that have erased messages
    of it have signed that."""
    return is_genuine(run.origin, run.head) and are_erased(run)


def are_erased(run: Run) -> bool:
    """Return whether the erasures in a run are genuine."""
    first = run.after + 1
    for entry in run.entries:
        if entry.erased and not _are_genuine(run.origin, first, entry):
            return False
        first += entry.length
    return True


def _are_genuine(origin: str, first: int, entry: Entry) -> bool:
    """Return whether the erasures of an entry are genuine, and are those of the missing texts."""
    gone = {seq for seq, text in enumerate(entry.texts, first) if text is None}
    for erasure in entry.erasures:
        running = erasure.hash(committed_id(origin, erasure.seq))
        head = Head(erasure.after + 1, running, erasure.signature)
        if erasure.seq not in gone or not is_genuine(erasure.origin, head):
            return False
        gone.remove(erasure.seq)
    return not gone or len(entry.erasures) == MAX_ERASURES


def _text(origin: str, n: int, running: str) -> bytes:
    base, after, _ = Branch.of(origin)
    return f"p2p_sync log 2\0{base}\0{after + n}\0{running}".encode()


def checked(
    frame: LogFrame, doubtful: Vector, hash_at: Callable[[str, int], str | None]
) -> LogFrame | None:
    """Return a frame with what its signatures prove; None if one of them is wrong.

    `doubtful` are the heads that say something new, apart from those of its runs. `hash_at` returns
    the running hash over the first so many messages of an origin that this node holds: "" if no
    entry ends there, None if it does not hold so many.
    """
    heads = dict(doubtful)
    if isinstance(frame, Fork) and frame.head.n:
        heads[frame.origin] = frame.head
    for origin, head in heads.items():
        if not is_genuine(origin, head):
            return None
    if isinstance(frame, Messages):
        return frame if all(map(is_proven, frame.runs)) else None
    if isinstance(frame, Fork):
        earlier = [mark for mark in frame.marks if mark[0] < frame.head.n]
        shown = sorted([*earlier, frame.head[:2]], reverse=True)
        held = (n for n, running in shown if n and hash_at(frame.origin, n) == running)
        return replace(frame, common=next(held, 0))
    return frame


def signed(runs: Iterable[Run], identity: Identity) -> list[Run]:
    """Return the runs of a transaction, those that peers have sent as they are; those of this node,
    which have no signature yet, are joined and signed.

    `runs` go on without a gap in each origin. A run of the result has the limits of an entry, or is
    a single entry, so that it fits into a frame. It ends with a notice, if there is one in it.
    """
    result: list[Run] = []
    open_runs: dict[str, list[Run]] = {}  # of each origin, to be signed together
    sizes: dict[str, int] = {}
    for run in runs:
        if run.signature:
            result.append(run)
            continue
        size = sum(map(size_of, run.entries))
        joined = open_runs.setdefault(run.origin, [])
        count = sum(part.count for part in joined) + run.count
        if joined and (count > MAX_BATCH or sizes[run.origin] + size > MAX_ENTRY_BYTES):
            result.append(_joined(joined, identity))
            open_runs[run.origin] = joined = []
        sizes[run.origin] = size + (sizes[run.origin] if joined else 0)
        joined.append(run)
        if run.entries[-1].kind == NOTICE:  # its signature proves it, wherever it is shipped
            result.append(_joined(open_runs.pop(run.origin), identity))
    return result + [_joined(parts, identity) for parts in open_runs.values()]


def _joined(parts: Sequence[Run], identity: Identity) -> Run:
    first, last = parts[0], parts[-1]
    signature = sign(identity, first.origin, last.end, last.hashes[-1])
    entries, hashes = first.entries, first.hashes
    if len(parts) > 1:
        entries = tuple(entry for part in parts for entry in part.entries)
        hashes = tuple(running for part in parts for running in part.hashes)
    return Run(first.origin, first.after, first.previous, entries, hashes, signature)
