"""What a node takes of its machine, where other machines reach it, and the command that has another
node join it."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
from contextlib import suppress
from pathlib import Path

from ..address import Address, is_loopback, reachable
from ..results import Resources
from ..settings import Settings

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


def join_command(settings: Settings, address: str, port: int, has_secret: bool) -> str:
    """Return the command that starts the next node and has it join this one at `address`, whose
    peer port is `port`: on another machine if others reach this node, else on this machine, with
    other ports. It names the file of the secret, and never holds the secret."""
    others = addresses_for_others(settings, port)
    http = max(1, port - 1)
    if not others:
        http += 1000 if http < 64000 else -1000
    words = ["p2p-sync", str(http)]
    options = {
        "host": "0.0.0.0" if others else "",
        "secret-file": (settings.secret_file or "secret") if has_secret else "",
        "tls-ca": settings.tls_ca or "",
        "peer": others[0] if others else address,
    }
    for name, value in options.items():
        words += [f"--{name}", value] if value else []
    return shlex.join(words)
