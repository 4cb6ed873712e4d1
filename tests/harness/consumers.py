"""What tests ask the consumers of a node."""

from __future__ import annotations

from p2p_sync import ConsumerInfo, Node


def take(node: Node, name: str = "c", limit: int = 100) -> list[str]:
    """Take the next messages of a consumer; return their texts."""
    return [each.message.data for each in node.consumers.take(name, limit)]


def described(node: Node, name: str = "c") -> ConsumerInfo:
    """Return what a node says of a consumer."""
    (found,) = [each for each in node.consumers.status() if each.name == name]
    return found
