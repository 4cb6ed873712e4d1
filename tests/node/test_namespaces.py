"""Nodes on several hosts, each with its own address: a NAT, and a cable that is cut for a while."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from tests.harness.api import commit, status
from tests.harness.namespaces import HTTP_PORT, PEER_PORT, Host, lab
from tests.harness.support import SCALE, pause, wait_until

CUT = float(os.environ.get("P2P_SYNC_TEST_CUT", "20"))  # seconds
PACE = 0.5  # seconds between the rounds of commits during the cut
HEALING = 60.0 * SCALE


def start_from(peer: Host, hosts: Sequence[Host], *options: str) -> None:
    """Start all nodes, each (that of `peer` itself, too) given the address of `peer`.

    As the README's unit does: one command line for every host.
    """
    start(hosts, "--peer", peer.peer_address, *options)


def start(hosts: Sequence[Host], *options: str) -> None:
    """Start all nodes side by side, and wait until they answer."""
    for host in hosts:
        host.start(*options)
    for host in hosts:
        host.call(host.node.wait_ready)


def commit_on_each(hosts: Sequence[Host], text: str) -> list[str]:
    """Commit a text of its own on each host; return the texts."""
    texts = []
    for host in hosts:
        texts.append(f"{text} on {host.host}")
        assert host.call(commit, HTTP_PORT, texts[-1])
    return texts


def held(host: Host) -> tuple[int, str]:
    """How many messages a host has, and their digest."""
    messages = host.call(status, HTTP_PORT)["messages"]
    return messages["count"], messages["digest"]


def agree(hosts: Sequence[Host], texts: Sequence[str], timeout: float = HEALING) -> None:
    """Wait until all hosts show one log, of `texts`."""

    def told() -> list[tuple[int, str]]:
        return [held(host) for host in hosts]

    wait_until(
        lambda: len(set(told())) == 1 and held(hosts[0])[0] >= len(texts),
        lambda: f"{len(texts)} messages and one digest on {[h.host for h in hosts]}: {told()}",
        timeout,
    )
    for host in hosts:
        assert sorted(host.call(host.node.texts)) == sorted(texts), host.host


def reaches(address: str, port: int) -> bool:
    """Whether a connection can be opened."""
    try:
        socket.create_connection((address, port), 1 * SCALE).close()
    except OSError:
        return False
    return True


def wait_links(least: int, hosts: Sequence[Host]) -> None:
    """Wait until each of `hosts` counts `least` sockets or more."""

    def counts() -> list[int]:
        return [host.sockets() for host in hosts]

    wait_until(
        lambda: min(counts()) >= least,
        lambda: f"{least} sockets each on {[host.host for host in hosts]}, got {counts()}",
        HEALING,
    )


def test_hosts_find_each_other_and_a_cut_cable_heals(tmp_path: Path) -> None:
    with lab(tmp_path) as place:
        left, right = place.site("left"), place.site("right")
        cable = place.cable(left, right)
        lefts = [place.host(f"left{n}", left, f"10.77.0.{n}") for n in (1, 2, 3)]
        rights = [place.host(f"right{n}", right, f"10.77.0.{n + 10}") for n in (1, 2, 3)]
        hosts = lefts + rights
        start_from(lefts[0], hosts)
        wait_links(5, hosts)
        texts = commit_on_each(hosts, "before")
        agree(hosts, texts)

        cable.cut()
        sides = {"left": (lefts, list(texts)), "right": (rights, list(texts))}
        end = time.monotonic() + CUT
        number = 0
        while time.monotonic() < end:
            number += 1
            for side, known in sides.values():
                new = commit_on_each(side, f"during the cut {number}")
                known += new
                texts += new
                agree(side, known)  # each half goes on, and hears nothing of the other
            pause(PACE)
        cable.plug_in()
        plugged_in = time.monotonic()
        agree(hosts, texts)
        print(f"cut for {CUT:g} s, {number} rounds; healed in {time.monotonic() - plugged_in:.1f}")
        agree(hosts, texts + commit_on_each(hosts, "after"))
        wait_links(5, hosts)


def test_halves_that_have_links_enough_meet_again(tmp_path: Path) -> None:
    """No node lacks a link, and none was given an address of the other half by hand."""
    few = ("--target-links", "2")
    with lab(tmp_path) as place:
        net = place.site("net")
        guide = place.host("guide", net, "10.77.0.9")
        lefts = [place.host(f"left{n}", net, f"10.77.0.{n}") for n in (1, 2, 3)]
        rights = [place.host(f"right{n}", net, f"10.77.0.{n + 10}") for n in (1, 2, 3)]
        hosts = lefts + rights
        start_from(guide, [guide, *hosts], *few)
        texts = commit_on_each([guide, *hosts], "before")
        agree([guide, *hosts], texts)
        guide.end()

        for host in hosts:  # the quick way to end all links between the halves, on both sides
            host.end()
        # Dials fail at once, so that none from before is under way when the halves may meet.
        place.part(lefts, rights)
        start(hosts, *few)
        known = list(texts)
        for half in (lefts, rights):
            wait_links(2, half)
            new = commit_on_each(half, "during the cut")
            agree(half, known + new)
            texts += new
        place.join(lefts, rights)
        joined = time.monotonic()
        agree(hosts, texts)
        print(f"met again after {time.monotonic() - joined:.1f} s")
        agree(hosts, texts + commit_on_each(hosts, "after"))


def test_nodes_behind_a_nat_take_part_by_their_own_links(tmp_path: Path) -> None:
    with lab(tmp_path) as place:
        net = place.site("net")
        outside = [place.host(f"outside{n}", net, f"10.77.0.{n}") for n in (1, 2, 3)]
        router = place.router("router", net, "10.77.0.9", inner="192.168.77.1")
        # Two, whom the others see at one address, where nobody answers.
        inside = [
            place.host(f"inside{n}", router, f"192.168.77.{n}", gateway="192.168.77.1")
            for n in (2, 3)
        ]
        hosts = outside + inside
        start_from(outside[0], hosts)
        assert inside[0].call(reaches, outside[0].address, PEER_PORT)
        for address in ("10.77.0.9", inside[0].address):
            assert not outside[0].call(reaches, address, PEER_PORT), "the NAT hides nobody"
        texts = commit_on_each(hosts, "first")
        agree(hosts, texts)
        wait_links(3, inside)  # to all outside, though they were given one
        wait_links(4, outside)

        gone, *rest = hosts  # the one that all were given
        gone.end()
        texts += commit_on_each(rest, "without the first")
        agree(rest, texts)
