"""The metrics: Prometheus can read them, they count what happens, and the README names them."""

from __future__ import annotations

import re

from prometheus_client.parser import text_string_to_metric_families

from p2p_sync.names import host_name
from p2p_sync.web.metrics import COUNTS, TIMES
from tests.harness.original import Original
from tests.harness.support import NodeProcess, request, wait_sockets, wait_until
from tests.project.documents import DOCUMENTS

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scraped(node: NodeProcess) -> Samples:
    answer = node.get("/metrics")
    assert (answer.status, answer.headers["content-type"].split(";")[0]) == (200, "text/plain")
    return {
        (sample.name.removeprefix("p2p_sync_"), frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(node: NodeProcess, name: str, /, **labels: str) -> float:
    return scraped(node).get((name, frozenset(labels.items())), 0)


def test_every_metric_is_there_and_in_the_readme(pair: list[NodeProcess]) -> None:
    text = pair[0].get("/metrics").text
    told = set(re.findall(r"^# TYPE (p2p_sync_\w+)", text, re.M))
    documented = "".join(text.text for text in DOCUMENTS)
    rows = re.findall(r"^\| `(p2p_sync_\w+)(?:\{([a-z, ]+)\})?`", documented, re.M)
    assert told == {name for name, _ in rows} == {f"p2p_sync_{name}" for name in (*COUNTS, *TIMES)}
    for name, labels in rows:
        assert labels.replace(" ", "") == ",".join(
            COUNTS.get(name.removeprefix("p2p_sync_"), ("", ()))[1]
        ), name


def test_names_follow_the_conventions(pair: list[NodeProcess]) -> None:
    for family in text_string_to_metric_families(pair[0].get("/metrics").text):
        assert family.documentation
        assert not re.search(r"_(ms|milliseconds|kb|count)$", family.name)
        assert (family.type == "histogram") == family.name.endswith("_seconds") or (
            not family.name.startswith("p2p_sync_")
        )


def test_commits_frames_bytes_and_lag_are_counted(pair: list[NodeProcess]) -> None:
    here, there = pair
    before, there_before = scraped(here), scraped(there)
    for n in range(5):
        assert here.commit(f"counted {n}").status == 302
    wait_until(
        lambda: value(here, "peer_lag_messages", peer=_id(there), name=host_name()) == 0,
        "all are told of",
    )
    count = frozenset[tuple[str, str]]()
    own, ours = frozenset({("class", "own")}), frozenset({("class", "ours")})
    now, there_now = scraped(here), scraped(there)
    grown = {key: now[key] - before.get(key, 0) for key in now}
    assert grown["log_messages", own] == 5 == grown["commit_seconds_count", count]
    assert there_now["log_messages", ours] - there_before["log_messages", ours] == 5
    out = frozenset({("direction", "out"), ("type", "MESSAGES")})
    into = frozenset({("direction", "in"), ("type", "MESSAGES")})
    assert 1 <= grown["frames_total", out] <= 5
    assert there_now["frames_total", into] - there_before.get(("frames_total", into), 0) >= 1
    assert grown["link_bytes_total", frozenset({("direction", "out")})] > 50
    assert now["links", frozenset({("direction", "out"), ("state", "open")})] == 1
    assert now["dials_total", frozenset({("result", "linked")})] >= 1
    assert now["peer_delay_seconds_count", count] >= 1
    assert now["log_bytes", count] > 4096 and now["threads", count] > 5
    assert now["behind_messages", count] == 0


def _id(node: NodeProcess) -> str:
    told = re.search(r'"id":"([0-9a-f]{8})', node.get("/api/v1/status").text)
    assert told
    return told[1]


def test_failed_dials_and_refusals_are_counted() -> None:
    with NodeProcess() as node:
        assert request(node.port + 1, "/").status == 426
        wait_until(lambda: value(node, "refusals_total", reason="upgrade_required") == 1)
        node.add("ws://127.0.0.1:1")
        wait_until(lambda: value(node, "dials_total", result="failed") >= 1, "a dial fails")
        node.add(f"ws://127.0.0.1:{node.port}")
        wait_until(lambda: value(node, "dials_total", result="refused") >= 1, "one is refused")


def test_what_originals_commit_is_a_class_of_its_own_also_after_a_restart() -> None:
    with NodeProcess() as node:
        with Original() as original:
            original.add(node.address)
            wait_sockets(1, node)
            original.commit("heard")
            wait_until(
                lambda: value(node, "log_messages", **{"class": "heard"}) == 1, "it is heard"
            )
        node.commit("own")
        assert value(node, "log_messages", **{"class": "own"}) == 1
        assert value(node, "frames_total", direction="in", type="MESSAGE") == 1
        bytes_in = value(node, "link_bytes_total", direction="in")
        assert bytes_in > 0, "those of links that have ended count"
        node.stop()
        with NodeProcess(data_dir=node.data_dir) as again:
            found = {
                name: value(again, "log_messages", **{"class": name}) for name in ("own", "heard")
            }
            assert found == {"own": 1, "heard": 1}


def series(node: NodeProcess) -> set[str]:
    """All series of the node, except those of single peers."""
    told = set(re.findall(r"^(p2p_sync_\w+(?:\{.*\})?) ", node.get("/metrics").text, re.M))
    return {name for name in told if "peer_lag" not in name}


def test_every_series_exists_from_the_start() -> None:
    with NodeProcess("--ephemeral") as node, NodeProcess("--ephemeral") as other:
        before = series(node)
        assert value(node, "in_sync") == 1 and value(node, "peers", state="unreachable") == 0
        version = re.search(r'p2p_sync_build_info\{.*version="([^"]+)"', node.get("/metrics").text)
        assert version and version[1] in node.get("/api/v1/status").text
        node.add(other.address)
        wait_sockets(1, node)
        other.commit("a message")
        wait_until(lambda: value(node, "log_messages", **{"class": "ours"}) == 1, "it arrives")
        with Original() as original:
            original.add(node.address)
            wait_sockets(2, node)
            original.commit("heard")
            wait_until(lambda: value(node, "log_messages", **{"class": "heard"}) >= 1, "heard")
        assert request(node.port + 1, "/").status == 426
        assert request(node.port + 1, "/", headers={"Upgrade": "websocket"}).status == 400
        node.add("ws://127.0.0.1:1")
        node.add(node.address)
        wait_until(lambda: value(node, "dials_total", result="failed") >= 1, "a dial fails")
        assert series(node) == before


def test_an_alert_on_not_being_in_sync_fires() -> None:
    with NodeProcess("--ephemeral") as node, NodeProcess("--ephemeral") as other:
        node.add(other.address)
        wait_until(lambda: value(node, "peers", state="connected") == 1, "it is connected")
        wait_until(lambda: value(node, "in_sync") == 1, "it is in sync")
        other.process.kill()
        wait_until(lambda: value(node, "in_sync") == 0, "the peer is gone")
        wait_until(lambda: value(node, "peers", state="unreachable") == 1, "it is missed")
        assert value(node, "peers", state="connected") == 0


def test_metrics_need_the_token_as_the_api_does() -> None:
    with NodeProcess("--http-host", "0.0.0.0") as node:
        assert node.get("/metrics").status == 401
        token = (node.data_dir / "http-token").read_text().strip()
        assert node.get("/metrics", Authorization=f"Bearer {token}").status == 200
