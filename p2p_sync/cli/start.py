"""Runs the command that the command line asks for, and reports errors in one line."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

import click

from ..errors import InputError, StartError
from ..settings import LOG_LAST_LINES
from .api import Failure
from .client import commands
from .exits import BROKEN, DONE, INTERRUPTED, PIPE_CLOSED, USAGE
from .options import drop_service_links, variable_of
from .outlet import Outlet
from .signals import CommandSignals, NodeSignals


def start(given: list[str], signals: CommandSignals | NodeSignals) -> int:
    """Run the command in `given`; return the exit code, after one line on standard error if it
    failed."""
    if isinstance(signals, CommandSignals):
        return _command(given, signals)
    return _node(given, signals)


def _command(given: list[str], signals: CommandSignals) -> int:
    try:
        signals.run()
        # Not `commands.main`, which ends in its own way when the reader of a pipe is gone.
        with commands.make_context("p2p-sync", given) as context:
            return int(commands.invoke(context) or 0)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        if given[0] in commands.commands:
            return _fail(_with_help(error, f"p2p-sync {given[0]}"))
        return _fail(
            f"{given[0]!r} is neither a command nor a port; see p2p-sync --help, or run a node "
            "with a port such as 8000"
        )
    except Failure as error:
        return _fail(str(error), error.code)
    except (InputError, StartError) as error:
        return _fail(str(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except OSError as error:  # of a file or a stream of the user
        return _fail(f"a file or stream failed: {error.strerror or error}")
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED


def _node(given: list[str], signals: NodeSignals) -> int:
    outlet = Outlet()
    ignored = drop_service_links(os.environ)
    try:
        from .run import EXAMPLE, run_node

        run_node.main(
            given, prog_name="p2p-sync", standalone_mode=False, obj=(outlet, signals, ignored)
        )
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.MissingParameter:
        outlet.put(f"p2p-sync: missing PORT (1 to 65534), for example: {EXAMPLE}")
        return USAGE
    except click.ClickException as error:
        outlet.put(f"p2p-sync: {_line(_with_help(error, 'p2p-sync'))}")
        return USAGE
    except (InputError, StartError) as error:
        outlet.put(f"p2p-sync: {_line(str(error))}")
        return USAGE
    except Exception as error:
        outlet.put(f"p2p-sync: this node failed: {_line(f'{type(error).__name__}: {error}')}")
        return BROKEN
    finally:
        outlet.drain(LOG_LAST_LINES)
    return DONE


def _with_help(error: click.ClickException, command: str) -> str:
    """Return the sentence of an error in the command line, and how to get help about `command`."""
    sentence = _sentence(error).rstrip(".")
    if "--help" in sentence:
        return sentence
    return f"{sentence}{' See' if sentence.endswith('?') else '; see'} {command} --help"


def _sentence(error: click.ClickException) -> str:
    """Return the sentence of an error, with the environment variable that the value came from."""
    variable = ""
    if isinstance(error, click.BadParameter) and error.ctx and error.param:
        variable = variable_of(error.ctx, error.param)
    if variable:
        return f"{variable}={os.environ[variable]}: {error.message}"
    return error.format_message()


def _fail(text: str, code: int = USAGE) -> int:
    with suppress(OSError):  # standard error is closed
        print(f"p2p-sync: {_line(text)}", file=sys.stderr)
    return code


def _line(text: str) -> str:
    return " ".join(text.split())
