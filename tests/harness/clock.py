"""A node on a machine whose clock is wrong."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from tests.harness.support import NodeProcess

SITE = """
import os, time
_time, _time_ns, _path = time.time, time.time_ns, os.environ["TEST_CLOCK"]
def _offset():
    with open(_path) as file:
        return float(file.read() or 0)
time.time = lambda: _time() + _offset()
time.time_ns = lambda: _time_ns() + int(_offset() * 1e9)
"""


class Machine(NodeProcess):
    """A node whose clock is ahead by `offset` seconds, or behind; else as NodeProcess."""

    def __init__(self, offset: float, *options: str, **how: Any) -> None:
        self._site = tempfile.TemporaryDirectory(prefix="p2p-test-")
        directory = Path(self._site.name)
        (directory / "sitecustomize.py").write_text(SITE)
        self._clock = directory / "clock"
        self.set_clock(offset)
        environment = {"PYTHONPATH": str(directory), "TEST_CLOCK": str(self._clock)}
        super().__init__(*options, environment=environment, **how)

    def set_clock(self, offset: float) -> None:
        new = self._clock.with_name("clock.new")
        new.write_text(str(offset))
        new.replace(self._clock)  # at once, for the node reads it at any moment

    def close(self) -> None:
        super().close()
        self._site.cleanup()

    def __enter__(self) -> Machine:
        return self

    def warnings(self) -> str:
        return " | ".join(self.status()["warnings"])

    def metric(self, name: str) -> float:
        lines = self.get("/metrics").text.splitlines()
        return next(
            float(line.split()[-1]) for line in lines if line.startswith(f"p2p_sync_{name}")
        )
