"""Every setting and limit: its default, its unit and its reason."""

from __future__ import annotations

from dataclasses import dataclass, field

from .address import Address, is_loopback

# What any node of ours takes from another, whatever its own settings are: were this a setting,
# nodes could never agree on which messages exist. UTF-8 bytes.
MAX_MESSAGE_BYTES = 128 * 1024

# Addresses in one SOCKETS frame.
MAX_ADDRESSES = 256

# Ids in it of the nodes that the sender is linked with.
MAX_LINKS_TOLD = 64

# Addresses that are remembered.
MAX_KNOWN_ADDRESSES = 1000

# Dials to addresses that only peers of one remote host have sent: at once, and then a minute.
STRANGERS_AT_ONCE = 64
STRANGERS_A_MINUTE = 12

# Accepted links above `max_peers`, which are told addresses and closed.
SPARE_PEERS = 16

# Accepted connections that have not finished the opening handshake, or not proved the secret yet.
# The host with most of them loses its oldest first. They have no threads, so each costs little;
# with 1,000 new ones a second from the same host, an honest one has a quarter of a second.
MAX_UNPROVED = 256

# The head of an HTTP request or answer in an opening handshake. Bytes.
MAX_HANDSHAKE_BYTES = 16 * 1024

# Dials under way at a time to addresses given by hand, and as many to others: peers can tell of any
# number of addresses that do not answer, which must not delay the dials that the operator wants.
# Beside these, host names that are being resolved: those that hang delay no dial. Learned names get
# half of the places, so that they delay no name given by hand.
MAX_DIALS = 8
MAX_LOOKUPS = 16

# Endpoints (IP addresses with a port) of one host name that one dial tries.
MAX_ENDPOINTS = 8

# Open files and connections that a process allows itself at its start: the limit that it inherits,
# 256 on macOS, is soon reached by connections alone. More than this is of no use.
MAX_DESCRIPTORS = 10_000

# Where a connection cannot be accepted, for want of descriptors or threads, a port accepts none for
# this long, and the log has a line about it at most this often. Seconds.
ACCEPT_PAUSE = 1.0
ACCEPT_LOGGED = 60.0


@dataclass(frozen=True)
class Settings:
    """How a node behaves; times are in seconds, sizes in bytes."""

    # The interface that the peer port listens on. Loopback unless told otherwise.
    host: str = "127.0.0.1"
    # What to tell peers as our own address; None: they form it from the connection.
    advertise: Address | None = None
    # False: this node cannot be dialled and tells no address at all.
    dialable: bool = True
    # Addresses given by hand: dialled at the start, and again while the node runs.
    peers: tuple[Address, ...] = field(default=())
    # Learned addresses are dialled while there are fewer links than this, and links are shed above
    # twice as many. 0: neither, the mesh is laid out by hand.
    target_links: int = 8
    # Accepted links at a time, and of one remote host among them (loopback apart).
    max_peers: int = 128
    max_peers_per_host: int = 32
    # The secret of the network, one or two lines, or the file that holds it (see private.py).
    secret: str | None = None
    secret_file: str | None = None
    # PEM files: the certificate of the peer port and its key, a private authority to trust.
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_ca: str | None = None
    # A message committed here.
    max_message_bytes: int = 64 * 1024
    # A frame, and what is put together from fragments. A message of the largest size stays below
    # it, also with each of its bytes escaped in JSON.
    max_frame_bytes: int = 1024 * 1024
    # What may wait to be written to one link, messages apart.
    max_outbox_bytes: int = 4 * 1024 * 1024
    # A PING this often; a link that is silent for two of them is dropped.
    heartbeat: float = 15.0
    # A peer is cut when a write to it has not moved for this long.
    send_timeout: float = 20.0
    # An opening handshake takes at most this long, on either side.
    handshake_timeout: float = 10.0
    # The side that accepts hears the other out for this long before it tells its addresses, so
    # that it knows whom it tells.
    greeting_pause: float = 0.05
    # A peer that says nothing for this long after the opening is taken for an original node.
    introduction_timeout: float = 1.0
    # The shortest pause before an address is dialled again, and the longest.
    redial_first: float = 1.0
    redial_longest: float = 60.0
    # A known address without a link is tried this often, even when there are links enough: the
    # halves of a parted network would not meet again otherwise.
    probe: float = 10.0
    # One link is exchanged for another this often, so that the overlay stays well mixed.
    exchange: float = 60.0

    @property
    def tls_alone(self) -> bool:
        """Whether peers' words lead to TLS alone."""
        return bool(self.tls_cert or self.tls_ca)

    def warnings(self, listening: str) -> list[str]:
        """Return what is dangerous about a node with these settings, a sentence each.

        `listening` is the IP address that the peer port listens on.
        """
        if self.secret or self.secret_file or is_loopback(listening):
            return []
        return [
            "this node has no secret: any machine that reaches its peer port can read and write "
            "all messages; set --secret-file"
        ]
