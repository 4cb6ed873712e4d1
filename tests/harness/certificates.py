"""Certificates of an authority of the tests' own."""

from __future__ import annotations

import datetime
from pathlib import Path

import trustme

NAMES = ("localhost", "127.0.0.1")


class Authority:
    """A private authority whose files lie in `folder`."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.folder = folder
        self._authority = trustme.CA()
        self.pem = folder / f"{name}.pem"
        self._authority.cert_pem.write_to_path(self.pem)

    def issue(self, name: str, *names: str, expired: bool = False) -> tuple[str, str]:
        """Make a certificate, for localhost unless other `names` are given; return the paths of
        certificate and key."""
        yesterday = datetime.datetime.now() - datetime.timedelta(days=1)
        leaf = self._authority.issue_cert(
            *(names or NAMES), not_after=yesterday if expired else None
        )
        cert, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        key.unlink(missing_ok=True)
        leaf.private_key_pem.write_to_path(key)
        cert.unlink(missing_ok=True)
        for pem in leaf.cert_chain_pems:
            pem.write_to_path(cert, append=True)
        return str(cert), str(key)

    def options(self, name: str, *names: str) -> tuple[str, ...]:
        """The options of a node with a certificate of this authority, which it trusts."""
        cert, key = self.issue(name, *names)
        return ("--tls-cert", cert, "--tls-key", key, "--tls-ca", str(self.pem))
