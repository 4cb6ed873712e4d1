"""An export proves itself: `p2p-sync verify` finds each manipulation of it, without a node."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from p2p_sync.wire.entries import HEARD, Entry, chain
from p2p_sync.wire.export import Checker, Problem, to_lines
from p2p_sync.wire.identity import Identity
from p2p_sync.wire.logframes import NO_HASH, NO_SIGNATURE
from p2p_sync.wire.signing import sign
from tests.harness.api import post_all, read_pages, wait_equal
from tests.harness.original import heard_by_two
from tests.harness.support import DEADLINE, RUN_NODE, NodeProcess, run_nodes, wait_until

Line = dict[str, Any]
ONE, TWO = Identity.of_seed(b"1" * 32), Identity.of_seed(b"2" * 32)
A, B = f"{ONE.node}-1", f"{TWO.node}-7"


def history(identity: Identity, origin: str, entries: list[Entry], last: bool = True) -> list[Line]:
    """The lines of an origin whose entries are signed, `last` included."""
    lines: list[str] = []
    previous, seq = NO_HASH, 1
    for index, entry in enumerate(entries):
        (running,) = chain(previous, [entry])
        end = seq + entry.length - 1
        signature = sign(identity, origin, end, running)
        if index == len(entries) - 1 and not last:
            signature = NO_SIGNATURE
        hidden = entry.kind == HEARD and entry.time == 6
        lines += to_lines(origin, seq, entry, previous, signature, hidden)
        seq, previous = end + 1, running
    return [json.loads(line) for line in lines]


ENTRIES = [
    Entry.of(1, ["first"]),
    Entry.of(3, ["one", "two\n", "\u20ac"]),
    Entry.of(6, ["a copy"], HEARD),
    Entry.of(8, ["last"]),
]


def good() -> list[Line]:
    """An export of two origins."""
    lines = [*history(ONE, A, ENTRIES), *history(TWO, B, [Entry.of(2, ["x"]), Entry.of(7, ["y"])])]
    lines.sort(key=lambda line: (line["time"], line["origin"], line["seq"]))
    return [*lines, {"exported": len(lines)}]


def written(lines: list[Line]) -> list[bytes]:
    return [json.dumps(line).encode() for line in lines]


def check(lines: list[bytes]) -> list[Problem]:
    checker = Checker()
    return [*filter(None, map(checker.line, lines)), *checker.end()]


def at(lines: list[Line], data: str) -> int:
    return next(index for index, line in enumerate(lines) if line.get("data") == data)


def test_what_is_right_passes() -> None:
    checker = Checker()
    assert not [*filter(None, map(checker.line, written(good()))), *checker.end()]
    assert (checker.messages, checker.hidden, checker.origins, checker.signatures) == (8, 1, 2, 6)


def changed(which: str, /, **fields: Any) -> Callable[[list[Line]], Any]:
    return lambda lines: lines[at(lines, which)].update(fields)


def dropped(data: str) -> Callable[[list[Line]], None]:
    def drop(lines: list[Line]) -> None:
        del lines[at(lines, data)]
        lines[-1]["exported"] -= 1

    return drop


def forged(lines: list[Line]) -> None:
    """Change a text, and all hashes so that they fit again."""
    previous = NO_HASH
    entries = [ENTRIES[0], Entry.of(3, ["one", "TWO", "\u20ac"]), *ENTRIES[2:]]
    lines[at(lines, "two\n")]["data"] = "TWO"
    for entry, data in zip(entries, ("first", "\u20ac", "a copy", "last"), strict=True):
        (previous,) = chain(previous, [entry])
        lines[at(lines, data)]["hash"] = previous


def swapped(lines: list[Line]) -> None:
    one, other = at(lines, "one"), at(lines, "two\n")
    lines[one], lines[other] = lines[other], lines[one]


def twice(lines: list[Line]) -> None:
    lines.insert(at(lines, "first"), dict(lines[at(lines, "first")]))
    lines[-1]["exported"] += 1


def added(lines: list[Line]) -> None:
    """Add a message at the end of an origin, signed by another node."""
    entry = Entry.of(9, ["added"])
    previous = lines[at(lines, "last")]["hash"]
    (running,) = chain(previous, [entry])
    (line,) = to_lines(A, 7, entry, previous, sign(TWO, A, 7, running), False)
    lines[-1:] = [json.loads(line), {"exported": lines[-1]["exported"] + 1}]


def unsigned_end(lines: list[Line]) -> None:
    for name in ("signature", "public_key"):
        del lines[at(lines, "last")][name]


MANIPULATIONS: dict[str, tuple[Callable[[list[Line]], Any], str]] = {
    "a text": (changed("two\n", data="2"), "was changed"),
    "a text and the hashes": (forged, "signature is wrong"),
    "a time": (changed("last", time=9), "was changed"),
    "the time of a part of an entry": (changed("two\n", time=4), "does not end"),
    "heard or not": (changed("first", heard=True), "was changed"),
    "two in another order": (swapped, "missing"),
    "the first is dropped": (dropped("first"), "message 1 is missing"),
    "one in the middle is dropped": (dropped("two\n"), "message 3 is missing"),
    "a hidden copy is dropped": (dropped("a copy"), "message 5 is missing"),
    "the last one is dropped": (lambda lines: lines.pop(-2), "the last line counts 8 messages"),
    "the end of an entry is dropped": (
        lambda lines: lines.__delitem__(slice(at(lines, "\u20ac"), -1)),
        "no signature covers",
    ),
    "the last line is dropped": (lambda lines: lines.pop(), "cut short"),
    "a line twice": (twice, "shared order"),
    "a line is added": (added, "its key is not that of the node"),
    "another key": (changed("last", public_key=TWO.key), "its key is not that of the node"),
    "a key that is none": (changed("last", public_key="0" * 64), "its key is not that of the node"),
    "the signature of another": (
        lambda lines: lines[at(lines, "last")].update(
            signature=lines[at(lines, "first")]["signature"]
        ),
        "signature is wrong",
    ),
    "no signature at the end": (unsigned_end, "no signature covers"),
    "another id": (changed("last", id=f"{A}:7"), "not a message"),
    "another origin": (changed("last", origin=B, id=f"{B}:6"), "missing"),
    "a number as a text": (changed("last", data=7), "not a message"),
    "a hash that is none": (changed("last", hash="xyz"), "not a message"),
    "no hash": (lambda lines: lines[at(lines, "first")].pop("hash"), "not a message"),
    "a gap that is none": (changed("last", previous="0" * 32), "the hash before it does not fit"),
    "a gap inside of an entry": (
        changed("two\n", previous="0" * 32),
        "do not end with a signature",
    ),
    "a surrogate": (changed("last", data="\ud800"), "not a message"),
    "a line after the end": (lambda lines: lines.append({"exported": 8}), "after the last one"),
}


@pytest.mark.parametrize("name", MANIPULATIONS)
def test_each_manipulation_is_found(name: str) -> None:
    manipulate, expected = MANIPULATIONS[name]
    lines = good()
    manipulate(lines)
    found = check(written(lines))
    assert any(expected in problem.text for problem in found), found


BROKEN = {
    "empty": (b"", "empty"),
    "not UTF-8": (b'"\xff"\n', "UTF-8"),
    "not JSON": (b"hello\n", "not JSON"),
    "deep": (b"[" * 100_000, "not JSON"),
    "another file": (b'{"data":"x"}\n', "not a message"),
    "a list": (b"[]\n", "not a message"),
    "cut in a line": (b"\n".join(written(good()))[:-300], "not JSON"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_is_no_whole_export_is_refused(name: str) -> None:
    data, expected = BROKEN[name]
    done = verify("-", stdin=data)
    assert done.returncode == 1 and expected in done.stdout and not done.stderr


def verify(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*RUN_NODE, "verify", *arguments], input=stdin, capture_output=True, timeout=DEADLINE
    )
    code, out, err = done.returncode, done.stdout.decode(), done.stderr.decode()
    return subprocess.CompletedProcess(done.args, code, out, err)


def command(node: NodeProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    whole = [*RUN_NODE, *arguments, "--node", f"http://127.0.0.1:{node.port}"]
    return subprocess.run(whole, capture_output=True, text=True, timeout=DEADLINE, check=False)


def test_an_export_of_a_node_verifies_and_a_change_is_found(tmp_path: Path) -> None:
    file = tmp_path / "log.ndjson"
    with run_nodes(2, "--ephemeral") as (one, two):
        one.add(two.address)
        one.commit("single")
        post_all(one.port, [f"many {n} \u20ac" for n in range(2500)])
        two.commit("of the other")
        wait_equal([one.port, two.port], 2502)
        assert command(two, "backup", str(file)).stdout == "2,502 saved\n"
        shown = read_pages(two.port, "time")[0]
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["id"] for line in lines[:-1]] == [message["id"] for message in shown]
    done = verify(str(file))
    assert done.returncode == 0 and done.stdout.startswith("2,502 messages, 2 origins, ")
    told = json.loads(verify(str(file), "--json").stdout)
    assert (told["messages"], told["origins"], told["wrong"]) == (2502, 2, 0)
    file.write_text(file.read_text().replace("many 1234 ", "many 1235 "))
    done = verify(str(file))
    assert done.returncode == 1 and "was changed" in done.stdout and "line " in done.stdout
    assert verify("/no/such/file").returncode == 2


def test_hidden_copies_are_exported_and_not_imported(tmp_path: Path) -> None:
    file = tmp_path / "log.ndjson"
    with heard_by_two() as (one, two, original):
        original.commit("from an original")
        wait_until(lambda: one.count == two.count == 1)
        wait_until(lambda: b'"hidden"' in one.get("/api/v1/messages/export").body)
        assert command(one, "backup", str(file)).stdout == "1 saved, 1 hidden\n"
    assert verify(str(file)).returncode == 0
    assert verify(str(file)).stdout.startswith("1 message, 2 origins, 2 signatures; 1 hidden: ")
    with NodeProcess("--ephemeral") as other:
        assert command(other, "import", str(file)).stdout == "1 imported, 0 skipped\n"
        assert other.texts() == ["from an original"]
