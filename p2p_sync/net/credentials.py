"""What lets a node into its network and proves which node it is: secrets and certificates.

Their files are read at the start and again when the operator asks for it. Connections that exist
then go on with what they began with.
"""

from __future__ import annotations

import hashlib
import socket
from pathlib import Path

from ..disk.private import read_private
from ..errors import InputError, StartError
from ..settings import LEAST_SECRET_BYTES, MAX_SECRETS, Settings, called
from ..urls import HubUrl, parse_hub
from .redis import check_installed
from .tls import client_context, server_context


class Credentials:
    """The secrets and certificates of one node. For any thread."""

    keys: tuple[bytes, ...]
    """Those of the secrets, the first of which is used; none: the network has no secret."""
    hook_secrets: tuple[bytes, ...]
    """What signs the requests of webhooks; none: nothing does."""
    hub: HubUrl | None
    """Where the hub is, with its password."""

    def __init__(self, settings: Settings) -> None:
        """Read the files; raises StartError, which says what to do, where one cannot be used."""
        if settings.secret and settings.secret_file:
            raise StartError(
                f"the secret is given twice, as a text ({called('secret')}) and as a file "
                f"({called('secret_file')}); give one"
            )
        if settings.tls_key and not settings.tls_cert:
            raise StartError(f"{called('tls_key')} needs {called('tls_cert')}")
        self._settings = settings
        self.reload()

    def reload(self) -> None:
        """Read the files again; raises StartError, and then all stays as it was."""
        settings = self._settings
        for file in filter(None, (settings.tls_cert, settings.tls_key, settings.tls_ca)):
            if Path(file).exists() and not Path(file).is_file():  # OpenSSL would wait for a pipe
                raise StartError(f"{file} is not a regular file; name a file in PEM")
        keys, hooks, hub = self._read_keys(), self._read_hook_secrets(), self._read_hub()
        client = client_context(settings.tls_ca)
        server = server_context(settings.tls_cert, settings.tls_key) if settings.tls_cert else None
        self.keys, self.hook_secrets, self.hub = keys, hooks, hub
        self._client, self._server = client, server

    def _read_keys(self) -> tuple[bytes, ...]:
        settings = self._settings
        if settings.secret_file:
            text = read_private(Path(settings.secret_file), "secret")
            return secret_keys(text, f"the secret file {settings.secret_file}")
        if settings.secret:
            return secret_keys(settings.secret, f"the secret ({called('secret')})")
        return ()

    def _read_hook_secrets(self) -> tuple[bytes, ...]:
        file = self._settings.hook_secret_file
        if not file:
            return ()
        return secrets_in(read_private(Path(file), "hook secret"), f"the hook secret file {file}")

    def _read_hub(self) -> HubUrl | None:
        settings = self._settings
        if settings.hub or settings.hub_file:
            check_installed()
        if not settings.hub_file:
            return settings.hub
        if settings.hub:
            raise StartError(
                f"the hub is given twice ({called('hub')} and {called('hub_file')}); give one"
            )
        text = read_private(Path(settings.hub_file), "hub")
        try:
            return parse_hub(text.strip())
        except InputError as error:
            raise StartError(f"the hub file {settings.hub_file}: {error}") from None

    @property
    def names(self) -> tuple[str, ...]:
        """The names and addresses that the certificate of the peer port is for."""
        return self._server.names if self._server else ()

    def accepted(self, connection: socket.socket) -> socket.socket:
        """Return the connection to use in place of one that was accepted."""
        if self._server is None:
            return connection
        return self._server.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)

    def dialling(self, connection: socket.socket, host: str) -> socket.socket:
        """Return the connection to use in place of one that is to be connected to `host`."""
        return self._client.wrap_socket(
            connection, server_hostname=host, do_handshake_on_connect=False
        )


def secret_keys(text: str, source: str) -> tuple[bytes, ...]:
    """Return a key for each of the secrets in `text` (see `secrets_in`).

    A node uses the first key and accepts both. Scrypt makes them, because an attacker that has seen
    a proof could otherwise guess a secret that a person made up.
    """
    return tuple(
        hashlib.scrypt(secret, salt=b"p2p_sync", n=2**14, r=8, p=1, dklen=32)
        for secret in secrets_in(text, source)
    )


def secrets_in(text: str, source: str) -> tuple[bytes, ...]:
    """Return the secrets in `text`, one per line; raises StartError, which names `source`.

    Ignores white space around a secret, a byte order mark, and lines that begin with #.
    """
    lines = [line.strip().lstrip("\ufeff").strip() for line in text.splitlines()]
    secrets = [
        line.encode("utf-8", "surrogateescape") for line in lines if line[:1] not in ("", "#")
    ]
    if not secrets:
        problem = "is empty"
    elif len(secrets) > MAX_SECRETS:
        problem = "holds too many secrets"
    elif min(map(len, secrets)) < LEAST_SECRET_BYTES:
        problem = "holds a secret that is too short"
    else:
        return tuple(secrets)
    raise StartError(
        f"{source} {problem}: it needs one secret a line of at least {LEAST_SECRET_BYTES} "
        "bytes, two lines at most, for example from: openssl rand -hex 32"
    )
