"""The rules of the HTTP port, on every version of Python: names, tokens, pages of other origins."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

import pytest

from p2p_sync.address import is_loopback, is_private
from p2p_sync.errors import (
    Busy,
    CursorGone,
    InputError,
    LogError,
    LogFull,
    MessageTooLong,
    NotRunning,
)
from p2p_sync.settings import HTTP_MAX_PARAMETERS, HTTP_MAX_QUERY, MAX_MESSAGE_BYTES
from p2p_sync.web.answers import PROBLEM_TYPE, refusal, refusal_of
from p2p_sync.web.guard import Guard, is_foreign, is_guess, is_opened, is_own
from tests.harness.support import ROOT

TOKEN = "t" * 40
GUARD = Guard(8000, TOKEN, names=frozenset(["node.example"]))
ACTIONS = ("/commit", "/add")


def status(head: dict[str, str], guard: Guard = GUARD) -> int:
    """The status of the guard's answer; 200 where it lets the request through."""
    answer = guard.judge(head)
    return answer.status if answer else HTTPStatus.OK


def asked(path: str, host: str = "localhost:8000", **fields: str) -> dict[str, str]:
    head = {"PATH_INFO": path, "QUERY_STRING": "", "REQUEST_URI": path, "HTTP_HOST": host}
    return head | {f"HTTP_{name}": value for name, value in fields.items()}


# -- queries --------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["localhost", "10.0.0.1"])
def test_a_query_that_takes_long_to_take_apart_is_refused_before_it_is_read(host: str) -> None:
    """Also one without the token."""
    for path, query in (
        ("/", "token=" + "x" * HTTP_MAX_QUERY),
        ("/api/v1/messages", "a=b&" * 100_000),
        ("/commit", "a=b&" * 100_000),
        ("/", "&" * HTTP_MAX_PARAMETERS),
    ):
        refused = GUARD.judge(asked(path, host) | {"QUERY_STRING": query})
        assert refused and refused.status == 400
        assert "the query string may have at most" in refused.sentence


def test_the_longest_message_is_no_query_that_is_too_long() -> None:
    head = asked("/commit") | {"QUERY_STRING": "msg=" + "%20" * MAX_MESSAGE_BYTES + "&copies=1"}
    assert status(head) == 200


# -- names that need no token -------------------------------------------------------------------

# Every other way to write an address that means this machine, to some program at least.
SPELLINGS = [
    *("[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:7f00:0001]", "[::FFFF:127.0.0.1]"),
    *("[::127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[::ffff:0:127.0.0.1]"),
    *("2130706433", "0x7f000001", "017700000001", "0x7f.1", "0177.0.0.1", "127.1", "127.0.1"),
    *("127.0.0.01", "127.0.0.2", "127.255.255.254", "0.0.0.0", "0", "[::]", "[127.0.0.1]"),
    *("[::1%25lo]", "[::1%lo]", "[fe80::1%25lo]", "[::0001]", "[0:0:0:0:0:0:0:1]", "::1"),
    *("127.0.0.1.", "localhost.", "[::1].", "LOCALHOST.", "localhost..", ".localhost"),
    *("localhost.localdomain", "ip6-localhost", "x.localhost", "localhost4", "loopback"),
    *("", " localhost", "localhost ", "localhost:", "localhost:x", "localhost:123456"),
    *("user@localhost", "localhost@evil.example", "localhost,evil.example", "localhost/x"),
    *("\u2460\u2461\u2466.0.0.1", "localho\u017ft", "127.0.0.1\x00", "localhost\t", "[::1", "::1]"),
]


@pytest.mark.parametrize("port", ["", ":8000"])
@pytest.mark.parametrize("host", SPELLINGS)
def test_other_spellings_of_this_machine_need_the_token(host: str, port: str) -> None:
    for path in ("/", "/add", "/commit", "/api/v1/messages"):
        assert status(asked(path, host + port)) in (400, 401, 421)


@pytest.mark.parametrize("port", ["", ":8000", ":1"])
@pytest.mark.parametrize("host", ["localhost", "LocalHost", "127.0.0.1", "[::1]"])
def test_the_three_names_of_this_machine_need_none(host: str, port: str) -> None:
    for path in ("/", "/add", "/commit", "/api/v1/messages"):
        assert status(asked(path, host + port)) == 200
        assert status(asked(path, host + port), Guard(8000, TOKEN, local=False)) == 401
        for relayed in ("X_FORWARDED_FOR", "FORWARDED", "VIA"):
            assert status(asked(path, host + port, **{relayed: "x"})) == 401


@pytest.mark.parametrize("host", ["[::ffff:127.0.0.1]:8000", "127.0.0.2", "10.0.0.1", "[::]"])
def test_a_token_opens_the_other_addresses(host: str) -> None:
    assert status(asked("/commit", host)) == 401
    assert status(asked("/commit", host, AUTHORIZATION=f"Bearer {TOKEN}")) == 200
    assert status(asked("/commit", host, COOKIE=f"a=b; p2p_sync_8000={TOKEN}")) == 200
    assert status(asked("/commit", host, COOKIE=f"p2p_sync_8001={TOKEN}")) == 401


@pytest.mark.parametrize(
    ("target", "host", "expected"),
    [
        ("http://localhost:8000/commit?msg=x", "localhost:8000", 200),
        ("HTTP://LOCALHOST:8000/commit?msg=x", "localhost:8000", 200),
        ("http://evil.example/commit?msg=x", "localhost:8000", 400),
        ("http://localhost:8000@evil.example/commit", "localhost:8000", 400),
        ("http://localhost:8000/commit", "127.0.0.1:8000", 400),
        ("http://[::ffff:127.0.0.1]:8000/commit", "localhost:8000", 400),
        ("http:/commit", "localhost:8000", 400),
        ("ftp://localhost:8000/commit", "localhost:8000", 400),
        ("localhost:8000", "localhost:8000", 400),
        ("*", "localhost:8000", 400),
        ("commit", "localhost:8000", 400),
        ("//evil.example/commit", "localhost:8000", 200),
    ],
)
def test_the_host_in_a_request_line_is_that_of_the_header(
    target: str, host: str, expected: int
) -> None:
    assert status(asked("/commit", host) | {"REQUEST_URI": target}) == expected


# -- probes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
@pytest.mark.parametrize(
    "host",
    ["p2p-sync", "p2p-sync.default.svc.cluster.local:8000", "under_score", "evil.example", "a b"]
    + ["", "[", "x" * 300, "10.0.0.1", "localhost.", "\u00e9", "one, two", "127.1"],
)
def test_probes_are_answered_by_any_name(path: str, host: str) -> None:
    for guard in (GUARD, Guard(8000, TOKEN, local=False)):
        head = asked(path, host, X_FORWARDED_FOR="8.8.8.8", REFERER="http://elsewhere/")
        assert status(head, guard) == 200
        assert status({"PATH_INFO": path, "QUERY_STRING": ""}, guard) == 200, "with no Host"
        assert guard.room({**head, "CONTENT_LENGTH": "9"}) == 0
    assert status(asked(f"{path}/x", host)) != 200 or host == "10.0.0.1"


# -- pages of other origins ---------------------------------------------------------------------

OWN = "http://localhost:8000"
FOREIGN_URLS = [
    *(
        "http://evil.example/",
        "https://evil.example/x?y",
        "http://localhost:8001/",
        "http://localhost/",
    ),
    *(f"{OWN}@evil.example/", f"{OWN}.evil.example/", "http://user@localhost:8000/", "null", "x"),
    *("ftp://localhost:8000/", f"{OWN}\\@evil.example/", "//localhost:8000/", "http://[::1]:8000/"),
    *("about:blank", "data:text/html,x", "http://127.0.0.1:8000/", "http://evil.example#" + OWN),
]


@pytest.mark.parametrize("url", FOREIGN_URLS)
@pytest.mark.parametrize("header", ["REFERER", "ORIGIN"])
def test_a_foreign_referer_or_origin_is_a_page_of_another_origin(header: str, url: str) -> None:
    for path in (*ACTIONS, "/api/v1/messages"):
        assert status(asked(path, **{header: url})) == 403
        assert status(asked(path, **{header: url, "SEC_FETCH_SITE": "same-origin"})) == 403
    assert status(asked("/", **{header: url})) == 200, "a link to the page may be followed"


@pytest.mark.parametrize(
    "fields",
    [{"REFERER": OWN}, {"REFERER": f"{OWN}/"}, {"REFERER": f"{OWN}/?token=x"}, {"ORIGIN": OWN}]
    + [{"REFERER": "HTTPS://LOCALHOST:8000/#x"}, {"REFERER": ""}, {"ORIGIN": OWN, "REFERER": OWN}],
)
def test_the_nodes_own_page_is_not(fields: dict[str, str]) -> None:
    for path in (*ACTIONS, "/api/v1/messages"):
        assert status(asked(path, **fields)) == 200


SAFARI = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 Version/15.6 Safari"
# What browsers accept for a part of a page, those included that send no fetch metadata.
PARTS = {
    "image, Safari 15": "image/webp,image/png,image/svg+xml,image/*;q=0.8,video/*;q=0.8,*/*;q=0.5",
    "image, Chrome": "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8",
    "image, Firefox": "image/avif,image/webp,*/*",
    "image, in capitals": "IMAGE/PNG",
    "style": "text/css,*/*;q=0.1",
    "script": "application/javascript, */*;q=0.8",
    "script, of old": "text/javascript, application/ecmascript",
    "video": "video/webm,video/ogg,video/*;q=0.9,application/ogg;q=0.7,audio/*;q=0.6,*/*;q=0.5",
    "audio": "audio/webm,audio/ogg,audio/wav,audio/*;q=0.9,application/ogg;q=0.7,*/*;q=0.5",
    "font": "font/woff2;q=1.0,font/woff;q=0.9,*/*;q=0.8",
    "font, of old": "application/font-woff2;q=1.0,application/font-woff;q=0.9,*/*;q=0.8",
    "subtitles": "text/vtt,*/*;q=0.5",
}
NAVIGATIONS = [
    "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "text/html, application/xhtml+xml, image/jxr, */*",
]


@pytest.mark.parametrize("accept", PARTS.values(), ids=PARTS)
def test_parts_of_a_page_do_nothing(accept: str) -> None:
    for path in (*ACTIONS, "/api/v1/messages"):
        assert status(asked(path, ACCEPT=accept)) == 403
    assert status(asked("/static/icon.svg", ACCEPT=accept)) == 200


@pytest.mark.parametrize("path", ACTIONS)
def test_a_script_that_an_old_browser_loads_is_told_from_curl(path: str) -> None:
    for accept in ("*/*", "application/json"):
        assert status(asked(path, ACCEPT=accept, USER_AGENT=SAFARI)) == 403
        assert status(asked(path, ACCEPT=accept, USER_AGENT="curl/8.5.0")) == 200
        assert status(asked(path, ACCEPT=accept)) == 200
    assert status(asked(path, USER_AGENT="Mozilla/5.0 (Linux) PowerShell/7.4")) == 200
    for dest in ("script", "image", "style", "iframe", "object", "video"):
        assert status(asked(path, SEC_FETCH_SITE="none", SEC_FETCH_DEST=dest)) == 403
    for accept in NAVIGATIONS:
        assert status(asked(path, ACCEPT=accept, USER_AGENT=SAFARI)) == 200


def test_the_nodes_own_page_reads_the_api_over_plain_http() -> None:
    """From another machine no browser sends fetch metadata."""
    head = asked("/api/v1/status", "10.0.0.1:8000", ACCEPT="*/*", USER_AGENT=SAFARI)
    assert status(head | {"HTTP_COOKIE": f"p2p_sync_8000={TOKEN}"}) == 200


def test_what_a_browser_opens_is_told_from_what_its_page_does() -> None:
    for accept in NAVIGATIONS:
        assert is_opened(asked("/add", ACCEPT=accept))
        assert is_opened(
            asked("/add", ACCEPT=accept, SEC_FETCH_SITE="none", SEC_FETCH_MODE="navigate")
        )
        assert is_opened(asked("/add", ACCEPT=accept, SEC_FETCH_DEST="document"))
        assert not is_opened(asked("/add", ACCEPT=accept, SEC_FETCH_SITE="same-origin"))
        assert not is_opened(asked("/add", ACCEPT=accept, SEC_FETCH_MODE="cors"))
    assert is_opened(asked("/add", SEC_FETCH_MODE="navigate"))
    assert not is_opened(asked("/add")) and not is_opened(asked("/add", ACCEPT="*/*"))


def test_only_the_nodes_own_page_is_vouched_for() -> None:
    assert is_own(asked("/add", ORIGIN=OWN)) and is_own(asked("/add", SEC_FETCH_SITE="same-origin"))
    assert not is_own(asked("/add")) and not is_own(asked("/add", SEC_FETCH_SITE="none"))
    for url in FOREIGN_URLS:
        assert not is_own(asked("/add", ORIGIN=url))
        assert is_foreign(asked("/add", ORIGIN=url))


@pytest.mark.parametrize("header", ["PURPOSE", "SEC_PURPOSE", "X_PURPOSE", "X_MOZ"])
def test_a_browsers_guess(header: str) -> None:
    assert is_guess(asked("/add", **{header: "prefetch"})) and not is_guess(asked("/add"))


# -- addresses and errors -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "loopback", "private"),
    [
        *[(host, True, False) for host in ("localhost", "127.0.0.1", "127.9.9.9", "::1", "::1%lo")],
        *[(host, True, False) for host in ("::ffff:127.0.0.1", "::ffff:7f00:1")],
        *[(host, False, True) for host in ("10.0.0.1", "172.16.0.1", "172.31.255.255")],
        *[(host, False, True) for host in ("192.168.1.5", "169.254.1.1", "::ffff:10.0.0.1")],
        *[(host, False, True) for host in ("fe80::1", "fe80::1%eth0", "fd00::1")],
        *[(host, False, False) for host in ("8.8.8.8", "172.32.0.1", "100.64.0.1", "192.0.0.9")],
        *[(host, False, False) for host in ("2001:db8::1", "::ffff:8.8.8.8", "0.0.0.0", "::")],
        *[(host, False, False) for host in ("node.example", "node.local", "", "64:ff9b::a00:1")],
    ],
)
def test_ranges_are_the_same_on_every_python(host: str, loopback: bool, private: bool) -> None:
    assert (is_loopback(host), is_private(host)) == (loopback, private)


def test_failures_are_rendered_from_the_request_alone() -> None:
    sentence = 'it has <failed> "badly" \ud800'

    def rendered(path: str, accept: str, **more: Any) -> tuple[str, bytes]:
        head = asked(path, ACCEPT=accept)
        answer = refusal(head, HTTPStatus.BAD_REQUEST, sentence, **more)
        return dict(answer.fields)["Content-Type"], answer.body

    kind, body = rendered("/api/v1/status", "text/html", line=3)
    assert kind == PROBLEM_TYPE and b'"line": 3' in body and b"<failed>" in body
    assert b'"type": "urn:p2p-sync:bad_request"' in body
    kind, body = rendered("/add", "Text/HTML,*/*")
    assert kind.startswith("text/html") and b"&lt;failed&gt;" in body and b"<failed>" not in body
    kind, body = rendered("/add", "*/*")
    assert kind.startswith("text/plain") and body.startswith(b"it has <failed>")


ERRORS = {
    NotRunning("x"): (503, "stopping"),
    CursorGone("x", "7"): (410, "cursor_gone"),
    MessageTooLong("x"): (413, "message_too_long"),
    InputError("x"): (400, "invalid"),
    LogFull("x"): (507, "log_full"),
    LogError("x"): (503, "log_unavailable"),
    Busy("x"): (503, "busy"),
    OSError("secret"): (500, "failed"),
}


def test_programs_get_a_type_for_each_kind_of_error() -> None:
    described = json.loads((ROOT / "p2p_sync/web/openapi.json").read_text())
    codes = described["components"]["schemas"]["Problem"]["properties"]["type"]["description"]
    for error, (status, code) in ERRORS.items():
        answer = refusal_of(asked("/api/v1/messages"), error)
        document = json.loads(answer.body)
        assert (answer.status, document["status"]) == (status, status)
        assert document["type"] == f"urn:p2p-sync:{code}"
        assert f"`{code}`" in codes, "the description names it"
        assert ("Retry-After" in dict(answer.fields)) == (code in ("busy", "stopping"))
        assert "secret" not in document["detail"]
