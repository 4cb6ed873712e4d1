"""Which HTTP connections are closed: those that do not move, and idle ones if there are too many.

A client that sends slowly holds no thread, but it holds a connection. So there is a time limit for
each step of a request (`is_overdue`), and a limit of connections for each of three groups: of this
machine, of clients that have shown the token, and of all others (`surplus`). No group can take the
places of another.

All durations are measured with the monotonic clock.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from socket import MSG_DONTWAIT, MSG_PEEK
from typing import Any

from .. import settings
from ..address import is_loopback, site

LOCAL, KNOWN, OTHERS = range(3)
"""The groups of connections: of this machine, with the token, and others."""


class Place:
    """What a connection knows of its past; a base of the class that does its work."""

    waiting: Any  # the requests that have arrived
    arriving: Any  # the one that is arriving
    unsent: Any  # bytes of answers
    socket: Any
    connected: bool
    live: Any = None  # the answer that goes on; there is a limit of its own for these

    def __init__(self, ip: str) -> None:
        self.group = LOCAL if is_loopback(ip) else OTHERS
        self.host = site(ip)
        # When it was accepted, when the last answer was given, and when the client last read some.
        self.accepted = self.answered = self.taken = time.monotonic()

    def drop(self) -> None:
        """Close the connection."""
        raise NotImplementedError

    def check_client_disconnected(self) -> bool:
        """Return whether the client has closed the connection, which the loop does not notice while
        a worker answers. Applications find this as `waitress.client_disconnected`."""
        try:
            return not (self.connected and self.socket.recv(1, MSG_PEEK | MSG_DONTWAIT))
        except BlockingIOError:
            return False
        except OSError:
            return True

    @property
    def busy(self) -> bool:
        """Whether it carries a request that gets an answer, or the answer.

        All answers to others are short. Of these only the first counts: a client that goes on
        asking, or does not read, only holds a place.
        """
        answering = self.waiting or self.unsent
        if self.group == OTHERS and self.answered > self.accepted:
            answering = False
        return bool(answering or (self.arriving and self.arriving.body and self.arriving.body.room))

    def is_overdue(self, now: float) -> bool:
        """Return whether a request or an answer has not moved in time."""
        if self.unsent:
            return now - self.taken > settings.HTTP_STUCK
        self.taken = now
        if self.waiting:
            return False
        request = self.arriving
        if request and request.in_body:
            allowed = request.size / settings.HTTP_LEAST_RATE
            return bool(now - request.begun > settings.HTTP_ARRIVAL + allowed)
        # Line ends before a request begin a new one each, but give it no more time.
        return now - self.answered > settings.HTTP_IDLE or bool(
            request and now - request.begun > settings.HTTP_ARRIVAL
        )


def surplus(places: Iterable[Place]) -> list[Place]:
    """Return the idle connections that must go, so that no group and no host has too many."""
    groups: dict[int, list[Place]] = {LOCAL: [], KNOWN: [], OTHERS: []}
    for place in places:
        if not place.live:
            groups[place.group].append(place)
    found: list[Place] = []
    for host in {place.host for place in groups[OTHERS]}:
        of_host = [place for place in groups[OTHERS] if place.host == host]
        found += _oldest(of_host, settings.HTTP_CONNECTIONS_PER_HOST)
    for group in groups.values():
        left = [place for place in group if place not in found]
        found += _oldest(left, settings.HTTP_CONNECTIONS)
    return found


def _oldest(places: list[Place], most: int) -> list[Place]:
    """Return the idle ones of `places` that must go, so that there are `most`.

    The one that was answered longest ago goes first, of the host that has most; of others the one
    that was accepted first. The newest is spared if there is another: its request is on its way.
    """
    idle = sorted(
        (place for place in places if not place.busy),
        key=lambda place: place.accepted if place.group == OTHERS else place.answered,
    )
    hosts = Counter(place.host for place in places)
    found: list[Place] = []
    while len(places) - len(found) > most and idle:
        oldest = max(idle[:-1] or idle, key=lambda place: hosts[place.host])
        idle.remove(oldest)
        hosts[oldest.host] -= 1
        found.append(oldest)
    return found
