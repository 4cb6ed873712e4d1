"""The way of a message from `GET /commit` to the page of another node is short, and as documented.

A hop is a call, or its return, that takes the text from one file of the package to another. A call
whose result is the text again, checked or in another form, is no hop but a part of the file that
calls: so the codecs of `wire/` and the functions of the core, which have no state, are passed over.
The core counts as one object, which it is for all others. The way of TCP between two streams is a
hop, too.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from contextlib import AbstractContextManager, ExitStack
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from p2p_sync import Node
from p2p_sync.web.app import create_app
from p2p_sync.web.engine import Channel
from p2p_sync.web.guard import Guard, guarded
from p2p_sync.web.plain import begin
from tests.harness.http import serving
from tests.harness.streams import streaming
from tests.harness.support import ROOT, request, wait_until
from tests.project.documents import Document

PACKAGE = ROOT / "p2p_sync"
MOST = 17
HERE, THERE = "here", "there"
LOOP = "Thread"  # in the program it is the main thread
STREAM = "net/stream.py"


class Hop(NamedTuple):
    """A file that the text has come to, and the thread that took it there."""

    file: str
    thread: str


class Move(NamedTuple):
    """The text goes from one file of a node to another."""

    node: str
    source: str
    hop: Hop


class Trace:
    """Follows a text through this process, in all threads that begin after it."""

    def __init__(self, text: str) -> None:
        self.moves: list[Move] = []
        self.writers: dict[int | None, str] = {}  # the node of each thread `writer`
        self.active = False
        self._text = text
        self._given: dict[FrameType, bool] = {}  # whether a call has got the text

    def __call__(self, frame: FrameType, event: str, result: Any) -> None:
        if not self.active or event not in ("call", "return") or not station(frame):
            return
        if event == "call":
            names = frame.f_code.co_varnames[: frame.f_code.co_argcount]
            arguments = [frame.f_locals.get(name) for name in names if name != "self"]
            self._given[frame] = self._carries(arguments)
            if self._given[frame]:
                self._note(caller(frame), station(frame))
        elif not self._given.pop(frame, False) and self._carries(result):
            self._note(station(frame), caller(frame))

    def _note(self, source: str, target: str) -> None:
        thread = threading.current_thread()
        kind = re.split("[ -]", thread.name)[0]
        # The loop of the HTTP server here takes the message, a stream there goes to the page.
        writer = self.writers.get(thread.ident)
        node = {LOOP: HERE, "streams": THERE, "writer": writer}
        # The node there has dialled: only then its peer does not mask what it sends.
        node |= dict.fromkeys(("send", "dial"), THERE if "ws:" in thread.name else HERE)
        if source and target and source != target and kind in node:
            self.moves.append(Move(str(node[kind]), source, Hop(target, kind)))

    def _carries(self, value: Any, depth: int = 8) -> bool:
        """Whether the text is in a value that is handed on."""
        if isinstance(value, str):
            return self._text in value
        if isinstance(value, (bytes, bytearray, memoryview)):
            return self._text.encode() in bytes(value)
        parts: list[Any] = []
        if isinstance(value, Channel):  # with the requests that have arrived
            parts = [request.head for request in value.waiting]
        elif isinstance(value, dict):
            parts = [*value.values()]
        elif isinstance(value, (list, tuple, deque)):
            parts = [*value]
        elif is_dataclass(value):
            parts = [getattr(value, field.name, None) for field in fields(value)]
        return depth > 0 and any(self._carries(part, depth - 1) for part in parts)

    def way(self) -> list[Hop]:
        """The shortest way that the text has taken from the HTTP server here to the page there."""
        ways: dict[tuple[str, str], list[Hop]] = {(HERE, "web/engine.py"): []}

        def reach(node: str, way: list[Hop]) -> None:
            found = ways.setdefault((node, way[-1].file), way)
            if len(way) < len(found):
                ways[node, way[-1].file] = way

        for node, source, hop in self.moves:
            if (before := ways.get((node, source))) is not None:
                reach(node, [*before, hop])
            if (before := ways.get((HERE, STREAM))) is not None:
                reach(THERE, [*before, Hop(STREAM, "dial")])
        return ways[THERE, "web/feeds.py"]


def station(frame: FrameType) -> str:
    """The file whose code a call runs, of a method that of its object's class; "" for none."""
    path = frame.f_code.co_filename
    if not path.startswith(str(PACKAGE)):
        return ""
    own = frame.f_locals.get("self") if "self" in frame.f_code.co_varnames[:1] else None
    module = type(own).__module__ if own is not None else ""
    name = str(Path(path).relative_to(PACKAGE))
    if module.startswith("p2p_sync."):
        name = module.removeprefix("p2p_sync.").replace(".", "/") + ".py"
    if name.startswith("core/"):
        return "core/" if own is not None else ""
    return "" if name.startswith("wire/") else name


def caller(frame: FrameType) -> str:
    """The file that a call comes from."""
    back = frame.f_back
    while back and not station(back):
        back = back.f_back
    return station(back) if back else ""


def site(node: Node) -> AbstractContextManager[int]:
    """The port of the HTTP server of a node, as the program runs it."""
    guard = Guard(8000, "t" * 40)
    application = guarded(create_app(node), guard)
    return serving(application, guard.room, begin=partial(begin, node, guard))


def test_a_message_takes_the_documented_way_of_17_hops() -> None:
    trace = Trace("followedtext")
    threading.setprofile(trace)
    try:
        with ExitStack() as stack:
            ports = {}
            nodes = {}
            for name in (HERE, THERE):
                nodes[name] = node = stack.enter_context(Node(0))
                ports[name] = stack.enter_context(site(node))
                for thread in threading.enumerate():
                    if thread.name == "writer":
                        trace.writers.setdefault(thread.ident, name)
            nodes[THERE].connect(nodes[HERE].address)
            nodes[HERE].commit("the first one floods")
            wait_until(lambda: len(nodes[THERE].messages()) == 1)
            page = stack.enter_context(streaming(ports[THERE], "/api/v1/stream"))
            assert page.next().type == "state"
            trace.active = True
            assert request(ports[HERE], "/commit?msg=followedtext").status == 302
            assert page.next("message").data["data"] == "followedtext"
            trace.active = False
    finally:
        threading.setprofile(None)
    way = trace.way()
    assert len(way) <= MOST, way
    assert documented() == way


def documented() -> list[Hop]:
    """The hops in the README of `node/`."""
    (rows,) = [
        rows for rows in Document(PACKAGE / "node" / "README.md").tables if rows[0][0] == "hop"
    ]
    kinds = {"main": LOOP}
    hops = []
    for number, (hop, file, thread, _) in enumerate(rows[2:], 1):
        assert hop == str(number)
        kind = thread.strip("`").split()[0]
        hops.append(Hop(file.strip("`"), kinds.get(kind, kind)))
    return hops
