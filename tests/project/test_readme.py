"""The documents are true: their tables are whole, their links lead somewhere, and their names and
figures are those of the code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import defaultdict
from configparser import ConfigParser
from dataclasses import asdict
from functools import cache
from importlib import import_module
from pkgutil import walk_packages
from typing import Any

import pytest

import p2p_sync
from p2p_sync.cli.program import program
from p2p_sync.settings import Settings
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


BETTER = {
    "linked with": "connected with",
    "sheds?": "closes",
    "(?:to |says how to )put right": "fix",
    "case apart": "ignoring case",
    "cannot be had": "not usable",
    "com(?:es?|ing) of": "result",
    "hearings?": "deduplication",
    "whom": "which peer, which node",
    "parted": "split",
    "introduced": "known",
}
"""Words that readers had to read twice, and the words that they expect."""


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_its_words_are_those_that_readers_know(document: Document) -> None:
    prose = re.sub(r"`[^`]*`", "", document.prose)
    found = {word: better for word, better in BETTER.items() if re.search(rf"\b{word}\b", prose)}
    assert not found


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
    assert {row.strip("`").split()[1] for row in shown} == set(program.commands)
    for name, command in program.commands.items():
        (row,) = (text for first, (text,) in shown.items() if first.strip("`").split()[1] == name)
        options = {opt: p for p in command.params for opt in p.opts if opt in row}
        for option, given in re.findall(r"`(--[a-z-]+)` \(([^)]*)\)", row):
            assert f"{options[option].default:g}" == given, f"{name} {option}"


def test_the_requests_are_those_of_the_description() -> None:
    described = json.loads((ROOT / "p2p_sync" / "web" / "openapi.json").read_text())["paths"]
    assert set(re.findall(r"`(?:GET|POST|DELETE) (/[^?`]*)", PROSE)) == set(described)


def test_the_states_are_those_of_the_description() -> None:
    schemas = json.loads((ROOT / "p2p_sync" / "web" / "openapi.json").read_text())["components"]
    verdict, peer = (
        set(schemas["schemas"][name]["properties"]["state"]["enum"]) for name in ("Verdict", "Peer")
    )

    def states(*head: str) -> set[str]:
        return {state.strip("`") for state in table(*head)}

    assert states("state", "for example", "means") == verdict
    assert states("`verdict.state`", "`text`, for example", "means") == verdict
    assert states("`state` of a peer", "means") == peer


def test_what_it_is_built_from() -> None:
    setup = ConfigParser()
    setup.read_string(SETUP)
    extras = (text for name, text in setup["options.extras_require"].items() if name != "test")
    texts = [setup["options"]["install_requires"], *extras]
    needed = set(re.findall(r"^([\w-]+) *>=", "\n".join(texts), re.M))
    assert needed == set(table("package", "for"))


def test_the_readme_is_short() -> None:
    assert len(README.text) < 15_000, "what newcomers do not need belongs into another document"


def test_its_pictures_are_there_and_small() -> None:
    names = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README.text)
    assert names == ["tests/page.png"]
    assert (ROOT / names[0]).stat().st_size < 150_000


# -- figures ---------------------------------------------------------------------------------------


@cache
def numbers() -> dict[str, Any]:
    """The numbers of the code by their names without a leading underscore, wherever they live.

    A name with several values in several files has that of its file before it: `log_MOST`.
    """
    found: dict[str, set[float]] = defaultdict(set)
    for module in walk_packages(p2p_sync.__path__, "p2p_sync."):
        if module.name != "p2p_sync.__main__":
            for name, value in vars(import_module(module.name)).items():
                if type(value) in (int, float):
                    found[name.lstrip("_")].add(value)
                    found[f"{module.name.rpartition('.')[2]}_{name.lstrip('_')}"].add(value)
    values = {name: value.pop() for name, value in found.items() if len(value) == 1}
    return {**asdict(Settings()), **values}


FIGURES = {
    # the API
    r"and up to (\d+) may be open": "HTTP_STREAMS",
    r"and (\d+) on others; the next one gets 503": "HTTP_STREAMS",
    r"Of more than (\d+) messages at once": "PAGE_NEWS",
    r"A comment comes each (\d+) s": "API_STREAM_PAUSE",
    r"takes nothing for (\d+) s is closed": "HTTP_STUCK",
    r"has not taken (\d+) KiB gets nothing further": "HTTP_STREAM_UNSENT / 1024",
    r"the last ([\d,]+) are kept": "MAX_EVENTS",
    r"One answer reads ([\d,]+) messages at most": "MAX_SEARCH_MESSAGES",
    r"`copies=1` \(`limit` up to (\d+)\)": "API_MAX_COUNTED",
    r"waiting up to S \((\d+)\) seconds": "API_MAX_POLL",
    r"an empty line comes first and each (\d+) s": "API_STREAM_PAUSE",
    r"stays ready until it is missing more than ([\d,]+) messages": "NEARLY_READY",
    r"workers of waitress, (\d+)": "HTTP_THREADS",
    r"where (\d+) requests wait already": "HTTP_WAITING",
    r"share (\d+) slots": "HTTP_WAITING",
    r"unreachable for less than (\d+) s": "VERDICT_RESTART / 1000",
    r"said nothing for (\d+) s after it was connected": "VERDICT_ANSWER / 1000",
    # the mesh
    r"fewer links than `--target-links` \((\d+)\)": "target_links",
    r"remember up to ([\d,]+) in the data directory": "MAX_KNOWN_ADDRESSES",
    r"Each ([\d.]+) s, or when one has failed": "HEAD_START",
    r"a head start of ([\d.]+) s": "HEAD_START",
    r"every (\d+) s, with jitter": "probe",
    r"a random time from (\d+) s to 2 s": "redial_first",
    r"4 s, 8 s \.\.\. (\d+) s": "redial_longest",
    r"a link says nothing for (\d+) s": "2 * heartbeat",
    r"A PING goes out each (\d+) s": "heartbeat",
    r"a link that is silent for (\d+) s": "2 * heartbeat",
    r"takes nothing for (\d+) s": "send_timeout",
    r"its peer has read nothing for (\d+) s": "send_timeout",
    r"must arrive at (\d+) KiB/s": "LEAST_RATE / 1024",
    r"does not ship for (\d+) s what": "STALLED_AFTER",
    r"takes (\d+) more, each just to send it addresses": "SPARE_PEERS",
    r"(\d+) addresses that have never worked": "MAX_ADDRESSES",
    r"dials at most (\d+) of them at a time": "MAX_DIALS",
    # clocks and original nodes
    r"dated more than (\d+) s ahead of the reader's clock": "MAX_AHEAD_MS / 1000",
    r"more than (\d+) copies of one text in 10 s": "MAX_MATCHED",
    r"copies of one text in (\d+) s": "COPY_WINDOW / 1000",
    r"logged by different nodes within (\d+) s": "COPY_WINDOW / 1000",
    # the wire
    r"the other's, or after (\d+) ms": "greeting_pause * 1000",
    r"connected with, at most (\d+); the receiver": "settings_MAX_ADDRESSES",
    r"GET says protocol (\d+), the": "PROTOCOL_VERSION",
    r"nodes that they lead to, at most (\d+) \|": "MAX_LINKS_NAMED",
    r"one message or many \(at most ([\d,]+), and": "MAX_BATCH",
    # the disk
    r"emptied when it (?:is longer|has grown beyond) (?:than )?(\d+) MB": "MAX_WAL_BYTES / 2**20",
    r"A log of up to (\d+) MB is checked whole": "MAX_CHECKED_BYTES / 2**20",
    r"up to (\d+) MB of lines wait": "LOG_BACKLOG / 2**20",
    # security
    r"a line, at least (\d+) bytes": "LEAST_SECRET_BYTES",
    r"believes up to ([\d,]+) of them": "BELIEVED",
    r"keeps a cookie for (\d+) days": "HTTP_COOKIE_AGE / 86_400",
    # tests
    r"All (\d+) cases of groups": f"{autobahn.CASE_COUNT}",
    r"runs (\d+) scenarios": f"{len(SCENARIOS)}",
}
"""Sentences with a figure, as patterns, and what the code says."""


@pytest.mark.parametrize("pattern", FIGURES)
def test_a_figure_is_that_of_the_code(pattern: str) -> None:
    found = re.findall(pattern, SENTENCES)
    assert found, "the documents say it in other words: change the pattern"
    value = eval(FIGURES[pattern], numbers())
    assert {figure.replace(",", "") for figure in found} == {f"{value:g}"}


def test_the_figures_of_the_simulator_have_a_name_that_runs() -> None:
    shown = table("figure", "NAME", "measured", "goal")
    assert {row[0].strip("`") for row in shown.values()} == set(simulation.FIGURES)
