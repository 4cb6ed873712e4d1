"""The Autobahn test suite against p2p_sync: both ends of a WebSocket, 301 cases each.

    python -m tests.autobahn PATH_OF_WSTEST [--direction accept|dial|both]

`accept`: the suite dials `tests.echo_server`. `dial`: `tests.echo_client` dials the suite, which
listens on every interface as it has no setting for that. `.ci/run` does both where it finds a
Python 2.7. To get `VENV/bin/wstest` by hand, with Python 2.7, its headers and a C compiler:

    pip install virtualenv==20.21.1
    virtualenv --python=python2.7 VENV
    VENV/bin/pip install -r tests/autobahn-requirements.txt
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.harness.support import DEADLINE, ROOT, SCALE, free_port_pair, wait_until

AGENT = "p2p_sync"
# Groups 12 and 13 are compression, which is not offered; the suite has no group 8 or 11.
PATTERNS = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*"]
CASE_COUNT = 301
PASSED = {"OK", "NON-STRICT", "INFORMATIONAL"}
Verdicts = dict[str, dict[str, str]]


@contextmanager
def started(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command`, its output in `log`; end it on the way out."""
    # A process that has to be killed must not take its last lines with it.
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def run_suite(wstest: str, direction: str, folder: Path, deadline: float) -> Verdicts:
    """Run all cases in one direction and return the suite's verdict on each."""
    port = free_port_pair()
    url = f"ws://127.0.0.1:{port}"
    # Either mode of the suite ignores the keys of the other.
    spec = {
        "outdir": str(folder / "report"),
        "url": url,
        "servers": [{"agent": AGENT, "url": url}],
        "cases": PATTERNS,
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    # Without `-u 0` the suite's server also takes port 8080 for a web page.
    suite = [wstest, "-u", "0", "-s", str(folder / "spec.json"), "-m"]
    echo = [sys.executable, "-m"]
    if direction == "accept":
        server, client = [*echo, "tests.echo_server", str(port)], [*suite, "fuzzingclient"]
    else:
        server, client = [*suite, "fuzzingserver"], [*echo, "tests.echo_client", url]

    late = (AssertionError, subprocess.TimeoutExpired)
    with started(server, folder / "server.log") as listening, suppress(*late):
        wait_until(lambda: listening.poll() is not None or accepts(port), "a listening server")
        with started(client, folder / "client.log") as dialling:
            dialling.wait(deadline)
    index = folder / "report" / "index.json"
    return json.loads(index.read_text()).get(AGENT, {}) if index.exists() else {}


def judge(direction: str, cases: Verdicts, folder: Path) -> bool:
    """Print how the cases went; true if all of them ran and passed."""
    failed = {
        name: case
        for name, case in cases.items()
        if not {case["behavior"], case["behaviorClose"]} <= PASSED
    }
    print(f"{direction}: {len(cases)} cases, {len(cases) - len(failed)} passed")
    for name in sorted(failed, key=lambda name: [int(part) for part in name.split(".")]):
        case = failed[name]
        print(f"  {name}: behavior {case['behavior']}, behaviorClose {case['behaviorClose']}")
    if len(cases) < CASE_COUNT:
        print(f"  {CASE_COUNT} cases were to run in time; the last lines of the logs:")
        for log in sorted(folder.glob("*.log")):
            for line in log.read_text(errors="replace").splitlines()[-15:]:
                print(f"  {log.stem}: {line[:100]}")
    return not failed and len(cases) >= CASE_COUNT


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.autobahn")
    parser.add_argument("wstest", type=Path, metavar="PATH_OF_WSTEST")
    parser.add_argument("--direction", choices=["accept", "dial", "both"], default="both")
    parser.add_argument(
        "--deadline", type=float, default=600 * SCALE, metavar="SECONDS", help="of each direction"
    )
    parser.add_argument("--keep", action="store_true", help="keep the reports and the logs")
    options = parser.parse_args()
    if not os.access(options.wstest, os.X_OK):
        parser.error(f"{options.wstest} is no program; this module's docstring says how to get it")

    # The default action would leave the started processes running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    passed = True
    parent = Path(tempfile.mkdtemp(prefix="autobahn-"))
    try:
        for direction in ("accept", "dial"):
            if options.direction in (direction, "both"):
                folder = parent / direction
                folder.mkdir()
                wstest = str(options.wstest.absolute())
                cases = run_suite(wstest, direction, folder, options.deadline)
                passed = judge(direction, cases, folder) and passed
    finally:
        if options.keep:
            print(f"kept: {parent}")
        else:
            shutil.rmtree(parent)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
