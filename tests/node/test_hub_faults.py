"""Two meshes of three nodes that only a hub joins, under load, while faults hit all parts."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.harness.api import Load, check_logs, post_all, status, wait_equal
from tests.harness.members import Member
from tests.harness.proxy import Proxy
from tests.harness.redis import RedisServer
from tests.harness.support import SCALE, pause

FAULTS = int(os.environ.get("P2P_SYNC_TEST_FAULTS", "14"))
MESSAGES = int(os.environ.get("P2P_SYNC_TEST_HUB_MESSAGES", "4000"))
FROZEN = float(os.environ.get("P2P_SYNC_TEST_FROZEN", "1"))  # seconds that the hub stands still


class Hub:
    """A hub whose cable can be cut, and the bridges to it: the first node of each mesh."""

    def __init__(self, redis: RedisServer, proxy: Proxy, nodes: list[Member], seed: int) -> None:
        self.redis = redis
        self.proxy = proxy
        self.bridges = [nodes[0], nodes[3]]
        self.rng = random.Random(seed)
        self.seed = seed
        self.done: list[str] = []
        self._older = redis.directory.parent / "older"

    def note(self) -> str:
        return f"(P2P_SYNC_TEST_SEED={self.seed} P2P_SYNC_TEST_FAULTS={FAULTS}) {self.done}"

    def inject(self) -> None:
        """One fault, and its end."""
        faults = [self.kill_one, self.kill_both, self.kill_redis, self.freeze, self.empty]
        fault = self.rng.choice([*faults, self.set_back, self.fill, self.cut])
        self.done.append(fault.__name__)
        fault()
        pause(self.rng.uniform(0, 0.5))

    def kill_one(self) -> None:
        self._kill([self.rng.choice(self.bridges)])

    def kill_both(self) -> None:
        self._kill(self.bridges)

    def _kill(self, members: list[Member]) -> None:
        for member in members:
            member.stop(signal.SIGKILL)
        pause(self.rng.uniform(0, 0.5))
        for member in members:
            member.start(wait=True)

    def kill_redis(self) -> None:
        self.redis.kill()
        pause(self.rng.uniform(0, 0.5))
        self.redis.start()

    def freeze(self) -> None:
        self.redis.process.send_signal(signal.SIGSTOP)
        pause(FROZEN)
        self.redis.process.send_signal(signal.SIGCONT)

    def empty(self) -> None:
        self.redis.client.flushall()

    def set_back(self) -> None:
        """Start Redis on what it held before, the first time on what it holds now."""
        self.redis.kill()
        held = self.redis.directory
        if self._older.exists() and self.rng.random() < 0.7:
            shutil.rmtree(held)
            shutil.copytree(self._older, held)
        else:
            shutil.rmtree(self._older, ignore_errors=True)
            shutil.copytree(held, self._older)
        self.redis.start()

    def fill(self) -> None:
        """The hub may take no more memory for a while."""
        self.redis.client.config_set("maxmemory", 1)
        pause(self.rng.uniform(0, 1))
        self.redis.client.config_set("maxmemory", 0)

    def cut(self) -> None:
        self.proxy.refuse()
        pause(self.rng.uniform(0, 1))
        self.proxy.heal()


@contextmanager
def two_meshes(directory: Path, url: str) -> Iterator[list[Member]]:
    """Two meshes of three, the first node of each with the hub."""
    with ExitStack() as stack:
        nodes: list[Member] = []
        for number in range(6):
            first = number - number % 3
            options = [word for n in range(first, number) for word in ("--peer", nodes[n].address)]
            if number == first:
                options += ["--hub", url]
            member = Member(directory / f"node{number}", *options)
            stack.callback(member.close)
            nodes.append(member)
            member.start(wait=True)
        yield nodes


def test_two_meshes_that_commit_much_hold_the_same(tmp_path: Path) -> None:
    """Two nodes of each mesh commit a quarter each."""
    with RedisServer(tmp_path / "redis") as redis, two_meshes(tmp_path, redis.url) as nodes:
        ports = [member.port for member in nodes]
        each = MESSAGES // 4
        texts = {port: [f"{port} {number}" for number in range(each)] for port in ports[1:5]}
        with ThreadPoolExecutor() as pool:
            list(pool.map(post_all, texts, texts.values()))
        wait_equal(ports, 4 * each, (60 + MESSAGES / 200) * SCALE)
        assert {status(port)["messages"]["count"] for port in ports} == {4 * each}
        check_logs(ports, itertools.chain.from_iterable(texts.values()))


@pytest.mark.parametrize("fsync", ["everysec", "always"])
def test_after_many_faults_both_meshes_hold_the_same(tmp_path: Path, fsync: str) -> None:
    seed = int(os.environ.get("P2P_SYNC_TEST_SEED", random.randrange(2**32)))
    redis = RedisServer(tmp_path / "redis", "--appendonly", "yes", "--appendfsync", fsync)
    with ExitStack() as stack:
        stack.enter_context(redis)
        proxy = stack.enter_context(Proxy(redis.port))
        url = f"redis://127.0.0.1:{proxy.port}/0"
        nodes = stack.enter_context(two_meshes(tmp_path, url))
        ports = [member.port for member in nodes]
        hub = Hub(redis, proxy, nodes, seed)
        try:
            wait_equal(ports)
            with Load(ports, "load") as load:
                load.wait_for(20)
                for _ in range(FAULTS // 2):
                    hub.inject()
                load.wait_for(20)
            wait_equal(ports, len(load.acknowledged), 15 * SCALE)
            check_logs(ports, load.acknowledged, hub.note, load.identities)
            for member in nodes:
                assert "Traceback" not in member.log
        except BaseException:
            print(hub.note())
            for member in nodes:
                print(f"-- {member.name}, {member.port}\n{member.log[-3000:]}")
            raise
        with suppress(FileNotFoundError):
            shutil.rmtree(tmp_path / "older")
