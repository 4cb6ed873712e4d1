"""The program `p2p-sync`: the table of its commands, and its help."""

from __future__ import annotations

from typing import Any

import click

from ..version import __version__
from . import names_command
from .backups import backup, export, import_, restore, verify
from .command import Command
from .consume import consume
from .consumers import consumers
from .exits import MEANINGS
from .messages import commit, erase, log
from .options import node_options, refuse_empty, variable
from .peers import add, forget, peers, retry
from .status import acknowledge, status
from .top import top


@click.command(cls=Command, params=node_options())
@click.argument("port", metavar="PORT", required=False, envvar=variable("port"))
@click.pass_context
def run(context: click.Context, /, **options: Any) -> None:
    """Run a node: HTTP on PORT, peers on PORT+1.

    PORT may come from P2P_SYNC_PORT, and the secret of the network from P2P_SYNC_SECRET. Several
    peers or names in a variable are separated by spaces. The node runs until SIGINT or SIGTERM.
    """
    from .run import run_node  # other commands start faster without it

    refuse_empty(variable("secret"))
    run_node(context, **options)


SECTIONS = {
    "Run a node": (run,),
    "Talk to a running node": (
        status, top, peers, add, retry, forget, commit, log, erase, consume, consumers,
        acknowledge,
    ),
    "Copies of the messages": (export, backup, verify, restore, import_),
}  # fmt: skip
"""The only table of the commands, in the order of the help."""


class _Program(click.Group):
    """The commands; a PORT instead of one runs a node."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # A shell that completes the first word has no arguments yet.
        if not names_command(args) and not (ctx.resilient_parsing and not args):
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands and not ctx.resilient_parsing:
            ctx.fail(
                f"{args[0]!r} is neither a command nor a port; see p2p-sync --help, or run a node "
                "with a port such as 8000"
            )
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                # The first sentence, never cut.
                rows = [(f"{each.name}", each.get_short_help_str(1000)) for each in commands]
                formatter.write_dl(rows)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Exit codes"):
            formatter.write_dl([(f"{code}", text) for code, text in sorted(MEANINGS.items())])


@click.group(
    cls=_Program,
    commands=[each for commands in SECTIONS.values() for each in commands],
    subcommand_metavar="COMMAND [ARGS]...",
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def program() -> None:
    """Keep the same list of messages on every machine.

    p2p-sync 8000 is short for p2p-sync run 8000. p2p-sync COMMAND --help shows the options of a
    command; each is also an environment variable.
    """
