"""Packages of Node.js for the tests and benchmarks that use it."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path


@cache
def node_modules(*packages: str) -> str:
    """The directory of Node's packages with these in it, for NODE_PATH.

    P2P_SYNC_TEST_NODE_MODULES names a directory that keeps them from one run to the next. Raises
    LookupError, with a sentence, where there is no Node.js or the packages cannot be had.
    """
    for tool in ("node", "npm"):
        if not shutil.which(tool):
            raise LookupError(f"{tool} is not on this machine")
    prefix = os.environ.get("P2P_SYNC_TEST_NODE_MODULES", "")
    if not prefix:
        kept = tempfile.TemporaryDirectory(prefix="p2p-test-npm-")
        atexit.register(kept.cleanup)
        prefix = kept.name
    found = Path(prefix) / "node_modules"
    if not all((found / name).is_dir() for name in packages):
        command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", prefix, *packages]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=120)
        except (subprocess.SubprocessError, OSError) as error:
            raise LookupError(f"npm cannot install {' and '.join(packages)}: {error}") from None
    return str(found)
