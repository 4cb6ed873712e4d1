"""The figures as text for people, and as JSON for programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from statistics import median
from typing import Any

from tests.bench.results import Results, Sample, Scenario

_VERDICTS = {True: "met", False: "missed", None: "not measured"}


def lines(scenario: Scenario, results: Results) -> Iterator[str]:
    """The table of one scenario."""
    yield f"{scenario.number}. {scenario.title}"
    header = ["system", "figure", "median", "lowest", "highest", "ours / it"]
    rows = [header, *_rows(results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    for row in rows:
        cells = [
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "   " + "  ".join(cells).rstrip()
    for system, samples in results.samples.items():
        yield f"   {system}: {_usage(samples)}"
    for system, why in results.skipped.items():
        yield f"   {system}: skipped, {why}"
    for goal in scenario.goals:
        actual = goal.actual(results)
        told = "" if actual is None else f" ({number(actual)})"
        yield f"   goal: {goal.text}: {_VERDICTS[goal.met(results)]}{told}"


def _rows(results: Results) -> Iterator[list[str]]:
    for system, samples in results.samples.items():
        for figure in samples[0].figures:
            values = results.values(system, figure)
            ratio = None if system == "ours" else results.ratio(figure, system)
            yield [
                system,
                figure,
                number(median(values)),
                number(min(values)),
                number(max(values)),
                "" if ratio is None else f"{ratio:.2f}",
            ]


def _usage(samples: list[Sample]) -> str:
    """CPU seconds and memory of each process, and what went on beside."""
    parts = []
    for index, process in enumerate(samples[0].processes):
        same = [s.processes[index] for s in samples if index < len(s.processes)]
        cpu, peak = median(p.cpu_s for p in same), max(p.peak_mb for p in same)
        parts.append(f"{process.name} {cpu:.2f} s {peak:.0f} MB")
    others = ", ".join(f"{sample.others:.1f}" for sample in samples)
    loads = ", ".join(f"{sample.load:.1f}" for sample in samples)
    seconds = median(sample.seconds for sample in samples)
    told = f"in {seconds:.1f} s: {'; '.join(parts)}; " if parts else ""
    return f"{told}cores used by others {others}; load before {loads}"


def number(value: float) -> str:
    """Three digits or more."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def as_json(scenario: Scenario, results: Results) -> Mapping[str, Any]:
    """All that was measured."""
    return {
        "number": scenario.number,
        "title": scenario.title,
        "samples": {
            system: [asdict(sample) for sample in samples]
            for system, samples in results.samples.items()
        },
        "ratios": {
            system: {
                figure: ratio
                for figure in samples[0].figures
                if (ratio := results.ratio(figure, system)) is not None
            }
            for system, samples in results.samples.items()
            if system != "ours"
        },
        "skipped": results.skipped,
        "goals": [
            {"goal": goal.text, "actual": goal.actual(results), "met": goal.met(results)}
            for goal in scenario.goals
        ],
    }
