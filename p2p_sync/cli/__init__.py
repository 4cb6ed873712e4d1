"""The command line: `run` runs a node, `client` talks to a running one, `start` decides.

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
    if given and given[0].isalpha():  # a command that talks to a running node, and no PORT
        signals: CommandSignals | NodeSignals = CommandSignals()
    else:
        signals = NodeSignals()
    from .start import start

    return start(given, signals)


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
