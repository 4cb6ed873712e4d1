"""The same list of messages on every machine, with nothing to run but Python.

Names are imported when they are first used. So the command line installs its signal handlers before
it loads a node, and a command that talks to a running node never loads one.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import (
    AddressError,
    ConsumerError,
    ConsumerInUse,
    CursorGone,
    InputError,
    KeyInvalid,
    KeyReused,
    LogError,
    LogFull,
    LogGone,
    MessageError,
    MessageTooLong,
    NotLent,
    NotRunning,
    P2PSyncError,
    StartError,
    TopicError,
    UnknownConsumer,
    UnknownMessage,
)
from .version import __version__

if TYPE_CHECKING:
    from .disk.consumers import Parked
    from .disk.pages import Page
    from .node.consumers import ConsumerOptions, Consumers, Given
    from .node.consuming import Consuming
    from .node.node import Node
    from .results import (
        ConsumerInfo,
        ConsumersInfo,
        Dispute,
        Event,
        Events,
        Fork,
        HeadInfo,
        LogInfo,
        NodeInfo,
        PeerInfo,
        Status,
        Unreachable,
        Verdict,
        Volume,
    )
    from .wire.entries import Erasure
    from .wire.frames import Message

# Where these names are; the others are in `results`.
_LATER = {
    "ConsumerOptions": ".node.consumers",
    "Consumers": ".node.consumers",
    "Consuming": ".node.consuming",
    "Erasure": ".wire.entries",
    "Given": ".node.consumers",
    "Message": ".wire.frames",
    "Node": ".node.node",
    "Page": ".disk.pages",
    "Parked": ".disk.consumers",
}

__all__ = [
    "AddressError",
    "ConsumerError",
    "ConsumerInUse",
    "ConsumerInfo",
    "ConsumerOptions",
    "Consumers",
    "ConsumersInfo",
    "Consuming",
    "CursorGone",
    "Dispute",
    "Erasure",
    "Event",
    "Events",
    "Fork",
    "Given",
    "HeadInfo",
    "InputError",
    "KeyInvalid",
    "KeyReused",
    "LogError",
    "LogFull",
    "LogGone",
    "LogInfo",
    "Message",
    "MessageError",
    "MessageTooLong",
    "Node",
    "NodeInfo",
    "NotLent",
    "NotRunning",
    "P2PSyncError",
    "Page",
    "Parked",
    "PeerInfo",
    "StartError",
    "Status",
    "TopicError",
    "UnknownConsumer",
    "UnknownMessage",
    "Unreachable",
    "Verdict",
    "Volume",
    "__version__",
]


if not TYPE_CHECKING:  # to a type checker it would mean that every name is here

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_LATER.get(name, ".results"), __name__), name)
