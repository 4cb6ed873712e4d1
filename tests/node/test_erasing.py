"""Erasing messages, by real nodes: the text goes from every node and from all of its files."""

from __future__ import annotations

import json
import queue
import re
import secrets
import signal
import threading
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from p2p_sync import Message, Node, UnknownMessage
from tests.harness.api import post, post_all, problem, read_pages
from tests.harness.original import Original, heard_by_two
from tests.harness.support import (
    DEADLINE,
    NodeProcess,
    equal,
    holds,
    request,
    run_nodes,
    run_to_end,
    wait_until,
)


def erase(node: NodeProcess, name: str, status: int = 200) -> dict[str, Any]:
    answer = request(node.port, f"/api/v1/messages/{quote(name)}", method="DELETE")
    assert answer.status == status, answer.text
    return dict(json.loads(answer.body))


def commit(node: NodeProcess, text: str) -> str:
    message = post(node.port, text)
    assert message
    return str(message["id"])


def shown(node: NodeProcess, name: str) -> dict[str, Any]:
    messages, _ = read_pages(node.port, "time")
    return next((message for message in messages if message["id"] == name), {})


def is_erased(node: NodeProcess, *names: str) -> bool:
    return all(shown(node, name).get("erased") for name in names)


def files_with(directory: Path, text: str) -> list[str]:
    """The files of a data directory that hold a text."""
    wanted = text.encode()
    return [
        str(path) for path in directory.rglob("*") if path.is_file() and wanted in path.read_bytes()
    ]


def wait_gone(text: str, *nodes: NodeProcess) -> None:
    """Wait until no file of the nodes holds a text."""
    wait_until(lambda: not any(files_with(node.data_dir, text) for node in nodes), "no file has it")


def secret(size: int = 40) -> str:
    return secrets.token_hex(size // 2)


def test_an_erased_message_keeps_its_place_and_loses_its_text_everywhere(tmp_path: Path) -> None:
    texts = [secret(), secret(4000), secret(60_000)]
    with run_nodes(3) as nodes:
        one, two, three = nodes
        for node in (two, three):
            node.add(one.address)
        commit(one, "before")
        names = [commit(one, text) for text in texts]
        commit(two, "after")
        wait_until(lambda: equal(*nodes) and one.count == 5, "all have all")
        for name in names:
            before = shown(one, name)
            answer = erase(two, name)
            assert answer == before | {"data": None, "erased": answer["erased"]}
            assert answer["erased"]["node"] == two.id
            assert answer["erased"]["time"] >= answer["time"]
            assert erase(two, name) == answer
        wait_until(lambda: all(is_erased(node, *names) for node in nodes), "it is erased on all")
        wait_until(lambda: equal(*nodes), "the logs are equal")
        pages = [read_pages(node.port, "time")[0] for node in nodes]
        assert pages[0] == pages[1] == pages[2]
        assert [message["data"] for message in pages[0]] == ["before", None, None, None, "after"]
        for text in texts:
            wait_gone(text[:40], *nodes)
            wait_gone(text[-40:], *nodes)
        assert one.count == 5
        for node in nodes:
            file = tmp_path / f"{node.port}.ndjson"
            for command in (["backup", str(file), "--node", f"http://127.0.0.1:{node.port}"],
                            ["verify", str(file)],
                            ["restore", str(file), "--data-dir", f"{file}.d"]):  # fmt: skip
                result = run_to_end(*command)
                assert result.returncode == 0, result.stdout + result.stderr
                counted = re.findall(r"(\d+) (saved|messages|restored|hidden)", result.stdout)
                assert [number for number, _ in counted] == ["5", "3"], "notices are no messages"
        with NodeProcess(data_dir=f"{file}.d") as restored:
            assert read_pages(restored.port, "time")[0] == pages[0]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_an_absent_node_erases_it_when_it_returns(how: int, tmp_path: Path) -> None:
    text = secret()
    with run_nodes(2) as (one, two):
        absent = NodeProcess("--peer", one.address, data_dir=tmp_path / "absent")
        with absent:
            one.add(two.address)
            names = [commit(absent, text), commit(two, text + "2")]
            wait_until(lambda: equal(one, two, absent) and one.count == 2, "all have both")
            absent.process.send_signal(how)
            absent.process.wait()
            assert files_with(absent.data_dir, text)
            for name in names:
                erase(one, name)
            wait_gone(text, one, two)
        with NodeProcess("--peer", two.address, data_dir=tmp_path / "absent") as back:
            wait_until(lambda: is_erased(back, *names), "it has the notices")
            wait_gone(text, back)
            back.process.kill()
            back.process.wait()
            assert not files_with(back.data_dir, text)
        with NodeProcess("--peer", two.address) as late:
            wait_until(lambda: is_erased(late, *names), "a late node has them as erased")
            assert not files_with(late.data_dir, text)


def test_a_text_is_gone_after_a_kill_right_after_the_answer(tmp_path: Path) -> None:
    text = secret()
    with NodeProcess(data_dir=tmp_path / "data") as node:
        name = commit(node, text)
        erase(node, name)
        node.process.kill()
        node.process.wait()
    with NodeProcess(data_dir=tmp_path / "data") as node:
        assert is_erased(node, name)
        wait_gone(text, node)


def test_it_is_gone_while_somebody_reads_and_others_commit() -> None:
    text = secret()
    with NodeProcess() as node:
        name = commit(node, text)
        stop = threading.Event()

        def busy() -> None:
            while not stop.is_set():
                read_pages(node.port, "time")
                commit(node, "more")

        threads = [threading.Thread(target=busy) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            erase(node, name)
            wait_gone(text, node)
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def test_any_message_of_a_bulk_commit_can_be_erased_and_the_others_stay() -> None:
    texts = [f"{n} {secret()}" for n in range(300)]
    with run_nodes(2) as (one, two):
        one.add(two.address)
        first = post_all(one.port, texts)["first"]
        origin, _, number = first.rpartition(":")
        wait_until(lambda: equal(one, two) and two.count == 300, "both have all")
        gone = {0, 1, 150, 299}
        for index in gone:
            erase(two, f"{origin}:{int(number) + index}")
        wait_until(lambda: equal(one, two), "the logs are equal")
        left = [None if n in gone else text for n, text in enumerate(texts)]
        for node in (one, two):
            assert [message["data"] for message in read_pages(node.port, "time")[0]] == left
        for index in gone:
            wait_gone(texts[index], one, two)
        with NodeProcess("--peer", two.address) as late:
            wait_until(lambda: equal(late, two), "a late node has all")
            assert [message["data"] for message in read_pages(late.port, "time")[0]] == left


def test_two_nodes_that_erase_the_same_message_agree() -> None:
    with run_nodes(2) as (one, two):
        name = commit(one, "text")
        one.add(two.address)
        wait_until(lambda: equal(one, two) and two.count == 1, "both have it")
        two.process.send_signal(signal.SIGSTOP)
        threads = [threading.Thread(target=erase, args=(node, name)) for node in (one, two)]
        for thread in threads:
            thread.start()
        threads[0].join()
        two.process.send_signal(signal.SIGCONT)
        threads[1].join()
        wait_until(lambda: equal(one, two), "the logs are equal")
        assert shown(one, name)["erased"] == shown(two, name)["erased"]
        with NodeProcess("--peer", two.address) as late:
            wait_until(lambda: equal(late, two), "a late node has all")
            assert shown(late, name) == shown(one, name)


def test_copies_of_a_commit_of_an_original_are_erased_together() -> None:
    with heard_by_two() as (one, two, original):
        text = secret()
        original.commit(text)
        wait_until(lambda: one.count == two.count == 1, "both show it once")
        wait_until(lambda: equal(one, two), "both hold both copies")
        ((message,), _) = read_pages(one.port, "time")
        erase(one, message["id"])

        def is_gone(node: NodeProcess) -> bool:
            export = node.get("/api/v1/messages/export").text
            return text not in export and export.count('"heard"') == 2

        wait_until(lambda: is_gone(one) and is_gone(two), "both copies are erased on both nodes")
        for node in (one, two):
            assert is_erased(node, message["id"]) and node.count == 1
        original.commit(text)
        wait_until(lambda: one.count == two.count == 2, "the same text again is another message")
        assert [m["data"] for m in read_pages(two.port, "time")[0]] == [None, text]


def test_what_cannot_be_erased() -> None:
    with NodeProcess() as node:
        name = commit(node, "text")
        origin = name.rpartition(":")[0]
        erase(node, name)
        for wrong in (
            "x",
            "x:1",
            f"{origin}:2",
            f"{origin}:3",
            f"{origin}:0",
            f"{origin}:01",
            "\u20ac:1",
        ):
            answer = request(node.port, f"/api/v1/messages/{quote(wrong)}", method="DELETE")
            assert problem(answer, 404)["type"] == "urn:p2p-sync:not_found"
        result = run_to_end("erase", f"{origin}:9", "--node", f"http://127.0.0.1:{node.port}")
        assert result.returncode == 5 and "no message here has the id" in result.stderr
        for wrong in ("nonsense", "", origin):
            result = run_to_end("erase", wrong, "--node", f"http://127.0.0.1:{node.port}")
            assert result.returncode == 2 and "an id is ORIGIN:NUMBER" in result.stderr


def test_followers_learn_of_it() -> None:
    with run_nodes(2) as (one, two):
        one.add(two.address)
        name = commit(one, "text")
        wait_until(lambda: equal(one, two) and two.count == 1, "both have it")
        _, after = read_pages(one.port, "arrival")
        events = one.api("events")["next"]
        erase(two, name)
        wait_until(lambda: is_erased(one, name), "it is erased")
        (again,), _ = read_pages(one.port, "arrival", after)
        assert again == shown(one, name)

        def told() -> list[str]:
            found = one.api(f"events?after={events}")["events"]
            return [event["text"] for event in found if event["type"] == "erased"]

        (text,) = wait_until(told, "there is an event")
        assert name in text and two.id[:8] in text
        wait_until(lambda: one.logged("INFO", f"{name} was erased"), one.log)
        result = run_to_end("log", "--node", f"http://127.0.0.1:{one.port}")
        assert result.stdout.count("(erased ") == 1 and f"{two.id[:8]}: {name})" in result.stdout
        holds(lambda: "text" not in one.messages(), "the line of the original leaves it out", 0.1)


def test_what_is_being_fetched_is_erased_too() -> None:
    texts = [f"{n} {secret()}" for n in range(20_000)]
    with NodeProcess() as one:
        first = post_all(one.port, texts)["first"]
        origin, _, number = first.rpartition(":")
        gone = range(0, 20_000, 1_333)
        with NodeProcess("--peer", one.address) as late:
            for index in gone:
                erase(one, f"{origin}:{int(number) + index}")
            wait_until(lambda: equal(one, late) and late.count == 20_000, "it has all")
            left = [None if n in gone else text for n, text in enumerate(texts)]
            for node in (one, late):
                assert [message["data"] for message in read_pages(node.port, "time")[0]] == left
            for index in gone:
                wait_gone(texts[index], one, late)


def test_the_library_and_the_command_line_erase() -> None:
    came: queue.Queue[Message] = queue.Queue()
    with Node(0) as node:
        message = node.commit("text")
        node.on_message(came.put)
        erased = node.erase(message.id)
        assert erased == node.erase(message.id) == node.messages()[0]
        assert erased.erased and erased.erased.origin.startswith(node.id) and not erased.data
        assert came.get(timeout=DEADLINE) == erased
        with pytest.raises(UnknownMessage, match="no message here has the id"):
            node.erase(f"{message.origin}:7")
    with NodeProcess() as process:
        name = commit(process, "text")
        result = run_to_end("erase", name, "--node", f"http://127.0.0.1:{process.port}")
        assert result.returncode == 0 and result.stdout.startswith(f"Erased {name}")
        assert is_erased(process, name)


def test_only_the_page_of_the_node_may_erase_by_its_form() -> None:
    with NodeProcess() as node:
        name = commit(node, "<i>text")
        asked = node.get(f"/erase?id={quote(name)}")
        assert asked.status == 200 and "&lt;i&gt;text" in asked.text and not is_erased(node, name)
        own = f"http://127.0.0.1:{node.port}"
        body = f"id={quote(name, safe='')}".encode()
        for headers in ({}, {"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
            assert request(node.port, "/erase", "POST", headers, body).status == 403
            foreign = {"Origin": "http://evil.example", **headers}
            target = f"/api/v1/messages/{quote(name)}"
            assert request(node.port, target, "DELETE", foreign).status == 403
        assert not is_erased(node, name)
        assert request(node.port, "/erase", "POST", {"Origin": own}, body).status == 302
        assert is_erased(node, name)
        assert "erased already" in node.get(f"/erase?id={quote(name)}").text.lower()
        assert node.get("/erase?id=x:1").status == 404


def test_an_export_with_erased_messages_can_be_imported() -> None:
    with NodeProcess() as one, NodeProcess() as two:
        names = [commit(one, text) for text in ("a", "b", "c")]
        erase(one, names[1])
        export = one.get("/api/v1/messages/export").body
        answer = request(
            two.port,
            "/api/v1/messages?skip=held",
            "POST",
            {"Content-Type": "application/x-ndjson"},
            export,
        )
        assert answer.status == 201 and json.loads(answer.body)["count"] == 2
        assert [message["data"] for message in read_pages(two.port, "time")[0]] == ["a", "c"]


def test_a_copy_that_comes_after_the_erasure_of_another_is_erased_too() -> None:
    with NodeProcess() as one, NodeProcess() as two, Original() as original:
        text = secret()
        one.add(original.address)
        two.add(original.address)
        wait_until(lambda: original.links() == 2, "both have dialled it")
        original.commit(text)
        wait_until(lambda: one.count == two.count == 1, "both have logged it")
        ((message,), _) = read_pages(one.port, "time")
        erase(one, message["id"])
        one.add(two.address)

        def is_gone(node: NodeProcess) -> bool:
            export = node.get("/api/v1/messages/export").text
            return text not in export and export.count('"heard"') == 2 and node.count == 1

        wait_until(lambda: is_gone(one) and is_gone(two), "the other copy is erased, too")
        wait_gone(text, one, two)
