"""Makes the README's picture: the page of a node in a lively mesh of six.

python -m tests.screenshot [FILE]          writes tests/page.png, in about a minute and a half
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from tests.harness.browser import browser, missing
from tests.harness.support import (
    ROOT,
    NodeProcess,
    free_port_pair,
    request,
    wait_sockets,
    wait_until,
)

NAMES = ["web-1", "web-2", "web-3", "db-1", "db-2", "backup"]
TEXTS = [
    "Build 2291 is green, 14 min",
    "Deploy of api to eu-west finished in 41 s",
    "Who takes the pager tonight?",
    "I do, until 8.",
    "Backup of db-2 verified: 41,200 rows",
    "Disk of node 3 at 71 %, fine until Friday",
    "\u00a1Gracias! La cola est\u00e1 vac\u00eda otra vez.",
    "Rotated the certificate of the proxy",
    "Latency back to normal after the restart",
]


def post(node: NodeProcess, text: str, copies: int) -> None:
    body = json.dumps({"data": text}).encode()
    kind = {"Content-Type": "application/json"}
    request(node.port, f"/api/v1/messages?copies={copies}&timeout=1", "POST", kind, body)


def smaller(png: bytes) -> bytes:
    """Return the picture (8 bits RGB or RGBA) with a palette of its 256 most used colours."""
    chunks: list[tuple[bytes, bytes]] = []
    at = 8
    while at < len(png):
        (size,) = struct.unpack(">I", png[at : at + 4])
        chunks.append((png[at + 4 : at + 8], png[at + 8 : at + 8 + size]))
        at += size + 12
    width, height, _, kind = struct.unpack(">IIBB", chunks[0][1][:10])
    depth = {2: 3, 6: 4}[kind]
    data = zlib.decompress(b"".join(body for name, body in chunks if name == b"IDAT"))
    rows = unfiltered(data, width * depth, depth)
    pixels = [[row[i : i + 3] for i in range(0, len(row), depth)] for row in rows]
    common = [color for color, _ in Counter(itertools.chain(*pixels)).most_common(256)]
    index = {color: number for number, color in enumerate(common)}

    def nearest(color: bytes) -> int:
        if color not in index:
            apart = [sum((a - b) ** 2 for a, b in zip(color, c, strict=True)) for c in common]
            index[color] = apart.index(min(apart))
        return index[color]

    body = b"".join(b"\0" + bytes(nearest(color) for color in row) for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    parts = [(b"IHDR", header), (b"PLTE", b"".join(common))]
    parts += [(b"IDAT", zlib.compress(body, 9)), (b"IEND", b"")]
    return png[:8] + b"".join(
        struct.pack(">I", len(text)) + name + text + struct.pack(">I", zlib.crc32(name + text))
        for name, text in parts
    )


def unfiltered(data: bytes, size: int, depth: int) -> Iterator[bytes]:
    """Yield the rows of a PNG without their filters."""
    above = bytes(size)
    for start in range(0, len(data), size + 1):
        kind, row = data[start], bytearray(data[start + 1 : start + 1 + size])
        for i in range(size if kind else 0):
            left = row[i - depth] if i >= depth else 0
            corner = above[i - depth] if i >= depth else 0
            up = above[i]
            guess = left + up - corner
            paeth = min(
                (abs(guess - value), n, value) for n, value in enumerate((left, up, corner))
            )[2]
            row[i] = (row[i] + (0, left, up, (left + up) // 2, paeth)[kind]) & 255
        above = bytes(row)
        yield above


def take(path: Path, port: int, seconds: float) -> None:
    """Write the picture of a node at `port` after so many seconds of life to `path`."""
    chance = random.Random(3)
    with ExitStack() as stack:
        kept = stack.enter_context(tempfile.TemporaryDirectory())
        ports = [port, *(free_port_pair() for _ in range(5))]
        nodes = [
            stack.enter_context(
                NodeProcess("--name", name, port=port, data_dir=Path(kept, str(port)))
            )
            for name, port in zip(NAMES, ports, strict=True)
        ]
        one, *others = nodes
        page = stack.enter_context(browser()).new_page(
            viewport={"width": 1200, "height": 1166}, color_scheme="light", locale="en-GB"
        )
        page.goto(f"http://127.0.0.1:{one.port}/")
        for node in others[:3]:
            one.add(node.address)
        for node in others[3:]:
            node.add(one.address)
        wait_sockets(5, *nodes)
        texts = itertools.cycle(TEXTS)
        end = time.monotonic() + seconds
        gone = others[4]
        while (left := end - time.monotonic()) > 0:
            rate = 2 + 6 * abs(chance.gauss(0, 1)) * (left % 25 > 12)
            for _ in range(round(rate)):
                post(chance.choice(nodes[:5]), next(texts), 0)
            if left < seconds * 0.6 and gone.process.poll() is None:
                gone.process.kill()
            page.wait_for_timeout(700)
        again = NodeProcess("--name", NAMES[-1], port=gone.port, data_dir=gone.data_dir)
        nodes[-1] = stack.enter_context(again)
        wait_sockets(5, *nodes)
        for node, text in zip(chance.sample(nodes, 6), TEXTS, strict=False):
            post(node, text, 1)
        page.fill("#msg", "It is the same on every node.")
        page.press("#msg", "Enter")
        page.wait_for_selector("#send-answer[data-kind=good]")
        page.evaluate("document.activeElement.blur()")
        # What peers tell of at leisure they have told within half a minute.
        lacking = "#messages li:nth-child(-n+7) .copies:not(:empty)"
        wait_until(lambda: page.locator(lacking).count() == 0, "all peers have told", 60)
        page.wait_for_selector("#verdict[data-state=in_sync]")
        page.wait_for_timeout(2500)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(smaller(page.screenshot()))
    print(f"{path}: {path.stat().st_size:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.screenshot", description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, default=ROOT / "tests" / "page.png")
    parser.add_argument("--port", type=int, default=8000, help="of the node in the picture (8000)")
    parser.add_argument("--seconds", type=float, default=60, help="of life before it (60)")
    options = parser.parse_args()
    if missing():
        sys.exit(missing())
    take(options.file, options.port, options.seconds)


if __name__ == "__main__":
    main()
