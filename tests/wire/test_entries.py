"""Entries of the log: erased messages, topics and notices."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p_sync.errors import ProtocolError
from p2p_sync.settings import MAX_BATCH, MAX_ERASURES, Settings
from p2p_sync.wire.entries import HEARD, NOTICE, Entry, Erasure, chain, read_entry
from p2p_sync.wire.frames import decode, encode, messages_in
from p2p_sync.wire.identity import Identity
from p2p_sync.wire.logframes import NO_HASH, Messages, Run
from p2p_sync.wire.signing import checked, sign, signed

US, THEM = (Identity.of_seed(bytes([n]) * 32) for n in (1, 2))
OURS, THEIRS = f"{US.node}-1", f"{THEM.node}-7"
BEFORE = "ab" * 16


def erasure(seq: int, *, target: str = OURS, after: int = 4, time: int = 99) -> Erasure:
    """The other node erases a message."""
    previous = BEFORE if after else NO_HASH
    (running,) = chain(previous, [Entry(time, f"{target}:{seq}", NOTICE)])
    return Erasure(seq, THEIRS, after, previous, time, sign(THEM, THEIRS, after + 1, running))


def signed_run(*entries: Entry, after: int = 0) -> Run:
    previous = BEFORE if after else NO_HASH
    run = Run(OURS, after, previous, entries, chain(previous, entries))
    return Run(OURS, after, previous, entries, run.hashes, sign(US, OURS, run.end, run.hashes[-1]))


def shipped(run: Run) -> Run | None:
    """The run as another node takes it in: None if something of it is not signed."""
    entries = [json.loads(entry.pack()) for entry in run.entries]
    data = {
        "origin": run.origin,
        "after": run.after,
        "previous": run.previous,
        "entries": entries,
        "signature": run.signature,
    }
    frame = checked(Messages((Run.from_dict(data),)), {}, lambda *_: None)
    assert frame is None or isinstance(frame, Messages)
    return frame.runs[0] if frame else None


texts = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=9), min_size=1)


@given(texts, st.data(), st.sampled_from(["", "ops/web-1", "a" * 64]))
def test_an_erased_message_keeps_its_place_and_the_history_its_proof(
    some: list[str], data: st.DataObject, topic: str
) -> None:
    entry, first = Entry.of(7, some, topic=topic), 11
    whole = signed_run(entry, after=first - 1)
    chosen = st.lists(st.integers(0, len(some) - 1), min_size=1, max_size=5, unique=True)
    gone = data.draw(chosen)
    for index in gone:
        entry = entry.erase(first, erasure(first + index))
    run = Run(OURS, first - 1, BEFORE, (entry,), signature=whole.signature)
    there = shipped(run)
    assert there and there.hashes == whole.hashes and there.entries == (entry,)
    messages = messages_in(there)
    assert [message.data for message in messages] == [
        "" if index in gone else text for index, text in enumerate(some)
    ]
    assert [index for index, message in enumerate(messages) if message.erased] == sorted(gone)
    assert {message.topic for message in messages} == {topic}


def test_nothing_of_an_erased_text_is_left() -> None:
    for entry in (Entry(1, "secret words"), Entry.of(1, ["other", "secret words"])):
        assert "secret words" not in entry.erase(1, erasure(entry.length)).pack()


def test_of_two_erasures_of_one_message_the_earlier_one_counts() -> None:
    early, late = erasure(1, time=5), erasure(1, time=6)
    entry = Entry(1, "text")
    assert entry.erase(1, early).erase(1, late) == entry.erase(1, late).erase(1, early)
    assert entry.erase(1, late).erase(1, early).erasures == [early]


@pytest.mark.parametrize(
    "wrong",
    [
        erasure(1, target=THEIRS),
        erasure(1)._replace(time=98),
        erasure(1)._replace(after=5),
        erasure(1)._replace(previous="cd" * 16),
        erasure(1)._replace(origin=OURS),
        erasure(1)._replace(origin=f"{THEM.node}-8"),
        erasure(1)._replace(signature=sign(US, THEIRS, 5, BEFORE)),
    ],
)
def test_nobody_erases_a_message_without_a_signed_notice(wrong: Erasure) -> None:
    assert shipped(signed_run(Entry(1, "text").erase(1, erasure(1))))
    assert shipped(signed_run(Entry(1, "text").erase(1, wrong))) is None


def test_the_erasure_of_one_message_does_not_erase_another() -> None:
    entry = Entry.of(1, ["one", "two"]).erase(1, erasure(1))
    assert shipped(signed_run(entry))
    assert shipped(signed_run(entry._replace(text='["one",null]'))) is None


def test_a_part_of_an_entry_is_not_left_out_without_an_erasure() -> None:
    entry = Entry.of(1, ["one", "two"]).erase(1, erasure(1))
    for value in (["one", "two"], [None, None]):
        with pytest.raises(ProtocolError):
            read_entry([1, value, 0, "", json.loads(entry.erased)])
    both = entry.erase(1, erasure(2))
    wrong = both._replace(text='["one",null]')
    with pytest.raises(ProtocolError):
        read_entry(json.loads(wrong.pack()))


def test_a_whole_entry_can_be_erased_and_still_be_shipped() -> None:
    run = signed_run(Entry.of(1, ["x" * 160] * MAX_BATCH))
    (entry,) = run.entries
    for seq in range(1, MAX_BATCH + 1):
        entry = entry.erase(1, erasure(seq))
    assert len(entry.erasures) == MAX_ERASURES and set(entry.texts) == {None}
    assert shipped(Run(OURS, 0, NO_HASH, (entry,), signature=run.signature))


def erased(run: Run) -> Run:
    """The run as it is shipped when all of its short messages are erased."""
    entries, first = [], 1
    for entry in run.entries:
        for seq in range(first, first + entry.length):
            if len(entry.text) < 1_000 or entry.length > 1:
                erasure = Erasure(seq, f"{THEM.node}-{10**18}", 10**15, BEFORE, 10**13, "0" * 192)
                entry = entry.erase(first, erasure)
        entries.append(entry)
        first += entry.length
    return Run(OURS, 0, NO_HASH, tuple(entries), run.hashes, run.signature)


LONG = Entry(10**13, "\0" * (128 * 1024), topic="t" * 64)


@pytest.mark.parametrize(
    "entries",
    [
        [Entry(1, "x" * 100_000), Entry(1, "y" * 63_800), *[Entry(1, "ok")] * 10],
        [LONG, *[Entry(10**13, "", topic="t" * 64)] * (MAX_BATCH - 1)],
        [LONG, *[Entry.of(10**13, ["", ""], topic="t" * 64)] * (MAX_BATCH // 2 - 1)],
        [LONG, *[Entry.of(10**13, [""] * 100)] * 9],
        [Entry.of(10**13, [""] * MAX_BATCH, topic="t" * 64)],
        [Entry(10**13, "\0" * 100, topic="t" * 64)] * MAX_BATCH,
    ],
)
def test_erasing_never_makes_a_run_too_long_to_be_shipped(entries: list[Entry]) -> None:
    """However a node has signed these commits, and whatever of them is erased."""
    runs: list[Run] = []
    after, previous = 0, NO_HASH
    for entry in entries:
        runs.append(Run(OURS, after, previous, (entry,), chain(previous, [entry])))
        after, previous = runs[-1].end, runs[-1].hashes[-1]
    for part in signed(runs, US):
        whole = Run(OURS, 0, NO_HASH, part.entries, chain(NO_HASH, part.entries), part.signature)
        text = encode(Messages((erased(whole),)))
        assert len(text) < Settings().max_frame_bytes
        there = decode(text)
        assert isinstance(there, Messages) and there.runs[0].hashes == whole.hashes


@pytest.mark.parametrize(
    "entry",
    [
        Entry(1, "text", topic="ops"),
        Entry(1, "text", HEARD),
        Entry(1, "text", HEARD, topic="a/b"),
        Entry.of(1, ["one", "two"], topic="A-Z_.9"),
        Entry(1, f"{OURS}:1", NOTICE),
    ],
)
def test_kinds_and_topics_are_signed_and_shipped(entry: Entry) -> None:
    run = signed_run(entry)
    there = shipped(run)
    assert there and there.entries == (entry,)
    for other in (entry._replace(kind=2 - entry.kind), entry._replace(topic="other")):
        if other != entry:
            assert chain("", [other]) != run.hashes


@pytest.mark.parametrize(
    "value",
    [
        [1, "x", 3, ""],
        [1, "x", True],
        [1, "x", 0, "a b"],
        [1, "x", 0, "\u00e4"],
        [1, "x", 0, "a" * 65],
        [1, "x", 0, None],
        [1, "x", 0, "", None],
        [1, "x", 0, "", "1"],
        [1, "x", 0, "", f"1:{'a' * 31}"],
        [1, "x", 0, "", f"-1:{'a' * 32}"],
        [1, "x", 1, "", f"1:{'a' * 32}"],
        [1, "x", 2, "", f"1:{'a' * 32}"],
        [1, ["x", "y"], 1],
        [1, ["x", "y"], 2],
        [1, ["x"]],
        [1, [None], 0, "", "", None],
        [1, [None], 0, "", "", {"digest": "0" * 64}],
        [1, [None], 0, "", "", {"digest": "0" * 63, "by": [[1, THEIRS, 0, "", 1, "0" * 192]]}],
        [1, [None], 2, "", "", {"digest": "0" * 64, "by": [[1, THEIRS, 0, "", 1, "0" * 192]]}],
        [1, [None], 0, "", "", {"digest": "0" * 64, "by": [[1, THEIRS, 0, BEFORE, 1, "0" * 192]]}],
        [1, [None], 0, "", "", {"digest": "0" * 64, "by": [[1, THEIRS, 0, "", 1, "0" * 191]]}],
        [1, [None], 0, "", "", {"digest": "0" * 64, "by": []}],
        [1, None],
        [1, "x", 0, "", "", {}, 0],
    ],
)
def test_what_is_no_entry_is_refused(value: object) -> None:
    with pytest.raises(ProtocolError):
        read_entry(value)


def test_a_notice_ends_its_run() -> None:
    notice = Entry(1, f"{THEIRS}:1", NOTICE)
    assert shipped(signed_run(Entry(1, "text"), notice))
    with pytest.raises(ProtocolError):
        shipped(signed_run(notice, Entry(1, "text")))
