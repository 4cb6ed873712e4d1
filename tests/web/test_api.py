"""The API over HTTP, on real processes: status, commits, pages, history and durability."""

from __future__ import annotations

import html
import http.client
import itertools
import json
import re
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from p2p_sync import Node, __version__
from tests.harness.api import post_all, problem
from tests.harness.clock import Machine
from tests.harness.original import Original
from tests.harness.process import peak_memory
from tests.harness.support import (
    DEADLINE,
    SCALE,
    Answer,
    NodeProcess,
    equal,
    request,
    run_nodes,
    wait_sockets,
    wait_until,
)

MESSAGES = "/api/v1/messages"
NDJSON = "application/x-ndjson"
TEXTS = ["plain", "", "a,b", "\0", "\U0001f600", "line\nbreak", "\u202etfel", '{"data":"x"}', " "]


def link(*nodes: NodeProcess) -> None:
    """Add all others to the first, and wait until each knows what the others hold."""
    for other in nodes[1:]:
        nodes[0].add(other.address)
    wait_until(lambda: nodes[0].sockets() == len(nodes) - 1, "all are linked")
    posted(nodes[0], "is the link open?")
    page = "messages?order=newest&limit=1&copies=1"
    wait_until(lambda: nodes[0].api(page)["messages"][0]["copies"] == len(nodes) - 1)


def post(node: NodeProcess, body: bytes, query: str = "", kind: str = "application/json") -> Answer:
    return request(node.port, MESSAGES + query, "POST", {"Content-Type": kind}, body)


def posted(node: NodeProcess, text: str, query: str = "", status: int = 201) -> dict[str, Any]:
    """Commit a text; return what is answered."""
    answer = post(node, json.dumps({"data": text}).encode(), query)
    assert answer.status == status, answer.text
    value = json.loads(answer.body)
    assert isinstance(value, dict)
    return value


def lines_of(values: Iterable[object]) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def pages(
    node: NodeProcess, order: str, limit: int, after: str = ""
) -> Iterator[tuple[list[dict[str, Any]], str]]:
    """Page by page from `after` to the end, each with its `next`."""
    while True:
        page = node.api(f"messages?order={order}&limit={limit}&after={quote(after)}")
        after = page["next"]
        assert isinstance(after, str)
        if page["messages"]:
            yield page["messages"], after
        if len(page["messages"]) < limit:
            return


def listed(node: NodeProcess, order: str = "time", limit: int = 1000) -> list[dict[str, Any]]:
    return [message for page, _ in pages(node, order, limit) for message in page]


def datas(messages: Iterable[dict[str, Any]]) -> list[str]:
    return [message["data"] for message in messages]


def place(message: dict[str, Any]) -> tuple[int, str, int]:
    return message["time"], message["origin"], message["seq"]


# -- status -----------------------------------------------------------------------------------


def test_status_tells_what_the_node_is_and_holds() -> None:
    before = time.time() * 1000
    with NodeProcess() as node:
        told = node.status()
        assert re.fullmatch("[0-9a-f]{32}", told["node"]["id"])
        assert told["node"]["address"] == node.address
        assert told["node"]["version"] == __version__
        assert type(told["node"]["protocol"]) is int
        assert type(told["node"]["started"]) is int
        assert before - 1000 <= told["node"]["started"] <= time.time() * 1000
        assert (told["sockets"], told["behind"], told["messages"]["count"]) == (0, 0, 0)
        empty = told["messages"]["digest"]
        assert re.fullmatch("[0-9a-f]{64}", empty)
        message = posted(node, "text")
        told = node.status()
        assert message["origin"].startswith(told["node"]["id"])
        assert told["messages"]["count"] == 1 and told["messages"]["digest"] != empty


def test_linked_nodes_come_to_equal_digests(pair: list[NodeProcess]) -> None:
    here, there = pair
    for n in range(20):
        posted(pair[n % 2], f"digest {n}")
    wait_until(lambda: here.status()["messages"] == there.status()["messages"], "equal digests")
    assert listed(here) == listed(there)
    assert here.status()["sockets"] == there.status()["sockets"] == 1
    assert here.status()["behind"] == there.status()["behind"] == 0
    assert here.id != there.id


def test_status_counts_what_is_shown() -> None:
    """Two of ours hear an original's commit: each logs it, and one is shown."""
    with run_nodes(2) as nodes, Original() as original:
        link(*nodes)
        original.add(nodes[0].address)  # which tells it of the other
        wait_until(lambda: original.links() == 2, "the original is linked with both")
        wait_sockets(2, *nodes)
        original.commit("heard by both")
        wait_until(
            lambda: all("heard by both" in node.messages() for node in nodes), "both have heard"
        )
        wait_until(
            lambda: equal(*nodes),
            "equal digests",
        )
        for node in nodes:
            assert node.count == 2 == len(listed(node))
            assert len(listed(node, "arrival")) == 2


# -- one commit -------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [*TEXTS, "x" * 65_536, "\u20ac" * 21_845])
def test_a_commit_is_answered_with_the_message(node: NodeProcess, text: str) -> None:
    before = int(time.time() * 1000)
    message = posted(node, text)
    assert set(message) == {"id", "origin", "seq", "time", "data", "copies"}
    assert message["id"] == f"{message['origin']}:{message['seq']}"
    assert (message["data"], message["copies"]) == (text, 0)
    assert type(message["seq"]) is int and type(message["time"]) is int
    assert before - 1000 <= message["time"] <= time.time() * 1000 + 1000
    del message["copies"]
    assert message in listed(node)
    assert posted(node, text)["seq"] == message["seq"] + 1


def test_json_may_escape_or_not(node: NodeProcess) -> None:
    for body in (b'{"data":"\\u00e9\\ud83d\\ude00"}', '{"data":"\u00e9\U0001f600"}'.encode()):
        answer = post(node, body)
        assert (answer.status, json.loads(answer.body)["data"]) == (201, "\u00e9\U0001f600")
    assert post(node, b' {"other": [1], "data": "known fields count"}\n').status == 201


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"text",
        b"{",
        b"null",
        b"7",
        b'"text"',
        b"[]",
        b'[{"data":"x"}]',
        b"{}",
        b'{"text":"x"}',
        b'{"data":null}',
        b'{"data":7}',
        b'{"data":["x"]}',
        b'{"data":"x"}{"data":"y"}',
        b'{"data":"\xff"}',
        b'{"data":"\\ud800"}',
        b'{"data":"\\udfff x"}',
        b"[" * 100_000,
    ],
    ids=lambda body: repr(body[:30]),
)
def test_a_wrong_body_is_refused_and_nothing_is_stored(node: NodeProcess, body: bytes) -> None:
    count = node.count
    problem(post(node, body), 400)
    assert node.count == count


@pytest.mark.parametrize("text", ["x" * 65_537, "\u20ac" * 21_846])
def test_a_text_that_is_too_long_is_refused(node: NodeProcess, text: str) -> None:
    count = node.count
    assert "65536" in problem(post(node, json.dumps({"data": text}).encode()), 413)["detail"]
    assert node.count == count


def test_the_limit_of_a_message_is_a_setting() -> None:
    with NodeProcess("--ephemeral", "--max-message-bytes", "10") as node:
        posted(node, "x" * 10)
        assert "10" in problem(post(node, b'{"data":"xxxxxxxxxxx"}'), 413)["detail"]
        assert datas(listed(node)) == ["x" * 10]


# -- many commits -----------------------------------------------------------------------------


def test_many_lines_are_strings_and_objects(node: NodeProcess) -> None:
    values = [text if n % 2 else {"data": text} for n, text in enumerate(TEXTS)]
    answer = post_all(node.port, values)
    assert answer["count"] == len(TEXTS)
    messages = listed(node, "arrival")[-len(TEXTS) :]
    assert datas(messages) == TEXTS, "in the order of the lines"
    assert (answer["first"], answer["last"]) == (messages[0]["id"], messages[-1]["id"])
    shown = [message for message in listed(node) if message in messages]
    assert datas(shown) == TEXTS, "also in the shared order"


def test_the_last_line_needs_no_end(node: NodeProcess) -> None:
    answer = post(node, b'"one"\n"two"', "", NDJSON)
    assert (answer.status, json.loads(answer.body)["count"]) == (201, 2)
    assert datas(listed(node))[-2:] == ["one", "two"]


def test_no_lines_are_no_messages(node: NodeProcess) -> None:
    count = node.count
    answer = post(node, b"", "", NDJSON)
    assert (answer.status, json.loads(answer.body)["count"]) == (201, 0)
    assert node.count == count


@pytest.mark.parametrize(
    "bad",
    [b"text", b"7", b"null", b"[]", b'{"text":"x"}', b'{"data":7}', b'"\xff"', b'"\\ud800"'],
    ids=repr,
)
@pytest.mark.parametrize("before", [0, 1, 3, 2500])
def test_a_bad_line_is_named_and_those_before_it_are_stored(
    node: NodeProcess, bad: bytes, before: int
) -> None:
    count = node.count
    good = [f"good {n}" for n in range(before)]
    detail = problem(post(node, lines_of(good) + bad + b'\n"after it"\n', "", NDJSON), 400)[
        "detail"
    ]
    assert re.findall(r"\d+", detail)[0] == str(before + 1), "the number of the line"
    assert re.search(rf"\b{before}\b", detail), "and how many before it are stored"
    assert node.count == count + before
    assert datas(listed(node))[count:] == good


def test_a_line_that_is_too_long_is_a_bad_line(node: NodeProcess) -> None:
    count = node.count
    body = lines_of(["good", "x" * 65_537, "after it"])
    answer = post(node, body, "", NDJSON)
    assert answer.status in (400, 413)
    detail = problem(answer, answer.status)["detail"]
    assert "line 2" in detail and re.search(r"\b1\b", detail)
    assert node.count == count + 1


def test_ten_thousand_lines_take_a_moment() -> None:
    with NodeProcess() as node:
        texts = [f"line {n}" for n in range(10_000)]
        before = time.monotonic()
        assert post_all(node.port, texts)["count"] == 10_000
        spent = time.monotonic() - before
        assert spent < 5 * SCALE, f"{spent:.1f} s for 10,000 lines"
        assert datas(listed(node)) == texts
        assert node.count == 10_000


def test_a_body_of_many_megabytes_is_taken_and_never_held_whole() -> None:
    size, count = 60_000, 700
    with NodeProcess() as node:
        post_all(node.port, ["x" * size] * 20)
        before = peak_memory(node)
        answer = post_all(node.port, (f"{n:06d}" + "x" * (size - 6) for n in range(count)))
        assert answer["count"] == count
        grown = peak_memory(node) - before
        assert grown < size * count / 2**21, f"{grown:.0f} MiB more for {size * count >> 20} MiB"
        assert node.count == 20 + count


# -- copies -----------------------------------------------------------------------------------


def test_a_commit_waits_until_others_hold_it(pair: list[NodeProcess]) -> None:
    here, there = pair
    for n in range(10):
        message = posted(here, f"copied {n}", "?copies=1&timeout=5")
        assert message["copies"] >= 1
        assert f"copied {n}" in datas(listed(there)), "it is there when the answer is"


def test_many_lines_wait_until_others_hold_the_last(pair: list[NodeProcess]) -> None:
    here, there = pair
    answer = post_all(here.port, [f"many {n}" for n in range(1500)], "?copies=1&timeout=20")
    assert answer["count"] == 1500
    assert answer["last"] in {message["id"] for message in listed(there)}


def test_copies_are_counted_on_all_links() -> None:
    with (
        NodeProcess() as here,
        Node(0, host="127.0.0.2") as one,
        Node(0, host="127.0.0.3") as other,
    ):
        here.add(one.address)
        here.add(other.address)
        wait_sockets(2, here)
        assert posted(here, "on both", f"?copies=2&timeout={DEADLINE:g}")["copies"] == 2
        before = time.monotonic()
        message = posted(here, "on no third", "?copies=3&timeout=1", status=202)
        assert 0.9 <= time.monotonic() - before < 1 + 5 * SCALE
        assert message["copies"] == 2
        assert message["data"] == "on no third"
        assert "on no third" in datas(listed(here))


def test_copies_of_a_node_alone_are_none(node: NodeProcess) -> None:
    assert posted(node, "alone", "?copies=1&timeout=0.1", status=202)["copies"] == 0
    assert posted(node, "alone", "?copies=1&timeout=0", status=202)["copies"] == 0
    assert posted(node, "alone", "?copies=0&timeout=5")["copies"] == 0
    answer = post(node, b'"alone"\n', "?copies=1&timeout=0.1", NDJSON)
    assert answer.status == 202 and json.loads(answer.body)["copies"] == 0


def test_what_a_stopped_peer_does_not_hold_is_no_copy() -> None:
    with run_nodes(2) as (here, there):
        link(here, there)
        there.process.send_signal(signal.SIGSTOP)
        try:
            message = posted(here, "while it is stopped", "?copies=1&timeout=1", status=202)
            assert message["copies"] == 0
        finally:
            there.process.send_signal(signal.SIGCONT)
        assert posted(here, "later", f"?copies=1&timeout={DEADLINE:g}")["copies"] == 1
        assert datas(listed(there))[-2:] == ["while it is stopped", "later"]


@pytest.mark.parametrize(
    "query",
    [
        "copies=-1",
        "copies=x",
        "copies=1.5",
        "copies=1e3",
        "copies=\u0661",
        "copies=99999999999999999999",
        "timeout=-1",
        "timeout=x",
        "timeout=nan",
        "timeout=inf",
        "timeout=1e99",
        "copies=1&timeout=x",
    ],
)
def test_bad_copies_and_timeouts_are_refused(node: NodeProcess, query: str) -> None:
    count = node.count
    query = "?" + quote(query, safe="=&")
    problem(post(node, b'{"data":"x"}', query), 400)
    problem(post(node, b'"x"\n', query, NDJSON), 400)
    assert node.count == count


# -- pages ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def filled() -> Iterator[NodeProcess]:
    """A node with 1,234 messages; no test adds more."""
    with NodeProcess() as process:
        for n in range(4):
            posted(process, f"single {n}")
        post_all(process.port, [f"many {n}" for n in range(1230)])
        yield process


@pytest.mark.parametrize("order", ["arrival", "time"])
@pytest.mark.parametrize("limit", [1000, 617, 100])
def test_pages_hold_all_once_and_only_the_last_is_shorter(
    filled: NodeProcess, order: str, limit: int
) -> None:
    found = list(pages(filled, order, limit))
    assert all(len(page) == limit for page, _ in found[:-1])
    messages = [message for page, _ in found for message in page]
    assert datas(messages) == [f"single {n}" for n in range(4)] + [f"many {n}" for n in range(1230)]
    assert len({message["id"] for message in messages}) == 1234
    for message in messages[:3]:
        assert set(message) >= {"id", "origin", "seq", "time", "data"}
        assert message["id"] == f"{message['origin']}:{message['seq']}"
    if order == "time":
        assert [place(m) for m in messages] == sorted(place(m) for m in messages)


def test_a_page_has_100_messages_and_the_order_is_that_of_arrival(filled: NodeProcess) -> None:
    page = filled.api("messages")
    assert len(page["messages"]) == 100
    assert page == filled.api("messages?limit=100&order=arrival")


@pytest.mark.parametrize("order", ["arrival", "time"])
def test_the_end_is_an_empty_page_whose_next_stays(filled: NodeProcess, order: str) -> None:
    *_, (_, after) = pages(filled, order, 1000)
    for _ in range(2):
        page = filled.api(f"messages?order={order}&after={quote(after)}")
        assert page["messages"] == []
        after = page["next"]


@pytest.mark.parametrize("order", ["arrival", "time"])
def test_next_of_an_empty_log_is_its_beginning(order: str) -> None:
    with NodeProcess("--ephemeral") as node:
        page = node.api(f"messages?order={order}")
        assert page["messages"] == []
        posted(node, "first")
        page = node.api(f"messages?order={order}&after={quote(page['next'])}")
        assert datas(page["messages"]) == ["first"]


BIG = "9" * 19


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=-1",
        "limit=1001",
        "limit=x",
        "limit=1.5",
        "limit=99999999999999999999999",
        "limit=\u0661",
        "order=",
        "order=seq",
        "order=TIME",
        "after=x",
        "after=-1",
        "after=1.5",
        "after=99999999999999999999999",
        "order=time&after=x",
        "order=time&after=1",
        "order=time&after=1.x",
        "order=time&after=x.x.1",
        f"order=time&after={BIG}.{'a' * 32}-1.1",
        f"order=time&after=1.{'a' * 32}-1.{BIG}",
        f"order=time&after={'9' * 5000}.{'a' * 32}-1.1",
        "order=arrival&after=1.x.1",
    ],
    ids=lambda query: query[:40],
)
def test_a_bad_page_is_refused(filled: NodeProcess, query: str) -> None:
    problem(filled.get(f"{MESSAGES}?{quote(query, safe='=&')}"), 400)


@pytest.mark.parametrize("order", ["arrival", "time"])
def test_next_works_across_a_restart(tmp_path: Path, order: str) -> None:
    with NodeProcess(data_dir=tmp_path / "data") as node:
        post_all(node.port, [f"old {n}" for n in range(50)])
        found = node.api(f"messages?limit=20&order={order}")
        assert node.stop() == 0
    with NodeProcess(data_dir=tmp_path / "data") as node:
        posted(node, "new")
        rest = [m for page, _ in pages(node, order, 20, found["next"]) for m in page]
        assert datas(found["messages"] + rest) == [f"old {n}" for n in range(50)] + ["new"]


def test_who_follows_arrivals_while_commits_go_on_misses_none() -> None:
    count = 300
    with run_nodes(2) as nodes:
        link(*nodes)
        committers = [
            threading.Thread(
                target=lambda node, name: [posted(node, f"{name} {n}") for n in range(count)],
                args=(node, name),
            )
            for node, name in zip([*nodes, *nodes], "abcd", strict=True)
        ]
        for thread in committers:
            thread.start()
        seen: list[dict[str, Any]] = []
        after = ""
        deadline = time.monotonic() + 3 * DEADLINE
        while len(seen) < 4 * count + 1 and time.monotonic() < deadline:
            page = nodes[1].api(f"messages?order=arrival&limit=7&after={quote(after)}")
            seen += page["messages"]
            after = page["next"]
        for thread in committers:
            thread.join()
        expected = [f"{name} {n}" for name in "abcd" for n in range(count)]
        assert sorted(datas(seen)) == sorted([*expected, "is the link open?"])
        assert seen == listed(nodes[1], "arrival"), "what has been seen stays where it was"
        origins: dict[str, int] = {}
        for message in seen:
            assert message["seq"] == origins.get(message["origin"], 0) + 1, "no gap, in order"
            origins[message["origin"]] = message["seq"]


def test_the_shared_order_is_the_same_everywhere() -> None:
    with run_nodes(3) as nodes:
        link(*nodes)
        committers = [
            threading.Thread(
                target=lambda node, name: [posted(node, f"{name} {n}") for n in range(100)],
                args=(node, name),
            )
            for node, name in zip(nodes, "abc", strict=True)
        ]
        for thread in committers:
            thread.start()
        for thread in committers:
            thread.join()
        wait_until(
            lambda: equal(*nodes),
            "equal digests",
        )
        shown = [listed(node, "time", 90) for node in nodes]
        assert shown[0] == shown[1] == shown[2]
        assert len(shown[0]) == 301
        assert [place(m) for m in shown[0]] == sorted(place(m) for m in shown[0])
        assert len({node.messages() for node in nodes}) == 1, "`/` too"


# -- the line and the page --------------------------------------------------------------------


def test_the_line_holds_all_of_a_large_log_in_order() -> None:
    with NodeProcess() as node:
        texts = [f"text {n}" for n in range(20_000)]
        post_all(node.port, texts[:9000])
        for text in texts[9000:9005]:
            posted(node, text)
        post_all(node.port, texts[9005:])
        assert node.line() == "No. sockets 0 " + ",".join(texts)


@pytest.mark.parametrize(
    "texts", [[""], ["", ""], ["a", ""], ["", "a"], ["a", "", "b"], ["x"] * 200 + ["", "", "y"]]
)
def test_the_line_holds_empty_messages_too(texts: list[str]) -> None:
    with NodeProcess("--ephemeral") as node:
        post_all(node.port, texts)
        assert node.line() == "No. sockets 0 " + ",".join(texts)
        posted(node, "")
        assert node.line() == "No. sockets 0 " + ",".join([*texts, ""])


def shown_on_page(page: str) -> list[str]:
    return [html.unescape(text) for text in re.findall(r'<li><p dir="auto">(.*?)</p>', page, re.S)]


def test_the_page_shows_the_newest_and_goes_back_by_a_link() -> None:
    with NodeProcess() as node:
        texts = [f"text <{n}> & more" for n in range(450)]
        post_all(node.port, texts)
        found: list[str] = []
        sizes: list[int] = []
        target = "/"
        for _ in range(5):
            answer = node.get(target, Accept="text/html")
            assert answer.status == 200
            page = shown_on_page(answer.text)
            found += page
            sizes.append(len(page))
            links = [html.unescape(found) for found in re.findall(r'href="([^"]+)"', answer.text)]
            older = [found for found in links if found.startswith("/?")]
            if not older:
                break
            (target,) = older
        assert sizes == [200, 200, 50]
        assert found == texts[::-1]
        assert target != "/" and "/" in links, "and there is a way back to the newest"


@pytest.mark.parametrize("before", ["x", "1", f"{BIG}.{'a' * 32}-1.1", f"1.{'a' * 32}-1.{BIG}"])
def test_a_bad_link_to_older_messages_is_refused(node: NodeProcess, before: str) -> None:
    answer = node.get(f"/?before={before}", Accept="text/html")
    assert answer.status == 400
    assert 'role="alert"' in answer.text


# -- history, durability ----------------------------------------------------------------------


def test_what_was_acknowledged_is_there_after_a_kill(tmp_path: Path) -> None:
    acknowledged: list[str] = []

    def commit(node: NodeProcess, name: str) -> None:
        for n in itertools.count():
            text = f"{name} {n}"
            try:
                if name == "m":
                    post_all(node.port, [f"{text} {i}" for i in range(50)])
                elif name == "c":
                    assert node.commit(text).status == 302
                else:
                    posted(node, text)
            except (OSError, http.client.HTTPException):
                return
            acknowledged.extend([f"{text} {i}" for i in range(50)] if name == "m" else [text])

    for life in range(3):
        with NodeProcess(data_dir=tmp_path / "data") as node:
            names = ("m", "c", f"p{life}", f"q{life}")
            threads = [threading.Thread(target=commit, args=(node, name)) for name in names]
            enough = len(acknowledged) + 300
            for thread in threads:
                thread.start()
            wait_until(lambda: len(acknowledged) > enough, "commits go on")  # noqa: B023
            node.stop(signal.SIGKILL)
            for thread in threads:
                thread.join()
        with NodeProcess(data_dir=tmp_path / "data") as node:
            messages = listed(node)
            assert set(acknowledged) <= set(datas(messages))
            assert len({message["id"] for message in messages}) == len(messages)
            fresh = posted(node, "a new start")
            acknowledged.append("a new start")
            assert fresh["id"] not in {message["id"] for message in messages}
            node.stop(signal.SIGKILL)


def test_a_late_joiner_gets_all_history() -> None:
    with run_nodes(2) as (here, there):
        link(here, there)
        post_all(here.port, [f"here {n}" for n in range(3000)])
        post_all(there.port, [f"there {n}" for n in range(2000)])
        with NodeProcess() as late:
            late.add(there.address)
            wait_until(lambda: late.count == 5001, "it has all")
            wait_until(
                lambda: late.status()["messages"] == here.status()["messages"], "equal digests"
            )
            assert late.status()["behind"] == 0
            assert listed(late) == listed(here)


def test_a_node_gets_what_it_missed_and_gives_what_it_has(tmp_path: Path) -> None:
    with NodeProcess() as here:
        with NodeProcess(data_dir=tmp_path / "data") as away:
            link(here, away)
            posted(away, "before")
            wait_until(lambda: "before" in here.messages(), "it has arrived")
            away.stop(signal.SIGKILL)
        posted(here, "while it was away")
        with NodeProcess("--peer", here.address, data_dir=tmp_path / "data") as back:
            posted(back, "back")
            wait_until(
                lambda: here.status()["messages"] == back.status()["messages"] and here.count == 4,
                "both hold all",
            )
            assert listed(here) == listed(back)
            assert datas(listed(here))[1:3] == ["before", "while it was away"]


def test_a_node_that_lost_its_disk_gets_back_even_its_own() -> None:
    with NodeProcess() as here:
        with NodeProcess() as lost:
            link(here, lost)
            post_all(lost.port, [f"its own {n}" for n in range(100)], "?copies=1&timeout=10")
        with NodeProcess("--peer", here.address) as wiped:
            wait_until(lambda: wiped.count == 101, "it has all")
            assert listed(wiped) == listed(here)


def test_a_chain_passes_on_what_its_ends_commit() -> None:
    """The ends cannot be dialled, so that the middle is their only link."""
    with (
        NodeProcess() as middle,
        NodeProcess("--advertise", "none", "--peer", middle.address) as one,
        NodeProcess("--advertise", "none", "--peer", middle.address) as other,
    ):
        wait_sockets(2, middle)
        posted(one, "from one")
        posted(other, "from the other")
        wait_until(lambda: len(one.texts()) == len(other.texts()) == 2, "both have both")
        assert one.sockets() == other.sockets() == 1
        assert listed(one) == listed(other) == listed(middle)


def test_an_original_gets_no_history() -> None:
    with NodeProcess() as node, Original() as original:
        for n in range(5):
            posted(node, f"before {n}")
        original.add(node.address)
        wait_until(lambda: node.sockets() == 1, "it is linked")
        # It is known for an original once it has said nothing else for a while.
        original.commit("from the original")
        wait_until(lambda: "from the original" in node.messages(), "it is heard")
        posted(node, "after")
        wait_until(lambda: "after" in original.messages, "it hears")
        assert original.messages == ["from the original", "after"]
        assert {frame["type"] for frame in original.frames} == {"SOCKETS", "MESSAGE"}


def test_an_original_gets_many_commits_in_order() -> None:
    with NodeProcess() as node, Original() as original:
        original.add(node.address)
        wait_until(lambda: node.sockets() == 1, "it is linked")
        texts = [f"text {n}" for n in range(500)]
        post_all(node.port, texts)
        wait_until(lambda: len(original.messages) >= 500, "it hears all")
        assert original.messages == texts


def test_an_ephemeral_node_keeps_nothing(tmp_path: Path) -> None:
    with NodeProcess("--ephemeral", cwd=tmp_path) as node:
        posted(node, "text")
        post_all(node.port, ["more"] * 100)
        assert len(listed(node)) == 101
        port, origin = node.port, node.id
        assert node.stop() == 0
    assert list(tmp_path.iterdir()) == []
    with NodeProcess("--ephemeral", cwd=tmp_path, port=port) as node:
        assert listed(node) == []
        assert node.id != origin


# -- the rest of HTTP -------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/api/v1/status", MESSAGES])
def test_head_answers_without_a_body(node: NodeProcess, target: str) -> None:
    answer = request(node.port, target, "HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["content-type"].startswith("application/json")


@pytest.mark.parametrize(
    ("method", "target", "code"),
    [
        ("POST", "/api/v1/status", 405),
        ("PUT", MESSAGES, 405),
        ("DELETE", MESSAGES, 405),
        ("GET", "/api/v1/nothing", 404),
        ("GET", "/api/v2/status", 404),
    ],
)
def test_what_is_not_there_is_a_problem_too(
    node: NodeProcess, method: str, target: str, code: int
) -> None:
    answer = request(node.port, target, method)
    problem(answer, code)
    assert (code == 405) == ("allow" in answer.headers)


def test_a_browser_gets_a_problem_of_the_api_as_json_too(node: NodeProcess) -> None:
    problem(node.get(MESSAGES + "?limit=0", Accept="text/html,*/*"), 400)


def test_a_clock_that_is_ahead_is_followed_by_a_reply() -> None:
    """One that is a minute and more ahead is not, but its messages are kept."""
    for ahead, followed in ((30, True), (3600, False)):
        with Machine(ahead) as fast, NodeProcess() as slow:
            link(fast, slow)
            question = posted(fast, "question")
            wait_until(lambda: "question" in slow.messages(), "it has arrived")
            reply = posted(slow, "reply")
            assert (place(reply) > place(question)) is followed
            assert (reply["time"] - time.time() * 1000 > 20_000) is followed
            wait_until(lambda: "reply" in fast.messages(), "it has arrived")
            assert listed(fast) == listed(slow)
            assert len(listed(slow)) == 3


def test_the_clock_is_taken_up_again_from_the_log(tmp_path: Path) -> None:
    with Machine(30, data_dir=tmp_path / "data") as node:
        first = posted(node, "first")
    with NodeProcess(data_dir=tmp_path / "data") as node:
        assert place(posted(node, "second")) > place(first)
        assert datas(listed(node)) == ["first", "second"]
