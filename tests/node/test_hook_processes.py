"""Webhooks of real nodes: kill -9 at random moments, the same option on every node, the command
line."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from p2p_sync.node.hooks import signature
from tests.harness.api import read_pages
from tests.harness.receiver import Receiver, is_signed
from tests.harness.support import (
    NodeProcess,
    pause,
    request,
    run_nodes,
    run_to_end,
    wait_sockets,
    wait_until,
)
from tests.project.documents import DOCUMENTS

ROUNDS = int(os.environ.get("P2P_SYNC_TEST_HOOK_KILLS", "10"))
LONGEST = 0.2  # seconds from the first request after a start until the kill
SOME = 3_000  # messages that are committed after each start
NDJSON = {"Content-Type": "application/x-ndjson"}


def commit_some(node: NodeProcess, round: int) -> None:
    lines = "".join(f'"{round}.{number}"\n' for number in range(SOME))
    with suppress(OSError, HTTPException):  # it is killed meanwhile
        request(node.port, "/api/v1/messages", "POST", NDJSON, lines.encode())


def has_more(receiver: Receiver, before: int) -> bool:
    return len(receiver.requests) > before


def test_kills_lose_and_skip_nothing(tmp_path: Path) -> None:
    """What is POSTed again after a kill is only what was under way then."""
    seed = int(os.environ.get("P2P_SYNC_TEST_SEED", random.randrange(2**32)))
    rng = random.Random(seed)
    with Receiver() as receiver:
        option = ("--hook", receiver.url)
        for round in range(ROUNDS):
            with NodeProcess(*option, data_dir=tmp_path) as node:
                before = len(receiver.requests)
                thread = threading.Thread(target=commit_some, args=(node, round))
                thread.start()
                wait_until(partial(has_more, receiver, before))
                pause(rng.uniform(0, LONGEST))
                node.stop(signal.SIGKILL)
                thread.join()
        with NodeProcess(*option, data_dir=tmp_path) as node:
            wait_until(lambda: node.api("consumers")["consumers"][0]["lag"] == 0)
            held = [message["data"] for message in read_pages(node.port, "arrival")[0]]
    places = {text: place for place, text in enumerate(held)}
    got = [places[text] for text in receiver.texts]
    again = 0
    for place, last in zip(got, [-1, *got], strict=False):
        assert place <= last + 1, f"none is skipped (seed {seed})"
        again += place != last + 1
    assert {*got} == {*range(len(held))}, f"none is lost (seed {seed})"
    assert again <= ROUNDS, f"one request again for each kill (seed {seed})"


def test_with_own_at_every_node_each_message_is_posted_once() -> None:
    with Receiver() as receiver, run_nodes(3, "--hook", receiver.url, "--hook-of", "own") as nodes:
        nodes[0].add(nodes[1].address)
        nodes[1].add(nodes[2].address)
        wait_sockets(2, *nodes)
        texts = {f"{number} at {index}" for number in range(20) for index in range(3)}
        for text in sorted(texts):
            nodes[int(text[-1])].commit(text)
        wait_until(lambda: Counter(receiver.texts) == Counter(texts), lambda: receiver.texts)
        wait_until(lambda: all(node.count == 60 for node in nodes))
        assert len(receiver.texts) == 60
        for request_ in receiver.requests:
            posted = {message["origin"].partition("-")[0] for message in request_.messages}
            assert posted == {request_.document["node"]["id"]}


SECRETS = ("Abigail", "Pa55word", "T0k3n")


def test_a_url_from_a_variable_is_shown_nowhere(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.touch(0o600)
    secret.write_text("some secret of a hook")
    with Receiver(lambda _: 500) as receiver:
        url = receiver.url.replace("://", "://Abigail:Pa55word@") + "/x?T0k3n=1"
        environment = {"P2P_SYNC_HOOK": url, "P2P_SYNC_HOOK_SECRET_FILE": str(secret)}
        with NodeProcess("--log-level", "debug", environment=environment) as node:
            node.commit("a")
            wait_until(lambda: node.api("consumers")["consumers"][0]["error"])
            command = Path(f"/proc/{node.process.pid}/cmdline")
            said = [node.log(), command.read_text() if command.exists() else ""]
            said += [node.get(f"/api/v1/{name}").text for name in ("consumers", "status", "events")]
            said += [node.get("/", accept="text/html").text, node.get("/metrics").text]
            assert not [word for word in SECRETS if any(word in text for text in said)]
            assert node.logged("warning", f"{receiver.url}/x", "http 500")
            assert is_signed(receiver.requests[0], secret.read_bytes())


WRONG = [
    "ftp://Abigail:Pa55word@a/T0k3n",
    "http://Abigail:Pa55word@/T0k3n",
    "http://Abigail:Pa55word@a:T0k3n/",
]


@pytest.mark.parametrize("url", WRONG)
@pytest.mark.parametrize("by_variable", [False, True])
def test_a_wrong_url_is_refused_and_not_shown(url: str, by_variable: bool) -> None:
    arguments = () if by_variable else ("--hook", url)
    environment = {"P2P_SYNC_HOOK": f"http://good/ {url}"} if by_variable else {}
    done = run_to_end("8000", "--ephemeral", *arguments, environment=environment)
    name = "P2P_SYNC_HOOK: " if by_variable else "'--hook': "
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{name}a URL such as https://example.org/hook" in done.stderr
    assert not [word for word in SECRETS if word in done.stderr], done.stderr


def test_a_password_among_the_arguments_is_refused_and_a_query_warned_of() -> None:
    done = run_to_end("8000", "--ephemeral", "--hook", "http://Abigail:Pa55word@127.0.0.1:1/?T0k3n")
    assert (done.returncode, done.stdout) == (2, "")
    assert "'--hook': every user of this machine can read the password" in done.stderr
    assert "P2P_SYNC_HOOK" in done.stderr and done.stderr.count("\n") == 1
    assert not [word for word in SECRETS if word in done.stderr], done.stderr
    with NodeProcess("--ephemeral", "--hook", "http://127.0.0.1:1/x?T0k3n") as node:
        said = "can read the query of --hook http://127.0.0.1:1/x among the arguments"
        wait_until(lambda: said in node.log())
        assert "T0k3n" not in node.log()


def test_other_wrong_options_say_what_to_do(tmp_path: Path) -> None:
    cases = {
        ("--hook-of", "mine"): "'all', 'own'",
        ("--hook-topic", "a b"): "a topic is",
        ("--hook-secret-file", str(tmp_path / "none")): "hook secret file",
        ("--hook", ""): "the value is empty",
    }
    for options, said in cases.items():
        done = run_to_end("8000", "--ephemeral", *options)
        assert (done.returncode, done.stdout) == (2, ""), options
        assert said in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_the_receiver_of_the_manual_knows_what_is_genuine(tmp_path: Path) -> None:
    (manual,) = (text for text in DOCUMENTS if text.name.endswith("operating.md"))
    names: dict[str, Any] = {}
    exec(manual.blocks("python")[0], names)
    is_genuine, key = names["is_genuine"], b"some secret of a hook"
    file = tmp_path / "secret"
    file.touch(0o600)
    file.write_bytes(b"another secret, which is new\n" + key)
    with (
        Receiver() as receiver,
        NodeProcess("--hook", receiver.url, "--hook-secret-file", str(file)) as node,
    ):
        node.commit("a")
        (request_,) = wait_until(lambda: receiver.requests)
    field, body = request_.headers["p2p-sync-signature"], request_.body
    assert is_genuine(field, body, key) and is_genuine(field, body, b"another secret, which is new")
    assert not is_genuine(field, body + b" ", key)
    assert not is_genuine(field, body, b"some other secret")
    old = field.replace("t=", "t=1")
    for other in (old, "", "foo", "v1=\u00e9", "t=1,v1=", field.replace("t=", "t=x"), field + ","):
        assert not is_genuine(other, body, key)
    assert not is_genuine(signature([key], body, int(time.time()) - 301), body, key)


def test_the_body_is_json_that_other_programs_read() -> None:
    with Receiver() as receiver, NodeProcess("--ephemeral", "--hook", receiver.url) as node:
        text = '"\\\u2028\ud83d\ude00'.encode("utf-16", "surrogatepass").decode("utf-16")
        node.commit(text)
        wait_until(lambda: receiver.taken)
        assert json.loads(receiver.requests[0].body.decode())["messages"][0]["data"] == text
