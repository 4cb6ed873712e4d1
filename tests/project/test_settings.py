"""Every setting and limit is in `settings.py`, once, with its unit and its reason."""

from __future__ import annotations

import ast
from dataclasses import fields
from itertools import pairwise

import pytest

from p2p_sync import settings
from p2p_sync.cli.options import node_options, option_fields
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
