"""URLs of webhooks and hubs. A user name, a password and a query are secret: they are never shown.

Pure: this module works on text. It resolves and dials nothing.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from .errors import InputError

_PRINTABLE = re.compile("[!-~]{1,2000}")
_WANTED = "a URL such as https://example.org/hook"
_HUB = re.compile(
    r"redis(s?)(?:\+(sentinel|cluster))?://(?:([!-~]{1,2000})@)?([^@/?#]{1,2000})(/[!-~]*)?"
)
_PLACE = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
_PORTS = {"": 6379, "sentinel": 26379, "cluster": 6379}
_NUMBER = r"(?P<number>[0-9]{0,5})"
_ENDS = {  # what follows the hosts
    "": (f"/?{_NUMBER}", "the number of a database is after the last /"),
    "sentinel": (
        f"/(?P<master>[A-Za-z0-9._-]+)/?{_NUMBER}",
        "/NAME/0 is after the hosts, where NAME is what Sentinels call the server",
    ),
    "cluster": ("/?(?P<number>0?)", "a cluster has no number of a database"),
}
_IN_HUB = "in the address of a hub, as in redis://user:password@host:6379/0"
_WANTED_HUB = (
    "the address of a hub looks like redis://host:6379/0 or redis://user:password@host:6379/0, and "
    "begins with redis:// or rediss://, or has +sentinel or +cluster before the ://"
)


@dataclass(frozen=True)
class Url:
    """Where a webhook goes. `str()` returns the form for people, without what is secret."""

    secure: bool  # https
    host: str
    port: int
    path: str
    query: str = field(default="", repr=False)
    authorization: str = field(default="", repr=False)
    """The header field for a user name and a password; "": none."""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == (443 if self.secure else 80) else f":{self.port}"
        return f"{'https' if self.secure else 'http'}://{host}{port}{self.path}"

    @property
    def target(self) -> str:
        """The path with the query."""
        return f"{self.path}?{self.query}" if self.query else self.path


@dataclass(frozen=True)
class HubUrl:
    """Where a hub is. `str()` returns the form for people, without the user and the password."""

    secure: bool  # TLS
    kind: str
    """Whose places follow: "" for a server, "sentinel" for Sentinels, "cluster" for a cluster."""
    places: tuple[tuple[str, int], ...]
    master: str
    """What Sentinels call the server."""
    database: int
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    def __str__(self) -> str:
        scheme = f"redis{'s' * self.secure}{'+' * bool(self.kind)}{self.kind}"
        named = ((f"[{host}]" if ":" in host else host, port) for host, port in self.places)
        places = ",".join(f"{host}:{port}" for host, port in named)
        return f"{scheme}://{places}/{self.master}{'/' * bool(self.master)}{self.database}"


def parse_hub(text: str) -> HubUrl:
    """Return the address of a hub in a text. Raises InputError, whose text shows nothing of it.

    The user and the password end at the last @. They may have any printable ASCII characters, and
    others as %XX; so a % is written as %25.
    """
    found = _HUB.fullmatch(text.strip()) if isinstance(text, str) else None
    if not found:
        raise InputError(_WANTED_HUB)
    secure, kind, login, hosts, path = found.groups(default="")
    user, colon, password = login.partition(":")
    if login and not colon:
        raise InputError(f"{_IN_HUB}, user:password or :password is before the @")
    places = [_PLACE.fullmatch(place) for place in hosts.split(",")]
    known = [(place[1].strip("[]"), int(place[2] or _PORTS[kind])) for place in places if place]
    if len(known) < len(places) or not all(0 < port < 65536 for _, port in known):
        raise InputError(f"{_IN_HUB}, a host or a port is not valid")
    if len(known) > 1 and not kind:
        raise InputError(f"{_IN_HUB}, only +sentinel and +cluster have several hosts")
    pattern, wanted = _ENDS[kind]
    if not (end := re.fullmatch(pattern, path)):
        raise InputError(f"{_IN_HUB}, {wanted}")
    named = end.groupdict(default="")
    master, number = named.get("master", ""), int(named["number"] or 0)
    return HubUrl(
        bool(secure), kind, tuple(known), master, number, unquote(user), unquote(password)
    )


def parse_url(text: str) -> Url:
    """Return the URL in a text. Raises InputError, whose text shows nothing of it but its scheme,
    since the rest may be secret."""
    if not isinstance(text, str) or not _PRINTABLE.fullmatch(text.strip()):
        raise InputError(
            f"{_WANTED}, of at most 2,000 printable ASCII characters; write others as %XX, and a "
            "host name in the form xn--..."
        )
    scheme, separator, _ = text.strip().partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        named = f", not {scheme}://..." if separator and scheme.isalnum() else ""
        raise InputError(f"{_WANTED}, with http or https{named}")
    try:
        parts = urlsplit(text.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or port == 0:
        raise InputError(f"{_WANTED}: its host or its port is not valid")
    user, password = (unquote(part or "") for part in (parts.username, parts.password))
    given = base64.b64encode(f"{user}:{password}".encode()).decode() if user or password else ""
    return Url(
        secure=scheme.lower() == "https",
        host=host,
        port=port or (443 if scheme.lower() == "https" else 80),
        path=parts.path or "/",
        query=parts.query,
        authorization=f"Basic {given}" if given else "",
    )
