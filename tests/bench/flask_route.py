"""For scenario 5: a Flask route that does nothing, on the same server as a node's.

python -m tests.bench.flask_route PORT
"""

from __future__ import annotations

import sys

from tests.bench import client
from tests.bench.results import Sample, Scale
from tests.bench.spawn import running
from tests.bench.throughput import CLIENTS
from tests.bench.usage import Meter
from tests.harness.http import Http, get_bytes
from tests.harness.support import free_port_pair, wait_until

_THREADS = 32  # as many as a node has


def serve(port: int) -> None:
    """Serve the route."""
    import waitress
    from flask import Flask, redirect, request
    from werkzeug import Response

    app = Flask(__name__)

    @app.get("/commit")
    def commit() -> Response:
        assert request.args["msg"]
        return redirect("/")

    waitress.serve(app, host="127.0.0.1", port=port, threads=_THREADS, asyncore_use_poll=True)


def by_get(scale: Scale) -> Sample:
    """Scenario 5."""
    port = free_port_pair()
    target = f"/commit?msg={client.text(0)}"
    command = [sys.executable, "-m", "tests.bench.flask_route", str(port)]
    with running(command) as process:

        def answers() -> bool:
            try:
                with Http(port) as http:
                    http.ask(get_bytes(port, target), 302)
            except ConnectionError:
                return False
            return True

        wait_until(answers, "Flask answers")
        with Meter({"flask": process.pid}) as meter:
            load = client.drive(port, target, CLIENTS, scale.seconds)
            meter.stop()
    return meter.sample({"requests/s": load.requests / meter.seconds, **load.figures})


if __name__ == "__main__":
    serve(int(sys.argv[1]))
