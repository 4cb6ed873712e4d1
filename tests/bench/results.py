"""What is measured: samples, the scenarios that take them, and the goals they are held against."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median


class Missing(Exception):
    """A competitor that is not on this machine; the text says what is missing."""


@dataclass(frozen=True)
class Scale:
    """How much work a scenario does."""

    rounds: int = 3
    messages: int = 200_000  # committed in bulk
    long_log: int = 1_000_000  # messages of a long log
    delays: int = 1_000  # single commits, one after the other
    seconds: float = 10.0  # of load by many clients
    idle_seconds: float = 45.0
    idle_peers: int = 100
    meshes: tuple[int, ...] = (3, 10, 20)  # nodes
    origins: int = 100_000


SHORT = Scale(
    rounds=1,
    messages=2_000,
    long_log=4_000,
    delays=30,
    seconds=0.5,
    idle_seconds=1.0,
    idle_peers=10,
    meshes=(2, 4),
    origins=400,
)


@dataclass(frozen=True)
class Process:
    """What one process took while a sample was taken."""

    name: str
    cpu_s: float
    peak_mb: float


@dataclass(frozen=True)
class Sample:
    """One run of one system."""

    figures: dict[str, float]  # name with its unit -> value
    processes: tuple[Process, ...] = ()
    seconds: float = 0.0
    load: float = 0.0  # of the machine, before
    others: float = 0.0  # cores that processes of others used meanwhile


@dataclass
class Results:
    """All samples of one scenario; those of one round stand at the same index."""

    samples: dict[str, list[Sample]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)  # system -> why

    def values(self, system: str, figure: str) -> list[float]:
        """One figure of a system, by round."""
        found = (sample.figures.get(figure) for sample in self.samples.get(system, ()))
        return [value for value in found if value is not None]

    def middle(self, figure: str, system: str = "ours") -> float | None:
        """The median over the rounds."""
        values = self.values(system, figure)
        return median(values) if values else None

    def ratio(self, figure: str, system: str) -> float | None:
        """The median of ours / theirs, round by round."""
        pairs = zip(self.values("ours", figure), self.values(system, figure), strict=False)
        ratios = [ours / theirs for ours, theirs in pairs if theirs]
        return median(ratios) if ratios else None


@dataclass(frozen=True)
class Goal:
    """What the issue asks for; `actual` finds the number that it is about, None where unknown."""

    text: str
    actual: Callable[[Results], float | None]
    least: float = -math.inf
    most: float = math.inf

    def met(self, results: Results) -> bool | None:
        value = self.actual(results)
        return None if value is None else self.least <= value <= self.most


@dataclass(frozen=True)
class Scenario:
    """One row of the issue's table: who runs it, `ours` first, and what is asked for."""

    number: int
    title: str
    systems: dict[str, Callable[[Scale], Sample]]
    goals: Sequence[Goal]


def quotient(over: float | None, under: float | None) -> float | None:
    """`over` / `under`, None where one is not known."""
    return over / under if over is not None and under else None


def in_ms(delays: Sequence[float]) -> dict[str, float]:
    """Seconds as the two figures of a delay."""
    ordered = sorted(delays)
    p99 = ordered[min(len(ordered) - 1, math.ceil(len(ordered) * 0.99) - 1)]
    return {"median ms": median(ordered) * 1000, "p99 ms": p99 * 1000}
