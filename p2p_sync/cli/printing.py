"""What commands print: lines, colours, times, and sentences that several of them say."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import click

_COLOURS = {"in_sync": "green", "connected": "green"} | dict.fromkeys(
    ("alone", "refused", "damaged"), "red"
)


def say(text: str) -> None:
    """Print a line at once, for the reader of a pipe, in the encoding of the output."""
    print(encodable(text), flush=True)


def encodable(text: str) -> str:
    """Return `text` with characters escaped that the encoding of standard output lacks."""
    alphabet = sys.stdout.encoding or "utf-8"
    return text.encode(alphabet, "backslashreplace").decode(alphabet)


def colour_of(state: str) -> str:
    """Return the colour of a state, of a peer or of a verdict."""
    return _COLOURS.get(state, "yellow")


def paint(text: str, state: str) -> str:
    """Return `text` in the colour of `state`, if standard output is a terminal that shows it."""
    return click.style(text, fg=colour_of(state)) if has_colours() else text


def has_colours() -> bool:
    """Return whether standard output is a terminal whose user wants colours."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def table(rows: list[list[str]]) -> list[str]:
    """Return rows of cells as lines with columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def moment(ms: int) -> str:
    """Return a time for people, in the time zone of this machine."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ms / 1000))


def size(count: int) -> str:
    """Return a number of bytes for people."""
    if count < 1 << 20:
        return f"{count / (1 << 10):,.1f} KiB"
    return f"{count / (1 << 20):,.1f} MiB" if count < 1 << 30 else f"{count / (1 << 30):,.2f} GiB"


def report(done: dict[str, int], as_json: bool, file: Any) -> None:
    """Print how many messages were treated; nothing of `hidden` ones if there are none."""
    text = ", ".join(f"{n:,} {what}" for what, n in done.items() if n or what != "hidden")
    print(json.dumps(done) if as_json else text, file=file)


def left_out(damaged: int) -> str:
    """Say how many damaged entries a node has left out."""
    entries = "1 entry is" if damaged == 1 else f"{damaged:,} entries are"
    return f"{entries} damaged on the disk of this node, and left out; its status says which"
