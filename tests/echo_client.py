"""Answers Autobahn's fuzzingserver on the classes that the node dials with.

python -m tests.echo_client URL, for example ws://127.0.0.1:9001
"""

from __future__ import annotations

import sys

from p2p_sync.address import parse_address
from p2p_sync.net.credentials import Credentials
from p2p_sync.net.dialer import Dialer, resolve
from p2p_sync.net.link import Link
from tests.echo_server import SETTINGS, Echo
from tests.harness.links import Keeper
from tests.harness.raw import begin
from tests.harness.secret import US

AGENT = "p2p_sync"


def run(url: str, path: str, owner: Keeper) -> None:
    """Dial `path` and serve the link until it ends."""
    address = parse_address(url)
    dialer = Dialer(SETTINGS, Credentials(SETTINGS))
    opened = dialer.dial(address, resolve(address), lambda _: begin(US, dialled=True), path)
    Link(opened, owner, SETTINGS, str(address)).run()


if __name__ == "__main__":
    url = sys.argv[1]
    counter = Keeper()
    run(url, "/getCaseCount", counter)
    for case in range(1, int(counter.messages[0]) + 1):
        run(url, f"/runCase?case={case}&agent={AGENT}", Echo())
    run(url, f"/updateReports?agent={AGENT}", Keeper())
