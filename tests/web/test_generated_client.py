"""A client that openapi-python-client generates from the description works with a real node."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.harness.support import DEADLINE, ROOT, NodeProcess, wait_until

# It knows no NDJSON: a body and an answer of it are bytes to it.
CONFIG = """
content_type_overrides: {application/x-ndjson: application/octet-stream}
post_hooks: []
"""
PACKAGE = "generated_client"
Load = Callable[[str], Any]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Load]:
    """Generates the client; returns a module of it, or what is in one: `api.messages.commit`."""
    program = shutil.which("openapi-python-client", path=str(Path(sys.executable).parent))
    if not program:
        pytest.skip("openapi-python-client is not installed beside this Python; .ci/run does it")
    folder = tmp_path_factory.mktemp("client")
    (folder / "config.yml").write_text(CONFIG)
    description = ROOT / "p2p_sync/web/openapi.json"
    done = subprocess.run(
        [program, "generate", "--meta", "none", "--config", "config.yml", "--path", description,
         "--output-path", folder / PACKAGE],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE,
    )  # fmt: skip
    told = done.stdout + done.stderr
    assert done.returncode == 0 and "WARNING" not in told, told
    sys.path.insert(0, str(folder))

    def load(name: str) -> Any:
        package, _, last = f"{PACKAGE}.{name}".rpartition(".")
        module = import_module(package)
        return getattr(module, last, None) or import_module(f"{package}.{last}")

    yield load
    sys.path.remove(str(folder))


@pytest.fixture
def client(load: Load, node: NodeProcess) -> Any:
    return load("Client")(base_url=f"http://127.0.0.1:{node.port}", timeout=DEADLINE)


def test_it_commits_and_reads(load: Load, client: Any) -> None:
    commit, new = load("api.messages.commit"), load("models.NewMessage")
    one = commit.sync(client=client, body=new(data="one", topic="generated"))
    assert (one.data, one.topic, one.copies) == ("one", "generated", 0)
    lines = load("types.File")(io.BytesIO(b'"two"\n"three"\n'))
    many = commit.sync(client=client, body=lines, topic="generated", idempotency_key="of-lines")
    assert (many.count, many.repeated) == (2, 0)
    again = load("types.File")(io.BytesIO(b'"two"\n"three"\n'))
    many = commit.sync(client=client, body=again, topic="generated", idempotency_key="of-lines")
    assert (many.count, many.repeated) == (2, 2)

    read, orders = load("api.messages.list_messages"), load("models.ListMessagesOrder")
    texts = []
    after = ""
    while True:
        page = read.sync(client=client, topic="generated", limit=2, after=after)
        texts += [message.data for message in page.messages]
        after = page.next_
        if page.complete:
            break
    assert texts == ["one", "two", "three"]
    (message,) = read.sync(
        client=client, order=orders.NEWEST, q="ONE", node=one.origin[:32], since=one.time, copies=1
    ).messages
    assert message.id == one.id and message.copies == 0

    get = load("api.messages.get_message")
    assert get.sync(id=one.id, client=client).data == "one"
    problem = get.sync_detailed(id="nobody:1", client=client)
    assert problem.status_code == 404 and "no message here" in problem.parsed.detail
    erased = load("api.messages.erase_message").sync(id=one.id, client=client)
    assert erased.data is None and erased.erased.node == one.origin[:32]


def test_it_follows(load: Load, client: Any, node: NodeProcess) -> None:
    """The function for it would wait for the end of the stream."""
    events = load("api.node.list_events").sync(client=client, timeout=0)
    assert events.started > 0
    path, query = "/api/v1/messages/follow", {"after": "new", "topic": "live"}
    with client.get_httpx_client().stream("GET", path, params=query) as answer:
        lines = answer.iter_lines()
        assert next(lines) == "", "it has begun"
        node.get("/commit?msg=now&topic=live")
        line = json.loads(next(line for line in lines if line))
        message = load("models.Message").from_dict(line)
        assert message.data == "now" and message.topic == "live"
        place = message.additional_properties["next"]
    page = load("api.messages.list_messages").sync(client=client, after=place, topic="live")
    assert page.messages == [] and page.complete


def test_it_consumes(load: Load, client: Any, node: NodeProcess) -> None:
    create, options = load("api.consumers.create_consumer"), load("models.ConsumerOptions")
    made = create.sync("generated", client=client, body=options(start="new", topic="work"))
    assert (made.name, made.lag, made.ack_wait) == ("generated", 0, 30)
    for text in ("good", "bad"):
        node.get(f"/commit?msg={text}&topic=work")
    take = load("api.consumers.take_messages")
    good, bad = take.sync("generated", client=client, limit=2, wait=10).messages
    assert (good.data, good.attempts, bad.data) == ("good", 0, "bad")
    ack, acked = load("api.consumers.acknowledge_message"), load("models.AcknowledgeMessageBody")
    ack.sync("generated", client=client, body=acked(position=good.position))
    fail, failed = load("api.consumers.fail_message"), load("models.FailMessageBody")
    fail.sync("generated", client=client, body=failed(position=bad.position, error="no"))
    (again,) = take.sync("generated", client=client, wait=10).messages
    assert (again.data, again.attempts) == ("bad", 1)
    ack.sync("generated", client=client, body=acked(position=again.position))
    consumers = load("api.consumers.list_consumers")
    wait_until(lambda: [c.lag for c in consumers.sync(client=client).consumers] == [0])
    gone = load("api.consumers.delete_consumer").sync_detailed("generated", client=client)
    assert gone.status_code == 204


def test_it_sees_the_state_of_the_node(load: Load, client: Any, node: NodeProcess) -> None:
    status = load("api.node.get_status").sync(client=client)
    assert status.node.id == node.id and status.verdict.state == "alone"
    assert status.messages.count == node.count
    assert load("api.peers.list_peers").sync(client=client).peers == []
    added = load("api.peers.add_peer").sync(
        client=client, body=load("models.AddPeerBody")(address="ws://127.0.0.1:1")
    )
    assert added.address == "ws://127.0.0.1:1"
    assert load("api.peers.forget_peer").sync_detailed(added.key, client=client).status_code == 204
