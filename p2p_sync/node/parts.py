"""What exists from a node's start to its stop: builds the parts, starts and stops them."""

from __future__ import annotations

import logging
import random
import secrets
import time
from collections.abc import Callable, Sequence
from functools import partial

from ..address import Address, reachable
from ..codes import MAX_NUMBER
from ..core.core import Core
from ..core.effects import DAMAGED, STARTED, Note
from ..disk.log import Log
from ..disk.store import Store
from ..errors import StartError
from ..metrics import Counters
from ..net.credentials import Credentials
from ..net.listener import Listener
from ..results import NodeInfo
from ..settings import MAX_AHEAD_MS, STOP_TIMEOUT, Settings, called
from ..version import __version__
from ..wire.frames import PROTOCOL_VERSION, Message
from .auditor import Auditor
from .consumers import ConsumerOptions, Consumers
from .consuming import Calling, Consuming, Readers
from .delivery import Callback, Delivery
from .hooks import Hook
from .intake import Intake
from .journal import Journal
from .keys import Keys
from .machine import addresses_for_others, join_command
from .report import Report
from .shell import Shell
from .state import State, wall_ms
from .writer import Writer

logger = logging.getLogger("p2p_sync")

_NEW_ORIGIN = (
    "new messages get a new origin: nothing proves that the data directory is as this node left it "
    "(the machine was booted again, or the directory was copied, restored or touched)"
)


class Parts:
    """The parts of one node."""

    def __init__(
        self,
        port: int,
        data_dir: str | None,
        settings: Settings,
        callbacks: Sequence[Callback],
    ) -> None:
        self._name = settings.name or ""
        self.credentials = Credentials(settings)
        self.counters = Counters()
        self.store = Store(data_dir)
        start, wall = secrets.randbelow(MAX_NUMBER), wall_ms()
        try:
            self.log = Log(self.store)
            newest = self.log.newest_time(wall + MAX_AHEAD_MS - 1)
            origin = self.log.origin(wall + MAX_AHEAD_MS - 1)
            self._is_renewed = not origin and self.log.of_node(self.store.node) > 0
            if self._is_renewed:
                logger.info("%s", _NEW_ORIGIN)
            self.server = Listener(port, settings, self.credentials)
        except OSError as error:
            self.store.close()
            raise StartError(
                f"cannot listen on the peer port {port} of {settings.host} "
                f"({error.strerror or error}); choose another with {called('peer_port')}"
            ) from None
        except BaseException:
            self.store.close()
            raise
        core = Core(
            self.store.node,
            origin,
            self.server.port,
            settings,
            self.log.vector(),
            newest,
            wall,
            random.SystemRandom(),
            self.log.all_ended(),
        )
        self.journal = Journal(self.store.start)
        self.shell = Shell(
            self.store, settings, self.credentials, start, self.counters, self.journal
        )
        self.state = self.shell.state = State(core, self.log, self.shell.perform)
        keys = Keys(self.store, settings.keep_keys)
        self.intake = Intake(self.state, keys, self.counters, settings.max_message_bytes)
        self.writer = Writer(self.state, self.store.identity, settings)
        self.auditor = Auditor(self.log)
        self.address = str(
            settings.advertise
            or Address(reachable(settings.host), self.server.port, bool(settings.tls_cert))
        )
        self.watchers = self.state.watchers = self.journal.watchers
        self.warnings = settings.warnings(self.server.server_address[0])
        self.started = wall
        self.delivery = Delivery(self.state, callbacks)
        self.readers = Readers()
        self.consumers = Consumers(self.state, self.store, self.journal, self.readers.has)
        self._settings = settings

    def start(self) -> None:
        why = f"; {_NEW_ORIGIN}" if self._is_renewed else ""
        self.journal.note(Note(STARTED, f"{self._name} started, version {__version__}{why}"))
        for entry in self.log.damaged():
            self.journal.note(Note(DAMAGED, f"{entry} is damaged here; peers send it again"))
        settings, port, has_secret = self._settings, self.server.port, bool(self.credentials.keys)
        others = addresses_for_others(settings, port)
        join = partial(join_command, settings, others, self.address, port, has_secret, self._name)
        about = NodeInfo(
            id=self.store.node,
            name=self._name,
            address=self.address,
            addresses=others,
            join=join(),
            version=__version__,
            protocol=PROTOCOL_VERSION,
            started=self.started,
        )
        for url in self._settings.hooks:  # first: none of what arrives from now on is skipped
            hook = Hook(url, self._settings, self.credentials, self.consumers, about)
            self.readers.start(hook)
        self.delivery.start()
        self.writer.start()
        if self.store.directory:
            self.auditor.start()
        self.server.start(self.shell)
        self.shell.start()
        self.report = Report(
            self.state, self.store, self.counters, self.consumers, about, join, self.warnings
        )

    def consume(
        self,
        name: str,
        handle: Callable[[Message], object],
        options: ConsumerOptions,
        start: str,
    ) -> Consuming:
        """Begin to call `handle` with the messages of a consumer; see `Node.consume`."""
        consuming = Calling(self.consumers, name, options, start, handle)
        self.readers.start(consuming)
        return consuming

    def stop(self) -> None:
        self.journal.stop()
        self.delivery.stop()
        self.readers.end()
        self.shell.stop()
        self.server.stop()
        self.auditor.stop()
        self.writer.stop()
        until = time.monotonic() + STOP_TIMEOUT
        self.delivery.join(until)
        self.readers.join(until)
        self.store.close()
