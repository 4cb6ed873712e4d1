"""The commands that talk to a running node, over its public API alone. The group `commands` is
their only table."""

from __future__ import annotations

import functools
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote

import click

from ..core.verdict import numbered
from ..errors import InputError
from ..names import label
from ..settings import (
    API_DEFAULT_TIMEOUT,
    API_MAX_COPIES,
    API_MAX_TIMEOUT,
    CLI_ANSWER,
    CLI_LEAST_ANSWER,
    CLI_NAMES,
    CLI_PAGE,
    CLI_POLL,
    CLI_PROBLEMS,
    CLI_STORING,
    NEVER,
    SHORT_ID,
)
from ..web.token import read_token
from ..wire.export import HIDDEN, Checker, Problem
from ..wire.frames import check_topic
from .api import Api, Failure, TooLate
from .exits import DONE, FAILED, NO, UNREACHABLE, USAGE
from .files import Bulk, batches, opened, progress, replaced
from .logline import printable
from .options import number

T = TypeVar("T")
Command = Callable[..., int | None]

_HEAD = ["NAME", "ADDRESS", "ID", "LINK", "STATE", "DELAY", "SENT", "RECEIVED", "BEHIND", "VERSION"]
_COLOURS = {"in_sync": "green", "connected": "green"} | dict.fromkeys(
    ("alone", "refused", "damaged"), "red"
)


@click.group()
def commands() -> None:
    """Talk to a running node."""


def _command(*parameters: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Make a command of a function that takes the node's API, and the values of `parameters`."""

    def decorate(function: Command) -> Command:
        @functools.wraps(function)
        def run(node: str, token_file: str | None, **given: Any) -> int | None:
            if token_file is not None and not token_file.strip():
                raise Failure(USAGE, "--token-file is empty; name a file, or leave it out")
            token = read_token(Path(token_file)) if token_file else ""
            try:
                return function(Api(node, token), **given)
            except (KeyError, TypeError, AttributeError):
                raise Failure(
                    UNREACHABLE, f"cannot understand the answer of {node}; is its version the same?"
                ) from None

        common = (
            click.option(
                "--node",
                metavar="URL",
                default="http://127.0.0.1:8000",
                show_default=True,
                envvar="P2P_SYNC_NODE",
                help="The node's page.",
            ),
            click.option("--token-file", metavar="FILE", help="File with the node's access token."),
            click.option("--json", "as_json", is_flag=True, help="Print JSON."),
        )
        for parameter in (*reversed(common), *reversed(parameters)):
            parameter(run)
        return commands.command(function.__name__.strip("_"))(run)

    return decorate


def _seconds(option: str, default: float, most: float | None, help: str) -> Callable[[Any], Any]:
    kind = click.FloatRange(0, most)
    kind.name = "number"  # in the error about a text that is none
    return click.option(
        option, metavar="S", type=kind, default=default, show_default=True, help=help
    )


@_command(_seconds("--wait", 2, None, "Wait up to this many seconds for it to be in sync."))
def status(api: Api, wait: float, as_json: bool) -> int:
    """Show whether the node is in sync. Exits 0 only if it is, or if it knows no other node."""

    def in_sync(answer: Any) -> bool:
        state, peers = answer["verdict"]["state"], answer["verdict"]["peers"]
        good = state == "in_sync" or (state == "alone" and not peers)
        return bool(good and not answer["damaged"])

    answer = _until(lambda left: api.ask("/api/v1/status", within=left), in_sync, wait)
    verdict = answer["verdict"]
    _say(json.dumps(answer) if as_json else _paint(printable(verdict["text"]), verdict["state"]))
    if not as_json:
        for peer in verdict["unreachable"]:
            reason = f": {printable(peer['reason'])}" if peer["reason"] else ""
            where = f" at {peer['address']}" if peer["address"] not in (None, peer["name"]) else ""
            since = f"is unreachable since {_moment(peer['since'])}{reason}"
            print(f"  {printable(peer['name'] + where)} {since}", file=sys.stderr)
        if since := answer["messages"]["complete_since"]:
            print(
                f"  older messages were deleted; complete since {_moment(since)}", file=sys.stderr
            )
        if missed := answer["missed"]:
            said = f"{numbered(missed, 'message')} missed since the start"
            print(f"  {said}: the connected peers had deleted them", file=sys.stderr)
        for warning in answer["warnings"]:
            print(f"Warning: {printable(warning)}.", file=sys.stderr)
    return DONE if in_sync(answer) else NO


def _topic(context: click.Context, parameter: click.Parameter, value: str) -> str:
    try:
        check_topic(value)
    except InputError as error:
        raise click.BadParameter(str(error), context, parameter) from None
    return value


def _topic_option(help: str) -> Callable[[Any], Any]:
    return click.option("--topic", metavar="TOPIC", default="", callback=_topic, help=help)


@_command()
def peers(api: Api, as_json: bool) -> None:
    """List the peers and, for those that are unreachable, why."""
    answer = api.ask("/api/v1/peers", within=CLI_ANSWER)
    if as_json:
        _say(json.dumps(answer))
        return
    rows = [_HEAD, *map(_row, answer["peers"])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row, peer in zip(rows, [None, *answer["peers"]], strict=True):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        if peer:
            cells[4] = _paint(cells[4], peer["state"])
        _say("  ".join(cells).rstrip())
        if peer and peer["notice"]:
            _say(f"  {printable(peer['notice'])}")
        if peer and peer["state"] != "connected" and peer["last_error"]:
            _say(f"  {_trouble(peer)}")


def _row(peer: dict[str, Any]) -> list[str]:
    rtt, behind = peer["rtt_ms"], peer["behind"]
    unknown = "?" if peer["state"] == "connected" else "-"
    cells = [
        peer["name"] or "-",
        peer["address"] or "-",
        (peer["id"] or "-")[:SHORT_ID],
        peer["direction"] or "-",
        peer["state"],
        "-" if rtt is None else f"{rtt:.1f} ms",
        f"{peer['sent']['messages']:,}",
        f"{peer['received']['messages']:,}",
        unknown if behind is None else f"{behind:,}",
        peer["version"] or "-",
    ]
    return [printable(cell) for cell in cells]


def _trouble(peer: dict[str, Any]) -> str:
    """Say why `peer` is not connected, and when the node tries again."""
    again = peer["next_try_s"]
    tries = f"; tried {peer['attempts']} times" if peer["attempts"] > 1 else ""
    later = "" if again is None else f"; the next try is in {again:.0f} s"
    return f"{printable(peer['last_error'])}{tries}{later}"


@_command(
    click.argument("address"),
    _seconds("--wait", 2, None, "Wait up to this many seconds for the connection."),
)
def add(api: Api, address: str, wait: float, as_json: bool) -> int:
    """Connect the node to ADDRESS and remember it. Exits 0 once they are connected."""
    begin = time.monotonic()
    answer = api.ask("/api/v1/peers", {"address": address}, max(wait, CLI_LEAST_ANSWER))
    name = answer["address"]

    def entry(left: float) -> Any:
        found = api.ask("/api/v1/peers", within=left)["peers"]
        return next((peer for peer in found if name in peer["addresses"]), None)

    def settled(peer: Any) -> bool:
        return bool(peer and (peer["state"] in ("connected", "self") or peer["attempts"]))

    peer = _until(entry, settled, wait - (time.monotonic() - begin))
    connected = bool(peer) and peer["state"] == "connected"
    if as_json:
        _say(json.dumps(peer))
    elif connected:
        other = label(peer["id"], peer["name"] or "") if peer["id"] else "an original node"
        _say(f"Connected to {printable(peer['address'])} ({printable(other)})")
    else:
        trouble = _trouble(peer) if peer and peer["last_error"] else "the node is dialling it"
        _say(f"Saved. Not connected yet: {trouble}")
    return DONE if connected else NO


@_command(
    click.argument("text", required=False),
    click.option("--copies", metavar="K", type=number(0, API_MAX_COPIES), default=0,
                 help="Wait until nodes on K other hosts have it."),
    _seconds("--timeout", API_DEFAULT_TIMEOUT, API_MAX_TIMEOUT, "Seconds to wait for copies."),
    _topic_option("A short text beside the message, by which readers choose."),
)  # fmt: skip
def commit(
    api: Api, text: str | None, copies: int, timeout: float, topic: str, as_json: bool
) -> int:
    """Send TEXT, or each non-empty line of standard input, as a message."""
    path = f"/api/v1/messages?copies={copies}&timeout={timeout:g}&topic={quote(topic)}"
    if text == "":
        raise Failure(USAGE, "the message is empty; give it a text")
    answer, reached, what = (
        _commit_lines(api, path, copies, timeout)
        if text is None
        else _commit_text(api, path, text, timeout)
    )
    held = f", stored on {numbered(reached, 'other host')}" if copies else ""
    if reached < copies:
        held = f", but only {reached} of {copies} copies were confirmed within {timeout:g} s"
    _say(json.dumps(answer) if as_json else f"Committed {what}{held}")
    return NO if reached < copies else DONE


def _commit_text(api: Api, path: str, text: str, timeout: float) -> tuple[Any, int, str]:
    """Return the answer, the copies and the id."""
    try:
        answer = api.ask(path, {"data": text}, timeout + CLI_STORING)
    except TooLate as error:
        raise Failure(
            error.code, f"{error}; check whether the message is there before you try again"
        ) from None
    return answer, answer["copies"], answer["id"]


def _commit_lines(api: Api, path: str, copies: int, timeout: float) -> tuple[Any, int, str]:
    """Return what to print as JSON, the copies, and the number of messages."""
    done: dict[str, Any] = {"count": 0, "copies": None}
    reached = copies
    source: Any = sys.stdin.buffer
    with Bulk(api, path, "standard input", timeout + CLI_STORING) as bulk:
        for before, lines in batches(source.read1):
            numbers = [n for n, line in enumerate(lines, before + 1) if line.strip()]
            texts = [_decoded(lines[n - before - 1]) for n in numbers]
            answer = bulk.send(numbers, [json.dumps(text).encode() for text in texts])
            done["count"] += answer["count"]
            if answer["count"]:
                done["copies"] = answer.get("copies", 0)
                reached = min(reached, done["copies"])
    return done, reached, numbered(done["count"], "message")


def _decoded(line: bytes) -> str:
    try:
        return line.removesuffix(b"\r").decode("utf-8")
    except UnicodeDecodeError:
        raise Failure(USAGE, "a line of standard input is not UTF-8") from None


@_command()
def acknowledge(api: Api, as_json: bool) -> None:
    """End the warnings of forks that are known now.

    A fork is a node that has signed two different histories. The messages of both stay.
    """
    api.ask("/api/v1/forks/acknowledge", method="POST")
    _say(json.dumps({"acknowledged": True}) if as_json else "Acknowledged")


@_command(click.argument("id"))
def erase(api: Api, id: str, as_json: bool) -> None:
    """Erase the message with that ID on all nodes.

    `log --json` shows the ids. Place, id and time of the message remain. Original nodes, and
    backups made before, keep the text.
    """
    if ":" not in id:
        raise click.UsageError(f"an id is ORIGIN:NUMBER, as log --json shows it, not {id!r}")
    path = f"/api/v1/messages/{quote(id, safe='')}"
    answer = api.ask(path, within=CLI_STORING, method="DELETE")
    by = answer["erased"]["node"] or "?"
    _say(json.dumps(answer) if as_json else f"Erased {answer['id']} (by node {by[:SHORT_ID]})")


@_command(
    click.option("-f", "--follow", is_flag=True, help="Keep printing new messages."),
    _topic_option("Print only the messages of this topic."),
)
def log(api: Api, follow: bool, topic: str, as_json: bool) -> None:
    """Print all messages. With -f, print in order of arrival and keep following."""
    messages = (
        api.lines(f"/api/v1/messages/follow?after=0&topic={quote(topic)}")
        if follow
        else _messages(api, topic)
    )
    names = _Names(api)
    for message in messages:
        if "damaged" in message:
            print(_left_out(message["damaged"]), file=sys.stderr)
        if "missed" in message:
            missed = numbered(message["missed"], "message")
            print(f"{missed} deleted before they were read", file=sys.stderr)
        if "data" not in message:
            continue
        if as_json:
            _say(json.dumps(message))
        else:
            text = printable(message["data"] or "") or "(empty)"
            if message["data"] is None:
                text = _erased(message)
            text = f"[{printable(message['topic'])}] {text}" if "topic" in message else text
            node = names.columns(message["origin"])
            _say(f"{_moment(message['time'])}  {node}  {text}")
    if follow:
        raise Failure(UNREACHABLE, "the node has stopped")


@_command()
def export(api: Api, as_json: bool) -> None:
    """Print all messages with their signatures.

    The output is NDJSON, in the order that is the same on all nodes.
    """
    count, hidden, damaged = _copy(api, sys.stdout.buffer)
    sys.stdout.flush()
    _report({"exported": count, "hidden": hidden}, as_json, sys.stderr)
    if damaged:
        raise Failure(FAILED, _left_out(damaged))


@_command(click.argument("file"))
def backup(api: Api, file: str, as_json: bool) -> None:
    """Save all messages, with their signatures, in FILE.

    `restore`, `verify` and `import` read it. The node goes on meanwhile. FILE appears, or is
    replaced, once it is whole and on disk. Others may not read it, unless they may read the
    file that it replaces. It is compressed if its name ends in .gz.
    """
    with replaced(file) as target:
        count, hidden, damaged = _copy(api, target)
        if damaged:
            raise Failure(FAILED, f"nothing is saved: {_left_out(damaged)}")
    _report({"saved": count, "hidden": hidden}, as_json, sys.stdout)


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


@_command(click.argument("file"))
def import_(api: Api, file: str, as_json: bool) -> None:
    """Commit each line of FILE as a new message.

    FILE is NDJSON: an export, or a JSON text in each line; - is standard input. Lines whose
    `id` is already in the log are skipped.
    """
    done = {"imported": 0, "skipped": 0}
    with opened(file) as parts, Bulk(api, "/api/v1/messages?skip=held", file) as bulk:
        for before, lines in parts:
            answer = bulk.send(range(before + 1, before + len(lines) + 1), lines)
            done["imported"] += answer["count"]
            done["skipped"] += answer["skipped"]
    _report(done, as_json, sys.stdout)


class _Names:
    """What a node knows of the names of nodes, as columns."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._names: dict[str, str] = {}  # printable, by id
        self._ask_at = -NEVER
        self._width = 1

    def columns(self, origin: str) -> str:
        """Return the shortened id and the name of the node of an origin."""
        node = origin.partition("-")[0]
        if node not in self._names and time.monotonic() >= self._ask_at:
            self._ask_at = time.monotonic() + CLI_NAMES
            nodes = self._api.ask("/api/v1/peers", within=CLI_ANSWER)["peers"]
            nodes.append(self._api.ask("/api/v1/status", within=CLI_ANSWER)["node"])
            self._names = {n["id"]: printable(n["name"]) for n in nodes if n["id"] and n["name"]}
            self._width = max(map(len, self._names.values()), default=1)
        return f"{node[:SHORT_ID]}  {self._names.get(node, '-'):{self._width}}"


@commands.command()
@click.argument("file")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
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
        _say(json.dumps({**totals, **more, "wrong": count, "problems": problems}))
    else:
        for problem in found:
            line = f"line {problem.line}" if problem.line else "end"
            _say(": ".join(filter(None, (line, printable(problem.id), printable(problem.text)))))
        if count > len(found):
            _say(f"... and {numbered(count - len(found), 'more problem')}")
        said = ", ".join(numbered(n, name.removesuffix("s")) for name, n in totals.items())
        said += f"; {checker.hidden:,} hidden" if checker.hidden else ""
        if checker.deleted:
            said += f"; {numbered(checker.deleted, 'older message')} deleted before"
        _say(f"{said}: {numbered(count, 'problem') if count else 'all is right'}")
    return NO if count else DONE


@commands.command()
@click.argument("file")
@click.option(
    "--data-dir",
    metavar="DIR",
    required=True,
    envvar="P2P_SYNC_DATA_DIR",
    help="The data directory to make.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
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
    hidden = checker.hidden
    _report({"restored": checker.messages - hidden, "hidden": hidden}, as_json, sys.stdout)


# -- shared ---------------------------------------------------------------------------------------


def _messages(api: Api, topic: str) -> Iterator[dict[str, Any]]:
    """Yield all messages, or those of a topic, in the shared order, and {"damaged": count} for
    entries left out."""
    after = ""
    path = f"/api/v1/messages?order=time&limit={CLI_PAGE}&topic={quote(topic)}"
    while True:
        page = api.ask(f"{path}&after={quote(after)}")
        yield from page["messages"]
        if "damaged" in page:
            yield {"damaged": page["damaged"]}
        after = page["next"]
        if len(page["messages"]) < CLI_PAGE:
            return


def _erased(message: dict[str, Any]) -> str:
    """Say which message was erased, when, and by which node."""
    name, erased = printable(message["id"]), message["erased"]
    if erased["time"] is None:
        return f"(erased: {name})"
    return f"(erased {_moment(erased['time'])} by node {erased['node'][:SHORT_ID]}: {name})"


def _left_out(damaged: int) -> str:
    entries = "1 entry is" if damaged == 1 else f"{damaged:,} entries are"
    return f"{entries} damaged on the disk of this node, and left out; its status says which"


def _until(ask: Callable[[float], T], good: Callable[[T], bool], wait: float) -> T:
    """Ask until the answer is good, for `wait` seconds at most; return the last answer.

    `ask` gets the seconds that it may take; the first may take a second even if `wait` is less.
    """
    deadline = time.monotonic() + wait
    answer = ask(max(wait, CLI_LEAST_ANSWER))
    while not good(answer) and (left := deadline - time.monotonic()) > 0:
        time.sleep(min(CLI_POLL, left))
        try:
            answer = ask(max(deadline - time.monotonic(), CLI_POLL))
        except TooLate:
            break  # the answer before it is the last one
    return answer


def _moment(ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ms / 1000))


def _report(done: dict[str, int], as_json: bool, file: Any) -> None:
    """Print how many messages were treated; nothing of `hidden` ones if there are none."""
    text = ", ".join(f"{n:,} {what}" for what, n in done.items() if n or what != "hidden")
    print(json.dumps(done) if as_json else text, file=file)


def _say(text: str) -> None:
    """Print a line at once, for the reader of a pipe, in the encoding of the output."""
    alphabet = sys.stdout.encoding or "utf-8"
    print(text.encode(alphabet, "backslashreplace").decode(alphabet), flush=True)


def _paint(text: str, state: str) -> str:
    plain = not sys.stdout.isatty() or os.environ.get("NO_COLOR")
    return text if plain else click.style(text, fg=_COLOURS.get(state, "yellow"))
