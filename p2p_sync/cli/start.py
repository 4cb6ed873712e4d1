"""Runs the command that the command line asks for, and reports errors in one line."""

from __future__ import annotations

import os
import sys

import click
from click.shell_completion import shell_complete

from ..settings import LOG_LAST_LINES, call
from .api import Failure
from .exits import BROKEN, DONE, INTERRUPTED, PIPE_CLOSED, USAGE
from .options import drop_service_links, option_names, value_of, variable_of
from .outlet import Outlet
from .program import program
from .signals import CommandSignals, NodeSignals

NAME = "p2p-sync"

_COMPLETE = "_P2P_SYNC_COMPLETE"
"""The variable by which a shell asks for completions."""


def start(given: list[str], signals: CommandSignals | NodeSignals) -> int:
    """Run the command in `given`; return the exit code, after one line on standard error if it
    failed."""
    call(option_names())  # in errors, and in all else that this process says
    outlet = Outlet()
    ignored = drop_service_links(os.environ)
    is_node = isinstance(signals, NodeSignals)
    try:
        if instruction := os.environ.get(_COMPLETE):
            return shell_complete(program, {}, NAME, _COMPLETE, instruction)
        if isinstance(signals, CommandSignals):
            signals.run()
        # Not `program.main`, which ends in its own way when the reader of a pipe is gone.
        with program.make_context(NAME, given, obj=(outlet, signals, ignored)) as context:
            return int(program.invoke(context) or DONE)
    except click.exceptions.Exit as error:
        return error.exit_code
    except (Exception, KeyboardInterrupt) as error:
        code, text = _outcome(error, is_node)
        if text:
            outlet.put(f"{NAME}: {' '.join(text.split())}")
        return code
    finally:
        outlet.drain(LOG_LAST_LINES)


def _outcome(error: BaseException, is_node: bool) -> tuple[int, str]:
    """Return the exit code of a command that `error` has ended, and what to say, if anything."""
    if isinstance(error, click.ClickException):
        return USAGE, _with_help(error)
    if isinstance(error, Failure):
        return error.code, str(error)
    if isinstance(error, (click.Abort, KeyboardInterrupt)):
        return INTERRUPTED, ""
    if isinstance(error, BrokenPipeError) and not is_node:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED, ""
    if isinstance(error, OSError) and not is_node:  # of a file or a stream of the user
        return USAGE, f"a file or stream failed: {error.strerror or error}"
    what = "this node" if is_node else "this command"
    return BROKEN, f"{what} failed: {type(error).__name__}: {error}"


def _with_help(error: click.ClickException) -> str:
    """Return the sentence of an error in the command line, and how to get help."""
    sentence = _sentence(error).rstrip(".")
    if "--help" in sentence:
        return sentence
    context = getattr(error, "ctx", None)
    command = context.command_path if context else NAME
    return f"{sentence}{' See' if sentence.endswith('?') else '; see'} {command} --help"


def _sentence(error: click.ClickException) -> str:
    """Return the sentence of an error, with the environment variable that the value came from."""
    context, parameter = error.ctx if isinstance(error, click.UsageError) else None, None
    if isinstance(error, click.BadParameter):
        parameter = error.param
    if context and parameter and (variable := variable_of(context, parameter)):
        return f"{value_of(parameter, variable)}: {error.message}"
    return error.format_message()
