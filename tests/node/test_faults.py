"""Real nodes under load while faults hit them: killed, stopped, cut off, wiped, restored, full."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from p2p_sync import Node
from p2p_sync.errors import StartError
from tests.harness.api import Load, check_logs, commit, post_all, read_pages, status, wait_equal
from tests.harness.disk import small_disk, small_files
from tests.harness.members import Proxied
from tests.harness.support import (
    SCALE,
    NodeProcess,
    free_port_pair,
    pause,
    request,
    run_to_end,
    wait_sockets,
    wait_until,
)

FAULTS = int(os.environ.get("P2P_SYNC_TEST_FAULTS", "25"))
BEHIND = int(os.environ.get("P2P_SYNC_TEST_BEHIND", "20000"))
LONGEST = 1.0  # seconds that a fault lasts
PAGE_BYTES = 4096  # of SQLite


@contextmanager
def members(
    directory: Path, count: int, peers: Callable[[int], Sequence[int]], *options: str
) -> Iterator[list[Proxied]]:
    """`count` running nodes, number n given those by hand that `peers` names for n."""
    with ExitStack() as stack:
        nodes: list[Proxied] = []
        for number in range(count):
            given = [word for n in peers(number) for word in ("--peer", nodes[n].address)]
            member = Proxied(directory / f"node{number}", *given, *options)
            stack.callback(member.close)
            nodes.append(member)
        for member in nodes:
            member.start()
        for member in nodes:
            member.node.wait_ready()
        yield nodes


def ports(nodes: Sequence[Proxied]) -> list[int]:
    return [member.port for member in nodes]


# -- faults by the seed -----------------------------------------------------------------------


class Faults:
    """The script: which fault hits which node, and when; the seed decides."""

    def __init__(self, nodes: Sequence[Proxied], seed: int) -> None:
        self._nodes = nodes
        self._seed = seed
        self._rng = random.Random(seed)
        self.done: list[str] = []

    def note(self) -> str:
        """How to run this again, and what has happened."""
        listed = "\n".join(f"  {number}. {fault}" for number, fault in enumerate(self.done, 1))
        return f"(P2P_SYNC_TEST_SEED={self._seed} P2P_SYNC_TEST_FAULTS={FAULTS})\n{listed}"

    def inject(self) -> None:
        """One fault, and the repair of it unless that is another fault's."""
        number = self._rng.randrange(len(self._nodes))
        kind = self._rng.choice([self.kill, self.kill, self.freeze, self.cut, self.slow, self.dark])
        seconds = self._rng.uniform(0, LONGEST)
        self.done.append(f"{kind.__name__} node {number}, {seconds:.3f} s")
        kind(self._nodes[number], seconds)
        pause(self._rng.uniform(0, LONGEST / 4))

    def kill(self, member: Proxied, seconds: float) -> None:
        """SIGKILL; the restart is not waited for, so that the next fault may hit it."""
        member.stop(signal.SIGKILL)
        pause(seconds / 2)
        member.start()

    def freeze(self, member: Proxied, seconds: float) -> None:
        """SIGSTOP and SIGCONT."""
        member.node.process.send_signal(signal.SIGSTOP)
        pause(seconds)
        member.node.process.send_signal(signal.SIGCONT)

    def cut(self, member: Proxied, seconds: float) -> None:
        """All links that lead to the node break, and for a while none can be opened."""
        member.proxy.refuse()
        pause(seconds / 2)
        member.proxy.heal()

    def slow(self, member: Proxied, seconds: float) -> None:
        """What passes is late, until the next fault of the proxy."""
        member.proxy.delay(seconds / 10)

    def dark(self, member: Proxied, seconds: float) -> None:
        """Nothing passes, with the connections open; then they break."""
        member.proxy.stall()
        pause(seconds)
        member.proxy.cut()
        member.proxy.heal()


def test_after_many_faults_all_nodes_hold_the_same(tmp_path: Path) -> None:
    seed = int(os.environ.get("P2P_SYNC_TEST_SEED", random.randrange(2**32)))
    with members(tmp_path, 5, lambda n: range(n)) as nodes:
        faults = Faults(nodes, seed)
        try:
            wait_equal(ports(nodes))
            with Load(ports(nodes), "load") as load:
                load.wait_for(20)
                for _ in range(FAULTS):
                    faults.inject()
                for member in nodes:
                    member.proxy.heal()
                    member.node.wait_ready()
                load.wait_for(20)
            for number, member in enumerate(nodes):  # links are back: no wait for a redial
                for peer in nodes[:number]:
                    member.node.add(peer.address)
            wait_equal(ports(nodes), len(load.acknowledged))
            check_logs(ports(nodes), load.acknowledged, faults.note, load.identities)
            for member in nodes:
                assert "Traceback" not in member.log
        except BaseException:
            print(faults.note())
            for number, member in enumerate(nodes):
                print(f"-- node {number}, {member.port}\n{member.log}")
            raise
        print(f"{len(load.acknowledged)} of {load.tried} acknowledged {faults.note()}")


# -- away, wiped, behind, restored ------------------------------------------------------------


def test_a_wiped_node_gets_everything_again(tmp_path: Path) -> None:
    with members(tmp_path, 3, lambda n: range(n)) as nodes:
        wait_equal(ports(nodes))
        with Load(ports(nodes), "before", 0.0) as before:
            before.wait_for(300)
        wait_equal(ports(nodes), len(before.acknowledged))
        wiped = nodes[1]
        wiped.stop(signal.SIGKILL)
        shutil.rmtree(wiped.directory)
        with Load([nodes[0].port, nodes[2].port], "without") as without:
            without.wait_for(20)
            wiped.start(wait=True)
            with Load(ports(nodes), "after") as after:
                after.wait_for(50)
        acknowledged = before.acknowledged + without.acknowledged + after.acknowledged
        wait_equal(ports(nodes), len(acknowledged))
        check_logs(ports(nodes), acknowledged)


def test_a_node_far_behind_catches_up_while_commits_go_on(tmp_path: Path) -> None:
    with members(tmp_path, 3, lambda n: range(n)) as nodes:
        wait_equal(ports(nodes))
        late = nodes[2]
        with Load(ports(nodes), "before") as before:
            before.wait_for(50)
        late.stop()
        texts = [f"history {number} " + "x" * (number % 80) for number in range(BEHIND)]
        for begin in range(0, BEHIND, 5000):
            post_all(nodes[begin // 5000 % 2].port, texts[begin : begin + 5000])
        timeout = 60 * SCALE + BEHIND / 500
        with Load(ports(nodes[:2]), "meanwhile") as meanwhile:
            late.start(wait=True)
            known = len(before.acknowledged) + BEHIND
            wait_until(
                lambda: status(late.port)["messages"]["count"] > known,
                lambda: f"caught up: {status(late.port)}",
                timeout,
            )
            meanwhile.wait_for(20)  # nobody has stopped taking commits
        acknowledged = before.acknowledged + meanwhile.acknowledged
        wait_equal(ports(nodes), len(acknowledged) + BEHIND, timeout)
        check_logs(ports(nodes), acknowledged + texts)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_restored_old_copy_joins_again(tmp_path: Path, signum: int) -> None:
    with members(tmp_path, 3, lambda n: range(n)) as nodes:
        wait_equal(ports(nodes))
        restored = nodes[2]
        with Load(ports(nodes), "old", 0.0) as old:
            old.wait_for(100)
        wait_equal(ports(nodes), len(old.acknowledged))
        restored.stop(signum)
        shutil.copytree(restored.directory, tmp_path / "copy")
        restored.start(wait=True)
        with Load(ports(nodes), "new", 0.0) as new:
            new.wait_for(100)
        acknowledged = old.acknowledged + new.acknowledged
        wait_equal(ports(nodes), len(acknowledged))
        restored.stop(signum)
        shutil.rmtree(restored.directory)
        shutil.copytree(tmp_path / "copy", restored.directory)

        # It begins alone: nobody reaches it, and it reaches nobody.
        for member in nodes:
            member.proxy.refuse()
        restored.start(wait=True)
        with Load([restored.port], "alone", 0.0) as alone:
            alone.wait_for(50)
        assert status(restored.port)["sockets"] == 0
        for member in nodes:
            member.proxy.heal()
        with Load(ports(nodes), "again", 0.0) as again:
            again.wait_for(100)
        acknowledged += alone.acknowledged + again.acknowledged
        for peer in nodes[:2]:
            restored.node.add(peer.address)
        wait_equal(ports(nodes), len(acknowledged))
        check_logs(ports(nodes), acknowledged)


# -- a line -----------------------------------------------------------------------------------


def test_a_line_relays_and_outlives_the_death_of_a_node_in_it(tmp_path: Path) -> None:
    with members(tmp_path, 4, lambda n: [n - 1] if n else [], "--target-links", "0") as nodes:
        first, middle, last = nodes[0], nodes[1], nodes[3]
        for member, count in zip(nodes, (1, 2, 2, 1), strict=True):
            wait_sockets(count, member.node)
        acknowledged = ["from one end", "from the other"]
        assert commit(first.port, acknowledged[0])
        wait_until(lambda: acknowledged[0] in last.node.texts(), "it has come to the other end")
        assert commit(last.port, acknowledged[1])
        wait_until(lambda: acknowledged[1] in first.node.texts(), "it has come back")
        with Load(ports(nodes), "line") as load:
            load.wait_for(20)
            middle.stop(signal.SIGKILL)
            load.wait_for(20)
            middle.start(wait=True)
            load.wait_for(20)
        acknowledged += load.acknowledged
        wait_equal(ports(nodes), len(acknowledged))
        for member, count in zip(nodes, (1, 2, 2, 1), strict=True):
            wait_sockets(count, member.node)  # still a line
        check_logs(ports(nodes), acknowledged)


# -- no room ----------------------------------------------------------------------------------


def fill(port: int, acknowledged: list[str]) -> str:
    """Commit until the node refuses; return the sentence that it says."""
    while True:
        text = f"filling {len(acknowledged)} " + "y" * 3000
        answer = request(port, f"/commit?msg={text.replace(' ', '+')}")
        if answer.status != 302:
            assert answer.status in (503, 507), answer.text
            assert len(answer.text.strip()) > 20, answer.text
            return answer.text
        acknowledged.append(text)


def check_recovery(
    full: Proxied, peer: Proxied, acknowledged: list[str], make_room: Callable[[], object]
) -> None:
    """Without room the node goes on reading; with room it is whole again, by itself."""
    acknowledged.append("while there is no room")
    assert commit(peer.port, acknowledged[-1])
    assert not commit(full.port, "this cannot be stored")
    log, _ = read_pages(full.port, "time")
    assert {message["data"] for message in log} >= set(acknowledged[:-1])
    assert request(full.port, "/").status == 200
    make_room()
    numbers = itertools.count()

    def again() -> str | None:
        text = f"room again {next(numbers)}"
        return text if commit(full.port, text) else None

    acknowledged.append(wait_until(again, lambda: f"it stores again: {full.log}"))
    wait_equal(ports([full, peer]), len(acknowledged))
    check_logs(ports([full, peer]), acknowledged)
    assert "Traceback" not in full.log


SMALL = 3 * 1024 * 1024
LARGE = 64 * 1024 * 1024


@pytest.mark.parametrize("first_room", [0, 40, 80], ids=lambda pages: f"{pages} pages first")
def test_a_full_disk_is_told_and_outlived(tmp_path: Path, first_room: int) -> None:
    acknowledged: list[str] = []
    with (
        small_disk(tmp_path / "node0", SMALL) as resize,
        members(tmp_path, 2, lambda n: range(n)) as (full, peer),
    ):
        wait_equal(ports([full, peer]))
        fill(full.port, acknowledged)

        def make_room() -> None:
            if first_room:  # too little for long: it has to go on looking
                resize(SMALL + first_room * PAGE_BYTES)
                pause(2.5)
            resize(LARGE)

        check_recovery(full, peer, acknowledged, make_room)


def test_a_disk_with_errors_is_told_and_outlived(tmp_path: Path) -> None:
    acknowledged: list[str] = []
    with members(tmp_path, 2, lambda n: range(n)) as (full, peer), ExitStack() as limit:
        wait_equal(ports([full, peer]))
        limit.enter_context(small_files(full.node, 1024 * 1024))
        fill(full.port, acknowledged)
        check_recovery(full, peer, acknowledged, limit.close)


# -- a damaged database -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, int], Path]:
    """Copies the data directory of a node that has ended twice, by a signal at last; returns where
    its log is.

    After a SIGKILL the newest messages are in the write-ahead log, the others in the database.
    """
    made: dict[int, Path] = {}

    def copy(directory: Path, signum: int) -> Path:
        if signum not in made:
            made[signum] = tmp_path_factory.mktemp("used") / "data"
            use(made[signum], signum)
        return shutil.copytree(made[signum], directory) / "node.db"

    return copy


def use(directory: Path, signum: int) -> None:
    """Run a node twice in a directory; it is ended by `signum` at last."""
    for number, end in enumerate((signal.SIGTERM, signum)):
        with NodeProcess(data_dir=directory) as node:
            count = (3000, 300)[number]
            post_all(node.port, [f"{number} {n} " + "x" * (n % 300) for n in range(count)])
            node.stop(end)
    assert (directory / "node.db-wal").exists() == (signum == signal.SIGKILL)


def damage(path: Path, begin: int, end: int) -> None:
    """Overwrite the pages from `begin` up to `end` with garbage."""
    with path.open("r+b") as file:
        file.seek(begin * PAGE_BYTES)
        file.write(random.Random(begin).randbytes((end - begin) * PAGE_BYTES))


def contents(directory: Path) -> dict[str, bytes]:
    """The log in a data directory: the database, and the write-ahead log if there is anything."""
    files = (directory / "node.db", directory / "node.db-wal")
    return {p.name: p.read_bytes() for p in files if p.exists() and p.stat().st_size}


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("where", ["the first page", "the first pages", "the middle", "the end"])
def test_a_damaged_database_is_refused(
    tmp_path: Path, used: Callable[[Path, int], Path], where: str, signum: int
) -> None:
    database = used(tmp_path / "data", signum)
    pages = database.stat().st_size // PAGE_BYTES
    begin, end = {
        "the first page": (0, 1),
        "the first pages": (0, 10),
        "the middle": (pages // 4, 3 * pages // 4),
        "the end": (pages // 2, pages),
    }[where]
    damage(database, begin, end)
    before = contents(database.parent)
    result = run_to_end(str(free_port_pair()), "--data-dir", str(database.parent))
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert str(database.parent) in result.stderr, "the sentence names what is damaged"
    assert contents(database.parent) == before, "the files are left as they are"


def test_a_damaged_page_ends_in_a_sentence_wherever_it_is(
    tmp_path: Path, used: Callable[[Path, int], Path]
) -> None:
    database = used(tmp_path / "data", signal.SIGTERM)
    pages = database.stat().st_size // PAGE_BYTES
    for page in [*range(16), *range(16, pages, 16)]:
        copy = tmp_path / f"page{page}"
        shutil.copytree(database.parent, copy)
        damage(copy / "node.db", page, page + 1)
        before = contents(copy)
        node = Node(0, copy)
        try:
            node.start()  # not every page is looked at
        except StartError as error:
            assert str(copy) in str(error)
            assert contents(copy) == before, f"page {page}"
        finally:
            node.stop()
