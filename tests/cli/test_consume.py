"""`consume` and `consumers` on the command line: what a program gets, and what its end means."""

from __future__ import annotations

import json
import os
import resource
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from p2p_sync import Node
from tests.cli.test_client import Done, run
from tests.harness.support import (
    DEADLINE,
    RUN_NODE,
    NodeProcess,
    changed,
    pause,
    request,
    wait_until,
)


@pytest.fixture
def node() -> Iterator[NodeProcess]:
    with NodeProcess("--ephemeral") as process:
        yield process


@contextmanager
def consuming(
    node: NodeProcess | LendingServer,
    *arguments: str,
    name: str = "c",
    log: Path | None = None,
    no_files: bool = False,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `consume NAME ARGUMENTS`; what it says goes to `log`. With `no_files` it has no room to
    write a file."""
    url = f"http://127.0.0.1:{node.port}"
    with (log or Path(os.devnull)).open("ab") as said:
        process = subprocess.Popen(
            [*RUN_NODE, "consume", "--node", url, name, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            preexec_fn=(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)))
            if no_files
            else None,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait(DEADLINE)


def shell(script: str) -> tuple[str, ...]:
    return ("--", "sh", "-c", script)


def consumer(node: NodeProcess, name: str = "c") -> dict[str, Any]:
    found = [each for each in node.api("consumers")["consumers"] if each["name"] == name]
    return found[0] if found else {}


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def commit(node: NodeProcess, text: str, topic: str = "") -> str:
    """Commit any text; return its id."""
    body = json.dumps({"data": text, "topic": topic}).encode()
    answer = request(
        node.port, "/api/v1/messages", "POST", {"Content-Type": "application/json"}, body
    )
    return str(json.loads(answer.body)["id"])


TEXTS = [
    "plain",
    "two\nlines\n",
    "\u00e4\U0001f600\u202e",
    "$(echo no) `id` '\"",
    "-n",
    "x" * 65_000,
]


def test_a_program_gets_each_message_in_order_with_all_that_is_known(
    node: NodeProcess, tmp_path: Path
) -> None:
    ids = [commit(node, text, f"t/{index}") for index, text in enumerate(TEXTS)]
    script = f'cat > {tmp_path}/text; env | grep "^P2P_SYNC_MESSAGE_" > {tmp_path}/about; '
    script += f'mv {tmp_path}/text "{tmp_path}/$P2P_SYNC_MESSAGE_ID"; '
    script += f'mv {tmp_path}/about "{tmp_path}/$P2P_SYNC_MESSAGE_ID.about"; '
    script += f'echo "$P2P_SYNC_MESSAGE_ID" >> {tmp_path}/done'
    with consuming(node, *shell(script)):
        wait_until(lambda: lines(tmp_path / "done") == ids)
        wait_until(lambda: consumer(node)["lag"] == 0)
    messages = {message["id"]: message for message in node.api("messages")["messages"]}
    about = node.status()["node"]
    for index, (id, text) in enumerate(zip(ids, TEXTS, strict=True)):
        assert (tmp_path / id).read_text() == text
        told = dict(line.split("=", 1) for line in lines(tmp_path / f"{id}.about"))
        moment = told.pop("P2P_SYNC_MESSAGE_TIME")
        time_ms = messages[id]["time"]
        assert moment.endswith(f".{time_ms % 1000:03}Z") and len(moment) == 24
        assert told == {
            "P2P_SYNC_MESSAGE_ID": id,
            "P2P_SYNC_MESSAGE_TOPIC": f"t/{index}",
            "P2P_SYNC_MESSAGE_TIME_MS": f"{time_ms}",
            "P2P_SYNC_MESSAGE_NODE": about["id"],
            "P2P_SYNC_MESSAGE_NODE_NAME": about["name"],
            "P2P_SYNC_MESSAGE_ATTEMPTS": "0",
        }


FAR = 9_007_199_254_740_991


def test_a_time_of_the_far_future_is_told_and_ends_nothing(tmp_path: Path) -> None:
    """Nodes keep what others have imported, with any time."""
    with Node(0, tmp_path / "data") as before:
        list(before.intake.commit_many([("far", "", "", f"{FAR}:{'a' * 32}")]))
        before.commit("near")
    about = "$(cat) $P2P_SYNC_MESSAGE_TIME $P2P_SYNC_MESSAGE_TIME_MS"
    with NodeProcess(data_dir=tmp_path / "data") as node:
        with consuming(node, *shell(f'echo "{about}" >> {tmp_path}/ran')):
            wait_until(lambda: len(lines(tmp_path / "ran")) == 2)
        first, second = lines(tmp_path / "ran")
        assert first == f"far 287396-10-12T08:59:00.991Z {FAR}"
        assert second.startswith("near 2")
        assert "287396" in run(node, "log").stdout


def test_what_goes_wrong_here_is_a_failure_of_one_message(node: NodeProcess) -> None:
    """This command may write no file, not even the one for the text."""
    ids = [commit(node, text) for text in "ab"]
    with consuming(node, "--max-attempts=1", "--", "true", no_files=True):
        wait_until(lambda: consumer(node).get("parked") == 2)
    parked = node.api("consumers/c/parked")["parked"]
    assert [each["id"] for each in parked] == ids
    assert all(each["error"].startswith("consume could not run it: ") for each in parked), parked


def test_a_program_that_fails_runs_again_before_those_behind(
    node: NodeProcess, tmp_path: Path
) -> None:
    for text in ("a", "b", "c"):
        node.commit(text)
    script = f"text=$(cat); echo $text >> {tmp_path}/ran; "
    script += "if [ $text = b ] && [ $P2P_SYNC_MESSAGE_ATTEMPTS = 0 ]; then "
    script += "echo first >&2; echo no paper >&2; exit 3; fi"
    with consuming(node, *shell(script), log=tmp_path / "said"):
        wait_until(lambda: consumer(node).get("error") == "exit code 3: no paper")
        wait_until(lambda: lines(tmp_path / "ran") == ["a", "b", "b", "c"])
        wait_until(lambda: consumer(node)["lag"] == 0 and not consumer(node)["error"])
    said = (tmp_path / "said").read_text()
    assert "first\nno paper\n" in said, "what it says is passed on"
    assert "failed, attempt 1: exit code 3: no paper" in said


def test_a_program_that_a_signal_ends_has_failed(node: NodeProcess) -> None:
    node.commit("a")
    with consuming(node, "--max-attempts", "1", *shell("kill -9 $$")):
        wait_until(lambda: consumer(node).get("parked"))
    assert consumer(node)["error"] == "ended by SIGKILL"


def test_json_tells_what_became_of_each_message(node: NodeProcess, tmp_path: Path) -> None:
    ids = [commit(node, text) for text in ("0", "4")]
    log = tmp_path / "said"
    with consuming(node, "--json", "--max-attempts=1", *shell("exit $(cat)"), log=log):
        wait_until(lambda: log.read_text().count("{") == 2)
    told = [json.loads(line) for line in lines(log) if line.startswith("{")]
    assert [(each["id"], each["exit_code"], each["error"]) for each in told] == [
        (ids[0], 0, ""),
        (ids[1], 4, "exit code 4"),
    ]


def test_options_choose_messages(node: NodeProcess, tmp_path: Path) -> None:
    commit(node, "before", "t")
    with consuming(node, "--start", "new", "--topic", "t", "--own", *shell(f"cat >> {tmp_path}/x")):
        wait_until(lambda: consumer(node))
        commit(node, "other", "u")
        commit(node, "this", "t")
        wait_until(lambda: lines(tmp_path / "x") == ["this"])
    found = consumer(node)
    assert (found["topic"], found["own"], found["ack_wait"]) == ("t", True, 30)
    assert found["max_attempts"] == 10


def test_options_that_are_left_out_stay_as_they_are(node: NodeProcess, tmp_path: Path) -> None:
    chosen = ("topic", "own", "ack_wait", "max_attempts", "shared")

    def options() -> tuple[object, ...]:
        return tuple(consumer(node).get(each) for each in chosen)

    first = ("--topic=t", "--own", "--ack-wait=7", "--max-attempts=3", "--shared")
    with consuming(node, *first, "--", "true"):
        wait_until(lambda: options() == ("t", True, 7, 3, True))
    commit(node, "of another topic", "u")
    commit(node, "this", "t")
    with consuming(node, "--max-attempts=4", *shell(f"cat >> {tmp_path}/ran")):
        wait_until(lambda: options() == ("t", True, 7, 4, True), options)
        wait_until(lambda: lines(tmp_path / "ran") == ["this"])
    with consuming(node, "--topic", "", "--no-own", "--no-shared", "--", "true"):
        wait_until(lambda: options() == ("", False, 7, 4, False), options)


def test_a_consumer_that_gets_other_options_says_so(node: NodeProcess, tmp_path: Path) -> None:
    log = tmp_path / "said"
    with consuming(node, "--topic=a", "--start=new", "--", "true", log=log):
        wait_until(lambda: consumer(node))
    with consuming(node, "--topic=b", "--own", "--start=first", "--", "true", log=log):
        wait_until(lambda: len(lines(log)) >= 3, lambda: lines(log))
    with consuming(node, "--topic=b", "--", "true", log=log):  # changes nothing
        commit(node, "this", "b")
        wait_until(lambda: consumer(node)["lag"] == 0)
    assert lines(log) == [
        'p2p-sync: c now has topic "b", before "a"',
        "p2p-sync: c now has own true, before false",
        "p2p-sync: c was there already, and goes on where it was: --start is for a new one",
    ]


def test_a_consumer_that_no_program_reads_is_shown_as_such() -> None:
    with NodeProcess("--ephemeral", command=changed(CONSUMER_SILENT=0.2)) as node:
        with consuming(node, "--", "true"):
            wait_until(lambda: consumer(node))
        wait_until(lambda: consumer(node)["no_reader_since"])
        assert "\n  no reader since 20" in run(node, "consumers").stdout


ASIDE = "p2p-sync: it is put aside; see: p2p-sync consumers parked c"


def test_parked_messages_are_listed_retried_and_dropped(node: NodeProcess, tmp_path: Path) -> None:
    first, second = commit(node, "a\nb"), commit(node, "c")
    log = tmp_path / "said"
    with consuming(node, "--max-attempts=2", *shell("echo broken >&2; exit 1"), log=log):
        wait_until(lambda: consumer(node).get("parked") == 2)
        wait_until(lambda: lines(log)[-1] == ASIDE, lambda: lines(log))
    assert lines(log).count(ASIDE) == 2, "after the last attempt of each"
    shown = run(node, "consumers").stdout
    assert [line.split() for line in shown.splitlines()] == [
        ["NAME", "TOPIC", "OF", "LAG", "ATTEMPTS", "PARKED", "MISSED"],
        ["c", "-", "all", "0", "0", "2", "0"],
        ["exit", "code", "1:", "broken"],
    ]
    parked = run(node, "consumers", "parked", "c").stdout
    assert f"{first}  2 attempts: exit code 1: broken\n  a\\nb\n" in parked
    assert len(json.loads(run(node, "consumers", "parked", "c", "--json").stdout)["parked"]) == 2
    for action in ("drop", "retry"):  # a variable of a script was empty
        refused = run(node, "consumers", action, "c", "")
        assert refused.returncode == 5 and "id is empty" in refused.stderr
        refused = run(node, "consumers", action, "c", "unknown")
        assert refused.returncode == 5 and refused.stdout == ""
        assert "none with the id 'unknown'; p2p-sync consumers parked c lists" in refused.stderr
    assert run(node, "consumers", "drop", "c", first).stdout == "1 message dropped\n"
    assert run(node, "consumers", "retry", "c").stdout == "1 message to be handled again\n"
    assert run(node, "consumers", "parked", "c").stdout == "No messages are put aside\n"
    assert consumer(node)["lag"] == 1, f"{second} waits"
    tries = f'echo "$P2P_SYNC_MESSAGE_ATTEMPTS" >> {tmp_path}/tries; exit 1'
    with consuming(node, *shell(tries)):
        wait_until(lambda: consumer(node)["parked"] == 1)
    assert lines(tmp_path / "tries") == ["0", "1"], "as if it had never failed"
    assert f"{second}  2 attempts" in run(node, "consumers", "parked", "c").stdout
    assert json.loads(run(node, "consumers", "--json").stdout) == node.api("consumers")
    assert run(node, "consumers", "delete", "c").stdout == "Deleted c\n"
    assert run(node, "consumers").stdout == "No consumers\n"


WRONG = [
    (("consumers", "delete"), 2, "missing NAME"),
    (("consumers", "parked", "c", "x"), 2, "takes a NAME alone"),
    (("consumers", "eat", "c"), 2, "'eat' is not one of"),
    *(
        (("consumers", action, "c"), 5, "no consumer 'c'; p2p-sync consumers lists them")
        for action in ("delete", "parked", "retry", "drop")
    ),
    (("consume", "c"), 2, "Missing argument 'COMMAND...'"),
    (("consume", "c", "--", "/nonexistent/program"), 2, "no such program"),
    (("consume", "c", "--", "/etc/passwd"), 2, "no such program"),
    (("consume", "a b", "--", "true"), 2, "the name of a consumer has"),
    (("consume", "..", "--", "true"), 2, "is not '.' or '..'"),
    (("consume", ".", "--", "true"), 2, "is not '.' or '..'"),
    (("consume", "", "--", "true"), 2, "the name of a consumer has"),
    (("consume", "a/b", "--", "true"), 2, "the name of a consumer has"),
    (("consume", "a%2Fb", "--", "true"), 2, "the name of a consumer has"),
    (("consume", "a\n", "--", "true"), 2, "the name of a consumer has"),
    (("consumers", "delete", ""), 2, "missing NAME"),
    (("consume", "c", "--topic", "a b", "--", "true"), 2, "a topic is"),
    (("consume", "c", "--ack-wait", "0", "--", "true"), 2, "'--ack-wait'"),
    (("consume", "c", "--start", "soon", "--", "true"), 2, "'--start'"),
]


@pytest.mark.parametrize(("arguments", "code", "said"), WRONG)
def test_what_is_wrong_is_said_at_once(
    node: NodeProcess, arguments: tuple[str, ...], code: int, said: str
) -> None:
    commit(node, "a")
    done: Done = run(node, *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert node.api("consumers")["consumers"] == []


def test_a_program_that_cannot_be_started_any_more_ends_the_command(
    node: NodeProcess, tmp_path: Path
) -> None:
    program = tmp_path / "program"
    program.write_text("#!/nonexistent/interpreter\n")
    program.chmod(stat.S_IRWXU)
    commit(node, "a")
    done = run(node, "consume", "c", "--", str(program))
    assert done.returncode == 2 and f"cannot start '{program}'" in done.stderr
    assert "cannot start" in consumer(node)["error"]


def test_no_node_is_said_at_once_and_the_end_of_a_consumer_too(node: NodeProcess) -> None:
    done = run("http://127.0.0.1:1", "consume", "c", "--", "true")
    assert done.returncode == 3 and "is the node running" in done.stderr
    with consuming(node, "--", "true") as process:
        wait_until(lambda: consumer(node))
        request(node.port, "/api/v1/consumers/c", "DELETE")
        assert process.wait(DEADLINE) == 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_program_end(
    node: NodeProcess, tmp_path: Path, number: signal.Signals
) -> None:
    commit(node, "a")
    commit(node, "b")
    script = f"cat >> {tmp_path}/began; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; "
    script += f"echo >> {tmp_path}/ended"
    with consuming(node, *shell(script)) as process:
        wait_until(lambda: lines(tmp_path / "began"))
        process.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        (tmp_path / "go").touch()
        assert process.wait(DEADLINE) == 128 + number
    assert len(lines(tmp_path / "ended")) == 1 and lines(tmp_path / "began") == ["a"]
    assert consumer(node)["lag"] == 1, "a is handled"


class Lending(BaseHTTPRequestHandler):
    """A node that lends one message, and sends `signal` to the command as it does."""

    server: LendingServer

    def do_PUT(self) -> None:
        self.answer({"name": "c", "max_attempts": 10, "ack_wait": 30.0})

    def do_GET(self) -> None:
        lent: list[dict[str, Any]] = []
        if "limit=1" in self.path:
            assert self.server.began.wait(DEADLINE)
            self.server.command.send_signal(signal.SIGTERM)
            pause(0.2)  # it has come
            lent = [MESSAGE]
        about = {"id": ORIGIN[:32], "name": "n"}
        self.answer({"messages": lent, "consumers": [], "peers": [], "node": about})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.told.append((self.path.rpartition("/")[2], json.loads(body)["position"]))
        self.answer({})

    def answer(self, value: object) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())

    def log_message(self, *_: Any) -> None:
        pass


class LendingServer(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Lending)
        self.began = threading.Event()
        self.told: list[tuple[str, str]] = []
        self.command: subprocess.Popen[bytes]
        self.port = self.server_address[1]


ORIGIN = f"{'a' * 32}-1"
MESSAGE = {
    "id": f"{ORIGIN}:1", "origin": ORIGIN, "seq": 1, "time": 1, "data": "a",
    "position": "aaaaaaaa-1.1", "attempts": 0,
}  # fmt: skip


def test_a_message_that_comes_as_a_signal_does_is_not_left_with_nobody(tmp_path: Path) -> None:
    with LendingServer() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,)).start()
        try:
            with consuming(server, *shell(f"cat > {tmp_path}/ran")) as server.command:
                server.began.set()
                assert server.command.wait(DEADLINE) == 128 + signal.SIGTERM
        finally:
            server.shutdown()
    assert lines(tmp_path / "ran") == ["a"], server.told
    assert server.told == [("ack", "aaaaaaaa-1.1")]


def test_a_second_signal_ends_it_at_once(node: NodeProcess, tmp_path: Path) -> None:
    commit(node, "a")
    script = f"touch {tmp_path}/began; sleep 5; touch {tmp_path}/ended"
    with consuming(node, *shell(script)) as process:
        wait_until((tmp_path / "began").exists)
        process.send_signal(signal.SIGTERM)
        pause(0.5)  # two at once would be one
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 128 + signal.SIGTERM
        assert not (tmp_path / "ended").exists()
    assert consumer(node)["lag"] == 1


def test_a_signal_ends_a_command_that_waits(node: NodeProcess) -> None:
    with consuming(node, "--", "true") as process:
        wait_until(lambda: consumer(node))
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 128 + signal.SIGTERM


def test_the_restart_of_a_node_is_survived_and_said_once(tmp_path: Path) -> None:
    log, ran = tmp_path / "said", tmp_path / "ran"
    with NodeProcess(data_dir=tmp_path / "data") as node:
        port = node.port
        commit(node, "a")
        script = f"cat >> {ran}; echo >> {ran}; [ $P2P_SYNC_MESSAGE_ATTEMPTS = 0 ]"
        with consuming(node, *shell(script), log=log):
            wait_until(lambda: lines(ran) == ["a"] and consumer(node)["lag"] == 0)
            node.stop(signal.SIGKILL)
            wait_until(lambda: "trying again" in log.read_text())
            begin = time.monotonic()
            wait_until(lambda: time.monotonic() > begin + 2.5, timeout=30)  # it tries some times
            with NodeProcess(data_dir=tmp_path / "data", port=port) as again:
                commit(again, "b")
                wait_until(lambda: lines(ran) == ["a", "b"])
                wait_until(lambda: consumer(again)["lag"] == 0)
                assert log.read_text().count("trying again") == 1, log.read_text()


def test_a_program_that_leaves_another_one_behind_is_not_waited_for(
    node: NodeProcess, tmp_path: Path
) -> None:
    commit(node, "a")
    commit(node, "b")
    script = f"(sleep 60) & echo $! >> {tmp_path}/pids; echo left one >&2; [ $(cat) = a ]"
    begin = time.monotonic()
    with consuming(node, "--max-attempts=1", *shell(script)):
        wait_until(lambda: consumer(node).get("parked") == 1)
    assert time.monotonic() - begin < 30
    assert consumer(node)["error"] == "exit code 1: left one"
    for pid in lines(tmp_path / "pids"):
        os.kill(int(pid), signal.SIGKILL)


def test_what_programs_leave_behind_holds_nothing_of_the_command(
    node: NodeProcess, tmp_path: Path
) -> None:
    for number in range(40):
        node.commit(f"{number}")
    with consuming(node, *shell(f"(sleep 60) & echo $! >> {tmp_path}/pids")) as process:
        descriptors = Path(f"/proc/{process.pid}/fd")
        if not descriptors.exists():
            pytest.skip("nothing says which files a process has open")
        most = 0

        def is_done() -> bool:
            nonlocal most
            most = max(most, len([*descriptors.iterdir()]))
            return consumer(node).get("lag") == 0

        wait_until(is_done)
        assert most < 30, "40 are left behind"
        wait_until(lambda: len([*descriptors.iterdir()]) < 10)
    for pid in lines(tmp_path / "pids"):
        os.kill(int(pid), signal.SIGKILL)


def test_a_second_command_takes_over_with_the_message_of_the_first_one(
    node: NodeProcess, tmp_path: Path
) -> None:
    for text in "abc":
        commit(node, text)
    ran = tmp_path / "ran"
    script = f"cat >> {ran}; echo >> {ran}; [ $P2P_SYNC_MESSAGE_ATTEMPTS = 1 ] || sleep 60"
    with consuming(node, "--ack-wait=1", *shell(script)) as first:
        wait_until(lambda: lines(ran) == ["a"])
        with consuming(node, "--ack-wait=1", *shell(f"cat >> {ran}; echo >> {ran}")):
            pause(1.5)
            assert lines(ran) == ["a"], "the second one waits"
            first.kill()
            wait_until(lambda: lines(ran) == ["a", "a", "b", "c"], lambda: lines(ran))


def test_a_message_that_kills_the_command_is_put_aside(node: NodeProcess, tmp_path: Path) -> None:
    for text in "abc":
        commit(node, text)
    ran = tmp_path / "ran"
    script = f"text=$(cat); echo $text >> {ran}; [ $text != b ] || kill -9 $PPID"
    options = ("--ack-wait=0.3", "--max-attempts=2", *shell(script))
    for runs in (["a", "b"], ["a", "b", "b"]):
        with consuming(node, *options) as process:
            assert process.wait(DEADLINE) == -signal.SIGKILL
        assert lines(ran) == runs
    with consuming(node, *options):
        wait_until(lambda: lines(ran) == ["a", "b", "b", "c"], lambda: lines(ran))
    assert consumer(node)["parked"] == 1


def test_two_commands_never_run_one_message_at_a_time(node: NodeProcess, tmp_path: Path) -> None:
    """Each run takes twice as long as a message may take without a word of its reader."""
    for number in range(4):
        commit(node, f"{number}")
    ran = tmp_path / "ran"
    script = f"text=$(cat); echo begin $text >> {ran}; sleep 3; echo end $text >> {ran}"
    options = ("--shared", "--ack-wait", "1.5", *shell(script))
    with consuming(node, *options), consuming(node, *options):
        wait_until(lambda: len(lines(ran)) == 8)
        wait_until(lambda: consumer(node)["lag"] == 0)
    running: set[str] = set()
    most = 0
    for line in lines(ran):
        what, text = line.split()
        assert (text in running) == (what == "end")
        running ^= {text}
        most = max(most, len(running))
    assert most == 2, "both had something to do"
    assert len(lines(ran)) == 8
