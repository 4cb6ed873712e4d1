"""The command that runs a node."""

from __future__ import annotations

import gc
import logging
import os
import resource
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from ..address import Address, is_loopback
from ..errors import InputError, StartError
from ..node.node import Node
from ..settings import GC_THRESHOLD, HANG_UP, MAX_DESCRIPTORS, Program
from ..urls import parse_url
from ..web.app import create_app
from ..web.guard import Guard, guarded
from ..web.plain import begin
from ..web.serve import HttpServer
from ..web.token import kept_token, read_token
from .logline import JsonLine, OneLine
from .options import name_of
from .outlet import Outlet
from .records import QueuedHandler, QueuedStream

logger = logging.getLogger("p2p_sync")

EXAMPLE = "p2p-sync run 8000"


def run_node(context: click.Context, /, port: str | None, **options: Any) -> None:
    """Run a node until a signal ends it. `options` are those of the command `run`, by their Python
    names; raises StartError, InputError or UsageError if it cannot start."""
    outlet, signals, ignored = context.obj
    program = Program(**{field.name: options.pop(field.name) for field in fields(Program)})
    http_port = _port(context, port, program.peer_port)
    if program.ephemeral and program.data_dir:
        raise click.UsageError(
            f"{name_of(context, 'ephemeral')} keeps nothing on disk, so it does not go with "
            f"{name_of(context, 'data_dir')}; leave one out"
        )
    directory = None if program.ephemeral else program.data_dir or f"p2p-data/{http_port}"
    token_file = program.http_token_file
    token = read_token(Path(token_file)) if token_file else ""
    _log_to(outlet, program.log_level, program.log_format)
    if ignored:
        logger.warning(
            "ignoring %s: Kubernetes sets these variables for a service of that name "
            "(enableServiceLinks: false turns them off)",
            ", ".join(ignored),
        )
    _warn_of_hooks(context, options["hooks"])
    _raise_descriptors()
    secret = os.environ.get("P2P_SYNC_SECRET")
    node = Node(program.peer_port or http_port + 1, directory, secret=secret, **options)
    http = HttpServer(program.http_host, http_port, directory)
    reasons: list[str] = []

    def end(reason: str) -> None:
        reasons.append(reason)
        http.end()

    # A signal lets commits end that are under way, also while the node starts.
    started = threading.Event()
    signals.run(end, partial(_reload, node, started), HANG_UP)
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    try:
        node.start()
        started.set()
        guard = Guard(
            http_port,
            token or kept_token(directory),
            is_loopback(program.http_host),
            # A host name that was given to listen on is accepted, too.
            frozenset([*program.http_names, program.http_host.lower()]),
        )
        _log_pages(guard, program)
        _log_peers(node, options["host"], options["advertise"])
        app = create_app(node, lambda: outlet.dropped)
        quick = partial(begin, node, guard)
        http.run(guarded(app, guard), guard.room, quick, guard.has_token)
        logger.info("stopping%s", "".join(f" ({reason})" for reason in reasons[:1]))
    finally:
        signals.ignore()
        node.stop()
        http.stop()


def _log_to(outlet: Outlet, level: str, form: str) -> None:
    """Send the log, and all else that is written to standard error, to `outlet`."""
    lines = OneLine("%(asctime)s %(levelname)s %(message)s")
    handler = QueuedHandler(outlet, JsonLine() if form == "json" else lines)
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    logging.captureWarnings(True)
    threading.excepthook = _log_failed_thread
    sys.stderr = QueuedStream(handler)


def _warn_of_hooks(context: click.Context, hooks: Sequence[str]) -> None:
    """Log that others can read what may be secret. A password was refused."""
    by_argument = name_of(context, "hooks") == "--hook"
    for url in [url for url in map(parse_url, hooks) if by_argument and url.query]:
        logger.warning(
            "every user of this machine can read the query of --hook %s among the arguments of "
            "this process; if it is secret, set P2P_SYNC_HOOK instead",
            url,
        )


def _log_failed_thread(failed: threading.ExceptHookArgs) -> None:
    if failed.exc_value and not isinstance(failed.exc_value, SystemExit):
        name = failed.thread.name if failed.thread else "?"
        logger.error("the thread %s failed", name, exc_info=failed.exc_value)


def _raise_descriptors() -> None:
    """Allow this process more open files and connections, as far as it is permitted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):  # macOS allows less than the hard limit says
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _port(context: click.Context, given: str | None, peer_port: int | None) -> int:
    """Return PORT as a number; a usage error names it and the way out."""
    if given is None:
        raise click.UsageError(
            f"missing PORT (1 to 65534), for example: {EXAMPLE}; for other commands see "
            "p2p-sync --help"
        )
    name = name_of(context, "port")
    port = int(given) if given.isascii() and given.isdigit() and len(given) < 6 else 0
    if port == 65535 and not peer_port:
        raise click.UsageError(f"{name} 65535 leaves no port above it for peers: {EXAMPLE}")
    if not 1 <= port <= 65535:
        raise click.UsageError(
            f"{name} is a number from 1 to 65534, not {given!r}: {EXAMPLE}; "
            "or a command such as status; see p2p-sync --help"
        )
    if peer_port == port:
        other = name_of(context, "peer_port")
        raise click.UsageError(f"{name} and {other} are both {port}; they must differ")
    return port


def _log_pages(guard: Guard, program: Program) -> None:
    """Log where the page is, ready to click, with the token where one is needed."""
    host, names, token_file = program.http_host, program.http_names, program.http_token_file
    open_here = not guard.needs_token(host.lower())
    if open_here:
        logger.info("the page is at %s", _page(host, guard.port))
    here = {"": "127.0.0.1", "*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    for name in names or ([] if open_here else [here]):
        page = _page(name, guard.port)
        if token_file:
            logger.info("the page is at %s?token=, with the token in %s", page, token_file)
        else:
            logger.info("the page is at %s?token=%s", page, quote(guard.token, safe=""))
    if not (guard.local or names):
        logger.info("from other machines use this one's IP address, or set --http-name")


def _page(host: str, port: int) -> str:
    return f"{Address(host, port)}/".replace("ws://", "http://")


def _reload(node: Node, started: threading.Event) -> None:
    """Read secrets and certificates again, once the node has started."""
    started.wait()
    try:
        node.reload()
        logger.info("reloaded secrets and certificates")
    except (StartError, InputError) as error:
        logger.error("reload failed, keeping the old settings: %s", error)


def _log_peers(node: Node, host: str, advertise: str | None) -> None:
    """Log the address for peers, ready to paste, and which machines can reach it."""
    logger.info("listening for peers on %s; add this address on another node", node.address)
    if node.certificate_names and not advertise:
        names = ", ".join(node.certificate_names)
        logger.info("the certificate is for %s; set --advertise to a name it covers", names)
    if is_loopback(host):
        logger.info(
            "only this machine reaches it; use --host 0.0.0.0 and --secret-file to accept others"
        )
    for warning in node.warnings:
        logger.warning("%s", warning)
