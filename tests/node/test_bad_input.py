"""Bad input: every row of that table, over HTTP, on the command line and at the link."""

from __future__ import annotations

import ctypes
import html
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.harness.support import (
    DEADLINE,
    RUN_NODE,
    SCALE,
    NodeProcess,
    free_port_pair,
    holds,
    request,
    run_nodes,
    run_to_end,
    silent_listener,
    wait_sockets,
    wait_until,
)

A_RIGHT_ADDRESS = re.compile(r"ws://[a-z0-9.\[\]:-]+:\d+")
LIMIT = 65536
TEXTS = [
    "plain",
    "",
    "a,b,,c",
    "line\nfeed\r\nand\ttab",
    "\"double\" 'single' `back` \\ &amp; &#39;",
    "<script>alert(1)</script><!-- <b>",
    "NUL \0 inside and \x01\x1b\x7f",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 e\u0301 \u00e9",
    "\u202eright to left \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "\ufeffBOM \ufffd \ufffe \U0010ffff \u2028",
    " spaces at both ends ",
    "100% + 1 = ? & # ; /",
]
pytestmark = pytest.mark.usefixtures("unharmed")
NOT_UTF8 = ["%", "%4", "%zz", "a%", "%ff", "%c0%af", "%e2%82", "%ed%a0%80", "%ed%b0%80"]


@pytest.mark.parametrize(
    "query",
    ["", "?address", "?address=", "?adress=ws://127.0.0.1:8001", "?address=%20"]
    + ["?address=" + quote(bad, safe="") for bad in ("nonsense here", "ws://127.0.0.1:x")]
    + ["?address=" + quote(bad, safe="") for bad in ("ws://127.0.0.1:0", "ws://127.0.0.1:65536")]
    + ["?address=" + quote(bad, safe="") for bad in ("ftp://127.0.0.1:8001", "ws://:8001", "8001")]
    + ["?address=" + quote(bad, safe="") for bad in ("ws://[::1:8001", "ws://a\nb:8001", "ws://")]
    + ["?address=" + "a" * 5000 + ":8001"],
)
def test_add_without_a_possible_address(node: NodeProcess, query: str) -> None:
    answer = node.get("/add" + query)
    assert answer.status == 400
    assert A_RIGHT_ADDRESS.search(html.unescape(answer.text)), answer.text


@pytest.mark.parametrize("query", ["", "?", "?message=text", "?Msg=text"])
def test_commit_without_a_message(node: NodeProcess, query: str) -> None:
    answer = node.get("/commit" + query)
    assert (answer.status, "msg" in answer.text) == (400, True)


@pytest.mark.parametrize("text", ["x" * (LIMIT + 1), "\u00e9" * (LIMIT // 2) + "x"])
def test_a_message_over_the_limit(node: NodeProcess, text: str) -> None:
    answer = node.commit(text)
    assert answer.status == 413
    assert re.search(r"65[, _.]?536|64 KiB", answer.text), answer.text


@pytest.mark.parametrize("raw", NOT_UTF8)
@pytest.mark.parametrize("where", ["/commit?msg=", "/commit?msg=good%20", "/add?address=ws://h"])
def test_queries_that_are_not_text(node: NodeProcess, where: str, raw: str) -> None:
    assert node.get(where + raw).status == 400


def test_head_and_prefetch_do_nothing(node: NodeProcess) -> None:
    with silent_listener() as (address, listener):
        for target in ("/commit?msg=text", "/add?address=" + quote(address, safe="")):
            assert request(node.port, target, "HEAD").status == 405
            for purpose in ("prefetch", "prefetch;prerender", "prefetch; anonymous-client-ip"):
                assert node.get(target, **{"Sec-Purpose": purpose}).status == 503
        listener.settimeout(0.5 * SCALE)
        with pytest.raises(TimeoutError):
            listener.accept()


@pytest.mark.parametrize("target", ["/none", "/add/", "/commit/more"])
def test_unknown_paths_are_not_found(node: NodeProcess, target: str) -> None:
    assert node.get(target + "?msg=x&address=127.0.0.1:1").status == 404


def test_messages_up_to_the_limit_are_taken_and_empty_ones_too() -> None:
    with NodeProcess() as node:
        for text in ("", "x" * LIMIT, "\u00e9" * (LIMIT // 2)):
            assert node.commit(text).status == 302
        assert node.messages() == ",".join(("", "x" * LIMIT, "\u00e9" * (LIMIT // 2)))


def test_a_message_of_128_kib_reaches_a_node_with_a_lower_limit() -> None:
    text = "\u00e9" * LIMIT
    with NodeProcess("--max-message-bytes", "131072") as big, NodeProcess() as small:
        small.add(big.address)
        wait_sockets(1, big, small)
        assert big.commit(text).status == 302
        wait_until(lambda: small.messages() == text)
        assert big.commit(text + "x").status == 413
        assert small.commit(text).status == 413


def test_any_text_is_kept_byte_for_byte_and_escaped_in_the_page() -> None:
    with run_nodes(2) as (here, there):
        here.add(there.address)
        wait_sockets(1, here, there)
        for text in TEXTS:
            assert here.get("/commit?msg=" + quote(text.encode(), safe="")).status == 302
        assert here.get("/commit?msg=a+form's+text").status == 302
        expected = ",".join([*TEXTS, "a form's text"]).encode()
        assert here.get("/").body == b"No. sockets 1 " + expected
        wait_until(lambda: there.get("/").body == b"No. sockets 1 " + expected)
        page = there.get("/", Accept="text/html").text
        assert "<script>alert" not in page
        assert "&lt;script&gt;alert(1)&lt;/script&gt;&lt;!-- &lt;b&gt;" in page
        for text in TEXTS:
            shown = text.replace("\0", "\ufffd").replace("\r\n", "\n")
            assert text in html.unescape(page) or shown in html.unescape(page), text


def one_line(tmp_path: Path, *arguments: str) -> str:
    """Run a node that refuses to start; return the one line that it says, on stderr."""
    result = run_to_end(*arguments, cwd=tmp_path)
    assert result.returncode == 2, result
    assert "Traceback" not in result.stdout + result.stderr
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.mark.parametrize("port", ["", "eight", "0", "65535", "70000", "80.5"])
def test_ports_that_cannot_be_one(tmp_path: Path, port: str) -> None:
    line = one_line(tmp_path, *([port] if port else []))
    assert (port or "PORT") in line
    assert "8000" in line or "--peer-port" in line, "the way out"


@pytest.mark.parametrize("taken", [0, 1])
def test_a_port_in_use(tmp_path: Path, taken: int) -> None:
    port = free_port_pair()
    with socket.create_server(("127.0.0.1", port + taken)):
        assert str(port + taken) in one_line(tmp_path, str(port))


def without_privileged_ports() -> None:
    """In a child that runs as root: give up the right to ports below 1024 for what it executes."""
    drop_from_bounding_set, bind_service = 24, 10  # PR_CAPBSET_DROP, CAP_NET_BIND_SERVICE
    ctypes.CDLL(None).prctl(drop_from_bounding_set, bind_service, 0, 0, 0)


def test_a_port_that_needs_privileges(tmp_path: Path) -> None:
    allowed = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    if not allowed.exists() or int(allowed.read_text()) <= 1000:
        pytest.skip("this system gives ports below 1024 to everyone")
    result = subprocess.run(
        [*RUN_NODE, "1000"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        preexec_fn=without_privileged_ports if os.geteuid() == 0 else None,
    )
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "1000" in line and "above 1023" in line


def test_a_data_directory_in_use(tmp_path: Path) -> None:
    with NodeProcess(data_dir=tmp_path / "data") as node:
        line = one_line(tmp_path, str(free_port_pair()), "--data-dir", str(tmp_path / "data"))
        assert str(tmp_path / "data") in line
        assert node.line() == "No. sockets 0 "


def test_a_data_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        assert str(place) in one_line(tmp_path, str(free_port_pair()), "--data-dir", str(place))


def test_a_data_directory_of_something_else(tmp_path: Path) -> None:
    other = tmp_path / "photos"
    other.mkdir()
    (other / "cat.jpg").write_bytes(b"\xff\xd8")
    assert str(other) in one_line(tmp_path, str(free_port_pair()), "--data-dir", str(other))
    assert [path.name for path in other.iterdir()] == ["cat.jpg"]


def test_a_copied_data_directory_is_refused_and_logged_on_both(tmp_path: Path) -> None:
    with NodeProcess(data_dir=tmp_path / "first") as first:
        assert first.stop() == 0
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    with (
        NodeProcess(data_dir=tmp_path / "first") as first,
        NodeProcess(data_dir=tmp_path / "second") as second,
    ):
        starts = {node: len(node.log()) for node in (first, second)}
        first.add(second.address)

        def logged() -> bool:
            found = (re.search(r"(?i)cop(y|ied)", node.log()[at:]) for node, at in starts.items())
            return all(found)

        wait_until(logged, "both log the copied data directory")
        holds(lambda: first.sockets() == second.sockets() == 0, "no link between the copies")
