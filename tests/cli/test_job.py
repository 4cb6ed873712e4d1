"""The job, rows 1-8 of it, on real processes: what a user of the original expects and more."""

from __future__ import annotations

import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from html.parser import HTMLParser
from pathlib import Path
from time import monotonic

import pytest

from tests.harness.original import Original
from tests.harness.raw import dial
from tests.harness.support import (
    SCALE,
    NodeProcess,
    free_port_pair,
    holds,
    run_nodes,
    silent_listener,
    wait_sockets,
    wait_until,
)

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
JOININGS = {  # (who, whom): indexes into A, B, C
    "A adds B and C": [(0, 1), (0, 2)],
    "A adds B, C adds A": [(0, 1), (2, 0)],
    "A adds B, C adds B": [(0, 1), (2, 1)],
}


class Page(HTMLParser):
    """A page's `text`, and its `forms`: action -> (method, names of the inputs)."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.forms: dict[str, tuple[str, list[str]]] = {}
        self._inputs: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        fields = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._inputs = []
            self.forms[fields["action"]] = (fields.get("method", "get").lower(), self._inputs)
        elif tag in ("input", "textarea") and "name" in fields:
            self._inputs.append(fields["name"])

    def handle_data(self, data: str) -> None:
        self.text += data


def test_row_1_both_addresses_are_logged() -> None:
    with NodeProcess() as node:
        wait_until(lambda: node.logged(f"http://127.0.0.1:{node.port}"), node.log())
        wait_until(lambda: node.logged(node.address), node.log())


def test_row_2_a_script_gets_one_exact_line() -> None:
    with NodeProcess() as node:
        for headers in ({}, {"Accept": "*/*"}, {"Accept": "application/json"}):
            answer = node.get("/", **headers)
            assert (answer.status, answer.body) == (200, b"No. sockets 0 ")
            assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        node.commit("first")
        node.commit("second")
        assert node.get("/", Accept="*/*").body == b"No. sockets 0 first,second"


def test_row_2_a_browser_gets_a_page_with_forms() -> None:
    with NodeProcess() as node, Original() as original:
        original.add(node.address)
        wait_sockets(1, node)
        node.commit("seen in a browser")
        answer = node.get("/", Accept=BROWSER)
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        page = Page(answer.text)
        assert "seen in a browser" in page.text
        assert re.search(r"socket\D*1\b|\b1\b\D*socket", page.text.lower()), page.text
        assert page.forms["/add"] == ("get", ["address"])
        assert page.forms["/commit"] == ("get", ["msg", "topic"])


def test_row_3_add_answers_at_once_even_for_a_black_hole() -> None:
    with NodeProcess() as node, silent_listener() as (address, _), Original() as original:
        begin = monotonic()
        answer = node.add(address)
        assert monotonic() - begin < 1 * SCALE
        assert (answer.status, answer.headers["location"]) == (302, "/")
        begin = monotonic()
        node.add(original.address)
        wait_until(lambda: node.sockets() == 1)
        assert monotonic() - begin < 3 * SCALE, "a dial that hangs delays the next one"


def test_row_4_a_commit_shows_as_soon_as_it_is_answered() -> None:
    with NodeProcess() as node:
        for number in range(20):
            answer = node.commit(f"text {number}")
            assert (answer.status, answer.headers["location"]) == (302, "/")
            assert node.texts()[-1] == f"text {number}"


def test_rows_5_and_6_a_plain_peer_is_told_and_heard() -> None:
    with run_nodes(2) as (a, b):
        b.add(a.address)
        wait_sockets(1, a, b)
        link = dial(a.address)
        link.send_sockets()
        first = link.read_json()
        assert first["type"] == "SOCKETS" and first["addresses"] == [b.address]
        link.send_json({"type": "SOMETHING NEW", "data": {"deep": [1, 2]}})
        link.send_message("heard")
        wait_until(lambda: a.messages() == "heard")
        assert a.sockets() == 2, "an unknown type costs nothing"
        link.close()


def test_row_7_a_failed_dial_is_logged_with_address_and_reason() -> None:
    with NodeProcess() as node:
        dead = f"ws://127.0.0.1:{free_port_pair()}"
        node.add(dead)
        wait_until(lambda: node.logged(dead, "refused"), "a line with the address and the reason")
        assert node.line() == "No. sockets 0 "
        assert "Traceback" not in node.log(), node.log()


def test_row_7_a_killed_node_leaves_the_others_lists() -> None:
    with run_nodes(3) as (a, b, c):
        a.add(b.address)
        wait_sockets(1, a, b)
        c.add(a.address)
        wait_sockets(2, a, b, c)
        b.stop(signal.SIGKILL)
        wait_sockets(1, a, c)
        a.commit("still linked")
        wait_until(lambda: c.messages() == "still linked")


def commit_fifteen(node: NodeProcess, number: int) -> None:
    for k in range(15):
        assert node.commit(f"{k} of {number}").status == 302


@pytest.mark.parametrize("joining", JOININGS.values(), ids=JOININGS)
def test_row_8_three_nodes_agree_whatever_the_joining(joining: list[tuple[int, int]]) -> None:
    with run_nodes(3) as nodes:
        for who, whom in joining:
            nodes[who].add(nodes[whom].address)
            wait_until(nodes[who].sockets)
        wait_sockets(2, *nodes)
        expected = sorted(f"{number} of {i}" for i in range(3) for number in range(15))
        with ThreadPoolExecutor(3) as pool:  # commits at all three at the same time
            list(pool.map(commit_fifteen, nodes, range(3)))
        wait_until(lambda: all(len(node.texts()) >= 45 for node in nodes))
        lines = {node.messages() for node in nodes}
        assert len(lines) == 1, "one order on all three"
        assert sorted(nodes[0].texts()) == expected, "each once"
        wait_sockets(2, *nodes)


def test_both_in_one_dial_of_each_other_keep_one_link() -> None:
    with run_nodes(2) as (a, b):
        barrier = threading.Barrier(2)

        def add(node: NodeProcess, other: NodeProcess) -> None:
            barrier.wait()
            node.add(other.address)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(add, (a, b), (b, a)))
        wait_sockets(1, a, b)
        _stays_one_link(a, b)


def test_two_that_name_each_other_at_their_start_keep_one_link() -> None:
    ports = [free_port_pair(), free_port_pair()]
    with ExitStack() as stack:
        a, b = (
            stack.enter_context(
                NodeProcess("--peer", f"ws://127.0.0.1:{other + 1}", port=port, wait=False)
            )
            for port, other in (ports, ports[::-1])
        )
        a.wait_ready()
        b.wait_ready()
        wait_sockets(1, a, b)
        _stays_one_link(a, b)


def _stays_one_link(a: NodeProcess, b: NodeProcess) -> None:
    before = len(a.log().splitlines()) + len(b.log().splitlines())
    # Of two links that open at once, one side may close one before the other side has read what
    # came over the other one. Until then that side counts no link.
    holds(lambda: max(a.sockets(), b.sockets()) <= 1, "one link on both sides", 3 * SCALE)
    wait_sockets(1, a, b)
    after = len(a.log().splitlines()) + len(b.log().splitlines())
    assert after - before < 10, f"a redial storm?\n{a.log()}"
    a.commit("from a")
    wait_until(lambda: b.messages() == "from a")


def test_a_node_never_links_to_itself() -> None:
    with NodeProcess() as node:
        own = [node.address, f"localhost:{node.port + 1}", f"ws://LOCALHOST:{node.port + 1}/"]
        link = dial(node.address)
        link.send_sockets(*own[:1], f"ws://{own[1]}")
        for address in own:
            assert node.add(address).status == 302
        wait_until(lambda: node.sockets() == 1)
        holds(lambda: node.sockets() == 1, "no link but the one of this test", 3 * SCALE)
        node.commit("once")
        assert node.messages() == "once"
        link.close()


def test_all_spellings_of_an_address_are_one_link() -> None:
    with run_nodes(2) as (a, b):
        port = b.port + 1
        for spelling in (
            "localhost:{}",
            "http://localhost:{}",
            "ws://localhost:{}/",
            "LocalHost:{}",
        ):
            assert a.add(spelling.format(port)).status == 302
        wait_sockets(1, a, b)
        a.add(b.address)
        _stays_one_link(a, b)


def test_dialling_the_http_port_names_the_likely_one() -> None:
    with run_nodes(2) as (a, b):
        a.add(f"localhost:{b.port}")
        wait_until(lambda: a.logged(str(b.port), str(b.port + 1)), "the log names the peer port")
        assert a.sockets() == 0


def test_an_address_by_hand_is_redialled_when_the_peer_comes_back(tmp_path: Path) -> None:
    with NodeProcess() as a:
        with NodeProcess(data_dir=tmp_path / "b") as b:
            a.add(b.address)
            wait_sockets(1, a, b)
        wait_sockets(0, a)
        with NodeProcess(data_dir=tmp_path / "b", port=b.port) as b:
            wait_sockets(1, a, b)


def test_learned_addresses_survive_a_restart(tmp_path: Path) -> None:
    ports = [free_port_pair(), free_port_pair()]

    def start(stack: ExitStack, port: int, *options: str) -> NodeProcess:
        node = NodeProcess(*options, port=port, data_dir=tmp_path / str(port))
        return stack.enter_context(node)

    with NodeProcess() as hub, ExitStack() as stack:
        nodes = []
        for port in ports:  # they hear of each other from the hub only
            nodes.append(start(stack, port, "--peer", hub.address))
            wait_sockets(len(nodes), hub)
        wait_sockets(2, hub, *nodes)
        assert [node.stop() for node in nodes] == [0, 0]
    with ExitStack() as stack:
        wait_sockets(1, *[start(stack, port) for port in ports])


def test_an_advertised_address_is_what_others_are_told() -> None:
    port = free_port_pair()
    shown = f"ws://localhost:{port + 1}"
    with (
        NodeProcess() as hub,
        NodeProcess("--advertise", shown, "--peer", hub.address, port=port) as named,
        Original() as listener,
    ):
        wait_sockets(1, hub, named)
        with NodeProcess("--advertise", "none", "--peer", hub.address) as hidden:
            wait_sockets(2, hub, named, hidden)
            listener.add(hub.address)
            wait_until(lambda: listener.links() == 2, "to the hub, and to the one it is told of")
            assert shown in listener.told()
            assert not [told for told in listener.told() if str(hidden.port + 1) in told]
