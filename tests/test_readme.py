"""The README is true: its program runs, and its tables name every option."""

from __future__ import annotations

import re
import subprocess
import sys

import click

from p2p_sync.cli.run import run_node
from tests.support import DEADLINE, ROOT

README = (ROOT / "README.md").read_text()


def test_the_library_example_runs_and_is_short() -> None:
    (program,) = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(program.splitlines()) < 15
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["arrived: hello", "['hello']"]


def test_every_option_is_in_the_table_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(--[a-z-]+)`[^|]*\|([^|]*)\|", README, re.M))
    for parameter in run_node.params:
        for name in parameter.opts:
            if not name.startswith("--") or name in ("--version", "--help"):
                continue
            assert name in rows, f"{name} is not in the README"
            flag = isinstance(parameter, click.Option) and parameter.is_flag
            if isinstance(parameter.default, (str, int)) and not flag:
                assert f"{parameter.default}" in rows[name], name


def test_its_pictures_are_there_and_small() -> None:
    names = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README)
    assert names == ["tests/page.png"]
    assert (ROOT / names[0]).stat().st_size < 150_000
