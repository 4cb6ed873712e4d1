"""`log`: which messages it prints, and since when."""

from __future__ import annotations

import datetime
import json
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from p2p_sync import InputError
from p2p_sync.cli.options import since
from tests.cli.test_client import run
from tests.harness.api import post_all, wait_equal
from tests.harness.support import RUN_NODE, NodeProcess, run_nodes, wait_sockets, wait_until

NAMES = ("hub", "leaf")


@pytest.fixture(scope="module")
def pair() -> Iterator[list[NodeProcess]]:
    """Two nodes, each of which has committed messages; no test adds more."""
    with (
        NodeProcess("--ephemeral", "--name", NAMES[0]) as hub,
        NodeProcess("--ephemeral", "--name", NAMES[1], "--peer", hub.address) as leaf,
    ):
        wait_sockets(1, hub, leaf)
        for n in range(3):
            hub.commit(f"hub {n}")
            leaf.commit(f"leaf {n}")
            wait_equal([hub.port, leaf.port], 2 * n + 2)
        assert run(leaf, "commit", "of a topic", "--topic", "t").returncode == 0
        wait_equal([hub.port, leaf.port], 7)
        yield [hub, leaf]


def texts(node: NodeProcess, *options: str) -> list[str]:
    done = run(node, "log", "--json", *options)
    assert done.returncode == 0 and done.stderr == "", done
    return [json.loads(line)["data"] for line in done.stdout.splitlines()]


def test_the_last_messages_are_the_end_of_all(pair: list[NodeProcess]) -> None:
    for node in pair:
        everything = texts(node)
        assert len(everything) == 7
        for count in (1, 3, 7, 100):
            assert texts(node, "-n", str(count)) == everything[-count:]
        assert texts(node, "-n", "0") == []


def test_more_messages_than_a_page(pair: list[NodeProcess]) -> None:
    with NodeProcess("--ephemeral") as node:
        post_all(node.port, [f"{n}" for n in range(2500)])
        assert texts(node, "--last", "1500") == [f"{n}" for n in range(1000, 2500)]


def test_the_messages_of_one_node(pair: list[NodeProcess]) -> None:
    mine = [f"hub {n}" for n in range(3)]
    for node in pair:
        assert texts(node, "--from", "hub") == texts(node, "--from", pair[0].id[:6]) == mine
        assert texts(node, "--from", pair[0].id) == mine
        assert texts(node, "--from", "leaf", "-n", "2") == ["leaf 2", "of a topic"]
        assert texts(node, "--from", "leaf", "--topic", "t") == ["of a topic"]
        assert texts(node, "--from", "0123456789abcdef") == []
    for wrong in ("nobody", "abc"):
        done = run(pair[0], "log", "--from", wrong)
        assert done.returncode == 2 and "--from" in done.stderr and wrong in done.stderr


def test_a_name_that_two_nodes_have_is_refused_with_their_ids() -> None:
    options = "--ephemeral", "--name", "web"
    with NodeProcess(*options) as one, NodeProcess(*options, "--peer", one.address) as two:
        wait_sockets(1, one, two)
        two.commit("from two")
        done = run(one, "log", "--from", "web")
        assert done.returncode == 2
        assert all(node.id[:8] in done.stderr for node in (one, two)), done.stderr
        wait_until(lambda: texts(one, "--from", two.id[:8], "-n", "1") == ["from two"])


def test_messages_since_a_time(pair: list[NodeProcess]) -> None:
    found = [json.loads(line) for line in run(pair[0], "log", "--json").stdout.splitlines()]
    moment = datetime.datetime.fromtimestamp(found[3]["time"] / 1000, datetime.timezone.utc)
    expected = [each["data"] for each in found if each["time"] >= found[3]["time"]]
    assert texts(pair[0], "--since", moment.isoformat()) == expected
    assert texts(pair[0], "--since", moment.isoformat(), "-n", "100") == expected
    assert texts(pair[0], "--since", moment.isoformat(), "-n", "1") == expected[-1:]
    assert len(texts(pair[0], "--since", "1h")) == 7
    tomorrow = datetime.date.today() + datetime.timedelta(days=2)
    assert texts(pair[0], "--since", str(tomorrow)) == []
    done = run(pair[0], "log", "--since", "yesterday")
    assert done.returncode == 2 and "--since" in done.stderr and "2026-11-01" in done.stderr


@pytest.mark.parametrize(
    ("text", "seconds"), [("2h", 7200), ("30d", 2_592_000), ("90min", 5400), ("60s", 60)]
)
def test_a_time_may_be_so_long_ago(text: str, seconds: float) -> None:
    assert abs(time.time() - seconds - since(text) / 1000) < 5


def test_a_time_may_be_a_date() -> None:
    local = datetime.datetime(2026, 11, 1, 9, 30)
    assert since("2026-11-01T09:30") == since("2026-11-01 09:30:00") == local.timestamp() * 1000
    assert since("2026-11-01") == datetime.datetime(2026, 11, 1).timestamp() * 1000
    moment = datetime.datetime(2026, 11, 1, 9, 30, tzinfo=datetime.timezone.utc)
    for text in ("2026-11-01T09:30Z", "2026-11-01t11:30:00+02:00", "2026-11-01T04:30-05:00"):
        assert since(text) == moment.timestamp() * 1000


@pytest.mark.parametrize("text", ["", "yesterday", "2h ago", "-1h", "2026-13-01", "1.11.2026"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="2h, 30d, 2026-11-01"):
        since(text)


@pytest.mark.parametrize("count", [0, 2])
def test_following_after_the_last_messages(count: int) -> None:
    with run_nodes(1, "--ephemeral") as (node,):
        post_all(node.port, [f"{n}" for n in range(1200)])
        command = [*RUN_NODE, "log", "-f", "-n", str(count), "--node", f"127.0.0.1:{node.port}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            found: list[str] = []
            thread = threading.Thread(target=lambda: found.extend(process.stdout or ()))
            thread.start()
            if not count:  # its first line is a new message: commit until it has begun
                wait_until(lambda: node.commit("new") and found, "it follows")
            wait_until(lambda: len(found) >= count, lambda: found)
            node.commit("the last one")
            wait_until(lambda: found[-1].endswith("  the last one\n"), lambda: found)
            process.terminate()
            thread.join()
        shown = [line.split()[-1] for line in found]
        assert shown[:count] == ["1198", "1199"][:count]
        assert len(set(shown[:-1]) - {"new"}) == count, "only the last ones"


def test_following_keeps_to_the_node_and_the_time(pair: list[NodeProcess]) -> None:
    messages = [json.loads(line) for line in run(pair[0], "log", "--json").stdout.splitlines()]
    moment = datetime.datetime.fromtimestamp(messages[-1]["time"] / 1000, datetime.timezone.utc)
    address = f"127.0.0.1:{pair[0].port}"
    for options, first in (
        (("--from", "leaf"), "leaf 0"),
        (("--from", pair[1].id[:4], "-n", "2"), "leaf 2"),
        (("--since", moment.isoformat()), "of a topic"),
    ):
        command = [*RUN_NODE, "log", "-f", *options, "--node", address]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout and process.stdout.readline().rstrip().endswith(first)
            process.terminate()
