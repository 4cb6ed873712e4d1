"""The command line, the one door to click: `run` runs a node, `client` asks a running one."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from ..errors import InputError, StartError
from .api import USAGE, Failure
from .client import commands

# Interrupted by the user, or by a reader that has gone; as shells tell it.
_INTERRUPTED = 130
_PIPE_CLOSED = 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code, after one line on stderr if it is not done.

    The codes are in README.md.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    asks = bool(given) and given[0] in commands.commands
    try:
        if asks:
            # Without click's own way of ending when a reader has gone.
            with commands.make_context("p2p-sync", given) as context:
                return int(commands.invoke(context) or 0)
        from .run import run_node  # it loads the whole node

        run_node.main(given, prog_name="p2p-sync", standalone_mode=False)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.MissingParameter as error:
        text = error.format_message()
        if not asks:
            text = "PORT is missing, a number from 1 to 65534: python run_node.py 8000"
        return _fail(text)
    except click.ClickException as error:
        return _fail(error.format_message())
    except Failure as error:
        return _fail(str(error), error.code)
    except (InputError, StartError) as error:
        return _fail(str(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE_CLOSED
    except OSError as error:  # of a file or a stream of the user's
        if not asks:
            raise
        return _fail(f"a file or stream failed: {error.strerror or error}")
    except (click.Abort, KeyboardInterrupt):
        return _INTERRUPTED if asks else 0
    return 0


def _fail(text: str, code: int = USAGE) -> int:
    print(f"p2p-sync: {' '.join(text.split())}", file=sys.stderr)
    return code
