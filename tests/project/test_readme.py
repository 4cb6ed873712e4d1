"""The documents are true: their tables are whole, their links lead somewhere, and their names and
figures are those of the code."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from p2p_sync import settings as config
from p2p_sync.cli import client
from p2p_sync.core import conduct, replica, replica_link
from p2p_sync.disk import log, private
from p2p_sync.net import opening, stream
from p2p_sync.net import websocket as frames
from p2p_sync.node import events, node
from p2p_sync.settings import Settings
from p2p_sync.wire import frames as protocol
from p2p_sync.wire import logframes, proof
from tests import autobahn, simulation
from tests.bench.scenarios import SCENARIOS
from tests.harness.support import DEADLINE, ROOT
from tests.project.documents import DOCUMENTS, PROSE, README, SENTENCES, Document, table

SETUP = (ROOT / "setup.cfg").read_text()
NAMES = [text.name for text in DOCUMENTS]


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_each_table_is_whole(document: Document) -> None:
    assert document.prose.count("```") == 0, "each block of code ends"
    for rows in document.tables:
        assert len(rows) > 2, f"a heading, a line and rows: {rows}"
        assert all(re.fullmatch(r":?-{3,}:?", cell) for cell in rows[1]), rows[0]
        assert {len(row) for row in rows} == {len(rows[0])}, rows[0]
    assert not re.search(r"^[^|\n].*\n\|", document.prose, re.M), "an empty line before a table"


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_the_files_that_it_names_are_there(document: Document) -> None:
    for name in re.findall(r"`((?:tests|p2p_sync|\.ci)/[\w./-]*)`", document.prose):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_its_links_lead_somewhere(document: Document) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.prose):
        name, _, anchor = target.partition("#")
        path = (document.path.parent / name).resolve() if name else document.path
        assert path.exists(), target
        assert not anchor or anchor in anchors(Document(path)), target


def anchors(document: Document) -> set[str]:
    """What the headings of a document are called in links."""
    titles = re.findall(r"^#+ (.*)", document.prose, re.M)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


def test_the_library_example_runs_and_is_short() -> None:
    (program,) = README.blocks("python")
    assert len(program.splitlines()) < 15
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["arrived: hello", "['hello']"]


def test_every_command_is_in_the_table() -> None:
    shown = table("command", "what it does")
    assert {row.strip("`").split()[1] for row in shown} == set(client.commands.commands)
    for name, command in client.commands.commands.items():
        (row,) = (text for first, (text,) in shown.items() if f"p2p-sync {name}" in first)
        options = {opt: p for p in command.params for opt in p.opts if opt in row}
        for option, given in re.findall(r"`(--[a-z-]+)` \(([^)]*)\)", row):
            assert f"{options[option].default:g}" == given, f"{name} {option}"


def test_the_requests_are_those_of_the_description() -> None:
    described = json.loads((ROOT / "p2p_sync" / "web" / "openapi.json").read_text())["paths"]
    assert set(re.findall(r"`(?:GET|POST|DELETE) (/[^?`]*)", PROSE)) == set(described)


def test_what_it_is_built_from() -> None:
    needed = set(re.findall(r"^    ([\w-]+) *>=", SETUP.split("[options.packages.find]")[0], re.M))
    assert needed == set(table("package", "for"))


def test_the_readme_is_short() -> None:
    assert len(README.text) < 15_000, "what newcomers do not need belongs into another document"


def test_its_pictures_are_there_and_small() -> None:
    names = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README.text)
    assert names == ["tests/page.png"]
    assert (ROOT / names[0]).stat().st_size < 150_000


# -- figures ---------------------------------------------------------------------------------------

DEFAULT = Settings()


def size(count: int) -> str:
    """A number of bytes as the README writes it."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count} {unit}"
        count //= 1024
    return f"{count} GiB"


def seconds(time: float) -> str:
    return f"{time:g} s"


LIMITS: dict[str, list[str]] = {
    "an opening handshake": [
        seconds(DEFAULT.handshake_timeout),
        size(config.MAX_HANDSHAKE_BYTES),
        f"{opening._MOST_FRAMES}",
        size(proof.MAX_OPENING_BYTES),
    ],
    "empty fragments in a message": [f"{frames._MAX_EMPTY}"],
    "a frame that has begun": [seconds(2 * DEFAULT.heartbeat), f"{size(stream.LEAST_RATE)}/s"],
    "traffic that brings nothing new": [],
    "origins of which one peer may claim more": [f"{replica_link.MAX_AHEAD:,}"],
    "messages that a peer is believed to have": [
        f"{replica_link.BELIEVED:,}",
        f"{replica_link.TIMES_SHIPPED}",
        f"{replica_link.SHIPPED_PERIOD:g}",
        seconds(2 * replica_link.SHIPPED_PERIOD),
    ],
    "the same messages are sent": [seconds(replica_link.RESEND_AFTER)],
    "origins in a log; in a frame": [f"{replica.MAX_ORIGINS:,}", f"{logframes.MAX_NAMED:,}"],
    "messages in an entry of the log": [
        f"{logframes.MAX_BATCH:,}",
        size(logframes.MAX_ENTRY_BYTES),
        f"{logframes.MAX_SHIPPED:,}",
        size(logframes.MAX_ENTRY_BYTES),
    ],
    "log lines about one node": [f"{60 / conduct.LOG_EVERY:g}"],
}
"""The figures of each row of the table of limits, by the beginning of the row."""


@pytest.mark.parametrize("start", LIMITS)
def test_a_limit_is_that_of_the_code(start: str) -> None:
    (limit,) = (
        limit for what, (limit,) in table("what", "limit").items() if what.startswith(start)
    )
    assert re.findall(r"\d+(?:,\d{3})*(?: (?:[KMG]iB(?:/s)?|s\b))?", limit) == LIMITS[start]


def test_every_limit_is_checked() -> None:
    for what in table("what", "limit"):
        assert any(what.startswith(start) for start in LIMITS), f"add {what!r} to LIMITS"


FIGURES: dict[str, object] = {
    # the API
    r"holds one of the (\d+) slots": config.HTTP_WAITING,
    r"the last ([\d,]+) are kept": events._MOST,
    r"One answer reads ([\d,]+) messages at most": log._SCAN_MESSAGES,
    r"`copies=1` \(`limit` up to (\d+)\)": config.API_MAX_COUNTED,
    r"waiting up to S \((\d+)\) seconds": config.API_MAX_POLL,
    r"an empty line comes first and each (\d+) s": f"{config.API_STREAM_PAUSE:g}",
    r"stays ready until it lacks more than ([\d,]+) messages": node._NEARLY,
    # the mesh
    r"fewer links than `--target-links` \((\d+)\)": DEFAULT.target_links,
    r"remember up to ([\d,]+) in the data directory": config.MAX_KNOWN_ADDRESSES,
    r"every (\d+) s, with jitter": f"{DEFAULT.probe:g}",
    r"a random time from (\d+) s to 2 s": f"{DEFAULT.redial_first:g}",
    r"4 s, 8 s \.\.\. (\d+) s": f"{DEFAULT.redial_longest:g}",
    r"a link says nothing for (\d+) s": f"{2 * DEFAULT.heartbeat:g}",
    r"takes nothing for (\d+) s": f"{DEFAULT.send_timeout:g}",
    r"does not ship for (\d+) s what": f"{replica.STALLED_AFTER:g}",
    r"takes (\d+) more, each just to send it addresses": config.SPARE_PEERS,
    r"(\d+) unknown addresses are dialled at once": config.STRANGERS_AT_ONCE,
    r"dialled at once and (\d+) a minute": config.STRANGERS_A_MINUTE,
    # the wire
    r"or after (\d+) ms, so that": f"{DEFAULT.greeting_pause * 1000:g}",
    r"connected with, at most (\d+); the receiver": config.MAX_ADDRESSES,
    r"\| `protocol`, `version` \| (\d+);": protocol.PROTOCOL_VERSION,
    r"nodes that they lead to, at most (\d+) \|": config.MAX_LINKS_TOLD,
    r"one message or many \(at most ([\d,]+), and": logframes.MAX_BATCH,
    # security
    r"a line, at least (\d+) bytes": private._LEAST_BYTES,
    r"keeps a cookie for (\d+) days": int(config.HTTP_COOKIE_AGE) // 86_400,
    # tests
    r"All (\d+) cases of groups": autobahn.CASE_COUNT,
    r"runs (eleven) scenarios": {11: "eleven"}[len(SCENARIOS)],
}
"""Sentences with a figure, as patterns, and what the code says."""


@pytest.mark.parametrize("pattern", FIGURES)
def test_a_figure_is_that_of_the_code(pattern: str) -> None:
    found = re.findall(pattern, SENTENCES)
    assert found, "the documents say it in other words: change the pattern"
    assert {figure.replace(",", "") for figure in found} == {f"{FIGURES[pattern]}"}


def test_the_figures_of_the_simulator_have_a_name_that_runs() -> None:
    shown = table("figure", "NAME", "measured", "goal")
    assert {row[0].strip("`") for row in shown.values()} == set(simulation.FIGURES)
