"""Addresses: one form on the wire, whatever people type."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p_sync import AddressError
from p2p_sync.address import parse_address


@pytest.mark.parametrize(
    ("typed", "wire"),
    [
        ("localhost:8001", "ws://localhost:8001"),
        ("http://localhost:8001", "ws://localhost:8001"),
        ("ws://localhost:8001/", "ws://localhost:8001"),
        (" WS://LocalHost:08001 ", "ws://localhost:8001"),
        ("https://example.org:443", "wss://example.org:443"),
        ("[::1]:8001", "ws://[::1]:8001"),
        ("ws://[0:0::1]:8001", "ws://[::1]:8001"),
        ("bücher.example:1", "ws://xn--bcher-kva.example:1"),
        ("under_score.local:80", "ws://under_score.local:80"),
        ("[FE80::1%eth0.1]:8001", "ws://[fe80::1%eth0.1]:8001"),
    ],
)
def test_what_people_type_has_one_form(typed: str, wire: str) -> None:
    assert str(parse_address(typed)) == wire
    assert parse_address(wire) == parse_address(typed)


@pytest.mark.parametrize(
    "typed",
    ["", "localhost", "ws://localhost", "ws://:8001", "ftp://h:1", "h:0", "h:65536", "h:-1"]
    + ["h:1x", "::1:8001", "[::1:8001", "[x]:1", "1.2.3:4", "1.2.3.256:4", "h:80/path", "h:8:9"]
    + ["user@h:1", "a b:1", "a\nb:1", "h:1?q", "h:1#f", "-h:1", "h..x:1", "x" * 64 + ":1", "h:१"]
    + [f"[fe80::1%{zone}]:1" for zone in ("", "\ud800", "a b", "a%b", "a/b", "\0", "é", "x" * 33)],
)
def test_what_cannot_be_an_address_is_refused_with_an_example(typed: str) -> None:
    with pytest.raises(AddressError, match="ws://host:8001"):
        parse_address(typed)


@given(st.text())
def test_any_text_is_an_address_or_a_clear_error(text: str) -> None:
    try:
        address = parse_address(text)
    except AddressError as error:
        assert "\n" not in str(error)
    else:
        assert parse_address(str(address)) == address
