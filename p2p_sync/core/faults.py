"""The kinds of faults of peers, and which of them close the link.

A violation closes the link. If this node had dialled the address, it dials it again after the usual
backoff. There are no further penalties: no node is refused for what it did before, so no peer can
cause an honest node to be refused.
"""

from __future__ import annotations

VIOLATIONS = {
    "frame": "sent a frame that breaks a rule",
    "claims": "does not ship what it says that it holds",
    "signature": "sent messages, or a claim to hold some, that their node has not signed",
    "origins": "ships more new origins in an hour than any node takes",
    "graft": "asks again for what it was sent less than a minute ago",
}
"""Kinds that close the link."""

FAULTS = {
    "slow": "takes too long over a frame",
    "deaf": "does not read (nor does a host that sleeps)",
    "silent": "has gone silent, as after a cut cable",
    "new_origins": "brings more new origins than this node takes in an hour",
    "gap": "leaves out messages in what it was asked to ship",
    "addresses": "sends many addresses again and again",
    "future": "ships messages from far ahead of our clock (either clock may be wrong)",
    "ignored": "sends a frame that asks for nothing",
}
"""Kinds that are only counted. The first three are noted of links that have ended anyway."""

KINDS = {**VIOLATIONS, **FAULTS}
"""All kinds, each as the end of the sentence "it ..."."""
