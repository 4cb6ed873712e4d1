"""A commit that is sent again with its idempotency key is not committed again."""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from p2p_sync import KeyInvalid, KeyReused, LogError, LogGone, Node
from p2p_sync.disk import keyed
from p2p_sync.node import keys
from tests.harness.support import DEADLINE, Answer, NodeProcess, request, wait_until

KEY = "Idempotency-Key"


def post(node: NodeProcess, value: object, key: str | None = None) -> Answer:
    """Commit one message."""
    headers = {"Content-Type": "application/json"} | ({} if key is None else {KEY: key})
    return request(node.port, "/api/v1/messages", "POST", headers, json.dumps(value).encode())


def post_lines(node: NodeProcess, *values: object, key: str | None = None) -> Answer:
    """Commit a message for each of the values."""
    headers = {"Content-Type": "application/x-ndjson"} | ({} if key is None else {KEY: key})
    body = b"".join(json.dumps(value).encode() + b"\n" for value in values)
    return request(node.port, "/api/v1/messages", "POST", headers, body)


def texts(node: Node) -> list[str]:
    return [message.data for message in node.messages()]


def test_the_first_answer_comes_again_and_the_message_is_there_once() -> None:
    with Node(0) as node:
        first = node.commit("text", key="k", topic="a")
        again = node.commit("text", key="k", topic="a")
        other = node.commit("text", key="l", topic="a")
        assert again == first != other
        assert texts(node) == ["text", "text"]


def test_a_key_names_one_message_only() -> None:
    with Node(0) as node:
        node.commit("text", key="k")
        for text, topic in (("other", ""), ("text", "a")):
            with pytest.raises(KeyReused, match="'k' has named another message"):
                node.commit(text, topic=topic, key="k")
        assert texts(node) == ["text"]


@pytest.mark.parametrize("key", ["x" * 129, "a\nb", "\u00e4", 7, b"k"])
def test_what_is_no_key_is_refused(key: Any) -> None:
    with Node(0) as node:
        with pytest.raises(KeyInvalid, match=r"printable ASCII|1 to 128 characters"):
            node.commit("text", key=key)
        assert not node.messages()


def test_keys_outlive_the_node(tmp_path: Path) -> None:
    with Node(0, tmp_path) as node:
        first = node.commit("text", key="k")
    with Node(0, tmp_path) as node:
        assert node.commit("text", key="k") == first
        with pytest.raises(KeyReused):
            node.commit("other", key="k")
        assert node.commit("other").seq == 2


def test_keys_are_known_for_as_long_as_the_setting_says(monkeypatch: pytest.MonkeyPatch) -> None:
    with Node(0, keep_keys=3600.0) as node:
        first = node.commit("text", key="k")
        clock = SimpleNamespace(time=lambda: first.time / 1000 + 3599)
        monkeypatch.setattr(keys, "time", clock)
        assert node.commit("text", key="k") == first
        clock.time = lambda: first.time / 1000 + 3601
        later = node.commit("other text", key="k")
        assert later != first
        clock.time = time.time
        assert node.commit("other text", key="k") == later


def test_a_node_that_is_ahead_does_not_shorten_the_time_for_which_keys_are_known() -> None:
    with Node(0, keep_keys=30.0) as node:
        first = node.commit("text", key="k")
        with node._running().state.turn() as core:  # a message of a node with such a clock has come
            assert core.dates.clock.observe(core.wall + 50_000, core.wall)
        for number in range(5):
            later = node.commit(f"{number}", key=f"{number}")
        assert later.time > first.time + 30_000
        assert node.commit("text", key="k") == first


def test_keys_may_be_known_for_ever() -> None:
    with Node(0, keep_keys=1e30) as node:
        assert node.commit("text", key="k") == node.commit("text", key="k")


def test_a_commit_that_is_repeated_does_not_wait_for_copies_that_nobody_wants() -> None:
    with Node(0) as node, Node(0) as other:
        other.connect(node.address)
        node.wait_linked()
        assert node.commit("text", 1, DEADLINE, key="k").copies == 1
        assert node.commit("text", 1, DEADLINE, key="k").copies == 1
        assert node.commit("text", key="k").copies == 0


def test_copies_of_lines_are_those_of_the_new_ones_too() -> None:
    body = b'"new"\n{"data": "old", "key": "k"}\n'

    def send(timeout: float) -> tuple[int, int]:
        path = f"/api/v1/messages?copies=1&timeout={timeout:g}"
        done = request(node.port, path, "POST", {"Content-Type": "application/x-ndjson"}, body)
        return done.status, json.loads(done.body)["copies"]

    with NodeProcess() as node, NodeProcess("--peer", node.address) as other:
        post(node, {"data": "old", "key": "k"})
        wait_until(lambda: other.texts() == ["old"])
        assert send(DEADLINE) == (201, 1)
        os.kill(other.process.pid, signal.SIGSTOP)
        try:
            assert send(0.2) == (202, 0)
        finally:
            os.kill(other.process.pid, signal.SIGCONT)


def test_the_oldest_keys_go_when_new_ones_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyed, "MAX_KEYS", 10)
    with Node(0) as node:
        for number in range(100):
            node.commit(f"{number}", key=f"{number}")
        with node._running().store.reading() as database:
            (count,) = database.execute("SELECT count(*) FROM keys").fetchone()
        assert count == 10
        assert node.commit("99", key="99").seq == 100
        assert node.commit("0", key="0").seq == 101, "it was forgotten"


def test_a_hundred_requests_that_race_commit_once() -> None:
    with Node(0) as node, ThreadPoolExecutor(20) as pool:
        for key in "abcde":
            begin = threading.Barrier(20)

            def commit(_: int, key: str = key, begin: threading.Barrier = begin) -> str:
                begin.wait(10)
                return node.commit(f"text {key}", key=key).id

            assert len(set(pool.map(commit, range(20)))) == 1
        assert len(texts(node)) == 5


def test_two_bodies_with_the_same_keys_in_another_order_do_not_wait_for_each_other() -> None:
    with Node(0) as node, ThreadPoolExecutor(8) as pool:
        drafts = [(f"{n}", "", f"key {n}", "") for n in range(1_500)]

        def commit(turned: bool) -> list[str]:
            parts = node.intake.commit_many(reversed(drafts) if turned else drafts)
            ids = [part.message(n).id for part in parts for n in range(part.count)]
            return ids[::-1] if turned else ids

        results = list(pool.map(commit, [False, True] * 4))
        assert all(ids == results[0] for ids in results)
        assert sorted(map(int, texts(node))) == list(range(1_500))


def test_a_key_may_be_used_again_after_the_disk_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    with Node(0) as node:
        node.commit("before")
        append = node.log.append

        def fails(*_: object) -> Any:
            monkeypatch.setattr(node.log, "append", append)
            raise LogError("the disk is full")

        monkeypatch.setattr(node.log, "append", fails)
        with pytest.raises(LogError, match="full"):
            node.commit("text", key="k")
        wait_until(lambda: not node.unready(), node.unready)
        first = node.commit("text", key="k")
        assert node.commit("text", key="k") == first
        assert texts(node) == ["before", "text"]


def test_a_message_that_is_lost_with_the_files_is_not_acknowledged_when_it_comes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Node(0, tmp_path) as node:
        store = node._running().store
        settle = store._settle

        def lost(*args: Any) -> None:
            if args[1:] != (None,):  # a commit is written
                for file in tmp_path.glob("node.db*"):
                    file.unlink()
            settle(*args)

        monkeypatch.setattr(store, "_settle", lost)
        for _ in range(2):
            with pytest.raises(LogGone):
                node.commit("text", key="k")


def test_all_texts_of_a_list_may_come_again() -> None:
    with Node(0) as node:
        some = [message.id for message in node.commit_all(["a", "b", "a"], key="k")]
        all_ids = [message.id for message in node.commit_all(["a", "b", "a", "c"], key="k")]
        assert all_ids[:3] == some and len(set(all_ids)) == 4
        assert texts(node) == ["a", "b", "a", "c"]
        with pytest.raises(KeyReused):
            list(node.commit_all(["new"], key="k"))


# -- HTTP -----------------------------------------------------------------------------------------


def test_the_header_of_a_request_is_its_key() -> None:
    with NodeProcess() as node:
        first = post(node, {"data": "text"}, "k-1")
        again = post(node, {"data": "text"}, '"k-1"')  # as a draft of the IETF has it
        in_body = post(node, {"data": "text", "key": "k-1"})
        assert first.status == again.status == 201
        assert first.body == again.body == in_body.body
        assert "idempotent-replayed" not in first.headers
        assert again.headers["idempotent-replayed"] == "true"
        for _ in range(2):
            assert node.get("/commit?msg=plain", **{KEY: "k-2"}).status == 302
        assert node.count == 2
        assert node.get("/commit?msg=other", **{KEY: "k-2"}).status == 422
        refused = post(node, {"data": "other"}, "k-1")
        assert refused.status == 422
        detail = json.loads(refused.body)["detail"]
        assert "k-1" in detail and json.loads(first.body)["id"] in detail
        assert node.count == 2


@pytest.mark.parametrize("key", ["", " ", "x" * 129, "\u00e4"])
def test_a_wrong_header_is_refused_and_nothing_is_committed(key: str) -> None:
    with NodeProcess() as node:
        assert post(node, {"data": "text"}, key).status == 400
        assert post_lines(node, "text", key=key).status == 400
        assert node.get("/commit?msg=text", **{KEY: key}).status == 400
        assert node.count == 0


@pytest.mark.parametrize("key", ["", 7, None, "x" * 129])
def test_a_wrong_key_of_a_line_ends_the_body(key: object) -> None:
    with NodeProcess() as node:
        refused = post_lines(node, "before", {"data": "text", "key": key}, "after")
        assert refused.status == 400
        problem = json.loads(refused.body)
        assert (problem["line"], problem["stored"], node.count) == (2, 1, 1)


def test_lines_with_keys_are_committed_once() -> None:
    body = ["plain", {"data": "one", "key": "1"}, {"data": "two", "key": "2"}]
    more = [{"data": "three", "key": "3"}, {"data": "two", "key": "2"}]
    with NodeProcess() as node:
        first = json.loads(post_lines(node, *body).body)
        assert (first["count"], first["repeated"]) == (3, 0)
        again = json.loads(post_lines(node, *body, *more).body)
        assert (again["count"], again["repeated"]) == (5, 3)
        assert again["last"] == first["last"]
        assert sorted(node.texts()) == ["one", "plain", "plain", "three", "two"]


def test_a_body_with_a_key_may_come_again_and_longer() -> None:
    with NodeProcess() as node:
        first = json.loads(post_lines(node, *"abb", key="body").body)
        again = json.loads(post_lines(node, *"abb", key="body").body)
        assert again == {**first, "repeated": 3}
        more = json.loads(post_lines(node, *"abbc", key="body").body)
        assert (more["count"], more["repeated"], more["first"]) == (4, 3, first["first"])
        refused = post_lines(node, "x", key="body")
        assert refused.status == 422
        assert json.loads(refused.body)["stored"] == 0
        assert node.count == 4


def test_what_names_another_message_is_said() -> None:
    with NodeProcess() as node:
        post_lines(node, "a", "b", key="body")
        detail = json.loads(post_lines(node, "a", "c", key="body").body)["detail"]
        assert "with the key 'body' number 2 was another message before" in detail
        for text in "ab":
            kind = {"Content-Type": "application/x-ndjson"}
            line = json.dumps({"id": "1", "data": text}).encode()
            answer = request(node.port, "/api/v1/messages?skip=held", "POST", kind, line)
        assert answer.status == 422
        assert (
            "with the id '1' another text or topic was imported"
            in json.loads(answer.body)["detail"]
        )


def test_ids_that_no_message_can_have_name_nothing_and_do_no_harm() -> None:
    ids = ["null", "1", "[]", "true", '""', '"\\ud800"', '"\\ud800:1"', '"1"', '"x:1"']
    lines = [f'{{"id": {id}, "data": "{text}"}}\n' for text in "ab" for id in ids[:5]]
    lines += [f'{{"id": {id}, "data": "text"}}\n' for id in ids[5:] * 2]
    with NodeProcess() as node:
        kind = {"Content-Type": "application/x-ndjson"}
        body = "".join(lines).encode()
        answer = request(node.port, "/api/v1/messages?skip=held", "POST", kind, body)
        assert answer.status == 201, answer.text
        done = json.loads(answer.body)
        assert (done["count"], done["repeated"], done["skipped"]) == (18, 4, 0)
        assert sorted(node.texts()) == ["a"] * 5 + ["b"] * 5 + ["text"] * 4


def test_the_lines_before_a_key_of_another_message_are_stored() -> None:
    with NodeProcess() as node:
        post(node, {"data": "text", "key": "k"})
        refused = post_lines(node, "before", {"data": "other", "key": "k"}, "after")
        assert refused.status == 422
        problem = json.loads(refused.body)
        assert problem["stored"] == 1
        assert "line" not in problem
        assert sorted(node.texts()) == ["before", "text"]


def test_a_commit_is_not_repeated_after_kill_9(tmp_path: Path) -> None:
    """Kill the node while keyed commits are on their way, start it, and send all of them again."""
    with ThreadPoolExecutor(8) as pool:
        for number in range(10):
            texts = [f"{number}-{k}" for k in range(40)]
            with NodeProcess(data_dir=tmp_path) as node:
                before = node.count
                sent = [pool.submit(attempt, node, text) for text in texts]
                wait_until(lambda node=node, before=before: node.count > before)  # type: ignore[misc]
                node.stop(signal.SIGKILL)
                acknowledged = [each.result() for each in sent]
            with NodeProcess(data_dir=tmp_path) as node:
                again = [attempt(node, text) for text in texts]
                for first, second in zip(acknowledged, again, strict=True):
                    assert second and first in (None, second)
                held = node.texts()
                assert sorted(held) == sorted({*held})
                assert len(held) == 40 * (number + 1)


def attempt(node: NodeProcess, text: str) -> str | None:
    """Commit a text with itself as the key; return its id, None without an answer."""
    try:
        answer = post(node, {"data": text}, text)
    except (OSError, http.client.HTTPException):
        return None
    return str(json.loads(answer.body)["id"]) if answer.status == 201 else None
