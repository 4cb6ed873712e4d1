"""Hubs that cannot take more, or cannot be used; and what a node shows of its hub."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.harness.library import texts
from tests.harness.redis import RedisServer, wait_in_sync, wait_same
from tests.harness.support import NodeProcess, wait_until


def test_a_full_hub_says_what_to_do_and_nodes_go_on_without_it(
    redis: RedisServer, start: Any, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = start(hub=redis.url), start(hub=redis.url)
    one.commit("before")
    wait_same(one, two, count=1)
    redis.client.config_set("maxmemory-policy", "noeviction")
    redis.client.config_set("maxmemory", 1)
    one.commit("while it is full")
    says = "the hub is full; raise its maxmemory"
    wait_until(lambda: says in one.peers()[0].last_error, lambda: one.peers()[0])
    wait_until(lambda: says in caplog.text, "the log says it, too")
    wait_until(lambda: one.status().verdict.state != "in_sync", "the verdict shows it")
    assert texts(one) == ["before", "while it is full"] and one.commit("goes on").seq == 3
    assert texts(two) == ["before"]
    redis.client.config_set("maxmemory", 0)
    wait_same(one, two, count=3)
    wait_in_sync(one)


@contextmanager
def older(version: str) -> Iterator[str]:
    """The address of what answers INFO as a Redis of that version, and OK to all else."""
    info = f"redis_version:{version}\r\n".encode()

    def serve(sock: socket.socket) -> None:
        with sock, sock.makefile("rb") as lines:
            while head := lines.readline():
                words = [lines.read(int(lines.readline()[1:]) + 2) for _ in range(int(head[1:]))]
                known = words[0].strip().upper() == b"INFO"
                sock.sendall(b"$%d\r\n%s\r\n" % (len(info), info) if known else b"+OK\r\n")

    def accept(listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(sock,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
        listener.shutdown(socket.SHUT_RDWR)


def test_a_redis_that_is_too_old_says_so(start: Any) -> None:
    pytest.importorskip("redis")
    with older("6.0.16") as url:
        one = start(hub=url)
        one.commit("kept here")
        says = "the hub runs Redis 6.0.16; a node needs 6.2 or newer"
        wait_until(lambda: says in one.peers()[0].last_error, lambda: one.peers()[0])
        assert texts(one) == ["kept here"]


def test_events_metrics_and_the_mesh_of_the_page_show_the_hub(
    tmp_path: Path, redis: RedisServer
) -> None:
    with NodeProcess("--hub", redis.url, data_dir=tmp_path / "n") as node:

        def hub() -> Any:
            return node.api("peers")["peers"][0]

        wait_until(lambda: hub()["state"] == "connected", lambda: hub())
        known = hub()
        assert (known["name"], known["address"], known["behind"]) == ("hub", redis.url, 0)
        assert known["id"] and known["rtt_ms"] is not None, "the picture draws it by these"
        wait_until(lambda: f"at {redis.url} connected" in events(node), lambda: events(node))
        assert 'p2p_sync_peers{state="connected"} 1' in node.get("/metrics").text
        assert re.search(
            r'^p2p_sync_peer_lag_messages\{.*name="hub".*0', node.get("/metrics").text, re.M
        )
        redis.kill()
        wait_until(lambda: hub()["state"] == "waiting", lambda: hub())
        wait_until(lambda: f"at {redis.url} disconnected" in events(node), lambda: events(node))
        assert hub()["last_error"] and hub()["next_try_s"] is not None
        wait_until(
            lambda: 'p2p_sync_peers{state="connected"} 0' in node.get("/metrics").text, "counted"
        )


def events(node: NodeProcess) -> str:
    return "\n".join(event["text"] for event in node.api("events")["events"])
