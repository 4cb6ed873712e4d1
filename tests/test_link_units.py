"""What the link layer owes to a program that imports it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from p2p_sync import Node
from tests.support import DEADLINE, ROOT


def test_importing_and_running_a_node_leaves_logging_alone() -> None:
    program = (
        "import logging; from p2p_sync import Node\n"
        "with Node(0): pass\n"
        "assert not logging.getLogger().handlers, logging.getLogger().handlers\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=DEADLINE)


def test_a_port_in_use_is_an_error_and_not_the_end_of_the_program() -> None:
    with Node(0) as first:
        port = int(first.address.rsplit(":", 1)[1])
        with pytest.raises(Exception, match=str(port)), Node(port):
            pass
