"""Plain commits, `GET /commit?msg=text`, which need no worker while they are on their way to disk.

The loop of the server begins them and gives the answer once they are stored. What is not plain,
what cannot be and what fails goes the long way, by a worker and Flask, which knows what to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from ..errors import LogError
from ..node.node import Node
from .guard import Application, Guard, Head, is_guess
from .query import parameter

EXAMPLE = "/commit?msg=text"

# Where the head of a request holds the end of what it has begun: to be called, for it may raise.
BEGUN = "p2p_sync.begun"


class Done(NamedTuple):
    """The answer to a commit that is on disk."""

    status: str
    fields: list[tuple[str, str]]
    body: bytes


def begin(node: Node, guard: Guard, head: Any, then: Callable[[bool], object]) -> bool:
    """Begin what the request asks for if that is a plain commit, and return whether it was.

    `then` is called, in any thread, once the application can answer without having to wait: with
    True where all went well.
    """
    try:
        if _is_plain(head) and not guard.judge(head):
            head[BEGUN] = node.begin(parameter(head["QUERY_STRING"], "msg", EXAMPLE), then)
    except Exception:  # the long way meets it again
        return False
    return head.get(BEGUN) is not None


def _is_plain(head: Head) -> bool:
    """Return whether it is a GET with one parameter, and no browser's guess."""
    return (
        head["PATH_INFO"] == "/commit"
        and head["REQUEST_METHOD"] == "GET"
        and "&" not in head["QUERY_STRING"]
        and not is_guess(head)
    )


def shortened(application: Application, done: Done) -> Application:
    """Return the WSGI `application`, which is not asked about what was begun and went well."""

    def call(head: Any, start_response: Any) -> Iterable[bytes]:
        begun = head.get(BEGUN)
        if begun is None:
            return application(head, start_response)
        try:
            begun()
        except LogError:
            return application(head, start_response)
        start_response(done.status, [*done.fields])
        return [done.body]

    return call
