"""Names of nodes, as people see them: in the log, on the command line, in the API, on the page."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from p2p_sync import Node
from p2p_sync.names import host_name
from tests.harness import raw
from tests.harness.member import hello, identities
from tests.harness.support import (
    DEADLINE,
    RUN_NODE,
    NodeProcess,
    free_port_pair,
    wait_sockets,
    wait_until,
)


@contextmanager
def named(*names: str) -> Iterator[list[NodeProcess]]:
    """Nodes with these names, of which the first is connected with all others."""
    with ExitStack() as stack:
        options = ("--ephemeral", "--target-links=0")
        nodes = [stack.enter_context(NodeProcess(*options, f"--name={name}")) for name in names]
        for other in nodes[1:]:
            nodes[0].add(other.address)
        wait_sockets(len(names) - 1, nodes[0])
        wait_until(lambda: in_sync(nodes[0]))
        yield nodes


def in_sync(node: NodeProcess) -> bool:
    return bool(node.status()["verdict"]["state"] == "in_sync")


def command(node: NodeProcess, *arguments: str) -> str:
    """What a command prints: standard output, then standard error."""
    whole = [*RUN_NODE, *arguments, "--node", f"http://127.0.0.1:{node.port}"]
    done = subprocess.run(whole, capture_output=True, text=True, timeout=DEADLINE, check=False)
    return done.stdout + done.stderr


def lag_names(node: NodeProcess) -> set[str]:
    """The names of peers in the metrics."""
    families = text_string_to_metric_families(node.get("/metrics").text)
    samples = [sample for family in families for sample in family.samples]
    return {s.labels["name"] for s in samples if s.name == "p2p_sync_peer_lag_messages"}


def test_a_name_shows_wherever_the_node_does() -> None:
    with named("web-1", "web 2") as (one, two):
        short = two.id[:8]
        two.commit("from two")
        one.commit("from one")
        wait_until(lambda: one.count == 2)
        assert one.status()["node"]["name"] == "web-1"
        assert [peer["name"] for peer in one.peers()] == ["web 2"]
        assert [peer["name"] for peer in two.peers()] == ["web-1"]
        line = f"web 2 ({short}) at {two.address}, dialled"
        wait_until(lambda: one.logged("linked with", line), one.log)
        events = [event["text"] for event in one.api("events")["events"]]
        assert any(f"web 2 ({short}) at {two.address} connected" in text for text in events)
        assert re.search(rf"^web 2 +{two.address} +{short} ", command(one, "peers"), re.M)
        log = command(one, "log")
        assert re.search(rf"  {short}  web 2  from two$", log, re.M)
        assert re.search(rf"  {one.id[:8]}  web-1  from one$", log, re.M)
        assert lag_names(one) == {"web 2"}
        assert 'name="web-1"' in one.get("/metrics").text
        page = one.get("/", Accept="text/html").text
        assert "<title>web-1 " in page and ">web 2</code>" in page
        assert f'<b title="{two.id}">web 2</b>' in page


def test_a_machine_that_is_missing_has_its_name_also_after_a_restart(tmp_path: Path) -> None:
    port = free_port_pair()
    with NodeProcess("--ephemeral", "--name=web-2") as other:
        with NodeProcess(data_dir=tmp_path / "one", port=port) as one:
            one.add(other.address)
            wait_sockets(1, one)
            other.process.kill()
            wait_until(lambda: one.logged(f"dialling web-2 ({other_id(one)}) at {other.address}"))
        with NodeProcess(data_dir=tmp_path / "one", port=port) as one:
            wait_until(lambda: one.peers()[0]["attempts"])
            (missing,) = one.status()["verdict"]["unreachable"]
            assert (missing["name"], missing["address"]) == ("web-2", other.address)
            assert f"  web-2 at {other.address} is unreachable" in command(one, "status")
            assert "<b>web-2</b><span>last seen " in one.get("/", Accept="text/html").text


def shows(node: NodeProcess, text: str) -> bool:
    return text in node.get("/").text


def other_id(node: NodeProcess) -> str:
    return str(node.peers()[0]["id"])[:8]


def test_two_nodes_with_one_name_are_told_apart() -> None:
    with named("web", "web", "WEB") as (one, two, three):
        two.commit("from two")
        wait_until(lambda: one.count == 1)
        page = one.get("/", Accept="text/html").text
        assert f">web ({two.id[:8]})</code>" in page
        assert {peer["id"] for peer in one.peers()} == {two.id, three.id}
        assert len(lag_names(one)) == 2


FOREIGN = ["<b>x</b><script>y()</script>", "{{ 7*7 }}", 'a",peer="b', "\\n\\", "%s %(x)s", "=1+1"]


@pytest.mark.parametrize("name", FOREIGN)
def test_a_name_is_shown_as_text(name: str) -> None:
    with named("one", name) as (one, two):
        two.commit("text")
        wait_until(lambda: one.count == 1)
        wait_until(lambda: one.logged(f"linked with {name} ({two.id[:8]})"), one.log)
        page = one.get("/", Accept="text/html").text
        assert "<script>y()" not in page and "49" not in re.findall(r">([^<]*)</code>", page)
        assert lag_names(one) == {name}
        assert json.loads(command(one, "peers", "--json"))["peers"][0]["name"] == name
        assert f"  {name}  text" in command(one, "log")


def test_a_name_like_an_id_or_an_address_is_no_other_node() -> None:
    with named("one", "two") as (one, two):
        for name in (two.id, two.address):
            with NodeProcess("--ephemeral", f"--name={name}", "--target-links=0") as liar:
                liar.add(one.address)
                wait_sockets(2, one)
                liar.commit(f"I am {name}")
                wait_until(partial(shows, one, f"I am {name}"))
                assert {peer["id"] for peer in one.peers()} >= {two.id, liar.id}
                page = one.get("/", Accept="text/html").text
                assert f">{name} ({liar.id[:8]})</code>" in page
            wait_sockets(1, one)
        assert in_sync(one) or one.status()["verdict"]["unreachable"]
        assert command(one, "add", two.address).startswith(f"Connected to {two.address} (two (")


@pytest.mark.parametrize("name", ["", " ", "x" * 33, "a\nb", "\u202ex", 7, None, ["x"], {}])
def test_a_peer_with_a_bad_name_is_linked_without_one(node: NodeProcess, name: object) -> None:
    identity = next(identities)
    with raw.dial(node.address, identity=identity) as peer:
        peer.send_json(hello(name=name))
        wait_until(lambda: identity.node in {entry["id"] for entry in node.peers()})
        (entry,) = [entry for entry in node.peers() if entry["id"] == identity.node]
        assert (entry["state"], entry["name"]) == ("connected", None)


def test_the_default_is_the_host_name(tmp_path: Path) -> None:
    with Node(0) as node:
        assert node.status().node.name == host_name()
    with Node(0, name="library") as node:
        assert node.status().node.name == "library"
    with NodeProcess("--ephemeral", environment={"P2P_SYNC_NAME": "by variable"}) as process:
        assert process.status()["node"]["name"] == "by variable"


@pytest.mark.parametrize("name", ["x" * 33, "a\nb", " ", "\u202ex"])
def test_a_name_that_cannot_be_one_ends_the_start_with_a_sentence(name: str) -> None:
    whole = [*RUN_NODE, str(free_port_pair()), "--ephemeral", "--name", name]
    done = subprocess.run(whole, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode == 2 and done.stderr.startswith("p2p-sync: ")
    assert len(done.stderr.splitlines()) == 1 and "--name" in done.stderr


def test_nodes_two_links_away_have_their_names() -> None:
    with named("middle", "one", "two") as (_, one, two):
        two.commit("from two")
        wait_until(lambda: one.count == 1)
        wait_until(lambda: any(peer["links"].get(two.id) for peer in one.peers()), one.peers)
        assert two.id not in {peer["id"] for peer in one.peers()}
        page = one.get("/", Accept="text/html").text
        assert f"{two.id}-" in page and ">two</code>" in page
        assert re.search(rf"  {two.id[:8]}  two +from two$", command(one, "log"), re.M)
        assert "from two" in command(one, "log", "--from=two")


def test_what_others_call_a_node_goes_after_what_it_calls_itself() -> None:
    with named("one", "two") as (one, two):
        identity = next(identities)
        with raw.dial(one.address, identity=identity) as peer:
            links = {two.id: "liar", identity.node: "me", "e" * 32: "one", "f" * 32: "a\nb"}
            peer.send_json(hello(name="three", links=links))
            wait_until(lambda: identity.node in {entry["id"] for entry in one.peers()})
            (entry,) = [entry for entry in one.peers() if entry["id"] == identity.node]
            assert entry["links"] == {**links, "f" * 32: ""}
            two.commit("text")
            wait_until(lambda: one.count == 1)
            assert f"  {two.id[:8]}  two  " in command(one, "log")
            page = one.get("/", Accept="text/html").text
            assert ">two</code>" in page and "liar" not in page
