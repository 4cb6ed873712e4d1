"""The documents of the project as the tests read them: their prose, tables and commands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from tests.harness.support import ROOT


class Document:
    """One Markdown file. `name` is its path from the top of the project."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path.relative_to(ROOT))
        self.text = path.read_text()

    @cached_property
    def prose(self) -> str:
        """All but the blocks of code."""
        return re.sub(r"```.*?```", "", self.text, flags=re.S)

    @cached_property
    def tables(self) -> list[list[list[str]]]:
        """The rows of each table, each a list of cells."""
        blocks = re.findall(r"(?:^\|.*\n)+", self.prose + "\n", re.M)
        return [[cells(line) for line in block.splitlines()] for block in blocks]

    def blocks(self, language: str) -> list[str]:
        """The blocks of code in a language."""
        return re.findall(rf"```{language}\n(.*?)```", self.text, re.S)

    def column(self, head: str) -> list[str]:
        """The first cells of all tables whose first heading is `head`."""
        return [row[0] for rows in self.tables if rows[0][0] == head for row in rows[2:]]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]


def documents() -> Iterator[Document]:
    """Every document of the project; the README comes first."""
    yield Document(ROOT / "README.md")
    for folder in ("p2p_sync", "tests"):
        for path in sorted((ROOT / folder).rglob("*.md")):
            yield Document(path)


DOCUMENTS = list(documents())
README = DOCUMENTS[0]
PROSE = "\n".join(text.prose for text in DOCUMENTS)
SENTENCES = " ".join(PROSE.split())
"""The same without line ends, for patterns that cross them."""


def table(*head: str) -> dict[str, list[str]]:
    """The rows below `head`, in whichever document has that table, by their first cell."""
    (rows,) = (rows for text in DOCUMENTS for rows in text.tables if rows[0] == list(head))
    return {row[0]: row[1:] for row in rows[2:]}
