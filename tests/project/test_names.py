"""Names of nodes: what can be one, and how two nodes with one name are told apart."""

from __future__ import annotations

import json
import re
import socket
from typing import NamedTuple

import pytest

from p2p_sync.errors import InputError
from p2p_sync.names import checked_name, host_name, label, labels, name_from
from p2p_sync.node.node import Node
from p2p_sync.wire.frames import Sockets, decode, encode

ONE, TWO = "0123abcd" + "0" * 24, "89abcdef" + "0" * 24

GOOD = [
    "web-2",
    "x" * 32,
    "Büro 3",
    "店",
    "<b>web</b>",
    "ws://10.0.0.1:9001",
    "0123abcd",
    "a\u0301",
]

BAD = {
    "": "empty",
    "   ": "empty",
    "\u3000": "empty",
    "x" * 33: "at most 32 characters; this one has 33",
    "a\nb": "U+000A",
    "a\x1b[31m": "U+001B",
    "a\x00b": "U+0000",
    "web\u202e2": "U+202E",  # turns the direction of what follows
    "web\u2066": "U+2066",
    "web\u200b": "U+200B",  # no width
    "web\ud800": "U+D800",
    "\x85web": "U+0085",
}


@pytest.mark.parametrize("name", GOOD)
def test_printable_text_is_a_name(name: str) -> None:
    assert checked_name(name) == name == name_from(name)
    assert decode(encode(Sockets(name=name))) == Sockets(name=name)


@pytest.mark.parametrize("name", BAD, ids=ascii)
def test_other_text_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(
        InputError, match=f"the name of a node .*{re.escape(BAD[name])}.*; choose another"
    ):
        checked_name(name)
    with pytest.raises(InputError):
        Node(0, name=name)


@pytest.mark.parametrize("name", [*BAD, 7, None, True, ["web"], {"a": 1}, "x" * 100_000], ids=ascii)
def test_a_peer_with_a_bad_name_has_none(name: object) -> None:
    fields = json.loads(encode(Sockets()))
    assert decode(json.dumps({**fields, "name": name})) == Sockets()


def test_spaces_around_a_name_do_not_count() -> None:
    assert checked_name("  web 2 ") == "web 2"


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("web-2", "web-2"),
        ("web-2.example.org", "web-2"),
        ("h" * 63, "h" * 32),
        ("we\x07b", "web"),
        ("", "node"),
        (".local", "node"),
    ],
)
def test_the_default_is_the_host_name(
    host: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    assert host_name() == name


def test_a_label_has_the_id_too() -> None:
    assert label(ONE, "web-2") == "web-2 (0123abcd)"
    assert label(ONE, "") == "0123abcd"


class Known(NamedTuple):
    """A node with a name, or without one."""

    id: str
    name: str | None


def called(names: dict[str, str]) -> dict[str, str]:
    """What a list calls nodes with these names, by id."""
    return labels(Known(node, name or None) for node, name in names.items())


def test_a_list_shows_the_ids_of_nodes_with_one_name() -> None:
    assert called({ONE: "web-1", TWO: "web-2"}) == {ONE: "web-1", TWO: "web-2"}
    both = {ONE: "web (0123abcd)", TWO: "web (89abcdef)"}
    assert called({ONE: "web", TWO: "web"}) == both
    assert called({ONE: "", TWO: ""}) == {ONE: "0123abcd", TWO: "89abcdef"}


def test_what_others_call_a_node_counts_where_it_says_nothing_itself() -> None:
    nodes = [Known(ONE, "web-1"), Known(TWO, None)]
    assert labels(nodes, {ONE: "liar", TWO: "web-2"}) == {ONE: "web-1", TWO: "web-2"}
    far = "f" * 32
    assert labels(nodes[:1], {far: "web-1"}) == {ONE: "web-1 (0123abcd)", far: "web-1 (ffffffff)"}


def test_names_that_look_the_same_are_the_same() -> None:
    assert called({ONE: "Web", TWO: "web"})[ONE] == "Web (0123abcd)"
    assert called({ONE: "\uff57\uff45\uff42", TWO: "web"})[TWO] == "web (89abcdef)"  # wide letters


MISLEADING = ["89abcdef", "web (89abcdef)", "89ABCDEF", TWO, "ws://a:9001", "10.0.0.1", "[::1]"]


@pytest.mark.parametrize("name", MISLEADING)
def test_a_name_that_could_pass_for_another_node_never_stands_alone(name: str) -> None:
    assert called({ONE: name, TWO: "web"})[ONE] == f"{name} (0123abcd)"
