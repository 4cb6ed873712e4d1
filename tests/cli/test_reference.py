"""The generated reference is that of the code."""

from __future__ import annotations

import pytest

from p2p_sync.cli.reference import DOCS, pages

PAGES = pages()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_up_to_date(name: str) -> None:
    assert (DOCS / name).read_text() == PAGES[name], "run: python -m p2p_sync.cli.reference"


def test_tables_are_whole() -> None:
    for name, text in PAGES.items():
        rows = [line for line in text.splitlines() if line.startswith("|")]
        assert len(rows) > 3, name
        for row in rows:
            assert row.endswith("|") and row.count(" | ") < 5, row
