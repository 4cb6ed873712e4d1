"""The command `consume`: runs a program for each message of a consumer, one at a time."""

from __future__ import annotations

import json
import math
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from typing import IO, Any
from urllib.parse import quote

import click
from click.core import ParameterSource

from ..names import check_consumer
from ..settings import (
    CLI_AGAIN,
    CLI_ANSWER,
    CLI_LAST_LINE,
    CLI_TAIL,
    CLI_TAILS,
    CLI_TAKE,
    CONSUMER_ATTEMPTS,
    MAX_ACK_WAIT,
    MAX_ATTEMPTS,
)
from ..web.answers import PROBLEM
from .api import Api, Failure
from .command import node_command
from .exits import FAILED, UNREACHABLE, USAGE
from .logline import printable
from .messages import Names, topic_option
from .options import number, option, seconds
from .printing import say
from .signals import CommandSignals

_OPTIONS = ("topic", "own", "max_attempts", "ack_wait", "shared")


@node_command(
    click.argument("name"),
    click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED),
    option("--start", type=click.Choice(["first", "new"]), default="first",
           help="Where a new consumer begins: at the first message, or behind the last one."),
    topic_option("Only messages of this topic."),
    option("--own/--no-own", help="Only messages that were committed at this node."),
    option("--max-attempts", metavar="N", type=number(0, MAX_ATTEMPTS), default=CONSUMER_ATTEMPTS,
           help="Put a message aside that has failed so often; 0: try for ever."),
    option("--ack-wait", metavar="S", type=seconds(0.1, MAX_ACK_WAIT), default=30.0,
           help="After a crash of this command, a message comes again after so many seconds."),
    option("--shared/--no-shared",
           help="Several of these commands handle messages at a time, in no order between them."),
)  # fmt: skip
def consume(
    api: Api, name: str, command: tuple[str, ...], start: str, topic: str, own: bool,
    max_attempts: int, ack_wait: float, shared: bool, as_json: bool,
) -> None:  # fmt: skip
    """Run COMMAND for each message, at least once and in order.

    The text is its standard input; the variables P2P_SYNC_MESSAGE_ID, _TOPIC, _TIME, _TIME_MS,
    _NODE, _NODE_NAME and _ATTEMPTS (0 the first time) tell the rest. The node remembers under NAME
    which messages are handled: those for which COMMAND has exited with 0. Otherwise it runs again
    after a pause of 1 s to 5 minutes. Of several that run with one NAME, one handles messages,
    unless they are --shared. Options that are left out stay as NAME has them, and changes are said.
    Write -- before COMMAND.
    """
    check_consumer(name)
    if not shutil.which(command[0]):
        raise Failure(USAGE, f"cannot start {command[0]!r}: there is no such program")
    path = f"/api/v1/consumers/{quote(name, safe='')}"
    values = (topic, own, max_attempts, ack_wait, shared)
    options: dict[str, object] = dict(zip(_OPTIONS, values, strict=True))
    context = click.get_current_context()
    every = api.ask("/api/v1/consumers", within=CLI_ANSWER)["consumers"]
    known = next((each for each in every if each["name"] == name), None)
    if known:
        options = {each: value for each, value in options.items() if _is_given(context, each)}
    made = api.ask(path, {"start": start, **options}, CLI_ANSWER, "PUT")
    if known:
        _tell_changes(name, known, made)
        if _is_given(context, "start"):
            _warn(f"{name} was there already, and goes on where it was: --start is for a new one")
    signals: CommandSignals = context.obj[1]
    handling = _Handling(_Patient(api, signals), path, command, made, as_json)
    take = f"{path}?limit=1&wait={CLI_TAKE:g}"
    while True:
        with signals.held():  # nobody else would handle what the node has lent already
            for message in handling.node.ask(take, within=CLI_TAKE + CLI_ANSWER)["messages"]:
                handling.handle(message)


def _is_given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is not ParameterSource.DEFAULT


def _tell_changes(name: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Say which options of a consumer are others now: it may be one of somebody else."""
    for each in _OPTIONS:
        if before[each] != now[each]:
            value, was = (json.dumps(values[each], ensure_ascii=False) for values in (now, before))
            _warn(f"{name} now has {each} {value}, before {was}")


class _Patient:
    """The API of a node that may be away for a while, such as while it is started again."""

    def __init__(self, api: Api, signals: CommandSignals) -> None:
        self.api = api
        self._signals = signals
        self._away = False

    def ask(self, path: str, body: Any = None, within: float | None = None) -> Any:
        """As `Api.ask`, but ask until the node answers, or a signal has come."""
        while True:
            try:
                answer = self.api.ask(path, body, within)
            except Failure as error:
                if error.code not in (UNREACHABLE, FAILED) or self._signals.has_come:
                    raise
                if not self._away:
                    _warn(f"{error}; trying again")
                self._away = True
                time.sleep(CLI_AGAIN)
            else:
                self._away = False
                return answer


class _Handling:
    """Has messages handled by a program, and tells the node."""

    def __init__(
        self,
        node: _Patient,
        path: str,
        command: tuple[str, ...],
        consumer: dict[str, Any],
        as_json: bool,
    ) -> None:
        self.node = node
        self._path = path
        self._command = command
        self._name = consumer["name"]
        self._most = consumer["max_attempts"]
        self._extend_after = consumer["ack_wait"] / 3
        self._as_json = as_json
        self._names = Names(node.api)
        self._tails: list[_Tail] = []

    def handle(self, message: dict[str, Any]) -> None:
        """Run the program for a message; raises Failure if it cannot be started."""
        begin = time.monotonic()
        place = {"position": message["position"]}
        code: int | None = None
        try:
            code, error = self._run(message)
        except Failure as failed:
            self._tell("fail", {**place, "error": f"{failed}"})
            raise
        except Exception as failed:  # no room for the text, say; others may fare better
            error = f"consume could not run it: {failed or type(failed).__name__}"
        if code == 0:
            self._tell("ack", place)
        else:
            told = self._tell("fail", {**place, "error": error})
            attempt = message["attempts"] + 1
            _warn(f"the message {message['id']} failed, attempt {attempt}: {error}")
            if told and 0 < self._most <= attempt:
                _warn(f"it is put aside; see: p2p-sync consumers parked {self._name}")
        if self._as_json:
            took = round(time.monotonic() - begin, 3)
            about = {"id": message["id"], "attempts": message["attempts"], "exit_code": code}
            say(json.dumps({**about, "error": error, "seconds": took}))
        self._tails = [tail for tail in self._tails if tail.is_open]
        if len(self._tails) >= CLI_TAILS:  # each is over soon
            self._tails.pop(0).join()

    def _tell(self, what: str, body: dict[str, str]) -> bool:
        """Tell the node what became of a message; return False if it had been taken back."""
        try:
            self.node.ask(f"{self._path}/{what}", body, CLI_ANSWER)
        except Failure as error:
            if error.problem.get("type") != f"{PROBLEM}not_lent":  # it took too long
                raise
            return False
        return True

    def _run(self, message: dict[str, Any]) -> tuple[int, str]:
        """Run the program; return its exit code and what went wrong."""
        with tempfile.TemporaryFile() as text:  # a program need not read it, as it must a pipe
            text.write(message["data"].encode())
            text.seek(0)
            process = self._start(text, self._variables(message))
        try:
            assert process.stderr
            tail = _Tail(process.stderr)
            self._tails.append(tail)
            code = self._end_of(process, message["position"])
            tail.end()
        except Exception:  # it is to fail, and so to run again: not twice at a time
            process.kill()
            process.wait()
            raise
        if code == 0:
            return 0, ""
        with suppress(ValueError):
            if code < 0:
                return code, f"ended by {signal.Signals(-code).name}"
        last = tail.last_line()
        return code, f"exit code {code}{': ' if last else ''}{last}"

    def _start(self, text: IO[bytes], variables: dict[str, str]) -> subprocess.Popen[bytes]:
        """Start the program; raises Failure if there is none that can be run."""
        try:
            return subprocess.Popen(
                self._command,
                stdin=text,
                stderr=subprocess.PIPE,
                env={**os.environ, **variables},
            )
        except OSError as failed:
            if failed.filename is None:  # this machine can start no program at all just now
                raise
            why = f"cannot start {self._command[0]!r}: {failed.strerror}"
            raise Failure(USAGE, why) from None

    def _end_of(self, process: subprocess.Popen[bytes], position: str) -> int:
        """Return the exit code of a program; ask for more time until it ends."""
        while True:
            try:
                return process.wait(self._extend_after)
            except subprocess.TimeoutExpired:
                with suppress(Failure):  # then it may be taken back, and handled again
                    place = {"position": position}
                    self.node.api.ask(f"{self._path}/extend", place, CLI_ANSWER)

    def _variables(self, message: dict[str, Any]) -> dict[str, str]:
        first = message.get("imported") or {"time": message["time"], "node": message["origin"]}
        node = first["node"].partition("-")[0]
        name = ""
        with suppress(Failure):  # the node is away
            name = self._names.of(node)
        seconds, ms = divmod(first["time"], 1000)
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))  # any year
        about = {
            "ID": message["id"],
            "TOPIC": message.get("topic", ""),
            "TIME": f"{moment}.{ms:03}Z",
            "TIME_MS": f"{first['time']}",
            "NODE": node,
            "NODE_NAME": name,
            "ATTEMPTS": f"{message['attempts']}",
        }
        return {f"P2P_SYNC_MESSAGE_{key}": value for key, value in about.items()}


class _Tail:
    """Passes on what a program writes to its standard error, and keeps the end of it. What the
    program has started may write on, for CLI_LAST_LINE."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._last = b""
        self._until = math.inf
        self._thread = threading.Thread(target=self._copy, name="stderr", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """The program has ended."""
        self._until = time.monotonic() + CLI_LAST_LINE

    @property
    def is_open(self) -> bool:
        """Whether anything may be passed on yet."""
        return self._thread.is_alive()

    def join(self) -> None:
        """Wait until nothing more is passed on, once the program has ended."""
        self._thread.join()

    def last_line(self) -> str:
        """Return the last line, once the program has ended."""
        self._thread.join(CLI_LAST_LINE)
        lines = self._last.decode("utf-8", "replace").split("\n")
        return next((printable(line.strip()) for line in reversed(lines) if line.strip()), "")

    def _copy(self) -> None:
        ready = select.poll()
        ready.register(self._pipe, select.POLLIN)
        with self._pipe:
            while time.monotonic() < self._until:
                if not ready.poll(CLI_LAST_LINE * 1000):
                    continue
                if not (part := os.read(self._pipe.fileno(), CLI_TAIL)):
                    return
                self._last = (self._last + part)[-CLI_TAIL:]
                with suppress(OSError):
                    sys.stderr.buffer.write(part)
                    sys.stderr.buffer.flush()


def _warn(text: str) -> None:
    print(f"p2p-sync: {printable(text)}", file=sys.stderr, flush=True)
