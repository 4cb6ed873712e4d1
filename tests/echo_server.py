"""An echo on the classes that the node accepts peers with: python -m tests.echo_server PORT."""

from __future__ import annotations

import signal
import sys

from p2p_sync.net.credentials import Credentials
from p2p_sync.net.link import Link
from p2p_sync.net.listener import PeerServer
from p2p_sync.settings import Settings

LIMIT = 32 * 1024 * 1024
SETTINGS = Settings(max_frame_bytes=LIMIT, max_outbox_bytes=2 * LIMIT)


class Echo:
    """The handler of links whose messages go back as they came."""

    def opened(self, link: Link) -> None: ...

    def received(self, link: Link, message: str | bytes) -> bool:
        link.send(message)
        return True

    def waiting(self, link: Link) -> None: ...

    def silent(self, link: Link) -> None: ...

    def measured(self, link: Link) -> None: ...

    def closed(self, link: Link, reason: str) -> None: ...

    def next_texts(self, link: Link) -> tuple[list[str], float]:
        return [], float("inf")


if __name__ == "__main__":
    server = PeerServer(int(sys.argv[1]), SETTINGS, Credentials(SETTINGS))
    server.start(Echo())
    try:
        signal.pause()
    except KeyboardInterrupt:
        server.stop()
