"""The search: what looks the same to a person is found, at a cost that no text can drive up."""

from __future__ import annotations

import json
import random
import time
from unicodedata import normalize
from urllib.parse import quote

import pytest

from p2p_sync.disk.folding import folded
from tests.harness.api import post_all
from tests.harness.support import SCALE, NodeProcess

SAME = [
    ("caf\u00e9", "cafe\u0301"),
    ("CAF\u00c9", "cafe\u0301"),
    ("Stra\u00dfe", "STRASSE"),
    ("\uac00\ub098", normalize("NFD", "\uac00\ub098")),
    ("\uff21\uff22\uff23", "abc"),  # full width
    ("\ufb01n", "FIN"),  # a ligature
    ("\u212bngstr\u00f6m", "a\u030angstro\u0308m"),  # the sign for the unit
    ("\u0130", "i\u0307"),
    ("\u1e69", "s\u0307\u0323"),  # marks in another order
    ("\u03c3\u03c2", "\u03a3\u03a3"),  # both small sigmas
    ("\u304c", "\u304b\u3099"),
    ("\u2460", "1"),
]


def found(node: NodeProcess, text: str) -> list[str]:
    answer = node.get(f"/api/v1/messages?order=newest&limit=1000&q={quote(text)}")
    return [message["data"] for message in json.loads(answer.body)["messages"]]


def test_composed_and_decomposed_letters_find_each_other() -> None:
    with NodeProcess("--ephemeral") as node:
        texts = [f"<{text}>" for pair in SAME for text in pair]
        post_all(node.port, texts)
        for number, pair in enumerate(SAME):
            for text in pair:
                assert set(found(node, text)) >= set(texts[2 * number : 2 * number + 2]), text
        assert found(node, "caf\u00e8") == [], "another accent"
        start = node.api("messages")["messages"][0]["id"]
        assert len(found(node, start[:12].upper())) == len(texts), "the beginning of an id"


@pytest.mark.parametrize("pair", SAME)
def test_the_place_in_a_text_does_not_matter(pair: tuple[str, str]) -> None:
    for length in range(120):
        for filler in ("x", "\u4e2d", "\u0434 ", "\uac00"):
            text = filler * length
            one, other = (f"{text}{part}{text}" for part in pair)
            assert folded(pair[0]) in folded(other) and folded(pair[1]) in folded(one)


def test_ordinary_texts_are_folded_as_a_whole() -> None:
    letters = "abcXYZ \u00e9\u0301e\u0323 \u00df\u0434\u0416 \uac00\u1100\u1161 \u4e2d \u304b\u3099"
    draw = random.Random(1)
    for _ in range(500):
        text = "".join(draw.choice(letters) for _ in range(draw.randrange(300)))
        whole = normalize("NFKC", normalize("NFKC", text).casefold())
        assert folded(text) == whole, ascii(text)


@pytest.mark.parametrize(
    "unit",
    ["\u0301\u0316", "\u0f73", "\u0345\u0301", "\u0344", "\ufdfa", "\u1d160", "a\u0301\u0316"],
)
def test_no_text_makes_a_search_slow(unit: str) -> None:
    def cost(count: int) -> float:
        begin = time.process_time()
        folded(unit * count)
        return time.process_time() - begin

    # A whole text of marks takes seconds, for Python sorts them in the square of their number.
    assert cost(64 * 1024 // len(unit.encode())) < 0.5 * SCALE


def test_one_answer_reads_a_bounded_part_of_a_log_of_costly_texts() -> None:
    with NodeProcess("--ephemeral") as node:
        post_all(node.port, ["\u0f73" * 21_000] * 200)
        begin = time.monotonic()
        answer = node.api("messages?order=newest&q=nothing")
        assert time.monotonic() - begin < 10 * SCALE
        assert not answer["messages"] and not answer["complete"] and answer["next"]
