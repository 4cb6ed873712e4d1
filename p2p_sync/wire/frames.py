"""The frames on the wire: JSON objects in WebSocket text frames.

They are a strict superset of the original system's two frames. An original node ignores the fields
and types that we add:

    SOCKETS  {"type": "SOCKETS", "addresses": ["ws://host:port", ...], ...}
    MESSAGE  {"type": "MESSAGE", "data": "text", ...}   to and from original nodes
    PROOF    {"type": "PROOF", "signature": "hex", ...}  when a link opens (see proof.py)

Between nodes of ours the frames of logframes.py carry the log.

Pure: text in, frame out, and back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from ..address import parse_address
from ..codes import MAX_NUMBER, OTHER_PROTOCOL, POLICY_VIOLATION, PROTOCOL_ERROR
from ..errors import AddressError, ProtocolError, TopicError
from ..names import name_from
from ..settings import MAX_ADDRESSES, MAX_LINKS_NAMED, MAX_MESSAGE_BYTES, MAX_TOPIC
from .entries import HEARD, NOTICE, TOPIC, UNNAMED, Entry, Erasure
from .entries import encode as encode_json
from .fields import ORIGIN
from .identity import NODE_ID, SIGNATURE
from .logframes import LOG_FRAMES, LOG_TYPES, LogFrame, PackedRun, Run, from_dict, to_json

PROTOCOL_VERSION = 2

_NODE_ID = re.compile(NODE_ID)
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SIGNATURE = re.compile(SIGNATURE)
_VERSION = re.compile(r"[0-9A-Za-z.+-]{1,40}")


@dataclass(frozen=True)
class Message:
    """One message.

    `origin` is the id of the node that committed it, a dash and the number of that node's start.
    `seq` counts the messages of an origin from 1. `time` is in milliseconds since the epoch, UTC.
    `heard` marks a copy of a commit of an original node, which was shown once. `topic` is a short
    text beside the message. The `data` of a message that was `erased` is ""; the members of the
    erasure are empty if it is not known by what. `copies` is how many other nodes are known to hold
    the message, if the caller asked for that. The `source` of an imported message says when and by
    which node it was first committed; see `first`.
    """

    origin: str
    seq: int
    time: int
    data: str
    heard: bool = False
    topic: str = ""
    erased: Erasure | None = None
    copies: int = field(default=0, compare=False)
    source: str = ""

    @property
    def id(self) -> str:
        """The identity: `origin:seq`."""
        return f"{self.origin}:{self.seq}"

    @property
    def first(self) -> tuple[int, str]:
        """When (ms since the epoch) and by which node it was first committed; of an imported one as
        whoever imported it says."""
        time, _, node = self.source.partition(":")
        return (int(time), node) if self.source else (self.time, self.origin.partition("-")[0])

    @property
    def order(self) -> tuple[int, str, int]:
        """The key of the order that is the same on every node."""
        return self.time, self.origin, self.seq


@dataclass(frozen=True)
class Sockets:
    """The first frame on every link, sent again when there are new addresses.

    `addresses` are valid addresses. The other fields count between our own nodes only: the `port`
    where the sender accepts peers or the whole `address` that it advertises (neither: it cannot be
    dialled), `link`, which counts the sender's dials, its `version`, whether it has `enough` links,
    the ids and names of the nodes at their ends (`links`), and the addresses of the original nodes
    that it has dialled (`leaves`) or that have dialled it (`guests`; see gossip.py). `secure`: the
    port speaks TLS. `name` is what the sender calls itself.
    """

    addresses: tuple[str, ...] = ()
    port: int | None = None
    address: str | None = None
    link: int = 0
    version: str = ""
    enough: bool = False
    links: Mapping[str, str] = field(default_factory=dict)
    leaves: tuple[str, ...] = ()
    guests: tuple[str, ...] = ()
    secure: bool = False
    name: str = ""


@dataclass(frozen=True)
class Proof:
    """Proves in an opening handshake that the sender has its key, by a `signature`, and that it
    knows the secret of the network, by a `proof`; each is empty where it is not asked for."""

    signature: str = ""
    proof: str = ""


@dataclass(frozen=True)
class Heard:
    """A MESSAGE without an id: a commit of an original node."""

    data: str


@dataclass(frozen=True)
class Ignored:
    """A frame of an unknown type, or a malformed one that original nodes are known to send."""

    why: str


Frame = Sockets | Proof | Message | Heard | Ignored | LogFrame


def messages_in(run: Run | PackedRun) -> list[Message]:
    """Return the messages of a run. Notices are none."""
    found: list[Message] = []
    first = run.after + 1
    for entry in run.entries:
        found += messages_of(run.origin, first, entry)
        first += entry.length
    return found


def messages_of(
    origin: str, first: int, entry: Entry, *, backwards: bool = False
) -> Iterator[Message]:
    """Yield the messages of an entry, whose first one is number `first`, or `backwards` from the
    last one. A notice has none."""
    time, kind, topic, source = entry.time, entry.kind, entry.topic, entry.source
    if kind == NOTICE:
        return
    heard = kind == HEARD
    by = {erasure.seq: erasure for erasure in entry.erasures}
    texts = enumerate(entry.texts, first)
    for seq, text in reversed([*texts]) if backwards else texts:
        if text is None:
            yield Message(origin, seq, time, "", heard, topic, by.get(seq, UNNAMED), source=source)
        else:
            yield Message(origin, seq, time, text, heard, topic, source=source)


def encode(frame: Sockets | Proof | Message | LogFrame) -> str:
    """Return the JSON text of `frame`."""
    return to_json(frame) if isinstance(frame, LOG_FRAMES) else encode_json(_fields(frame))


def _fields(frame: Sockets | Proof | Message) -> dict[str, Any]:
    if isinstance(frame, Proof):
        optional: dict[str, Any] = {"signature": frame.signature, "proof": frame.proof}
        return {"type": "PROOF", **_present(optional)}
    if isinstance(frame, Message):
        fields: dict[str, Any] = {
            "type": "MESSAGE",
            "data": frame.data,
            "origin": frame.origin,
            "seq": frame.seq,
            "time": frame.time,
        }
        if frame.heard:
            fields["heard"] = True
    else:
        optional = {
            "link": frame.link,
            "port": frame.port,
            "address": frame.address,
            "version": frame.version,
            "enough": frame.enough,
            "links": dict(frame.links),
            "leaves": list(frame.leaves),
            "guests": list(frame.guests),
            "secure": frame.secure,
            "name": frame.name,
        }
        fields = {"type": "SOCKETS", "addresses": list(frame.addresses), **_present(optional)}
    return fields


def _present(optional: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in optional.items() if value}


def decode(text: str) -> Frame:
    """Return the frame in `text`.

    Raises ProtocolError, with the close code and a reason, if it is not a JSON object or a field
    has the wrong type. Malformed frames that original nodes are known to send are Ignored.
    """
    try:
        fields = _decode_json(text)
    except (ValueError, RecursionError):
        raise ProtocolError(PROTOCOL_ERROR, "a frame must be JSON") from None
    if not isinstance(fields, dict):
        raise ProtocolError(PROTOCOL_ERROR, "a frame must be a JSON object")
    kind = fields.get("type", "")
    if not isinstance(kind, str):
        raise _wrong("type", "a text")
    if kind not in _DECODERS:
        return Ignored(f"a frame of the unknown type {kind[:40]!r}")
    return _DECODERS[kind](fields)


def check_text(data: object, limit: int) -> str | None:
    """Return None if `data` can be a message of up to `limit` bytes, else the reason why not.

    An instance of a subclass of str is refused, too: its methods may do anything, and only the
    caller knows which text it means (for example that of a member of an enumeration).
    """
    if type(data) is not str:
        return f"a message must be a str, not {type(data).__name__}; convert it first"
    if len(data) <= limit and data.isascii():
        return None
    try:
        size = len(data.encode("utf-8"))
    except UnicodeEncodeError:
        return "a message must be text that UTF-8 can hold; this one has a lone surrogate"
    if size > limit:
        return f"a message has at most {limit} bytes of UTF-8; this one has {size}"
    return None


def check_topic(topic: object) -> None:
    """Raise TopicError unless `topic` can be the topic of a message; "" is none."""
    if topic == "" or (type(topic) is str and TOPIC.fullmatch(topic)):
        return
    if type(topic) is not str:
        raise TopicError(f"a topic must be a str, not {type(topic).__name__}")
    raise TopicError(
        f"a topic is at most {MAX_TOPIC} letters (A to Z, a to z), digits, '.', '_', '-' and '/', "
        f"not {topic[: MAX_TOPIC + 1]!r}"
    )


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_decode_json = json.JSONDecoder(parse_constant=_refuse_constant).decode


def _wrong(name: str, expected: str) -> ProtocolError:
    return ProtocolError(PROTOCOL_ERROR, f"the field {name!r} must be {expected}")


def _number(fields: dict[str, Any], name: str, least: int = 0, most: int = MAX_NUMBER) -> int:
    value = fields.get(name)
    if type(value) is not int or not least <= value <= most:  # bool is an int, and no number
        raise _wrong(name, f"a whole number from {least} to {most}")
    return value


def _text(fields: dict[str, Any], name: str, pattern: re.Pattern[str], form: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise _wrong(name, form)
    return value


def _addresses(values: Any, name: str) -> tuple[str, ...]:
    """Return the addresses in a list, in their normal form, without the invalid ones."""
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise _wrong(name, "a list of texts")
    if len(values) > MAX_ADDRESSES:
        raise ProtocolError(
            POLICY_VIOLATION, f"{len(values)} {name}; at most {MAX_ADDRESSES} go in a frame"
        )
    found: dict[str, None] = {}
    for value in values:
        if not value.isascii():  # to encode a name takes long, and nodes send the encoded form
            continue
        try:
            found[str(parse_address(value))] = None
        except AddressError:
            continue
    return tuple(found)


def other_protocol(theirs: int) -> ProtocolError:
    """Return the refusal of a node that speaks the protocol with the number `theirs`."""
    older = "it" if theirs < PROTOCOL_VERSION else "this node"
    return ProtocolError(
        OTHER_PROTOCOL,
        f"it speaks protocol {theirs}, this node speaks {PROTOCOL_VERSION}: upgrade {older}",
    )


def _decode_sockets(fields: dict[str, Any]) -> Sockets:
    if fields.get("protocol") == 1:  # which has no header in the opening, see proof.py
        raise other_protocol(1)
    addresses = _addresses(fields.get("addresses"), "addresses")
    address = None
    if "address" in fields:
        address = next(iter(_addresses([fields["address"]], "address")), None)
    return Sockets(
        addresses,
        _number(fields, "port", 1, 65535) if "port" in fields else None,
        address,
        _number(fields, "link") if "link" in fields else 0,
        _text(fields, "version", _VERSION, "a short text") if "version" in fields else "",
        fields.get("enough") is True,
        _links(fields.get("links", {})),
        _addresses(fields.get("leaves", []), "leaves"),
        _addresses(fields.get("guests", []), "guests"),
        fields.get("secure") is True,
        name_from(fields.get("name")),
    )


def _decode_proof(fields: dict[str, Any]) -> Proof:
    return Proof(
        _text(fields, "signature", _SIGNATURE, "128 hexadecimal digits")
        if "signature" in fields
        else "",
        _text(fields, "proof", _DIGEST, "64 hexadecimal digits") if "proof" in fields else "",
    )


def _links(names: Any) -> dict[str, str]:
    if not isinstance(names, dict) or len(names) > MAX_LINKS_NAMED:
        raise _wrong("links", f"the names of at most {MAX_LINKS_NAMED} nodes, by id")
    if not all(_NODE_ID.fullmatch(node) for node in names):
        raise _wrong("links", "names by id")
    return {node: name_from(name) for node, name in names.items()}


def _decode_message(fields: dict[str, Any]) -> Message | Heard | Ignored:
    data = fields.get("data")
    if "origin" not in fields:
        # An original node sends no data for no `msg`, a list for `msg=a&msg=b`, an object for
        # `msg[a]=b`.
        if "data" not in fields or isinstance(data, (list, dict)):
            return Ignored("a MESSAGE without a text")
        if not isinstance(data, str):
            raise _wrong("data", "a text")
        data = data.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        problem = check_text(data, MAX_MESSAGE_BYTES)
        return Ignored(problem) if problem else Heard(data)
    if not isinstance(data, str):
        raise _wrong("data", "a text")
    if problem := check_text(data, MAX_MESSAGE_BYTES):
        raise ProtocolError(POLICY_VIOLATION, problem)
    heard = fields.get("heard", False)
    if not isinstance(heard, bool):
        raise _wrong("heard", "true or false")
    return Message(
        _text(fields, "origin", ORIGIN, "a node's id, a dash and a number"),
        _number(fields, "seq", 1),
        _number(fields, "time"),
        data,
        heard,
    )


_DECODERS: dict[str, Callable[[dict[str, Any]], Frame]] = {
    "SOCKETS": _decode_sockets,
    "MESSAGE": _decode_message,
    "PROOF": _decode_proof,
    **dict.fromkeys(LOG_TYPES, from_dict),
}
