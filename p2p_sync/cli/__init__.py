"""The command line: `program` is the table of commands, `start` runs one of them.

This file imports nothing that takes time: signal handlers come first. A process that is PID 1 of a
container has no default handlers, so it would lose a SIGTERM that arrives during its imports.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from .signals import CommandSignals, NodeSignals


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line in the main thread; return the exit code (see exits.py).

    `arguments` are those after the program's name; None: those of the process.
    """
    _open_standard_streams()
    given = list(sys.argv[1:] if arguments is None else arguments)
    is_node = not names_command(given) or given[0] == "run"
    signals = NodeSignals() if is_node else CommandSignals()
    from .start import start

    return start(given, signals)


def names_command(arguments: Sequence[str]) -> bool:
    """Return whether `arguments` begin with a command, or ask about all of them; otherwise they are
    those of `run`."""
    first = arguments[0] if arguments else ""
    return first.isalpha() or first in ("-h", "--help", "--version")


def _open_standard_streams() -> None:
    """Open /dev/null for each standard stream that is closed.

    Otherwise the first file or socket gets its descriptor, and the log is written into that.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it takes the lowest free number
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
