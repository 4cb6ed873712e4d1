"""Topics by HTTP: committing with one, reading one topic alone, and what is no topic."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.harness.api import problem
from tests.harness.support import DEADLINE, Answer, NodeProcess, request, wait_until

MESSAGES = "/api/v1/messages"
NDJSON = "application/x-ndjson"
WRONG = ["a b", "\u00e4", "a" * 65, "a\n", "#", "a,b", "<b>", "'", "a\\b"]


def post(node: NodeProcess, body: bytes, query: str = "", kind: str = "application/json") -> Answer:
    return request(node.port, MESSAGES + query, "POST", {"Content-Type": kind}, body)


def pairs(messages: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(message["data"], message.get("topic", "")) for message in messages]


def listed(node: NodeProcess, query: str = "order=time") -> list[tuple[str, str]]:
    return pairs(node.api(f"messages?limit=1000&{query}")["messages"])


@pytest.fixture
def empty() -> Iterator[NodeProcess]:
    with NodeProcess("--ephemeral") as node:
        yield node
        assert "Traceback" not in node.log()


def test_each_way_to_commit_takes_a_topic(empty: NodeProcess) -> None:
    node = empty
    assert node.get("/commit?msg=one&topic=t/1").status == 302
    assert node.get("/commit?topic=t/2&msg=two&copies=0").status == 302, "by a worker"
    assert node.get("/commit?msg=three&topic=").status == 302, "an empty field of a form"
    answer = post(node, b'{"data": "four", "topic": "t/4"}')
    assert answer.status == 201 and json.loads(answer.body)["topic"] == "t/4"
    answer = post(node, b'{"data": "five"}', "?topic=t/5")
    assert answer.status == 201 and json.loads(answer.body)["topic"] == "t/5"
    assert post(node, b'{"data": "six", "topic": ""}', "?topic=t/5").status == 201
    lines = b'"seven"\n{"data": "eight"}\n{"data": "nine", "topic": "t/9"}\n"ten"\n'
    assert json.loads(post(node, lines, "?topic=many", NDJSON).body)["count"] == 4
    assert post(node, b'"eleven"\n', "", NDJSON).status == 201
    assert listed(node) == [
        ("one", "t/1"), ("two", "t/2"), ("three", ""), ("four", "t/4"), ("five", "t/5"),
        ("six", ""), ("seven", "many"), ("eight", "many"), ("nine", "t/9"), ("ten", "many"),
        ("eleven", ""),
    ]  # fmt: skip
    (message, *_) = node.api("messages?topic=t/9")["messages"]
    assert set(message) == {"id", "origin", "seq", "time", "data", "topic"}
    assert "topic" not in node.api("messages?order=newest&limit=1")["messages"][0]
    assert node.line() == "No. sockets 0 " + ",".join(text for text, _ in listed(node))


@pytest.mark.parametrize("topic", WRONG)
def test_what_is_no_topic_gets_400_and_stores_nothing(node: NodeProcess, topic: str) -> None:
    count, query = node.count, quote(topic, safe="")
    body = json.dumps({"data": "x", "topic": topic}).encode()
    for answer in (
        post(node, body),
        post(node, b'{"data": "x"}', f"?topic={query}"),
        post(node, b'"x"\n', f"?topic={query}", NDJSON),
        post(node, body + b"\n", "", NDJSON),
        *(node.get(f"{MESSAGES}?order={o}&topic={query}") for o in ("arrival", "time", "newest")),
        node.get(f"{MESSAGES}/follow?topic={query}"),
    ):
        told = problem(answer, 400)
        assert "at most 64 letters" in told["detail"] and "'_'" in told["detail"]
    for target in (f"/commit?msg=x&topic={query}", f"/commit?msg=x&topic={query}&copies=0"):
        answer = node.get(target)
        assert answer.status == 400 and "at most 64 letters" in answer.text
    page = node.get(f"/?topic={query}", Accept="text/html")
    assert page.status == 400 and "at most 64 letters" in page.text
    assert node.count == count


def test_a_topic_is_a_text_given_once(node: NodeProcess) -> None:
    count = node.count
    for value in (b"5", b"null", b'["a"]'):
        assert "topic" in problem(post(node, b'{"data": "x", "topic": %b}' % value), 400)["detail"]
    problem(node.get(f"{MESSAGES}?topic=a&topic=b"), 400)
    assert node.get("/commit?msg=x&topic=a&topic=b").status == 400
    assert node.get("/commit?msg=x&topic=%ff").status == 400
    assert node.get("/commit?topic=a").status == 400, "there is no text"
    assert node.count == count


def test_a_bad_topic_in_the_middle_says_how_far_it_came(empty: NodeProcess) -> None:
    lines = b'{"data": "one", "topic": "a"}\n"two"\n{"data": "three", "topic": "no no"}\n"four"\n'
    told = problem(post(empty, lines, "", NDJSON), 400)
    assert (told["stored"], told["line"]) == (2, 3) and "no no" in told["reason"]
    assert listed(empty) == [("one", "a"), ("two", "")]


@pytest.fixture(scope="module")
def mixed() -> Iterator[NodeProcess]:
    """A node with 300 messages of three topics, and 300 without; no test adds more."""
    with NodeProcess("--ephemeral") as node:
        names = ["", "a", "", "b", "", "a/b"]
        body = [{"data": f"{n}", "topic": names[n % 6]} for n in range(600)]
        lines = b"".join(json.dumps(line).encode() + b"\n" for line in body)
        assert post(node, lines, "", NDJSON).status == 201
        yield node


@pytest.mark.parametrize("order", ["arrival", "time", "newest"])
@pytest.mark.parametrize("limit", [7, 100, 1000])
def test_pages_of_a_topic_hold_all_of_it_once(mixed: NodeProcess, order: str, limit: int) -> None:
    found: list[tuple[str, str]] = []
    after = ""
    while True:
        query = f"topic=a&order={order}&limit={limit}&after={quote(after)}"
        page = mixed.api(f"messages?{query}")
        found += pairs(page["messages"])
        if len(page["messages"]) < limit:
            break
        after = page["next"]
    expected = [(f"{n}", "a") for n in range(1, 600, 6)]
    assert found == (expected[::-1] if order == "newest" else expected)


def test_a_search_keeps_to_the_topic(mixed: NodeProcess) -> None:
    assert listed(mixed, "order=newest&q=1&topic=b") == [
        (f"{n}", "b") for n in range(597, 0, -6) if "1" in f"{n}"
    ]
    page = mixed.api("messages?order=newest&topic=none&copies=1")
    assert page["messages"] == [] and page["complete"]


def test_a_page_of_a_topic_is_not_sent_twice(mixed: NodeProcess) -> None:
    answer = mixed.get(f"{MESSAGES}?topic=a&order=time")
    tag = {"If-None-Match": answer.headers["etag"]}
    assert mixed.get(f"{MESSAGES}?topic=a&order=time", **tag).status == 304
    assert mixed.get(f"{MESSAGES}?topic=b&order=time", **tag).status == 200


def test_the_place_after_a_page_goes_on_while_other_topics_come(empty: NodeProcess) -> None:
    post(empty, b'{"data": "one", "topic": "a"}')
    first = empty.api("messages?topic=a")
    for n in range(3):
        empty.commit(f"{n}")
    second = empty.api(f"messages?topic=a&after={first['next']}")
    assert second["messages"] == [] and second["next"] != first["next"]
    post(empty, b'{"data": "two", "topic": "a"}')
    assert pairs(empty.api(f"messages?topic=a&after={second['next']}")["messages"]) == [
        ("two", "a")
    ]


def test_a_stream_has_one_topic_alone(empty: NodeProcess) -> None:
    node = empty
    post(node, b'"old"\n', "?topic=a", NDJSON)
    connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=DEADLINE)
    try:
        connection.request("GET", f"{MESSAGES}/follow?topic=a")
        response = connection.getresponse()
        found: list[dict[str, Any]] = []

        def read(count: int) -> None:
            while len(found) < count:
                line = response.readline()
                assert line, found
                found.extend([json.loads(line)] if line.strip() else [])

        read(1)
        for n in range(30):
            post(node, json.dumps({"data": f"{n}", "topic": ("a", "b", "")[n % 3]}).encode())
        read(11)
        expected = [("old", "a"), *((f"{n}", "a") for n in range(0, 30, 3))]
        assert pairs(found) == expected
        again = node.api(f"messages?topic=a&after={found[3]['next']}")
        assert pairs(again["messages"]) == expected[4:]
    finally:
        connection.close()


def test_events_have_no_topic(node: NodeProcess) -> None:
    detail = problem(node.get("/api/v1/events?topic=a"), 400)["detail"]
    assert "no parameter 'topic' here; there are: after, timeout" in detail


def test_an_imported_export_keeps_its_topics(mixed: NodeProcess, empty: NodeProcess) -> None:
    lines = mixed.get(f"{MESSAGES}/export").body
    answer = json.loads(post(empty, lines, "?skip=held", NDJSON).body)
    assert answer["count"] == 600
    wait_until(lambda: listed(empty) == listed(mixed))
