"""Numbers of the wire: close codes, and the largest number that a field may hold."""

from __future__ import annotations

# Numbers on the wire stay exact in every language: JSON readers with doubles hold these.
MAX_NUMBER = 2**53 - 1

# RFC 6455, section 7.4.1.
NORMAL = 1000
GOING_AWAY = 1001
PROTOCOL_ERROR = 1002
UNSUPPORTED_DATA = 1003
INVALID_TEXT = 1007
POLICY_VIOLATION = 1008
TOO_BIG = 1009
TRY_AGAIN_LATER = 1013

# Our own: no proof of the node's key or the network's secret; a copied data directory; another
# version of the protocol.
NOT_PROVED = 4401
SAME_NODE = 4409
OTHER_PROTOCOL = 4426
