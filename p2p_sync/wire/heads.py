"""The heads of very many origins in little memory: packed, and read when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping

from .logframes import Head, Vector

_N = 8  # bytes of a number
_HASH = 16  # bytes of a running hash


def pack(head: Head) -> bytes:
    """Return a head in a third of its memory."""
    return joined(head.n, bytes.fromhex(head.hash), bytes.fromhex(head.signature))


def joined(n: int, running: bytes, signature: bytes) -> bytes:
    """Return a packed head."""
    return n.to_bytes(_N, "big") + running + signature


def number_in(packed: bytes) -> int:
    """Return the number of messages in a packed head."""
    return int.from_bytes(packed[:_N], "big")


def hash_in(packed: bytes) -> str:
    """Return the running hash in a packed head."""
    return packed[_N : _N + _HASH].hex()


def unpack(packed: bytes) -> Head:
    """Return the head that was packed."""
    return Head(number_in(packed), hash_in(packed), packed[_N + _HASH :].hex())


class Heads(MutableMapping[str, Head]):
    """A vector that takes little memory."""

    def __init__(self, vector: Vector | None = None) -> None:
        self.packed: dict[str, bytes] = {}
        self.update(vector or {})

    def __getitem__(self, name: str) -> Head:
        return unpack(self.packed[name])

    def __setitem__(self, name: str, head: Head) -> None:
        self.packed[name] = pack(head)

    def __delitem__(self, name: str) -> None:
        del self.packed[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.packed)

    def __len__(self) -> int:
        return len(self.packed)

    def numbers(self) -> Iterator[tuple[str, int]]:
        """Yield the origins, each with its number of messages."""
        return ((name, number_in(packed)) for name, packed in self.packed.items())
