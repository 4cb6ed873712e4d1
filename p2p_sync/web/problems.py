"""What a request that fails is answered: a problem document (RFC 9457), a page, or a sentence.

Rendering needs nothing but the request and the sentence: it works whatever has failed.
"""

from __future__ import annotations

import json
from html import escape
from http import HTTPStatus

PROBLEM_TYPE = "application/problem+json"
HTML_TYPE = "text/html; charset=utf-8"
TEXT_TYPE = "text/plain; charset=utf-8"

# How far a request that brings many messages has come, if none of them is stored.
NONE_STORED: dict[str, int | str | None] = {"stored": 0, "last": None}

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="color-scheme" content="light dark">
<meta name="viewport" content="width=device-width, initial-scale=1">{head}
<link rel="icon" href="/static/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="/static/style.css">
<title>p2p_sync: {title}</title><header><h1><a href="/">p2p_sync</a></h1><p>{title}</p></header>
<main>{content}</main></html>
"""


def is_api(path: str) -> bool:
    """Return whether errors at `path` are answered as problem documents."""
    return path == "/api" or path.startswith("/api/")


def wants_page(accept: str) -> bool:
    """Return whether a client with this `Accept` header is to be shown pages."""
    return "text/html" in accept.lower()


def page(title: str, content: str, head: str = "") -> str:
    """Return a small page. `title` is text; `content` and `head` are HTML."""
    return _PAGE.format(title=escape(title), content=content, head=head)


def is_bulk(method: str, path: str, content_type: str) -> bool:
    """Return whether such a request brings many messages to be committed."""
    kind = content_type.partition(";")[0].strip().lower()
    return method == "POST" and path == "/api/v1/messages" and kind == "application/x-ndjson"


def failure(
    path: str, accept: str, status: HTTPStatus, sentence: str, **more: int | str | None
) -> tuple[str, bytes]:
    """Return the content type and the body of the answer to a request that failed.

    `sentence` says what is wrong and how to fix it. Under `/api` it becomes the `detail` of a
    problem document, with `more` as further members; else a page where `accept` asks for one,
    otherwise a line of text.
    """
    if is_api(path):
        fields = {"type": "about:blank", "title": status.phrase, "status": status.value}
        text = json.dumps({**fields, "detail": sentence, **more}, ensure_ascii=False)
        return PROBLEM_TYPE, text.encode("utf-8", "replace")
    if wants_page(accept):
        alert = f'<p class="problem" role="alert">{escape(sentence)}</p>'
        text = page(status.phrase, f'{alert}<p><a href="/">Back to the page of this node</a></p>')
        return HTML_TYPE, text.encode("utf-8", "replace")
    return TEXT_TYPE, f"{sentence}\n".encode("utf-8", "replace")
