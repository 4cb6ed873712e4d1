"""What the options of a node may be, and the names by which errors call them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, MutableMapping
from typing import Any

import click
from click.core import ParameterSource

from ..address import parse_address
from ..errors import InputError

_PREFIX = "P2P_SYNC"

# What Kubernetes sets in every container for a service named p2p-sync, p2p-sync-peer and so on.
_SERVICE_LINK = re.compile(
    rf"{_PREFIX}_(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_SERVICE_PORT = re.compile(rf"{_PREFIX}_(\w+_)?PORT")
_SERVICE_URL = re.compile("(tcp|udp|sctp)://.*")


Callback = Callable[[click.Context, click.Parameter, Any], Any]


def _checked(form: Callable[[str], str] = str) -> Callback:
    """Return what brings the values of an option into their one form: texts that are not empty,
    and that `form` accepts (it raises InputError)."""

    def convert(context: click.Context, parameter: click.Parameter, text: str) -> str:
        if not text.strip():
            empty = "the value is empty; give one, or leave the option out"
            raise click.BadParameter(empty, context, parameter)
        try:
            return form(text)
        except InputError as error:
            raise click.BadParameter(str(error), context, parameter) from None

    def callback(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(convert(context, parameter, text) for text in value)
        return None if value is None else convert(context, parameter, value)

    return callback


def _advertised(text: str) -> str:
    return text if text == "none" else str(parse_address(text))


def _host_name(text: str) -> str:
    try:
        return parse_address(f"{text}:1").host
    except InputError:
        raise InputError(f"a host name alone, such as node.example.org, not {text!r}") from None


text = _checked()
file_name = _checked()
peer = _checked(lambda text: str(parse_address(text)))
advertised = _checked(_advertised)
host_name = _checked(_host_name)


def drop_service_links(environment: MutableMapping[str, str]) -> list[str]:
    """Remove the variables that Kubernetes sets for a service from `environment`; return their
    names. P2P_SYNC_PEER_PORT is one of them only if its value is a URL."""
    names = [
        name
        for name, value in environment.items()
        if _SERVICE_LINK.fullmatch(name)
        or (_SERVICE_PORT.fullmatch(name) and _SERVICE_URL.fullmatch(value))
    ]
    for name in names:
        del environment[name]
    return sorted(names)


def variable_of(context: click.Context, parameter: click.Parameter) -> str:
    """Return the environment variable that gave the value of `parameter`; "": none did."""
    source = context.get_parameter_source(parameter.name or "")
    return _variable(parameter) if source is ParameterSource.ENVIRONMENT else ""


def name_of(context: click.Context, name: str) -> str:
    """Return what to call the option with that Python name: the variable that gave it, or
    `--name`."""
    parameter = next(p for p in context.command.params if p.name == name)
    return variable_of(context, parameter) or parameter.opts[0]


def refuse_empty_files(context: click.Context) -> None:
    """Raise UsageError where the variable of a file or of the secret is set, but empty.

    click takes an empty variable for one that is not set: the node would run without its secret
    or its certificate.
    """
    files = [_variable(p) for p in context.command.params if p.callback is file_name]
    for name in (f"{_PREFIX}_SECRET", *files):
        if not os.environ.get(name, "set").strip():
            raise click.UsageError(f"{name} is set but empty; give it a value, or unset it")


def with_variable(context: click.Context, text: str) -> str:
    """Return an error's text; it begins with the variables whose values the text names."""
    found = []
    for parameter in context.command.params:
        variable = variable_of(context, parameter)
        value = os.environ.get(variable, "")
        counts = variable and not (isinstance(parameter.type, click.IntRange) and len(value) < 3)
        if counts and re.search(rf"(?<![\w./-]){re.escape(value)}(?![\w/-])", text):
            found.append(f"{variable}={value}: ")
    return "".join(found) + text


def _variable(parameter: click.Parameter) -> str:
    name = parameter.envvar or f"{_PREFIX}_{(parameter.name or '').upper()}"
    return name if isinstance(name, str) else name[0]
