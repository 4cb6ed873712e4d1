"""Attacks on the HTTP port, by name: other origins, other names, no token, floods and forgeries."""

from __future__ import annotations

import html
import http.client
import json
import logging
import os
import re
import socket
import struct
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import quote, unquote

import pytest

from p2p_sync import settings
from p2p_sync.cli.logline import OneLine
from p2p_sync.errors import StartError
from p2p_sync.settings import HTTP_MAX_BODY as MAX_BODY
from p2p_sync.settings import HTTP_MAX_BULK_BODY as MAX_LINES
from p2p_sync.web import bodies
from p2p_sync.web.guard import Guard, guarded, host_of
from p2p_sync.web.token import kept_token, read_token
from tests.harness import raw
from tests.harness.disk import small_files
from tests.harness.http import exchange, hello, serving
from tests.harness.process import peak_memory
from tests.harness.support import (
    DEADLINE,
    SCALE,
    Answer,
    NodeProcess,
    free_port_pair,
    holds,
    is_open,
    request,
    run_to_end,
    silent_listener,
    wait_sockets,
    wait_until,
)

MESSAGES = "/api/v1/messages"
NDJSON = {"Content-Type": "application/x-ndjson"}
PAGE = {"Accept": "text/html,*/*"}
NAME = "node.example"
pytestmark = pytest.mark.usefixtures("unharmed")


@pytest.fixture(scope="module")
def public() -> Iterator[NodeProcess]:
    """A node whose HTTP port is open to other machines, by address or by NAME."""
    with NodeProcess("--http-host", "0.0.0.0", "--http-name", NAME) as process:
        yield process


def token_of(node: NodeProcess) -> str:
    return (node.data_dir / "http-token").read_text().strip()


# -- another origin's page ----------------------------------------------------------------------

FOREIGN = {
    "cross-site": {"Sec-Fetch-Site": "cross-site"},
    "another port of localhost": {"Sec-Fetch-Site": "same-site"},
    "what browsers will call it some day": {"Sec-Fetch-Site": "nearby"},
    "navigated to": {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
    "another origin": {"Origin": "http://evil.example"},
    "another port": {"Origin": "http://127.0.0.1:1"},
    "another scheme": {"Origin": "ftp://127.0.0.1"},
    "null": {"Origin": "null"},
    "nothing": {"Origin": ""},
    "either is enough": {"Sec-Fetch-Site": "same-origin", "Origin": "http://evil.example"},
}


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN)
def test_a_page_of_another_origin_can_do_nothing(
    node: NodeProcess, headers: dict[str, str]
) -> None:
    with silent_listener() as (address, listener):
        for target in ("/commit?msg=evil", "/add?address=" + quote(address, safe="")):
            assert node.get(target, **headers).status == 403
            assert request(node.port, target, "HEAD", headers).status == 403
        for target in ("/api/v1/status", MESSAGES, "/api//v1/messages", "//commit?msg=evil"):
            assert node.get(target, **headers).status == 403
        for kind in ("text/plain", "application/json", "application/x-ndjson"):
            fields = {**headers, "Content-Type": kind}
            answer = request(node.port, MESSAGES, "POST", fields, b'{"data":"evil"}')
            assert answer.status == 403 and "problem+json" in answer.headers["content-type"]
        assert request(node.port, MESSAGES, "OPTIONS", headers).status == 403
        listener.settimeout(0.3 * SCALE)
        with pytest.raises(TimeoutError):
            listener.accept()


@pytest.mark.parametrize("site", ["none", "same-origin", None])
def test_a_person_a_script_and_the_own_page_can(site: str | None) -> None:
    with NodeProcess("--ephemeral") as node:
        origin = f"http://127.0.0.1:{node.port}"
        headers = {"Sec-Fetch-Site": site} if site else {}
        assert node.get("/commit?msg=one", **headers).status == 302
        for own in (origin, origin.replace("http", "https"), origin.upper()):
            body = b'{"data":"two"}'
            answer = request(node.port, MESSAGES, "POST", {**headers, "Origin": own}, body)
            assert answer.status == 201, answer.text
        assert node.messages() == "one,two,two,two"


@pytest.mark.parametrize("target", ["/", "/static/style.css", "/healthz"])
def test_what_is_only_shown_may_be_navigated_to_but_not_embedded(
    node: NodeProcess, target: str
) -> None:
    for site in ("cross-site", "same-site"):
        headers = {"Sec-Fetch-Site": site}
        assert node.get(target, **headers).status == 200
        assert node.get(target, **headers, **{"Sec-Fetch-Mode": "navigate"}).status == 200
        for mode in ("no-cors", "cors", "websocket"):
            assert node.get(target, **headers, **{"Sec-Fetch-Mode": mode}).status == 403


def test_every_kind_of_answer_denies_framing_and_scripts_that_are_not_the_nodes(
    node: NodeProcess, public: NodeProcess
) -> None:
    answers = [
        node.get("/"),
        node.get("/", **PAGE),
        node.get("/static/style.css"),
        node.get("/add"),
        node.get("/nothing", **PAGE),
        node.get("/api/v1/status"),
        node.get("/api/v1/nothing"),
        node.get("/healthz"),
        node.get("/", Host="evil.example"),
        node.get("/commit", **FOREIGN["cross-site"]),
        public.get("/", **PAGE),
        public.get(f"/?token={token_of(public)}"),
        request(node.port, "/", "HEAD"),
    ]
    statuses = {answer.status for answer in answers}
    assert statuses == {200, 400, 401, 403, 404, 421}
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        assert answer.headers["cache-control"] in ("no-cache", "no-store")
        assert "access-control-allow-origin" not in answer.headers
        if "html" in answer.headers["content-type"]:
            assert not re.search(r"(?i)<script>|<style|\sstyle=|\son\w+=", answer.text)
    style = answers[2]
    again = node.get("/static/style.css", **{"If-None-Match": style.headers["etag"]})
    assert again.status == 304, "what does not change is cached by its validator"


# -- a browser that is led to /add --------------------------------------------------------------

STRANGER = "ws://stranger.invalid:8001"
OPENED = {
    "typed": {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
    "typed, in an old browser": {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"},
    "in a frame of a mail program": {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"},
}


@pytest.mark.parametrize("headers", OPENED.values(), ids=OPENED)
def test_a_browser_is_asked_before_its_node_connects_to_a_stranger(headers: dict[str, str]) -> None:
    with NodeProcess("--ephemeral") as node, silent_listener() as (near, _):
        strangers = (STRANGER, "ws://[2001:db8::1]:8001", "ws://[::ffff:203.0.113.1]:8001")
        for address in (*strangers, "ws://localhost.example:1", "ws://0.0.0.0:1"):
            answer = node.get("/add?address=" + quote(address), **headers)
            assert answer.status == 200 and '<form method="post" action="/add">' in answer.text
            assert answer.headers["cache-control"] == "no-store" and node.addresses() == []
        assert node.get("/add?address=" + quote(near), **headers).status == 302
        assert node.get("/add?address=10.0.0.1:x", **headers).status == 400
        assert node.addresses() == [near]
        assert node.add(STRANGER).status == 302, "curl is not asked"
        assert node.get("/add?address=" + quote(STRANGER), **headers).status == 302, "it is known"
        own = {**headers, "Sec-Fetch-Site": "same-origin"}
        assert node.get("/add?address=" + quote("ws://b.invalid:1"), **own).status == 302


def test_the_button_works_on_the_nodes_own_page_alone() -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    body = b"address=" + quote(STRANGER, safe="").encode()
    with NodeProcess("--ephemeral") as node:
        own = f"http://127.0.0.1:{node.port}"
        for headers in (
            {},
            {"Sec-Fetch-Site": "none"},
            {"Origin": "null"},
            {"Origin": "http://evil.example"},
            {"Sec-Fetch-Site": "cross-site", "Origin": own},
            {"Sec-Fetch-Site": "same-origin", "Origin": own, "Referer": "http://evil.example/"},
        ):
            assert request(node.port, "/add", "POST", {**form, **headers}, body).status == 403
        own_page = {**form, "Origin": own}
        for wrong in (b"", b"address=", b"address=%zz", b"address=x&address=y"):
            assert request(node.port, "/add", "POST", own_page, wrong).status == 400
        assert node.addresses() == []
        answer = request(node.port, "/add", "POST", own_page, body)
        assert (answer.status, answer.headers["location"]) == (302, "/")
        assert node.addresses() == [STRANGER]


# -- another name -------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/", "/commit?msg=evil", "/api/v1/status"])
@pytest.mark.parametrize("port", ["", ":8000"])
@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "localhost.", NAME])
def test_dns_rebinding(node: NodeProcess, target: str, host: str, port: str) -> None:
    answer = node.get(target, Host=host + port)
    assert answer.status == 421
    assert f"--http-name {host}" in answer.text


@pytest.mark.parametrize(
    "host",
    ["", " ", "a b", "localhost:x", "localhost:80:80", "[::1", "::1", "[localhost]", "a/b"]
    + ["user@localhost", "localhost, localhost", "local\xe9", "<b>", "localhost:", "[::g]"],
)
def test_a_host_that_cannot_be_one(node: NodeProcess, host: str) -> None:
    assert host_of(host) is None
    assert node.get("/", Host=host).status == 400


def test_no_host_or_two(node: NodeProcess) -> None:
    for head in (b"HTTP/1.0", b"HTTP/1.1\r\nHost: localhost\r\nHost: localhost"):
        sent = b"GET / " + head + b"\r\nConnection: close\r\n\r\n"
        assert exchange(node.port, sent).startswith((b"HTTP/1.0 400", b"HTTP/1.1 400"))


@pytest.mark.parametrize(
    ("host", "name"),
    [("LocalHost:80", "localhost"), ("[::1]:8000", "::1"), ("10.0.0.1", "10.0.0.1")],
)
def test_hosts_are_read(host: str, name: str) -> None:
    assert host_of(host) == name


@pytest.mark.parametrize("name", ["a b", "", "name:8000", "name/path", "-x"])
def test_names_that_cannot_be_one(tmp_path: Path, name: str) -> None:
    result = run_to_end(f"{free_port_pair()}", f"--http-name={name}", cwd=tmp_path)
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
    assert "--http-name" in result.stderr


# -- the login ----------------------------------------------------------------------------------

LOCAL = ["localhost:{}", "127.0.0.1:{}", "[::1]:{}", "LOCALHOST:1"]
OTHER = [
    "127.0.0.2",
    "[::ffff:127.0.0.1]:{}",
    "192.168.1.5:{}",
    "0.0.0.0:{}",
    "[fe80::1]:{}",
    "8.8.8.8",
    NAME,
]


@pytest.mark.parametrize("host", LOCAL + OTHER)
@pytest.mark.parametrize("local", [True, False])
def test_login_matrix(host: str, local: bool) -> None:
    """No token only where the port listens on loopback and is called by a loopback name."""
    guard = Guard(8000, "t" * 40, local, frozenset([NAME]))
    head = {"HTTP_HOST": host.format(8000), "PATH_INFO": "/commit", "QUERY_STRING": "msg=text"}
    answer = guard.judge(head)
    assert (answer.status if answer else None) == (None if local and host in LOCAL else 401)
    assert guard.judge({**head, "HTTP_AUTHORIZATION": "Bearer " + "t" * 40}) is None
    assert guard.judge({**head, "HTTP_X_FORWARDED_FOR": "8.8.8.8"}), "it came through a proxy"
    for probe in ("/healthz", "/readyz"):
        assert guard.judge({**head, "PATH_INFO": probe}) is None


def test_the_login_is_waived_for_this_machine_alone(public: NodeProcess) -> None:
    with NodeProcess("--ephemeral", "--http-name", NAME.upper()) as node:
        for host in LOCAL:
            assert node.get("/", Host=host.format(node.port)).status == 200
        for host in OTHER:
            assert node.get("/", Host=host.format(node.port)).status == 401
        assert node.get("/", **{"X-Forwarded-For": "8.8.8.8"}).status == 401
        wait_until(lambda: node.logged("the page is at http://127.0.0.1:", "/"), node.log)
        wait_until(
            lambda: node.logged(f"the page is at http://{NAME}:{node.port}/?token="), node.log
        )
    for host in LOCAL + OTHER:
        assert public.get("/", Host=host.format(public.port)).status == 401


def test_another_address_of_this_machine_is_logged_with_its_token() -> None:
    with NodeProcess("--ephemeral", "--http-host", "127.0.0.2", wait=False) as node:
        wait_until(lambda: node.logged(f"the page is at http://127.0.0.2:{node.port}/?token="))


def test_names_and_the_token_file_from_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.touch(0o600)
    file.write_text("  a-token+of/my.own==\n")
    environment = {
        "P2P_SYNC_HTTP_NAME": f"one.example {NAME}",
        "P2P_SYNC_HTTP_TOKEN_FILE": f"{file}",
    }
    with NodeProcess(environment=environment) as node:
        bearer = {"Authorization": "bearer a-token+of/my.own=="}
        for name in ("one.example", NAME):
            assert node.get("/", Host=name).status == 401
            assert node.get("/", Host=name, **bearer).status == 200
        link = "/?token=" + quote("a-token+of/my.own==", safe="")
        assert "a-token+of/my.own==" in node.get(link, Host=NAME).headers["set-cookie"]
        assert "a-token" not in node.log(), "who gave it knows it"
        assert not (node.data_dir / "http-token").exists()


def test_without_a_token(public: NodeProcess) -> None:
    for headers in ({}, PAGE):
        answer = public.get("/commit?msg=evil", **headers)
        assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert "http-token" in answer.text and "link" in answer.text
    assert "text/html" in public.get("/", **PAGE).headers["content-type"]
    answer = public.get("/api/v1/status")
    assert (answer.status, json.loads(answer.body)["status"]) == (401, 401)
    assert public.get("/static/style.css").status == 401
    assert (public.get("/healthz").text, public.get("/readyz").text) == ("ok\n", "ready\n")
    assert token_of(public) not in public.get("/", **PAGE).text


def test_the_link_in_the_log_sets_a_cookie_and_moves_on(public: NodeProcess) -> None:
    link = re.search(rf"http://{NAME}:\d+(/\?token=\S+)", public.log())
    assert link
    answer = public.get(link[1], **FOREIGN["navigated to"])  # from a mail
    assert answer.status == 200, "no redirect, along which the cookie would not be sent"
    assert '<meta http-equiv="refresh" content="0; url=/">' in answer.text
    assert answer.headers["cache-control"] == "no-store"
    cookie, *rules = answer.headers["set-cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(rules)
    assert cookie == f"p2p_sync_{public.port}={unquote(link[1].partition('=')[2])}"
    for sent in (cookie, f"a=b; {cookie}", f"p2p_sync_{public.port}=old; {cookie};"):
        page = public.get("/", Cookie=sent, **PAGE)
        assert page.status == 200 and "<form" in page.text
    for other in (cookie.replace(f"{public.port}", "1"), cookie[:-1], f"x{cookie}"):
        assert public.get("/", Cookie=other).status == 401
    own = {"Cookie": cookie, "Sec-Fetch-Site": "same-origin"}
    assert public.get("/api/v1/status", **own).status == 200
    assert public.get("/api/v1/status", **{**own, **FOREIGN["another origin"]}).status == 403


def test_browsers_that_tell_no_site_are_held_off_by_the_strict_cookie(public: NodeProcess) -> None:
    """Over plain HTTP to another machine a browser says nothing; nor does it send the cookie."""
    host = {"Host": f"192.168.1.5:{public.port}"}
    before = public.get("/", **host, Authorization=f"Bearer {token_of(public)}").text
    assert public.get("/commit?msg=evil", **host).status == 401
    assert public.get("/add?address=ws://127.0.0.1:1", **host).status == 401
    assert request(public.port, MESSAGES, "POST", host, b'{"data":"evil"}').status == 401
    assert public.get("/", **host, Authorization=f"Bearer {token_of(public)}").text == before


def test_a_node_that_cannot_write_its_log_is_not_ready() -> None:
    with NodeProcess() as node:
        with small_files(node, 100_000):
            wait_until(lambda: node.commit("x" * 60_000).status in (503, 507), "nothing is stored")
            answer = node.get("/readyz")
            assert answer.status == 503 and "log" in answer.text
            assert node.get("/healthz").status == 200
        wait_until(lambda: node.get("/readyz").status == 200, "it is ready again")


@pytest.mark.parametrize(
    "wrong", ["x", "", "\xe9", "{}x", " ", "x" * 8_000], ids=lambda text: text[:5]
)
def test_a_wrong_token_says_so(public: NodeProcess, wrong: str) -> None:
    text = wrong.format(token_of(public))
    answer = public.get("/?token=" + quote(text), **PAGE)
    assert answer.status == 401 and "set-cookie" not in answer.headers
    assert ("wrong" in answer.text) == bool(text)
    for scheme in ("Bearer", "Basic"):
        assert public.get("/", Authorization=f"{scheme} {text}").status == 401
    assert public.get("/commit?msg=x&token=" + token_of(public)).status == 401


def test_the_token_is_a_scripts_bearer(public: NodeProcess) -> None:
    for scheme in ("Bearer", "bearer"):
        bearer = {"Authorization": f"{scheme} {token_of(public)}"}
        assert public.get("/api/v1/status", **bearer).status == 200


def test_the_token_outlives_the_node_and_is_its_own_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        token = kept_token(str(tmp_path))
    finally:
        os.umask(old)
    assert (tmp_path / "http-token").stat().st_mode & 0o777 == 0o600
    assert kept_token(str(tmp_path)) == token and len(token) >= 40
    assert kept_token(None) != kept_token(None), "--ephemeral keeps nothing"
    assert [path.name for path in tmp_path.iterdir()] == ["http-token"]
    with pytest.raises(StartError, match="cannot write the token"):
        kept_token(str(tmp_path / "nowhere"))


def test_the_token_is_kept_where_the_log_is_put_aside(tmp_path: Path) -> None:
    with NodeProcess(data_dir=tmp_path) as node:
        token = token_of(node)
        assert node.stop() == 0
    for file in tmp_path.glob("node.db*"):
        file.unlink()
    with NodeProcess(data_dir=tmp_path) as node:
        assert token_of(node) == token


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o660, 0o606])
def test_a_token_file_that_others_can_read(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "token"
    file.write_text("t" * 40)
    file.chmod(mode)
    result = run_to_end(f"{free_port_pair()}", "--http-token-file", f"{file}", cwd=tmp_path)
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1), result.stderr
    assert f"chmod 600 {file}" in result.stderr
    file.chmod(0o600)
    assert read_token(file) == "t" * 40


@pytest.mark.parametrize(
    "text", ["", "\n", "t" * 15, "two words of a token", "t\xe9" * 20, "t" * 2000]
)
def test_a_token_file_without_a_token(tmp_path: Path, text: str) -> None:
    file = tmp_path / "token"
    file.touch(0o600)
    file.write_text(text)
    result = run_to_end(f"{free_port_pair()}", "--http-token-file", f"{file}", cwd=tmp_path)
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1), result.stderr
    assert str(file) in result.stderr and "16" in result.stderr
    assert "two words" not in result.stderr
    with pytest.raises(StartError, match="cannot be read"):
        read_token(tmp_path / "none")


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux tells in /proc")
def test_the_default_start_exposes_nothing_beyond_this_machine(tmp_path: Path) -> None:
    with NodeProcess(cwd=tmp_path) as node:
        process = Path(f"/proc/{node.process.pid}")
        own = set()
        for descriptor in (process / "fd").iterdir():
            with suppress(OSError):  # it may be closed by now
                own.update(re.findall(r"^socket:\[(\d+)\]$", str(descriptor.readlink())))
        listening = set()
        for family in ("tcp", "tcp6", "udp", "udp6"):
            for line in (process / "net" / family).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[9] in own and (fields[3] == "0A" or family.startswith("udp")):
                    address, port = fields[1].split(":")
                    listening.add((family, bytes.fromhex(address)[::-1], int(port, 16)))
        loopback = socket.inet_aton("127.0.0.1")
        if sys.byteorder == "big":
            loopback = loopback[::-1]
        assert listening == {("tcp", loopback, node.port), ("tcp", loopback, node.port + 1)}
        assert "token=" not in node.log(), "this machine needs none"


# -- injected and forged text -------------------------------------------------------------------

FORGED = "2001-01-01 00:00:00,000 INFO forged"


@pytest.mark.parametrize("end", ["\r\n", "\n", "\r", "\x85", "\u2028", "\x1b[2K\r", "\0"])
def test_header_and_log_injection_through_an_address(node: NodeProcess, end: str) -> None:
    for address in (f"ws://h{end}Set-Cookie: evil=1:8001", f"ws://h:8001{end}{FORGED}"):
        answer = node.get("/add?address=" + quote(address, safe=""))
        assert answer.status == 400
        assert "set-cookie" not in answer.headers and "location" not in answer.headers
    assert "forged" not in node.log()


def test_a_redirect_leads_nowhere_else() -> None:
    with NodeProcess("--ephemeral") as node:
        for text in ("x\r\nLocation: http://evil.example/", "//evil.example", "\r\n\r\n<script>"):
            answer = node.commit(text)
            assert (answer.status, answer.headers["location"]) == (302, "/")
            assert "evil" not in str(answer.headers)


def test_a_script_that_is_stored_in_a_message_is_shown_as_text() -> None:
    script = "<script src=//evil.example></script><img src=x onerror=alert(1)>\"'>"
    with NodeProcess("--ephemeral") as node:
        node.commit(script)
        answer = node.get("/", **PAGE)
        own = r'<script type="module" src="/static/[a-z]+\.js"></script>'
        text = re.sub(own, "", answer.text)
        assert script in html.unescape(text) and "<img" not in text
        assert not re.search("<script|<img|onerror=[^&]*>", text)
        problem = node.get("/add?address=" + quote(script), **PAGE)
        assert problem.status == 400 and "<script" not in re.sub(own, "", problem.text)
        assert node.get("/").headers["content-type"].startswith("text/plain")


def test_a_log_line_forged_through_a_message_a_close_reason_or_a_path() -> None:
    with NodeProcess("--ephemeral", "--log-level", "debug") as node:
        node.commit(f"text\n{FORGED}")
        node.get("/" + quote(f"nothing\n{FORGED}"))
        with raw.dial(node.address) as link:
            link.send_sockets()
            wait_sockets(1, node)
            link.send_json({"type": f"X\n{FORGED}", "addresses": [f"ws://h:1\n{FORGED}"]})
            link.send_message(f"text\n{FORGED}")
            link.send(raw.CLOSE, raw.close_payload(1000, f"\n{FORGED}"))
            wait_sockets(0, node)
        assert not re.search(r"(?m)^2001", node.log()), node.log()


def test_a_record_is_a_line_and_a_traceback_cannot_be_taken_for_one() -> None:
    form = OneLine("%(levelname)s %(message)s")
    end = "\n\r\x0b\x85\u2028\u202e\x1b[0m\0\ud800"
    record = logging.LogRecord("x", logging.INFO, "", 0, "from %s: \xe9 ok", (end,), None)
    line = form.format(record)
    assert line.isprintable() and line.startswith("INFO from \\n\\r") and line.endswith("\xe9 ok")
    try:
        raise ValueError(f"bad\n{FORGED}\r{FORGED}")
    except ValueError:
        record.exc_info = sys.exc_info()
    first, *rest = form.format(record).split("\n")
    assert first == line and rest
    assert all(text.startswith("  ") and text.isprintable() for text in rest)


# -- bounds -------------------------------------------------------------------------------------


def test_sixteen_wait_and_the_next_is_told_to_come_back() -> None:
    with NodeProcess("--ephemeral") as node, NodeProcess("--ephemeral") as other:
        answers: list[Answer] = []
        body = b'{"data":"waits"}'

        def wait() -> None:
            target = f"{MESSAGES}?copies=1&timeout=60"
            while (answer := request(node.port, target, "POST", {}, body)).status == 503:
                pass  # the probe below has a slot
            answers.append(answer)

        threads = [threading.Thread(target=wait, daemon=True) for _ in range(16)]
        for thread in threads:
            thread.start()
        probe = "?copies=1&timeout=0"
        wait_until(
            lambda: request(node.port, MESSAGES + probe, "POST", {}, body).status == 503,
            "sixteen wait",
        )
        refused = [
            request(node.port, MESSAGES + probe, "POST", {}, body),
            request(node.port, MESSAGES, "POST", NDJSON, b'"line"\n'),
            node.get(f"/commit{probe}&msg=text"),
        ]
        for answer in refused:
            assert answer.status == 503 and int(answer.headers["retry-after"]) >= 1
        assert "detail" in json.loads(refused[0].body)
        assert node.commit("others go on").status == 302
        assert node.get("/").status == 200
        other.add(node.address)
        for thread in threads:
            thread.join(DEADLINE)
        assert [answer.status for answer in answers] == [201] * 16
        assert node.get(f"/commit{probe}&msg=text").status == 302, "the slots are free again"
        for _ in range(40):  # whoever reads the whole of a long log gives its slot back
            lines = b'"line"\n' * 20
            assert request(node.port, MESSAGES, "POST", NDJSON, lines).status == 201
            assert request(node.port, "/", "HEAD").status == node.get("/").status == 200


def send_chunked(port: int, pieces: Iterable[bytes], headers: dict[str, str]) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    try:
        connection.request("POST", MESSAGES, iter(pieces), headers, encode_chunked=True)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/x-ndjsonx"])
def test_large_bodies_are_refused_also_in_chunks(node: NodeProcess, kind: str) -> None:
    headers = {"Content-Type": kind}
    body = b'{"data":' + b" " * MAX_BODY
    answer = request(node.port, MESSAGES, "POST", headers, body)
    assert answer.status == 413 and f"{MAX_BODY}" in json.loads(answer.body)["detail"]
    chunked = {**headers, "Transfer-Encoding": "chunked"}
    assert send_chunked(node.port, [body], chunked) == 413
    assert send_chunked(node.port, [body[: MAX_BODY // 2]] * 3, chunked) == 413
    assert send_chunked(node.port, [b"{"], chunked) == 400
    assert request(node.port, "/", "GET", {}, body).status == 413


def test_a_bulk_commit_is_never_whole_in_memory() -> None:
    line = b" " * 100_000 + b"\n"
    chunked = {**NDJSON, "Transfer-Encoding": "chunked"}
    with NodeProcess("--ephemeral") as node:
        before = peak_memory(node)
        assert send_chunked(node.port, [line] * 1000, chunked) == 201
        assert request(node.port, MESSAGES, "POST", NDJSON, line * 1000).status == 201
        assert peak_memory(node) - before < 20, "MiB more for 100 MB"


def test_more_than_the_longest_bulk_commit_is_refused_at_its_head(node: NodeProcess) -> None:
    head = f"POST {MESSAGES} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n"
    answer = exchange(node.port, f"{head}Content-Length: {MAX_LINES + 1}\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    "text",
    [
        "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + "1" * 50_000,
        "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
        + "a:b\r\n" * 10_000,
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + "1" * 10_000 + "\r\n\r\n",
        "GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=["a chunk's size", "a trailer", "a number", "an address"],
)
def test_heads_without_end_or_meaning(node: NodeProcess, text: str) -> None:
    # The kernel may take the answer back, where more was sent than read before the end.
    assert exchange(node.port, text.encode())[:12] in (b"", b"HTTP/1.0 400", b"HTTP/1.1 400")


def test_a_request_line_holds_the_largest_message_and_no_more() -> None:
    with NodeProcess("--ephemeral", "--max-message-bytes", "131072") as node:
        target = "/commit?msg=" + "%78" * 131072
        headers = {"X-Filler": "x" * 30_000}
        assert request(node.port, target, headers=headers).status == 302
        sent = f"GET {target}{'%78' * 30_000} HTTP/1.1\r\nHost: localhost\r\n\r\n"
        assert exchange(node.port, sent.encode())[:12] in (b"", b"HTTP/1.0 431", b"HTTP/1.1 431")
        assert len(node.messages()) == 131072


def test_bodies_that_dribble_hold_no_thread(node: NodeProcess) -> None:
    with ExitStack() as stack:
        for _ in range(40):  # more than there are threads
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", node.port)))
            sock.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx")
        assert node.get("/").status == 200


@pytest.mark.parametrize(
    "sent", [b"GET", b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000\r\n\r\n"]
)
def test_what_dribbles_is_cut(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(settings, "HTTP_ARRIVAL", 0.5)
    monkeypatch.setattr(settings, "HTTP_LEAST_RATE", 1000)
    with serving(hello) as port, socket.create_connection(("127.0.0.1", port), DEADLINE) as sock:
        sock.sendall(sent)

        def cut() -> bool:
            with suppress(ConnectionError):
                sock.send(b"x")
            return not is_open(sock)

        wait_until(cut, "the connection is closed")


def test_a_body_that_moves_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "HTTP_ARRIVAL", 0.2)
    monkeypatch.setattr(settings, "HTTP_LEAST_RATE", 10)
    with serving(hello) as port, socket.create_connection(("127.0.0.1", port), DEADLINE) as sock:
        sock.sendall(
            b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 101\r\n\r\n" + b"x" * 100
        )
        holds(lambda: is_open(sock), "100 bytes may take 10 s", 2.0)
        sock.settimeout(DEADLINE)
        sock.sendall(b"x")
        assert sock.recv(12) == b"HTTP/1.1 200"


def test_silent_connections_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "HTTP_CONNECTIONS", 10)
    monkeypatch.setattr(settings, "HTTP_IDLE", 1)
    monkeypatch.setattr(settings, "HTTP_IDLE_CHECK", 1)
    with serving(hello) as port, ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        for _ in range(3):
            assert request(port, "/").status == 200


def test_what_is_refused_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may not commit cannot fill the disk, nor the memory, with a large body."""
    kept: list[int] = []
    real = bodies.Body.close

    def close(body: bodies.Body) -> None:
        file = body.getfile()
        kept.append(file.seek(0, 2))
        real(body)

    monkeypatch.setattr(bodies.Body, "close", close)
    guard = Guard(8000, "t" * 40, False)
    with serving(guarded(hello, guard), guard.room) as port:
        body = b" " * 3_000_000
        for headers, status, size in (
            ({}, 401, 0),
            ({"Authorization": "Bearer " + "t" * 40}, 200, len(body)),
            ({"Authorization": "Bearer " + "t" * 40, "Http-Host": "evil"}, 200, len(body)),
            ({"Authorization": "Bearer wrong", "Host": "evil.example"}, 421, 0),
        ):
            fields = {**NDJSON, **headers}
            assert request(port, MESSAGES, "POST", fields, body).status == status
            wait_until(lambda: kept, "the body is let go")
            assert kept.pop() == size


def test_a_reset_connection_leaves_no_traceback(node: NodeProcess) -> None:
    for sent in (b"", b"GET", b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx"):
        sock = socket.create_connection(("127.0.0.1", node.port))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.sendall(sent)
        sock.close()
    assert node.get("/").status == 200
