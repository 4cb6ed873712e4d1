"""What a node says of its consumers: each one, and all of them in numbers."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.consumer import Consumer
from ..core.verdict import numbered
from ..disk import consumers
from ..disk.store import Store
from ..errors import LogError
from ..results import ConsumerInfo, ConsumersInfo
from ..settings import CONSUMER_FAILING, CONSUMER_SILENT


class Heard:
    """When readers were heard: they have asked for messages, or said something of them. Not stored,
    so a start begins anew. For any thread: each method takes one step.

    All times are those of the clock on the wall (ms).
    """

    def __init__(self, now: int) -> None:
        self._started = now
        self._last: dict[str, int] = {}

    def note(self, name: str, now: int) -> None:
        """A reader of the consumer `name` was heard, or it was made."""
        self._last[name] = now

    def forget(self, name: str) -> None:
        """The consumer was deleted."""
        self._last.pop(name, None)

    def silent_since(self, name: str, consumer: Consumer, now: int) -> int | None:
        """Return since when no reader was heard; None: lately one was, or it has messages now."""
        last = self._last.get(name, self._started)
        busy = any(span.due > now for span in consumer.lent)
        return None if busy or now - last < CONSUMER_SILENT * 1000 else last


def info_of(
    name: str, consumer: Consumer, position: str, lag: int, parked: int, silent: int | None
) -> ConsumerInfo:
    """Return what there is to know of a consumer."""
    return ConsumerInfo(
        name=name,
        topic=consumer.topic,
        own=consumer.own,
        ack_wait=consumer.ack_wait,
        max_attempts=consumer.max_attempts,
        shared=consumer.shared,
        position=position,
        lag=lag,
        lent=sum(len(span.numbers) for span in consumer.lent),
        attempts=consumer.attempts,
        parked=parked,
        missed=consumer.missed,
        error=consumer.error,
        hook=consumer.hook,
        no_reader_since=silent,
    )


def summary(store: Store) -> tuple[ConsumersInfo, list[str]]:
    """Return the consumers in numbers, and warnings about those that do not get on, a sentence
    each; nothing if the database cannot be read."""
    try:
        with store.reading() as database:
            every, parked = consumers.every(database), consumers.all_parked(database)
    except LogError:
        return ConsumersInfo(0, 0, 0, 0), []
    failing = [(name, each) for name, each in every if each.attempts >= CONSUMER_FAILING]
    missed = sum(each.missed for _, each in every)
    about = ConsumersInfo(len(every), len(failing), sum(parked.values()), missed)
    warnings = []
    for name, each in failing[:1]:
        what = f"the webhook {each.hook} ({name})" if each.hook else f"the consumer {name}"
        warnings.append(f"messages wait for {what}{_others(failing)}: {each.error}")
    for name in [*parked][:1]:
        count = numbered(about.parked, "message")
        what = f"{count} put aside by the consumer {name}{_others([*parked])}"
        warnings.append(f"{what}; see: p2p-sync consumers parked {name}")
    return about, warnings


def _others(found: Sequence[object]) -> str:
    more = len(found) - 1
    return f" and {numbered(more, 'other')}" if more else ""
