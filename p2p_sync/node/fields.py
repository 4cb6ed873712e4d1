"""A message as JSON: for the API, and for webhooks."""

from __future__ import annotations

from typing import Any

from ..core.deduplication import node_of
from ..wire.frames import Message


def fields_of(message: Message) -> dict[str, Any]:
    """Return the members of the object that stands for a message."""
    fields: dict[str, Any] = {
        "id": message.id,
        "origin": message.origin,
        "seq": message.seq,
        "time": message.time,
        "data": message.data,
    }
    if message.topic:
        fields["topic"] = message.topic
    if message.source:
        time, node = message.first
        fields["imported"] = {"time": time, "node": node}
    if message.erased:
        fields["data"] = None
        time, node = message.erased.time, node_of(message.erased.origin)
        fields["erased"] = {"time": time or None, "node": node or None}
    return fields
