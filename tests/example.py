"""Joins a network, greets it, waits until the greeting has come back, and shows what it knows."""

from __future__ import annotations

import sys
from pathlib import Path

from p2p_sync import Message, Node, P2PSyncError


def talk(directory: Path, address: str) -> str:
    """Return the state of the network in a sentence."""
    with Node(0, directory, name="example", peers=[address]) as node:

        @node.on_message(topic="greetings")
        def welcome(message: Message) -> None:
            print(f"{message.data} from {message.origin}")

        if not node.wait_linked(timeout=20):
            return f"nobody is there: {node.peers()[0].last_error}"
        mine = node.commit("hello", copies=1, topic="greetings")
        print(f"{mine.copies} other host has {mine.id}")
        for page in node.follow():
            print(f"{len(page)} messages, {page.missed} missed")
            if mine in [message for _, message in page]:
                break  # it would go on until the node stops
        for peer in node.peers():
            print(f"{peer.name or peer.address} is {peer.state}, {peer.sent.messages} sent")
        for event in node.events().events:
            print(f"{event.type}: {event.text}")
        return node.status().verdict.text


if __name__ == "__main__":
    try:
        print(talk(Path(sys.argv[1]), sys.argv[2]))
    except P2PSyncError as error:
        sys.exit(str(error))
