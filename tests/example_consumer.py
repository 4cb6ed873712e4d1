"""Handles each message of a topic at least once, whatever crashes; ends at Ctrl-C."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from p2p_sync import Message, Node


def main(directory: str, address: str) -> None:
    def page(message: Message) -> None:
        with Path(directory, "pages").open("a") as file:  # an error here: it comes again
            print(message.id, message.data, file=file)

    with Node(0, directory, peers=[address], advertise="none") as node:
        node.consume("pager", page, topic="alarm").wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(sys.argv[1], sys.argv[2])
