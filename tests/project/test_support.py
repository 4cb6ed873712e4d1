"""The harness of the tests, and rules that all tests keep."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.harness import support
from tests.harness.support import DEADLINE, ROOT, NodeProcess, free_port_pair
from tests.project.documents import table

IGNORING = ["sh", "-c", """trap '' INT QUIT HUP; exec "$@" """, "sh"]
"""Starts a command as a shell starts a background job, and nohup one."""


def test_tests_pass_in_the_background() -> None:
    """The signals that they send reach the programs that they start."""
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:cacheprovider"]
    test = "tests/cli/test_client.py::test_following_ends_without_a_word[interrupted]"
    done = subprocess.run(
        [*IGNORING, *command, test],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE,
    )
    assert done.returncode == 0, done.stdout


def test_each_worker_has_ports_of_its_own() -> None:
    program = (
        "from tests.harness.support import free_port_pair as port\n"
        "print(*(port() for _ in range(200)))"
    )
    found = []
    for worker in ("gw0", "gw1", "gw2"):
        workers = {"PYTEST_XDIST_WORKER": worker, "PYTEST_XDIST_WORKER_COUNT": "3"}
        environment = {**os.environ, **workers}
        printed = subprocess.check_output(
            [sys.executable, "-c", program], cwd=ROOT, env=environment, text=True
        )
        found.append([int(port) for port in printed.split()])
    assert min(found[0]) >= 10_000 and max(found[2]) < 30_000
    assert max(found[0]) + 1 < min(found[1]) and max(found[1]) + 1 < min(found[2])


GROUPED = """
from tests import conftest
from tests.conftest import pytest_collection_modifyitems, pytest_xdist_make_scheduler
conftest.GROUPS.update(test_c="slow", test_d="slow")
"""
NOTES_ITS_WORKER = """
import os, pathlib, time, pytest
@pytest.mark.parametrize("number", range(4))
def test(number):
    time.sleep(0.05)
    with pathlib.Path(f"{os.environ['PYTEST_XDIST_WORKER']}.txt").open("a") as file:
        file.write(pathlib.Path(__file__).stem[-1])
"""


def test_one_worker_runs_a_module_or_a_group_and_groups_come_first(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(GROUPED)
    for name in "abcd":
        (tmp_path / f"test_{name}.py").write_text(NOTES_ITS_WORKER)
    (tmp_path / "pytest.ini").write_text("[pytest]")
    how = ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *how],
        cwd=tmp_path,
        env={**without_xdist(), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE,
    )
    assert done.returncode == 0, done.stdout
    ran = [file.read_text() for file in tmp_path.glob("gw*.txt")]
    assert any(tests.startswith("ccccdddd") for tests in ran), ran
    assert len("".join(ran)) == 16 and all(4 * name in "/".join(ran) for name in "ab"), ran


def without_xdist() -> dict[str, str]:
    """The environment, without what a worker of pytest-xdist has there."""
    return {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")}


def test_another_node_on_the_same_port_is_not_taken_for_the_one_that_starts() -> None:
    with NodeProcess("--ephemeral") as other:
        node = NodeProcess("--ephemeral", port=other.port, wait=False)
        with closing(node), pytest.raises(AssertionError, match="in use"):
            node.wait_ready()


def test_a_node_whose_port_is_taken_before_it_starts_gets_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with NodeProcess("--ephemeral") as other:
        taken = [other.port, other.port - 1]  # so its HTTP port, then its peer port is in use
        ports = iter([*taken, free_port_pair()])
        monkeypatch.setattr(support, "free_port_pair", lambda: next(ports))
        with NodeProcess("--ephemeral") as node:
            assert node.id != other.id and node.port not in taken
            assert node.address == f"ws://127.0.0.1:{node.port + 1}"
            assert "in use" not in node.log()


def sleeps(path: Path) -> Iterator[str]:
    """Where the file sleeps: by `time`, or by an event that nothing sets."""
    for call in ast.walk(ast.parse(path.read_text())):
        if isinstance(call, ast.Call) and re.fullmatch(
            r"(time\.|asyncio\.)?sleep|(threading\.)?Event\(\)\.wait", ast.unparse(call.func)
        ):
            yield f"{path.relative_to(ROOT)}:{call.lineno}"


def test_tests_wait_for_what_they_expect_and_do_not_sleep() -> None:
    """`pause` of the harness alone sleeps. The benchmarks pace what they measure on their own."""
    files = [path for path in (ROOT / "tests").rglob("*.py") if path.parent.name != "bench"]
    found = [place for path in files for place in sleeps(path)]
    assert [place.partition(":")[0] for place in found] == ["tests/harness/support.py"], found


def test_the_document_of_the_tests_lists_what_they_share() -> None:
    cells = table("file in `tests/harness/`", "what tests share")
    listed = sorted(name for cell in cells for name in re.findall(r"`([^`]+)`", cell))
    files = [path for path in (ROOT / "tests" / "harness").iterdir() if path.is_file()]
    assert listed == sorted(path.name for path in files if path.stat().st_size)
