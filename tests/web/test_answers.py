"""Answers in kind: problem documents, pages and sentences, ETags, and whether a node is ready."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.harness.api import post_all, problem
from tests.harness.member import claims, hello, identities
from tests.harness.raw import RawPeer, dial
from tests.harness.support import (
    NodeProcess,
    holds,
    request,
    run_nodes,
    silent_listener,
    wait_sockets,
    wait_until,
)

PEER = next(identities)


@pytest.mark.parametrize("path", ["/api", "/api/", "/api/v1", "/api/v1/nothing", "/api/v2/status"])
def test_a_wrong_path_of_the_api_is_a_problem(node: NodeProcess, path: str) -> None:
    told = problem(node.get(path, Accept="text/html"), 404)
    assert path in told["detail"] and "openapi.json" in told["detail"]


def test_a_wrong_method_of_the_api_names_the_right_ones(node: NodeProcess) -> None:
    answer = request(node.port, "/api/v1/peers", "PUT")
    told = problem(answer, 405)
    assert "GET" in told["detail"] and "POST" in told["detail"]
    assert {"GET", "POST"} <= set(answer.headers["allow"].split(", "))


def test_all_that_is_wrong_under_api_is_a_problem(node: NodeProcess) -> None:
    json_type = {"Content-Type": "application/json"}
    problem(request(node.port, "/api/v1/messages", "POST", json_type, b"{"), 400)
    problem(request(node.port, "/api/v1/peers", "POST", json_type, b'{"address":"x"}'), 400)
    problem(request(node.port, "/api/v1/peers/nobody", "DELETE"), 404)
    problem(node.get("/api/v1/messages?limit=0"), 400)
    problem(node.get("/api/v1/messages?limit=1&limit=2"), 400)
    problem(node.get("/api/v1/messages?limit="), 400)
    problem(node.get("/api/v1/status", Host="elsewhere.example"), 421)
    problem(node.get("/api/v1/status", **{"Sec-Fetch-Site": "cross-site"}), 403)
    big = b'{"data":"' + b"x" * 70_000 + b'"}'
    problem(request(node.port, "/api/v1/messages", "POST", json_type, big), 413)
    lines = {"Content-Type": "application/x-ndjson"}
    told = problem(request(node.port, "/api/v1/messages", "POST", lines, b'"a"\n"b"\n7\n'), 400)
    assert (told["line"], told["stored"]) == (3, 2)


def test_a_wrong_path_elsewhere_is_a_page_or_a_line(node: NodeProcess) -> None:
    answer = node.get("/nothing", Accept="text/html,*/*")
    assert answer.status == 404 and answer.headers["content-type"].startswith("text/html")
    assert "/nothing" in answer.text
    for method, path, status in (("GET", "/nothing", 404), ("POST", "/commit?msg=x", 405)):
        answer = request(node.port, path, method)
        assert answer.status == status and answer.headers["content-type"].startswith("text/plain")
        assert len(answer.text.splitlines()) == 1


@pytest.mark.parametrize("path", ["status", "peers", "messages", "messages?order=time&limit=1"])
def test_who_has_the_answer_already_gets_304(node: NodeProcess, path: str) -> None:
    node.commit("there is something")
    first = node.get(f"/api/v1/{path}")
    tag = first.headers["etag"]
    again = node.get(f"/api/v1/{path}", **{"If-None-Match": tag})
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
    assert node.get(f"/api/v1/{path}", **{"If-None-Match": '"other"'}).body == first.body


def test_news_change_the_tag(node: NodeProcess) -> None:
    before = {path: node.get(f"/api/v1/{path}").headers["etag"] for path in ("status", "messages")}
    node.commit("news")
    for path, tag in before.items():
        assert node.get(f"/api/v1/{path}", **{"If-None-Match": tag}).status == 200


# -- the verdict ------------------------------------------------------------------------------


def verdict(node: NodeProcess) -> dict[str, Any]:
    told = node.status()["verdict"]
    assert isinstance(told, dict)
    return told


def test_the_verdict_follows_what_happens() -> None:
    with run_nodes(3) as nodes:
        assert verdict(nodes[0])["text"] == "No peers yet"
        for other in nodes[1:]:
            nodes[0].add(other.address)
        post_all(nodes[1].port, ["x"] * 100)

        def told(text: str) -> None:
            wait_until(lambda: verdict(nodes[0])["text"] == text, lambda: f"{verdict(nodes[0])}")

        told("In sync with 2 of 2 peers")
        nodes[1].process.kill()
        told("1 of 2 peers is unreachable")
        nodes[2].process.kill()
        told("Disconnected: 0 of 2 peers reachable")
        assert verdict(nodes[0])["state"] == "alone"


def test_which_peer_is_unreachable_and_since_when() -> None:
    with run_nodes(3) as nodes:
        for other in nodes[1:]:
            nodes[0].add(other.address)
        wait_until(lambda: verdict(nodes[0])["text"] == "In sync with 2 of 2 peers")
        killed = time.time()
        nodes[1].process.kill()
        wait_until(lambda: verdict(nodes[0])["state"] == "degraded", lambda: str(verdict(nodes[0])))
        (missing,) = verdict(nodes[0])["unreachable"]
        assert missing["address"] == nodes[1].address and missing["reason"]
        first = missing["since"]
        entry = wait_until(lambda: entry_of(nodes[0], nodes[1], attempts=2), "it is tried again")
        assert abs(entry["since"] - first) < 5000 and abs(first / 1000 - killed) < 10
        assert nodes[0].get("/readyz").status == 200


def entry_of(node: NodeProcess, other: NodeProcess, attempts: int) -> Any:
    """The entry of a peer once it was dialled in vain as often as that."""
    peers = node.peers()
    fits = [peer for peer in peers if peer["address"] == other.address]
    return next((peer for peer in fits if peer["attempts"] >= attempts), None)


def test_a_peer_that_comes_back_by_itself_has_a_clean_entry(tmp_path: Path) -> None:
    """Its next outage is counted from its own beginning, and the address is dialled soon."""
    with NodeProcess("--ephemeral") as node, ExitStack() as stack:
        options = ("--data-dir", str(tmp_path / "other"), "--peer", node.address)
        other = stack.enter_context(NodeProcess(*options))
        wait_until(lambda: verdict(node)["text"] == "In sync with 1 of 1 peer")
        other.process.kill()
        wait_until(lambda: entry_of(node, other, attempts=2), "it is dialled in vain")
        assert entry_of(node, other, attempts=2)["behind"] is None
        again = stack.enter_context(NodeProcess(*options, port=other.port))
        wait_until(lambda: verdict(node)["text"] == "In sync with 1 of 1 peer")
        entry = wait_until(lambda: entry_of(node, again, attempts=0), "it has an entry")
        assert (entry["state"], entry["attempts"], entry["last_error"]) == ("connected", 0, "")
        killed = time.time()
        again.process.kill()
        wait_until(lambda: node.sockets() == 0, "the link has ended")
        entry = entry_of(node, again, attempts=0)
        assert entry["state"] != "connected" and abs(entry["since"] / 1000 - killed) < 5


def test_a_learned_address_that_never_worked_does_not_count() -> None:
    with NodeProcess("--ephemeral") as node:
        link = dial(node.address, identity=next(identities))
        link.send_json(hello(addresses=["ws://127.0.0.1:1"], link=1))
        link.send_json({"type": "HAVE", "have": {}, "last": True})

        def tried() -> bool:
            peers = node.peers()
            return any(peer["address"] == "ws://127.0.0.1:1" and peer["attempts"] for peer in peers)

        wait_until(tried, "it was dialled in vain")
        assert verdict(node)["text"] == "In sync with 1 of 1 peer"
        link.close()


def test_a_link_that_delivers_nothing_is_not_in_sync() -> None:
    with NodeProcess("--ephemeral") as node:
        link = dial(node.address, identity=next(identities))
        link.send_json(hello(link=1))
        wait_sockets(1, node)
        seen: set[str] = set()

        def degraded() -> bool:
            seen.add(verdict(node)["state"])
            return "degraded" in seen

        wait_until(degraded, "it has said nothing for a while")
        assert "in_sync" not in seen
        assert "has not said" in verdict(node)["unreachable"][0]["reason"]
        link.send_json({"type": "HAVE", "have": {}, "last": True})
        wait_until(lambda: verdict(node)["state"] == "in_sync", lambda: str(verdict(node)))
        link.close()


# -- ready ------------------------------------------------------------------------------------


def claim(node: NodeProcess, count: int) -> RawPeer:
    """A peer that says to hold `count` messages, and ships none."""
    link = dial(node.address, identity=PEER)
    link.send_json(hello(link=1))
    have = claims(PEER, [1], count)
    link.send_json({"type": "HAVE", "have": have, "last": True})
    wait_sockets(1, node)
    wait_until(lambda: node.status()["behind"] == count)
    return link


def test_a_node_that_catches_up_is_not_ready() -> None:
    with (
        silent_listener() as (address, _),
        NodeProcess("--ephemeral", "--peer", address) as node,
    ):
        link = claim(node, 10)
        answer = node.get("/readyz")
        assert (answer.status, "10 messages" in answer.text) == (503, True)
        assert verdict(node)["text"] == "Catching up: 0 of 10"
        link.close()
        wait_until(lambda: node.get("/readyz").status == 200, "it is alone again")


def test_a_node_that_was_ready_stays_so_while_it_lacks_few() -> None:
    with NodeProcess("--ephemeral") as node:
        assert node.get("/readyz").text == "ready\n"
        link = claim(node, 10)
        assert node.get("/readyz").status == 200
        link.close()
        wait_sockets(0, node)
        link = claim(node, 1000)
        assert node.get("/readyz").status == 200
        link.close()


def test_a_node_waits_for_the_peers_it_knows_but_not_for_ever() -> None:
    with silent_listener() as (address, _), NodeProcess("--ephemeral", "--peer", address) as node:
        answer = node.get("/readyz")
        assert (answer.status, "just started" in answer.text) == (503, True)
        wait_until(lambda: node.get("/readyz").status == 200, "nobody answers")
        holds(lambda: node.get("/readyz").status == 200, "it stays ready", 0.5)


# -- lines that are held already --------------------------------------------------------------


def test_lines_that_are_held_are_skipped() -> None:
    with NodeProcess("--ephemeral") as node:
        post_all(node.port, ["a", "b"])
        held = node.api("messages")["messages"]
        new = [{"data": "c"}, {"data": "d", "id": held[0]["origin"] + ":3"}]
        odd = [{"data": f"odd {n}", "id": value} for n, value in enumerate((7, "x", "", ":1", [1]))]
        body = "".join(json.dumps(value) + "\n" for value in [*held, *new, *odd])

        def sent(query: str) -> dict[str, Any]:
            kind = {"Content-Type": "application/x-ndjson"}
            answer = request(node.port, f"/api/v1/messages{query}", "POST", kind, body.encode())
            assert answer.status == 201, answer.text
            told = json.loads(answer.body)
            assert isinstance(told, dict)
            return told

        told = sent("?skip=held")
        assert (told["count"], told["skipped"]) == (7, 2)
        assert sent("")["count"] == 9
