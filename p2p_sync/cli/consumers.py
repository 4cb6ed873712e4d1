"""The command `consumers`: what there is of consumers, and what they have put aside."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import click

from ..core.verdict import numbered
from ..settings import CLI_ANSWER
from .api import Api, Failure
from .command import node_command
from .exits import REFUSED
from .logline import printable
from .printing import moment, paint, say, table

_HEAD = ["NAME", "TOPIC", "OF", "LAG", "ATTEMPTS", "PARKED", "MISSED"]
_ACTIONS = ("delete", "parked", "retry", "drop")
_LIST = "p2p-sync consumers lists them"


@node_command(
    click.argument("action", required=False, type=click.Choice(_ACTIONS)),
    click.argument("name", required=False),
    click.argument("id", required=False),
)
def consumers(
    api: Api, action: str | None, name: str | None, id: str | None, as_json: bool
) -> None:
    """List the consumers, and how far they are.

    ACTION with the NAME of one: delete forgets it, parked lists the messages that it has put aside,
    retry has them handled again, drop forgets them. retry and drop take the ID of one message.
    """
    if action is None:
        _list(api, as_json)
        return
    if not name:
        raise click.UsageError(f"missing NAME of the consumer to {action}; {_LIST}")
    if id is not None and action not in ("retry", "drop"):
        raise click.UsageError(f"{action} takes a NAME alone, not the ID {id!r}")
    try:
        _act(api, action, name, id, as_json)
    except Failure as error:
        if error.problem.get("status") != HTTPStatus.NOT_FOUND:
            raise
        raise Failure(error.code, f"there is no consumer {name!r}; {_LIST}") from None


def _act(api: Api, action: str, name: str, id: str | None, as_json: bool) -> None:
    path = f"/api/v1/consumers/{quote(name, safe='')}"
    if action == "parked":
        _list_parked(api, path, as_json)
        return
    if action == "delete":
        api.ask(path, within=CLI_ANSWER, method="DELETE")
        say(json.dumps({"deleted": name}) if as_json else f"Deleted {printable(name)}")
        return
    query = "" if id is None else f"?id={quote(id, safe='')}"
    if action == "retry":
        answer = api.ask(f"{path}/parked/retry{query}", within=CLI_ANSWER, method="POST")
        count, done = answer["retried"], "to be handled again"
    else:
        answer = api.ask(f"{path}/parked{query}", within=CLI_ANSWER, method="DELETE")
        count, done = answer["dropped"], "dropped"
    text = f"{numbered(count, 'message')} {done}"
    if id is not None and not count:
        see = f"p2p-sync consumers parked {name} lists those that are put aside"
        raise Failure(REFUSED, f"{text}, none with the id {printable(id)!r}; {see}")
    say(json.dumps(answer) if as_json else text)


def _list(api: Api, as_json: bool) -> None:
    answer = api.ask("/api/v1/consumers", within=CLI_ANSWER)
    found = answer["consumers"]
    if as_json:
        say(json.dumps(answer))
    elif not found:
        say("No consumers")
    else:
        lines = table([_HEAD, *map(_row, found)])
        say(lines[0])
        for line, each in zip(lines[1:], found, strict=True):
            well = not (each["attempts"] or each["parked"])
            say(paint(line, "connected" if well else "waiting"))
            silent = each["no_reader_since"]
            alone = f"no reader since {moment(silent)}" if silent else ""
            for more in (each["hook"], each["error"], alone):
                if more:
                    say(f"  {printable(more)}")


def _row(each: dict[str, Any]) -> list[str]:
    counts = [f"{each[name]:,}" for name in ("lag", "attempts", "parked", "missed")]
    return [each["name"], each["topic"] or "-", "own" if each["own"] else "all", *counts]


def _list_parked(api: Api, path: str, as_json: bool) -> None:
    answer = api.ask(f"{path}/parked", within=CLI_ANSWER)
    if as_json:
        say(json.dumps(answer))
        return
    for each in answer["parked"]:
        tries, error = numbered(each["attempts"], "attempt"), printable(each["error"])
        say(f"{moment(each['since'])}  {printable(each['id'])}  {tries}: {error}")
        message = each["message"]
        text = "(deleted)" if message is None else message["data"]
        say(f"  {'(erased)' if text is None else printable(text)}")
    if not answer["parked"]:
        say("No messages are put aside")
