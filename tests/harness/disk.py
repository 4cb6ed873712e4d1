"""Disks without room: a small one of the test's own, and a limit of the files of a node."""

from __future__ import annotations

import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.harness.support import NodeProcess


@contextmanager
def small_disk(directory: Path, size: int) -> Iterator[Callable[[int], None]]:
    """Mount a disk of `size` bytes at `directory`; yields what changes the size.

    Skips the test where that cannot be done.
    """
    directory.mkdir()

    def mount(options: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)]
        return subprocess.run(command, capture_output=True).returncode == 0

    def resize(size: int) -> None:
        assert mount(f"size={size},remount")

    if not shutil.which("mount") or not mount(f"size={size}"):
        pytest.skip("a file system of our own cannot be mounted here")
    try:
        yield resize
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


@contextmanager
def small_files(node: NodeProcess, size: int) -> Iterator[None]:
    """Let no file of a node become longer than `size` bytes for the time of the block.

    Skips the test where a process that runs cannot be limited: only Linux can.
    """
    if not hasattr(resource, "prlimit"):
        pytest.skip("only Linux limits the files of a process that runs")
    before = resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # it may have ended
            resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, before)
