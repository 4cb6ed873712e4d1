"""Nodes over the HTTP API: commits, alone and many at once, pages, and checks of whole logs."""

from __future__ import annotations

import http.client
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from tests.harness.support import SCALE, Answer, NodeProcess, request, wait_until

PAGE = 1000


def status(port: int) -> dict[str, Any]:
    """The status of the node at `port`."""
    answer = request(port, "/api/v1/status")
    assert answer.status == 200, answer.text
    told: dict[str, Any] = json.loads(answer.body)
    return told


def read_pages(port: int, order: str, after: str = "") -> tuple[list[dict[str, Any]], str]:
    """All messages of a node behind `after`, page by page, and where the last page ended."""
    messages: list[dict[str, Any]] = []
    while True:
        target = f"/api/v1/messages?order={order}&limit={PAGE}&after={quote(after, safe='')}"
        answer = request(port, target)
        assert answer.status == 200, answer.text
        page = json.loads(answer.body)
        messages += page["messages"]
        after = page["next"]
        if len(page["messages"]) < PAGE:
            return messages, after


def post(port: int, text: str) -> dict[str, Any] | None:
    """Commit `text`; return the acknowledged message, or None without an acknowledgement."""
    body = json.dumps({"data": text}).encode()
    try:
        answer = request(
            port, "/api/v1/messages", "POST", {"Content-Type": "application/json"}, body
        )
    except (OSError, http.client.HTTPException):
        return None
    if answer.status != 201:
        return None
    told: dict[str, Any] = json.loads(answer.body)
    return told


def origins_of(node: NodeProcess) -> list[str]:
    """The origins of the first 1,000 messages that a node holds."""
    page = node.api("messages?limit=1000&order=arrival")["messages"]
    return sorted({message["origin"] for message in page})


def bulk(port: int, values: Iterable[object], query: str = "") -> Answer:
    """Commit all of `values`, texts or objects, with one request."""
    body = "".join(f"{json.dumps(value)}\n" for value in values).encode()
    headers = {"Content-Type": "application/x-ndjson"}
    return request(port, f"/api/v1/messages{query}", "POST", headers, body)


def post_all(port: int, values: Iterable[object], query: str = "") -> dict[str, Any]:
    """As `bulk`; fail unless all are stored, and return what is answered."""
    values = list(values)
    answer = bulk(port, values, query)
    assert answer.status == 201, answer.text
    told: dict[str, Any] = json.loads(answer.body)
    assert told["count"] == len(values)
    return told


def problem(answer: Answer, status: int) -> dict[str, Any]:
    """The problem document (RFC 9457) that answers a request, with that status."""
    assert answer.status == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told: dict[str, Any] = json.loads(answer.body)
    assert told["type"].startswith("urn:p2p-sync:") and told["status"] == status
    assert told["title"] == HTTPStatus(status).phrase and len(told["detail"]) > 10
    return told


def commit(port: int, text: str) -> bool:
    """Commit `text` as a browser does; return whether it was acknowledged."""
    try:
        answer = request(port, f"/commit?msg={quote(text, safe='')}")
    except (OSError, http.client.HTTPException):
        return False
    return answer.status == 302


class Load:
    """Threads that commit to nodes all the time and remember which texts were acknowledged.

    Each text is tried once, so that it may be in a log once at the most. A context manager.
    """

    def __init__(self, ports: Iterable[int], name: str, pause: float = 0.02, each: int = 1) -> None:
        """`each` threads for each of `ports`, with `pause` seconds between two commits."""
        self._stopping = threading.Event()
        self._pause = pause
        self.acknowledged: list[str] = []  # appending and len() are atomic
        self.identities: dict[str, str] = {}  # id -> text, as acknowledged by POST
        self.tried = 0
        self.problems: list[str] = []
        self._threads = [
            threading.Thread(
                target=self._run, args=(port, f"{name}-{number}-{worker}"), daemon=True
            )
            for number, port in enumerate(ports)
            for worker in range(each)
        ]

    def _run(self, port: int, name: str) -> None:
        number = 0
        while not self._stopping.is_set():
            number += 1
            text = f"{name}-{number}"
            self.tried += 1
            if number % 2:
                told = post(port, text)
                if told is not None:
                    before = self.identities.setdefault(told["id"], text)
                    if before != text:
                        self.problems.append(f"{told['id']} is {before!r} and {text!r}")
                    self.acknowledged.append(text)
            elif commit(port, text):
                self.acknowledged.append(text)
            self._stopping.wait(self._pause)

    def wait_for(self, count: int) -> None:
        """Wait until `count` more commits are acknowledged."""
        goal = len(self.acknowledged) + count
        wait_until(lambda: len(self.acknowledged) >= goal, f"{count} more commits")

    def stop(self) -> None:
        """End all threads; a second call does nothing."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(60 * SCALE)
            assert not thread.is_alive(), "a commit got no answer"
        assert not self.problems, self.problems

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def wait_equal(ports: Sequence[int], least: int = 0, timeout: float = 60 * SCALE) -> None:
    """Wait until all nodes tell one digest, of `least` messages or more, and none lacks any."""

    def told() -> list[dict[str, Any]]:
        return [status(port) for port in ports]

    def equal() -> bool:
        nodes = told()
        same = len({node["messages"]["digest"] for node in nodes}) == 1
        held = all(node["messages"]["count"] >= least for node in nodes)
        return same and held and not any(node["behind"] for node in nodes)

    wait_until(equal, lambda: f"equal digests: {told()}", timeout)


def check_logs(
    ports: Sequence[int],
    acknowledged: Iterable[str],
    note: Callable[[], str] = str,
    identities: dict[str, str] | None = None,
) -> None:
    """Fail unless all nodes show the same log, sound, with each acknowledged text once."""
    logs = [read_pages(port, "time")[0] for port in ports]
    for port, log in zip(ports, logs, strict=True):
        check_log(log, acknowledged, note, identities)
        assert log == logs[0], f"{port} and {ports[0]} show different logs {note()}"
        arrived, _ = read_pages(port, "arrival")
        assert sorted(m["id"] for m in arrived) == sorted(m["id"] for m in log), note()


def check_log(
    log: Sequence[dict[str, Any]],
    acknowledged: Iterable[str],
    note: Callable[[], str] = str,
    identities: dict[str, str] | None = None,
) -> None:
    """Fail unless a log in the shared order is sound and holds each acknowledged text once."""
    places = [(m["time"], m["origin"], m["seq"]) for m in log]
    assert places == sorted(places), f"not in the shared order {note()}"
    held: dict[str, list[int]] = {}
    for message in log:
        held.setdefault(message["origin"], []).append(message["seq"])
    for origin, numbers in held.items():
        expected = list(range(1, len(numbers) + 1))
        assert numbers == expected, f"{origin} has gaps, doubles or no order {note()}"
    times = Counter(message["data"] for message in log)
    doubled = [text for text, count in times.items() if count > 1]
    missing = [text for text in acknowledged if text not in times]
    assert not doubled, f"doubled: {doubled[:10]} ({len(doubled)}) {note()}"
    assert not missing, f"acknowledged, then lost: {missing[:10]} ({len(missing)}) {note()}"
    texts = {message["id"]: message["data"] for message in log}
    wrong = [i for i, text in (identities or {}).items() if texts.get(i) != text]
    assert not wrong, f"other than acknowledged: {wrong[:10]} ({len(wrong)}) {note()}"
