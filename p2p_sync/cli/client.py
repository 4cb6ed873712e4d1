"""The commands that talk to a running node, over its public API alone."""

from __future__ import annotations

import functools
import json
import os
import secrets
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote

import click

from ..core.verdict import numbered
from ..settings import (
    CLI_ANSWER,
    CLI_CHUNK,
    CLI_LEAST_ANSWER,
    CLI_MAX_LINE,
    CLI_PAGE,
    CLI_POLL,
    CLI_STORING,
)
from ..web.token import read_token
from .api import Api, Failure, TooLate
from .exits import FAILED, NO, UNREACHABLE, USAGE
from .logline import printable

T = TypeVar("T")
Command = Callable[..., int | None]


_HEAD = ["ADDRESS", "ID", "LINK", "STATE", "DELAY", "SENT", "RECEIVED", "BEHIND", "VERSION"]
_COLOURS = {
    "in_sync": "green",
    "connected": "green",
    "alone": "red",
    "refused": "red",
    "damaged": "red",
}


@click.group()
def commands() -> None:
    """Talk to a running node."""


def _command(*parameters: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Make a command of a function that takes the node's API, and what `parameters` say."""

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
                    UNREACHABLE, f"what {node} answers is not understood; is it of another version?"
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


def _wait(meaning: str) -> Callable[[Any], Any]:
    return click.option(
        "--wait",
        metavar="S",
        type=click.FloatRange(0),
        default=2.0,
        show_default=True,
        help=meaning,
    )


@_command(_wait("Wait up to this many seconds for it to be in sync."))
def status(api: Api, wait: float, as_json: bool) -> int:
    """Show whether the node is in sync. Exits 0 only if it is, or if it knows no other node."""

    def in_sync(told: Any) -> bool:
        state, peers = told["verdict"]["state"], told["verdict"]["peers"]
        good = state == "in_sync" or (state == "alone" and not peers)
        return bool(good and not told["damaged"])

    told = _until(lambda left: api.ask("/api/v1/status", within=left), in_sync, wait)
    text, state = told["verdict"]["text"], told["verdict"]["state"]
    _say(json.dumps(told) if as_json else _paint(printable(text), state))
    if not as_json:
        for peer in told["verdict"]["unreachable"]:
            print(f"  {_missing(peer)}", file=sys.stderr)
        for warning in told["warnings"]:
            print(f"Warning: {printable(warning)}.", file=sys.stderr)
    return 0 if in_sync(told) else NO


def _missing(peer: dict[str, Any]) -> str:
    """Say which peer is unreachable, since when and why."""
    reason = f": {printable(peer['reason'])}" if peer["reason"] else ""
    return f"{printable(peer['name'])} is unreachable since {_moment(peer['since'])}{reason}"


def _moment(ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ms / 1000))


@_command()
def peers(api: Api, as_json: bool) -> None:
    """List the peers and, for those that are unreachable, why."""
    told = api.ask("/api/v1/peers", within=CLI_ANSWER)
    if as_json:
        _say(json.dumps(told))
        return
    rows = [_HEAD, *map(_row, told["peers"])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row, peer in zip(rows, [None, *told["peers"]], strict=True):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        if peer:
            cells[3] = _paint(cells[3], peer["state"])
        _say("  ".join(cells).rstrip())
        if peer and peer["notice"]:
            _say(f"  {printable(peer['notice'])}")
        if peer and peer["state"] != "connected" and peer["last_error"]:
            _say(f"  {_trouble(peer)}")


def _row(peer: dict[str, Any]) -> list[str]:
    rtt = peer["rtt_ms"]
    cells = [
        peer["address"] or "-",
        (peer["id"] or "-")[:8],
        peer["direction"] or "-",
        peer["state"],
        "-" if rtt is None else f"{rtt:.1f} ms",
        f"{peer['sent']['messages']:,}",
        f"{peer['received']['messages']:,}",
        ("?" if peer["state"] == "connected" else "-")
        if peer["behind"] is None
        else f"{peer['behind']:,}",
        peer["version"] or "-",
    ]
    return [printable(cell) for cell in cells]


def _trouble(peer: dict[str, Any]) -> str:
    """Say why there is no link with `peer`, and when it is tried again."""
    again = peer["next_try_s"]
    tries = f"; tried {peer['attempts']} times" if peer["attempts"] > 1 else ""
    later = "" if again is None else f"; the next try is in {again:.0f} s"
    return f"{printable(peer['last_error'])}{tries}{later}"


@_command(click.argument("address"), _wait("Wait up to this many seconds for the connection."))
def add(api: Api, address: str, wait: float, as_json: bool) -> int:
    """Connect the node to ADDRESS and remember it. Exits 0 once they are connected."""
    begin = time.monotonic()
    told = api.ask("/api/v1/peers", {"address": address}, max(wait, CLI_LEAST_ANSWER))
    name = told["address"]

    def entry(left: float) -> Any:
        found = api.ask("/api/v1/peers", within=left)["peers"]
        return next((peer for peer in found if name in peer["addresses"]), None)

    def settled(peer: Any) -> bool:
        return bool(peer and (peer["state"] in ("connected", "self") or peer["attempts"]))

    peer = _until(entry, settled, wait - (time.monotonic() - begin))
    linked = bool(peer) and peer["state"] == "connected"
    if as_json:
        _say(json.dumps(peer))
    elif linked:
        whom = (peer["id"] or "")[:8] or "an original node"
        _say(f"Linked with {printable(peer['address'])} ({printable(whom)})")
    elif peer and peer["last_error"]:
        _say(f"Kept, not linked yet: {_trouble(peer)}")
    else:
        _say("Kept, not linked yet: it is being dialled")
    return 0 if linked else NO


@_command(
    click.argument("text", required=False),
    click.option("--copies", metavar="K", type=click.IntRange(0, 1000), default=0,
                 help="Wait until K other nodes hold it."),
    click.option("--timeout", metavar="S", type=click.FloatRange(0, 60), default=5.0,
                 show_default=True, help="Seconds to wait for copies."),
)  # fmt: skip
def commit(api: Api, text: str | None, copies: int, timeout: float, as_json: bool) -> int:
    """Commit TEXT, or each line of the standard input that is not empty."""
    path = f"/api/v1/messages?copies={copies}&timeout={timeout:g}"
    reached = copies
    if text == "":
        raise Failure(USAGE, "the message is empty; give it a text")
    if text is not None:
        try:
            told = api.ask(path, {"data": text}, timeout + CLI_STORING)
        except TooLate as error:
            raise Failure(
                error.code, f"{error}; look whether the message is there before you try again"
            ) from None
        reached = told["copies"]
        what = told["id"]
    else:
        told = {"count": 0, "copies": None}
        with _Bulk(api, path, "the standard input", timeout + CLI_STORING) as bulk:
            for before, lines in _batches(sys.stdin.buffer):
                numbers = [n for n, line in enumerate(lines, before + 1) if line.strip()]
                texts = [_decoded(lines[n - before - 1]) for n in numbers]
                answer = bulk.send(numbers, [json.dumps(text).encode() for text in texts])
                told["count"] += answer["count"]
                if answer["count"]:
                    told["copies"] = answer.get("copies", 0)
                    reached = min(reached, told["copies"])
        what = numbered(told["count"], "message")
    held = f", held by {numbered(reached, 'other node')}" if copies else ""
    if reached < copies:
        held = f", but only {reached} of {copies} copies were confirmed within {timeout:g} s"
    _say(json.dumps(told) if as_json else f"Committed {what}{held}")
    return NO if reached < copies else 0


@_command(click.option("-f", "--follow", is_flag=True, help="Keep printing new messages."))
def log(api: Api, follow: bool, as_json: bool) -> None:
    """Print all messages. With -f, print in order of arrival and keep following."""
    messages = api.lines("/api/v1/messages/follow?after=0") if follow else _messages(api)
    for message in messages:
        if "damaged" in message:
            print(_left_out(message["damaged"]), file=sys.stderr)
            continue
        if as_json:
            _say(json.dumps(message))
            continue
        _say(f"{_moment(message['time'])}  {message['origin'][:8]}  {_shown(message)}")
    if follow:
        raise Failure(UNREACHABLE, "the node has stopped")


@_command(click.argument("file"))
def export(api: Api, file: str, as_json: bool) -> None:
    """Write all messages to FILE, as NDJSON in the shared order; - is the standard output."""
    count = damaged = 0
    with _replaced(file) as target:
        total = api.ask("/api/v1/status", within=CLI_ANSWER)["messages"]["count"]
        for message in _progress(_messages(api), total):
            if "damaged" in message:
                damaged += message["damaged"]
                continue
            target.write(json.dumps(message, ensure_ascii=False).encode() + b"\n")
            count += 1
        target.flush()
    _report({"exported": count}, as_json, beside=file == "-")
    if damaged:
        raise Failure(FAILED, _left_out(damaged))


@_command(click.argument("file"))
def import_(api: Api, file: str, as_json: bool) -> None:
    """Commit the text of each line of FILE (NDJSON; - is the standard input) as a new message.

    Lines whose `id` the node holds already are skipped.
    """
    done = {"imported": 0, "skipped": 0}
    with _source(file) as source:
        size = os.fstat(source.fileno()).st_size
        batches = _progress(_batches(source), size, lambda b: sum(map(len, b[1])) + len(b[1]))
        with _Bulk(api, "/api/v1/messages?skip=held", file) as bulk:
            for before, lines in batches:
                answer = bulk.send(range(before + 1, before + len(lines) + 1), lines)
                done["imported"] += answer["count"]
                done["skipped"] += answer["skipped"]
    _report(done, as_json)


# -- shared ---------------------------------------------------------------------------------------


class _Bulk:
    """Sends many messages, some at a time. A context manager: where it ends early, by whatever it
    is, the error says how many messages are stored."""

    def __init__(self, api: Api, path: str, source: str, within: float | None = None) -> None:
        """`source` is the name of what the lines come from, `within` bounds each request."""
        self._api = api
        self._path = path
        self._source = source
        self._within = within
        self._stored = 0
        self._last = ""
        self._unsure = ""

    def send(self, numbers: Sequence[int], lines: Sequence[bytes]) -> dict[str, Any]:
        """Send lines of NDJSON, whose `numbers` in the source are given; return the answer.

        Raises Failure.
        """
        if numbers:
            self._unsure = f"; lines {numbers[0]} to {numbers[-1]} may be stored, too"
        try:
            answer = self._api.ask(self._path, b"\n".join([*lines, b""]), self._within)
        except Failure as error:
            problem = error.problem
            if "stored" not in problem:  # the node did not say
                raise
            self._note(problem["stored"], problem["last"])
            reason = printable(str(problem.get("reason", error)))
            if "line" in problem:
                reason = f"line {numbers[problem['line'] - 1]} of {self._source}: {reason}"
            raise Failure(error.code, reason) from None
        self._note(answer["count"], answer["last"])
        return dict(answer)

    def _note(self, stored: int, last: str | None) -> None:
        self._stored += stored
        self._last = last or self._last
        self._unsure = ""

    def __enter__(self) -> _Bulk:
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        verb = "is" if self._stored == 1 else "are"
        extent = f"{numbered(self._stored, 'message')} {verb} stored"
        extent += f", up to {printable(self._last)}" if self._last else ""
        if isinstance(error, OSError):
            reason = f"{self._source} cannot be read ({error.strerror or error})"
            raise Failure(USAGE, f"{reason}; {extent}{self._unsure}") from None
        if isinstance(error, Failure):
            raise Failure(error.code, f"{error}; {extent}{self._unsure}") from None
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            print(f"p2p-sync: interrupted; {extent}{self._unsure}", file=sys.stderr)


def _messages(api: Api) -> Iterator[dict[str, Any]]:
    """Yield all messages in the shared order, and {"damaged": count} for what was left out."""
    after = ""
    while True:
        page = api.ask(f"/api/v1/messages?order=time&limit={CLI_PAGE}&after={quote(after)}")
        yield from page["messages"]
        if "damaged" in page:
            yield {"damaged": page["damaged"]}
        after = page["next"]
        if len(page["messages"]) < CLI_PAGE:
            return


def _shown(message: dict[str, Any]) -> str:
    return printable(message["data"]) or "(empty)"


def _left_out(damaged: int) -> str:
    entries = "1 entry is" if damaged == 1 else f"{damaged:,} entries are"
    return f"{entries} damaged on the disk of this node, and left out; its status says which"


def _until(ask: Callable[[float], T], good: Callable[[T], bool], wait: float) -> T:
    """Ask until the answer is good, `wait` seconds at most; return the last one.

    `ask` gets the seconds that it may take; the first answer has a second even if `wait` is less.
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


def _batches(file: Any) -> Iterator[tuple[int, list[bytes]]]:
    """Yield the lines of a file, as many as are there at a time, and how many were before."""
    rest = b""
    count = 0
    while chunk := file.read1(CLI_CHUNK):
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > CLI_MAX_LINE:
            raise Failure(USAGE, f"line {count + len(lines) + 1} is longer than any message can be")
        if lines:
            yield count, lines
        count += len(lines)
    if rest:
        yield count, [rest]


def _decoded(line: bytes) -> str:
    try:
        return line.removesuffix(b"\r").decode("utf-8")
    except UnicodeDecodeError:
        raise Failure(USAGE, "a line of the standard input is not UTF-8") from None


def _source(name: str) -> Any:
    """Open a file to read, or lend the standard input; raises Failure."""
    if name == "-":
        return nullcontext(sys.stdin.buffer)
    try:
        return Path(name).open("rb")
    except OSError as error:
        raise _unusable(name, error) from None


@contextmanager
def _replaced(name: str) -> Iterator[BinaryIO]:
    """Lend a file to write, which gets its `name` once it is whole and on disk; a file of that name
    stays as it is until then, and if anything goes wrong.

    The standard output, devices and pipes are written as they are. Raises Failure where it cannot
    be opened.
    """
    if name == "-":
        yield sys.stdout.buffer
        return
    path = Path(name).resolve()  # a link goes on leading to the file
    part = path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}.part")
    try:
        device = path.exists() and not path.is_file()
        file = path.open("wb") if device else part.open("xb")
    except OSError as error:
        raise _unusable(name, error) from None
    if device:
        with file:
            yield file
        return
    try:
        with file:
            if path.exists():
                os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # the name, too
    finally:
        os.close(directory)


def _unusable(name: str, error: OSError) -> Failure:
    return Failure(USAGE, f"{name} cannot be opened ({error.strerror})")


def _progress(
    items: Iterable[T], length: int, size: Callable[[T], int] = lambda _: 1
) -> Iterator[T]:
    """Yield `items` with a bar on the terminal, if the errors go to one; `size` of each adds up."""
    with ExitStack() as stack:
        bar: Any = None
        if sys.stderr.isatty() and length:
            bar = stack.enter_context(click.progressbar(length=length, file=sys.stderr))
        for item in items:
            yield item
            if bar:
                bar.update(size(item))


def _report(done: dict[str, int], as_json: bool, beside: bool = False) -> None:
    """Tell what was done, `beside` the standard output where that is the file."""
    text = ", ".join(f"{count:,} {what}" for what, count in done.items())
    print(json.dumps(done) if as_json else text, file=sys.stderr if beside else sys.stdout)


def _say(text: str) -> None:
    """Print a line at once, for the reader of a pipe, in whatever encoding the output has."""
    alphabet = sys.stdout.encoding or "utf-8"
    print(text.encode(alphabet, "backslashreplace").decode(alphabet), flush=True)


def _paint(text: str, state: str) -> str:
    plain = not sys.stdout.isatty() or os.environ.get("NO_COLOR")
    return text if plain else click.style(text, fg=_COLOURS.get(state, "yellow"))
