"""Problem documents (RFC 9457): what the API answers where it cannot do what it was asked."""

from __future__ import annotations

import json
from http import HTTPStatus

KIND = "application/problem+json"


def is_api(path: str) -> bool:
    """Return whether what is wrong with a request for `path` is told in a problem document."""
    return path == "/api" or path.startswith("/api/")


def problem(status: HTTPStatus, detail: str, **more: int) -> str:
    """Return the document; `detail` says how to put it right, `more` are members of our own."""
    fields = {"type": "about:blank", "title": status.phrase, "status": status.value}
    return json.dumps({**fields, "detail": detail, **more}, ensure_ascii=False)
