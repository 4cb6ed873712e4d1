"""The rules of consumers: what is lent to whom, and what comes back when."""

from __future__ import annotations

import json
import random

from p2p_sync.core.consumer import UNANSWERED, Consumer, Pause, Span, pause_after

WAIT = 30_000


def test_what_is_lent_is_acknowledged_in_parts() -> None:
    consumer = Consumer()
    consumer.lend([3, 5, 9], 12, 0)
    assert (consumer.given, consumer.position, consumer.waiting) == (12, 2, 3)
    assert consumer.ack(5, 0, 0)
    assert (consumer.position, consumer.waiting) == (8, 1)
    assert consumer.ack(5, 0, 0), "once more is fine"
    assert consumer.ack(9, 0, 0)
    assert (consumer.position, consumer.waiting) == (12, 0)
    assert not consumer.ack(13, 0, 0), "it was never lent"


def test_nothing_newer_is_lent_while_a_reader_has_something_unless_readers_share_it() -> None:
    consumer = Consumer()
    consumer.lend([1, 2], 2, 0)
    assert consumer.next(1000) == Pause(WAIT - 1000)
    consumer.ack(1, 0, 2000)
    assert consumer.next(3000) == Pause(WAIT - 1000), "it has more time for the other one"
    consumer.ack(2, 0, 3000)
    assert consumer.next(3000) is None
    consumer.lend([3], 3, 0)
    consumer.shared = True
    assert consumer.next(3000) is None


def test_two_readers_have_different_messages_and_acknowledge_them_in_any_order() -> None:
    consumer = Consumer(shared=True)
    consumer.lend([1, 2], 2, 0)
    consumer.lend([3, 4], 4, 0)
    assert consumer.ack(4, 0, 0)
    assert (consumer.position, consumer.waiting) == (0, 2)
    assert consumer.ack(2, 0, 0)
    assert consumer.position == 4


def test_a_message_that_fails_comes_back_with_those_behind_it_and_delays_others() -> None:
    consumer = Consumer()
    consumer.lend([1, 2, 3], 3, 0)
    assert consumer.fail(2, 0, "broken", 1000)
    assert (consumer.position, consumer.attempts, consumer.error) == (1, 1, "broken")
    assert consumer.next(1000) == Pause(1000)
    assert consumer.next(2000) == Span([2, 3], 1, 2000, "broken")
    assert consumer.lend_again([2, 3], 1, 2000) == [2]
    assert consumer.lent == [Span([2], 1, 2000 + WAIT)]
    assert consumer.next(2000) == Pause(WAIT), "3 waits, too"
    assert consumer.fail(2, 0, "again", 3000)
    assert consumer.next(3000) == Pause(2000)
    assert not consumer.fail(2, 0, "nobody has it", 3000)
    assert consumer.ack(2, 0, 3000), "its reader was done all the same"
    assert consumer.next(3000) == Span([3], due=2000)


def test_the_pauses_double_up_to_five_minutes() -> None:
    assert [pause_after(n) // 1000 for n in range(1, 12)] == [
        1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300
    ]  # fmt: skip
    assert pause_after(10_000) == 300_000


def test_a_reader_may_have_more_time_for_all_that_it_has() -> None:
    consumer = Consumer()
    consumer.lend([1, 2], 2, 0)
    consumer.lend([3], 3, 0)
    assert consumer.extend(2, 0, WAIT - 1)
    consumer.expire(2 * WAIT - 2)
    assert [span.numbers for span in consumer.lent] == [[1, 2]]
    assert not consumer.extend(3, 0, 2 * WAIT), "its time is up"
    consumer.expire(2 * WAIT - 1)
    assert consumer.lent == []


def test_attempts_count_also_while_the_message_is_tried_again() -> None:
    consumer = Consumer()
    consumer.lend([1, 2], 2, 0)
    consumer.fail(1, 0, "broken", 0)
    consumer.lend_again([1, 2], 1, 1000)
    assert consumer.attempts == 1
    consumer.ack(1, 0, 1000)
    assert consumer.attempts == 0


def test_what_is_not_acknowledged_in_time_comes_back_at_once() -> None:
    consumer = Consumer()
    consumer.lend([1, 2], 2, 0)
    consumer.expire(WAIT - 1)
    assert consumer.next(WAIT - 1) == Pause(1)
    consumer.expire(WAIT)
    assert consumer.next(WAIT) == Span([1, 2], 1, WAIT, UNANSWERED, alone=True)
    assert consumer.ack(1, 0, WAIT), "late, but done"
    assert consumer.next(WAIT) == Span([2], due=WAIT)


def test_an_acknowledgement_gives_the_reader_more_time_for_the_rest() -> None:
    consumer = Consumer()
    consumer.lend([1, 2], 2, 0)
    consumer.ack(1, 0, WAIT - 1)
    consumer.expire(2 * WAIT - 2)
    assert consumer.next(2 * WAIT - 2) == Pause(1)
    consumer.expire(2 * WAIT - 1)
    assert consumer.next(2 * WAIT) == Span([2], 1, 2 * WAIT - 1, UNANSWERED, alone=True)


def test_a_clock_that_is_set_back_leaves_a_reader_the_time_that_it_has_at_first() -> None:
    consumer = Consumer()
    consumer.lend([1], 1, 10**12)
    assert consumer.expire(1000), "that must be stored, or its time begins anew each time"
    assert not consumer.expire(1000 + WAIT - 1)
    assert consumer.next(1000) == Pause(WAIT)
    assert consumer.expire(1000 + WAIT)
    assert consumer.next(1000 + WAIT) == Span([1], 1, 1000 + WAIT, UNANSWERED, alone=True)
    consumer.back[0].due = 10**12
    consumer.expire(1000)
    assert consumer.next(1000) == Span([1], 1, 1000, UNANSWERED, alone=True), "it waits for nothing"


def test_a_shorter_ack_wait_takes_nothing_from_a_reader_at_once() -> None:
    consumer = Consumer()
    consumer.lend([1], 1, 0)
    consumer.ack_wait = 10.0
    consumer.expire(5_000)
    assert [span.numbers for span in consumer.lent] == [[1]]
    consumer.expire(15_000)
    assert consumer.next(15_000) == Span([1], 1, 15_000, UNANSWERED, alone=True)


def test_an_acknowledgement_does_not_reach_messages_that_were_put_aside_and_are_retried() -> None:
    consumer = Consumer()
    consumer.lend([1, 2, 3, 4, 5], 5, 0)
    consumer.ack(5, 0, 0)
    consumer.again([1, 5], 0)
    assert consumer.ack(3, 0, 0), "once more: its reader had no answer"
    assert consumer.ack(5, 0, 0), "a late reader of 4 and 5, which never had 1"
    assert consumer.next(0) == Span([1], due=0)
    assert consumer.waiting == 1
    consumer.lend([6, 7], 7, 0)
    assert consumer.lend_again([1], 9, 0) == [1]
    assert consumer.ack(7, 0, 0)
    assert (consumer.position, consumer.waiting) == (0, 1)


def test_a_message_is_exhausted_after_so_many_attempts_and_put_aside_alone() -> None:
    consumer = Consumer(max_attempts=2)
    consumer.lend([1, 2], 2, 0)
    consumer.fail(1, 0, "one", 0)
    assert consumer.exhausted() is None
    consumer.lend_again([1, 2], 2, 5000)
    consumer.fail(1, 0, "two", 5000)
    assert consumer.exhausted() == Span([1, 2], 2, 7000, "two")
    consumer.park()
    assert consumer.next(5000) == Span([2])
    consumer.again([1], 5000)
    assert consumer.next(5000) == Span([1], due=5000)


def test_messages_that_are_gone_are_left_out() -> None:
    consumer = Consumer()
    consumer.lend([1, 2, 3], 3, 0)
    consumer.fail(1, 0, "broken", 0)
    assert consumer.lend_again([3], 9, 1000) == [3]
    assert consumer.lent == [Span([3], 0, 1000 + WAIT)]
    consumer.fail(3, 0, "broken", 1000)
    assert consumer.lend_again([], 9, 9000) == []
    assert (consumer.position, consumer.waiting, consumer.missed) == (3, 0, 0)


def test_messages_that_were_deleted_while_they_waited_are_missed() -> None:
    consumer = Consumer(max_attempts=2)
    consumer.lend([1, 2, 3, 4, 5], 5, 0)
    consumer.fail(1, 0, "broken", 0)
    assert consumer.lend_again([3, 5], 9, 1000, [1, 2]) == [3, 5]
    assert consumer.missed == 2, "4 was erased"
    consumer.crash(2000)
    assert consumer.lend_again([], 9, 2000, [3, 5]) == []
    assert consumer.missed == 3, "5 is looked at by itself"
    assert consumer.next(2000) == Span([5], due=2000, alone=True)
    consumer.park(deleted=True)
    assert (consumer.missed, consumer.waiting) == (4, 0)


def test_the_reason_of_a_failure_is_only_a_text() -> None:
    consumer = Consumer()
    consumer.lend([1, 2, 3], 3, 0)
    consumer.fail(1, 0, UNANSWERED, 0)
    assert consumer.lend_again([1, 2, 3], 9, 1000) == [1, 2, 3], "its reader has answered"


def test_what_killed_its_reader_is_found_and_put_aside_though_it_was_taken_with_others() -> None:
    """2 kills each reader that has it; a reader acknowledges all that it has at the end."""
    consumer, now = Consumer(max_attempts=3), 0
    consumer.lend([1, 2, 3, 4], 4, now)
    consumer.crash(now)
    handled: list[int] = []
    parked: list[tuple[int, int, str]] = []
    lendings = 0
    while consumer.back:
        if span := consumer.exhausted():
            parked.append((span.numbers[0], span.attempts, span.error))
            consumer.park()
            continue
        now = consumer.back[0].due
        numbers = consumer.lend_again([1, 2, 3, 4], 100, now)
        lendings += 1
        if 2 in numbers:
            now += WAIT
            consumer.expire(now)
        else:
            assert consumer.ack(numbers[-1], 0, now)
            handled += numbers
    assert (handled, parked) == ([1, 3, 4], [(2, 3, UNANSWERED)])
    assert lendings == 6, "each alone, and 2 three times"


def test_a_crash_counts_as_an_attempt_of_the_first_message_and_a_release_does_not() -> None:
    consumer = Consumer()
    consumer.lend([1, 2], 2, 0)
    consumer.crash(7)
    assert consumer.next(7) == Span([1, 2], 1, 7, UNANSWERED, alone=True)
    assert consumer.error == UNANSWERED
    assert consumer.lend_again([1, 2], 2, 7) == [1]
    consumer.release(8)
    assert consumer.next(8) == Span([1], 1, 8), "nothing has happened to it"


def test_only_who_has_a_message_can_fail_it_or_get_more_time_for_it() -> None:
    consumer = Consumer(version=70, made=70)
    consumer.lend([1, 2], 2, 0)
    consumer.version = 71
    consumer.expire(WAIT)
    consumer.lend_again([1, 2], 2, WAIT)
    assert consumer.lent == [Span([1], 1, 2 * WAIT, delivery=71)]
    assert not consumer.extend(1, 70, WAIT + 5)
    assert not consumer.fail(1, 70, "late", WAIT + 5)
    assert consumer.lent == [Span([1], 1, 2 * WAIT, delivery=71)]
    consumer = Consumer.of(json.loads(json.dumps(consumer.to_value())))
    assert consumer.extend(1, 71, WAIT + 5)
    assert consumer.fail(1, 71, "no", WAIT + 5)
    assert consumer.ack(2, 70, WAIT + 6), "late, but it was handled"
    assert [span.numbers for span in consumer.back] == [[1]], "1 has failed since"


def test_a_reader_of_a_former_consumer_of_that_name_acknowledges_nothing() -> None:
    consumer = Consumer(version=70, made=70)
    consumer.lend([1, 2, 3], 3, 0)
    for delivery in (0, 69, 71, 10**6):
        assert not consumer.ack(3, delivery, 0)
    assert consumer.waiting == 3
    assert consumer.ack(3, 70, 0)


def test_a_release_gives_everything_back_without_counting_an_attempt() -> None:
    consumer = Consumer()
    consumer.lend([1, 2], 2, 0)
    consumer.release(7)
    assert consumer.next(7) == Span([1, 2], 0, 7, "")


def test_random_readers_handle_every_message_and_no_two_have_one_at_a_time() -> None:
    for seed in range(300):
        rng = random.Random(seed)
        consumer, now, last = Consumer(max_attempts=rng.choice([0, 3])), 0, 200
        consumer.version = consumer.made = rng.randrange(1000)
        consumer.shared = rng.random() < 0.5
        handled: list[int] = []
        parked: list[int] = []
        readers: list[tuple[list[int], int]] = []
        for _ in range(100_000):
            now += rng.choice([0, 10, 1000, 5000])
            consumer = Consumer.of(json.loads(json.dumps(consumer.to_value())))
            consumer.expire(now)
            lent = sorted(n for span in consumer.lent for n in span.numbers)
            assert lent == sorted({*lent}), f"two readers have one message (seed {seed})"
            if span := consumer.exhausted():
                parked.append(span.numbers[0])
                consumer.park()
            elif readers and rng.random() < 0.6:
                numbers, delivery = readers[rng.randrange(len(readers))]
                number = rng.choice(numbers)
                if rng.random() < 0.2:
                    if consumer.fail(number, delivery, "x", now):
                        handled += [n for n in numbers if n < number]
                else:
                    handled += [n for n in numbers if n <= number]
                    assert consumer.ack(number, delivery, now)
                    numbers[:] = [n for n in numbers if n > number]
                readers = [each for each in readers if each[0]]
                if rng.random() < 0.1:
                    readers = []
            else:
                follows = consumer.next(now)
                consumer.version += 1
                before = [*lent]
                if isinstance(follows, Span):
                    numbers = [*consumer.lend_again(range(1000), 10, now)]
                    readers.append((numbers, consumer.version))
                elif follows is None and consumer.given < last:
                    upto = min(last, consumer.given + rng.randrange(1, 10))
                    numbers = [*range(consumer.given + 1, upto + 1)]
                    consumer.lend(numbers, upto, now)
                    readers.append(([*numbers], consumer.version))
                elif follows is None and not consumer.waiting:
                    break
                if not consumer.shared and before:
                    now_lent = sorted(n for span in consumer.lent for n in span.numbers)
                    assert now_lent == before, f"something newer was lent (seed {seed})"
        assert {*handled, *parked} == {*range(1, last + 1)}, f"seed {seed}"
