"""The commands about messages: committing, reading and erasing them."""

from __future__ import annotations

import json
import secrets
import shlex
import string
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import quote

import click

from ..core.verdict import numbered
from ..errors import InputError
from ..names import told
from ..settings import (
    API_DEFAULT_TIMEOUT,
    API_MAX_COPIES,
    API_MAX_TIMEOUT,
    CLI_ANSWER,
    CLI_MAX_KEY,
    CLI_NAMES,
    CLI_PAGE,
    CLI_STORING,
    LEAST_NODE,
    NEVER,
    SHORT_ID,
)
from ..wire.frames import check_topic
from .api import Api, Failure, TooLate
from .command import Parameter, node_command, seconds_option
from .exits import DONE, NO, UNREACHABLE, USAGE
from .files import Bulk, batches
from .logline import printable
from .options import checked, number, option, since
from .printing import left_out, moment, say


def topic_option(help: str) -> Parameter:
    """Return the option --topic, whose value can be a topic."""
    return option("--topic", metavar="TOPIC", default="", callback=_topic, help=help)


def _topic(context: click.Context, parameter: click.Parameter, value: str) -> str:
    try:
        check_topic(value)
    except InputError as error:
        raise click.BadParameter(str(error), context, parameter) from None
    return value


def _key(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is None or (value.isprintable() and value.isascii() and 0 < len(value) <= CLI_MAX_KEY):
        return value
    problem = f"a key has 1 to {CLI_MAX_KEY} printable ASCII characters"
    raise click.BadParameter(problem, context, parameter)


@node_command(
    click.argument("text", required=False),
    option("--copies", metavar="K", type=number(0, API_MAX_COPIES), default=0,
                 help="Wait until nodes on K other hosts have it."),
    seconds_option("--timeout", API_DEFAULT_TIMEOUT, "Seconds to wait for copies.",
                   API_MAX_TIMEOUT),
    topic_option("A short text beside the message, by which readers choose."),
    option("--key", metavar="KEY", callback=_key,
           help="Send it only once: the node knows this text for a day."),
)  # fmt: skip
def commit(
    api: Api, text: str | None, copies: int, timeout: float, topic: str, key: str | None,
    as_json: bool,
) -> int:  # fmt: skip
    """Send TEXT, or each non-empty line of standard input, as a message.

    Write -- before a TEXT that begins with -. With --key the command may be run again, for example
    if there was no answer.
    """
    path = f"/api/v1/messages?copies={copies}&timeout={timeout:g}&topic={quote(topic)}"
    if text == "":
        raise Failure(USAGE, "the message is empty; give it a text")
    answer, reached, what = (
        _commit_lines(api, path, copies, timeout, key)
        if text is None
        else _commit_text(api, path, text, timeout, key)
    )
    held = f", stored on {numbered(reached, 'other host')}" if copies else ""
    if reached < copies:
        held = f", but only {reached} of {copies} copies were confirmed within {timeout:g} s"
    say(json.dumps(answer) if as_json else f"Committed {what}{held}")
    return NO if reached < copies else DONE


def _commit_text(
    api: Api, path: str, text: str, timeout: float, key: str | None
) -> tuple[Any, int, str]:
    """Return the answer, the copies, and what was committed."""
    key = key or f"commit-{secrets.token_hex(8)}"
    try:
        answer = api.ask(path, {"data": text, "key": key}, timeout + CLI_STORING)
    except TooLate as error:
        raise Failure(
            error.code,
            f"{error}; to send it again, add --key {shlex.quote(key)}: then it is stored only once",
        ) from None
    answer.setdefault("repeated", False)
    before = "before as " if answer["repeated"] else ""
    return answer, answer["copies"], f"{before}{answer['id']}"


def _commit_lines(
    api: Api, path: str, copies: int, timeout: float, key: str | None
) -> tuple[Any, int, str]:
    """Return what to print as JSON, the copies, and what was committed."""
    done: dict[str, Any] = {"count": 0, "repeated": 0, "copies": None}
    reached = copies
    source: Any = sys.stdin.buffer
    with Bulk(api, path, "standard input", timeout + CLI_STORING) as bulk:
        for before, lines in batches(source.read1):
            numbers = [n for n, line in enumerate(lines, before + 1) if line.strip()]
            drafts: list[Any] = [_decoded(lines[n - before - 1]) for n in numbers]
            if key:
                drafts = [
                    {"data": text, "key": f"{key}:{n}"}
                    for n, text in zip(numbers, drafts, strict=True)
                ]
            answer = bulk.send(numbers, [json.dumps(draft).encode() for draft in drafts])
            done["count"] += answer["count"]
            done["repeated"] += answer["repeated"]
            if answer["count"]:
                done["copies"] = answer.get("copies", 0)
                reached = min(reached, done["copies"])
    again = f", {done['repeated']:,} of them before" if done["repeated"] else ""
    return done, reached, f"{numbered(done['count'], 'message')}{again}"


def _decoded(line: bytes) -> str:
    try:
        return line.removesuffix(b"\r").decode("utf-8")
    except UnicodeDecodeError:
        raise Failure(USAGE, "a line of standard input is not UTF-8") from None


@node_command(click.argument("id"))
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
    say(json.dumps(answer) if as_json else f"Erased {answer['id']} (by node {by[:SHORT_ID]})")


@node_command(
    option("-n", "--last", metavar="N", type=number(0, None), help="Print the last N messages."),
    option("-f", "--follow", is_flag=True, help="Keep printing new messages."),
    option("--since", metavar="TIME", callback=checked(since),
           help="Print only newer messages: 2h, 30d, 2026-11-01, or 2026-11-01T09:30."),
    option("--from", "sender", metavar="NODE", callback=checked(),
           help="Print only the messages of this node: its name, or the beginning of its id."),
    topic_option("Print only the messages of this topic."),
)  # fmt: skip
def log(
    api: Api, last: int | None, follow: bool, since: int | None, sender: str | None, topic: str,
    as_json: bool,
) -> None:  # fmt: skip
    """Print all messages. With -f, print in order of arrival and keep following."""
    names = Names(api)
    wanted = Wanted(topic, names.called(sender) if sender else "", since or 0)
    if follow:
        messages = _followed(api, wanted, last)
    elif last is not None:
        messages = iter(_latest(api, wanted, last))
    else:
        messages = _all(api, wanted)
    for message in messages:
        if "damaged" in message:
            print(left_out(message["damaged"]), file=sys.stderr)
        if "missed" in message:
            missed = numbered(message["missed"], "message")
            print(f"{missed} deleted before they were read", file=sys.stderr)
        if "data" not in message:
            continue
        if as_json:
            say(json.dumps(message))
        else:
            text = printable(message["data"] or "") or "(empty)"
            if message["data"] is None:
                text = _erasure(message)
            text = f"[{printable(message['topic'])}] {text}" if "topic" in message else text
            when, node = message["time"], message["origin"]
            if "imported" in message:
                by = node.partition("-")[0]
                when, node = message["imported"]["time"], message["imported"]["node"]
                text += f"  (imported by {names.of(by) or by[:SHORT_ID]})"
            say(f"{moment(when)}  {names.columns(node)}  {text}")
    if follow:
        raise Failure(UNREACHABLE, "the node has stopped")


class Wanted(NamedTuple):
    """Which messages `log` prints."""

    topic: str  # "": of any
    node: str  # the beginning of the id of their node; "": of any
    since: int  # ms since the epoch

    @property
    def query(self) -> str:
        """The parameters of a request for them."""
        return f"topic={quote(self.topic)}&node={self.node}&since={self.since}"


def _all(api: Api, wanted: Wanted) -> Iterator[dict[str, Any]]:
    """Yield messages in the shared order, and {"damaged": count} for entries left out."""
    for page in _pages(api, f"order=time&{wanted.query}"):
        yield from page["messages"]
        yield _left_out(page)


def _latest(api: Api, wanted: Wanted, count: int) -> list[dict[str, Any]]:
    """Return what `_all` yields, but only the last `count` messages."""
    found: list[dict[str, Any]] = []
    notes: list[dict[str, Any]] = []
    limit = max(1, min(count, CLI_PAGE))
    for page in _pages(api, f"order=newest&{wanted.query}", limit):
        found += page["messages"]
        notes.append(_left_out(page))
        if len(found) >= count:
            break
    return notes + found[:count][::-1]


def _followed(api: Api, wanted: Wanted, count: int | None) -> Iterator[dict[str, Any]]:
    """Yield messages as they arrive, after those that are there, or the last `count` of them."""
    after = "0"
    printed: dict[str, Any] = {}
    if count is not None:
        after = api.ask("/api/v1/messages?after=new")["next"]
        for message in _latest(api, wanted, count):
            printed[message.get("id", "")] = message  # it may have come after that place
            yield message
    for line in api.lines(f"/api/v1/messages/follow?after={after}&{wanted.query}"):
        message = {name: value for name, value in line.items() if name != "next"}
        if "data" not in message or printed.pop(message["id"], None) != message:
            yield line


def _pages(api: Api, query: str, limit: int = CLI_PAGE) -> Iterator[dict[str, Any]]:
    """Yield pages of messages up to the end."""
    path, after = f"/api/v1/messages?limit={limit}&{query}", ""
    while True:
        page = api.ask(f"{path}&after={quote(after)}")
        yield page
        after = page["next"]
        if page["complete"]:
            return


def _left_out(page: dict[str, Any]) -> dict[str, Any]:
    """Return what a page says of messages that are not in it."""
    return {name: page[name] for name in ("damaged", "missed") if name in page}


def _erasure(message: dict[str, Any]) -> str:
    """Say which message was erased, when, and by which node."""
    name, erased = printable(message["id"]), message["erased"]
    if erased["time"] is None:
        return f"(erased: {name})"
    return f"(erased {moment(erased['time'])} by node {erased['node'][:SHORT_ID]}: {name})"


class Names:
    """What a node knows of the names of nodes, as columns."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._names: dict[str, str] = {}  # printable, by id
        self._ask_at = -NEVER
        self._width = 1

    def called(self, text: str) -> str:
        """Return the id, or its beginning, of the node that a user calls `text`; raises Failure if
        there can be none, or more than one has that name."""
        found = {node for node, name in self._ask().items() if name == text}
        if len(found) > 1:
            ids = ", ".join(id[:SHORT_ID] for id in sorted(found))
            raise Failure(USAGE, f"{len(found)} nodes have the name {text!r}: {ids}; give the id")
        if found:
            return found.pop()
        if len(text) < LEAST_NODE or text.strip(string.hexdigits):
            raise Failure(
                USAGE,
                f"--from is the name of a known node, or at least {LEAST_NODE} digits of an id, "
                f"not {text!r}; p2p-sync peers lists them",
            )
        return text.lower()  # perhaps of a node that is not known any more

    def columns(self, origin: str) -> str:
        """Return the shortened id and the name of the node of an origin."""
        node = origin.partition("-")[0]
        name = self.of(node) or "-"
        return f"{node[:SHORT_ID]}  {name:{self._width}}"

    def of(self, node: str) -> str:
        """Return the name of a node; "" if it is not known."""
        if node not in self._names and time.monotonic() >= self._ask_at:
            self._ask_at = time.monotonic() + CLI_NAMES
            self._names = {node: printable(name) for node, name in self._ask().items()}
            self._width = max(map(len, self._names.values()), default=1)
        return self._names.get(node, "")

    def _ask(self) -> dict[str, str]:
        """Return the names that the node knows, by id: its own, those of its peers, and those of
        the nodes that these are connected with."""
        peers = self._api.ask("/api/v1/peers", within=CLI_ANSWER)["peers"]
        nodes = [*peers, self._api.ask("/api/v1/status", within=CLI_ANSWER)["node"]]
        own = {node["id"]: node["name"] for node in nodes if node["id"] and node["name"]}
        return told(peer["links"] for peer in peers) | own
