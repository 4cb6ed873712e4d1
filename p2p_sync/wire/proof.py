"""The opening handshake: each side proves its key and, where the network has a secret, that it
knows the secret.

Pure. Each side sends a header with the number of its protocol, its public key, the number of its
start and a fresh nonce. A side that sends none is an original node.

    dialling                                accepting
    GET 2 KEY START NONCE              -->
                                       <--  101 2 KEY START NONCE SIGNATURE
    PROOF signature, proof             -->
                                       <--  PROOF proof, only where there is a secret
    SOCKETS and all the rest           <->  SOCKETS and all the rest

The id of a node derives from its key (see identity.py), so nobody can open a link under the id of
another node. A signature covers the keys, starts and nonces of both sides (no replay), the role of
the signer (no reflection) and, under TLS, the SHA-256 of the server's certificate (no relaying by a
machine in the middle). `proof` is HMAC-SHA-256 over the same text, by the key of the secret. It
says that its sender is a member; the signature says which node it is. The accepting side proves the
secret only after the other has, so a stranger learns nothing from which the secret can be guessed.

Each side verifies the other's key before it says that a node has dialled itself, or that two nodes
run on copies of one data directory.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from typing import NamedTuple

from ..codes import MAX_NUMBER, NORMAL, NOT_PROVED, SAME_NODE
from ..errors import ProtocolError
from .frames import PROTOCOL_VERSION, Proof, other_protocol
from .identity import KEY, SIGNATURE, Identity, is_signed, node_of_key

HEADER = "P2P-Sync"
"""The name of the header in the GET and in the 101."""

_DOMAIN = "p2p_sync link 2"
_NUMBER = re.compile(r"(0|[1-9][0-9]{0,15})( .*)?")
_FORM = re.compile(rf"[0-9]+ ({KEY}) ([0-9]{{1,16}}) ([0-9a-f]{{64}})(?: ({SIGNATURE}))?")


class _Side(NamedTuple):
    """What one side says of itself."""

    key: str
    start: int
    nonce: str


class Handshake:
    """The opening of one connection, as one side sees it. For one thread."""

    def __init__(
        self,
        identity: Identity,
        start: int,
        nonce: str,
        keys: Sequence[bytes],
        dialled: bool,
        binding: str,
    ) -> None:
        """`identity` and `start` are those of this node; `nonce` is fresh, 64 hexadecimal digits.

        `keys` are those of the secrets, of which the first is used and all are accepted; none: an
        open network. `binding` is the SHA-256 of the certificate that the accepting side has shown,
        in hexadecimal digits, or empty without TLS.
        """
        self._identity = identity
        self._own = _Side(identity.key, start, nonce)
        self._keys = keys
        self._dialled = dialled
        self._binding = binding
        self._protocol: int | None = None  # of the other side; None: it has sent no header
        self._theirs: _Side | None = None
        self._signature = ""  # in the header of the other side

    @property
    def has_secret(self) -> bool:
        """Whether the other side has to prove the secret."""
        return bool(self._keys)

    @property
    def node(self) -> str | None:
        """The id of the node at the other end; None: an original node."""
        return node_of_key(self._theirs.key) if self._theirs else None

    @property
    def start(self) -> int:
        """The number of that node's start."""
        return self._theirs.start if self._theirs else 0

    @property
    def header(self) -> str:
        """The value of this side's header; "" if it sends none, which an original gets."""
        text = f"{PROTOCOL_VERSION} {self._own.key} {self._own.start} {self._own.nonce}"
        if self._dialled:
            return text
        if self._theirs:
            return f"{text} {self._identity.sign(self._text(False))}"
        return text if self._protocol is not None else ""

    def read(self, header: str | None) -> None:
        """Take the other side's header, None if it has sent none. Raises ValueError if it is
        malformed."""
        if header is None:
            return
        number = _NUMBER.fullmatch(header)
        if not number:
            raise ValueError(header)
        self._protocol = int(number[1])
        if self._protocol != PROTOCOL_VERSION:
            return  # the rest may have another form
        form = _FORM.fullmatch(header)
        if not form or int(form[2]) > MAX_NUMBER:
            raise ValueError(header)
        self._theirs = _Side(form[1], int(form[2]), form[3])
        self._signature = form[4] or ""

    def check(self) -> None:
        """Check the header that was read; raises ProtocolError if the sides cannot link."""
        if self._protocol is None and self._keys:
            raise ProtocolError(
                NOT_PROVED, "this network has a secret, which original nodes cannot know"
            )
        if self._protocol not in (None, PROTOCOL_VERSION):
            raise other_protocol(self._protocol or 0)
        if self._theirs and self._dialled:
            self._check_signature(self._signature)

    def proof(self) -> Proof:
        """Return the proof of this side."""
        signature = self._identity.sign(self._text(True)) if self._dialled else ""
        proof = self._mac(self._keys[0], self._dialled) if self._keys else ""
        return Proof(signature, proof)

    def check_node(self) -> None:
        """Raise ProtocolError if the node at the other end is this one, or runs on a copy of its
        data directory. The code is NORMAL if it is this one."""
        if self.node == self._identity.node:
            if self.start == self._own.start:
                raise ProtocolError(NORMAL, "this node dialled itself")
            reason = f"a copied data directory: two nodes have the id {self.node}"
            raise ProtocolError(SAME_NODE, reason)

    def receive(self, frame: object) -> Proof | None:
        """Take the first frame of the other side, its proof; return the one to answer with, if any.
        Raises ProtocolError if it proves nothing."""
        if not isinstance(frame, Proof):
            raise ProtocolError(NOT_PROVED, "the first frame of a node is its proof")
        if not self._dialled:
            self._check_signature(frame.signature)
            self.check_node()
        if not self._keys:
            if frame.proof:
                raise ProtocolError(
                    NOT_PROVED, "that network has a secret: give this node the same one"
                )
            return None
        if not frame.proof:
            raise ProtocolError(
                NOT_PROVED, "this network has a secret: give that node the secret file, too"
            )
        right = [self._mac(key, not self._dialled) for key in self._keys]
        if not any(hmac.compare_digest(one, frame.proof) for one in right):
            raise ProtocolError(
                NOT_PROVED, "the proof is wrong: the two nodes do not have the same secret"
            )
        return None if self._dialled else self.proof()

    def _check_signature(self, signature: str) -> None:
        assert self._theirs is not None
        if not is_signed(self._theirs.key, signature, self._text(not self._dialled)):
            raise ProtocolError(NOT_PROVED, "it did not prove its key: the signature is wrong")

    def _mac(self, key: bytes, by_dialler: bool) -> str:
        return hmac.new(key, self._text(by_dialler), hashlib.sha256).hexdigest()

    def _text(self, by_dialler: bool) -> bytes:
        """Return what the side that dialled signs and proves, or the other."""
        assert self._theirs is not None
        sides = (self._own, self._theirs) if self._dialled else (self._theirs, self._own)
        parts = [_DOMAIN, "dialled" if by_dialler else "accepted", self._binding]
        return "\0".join([*parts, *(str(part) for side in sides for part in side)]).encode()
