"""The command that runs a node: options and signals."""

from __future__ import annotations

import gc
import logging
import os
import resource
import signal
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from ..address import Address, is_loopback, parse_address
from ..config import MAX_DESCRIPTORS, MAX_MESSAGE_BYTES, Settings
from ..errors import InputError, StartError
from ..logline import JsonLine, OneLine
from ..node import Node
from ..version import __version__
from ..web.app import create_app
from ..web.guard import Guard, guarded
from ..web.plain import begin
from ..web.serve import HttpServer
from ..web.token import kept_token, read_token

logger = logging.getLogger("p2p_sync")

_DEFAULT = Settings()
# New objects, in balance, after which the collector of cycles looks at them.
_GC_THRESHOLD = 50_000
EXAMPLE = "python run_node.py 8000"


@click.command(context_settings={"auto_envvar_prefix": "P2P_SYNC", "show_default": True})
@click.argument("port", metavar="PORT")
@click.option("--host", default=_DEFAULT.host, help="Interface of the peer port.")
@click.option("--http-host", default="127.0.0.1", help="Interface of the HTTP port.")
@click.option(
    "--http-name",
    "http_names",
    multiple=True,
    metavar="NAME",
    show_default="localhost, IP addresses",
    envvar="P2P_SYNC_HTTP_NAME",
    help="Name by which browsers may call the HTTP port; may stand several times.",
)
@click.option(
    "--http-token-file",
    metavar="FILE",
    show_default="http-token in DIR",
    help="Holds the token that others than this machine have to bring to the HTTP port.",
)
@click.option(
    "--secret-file",
    metavar="FILE",
    show_default="none",
    help="Holds the secret of the network; nodes without it are not let in.",
)
@click.option(
    "--tls-cert", metavar="FILE", show_default="none", help="Certificate (PEM) of the peer port."
)
@click.option("--tls-key", metavar="FILE", show_default="in --tls-cert", help="Its key (PEM).")
@click.option(
    "--tls-ca",
    metavar="FILE",
    show_default="the system's",
    help="A further authority (PEM) that peers' certificates may be from.",
)
@click.option("--peer-port", type=int, show_default="PORT+1", help="Where peers are accepted.")
@click.option(
    "--peer",
    "peers",
    multiple=True,
    metavar="ADDRESS",
    show_default="none",
    envvar="P2P_SYNC_PEER",
    help="Node to link with; may stand several times.",
)
@click.option(
    "--advertise",
    metavar="ADDRESS",
    show_default="as peers see it",
    help="Address that peers are told; 'none' if this node cannot be dialled.",
)
@click.option(
    "--data-dir", metavar="DIR", show_default="./p2p-data/PORT", help="What outlives a restart."
)
@click.option("--ephemeral", is_flag=True, help="Keep nothing on disk.")
@click.option(
    "--target-links",
    type=click.IntRange(0),
    default=_DEFAULT.target_links,
    help="Learned addresses are dialled while there are fewer links.",
)
@click.option(
    "--max-peers",
    type=click.IntRange(1),
    default=_DEFAULT.max_peers,
    help="Accepted links at a time.",
)
@click.option(
    "--max-peers-per-host",
    type=click.IntRange(1),
    default=_DEFAULT.max_peers_per_host,
    help="Accepted links of one remote host.",
)
@click.option(
    "--max-message-bytes",
    type=click.IntRange(1, MAX_MESSAGE_BYTES),
    default=_DEFAULT.max_message_bytes,
    help="Longest message, in UTF-8.",
)
@click.option(
    "--log-level",
    default="info",
    type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
    help="What is logged, on standard error.",
)
@click.option(
    "--log-format",
    default="text",
    type=click.Choice(["text", "json"], case_sensitive=False),
    help="Lines for people, or JSON objects.",
)
@click.version_option(__version__)
def run_node(
    port: str,
    http_host: str,
    http_names: Sequence[str],
    http_token_file: str | None,
    data_dir: str | None,
    ephemeral: bool,
    log_level: str,
    log_format: str,
    **options: Any,
) -> None:
    """Run a node: HTTP on PORT, peers on PORT+1.

    In the place of PORT: status, peers, add, commit, log, export and import ask a running node;
    `p2p-sync status --help` tells more.

    Every option is also an environment variable: P2P_SYNC_HOST for --host and so on; several
    peers or names are separated by spaces.
    """
    http_port = _port(port, options.get("peer_port"))
    peer_port = options.pop("peer_port") or http_port + 1
    if ephemeral and data_dir:
        raise click.UsageError("--ephemeral keeps nothing, so --data-dir has no use; give one")
    directory = None if ephemeral else data_dir or f"p2p-data/{http_port}"
    names = [_name(name) for name in http_names]
    token = read_token(Path(http_token_file)) if http_token_file else ""
    handler = logging.StreamHandler()
    text = OneLine("%(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(JsonLine() if log_format == "json" else text)
    logging.basicConfig(level=log_level.upper(), handlers=[handler])
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    # By the environment alone: the arguments of a process can be read by all on its machine.
    _raise_descriptors()
    node = Node(peer_port, directory, secret=os.environ.get("P2P_SYNC_SECRET"), **options)
    http = HttpServer(http_host, http_port, directory)
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background job ignores SIGINT
        signal.signal(number, signal.default_int_handler)
    signal.signal(signal.SIGHUP, lambda *_: _reload(node))
    # Messages in bulk are many small objects that hold no cycles; looking for those at Python's
    # usual pace takes a fifth of the time.
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD)
    try:
        with suppress(KeyboardInterrupt):
            node.start()
            guard = Guard(
                http_port,
                token or kept_token(directory),
                is_loopback(http_host),
                # An interface that was given by name may be called so.
                frozenset([*names, http_host.lower()]),
            )
            _log_pages(guard, http_host, names, http_token_file)
            _log_peers(node, options["host"], options["advertise"])
            # What is being committed when a signal comes is not to be cut off in the middle.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: http.end())
            http.run(
                guarded(create_app(node), guard),
                guard.room,
                partial(begin, node, guard),
                guard.has_token,
            )
        logger.info("stopping")
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        node.stop()
        http.stop()


def _raise_descriptors() -> None:
    """Allow this process more open files and connections, as far as it may do so by itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):  # macOS allows less than the hard limit says
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _port(text: str, peer_port: int | None) -> int:
    """Return PORT as a number; a usage error names it and the way out."""
    if not text.isascii() or not text.isdigit():
        raise click.UsageError(
            f"PORT is a number from 1 to 65534, not {text!r}: {EXAMPLE}; "
            "or a command such as status, see --help"
        )
    port = int(text)
    if port == 65535 and not peer_port:
        raise click.UsageError(f"PORT 65535 leaves no port above it for peers: {EXAMPLE}")
    if not 1 <= port <= 65535:
        raise click.UsageError(f"PORT is a number from 1 to 65534, not {port}: {EXAMPLE}")
    if peer_port is not None and not 1 <= peer_port <= 65535:
        raise click.UsageError(f"--peer-port is a number from 1 to 65535, not {peer_port}")
    if peer_port == port:
        raise click.UsageError(f"PORT and --peer-port are both {port}; they must differ")
    return port


def _name(text: str) -> str:
    """Return a host name in its one form; a usage error shows a right one."""
    try:
        return parse_address(f"{text}:1").host
    except InputError:
        raise click.UsageError(
            f"--http-name is a host name alone, such as node.example.org, not {text!r}"
        ) from None


def _log_pages(guard: Guard, host: str, names: Sequence[str], token_file: str | None) -> None:
    """Say where the page is, ready to click, with the token where one is needed."""
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
        logger.info("other machines reach it by an IP address of this one, or see --http-name")


def _page(host: str, port: int) -> str:
    return f"{Address(host, port)}/".replace("ws://", "http://")


def _reload(node: Node) -> None:
    """Read secrets and certificates again, in a thread of its own: a signal may come anywhere."""

    def read() -> None:
        try:
            node.reload()
            logger.info("secrets and certificates were read again")
        except (StartError, InputError) as error:
            logger.error("all stays as it was: %s", error)

    threading.Thread(target=read, name="reload", daemon=True).start()


def _log_peers(node: Node, host: str, advertise: str | None) -> None:
    """Say where peers are accepted, ready to paste, and who can reach that."""
    logger.info("peers are accepted at %s; give that address to another node", node.address)
    if node.certificate_names and not advertise:
        names = ", ".join(node.certificate_names)
        logger.info("its certificate is for %s; tell peers such a name by --advertise", names)
    if is_loopback(host):
        logger.info("only this machine reaches it; --host 0.0.0.0 opens the peer port to others")
