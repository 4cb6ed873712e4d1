"""The thread that audits the log: about once a day it reads all of it, slowly.

A disk may change an entry that nobody reads for years. The audit finds it while peers still have
it (disk/damage.py). Where it was is not kept: a node that starts begins again.
"""

from __future__ import annotations

import logging
import threading
import time

from .. import settings
from ..disk.log import Log
from ..errors import LogError

logger = logging.getLogger("p2p_sync")


class Auditor:
    """The thread `audit`."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)

    def start(self) -> None:
        """Begin to audit, a while after the start of the node."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        if self._thread.ident:
            self._thread.join(settings.STOP_TIMEOUT)

    def _run(self) -> None:
        pause = settings.AUDIT_DELAY
        while not self._stopping.wait(pause):
            begin = time.monotonic()
            self._audit()
            pause = max(settings.AUDIT_PAUSE, begin + settings.AUDIT_EVERY - time.monotonic())

    def _audit(self) -> None:
        """Read the whole log once."""
        try:
            for _ in self._log.audit():
                if self._stopping.wait(settings.AUDIT_PAUSE):
                    return
        except LogError as error:
            logger.error("the audit of the log has failed, check the disk: %s", error)
