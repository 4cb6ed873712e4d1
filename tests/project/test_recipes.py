"""The recipes of the manual run as they stand, against real nodes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_consume import lines
from tests.harness.support import (
    DEADLINE,
    ROOT,
    NodeProcess,
    free_port_pair,
    request,
    run_nodes,
    wait_sockets,
    wait_until,
)
from tests.harness.terminal import Terminal
from tests.project.documents import Document

RECIPES = Document(ROOT / "p2p_sync" / "docs" / "recipes.md")
(PAGER,) = RECIPES.blocks("python")
CHAT, DEPLOY, CRON, CI = RECIPES.blocks("bash")


@pytest.fixture
def node() -> Iterator[NodeProcess]:
    with NodeProcess("--ephemeral") as process:
        yield process


def environment(folder: Path, node: NodeProcess, **more: str) -> dict[str, str]:
    """One where `p2p-sync` talks to the node, and `page-me` notes its argument in a file."""
    programs = {
        "p2p-sync": f'exec {sys.executable} {ROOT}/run_node.py "$@"',
        "page-me": f'echo "$1" >> {folder}/paged; [ ! -e {folder}/broken ]',
    }
    for name, script in programs.items():
        file = folder / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o700)
    own = {"PATH": f"{folder}:{os.environ['PATH']}", "USER": "ann"}
    own["P2P_SYNC_NODE"] = f"http://127.0.0.1:{node.port}"
    return {**os.environ, **own, **more}


@contextmanager
def running(
    *command: str, folder: Path, environment: dict[str, str]
) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=DEADLINE)


def texts(node: NodeProcess, topic: str) -> list[str]:
    return [each["data"] for each in node.api(f"messages?order=time&topic={topic}")["messages"]]


def commit(node: NodeProcess, text: str, topic: str) -> None:
    body: Any = json.dumps({"data": text, "topic": topic}).encode()
    kind = {"Content-Type": "application/json"}
    assert request(node.port, "/api/v1/messages", "POST", kind, body).status == 201


def test_they_are_short() -> None:
    for recipe in (PAGER, CHAT, DEPLOY, CRON, CI):
        assert len([line for line in recipe.splitlines() if line.strip()]) <= 15


def test_a_pager_is_called_once_for_each_alarm(tmp_path: Path) -> None:
    port = free_port_pair()
    (options,) = re.findall(r"`(--hook [^`]*)`", RECIPES.prose)
    program = PAGER.replace("9999", f"{port}")
    with NodeProcess(*options.replace("9999", f"{port}").split()) as node:
        commit(node, "first", "alarm")  # before the service runs
        commit(node, "of another topic", "other")
        (tmp_path / "broken").touch()
        with running(
            sys.executable, "-c", program, folder=tmp_path, environment=environment(tmp_path, node)
        ):
            wait_until(lambda: lines(tmp_path / "paged"))
            (tmp_path / "broken").unlink()
            commit(node, "second", "alarm")
            wait_until(lambda: lines(tmp_path / "paged")[-1:] == ["second"])
            wait_until(lambda: node.api("consumers")["consumers"][0]["lag"] == 0)
    paged = lines(tmp_path / "paged")
    assert paged.count("second") == 1 and paged.index("second") == len(paged) - 1
    assert set(paged) == {"first", "second"}


def test_people_chat(node: NodeProcess, tmp_path: Path) -> None:
    commit(node, "bob: hello", "chat/lobby")
    with running(
        "bash", "-c", CHAT, folder=tmp_path, environment=environment(tmp_path, node)
    ) as chat:
        assert chat.stdin and chat.stdout
        assert chat.stdout.readline().rstrip().endswith("bob: hello")
        chat.stdin.write("hi, bob\n")
        chat.stdin.flush()
        assert chat.stdout.readline().rstrip().endswith("ann: hi, bob")
        chat.stdin.close()
        # The end of the input ends the loop; the trap then ends the program that shows messages.
        assert chat.wait(DEADLINE) == 0
        chat.stdin = None
    assert texts(node, "chat/lobby") == ["bob: hello", "ann: hi, bob"]


def test_a_line_that_was_typed_is_seen_once(node: NodeProcess, tmp_path: Path) -> None:
    known = environment(tmp_path, node, USER="")
    name = subprocess.run(["id", "-un"], capture_output=True, text=True).stdout.strip()
    with Terminal("bash", "-c", CHAT, **known) as chat:
        for line in ("hi", "-x"):
            chat.type(f"{line}\n")
            chat.wait_shown(f"{name}: {line}\r\n")
        chat.type("\x04")
        assert chat.wait_end() == 0
    left = re.sub(r"[^\n]*\n\x1b\[A\x1b\[K", "", chat.shown)
    assert [line.rpartition(": ")[2] for line in left.splitlines()] == ["hi", "-x"]


def has_lines(file: Path, count: int) -> bool:
    return len(lines(file)) == count


def test_deployments_are_logged(node: NodeProcess, tmp_path: Path) -> None:
    commit(node, "shop\r\n1.2\n", "deploy")
    log = tmp_path / "deployments.log"
    for count in (2, 3):  # the second time it goes on where it was
        known = environment(tmp_path, node)
        with running("bash", "-c", DEPLOY, folder=tmp_path, environment=known):
            commit(node, f"shop 1.{count + 1}", "deploy")
            wait_until(partial(has_lines, log, count))
            wait_until(lambda: node.api("consumers")["consumers"][0]["lag"] == 0)
    name = node.status()["node"]["name"]
    for line, text in zip(lines(log), ("shop  1.2 ", "shop 1.3", "shop 1.4"), strict=True):
        assert re.fullmatch(rf"20\d\d-\S+Z {name} {text}", line)


def test_a_report_is_stored_once(node: NodeProcess, tmp_path: Path) -> None:
    for _ in range(3):
        done = subprocess.run(
            ["bash", "-c", CRON], env=environment(tmp_path, node), cwd=tmp_path, timeout=DEADLINE
        )
        assert done.returncode == 0
    (text,) = texts(node, "backup")
    assert text.endswith(": ok")


def test_a_report_is_sent_again_until_a_node_answers(tmp_path: Path) -> None:
    """The loop of the recipe, with pauses that are shorter."""
    script = CRON.replace("sleep 10", f"echo >> {tmp_path}/paused; sleep 0.3")
    script = script.replace("-lt 5", "-lt 100")
    assert script.count("paused") == script.count("-lt 100") == 1
    with NodeProcess(data_dir=tmp_path / "data") as node:
        known, port = environment(tmp_path, node), node.port
    with running("bash", "-c", script, folder=tmp_path, environment=known) as report:
        wait_until(lambda: len(lines(tmp_path / "paused")) >= 2)
        with NodeProcess(data_dir=tmp_path / "data", port=port) as node:
            assert report.wait(DEADLINE) == 0
            assert len(texts(node, "backup")) == 1


def test_a_report_that_no_node_takes_fails_in_the_end(tmp_path: Path) -> None:
    with NodeProcess("--ephemeral") as node:
        known = environment(tmp_path, node)
    script = CRON.replace("sleep 10", f"echo >> {tmp_path}/paused")
    done = subprocess.run(
        ["bash", "-c", script], env=known, cwd=tmp_path, timeout=DEADLINE, capture_output=True
    )
    assert done.returncode == 1
    assert len(lines(tmp_path / "paused")) == 4, "five attempts"


def test_a_build_waits_for_copies(tmp_path: Path) -> None:
    with run_nodes(3, "--ephemeral") as nodes:
        for other in nodes[1:]:
            nodes[0].add(other.address)
        wait_sockets(2, *nodes)
        script = CI.replace("--timeout 30", "--timeout 1")
        done = subprocess.run(
            ["bash", "-c", script.replace("--copies 2", "--copies 1")],
            env=environment(tmp_path, nodes[0], GIT_COMMIT="abc"),
            timeout=DEADLINE,
        )
        assert done.returncode == 0, "all nodes here are on one host"
        done = subprocess.run(
            ["bash", "-c", script],
            env=environment(tmp_path, nodes[0], GIT_COMMIT="abd"),
            timeout=DEADLINE,
        )
        assert done.returncode == 1
        assert texts(nodes[1], "builds") == ["built abc", "built abd"]
