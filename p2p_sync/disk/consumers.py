"""Consumers in the database: one row each, and the messages that were parked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from ..core.consumer import Consumer
from ..settings import LAG_ROWS
from .copies import SHOWN
from .store import Database


class Parked(NamedTuple):
    """A message that was put aside: its arrival and id, how often it was tried, why it failed, and
    since when it is here (ms since the epoch)."""

    arrival: int
    id: str
    attempts: int
    error: str
    time: int


def names(database: Database) -> list[str]:
    """Return the names of all consumers."""
    return [row[0].decode() for row in database.execute("SELECT name FROM consumers ORDER BY name")]


def every(database: Database) -> list[tuple[str, Consumer]]:
    """Return all consumers with their names."""
    rows = database.execute("SELECT name, state FROM consumers ORDER BY name")
    return [(row[0].decode(), Consumer.of(json.loads(row[1]))) for row in rows]


def all_parked(database: Database) -> dict[str, int]:
    """Return how many messages each consumer has parked, if any."""
    rows = database.execute("SELECT consumer, count(*) FROM parked GROUP BY consumer")
    return {row[0].decode(): int(row[1]) for row in rows}


def load(database: Database, name: str) -> Consumer | None:
    """Return a consumer; None if there is none of that name."""
    row = database.execute("SELECT state FROM consumers WHERE name = ?", (name,)).fetchone()
    return Consumer.of(json.loads(row[0])) if row else None


def save(database: Database, name: str, consumer: Consumer) -> None:
    """Store a consumer."""
    consumer.version += 1
    state = json.dumps(consumer.to_value(), separators=(",", ":"))
    database.execute("INSERT OR REPLACE INTO consumers VALUES (?, ?)", (name, state))


def delete(database: Database, name: str) -> bool:
    """Delete a consumer and what it has parked; return False if there is none."""
    database.execute("DELETE FROM parked WHERE consumer = ?", (name,))
    return database.execute("DELETE FROM consumers WHERE name = ?", (name,)).rowcount > 0


def park(database: Database, name: str, message: Parked) -> None:
    """Put a message aside."""
    database.execute("INSERT OR REPLACE INTO parked VALUES (?, ?, ?, ?, ?, ?)", (name, *message))


def parked(database: Database, name: str, limit: int = -1) -> list[Parked]:
    """Return the messages that a consumer has parked, in order of arrival, up to `limit`; -1: all
    of them."""
    rows = database.execute(
        "SELECT arrival, id, attempts, error, time FROM parked WHERE consumer = ? ORDER BY arrival "
        "LIMIT ?",
        (name, limit),
    )
    return [Parked(row[0], row[1].decode(), row[2], row[3].decode(), row[4]) for row in rows]


def count_parked(database: Database, name: str) -> int:
    """Return how many messages a consumer has parked."""
    rows = database.execute("SELECT count(*) FROM parked WHERE consumer = ?", (name,))
    return int(rows.fetchone()[0])


def unpark(database: Database, name: str, arrivals: Sequence[int]) -> None:
    """Forget messages that were put aside."""
    database.executemany(
        "DELETE FROM parked WHERE consumer = ? AND arrival = ?", [(name, n) for n in arrivals]
    )


def unpark_behind(database: Database, last: int) -> None:
    """Forget messages that were put aside and arrived behind `last`: their numbers are those of
    other messages from now on."""
    database.execute("DELETE FROM parked WHERE arrival > ?", (last,))


def rename_parked(database: Database, source: str, after: int, to: str) -> None:
    """The messages behind number `after` of origin `source` have moved to origin `to`, so those
    that were put aside have other ids."""
    rows = database.execute(
        "SELECT consumer, arrival, id FROM parked WHERE id BETWEEN ? AND ?",
        (f"{source}:", f"{source}:~"),
    ).fetchall()
    for consumer, arrival, id in rows:
        number = int(id.rpartition(b":")[2])
        if number > after:
            database.execute(
                "UPDATE parked SET id = ? WHERE consumer = ? AND arrival = ?",
                (f"{to}:{number - after}", consumer.decode(), arrival),
            )


def lag(database: Database, consumer: Consumer, last: int, node: str) -> int:
    """Return how many messages up to arrival `last` a consumer has not acknowledged. Where that is
    very many, messages that are not for it count, too. `node` is this node's id."""
    condition = "AND topic = ? AND topic <> ''" if consumer.topic else ""
    values = (consumer.given, consumer.topic) if consumer.topic else (consumer.given,)
    rows = database.execute(
        f"SELECT min(count, arrival - ?), origin FROM entries WHERE arrival > ? {condition} "
        f"AND {SHOWN} LIMIT ?",
        (consumer.given, *values, LAG_ROWS),
    ).fetchall()
    if len(rows) == LAG_ROWS:
        return consumer.waiting + last - consumer.given
    mine = node.encode()
    return consumer.waiting + sum(
        int(count) for count, origin in rows if not consumer.own or origin.startswith(mine)
    )
