"""Secrets of networks: files that hold them, and a raw peer that proves one."""

from __future__ import annotations

from pathlib import Path

from p2p_sync.wire.identity import Identity
from tests.harness import raw

OLD, NEW, OTHER = (f"{word} secret of the tests" for word in ("an old", "a new", "another"))
US = Identity.of_seed(b"us" * 16)


def secret_file(folder: Path, *secrets: str, name: str = "secret") -> Path:
    """A file for --secret-file, with a comment and odd spaces."""
    path = folder / name
    path.touch(0o600)
    path.write_text("# of the tests\n\n" + "".join(f"  {secret}\t\n" for secret in secrets))
    return path


def member(address: str, secret: str, identity: Identity = US) -> raw.RawPeer:
    """A raw peer that the node at `address` has let in, for it knows the secret."""
    peer = raw.dial(address, identity=identity, secret=secret)
    assert peer.read_json().keys() == {"type", "proof"}
    return peer
