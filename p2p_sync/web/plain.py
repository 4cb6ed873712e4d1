"""Plain commits, `GET /commit?msg=text`, perhaps with a topic: they hold no thread while they are
written to disk.

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
_PARAMETERS = ("msg", "topic")
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
        text, topic = message_in(head["QUERY_STRING"])
        end = node.intake.begin(text, then, topic)
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


def message_in(query: str) -> tuple[str, str]:
    """Return the text and the topic of a commit; raises InputError."""
    return parameter(query, "msg", EXAMPLE), parameter(query, "topic", EXAMPLE, "")


def _is_plain(head: Head) -> bool:
    """Return whether it is a GET with no other parameters, and no browser's guess."""
    return (
        head["PATH_INFO"] == "/commit"
        and head["REQUEST_METHOD"] == "GET"
        and all(part.partition("=")[0] in _PARAMETERS for part in head["QUERY_STRING"].split("&"))
        and "HTTP_IDEMPOTENCY_KEY" not in head  # it may have to wait for another commit
        and not is_guess(head)
    )
