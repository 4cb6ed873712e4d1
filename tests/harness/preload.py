"""What the fork server imports before it forks; see forkserver.py."""

import gc

from p2p_sync.cli import run, start
from tests.harness import forked

__all__ = ["forked", "run", "start"]

gc.freeze()  # a collection in a child would copy all pages that it shares with the others
