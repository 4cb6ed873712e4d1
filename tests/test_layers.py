"""The house rules: imports point down, each outside package has one door, the rules are pure."""

from __future__ import annotations

import ast
import sys
from functools import cache

import pytest

from tests.support import ROOT

# From the ground to the roof: a module imports from floors below its own, or from its own floor
# what stands before it.
FLOORS = [
    ["version", "codes", "errors", "address", "cursors"],
    ["config"],
    ["logframes", "protocol", "hearings", "proof", "clock", "vector", "replica_link", "replica"],
    ["conduct", "addressbook", "peer", "introductions", "overlay"],
    ["peertable", "verdict", "fairtable", "folding"],
    ["counters", "repeats", "private", "tls", "credentials"],
    ["stream", "frames", "link", "store", "log", "state", "events"],
    ["reporter", "server", "dialer", "mesh", "writer"],
    ["node"],
    ["web.query", "web.bodies", "web.slots", "web.token", "web.problems", "web.guard"],
    ["web.metrics", "web.plain", "web.app", "web.serve"],
    ["logline", "cli.outlet", "cli.signals", "cli.options", "cli.records"],
    ["cli.api", "cli.client", "cli.run", "cli.start"],
]
ORDER = [module for floor in FLOORS for module in floor]
ENTRANCES = {"__init__", "__main__", "web.__init__", "cli.__init__"}

DOORS = {
    "websocket": "frames",
    "websocket_server": "server",
    "sqlite3": "store",
    "waitress": "web.serve",
    "click": "cli",
    "flask": "web.app",
    "werkzeug": "web.app",
    "prometheus_client": "web.metrics",
}
PURE = [*(module for floor in FLOORS[:5] for module in floor), "web.problems", "web.guard"]
IMPURE = {"threading", "time", "secrets", "select", "sqlite3", "logging", "os", "queue"}

PACKAGE = ROOT / "p2p_sync"


@cache
def modules() -> dict[str, ast.Module]:
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(path.read_text())
        for path in PACKAGE.rglob("*.py")
    }


def imports(module: str, tree: ast.Module) -> set[str]:
    """The modules that `module` imports; our own as `.name`."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(str(node.module).split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[: -node.level]
            parts = [*package, *(node.module.split(".") if node.module else [])]
            named = [".".join([*parts, alias.name]) for alias in node.names]
            own = {name for name in named if name in ORDER}
            found.update(f".{name}" for name in own or {".".join(parts)})
    return found


def test_every_module_has_a_floor() -> None:
    assert set(modules()) == set(ORDER) | ENTRANCES


@pytest.mark.parametrize("module", ORDER)
def test_imports_point_down(module: str) -> None:
    own = {name[1:] for name in imports(module, modules()[module]) if name.startswith(".")}
    above = set(ORDER[ORDER.index(module) :])
    assert not own & above


def test_outside_packages_enter_through_one_file_each() -> None:
    doors: dict[str, set[str]] = {}
    for module, tree in modules().items():
        for name in imports(module, tree):
            if not name.startswith(".") and name not in sys.stdlib_module_names - {"sqlite3"}:
                door = "cli" if module.startswith("cli.") else module  # a package is one door
                doors.setdefault(name, set()).add(door)
    assert doors == {package: {module} for package, module in DOORS.items()}


@pytest.mark.parametrize("module", PURE)
def test_rules_are_pure(module: str) -> None:
    assert not imports(module, modules()[module]) & IMPURE


@pytest.mark.parametrize("module", PURE)
def test_rules_draw_from_no_random_source_of_their_own(module: str) -> None:
    calls = [node.func for node in ast.walk(modules()[module]) if isinstance(node, ast.Call)]
    assert not [call for call in calls if ast.unparse(call).startswith("random.")]


def test_no_module_uses_asyncio() -> None:
    assert not [m for m, tree in modules().items() if "asyncio" in imports(m, tree)]
