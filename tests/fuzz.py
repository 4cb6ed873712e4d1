"""Wrong and hostile input for the parser of frames, the codec and the rules of the log.

python -m tests.fuzz --inputs 1000000 --seed N      a share of them for each of the targets
python -m tests.fuzz --target codec --seed N        one target

Valid input is mutated, so that most of it gets past the first check. The only exception that may
come out is ProtocolError. All chance comes from the seed, so that a run can be repeated.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any
from unittest.mock import patch

from p2p_sync.codes import MAX_NUMBER, POLICY_VIOLATION
from p2p_sync.core import comparing, newcomers, replica_link
from p2p_sync.core.receiver import Conflict
from p2p_sync.core.replica import Replica
from p2p_sync.core.replica_link import ReplicaLink
from p2p_sync.errors import LinkClosed, ProtocolError
from p2p_sync.net.websocket import FrameReader
from p2p_sync.settings import MAX_ORIGINS_NAMED, MAX_SHIPPED
from p2p_sync.wire.entries import Entry, chain
from p2p_sync.wire.frames import Ignored, Message, Proof, Sockets, decode, encode
from p2p_sync.wire.identity import Identity
from p2p_sync.wire.logframes import (
    LOG_FRAMES,
    NO_HASH,
    Fork,
    Graft,
    Have,
    Head,
    Look,
    Messages,
    Prune,
    Run,
    Sums,
)
from p2p_sync.wire.signing import checked, is_genuine, sign, signed
from tests.harness.raw import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, close_payload, frame

A, B = "a" * 32 + "-1", "b" * 32 + "-9007199254740991"
HASH = "0123456789abcdef" * 2
SIG = "0123456789abcdef" * 12

FRAMES: list[Any] = [
    {"type": "SOCKETS", "addresses": ["ws://127.0.0.1:8001", "ws://[::1]:9001", "ws://h.example:1"]},
    {
        "type": "SOCKETS", "addresses": ["ws://192.0.2.1:1"], "port": 8001, "link": 3,
        "version": "1.0", "enough": True,
        "leaves": ["ws://192.0.2.1:1"], "guests": ["ws://192.0.2.4:1"], "address": "ws://h:1",
    },
    {"type": "MESSAGE", "data": "text"},
    {"type": "MESSAGE", "data": "text", "origin": A, "seq": 1, "time": 1, "heard": True},
    {
        "type": "HAVE", "have": {A: [1, HASH, SIG], B: [MAX_NUMBER, HASH, SIG]},
        "last": True, "ack": True,
    },
    {
        "type": "MESSAGES", "have": {B: [2, HASH, SIG]}, "ack": False,
        "runs": [
            {"origin": A, "after": 0, "previous": "",
             "entries": [[1, "x"], [2, "\u00e9", 1], [2, ["a", "b"]]], "signature": SIG},
            {"origin": B, "after": 7, "previous": HASH, "entries": [[0, ""]], "signature": SIG},
        ],
    },
    {"type": "PROOF", "signature": "01" * 64, "proof": "ab" * 32},
    {"type": "PRUNE", "origins": [A, B]},
    {"type": "FORK", "origin": A, "head": [3, HASH, SIG], "marks": [[1, HASH], [2, HASH]]},
    {"type": "FORK", "origin": f"{A}~2~{HASH}", "head": [3, HASH, SIG], "agree": HASH},
    {"type": "GRAFT", "after": {A: 0, B: 5}},
]  # fmt: skip
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2**31, MAX_NUMBER, MAX_NUMBER + 1, 10**30, 0.5, 1e300, "", "x",
    "\0", "\ud800", "\U0010ffff", "x" * 300, "9" * 20, A, B, HASH, [], {}, [[]], {"": None},
    [1, HASH], [1, HASH, SIG], SIG,
    "ws://h:1", "ws://h:99999", "ws://[::1", "ws://" + "x." * 200 + ":1", "MESSAGES", "HAVE",
]  # fmt: skip


# -- Mutations ------------------------------------------------------------------------------------


def copy(value: Any) -> Any:
    """A deep copy of what JSON can hold."""
    if isinstance(value, dict):
        return {name: copy(item) for name, item in value.items()}
    return [copy(item) for item in value] if isinstance(value, list) else value


def mutate(value: Any, rng: random.Random) -> Any:
    """Change one thing in a JSON value, often deep inside it."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        name = rng.choice(list(value))
        chance = rng.random()
        if chance < 0.7:
            value[name] = mutate(value[name], rng)
        elif chance < 0.8:
            del value[name]
        elif chance < 0.9:
            value[str(rng.choice(VALUES))[:50]] = copy(value[name])
        else:
            value[name] = copy(rng.choice(VALUES))
        return value
    if isinstance(value, list) and value and rng.random() < 0.9:
        index = rng.randrange(len(value))
        chance = rng.random()
        if chance < 0.7:
            value[index] = mutate(value[index], rng)
        elif chance < 0.8:
            del value[index]
        elif chance < 0.9:
            value.insert(index, copy(rng.choice(value)))
        else:
            value[index] = copy(rng.choice(VALUES))
        return value
    if isinstance(value, str) and value and rng.random() < 0.5:
        index = rng.randrange(len(value))
        return value[:index] + rng.choice(["", "\0", "-", "\ud800", "g", "0"]) + value[index + 1 :]
    if type(value) is int and rng.random() < 0.5:
        return value + rng.choice((-1, 1, 2**53, -(2**53)))
    return copy(rng.choice(VALUES))


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Change, drop, repeat or add some bytes."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(changed) + 1)
        chance = rng.random()
        if chance < 0.4 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif chance < 0.6:
            del changed[at : at + rng.choice((1, 2, 8))]
        elif chance < 0.8:
            changed[at:at] = rng.randbytes(rng.choice((1, 2, 8)))
        else:
            changed[at:at] = changed[at : at + rng.choice((1, 4, 16))]
    return bytes(changed)


# -- The codec ------------------------------------------------------------------------------------


def check_codec(text: str) -> str:
    """Decode a text; what is understood has to survive its way back."""
    try:
        found = decode(text)
    except ProtocolError as error:
        assert error.reason and len(error.reason) < 400, error.reason
        return "refused"
    if isinstance(found, (Sockets, Proof, Message, *LOG_FRAMES)):
        assert len(getattr(found, "have", ())) <= MAX_ORIGINS_NAMED
        assert len(getattr(found, "origins", ())) <= MAX_ORIGINS_NAMED
        assert sum(run.count for run in getattr(found, "runs", ())) <= MAX_SHIPPED
        assert decode(encode(found)) == found
        return "taken"
    return "ignored" if isinstance(found, Ignored) else "heard"


def _stretch(value: Any, rng: random.Random) -> None:
    """Make a frame's tables as long as they may be, or too long."""
    length = rng.choice(
        (256, 257, MAX_SHIPPED, MAX_SHIPPED + 1, MAX_ORIGINS_NAMED, MAX_ORIGINS_NAMED + 1)
    )
    for name, item in value.items() if isinstance(value, dict) else ():
        if isinstance(item, list) and item:
            value[name] = (item * length)[:length]
        elif isinstance(item, dict) and item:
            some = next(iter(item.values()))
            value[name] = {f"{n:032x}-1": some for n in range(length)}


class Codec:
    """Mutated texts of frames."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def input(self) -> str:
        """Try one input; return what came of it."""
        rng = self.rng
        value = copy(rng.choice(FRAMES))
        for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
            value = mutate(value, rng)
        if rng.random() < 0.004:
            _stretch(value, rng)
        text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
        if rng.random() < 0.15:
            data = mutate_bytes(text.encode("utf-8", "surrogatepass"), rng)
            text = data.decode("utf-8", rng.choice(("replace", "surrogateescape")))
        return check_codec(text)


# -- The parser of frames -------------------------------------------------------------------------

READ_LIMIT = 2_000
"""Bytes in a frame and a message, for the parser that is tried."""


class Bytes:
    """A stream that ends."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def read(self, count: int) -> bytes:
        assert count <= READ_LIMIT, "more is asked for than may come"
        if len(self._data) - self._at < count:
            raise LinkClosed("the end")
        self._at += count
        return self._data[self._at - count : self._at]


def check_reader(data: bytes, masked: bool) -> str:
    """Read all frames in some bytes; no message is longer than it may be."""
    reader = FrameReader(Bytes(data), masked, READ_LIMIT)  # type: ignore[arg-type]
    count = 0
    try:
        while True:
            found = reader.read()
            count += 1
            if found is None:  # a fragment
                continue
            assert len(found.data) <= READ_LIMIT
            assert (found.text is not None) == (found.opcode == TEXT)
    except ProtocolError as error:
        assert error.reason
        return "refused"
    except LinkClosed:
        return "read" if count else "cut"


class Reader:
    """Mutated bytes of frames."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def input(self) -> str:
        """Try one input; return what came of it."""
        rng = self.rng
        masked = rng.random() < 0.5
        data = b"".join(self._message(masked) for _ in range(rng.randint(1, 3)))
        return check_reader(mutate_bytes(data, rng) if rng.random() < 0.9 else data, masked)

    def _message(self, masked: bool) -> bytes:
        rng = self.rng
        text = json.dumps(rng.choice(FRAMES)).encode()[: rng.choice((3, 130, 1_000))]
        kind = rng.random()
        if kind < 0.3:
            pieces = [text[:5], text[5:40] * rng.choice((1, 1, 1, 50)), text[40:]]
            data = frame(TEXT, pieces[0], masked=masked, fin=False)
            data += frame(CONTINUATION, pieces[1], masked=masked, fin=False)
            data += frame(PING, b"?", masked=masked) if rng.random() < 0.5 else b""
            return data + frame(CONTINUATION, pieces[2], masked=masked)
        if kind < 0.4:
            return frame(CLOSE, close_payload(1000, "bye"), masked=masked)
        if kind < 0.5:
            length = rng.choice((0, 125, 126, 127, READ_LIMIT, READ_LIMIT + 1, 2**40, 2**63))
            return frame(rng.randrange(16), b"x", masked=masked, announced=length)
        return frame(rng.choice((TEXT, TEXT, BINARY, PING, PONG)), text[:125], masked=masked)


# -- The rules of the log -------------------------------------------------------------------------

NODES = [Identity.of_seed(bytes([n]) * 32) for n in range(12)]
OWN = f"{NODES[0].node}-1"
NAMES = [OWN, *(f"{identity.node}-{n}" for n, identity in enumerate(NODES[1:], 1))]
LENGTH = 6
"""Messages of an origin."""
MAX_ORIGINS, MAX_AHEAD = 9, 2
"""In place of the true limits, so that they are reached."""


def contents(name: str, variant: int) -> Run:
    """All messages of an origin; another variant has others after some that are the same."""
    entries = tuple(Entry(n, f"{name} {n} {variant if n > 2 else 0}") for n in range(1, LENGTH + 1))
    return Run(name, 0, NO_HASH, entries, chain(NO_HASH, entries))


CONTENTS = {(name, variant): contents(name, variant) for name in NAMES for variant in (0, 1)}
KEYS = dict(zip(NAMES, NODES, strict=True))
WRONG = "0" * 192


@cache
def signature(name: str, n: int, running: str) -> str:
    """The right signature of a head, if the origin is one of these."""
    return sign(KEYS[name], name, n, running) if name in KEYS else WRONG


class Rules:
    """Frames of every kind in any order for one replica with several links, and its invariants."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.now = 100.0
        self.log: dict[str, list[Entry]] = {}
        self.links: list[ReplicaLink] = []
        self.conflicts: list[Conflict] = []  # that frames have shown
        self.writing: list[Run] = []
        self.starts = 1
        self.left = 0

    def input(self) -> str:
        """Try one step; return what came of it."""
        if not self.left:
            self._begin()
        self.left -= 1
        steps: list[Callable[[], str]] = [self._receive] * 12 + [self._store] * 3
        steps += [self._send, self._send, self._tick, self._commit]
        steps += [self._open, self._close, self._fail, self._resume]
        with (
            patch.object(newcomers, "MAX_STRANGERS", MAX_ORIGINS),
            patch.object(newcomers, "MAX_ORIGINS", MAX_ORIGINS),
            patch.object(replica_link, "MAX_AHEAD", MAX_AHEAD),
            patch.object(comparing, "MAX_AHEAD", MAX_AHEAD),
        ):
            result = self.rng.choice(steps)()
            self._check()
        self.now += self.rng.choice((0.0, 0.001, 0.05, 1.0, 40.0))
        return result

    def _begin(self) -> None:
        self.replica = Replica(OWN, {}, self.rng)
        self.log, self.links, self.writing, self.left = {}, [], [], 300
        for _ in range(2):
            self._open()

    # -- Steps

    def _receive(self) -> str:
        if not self.links:
            return self._open()
        link = self.rng.choice(self.links)
        receiver, frame = self.replica.receiver, self._frame()
        try:
            proven = checked(frame, receiver.doubtful(link, frame), self._hash_at)
            if proven is None:
                raise ProtocolError(POLICY_VIOLATION, "a signature is wrong")
            runs, found, _, _ = receiver.receive(link, proven, self.now)
            self.conflicts += found
        except ProtocolError:
            self.links.remove(link)
            self.replica.close(link, self.now)
            return "refused"
        self.writing += runs
        return "taken"

    def _hash_at(self, name: str, n: int) -> str | None:
        log = self.log.get(name, [])
        return chain(NO_HASH, log[:n])[-1] if n <= len(log) else None

    def _frame(self) -> Any:
        rng = self.rng
        have = {name: self._claim(name) for name in self._some()}
        ack = rng.random() < 0.2
        kind = rng.random()
        if kind < 0.25:
            lacks = rng.choice((None, None, (), (0,), (5, 10**6)))
            return Have(have, rng.random() < 0.5, ack, None, rng.choice((0, 5, MAX_NUMBER)), lacks)
        if kind < 0.35:
            sums = self.replica.vector.fingerprints
            total = rng.choice((sums.total, "0" * 32))
            branches = rng.choice(("", sums.branches(), "0" * 768))
            leaves = {rng.randrange(64): "0" * 768} if rng.random() < 0.5 else None
            numbers = rng.choice((0, 3, 10**6)), rng.choice((0, 5, MAX_NUMBER))
            return Sums(total, *numbers, branches, leaves, have=have, ack=ack)
        if kind < 0.4:
            first = rng.randrange(4096)
            leaves_of = tuple(range(rng.choice((0, first)), 4096))
            known = rng.choice(((), ("0" * 12,) * 50))
            ends = rng.choice((0, 1 << 51)), rng.choice((0, 1 << 52))
            return Look(leaves_of, *ends, known, have=have)
        if kind < 0.75:
            return Messages(tuple(map(self._run, self._some())), have, ack)
        if kind < 0.85:
            return Prune(tuple(self._some()), have, ack)
        if kind < 0.9:
            name, shown = rng.choice(NAMES), rng.choice((1, 3, LENGTH))
            marks = [(n, rng.choice((HASH, self._hash_at(name, n) or HASH))) for n in range(1, 4)]
            agree = rng.choice((None, None, HASH, ""))
            return Fork(name, self._claim(name)._replace(n=shown), marks, agree, have, ack)
        after = {name: rng.choice((0, 1, 3, LENGTH, MAX_NUMBER)) for name in self._some()}
        return Graft(after, have, ack)

    def _some(self) -> list[str]:
        names = [*NAMES, self.replica.origin, f"{self.rng.randrange(50):032x}-77"]
        return self.rng.sample(names, self.rng.choice((0, 1, 1, 2, 4)))

    def _claim(self, name: str) -> Head:
        n = self.rng.choice((1, 2, 3, 5, LENGTH, MAX_NUMBER))
        run = CONTENTS.get((name, self.rng.choice((0, 0, 0, 1))))
        known = run is not None and n <= LENGTH and self.rng.random() < 0.97
        if not known or not run:
            return Head(n, HASH, self._signature(name, n, HASH))  # a node may lie about its own
        return Head(n, run.hashes[n - 1], self._signature(name, n, run.hashes[n - 1]))

    def _signature(self, name: str, n: int, running: str) -> str:
        """Most often the right one."""
        kind = self.rng.random()
        if kind < 0.01:
            return WRONG
        if kind < 0.02:
            return signature(self.rng.choice(NAMES), n, running)
        return signature(name, n, running)

    def _run(self, name: str) -> Run:
        rng = self.rng
        whole = CONTENTS.get((name, rng.choice((0, 0, 0, 1)))) or CONTENTS[NAMES[1], 0]
        after = rng.choice((0, 0, 0, 1, 2, 4))
        end = rng.randint(after + 1, LENGTH)
        previous = whole.hashes[after - 1] if after else NO_HASH
        if after and rng.random() < 0.01:
            previous = HASH
        messages = whole.entries[after:end]
        hashes = chain(previous, messages)
        return Run(name, after, previous, messages, hashes, self._signature(name, end, hashes[-1]))

    def _store(self) -> str:
        runs, self.writing = signed(self.writing, NODES[0]), []
        for run in runs:
            assert is_genuine(run.origin, run.head), "nothing unsigned is stored"
            log = self.log.setdefault(run.origin, [])
            assert len(log) == run.after, "nothing is left out, and nothing stored twice"
            log += run.entries
        if runs:
            self.replica.stored(runs, self.now)
        return "stored"

    def _send(self) -> str:
        for link in self.links:
            for _ in range(50):
                work = link.take(self.now)
                assert len(work.have) <= MAX_ORIGINS_NAMED
                if work.ships:
                    ship = self.rng.choice(work.ships)
                    assert ship.after < ship.upto <= len(self.log[ship.origin])
                    link.shipped([ship], self.now)
                elif not work.frames:
                    break
            else:
                raise AssertionError("a sender without an end")
        return "sent"

    def _tick(self) -> str:
        self.replica.catch_up.tick(self.now)
        for link in self.replica.catch_up.stalled(self.now):
            self.links.remove(link)
            self.replica.close(link, self.now)
        return "ticked"

    def _commit(self) -> str:
        if not self.replica.catch_up.paused and len(self.log.get(self.replica.origin, ())) < 50:
            entry = Entry(1, "own")
            self.writing.append(self.replica.commit([entry], self.now, self.rng.random() < 0.5))
        return "committed"

    def _open(self) -> str:
        if len(self.links) < 5:
            peer = f"{self.rng.randrange(8):032x}"
            self.links.append(self.replica.open(peer, 0.05, self.now))
        return "opened"

    def _close(self) -> str:
        if self.links:
            self.replica.close(self.links.pop(self.rng.randrange(len(self.links))), self.now)
        return "closed"

    def _fail(self) -> str:
        if self.rng.random() < 0.3:
            self.writing = []
            self.replica.failed(self.now)
            self._renew()
        return "failed"

    def _resume(self) -> str:
        if self.replica.catch_up.paused:
            self.replica.catch_up.resume(self.now)
        return "resumed"

    def _renew(self) -> None:
        self.starts += 1
        self.replica.renew(f"{NODES[0].node}-{self.starts}")

    # -- Invariants

    def _check(self) -> None:
        replica, links = self.replica, self.links
        found, self.conflicts = self.conflicts, []
        if any(conflict.origin == replica.origin for conflict in found):
            self._renew()
        vector, gaps = replica.vector, replica.catch_up.gaps
        trees = {tree.origin.name: tree for tree in replica.trees}
        held = {name: len(log) for name, log in self.log.items()}
        assert {name: n for name, (n, *_) in replica.vector.heads().items()} == held, "only grows"
        for name, log in self.log.items() if self.rng.random() < 0.1 else ():
            assert chain(NO_HASH, log)[-1] == vector.origins[name].hash, "nothing is overwritten"
        assert trees.keys() == vector.origins.keys()
        assert set(replica.links) == set(links)
        staged = {run.origin for run in self.writing}
        own = {name for name in trees if name.startswith(NODES[0].node)}
        claimed = trees.keys() - held.keys() - staged - own
        assert claimed <= gaps.keys(), "what is only claimed is forgotten when nobody claims it"
        assert len(replica.catch_up.timers) <= 2 * MAX_ORIGINS + 10 * len(gaps) + 100
        for name, tree in trees.items():
            assert tree.feeder is None or name in tree.feeder.feeds
            assert all(name in link.eager for link in tree.eager)
            assert set(tree.eager) <= set(links)
            assert tree.feeder is None or tree.feeder in links
        assert sum(len(gap.claims) for gap in gaps.values()) == sum(len(k.ahead) for k in links)
        assert all(gap.claims for gap in gaps.values())
        noted = held.keys() | staged | replica.catch_up.early.keys()
        for link in links:
            assert len(link.ahead) <= MAX_AHEAD
            holds, ready = link.progress.holds, link.progress.ready
            assert len(holds.keys() - noted) <= MAX_AHEAD
            lacks = [gaps[name].claims[link] - replica.vector.held(name) for name in link.ahead]
            assert link.missing == sum(lacks) and all(lack > 0 for lack in lacks)
            assert link.feeds.keys() | link.eager.keys() | ready.keys() <= trees.keys()
            assert not any(holds.get(name) for name in link.refused)
            announced, held_back = link.announcing._confirm, link.shipping._withheld
            assert all(len(table) <= 200 for table in (link.grafts, link.prunes, link.pruned))
            assert all(len(t) <= 200 for t in (announced, held_back, link.progress.cursor))


TARGETS: dict[str, tuple[Callable[[random.Random], Codec | Reader | Rules], int]] = {
    "codec": (Codec, 5),
    "reader": (Reader, 3),
    "rules": (Rules, 2),
}
"""The targets, and of ten inputs how many each gets."""


def run(name: str, seed: int, inputs: int, seconds: float = float("inf")) -> Counter[str]:
    """Try up to so many inputs for up to so long; return what came of them, by kind."""
    target = TARGETS[name][0](random.Random(seed))
    results: Counter[str] = Counter()
    until = time.monotonic() + seconds
    for number in range(inputs):
        if time.monotonic() > until:
            break
        try:
            results[target.input()] += 1
        except BaseException as error:
            error.args = (*error.args, f"input {number} of {name}, seed {seed}")
            raise
    return results


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target", choices=TARGETS)
    options = parser.parse_args()
    chosen = [options.target] if options.target else list(TARGETS)
    whole = sum(TARGETS[name][1] for name in chosen)
    for name in chosen:
        began = time.monotonic()
        results = run(name, options.seed, options.inputs * TARGETS[name][1] // whole)
        took = time.monotonic() - began
        print(f"{name}: {results.total()} inputs in {took:.0f} s, {dict(results)}", flush=True)


if __name__ == "__main__":
    main()
