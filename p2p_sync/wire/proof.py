"""How two nodes of a network with a secret prove that they know it, before they say anything else.

Pure. Each side opens with its id, its start and a fresh nonce. Then the side that dialled proves
that it knows the secret, and if that proof is right the other side does. A proof is HMAC-SHA-256
over both nonces (no replay), both ids, the direction (no reflection) and, under TLS, the SHA-256 of
the server's certificate (no relaying by a machine in the middle):

    dialling                                   accepting
    SOCKETS id, start, nonce, no address  -->
                                          <--   the same
    PROOF                                 -->
                                          <--   PROOF
    SOCKETS and all the rest              <->   SOCKETS and all the rest

So the side that accepts tells a stranger nothing but its id, and a hostile address that a node is
tricked into dialling learns nothing that lets it in.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from ..codes import NORMAL, NOT_PROVED, SAME_NODE
from ..errors import ProtocolError
from .frames import Proof, Sockets


class Challenge:
    """What the two sides of one connection have to prove, as one side sees it. For one thread."""

    def __init__(
        self,
        keys: Sequence[bytes],
        node: str,
        start: int,
        nonce: str,
        dialled: bool,
        binding: str,
    ) -> None:
        """`keys` are those of the secrets, of which the first is used and all are accepted;
        `nonce` is fresh, 64 hexadecimal digits; `binding` is the SHA-256 of the certificate that
        the accepting side has shown, in hexadecimal digits, or empty without TLS."""
        self._keys = keys
        self.opening = Sockets(node=node, start=start, nonce=nonce)  # this side's first frame
        self._dialled = dialled
        self._binding = binding
        self._theirs: Sockets | None = None
        self.proved: str | None = None  # the id of the peer, once it has proved the secret

    def open(self) -> list[Sockets | Proof]:
        """Return what to send before anything has come."""
        return [self.opening] if self._dialled else []

    def receive(self, frame: object) -> list[Sockets | Proof]:
        """Take a frame; return what to send. Raises ProtocolError if it proves nothing.

        Its code is NORMAL where this node is at both ends.
        """
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
                # Also one that sends us our own words, to get a proof of them.
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
            self.proved = self._theirs.node
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
