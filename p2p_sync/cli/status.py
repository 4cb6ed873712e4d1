"""Is all well? The commands about the state of a node."""

from __future__ import annotations

import json
import sys
from typing import Any

from ..core.verdict import numbered
from .api import Api, until
from .command import node_command, seconds_option
from .exits import DONE, NO
from .logline import printable
from .printing import moment, paint, say


@node_command(seconds_option("--wait", 2, "Wait up to this many seconds for it to be in sync."))
def status(api: Api, wait: float, as_json: bool) -> int:
    """Show whether the node is in sync. Exits 0 only if it is, or if it knows no other node."""

    def in_sync(answer: Any) -> bool:
        state, peers = answer["verdict"]["state"], answer["verdict"]["peers"]
        good = state == "in_sync" or (state == "alone" and not peers)
        return bool(good and not answer["damaged"])

    answer = until(lambda left: api.ask("/api/v1/status", within=left), in_sync, wait)
    verdict = answer["verdict"]
    say(json.dumps(answer) if as_json else paint(printable(verdict["text"]), verdict["state"]))
    if not as_json:
        for peer in verdict["unreachable"]:
            reason = f": {printable(peer['reason'])}" if peer["reason"] else ""
            where = f" at {peer['address']}" if peer["address"] not in (None, peer["name"]) else ""
            since = f"is unreachable since {moment(peer['since'])}{reason}"
            print(f"  {printable(peer['name'] + where)} {since}", file=sys.stderr)
        if since := answer["messages"]["complete_since"]:
            print(f"  older messages were deleted; complete since {moment(since)}", file=sys.stderr)
        if missed := answer["missed"]:
            said = f"{numbered(missed, 'message')} missed since the start"
            print(f"  {said}: the connected peers had deleted them", file=sys.stderr)
        for warning in answer["warnings"]:
            print(f"Warning: {printable(warning)}.", file=sys.stderr)
    return DONE if in_sync(answer) else NO


@node_command()
def acknowledge(api: Api, as_json: bool) -> None:
    """End the warnings of forks that are known now.

    A fork is a node that has signed two different histories. The messages of both stay.
    """
    api.ask("/api/v1/forks/acknowledge", method="POST")
    say(json.dumps({"acknowledged": True}) if as_json else "Acknowledged")
