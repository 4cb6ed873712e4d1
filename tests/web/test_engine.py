"""waitress has each name that engine.py uses, private ones included."""

from __future__ import annotations

import ast
import re
from typing import Any

import waitress
from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import ClientDisconnected, HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.server import BaseWSGIServer
from waitress.task import WSGITask

from p2p_sync.web import places
from p2p_sync.web.engine import Channel
from tests.harness.support import ROOT

SOURCE = (ROOT / "p2p_sync/web/engine.py").read_text()
PRIVATE: dict[str, set[str]] = {
    "module": {"create_server", "wasyncore", "poll2", "close_all"},
    "server": {"accept", "readable", "add_task", "pull_trigger", "channel_class", "trigger"}
    | {"task_dispatcher", "adj", "BaseWSGIServer"},
    "dispatcher": {"set_thread_count", "thread_exit_cv", "threads", "add_task"},
    "channel": {"parser_class", "task_class", "error_task_class", "handle_close", "connected"}
    | {"readable", "write_soon", "send", "requests", "request", "total_outbufs_len", "service"}
    | {"received", "handle_write", "current_outbuf_count", "close_when_flushed", "server", "adj"},
    "adjustments": {"outbuf_high_watermark"},
    "request": {"parse_header", "received", "headers", "command", "request_uri", "path", "query"}
    | {"content_length", "version", "body_rcv", "chunked", "completed", "error"}
    | {"headers_finished", "body_bytes_received", "adj"},
    "receiver": {"buf", "control_line", "trailer"},
    "task": {"execute", "complete", "status", "response_headers", "content_length", "write"}
    | {"set_close_on_finish", "channel", "request", "finish", "environ"},
}
# Of the standard library, and of engine.py and what it calls.
OURS = {"get_ident", "monotonic", "values", "pop", "wait_for", "property"}


class Silent:
    """A socket that is not connected."""

    def getsockopt(self, *_: Any) -> int:
        return 1

    def fileno(self) -> int:
        return 99

    setblocking = getpeername = close = getsockopt


def owners() -> dict[str, tuple[Any, ...]]:
    """What has the names of each row."""
    sockets: dict[int, Any] = {}
    server = waitress.create_server(lambda *_: [], map=sockets, host="127.0.0.1", port=0)
    request = HTTPRequestParser(Adjustments())
    request.received(b"POST /path?query HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
    channel = HTTPChannel(server, Silent(), ("127.0.0.1", 1), server.adj, map={})
    task = WSGITask(channel, request)
    dispatcher = server.task_dispatcher
    dispatcher.set_thread_count(0)
    wasyncore.close_all(sockets)
    return {
        "module": (waitress, wasyncore, waitress.server),
        "adjustments": (server.adj,),
        "server": (server, waitress.server),
        "dispatcher": (dispatcher,),
        "channel": (channel,),
        "request": (request,),
        "receiver": (request.body_rcv,),
        "task": (task,),
    }


def test_waitress_has_each_private_name() -> None:
    for row, things in owners().items():
        for name in PRIVATE[row]:
            assert any(hasattr(thing, name) for thing in things), f"{row}: {name}"
    assert issubclass(ParsingError, Exception) and issubclass(BaseWSGIServer, wasyncore.dispatcher)
    assert issubclass(ClientDisconnected, Exception)


def test_no_other_private_name_is_used() -> None:
    tree = ast.parse(SOURCE)
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    ours = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    ours |= {
        target.attr
        for node in ast.walk(tree)
        if isinstance(node, (ast.Assign, ast.AnnAssign))
        for target in ast.walk(node)
        if isinstance(target, ast.Attribute) and isinstance(target.ctx, ast.Store)
    }
    ours |= set(vars(Channel)) - set(dir(HTTPChannel))
    ours |= set(vars(places.Place)) | set(re.findall(r"owner\.(\w+)", SOURCE)) | OURS
    classes = {"HTTPChannel", "HTTPRequestParser", "WSGITask", "ParsingError"}
    classes |= {"ClientDisconnected"}
    assert used - ours - classes - {"owner", "seal", "__init__", "get"} <= set().union(
        *PRIVATE.values()
    )


def test_the_private_part_is_small_and_the_version_pinned() -> None:
    assert SOURCE.count("\n") < 180
    assert "waitress >= 3.0.1, < 3.1" in (ROOT / "setup.cfg").read_text()
