"""Deduplication of a whole log at once, to compare with what a log does step by step."""

from __future__ import annotations

from collections.abc import Iterable

from p2p_sync.core.deduplication import Crowd, match, node_of
from p2p_sync.settings import COPY_STRETCH
from p2p_sync.wire.frames import Message


def shown(messages: Iterable[Message]) -> list[Message]:
    """Return those of `messages` that are shown; both are in the shared order."""
    messages = list(messages)
    matched: dict[str, tuple[Crowd, list[int]]] = {}
    for number, message in enumerate(messages):
        if message.heard:
            crowd, numbers = matched.setdefault(message.data, (Crowd(), []))
            if not crowd.admit(message.time):
                numbers.append(number)
    hidden: set[int] = set()
    for _, numbers in matched.values():
        copies = [(messages[n].time, node_of(messages[n].origin)) for n in numbers]
        start = (copies[0][0] // COPY_STRETCH - 1) * COPY_STRETCH
        leaders = match(copies, start)
        hidden.update(numbers[n] for n, leader in enumerate(leaders) if leader != n)
    return [message for number, message in enumerate(messages) if number not in hidden]
