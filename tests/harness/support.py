"""What the tests share: free ports, real node processes, and waits with a deadline."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.harness.forkserver import ForkedProcess

ROOT = Path(__file__).resolve().parent.parent.parent

# Every deadline is a multiple of this; a slow machine sets P2P_SYNC_TEST_SCALE.
SCALE = float(os.environ.get("P2P_SYNC_TEST_SCALE", "1"))
DEADLINE = 20.0 * SCALE
# How long a node may take to load its program: twenty that start at once share the cores.
START_DEADLINE = 60.0 * SCALE
What = str | Callable[[], object]  # what a wait was for: a text, or called when it has failed
RUN_NODE = (sys.executable, str(ROOT / "run_node.py"))

# How often a node that chose a port which was then taken may choose another one.
_MORE_PORTS = 5

# The ports of the tests, below the range that the kernel hands out. Each worker of pytest-xdist
# has a part of its own, so that no two of them find the same port free.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_SPAN = range(10_000 + 20_000 * _WORKER // _WORKERS, 9_999 + 20_000 * (_WORKER + 1) // _WORKERS, 2)
_PAIRS = itertools.cycle(random.sample(_SPAN, len(_SPAN)))

# A shell starts a background job with SIGINT and SIGQUIT ignored, nohup one with SIGHUP ignored,
# and a program inherits that. A signal with a handler has its default action in a child, so the
# tests go on as they were told to, and the nodes that they start obey.
for _number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, lambda *_: None)


def pause(seconds: float) -> None:
    """Let `seconds` pass: while a fault lasts, or between the steps of an attack.

    The tests sleep nowhere else. A test that expects something uses `wait_until` or `holds`.
    """
    time.sleep(seconds)


def changed(**limits: float) -> list[str]:
    """Return the command of a node with other limits."""
    program = (
        "import sys; from p2p_sync import settings; "
        f"vars(settings).update({limits!r}); from p2p_sync.cli import main; sys.exit(main())"
    )
    return [sys.executable, "-c", program]


def wait_until(condition: Callable[[], Any], what: What = "", timeout: float = DEADLINE) -> Any:
    """Return the first true value of `condition`; fail with `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {what() if callable(what) else what}")
        pause(0.01)


def is_open(sock: socket.socket) -> bool:
    """Return whether the other side has not closed the connection."""
    sock.setblocking(False)
    try:
        return sock.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except ConnectionError:
        return False


def holds(condition: Callable[[], Any], what: What = "", duration: float = 1.5 * SCALE) -> None:
    """Fail unless `condition` is true now and stays so for `duration` seconds."""
    deadline = time.monotonic() + duration
    while time.monotonic() < deadline:
        assert condition(), f"did not stay so: {what() if callable(what) else what}"
        pause(0.02)


def settle(condition: Callable[[], Any], what: What = "") -> None:
    """Wait until `condition` holds and stays so: links that are not needed come and go before."""

    def stays() -> bool:
        try:
            holds(condition)
        except AssertionError:
            return False
        return True

    wait_until(lambda: condition() and stays(), what)


def free_port_pair() -> int:
    """A port N such that N and N+1 are free now; no pair comes twice before all have come."""
    for port in _PAIRS:
        try:
            for candidate in (port, port + 1):
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", candidate))
        except OSError:
            continue
        return port
    raise AssertionError("unreachable: the pairs go round")


class Answer:
    """One HTTP answer: `status`, `headers` (lower-case names) and `body` (bytes); `text`."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def text(self) -> str:
        return self.body.decode("utf-8")


def request(
    port: int,
    target: str,
    method: str = "GET",
    headers: dict[str, str] | None = None,
    body: bytes | None = None,
) -> Answer:
    """Send one HTTP request to 127.0.0.1:`port`, following nothing, and return the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    try:
        connection.request(method, target, body=body, headers=headers or {})
        response = connection.getresponse()
        fields = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, fields, response.read())
    finally:
        connection.close()


@contextmanager
def silent_listener() -> Iterator[tuple[str, socket.socket]]:
    """An address where connections are taken by the kernel and nothing ever answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}", listener


def run_to_end(
    *arguments: str,
    cwd: str | Path | None = None,
    timeout: float = DEADLINE,
    environment: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `run_node.py` with `arguments` until it ends by itself; both streams as text."""
    return subprocess.run(
        [*RUN_NODE, *arguments],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=timeout,
        env={**os.environ, **(environment or {})},
    )


class NodeProcess:
    """A node as a process of its own, HTTP on `port`, peers on `port + 1`.

    It runs what `run_node.py` runs, forked from a process that has imported that. With a `command`,
    or an `environment` for more than the node's own variables, it is started from the beginning:
    `command=RUN_NODE` is for tests about the start, and for benchmarks.

    A context manager: leaving it ends the process and deletes its data directory, unless the
    directory was given. It gets `--data-dir` unless `--ephemeral` is among `options`, or `cwd`
    is given (then its data goes to the default place below that). `environment` is added to that
    of the tests, `output` a descriptor that takes what it prints (`log` is empty then). Without
    `port` it chooses one, and has it for good once `wait_ready` has returned.
    """

    def __init__(
        self,
        *options: str,
        port: int | None = None,
        data_dir: str | Path | None = None,
        cwd: str | Path | None = None,
        command: Sequence[str] | None = None,
        environment: dict[str, str] | None = None,
        output: int | None = None,
        wait: bool = True,
    ) -> None:
        self._own_dir = tempfile.TemporaryDirectory(prefix="p2p-test-")
        self.data_dir = Path(data_dir or Path(self._own_dir.name) / "data")
        if "--ephemeral" not in options and not cwd:
            options = ("--data-dir", str(self.data_dir), *options)
        own = all(name.startswith("P2P_SYNC_") for name in environment or {})
        self._command = command if command or own else RUN_NODE
        self._options = options
        self._cwd = cwd or ROOT
        self._environment = {**os.environ, **(environment or {})}
        self._ports_left = 0 if port else _MORE_PORTS
        self.log_file = tempfile.TemporaryFile()
        self._output = self.log_file.fileno() if output is None else output
        self._start(port or free_port_pair())
        if wait:
            try:
                self.wait_ready()
            except BaseException:
                self.close()
                raise

    def _start(self, port: int) -> None:
        self.port = port
        self.address = f"ws://127.0.0.1:{port + 1}"
        self.process = self._run([str(port), *self._options])

    def _run(self, arguments: list[str]) -> ForkedProcess | subprocess.Popen[bytes]:
        if not self._command:
            return ForkedProcess(arguments, self._cwd, self._environment, self._output)
        return subprocess.Popen(
            [*self._command, *arguments],
            cwd=self._cwd,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=self._environment,
        )

    def wait_ready(self) -> None:
        """Wait until the node answers on its HTTP port.

        Another process may take a port between the choice of it and the node's start: the node
        says so and ends. It is started again, at another port, unless its port was given.
        """
        wait_until(self._ready, "the node answers on its HTTP port", START_DEADLINE)

    def _ready(self) -> bool:
        if self.process.poll() is not None:
            retry = self._ports_left and self.logged("Address already in use")
            assert retry, f"the node ended: {self.log()}"
            self._ports_left -= 1
            self.log_file.seek(0)
            self.log_file.truncate()
            self._start(free_port_pair())
        try:
            return request(self.port, "/healthz").status == 200 and self._listens()
        except OSError:
            return False

    def _listens(self) -> bool:
        """Is it the process itself that answers? Another test run on this machine may have taken
        the port while the program was being loaded. True where that cannot be found out."""
        process, held = Path(f"/proc/{self.process.pid}"), set[str]()
        try:
            lines = [line.split() for line in (process / "net/tcp").read_text().splitlines()]
            for file in (process / "fd").iterdir():
                with suppress(FileNotFoundError):  # it has been closed meanwhile
                    held.add(str(file.readlink()))
        except OSError:
            return not Path("/proc/self/net/tcp").exists()
        listening = [f for f in lines if f[1].endswith(f":{self.port:04X}") and f[3] == "0A"]
        if not listening:  # it listens by IPv6 alone, or is about to end
            return len(lines) > 0 and self.process.poll() is None
        return any(f"socket:[{f[9]}]" in held for f in listening)

    def log(self) -> str:
        """All that the process has printed so far, both streams."""
        size = os.fstat(self.log_file.fileno()).st_size
        return os.pread(self.log_file.fileno(), size, 0).decode("utf-8", "replace")

    def logged(self, *parts: str, after: int = 0) -> bool:
        """Is there a line with all `parts` (in any case) in the log, from `after` on?"""
        lines = self.log()[after:].lower().splitlines()
        return any(all(part.lower() in line for part in parts) for line in lines)

    def get(self, target: str, **headers: str) -> Answer:
        return request(self.port, target, headers=headers)

    def api(self, path: str) -> Any:
        """The JSON that `/api/v1/PATH` answers, with status 200."""
        answer = self.get(f"/api/v1/{path}")
        assert answer.status == 200, answer.text
        assert answer.headers["content-type"].startswith("application/json")
        return json.loads(answer.body)

    def status(self) -> Any:
        """What `/api/v1/status` tells."""
        return self.api("status")

    def peers(self) -> list[dict[str, Any]]:
        """The entries of `/api/v1/peers`."""
        return list(self.api("peers")["peers"])

    def addresses(self) -> list[str]:
        """The addresses of its peers, connected or not."""
        return [peer["address"] for peer in self.peers()]

    @property
    def id(self) -> str:
        return str(self.status()["node"]["id"])

    @property
    def count(self) -> int:
        """How many messages it shows."""
        return int(self.status()["messages"]["count"])

    @property
    def digest(self) -> str:
        """The digest of all messages; see `equal`."""
        return str(self.status()["messages"]["digest"])

    def line(self) -> str:
        """What curl prints for `/`."""
        return self.get("/").text

    def sockets(self) -> int:
        return int(self.line().split(" ", 3)[2])

    def messages(self) -> str:
        """The messages as `/` prints them, joined by commas."""
        return self.line().split(" ", 3)[3]

    def texts(self) -> list[str]:
        """The messages one by one (none of them may be empty or hold a comma)."""
        return [text for text in self.messages().split(",") if text]

    def assert_unharmed(self) -> None:
        """No link, no message and no traceback was left on a node that tests share."""
        assert self.line() == "No. sockets 0 "
        assert "Traceback" not in self.log(), self.log()

    def add(self, address: str) -> Answer:
        return self.get("/add?address=" + quote(address, safe=""))

    def commit(self, text: str) -> Answer:
        return self.get("/commit?msg=" + quote(text, safe=""))

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """Send `signum`, wait for the end and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signum)
        return self.process.wait(DEADLINE)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait(DEADLINE)
        self.log_file.close()
        self._own_dir.cleanup()

    def __enter__(self) -> NodeProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def run_nodes(count: int, *options: str) -> Iterator[list[NodeProcess]]:
    """`count` node processes with the same options, started side by side."""
    with ExitStack() as stack:
        nodes = [stack.enter_context(NodeProcess(*options, wait=False)) for _ in range(count)]
        for node in nodes:
            node.wait_ready()
        yield nodes


def equal(*nodes: NodeProcess) -> bool:
    """Return whether all `nodes` hold the same messages."""
    return len({node.digest for node in nodes}) == 1


def wait_sockets(count: int, *nodes: NodeProcess) -> None:
    """Wait until each of `nodes` counts `count` sockets."""

    def counts() -> list[int]:
        return [node.sockets() for node in nodes]

    wait_until(
        lambda: counts() == [count] * len(nodes), lambda: f"{count} sockets each, got {counts()}"
    )
