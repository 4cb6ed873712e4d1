"""The README is true: its tables are whole, and its names and figures are those of the code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from p2p_sync import settings as config
from p2p_sync.cli import client, exits
from p2p_sync.cli.run import run_node
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
from tests.project.test_layers import FOLDERS

README = (ROOT / "README.md").read_text()
SETUP = (ROOT / "setup.cfg").read_text()
PROSE = re.sub(r"```.*?```", "", README, flags=re.S)
"""All but the blocks of code."""


def tables() -> Iterator[list[list[str]]]:
    """The rows of each table, each a list of cells."""
    for block in re.findall(r"(?:^\|.*\n)+", PROSE, re.M):
        yield [cells(line) for line in block.splitlines()]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]


def table(*head: str) -> dict[str, list[str]]:
    """The rows below `head`, by their first cell."""
    (rows,) = (rows for rows in tables() if rows[0] == list(head))
    return {row[0]: row[1:] for row in rows[2:]}


def test_each_table_is_whole() -> None:
    assert PROSE.count("```") == 0, "each block of code ends"
    assert len(list(tables())) > 15
    for rows in tables():
        assert len(rows) > 2, f"a heading, a line and rows: {rows}"
        assert all(re.fullmatch(r":?-{3,}:?", cell) for cell in rows[1]), rows[0]
        assert {len(row) for row in rows} == {len(rows[0])}, rows[0]
    assert not re.search(r"^[^|\n].*\n\|", PROSE, re.M), "an empty line comes before a table"


def test_the_library_example_runs_and_is_short() -> None:
    (program,) = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(program.splitlines()) < 15
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["arrived: hello", "['hello']"]


def test_every_option_is_in_the_table_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(--[a-z-]+)`[^|]*\|([^|]*)\|", README, re.M))
    for parameter in run_node.params:
        for name in parameter.opts:
            if not name.startswith("--") or name in ("--version", "--help"):
                continue
            assert name in rows, f"{name} is not in the README"
            flag = isinstance(parameter, click.Option) and parameter.is_flag
            if isinstance(parameter.default, (str, int)) and not flag:
                assert f"{parameter.default}" in rows[name], name


def test_every_command_is_in_the_table() -> None:
    shown = table("command", "what it does")
    assert {row.strip("`").split()[1] for row in shown} == set(client.commands.commands)
    for name, command in client.commands.commands.items():
        (row,) = (text for first, (text,) in shown.items() if f"p2p-sync {name}" in first)
        options = {opt: p for p in command.params for opt in p.opts if opt in row}
        for option, given in re.findall(r"`(--[a-z-]+)` \(([^)]*)\)", row):
            assert f"{options[option].default:g}" == given, f"{name} {option}"


def test_the_exit_codes_are_all_there() -> None:
    listed = {int(code) for row in table("exit code", "means") for code in row.split(", ")}
    assert listed | {129, 143} == set(exits.MEANINGS)


def test_the_requests_are_those_of_the_description() -> None:
    described = json.loads((ROOT / "p2p_sync" / "web" / "openapi.json").read_text())["paths"]
    assert set(
        re.findall(r"`(?:GET|POST|DELETE) (/[^?`]*)", PROSE.replace("/KEY", "/{key}"))
    ) == set(described)


def test_what_it_is_built_from() -> None:
    needed = set(re.findall(r"^    ([\w-]+) *>=", SETUP.split("[options.packages.find]")[0], re.M))
    assert needed == set(table("package", "for"))
    folders = [folder.strip("`/").removeprefix("p2p_sync") for folder in table("folder", "holds")]
    assert folders == FOLDERS, "in the order of the layers"


def test_the_files_that_it_names_are_there() -> None:
    for name in re.findall(r"`((?:tests|p2p_sync|\.ci)/[\w./-]+)`", PROSE):
        assert (ROOT / name).exists(), name


def test_its_pictures_are_there_and_small() -> None:
    names = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README)
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
    "a message committed here; one from another node": [
        size(DEFAULT.max_message_bytes),
        size(config.MAX_MESSAGE_BYTES),
    ],
    "a frame, and the sum of its fragments": [size(DEFAULT.max_frame_bytes)],
    "addresses in a frame; remembered": [
        f"{config.MAX_ADDRESSES}",
        f"{config.MAX_KNOWN_ADDRESSES:,}",
    ],
    "accepted links; connections that are not open": [
        f"{DEFAULT.max_peers}",
        f"{config.MAX_UNPROVED}",
        f"{config.MAX_DIALS}",
    ],
    "an opening handshake": [
        seconds(DEFAULT.handshake_timeout),
        size(config.MAX_HANDSHAKE_BYTES),
        f"{opening._MOST_FRAMES}",
        size(proof.MAX_OPENING_BYTES),
    ],
    "empty fragments in a message": [f"{frames._MAX_EMPTY}"],
    "PING; a silent link": [
        seconds(DEFAULT.heartbeat),
        seconds(2 * DEFAULT.heartbeat),
        seconds(DEFAULT.send_timeout),
    ],
    "accepted links of one remote host": [
        f"{DEFAULT.max_peers_per_host}",
        f"{config.SPARE_PEERS}",
    ],
    "redialling": [seconds(DEFAULT.redial_first), seconds(DEFAULT.redial_longest)],
    "names being resolved": [
        f"{config.MAX_LOOKUPS}",
        f"{config.MAX_LOOKUPS // 2}",
        f"{config.MAX_ENDPOINTS}",
    ],
    "addresses remembered from one remote host": [
        f"{config.MAX_ADDRESSES}",
        f"{config.STRANGERS_AT_ONCE}",
        f"{config.STRANGERS_A_MINUTE}",
    ],
    "origins of which one peer may claim more": [f"{replica_link.MAX_AHEAD:,}"],
    "messages that a peer is believed to hold": [
        f"{replica_link.BELIEVED:,}",
        f"{replica_link.TIMES_SHIPPED}",
        f"{replica_link.SHIPPED_PERIOD:g}",
        seconds(2 * replica_link.SHIPPED_PERIOD),
    ],
    "the same messages are sent": [seconds(replica_link.RESEND_AFTER)],
    "a frame that has begun": [seconds(2 * DEFAULT.heartbeat), f"{size(stream.LEAST_RATE)}/s"],
    "traffic that brings nothing new": [],
    "log lines about one node": [f"{60 / conduct.LOG_EVERY:g}"],
    "origins in a log; in a frame": [f"{replica.MAX_ORIGINS:,}", f"{logframes.MAX_NAMED:,}"],
    "messages in an entry of the log": [
        f"{logframes.MAX_BATCH:,}",
        size(logframes.MAX_ENTRY_BYTES),
        f"{logframes.MAX_SHIPPED:,}",
        size(logframes.MAX_ENTRY_BYTES),
    ],
    "HTTP: connections of this machine": [
        f"{config.HTTP_CONNECTIONS}",
        f"{config.HTTP_CONNECTIONS_PER_HOST}",
    ],
    "HTTP: requests answered": [
        f"{config.HTTP_THREADS}",
        f"{config.HTTP_WAITING}",
        "503",
    ],
    "HTTP: a request line and headers": [
        size(config.HTTP_MAX_HEAD_BYTES),
        size(config.HTTP_MAX_BULK_BODY),
        size(config.HTTP_MAX_BODY),
    ],
    "HTTP: until a head has arrived": [
        seconds(config.HTTP_ARRIVAL),
        seconds(config.HTTP_IDLE),
        f"{size(config.HTTP_LEAST_RATE)}/s",
        seconds(config.HTTP_STUCK),
    ],
    "a port that runs out of descriptors": [
        seconds(config.ACCEPT_PAUSE),
        f"{config.MAX_DESCRIPTORS:,}",
    ],
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
    r"one answer reads ([\d,]+) messages at most": log._SCAN_MESSAGES,
    r"`copies=1` \(`limit` up to (\d+)\)": config.API_MAX_COUNTED,
    r"waiting up to S \((\d+)\) seconds": config.API_MAX_POLL,
    r"an empty line comes first and each (\d+) s": f"{config.API_STREAM_PAUSE:g}",
    r"stays ready until it lacks more than ([\d,]+) messages": node._NEARLY,
    # the mesh
    r"fewer than `--target-links` \((\d+)\)": DEFAULT.target_links,
    r"remember up to ([\d,]+) in the data directory": config.MAX_KNOWN_ADDRESSES,
    r"every (\d+) s, with jitter": f"{DEFAULT.probe:g}",
    r"a random time from (\d+) s to 2 s": f"{DEFAULT.redial_first:g}",
    r"4 s, 8 s \.\.\. (\d+) s": f"{DEFAULT.redial_longest:g}",
    r"a link says nothing for (\d+) s": f"{2 * DEFAULT.heartbeat:g}",
    r"takes nothing for (\d+) s": f"{DEFAULT.send_timeout:g}",
    r"does not ship for (\d+) s what": f"{replica.STALLED_AFTER:g}",
    r"takes (\d+) more, each just to tell it addresses": config.SPARE_PEERS,
    r"(\d+) strangers are dialled at once": config.STRANGERS_AT_ONCE,
    r"dialled at once and (\d+) a minute": config.STRANGERS_A_MINUTE,
    # the wire
    r"or after (\d+) ms, so that": f"{DEFAULT.greeting_pause * 1000:g}",
    r"linked with, at most (\d+); the receiver": config.MAX_ADDRESSES,
    r"\| `protocol` \| (\d+) \|": protocol.PROTOCOL_VERSION,
    r"nodes that they lead to, at most (\d+) \|": config.MAX_LINKS_TOLD,
    r"one message or many \(at most ([\d,]+), and": logframes.MAX_BATCH,
    # security
    r"of at least (\d+) bytes": private._LEAST_BYTES,
    r"keeps a cookie for (\d+) days": int(config.HTTP_COOKIE_AGE) // 86_400,
    # tests
    r"All (\d+) cases of groups": autobahn.CASE_COUNT,
    r"runs (eleven) scenarios": {11: "eleven"}[len(SCENARIOS)],
}
"""Sentences with a figure, as patterns, and what the code says."""


@pytest.mark.parametrize("pattern", FIGURES)
def test_a_figure_is_that_of_the_code(pattern: str) -> None:
    found = re.search(pattern, " ".join(PROSE.split()))
    assert found, "the README says it in other words: change the pattern"
    assert found[1].replace(",", "") == f"{FIGURES[pattern]}"


def test_the_figures_of_the_simulator_have_a_name_that_runs() -> None:
    shown = table("figure", "NAME", "measured", "goal")
    assert {row[0].strip("`") for row in shown.values()} == set(simulation.FIGURES)
