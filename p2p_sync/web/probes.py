"""The routes for those who watch nodes, and the description of the API."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

from ..node.node import Node
from .answers import TEXT_TYPE, Answer
from .metrics import CONTENT_TYPE, Metrics
from .routes import Asked, Route


def probe_routes(node: Node, dropped: Callable[[], int], streams: Callable[[], int]) -> list[Route]:
    """Return the routes; `dropped` returns how many lines of the program's log were dropped, and
    `streams` how many streams are open."""
    metrics = Metrics(node, dropped, streams)
    description = Path(__file__).with_name("openapi.json").read_bytes()

    def healthz(_: Asked) -> Answer:
        return Answer(HTTPStatus.OK, [("Content-Type", TEXT_TYPE)], b"ok\n")

    def readyz(_: Asked) -> Answer:
        reason = node.unready()
        status = HTTPStatus.SERVICE_UNAVAILABLE if reason else HTTPStatus.OK
        return Answer(status, [("Content-Type", TEXT_TYPE)], f"{reason or 'ready'}\n".encode())

    def get_metrics(_: Asked) -> Answer:
        return Answer(HTTPStatus.OK, [("Content-Type", CONTENT_TYPE)], metrics.text())

    def openapi(_: Asked) -> Answer:
        return Answer(HTTPStatus.OK, [("Content-Type", "application/json")], description)

    return [
        Route("GET", "/healthz", healthz, takes=None),
        Route("GET", "/readyz", readyz, takes=None),
        Route("GET", "/metrics", get_metrics, takes=None),
        Route("GET", "/api/v1/openapi.json", openapi),
    ]
