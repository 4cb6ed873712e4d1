"""The addresses that a node knows, and when to dial them.

Pure: time is an argument (seconds, of any steady clock), and so is randomness.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .address import Address, is_loopback, parse_address
from .config import MAX_KNOWN_ADDRESSES, Settings

# An IP address and a port.
Endpoint = tuple[str, int]
# Returns a number from 0 to 1, as random.random does.
Random = Callable[[], float]


@dataclass
class Known:
    """One address and what is known of it."""

    address: str
    # Given by hand: dialled whatever the count of links, and never forgotten.
    by_hand: bool = False
    # It leads to this very node.
    oneself: bool = False
    # The id of the node of ours that was last found there.
    node: str | None = None
    # An original node was found there, or a node of ours says so.
    original: bool = False
    # Who tells this original of the others: we (True), another node (False), not settled (None).
    introducer: bool | None = None
    # Ids of our nodes that were told of this original, and that it is therefore not told of.
    told_to: set[str] = field(default_factory=set)
    # What it resolved to.
    endpoints: tuple[Endpoint, ...] = ()
    dialling: bool = False
    attempts: int = 0
    next_try: float = 0.0
    last_error: str = ""


class AddressBook:
    """What is known, by address in its one form."""

    def __init__(self, settings: Settings) -> None:
        self.known: dict[str, Known] = {}
        self._settings = settings
        self._own: set[tuple[str, int]] = set()

    def add(self, address: str, now: float, by_hand: bool = False) -> None:
        """Remember `address`; one given by hand is due at once, whatever came before."""
        known = self.known.get(address)
        if known is None:
            if len(self.known) >= MAX_KNOWN_ADDRESSES and not self._forget_one():
                return
            known = self.known[address] = Known(address, next_try=now)
        if by_hand:
            known.by_hand = True
            known.next_try = now
            known.attempts = 0

    def is_oneself(self, address: str) -> None:
        """Note that `address` leads to this very node, so that it is never dialled."""
        self._own.add(place(address))
        self.known.setdefault(address, Known(address)).oneself = True

    def names_oneself(self, addresses: frozenset[str]) -> bool:
        """Return whether one of `addresses` is known to lead to this very node."""
        return any(place(address) in self._own for address in addresses)

    def dialled(self, address: str, endpoints: tuple[Endpoint, ...] | None = None) -> None:
        """Note that a dial of `address` is under way, and what it resolves to."""
        known = self.known[address]
        known.dialling = True
        known.endpoints = endpoints or known.endpoints

    def linked(self, address: str) -> Known:
        """Note that a dial of `address` has succeeded."""
        known = self.known[address]
        known.dialling = False
        known.last_error = ""
        return known

    def failed(self, address: str, error: str, now: float, random: Random) -> None:
        """Note that a dial of `address` has failed or its link has ended, and when to try again.

        The first pause doubles up to the longest; each is a quarter shorter or longer by chance.
        """
        known = self.known[address]
        known.dialling = False
        known.last_error = error
        pause = self._settings.redial_first * 2 ** min(known.attempts, 16)
        pause = min(self._settings.redial_longest, pause)
        known.attempts += 1
        known.next_try = now + pause * (0.75 + random() / 2)

    def _forget_one(self) -> bool:
        """Make room: of what was learned and leads nowhere now, what failed most goes."""
        unused = [k for k in self.known.values() if k.attempts and not (k.by_hand or k.dialling)]
        if unused:
            del self.known[max(unused, key=lambda known: known.attempts).address]
        return bool(unused)


def place(address: str) -> tuple[str, int]:
    """Return what is the same for all spellings of one place on this machine."""
    parsed: Address = parse_address(address)
    return "localhost" if is_loopback(parsed.host) else parsed.host, parsed.port
