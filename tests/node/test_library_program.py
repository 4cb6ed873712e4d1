"""The programs in the reference of the library: they run, and their types are right."""

from __future__ import annotations

import ast
import configparser
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

import p2p_sync
from tests.harness.support import DEADLINE, ROOT, START_DEADLINE, NodeProcess, wait_until

PROGRAM = ROOT / "tests" / "example.py"
CONSUMER = ROOT / "tests" / "example_consumer.py"

MISTAKES = """
from p2p_sync import Node
from p2p_sync import Nod  # wrong
with Node(0, max_peers=8, keep=60) as node:
    node.status().verdict.text.upper()
    node.status().verdict.txt  # wrong
    node.status()["verdict"]  # wrong
    node.peers()[0].state == "connected"
    node.peers()[0].state == "conected"  # wrong
    node.events().events[0].type == "refsued"  # wrong
    node.on_message(print, topic="deploy")
    node.on_message(lambda: None)  # wrong
    node.wait_linked("1")  # wrong
    node.log.arrivals(0, 10)
Node(0, max_peers="8")  # wrong
Node(0, heart_beat=1)  # wrong
Node(0, peers=5)  # wrong
"""


def install(folder: Path) -> str:
    """Make an environment with the package as setup.cfg installs it; return its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = str(folder / "bin" / "python")
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    answer = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True)
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    data = re.split(r"[\s,]+", setup["options.package_data"]["p2p_sync"])
    for pattern in ("**/*.py", *data):
        for path in (ROOT / "p2p_sync").glob(pattern):
            place = Path(answer.stdout.strip()) / path.relative_to(ROOT)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)
    return python


def test_a_type_checker_accepts_the_program_and_sees_mistakes(tmp_path: Path) -> None:
    mypy = shutil.which("mypy", path=str(Path(sys.executable).parent))
    if not mypy:
        pytest.skip("mypy is not installed beside this Python; .ci/run installs it")
    work = tmp_path / "work"
    work.mkdir()
    shutil.copy(PROGRAM, work)
    shutil.copy(CONSUMER, work)
    (work / "mistakes.py").write_text(MISTAKES)
    python = install(tmp_path / "venv")
    done = subprocess.run(
        [
            mypy,
            "--strict",
            "--python-executable",
            python,
            "example.py",
            CONSUMER.name,
            "mistakes.py",
        ],
        cwd=work,
        capture_output=True,
        text=True,
        timeout=2 * START_DEADLINE,
    )
    found = re.findall(r"^(\S+):(\d+): error", done.stdout, re.M)
    lines = [n for n, text in enumerate(MISTAKES.splitlines(), 1) if "# wrong" in text]
    assert found == [("mistakes.py", f"{line}") for line in lines], done.stdout + done.stderr


@pytest.mark.parametrize("program", [PROGRAM, CONSUMER], ids=lambda path: path.stem)
def test_the_program_needs_nothing_but_public_names(program: Path) -> None:
    for node in ast.walk(ast.parse(program.read_text())):
        if isinstance(node, ast.ImportFrom) and f"{node.module}".startswith("p2p_sync"):
            assert node.module == "p2p_sync"
            assert {name.name for name in node.names} <= set(p2p_sync.__all__)


def test_the_program_runs(tmp_path: Path) -> None:
    with NodeProcess() as node:
        node.commit("from before")
        done = subprocess.run(
            [sys.executable, str(PROGRAM), str(tmp_path / "data"), node.address],
            env={"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=2 * DEADLINE,
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        lines = done.stdout.splitlines()
        # What was there before may be on its way.
        assert re.match("In sync with 1 of 1 peer|Catching up|Connecting", lines[-1]), lines
        assert any(line.startswith("1 other host has ") for line in lines), lines
        assert any(" is connected, " in line for line in lines), lines
        assert any(line.startswith("joined: ") for line in lines), lines
        assert "hello" in node.texts() and "from before" in node.texts()


def test_the_program_says_why_it_cannot_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path / "file"), "ws://127.0.0.1:1"],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert done.returncode == 1 and "is not a directory; choose another" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_public_name_is_there() -> None:
    for name in p2p_sync.__all__:
        assert getattr(p2p_sync, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nod'"):
        getattr(p2p_sync, "Nod")  # noqa: B009


def test_a_program_that_is_killed_misses_no_message(tmp_path: Path) -> None:
    pages = tmp_path / "data" / "pages"

    def paged() -> set[str]:
        return set(re.findall(r"alarm \d+", pages.read_text())) if pages.exists() else set()

    def is_paged(*texts: str) -> bool:
        return paged().issuperset(texts)

    wanted: set[str] = set()
    with NodeProcess() as node:
        for number, end in enumerate([signal.SIGKILL, signal.SIGKILL, signal.SIGINT]):
            command = [sys.executable, str(CONSUMER), str(tmp_path / "data"), node.address]
            pipe = subprocess.PIPE
            with subprocess.Popen(command, env={"PYTHONPATH": str(ROOT)}, stderr=pipe) as program:
                try:
                    for each in range(5):
                        wanted.add(f"alarm {number}{each}")
                        node.get(f"/commit?msg=alarm+{number}{each}&topic=alarm")
                    wait_until(partial(is_paged, f"alarm {number}0"))
                    if end == signal.SIGINT:
                        wait_until(partial(is_paged, *wanted))
                finally:
                    program.send_signal(end)
                _, said = program.communicate(timeout=DEADLINE)
                assert (program.returncode, said) == (0 if end == signal.SIGINT else -9, b"")
