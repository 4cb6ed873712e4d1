"""Every program that the README or a docstring names starts, in its shortest form."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.browser import missing
from tests.support import DEADLINE, ROOT, free_port_pair

PROGRAMS = {
    "simulation": ["--nodes", "20", "--degree", "4"],
    "histories": ["--count", "3", "--seed", "7"],
    "histories with a trace": ["--seed", "7", "--trace"],
    "fuzz": ["--inputs", "300", "--seed", "2"],
}
STARTED_IN = {
    "bench": "tests/test_bench.py",
    "bench.flask_route": "tests/bench/flask_route.py",
    "echo_client": "tests/test_echo.py",
    "echo_server": "tests/test_echo.py",
}
"""Where the others are started."""


def run(program: str, *options: str, timeout: float = 3 * DEADLINE) -> str:
    """Run `python -m tests.PROGRAM` to its end and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.{program}", *options],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_runs(name: str) -> None:
    assert run(name.split()[0], *PROGRAMS[name])


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_the_picture_is_taken(tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    port = str(free_port_pair())
    run("screenshot", str(picture), "--port", port, "--seconds", "3", timeout=9 * DEADLINE)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_suite_of_autobahn_needs_its_program() -> None:
    command = [sys.executable, "-m", "tests.autobahn", "/nonexistent/wstest"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode != 0
    assert "wstest" in done.stderr and "Traceback" not in done.stderr, done.stderr


def named() -> set[str]:
    """The programs of the tests that somebody is told to start."""
    found = set()
    for path in (ROOT / "README.md", *(ROOT / "tests").rglob("*.py")):
        found.update(re.findall(r"python -m tests\.([a-z_.]*[a-z_])", path.read_text()))
    return found


def test_every_program_that_is_named_is_started() -> None:
    here = {*(name.split()[0] for name in PROGRAMS), "screenshot"}
    assert named() == here | STARTED_IN.keys() | {"autobahn"}
    assert "-m tests.autobahn" in (ROOT / ".ci/run").read_text()
    for program, place in STARTED_IN.items():
        assert f'"tests.{program}"' in (ROOT / place).read_text(), f"{place} starts {program}"
