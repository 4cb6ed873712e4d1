"""The exceptions of p2p_sync.

P2PSyncError
|-- InputError (also a ValueError)   an invalid argument; the text says what to do
|   |-- AddressError                 not an address of a node
|   |-- CursorGone                   a cursor of another log
|   |-- MessageError                 not a text that can be a message
|       |-- MessageTooLong           more bytes than the limit
|   |-- TopicError                   not a topic of a message
|   |-- KeyInvalid                   not an idempotency key
|   |-- KeyReused                    the key has named another message
|   |-- UnknownMessage               no message here has that id
|   |-- ConsumerError                a name or an option of a consumer that is not valid
|       |-- ConsumerInUse            a thread of this node handles its messages
|       |-- NotLent                  no reader of a consumer has the message
|   |-- UnknownConsumer              no consumer has that name
|   |-- NotRunning                   the node has not started, or has stopped
|-- StartError                       a node cannot start: its port or data directory is not usable
|-- LogError                         the log cannot be read or written now
|   |-- LogFull                      its disk is full
|   |-- LogGone                      its files were deleted or replaced
|   |-- LogDamaged                   an entry is not what was stored
|   |-- LogDeleted                   the messages were older than the node keeps
|-- Busy                             as many requests wait as may at a time
|-- DialError                        a peer or a webhook cannot be reached; the text is the reason
|-- ProtocolError                    the peer broke a rule of the protocol (its fault, never ours)
|-- LinkClosed                       the link is closed; nothing more is read or written
"""

from __future__ import annotations

from .codes import NORMAL, TRY_AGAIN_LATER


class P2PSyncError(Exception):
    """The base of every exception that p2p_sync raises on purpose."""


class InputError(P2PSyncError, ValueError):
    """An argument is invalid; the text says what to do."""


class AddressError(InputError):
    """A text is not an address of a node."""


class MessageError(InputError):
    """A text cannot be a message."""


class MessageTooLong(MessageError):
    """A text has more bytes of UTF-8 than the limit."""


class TopicError(InputError):
    """A text cannot be the topic of a message."""


class KeyInvalid(InputError):
    """A text cannot be an idempotency key."""


class KeyReused(InputError):
    """An idempotency key has named another message before."""


class UnknownMessage(InputError):
    """This node has no message with that id."""

    def __init__(self, id: str) -> None:
        super().__init__(
            f"no message here has the id {id[:80]!r}; an id is ORIGIN:NUMBER, as each message "
            "has one; if it was deleted here, ask a node that keeps it"
        )


class ConsumerError(InputError):
    """What a consumer was asked for is not valid."""


class ConsumerInUse(ConsumerError):
    """A thread of this node handles the messages of this consumer."""


class NotLent(ConsumerError):
    """No reader of the consumer has this message, or not any more."""


class UnknownConsumer(InputError):
    """There is no consumer of that name."""


class NotRunning(InputError):
    """The node has not been started, or it has been stopped."""


class CursorGone(InputError):
    """A cursor of a log that this node does not have, or a place that it does not keep any more.

    `next` is the cursor to continue from, and `missed` how many messages were deleted before it
    (None: another log).
    """

    def __init__(self, reason: str, next: str, missed: int | None = None) -> None:
        super().__init__(reason)
        self.next = next
        self.missed = missed


class StartError(P2PSyncError):
    """A node cannot start: its port or its data directory is not usable."""


class LogError(P2PSyncError):
    """The log cannot be read or written now. No acknowledged message is lost."""


class LogFull(LogError):
    """The disk of the log is full."""


class LogGone(LogError):
    """The files of the log were deleted or replaced. Nothing is written until the node restarts."""


class LogDamaged(LogError):
    """An entry of the log is not what was stored."""


class LogMoved(LogError):
    """The messages that were to be read have other ids now: the history of their origin forks."""


class LogDeleted(LogError):
    """This node does not keep these messages of an `origin`: those up to `floor` are gone."""

    def __init__(self, origin: str, floor: int) -> None:
        super().__init__(f"this node keeps {origin} only from message {floor + 1} on")
        self.origin = origin
        self.floor = floor


class Busy(P2PSyncError):
    """As many requests wait or stream as may at a time; try again in a moment."""


class DialError(P2PSyncError):
    """A peer, or the URL of a webhook, cannot be reached; or a peer and this node do not belong
    together.

    `refused`: the peer, or a rule of this node, rejected the dial. `oneself`: the IP address and
    port, if the dial reached this node itself. `twin`: it reached another node with the same id.
    """

    def __init__(
        self,
        reason: str,
        refused: bool = False,
        oneself: tuple[str, int] | None = None,
        twin: bool = False,
    ) -> None:
        super().__init__(reason)
        self.refused = refused
        self.oneself = oneself
        self.twin = twin


class ProtocolError(P2PSyncError):
    """The peer broke a rule. The link must be closed with `code` and `reason`.

    `code` is a close code of RFC 6455, section 7.4; `reason` is a short sentence.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason

    @property
    def violation(self) -> bool:
        """Whether a rule was broken. False if two nodes merely do not belong together."""
        return self.code < 4000 and self.code not in (NORMAL, TRY_AGAIN_LATER)


class LinkClosed(P2PSyncError):
    """The connection has ended: the peer closed it, it broke, or this side closed it.

    `fault` is the kind of protocol violation for which this side closed it, if any. `refused`: one
    side rejected the other, and would do so again.
    """

    def __init__(self, reason: str, fault: str = "", refused: bool = False) -> None:
        super().__init__(reason)
        self.fault = fault
        self.refused = refused
