"""The log of a node: one line an event, with whom it is about, and nothing of the messages."""

from __future__ import annotations

import json

from tests.harness.api import post_all
from tests.harness.original import Original
from tests.harness.support import NodeProcess, free_port_pair, wait_sockets, wait_until

SECRET = "nobody-logs-this"


def test_events_tell_the_address_and_the_short_id() -> None:
    with NodeProcess() as node, NodeProcess() as other:
        short = other.id[:8]
        node.add(other.address)
        wait_sockets(1, node, other)
        wait_until(lambda: node.logged("linked with", other.address, short, "dialled"), node.log)
        wait_until(lambda: other.logged("linked with", "accepted"), other.log)
        other.stop()
        wait_until(lambda: node.logged("ended", other.address, short, "it stops"), node.log)
        wait_until(lambda: node.logged("dialling", other.address, short, "failed"), node.log)
        for event in ("linked with", "ended"):
            lines = [line for line in node.log().splitlines() if event in line]
            assert len(lines) == 1, lines


def test_json_is_an_object_a_line() -> None:
    with NodeProcess("--log-format", "json") as node, NodeProcess() as other:
        node.add(other.address)
        wait_sockets(1, node, other)
        node.add("ws://127.0.0.1:1")
        wait_until(lambda: node.logged("dialling"), node.log)
        node.stop()
        lines = [json.loads(line) for line in node.log().splitlines()]
        assert all({"time", "level", "text"} <= set(line) for line in lines)
        (linked,) = [line for line in lines if line["text"].startswith("linked")]
        other_id = other.id
        assert (linked["address"], linked["peer"]) == (other.address, other_id)
        failed = next(line for line in lines if line["text"].startswith("dialling"))
        assert (failed["address"], failed["level"]) == ("ws://127.0.0.1:1", "warning")


def test_repeated_failures_are_summed_up_until_it_works_again() -> None:
    port = free_port_pair()
    address = f"ws://127.0.0.1:{port + 1}"
    with NodeProcess() as node:
        for n in range(1, 13):
            node.add(address)  # which dials at once

            def attempts(n: int = n) -> bool:
                told = json.loads(node.get("/metrics").text and node.get("/api/v1/peers").body)
                return bool(told["peers"][0]["attempts"])

            wait_until(attempts, "it has failed")
        lines = [line for line in node.log().splitlines() if f"dialling {address} failed" in line]
        assert 2 <= len(lines) <= 5, lines
        assert not any("in a row" in lines[0] for _ in lines) and "4 times in a row" in lines[2]
        with NodeProcess(port=port):
            wait_until(lambda: node.logged("linked with", address, "in vain"), node.log)


def test_texts_are_logged_at_no_level_above_debug() -> None:
    with NodeProcess("--log-level", "info") as node, NodeProcess() as other, Original() as original:
        node.add(other.address)
        original.add(node.address)
        wait_sockets(2, node)
        node.commit(f"{SECRET} committed")
        other.commit(f"{SECRET} of another")
        original.commit(f"{SECRET} of an original")
        post_all(node.port, [f"{SECRET} in bulk"])
        node.get(f"/commit?msg={SECRET}&copies=x")
        node.get(f"/{SECRET}")
        wait_until(lambda: node.line().count(SECRET) >= 4, node.line)
        assert SECRET not in node.log() + other.log()
