"""What a node says about itself: the results of `status`, `peers`, `events` and `consumers`.

They are the JSON objects of the API, too, with the same members: `web/openapi.json` says what each
member means. Times are in ms since the epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

State: TypeAlias = Literal["alone", "catching_up", "behind", "degraded", "in_sync"]
PeerState: TypeAlias = Literal["connected", "dialling", "waiting", "refused", "self"]
Direction: TypeAlias = Literal["in", "out"]
EventType: TypeAlias = Literal[
    "joined",
    "left",
    "dial_failed",
    "refused",
    "caught_up",
    "missed",
    "clock",
    "damaged",
    "erased",
    "parked",
    "started",
]

# -- peers -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Volume:
    """What a link has carried in one direction."""

    messages: int
    bytes: int


@dataclass(frozen=True)
class PeerInfo:
    """One node, or one address of which no node is known yet."""

    key: str
    id: str | None
    name: str | None
    address: str | None
    addresses: list[str]
    direction: Direction | None
    state: PeerState
    since: int
    rtt_ms: float | None
    attempts: int
    last_error: str
    next_try_s: float | None
    sent: Volume
    received: Volume
    behind: int | None
    late: int | None
    notice: str
    links: dict[str, str]
    version: str | None
    worked: bool
    by_hand: bool
    source: str | None


@dataclass(frozen=True)
class Unreachable:
    """A peer that should be connected and is not."""

    key: str
    name: str
    id: str | None
    address: str | None
    since: int
    reason: str


# -- the state of the node -------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """The state of the node in a word, `state`, and in a sentence, `text`."""

    state: State
    text: str
    synced: int
    peers: int
    unreachable: list[Unreachable]

    @property
    def good(self) -> bool:
        """Whether all is well: in sync, or alone while no other node is known."""
        return self.state == "in_sync" or (self.state == "alone" and not self.peers)


@dataclass(frozen=True)
class NodeInfo:
    """The node itself."""

    id: str
    name: str
    address: str
    addresses: list[str]
    join: str
    version: str
    protocol: int
    started: int


@dataclass(frozen=True)
class Resources:
    """What the node takes of its machine, in bytes."""

    memory: int | None
    log: int
    free: int | None


@dataclass(frozen=True)
class LogInfo:
    """The messages of the node."""

    count: int
    digest: str
    complete_since: int | None


@dataclass(frozen=True)
class Fork:
    """A node has signed two histories of an origin."""

    origin: str
    base: str
    after: int
    messages: int
    node: str


@dataclass(frozen=True)
class HeadInfo:
    """The messages 1 ... `n` of an origin, as its node has signed them."""

    n: int
    hash: str
    signature: str


@dataclass(frozen=True)
class Dispute:
    """A peer holds another history of an origin than this node."""

    origin: str
    peer: str
    ours: HeadInfo
    theirs: HeadInfo


@dataclass(frozen=True)
class ConsumersInfo:
    """The consumers of the node, in numbers."""

    count: int
    failing: int
    parked: int
    missed: int


@dataclass(frozen=True)
class Status:
    """The state of the node."""

    verdict: Verdict
    node: NodeInfo
    sockets: int
    messages: LogInfo
    behind: int
    missed: int
    conflicts: int
    forks: list[Fork]
    disputes: list[Dispute]
    consumers: ConsumersInfo
    resources: Resources
    misbehaviour: dict[str, int]
    damaged: list[str]
    warnings: list[str]


# -- consumers -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ConsumerInfo:
    """A consumer: what it is to handle, and how far it is."""

    name: str
    topic: str
    own: bool
    ack_wait: float
    max_attempts: int
    shared: bool
    position: str
    lag: int
    lent: int
    attempts: int
    parked: int
    missed: int
    error: str
    hook: str
    no_reader_since: int | None


# -- events ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Event:
    """Something that has happened to the node. The ids grow by one, so that a gap shows."""

    id: int
    time: int
    type: EventType
    text: str
    peer: str | None


class Events(NamedTuple):
    """Events, the id of the `last` one that there is, and when the node started. The ids begin
    again at each start."""

    events: list[Event]
    last: int
    started: int
