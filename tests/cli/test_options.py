"""Options and variables as deployments get them wrong: empty, set by Kubernetes, mounted oddly."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click
import pytest

from p2p_sync import InputError, Node
from p2p_sync.cli.program import program
from p2p_sync.disk.private import read_private
from p2p_sync.net.credentials import secret_keys
from tests.harness.support import (
    DEADLINE,
    ROOT,
    RUN_NODE,
    NodeProcess,
    free_port_pair,
    request,
    run_to_end,
    wait_sockets,
    wait_until,
)

SECRET = "the secret of the tests"
FILES = ["secret-file", "http-token-file", "tls-cert", "tls-key", "tls-ca", "data-dir"]
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def variable(option: str) -> str:
    return f"P2P_SYNC_{option.upper().replace('-', '_')}"


def error(tmp_path: Path, *options: str, **environment: str) -> str:
    """The line with which a node refuses to start."""
    result = run_to_end(
        str(free_port_pair()), *options, cwd=tmp_path, environment=environment, timeout=DEADLINE
    )
    assert result.returncode == 2 and "Traceback" not in result.stderr, result
    (line,) = result.stderr.splitlines()
    return line


# -- empty ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["", " "], ids=["empty", "blank"])
@pytest.mark.parametrize("option", FILES)
def test_an_empty_file_name_never_starts_a_node(tmp_path: Path, option: str, value: str) -> None:
    line = error(tmp_path, f"--{option}", value)
    assert f"--{option}" in line and "empty" in line
    line = error(tmp_path, **{variable(option): value})
    assert variable(option) in line and "empty" in line


@pytest.mark.parametrize("value", ["", " ", "\n", "\ufeff", "# comment"])
def test_an_empty_secret_never_starts_an_open_node(tmp_path: Path, value: str) -> None:
    line = error(tmp_path, P2P_SYNC_SECRET=value)
    assert "P2P_SYNC_SECRET" in line and "empty" in line


@pytest.mark.parametrize("option", ["host", "http-host", "http-name", "peer", "advertise"])
def test_other_empty_options_are_refused_and_empty_variables_are_not_set(
    tmp_path: Path, option: str
) -> None:
    assert f"--{option}" in error(tmp_path, f"--{option}", "")
    with NodeProcess("--ephemeral", environment={variable(option): ""}) as node:
        assert node.commit("text").status == 302


@pytest.mark.parametrize("name", ["secret", "secret_file", "tls_cert", "tls_key", "tls_ca"])
def test_a_library_refuses_what_is_empty_too(name: str) -> None:
    empty: dict[str, Any] = {name: " "}
    with pytest.raises(InputError, match=f"{name}= is empty"):
        Node(0, **empty)


# -- the environment ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAX_PEERS", "x"),
        ("PEER_PORT", "99999"),
        ("PEER_PORT", "tcp"),
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"),
        ("EPHEMERAL", "perhaps"),
        ("PEER", "not-an-address"),
        ("ADVERTISE", "nowhere"),
        ("HTTP_NAME", "http://x/"),
        ("MAX_MESSAGE_BYTES", "0"),
        ("SECRET_FILE", "/no/such/file"),
        ("HTTP_TOKEN_FILE", "/no/such/file"),
        ("TLS_CERT", "/no/such/file"),
        ("TLS_CA", "/no/such/file"),
        ("DATA_DIR", "/dev/null/below"),
        ("HOST", "203.0.113.77"),
        ("HTTP_HOST", "203.0.113.77"),
    ],
)
def test_an_error_names_the_variable_that_a_value_came_from(
    tmp_path: Path, name: str, value: str
) -> None:
    line = error(tmp_path, **{f"P2P_SYNC_{name}": value})
    assert f"P2P_SYNC_{name}" in line and value in line
    option = f"--{name.lower().replace('_', '-')}"
    if name != "EPHEMERAL":
        line = error(tmp_path, option, value)
        assert "P2P_SYNC" not in line and value in line


def test_errors_about_two_options_name_the_variables(tmp_path: Path) -> None:
    assert "P2P_SYNC_DATA_DIR" in error(tmp_path, "--ephemeral", P2P_SYNC_DATA_DIR="x")
    assert "P2P_SYNC_EPHEMERAL" in error(tmp_path, "--data-dir", "x", P2P_SYNC_EPHEMERAL="1")
    port = str(free_port_pair())
    result = run_to_end(port, cwd=tmp_path, environment={"P2P_SYNC_PEER_PORT": port})
    assert result.returncode == 2 and "P2P_SYNC_PEER_PORT" in result.stderr
    assert "--tls-cert" in error(tmp_path, P2P_SYNC_TLS_KEY="some.pem")
    line = error(tmp_path, "--secret-file", "x", P2P_SYNC_SECRET=SECRET)
    assert "P2P_SYNC_SECRET" in line and "--secret-file" in line and SECRET not in line


def test_errors_at_the_start_name_options_and_not_parameters(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    for option, value, more in (
        ("--data-dir", "link", f"--data-dir {tmp_path}"),
        ("--data-dir", "/dev/null/below", "--ephemeral"),
        ("--tls-key", "some.pem", "--tls-key needs --tls-cert"),
    ):
        line = error(tmp_path, option, value)
        assert more in line and "=" not in line, line


def test_a_short_secret_names_its_variable_and_is_not_shown(tmp_path: Path) -> None:
    line = error(tmp_path, P2P_SYNC_SECRET="s3cr3t")
    assert "P2P_SYNC_SECRET" in line and "16 bytes" in line and "s3cr3t" not in line


LINKS = {
    "P2P_SYNC_PORT": "tcp://10.96.0.7:8000",
    "P2P_SYNC_PORT_8000_TCP": "tcp://10.96.0.7:8000",
    "P2P_SYNC_PORT_8000_TCP_ADDR": "10.96.0.7",
    "P2P_SYNC_PORT_8000_TCP_PORT": "8000",
    "P2P_SYNC_PORT_8000_TCP_PROTO": "tcp",
    "P2P_SYNC_SERVICE_HOST": "10.96.0.7",
    "P2P_SYNC_SERVICE_PORT": "8000",
    "P2P_SYNC_SERVICE_PORT_HTTP": "8000",
    "P2P_SYNC_PEER_PORT": "tcp://10.96.0.8:8001",
    "P2P_SYNC_PEER_PORT_8001_TCP": "tcp://10.96.0.8:8001",
    "P2P_SYNC_PEER_SERVICE_HOST": "10.96.0.8",
    "P2P_SYNC_PEER_SERVICE_PORT": "8001",
    "P2P_SYNC_HTTP_PORT": "udp://10.96.0.9:53",
}


def test_what_kubernetes_sets_for_a_service_is_ignored_with_a_warning() -> None:
    with NodeProcess("--ephemeral", environment=LINKS) as node, NodeProcess("--ephemeral") as other:
        node.add(other.address)
        wait_sockets(1, node, other)
        wait_until(lambda: node.logged("Kubernetes"), node.log)
        (line,) = [line for line in node.log().splitlines() if "Kubernetes" in line]
        assert "WARNING" in line and all(name in line for name in LINKS)
        wait_until(lambda: node.logged(node.address), "the peer port is the one above PORT")


def test_a_port_that_a_user_set_counts() -> None:
    port = free_port_pair()
    with NodeProcess("--ephemeral", environment={"P2P_SYNC_PEER_PORT": str(port)}) as node:
        assert f"ws://127.0.0.1:{port}" in node.get("/api/v1/status").text
        assert "Kubernetes" not in node.log()


# -- warnings -----------------------------------------------------------------------------------


def warnings(node: NodeProcess) -> list[str]:
    return list(node.status()["warnings"])


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "127.0.0.2"])
def test_an_open_node_without_a_secret_is_a_warning(host: str) -> None:
    with NodeProcess("--ephemeral", "--host", host) as node:
        local = host == "127.0.0.2"
        found = [] if local else ["no secret"]
        assert [re.findall("no secret", text) for text in warnings(node)] == [found] * len(found)
        wait_until(lambda: node.logged("the page is at"), node.log)
        wait_until(lambda: local or node.logged("WARNING", "no secret"), node.log)
        assert node.logged("INFO", "use --host 0.0.0.0 and --secret-file") == local
        page = node.get("/", Accept="text/html").text
        assert ("no secret" in page) == (not local)
        url = f"http://127.0.0.1:{node.port}"
        command = [*RUN_NODE, "status", "--node", url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
        assert done.returncode == 0 and ("no secret" in done.stderr) == (not local)
        assert "no secret" not in done.stdout


def test_a_secret_leaves_nothing_to_warn_of() -> None:
    environment = {"P2P_SYNC_SECRET": SECRET}
    with NodeProcess("--ephemeral", "--host", "0.0.0.0", environment=environment) as node:
        assert warnings(node) == []
        assert not node.logged("no secret")


# -- files of secrets ---------------------------------------------------------------------------


def secret_file(folder: Path, data: bytes, mode: int = 0o600) -> Path:
    path = folder / "secret"
    path.write_bytes(data)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbf" + SECRET.encode(),
        SECRET.encode() + b"\r\n",
        b"\xef\xbb\xbf# a comment\r\n\r\n  " + SECRET.encode() + b" \t\r\n",
        b"# one\n\xef\xbb\xbf" + SECRET.encode() + b"\n",
    ],
    ids=["byte order mark", "CR LF", "both", "in the middle"],
)
def test_marks_and_line_ends_are_no_part_of_a_secret(tmp_path: Path, data: bytes) -> None:
    text = read_private(secret_file(tmp_path, data), "secret")
    assert secret_keys(text, "it") == secret_keys(SECRET, "it")
    assert secret_keys("\ufeff" + SECRET, "it") == secret_keys(SECRET, "it")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_encodings_are_refused(tmp_path: Path, encoding: str) -> None:
    path = secret_file(tmp_path, f"{SECRET}\n".encode(encoding))
    line = error(tmp_path, "--secret-file", str(path))
    assert str(path) in line and "UTF-8" in line


@pytest.mark.parametrize(
    "option", ["--secret-file", "--http-token-file", "--tls-cert", "--tls-key", "--tls-ca"]
)
def test_a_pipe_that_nobody_writes_to_ends_the_start(tmp_path: Path, option: str) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    more = ("--tls-cert", str(tmp_path / "none")) if option == "--tls-key" else ()
    ended = run_to_end(str(free_port_pair()), "--ephemeral", option, str(pipe), *more)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert str(pipe) in line


def test_a_secret_may_come_by_a_pipe() -> None:
    """As `--secret-file <(command)` gives it."""
    reader, writer = os.pipe()
    try:
        os.write(writer, b"0123456789abcdef\n")
        os.close(writer)
        assert read_private(Path(f"/dev/fd/{reader}"), "secret") == "0123456789abcdef\n"
    finally:
        os.close(reader)


def test_a_file_is_never_cut_off(tmp_path: Path) -> None:
    path = secret_file(tmp_path, b"# " + b"x" * 4080 + b"\n" + SECRET.encode())
    assert "longer" in error(tmp_path, "--secret-file", str(path))


def started(path: Path, user: int) -> str:
    """What a node says that `user` starts with that secret file; "": it starts."""
    code = (
        "import os, sys; from pathlib import Path; from p2p_sync.errors import StartError\n"
        "from p2p_sync.disk.private import read_private; user = int(sys.argv[1])\n"
        "os.setgroups([4711]); os.setgid(4711); os.setuid(user)\n"
        "try: read_private(Path(sys.argv[2]), 'secret')\n"
        "except StartError as error: print(error)"
    )
    command = [sys.executable, "-c", code, str(user), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=DEADLINE)
    assert not done.stderr, done.stderr
    return done.stdout


@AS_ROOT
@pytest.mark.parametrize(
    ("mode", "owner", "user", "taken"),
    [
        (0o400, 0, 0, True),
        (0o440, 0, 0, True),
        (0o640, 0, 0, True),
        (0o644, 0, 0, False),
        (0o444, 0, 0, False),
        (0o660, 0, 0, False),
        (0o440, 0, 4711, True),
        (0o640, 0, 4711, True),
        (0o444, 0, 4711, True),
        (0o644, 0, 4711, True),
        (0o464, 0, 4711, False),
        (0o446, 0, 4711, False),
        (0o400, 4711, 4711, True),
        (0o440, 4711, 4711, False),
        (0o444, 4711, 4711, False),
        (0o640, 4712, 0, False),
        (0o600, 4712, 0, False),
        (0o440, 4712, 4711, False),
    ],
)
def test_who_may_read_a_secret(mode: int, owner: int, user: int, taken: bool) -> None:
    folder = Path("/tmp") / f"p2p-sync-secret-{os.getpid()}"
    folder.mkdir(mode=0o755)
    try:
        path = secret_file(folder, SECRET.encode())
        os.chown(path, owner, 4711)
        path.chmod(mode)
        said = started(path, user)
        assert ("" if taken else "run: ch") in said and bool(said) != taken, said
    finally:
        shutil.rmtree(folder)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@AS_ROOT
@pytest.mark.parametrize("mode", [0o444, 0o644])
def test_a_secret_that_nobody_can_change_may_be_readable_by_all(tmp_path: Path, mode: int) -> None:
    """As Docker and Kubernetes mount them, with their default modes."""
    folder = tmp_path / "run"
    folder.mkdir()
    path = secret_file(folder, SECRET.encode(), mode)
    assert "chmod 600" in error(tmp_path, "--secret-file", str(path))
    probe = subprocess.run(["mount", "--bind", str(folder), str(folder)], capture_output=True)
    if probe.returncode:
        pytest.skip("needs the right to mount")
    subprocess.run(["umount", str(folder)], check=True)
    with read_only(folder), NodeProcess("--ephemeral", "--secret-file", str(path)) as node:
        wait_until(lambda: node.logged("listening for peers"), node.log)


# -- the options of the other commands ------------------------------------------------------------


def every_option() -> list[tuple[str, click.Option]]:
    """The options of all commands, each after the name of its command."""
    return [
        (name, option)
        for name, command in program.commands.items()
        for option in command.params
        if isinstance(option, click.Option)
    ]


@pytest.mark.parametrize(("command", "option"), every_option(), ids=str)
def test_each_option_is_a_variable_that_the_help_shows(command: str, option: click.Option) -> None:
    name = variable(max(option.opts, key=len).lstrip("-"))
    shown = " ".join(run_to_end(command, "--help").stdout.split())
    assert option.envvar == name and f"[env var: {name}" in shown


@pytest.mark.parametrize(
    ("command", "name", "value"),
    [
        ("status", "WAIT", "soon"),
        ("status", "NODE", "ftp://x"),
        ("status", "NODE", "127.0.0.1:1"),
        ("status", "JSON", "perhaps"),
        ("peers", "TOKEN_FILE", "/no/such/file"),
        ("commit", "COPIES", "many"),
        ("commit", "TOPIC", "no topic"),
        ("restore file", "DATA_DIR", "/dev/null/below"),
    ],
)
def test_an_error_of_a_command_names_the_variable(
    tmp_path: Path, command: str, name: str, value: str
) -> None:
    (tmp_path / "file").touch()
    environment = {f"P2P_SYNC_{name}": value}
    done = run_to_end(*command.split(), cwd=tmp_path, environment=environment)
    assert done.returncode in (2, 3) and "Traceback" not in done.stderr
    assert f"P2P_SYNC_{name}" in done.stderr and value in done.stderr, done.stderr
    assert f"--{name.lower().replace('_', '-')}" not in done.stderr


def test_options_of_commands_come_from_variables_too() -> None:
    with NodeProcess("--ephemeral") as node:
        environment = {"P2P_SYNC_NODE": f"127.0.0.1:{node.port}", "P2P_SYNC_TOPIC": "a"}
        assert run_to_end("commit", "text", environment=environment).returncode == 0
        done = run_to_end("log", environment={**environment, "P2P_SYNC_JSON": "1"})
        assert json.loads(done.stdout)["topic"] == "a"
        done = run_to_end("log", "--topic", "b", environment=environment)
        assert (done.returncode, done.stdout) == (0, ""), "the command line wins"


@pytest.mark.parametrize("command", ["peers", "restore file"])
def test_an_empty_variable_of_a_file_is_refused_by_commands(tmp_path: Path, command: str) -> None:
    name = "P2P_SYNC_TOKEN_FILE" if command == "peers" else "P2P_SYNC_DATA_DIR"
    done = run_to_end(*command.split(), cwd=tmp_path, environment={name: ""})
    assert done.returncode == 2 and f"{name} is set but empty" in done.stderr


def test_commands_talk_to_the_node_that_the_same_environment_runs(tmp_path: Path) -> None:
    with NodeProcess("--ephemeral") as node:
        environment = {"P2P_SYNC_PORT": f"{node.port}"}
        assert run_to_end("commit", "text", environment=environment).returncode == 0
        assert node.texts() == ["text"]
        environment["P2P_SYNC_NODE"] = "http://127.0.0.1:1"
        assert run_to_end("status", environment=environment).returncode == 3, "it says more"
    for value in ("x", "0", "70000", "1" * 20):
        done = run_to_end("status", environment={"P2P_SYNC_PORT": value})
        wanted = f"P2P_SYNC_PORT is a number from 1 to 65534, not '{value}'; or give --node"
        assert done.returncode == 2 and wanted in done.stderr
    done = run_to_end("status", environment={"P2P_SYNC_PORT": ""})
    assert done.returncode in (0, 3) and "Traceback" not in done.stderr, "as if it was not set"
    service = {"P2P_SYNC_PORT": "tcp://10.96.0.7:8000"}  # of Kubernetes
    assert run_to_end("status", environment=service).returncode == done.returncode


@pytest.mark.parametrize("arguments", [(), ("run",), ("--ephemeral",)], ids=" ".join)
def test_the_port_may_come_from_a_variable(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    for value in ("x", "0", "70000"):
        done = run_to_end(*arguments, cwd=tmp_path, environment={"P2P_SYNC_PORT": value})
        wanted = f"P2P_SYNC_PORT is a number from 1 to 65534, not '{value}'"
        assert done.returncode == 2 and wanted in done.stderr
    done = run_to_end(*arguments, cwd=tmp_path, environment={"P2P_SYNC_PORT": ""})
    assert done.returncode == 2 and "missing PORT" in done.stderr


@pytest.mark.parametrize(
    "words", ["", "run", "--ephemeral", "PORT", "run PORT", "--ephemeral PORT"]
)
def test_a_port_without_a_command_runs_a_node(tmp_path: Path, words: str) -> None:
    port = free_port_pair()
    arguments = words.replace("PORT", str(port)).split()
    environment = {**os.environ, **({} if "PORT" in words else {"P2P_SYNC_PORT": str(port)})}
    process = subprocess.Popen(
        [*RUN_NODE, *arguments], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: answers(port), "the node answers")
    finally:
        process.terminate()
        assert process.wait(DEADLINE) == 0


def answers(port: int) -> bool:
    with suppress(OSError):
        return request(port, "/healthz").status == 200
    return False


def test_no_option_takes_a_secret_itself() -> None:
    """All users of a machine can read the arguments of a process."""
    for _, option in every_option():
        for name in option.opts:
            if re.search("secret|token|password", name):
                assert name.endswith("-file"), name


def test_no_password_of_a_hub_is_taken_from_the_arguments(tmp_path: Path) -> None:
    url = "redis://:pw@127.0.0.1:1"
    refused = error(tmp_path, "--hub", url)
    assert "set the variable P2P_SYNC_HUB" in refused and "or use --hub-file" in refused
