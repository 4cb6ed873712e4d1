"""The command line: which scenarios, how large, and what is kept."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.bench import ours, table
from tests.bench.profiles import Profiler
from tests.bench.results import SHORT, Missing, Results, Scale, Scenario
from tests.bench.scenarios import SCENARIOS
from tests.bench.usage import machine

# What needs nothing but the project itself.
_OWN = {"ours", "one", "two", "flask"}


def measure(scenario: Scenario, scale: Scale, systems: set[str] | None) -> Results:
    """Take the samples of one scenario, its systems taking turns; None: all systems."""
    results = Results()
    for turn in range(1, scale.rounds + 1):
        for system, run in scenario.systems.items():
            if system in results.skipped or (systems is not None and system not in systems):
                continue
            print(f"-- scenario {scenario.number}, {system}, {turn}", file=sys.stderr, flush=True)
            try:
                sample = run(scale)
            except Missing as missing:
                results.skipped[system] = str(missing)
                continue
            results.samples.setdefault(system, []).append(sample)
    return results


def _profile(scenario: Scenario, scale: Scale, locked: bool) -> None:
    """Run the scenario once, its nodes under the profiler, and print where their time went."""
    with tempfile.TemporaryDirectory(prefix="p2p-bench-profile-") as folder:
        profiler = Profiler(Path(folder), locked)
        ours.profilers.append(profiler)
        results = measure(scenario, replace(scale, rounds=1), {"ours"})
        print("\n".join(table.lines(scenario, results)))
        print("\n".join(profiler.told()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--scenario", type=int, action="append", help="may stand several times")
    parser.add_argument("--short", action="store_true", help="small, and without competitors")
    parser.add_argument("--systems", help="separated by commas, as the tables name them")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--messages", type=int, help="in bulk; a long log has five times as many")
    parser.add_argument("--seconds", type=float, help="of load by many clients")
    parser.add_argument("--json", metavar="FILE", type=Path, help="keep everything there")
    parser.add_argument("--profile", metavar="N", type=int, help="where scenario N's time goes")
    parser.add_argument("--gil", action="store_true", help="of it, what holds Python's lock")
    return parser.parse_args()


def _scale(given: argparse.Namespace) -> Scale:
    scale = SHORT if given.short else Scale()
    changes: dict[str, Any] = {}
    if given.rounds:
        changes["rounds"] = given.rounds
    if given.messages:
        changes |= {"messages": given.messages, "long_log": 5 * given.messages}
    if given.seconds:
        changes["seconds"] = given.seconds
    return replace(scale, **changes)


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
    given = _arguments()
    scale = _scale(given)
    systems = set(given.systems.split(",")) if given.systems else _OWN if given.short else None
    chosen = [s for s in SCENARIOS if not given.scenario or s.number in given.scenario]
    told: dict[str, Any] = {"machine": machine(), "scenarios": []}
    print(", ".join(f"{name} {value}" for name, value in told["machine"].items()), flush=True)
    try:
        if given.profile:
            _profile(next(s for s in SCENARIOS if s.number == given.profile), scale, given.gil)
            return
        for scenario in chosen:
            results = measure(scenario, scale, systems)
            print("\n".join(table.lines(scenario, results)), flush=True)
            told["scenarios"].append(table.as_json(scenario, results))
            _keep(given.json, told)
    except Missing as missing:
        sys.exit(f"{missing}")
    finally:
        ours.LONG_LOG.close()


def _keep(path: Path | None, told: Mapping[str, Any]) -> None:
    if path:
        path.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
