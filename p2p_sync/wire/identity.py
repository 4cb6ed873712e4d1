"""Node keys: a node is the one that it proves to be. The one door to cryptography.

Each node has an Ed25519 key (RFC 8032), which it keeps in its data directory. Its id is the first
half of the SHA-256 of the public key: 128 bits, so nobody finds a second key for an id. With the
key a node proves who it is when a link opens (proof.py), and signs what it commits (signing.py).

A signature costs about 35 us to make and 105 us to check (measured on one core of an AMD EPYC).
OpenSSL frees the interpreter's lock meanwhile. Pure. Any thread may call it.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

NODE_ID = r"[0-9a-f]{32}"
"""The form of a node's id."""
_NAMED = re.compile(rb"^node: (\S+)$", re.M)
KEY = r"[0-9a-f]{64}"
"""The form of a public key."""
KEY_DIGITS = 64
SIGNATURE = r"[0-9a-f]{128}"
"""The form of a signature."""


class Identity:
    """The key of one node. For any thread."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.key = private.public_key().public_bytes_raw().hex()  # the public one
        self.node = node_of_key(self.key)  # the id

    @staticmethod
    def new() -> Identity:
        """Return a new one."""
        return Identity(Ed25519PrivateKey.generate())

    @staticmethod
    def of_seed(seed: bytes) -> Identity:
        """Return the one of a seed of 32 bytes, which is all that there is to a private key."""
        return Identity(Ed25519PrivateKey.from_private_bytes(seed))

    @staticmethod
    def from_pem(text: bytes) -> Identity:
        """Return the one whose private key is in `text`, PEM of PKCS #8. Raises ValueError if none
        is, or if the text before it names another node: any 32 bytes are a key, so nothing else
        shows that a disk has changed one."""
        try:
            private = load_pem_private_key(text, None)
        except (TypeError, UnsupportedAlgorithm) as error:  # it is encrypted, or of another kind
            raise ValueError(str(error)) from None
        except InternalError:  # of another kind, and of the wrong length
            raise ValueError("it is not a key") from None
        if not isinstance(private, Ed25519PrivateKey):
            raise ValueError("it is not an Ed25519 key")
        identity = Identity(private)
        named = _NAMED.search(text)
        if named and named[1].decode() != identity.node:
            raise ValueError("the key is not that of the node which is named before it")
        return identity

    def to_pem(self) -> bytes:
        """Return the private key as PEM of PKCS #8, which other programs read, too, after a line
        that names the node."""
        pem = self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return f"node: {self.node}\n".encode() + pem

    def sign(self, data: bytes) -> str:
        """Return the signature of `data`, 128 hexadecimal digits."""
        return self._private.sign(data).hex()


def node_of_key(key: str) -> str:
    """Return the id of the node with a public key (64 hexadecimal digits)."""
    return hashlib.sha256(bytes.fromhex(key)).hexdigest()[:32]


# All encodings of the points of small order, without their sign: whoever likes signs for such a key
# (the list of libsodium, ge25519_has_small_order).
_SMALL_ORDER = {
    "00" * 32,
    "01" + "00" * 31,
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "ec" + "ff" * 30 + "7f",
    "ed" + "ff" * 30 + "7f",
    "ee" + "ff" * 30 + "7f",
}


def is_signed(key: str, signature: str, data: bytes) -> bool:
    """Return whether `signature` (128 hexadecimal digits) is that of `data` by the private key to
    `key` (64). Raises nothing, whatever they are."""
    try:
        _public(key).verify(bytes.fromhex(signature), data)
    except (InvalidSignature, ValueError):
        return False
    return True


@lru_cache(maxsize=1024)
def _public(key: str) -> Ed25519PublicKey:
    if key[:62] + f"{int(key[62:], 16) & 127:02x}" in _SMALL_ORDER:
        raise ValueError("a key of small order")
    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(key))
