"""What a consumer has handled: the rules. Pure; node/consumers.py stores the result.

A consumer is a name under which programs handle each message once, in order of arrival. Numbers
here are those of arrivals. Messages up to `given` were lent to a reader, or were not for this
consumer. They are handled, but for those in two lists of spans:

    lent    a reader has them, and must acknowledge them before its time is up
    back    their reader has failed, or its time was up: they are lent again when they are due

While something is `lent` or `back`, nothing else is lent: a message that is handled or has failed
delays those after it, since order matters more than speed. In a `shared` consumer only what is
`back` does. Then readers have spans of their own, so no two have the same message at a time.

Whoever acknowledges a message acknowledges those of its span before it, too. So spans are
split, and never joined: whoever had a message of a span had those before it. If a message fails, it
comes back after a pause: 1 s, then twice as long each time, up to 5 minutes. After `max_attempts`
it is parked instead: put aside for a person, and the consumer goes on.

A reader may end without an answer, perhaps because a message has killed it. That counts as a
failure of the first message that it had. It may have been another one, so all that it had come
alone from then on, each after the answer about the one before; so the right one is parked.

Each lending has a number, the `version` that the consumer had. Readers send it with what they say:
only the reader that has a message can fail it or get more time for it, and readers of a former
consumer of this name can do nothing. A late acknowledgement counts all the same.

All times are those of the clock on the wall (ms), since they outlive the node; if that clock is set
back, readers have as much time as at first, and what has failed is tried again at once.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from ..settings import CONSUMER_RETRY_FIRST, CONSUMER_RETRY_LONGEST

UNANSWERED = "its reader has ended, or did not acknowledge it in time"


@dataclass(slots=True)
class Span:
    """Some messages, by their numbers. `attempts` is how often the first one has failed, and
    `error` why. `due` is when its reader's time is up (lent), or when it is lent again (back);
    `delivery` is the number of its last lending. `alone`: each is lent by itself, since one of them
    may have ended its reader."""

    numbers: Sequence[int]
    attempts: int = 0
    due: int = 0
    error: str = ""
    delivery: int = 0
    alone: bool = False

    @property
    def after(self) -> int:
        """The number before the first message."""
        return self.numbers[0] - 1


class Pause(NamedTuple):
    """Nothing can be lent for so many ms, unless a reader says before that it is done."""

    ms: int


@dataclass(slots=True)
class Consumer:
    """One consumer. `topic` ("": all) and `own` (only what this node has committed) choose its
    messages; `ack_wait` is how long a reader has for them (s); with `max_attempts` 0 each message
    is tried for ever; `shared`: several readers may have messages at a time."""

    given: int = 0
    topic: str = ""
    own: bool = False
    ack_wait: float = 30.0
    max_attempts: int = 0
    shared: bool = False
    version: int = 0  # rises each time that it is stored
    made: int = 0  # its first version; those of a former consumer of this name are others
    missed: int = 0  # messages that were deleted before they were handled
    error: str = ""  # why the last message failed; "" once one was acknowledged after it
    hook: str = ""  # the URL that a webhook of this node POSTs them to, for people; "": none
    lent: list[Span] = field(default_factory=list)
    back: list[Span] = field(default_factory=list)

    @staticmethod
    def of(value: dict[str, Any]) -> Consumer:
        """Return what `to_value` has returned."""
        for name in ("lent", "back"):
            value[name] = [Span(*span) for span in value[name]]
        return Consumer(**value)

    def to_value(self) -> dict[str, Any]:
        """Return the consumer as a value of JSON."""
        value = {each.name: getattr(self, each.name) for each in fields(self)}
        for name in ("lent", "back"):  # asdict() would take ten times as long
            value[name] = [
                [[*span.numbers], *(getattr(span, each) for each in _SPAN)] for span in value[name]
            ]
        return value

    @property
    def position(self) -> int:
        """All messages up to this number are handled."""
        return min((span.after for span in (*self.lent, *self.back)), default=self.given)

    @property
    def waiting(self) -> int:
        """How many messages were lent, and are not handled yet."""
        return sum(len(span.numbers) for span in (*self.lent, *self.back))

    @property
    def attempts(self) -> int:
        """How often the message that delays the others has failed, also while it is tried again."""
        return max((span.attempts for span in (*self.lent, *self.back)), default=0)

    # -- lending --------------------------------------------------------------------------------

    def expire(self, now: int) -> bool:
        """Take back what readers have not acknowledged in time. If the clock was set back, or the
        time of readers was made shorter, they have as much as they would get now. Return whether
        anything has changed for a reader: then that must be stored, or their time begins anew."""
        changed = False
        for span in [*self.lent]:
            if span.due <= now:
                self._take_back(span, now)
                changed = True
            elif span.due > now + self._wait:
                span.due = now + self._wait
                changed = True
        for span in self.back:
            if span.due > now + pause_after(span.attempts):
                span.due = now
        return changed

    def next(self, now: int) -> Span | Pause | None:
        """Return what is lent next: a span that is back, or None for what was not lent before; or
        how long nothing can be lent."""
        if self.lent and not self.shared:
            return Pause(min(span.due for span in self.lent) - now)
        if not self.back:
            return None
        pause = self.back[0].due - now
        return Pause(pause) if pause > 0 else self.back[0]

    def exhausted(self) -> Span | None:
        """Return the span whose first message is to be parked."""
        first = self.back[0] if self.back else None
        return first if first and 0 < self.max_attempts <= first.attempts else None

    def lend(self, numbers: Sequence[int], upto: int, now: int) -> None:
        """A reader gets these messages, which were not lent before; up to `upto` there are no
        others for this consumer."""
        self.given = upto
        if numbers:
            self.lent.append(Span(numbers, due=now + self._wait, delivery=self.version))

    def lend_again(
        self, held: Collection[int], most: int, now: int, deleted: Collection[int] = ()
    ) -> Sequence[int]:
        """A reader gets the first span that is back, or its first `most` messages, one if they are
        lent alone. Those of them that are not `held` any more are left out; those that were
        `deleted` are missed. Return the numbers."""
        span = self.back.pop(0)
        most = 1 if span.alone else most
        first, rest = span.numbers[:most], span.numbers[most:]
        numbers = [number for number in first if number in held]
        self.missed += sum(number in deleted for number in first)
        if rest:
            self._return(Span(rest, due=now, alone=span.alone))
        if numbers:
            attempts = span.attempts if numbers[0] == span.numbers[0] else 0
            self.lent.append(Span(numbers, attempts, now + self._wait, delivery=self.version))
        return numbers

    # -- what readers say -----------------------------------------------------------------------

    def ack(self, number: int, delivery: int, now: int) -> bool:
        """Message `number` is handled, and those of its span before it. Return False if it was
        never lent, or by a former consumer of this name."""
        if not self.made <= delivery <= self.version:
            return False
        for spans in (self.lent, self.back):
            for index, span in enumerate(spans):
                if number in span.numbers:
                    rest = span.numbers[bisect_right(span.numbers, number) :]
                    due = now + self._wait if spans is self.lent else now
                    left = Span(rest, due=due, delivery=span.delivery)
                    spans[index : index + 1] = [left] if rest else []
                    self.error = ""
                    return True
        return number <= self.given

    def fail(self, number: int, delivery: int, error: str, now: int) -> bool:
        """Message `number` could not be handled; those of its span before it are. Return False if
        it is not lent, or to another reader."""
        for span in self.lent:
            if number in span.numbers and span.delivery == delivery:
                self.lent.remove(span)
                at = bisect_left(span.numbers, number)
                attempts = 1 if at else span.attempts + 1
                self.error = error
                self._return(Span(span.numbers[at:], attempts, now + pause_after(attempts), error))
                return True
        return False

    def extend(self, number: int, delivery: int, now: int) -> bool:
        """The reader of message `number` gets as much time for it, and for those that it was taken
        with, as it had at first. Return False if it is not lent, or to another reader."""
        for span in self.lent:
            if number in span.numbers and span.delivery == delivery:
                span.due = now + self._wait
                return True
        return False

    def release(self, now: int) -> None:
        """Take back what readers have: they were stopped, and have not failed."""
        for span in self.lent:
            self._return(Span(span.numbers, span.attempts, now))
        self.lent = []

    def crash(self, now: int) -> None:
        """Take back what readers have: they have ended without an answer."""
        for span in [*self.lent]:
            self._take_back(span, now)

    def park(self, deleted: bool = False) -> None:
        """The first message of what is back was put aside, or it was `deleted`, and is missed."""
        span = self.back.pop(0)
        self.missed += deleted
        if rest := span.numbers[1:]:
            self._return(Span(rest, alone=span.alone))

    def go_back(self, last: int) -> bool:
        """Nothing has arrived behind number `last`, as far as the log knows. If its last entries
        were damaged and deleted, their numbers are used again. Return whether that changes
        anything."""
        if self.given <= last:
            return False
        self.given = last
        for spans in (self.lent, self.back):
            for span in spans:
                span.numbers = [number for number in span.numbers if number <= last]
            spans[:] = [span for span in spans if span.numbers]
        return True

    def again(self, numbers: Sequence[int], now: int) -> None:
        """Lend messages once more that were put aside. They are spans of their own: a reader that
        is late may still acknowledge one of them, and has not had the others."""
        for number in numbers:
            self._return(Span([number], due=now))

    @property
    def _wait(self) -> int:
        return int(self.ack_wait * 1000)

    def _take_back(self, span: Span, now: int) -> None:
        self.lent.remove(span)
        self.error = UNANSWERED
        self._return(Span(span.numbers, span.attempts + 1, now, UNANSWERED, alone=True))

    def _return(self, span: Span) -> None:
        insort(self.back, span, key=lambda each: each.numbers[0])


_SPAN = [each.name for each in fields(Span)][1:]


def pause_after(attempts: int) -> int:
    """Return how many ms pass before a message is tried again that has failed so often."""
    return min(CONSUMER_RETRY_FIRST << min(max(attempts - 1, 0), 20), CONSUMER_RETRY_LONGEST)
