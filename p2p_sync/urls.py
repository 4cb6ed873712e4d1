"""URLs of webhooks. A user name, a password and a query are secret: they are never shown.

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
    """The address of a hub, as redis-py reads it. `str()` returns the form for people, without the
    user, the password and options."""

    url: str = field(repr=False)

    def __str__(self) -> str:
        scheme, _, rest = self.url.partition("://")
        place = rest.partition("?")[0].rpartition("@")[2]
        return f"{scheme}://{place}"


def parse_hub(text: str) -> HubUrl:
    """Return the address of a hub in a text. Raises InputError, whose text shows nothing of it."""
    wanted = "the address of a hub looks like redis://host:6379/0"
    if not isinstance(text, str) or not _PRINTABLE.fullmatch(text.strip()):
        raise InputError(f"{wanted}, of printable ASCII characters; write others as %XX")
    scheme, separator, rest = text.strip().partition("://")
    kinds = [f"{one}{two}" for one in ("redis", "rediss") for two in ("", "+sentinel", "+cluster")]
    if not separator or scheme not in kinds or not rest:
        raise InputError(f"{wanted}; it may begin with {', '.join(kinds)}")
    return HubUrl(text.strip())


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
