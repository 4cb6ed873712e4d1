"""Every setting and limit is in `settings.py`, once, with its unit and its reason."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import fields
from itertools import pairwise
from typing import Any, TypeGuard

import pytest

from p2p_sync import InputError, Node, settings
from p2p_sync.address import Address
from p2p_sync.cli.options import node_options, option_fields
from p2p_sync.urls import HubUrl, Url
from tests.harness.support import ROOT
from tests.project.test_layers import folder_of, modules

UNITS = {"Bytes", "BytesPerSecond", "Characters", "Count", "Factor", "Milliseconds", "Seconds"}


def texts_below(body: list[ast.stmt]) -> set[str]:
    """The names of values with a text below them that is a sentence."""
    return {
        ast.unparse(value.target)
        for value, text in pairwise(body)
        if isinstance(value, ast.AnnAssign) and isinstance(text, ast.Expr)
        if ast.literal_eval(text.value).rstrip().endswith(".")
    }


def test_every_limit_has_a_unit_and_a_reason() -> None:
    tree = ast.parse((ROOT / "p2p_sync/settings.py").read_text())
    limits = [name for name, value in vars(settings).items() if isinstance(value, (int, float))]
    units = {
        ast.unparse(node.target): ast.unparse(node.annotation)
        for node in tree.body
        if isinstance(node, ast.AnnAssign)
    }
    assert len(limits) > 50
    for name in limits:
        assert units.get(name) in UNITS, f"{name} has a unit"
        assert name in texts_below(tree.body), f"{name} has a reason"


def test_every_setting_is_an_option_or_has_a_reason() -> None:
    tree = ast.parse((ROOT / "p2p_sync/settings.py").read_text())
    (node,) = (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Settings")
    plain = {f.name for f in fields(settings.Settings) if "option" not in f.metadata}
    assert plain == texts_below(node.body)
    for name, field in option_fields().items():
        about = field.metadata["option"]
        assert about.help.endswith("."), name
    assert len(node_options()) == len(option_fields())


# The parameters of `Node` that take more than the setting holds: paths, addresses as texts.
WIDER = {
    "peers": "Sequence[str]",
    "hooks": "Sequence[str]",
    "advertise": "str | None",
    "hub": "str | None",
    **dict.fromkeys(
        ("secret_file", "hub_file", "tls_cert", "tls_key", "tls_ca", "hook_secret_file"),
        "File | None",
    ),
}


def test_every_setting_is_a_parameter_of_a_node() -> None:
    given = inspect.signature(Node).parameters
    settings_of_node = {f.name: f for f in fields(settings.Settings) if f.name != "dialable"}
    assert list(given) == ["peer_port", "data_dir", *settings_of_node]
    for name, setting in settings_of_node.items():
        wanted = name, WIDER.get(name, setting.type), setting.default
        assert (name, given[name].annotation, given[name].default) == wanted


VALUES: dict[str, tuple[Any, Any]] = {
    "name": ("x", "x"),
    "host": ("localhost", "localhost"),
    "peers": (["a:1"], (Address("a", 1),)),
    "advertise": ("a:1", Address("a", 1)),
    "hooks": (["http://a/b"], (Url(False, "a", 80, "/b"),)),
    "hub": ("redis://a:1/0", HubUrl(False, "", (("a", 1),), "", 0)),
    "hub_file": ("file", "file"),
    "hub_prefix": ("p", "p"),
    "hub_messages": (True, True),
    "hook_topic": ("t", "t"),
    "hook_of": ("own", "own"),
    "hook_secret_file": ("file", "file"),
    **dict.fromkeys(("secret", "secret_file", "tls_cert", "tls_key", "tls_ca"), ("file", "file")),
}


@pytest.mark.parametrize("name", [n for n in inspect.signature(Node).parameters if "_p" not in n])
def test_a_value_reaches_the_settings(name: str) -> None:
    if name == "data_dir":
        return
    given, wanted = VALUES.get(name, (123_456, 123_456))
    option: dict[str, Any] = {name: given}
    if name in ("hub_messages", "hub_prefix"):
        option["hub"] = "redis://a:1/0"
    assert getattr(Node(0, **option)._settings, name) == wanted


def test_a_node_that_cannot_be_dialled() -> None:
    assert not Node(0, advertise="none")._settings.dialable


def test_no_error_of_the_library_names_an_option_of_the_command_line() -> None:
    """`called` says what the user calls a setting."""
    found = []
    for module, tree in modules().items():
        if folder_of(module) in ("web", "cli") or module == "settings":
            continue
        about = {ast.get_docstring(n, clean=False) for n in ast.walk(tree) if is_documented(n)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
                continue
            if node.value not in about and re.search("--[a-z]|P2P_SYNC", node.value):
                found.append(f"{module}:{node.lineno}: {node.value}")
    assert not found


def is_documented(node: ast.AST) -> TypeGuard[ast.Module | ast.ClassDef | ast.FunctionDef]:
    return isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))


BAD: list[dict[str, Any]] = [
    {"max_peers": 0},
    {"max_peers": "8"},
    {"max_peers": 2.5},
    {"max_peers": True},
    {"target_links": -1},
    {"heartbeat": 0},
    {"heartbeat": float("nan")},
    {"redial_longest": float("inf")},
    {"keep": "30d"},
    {"keep_bytes": -(10**400)},
    {"max_message_bytes": 1 << 20},
    {"host": ""},
    {"secret": b"some secret that nobody may see"},
    {"secret_file": ""},
    {"hook_of": "nobody else"},
    {"hooks": "http://nobody@127.0.0.1/"},
    {"peers": "ws://127.0.0.1:1"},
    {"peer_port": "8001"},
    {"peer_port": 65536},
    {"data_dir": ""},
]


@pytest.mark.parametrize("wrong", BAD, ids=lambda wrong: " ".join(wrong))
def test_a_wrong_value_is_refused_by_its_name(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    options: dict[str, Any] = {"peer_port": 0, **wrong}
    with pytest.raises(InputError, match=f"^{name}= is ") as caught:
        Node(**options)
    assert "nobody" not in str(caught.value)


# Numbers that are no limits: exit codes, the version of the database, what names no message.
CODES = {"cli.exits", "disk.schema", "disk.damage"}


def is_number(value: ast.expr) -> bool:
    if isinstance(value, ast.BinOp):
        return is_number(value.left) and is_number(value.right)
    return isinstance(value, ast.Constant) and isinstance(value.value, (int, float))


@pytest.mark.parametrize("folder", ["disk", "web", "cli"])
def test_no_other_file_has_a_limit(folder: str) -> None:
    found = [
        f"{module}: {ast.unparse(node)}"
        for module, tree in modules().items()
        if folder_of(module) == folder and module not in CODES
        for node in tree.body
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value and is_number(node.value)
    ]
    assert not found
