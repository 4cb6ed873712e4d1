"""An echo on the classes that the node accepts peers with: python -m tests.echo_server PORT."""

from __future__ import annotations

import signal
import sys
import threading

from p2p_sync.net.credentials import Credentials
from p2p_sync.net.link import Link
from p2p_sync.net.listener import Listener
from p2p_sync.net.opening import Opened
from p2p_sync.net.stream import Endpoint
from p2p_sync.settings import Settings
from p2p_sync.wire.proof import Handshake
from tests.harness.links import Keeper
from tests.harness.raw import begin
from tests.harness.secret import US

LIMIT = 32 * 1024 * 1024
SETTINGS = Settings(max_frame_bytes=LIMIT)


class Echo(Keeper):
    """The owner of a link whose messages go back as they came."""

    def received(self, link: Link, message: str | bytes) -> bool:
        self.texts.append(message)
        link.wake()
        return True


class Port:
    """The owner of a listener, which takes everybody in."""

    def room(self, host: str) -> str:
        return ""

    def handshake(self, binding: str) -> Handshake:
        return begin(US, dialled=False)

    def take(self, opened: Opened) -> None:
        threading.Thread(target=Link(opened, Echo(), SETTINGS).run, daemon=True).start()

    def refused(self, remote: Endpoint, kind: str, reason: str) -> None: ...


if __name__ == "__main__":
    server = Listener(int(sys.argv[1]), SETTINGS, Credentials(SETTINGS))
    server.start(Port())
    try:
        signal.pause()
    except KeyboardInterrupt:
        server.stop()
