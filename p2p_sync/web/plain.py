"""Plain commits, `GET /commit?msg=text`, which hold no thread while they are written to disk.

The server begins such a commit when the request arrives, and its loop sends the answer once the
message is stored. All other requests, and those that cannot be right, are answered by a worker.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from ..errors import P2PSyncError
from ..node.node import Node
from .answers import TEXT_TYPE, Answer, Head, refusal_of
from .guard import Guard, is_guess
from .query import parameter

EXAMPLE = "/commit?msg=text"
STORED = Answer(
    HTTPStatus.FOUND, [("Content-Type", TEXT_TYPE), ("Location", "/")], b"Stored; see /\n"
)
"""The answer to a commit that is on disk."""

Ready = Callable[[], Answer]


def begin(node: Node, guard: Guard, head: Any, then: Callable[[], object]) -> Ready | None:
    """Begin what the request asks for if that is a plain commit, else return None.

    The server calls the result for the answer, which is ready once `then` is called, in any thread.
    """
    try:
        if not _is_plain(head) or guard.judge(head):
            return None
        text = parameter(head["QUERY_STRING"], "msg", EXAMPLE)
        end = node.intake.begin(text, then)
        if end is None:
            return None
    except Exception:  # a worker meets it again
        return None

    def answer() -> Answer:
        try:
            end()
        except P2PSyncError as error:
            return refusal_of(head, error).safe()
        return STORED.safe()

    return answer


def _is_plain(head: Head) -> bool:
    """Return whether it is a GET with one parameter, and no browser's guess."""
    return (
        head["PATH_INFO"] == "/commit"
        and head["REQUEST_METHOD"] == "GET"
        and "&" not in head["QUERY_STRING"]
        and not is_guess(head)
    )
