"""What a node says of itself, and how fast it changes: the figures of `top`."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from ..names import label
from ..settings import CLI_ANSWER, SHORT_ID
from .api import Api
from .logline import printable
from .printing import moment, size, table

_HEAD = ["NAME", "ADDRESS", "ID", "STATE", "DELAY", "IN/S", "OUT/S", "BEHIND"]
_LOG_BYTES = re.compile(r"^p2p_sync_log_bytes (\S+)$", re.M)


class Sample(NamedTuple):
    """What a node says of itself at one moment."""

    time: float  # seconds since the epoch
    at: float  # the same moment, monotonic
    status: dict[str, Any]
    peers: list[dict[str, Any]]
    log_bytes: int


def sample(api: Api) -> Sample:
    """Ask the node; raises Failure."""
    status = api.ask("/api/v1/status", within=CLI_ANSWER)
    peers = api.ask("/api/v1/peers", within=CLI_ANSWER)["peers"]
    found = _LOG_BYTES.search(api.text("/metrics", within=CLI_ANSWER))
    on_disk = int(float(found[1])) if found else 0
    return Sample(time.time(), time.monotonic(), status, peers, on_disk)


class Changes:
    """What a node says now, and how fast it has changed."""

    def __init__(self, before: Sample, now: Sample) -> None:
        self.now = now
        self._seconds = max(now.at - before.at, 1e-3)
        links = {(peer["key"], peer["since"]): peer for peer in before.peers}
        self.received = [self._rate(links, peer, "received") for peer in now.peers]
        self.sent = [self._rate(links, peer, "sent") for peer in now.peers]
        counts = [each.status["messages"]["count"] for each in (before, now)]
        self.added = (counts[1] - counts[0]) / self._seconds

    def _rate(
        self, links: dict[tuple[str, int], dict[str, Any]], peer: dict[str, Any], way: str
    ) -> float:
        before = links.get((peer["key"], peer["since"]))  # None: the link is new
        count = peer[way]["messages"] - (before[way]["messages"] if before else 0)
        return float(max(0, count) / self._seconds)

    def fields(self) -> dict[str, Any]:
        """Return all as JSON."""
        status = self.now.status
        names = ("key", "id", "name", "address", "state", "rtt_ms", "behind")
        return {
            "time": int(self.now.time * 1000),
            "verdict": status["verdict"],
            "messages": {
                "count": status["messages"]["count"],
                "bytes": self.now.log_bytes,
                "per_second": round(self.added, 1),
            },
            "behind": status["behind"],
            "received_per_second": round(sum(self.received), 1),
            "sent_per_second": round(sum(self.sent), 1),
            "peers": [
                {
                    **{name: peer[name] for name in names},
                    "received_per_second": round(received, 1),
                    "sent_per_second": round(sent, 1),
                }
                for peer, received, sent in self._each_peer()
            ],
        }

    def verdict(self) -> str:
        """Return the state in words."""
        return printable(self.now.status["verdict"]["text"])

    def totals(self) -> str:
        """Return the figures of the whole node in one line."""
        status = self.now.status
        return (
            f"messages {status['messages']['count']:,} ({self.added:+,.1f}/s)  "
            f"log {size(self.now.log_bytes)}  behind {status['behind']:,}  "
            f"in {sum(self.received):,.1f}/s  out {sum(self.sent):,.1f}/s"
        )

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield the lines of a screen, each with the state whose colour it has, "" for none."""
        status = self.now.status
        called = printable(label(status["node"]["id"], status["node"]["name"] or ""))
        yield f"{called}  {moment(int(self.now.time * 1000))}", ""
        yield self.verdict(), status["verdict"]["state"]
        yield self.totals(), ""
        for warning in status["warnings"]:
            yield f"Warning: {printable(warning)}.", "degraded"
        yield "", ""
        rows = [_HEAD, *(_row(*each) for each in self._each_peer())]
        states = ["", *(peer["state"] for peer in self.now.peers)]
        yield from zip(table(rows), states, strict=True)

    def _each_peer(self) -> Iterator[tuple[dict[str, Any], float, float]]:
        return zip(self.now.peers, self.received, self.sent, strict=True)


def _row(peer: dict[str, Any], received: float, sent: float) -> list[str]:
    rtt, behind = peer["rtt_ms"], peer["behind"]
    linked = peer["state"] == "connected"
    cells = [
        peer["name"] or "-",
        peer["address"] or "-",
        (peer["id"] or "-")[:SHORT_ID],
        peer["state"],
        "-" if rtt is None else f"{rtt:.1f} ms",
        f"{received:,.1f}" if linked else "-",
        f"{sent:,.1f}" if linked else "-",
        ("?" if linked else "-") if behind is None else f"{behind:,}",
    ]
    return [printable(cell) for cell in cells]
