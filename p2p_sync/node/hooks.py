"""Webhooks: POST new messages to URLs that the operator has given, each by a consumer of its own.

A consumer goes on where it was, whatever crashes, so each message is POSTed at least once, and in
order. Its name derives from the URL and from what is chosen for it; a new password leaves it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from http import HTTPStatus

from ..errors import ConsumerError, DialError, StartError
from ..net.credentials import Credentials
from ..net.post import Poster
from ..results import NodeInfo
from ..settings import CONSUMER_ALONE, CONSUMER_BATCH, HOOK_BYTES, Settings
from ..urls import Url
from ..version import __version__
from .consumers import Consumers, Given, HookOptions
from .consuming import Consuming
from .fields import fields_of

logger = logging.getLogger("p2p_sync")

SIGNATURE = "P2P-Sync-Signature"


class Hook(Consuming):
    """A thread that POSTs messages to one URL. An answer of the class 2xx acknowledges them; after
    anything else they come again, after a pause."""

    def __init__(
        self,
        url: Url,
        settings: Settings,
        credentials: Credentials,
        consumers: Consumers,
        about: NodeInfo,
    ) -> None:
        """`about` is the node that says who it is."""
        topic, own = settings.hook_topic or "", settings.hook_of == "own"
        options = HookOptions(topic, own, CONSUMER_ALONE, hook=str(url))
        super().__init__(consumers, hook_name(url, topic, own), options, "new", self._push)
        self._url = url
        self._credentials = credentials
        self._poster = Poster(url)
        self._node = {"id": about.id, "name": about.name}
        # A receiver may not manage many at a time: after a failure it gets one, then two, four ...
        self._most = CONSUMER_BATCH
        self._trouble = ""  # what the log says of it now

    def _begin(self) -> None:
        try:
            super()._begin()
        except ConsumerError as error:
            raise StartError(f"the webhook {self._url} has no consumer: {error}") from None

    def _push(self, given: Sequence[Given]) -> None:
        while given and not self.stopping:
            count, body = self._body(given[: self._most])
            if trouble := self._post(body):
                self._say(trouble)
                self._most = 1
                self._consumers.fail(self.name, given[0].position, trouble)
                return
            self._consumers.ack(self.name, given[count - 1].position)
            self._say("")
            self._most = min(2 * self._most, CONSUMER_BATCH)
            given = given[count:]

    def _body(self, given: Sequence[Given]) -> tuple[int, bytes]:
        """Return how many of the messages go into one request, and its body."""
        texts: list[bytes] = []
        size = 0
        for each in given:
            fields = {**fields_of(each.message), "attempts": each.attempts}
            text = json.dumps(fields, ensure_ascii=False).encode()
            size += len(text)
            if texts and size > HOOK_BYTES:
                break
            texts.append(text)
        node = json.dumps(self._node, ensure_ascii=False).encode()
        return len(texts), b'{"node": %b, "messages": [%b]}' % (node, b", ".join(texts))

    def _post(self, body: bytes) -> str:
        """Send a body; return why it was not taken, "" if it was."""
        fields = {"Content-Type": "application/json", "User-Agent": f"p2p-sync/{__version__}"}
        fields[SIGNATURE] = signature(self._credentials.hook_secrets, body, int(time.time()))
        try:
            status = self._poster.post(body, fields)
        except DialError as error:
            return str(error)
        if 200 <= status < 300:
            return ""
        known = {each.value: each.phrase for each in HTTPStatus}
        phrase = f" ({known[status]})" if status in known else ""
        more = "; redirects are not followed" if 300 <= status < 400 else ""
        return f"HTTP {status}{phrase}{more}"

    def _say(self, trouble: str) -> None:
        if trouble == self._trouble:
            return
        if trouble:
            logger.warning(
                "the webhook %s (%s) does not take messages, which wait: %s",
                self._url,
                self.name,
                trouble,
            )
        else:
            logger.info("the webhook %s (%s) takes messages again", self._url, self.name)
        self._trouble = trouble


def hook_name(url: Url, topic: str, own: bool) -> str:
    """Return the name of the consumer of a webhook."""
    known = replace(url, authorization="")
    text = json.dumps([str(known), known.query, topic, own])
    return f"hook-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def signature(secrets: Sequence[bytes], body: bytes, seconds: int) -> str:
    """Return the header field that proves that a body comes from somebody with one of the secrets,
    and when it was sent (s since the epoch); "" without a secret."""
    signed = b"%d.%b" % (seconds, body)
    proofs = [hmac.new(secret, signed, hashlib.sha256).hexdigest() for secret in secrets]
    return ",".join([f"t={seconds}", *(f"v1={proof}" for proof in proofs)]) if proofs else ""
