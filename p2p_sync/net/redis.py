"""What a hub holds of the log: the one door to redis-py.

A hub is a Redis server in which any number of nodes keep the log together. It has, under a prefix:

    have          origin -> number of messages, running hash, signature; the `id` of the hub; the
                  place of the last `news`; and `messages`, if these are wanted
    log           a stream of runs, as on the wire
    index:ORIGIN  the runs of an origin: where each begins, and its place in `log`
    news          a stream of what has changed in `have`, for nodes that wait. Each has the place of
                  the news before it, and its run if that is short
    messages      a stream of messages for other programs
    in            a stream of what other programs commit, and key:KEY, the keys of that

hub.lua changes them at once. A run in the stream is never changed, so a user may trim
the log; then it begins at a floor, as that of a node that keeps less. Redis proves nothing: what
comes from it is checked like what comes from a peer.

One thread uses a `HubLog`. Another one may call `news`, and any may call `close`.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import resources
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

from ..errors import DialError, LinkClosed, LogDeleted, ProtocolError, StartError
from ..settings import HUB_CLAIM, HUB_KEYS, HUB_PATIENCE, HUB_READ, HUB_WAIT, MAX_BATCH, NEVER
from ..urls import HubUrl
from ..wire.entries import NOTICE, Erasure, encode
from ..wire.fields import origin_or_cutoff
from ..wire.frames import messages_in
from ..wire.heads import Heads
from ..wire.logframes import NOTHING_HELD, Head, PackedRun, Run

if TYPE_CHECKING:
    import redis

_SCRIPT = resources.files(__package__).joinpath("hub.lua").read_text("utf-8")
_SHA = hashlib.sha1(_SCRIPT.encode()).hexdigest()  # as Redis calls it
_OLDEST = (6, 2)
_GROUP = "p2p-sync"
_FIELDS = "origin", "after", "previous", "entries", "signature"  # of an entry in the log
SET_BACK = "the hub was emptied or set back; it gets again what it lacks"
_FOREIGN = (
    "a key under the prefix holds something else; choose another hub_prefix, or empty the hub"
)
_MEANINGS = {  # the class of an error, or a part of its text -> what it means, and what to do
    "Authentication required": (
        "the hub wants a password, and its address has none; write redis://:PASSWORD@host:6379/0"
    ),
    "AuthenticationError": (
        "the hub refuses the user and the password in its address ({}); correct them in its "
        "file, then send this node SIGHUP"
    ),
    "DB index is out of range": (
        "the hub has no database of this number; correct the number at the end of its address"
    ),
    "unknown command": "the address of the hub does not fit the server there ({})",
    "RedisClusterException": "the hub is no cluster, or none of its servers answers ({})",
    "MasterNotFoundError": "no Sentinel of the hub knows this name, or none answers ({})",
    "[SSL": "TLS with the hub failed ({}); if its port has none, the address begins with redis://",
    "TimeoutError": (
        "the hub does not answer ({}); is it the port of Redis? An address begins with rediss:// "
        "if the port has TLS, else with redis://"
    ),
    "ConnectionError": (
        "no connection to the hub ({}); does Redis run, and are host and port right?"
    ),
    "NoPermissionError": (
        "the hub's user may not do what a node does ({}); it needs +@read +@write +@scripting "
        "+@blocking +info +select on the keys of the prefix"
    ),
    "WRONGTYPE": _FOREIGN,
    "used memory > 'maxmemory'": (
        "the hub is full; raise its maxmemory, or trim the stream of the log"
    ),
    "SETBACK": SET_BACK,
    "NOSCRIPT": "the hub has lost the script of its nodes; this node brings it again",
}
_RUNS = """
local index, log, after, upto, left = KEYS[1], KEYS[2], ARGV[1], ARGV[2], tonumber(ARGV[3])
local runs, places = {}, {}
repeat
  places = redis.call('ZREVRANGEBYSCORE', index, after, '-inf', 'LIMIT', 0, 1)
  local rest = redis.call('ZRANGEBYSCORE', index, '(' .. after, upto, 'LIMIT', 0, 64)
  for _, place in ipairs(rest) do places[#places + 1] = place end
  for _, place in ipairs(places) do
    if left < 0 then break end
    local run = redis.call('XRANGE', log, place, place)[1]
    if not run then -- a user has trimmed the log
      redis.call('ZREM', index, place)
      redis.call('XDEL', KEYS[3], place)
    end
    for _, value in ipairs(run and run[2] or {}) do left = left - #value end
    runs[#runs + 1] = run
  end
until #runs > 0 or #places == 0
return runs
"""  # the run in which a number is, and some that follow: up to a size, and one more
_SWAP = """
redis.call('XDEL', KEYS[3], ARGV[1]) -- first: if this is no stream, nothing else is changed
if redis.call('ZREM', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('XDEL', KEYS[2], ARGV[1])
return redis.call('ZADD', KEYS[1], ARGV[2], redis.call('XADD', KEYS[2], '*', unpack(ARGV, 3)))
"""  # another run takes the place of one; 0: that one is not there any more


def _explained(error: Exception) -> LinkClosed:
    if isinstance(error, LinkClosed):
        return error
    text, name = str(error).strip(" ."), type(error).__name__
    meaning = next((_MEANINGS[part] for part in _MEANINGS if part == name or part in text), "")
    return LinkClosed((meaning or "the hub does not serve: {}").format((text or name)[:200]))


@contextmanager
def _errors(ignored: str = "") -> Iterator[None]:
    """Raise LinkClosed for what goes wrong, but for the error that begins with `ignored`."""
    import redis
    from redis.exceptions import RedisClusterException

    try:
        yield
    except (redis.RedisError, RedisClusterException, OSError, ValueError) as error:
        if not ignored or not str(error).startswith(ignored):
            raise _explained(error) from None


def _client(hub: HubUrl, key: str) -> Any:
    """Return a client of the server that has `key`, which has not connected yet."""
    import redis

    options: dict[str, Any] = {"ssl": hub.secure, "socket_timeout": HUB_PATIENCE, "protocol": 2}
    login = {"username": hub.user or None, "password": hub.password or None}
    (host, port), retry = hub.places[0], redis.retry.Retry(redis.backoff.NoBackoff(), 0)
    if hub.kind == "cluster":
        nodes = [redis.cluster.ClusterNode(*place) for place in hub.places]
        with redis.RedisCluster(startup_nodes=nodes, **login, **options) as cluster:
            node = cluster.get_node_from_key(key)
        host, port = node.host, node.port
    elif hub.kind == "sentinel":
        sentinel = redis.Sentinel([*hub.places], sentinel_kwargs=options)
        host, port = sentinel.discover_master(hub.master)
    return redis.Redis(host, port, hub.database, retry=retry, **login, **options)


def check_installed() -> None:
    """Raise StartError if the packages that a hub needs are missing."""
    try:
        import redis  # noqa: F401
    except ImportError:
        what = "pip install 'p2p-sync[redis]', or '.[redis]' in the folder of the source"
        raise StartError(f"a hub needs the package redis; run: {what}") from None


class HubLog:
    """The log in a hub, connected. Its methods raise LinkClosed if the hub does not serve."""

    def __init__(self, hub: HubUrl, prefix: str, shows: bool) -> None:
        """Connect. `shows`: from now on all nodes write messages for other programs, too. Raises
        DialError."""
        self._prefix = prefix
        self._shows = shows
        self.inbox = self._key("in")
        self._last = b""  # the place of the last news that the script has added
        self._told: dict[str, PackedRun] = {}  # short runs of the last news
        try:
            with _errors():
                self._redis: redis.Redis = _client(hub, self._key("have"))
                self.id = self._open()
        except LinkClosed as error:
            raise DialError(str(error)) from None

    def _open(self) -> str:
        with _errors("NOPERM"), _errors("this user has no permissions"):
            version = str(self._redis.info("server")["redis_version"])
            if tuple(map(int, version.split(".")[:2])) < _OLDEST:
                raise LinkClosed(f"the hub runs Redis {version}; a node needs 6.2 or newer")
        have, log = self._key("have"), self._key("log")
        if not self._redis.exists(have):
            for _, fields in self._redis.xrange(log, count=1):
                if b"signature" not in fields:
                    text = f"the stream {log} is not of this program; choose another hub_prefix"
                    raise LinkClosed(text)
        self._redis.script_load(_SCRIPT)
        last = self._redis.xrevrange(self._key("news"), count=1)  # `have` was deleted
        self._redis.hsetnx(have, "news", last[0][0] if last else "")
        self._redis.hsetnx(have, "id", secrets.token_hex(16))
        if self._shows:
            self._redis.hset(have, "messages", "1")
        with _errors("BUSYGROUP"):
            self._redis.xgroup_create(self.inbox, _GROUP, "0", mkstream=True)
        id, shows = self._redis.hmget(have, "id", "messages")
        self._shows = shows is not None
        return _text(id)

    def close(self) -> None:
        """End all connections. For any thread."""
        with suppress(Exception):
            self._redis.close()

    # -- what it holds --------------------------------------------------------------------------

    def have(self) -> tuple[Heads, bytes]:
        """Return the heads of all origins, and the place of the last news before that."""
        heads, have = Heads(), self._key("have")
        with _errors():
            place = self._last = self._redis.hget(have, "news") or b""
            heads.update(_heads(self._redis.hscan_iter(have, count=HUB_READ)))
        return heads, place

    def news(self, news: bytes, asked: bytes) -> tuple[list[tuple[str, Head]], bytes, bytes]:
        """Wait for up to HUB_WAIT seconds for changes after a place, and for something in the
        stream `in` after another place. Return the changes, each an origin and its head, and both
        places then. Raises LinkClosed if the hub is not as it was, or news are lost."""
        streams = {self._key("news"): news or b"0", self.inbox: asked}
        wanted = "hmget", self._key("have"), "id", "messages", "news"
        with _errors():
            (id, shows, last), found = self._pipe(
                [wanted, ("xread", streams, HUB_READ, int(HUB_WAIT * 1000))]
            )
        self._shows = shows is not None
        changes, added = (dict(found).get(name.encode(), ()) for name in streams)
        if _text(id) != self.id:
            raise LinkClosed(SET_BACK)
        is_next = (last or b"") == self._last or any(b"before" in fields for _, fields in changes)
        heads: dict[str, Head] = {}
        runs: dict[str, PackedRun] = {}
        for place, fields in changes:
            if b"before" in fields:  # else it is not of the script
                is_next = is_next and fields[b"before"] == self._last
                self._last = place
                for origin, head in _heads([(fields.get(b"origin"), fields.get(b"head"))]):
                    heads[origin] = head
                    if run := _run(origin, fields):
                        runs[origin] = run
            news = place
        if not is_next:
            raise LinkClosed("news of the hub are lost; this node compares again")
        self._told = runs
        return [*heads.items()], news, added[-1][0] if added else asked

    # -- runs -----------------------------------------------------------------------------------

    def ship(
        self, runs: Sequence[Run], instead: Head | None = None, places: Sequence[bytes] = ()
    ) -> list[Head | None]:
        """Append runs. Return for each None, or what the hub holds of its origin instead. If that
        is `instead`, it makes way. With `places`, each run commits what a program has added there,
        which is acknowledged at once."""
        commands = [
            self._appending(run, instead, place)
            for run, place in zip(runs, places or repeat(b""), strict=False)
        ]
        with _errors():
            answers = self._pipe(commands)
        return [*map(_answer, answers)]

    def _appending(self, run: Run, instead: Head | None, place: bytes) -> list[Any]:
        keys = [*map(self._key, ("have", "log", "news")), self._index(run.origin)]
        keys += self._key("messages"), self.inbox
        shown = [
            ["id", one.id, "origin", one.origin, "seq", str(one.seq), "time", str(one.time)]
            + ["topic", one.topic, "data", one.data]
            for one in (messages_in(run) if self._shows else ())
            if not one.erased
        ]
        head = run.end, run.hash, run.signature
        entries = ",".join([entry.pack() for entry in run.entries])
        other = " ".join(map(str, instead)) if instead else "skip" if run.skipped else ""
        arguments = self.id, run.origin, run.after, run.previous, *head, entries, encode(shown)
        return ["evalsha", _SHA, len(keys), *keys, *arguments, other, place]

    def read(self, origin: str, after: int, upto: int, size: int) -> tuple[PackedRun, int]:
        """Return messages of an origin, and what is left of `size`, as `Sending.read` of the disk
        does. Raises LogDeleted if the first of them is not there any more."""
        told = self._told.get(origin)
        if told and told.after == after < told.end:
            return told, size - len(told.text)
        found = [run for _, run in self._runs(origin, after, upto, size) if run.end > after]
        if not found or found[0].after > after:
            if (self._held(origin) or NOTHING_HELD).n < upto:
                raise LinkClosed(SET_BACK)
            raise LogDeleted(origin, found[0].after if found else upto)
        joined, left = found[:1], size - len(found[0].text)
        for run in found[1:]:
            left -= len(run.text)
            is_long = run.end - joined[0].after > MAX_BATCH or left < 0
            if run.after != joined[-1].end or joined[-1].notice or is_long:
                left += len(run.text)
                break
            joined.append(run)
        first, last = joined[0], joined[-1]
        count, text = last.end - first.after, ",".join([run.text for run in joined])
        return PackedRun(
            origin, first.after, first.previous, count, text, 0, last.signature, last.notice
        ), left

    def _runs(
        self, origin: str, after: int, upto: int, size: int = 0
    ) -> list[tuple[bytes, PackedRun]]:
        """Return some runs, the first of which begins at `after` or before it, each with its place:
        as many as have `size` bytes, and one more."""
        keys = self._index(origin), self._key("log"), self._key("news")
        with _errors():
            entries = self._redis.eval(_RUNS, len(keys), *keys, after, upto, size)
        pairs = ((place, zip(values[::2], values[1::2], strict=False)) for place, values in entries)
        runs = [(place, _run(origin, dict(fields))) for place, fields in pairs]
        return [(place, run) for place, run in runs if run]

    def hash_at(self, origin: str, n: int) -> str | None:
        """Return the running hash over the first `n` messages of an origin, as `Sending.hash_at`
        of the disk does."""
        head = self._held(origin)
        if head is None or head.n < n:
            return None
        runs = [] if head.n == n else self._runs(origin, n, n)
        return head.hash if head.n == n else next((r.previous for _, r in runs if r.after == n), "")

    def erase(self, origin: str, erasure: Erasure) -> None:
        """Erase a message of an origin. The signature of its run covers a digest of the text, so it
        proves the run without that, too."""
        keys = self._index(origin), self._key("log"), self._key("news")
        shown, done = self._key("messages"), False
        while not done and (found := self._runs(origin, erasure.seq - 1, erasure.seq - 1)):
            ((place, run),) = found
            first, entries = run.after + 1, []
            for entry in run.entries:
                is_meant = first <= erasure.seq < first + entry.length and entry.kind != NOTICE
                entries.append(entry.erase(first, erasure) if is_meant else entry)
                first += entry.length
            values = run.after, run.previous, ",".join([entry.pack() for entry in entries])
            if values[-1] == run.text:
                break  # erased before
            fields = zip(_FIELDS, (origin, *values, run.signature), strict=True)
            with _errors():  # not done: another node has erased another message of the run
                words = place, run.after, *chain.from_iterable(fields)
                done = bool(self._redis.eval(_SWAP, len(keys), *keys, *words))
        id, end = f"{origin}:{erasure.seq}".encode(), b"+"
        with _errors():
            while found := self._redis.xrevrange(shown, end, count=HUB_READ):
                end = b"(" + found[-1][0]
                if gone := [place for place, fields in found if fields.get(b"id") == id]:
                    self._redis.xdel(shown, *gone)
                    break

    # -- what programs commit ---------------------------------------------------------------------

    def added(self, node: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
        """Take what programs have added to the stream `in`, and no node has taken; or one has, and
        has not committed it within HUB_CLAIM seconds. Return it."""
        stream, left = self.inbox, int(HUB_CLAIM * 1000)
        with _errors():
            again = self._redis.xautoclaim(stream, _GROUP, node, left, count=HUB_READ)[1]
            new = self._redis.xreadgroup(_GROUP, node, {stream: ">"}, HUB_READ)
        every = *again, *(new[0][1] if new else ())
        return [one for one in every if one[1]]  # Redis 6.2 returns what was deleted as nothing

    def is_first(self, key: str, place: bytes) -> bool:
        """Return whether what a program has added at `place` is the first with its key."""
        name = self._key(f"key:{key}")
        with _errors():
            self._redis.set(name, place, nx=True, ex=int(HUB_KEYS))
            return bool(self._redis.get(name) == place)

    def refuse(self, place: bytes) -> None:
        """Drop what a program has added, for it is not to be committed."""
        with _errors():
            self._redis.xdel(self.inbox, place)  # first: what is acknowledged comes no more
            self._redis.xack(self.inbox, _GROUP, place)

    # -- private --------------------------------------------------------------------------------

    def _held(self, origin: str) -> Head | None:
        with _errors():
            return _head(self._redis.hget(self._key("have"), origin))

    def _key(self, name: str) -> str:
        return f"{self._prefix}:{name}"

    def _index(self, origin: str) -> str:
        return self._key(f"index:{origin}")

    def _pipe(self, commands: Iterable[Sequence[Any]]) -> list[Any]:
        """Run commands, each a name and its arguments, in one turn; return the answers."""
        pipe = self._redis.pipeline(transaction=False)
        for name, *arguments in commands:
            getattr(pipe, name)(*arguments)
        answers = list(pipe.execute(raise_on_error=False))
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer  # as it is; redis-py would put the command before it, with messages
        return answers


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""


def _head(value: object) -> Head | None:
    """Return the head in a value of `have`; None where it is not one."""
    with suppress(ValueError):
        n, running, signature = _text(value).split(" ")
        bytes.fromhex(running + signature)
        if len(running) == 32 and len(signature) == 192 and 0 < int(n) < NEVER:
            return Head(int(n), running, signature)
    return None


def _heads(pairs: Iterable[tuple[object, object]]) -> Iterator[tuple[str, Head]]:
    """Yield what `have` holds: of some names and values, those that are origins and their heads."""
    for name, value in pairs:
        with suppress(ProtocolError):
            if head := _head(value):
                yield origin_or_cutoff(_text(name)), head


def _answer(answer: object) -> Head | None:
    """Return None where the script has appended a run, else what the hub holds instead."""
    if answer == 1:
        return None
    if held := _head(answer) if answer else NOTHING_HELD:
        return held
    raise LinkClosed(_FOREIGN)


def _run(origin: str, fields: Mapping[bytes, bytes]) -> PackedRun | None:
    """Return the run in an entry of a stream; None where there is none."""
    with suppress(KeyError, ValueError, IndexError, TypeError, RecursionError):
        _, after, previous, text, signature = (fields[name.encode()].decode() for name in _FIELDS)
        texts = [entry[1] for entry in json.loads(f"[{text}]")]
        count = sum(len(one) if isinstance(one, list) else 1 for one in texts)
        notice = text.endswith(",2]")
        return PackedRun(origin, int(after), previous, count, text, 0, signature, notice)
    return None
