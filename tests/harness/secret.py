"""Secrets of networks: files that hold them, and a raw peer that proves one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from p2p_sync.net.credentials import secret_keys
from p2p_sync.wire.frames import Proof, Sockets, decode, encode
from p2p_sync.wire.proof import Challenge
from tests.harness import raw

OLD, NEW, OTHER = (f"{word} secret of the tests" for word in ("an old", "a new", "another"))
US = "ab" * 8


def secret_file(folder: Path, *secrets: str, name: str = "secret") -> Path:
    """A file for --secret-file, with a comment and odd spaces."""
    path = folder / name
    path.touch(0o600)
    path.write_text("# of the tests\n\n" + "".join(f"  {secret}\t\n" for secret in secrets))
    return path


class Knower:
    """A raw peer that dials and knows a secret; `said` keeps what it has sent."""

    def __init__(self, address: str, secret: str, node: str = US) -> None:
        self.peer = raw.dial(address)
        keys = secret_keys(secret, "the test")
        self.challenge = Challenge(keys, node, 7, os.urandom(32).hex(), True, "")
        self.said: list[str] = []
        self._say(self.challenge.open())

    def _say(self, frames: list[Sockets | Proof]) -> None:
        for frame in frames:
            self.said.append(encode(frame))
            self.peer.send(raw.TEXT, self.said[-1].encode())

    def step(self) -> dict[str, Any]:
        """Read a frame and answer it."""
        fields = self.peer.read_json()
        self._say(self.challenge.receive(decode(json.dumps(fields))))
        return dict(fields)

    def prove(self) -> None:
        """Go through the whole proof, so that the node lets it in."""
        self.step()
        self.step()
        assert self.challenge.proved
