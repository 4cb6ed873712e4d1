"""The command line: options, signals and exit codes. The one door to click."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Sequence
from typing import Any

import click

from .address import Address, is_loopback, reachable
from .config import MAX_MESSAGE_BYTES, Settings
from .errors import InputError, StartError
from .node import Node
from .version import __version__
from .web.app import create_app
from .web.serve import HttpServer

logger = logging.getLogger("p2p_sync")

_DEFAULT = Settings()
_EXAMPLE = "python run_node.py 8000"


@click.command(context_settings={"auto_envvar_prefix": "P2P_SYNC", "show_default": True})
@click.argument("port", metavar="PORT")
@click.option("--host", default=_DEFAULT.host, help="Interface of the peer port.")
@click.option("--http-host", default="127.0.0.1", help="Interface of the HTTP port.")
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
@click.version_option(__version__)
def run_node(
    port: str, http_host: str, data_dir: str | None, ephemeral: bool, log_level: str, **options: Any
) -> None:
    """Run a node: HTTP on PORT, peers on PORT+1.

    Every option is also an environment variable: P2P_SYNC_HOST for --host and so on; several
    peers are separated by spaces.
    """
    http_port = _port(port, options.get("peer_port"))
    peer_port = options.pop("peer_port") or http_port + 1
    if ephemeral and data_dir:
        raise click.UsageError("--ephemeral keeps nothing, so --data-dir has no use; give one")
    directory = None if ephemeral else data_dir or f"p2p-data/{http_port}"
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    node = Node(peer_port, directory, **options)
    http = HttpServer(http_host, http_port)
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background job ignores SIGINT
        signal.signal(number, signal.default_int_handler)
    try:
        node.start()
        _log_addresses(node, http_host, http_port, options["host"])
        http.run(create_app(node))
    except KeyboardInterrupt:
        logger.info("stopping")
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        node.stop()
        http.stop()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code: 0, or 2 with one line on stderr."""
    try:
        run_node.main(arguments, prog_name="p2p-sync", standalone_mode=False)
    except click.MissingParameter:
        print(f"p2p-sync: PORT is missing, a number from 1 to 65534: {_EXAMPLE}", file=sys.stderr)
        return 2
    except (click.ClickException, InputError, StartError) as error:
        text = error.format_message() if isinstance(error, click.ClickException) else str(error)
        print(f"p2p-sync: {' '.join(text.split())}", file=sys.stderr)
        return 2
    except (click.Abort, KeyboardInterrupt):
        return 0
    return 0


def _port(text: str, peer_port: int | None) -> int:
    """Return PORT as a number; a usage error names it and the way out."""
    if not text.isascii() or not text.isdigit():
        raise click.UsageError(f"PORT is a number from 1 to 65534, not {text!r}: {_EXAMPLE}")
    port = int(text)
    if port == 65535 and not peer_port:
        raise click.UsageError(f"PORT 65535 leaves no port above it for peers: {_EXAMPLE}")
    if not 1 <= port <= 65535:
        raise click.UsageError(f"PORT is a number from 1 to 65534, not {port}: {_EXAMPLE}")
    if peer_port is not None and not 1 <= peer_port <= 65535:
        raise click.UsageError(f"--peer-port is a number from 1 to 65535, not {peer_port}")
    if peer_port == port:
        raise click.UsageError(f"PORT and --peer-port are both {port}; they must differ")
    return port


def _log_addresses(node: Node, http_host: str, http_port: int, host: str) -> None:
    """Say where the node is, ready to click and to paste, and who can reach it."""
    page = str(Address(reachable(http_host), http_port)).replace("ws://", "http://")
    logger.info("the page is at %s/", page)
    logger.info("peers are accepted at %s; give that address to another node", node.address)
    if is_loopback(host):
        logger.info("only this machine reaches it; --host 0.0.0.0 opens the peer port to others")
