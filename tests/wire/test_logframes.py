"""The frames of the log: what is sent is what arrives, and nothing wrong gets in."""

from __future__ import annotations

import json
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p_sync.codes import MAX_NUMBER
from p2p_sync.errors import ProtocolError
from p2p_sync.settings import (
    MAX_BATCH,
    MAX_ENTRY_BYTES,
    MAX_FORK_MARKS,
    MAX_MESSAGE_BYTES,
    MAX_ORIGINS_NAMED,
    MAX_SHIPPED,
)
from p2p_sync.wire.cutoffs import MAX_CUTOFF, NO_HISTORY, cutoff_of
from p2p_sync.wire.entries import HEARD, PLAIN, Entry, chain
from p2p_sync.wire.frames import decode, encode
from p2p_sync.wire.logframes import (
    LOG_FRAMES,
    NO_HASH,
    Fork,
    Graft,
    Have,
    Head,
    LogFrame,
    Look,
    Messages,
    Prune,
    Run,
    Sums,
)

A, B = "a" * 32 + "-1", "b" * 32 + "-4711"
HASH = "0123456789abcdef" * 2
SIG = "0123456789abcdef" * 12
CUTOFF = cutoff_of("c" * 32)

ORIGINS = st.from_regex(
    r"[0-9a-f]{32}-[1-9][0-9]{0,15}(~[0-9]{1,16}~[0-9a-f]{32})?", fullmatch=True
)
HASHES = st.from_regex(r"[0-9a-f]{32}", fullmatch=True)
SIGNATURES = st.from_regex(r"[0-9a-f]{192}", fullmatch=True)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=60)
ENTRIES = st.one_of(
    st.builds(
        Entry,
        st.integers(0, MAX_NUMBER),
        TEXTS,
        st.sampled_from([PLAIN, HEARD]),
        st.just(1),
        st.sampled_from(["", "a/b"]),
        st.just(""),
        st.just(""),
    ),
    st.tuples(st.integers(0, MAX_NUMBER), st.lists(TEXTS, min_size=2, max_size=5)).map(
        lambda pair: Entry.of(*pair)
    ),
    st.builds(
        Entry.of,
        st.integers(0, MAX_NUMBER),
        st.lists(TEXTS, min_size=1, max_size=3),
        st.just(PLAIN),
        st.sampled_from(["", "a/b"]),
        st.just(f"{MAX_NUMBER}:{'a' * 32}"),
    ),
)
HEADS = st.builds(Head, st.integers(1, MAX_NUMBER), HASHES, SIGNATURES)
CUTOFFS = st.dictionaries(
    st.from_regex(r"[0-9a-f]{32}-0", fullmatch=True),
    st.builds(Head, st.integers(1, MAX_CUTOFF), st.just(NO_HISTORY), SIGNATURES),
    max_size=2,
)
HAVES = st.builds(
    lambda heads, cutoffs: heads | cutoffs, st.dictionaries(ORIGINS, HEADS, max_size=5), CUTOFFS
)
NUMBERS = st.integers(0, MAX_NUMBER)
POSITIONS = st.dictionaries(ORIGINS, st.integers(1, MAX_NUMBER), max_size=4)
LACKS = st.none() | st.lists(st.integers(0, 3000), max_size=4).map(tuple)
INDEXES = st.none() | st.integers(0, MAX_NUMBER)


@st.composite
def runs(draw: st.DrawFn) -> Run:
    after = draw(st.integers(0, 2**40))
    entries = tuple(draw(st.lists(ENTRIES, min_size=1, max_size=8)))
    previous = draw(HASHES) if after else NO_HASH
    origin = draw(ORIGINS)
    origin = origin if after else origin.partition("~")[0]  # a branch names its first entry
    return Run(origin, after, previous, entries, (), draw(SIGNATURES))


FRAMES = st.one_of(
    st.builds(Have, HAVES, st.booleans(), st.booleans(), INDEXES, NUMBERS, LACKS, POSITIONS),
    st.builds(
        Sums,
        st.from_regex(r"[0-9a-f]{32}", fullmatch=True),
        NUMBERS,
        NUMBERS,
        st.sampled_from(["", "0123456789ab" * 64]),
        st.none() | st.dictionaries(st.integers(0, 63), st.just("0123456789ab" * 64), max_size=3),
        INDEXES,
        HAVES,
        st.booleans(),
        INDEXES,
    ),
    st.builds(
        Look,
        st.sets(st.integers(0, 4095), max_size=9).map(lambda leaves: tuple(sorted(leaves))),
        NUMBERS,
        NUMBERS,
        st.lists(st.from_regex(r"[0-9a-f]{12}", fullmatch=True), max_size=3).map(tuple),
        st.from_regex(r"[0-9a-f]{16}", fullmatch=True),
        HAVES,
        st.booleans(),
    ),
    st.builds(Messages, st.lists(runs(), max_size=4).map(tuple), HAVES, st.booleans()),
    st.builds(
        Prune,
        st.lists(ORIGINS, max_size=4).map(tuple),
        HAVES,
        st.booleans(),
    ),
    st.builds(
        Fork,
        ORIGINS,
        HEADS,
        st.lists(st.tuples(st.integers(1, MAX_NUMBER), HASHES), max_size=4),
        st.none(),
        HAVES,
        st.booleans(),
    ),
    st.builds(Fork, ORIGINS, HEADS, st.just(()), HASHES, HAVES, st.booleans()),
    st.builds(
        Graft,
        st.dictionaries(ORIGINS, st.integers(0, MAX_NUMBER), max_size=4),
        HAVES,
        st.booleans(),
    ),
)


@given(FRAMES)
def test_every_frame_arrives_as_it_was_sent(frame: LogFrame) -> None:
    assert decode(encode(frame)) == frame


@given(runs())
def test_every_run_arrives_with_the_hashes_worked_out(run: Run) -> None:
    frame = decode(encode(Messages((run,))))
    assert isinstance(frame, Messages)
    (arrived,) = frame.runs
    assert arrived == run
    assert arrived.end == run.after + sum(len(entry.texts) for entry in run.entries)
    assert arrived.hashes == chain(run.previous, run.entries)


@given(runs(), st.data())
def test_the_part_of_a_run_beyond_a_position_goes_on_in_the_chain(
    run: Run, data: st.DataObject
) -> None:
    whole = Run(run.origin, run.after, run.previous, run.entries, chain(run.previous, run.entries))
    cut = data.draw(st.integers(0, len(run.entries) - 1))
    ends = [run.after + n for n in accumulate((entry.length for entry in run.entries), initial=0)]
    rest = whole.beyond(ends[cut])
    assert rest and (rest.after, rest.end) == (ends[cut], whole.end)
    assert rest.entries == run.entries[cut:]
    for inside in set(range(run.after, whole.end)) - set(ends):
        assert whole.beyond(inside) is None
    assert (last := whole.beyond(whole.end)) and last.previous == whole.hashes[-1]
    assert chain(rest.previous, rest.entries) == rest.hashes == whole.hashes[cut:]


@given(st.lists(ENTRIES, min_size=1, max_size=5), st.lists(ENTRIES, min_size=1, max_size=5))
def test_equal_hashes_mean_equal_messages(one: list[Entry], other: list[Entry]) -> None:
    assert (chain(NO_HASH, one)[-1] == chain(NO_HASH, other)[-1]) == (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Entry(1, "x"), Entry(2, "x")),
        (Entry(1, "x"), Entry(1, "y")),
        (Entry(1, "x"), Entry(1, "x", True)),
        (Entry.of(1, ["x"], 0, "a", ""), Entry.of(1, ["x"], 0, "a", f"1:{'b' * 32}")),
        (Entry.of(1, ["x"], 0, "", f"2:{'b' * 32}"), Entry.of(1, ["x"], 0, "", f"1:{'b' * 32}")),
        (Entry(1, "0 x"), Entry(10, " x")),
        (Entry(1, ""), Entry(1, "\0")),
        (Entry.of(1, ["x", "y"]), Entry(1, '["x","y"]')),
        (Entry.of(1, ["x", "y"]), Entry.of(1, ["x", "y", ""])),
        (Entry.of(1, ["x", "y"]), Entry.of(1, ['x","y', ""])),
    ],
)
def test_every_part_of_a_message_is_in_its_hash(one: Entry, other: Entry) -> None:
    assert chain(HASH, [one]) != chain(HASH, [other])
    assert chain(HASH, [one]) != chain(NO_HASH, [one])


def test_unknown_fields_are_ignored() -> None:
    text = json.dumps({"type": "HAVE", "have": {A: [1, HASH, SIG]}, "last": True, "new": {"x": 1}})
    assert decode(text) == Have({A: Head(1, HASH, SIG)}, True)


# -- what is wrong ----------------------------------------------------------------------------


def run(**fields: Any) -> dict[str, Any]:
    """A run as it travels, with some fields changed; None leaves one out."""
    whole = {
        "origin": A,
        "after": 0,
        "previous": "",
        "entries": [[1, "text"]],
        "signature": SIG,
        **fields,
    }
    return {name: value for name, value in whole.items() if value is not None}


def messages(**fields: Any) -> dict[str, Any]:
    return {"type": "MESSAGES", "runs": [run(**fields)]}


WRONG: list[dict[str, Any]] = [
    {"type": "HAVE"},
    {"type": "HAVE", "have": None},
    {"type": "HAVE", "have": []},
    {"type": "HAVE", "have": {A: 1}},
    {"type": "HAVE", "have": {A: [1]}},
    {"type": "HAVE", "have": {A: [1, HASH, SIG, 1]}},
    {"type": "HAVE", "have": {A: [0, HASH, SIG]}},
    {"type": "HAVE", "have": {A: [-1, HASH, SIG]}},
    {"type": "HAVE", "have": {A: [True, HASH, SIG]}},
    {"type": "HAVE", "have": {A: [1.0, HASH, SIG]}},
    {"type": "HAVE", "have": {A: ["1", HASH, SIG]}},
    {"type": "HAVE", "have": {A: [2**53, HASH, SIG]}},
    {"type": "HAVE", "have": {A: [1, "", SIG]}},
    {"type": "HAVE", "have": {A: [1, HASH.upper(), SIG]}},
    {"type": "HAVE", "have": {A: [1, HASH + "0", SIG]}},
    {"type": "HAVE", "have": {A: [1, None, SIG]}},
    {"type": "HAVE", "have": {A: [1, HASH]}},
    {"type": "HAVE", "have": {A: [1, HASH, None]}},
    {"type": "HAVE", "have": {A: [1, HASH, ""]}},
    {"type": "HAVE", "have": {A: [1, HASH, SIG[1:]]}},
    {"type": "HAVE", "have": {A: [1, HASH, SIG + "0"]}},
    {"type": "HAVE", "have": {A: [1, HASH, SIG.upper()]}},
    {"type": "HAVE", "have": {"": [1, HASH, SIG]}},
    {"type": "HAVE", "have": {"a" * 32: [1, HASH, SIG]}},
    {"type": "HAVE", "have": {A.upper(): [1, HASH, SIG]}},
    {"type": "HAVE", "have": {A + "\n": [1, HASH, SIG]}},
    {"type": "HAVE", "have": {"a" * 32 + "-\u0661": [1, HASH, SIG]}},
    {"type": "HAVE", "have": {CUTOFF: [1, HASH, SIG]}},
    {"type": "HAVE", "have": {CUTOFF: [0, NO_HISTORY, SIG]}},
    {"type": "HAVE", "have": {CUTOFF: [MAX_CUTOFF + 1, NO_HISTORY, SIG]}},
    {"type": "HAVE", "have": {f"{CUTOFF}~1~{HASH}": [1, NO_HISTORY, SIG]}},
    {"type": "HAVE", "have": {}, "floors": {CUTOFF: 1}},
    {"type": "PRUNE", "origins": [CUTOFF]},
    {"type": "GRAFT", "after": {CUTOFF: 0}},
    {"type": "FORK", "origin": CUTOFF, "marks": []},
    {"type": "MESSAGES", "runs": [{**run(), "origin": CUTOFF}]},
    {"type": "SUMS", "all": ["0" * 32, 0, 0], "since": -1},
    {"type": "SUMS", "all": ["0" * 32, 0, 0], "since": None},
    {"type": "HAVE", "have": {}, "last": 1},
    {"type": "HAVE", "have": {}, "last": "true"},
    {"type": "HAVE", "have": {}, "ack": 0},
    {"type": "MESSAGES"},
    {"type": "MESSAGES", "runs": None},
    {"type": "MESSAGES", "runs": {}},
    {"type": "MESSAGES", "runs": [1]},
    {"type": "MESSAGES", "runs": [[]]},
    {"type": "MESSAGES", "runs": [run()], "have": []},
    {"type": "MESSAGES", "runs": [run()], "have": {A: [0, HASH, SIG]}},
    messages(origin=None),
    messages(origin=7),
    messages(origin=A + "x"),
    messages(after=None),
    messages(after=-1),
    messages(after="0"),
    messages(after=False),
    messages(after=0.0),
    messages(after=2**53),
    messages(after=2**53 - 1, previous=HASH),
    messages(previous=None),
    messages(previous=HASH),
    messages(previous="", after=1),
    messages(previous=7, after=1),
    messages(entries=None),
    messages(entries=[]),
    messages(entries={}),
    messages(entries=["text"]),
    messages(entries=[[]]),
    messages(entries=[[1]]),
    messages(entries=[["text", 1]]),
    messages(entries=[[1, None, SIG]]),
    messages(entries=[[1, 7]]),
    messages(entries=[[-1, "text"]]),
    messages(entries=[[1.5, "text"]]),
    messages(entries=[[2**53, "text"]]),
    messages(entries=[[1, "text", -1]]),
    messages(entries=[[1, "text", 3]]),
    messages(entries=[[1, "text", 1, 1]]),
    messages(entries=[[1, "\ud800"]]),
    messages(entries=[[1, ["a", "\ud800"]]]),
    messages(entries=[[1, ["\ud83d", "\ude00"]]]),
    messages(entries=[[1, ["a", 7]]]),
    messages(entries=[[1, ["a", ["b"]]]]),
    messages(entries=[[1, ["a"]]]),
    messages(entries=[[1, []]]),
    messages(entries=[[1, ["a", "b"], 1]]),
    messages(entries=[[1, "good"], [1, "x" * (MAX_MESSAGE_BYTES + 1)]]),
    messages(entries=[[1, "\u20ac" * (MAX_MESSAGE_BYTES // 3 + 1)]]),
    {"type": "PRUNE"},
    {"type": "PRUNE", "origins": A},
    {"type": "PRUNE", "origins": {A: 1}},
    {"type": "PRUNE", "origins": [7]},
    {"type": "PRUNE", "origins": ["x"]},
    {"type": "FORK", "origin": A},
    {"type": "FORK", "marks": []},
    {"type": "FORK", "origin": A, "head": [1, HASH], "marks": []},
    {"type": "FORK", "origin": A, "marks": [[0, HASH]]},
    {"type": "FORK", "origin": A, "marks": [[1, "x"]]},
    {"type": "FORK", "origin": A, "marks": [[1]]},
    {"type": "FORK", "origin": A, "agree": 7},
    {"type": "FORK", "origin": f"{A}~1", "marks": []},
    {"type": "FORK", "origin": f"{A}~1~{HASH}~2~{HASH}", "marks": []},
    {"type": "GRAFT"},
    {"type": "GRAFT", "after": None},
    {"type": "GRAFT", "after": []},
    {"type": "GRAFT", "after": {A: -1}},
    {"type": "GRAFT", "after": {A: None}},
    {"type": "GRAFT", "after": {A: True}},
    {"type": "GRAFT", "after": {A: 2**53}},
    {"type": "GRAFT", "after": {"x": 1}},
    {"type": "GRAFT", "after": {}, "ack": "yes"},
]


@pytest.mark.parametrize("fields", WRONG, ids=lambda fields: json.dumps(fields)[:70])
def test_a_wrong_field_breaks_the_protocol(fields: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(json.dumps(fields))
    assert caught.value.code in (1002, 1008)
    assert caught.value.reason


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1, 2**54)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", A, B, HASH, "\ud800", "x" * 300]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([A, "x"]), inner),
    max_leaves=6,
)


@given(
    st.sampled_from(["HAVE", "MESSAGES", "PRUNE", "GRAFT", "FORK"]),
    st.dictionaries(
        st.sampled_from(["have", "last", "ack", "runs", "origins", "origin", "marks", "after"]),
        JSON,
    ),
)
def test_anything_else_is_a_frame_or_breaks_the_protocol(kind: str, fields: dict[str, Any]) -> None:
    try:
        frame = decode(json.dumps({"type": kind, **fields}))
    except ProtocolError as error:
        assert error.code in (1002, 1008)
    else:
        assert isinstance(frame, LOG_FRAMES)
        assert decode(encode(frame)) == frame


@given(st.sampled_from(["origin", "after", "previous", "entries"]), JSON)
def test_any_field_of_a_run_is_good_or_breaks_the_protocol(name: str, value: Any) -> None:
    try:
        frame = decode(json.dumps(messages(**{"after": 1, "previous": HASH, name: value})))
    except ProtocolError as error:
        assert error.code in (1002, 1008)
    else:
        assert decode(encode(frame)) == frame  # type: ignore[arg-type]


# -- limits -----------------------------------------------------------------------------------


def signed_run(origin: str, after: int, previous: str, entries: tuple[Entry, ...]) -> Run:
    return Run(origin, after, previous, entries, (), SIG)


def origins(count: int) -> list[str]:
    return [f"{n:032x}-1" for n in range(count)]


@pytest.mark.parametrize(
    ("most", "more"),
    [
        (
            Have(dict.fromkeys(origins(MAX_ORIGINS_NAMED), Head(MAX_NUMBER, HASH, SIG))),
            Have(dict.fromkeys(origins(MAX_ORIGINS_NAMED + 1), Head(MAX_NUMBER, HASH, SIG))),
        ),
        (
            Graft(dict.fromkeys(origins(MAX_ORIGINS_NAMED), MAX_NUMBER)),
            Graft(dict.fromkeys(origins(MAX_ORIGINS_NAMED + 1), MAX_NUMBER)),
        ),
        (Prune(tuple(origins(MAX_ORIGINS_NAMED))), Prune(tuple(origins(MAX_ORIGINS_NAMED + 1)))),
        (
            Fork(A, Head(1, HASH, SIG), [(1, HASH)] * MAX_FORK_MARKS),
            Fork(A, Head(1, HASH, SIG), [(1, HASH)] * (MAX_FORK_MARKS + 1)),
        ),
        (
            Messages((signed_run(A, 0, "", (Entry(1, "x"),) * MAX_BATCH),)),
            Messages((signed_run(A, 0, "", (Entry(1, "x"),) * (MAX_BATCH + 1)),)),
        ),
        (
            Messages(
                tuple(signed_run(name, 0, "", (Entry(1, "x"),)) for name in origins(MAX_BATCH))
            ),
            Messages(
                tuple(signed_run(name, 0, "", (Entry(1, "x"),)) for name in origins(MAX_BATCH + 1))
            ),
        ),
        (
            Messages((signed_run(A, 0, "", (Entry(1, "x"),) * (MAX_SHIPPED // 3)),) * 3),
            Messages((signed_run(A, 0, "", (Entry(1, "x"),) * (MAX_SHIPPED // 3 + 1)),) * 3),
        ),
        (
            Messages((signed_run(A, 0, "", (Entry.of(1, ["x"] * MAX_BATCH),) * 2),)),
            Messages(
                (signed_run(A, 0, "", (*(Entry.of(1, ["x"] * MAX_BATCH),) * 2, Entry(1, "x"))),)
            ),
        ),
        (
            Messages((signed_run(A, 0, "", (Entry.of(1, ["x"] * MAX_BATCH),)),)),
            Messages((signed_run(A, 0, "", (Entry.of(1, ["x"] * (MAX_BATCH + 1)),)),)),
        ),
        (
            Messages((signed_run(A, 0, "", (Entry.of(1, ["x" * (MAX_ENTRY_BYTES // 2)] * 2),)),)),
            Messages(
                (signed_run(A, 0, "", (Entry.of(1, ["x" * (MAX_ENTRY_BYTES // 2 + 1)] * 2),)),)
            ),
        ),
        (
            Messages((signed_run(A, 0, "", (Entry.of(1, ["x" * MAX_MESSAGE_BYTES, "x"]),)),)),
            Messages((signed_run(A, 0, "", (Entry.of(1, ["x" * (MAX_MESSAGE_BYTES + 1), "x"]),)),)),
        ),
        (
            Messages((signed_run(A, 0, "", (Entry(1, "x" * MAX_MESSAGE_BYTES),)),)),
            Messages((signed_run(A, 0, "", (Entry(1, "x" * (MAX_MESSAGE_BYTES + 1)),)),)),
        ),
        (
            Messages((signed_run(A, 0, "", (Entry(1, "x" * (MAX_ENTRY_BYTES // 4)),) * 4),)),
            Messages((signed_run(A, 0, "", (Entry(1, "x" * (MAX_ENTRY_BYTES // 4 + 1)),) * 4),)),
        ),
        (
            Messages((signed_run(A, MAX_NUMBER - 1, HASH, (Entry(MAX_NUMBER, "x"),)),)),
            Messages((signed_run(A, MAX_NUMBER, HASH, (Entry(MAX_NUMBER, "x"),)),)),
        ),
    ],
    ids=[
        "have",
        "graft",
        "prune",
        "fork",
        "one run",
        "runs",
        "messages of all runs",
        "messages of all entries",
        "messages of an entry",
        "bytes of an entry",
        "bytes of one of many",
        "bytes",
        "bytes of a run",
        "sequence",
    ],
)
def test_what_is_at_a_limit_is_taken_and_what_is_over_it_is_not(
    most: LogFrame, more: LogFrame
) -> None:
    assert decode(encode(most)) == most
    with pytest.raises(ProtocolError) as caught:
        decode(encode(more))
    assert caught.value.code in (1002, 1008)


def test_a_whole_vector_stays_below_256_kib_a_frame() -> None:
    longest = [f"{n:032x}-{MAX_NUMBER}" for n in range(MAX_ORIGINS_NAMED)]
    frame = Have(dict.fromkeys(longest, Head(MAX_NUMBER, HASH, SIG)), True, True)
    assert len(encode(frame).encode()) <= 256 * 1024
