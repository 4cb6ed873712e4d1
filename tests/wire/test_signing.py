"""What a node signs, and what nobody takes for signed."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p_sync.errors import ProtocolError
from p2p_sync.settings import MAX_BATCH, MAX_ENTRY_BYTES
from p2p_sync.wire.entries import Entry, chain, size_of
from p2p_sync.wire.forks import name_of
from p2p_sync.wire.identity import Identity, is_signed, node_of_key
from p2p_sync.wire.logframes import (
    NO_HASH,
    Fork,
    Have,
    Head,
    Messages,
    PackedRun,
    Run,
    messages_to_json,
)
from p2p_sync.wire.signing import checked, is_genuine, is_proven, sign, signed

US, THEM = (Identity.of_seed(bytes([n]) * 32) for n in (1, 2))
OURS, THEIRS = f"{US.node}-1", f"{THEM.node}-7"


def run(origin: str, after: int, *texts: str, previous: str = NO_HASH) -> Run:
    entries = tuple(Entry(1, text) for text in texts)
    return Run(origin, after, previous, entries, chain(previous, entries))


def committed(sizes: list[int], origin: str = OURS) -> list[Run]:
    """Runs of one entry each, as commits make them; `sizes` are those of their texts."""
    runs: list[Run] = []
    previous, after = NO_HASH, 0
    for size in sizes:
        runs.append(run(origin, after, "x" * size, previous=previous))
        previous, after = runs[-1].hashes[-1], after + 1
    return runs


def test_the_keys_of_rfc_8032() -> None:
    """The first test vector of its section 7.1."""
    seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
    identity = Identity.of_seed(bytes.fromhex(seed))
    assert identity.key == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert identity.sign(b"") == (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    )
    assert len(node_of_key(identity.key)) == 32


def test_a_key_is_read_as_it_was_written() -> None:
    again = Identity.from_pem(US.to_pem())
    assert (again.key, again.node) == (US.key, US.node)
    assert b"\n-----BEGIN PRIVATE KEY-----\n" in US.to_pem()


@pytest.mark.parametrize(
    ("key", "signature"),
    [
        ("", ""),
        ("zz" * 32, "00" * 64),
        (US.key[1:], US.sign(b"data")),
        (US.key, US.sign(b"data")[1:]),
        (US.key, "00" * 64),
        ("00" * 32, "00" * 64),
        *((key, f"{key}01" + "00" * 31) for key in ("01" + "00" * 31, "01" + "00" * 30 + "80")),
        (THEM.key, US.sign(b"data")),
        (US.key, US.sign(b"other data")),
    ],
)
def test_what_is_no_signature_is_refused_without_an_error(key: str, signature: str) -> None:
    assert not is_signed(key, signature, b"data")
    assert is_signed(US.key, US.sign(b"data"), b"data")


def test_a_signature_counts_above_the_order_of_the_group_only_once() -> None:
    """Adding the order to the second half would make another signature of the same data."""
    order = 2**252 + 27742317777372353535851937790883648493
    signature = bytes.fromhex(US.sign(b"data"))
    other = int.from_bytes(signature[32:], "little") + order
    malleated = (signature[:32] + other.to_bytes(32, "little")).hex()
    assert not is_signed(US.key, malleated, b"data")


def test_a_head_is_genuine_only_with_its_own_parts() -> None:
    head = Head(3, "ab" * 16, sign(US, OURS, 3, "ab" * 16))
    assert is_genuine(OURS, head)
    assert not is_genuine(f"{US.node}-11", head), "of another start"
    assert not is_genuine(THEIRS, head), "of another node"
    assert not is_genuine(OURS, head._replace(n=4))
    assert not is_genuine(OURS, head._replace(hash="ba" * 16))
    assert not is_genuine(OURS, head._replace(signature=THEM.key + head.signature[64:]))
    assert not is_genuine(OURS, head._replace(signature=sign(THEM, OURS, 3, "ab" * 16)))
    assert not is_genuine(OURS, head._replace(signature=""))


@given(st.lists(st.integers(0, MAX_ENTRY_BYTES // 3), min_size=1, max_size=12))
def test_what_lies_between_two_signatures_fits_into_a_frame(sizes: list[int]) -> None:
    runs = committed(sizes)
    result = signed(runs, US)
    assert [entry for r in result for entry in r.entries] == [e for r in runs for e in r.entries]
    for before, after in itertools.pairwise(result):
        assert (after.after, after.previous) == (before.end, before.hashes[-1])
        joined = sum(size_of(entry) for r in (before, after) for entry in r.entries)
        assert joined > MAX_ENTRY_BYTES, "two of them would not have fitted under one signature"
    for part in result:
        assert is_genuine(OURS, part.head)
        size = sum(len(entry.text) for entry in part.entries)
        assert len(part.entries) == 1 or size <= MAX_ENTRY_BYTES


def test_a_transaction_of_many_commits_has_few_signatures() -> None:
    result = signed(committed([1] * (2 * MAX_BATCH + 1)), US)
    assert [part.count for part in result] == [MAX_BATCH, MAX_BATCH, 1]


def test_runs_of_others_stay_as_they_are_and_in_their_order() -> None:
    theirs = signed(committed([1, 1, 1], THEIRS), THEM)
    ours = committed([1, 1])
    result = signed([ours[0], *theirs, ours[1]], US)
    assert [part for part in result if part.origin == THEIRS] == theirs
    assert [part.count for part in result if part.origin == OURS] == [2]


def test_a_node_signs_each_of_its_origins() -> None:
    """After a renewal two of them may be in one transaction."""
    other = f"{US.node}-2"
    result = signed([*committed([1]), *committed([1], other)], US)
    assert {part.origin for part in result} == {OURS, other}
    assert all(is_genuine(part.origin, part.head) for part in result)


def test_a_frame_is_taken_only_if_all_its_signatures_are_right() -> None:
    good, bad = signed(committed([1]), US)[0], signed(committed([1], THEIRS), US)[0]
    assert checked(Messages((good,)), {}, lambda *_: None)
    assert checked(Messages((good, bad)), {}, lambda *_: None) is None
    have = Have({OURS: good.head, THEIRS: bad.head})
    assert checked(have, {OURS: good.head}, lambda *_: None) == have, "nothing else says anything"
    assert checked(have, {THEIRS: bad.head}, lambda *_: None) is None


def test_a_shown_history_is_compared_up_to_the_last_mark_that_is_held() -> None:
    held = {n: f"{n:032x}" for n in range(1, 9)}
    head = signed(committed([1] * 8), US)[0].head

    def common(*marks: tuple[int, str]) -> int:
        frame = checked(Fork(OURS, head, marks), {}, lambda _, n: held.get(n))
        assert isinstance(frame, Fork)
        return frame.common

    assert common() == 0
    assert common((3, held[3]), (5, held[5]), (6, "ab" * 16)) == 5
    assert common((3, held[3]), (8, held[8]), (9, held[8])) == 3, "beyond what is signed"
    held[8] = head.hash
    assert common((5, "ab" * 16)) == 8, "the head itself"
    forged = head._replace(n=7)
    assert checked(Fork(OURS, forged, ((3, held[3]),)), {}, lambda *_: None) is None


def test_a_branch_is_proved_by_the_signatures_of_the_history_that_it_leaves() -> None:
    (whole,) = signed(committed([1, 1, 1]), US)
    rest = whole.beyond(1)
    assert rest
    name = name_of(OURS, 1, rest.hashes[0])
    branch = replace(rest, origin=name, after=0)
    assert is_proven(branch)
    assert Run.from_dict(json.loads(run_text(branch))) == branch
    assert not is_proven(replace(rest, origin=name_of(OURS, 2, rest.hashes[0]), after=0))
    assert not is_proven(replace(rest, origin=name_of(THEIRS, 1, rest.hashes[0]), after=0))
    wrong = replace(branch, origin=name_of(OURS, 1, "ab" * 16))
    with pytest.raises(ProtocolError, match="first entry of a branch"):
        Run.from_dict(json.loads(run_text(wrong)))


def run_text(run: Run) -> str:
    frame = json.loads(messages_to_json([PackedRun.of(run)], {}, False))
    return json.dumps(frame["runs"][0])
