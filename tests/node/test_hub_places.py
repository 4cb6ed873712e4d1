"""Where a hub may be: its address, a cluster, Sentinels."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from p2p_sync import InputError, Node
from p2p_sync.urls import parse_hub
from tests.harness.redis import RedisServer, wait_same
from tests.harness.support import DEADLINE, RUN_NODE, free_port_pair, wait_until


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://a", "redis://a:6379/0"),
        ("redis://a:1/", "redis://a:1/0"),
        ("rediss://[::1]:1/3", "rediss://[::1]:1/3"),
        ("redis+sentinel://a,b:2/main", "redis+sentinel://a:26379,b:2/main/0"),
        ("rediss+sentinel://:pw@a/main/4", "rediss+sentinel://a:26379/main/4"),
        ("redis+cluster://u:pw@a,[::1]:7", "redis+cluster://a:6379,[::1]:7/0"),
    ],
)
def test_an_address_is_shown_without_its_password(text: str, shown: str) -> None:
    assert str(parse_hub(text)) == shown
    assert "pw" not in repr(parse_hub(text))


@pytest.mark.parametrize(
    "password", ["p/w", "p#w", "p?w", "p@w", "p:w", "p@w/0?#&", "p%25w", "%C3%A4"]
)
def test_a_password_may_have_any_characters(password: str) -> None:
    found = parse_hub(f"redis://user:{password}@a:1/2")
    assert (str(found), found.user) == ("redis://a:1/2", "user")
    assert found.password == password.replace("%25", "%").replace("%C3%A4", "\u00e4")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("http://pw", "begins with"),
        ("redis:/pw", "begins with"),
        ("redis://", "begins with"),
        ("redis://a:1?pw=1", "begins with"),
        ("redis://pw@a:1", "before the @"),
        ("redis://:pw@a:port", "a port is not valid"),
        ("redis://:pw@a:0", "a port is not valid"),
        ("redis://:pw@a:65536", "a port is not valid"),
        ("redis://:pw@a b", "a port is not valid"),
        ("redis://:pw@a,b", "several hosts"),
        ("redis://:pw@a/main", "number of a database"),
        ("redis+sentinel://:pw@a", "/NAME/0"),
        ("redis+cluster://:pw@a/1", "no number"),
    ],
)
def test_a_wrong_address_is_refused_and_not_shown(text: str, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_hub(text)
    assert problem in str(caught.value) and "pw" not in str(caught.value)


def test_a_server_with_such_a_password_is_a_hub(tmp_path: Path, start: Any) -> None:
    password = "a/b#c?d@e:f&%"
    with RedisServer(tmp_path / "redis", "--requirepass", password) as redis:
        url = f"redis://:{password}25@127.0.0.1:{redis.port}/0"
        one, two = start(hub=url), start(hub=url)
        one.commit("text")
        wait_same(one, two, count=1)
        assert one.peers()[0].address == redis.url


def test_a_cluster_is_a_hub(tmp_path: Path, start: Any) -> None:
    options = "--cluster-enabled", "yes", "--cluster-require-full-coverage", "no"
    with RedisServer(tmp_path / "redis", *options) as redis:
        redis.client.execute_command("CLUSTER ADDSLOTS", *range(16384))
        wait_until(lambda: "'ok'" in str(redis.client.execute_command("CLUSTER INFO")), "it serves")
        url = f"redis+cluster://127.0.0.1:{redis.port}"
        one, two = start(hub=url, hub_messages=True), start(hub=url)
        one.commit("text")
        redis.client.xadd("{p2p}:in", {"data": "added"})
        wait_same(one, two, count=2)


def test_the_server_that_sentinels_name_is_a_hub(tmp_path: Path, start: Any) -> None:
    with RedisServer(tmp_path / "redis") as redis:
        port = free_port_pair()
        config = tmp_path / "sentinel.conf"
        config.write_text(f"port {port}\nsentinel monitor main 127.0.0.1 {redis.port} 1\n")
        command = ["redis-server", str(config), "--sentinel", "--dir", str(tmp_path)]
        sentinel = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            url = f"redis+sentinel://127.0.0.1:{port}/main/0"
            one, two = start(hub=url), start(hub=url)
            one.commit("text")
            wait_same(one, two, count=1)
            assert one.peers()[0].address == url
        finally:
            sentinel.kill()
            sentinel.wait(DEADLINE)


def test_one_node_has_all_write_messages_for_programs(redis: RedisServer, start: Any) -> None:
    one = start(hub=redis.url)
    one.commit("before")
    wait_same(one, count=1)
    two = start(hub=redis.url, hub_messages=True)
    wait_same(one, two, count=1)
    redis.client.xadd("{p2p}:news", {"origin": ""})  # wakes the first one
    wait_until(lambda: shown(one, redis), "the first one writes them, too")


def shown(node: Node, redis: RedisServer) -> bool:
    """Whether another message of a node comes to the stream for programs."""
    text = node.commit("text").id.encode()
    return any(fields[b"id"] == text for _, fields in redis.client.xrange("{p2p}:messages"))


@pytest.mark.parametrize("option", ["hub_messages", "hub_prefix"])
def test_what_is_said_of_a_hub_without_one_is_refused(option: str) -> None:
    settings: dict[str, Any] = {"hub_messages": True, "hub_prefix": "{other}"}
    with pytest.raises(InputError, match=f"{option}= says how a hub is used; give the hub, too"):
        Node(0, **{option: settings[option]})


@pytest.mark.parametrize("prefix", ["p2p", "{}", "", "{a}{b}", "{a b}"])
def test_a_prefix_has_one_part_in_braces(prefix: str) -> None:
    with pytest.raises(InputError, match=r"hub_prefix= needs one part in braces, such as \{p2p\}"):
        Node(0, hub="redis://127.0.0.1:1/0", hub_prefix=prefix)


def test_without_the_package_the_start_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "redis.py").write_text("raise ImportError")
    command = [*RUN_NODE, str(free_port_pair()), "--ephemeral", "--hub", "redis://127.0.0.1:1/0"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
        env={"PYTHONPATH": f"{tmp_path}"},
    )
    assert done.returncode == 2, done.stderr
    assert "pip install 'p2p-sync[redis]'" in done.stderr and "Traceback" not in done.stderr
