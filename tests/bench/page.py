"""Measures the page and its stream with real nodes and a real browser:

python -m tests.bench.page [--messages N] [--seconds S] [--origins N] [--pages N]

- from a commit on one node until the message is in the page of another, in milliseconds;
- what an open page costs its node while nothing happens, in percent of a core: a node with few
  origins, and one with many;
- what other requests take while many pages are open, and when the last page has a message.
"""

from __future__ import annotations

import argparse
import json
import selectors
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any, cast

from tests.harness.browser import browser
from tests.harness.http import Http, get_bytes, post_bytes
from tests.harness.origins import make_origins
from tests.harness.process import cpu_seconds
from tests.harness.support import DEADLINE, NodeProcess, pause, run_nodes, wait_sockets, wait_until

_STARTS_OF = 50  # nodes that have started often, for many origins
_QUESTIONS = 100
_SPACING = 0.15  # seconds from one commit to the next: no page is busy with the one before

# The daily audit would begin in the midst of it.
_WITHOUT_AUDIT = (
    "import sys; from p2p_sync import settings; settings.AUDIT_DELAY = 86400.0; "
    "from p2p_sync.cli import main; sys.exit(main())"
)

# Notes when each text came into the page, in milliseconds since the epoch.
_WATCH = """
window.came = new Map();
addEventListener("DOMContentLoaded", () => new MutationObserver((records) => {
  const now = performance.timeOrigin + performance.now();
  for (const { addedNodes } of records) for (const row of addedNodes) {
    const text = row.querySelector?.("p")?.textContent;
    if (text && !came.has(text)) came.set(text, now);
  }
}).observe(document.getElementById("messages"), { childList: true }));
"""


def _commit(http: Http, text: str) -> float:
    """Commit a text; return when it was sent, in milliseconds since the epoch."""
    body = json.dumps({"data": text}).encode()
    now = time.time() * 1000
    http.ask(post_bytes(http.port, "/api/v1/messages", body, "application/json"), 201)
    return now


def _opened(chromium: Any, node: NodeProcess, script: str = "") -> Any:
    """The page of a node, once it shows the state."""
    page = chromium.new_page()
    if script:
        page.add_init_script(script)
    page.goto(f"http://127.0.0.1:{node.port}/")
    page.wait_for_selector("#verdict[data-state=in_sync]", timeout=DEADLINE * 1000)
    page.wait_for_timeout(2000)  # what it asks for when it begins
    return page


def delays(chromium: Any, messages: int) -> list[float]:
    """Return how long each message took from one node to the page of another, in milliseconds."""
    with run_nodes(2, "--ephemeral") as (here, there), Http(here.port) as http:
        here.add(there.address)
        wait_sockets(1, here, there)
        page = _opened(chromium, there, _WATCH)
        sent = {}
        for number in range(messages):
            sent[f"text {number}"] = _commit(http, f"text {number}")
            pause(_SPACING)
        page.wait_for_function("(n) => came.size >= n", arg=messages, timeout=DEADLINE * 1000)
        came = page.evaluate("Object.fromEntries(came)")
        page.close()
    return [came[text] - at for text, at in sent.items()]


def idle_cost(chromium: Any, origins: int, seconds: float) -> tuple[float, float]:
    """Return what a node with one peer uses while nothing happens, in percent of a core: without a
    page, and more with one."""
    with tempfile.TemporaryDirectory(prefix="p2p-bench-") as parent, ExitStack() as stack:
        directory = Path(parent) / "node"
        make_origins(directory, min(_STARTS_OF, origins), max(1, origins // _STARTS_OF), 2)
        command = [sys.executable, "-c", _WITHOUT_AUDIT]
        node = stack.enter_context(NodeProcess(data_dir=directory, command=command))
        other = stack.enter_context(NodeProcess("--ephemeral", "--peer", node.address))
        wait_until(lambda: other.digest == node.digest, "the logs are equal", 10 * DEADLINE)
        pause(5.0)
        without = _percent(node, seconds)
        page = _opened(chromium, node, _WATCH)
        cost = _percent(node, seconds) - without
        page.close()
        return without, cost


def _percent(node: NodeProcess, seconds: float) -> float:
    before, begun = cpu_seconds(node.process.pid), time.monotonic()
    pause(seconds)
    used = cpu_seconds(node.process.pid) - before
    return 100 * used / (time.monotonic() - begun)


class _Reader(threading.Thread):
    """Reads the streams of many pages, and notes when messages came to each."""

    def __init__(self, node: NodeProcess, pages: int) -> None:
        super().__init__(daemon=True)
        self._selector = selectors.DefaultSelector()
        self._ends = False
        self.came: list[list[float]] = [[] for _ in range(pages)]
        for came in self.came:
            sock = socket.create_connection(("127.0.0.1", node.port))
            sock.sendall(get_bytes(node.port, "/api/v1/stream"))
            self._selector.register(sock, selectors.EVENT_READ, came)

    def run(self) -> None:
        while not self._ends:
            for key, _ in self._selector.select(0.1):
                data = cast(socket.socket, key.fileobj).recv(1 << 16)
                key.data.extend([time.time() * 1000] * data.count(b"event: message\n"))

    def close(self) -> None:
        """Close all."""
        self._ends = True
        self.join()
        for key in [*self._selector.get_map().values()]:
            cast(socket.socket, key.fileobj).close()
        self._selector.close()


@contextmanager
def _reading(node: NodeProcess, pages: int) -> Iterator[_Reader]:
    reader = _Reader(node, pages)
    reader.start()
    try:
        pause(2.0)
        yield reader
    finally:
        reader.close()


def _asked(port: int, target: str) -> list[float]:
    """Return how long answers take, in milliseconds."""
    found = []
    with Http(port) as http:
        for _ in range(_QUESTIONS):
            begun = time.perf_counter()
            http.ask(get_bytes(port, target), 200, 302)
            found.append((time.perf_counter() - begun) * 1000)
    return found


def many_pages(pages: int) -> dict[str, str]:
    """Return what requests take, without pages and with many, and when the last has a message."""
    found = {}
    with run_nodes(2, "--ephemeral") as (here, there), Http(there.port) as http:
        here.add(there.address)
        wait_sockets(1, here, there)
        targets = ("/api/v1/status", "/commit?msg=text")
        for target in targets:
            found[f"{target}, no page"] = _told(_asked(here.port, target))
        with _reading(here, pages) as reader:
            for target in targets:
                found[f"{target}, {pages} pages"] = _told(_asked(here.port, target))
            pause(1.0)
            for came in reader.came:
                came.clear()
            sent = []
            for number in range(_QUESTIONS // 2):
                sent.append(_commit(http, f"text {number}"))
                pause(_SPACING)
            wait_until(lambda: all(len(came) == len(sent) for came in reader.came))
            last = [max(came[n] for came in reader.came) - at for n, at in enumerate(sent)]
        found[f"a message until the last of {pages} pages has it"] = _told(last)
    return found


def _told(values: list[float]) -> str:
    tail = quantiles(values, n=100)[98] if len(values) > 1 else values[0]
    return f"median {median(values):.1f} ms, p99 {tail:.1f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.page")
    parser.add_argument("--messages", type=int, default=50, help="until they are in the page")
    parser.add_argument("--seconds", type=float, default=60.0, help="for what an idle page costs")
    parser.add_argument("--origins", type=int, default=10_000, help="of the second node")
    parser.add_argument("--pages", type=int, default=50, help="open at once; 0: none")
    given = parser.parse_args()
    with browser() as chromium:
        found = delays(chromium, given.messages)
        print(f"a commit until it is in the page of another node: {_told(found)}", flush=True)
        for origins in sorted({100, given.origins}):
            without, cost = idle_cost(chromium, origins, given.seconds)
            told = f"{cost:.2f} % of a core more than the {without:.2f} % without it"
            print(f"an idle page of a node with {origins:,} origins: {told}", flush=True)
    for what, told in many_pages(given.pages).items() if given.pages else ():
        print(f"{what}: {told}", flush=True)


if __name__ == "__main__":
    main()
