"""Locks never nest: a thread that holds one of this project's locks takes no other. And each thread
takes no lock but those that the READMEs of the folders list for it.

Every lock that the project makes is traced while real nodes do what they do.
"""

from __future__ import annotations

import re
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, cast

import pytest

from p2p_sync import Node
from p2p_sync.errors import P2PSyncError
from p2p_sync.web.board import Board
from p2p_sync.web.feeds import Page, Spot
from p2p_sync.web.live import Streams
from tests.harness.certificates import Authority
from tests.harness.original import Original
from tests.harness.streams import Sink
from tests.harness.support import ROOT, wait_until
from tests.project.documents import Document

_Lock, _RLock, _Condition = threading.Lock, threading.RLock, threading.Condition
_held = threading.local()


class Tracer:
    """What was seen of locks: of which classes they are, which were taken within another, and
    which by which thread (by the first word of its name)."""

    def __init__(self) -> None:
        self.made = Counter[str]()
        self.nested: list[str] = []
        self.taken: dict[str, set[str]] = {}


class TracedLock:
    """A lock that notes when it is taken by a thread that holds another one."""

    def __init__(self, tracer: Tracer, name: str) -> None:
        self._lock = _Lock()
        self._tracer = tracer
        self._name = name
        tracer.made[name] += 1

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        held = _held.__dict__.setdefault("names", [])
        if held and blocking:
            stack = "".join(traceback.format_stack(limit=8)[:-1])
            self._tracer.nested.append(f"{self._name} within {held}:\n{stack}")
        got = self._lock.acquire(blocking, timeout)
        if got:
            held.append(self._name)
            thread = threading.current_thread().name.split()[0]
            self._tracer.taken.setdefault(thread, set()).add(self._name)
        return got

    def release(self) -> None:
        self._lock.release()
        names = _held.__dict__.setdefault("names", [])
        if self._name in names:
            names.remove(self._name)

    def locked(self) -> bool:
        return self._lock.locked()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


@pytest.fixture
def tracer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tracer]:
    tracer = Tracer()

    def maker() -> str:
        """The class whose lock this is, if one of the project's modules makes it."""
        frame = sys._getframe(2)
        if not str(frame.f_globals.get("__name__", "")).startswith("p2p_sync"):
            return ""
        for owner in type(frame.f_locals["self"]).__mro__:
            method = vars(owner).get(frame.f_code.co_name)
            if getattr(method, "__code__", None) is frame.f_code:
                return owner.__name__
        raise AssertionError("a lock that no class makes")

    def lock() -> Any:
        name = maker()
        return TracedLock(tracer, name) if name else _Lock()

    def rlock() -> Any:
        name = maker()
        return TracedLock(tracer, name) if name else _RLock()

    def condition(lock: Any = None) -> Any:
        if lock is None and (name := maker()):
            lock = TracedLock(tracer, name)
        return _Condition(cast(Any, lock))

    monkeypatch.setattr(threading, "Lock", lock)
    monkeypatch.setattr(threading, "RLock", rlock)
    monkeypatch.setattr(threading, "Condition", condition)
    yield tracer


def use(nodes: list[Node], original: Original | None) -> None:
    """Do with the nodes all that people and programs do."""
    one, two, three = nodes
    sink = Sink()
    Streams(one).live(Page(one, Board(one)), Spot(0, 0), {}).begin(sink)
    got: list[str] = []
    handled: list[str] = []
    one.on_message(lambda message: got.append(message.data))
    one.consume("c", lambda message: handled.append(message.data))
    one.connect(two.address)
    three.connect(two.address)
    wait_until(lambda: [node.sockets() for node in nodes] == [2, 2, 2], lambda: one.peers())
    assert one.commit("text", copies=1).copies == 1
    for number in range(20):
        two.commit(f"text {number}")
    list(three.commit_all(f"bulk {number}" for number in range(5_000)))
    wait_until(lambda: len(got) == 5_021, lambda: len(got))
    wait_until(lambda: len(handled) >= 100)
    for node in nodes:
        for ask in (node.status, node.report.metrics, node.unready, node.peers, node.events):
            ask()
        node.report.spread(node.messages()[:10])
        next(node.follow(0, 0.01))
    with suppress(P2PSyncError):
        one.commit("x" * 1_000_000)
    one.connect("ws://127.0.0.1:1")
    wait_until(lambda: any(peer.attempts for peer in one.peers()))
    if original:
        original.add(one.address)
        wait_until(lambda: one.sockets() == 3)
        original.commit("of an original")
        wait_until(lambda: got[-1:] == ["of an original"])
    wait_until(lambda: b"dial_failed" in sink.data)
    (key,) = [peer.key for peer in one.peers() if peer.attempts]
    assert one.forget(key)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls and a secret"])
def test_locks_never_nest(tracer: Tracer, tmp_path: Path, tls: bool) -> None:
    options: dict[str, Any] = {}
    if tls:
        authority = Authority(tmp_path)
        cert, key = authority.issue("node")
        options = {"tls_cert": cert, "tls_key": key, "tls_ca": str(authority.pem)}
        options["secret"] = "a secret of this network"
    with ExitStack() as stack:
        original = None if tls else stack.enter_context(Original())
        nodes = [
            stack.enter_context(Node(0, tmp_path / str(number), **options)) for number in range(3)
        ]
        use(nodes, original)
    assert not tracer.nested, "\n".join([str(len(tracer.nested)), *tracer.nested[:3]])
    assert tracer.made["State"] == 3
    for thread, locks in documented().items():
        taken = tracer.taken.get(thread, set())
        assert "State" in taken or "State" not in locks, f"what does the thread {thread!r} do?"
        assert taken <= locks, f"the READMEs do not say that the thread {thread!r} takes these"


def documented() -> dict[str, set[str]]:
    """Which locks each thread may take, by the tables of the folders: the classes with these."""
    turn = {"State", "Link", "Journal", "Counters"}
    found: dict[str, set[str]] = {}
    locks: set[str] = set()
    for folder in ("node", "net", "web"):
        for rows in Document(ROOT / "p2p_sync" / folder / "README.md").tables:
            for name, _, cell in rows[2:] if rows[0] == ["thread", "does", "may take"] else ():
                if "`" not in name:
                    continue
                before = locks if "the same" in cell else set()
                names = {text.split(".")[0] for text in re.findall(r"`([^`]+)`", cell)}
                locks = before | names | (turn if "a turn" in cell else set())
                found[name.strip("`").split()[0]] = locks
    return found
