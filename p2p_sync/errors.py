"""The exceptions of p2p_sync.

P2PSyncError
|-- InputError (also a ValueError)   what the caller gave cannot be used; the text says what to do
|   |-- AddressError                 no address of a node
|   |-- CursorGone                   a place in a log that this node does not have
|   |-- MessageError                 no text that can be a message
|       |-- MessageTooLong           more bytes than the limit
|   |-- NotRunning                   the node has not started, or has stopped
|-- StartError                       a node cannot start here: port, data directory
|-- LogError                         the log cannot be read or written now
|   |-- LogFull                      its disk is full
|   |-- LogGone                      its files were deleted or replaced
|   |-- LogDamaged                   an entry of it is not what was stored
|-- DialError                        a peer cannot be reached; the text is the reason
|-- ProtocolError                    the peer broke a rule of the wire (its fault, never ours)
|-- LinkClosed                       the link is closed; nothing more is read or written
"""

from __future__ import annotations

from .codes import NORMAL, TRY_AGAIN_LATER


class P2PSyncError(Exception):
    """The base of all that p2p_sync raises on purpose."""


class InputError(P2PSyncError, ValueError):
    """What the caller gave cannot be used."""


class AddressError(InputError):
    """A text that is no address of a node."""


class MessageError(InputError):
    """A text that cannot be a message."""


class MessageTooLong(MessageError):
    """A text with more bytes of UTF-8 than the limit."""


class NotRunning(InputError):
    """The node has not been started, or it has been stopped."""


class CursorGone(InputError):
    """A place in a log that this node does not have; `next` is the place to start from."""

    def __init__(self, reason: str, next: str) -> None:
        super().__init__(reason)
        self.next = next


class StartError(P2PSyncError):
    """A node cannot start: a port or a data directory cannot be had."""


class LogError(P2PSyncError):
    """The log cannot be read or written now; nothing is lost of what was acknowledged."""


class LogFull(LogError):
    """The log has no room on its disk."""


class LogGone(LogError):
    """The files of the log were deleted or replaced; nothing is written until a new start."""


class LogDamaged(LogError):
    """An entry of the log is not what was stored."""


class DialError(P2PSyncError):
    """A peer cannot be reached, or it and this node do not belong together.

    `refused`: it, or a rule of this node, has turned the dial down. `oneself`: the IP address and
    port where the dial has reached this very node, if it has.
    """

    def __init__(
        self, reason: str, refused: bool = False, oneself: tuple[str, int] | None = None
    ) -> None:
        super().__init__(reason)
        self.refused = refused
        self.oneself = oneself


class ProtocolError(P2PSyncError):
    """The peer broke a rule; the link is to be closed with `code` and `reason`.

    `code` is a close code of RFC 6455, section 7.4; `reason` is a short sentence.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason

    @property
    def violation(self) -> bool:
        """Whether a rule was broken: not where two nodes merely do not belong together."""
        return self.code < 4000 and self.code not in (NORMAL, TRY_AGAIN_LATER)


class LinkClosed(P2PSyncError):
    """The connection has ended: by the peer, by a cut, or by this side.

    `fault` is the kind of misbehaviour that this side ended it for (see conduct.py), if any.
    `refused`: one side has turned the other down, as it will the next time.
    """

    def __init__(self, reason: str, fault: str = "", refused: bool = False) -> None:
        super().__init__(reason)
        self.fault = fault
        self.refused = refused
