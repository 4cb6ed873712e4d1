"""The description of the API is true: it names the routes there are, and schemathesis agrees."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

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
