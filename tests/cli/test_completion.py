"""Completion in real shells, set up by the lines that the manual prints."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.harness.support import ROOT, RUN_NODE
from tests.harness.terminal import Terminal

MANUAL = (ROOT / "p2p_sync/docs/operating.md").read_text()
SHELLS = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "--no-config", "-i"],
}

COMPLETED = {
    "acknow": "acknowledge",
    "status --tok": "status --token-file",
    "8000 --name a --ephe": "8000 --name a --ephemeral",
    "run --log-level warn": "run --log-level warning",
    "run --secret-file some-l": "run --secret-file some-long-name",
    "backup some-l": "backup some-long-name",
}
"""What is typed before the tab, and the arguments then."""


def line_of(shell: str) -> str:
    """The line of the manual that sets up completion."""
    (line,) = re.findall(rf"`([^`]*_P2P_SYNC_COMPLETE={shell}_source [^`]*)`", MANUAL)
    return str(line)


@contextmanager
def prepared(shell: str, folder: Path) -> Iterator[Terminal]:
    """A shell that has run the line of the manual. p2p-sync prints its arguments there, unless it
    is asked for completions."""
    if not shutil.which(shell):
        pytest.skip(f"needs {shell}")
    program = folder / "bin" / "p2p-sync"
    program.parent.mkdir()
    program.write_text(
        '#!/bin/sh\n[ "$_P2P_SYNC_COMPLETE" ] || exec printf "<%s>\\n" "$*"\n'
        f'exec {" ".join(RUN_NODE)} "$@"\n'
    )
    program.chmod(0o755)
    path = f"{program.parent}:{os.environ['PATH']}"
    with Terminal(*SHELLS[shell], PATH=path, HOME=str(folder), COLUMNS="200") as terminal:
        terminal.type(f"cd '{folder}'\n")
        if shell == "zsh":
            terminal.type("autoload -Uz compinit; compinit -u\n")
        terminal.type(f"{line_of(shell)}\n")
        terminal.type("echo pre'par'ed\n")
        terminal.wait_shown("prepared")
        yield terminal


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes(shell: str, tmp_path: Path) -> None:
    (tmp_path / "some-long-name").touch()
    with prepared(shell, tmp_path) as terminal:
        for typed, completed in COMPLETED.items():
            terminal.type(f"p2p-sync {typed}\t\n")
            terminal.wait_shown(f"<{completed}>")
