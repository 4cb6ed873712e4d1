"""How two nodes of a network with a secret prove that they know it, before they say anything else.

Pure. Each side opens with its id, its start and a fresh nonce; then the one that dialled proves,
and when that is right the other. A proof is HMAC-SHA-256 over both nonces (no replay), both ids,
the direction (no reflection) and, under TLS, the SHA-256 of the server's certificate (no relaying
by a machine in the middle):

    dialler                                     acceptor
    SOCKETS id, start, nonce, no address  -->
                                          <--   the same
    PROOF                                 -->
                                          <--   PROOF
    SOCKETS and all the rest              <->   SOCKETS and all the rest

So nobody who does not know the secret is told anything by the side that accepted but its id, and a
hostile address that a node is talked into dialling learns nothing that lets it in.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from ..codes import NORMAL, NOT_PROVED, SAME_NODE
from ..errors import ProtocolError
from .frames import Proof, Sockets

# Bytes of a frame before the proof.
MAX_OPENING_BYTES = 4096


class Handshake:
    """The proofs on one link, as one side sees them."""

    def __init__(
        self,
        keys: Sequence[bytes],
        node: str,
        start: int,
        nonce: str,
        dialled: bool,
        binding: str,
    ) -> None:
        """`keys` are those of the secrets, the first of which is used; `nonce` is fresh, 64
        hexadecimal digits; `binding` is the digest of the server's certificate, or nothing."""
        self._keys = keys
        self.opening = Sockets(node=node, start=start, nonce=nonce)  # this side's first frame
        self._dialled = dialled
        self._binding = binding
        self._theirs: Sockets | None = None
        self.proved = False

    @property
    def peer(self) -> str | None:
        """The id that the peer gave; to be believed when `proved`."""
        return self._theirs.node if self._theirs else None

    def open(self) -> list[Sockets | Proof]:
        """Return what to send before anything has come."""
        return [self.opening] if self._dialled else []

    def receive(self, frame: object) -> list[Sockets | Proof]:
        """Take a frame; return what to send. Raises ProtocolError where it proves nothing."""
        if isinstance(frame, Sockets) and self._theirs is None:
            if frame.node is None:
                raise ProtocolError(
                    NOT_PROVED, "this network has a secret, which original nodes cannot know"
                )
            if not frame.nonce:
                raise ProtocolError(
                    NOT_PROVED, "this network has a secret: give that node the secret file, too"
                )
            if frame.node == self.opening.node:
                # Also one who sends us our own words, to get a proof of them.
                same = frame.start == self.opening.start
                reason = "this node dialled itself" if same else "two nodes have one id"
                raise ProtocolError(NORMAL if same else SAME_NODE, reason)
            self._theirs = frame
            return [self._proof(self._keys[0], self._dialled)] if self._dialled else [self.opening]
        if isinstance(frame, Proof) and self._theirs is not None:
            right = [self._proof(key, not self._dialled) for key in self._keys]
            if not any(hmac.compare_digest(proof.proof, frame.proof) for proof in right):
                raise ProtocolError(
                    NOT_PROVED, "the proof is wrong: the two nodes do not have the same secret"
                )
            self.proved = True
            return [] if self._dialled else [self._proof(self._keys[0], False)]
        raise ProtocolError(NOT_PROVED, "this network has a secret, and a proof comes first")

    def _proof(self, key: bytes, by_dialler: bool) -> Proof:
        """Return the proof of the side that dialled, or of the other."""
        assert self._theirs is not None
        sides = (self.opening, self._theirs) if self._dialled else (self._theirs, self.opening)
        parts = ["p2p_sync proof 1", "dialled" if by_dialler else "accepted", self._binding]
        for side in sides:
            parts += [str(side.node), str(side.start), side.nonce]
        text = "\0".join(parts).encode()
        return Proof(hmac.new(key, text, hashlib.sha256).hexdigest())
