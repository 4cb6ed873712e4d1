"""The page of a node that knows no other: it says how two nodes come together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.harness.browser import missing
from tests.harness.page import PHONE, WIDE, Open, add, follow, verdict, wait_text
from tests.harness.support import NodeProcess, free_port_pair, request, run_nodes, wait_sockets

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "there is a browser")


def is_in_sight(page: Any, selector: str) -> bool:
    """Whether an element is on the first screen."""
    box = page.locator(selector).bounding_box()
    return bool(box) and box["y"] + box["height"] <= page.viewport_size["height"]


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_all_that_is_needed_to_begin_is_on_the_first_screen(
    open_page: Open, size: dict[str, int]
) -> None:
    with NodeProcess("--ephemeral") as node:
        page = open_page(node, viewport=size)
        verdict(page, "alone", "^No peers yet$")
        assert page.inner_text("#address") == node.address
        assert "Only this machine can reach it" in page.inner_text("#reach")
        assert page.inner_text("#command") == node.api("status")["node"]["join"]
        for selector in ("#address-in", "#address", "#reach", "#command", "#count"):
            assert is_in_sight(page, selector), selector
        for selector in (".mesh-card", ".rates-card", ".peers-card"):
            assert not page.is_visible(selector), "there is nothing in it"


def test_the_form_moves_to_the_peers_with_the_first_one_and_back_after_the_last(
    open_page: Open,
) -> None:
    with run_nodes(2, "--ephemeral") as (one, two):
        page = open_page(one)
        verdict(page, "alone")
        add(page, f"127.0.0.1:{free_port_pair()}")
        wait_text(page, "#add-answer", "^Not connected.*refused")
        assert page.locator("#start #add").count() == 1, "the answer stays in sight"
        add(page, two.address)
        verdict(page, "in_sync")
        page.locator("#peers #add").wait_for()
        assert page.evaluate("document.activeElement.id") == "address-in"
        two.process.kill()  # else it would dial again
        wait_sockets(0, one)
        for entry in one.peers():
            assert request(one.port, f"/api/v1/peers/{entry['key']}", "DELETE").status == 204
        page.locator("#start #add").wait_for()
        assert not page.is_visible(".mesh-card")


def test_addresses_and_commands_are_copied_by_a_click(open_page: Open) -> None:
    with NodeProcess("--ephemeral") as node:
        page = open_page(node, permissions=["clipboard-read", "clipboard-write"])
        for name in ("address", "command"):
            page.click(f"[data-copy={name}]")
            wait_text(page, f"[data-copy={name}]", "^Copied$")
            copied = page.evaluate("navigator.clipboard.readText()")
            assert copied == page.inner_text(f"#{name}")
        page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
        page.click("[data-copy=address]")
        assert page.evaluate("document.querySelector('textarea.copied')") is None
        page.click("#msg")
        page.keyboard.press("Control+V")
        assert page.input_value("#msg") == node.address, "also where the page may not use it"


def test_the_secret_is_named_by_its_file_and_never_shown(open_page: Open, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("correct horse battery staple")
    file.chmod(0o600)
    with NodeProcess("--host", "0.0.0.0", "--secret-file", str(file)) as node:
        page = open_page(node)
        verdict(page, "alone")
        addresses = node.api("status")["node"]["addresses"]
        assert page.inner_text("#address") == addresses[0]
        assert page.inner_text("#reach").startswith("Other machines can reach it")
        wait_text(page, "#command", f"--secret-file {file} --peer {addresses[0]}$")
        assert "copy of the file" in page.inner_text("#join")
        assert "staple" not in page.content()


def test_without_javascript_it_is_the_same(open_page: Open) -> None:
    with run_nodes(2, "--ephemeral") as (one, two):
        page = open_page(one, java_script_enabled=False)
        assert page.inner_text("#start #address") == one.address
        assert page.inner_text("#command").startswith("p2p-sync ")
        assert not page.is_visible("[data-copy]")
        page.fill("#address-in", two.address)
        follow(page, "#add button")
        wait_sockets(1, one, two)
        page.reload()
        assert page.inner_text("#peers #address") == one.address
