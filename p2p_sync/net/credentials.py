"""What lets a node into its network and proves who it is: secrets and certificates."""

from __future__ import annotations

from pathlib import Path

from ..disk.private import read_private, secret_keys
from ..errors import StartError
from ..settings import Settings
from .tls import Tls


class Credentials:
    """The secrets and certificates of one node; `reload` reads their files again."""

    def __init__(self, settings: Settings) -> None:
        """Read the files; raises StartError, which says what to do, where one cannot be used."""
        # An empty value is most likely a variable that was not set: never start an open node then.
        for name in ("secret", "secret_file", "tls_cert", "tls_key", "tls_ca"):
            value = getattr(settings, name)
            if value is not None and not value.strip():
                raise StartError(f"{name} is empty; give it a value, or leave it out")
        if settings.secret and settings.secret_file:
            raise StartError(
                "the secret is given twice, as text (P2P_SYNC_SECRET) and as a file "
                "(--secret-file, P2P_SYNC_SECRET_FILE); give one"
            )
        if settings.tls_key and not settings.tls_cert:
            raise StartError("--tls-key needs --tls-cert")
        self._settings = settings
        self.keys = self._read_keys()
        self.tls = Tls(settings.tls_cert, settings.tls_key, settings.tls_ca)

    def reload(self) -> None:
        """Read the files again; raises StartError, and then all stays as it was."""
        keys = self._read_keys()
        self.tls.reload()
        self.keys = keys

    def _read_keys(self) -> tuple[bytes, ...]:
        settings = self._settings
        if settings.secret_file:
            text = read_private(Path(settings.secret_file), "secret")
            return secret_keys(text, f"the secret file {settings.secret_file}")
        return secret_keys(settings.secret, "the secret") if settings.secret else ()
