"""The same list of messages on every machine, with nothing but Python."""

from .errors import (
    AddressError,
    InputError,
    LogError,
    LogFull,
    MessageError,
    MessageTooLong,
    P2PSyncError,
    StartError,
)
from .node import Node
from .protocol import Message
from .version import __version__

__all__ = [
    "AddressError",
    "InputError",
    "LogError",
    "LogFull",
    "Message",
    "MessageError",
    "MessageTooLong",
    "Node",
    "P2PSyncError",
    "StartError",
    "__version__",
]
