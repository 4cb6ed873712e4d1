"""What a node takes of its machine, where other machines reach it, and the command that has another
node join it."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import shutil
import socket
import sys
from collections.abc import Container, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from ..address import Address, is_local, is_loopback, place, reachable
from ..results import PeerInfo, Resources
from ..settings import MAX_NAME, Settings

_PROGRAM = "p2p-sync"
_NUMBERED = re.compile(r"(.+)-([0-9]{1,3})")

_ROUND_MEMORY = -6
_ROUND_FREE = -8
"""Decimals that are kept of the numbers of bytes: who shows them is told only of what matters."""

# Datagrams are sent to neither of them: the addresses are for documentation.
_ELSEWHERE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}


def resources(log_bytes: int, directory: Path | None) -> Resources:
    """Return what a node takes whose log has that size. `directory` has its data; None: it keeps
    nothing."""
    free = None
    with suppress(OSError):
        free = round(shutil.disk_usage(directory).free, _ROUND_FREE) if directory else None
    return Resources(_memory(), log_bytes, free)


def _memory() -> int | None:
    """Return how many bytes of memory this process has; None where that is not known."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return round(pages * os.sysconf("SC_PAGE_SIZE"), _ROUND_MEMORY)


def addresses_for_others(settings: Settings, port: int) -> list[str]:
    """Return the addresses by which other machines may reach the peer port, the best one first;
    none if they cannot."""
    secure, host = bool(settings.tls_cert), settings.host
    if settings.advertise:
        return [str(settings.advertise)]
    if not settings.dialable or is_loopback(host):
        return []
    name = reachable(host)
    hosts = [name] if name == host else [*_own_hosts(), name]
    return [str(Address(each, port, secure)) for each in hosts]


def _own_hosts() -> list[str]:
    """Return the IP address of this machine towards others, if it has one. Sends nothing."""
    for family, elsewhere in _ELSEWHERE.items():
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((elsewhere, 9))
            return [str(sock.getsockname()[0])]
    return []


def join_command(
    settings: Settings,
    others: Sequence[str],
    address: str,
    port: int,
    has_secret: bool,
    name: str,
    peers: Iterable[PeerInfo] = (),
) -> str:
    """Return the command that starts the next node and has it join this one at `address`, whose
    peer port is `port` and whose name is `name`: on another machine if `others` reach this node at
    some addresses, else on this machine, with a name and ports that none of the `peers` has. It
    names the file of the secret, and never holds the secret."""
    peers = list(peers)
    http = max(1, port - 1)
    words = [_PROGRAM, str(http)] if others else [_program(), str(_next_http(http, peers))]
    options = {
        "name": "" if others else _next_name(name, {peer.name for peer in peers}),
        "host": "0.0.0.0" if others else "",
        "secret-file": (settings.secret_file or "secret") if has_secret else "",
        "tls-ca": settings.tls_ca or "",
        "peer": others[0] if others else address,
    }
    for option, value in options.items():
        words += [f"--{option}", value] if value else []
    return shlex.join(words)


def _program() -> str:
    """Return what starts the program here as this process was started, if it runs it."""
    started = sys.argv[0]
    is_found = Path(started).name != _PROGRAM or shutil.which(_PROGRAM) == started
    return _PROGRAM if is_found else started


def _next_http(http: int, peers: Iterable[PeerInfo]) -> int:
    """Return an HTTP port for the next node on this machine, far from that of this one."""
    every = [address for peer in peers for address in peer.addresses]
    taken = {place(address)[1] for address in every if is_local(address)}
    ports: list[int] = [*range(http + 1000, 65535, 1000), *range(http - 1000, 0, -1000)]
    return next((port for port in ports if taken.isdisjoint((port, port + 1))), ports[0])


def _next_name(name: str, taken: Container[str | None]) -> str:
    """Return the name of the next node after that one: vm-2 after vm, web-4 after web-3."""
    numbered = _NUMBERED.fullmatch(name)
    stem, last = (numbered[1], int(numbered[2])) if numbered else (name, 1)
    ends = (f"-{number}" for number in itertools.count(last + 1))
    names = (f"{stem[: MAX_NAME - len(end)]}{end}" for end in ends)
    return next(found for found in names if found not in taken)
