"""HTTP to a running node, by the standard library."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPException
from typing import Any, TypeVar
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from ..errors import P2PSyncError
from ..settings import CLI_CHUNK, CLI_LEAST_ANSWER, CLI_POLL, CLI_SILENCE
from .exits import FAILED, NOT_ALLOWED, REFUSED, UNREACHABLE, USAGE
from .logline import printable

_URL = re.compile("[!-~]+")
_NOT_ALLOWED = (401, 403, 421)

T = TypeVar("T")


class Failure(P2PSyncError):
    """A command failed. `code` is the exit code, `problem` the problem document of the node."""

    def __init__(self, code: int, sentence: str, problem: dict[str, Any] | None = None) -> None:
        super().__init__(sentence)
        self.code = code
        self.problem = problem or {}


class TooLate(Failure):
    """The node did not answer in time; it may or may not have done what it was asked to do."""


class Api:
    """The API of one node. Each error is raised as Failure."""

    def __init__(self, node: str, token: str = "") -> None:
        """`node` is the URL of its page; `token` is sent along if there is one."""
        url = node.strip() if "://" in node else f"http://{node.strip()}"
        try:
            parts = urlsplit(url)
            fits = bool(parts.hostname and _URL.fullmatch(url)) and parts.port != 0
        except ValueError:
            fits = False
        if fits and parts.scheme in ("ws", "wss"):
            raise Failure(USAGE, _peer_port(node, parts.hostname or "", parts.port))
        if not fits or parts.scheme not in ("http", "https"):
            raise Failure(
                USAGE, f"--node is the URL of a node's page: http://127.0.0.1:8000, not {node!r}"
            )
        if parts.username or parts.password or parts.query:
            raise Failure(
                USAGE,
                "--node is the URL of a node's page alone; every user of this machine can read a "
                "password or a token among the arguments: give the file of the token with "
                "--token-file",
            )
        self._url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._opener = build_opener(ProxyHandler({}))

    def ask(
        self,
        path: str,
        body: Any = None,
        within: float | None = None,
        method: str | None = None,
        key: str = "",
    ) -> Any:
        """GET `path`, or POST `body` (lines of NDJSON as bytes, else a value), or use another
        `method`, and return the JSON that is answered, None if the answer is empty. `key` is an
        idempotency key. The answer to a commit that was repeated has `repeated`.

        `within` limits the whole exchange, from resolving the host name to the last byte of the
        answer, in seconds; raises TooLate after it. None: the node may take as long as its answer
        keeps arriving.
        """
        if within is None:
            return self._exchange(path, body, CLI_SILENCE, method, key)
        try:
            return _within(within, lambda: self._exchange(path, body, within, method, key))
        except TimeoutError as error:
            raise self._unreachable(error) from None

    def text(self, path: str, within: float) -> str:
        """GET `path` and return the text that is answered; `within` as in `ask`."""

        def read() -> str:
            with self.stream(path) as chunk:
                return b"".join(iter(lambda: chunk(CLI_CHUNK), b"")).decode("utf-8", "replace")

        try:
            return _within(within, read)
        except TimeoutError as error:
            raise self._unreachable(error) from None

    def _exchange(self, path: str, body: Any, patience: float, method: str | None, key: str) -> Any:
        with self._open(path, body, patience, method, key) as response:
            try:
                text = response.read()
                found: Any = json.loads(text) if response.status != HTTPStatus.NO_CONTENT else None
                replayed = response.headers.get("Idempotent-Replayed") and isinstance(found, dict)
                return {**found, "repeated": True} if replayed else found
            except (OSError, HTTPException) as error:
                raise self._unreachable(error) from None
            except ValueError:
                raise Failure(
                    UNREACHABLE, f"{self._url} is not a p2p_sync node; is --node correct?"
                ) from None

    def lines(self, path: str) -> Iterator[Any]:
        """GET `path` and yield the JSON of each line, as it comes, until the node ends it."""
        with self._open(path, None, CLI_SILENCE) as response:
            try:
                for line in response:
                    if line.strip():
                        yield json.loads(line)
            except (OSError, HTTPException, ValueError) as error:
                raise self._unreachable(error) from None

    @contextmanager
    def stream(self, path: str) -> Iterator[Callable[[int], bytes]]:
        """GET `path` and lend a function that reads the answer as it comes, up to so many bytes at
        a time, b"" at its end."""
        with self._open(path, None, CLI_SILENCE) as response:

            def read(size: int) -> bytes:
                try:
                    return bytes(response.read1(size))
                except (OSError, HTTPException) as error:
                    raise self._unreachable(error) from None

            yield read

    def _open(
        self, path: str, body: Any, patience: float, method: str | None = None, key: str = ""
    ) -> Any:
        headers = dict(self._headers)
        if key:
            headers["Idempotency-Key"] = key
        data = None
        if body is not None:
            lines = isinstance(body, bytes)
            headers["Content-Type"] = "application/x-ndjson" if lines else "application/json"
            data = body if lines else json.dumps(body).encode()
        try:
            asked = Request(self._url + path, data, headers, method=method)
            return self._opener.open(asked, timeout=patience)
        except HTTPError as error:
            if error.code == HTTPStatus.UPGRADE_REQUIRED:
                parts = urlsplit(self._url)
                reason = _peer_port(self._url, parts.hostname or "", parts.port)
                raise Failure(USAGE, reason) from None
            raise _refusal(error) from None
        except (OSError, HTTPException) as error:
            raise self._unreachable(error) from None

    def _unreachable(self, error: Exception) -> Failure:
        reason = getattr(error, "reason", error)
        kind = TooLate if isinstance(reason, TimeoutError) else Failure
        reason = getattr(reason, "strerror", None) or reason
        return kind(
            UNREACHABLE,
            f"no answer from {self._url} ({reason}); is the node running, and is --node correct?",
        )


def _within(seconds: float, call: Callable[[], T]) -> T:
    """Return what `call` returns, or raise what it raises; raise TimeoutError after `seconds`.

    The call runs in a thread of its own, which is abandoned then: nothing else ends a look-up of a
    name that hangs, or an answer that arrives byte by byte.
    """
    results: list[T] = []
    errors: list[BaseException] = []
    done = threading.Event()

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)
        done.set()

    threading.Thread(target=run, name="request", daemon=True).start()
    if not done.wait(seconds):
        raise TimeoutError(f"timed out after {seconds:.1f} s")
    if errors:
        raise errors[0]
    return results[0]


def until(ask: Callable[[float], T], good: Callable[[T], bool], wait: float) -> T:
    """Ask until the answer is good, for `wait` seconds at most; return the last answer.

    `ask` gets the seconds that it may take; the first may take a second even if `wait` is less.
    """
    deadline = time.monotonic() + wait
    answer = ask(max(wait, CLI_LEAST_ANSWER))
    while not good(answer) and (left := deadline - time.monotonic()) > 0:
        time.sleep(min(CLI_POLL, left))
        try:
            answer = ask(max(deadline - time.monotonic(), CLI_POLL))
        except TooLate:
            break  # the answer before it is the last one
    return answer


def _peer_port(given: str, host: str, port: int | None) -> str:
    """Say that `given` leads to a peer port, and what to give instead."""
    host = f"[{host}]" if ":" in host else host
    page = f"http://{host}:{(port or 8001) - 1}"
    return (
        f"{given} is the address of a peer port; --node is the URL of the node's page, on its HTTP "
        f"port: {page}, unless the node was started with --peer-port"
    )


def _refusal(error: HTTPError) -> Failure:
    """Return the failure that an answer with an error status means."""
    problem: Any = None
    try:
        text = error.read(64 * 1024).decode("utf-8", "replace")
        problem = json.loads(text)
    except (OSError, HTTPException):
        text = ""
    except ValueError:
        pass
    if not isinstance(problem, dict):
        problem = {}
    detail = printable(str(problem.get("detail") or text.strip()[:300] or error.reason))
    if error.code in _NOT_ALLOWED:
        way = "; here, use --token-file" if error.code == 401 else ""
        return Failure(NOT_ALLOWED, detail + way, problem)
    if error.code < 500:
        return Failure(REFUSED, f"rejected: {detail}", problem)
    return Failure(FAILED, f"the node cannot do this now: {detail}", problem)
