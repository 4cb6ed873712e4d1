"""The commands about peers."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from ..names import label
from ..settings import CLI_ANSWER, CLI_LEAST_ANSWER, SHORT_ID
from .api import Api, until
from .command import node_command, seconds_option
from .exits import DONE, NO
from .logline import printable
from .printing import paint, say

_HEAD = ["NAME", "ADDRESS", "ID", "LINK", "STATE", "DELAY", "SENT", "RECEIVED", "BEHIND", "VERSION"]


@node_command()
def peers(api: Api, as_json: bool) -> None:
    """List the peers and, for those that are unreachable, why."""
    answer = api.ask("/api/v1/peers", within=CLI_ANSWER)
    if as_json:
        say(json.dumps(answer))
        return
    rows = [_HEAD, *map(_row, answer["peers"])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row, peer in zip(rows, [None, *answer["peers"]], strict=True):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        if peer:
            cells[4] = paint(cells[4], peer["state"])
        say("  ".join(cells).rstrip())
        if peer and peer["notice"]:
            say(f"  {printable(peer['notice'])}")
        if peer and peer["state"] != "connected" and peer["last_error"]:
            say(f"  {trouble(peer)}")


def _row(peer: dict[str, Any]) -> list[str]:
    rtt, behind = peer["rtt_ms"], peer["behind"]
    unknown = "?" if peer["state"] == "connected" else "-"
    cells = [
        peer["name"] or "-",
        peer["address"] or "-",
        (peer["id"] or "-")[:SHORT_ID],
        peer["direction"] or "-",
        peer["state"],
        "-" if rtt is None else f"{rtt:.1f} ms",
        f"{peer['sent']['messages']:,}",
        f"{peer['received']['messages']:,}",
        unknown if behind is None else f"{behind:,}",
        peer["version"] or "-",
    ]
    return [printable(cell) for cell in cells]


def trouble(peer: dict[str, Any]) -> str:
    """Say why `peer` is not connected, and when the node tries again."""
    again = peer["next_try_s"]
    tries = f"; tried {peer['attempts']} times" if peer["attempts"] > 1 else ""
    later = "" if again is None else f"; the next try is in {again:.0f} s"
    return f"{printable(peer['last_error'])}{tries}{later}"


@node_command(
    click.argument("address"),
    seconds_option("--wait", 2, "Wait up to this many seconds for the connection."),
)
def add(api: Api, address: str, wait: float, as_json: bool) -> int:
    """Connect the node to ADDRESS and remember it. Exits 0 once they are connected."""
    begin = time.monotonic()
    answer = api.ask("/api/v1/peers", {"address": address}, max(wait, CLI_LEAST_ANSWER))
    name = answer["address"]

    def entry(left: float) -> Any:
        found = api.ask("/api/v1/peers", within=left)["peers"]
        return next((peer for peer in found if name in peer["addresses"]), None)

    def settled(peer: Any) -> bool:
        return bool(peer and (peer["state"] in ("connected", "self") or peer["attempts"]))

    peer = until(entry, settled, wait - (time.monotonic() - begin))
    connected = bool(peer) and peer["state"] == "connected"
    if as_json:
        say(json.dumps(peer))
    elif connected:
        other = label(peer["id"], peer["name"] or "") if peer["id"] else "an original node"
        say(f"Connected to {printable(peer['address'])} ({printable(other)})")
    else:
        reason = trouble(peer) if peer and peer["last_error"] else "the node is dialling it"
        say(f"Saved. Not connected yet: {reason}")
    return DONE if connected else NO
