"""A node of the library in a process of its own, from the fork server."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from p2p_sync import Node
from p2p_sync.disk import witness
from tests.harness.forkserver import context
from tests.harness.support import DEADLINE


def _run(connection: Connection, directory: Path, boot: Path | None) -> None:
    """Commit each text that comes, and send back the origin and the number."""
    if boot:
        witness.BOOT_ID = boot
    with Node(0, directory) as node:
        while text := connection.recv():
            message = node.commit(text)
            connection.send((message.origin, message.seq))


class Forked:
    """A node in a process of its own."""

    def __init__(self, process: BaseProcess, connection: Connection) -> None:
        self._process = process
        self._connection = connection

    def commit(self, text: str) -> tuple[str, int]:
        """Commit a message; return its origin and number. Raises EOFError if the node has ended."""
        try:
            self._connection.send(text)
            assert self._connection.poll(DEADLINE), "the node does not answer"
            origin, seq = self._connection.recv()
        except (BrokenPipeError, ConnectionResetError):
            raise EOFError from None
        return str(origin), int(seq)

    def end(self, kill: bool) -> None:
        """Stop the node, or kill its process."""
        if kill:
            self._process.kill()
        else:
            with suppress(OSError):  # it has ended by itself
                self._connection.send("")
        self._process.join(DEADLINE)
        assert self._process.exitcode is not None, "it does not end"


@contextmanager
def forked(directory: Path, *, kill: bool = False, boot: Path | None = None) -> Iterator[Forked]:
    """Run a node that is stopped, or killed, at the end of the block. `boot` is in the place of the
    file with the id of the boot."""
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(theirs, directory, boot))
    process.start()
    theirs.close()
    node = Forked(process, ours)
    try:
        yield node
    finally:
        node.end(kill)
        ours.close()
    assert process.exitcode == (-signal.SIGKILL if kill else 0)
