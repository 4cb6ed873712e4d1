"""Pages of nodes in a real browser: opens them, waits for what they show, and looks at the end at
what they have done.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from tests.harness.support import (
    DEADLINE,
    NodeProcess,
    request,
    wait_until,
)

WIDE = {"width": 1280, "height": 900}
PHONE = {"width": 360, "height": 740}
MILLISECONDS = DEADLINE * 1000

# Kept from the first moment on: shifts of the layout, and the verdicts that were shown.
WATCH = """
window.watched = { shift: 0, shifts: [], verdicts: [], bars: [] };
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) {
    if (entry.hadRecentInput) continue;
    // In the lists of news, what is new comes before the rest: that is what they are for.
    const news = "#messages, #events";
    const moved = entry.sources.filter((s) => !s.node?.parentElement?.closest(news));
    if (!moved.length) continue;
    watched.shift += entry.value;
    watched.shifts.push(entry.value + ": " + moved.map((s) => s.node?.outerHTML?.slice(0, 80)));
  }
}).observe({ type: "layout-shift", buffered: true });
addEventListener("DOMContentLoaded", () => {
  const look = () => {
    const text = document.getElementById("verdict-text").textContent;
    if (watched.verdicts.at(-1) !== text) watched.verdicts.push(text);
    const bar = document.getElementById("progress");
    if (getComputedStyle(bar).visibility === "visible") watched.bars.push(bar.value);
  };
  new MutationObserver(look).observe(document.getElementById("verdict"), {
    subtree: true, childList: true, characterData: true, attributes: true,
  });
});
"""


Open = Callable[..., Any]


@contextmanager
def pages_of(chromium: Any) -> Iterator[Open]:
    """Yield what opens the page of a node, as often as called. Fail in the end if a page has
    written an error to the console, or asked anybody but its node."""
    with ExitStack() as stack:
        complaints: list[str] = []

        def opened(
            node: NodeProcess, *, path: str = "/", failing: bool = False, **options: Any
        ) -> Any:
            """`failing`: requests will fail, as they should, and the browser may say so."""
            context = chromium.new_context(**{"viewport": WIDE, "locale": "en-US", **options})
            stack.callback(context.close)
            context.set_default_timeout(MILLISECONDS)
            page = context.new_page()
            origin = f"http://127.0.0.1:{node.port}/"

            def said(message: Any) -> None:
                expected = failing and "Failed to load resource" in message.text
                if message.type in ("error", "warning") and not expected:
                    complaints.append(f"{message.text} {message.location}")

            def asked(request: Any) -> None:
                if not request.url.startswith(origin):
                    complaints.append(f"asked {request.url}")

            page.on("console", said)
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("dialog", lambda dialog: complaints.append(dialog.message))
            page.on("request", asked)
            if options.get("java_script_enabled", True):
                page.add_init_script(WATCH)
            page.goto(origin.rstrip("/") + path)
            return page

        yield opened
        assert not complaints


def until(page: Any, script: str, argument: Any = None) -> Any:
    """Wait until a function of the page returns something true; return that."""
    try:
        return page.wait_for_function(script, arg=argument).json_value()
    except Exception as error:
        raise AssertionError(f"{script} {argument}: {page.inner_text('body')}") from error


def wait_text(page: Any, selector: str, pattern: str) -> str:
    """Wait until the text of the element matches; return it."""
    script = """([selector, pattern]) => {
      const text = document.querySelector(selector)?.innerText;
      return new RegExp(pattern).test(text) && text;
    }"""
    return str(until(page, script, [selector, pattern]))


def verdict(page: Any, state: str, pattern: str = "") -> str:
    """Wait for a verdict: its state, which its colour and sign come from, and its words."""
    page.wait_for_selector(f"#verdict[data-state={state}]")
    assert page.get_attribute("#sign", "href") == f"#i-{state}"
    return wait_text(page, "#verdict-text", pattern)


def shown(page: Any) -> list[str]:
    """The messages in the list, in its order."""
    texts: list[str] = page.eval_on_selector_all(
        "#messages li > p", "(all) => all.map((one) => one.textContent)"
    )
    return texts


def wait_shown(page: Any, text: str) -> None:
    script = (
        "(t) => [...document.querySelectorAll('#messages li > p')].some((p) => p.textContent === t)"
    )
    until(page, script, text)


def wait_list(page: Any, *texts: str) -> None:
    """Wait until the list shows these messages, in this order."""
    wait_until(lambda: shown(page) == [*texts], lambda: f"{shown(page)} and not {[*texts]}")


def wait_number(page: Any, number: int, selector: str) -> None:
    """Wait until so many elements match."""
    found = page.locator(selector)
    wait_until(lambda: found.count() == number, lambda: f"{found.count()} and not {number}")


def follow(page: Any, selector: str) -> None:
    """Click what leads to another page, and wait until that is there."""
    with page.expect_navigation():
        page.click(selector)


def add(page: Any, address: str) -> None:
    page.fill("#address-in", address)
    page.press("#address-in", "Enter")


def send(page: Any, text: str) -> None:
    page.fill("#msg", text)
    page.press("#msg", "Enter")


def import_texts(node: NodeProcess, texts: Any) -> None:
    body = b"".join(json.dumps(text).encode() + b"\n" for text in texts)
    kind = {"Content-Type": "application/x-ndjson"}
    assert request(node.port, "/api/v1/messages", "POST", kind, body).status == 201


def post(node: NodeProcess, text: str, topic: str = "") -> None:
    kind = {"Content-Type": "application/json"}
    body = json.dumps({"data": text, "topic": topic}).encode()
    assert request(node.port, "/api/v1/messages", "POST", kind, body).status == 201


def make_failing_consumer(node: NodeProcess, name: str, **options: object) -> None:
    """Make a consumer whose first message has failed."""
    kind = {"Content-Type": "application/json"}
    path = f"/api/v1/consumers/{name}"
    assert request(node.port, path, "PUT", kind, json.dumps(options).encode()).status == 201
    (given,) = json.loads(request(node.port, f"{path}?limit=1").body)["messages"]
    body = json.dumps({"position": given["position"], "error": "no paper " * 20}).encode()
    assert request(node.port, f"{path}/fail", "POST", kind, body).status == 200


def color(page: Any) -> str:
    return str(page.evaluate("getComputedStyle(document.getElementById('verdict-text')).color"))


def tone(page: Any, name: str) -> str:
    """The colour that the style sheet has for what is good, a warning, bad, in progress or calm."""
    made = "Object.assign(document.body.appendChild(document.createElement('i')), {id: 'probe'})"
    page.evaluate(f"{made}.style.color = 'var(--{name})'")
    found = page.evaluate("getComputedStyle(document.getElementById('probe')).color")
    page.evaluate("document.getElementById('probe').remove()")
    return str(found)
