"""The commands about copies of all messages in files."""

from __future__ import annotations

import itertools
import json
import shlex
import sys
from pathlib import Path
from typing import BinaryIO

import click

from ..core.verdict import numbered
from ..errors import InputError
from ..settings import CLI_ANSWER, CLI_PROBLEMS, MAX_KEYS
from ..wire.export import HIDDEN, Checker, Problem
from .api import Api, Failure
from .command import command, node_command
from .exits import DONE, FAILED, NO, NOT_ALLOWED, REFUSED, UNREACHABLE, USAGE
from .files import Bulk, batches, mark_of, opened, progress, replaced
from .logline import printable
from .options import DIRECTORY, FILE, number, option
from .printing import left_out, report, say

_MORE = (
    f"a node remembers the last {MAX_KEYS:,} lines: if this import is interrupted from here on, "
    "run it again with the --after that it says, or the first lines are committed twice"
)


@node_command()
def export(api: Api, as_json: bool) -> None:
    """Print all messages with their signatures.

    The output is NDJSON, in the order that is the same on all nodes.
    """
    count, hidden, damaged = _copy(api, sys.stdout.buffer)
    sys.stdout.flush()
    report({"exported": count, "hidden": hidden}, as_json, sys.stderr)
    if damaged:
        raise Failure(FAILED, left_out(damaged))


@node_command(click.argument("file", type=FILE))
def backup(api: Api, file: str, as_json: bool) -> None:
    """Save all messages, with their signatures, in FILE.

    `restore`, `verify` and `import` read it. The node goes on meanwhile. FILE appears, or is
    replaced, once it is whole and on disk. Others may not read it, unless they may read the
    file that it replaces. It is compressed if its name ends in .gz.
    """
    with replaced(file) as target:
        count, hidden, damaged = _copy(api, target)
        if damaged:
            raise Failure(FAILED, f"nothing is saved: {left_out(damaged)}")
    report({"saved": count, "hidden": hidden}, as_json, sys.stdout)


def _copy(api: Api, target: BinaryIO) -> tuple[int, int, int]:
    """Write an export to `target`; return how many messages it has that nodes show, how many they
    do not show, and how many damaged entries were left out. Raises Failure if it ends early."""
    total = api.ask("/api/v1/status", within=CLI_ANSWER)["messages"]["count"]
    count = hidden = damaged = 0
    line = b""
    with api.stream("/api/v1/messages/export") as source:
        for _, lines in progress(batches(source), total, lambda part: len(part[1])):
            for line in lines:
                if line.startswith(b'{"damaged"'):
                    damaged += json.loads(line)["damaged"]
                else:
                    target.write(line + b"\n")
                    is_hidden = HIDDEN in line
                    hidden += is_hidden
                    count += not is_hidden
    if not line.startswith(b'{"exported"'):
        raise Failure(UNREACHABLE, "the node has ended the export early; see its log")
    return count - 1, hidden, damaged


@node_command(
    click.argument("file", type=FILE),
    option(
        "--after",
        metavar="N",
        type=number(0, None),
        default=0,
        help="Go on after the first N lines, as an import that was interrupted says.",
    ),
)
def import_(api: Api, file: str, after: int, as_json: bool) -> None:
    """Commit each line of FILE as a new message.

    FILE is NDJSON: an export, or a JSON text in each line; - is standard input. If it is
    interrupted, run it again: lines whose `id` is already in the log, and the last million that
    this node has imported within its --keep-keys (24h), are skipped. Of more lines, go on --after
    those that are done. Messages keep the time and the node that they had.
    """
    mark = mark_of(file)
    done = {"imported": 0, "skipped": 0}
    path, name = "/api/v1/messages?skip=held", "FILE" if file == "-" else shlex.quote(file)
    expected = (
        "; import reads NDJSON: an export, a backup, or lines that are each a JSON text or an "
        f'object {{"data": "text"}}; for lines of plain text use: p2p-sync commit < {name}'
    )
    sent = after  # lines that the node has taken
    end = 0
    try:
        with opened(file, expected) as parts, Bulk(api, path, file, expected=expected) as bulk:
            for before, lines in parts:
                end = before + len(lines)
                first = max(before, after)  # the first N lines were sent in whole parts
                if first >= end:
                    continue
                if sent <= MAX_KEYS < end:
                    _warn(_MORE)
                key = f"{mark}-{first}" if mark else ""
                answer = bulk.send(range(first + 1, end + 1), lines[first - before :], key)
                done["imported"] += answer["count"] - answer["repeated"]
                done["skipped"] += answer["skipped"] + answer["repeated"]
                sent = end
    except BaseException as error:
        if sent > MAX_KEYS:
            _warn(f"to go on: p2p-sync import {name} --after {sent}")
        elif mark and getattr(error, "code", None) not in (USAGE, REFUSED, NOT_ALLOWED):
            _warn("to go on, run the same command again: it skips what is stored")
        raise
    if after > end:
        lines_are = f"{numbered(end, 'line')}, and --after {after:,} is beyond them"
        raise Failure(USAGE, f"nothing is imported: {file} has only {lines_are}")
    report(done, as_json, sys.stdout)


def _warn(text: str) -> None:
    print(f"p2p-sync: {text}", file=sys.stderr, flush=True)


@command(click.argument("file", type=FILE))
def verify(file: str, as_json: bool) -> int:
    """Check a backup without a node.

    FILE may be an export, too; - is standard input. All is right, and the exit code 0, if each
    origin's messages are there from the first on, unchanged, and signed by its node.
    """
    checker = Checker()
    found: list[Problem] = []
    count = 0
    with opened(file) as parts:
        lines = (checker.line(line) for _, part in parts for line in part)
        for problem in itertools.chain(filter(None, lines), checker.end()):
            count += 1
            if count <= CLI_PROBLEMS:
                found.append(problem)
    if found and not checker.messages:
        found, count = found[:1], 1  # it says that this is no backup
    shown = checker.messages - checker.hidden
    totals = {"messages": shown, "origins": checker.origins, "signatures": checker.signatures}
    if as_json:
        problems = [problem._asdict() for problem in found]
        more = {"hidden": checker.hidden, "deleted": checker.deleted}
        say(json.dumps({**totals, **more, "wrong": count, "problems": problems}))
    else:
        for problem in found:
            line = f"line {problem.line}" if problem.line else "end"
            say(": ".join(filter(None, (line, printable(problem.id), printable(problem.text)))))
        if count > len(found):
            say(f"... and {numbered(count - len(found), 'more problem')}")
        said = ", ".join(numbered(n, name.removesuffix("s")) for name, n in totals.items())
        said += f"; {checker.hidden:,} hidden" if checker.hidden else ""
        if checker.deleted:
            said += f"; {numbered(checker.deleted, 'older message')} deleted before"
        say(f"{said}: {numbered(count, 'problem') if count else 'all is right'}")
    return NO if count else DONE


@command(
    click.argument("file", type=FILE),
    option(
        "--data-dir",
        metavar="DIR",
        required=True,
        type=DIRECTORY,
        help="The data directory to make.",
    ),
)
def restore(file: str, data_dir: str, as_json: bool) -> None:
    """Make the data directory of a new node from a backup.

    FILE may be an export, too; - is standard input. Each hash and signature is checked. The
    node that is started with DIR is a new one, holds these messages, and gets the rest from its
    peers.
    """
    from ..disk.restore import restore  # other commands start faster without it

    with opened(file) as parts:
        try:
            checker = restore(Path(data_dir), (lines for _, lines in parts))
        except InputError as error:
            raise Failure(USAGE, f"cannot restore {file}: {error}") from None
        except OSError as error:
            raise Failure(USAGE, f"cannot make {data_dir} ({error.strerror or error})") from None
    hidden = checker.hidden
    report({"restored": checker.messages - hidden, "hidden": hidden}, as_json, sys.stdout)
