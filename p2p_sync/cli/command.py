"""What all commands have in common: options with environment variables, and a node to talk to."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..errors import InputError, StartError
from ..web.token import read_token
from .api import Api, Failure
from .exits import UNREACHABLE, USAGE
from .options import FILE, option, seconds, variable, with_variables

Function = Callable[..., int | None]
Parameter = Callable[[Any], Any]
"""What `click.option` and `click.argument` return."""


class Command(click.Command):
    """A command whose errors name the environment variables that values came from."""

    no_option = ""
    """What to say besides of an option that it does not have."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            if isinstance(error, click.NoSuchOption) and not error.possibilities:
                text = error.message.rstrip(".") + self.no_option
                raise click.NoSuchOption(error.option_name, text, ctx=error.ctx) from None
            raise

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Failure as error:
            text = with_variables(ctx, str(error))
            raise Failure(error.code, text, error.problem) from None
        except (InputError, StartError) as error:
            raise Failure(USAGE, with_variables(ctx, str(error))) from None


def command(*parameters: Parameter) -> Callable[[Function], click.Command]:
    """Make a command of a function, which takes the values of `parameters` and whether to print
    JSON, as `as_json`, and returns the exit code, None for 0."""

    def decorate(function: Function) -> click.Command:
        as_json = option("--json", "as_json", is_flag=True, help="Print JSON.")
        for parameter in (as_json, *reversed(parameters)):
            function = parameter(function)
        made: Command = click.command(function.__name__.strip("_"), cls=Command)(function)
        for each in made.params:
            if isinstance(each, click.Argument):
                name = each.human_readable_name
                made.no_option = f"; if it belongs to {name}, write -- before {name}"
        return made

    return decorate


def node_command(*parameters: Parameter) -> Callable[[Function], click.Command]:
    """Make a command of a function that takes the API of a running node besides."""

    def decorate(function: Function) -> click.Command:
        @functools.wraps(function)
        def run(node: str | None, token_file: str | None, **given: Any) -> int | None:
            if token_file is not None and not token_file.strip():
                raise Failure(USAGE, "--token-file is empty; name a file, or leave it out")
            token = read_token(Path(token_file)) if token_file else ""
            node = _page_here() if node is None else node
            try:
                return function(Api(node, token), **given)
            except (KeyError, TypeError, AttributeError):
                raise Failure(
                    UNREACHABLE, f"cannot understand the answer of {node}; is its version the same?"
                ) from None

        return command(
            *parameters,
            option(
                "--node",
                metavar="URL",
                help="The node's page; without it, http://127.0.0.1 with the port in "
                "P2P_SYNC_PORT, as for the node, or 8000.",
            ),
            option(
                "--token-file",
                metavar="FILE",
                type=FILE,
                help="File with the node's access token.",
            ),
        )(run)

    return decorate


def _page_here() -> str:
    """Return the URL of the node that the same environment would run on this machine."""
    port = os.environ.get(variable("port"), "").strip() or "8000"
    if not (port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= 65535):
        raise Failure(
            USAGE,
            f"{variable('port')} is a number from 1 to 65534, not {port!r}; or give --node",
        )
    return f"http://127.0.0.1:{port}"


def seconds_option(name: str, default: float, help: str, most: float | None = None) -> Parameter:
    """Return an option that is a number of seconds, up to `most`."""
    return option(name, metavar="S", type=seconds(0, most), default=default, help=help)
