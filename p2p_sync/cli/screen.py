"""The screen of `top`, by curses: it has the size of the terminal, and restores it afterwards."""

from __future__ import annotations

import curses
import time
from collections.abc import Callable
from contextlib import suppress

from ..settings import CLI_REFRESH
from .api import Failure
from .changes import Changes, Sample
from .printing import colour_of, encodable, has_colours


def has_screen() -> bool:
    """Return whether the cursor of this terminal can be moved."""
    with suppress(curses.error):
        curses.setupterm()
        return bool(curses.tigetstr("cup"))
    return False


def watch(sample: Callable[[], Sample]) -> None:
    """Show changes between samples until somebody presses q. A node that has stopped may come back:
    only the first sample raises Failure."""
    now = sample()
    curses.wrapper(lambda window: _watch(window, now, sample))


def _watch(window: curses.window, now: Sample, sample: Callable[[], Sample]) -> None:
    changes, trouble = Changes(now, now), ""
    colours = _colours()
    while True:
        until = time.monotonic() + CLI_REFRESH
        while (left := until - time.monotonic()) > 0:
            _draw(window, trouble, changes, colours)
            window.timeout(int(left * 1000) + 1)
            if window.getch() in (ord("q"), ord("Q")):  # others: the size may have changed
                return
        try:
            before, now = now, sample()
            changes, trouble = Changes(before, now), ""
        except Failure as error:
            trouble = str(error)


def _colours() -> dict[str, int]:
    """Return the attributes of the colours that this terminal has."""
    if not curses.has_colors():
        return {}
    curses.use_default_colors()  # otherwise all is white on black
    if not has_colours():
        return {}
    numbers = {"green": curses.COLOR_GREEN, "red": curses.COLOR_RED, "yellow": curses.COLOR_YELLOW}
    for pair, number in enumerate(numbers.values(), 1):
        curses.init_pair(pair, number, -1)
    return {name: curses.color_pair(pair) for pair, name in enumerate(numbers, 1)}


def _draw(window: curses.window, trouble: str, changes: Changes, colours: dict[str, int]) -> None:
    (first, state), *rest = changes.lines()
    lines = [(f"{first}  (q ends)", state), *rest]
    if trouble:
        lines.insert(1, (trouble, "refused"))
    window.erase()
    height, width = window.getmaxyx()
    for y, (text, state) in enumerate(lines[:height]):
        attribute = colours.get(colour_of(state), 0) if state else 0
        with suppress(curses.error):  # wide characters may not fit
            window.addnstr(y, 0, encodable(text), width - 1, attribute)
    window.refresh()
