"""The command `top`: the state of a node, of its peers and of its traffic, again and again."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

from ..settings import CLI_REFRESH
from .api import Api
from .changes import Changes, sample
from .command import node_command
from .options import option
from .printing import paint, say


@node_command(option("--once", is_flag=True, help="Print one screen and end."))
def top(api: Api, once: bool, as_json: bool) -> None:
    """Watch the node, its peers and its traffic, until you press q.

    The rates are messages in a second. Without a terminal, or with --json, a line is printed each
    second.
    """
    if not (once or as_json) and sys.stdin.isatty() and sys.stdout.isatty():
        with suppress(ImportError):  # a Python without curses
            from .screen import has_screen, watch

            if has_screen():
                watch(lambda: sample(api))
                return
    for changes in _changes(api):
        if as_json:
            say(json.dumps(changes.fields()))
        elif once:
            for text, state in changes.lines():
                say(paint(text, state) if state else text)
        else:
            moment = time.strftime("%H:%M:%S", time.localtime(changes.now.time))
            say(f"{moment}  {changes.verdict()}  {changes.totals()}")
        if once:
            return


def _changes(api: Api) -> Iterator[Changes]:
    """Yield what has changed each second, for ever; raises Failure if the node does not answer."""
    before = sample(api)
    while True:
        time.sleep(CLI_REFRESH)
        now = sample(api)
        yield Changes(before, now)
        before = now
