"""Processes of competitors: started with their output kept, ended by their ids."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from tests.harness.support import DEADLINE, ROOT


@contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str] | None = None, pipes: bool = False
) -> Iterator[subprocess.Popen[str]]:
    """Run `command` until the block ends; with `pipes` its standard streams are the caller's."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
            stdout=subprocess.PIPE if pipes else output,
            stderr=output,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            try:
                process.wait(DEADLINE / 4)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(DEADLINE)
            for stream in (process.stdin, process.stdout):
                if stream:
                    stream.close()
