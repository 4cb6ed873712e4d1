"""The commands about peers."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import click

from ..address import is_hub, parse_address
from ..errors import InputError
from ..names import label
from ..settings import CLI_ANSWER, CLI_LEAST_ANSWER, LEAST_NODE, SHORT_ID
from .api import Api, Failure, until
from .command import node_command, seconds_option
from .exits import DONE, NO, USAGE
from .logline import printable
from .printing import paint, say, table

_HEAD = ["NAME", "ADDRESS", "ID", "LINK", "STATE", "DELAY", "SENT", "RECEIVED", "BEHIND", "VERSION"]


@node_command()
def peers(api: Api, as_json: bool) -> None:
    """List the peers and, for those that are unreachable, why."""
    answer = api.ask("/api/v1/peers", within=CLI_ANSWER)
    if as_json:
        say(json.dumps(answer))
        return
    rows = [_HEAD, *map(_row, answer["peers"])]
    for line, peer in zip(table(rows), [None, *answer["peers"]], strict=True):
        say(paint(line, peer["state"]) if peer else line)
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


_WAIT = seconds_option("--wait", 2, "Wait up to this many seconds for the connection.")


@node_command(click.argument("address"), _WAIT)
def add(api: Api, address: str, wait: float, as_json: bool) -> int:
    """Connect the node to ADDRESS and remember it. Exits 0 once they are connected."""
    begin = time.monotonic()
    answer = api.ask("/api/v1/peers", {"address": address}, max(wait, CLI_LEAST_ANSWER))
    found = _dialled(api, [answer["address"]], wait - (time.monotonic() - begin))
    peer = found[0] if found else None
    if as_json:
        say(json.dumps(peer))
    else:
        say(_result(peer, "Saved. Not"))
    return DONE if peer and _is_connected(peer) else NO


@node_command(click.argument("peer", required=False), _WAIT)
def retry(api: Api, peer: str | None, wait: float, as_json: bool) -> int:
    """Dial unreachable peers again now, or PEER alone. Exits 0 once they are connected.

    PEER is an address, a name, a key, or the beginning of an id. A node waits up to a minute before
    it dials a peer again that it cannot reach.
    """
    peers = api.ask("/api/v1/peers", within=CLI_ANSWER)["peers"]
    if peer is not None:
        chosen = [find(peers, peer)]
    else:
        away = [each for each in peers if each["state"] not in ("connected", "self")]
        chosen = [each for each in away if each["by_hand"] or each["attempts"]]
    for each in chosen:
        api.ask(f"/api/v1/peers/{quote(each['key'])}/retry", within=CLI_ANSWER, method="POST")
    found = _dialled(api, [address for each in chosen for address in each["addresses"][:1]], wait)
    if as_json:
        say(json.dumps({"peers": found}))
    elif not found:
        say("No peer is unreachable")
    else:
        for each in found:
            say(_result(each, f"{_called(each)} is not"))
    return DONE if all(map(_is_connected, found)) else NO


@node_command(click.argument("peer"))
def forget(api: Api, peer: str, as_json: bool) -> None:
    """Disconnect PEER and forget its addresses.

    PEER is an address, a name, a key, or the beginning of an id. A peer that knows this node may
    connect again.
    """
    found = find(api.ask("/api/v1/peers", within=CLI_ANSWER)["peers"], peer)
    path = f"/api/v1/peers/{quote(found['key'])}"
    api.ask(path, within=CLI_ANSWER, method="DELETE")
    hint = "; it comes back when the node starts with --hub" if is_hub(found["address"]) else ""
    say(json.dumps(found) if as_json else f"Forgot {_called(found)}{hint}")


def find(peers: list[dict[str, Any]], text: str) -> dict[str, Any]:
    """Return the peer that a user calls `text`: by its key, an address, its name, its id or the
    beginning of it. Raises Failure if there is none, or more than one."""
    address = ""
    with suppress(InputError):
        address = str(parse_address(text))
    found = [peer for peer in peers if text == peer["key"] or address in peer["addresses"]]
    found = found or [peer for peer in peers if is_called(peer, text)]
    if not found:
        raise Failure(
            USAGE,
            f"no peer has the address, name, key or id {text!r}; p2p-sync peers lists them",
        )
    if len(found) > 1:
        others = ", ".join(map(_called, found))
        raise Failure(USAGE, f"{text!r} may be one of {len(found)} peers: {others}; give the id")
    return found[0]


def is_called(node: dict[str, Any], text: str) -> bool:
    """Return whether a user may call a node `text`: it is its name, or its id begins with it."""
    begins = len(text) >= LEAST_NODE and (node["id"] or "").startswith(text.lower())
    return begins or text == node["name"]


def _called(peer: dict[str, Any]) -> str:
    """Return what to call a peer, so that no other one is meant."""
    node = label(peer["id"], peer["name"] or "") if peer["id"] else ""
    return printable(" at ".join(filter(None, (node, peer["address"]))) or peer["key"])


def _dialled(api: Api, addresses: list[str], wait: float) -> list[dict[str, Any]]:
    """Wait until it is known what became of dials, for `wait` seconds at most; return the entries
    of the peers that have one of the `addresses`."""

    def entries(left: float) -> list[dict[str, Any]]:
        peers = api.ask("/api/v1/peers", within=left)["peers"]
        return [peer for peer in peers if set(addresses) & set(peer["addresses"])]

    def settled(peers: list[dict[str, Any]]) -> bool:
        return bool(peers) and all(
            peer["state"] in ("connected", "self") or peer["attempts"] for peer in peers
        )

    return until(entries, settled, wait) if addresses else []


def _is_connected(peer: dict[str, Any]) -> bool:
    return bool(peer["state"] == "connected")


def _result(peer: dict[str, Any] | None, before: str) -> str:
    """Say what a dial has led to; `before` is what is said before "connected yet"."""
    if peer and _is_connected(peer):
        other = label(peer["id"], peer["name"] or "") if peer["id"] else "an original node"
        return f"Connected to {printable(peer['address'])} ({printable(other)})"
    reason = "the node is dialling it"
    if peer and peer["last_error"]:
        reason = trouble(peer)
    elif peer and peer["state"] == "waiting":
        reason = "the node dials it when it needs more links"
    return f"{before} connected yet: {reason}"
