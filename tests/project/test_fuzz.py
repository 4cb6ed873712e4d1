"""Random and hostile input, for a bounded time: nothing but ProtocolError ever comes out.

`python -m tests.fuzz` goes on for longer; it says how.
"""

from __future__ import annotations

import json
import os
import random
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p_sync.core.replica import Replica
from p2p_sync.errors import ProtocolError
from p2p_sync.wire.frames import decode
from p2p_sync.wire.logframes import LOG_TYPES
from tests import fuzz
from tests.harness import fuzz_corpus

SECONDS = float(os.environ.get("P2P_SYNC_TEST_FUZZ", "5"))
"""How long each target is tried."""

KEYS = st.sampled_from(
    ["type", "addresses", "protocol", "signature", "proof", "port", "address", "link",
     "version", "enough", "leaves", "guests", "data", "origin", "seq", "time", "heard", "have",
     "last", "ack", "runs", "after", "previous", "entries", "origins", "refused", fuzz.A],
)  # fmt: skip
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20),
    st.sampled_from([*LOG_TYPES, "SOCKETS", "MESSAGE", fuzz.A, fuzz.HASH, "ws://h:1"]),
)  # fmt: skip
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4)
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=6)
TYPES = st.sampled_from([*LOG_TYPES, "SOCKETS", "MESSAGE"])


@pytest.mark.parametrize("target", fuzz.TARGETS)
@pytest.mark.parametrize("seed", [1, None], ids=["the same seed", "another seed"])
def test_mutated_input(target: str, seed: int | None) -> None:
    chosen = random.randrange(2**32) if seed is None else seed
    results = fuzz.run(target, chosen, 10_000_000, SECONDS / (4 if seed else 1))
    assert results.total() > 100
    assert len(results) > 2, "more than one thing came of it"


@settings(max_examples=500, deadline=None)
@given(OBJECTS, TYPES)
def test_any_object_is_understood_or_refused(fields: dict[str, Any], kind: str) -> None:
    fuzz.check_codec(json.dumps({**fields, "type": kind}))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_read_or_refused(data: bytes, masked: bool) -> None:
    fuzz.check_reader(data, masked)


@pytest.mark.parametrize("text", fuzz_corpus.TEXTS.values(), ids=fuzz_corpus.TEXTS)
def test_what_was_once_taken(text: str) -> None:
    with pytest.raises(ProtocolError):
        decode(text)


def test_a_very_long_host_is_refused_at_once() -> None:
    began = time.monotonic()
    assert fuzz.check_codec(json.dumps(fuzz_corpus.LONG_HOST)) == "taken"
    assert time.monotonic() - began < 1.0


def test_frames_that_made_tables_grow() -> None:
    replica = Replica(fuzz.OWN, {}, random.Random(1))
    link, other = replica.open("bad", 0.05, 0.0), replica.open("good", 0.05, 0.0)
    for number, fields in enumerate(fuzz_corpus.storm()):
        frame: Any = decode(json.dumps(fields))
        runs, conflicts, _, _ = replica.receiver.receive(link, frame, number * 0.001)
        assert not runs and not conflicts, "nothing is held that could differ"
        link.take(number * 0.001)
    count = len(fuzz_corpus.UNKNOWN)
    assert len(replica.catch_up.timers) <= 2 * count
    assert all(len(gap.asked) <= 2 for gap in replica.catch_up.gaps.values())
    assert len(link.progress.holds) + len(link.refused) <= count
    replica.close(link, 1.0)
    assert not [*replica.trees] and not replica.catch_up.gaps and not replica.vector.origins
    assert not other.take(1.0).ships
