"""The options of a node, made from the fields in `settings.py`; their types, their environment
variables, and their names in errors."""

from __future__ import annotations

import datetime
import os
import re
import time
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import Field, fields
from functools import partial
from typing import Any

import click
from click.core import ParameterSource

from ..address import parse_address
from ..errors import InputError
from ..names import checked_name
from ..settings import MIN_KEEP_BYTES, Form, Option, Program, Settings
from ..urls import parse_hub, parse_url

_PREFIX = "P2P_SYNC"

# The variables that Kubernetes sets in every container for a service named p2p-sync...
_SERVICE_LINK = re.compile(
    rf"{_PREFIX}_(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_SERVICE_PORT = re.compile(rf"{_PREFIX}_(\w+_)?PORT")
_SERVICE_URL = re.compile("(tcp|udp|sctp)://.*")


Callback = Callable[[click.Context, click.Parameter, Any], Any]


def checked(form: Callable[[str], Any] = str) -> Callback:
    """Return a callback that checks the values of an option: they are not empty, and `form` brings
    each into its normal form, or raises InputError."""

    def convert(context: click.Context, parameter: click.Parameter, text: str) -> Any:
        if not text.strip():
            empty = "the value is empty; set one, or leave the option out"
            raise click.BadParameter(empty, context, parameter)
        try:
            return form(text)
        except InputError as error:
            raise click.BadParameter(str(error), context, parameter) from None

    def callback(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        if value == parameter.default:
            return value
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


_AMOUNT = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*([A-Za-z]*)\s*")


def _amount(units: Mapping[str, int], wanted: str, text: str) -> float:
    """Return the number in a text that ends in one of these units."""
    match = _AMOUNT.fullmatch(text)
    unit = units.get(match[2].lower()) if match else None
    value = float(match[1]) * unit if match and unit else 0
    if value < 1:
        raise InputError(f"{wanted}, not {text!r}")
    return value


def _duration(text: str) -> float:
    units = {"s": 1, "min": 60, "h": 3600, "d": 86_400}
    return _amount(units, "a time such as 30d, 12h, 90min or 60s", text)


def since(text: str) -> int:
    """Return the moment that a text names, in ms since the epoch: a time ago, such as 2h, or a date
    with or without a time, in the time zone of this machine unless it says another one. Raises
    InputError."""
    with suppress(InputError):
        return int((time.time() - _duration(text)) * 1000)
    try:
        # Python 3.10 does not know Z.
        moment = datetime.datetime.fromisoformat(text.strip().upper().replace("Z", "+00:00"))
        return max(0, int(moment.timestamp() * 1000))
    except (ValueError, OverflowError, OSError):
        raise InputError(
            f"a time such as 2h, 30d, 2026-11-01 or 2026-11-01T09:30, not {text!r}"
        ) from None


def _url(text: str) -> str:
    parse_url(text)
    return text


def _hub(text: str) -> str:
    parse_hub(text)
    return text


def _private(check: Callable[[str], str], is_secret: Callable[[str], object]) -> Callback:
    """Return a callback that takes no secret from the arguments of the process."""

    def call(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        found = checked(check)(context, parameter, value)
        given = [found] if isinstance(found, str) else found or ()
        if any(map(is_secret, given)) and not variable_of(context, parameter):
            files = {each.name for each in context.command.params}
            name = f"{parameter.name}_file"
            by_file = f", or use --{name.replace('_', '-')}" if name in files else ""
            raise click.BadParameter(
                "every user of this machine can read the password in it among the arguments of "
                f"this process; set the variable {parameter.envvar} to the URL instead{by_file}",
                context,
                parameter,
            )
        return found

    return call


def _size(text: str) -> int:
    units = {"": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
    wanted = "a number of bytes such as 2GiB, 500MiB or 1000000"
    size = int(_amount(units, wanted, text))
    if size < MIN_KEEP_BYTES:
        raise InputError(f"{wanted}, at least {MIN_KEEP_BYTES >> 10}KiB, not {text!r}")
    return size


_CALLBACKS: dict[Form, Callback] = {
    "text": checked(),
    "name": checked(checked_name),
    "file": checked(),
    "peer": checked(lambda text: str(parse_address(text))),
    "advertised": checked(_advertised),
    "host name": checked(_host_name),
    "duration": checked(_duration),
    "size": checked(_size),
    "url": _private(_url, lambda text: parse_url(text).authorization),
    "prefix": checked(),
    "hub": _private(_hub, lambda text: "@" in text),
}


_EXAMPLES: dict[Form, str] = {
    "duration": ", for example 30d, 12h, 90min or 60s",
    "size": ", for example 2GiB or 500MiB",
}


FILE = click.Path(readable=False, allow_dash=True)
"""The type of a name of a file, which is not looked at yet. Shells complete it."""
DIRECTORY = click.Path(file_okay=False, readable=False)


def number(least: int, most: int | None) -> click.IntRange:
    """Return the type of a whole number in a range."""
    kind = click.IntRange(least, most)
    kind.name = "whole number"  # in the error about a text that is none
    return kind


def seconds(least: float, most: float | None) -> click.FloatRange:
    """Return the type of a number of seconds in a range."""
    kind = click.FloatRange(least, most)
    kind.name = "number"  # in the error about a text that is none
    return kind


def option_fields() -> dict[str, Field[Any]]:
    """Return the settings that are options, by the name of the option without its dashes."""
    found = {}
    for setting in (*fields(Settings), *fields(Program)):
        if about := setting.metadata.get("option"):
            found[about.name or setting.name.replace("_", "-")] = setting
    return found


def help_of(setting: Field[Any]) -> str:
    """Return what the help says about a setting that is an option."""
    help = f"{setting.metadata['option'].help}"
    more = _EXAMPLES.get(setting.metadata["option"].form, "")
    if isinstance(setting.default, tuple):
        more = "; can be given more than once"
    return f"{help.removesuffix('.')}{more}." if more else help


def option_names() -> dict[str, str]:
    """Return what the command line calls each setting, by the names of the fields."""
    names = {setting.name: f"--{name}" for name, setting in option_fields().items()}
    return {**names, "secret": variable("secret")}


def variable(name: str) -> str:
    """Return the environment variable of an option."""
    return f"{_PREFIX}_{name.upper().replace('-', '_')}"


def refuse_empty(variable: str) -> None:
    """Raise UsageError if the variable is set, but empty.

    To click an empty variable is not set: a node would run without its secret or certificate.
    """
    if not os.environ.get(variable, "set").strip():
        raise click.UsageError(f"{variable} is set but empty; set a value, or unset it")


class VariableOption(click.Option):
    """An option that is also an environment variable, which the help shows."""

    def __init__(self, *args: Any, secret: bool = False, **more: Any) -> None:
        """Make an option; `secret`: no error may show its value."""
        super().__init__(*args, **more)
        self.secret = secret
        self.show_envvar = True
        self.envvar = variable(max(self.opts, key=len).lstrip("-"))

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        if isinstance(self.type, click.Path) and not ctx.resilient_parsing:
            refuse_empty(f"{self.envvar}")
        return super().resolve_envvar_value(ctx)

    def get_error_hint(self, ctx: click.Context | None) -> str:
        return f"'{self.opts[0]}'"  # start.py names the variable if the value came from there


option = partial(click.option, cls=VariableOption)


def node_options() -> list[click.Parameter]:
    """Return the options of the command that runs a node."""
    return [_node_option(name, setting) for name, setting in option_fields().items()]


def _node_option(name: str, setting: Field[Any]) -> click.Option:
    about: Option = setting.metadata["option"]
    multiple, flag = isinstance(setting.default, tuple), isinstance(setting.default, bool)
    kind: click.ParamType[Any] | None = None
    callback: Callback | None = None
    if about.choices:
        kind = click.Choice(about.choices, case_sensitive=False)
    elif about.form == "text" and about.least is not None:
        kind = number(about.least, about.most)
    elif not flag:
        callback = _CALLBACKS[about.form]
        if about.form == "file":
            kind = DIRECTORY if about.metavar == "DIR" else FILE
    return VariableOption(
        [f"--{name}", setting.name],
        default=None if multiple else setting.default,
        is_flag=flag,
        multiple=multiple,
        type=kind,
        callback=callback,
        metavar=about.metavar or (None if about.choices or flag else "N" if kind else "TEXT"),
        show_default=about.shown or True,
        help=help_of(setting),
        secret=about.form == "url",
    )


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
    """Return the environment variable that the value of `parameter` came from; "" if none."""
    source = context.get_parameter_source(parameter.name or "")
    return f"{parameter.envvar}" if source is ParameterSource.ENVIRONMENT else ""


def value_of(parameter: click.Parameter, variable: str) -> str:
    """Return a variable that the value of `parameter` came from, with the value if that may be
    shown."""
    is_secret = isinstance(parameter, VariableOption) and parameter.secret
    return variable if is_secret else f"{variable}={os.environ[variable]}"


def name_of(context: click.Context, name: str) -> str:
    """Return the option with that Python name as the user gave it: the variable, or `--name`; for
    an argument its metavar."""
    parameter = next(p for p in context.command.params if p.name == name)
    is_option = isinstance(parameter, click.Option)
    return variable_of(context, parameter) or (parameter.opts[0] if is_option else name.upper())


def with_variables(context: click.Context, text: str) -> str:
    """Return the text of an error, which names the variables that values came from: in the place of
    their options, or before it if it contains the values."""
    for parameter in context.command.params:
        if not (variable := variable_of(context, parameter)):
            continue
        value = os.environ[variable]
        # Many texts contain a small number by chance.
        small = isinstance(parameter.type, (click.IntRange, click.FloatRange)) and len(value) < 3
        named = re.sub(rf"(?<![\w-]){parameter.opts[0]}(?![\w-])", variable, text)
        if named != text or small or parameter.type is click.BOOL:
            text = named
        elif re.search(rf"(?<![\w./-]){re.escape(value)}(?![\w/-])", text):
            text = f"{value_of(parameter, variable)}: {text}"
    return text
