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
    CursorGone,
    InputError,
    KeyInvalid,
    KeyReused,
    LogError,
    LogFull,
    MessageError,
    MessageTooLong,
    P2PSyncError,
    StartError,
    TopicError,
    UnknownConsumer,
    UnknownMessage,
)
from .version import __version__

if TYPE_CHECKING:
    from .node.node import Node
    from .wire.frames import Message

_LATER = {"Node": "node.node", "Message": "wire.frames"}

__all__ = [
    "AddressError",
    "ConsumerError",
    "CursorGone",
    "InputError",
    "KeyInvalid",
    "KeyReused",
    "LogError",
    "LogFull",
    "Message",
    "MessageError",
    "MessageTooLong",
    "Node",
    "P2PSyncError",
    "StartError",
    "TopicError",
    "UnknownConsumer",
    "UnknownMessage",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_LATER[name]}", __name__), name)
