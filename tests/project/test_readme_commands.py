"""The commands of the documents run as they are printed, in a fresh copy of the project.

Where all nodes are on one machine, their ports are replaced by free ones. Three machines have
networks of their own, so there nothing is replaced.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from p2p_sync.cli.program import program
from tests.harness.namespaces import lab
from tests.harness.support import DEADLINE, ROOT, Answer, free_port_pair, request, wait_until
from tests.project.documents import DOCUMENTS, PROSE, README

PRINTED = {
    re.sub(r"\s+# .*", "", line)
    for text in DOCUMENTS
    for block in text.blocks("sh")
    for line in block.splitlines()
}

INSTALL = "python3 -m venv .venv && .venv/bin/pip install -q -e ."
RUN = f"{INSTALL} && .venv/bin/python run_node.py 8000"
TEST = (
    "python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]' && .venv/bin/python -m pytest"
)
ADD = "curl 'http://127.0.0.1:8000/add?address=ws://127.0.0.1:9001'"
COMMIT = "curl 'http://127.0.0.1:8000/commit?msg=hello'"
SHOW = "curl http://127.0.0.1:9000/"
COMMIT_BY_API = (
    "curl -H 'Content-Type: application/json' -d '{\"data\": \"hello\"}' "
    "'http://127.0.0.1:8000/api/v1/messages?copies=1'"
)
COMMIT_TOPIC = "curl 'http://127.0.0.1:8000/commit?msg=22&topic=sensors/a'"
READ_TOPIC = (
    "curl 'http://127.0.0.1:8000/api/v1/messages?order=newest&topic=sensors/a&since=1764000000000'"
)
COMMIT_ONCE = "curl -H 'Idempotency-Key: deploy-42' 'http://127.0.0.1:8000/commit?msg=deployed'"
CONSUMER = "http://127.0.0.1:8000/api/v1/consumers/deployer"
MAKE_CONSUMER = (
    "curl -X PUT -H 'Content-Type: application/json' -d '{\"topic\": \"deploy\"}' " + CONSUMER
)
TAKE = f"curl '{CONSUMER}?limit=1&wait=30'"
ACKNOWLEDGE = (
    f"curl -H 'Content-Type: application/json' -d '{{\"position\": \"POSITION\"}}' {CONSUMER}/ack"
)
REMOVE = "rm -r p2p-data"
SECOND = ".venv/bin/python run_node.py 9000"
SECRET = "(umask 077; openssl rand -hex 32 > secret)"
ONE_OF_THREE = (
    ".venv/bin/p2p-sync 8000 --host 0.0.0.0 --secret-file secret --peer ws://10.0.0.1:8001"
)
COMMIT_HERE = '.venv/bin/p2p-sync commit "hello from here"'
LOG = ".venv/bin/p2p-sync log"
STATUS = ".venv/bin/p2p-sync status"
BACKUP = ".venv/bin/p2p-sync backup messages.ndjson.gz --node http://127.0.0.1:8000"
RESTORE = ".venv/bin/p2p-sync restore messages.ndjson.gz --data-dir restored"
RESTORED = ".venv/bin/p2p-sync 8000 --data-dir restored"
WITH_SECRET = ".venv/bin/p2p-sync 8000 --host 0.0.0.0 --secret-file secret"
WITH_NAME = ".venv/bin/p2p-sync 8000 --http-name node.example.org"
WITH_TOKEN = (
    'curl -H "Authorization: Bearer $(cat p2p-data/8000/http-token)" http://192.168.1.5:8000/'
)
SERVICE_SECRET = (
    "sudo sh -c '(umask 077; echo \"P2P_SYNC_SECRET=$(openssl rand -hex 32)\" > /etc/p2p-sync.env)'"
)
RUN_HERE = {
    INSTALL, RUN, TEST, ADD, COMMIT, COMMIT_BY_API, SHOW, SECOND, REMOVE, SECRET, SERVICE_SECRET,
    ONE_OF_THREE, COMMIT_HERE, LOG, STATUS, BACKUP, RESTORE, RESTORED, WITH_SECRET,
    WITH_NAME, WITH_TOKEN, COMMIT_TOPIC, COMMIT_ONCE, READ_TOPIC,
    MAKE_CONSUMER, TAKE, ACKNOWLEDGE,
}  # fmt: skip
RUN_ELSEWHERE = {
    # needs root and systemd, and a place outside of the tests; see test_the_unit_starts_a_node
    "sudo python3 -m venv /opt/p2p_sync",
    "sudo /opt/p2p_sync/bin/pip install .",
    "sudo systemctl enable --now p2p-sync",
    "journalctl -u p2p-sync",
    "/opt/p2p_sync/bin/p2p-sync status",
    "sudo /opt/p2p_sync/bin/pip install --upgrade .",
    "sudo systemctl restart p2p-sync",
    "/opt/p2p_sync/bin/p2p-sync status --wait 30",
    # does not end; see tests/cli/test_consume.py
    ".venv/bin/p2p-sync consume printer --topic print -- lpr",
    # does not end; see tests/web/test_topics.py
    "curl 'http://127.0.0.1:8000/api/v1/messages/follow?topic=sensors/a'",
    # .ci/run
    ".venv/bin/python -m tests.autobahn PATH_OF_WSTEST",
}


def test_every_command_is_run() -> None:
    assert PRINTED == RUN_HERE | RUN_ELSEWHERE


def test_no_command_needs_an_active_environment() -> None:
    words = re.findall(r"`((?:p2p-sync|python|pip|pytest) [^`]*)`", PROSE)
    assert not words, "write .venv/bin/ before it"


def test_every_command_in_a_sentence_is_one() -> None:
    named = re.findall(r"`\.venv/bin/p2p-sync ([^`]+)`", PROSE)
    assert {words.split()[0] for words in named} - {"PORT", "--help"} == set(program.commands)
    named = re.findall(r"`\.venv/bin/(?!p2p-sync)([^`]+)`", PROSE)
    started = ("python run_node.py", "python -m p2p_sync", "python -m tests.", "python -m pytest")
    assert all(words.startswith(started) for words in named), named


# -- a copy, and commands in it --------------------------------------------------------------------


def environment() -> dict[str, str]:
    """That of a shell where `python3` is the Python of the tests."""
    foreign = ("P2P_SYNC_", "PYTEST_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**kept, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def shell(command: str, folder: Path, *before: str, timeout: float = DEADLINE) -> str:
    """Run a command in a folder and return what it prints; `before` are words to begin with."""
    done = subprocess.run(
        [*before, "sh", "-c", command],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@contextmanager
def running(command: str, folder: Path, *before: str) -> Iterator[Callable[[], str]]:
    """Run the last part of a command until the block ends; yields what returns its output."""
    first, joint, last = command.rpartition(" && ")
    log = folder / f"log-{free_port_pair()}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*before, "sh", "-c", f"{first}{joint}exec {last}"],
            cwd=folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield log.read_text
        assert process.poll() is None, log.read_text()
        process.terminate()
        assert process.wait(DEADLINE) == 0, log.read_text()
        assert "Traceback" not in log.read_text()
    finally:
        process.kill()
        process.wait()


def wait_ready(ask: Callable[[], Answer], log: Callable[[], str]) -> None:
    def ready() -> bool:
        try:
            return ask().status == 200
        except OSError:
            return False

    wait_until(ready, log, 4 * DEADLINE)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh copy of the project, made ready by the README's own command."""
    folder = tmp_path_factory.mktemp("clone") / "p2p_sync"
    rest = (".git", ".venv", "__pycache__", ".*_cache", ".hypothesis", "*.egg-info", "p2p-data")
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*rest))
    try:
        shell(INSTALL, folder, timeout=15 * DEADLINE)
    except AssertionError as error:
        if "No matching distribution" in str(error):
            pytest.skip(f"packages cannot be installed here: {error}")
        raise
    return folder


class Ports:
    """Free ports in the place of those that are printed."""

    def __init__(self) -> None:
        self.one, self.other = free_port_pair(), free_port_pair()

    def __call__(self, command: str) -> str:
        free = {"8000": self.one, "8001": self.one + 1, "9000": self.other, "9001": self.other + 1}
        return re.sub(r"\b[89]00[01]\b", lambda found: str(free[found[0]]), command)


needs_curl = pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
needs_openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")


@needs_curl
def test_two_nodes_on_one_machine(clone: Path) -> None:
    ports = Ports()
    with running(ports(RUN), clone) as log, running(ports(SECOND), clone) as other_log:
        wait_ready(lambda: request(ports.one, "/healthz"), log)
        wait_ready(lambda: request(ports.other, "/healthz"), other_log)
        shell(ports(ADD), clone)
        shell(ports(COMMIT), clone)
        wait_until(lambda: shell(ports(SHOW), clone) == "No. sockets 1 hello", other_log)
        shell(ports(BACKUP), clone)
        assert json.loads(shell(ports(COMMIT_BY_API), clone))["copies"] == 1
        shell(ports(COMMIT_TOPIC), clone)
        for _ in range(2):
            shell(ports(COMMIT_ONCE), clone)
        assert json.loads(shell(ports(MAKE_CONSUMER), clone))["lag"] == 0
        request(ports.one, "/commit?msg=now&topic=deploy")
        (taken,) = json.loads(shell(ports(TAKE), clone))["messages"]
        shell(ports(ACKNOWLEDGE.replace("POSITION", taken["position"])), clone)
        (consumer,) = json.loads(request(ports.one, "/api/v1/consumers").body)["consumers"]
        assert (taken["data"], consumer["lag"]) == ("now", 0)
        found = request(ports.one, "/api/v1/messages")
        assert found.text.count('"deployed"') == 1
        found = json.loads(shell(ports(READ_TOPIC), clone))["messages"]
        assert [message["data"] for message in found] == ["22"]
    assert (clone / "messages.ndjson.gz").stat().st_mode & 0o077 == 0
    shell(RESTORE, clone)
    ports = Ports()
    with running(ports(RESTORED), clone) as log:
        wait_ready(lambda: request(ports.one, "/healthz"), log)
        assert request(ports.one, "/").text == "No. sockets 0 hello"
    shell(REMOVE, clone)
    assert not (clone / "p2p-data").exists()


@needs_openssl
def test_nodes_with_other_options(clone: Path) -> None:
    shell(SECRET, clone)
    for command in (WITH_SECRET, WITH_NAME):
        ports = Ports()
        with running(ports(command), clone) as log:
            wait_ready(partial(request, ports.one, "/healthz"), log)


@needs_openssl
def test_the_unit_starts_a_node(clone: Path, tmp_path: Path) -> None:
    secret = tmp_path / "p2p-sync.env"
    shell(SERVICE_SECRET.removeprefix("sudo ").replace("/etc/p2p-sync.env", str(secret)), tmp_path)
    assert secret.stat().st_mode & 0o077 == 0
    (unit,) = README.blocks("ini")
    assert "EnvironmentFile=/etc/p2p-sync.env" in unit
    (command,) = re.findall(r"^ExecStart=(.*)", unit, re.M)
    ports, program = Ports(), "/opt/p2p_sync/bin/p2p-sync"
    assert command.startswith(program)
    command = ports(command.replace(program, str(clone / ".venv" / "bin" / "p2p-sync")))
    command = command.replace("/var/lib/private/p2p-sync", str(tmp_path / "data"))
    with running(command, tmp_path, "env", *secret.read_text().split()) as log:
        wait_ready(partial(request, ports.one, "/healthz"), log)
        assert "no secret" not in log()


def test_the_container_starts_a_node() -> None:
    texts = [text for text in DOCUMENTS if "dockerfile" in text.text]
    (image,) = texts[0].blocks("dockerfile")
    name, *options = json.loads(re.findall(r"^ENTRYPOINT (.*)", image, re.M)[0])
    (more,) = re.findall(r"^ +command: (.*)", texts[0].text, re.M)
    assert name == "p2p-sync"
    program.commands["run"].make_context(name, [*options, *json.loads(more)])


def test_the_tests_start(clone: Path) -> None:
    assert " passed" in shell(f"{TEST} tests/project/test_address.py", clone, timeout=15 * DEADLINE)


@needs_openssl
def test_three_machines(clone: Path, tmp_path: Path) -> None:
    with lab(tmp_path) as made, ExitStack() as stack:
        site = made.site("site")
        hosts = [made.host(f"host{n}", site, f"10.0.0.{n}") for n in (1, 2, 3)]
        folders = [tmp_path / f"copy{n}" for n in (1, 2, 3)]
        for folder in folders:
            folder.mkdir()
            (folder / ".venv").symlink_to(clone / ".venv")
        shell(SECRET, folders[0])
        for folder in folders[1:]:
            shutil.copy2(folders[0] / "secret", folder)
        logs = []
        for host, folder in zip(hosts, folders, strict=True):
            logs.append(stack.enter_context(running(ONE_OF_THREE, folder, *host.command())))
        for host, log in zip(hosts, logs, strict=True):
            wait_ready(partial(host.call, request, 8000, "/healthz"), log)

        def printed(command: str) -> set[str]:
            found = set()
            for host, folder in zip(hosts, folders, strict=True):
                try:
                    found.add(shell(command, folder, *host.command()))
                except AssertionError as error:
                    found.add(str(error))
            return found

        status = {"In sync with 2 of 2 peers\n"}
        wait_until(lambda: printed(STATUS) == status, lambda: f"{printed(STATUS)}")
        shell(COMMIT_HERE, folders[1], *hosts[1].command())
        wait_until(lambda: [text.count("hello from here") for text in printed(LOG)] == [1])


@needs_curl
def test_a_page_for_other_machines(clone: Path, tmp_path: Path) -> None:
    (tmp_path / ".venv").symlink_to(clone / ".venv")
    with lab(tmp_path) as made:
        host = made.host("host", made.site("site"), "192.168.1.5")
        command = ".venv/bin/p2p-sync 8000 --http-host 0.0.0.0"
        with running(command, tmp_path, *host.command()) as log:
            wait_ready(lambda: host.call(request, 8000, "/healthz"), log)
            assert shell(WITH_TOKEN, tmp_path, *host.command()) == "No. sockets 0 "
