"""Consumers on the page: how far they are, and the messages that they have put aside."""

from __future__ import annotations

import json

from tests.harness.page import Open, make_failing_consumer, post, until, wait_text
from tests.harness.receiver import Receiver
from tests.harness.support import NodeProcess, changed, request


def test_consumers_show_how_far_they_are_and_what_keeps_them(open_page: Open) -> None:
    command = changed(CONSUMER_SILENT=3)
    with (
        Receiver(lambda _: 500) as receiver,
        NodeProcess("--hook", receiver.url, command=command) as node,
    ):
        path = "/api/v1/consumers/printer"
        kind = {"Content-Type": "application/json"}
        options = b'{"topic": "t", "max_attempts": 1}'
        assert request(node.port, path, "PUT", kind, options).status == 201
        page = open_page(node)
        post(node, "a", "t")
        hook, printer = (f"#consumer-rows tr:nth-child({number})" for number in (1, 2))
        wait_text(page, hook, r"^hook-\w{8}\s+http://\S+/\s+HTTP 500 .*\s+1\s+\d\s")
        wait_text(page, printer, r"^printer\s+topic t\s+1\s+0\s+0\s+0\s*$")
        wait_text(page, "#warnings", "messages wait for the webhook")
        wait_text(page, printer, r"no reader since \d")
        (given,) = json.loads(request(node.port, path).body)["messages"]
        body = json.dumps({"position": given["position"], "error": "<b>no paper</b>"}).encode()
        assert request(node.port, f"{path}/fail", "POST", kind, body).status == 200
        request(node.port, path)
        wait_text(page, printer, r"^printer\s+topic t\s+<b>no paper</b>\s+0\s+0\s+1\s")
        assert request(node.port, path, "DELETE").status == 204
        until(page, "() => document.querySelectorAll('#consumer-rows tr').length === 1")


def test_a_message_that_was_put_aside_is_shown_and_retried(open_page: Open) -> None:
    with NodeProcess("--ephemeral") as node:
        post(node, "<b>line</b>\ntwo")
        post(node, "other")
        path = "/api/v1/consumers/c"
        make_failing_consumer(node, "c", max_attempts=1, shared=True)
        (given,) = json.loads(request(node.port, f"{path}?limit=1").body)["messages"]
        page = open_page(node)
        wait_text(page, "#consumer-rows", r"^c\s+shared\s")
        wait_text(page, "#parked", r"^<b>line</b>\ntwo\s+c\s+no paper .*\s+1 attempt")
        page.click("#parked button")
        wait_text(page, "#parked-answer", "c gets it again")
        until(page, "() => !document.querySelector('#parked li')")
        assert page.is_hidden("#parked-title")
        (again,) = json.loads(request(node.port, f"{path}?limit=1").body)["messages"]
        assert again["data"].startswith("<b>line") and given["data"] == "other"
        body = json.dumps({"position": again["position"], "error": "jam"}).encode()
        kind = {"Content-Type": "application/json"}
        assert request(node.port, f"{path}/fail", "POST", kind, body).status == 200
        request(node.port, f"{path}?limit=1")
        wait_text(page, "#parked", r"\bjam\b")


def put_aside(node: NodeProcess, texts: list[str]) -> None:
    """Have the consumer c put aside messages with these texts."""
    for text in texts:
        post(node, text)
    make_failing_consumer(node, "c", max_attempts=1)
    path, kind = "/api/v1/consumers/c", {"Content-Type": "application/json"}
    for _ in texts[1:]:
        (given,) = json.loads(request(node.port, f"{path}?limit=1").body)["messages"]
        body = json.dumps({"position": given["position"], "error": "jam"}).encode()
        assert request(node.port, f"{path}/fail", "POST", kind, body).status == 200
    request(node.port, f"{path}?limit=1")  # puts aside the last one


def test_a_message_that_is_erased_is_erased_where_it_was_put_aside_too(open_page: Open) -> None:
    with NodeProcess("--ephemeral") as node:
        put_aside(node, ["secret", "\u05d0 right to left"])
        page = open_page(node)
        wait_text(page, "#parked li:first-child p", "^secret$")
        assert page.get_attribute("#parked li:last-child p", "dir") == "auto"
        wait_text(page, "#events", "aside after 1 attempt: jam")
        (first, _) = json.loads(request(node.port, "/api/v1/consumers/c/parked").body)["parked"]
        assert request(node.port, f"/api/v1/messages/{first['id']}", "DELETE").status == 200
        wait_text(page, "#parked li:first-child p", r"^\(erased\)$")


def test_a_keyboard_goes_on_behind_a_message_that_is_retried(open_page: Open) -> None:
    with NodeProcess("--ephemeral") as node:
        put_aside(node, ["a", "b"])
        page = open_page(node)
        wait_text(page, "#parked", r"b\s+c\s+jam")
        page.focus("#parked button")
        page.keyboard.press("Enter")
        until(page, "() => document.activeElement.matches('#parked li:only-child button')")
        wait_text(page, "#parked", "^b")
        page.keyboard.press("Enter")
        until(page, "() => document.activeElement.id === 'parked-answer'")
        assert wait_text(page, "#parked-answer", "gets it again")
