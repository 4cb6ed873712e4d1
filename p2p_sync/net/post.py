"""One HTTP request that brings a body, as webhooks need it: bounded in time and in size.

No redirect is followed and no proxy is used. Each request has a connection of its own.
"""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Mapping
from http import HTTPStatus
from http.client import (
    HTTPConnection,
    HTTPException,
    HTTPResponse,
    HTTPSConnection,
    RemoteDisconnected,
)
from typing import Any

from ..errors import DialError
from ..settings import HOOK_ANSWER, HOOK_CONNECT, HOOK_TIMEOUT
from ..urls import Url
from .tls import client_context, shake_hands


class Poster:
    """Sends bodies to one URL. One thread uses it."""

    def __init__(self, url: Url) -> None:
        self._url = url
        self._context = client_context(None) if url.secure else None

    def post(self, body: bytes, fields: Mapping[str, str]) -> int:
        """Send a body with header `fields`, and return the status of the answer.

        Connecting takes HOOK_CONNECT at most for each IP address of the host, and everything after
        that HOOK_TIMEOUT in all; only the look-up of its name has the limits of this machine.
        Raises DialError, which says nothing of the URL that is secret.
        """
        try:
            plain = socket.create_connection((self._url.host, self._url.port), HOOK_CONNECT)
        except socket.gaierror as error:
            raise DialError(f"its host name is not found ({error.strerror})") from None
        except (OSError, UnicodeError) as error:
            late = isinstance(error, TimeoutError)
            why = f"not within {HOOK_CONNECT:g} s" if late else getattr(error, "strerror", None)
            raise DialError(f"no connection: {why or 'its host name is not valid'}") from None
        try:
            return self._exchange(plain, body, fields)
        except TimeoutError:
            raise DialError(f"no answer within {HOOK_TIMEOUT:g} s") from None
        except RemoteDisconnected:
            raise DialError("it closed the connection without an answer") from None
        except HTTPException:  # its text is what was read
            raise DialError("its answer is not HTTP") from None
        except OSError as error:
            raise DialError(f"the connection broke: {error.strerror or error}") from None

    def _exchange(self, plain: socket.socket, body: bytes, fields: Mapping[str, str]) -> int:
        until = time.monotonic() + HOOK_TIMEOUT
        url, connection = self._url, plain
        given = {"Connection": "close", "Authorization": url.authorization, **fields}
        client = HTTPConnection(url.host, url.port)
        try:
            if self._context:
                client = HTTPSConnection(url.host, url.port, context=self._context)
                connection = shake_hands(self._context, plain, url.host, HOOK_TIMEOUT)
            bounded: Any = _Bounded(connection, until)
            client.sock = bounded
            client.response_class = _Answer
            client.request(
                "POST", url.target, body, {name: text for name, text in given.items() if text}
            )
            return client.getresponse().status
        finally:
            client.close()
            connection.close()
            plain.close()


class _Answer(HTTPResponse):
    """An answer. What comes before it, such as 103 (early hints), is read and forgotten; the limits
    of _Bounded hold for all of it."""

    def begin(self) -> None:
        super().begin()
        while self.status < HTTPStatus.OK:
            self.headers = self.msg = None  # type: ignore[assignment]
            super().begin()


class _Bounded(io.RawIOBase):
    """What http.client needs of a socket: reads and writes that end at a time, and that read no
    more than HOOK_ANSWER bytes."""

    def __init__(self, connection: socket.socket, until: float) -> None:
        self._connection = connection
        self._until = until
        self._room = HOOK_ANSWER

    def makefile(self, *_: Any) -> io.BufferedReader:
        """Return what reads lines; http.client closes it and this apart."""
        return io.BufferedReader(_Bounded(self._connection, self._until))

    def sendall(self, data: bytes) -> None:
        """Write all bytes."""
        left = memoryview(data)
        while left:
            self._limit()
            left = left[self._connection.send(left[:HOOK_ANSWER]) :]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._limit()
        count = self._connection.recv_into(buffer)
        self._room -= count
        if self._room < 0:
            raise HTTPException("the answer is too long")
        return count

    def _limit(self) -> None:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
