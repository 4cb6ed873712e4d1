"""Consumers over HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.harness.api import problem
from tests.harness.http import Http, get_bytes
from tests.harness.support import Answer, NodeProcess, pause, request

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def node() -> Iterator[NodeProcess]:
    with NodeProcess("--ephemeral") as process:
        yield process


def ask(node: NodeProcess, method: str, path: str = "", body: object = None) -> Answer:
    data = b"" if body is None else json.dumps(body).encode()
    return request(node.port, f"/api/v1/consumers{path}", method, JSON, data)


def done(answer: Answer, status: int = 200) -> Any:
    assert answer.status == status, answer.text
    return json.loads(answer.body)


def make(node: NodeProcess, **options: object) -> Any:
    return done(ask(node, "PUT", "/c", options), 201)


def take(node: NodeProcess, query: str = "") -> list[dict[str, Any]]:
    messages = done(ask(node, "GET", f"/c{query}"))["messages"]
    assert isinstance(messages, list)
    return messages


def texts(given: list[dict[str, Any]]) -> list[str]:
    return [each["data"] for each in given]


def listed(node: NodeProcess) -> dict[str, Any]:
    (found,) = done(ask(node, "GET"))["consumers"]
    assert isinstance(found, dict)
    return found


def test_messages_are_taken_acknowledged_and_failed(node: NodeProcess) -> None:
    made = make(node, max_attempts=5)
    assert (made["name"], made["lag"], made["ack_wait"], made["max_attempts"]) == ("c", 0, 30, 5)
    for text in "abcd":
        node.commit(text)
    given = take(node, "?limit=3")
    assert texts(given) == ["a", "b", "c"]
    assert done(ask(node, "POST", "/c/ack", {"position": given[0]["position"]})) == {}
    failed = {"position": given[1]["position"], "error": "no paper"}
    assert done(ask(node, "POST", "/c/fail", failed)) == {}
    found = listed(node)
    assert (found["lag"], found["attempts"], found["error"]) == (3, 1, "no paper")
    assert take(node) == [], "b waits, and those behind it"
    again = take(node, "?wait=5")
    assert [(each["data"], each["attempts"]) for each in again] == [("b", 1), ("c", 0)]
    assert done(ask(node, "POST", "/c/ack", {"position": again[-1]["position"]})) == {}
    assert texts(take(node)) == ["d"]


def test_options_can_be_changed_and_a_consumer_deleted(node: NodeProcess) -> None:
    make(node, topic="a", start="new")
    changed = done(ask(node, "PUT", "/c", {"topic": "b", "ack_wait": 1.5}))
    assert (changed["topic"], changed["ack_wait"]) == ("b", 1.5)
    more = {"own": True, "max_attempts": 3, "shared": True}
    done(ask(node, "PUT", "/c", more))
    for body in (None, {}, {"ack_wait": 2}):  # what is not named stays as it is
        kept = done(ask(node, "PUT", "/c", body))
        assert {name: kept[name] for name in ("topic", *more)} == {"topic": "b", **more}
    reset = done(ask(node, "PUT", "/c", {"topic": "", "own": False, "max_attempts": 0}))
    assert (reset["topic"], reset["own"], reset["max_attempts"]) == ("", False, 0)
    assert (reset["ack_wait"], reset["shared"]) == (2, True)
    assert ask(node, "DELETE", "/c").status == 204
    problem(ask(node, "DELETE", "/c"), 404)
    assert done(ask(node, "GET"))["consumers"] == []


def test_a_parked_message_is_listed_retried_and_dropped(node: NodeProcess) -> None:
    make(node, max_attempts=1)
    node.commit("a")
    (given,) = take(node)
    done(ask(node, "POST", "/c/fail", {"position": given["position"], "error": "no paper"}))
    assert take(node) == []
    (parked,) = done(ask(node, "GET", "/c/parked"))["parked"]
    assert (parked["id"], parked["error"], parked["attempts"]) == (given["id"], "no paper", 1)
    assert parked["message"]["data"] == "a"
    assert len(done(ask(node, "GET", "/c/parked?limit=1"))["parked"]) == 1
    problem(ask(node, "GET", "/c/parked?limit=0"), 400)
    assert done(ask(node, "POST", "/c/parked/retry?id=other"))["retried"] == 0
    assert done(ask(node, "POST", "/c/parked/retry"))["retried"] == 1
    (again,) = take(node)
    assert again["id"] == given["id"]
    done(ask(node, "POST", "/c/fail", {"position": again["position"]}))
    assert take(node) == []
    for method, path in (("POST", "/c/parked/retry"), ("DELETE", "/c/parked")):
        for query in ("id=", "id", "%69d="):
            problem(ask(node, method, f"{path}?{query}"), 400)
    assert listed(node)["parked"] == 1, "nobody has meant all of them"
    path = f"/c/parked?id={quote(given['id'], safe='')}"
    assert done(ask(node, "DELETE", path))["dropped"] == 1
    assert listed(node)["parked"] == 0


def test_a_reason_that_is_no_text_does_not_stop_the_consumer(node: NodeProcess) -> None:
    make(node, max_attempts=1)
    node.commit("a")
    node.commit("b")
    failed = {"position": take(node, "?limit=1")[0]["position"], "error": "\ud800"}
    done(ask(node, "POST", "/c/fail", failed))
    assert listed(node)["error"] == "?"
    assert texts(take(node)) == ["b"]
    assert done(ask(node, "GET", "/c/parked"))["parked"][0]["error"] == "?"


def test_a_reader_that_asks_for_more_time_keeps_a_message(node: NodeProcess) -> None:
    make(node, ack_wait=1)
    node.commit("a")
    (given,) = take(node)
    for _ in range(8):
        done(ask(node, "POST", "/c/extend", {"position": given["position"]}))
        assert take(node, "?wait=0.25") == []
    (again,) = take(node, "?wait=5")
    assert (again["id"], again["attempts"]) == (given["id"], 1), "nobody has asked any more"


def test_two_readers_of_a_shared_consumer_wait_and_each_gets_other_messages(
    node: NodeProcess,
) -> None:
    assert make(node, shared=True)["shared"] is True
    got: list[list[str]] = []
    readers = [
        threading.Thread(target=lambda: got.append(texts(take(node, "?limit=1&wait=10"))))
        for _ in range(2)
    ]
    for reader in readers:
        reader.start()
    node.commit("a")
    node.commit("b")
    for reader in readers:
        reader.join()
    assert sorted(got) == [["a"], ["b"]]


def test_a_second_reader_waits_until_the_first_one_is_done(node: NodeProcess) -> None:
    assert make(node)["shared"] is False
    for text in "ab":
        node.commit(text)
    (first,) = take(node, "?limit=1")
    assert take(node) == []
    done(ask(node, "POST", "/c/ack", {"position": first["position"]}))
    assert texts(take(node)) == ["b"]


def test_a_position_is_that_of_one_delivery_by_one_consumer(node: NodeProcess) -> None:
    make(node, ack_wait=0.2)
    for text in "abc":
        node.commit(text)
    late = take(node)[-1]["position"]
    again = take(node, "?wait=5")
    assert [(each["data"], each["attempts"]) for each in again] == [("a", 1)], "each alone now"
    problem(ask(node, "POST", "/c/fail", {"position": late}), 409)
    assert ask(node, "DELETE", "/c").status == 204
    make(node)
    assert texts(take(node)) == ["a", "b", "c"]
    for what in ("ack", "fail", "extend"):
        problem(ask(node, "POST", f"/c/{what}", {"position": late}), 409)
    assert (listed(node)["lag"], listed(node)["lent"]) == (3, 3)
    old = late.partition(".")[0]  # as it was before positions were those of deliveries
    problem(ask(node, "POST", "/c/ack", {"position": old}), 409)


def test_what_kills_its_reader_is_parked_and_what_was_taken_with_it_is_not(
    node: NodeProcess,
) -> None:
    make(node, ack_wait=0.1, max_attempts=3)
    for text in "abcd":
        node.commit(text)
    handled: list[str] = []
    while listed(node)["lag"]:
        given = take(node, "?wait=5")
        if given and "c" not in texts(given):  # c kills its reader
            handled += texts(given)
            done(ask(node, "POST", "/c/ack", {"position": given[-1]["position"]}))
    assert handled == ["a", "b", "d"]
    (parked,) = done(ask(node, "GET", "/c/parked"))["parked"]
    assert (parked["message"]["data"], parked["attempts"]) == ("c", 3)


def test_a_reader_that_has_gone_gets_nothing(node: NodeProcess) -> None:
    make(node)
    for _ in range(3):
        with Http(node.port) as http:
            http.send(get_bytes(node.port, "/api/v1/consumers/c?wait=30"))
            pause(0.3)  # it waits
        node.commit("a")
        (given,) = take(node)
        assert given["attempts"] == 0
        done(ask(node, "POST", "/c/ack", {"position": given["position"]}))


def test_positions_survive_a_restart(tmp_path: Path) -> None:
    with NodeProcess(data_dir=tmp_path) as node:
        make(node)
        for text in "abc":
            node.commit(text)
        given = take(node, "?limit=2")
        done(ask(node, "POST", "/c/ack", {"position": given[0]["position"]}))
    with NodeProcess(data_dir=tmp_path) as node:
        assert take(node) == [], "b is lent still"
        done(ask(node, "POST", "/c/ack", {"position": given[1]["position"]}))
        assert texts(take(node)) == ["c"]


WRONG = [
    ("PUT", "/c", {"unknown": 1}, 400, "it has: start, topic, own, ack_wait, max_attempts, shared"),
    ("PUT", "/c", {"ack_wait": "1"}, 400, 'ack_wait is a number, not "1"'),
    ("PUT", "/c", {"ack_wait": True}, 400, "ack_wait is a number, not true"),
    ("PUT", "/c", {"own": 1}, 400, "own is true or false, not 1"),
    ("PUT", "/c", {"max_attempts": 1.5}, 400, "max_attempts is a whole number, not 1.5"),
    ("PUT", "/known", {"max_attempts": 0.0}, 200, ""),
    ("PUT", "/c", {"ack_wait": 0}, 400, "from 0.1 to 604800"),
    ("PUT", "/c", {"ack_wait": 10**400}, 400, "from 0.1 to 604800"),
    ("PUT", "/c", {"topic": "a b"}, 400, "a topic is"),
    ("PUT", "/c", {"start": "soon"}, 400, "next of an earlier answer"),
    ("PUT", "/c", [], 400, "must be a JSON object"),
    ("PUT", f"/{'a' * 65}", None, 400, "1 to 64 letters"),
    ("PUT", "/a%20b", None, 400, "1 to 64 letters"),
    ("PUT", "/.", None, 400, "is not '.' or '..'"),
    ("PUT", "/..", None, 400, "is not '.' or '..'"),
    ("PUT", "/%2e%2E", None, 400, "is not '.' or '..'"),
    ("PUT", "/", None, 404, "not found: '/api/v1/consumers/'"),
    ("PUT", "/a/b", None, 404, "not found: '/api/v1/consumers/a/b'"),
    ("PUT", "/a%2Fb", None, 404, "not found: '/api/v1/consumers/a/b'"),
    ("PUT", "/a%252Fb", None, 400, "1 to 64 letters"),
    ("PUT", "/a%0A", None, 400, "1 to 64 letters"),
    ("PUT", "/%00", None, 400, "1 to 64 letters"),
    ("PUT", "/%FF", None, 400, "1 to 64 letters"),
    ("GET", "/other", None, 404, "no consumer 'other'"),
    ("GET", "/known?limit=0", None, 400, "from 1 to 1000"),
    ("GET", "/known?wait=31", None, 400, "up to 30"),
    ("GET", "/known?after=1", None, 400, "no parameter 'after'"),
    ("POST", "/known/ack", None, 400, "not valid JSON"),
    ("POST", "/known/ack", {}, 400, '{"position": "text"}'),
    ("POST", "/known/ack", {"position": "x"}, 400, "that of a message that this node has given"),
    ("POST", "/known/ack", {"position": ""}, 400, "that of a message that this node has given"),
    ("POST", "/known/ack", {"position": "new"}, 400, "that of a message that this node has"),
    ("POST", "/known/ack", {"position": "0"}, 409, "not taken yet"),
    ("POST", "/known/ack", {"position": "0.x"}, 400, "that of a message that this node has given"),
    ("POST", "/known/ack", {"position": "00000000-0"}, 410, "another log"),
    ("POST", "/known/fail", {"position": "0", "error": 1}, 400, "error is a text"),
    ("POST", "/known/fail", {"position": "0"}, 409, "its reader has this message no more"),
    ("POST", "/known/extend", {"position": "0"}, 409, "its reader has this message no more"),
    ("POST", "/other/ack", {"position": "0"}, 404, "no consumer 'other'"),
    ("POST", "/other/extend", {"position": "0"}, 404, "no consumer 'other'"),
    ("HEAD", "/known", None, 405, ""),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "detail"), WRONG)
def test_what_is_wrong_is_refused_and_changes_nothing(
    node: NodeProcess, method: str, path: str, body: object, status: int, detail: str
) -> None:
    done(ask(node, "PUT", "/known"), 201)
    before = listed(node)
    answer = ask(node, method, path, body)
    assert answer.status == status, answer.text
    assert detail in (json.loads(answer.body).get("detail", "") if answer.body else "")
    assert listed(node) == before
