"""Webhooks: each message is POSTed at least once, in order, whatever the receiver does."""

from __future__ import annotations

import base64
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from p2p_sync import ConsumerInfo, ConsumerInUse, InputError, Node, StartError
from p2p_sync.core import consumer as rules
from p2p_sync.net import post
from p2p_sync.urls import parse_url
from tests.harness.certificates import Authority
from tests.harness.receiver import Receiver, is_signed
from tests.harness.support import silent_listener, wait_until

SECRET = "a secret of a webhook"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages that were not taken come again quickly, and a receiver has little time."""
    monkeypatch.setattr(rules, "CONSUMER_RETRY_FIRST", 10)
    monkeypatch.setattr(rules, "CONSUMER_RETRY_LONGEST", 40)
    monkeypatch.setattr(post, "HOOK_TIMEOUT", 1.0)
    monkeypatch.setattr(post, "HOOK_CONNECT", 1.0)


def consumer(node: Node) -> ConsumerInfo:
    (found,) = node.consumers.status()
    return found


def test_new_messages_are_posted_in_order_with_all_that_is_known() -> None:
    with Receiver() as receiver, Node(0, name="here", hooks=[f"{receiver.url}/p?q=1"]) as node:
        first = node.commit("a\n\u202e\U0001f600", topic="t/1")
        wait_until(lambda: receiver.taken)
        for number in range(250):
            node.commit(f"{number}")
        wait_until(lambda: len(receiver.taken) == 251)
        assert receiver.texts == [first.data, *map(str, range(250))]
        wait_until(lambda: consumer(node).lag == 0)
        request = receiver.requests[0]
        assert request.path == "/p?q=1"
        assert request.headers["content-type"] == "application/json"
        assert request.headers["host"] == f"127.0.0.1:{receiver.port}"
        assert "p2p-sync-signature" not in request.headers
        assert request.document == {
            "node": {"id": node.id, "name": "here"},
            "messages": [
                {
                    "id": first.id,
                    "origin": first.origin,
                    "seq": 1,
                    "time": first.time,
                    "data": first.data,
                    "topic": "t/1",
                    "attempts": 0,
                }
            ],
        }


def test_a_hook_begins_with_new_messages_and_goes_on_after_a_restart(tmp_path: Path) -> None:
    with Node(0, tmp_path) as node:
        node.commit("before")
    with Receiver() as receiver:
        hooks = [receiver.url]
        with Node(0, tmp_path, hooks=hooks) as node:
            node.commit("a")
            wait_until(lambda: receiver.texts == ["a"])
            wait_until(lambda: consumer(node).lag == 0)
        with Node(0, tmp_path) as node:
            node.commit("without the option")
            assert consumer(node).lag == 1
        with Node(0, tmp_path, hooks=hooks) as node:
            node.commit("b")
            wait_until(lambda: receiver.texts == ["a", "without the option", "b"])


BAD_ANSWERS: list[tuple[Any, str]] = [
    (301, "HTTP 301 (Moved Permanently); redirects are not followed"),
    (404, "HTTP 404 (Not Found)"),
    (410, "HTTP 410 (Gone)"),
    (429, "HTTP 429 (Too Many Requests)"),
    (500, "HTTP 500 (Internal Server Error)"),
    (777, "HTTP 777"),
    (b"", "it closed the connection without an answer"),
    (b"SSH-2.0-secret\r\n", "its answer is not HTTP"),
    (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200, "its answer is not HTTP"),
    (b"HTTP/1.1 200 OK\r\na: " + b"b" * 200_000, "its answer is not HTTP"),
    (b"HTTP/1.1 103 Early Hints\r\n\r\n" * 10_000, "its answer is not HTTP"),
    (b"HTTP/1.1 103 Early Hints\r\n\r\n", "it closed the connection without an answer"),
    (threading.Event(), "no answer within 1 s"),
]


def test_what_comes_before_an_answer_is_not_taken_for_it() -> None:
    before = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    before += b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"
    receiver = Receiver(lambda _: before + b"HTTP/1.1 204 No Content\r\n\r\n")
    with receiver, Node(0, hooks=[receiver.url]) as node:
        node.commit("a")
        wait_until(lambda: receiver.requests and consumer(node).lag == 0, lambda: consumer(node))
        assert len(receiver.requests) == 1


@pytest.mark.parametrize(("bad", "reason"), BAD_ANSWERS, ids=[f"{b!s:.20}" for b, _ in BAD_ANSWERS])
def test_what_is_not_taken_comes_again(bad: Any, reason: str) -> None:
    broken = True
    receiver = Receiver(lambda _: bad if broken else 200)
    with receiver, Node(0, hooks=[receiver.url]) as node:
        node.commit("a")
        node.commit("b")
        wait_until(lambda: consumer(node).attempts > 1, lambda: consumer(node))
        assert consumer(node).error == reason
        broken = False
        wait_until(lambda: receiver.texts == ["a", "b"], lambda: receiver.texts)
        wait_until(lambda: not consumer(node).error and not consumer(node).lag)
        assert {request.path for request in receiver.requests} == {"/"}, "no redirect was followed"
        last = [request.messages[0] for request in receiver.requests if "a" in request.texts][-1]
        assert last["attempts"] >= 2, "a receiver sees that it may have had it before"
        if isinstance(bad, threading.Event):
            bad.set()


def test_an_answer_that_drips_is_not_waited_for() -> None:
    """Each read of it ends in time; the whole does not."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stop = threading.Event()

        def serve() -> None:
            while not stop.is_set():
                try:
                    connection, _ = listener.accept()
                    connection.sendall(b"HTTP/1.1 200 OK\r\n")
                    while not stop.wait(0.1):
                        connection.sendall(b"x: y\r\n"[:1])
                except OSError:
                    continue

        thread = threading.Thread(target=serve)
        thread.start()
        begin = time.monotonic()
        with Node(0, hooks=[f"http://127.0.0.1:{listener.getsockname()[1]}/"]) as node:
            node.commit("a")
            wait_until(lambda: consumer(node).error == "no answer within 1 s")
            assert time.monotonic() - begin < 10
        stop.set()
        listener.close()
        thread.join()


def test_a_receiver_that_is_away_gets_all_when_it_is_back() -> None:
    with Receiver() as receiver:
        port = receiver.port
    with Node(0, hooks=[f"http://127.0.0.1:{port}"]) as node:
        for number in range(30):
            node.commit(f"{number}")
        wait_until(lambda: consumer(node).error == "no connection: Connection refused")
        with Receiver(port=port) as receiver:
            wait_until(lambda: len(receiver.texts) == 30)
            assert receiver.texts == [f"{number}" for number in range(30)]
            assert len(receiver.requests[0].messages) == 1, "one alone after a failure"


def test_a_receiver_that_does_not_accept_is_not_waited_for() -> None:
    with silent_listener() as (address, _), Node(0, hooks=[f"http{address[2:]}"]) as node:
        node.commit("a")
        wait_until(lambda: consumer(node).error == "no answer within 1 s")


def test_a_slow_receiver_gets_fewer_messages_at_a_time() -> None:
    """It manages ten in its time."""
    receiver = Receiver(lambda request: 200 if len(request.messages) <= 10 else threading.Event())
    with receiver, Node(0, hooks=[receiver.url]) as node:
        list(node.commit_all(f"{number}" for number in range(60)))
        wait_until(lambda: len(receiver.texts) == 60)
        assert receiver.texts == [f"{number}" for number in range(60)]


def test_a_request_is_bounded() -> None:
    with Receiver() as receiver, Node(0, hooks=[receiver.url], max_message_bytes=131072) as node:
        list(node.commit_all(f"{number:0131072}" for number in range(30)))
        wait_until(lambda: len(receiver.texts) == 30)
        assert max(len(request.body) for request in receiver.requests) < 1024 * 1024 + 1024
        assert [text.lstrip("0") for text in receiver.texts[1:]] == [*map(str, range(1, 30))]


def test_requests_are_signed_with_each_secret_and_the_file_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.touch(0o600)
    file.write_text(f"{SECRET}\n")
    with Receiver() as receiver, Node(0, hooks=[receiver.url], hook_secret_file=file) as node:
        node.commit("a")
        wait_until(lambda: receiver.taken)
        (request,) = receiver.requests
        assert is_signed(request, SECRET.encode())
        moment = int(request.headers["p2p-sync-signature"].partition(",")[0][2:])
        assert abs(moment - time.time()) < 60
        changed = request._replace(body=request.body.replace(b'"a"', b'"b"'))
        assert not is_signed(changed, SECRET.encode())
        file.write_text(f"another {SECRET}\n{SECRET}\n")
        node.reload()
        node.commit("b")
        wait_until(lambda: len(receiver.taken) == 2)
        assert is_signed(receiver.requests[1], SECRET.encode())
        assert is_signed(receiver.requests[1], f"another {SECRET}".encode())


def test_a_secret_that_others_may_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(SECRET)
    file.chmod(0o644)
    with pytest.raises(StartError, match="others may read the hook secret file"):
        Node(0, hooks=["http://localhost/"], hook_secret_file=file).start()
    file.chmod(0o600)
    file.write_text("short")
    with pytest.raises(StartError, match="at least 16 bytes"):
        Node(0, hooks=["http://localhost/"], hook_secret_file=file).start()


def test_a_password_is_sent_and_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    receiver = Receiver(lambda _: 401)
    with receiver:
        url = receiver.url.replace("://", "://us%65r:pass%20w%C3%B6rd@") + "/x?token=hidden"
        with Node(0, hooks=[url]) as node:
            node.commit("a")
            wait_until(lambda: consumer(node).attempts > 1)
            given = receiver.requests[0].headers["authorization"].removeprefix("Basic ")
            assert base64.b64decode(given).decode() == "user:pass w\u00f6rd"
            assert receiver.requests[0].path == "/x?token=hidden"
            shown = f"{node.consumers.status()}{node.status()}{node.events()}{caplog.text}"
            assert consumer(node).hook == f"{receiver.url}/x"
            for secret in ("pass", "hidden", "us%65r", "token"):
                assert secret not in shown
            assert "HTTP 401" in caplog.text


def test_a_topic_and_own_messages_choose() -> None:
    with Receiver() as some, Receiver() as own, Node(0) as other:
        with Node(0, hooks=[some.url], hook_topic="t") as node:
            node.connect(other.address)
            node.commit("no")
            node.commit("mine", topic="t")
            other.commit("theirs", topic="t")
            wait_until(lambda: sorted(some.texts) == ["mine", "theirs"])
            wait_until(lambda: len(other.messages()) == 3)
        with Node(0, hooks=[own.url], hook_of="own") as node:
            node.connect(other.address)
            wait_until(lambda: len(node.messages()) == 3)
            other.commit("theirs")
            node.commit("mine")
            wait_until(lambda: own.texts == ["mine"])


def test_several_hooks_do_not_wait_for_each_other() -> None:
    stuck = threading.Event()
    with Receiver(lambda _: stuck) as bad, Receiver() as good:
        with Node(0, hooks=[bad.url, good.url, good.url]) as node:
            for number in range(10):
                node.commit(f"{number}")
            wait_until(lambda: len(good.texts) == 10)
            assert len(node.consumers.status()) == 2, "a URL counts once"
        stuck.set()


def test_certificates_are_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path)
    with Receiver(certificate=authority.issue("good")) as receiver:
        with Node(0, hooks=[receiver.url]) as node:
            node.commit("a")
            wait_until(lambda: consumer(node).attempts)
            assert "certificate is not accepted" in consumer(node).error
            assert not receiver.requests
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.pem))
        with Node(0, hooks=[receiver.url]) as node:
            node.commit("b")
            wait_until(lambda: receiver.texts == ["b"])
    other = Receiver(certificate=authority.issue("other", "example.org"))
    with other as receiver, Node(0, hooks=[receiver.url]) as node:
        node.commit("a")
        wait_until(lambda: "not valid for '127.0.0.1'" in consumer(node).error)


def test_the_consumer_of_a_hook_is_deleted_once_the_node_runs_without_it(tmp_path: Path) -> None:
    with Receiver() as receiver:
        with Node(0, tmp_path, hooks=[receiver.url]) as node:
            name = consumer(node).name
            with pytest.raises(ConsumerInUse, match=f"webhook {receiver.url}/ uses the consumer"):
                node.consumers.delete(name)
            node.commit("a")
            wait_until(lambda: receiver.texts == ["a"])
        with Node(0, tmp_path) as node:
            assert node.consumers.delete(name)
            assert node.consumers.status() == []


def test_a_node_stops_while_a_receiver_does_not_answer(caplog: pytest.LogCaptureFixture) -> None:
    stuck = threading.Event()
    with Receiver(lambda _: stuck) as receiver:
        node = Node(0, hooks=[receiver.url])
        node.start()
        node.commit("a")
        wait_until(lambda: receiver.requests)
        begin = time.monotonic()
        node.stop()
        assert time.monotonic() - begin < 5
        stuck.set()
    assert "ERROR" not in caplog.text


# -- URLs -----------------------------------------------------------------------------------------

WRONG = ["", "x", "ftp://u:hidden@a/", "http://", "http://:80/", "http://a:0/", "http://a:99999/",
         "http://a:hidden/", "http://u:hidden@/", "http://[::1/hidden", "http://a b/hidden",
         "http://\u00e4/hidden", "https://a/" + "hidden" * 400, "javascript:hidden"]  # fmt: skip


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_url_of_a_hook_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(InputError, match=r"https://example\.org/hook") as caught:
        Node(0, hooks=[text])
    assert "hidden" not in str(caught.value)


def test_urls_are_shown_without_what_is_secret() -> None:
    def shown(text: str) -> str:
        return str(parse_url(text))

    assert shown("HTTP://u:p@LOCALHOST:80/a/b?c#d") == "http://localhost/a/b"
    assert shown("https://[::1]:8443") == "https://[::1]:8443/"
    assert "secret" not in repr(parse_url("https://u:secret@a/?secret"))
