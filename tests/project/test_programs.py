"""Every program that a document or a docstring names starts, in its shortest form."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.browser import missing
from tests.harness.support import DEADLINE, ROOT, free_port_pair
from tests.project.documents import PROSE

PROGRAMS = {
    "simulation": ["--nodes", "20", "--degree", "4"],
    "histories": ["--count", "3", "--seed", "7"],
    "histories with a trace": ["--seed", "7", "--trace"],
    "bench.consumers": ["--messages", "50"],
    "fuzz": ["--inputs", "300", "--seed", "2"],
}


PAGE_SPEED = "tests.bench.page"


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


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_the_page_is_measured() -> None:
    given = ["--messages", "2", "--seconds", "1", "--origins", "100", "--pages", "3"]
    told = run(PAGE_SPEED.removeprefix("tests."), *given, timeout=9 * DEADLINE).splitlines()
    assert len(told) == 7 and told[0].startswith("a commit until it is in the page of another node")


def test_the_suite_of_autobahn_needs_its_program() -> None:
    command = [sys.executable, "-m", "tests.autobahn", "/nonexistent/wstest"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode != 0
    assert "wstest" in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_every_program_that_is_named_is_started() -> None:
    """Here, by .ci/run, or by a test that writes the module's name in a list of words."""
    files = [ROOT / ".ci" / "run", *(ROOT / "tests").rglob("*.py")]
    texts = {path.name: path.read_text() for path in files}
    texts["documents"] = PROSE
    named = set(re.findall(r"python -m tests\.([a-z_.]*[a-z_])", "".join(texts.values())))
    started = set(re.findall(r"-m tests\.([a-z_]+)", texts["run"]))
    started |= {"screenshot", *(name.split()[0] for name in PROGRAMS)}
    for text in texts.values():
        started.update(re.findall(r'"tests\.([a-z_.]+)"', text))
    assert {"autobahn", "bench", "echo_client", "simulation"} <= named
    assert named <= started
