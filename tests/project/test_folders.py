"""Each folder has a README of two screens, and its lists are those of the code.

A list is a table that begins with the heading `file`, `thread` or `lock`. Names in backticks are
checked: files, threads by their `name` with each variable part in capitals (`dial ADDRESS`), locks
as `Class.attribute`. Other names, such as "the main thread", are free.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.harness.support import ROOT
from tests.project.documents import DOCUMENTS, Document, table
from tests.project.test_layers import FOLDERS

PACKAGE = ROOT / "p2p_sync"
DOCUMENTED = [(PACKAGE / name) for name in [*FOLDERS, "docs"]]
MAKES_LOCK = {"Lock", "RLock", "Condition", "Semaphore", "BoundedSemaphore"}
SCREENS = 75
"""Lines of a README; two screens are about 70."""


class Made(NamedTuple):
    """A thread or a lock, where the code makes it."""

    name: str
    place: str


def readme(folder: Path) -> Document:
    return Document(folder / "README.md")


def listed(folder: Path, head: str) -> set[str]:
    """The names in backticks in the first column of the tables with that heading."""
    return {name for cell in readme(folder).column(head) for name in re.findall(r"`([^`]+)`", cell)}


def sources(folder: Path) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(folder.glob("*.py")):
        yield path, ast.parse(path.read_text())


def called(node: ast.AST) -> str:
    """The last name of what a call calls, "" for what is no call."""
    return ast.unparse(node.func).split(".")[-1] if isinstance(node, ast.Call) else ""


def threads(folder: Path) -> Iterator[Made]:
    """The threads that a folder makes; a variable part of a name is a capital letter."""
    for path, module in sources(folder):
        for node in ast.walk(module):
            if not isinstance(node, ast.Call) or called(node) != "Thread":
                continue
            place = f"{path.name}:{node.lineno}"
            names = [option.value for option in node.keywords if option.arg == "name"]
            assert names, f"{place}: give the thread a name"
            given = assigned(names[0], module)
            parts = given.values if isinstance(given, ast.JoinedStr) else [given]
            texts = [part.value if isinstance(part, ast.Constant) else "X" for part in parts]
            yield Made("".join(map(str, texts)), place)


def assigned(value: ast.expr, module: ast.Module) -> ast.expr:
    """The value itself; of a variable, what was assigned to it last."""
    if not isinstance(value, ast.Name):
        return value
    before = [
        node
        for node in ast.walk(module)
        if isinstance(node, ast.Assign) and node.lineno < value.lineno
        if ast.unparse(node.targets[0]) == value.id
    ]
    return max(before, key=lambda node: node.lineno).value


def locks(folder: Path) -> Iterator[Made]:
    """The locks that the classes of a folder make. A condition on a lock there is no new one."""
    for path, module in sources(folder):
        for owner in ast.walk(module):
            if not isinstance(owner, ast.ClassDef):
                continue
            for node in ast.walk(owner):
                if not isinstance(node, (ast.Assign, ast.AnnAssign)) or node.value is None:
                    continue
                if not any(makes_lock(part) for part in ast.walk(node.value)):
                    continue
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                name = ast.unparse(target).removeprefix("self.")
                yield Made(f"{owner.name}.{name}", f"{path.name}:{node.lineno}")


def makes_lock(node: ast.AST) -> bool:
    if isinstance(node, ast.keyword) and node.arg == "default_factory":
        return ast.unparse(node.value).split(".")[-1] in MAKES_LOCK
    if called(node) == "Condition" and isinstance(node, ast.Call) and node.args:
        return makes_lock(node.args[0])
    return called(node) in MAKES_LOCK


def files(folder: Path) -> set[str]:
    """The names that a README has to list: files with content, and folders that are no layers."""
    named = set()
    for path in folder.iterdir():
        if path.name in ("__pycache__", "README.md", *FOLDERS) or path.name.startswith("."):
            continue
        if path.is_dir():
            named.add(f"{path.name}/")
        elif path.stat().st_size:
            named.add(path.name)
    return named


def variable(name: str) -> str:
    """A name with each part in capitals as one capital letter."""
    return re.sub(r"\b[A-Z]+\b", "X", name)


IDS = [folder.name for folder in DOCUMENTED]


@pytest.mark.parametrize("folder", DOCUMENTED, ids=IDS)
def test_a_folder_has_a_readme_of_two_screens(folder: Path) -> None:
    lines = readme(folder).text.splitlines()
    assert lines[0].startswith("# ")
    assert len(lines) <= SCREENS
    assert "| file |" in "\n".join(lines[:10]), "it starts with what lives here"


@pytest.mark.parametrize("folder", DOCUMENTED, ids=IDS)
def test_it_lists_the_files(folder: Path) -> None:
    missing, stale = compare(listed(folder, "file"), files(folder))
    assert not missing, f"{readme(folder).name}: add a line about these files"
    assert not stale, f"{readme(folder).name}: these are no files of the folder"


@pytest.mark.parametrize("folder", DOCUMENTED, ids=IDS)
def test_it_lists_the_threads(folder: Path) -> None:
    made = {thread.name: thread.place for thread in threads(folder)}
    missing, stale = compare({variable(name) for name in listed(folder, "thread")}, set(made))
    places = [f"{name} ({made[name]})" for name in missing]
    assert not places, f"{readme(folder).name}: add these to the table of threads"
    assert not stale, f"{readme(folder).name}: the folder makes no such threads"


@pytest.mark.parametrize("folder", DOCUMENTED, ids=IDS)
def test_it_lists_the_locks(folder: Path) -> None:
    made = {lock.name: lock.place for lock in locks(folder)}
    missing, stale = compare(listed(folder, "lock"), set(made))
    places = [f"{name} ({made[name]})" for name in missing]
    assert not places, f"{readme(folder).name}: add these to the table of locks"
    assert not stale, f"{readme(folder).name}: the folder makes no such locks"


def compare(listed: set[str], there: set[str]) -> tuple[list[str], list[str]]:
    return sorted(there - listed), sorted(listed - there)


def test_the_layers_are_listed_in_their_order() -> None:
    names = re.findall(r"`(\w+)/`", " ".join(table("folder", "holds")))
    assert [name.removeprefix("p2p_sync") for name in names] == FOLDERS


def test_a_method_that_a_document_names_is_in_the_code() -> None:
    source = "".join(path.read_text() for path in ROOT.rglob("p2p_sync/**/*.py"))
    for document in DOCUMENTS:
        for owner, name in re.findall(r"`([A-Z]\w+)\.(\w+)(?:\(\))?`", document.prose):
            assert re.search(rf"^class {owner}\b", source, re.M), f"{document.name}: {owner}"
            assert re.search(rf"\b{name}\b", source), f"{document.name}: {owner}.{name}"


def test_the_tests_are_listed() -> None:
    folder = ROOT / "tests"
    folders = {f"tests/{path.parent.name}/" for path in folder.glob("*/__init__.py")}
    assert {name.strip("`") for name in readme(folder).column("folder")} == folders
    programs = {f"tests/{path.name}" for path in folder.glob("*.py") if path.stat().st_size}
    assert not programs - set(re.findall(r"`(tests/\w+\.py)`", readme(folder).prose))
