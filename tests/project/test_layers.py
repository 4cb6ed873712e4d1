"""Folders are layers: imports go up the table, each outside package enters through one file."""

from __future__ import annotations

import ast
import sys
from functools import cache
from typing import NamedTuple

import pytest

from tests.harness.support import ROOT


class Layer(NamedTuple):
    """A folder of the package. It may import from itself and from the rows above it."""

    folder: str
    # The outside packages that it may import, and the one file that each enters through; "" is the
    # whole folder.
    doors: dict[str, str]
    # No thread, lock, clock, file, socket or randomness of its own.
    pure: bool = False


LAYERS = [
    Layer("", {}),
    Layer("wire", {"cryptography": "identity"}, pure=True),
    Layer("core", {}, pure=True),
    Layer("disk", {"sqlite3": "store"}),
    Layer("net", {"websocket": "websocket", "websocket_server": "listener", "redis": "redis"}),
    Layer("node", {}),
    Layer(
        "web",
        {"flask": "app", "werkzeug": "app", "waitress": "engine", "prometheus_client": "metrics"},
    ),
    Layer("cli", {"click": ""}),
]
FOLDERS = [layer.folder for layer in LAYERS]
# Where the package begins; they import what they start.
ENTRANCES = {"__init__", "__main__"}
IMPURE = {
    "logging",
    "os",
    "queue",
    "secrets",
    "select",
    "sqlite3",
    "subprocess",
    "threading",
    "time",
}
PURE_ELSEWHERE = [
    "address", "errors", "net.handshake", "settings", "urls", "web.answers", "web.guard"
]  # fmt: skip

PACKAGE = ROOT / "p2p_sync"


@cache
def modules() -> dict[str, ast.Module]:
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(path.read_text())
        for path in PACKAGE.rglob("*.py")
    }


def folder_of(module: str) -> str:
    return module.rpartition(".")[0]


def imports(module: str) -> set[str]:
    """Return the modules that `module` imports; our own as `.name`."""
    found: set[str] = set()
    for node in ast.walk(modules()[module]):
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(str(node.module).split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[: -node.level]
            parts = [*package, *(node.module.split(".") if node.module else [])]
            for alias in node.names:
                name = ".".join([*parts, alias.name])
                found.add("." + (name if name in modules() else ".".join(parts)))
    return found


def own_imports(module: str) -> set[str]:
    return {name[1:] for name in imports(module) if name.startswith(".")}


def test_each_folder_is_a_layer() -> None:
    assert {folder_of(module) for module in modules()} == set(FOLDERS)


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_imports_from_the_rows_above_only(folder: str) -> None:
    above = FOLDERS[: FOLDERS.index(folder) + 1]
    wrong = {
        (module, name)
        for module in modules()
        if folder_of(module) == folder and module not in ENTRANCES
        for name in own_imports(module)
        if folder_of(name) not in above and name not in above
    }
    assert not wrong


def test_imports_make_no_cycles() -> None:
    left = {module: own_imports(module) - {module} for module in modules()}
    while ready := [module for module, wanted in left.items() if not wanted & left.keys()]:
        for module in ready:
            del left[module]
    assert not left


@pytest.mark.parametrize("layer", LAYERS, ids=FOLDERS)
def test_each_outside_package_enters_through_one_file(layer: Layer) -> None:
    doors: dict[str, str] = {}
    for module in modules():
        if folder_of(module) != layer.folder:
            continue
        for name in imports(module):
            if not name.startswith(".") and name not in sys.stdlib_module_names - {"sqlite3"}:
                whole = layer.doors.get(name) == ""
                doors[name] = "" if whole else module.rpartition(".")[2]
    assert doors == layer.doors


def pure() -> list[str]:
    folders = [layer.folder for layer in LAYERS if layer.pure]
    return sorted(m for m in modules() if folder_of(m) in folders) + PURE_ELSEWHERE


@pytest.mark.parametrize("module", pure())
def test_rules_are_pure(module: str) -> None:
    assert not imports(module) & IMPURE


@pytest.mark.parametrize("module", pure())
def test_rules_draw_from_no_random_source_of_their_own(module: str) -> None:
    calls = [node.func for node in ast.walk(modules()[module]) if isinstance(node, ast.Call)]
    assert not [call for call in calls if ast.unparse(call).startswith("random.")]


def test_no_module_uses_asyncio() -> None:
    assert not [module for module in modules() if "asyncio" in imports(module)]
