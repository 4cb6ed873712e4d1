"""Addresses of nodes: `ws://host:port`, and what people type instead of it.

Pure: this module works on text. It resolves and dials nothing.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from functools import lru_cache

from .errors import AddressError

_SECURE = {"ws": False, "http": False, "wss": True, "https": True}
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_LONGEST = 300
_ZONE = re.compile(r"[0-9A-Za-z._~-]{1,32}")  # of an IPv6 address: the name of an interface
_EXAMPLE = "an address looks like ws://host:8001, the peer port of a node"


@dataclass(frozen=True, order=True)
class Address:
    """Where a node accepts peers. `str()` returns the form that is used on the wire."""

    host: str
    port: int
    secure: bool = False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'wss' if self.secure else 'ws'}://{host}:{self.port}"


def parse_address(text: str) -> Address:
    """Return the address that `text` means.

    `localhost:8001`, `http://LOCALHOST:8001` and `ws://localhost:8001/` are the same. `https` means
    `wss`. IPv6 hosts are in brackets. Raises AddressError, whose text shows a valid address.
    """
    scheme, separator, rest = text.strip().rpartition("://")
    if scheme.lower().startswith("redis"):
        raise AddressError("this is the address of a hub; start a node with it as its hub")
    if separator and scheme.lower() not in _SECURE:
        raise AddressError(f"{text[:80]!r} is not an address of a node: {_EXAMPLE}")
    rest = rest.removesuffix("/")
    host, colon, port = rest.rpartition(":")
    if not colon or host.endswith(":") or (":" in host and not host.startswith("[")):
        raise AddressError(f"{text[:80]!r} has no port: {_EXAMPLE}")
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise AddressError(f"{text[:80]!r} has no port between 1 and 65535: {_EXAMPLE}")
    return Address(_host(host, text), int(port), _SECURE[scheme.lower() or "ws"])


def _host(host: str, text: str) -> str:
    """Return the normal form of `host`: lower case, IP addresses in their shortest spelling."""
    if len(host) > _LONGEST:  # encoding a long name takes very long
        raise AddressError(f"{text[:80]!r} has an invalid host name: {_EXAMPLE}")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        found = str(ipaddress.ip_address(host[1:-1] if bracketed else host))
    except ValueError:
        pass
    else:
        _, zoned, zone = found.partition("%")
        if zoned and not _ZONE.fullmatch(zone):  # ipaddress takes anything, no text included
            raise AddressError(f"{text[:80]!r} has an invalid zone: {_EXAMPLE}")
        return found
    try:
        name = host.encode("idna").decode("ascii").lower()
    except UnicodeError:
        name = ""
    labels = name.removesuffix(".").split(".")
    if bracketed or len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise AddressError(f"{text[:80]!r} has an invalid host name: {_EXAMPLE}")
    if labels[-1].isdigit():
        raise AddressError(f"{text[:80]!r} has an invalid IP address: {_EXAMPLE}")
    return name


def is_ip(host: str) -> bool:
    """Return whether `host` is an IP address, not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


# Addresses of private networks and of one link: RFC 1918, RFC 3927, RFC 4193, RFC 4291. Python's
# own `is_private` covers more, and different ranges in different versions.
_PRIVATE = [
    ipaddress.ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16")
    + ("fc00::/7", "fe80::/10")
]


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach `host`."""
    ip = _ip(host)
    return host == "localhost" if ip is None else ip.is_loopback


def is_private(host: str) -> bool:
    """Return whether `host` is an IP address of a private network. False for every name."""
    ip = _ip(host)
    return ip is not None and any(ip in network for network in _PRIVATE)


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return `host` as an IP address without its zone; None for a name.

    IPv4 addresses inside IPv6 become IPv4, which only some versions of Python do.
    """
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return getattr(ip, "ipv4_mapped", None) or ip


@lru_cache(4096)
def site(host: str) -> str:
    """Return what all addresses of one remote host share: its IPv4 address, or its IPv6 /64."""
    ip = _ip(host.partition("%")[0])
    if ip is None:
        return host  # the tests' peers may have names
    return str(ip if ip.version == 4 else ipaddress.ip_network((ip, 64), strict=False))


@lru_cache(4096)
def place(address: str) -> tuple[str, int]:
    """Return host and port; all spellings of this machine have the same host."""
    parsed = parse_address(address)
    return "localhost" if is_loopback(parsed.host) else parsed.host, parsed.port


@lru_cache(4096)
def is_named(address: str) -> bool:
    """Return whether `address` has a host name (to be resolved) instead of an IP address. That of a
    hub is not resolved here."""
    return not is_hub(address) and not is_ip(parse_address(address).host)


def is_local(address: str) -> bool:
    """Return whether `address` is that of a node on this machine by its spelling."""
    return not is_hub(address) and place(address)[0] == "localhost"


def is_hub(address: str) -> bool:
    """Return whether `address` is that of a hub (see urls.py), and not of a node."""
    return not address.startswith("ws")


def host_and_port(endpoint: tuple[str, int]) -> str:
    """Return an IP address and a port as people write them: 10.0.0.1:8001, [::1]:8001."""
    host, port = endpoint
    return f"{f'[{host}]' if ':' in host else host}:{port}"


def reachable(host: str) -> str:
    """Return a host for people to use, if a port listens on `host`, which may mean all of them."""
    try:
        everywhere = ipaddress.ip_address(host).is_unspecified
    except ValueError:
        everywhere = host == ""
    return socket.gethostname().lower() if everywhere else host
