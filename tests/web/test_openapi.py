"""The description of the API is true: it names the routes there are, and schemathesis agrees."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest

import p2p_sync
from p2p_sync import Node
from p2p_sync.web.app import create_app
from tests.harness.support import ROOT, SCALE, NodeProcess, wait_sockets

Operation = tuple[str, str]


def described() -> dict[str, Any]:
    value = json.loads((ROOT / "p2p_sync/web/openapi.json").read_text())
    assert isinstance(value, dict)
    return value


def operations() -> dict[Operation, dict[str, Any]]:
    return {
        (method.upper(), path): operation
        for path, methods in described()["paths"].items()
        for method, operation in methods.items()
    }


def test_the_description_names_the_routes_that_there_are() -> None:
    routes = {
        (method, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in create_app(Node(0)).url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.endpoint != "static"
    }
    assert routes == set(operations())


def test_every_operation_says_what_it_answers_where_it_fails() -> None:
    named = [operation["operationId"] for operation in operations().values()]
    assert len(set(named)) == len(named)
    for (_, path), operation in operations().items():
        kind = "Problem" if path.startswith("/api/") else "Sentence"
        assert operation["responses"]["default"] == {"$ref": f"#/components/responses/{kind}"}


SCHEMAS = {
    "Status": p2p_sync.Status,
    "Verdict": p2p_sync.Verdict,
    "Fork": p2p_sync.Fork,
    "Dispute": p2p_sync.Dispute,
    "Head": p2p_sync.HeadInfo,
    "Peer": p2p_sync.PeerInfo,
    "Event": p2p_sync.Event,
    "Consumer": p2p_sync.ConsumerInfo,
}
KINDS = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}
KINDS |= {"None": "null", "list": "array", "dict": "object"}
Schema = dict[str, Any]


def kinds(annotation: Any) -> set[Any]:
    """The types of JSON, or the classes, that a value may have; of a literal its values, too."""
    if get_origin(annotation) is Literal:
        return {"string", *get_args(annotation)}
    if get_origin(annotation) in (Union, UnionType):
        return set().union(*map(kinds, get_args(annotation)))
    name = (get_origin(annotation) or annotation).__name__
    return {"null" if name == "NoneType" else KINDS.get(name, annotation)}


def assert_same(result: Any, schema: Schema) -> None:
    """The members of a result, and their types, are those of the description."""
    hints = get_type_hints(result)
    assert set(hints) == set(schema["properties"]) == set(schema["required"]), result
    for name, member in schema["properties"].items():
        inner, hint = member, hints[name]
        if member.get("type") == "array":
            inner, (hint,) = member["items"], get_args(hint)
        if "$ref" in inner:
            assert hint is SCHEMAS[inner["$ref"].rpartition("/")[2]], name
        elif "properties" in inner:
            assert_same(hint, inner)
        else:
            values = [value or "null" for value in inner.get("enum", ())]
            types = inner.get("type") or ("string" if values else ())
            expected = {*values, *([types] if isinstance(types, str) else types)}
            if name == "type":  # of an event: programs that read it expect further types
                expected |= set(re.findall(r"`(\w+)`", inner["description"]))
            assert kinds(hint) == expected, name


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_results_of_the_library_are_those_objects(name: str) -> None:
    assert_same(SCHEMAS[name], described()["components"]["schemas"][name])


def test_every_operation_belongs_to_a_group_that_is_described() -> None:
    """So that a client that is generated from the description is sorted."""
    groups = [tag["name"] for tag in described()["tags"]]
    used = [tag for operation in operations().values() for tag in operation["tags"]]
    assert set(groups) == set(used)
    assert all(len(operation["tags"]) == 1 for operation in operations().values())


def _numbers(value: Any, about: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Each schema of a number, after its name and what is said of it."""
    if isinstance(value, dict):
        about = f"{value.get('name', about)}: {value.get('description', '')}"
        if {"integer", "number"} & {*([value.get("type")] if isinstance(value.get("type"), str)
                                      else value.get("type", ()))}:  # fmt: skip
            yield about, value
    for name, inner in value.items() if isinstance(value, dict) else ():
        yield from _numbers(inner, about if name == "schema" else name)
    for inner in value if isinstance(value, list) else ():
        yield from _numbers(inner, about)


def test_every_number_says_what_it_counts_and_large_ones_how_large_they_are() -> None:
    found = [*_numbers(described())]
    assert len(found) > 50
    for about, schema in found:
        assert len(about.partition(": ")[2]) > 5, f"{about} has no description"
        if re.match("(time|since|until|started|complete_since|seq|bytes)$", about.split(":")[0]):
            assert schema["format"] == "int64", f"{about} does not fit into 32 bits"
        if re.match("(time|since|until|started|complete_since)$", about.split(":")[0]):
            assert "ms since the epoch" in about, f"{about} has no unit"


def test_it_is_served_as_it_stands() -> None:
    with NodeProcess("--ephemeral") as node:
        answer = node.get("/api/v1/openapi.json")
        assert (answer.status, json.loads(answer.body)) == (200, described())


def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    """What is asked, and for how long, is in schemathesis.toml."""
    program = shutil.which("schemathesis", path=str(Path(sys.executable).parent))
    if not program:
        pytest.skip("schemathesis is not installed beside this Python; .ci/run installs it")
    with NodeProcess("--ephemeral") as node, NodeProcess("--ephemeral") as peer:
        peer.add(node.address)
        wait_sockets(1, node, peer)
        url = f"http://127.0.0.1:{node.port}"
        config = str(ROOT / "tests/schemathesis.toml")
        done = subprocess.run(
            [program, "--config-file", config, "run", f"{url}/api/v1/openapi.json", "--url", url],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=180 * SCALE,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Traceback" not in node.log(), node.log()
