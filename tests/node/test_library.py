"""The library, `from p2p_sync import Node`: what its users build on."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from pathlib import Path
from time import time
from typing import Any

import pytest

from p2p_sync import (
    InputError,
    LogError,
    LogFull,
    Message,
    MessageError,
    Node,
    P2PSyncError,
    StartError,
)
from p2p_sync.disk.log import Log
from p2p_sync.disk.pages import Pages
from p2p_sync.node.shell import Shell
from tests.harness.library import PROBE, link, texts
from tests.harness.support import DEADLINE, ROOT, SCALE, NodeProcess, free_port_pair, wait_until


def test_two_nodes_share_what_is_committed() -> None:
    with Node(0) as here, Node(0) as there:
        link(here, there)
        here.commit("to and")
        there.commit("fro")
        wait_until(lambda: sorted(texts(here)) == sorted(texts(there)) == ["fro", "to and"])
        both = [[m for m in node.messages() if m.data != PROBE] for node in (here, there)]
        assert both[0] == both[1], "the same messages in the same order"


def test_a_commit_returns_the_message_with_its_identity() -> None:
    with Node(0) as node:
        first, second = node.commit("one"), node.commit("two")
        assert (first.data, first.seq, second.data, second.seq) == ("one", 1, "two", 2)
        assert first.origin == second.origin
        node_id, _, start = first.origin.partition("-")
        assert len(node_id) == 32 and int(node_id, 16) >= 0 and start
        assert isinstance(first.time, int) and abs(first.time - time() * 1000) < 60_000
        assert list(node.messages()) == [first, second]


def test_port_0_picks_a_free_one_and_a_process_can_dial_it() -> None:
    with Node(0) as node, Node(0) as other, NodeProcess() as process:
        assert node.address != other.address
        assert node.address.startswith("ws://127.0.0.1:") and not node.address.endswith(":0")
        process.add(node.address)
        wait_until(lambda: process.sockets() == 1)
        process.commit("from a process")
        wait_until(lambda: texts(node) == ["from a process"])


def test_a_given_port_is_the_peer_port() -> None:
    port = free_port_pair()
    with Node(port) as node:
        assert node.address == f"ws://127.0.0.1:{port}"
        with pytest.raises(P2PSyncError, match=str(port)), Node(port):
            pass


def test_callbacks_run_in_order_in_a_thread_of_their_own(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []
    threads: set[threading.Thread] = set()

    def bad(message: Any) -> None:
        raise RuntimeError(f"no {message.data} today")

    def good(message: Any) -> None:
        threads.add(threading.current_thread())
        if message.data != PROBE:
            seen.append(message.data)

    with Node(0) as here, Node(0) as there:
        there.on_message(bad)
        there.on_message(good)
        link(here, there)
        expected = [f"text {number}" for number in range(50)]
        for text in expected:
            here.commit(text)
        wait_until(lambda: len(seen) >= 50)
        there.commit("its own")
        wait_until(lambda: len(seen) >= 51)
    assert seen == [*expected, "its own"]
    assert len(threads) == 1 and threading.main_thread() not in threads
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert any("no text 0 today" in caplog.handler.format(record) for record in errors)


def test_callbacks_go_on_after_the_log_could_not_be_read(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    read, failures = Pages.arrivals, [LogError("the log is busy")]

    def arrivals(*args: Any, **options: Any) -> Any:
        if failures:
            raise failures.pop()
        return read(*args, **options)

    with Node(0) as node:
        got: list[str] = []
        node.on_message(lambda message: got.append(message.data))
        monkeypatch.setattr(Pages, "arrivals", arrivals)
        node.commit("one")
        node.commit("two")
        wait_until(lambda: got == ["one", "two"], lambda: got)
    assert [r.getMessage() for r in caplog.records if "callbacks" in r.getMessage()] == [
        "callbacks wait, since messages cannot be read: the log is busy"
    ]


def test_a_callback_that_is_given_while_the_node_starts_is_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    got: list[str] = []
    node = Node(0)
    start = Shell.start

    def starting(shell: Shell) -> None:
        start(shell)
        node.on_message(lambda message: got.append(message.data))

    monkeypatch.setattr(Shell, "start", starting)
    with node:
        node.commit("text")
        wait_until(lambda: got == ["text"], lambda: got)


def test_who_waits_for_copies_is_told_when_the_message_cannot_be_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: Any) -> None:
        raise LogFull("the disk is full")

    with Node(0) as one, Node(0) as other:
        link(one, other)
        monkeypatch.setattr(Log, "append", full)
        began = time()
        with pytest.raises(LogFull):
            one.commit("text", copies=1, timeout=60)
        assert time() - began < DEADLINE / 2


def test_a_slow_callback_delays_nobody() -> None:
    release, entered = threading.Event(), threading.Event()

    def slow(_: Any) -> None:
        entered.set()
        release.wait(DEADLINE)

    with Node(0) as node, Node(0) as other:
        link(node, other)
        node.on_message(slow)
        node.commit("one")
        assert entered.wait(DEADLINE)
        node.commit("two")
        other.commit("three")
        wait_until(lambda: len(texts(node)) == len(texts(other)) == 3)
        release.set()


def test_a_callback_may_commit() -> None:
    with Node(0) as node:
        node.on_message(lambda message: message.data == "ping" and node.commit("pong"))
        node.commit("ping")
        wait_until(lambda: texts(node) == ["ping", "pong"])


def test_a_decorated_function_is_called_until_it_is_taken_away() -> None:
    with Node(0) as node:
        deployed: list[str] = []
        every: list[str] = []
        node.commit("before")

        @node.on_message(topic="deploy")
        def deploy(message: Message) -> None:
            deployed.append(message.data)

        @node.on_message
        def any_of_them(message: Message) -> None:
            every.append(message.data)

        node.commit("one", topic="deploy")
        node.commit("two", topic="other")
        wait_until(lambda: every == ["one", "two"], lambda: every)
        assert node.off_message(deploy) and not node.off_message(deploy)
        node.commit("three", topic="deploy")
        wait_until(lambda: every == ["one", "two", "three"], lambda: every)
        assert deployed == ["one"]
        deploy(node.commit("by hand"))
        assert deployed == ["one", "by hand"], "the function is what it was"


def test_an_exit_in_a_callback_leaves_the_others(caplog: pytest.LogCaptureFixture) -> None:
    got: list[str] = []
    with Node(0) as node:

        @node.on_message
        def leaves(message: Message) -> None:
            if message.data == "one":
                sys.exit(3)

        node.on_message(lambda message: got.append(message.data))
        node.commit("one")
        node.commit("two")
        wait_until(lambda: got == ["one", "two"], lambda: got)
    assert "leaves" in caplog.text and "SystemExit: 3" in caplog.text


def test_a_callback_that_comes_late_gets_nothing_from_before() -> None:
    release, entered = threading.Event(), threading.Event()

    def slow(_: Message) -> None:
        entered.set()
        release.wait(DEADLINE)

    with Node(0) as node:
        node.on_message(slow)
        node.commit("one")
        assert entered.wait(DEADLINE)
        node.commit("two")
        late: list[str] = []
        node.on_message(lambda message: late.append(message.data))
        node.commit("three")
        release.set()
        wait_until(lambda: late == ["three"], lambda: late)


def test_a_callback_may_take_itself_away() -> None:
    with Node(0) as node:
        got: list[str] = []
        rest: list[str] = []

        @node.on_message
        def once(message: Message) -> None:
            got.append(message.data)
            node.off_message(once)

        node.on_message(lambda message: rest.append(message.data))
        node.commit("one")
        node.commit("two")
        wait_until(lambda: rest == ["one", "two"], lambda: rest)
        assert got == ["one"]


def test_a_program_waits_until_peers_are_connected() -> None:
    with Node(0) as one, Node(0) as two, Node(0) as three:
        assert one.wait_linked(0) and not one.wait_linked(timeout=0.05)
        began = time()
        two.connect(one.address)
        assert one.wait_linked(timeout=DEADLINE) and two.wait_linked(timeout=DEADLINE)
        assert not one.wait_linked(2, timeout=0.05)
        three.connect(one.address)
        assert one.wait_linked(2, timeout=DEADLINE) and one.sockets() == 2
        assert time() - began < DEADLINE / 2, "it wakes up, and does not wait for the end"


def test_a_stop_ends_the_wait_for_peers() -> None:
    answers: list[bool] = []
    with Node(0) as node:
        waiting = threading.Thread(target=lambda: answers.append(node.wait_linked(1, 60 * SCALE)))
        waiting.start()
    waiting.join(DEADLINE)
    assert answers == [False]
    with pytest.raises(P2PSyncError, match=r"start\(\)"):
        node.wait_linked()


@pytest.mark.parametrize("timeout", [-1.0, float("nan")])
def test_what_is_no_time_is_refused(timeout: float) -> None:
    with Node(0) as node:
        assert node.commit("text", copies=0, timeout=float("inf")).copies == 0
        for wait in (
            lambda: node.wait_linked(timeout=timeout),
            lambda: node.events(timeout=timeout),
            lambda: node.commit("text", copies=1, timeout=timeout),
        ):
            with pytest.raises(ValueError, match="timeout= is a number of seconds"):
                wait()
        assert len(node.messages()) == 1


@pytest.mark.parametrize("wrong", ["ABCDEF", "g", "vm", "0" * 33, None, 7])
def test_what_is_no_id_of_a_node_is_refused(wrong: Any) -> None:
    with Node(0) as node, pytest.raises(InputError, match="node is the id of a node"):
        node.follow(node=wrong)


def test_a_program_without_logging_sees_no_lines() -> None:
    code = """
import threading
from p2p_sync import Node
failed = threading.Event()
def bad(message):
    failed.set()
    raise RuntimeError(message.data)
with Node(0, host="0.0.0.0") as a, Node(0) as b:
    a.on_message(bad)
    a.connect(b.address)
    a.connect("ws://127.0.0.1:1")
    assert a.wait_linked()
    b.commit("text")
    assert failed.wait(20)
    while "dial_failed" not in [event.type for event in a.events(0, 20)[0]]:
        pass
"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_without_a_data_directory_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Node(0) as first:
        first_id = first.commit("text").origin[:16]
    assert list(tmp_path.iterdir()) == []
    with Node(0) as second:
        assert texts(second) == []
        assert second.commit("text").origin[:16] != first_id


def test_a_data_directory_keeps_the_identity_and_serves_one_node(tmp_path: Path) -> None:
    with Node(0, data_dir=tmp_path / "data") as node:
        first = node.commit("text")
        with pytest.raises(P2PSyncError, match="data"), Node(0, data_dir=tmp_path / "data"):
            pass
    with Node(0, data_dir=str(tmp_path / "data")) as node:
        second = node.commit("text")
    assert second.origin[:16] == first.origin[:16]


def test_an_error_at_the_start_names_the_parameters_of_the_node(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "other.txt").write_text("of another program")
    secret = "a secret of a network of nodes"
    with Node(0, tmp_path / "data") as node:
        port = int(node.address.rpartition(":")[2])
        for wrong, names in (
            (Node(port), ["peer_port="]),
            (Node(0, tmp_path / "link"), [f"data_dir={tmp_path}"]),
            (Node(0, tmp_path / "data"), ["data_dir="]),
            (Node(0, tmp_path), ["data_dir="]),
            (Node(0, "/dev/null/below"), ["data_dir=", "data_dir=None"]),
            (Node(0, tls_key="key.pem"), ["tls_key=", "tls_cert="]),
            (Node(0, secret=secret, secret_file="file"), ["(secret=)", "(secret_file=)"]),
            (Node(0, secret="short"), ["(secret=)"]),
        ):
            with pytest.raises(StartError) as caught:
                wrong.start()
            text = str(caught.value)
            assert all(name in text for name in names) and "--" not in text, text
    with Node(0, host="0.0.0.0") as node:
        assert "set secret_file=" in " ".join(node.status().warnings)


@pytest.mark.parametrize("address", ["", "nonsense here", "ftp://127.0.0.1:1", "ws://127.0.0.1:0"])
def test_a_bad_address_is_a_clear_error(address: str) -> None:
    with Node(0) as node, pytest.raises(ValueError, match="ws://") as caught:
        node.connect(address)
    assert isinstance(caught.value, P2PSyncError)


@pytest.mark.parametrize("text", ["x" * 65537, "\u00e9" * 32769, "\ud800", "a\udfffb"])
def test_a_bad_text_is_a_clear_error_and_is_not_stored(text: str) -> None:
    with Node(0) as node:
        with pytest.raises(ValueError, match=r"65536|65,536|64 KiB|surrogate") as caught:
            node.commit(text)
        assert isinstance(caught.value, P2PSyncError)
        assert list(node.messages()) == []
        assert node.commit("x" * 65536).seq == 1, "the sequence has no gap"


class Shouting(str):
    """A text that lies about itself."""

    def encode(self, *_: object) -> bytes:
        raise RuntimeError("not to be called")


NO_MESSAGES = [
    b"x",
    bytearray(b"x"),
    None,
    5,
    1.5,
    ["x"],
    {"x": "y"},
    object(),
    Shouting("x"),
    "\ud800",
]


@pytest.mark.parametrize("wrong", NO_MESSAGES, ids=lambda wrong: type(wrong).__name__)
def test_what_is_no_text_is_refused_and_harms_no_other_commit(wrong: Any) -> None:
    with Node(0) as node:
        refused: list[object] = []
        for commit in (
            lambda: node.commit(wrong),
            lambda: node.commit(wrong, copies=1, timeout=0.0),
            lambda: node.intake.begin(wrong, lambda: refused.append(wrong)),
            lambda: list(node.commit_all([wrong])),
            lambda: list(
                node.intake.commit_many(
                    [("before", "", "", ""), (wrong, "", "", ""), ("after", "", "", "")]
                )
            ),
        ):
            with pytest.raises(MessageError, match=r"str|surrogate"):
                commit()
        first, second = node.commit("first"), node.commit("second")
        assert (first.seq, second.seq) == (2, 3), "no identity was given to what is no message"
        assert first.origin == second.origin
        assert texts(node) == ["before", "first", "second"]
        assert refused == []


def test_start_and_stop_by_hand_and_stop_twice() -> None:
    before = set(threading.enumerate())
    node = Node(0)
    node.start()
    node.commit("text")
    with Node(0) as other:
        link(other, node)
        node.stop()
        node.stop()
    node.stop()
    wait_until(lambda: set(threading.enumerate()) <= before, "all threads have ended")


def test_neither_flask_nor_asyncio_is_needed() -> None:
    code = """
import sys
from p2p_sync import Node
with Node(0) as a, Node(0) as b:
    a.connect(b.address)
    a.commit("text")
    a.messages()
print(sorted({"flask", "waitress", "werkzeug", "asyncio"} & set(sys.modules)))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE
    )
    assert (result.returncode, result.stdout.strip()) == (0, "[]"), result.stderr
