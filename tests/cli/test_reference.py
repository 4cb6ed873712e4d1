"""The generated reference is that of the code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.support import DEADLINE, ROOT
from tests.reference import DOCS, pages

NAMES = ["api.md", "exit-codes.md", "library.md", "limits.md", "metrics.md", "options.md"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    command = [sys.executable, "-m", "tests.reference", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=DEADLINE)
    return folder


def test_all_pages_are_written(written: Path) -> None:
    assert sorted(path.name for path in written.iterdir()) == NAMES == sorted(pages())


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_up_to_date(name: str, written: Path) -> None:
    text = (written / name).read_text()
    assert (DOCS / name).read_text() == text, "run: python -m tests.reference"


@pytest.mark.parametrize("name", NAMES)
def test_tables_are_whole(name: str, written: Path) -> None:
    rows = [line for line in (written / name).read_text().splitlines() if line.startswith("|")]
    assert len(rows) > 3
    for row in rows:
        assert row.endswith("|") and row.count(" | ") < 5, row
