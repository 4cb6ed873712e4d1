"""The tables of `node.db`: what each column means.

There are no migrations: a database of another version is refused, and one whose statements differ
from these is damaged. Change VERSION with every change here.
"""

from __future__ import annotations

APPLICATION_ID = 0x70327073  # "p2ps": tells our database from any other
VERSION = 16

TABLES = (
    # The starts of this node: arrivals above `arrival` came in this one or later. See cursors.py.
    """CREATE TABLE starts (
        number INTEGER PRIMARY KEY,
        start TEXT NOT NULL UNIQUE,
        arrival INTEGER NOT NULL
    )""",
    """CREATE TABLE addresses (
        address TEXT PRIMARY KEY,
        by_hand INTEGER NOT NULL,
        local INTEGER NOT NULL,      -- learned over loopback, or given by hand
        source TEXT NOT NULL,        -- the node or host that sent it
        node TEXT,                   -- the id of the node found there
        name TEXT NOT NULL,          -- what that node calls itself
        attempts INTEGER NOT NULL,
        last_error TEXT NOT NULL,
        worked REAL,                 -- seconds since the epoch: when a node last answered
        failing REAL                 -- and since when every dial has failed
    ) WITHOUT ROWID""",
    # What was committed together is one row: a row for each message costs ten times as much. See
    # wire/entries.py.
    """CREATE TABLE entries (
        arrival INTEGER PRIMARY KEY, -- number of its last message, in the order of arrival here
        origin TEXT NOT NULL,
        seq INTEGER NOT NULL,        -- of its first message
        count INTEGER NOT NULL,      -- of its messages
        time INTEGER NOT NULL,       -- milliseconds since the epoch
        kind INTEGER NOT NULL,       -- 0: messages; 1: a copy of an original's commit; 2: a notice
        copied BLOB,                 -- of a copy: the SHA-256 of its text
        leader INTEGER,              -- of a copy: the arrival of the copy that is shown for it
        previous BLOB NOT NULL,      -- running hash of its origin before it
        topic TEXT NOT NULL,         -- of its messages
        source TEXT NOT NULL,        -- of imported messages: when and by which node they were made
        data TEXT NOT NULL,          -- the text; of several messages a JSON list of texts
        erased TEXT NOT NULL,        -- the digest and the erasures, if a message of it is erased
        signature BLOB NOT NULL,     -- public key and signature over its end, or empty: signing.py
        sum INTEGER NOT NULL         -- CRC-32 of all columns that never change, see rows.py
    )""",
    # What is held of each origin: messages up to `n`, those up to `floor` apart. See origins.py.
    # Cutoffs are here, too (wire/cutoffs.py).
    """CREATE TABLE origins (
        origin TEXT PRIMARY KEY,
        n INTEGER NOT NULL,          -- the number of its last message
        hash BLOB NOT NULL,          -- running hash over all up to it
        signature BLOB NOT NULL,     -- public key and signature over both
        floor INTEGER NOT NULL,      -- messages up to this number are gone, or never came ...
        below INTEGER NOT NULL,      -- ... apart from so many
        sum INTEGER NOT NULL         -- CRC-32 of all columns
    ) WITHOUT ROWID""",
    # What was deleted, in one row, see retention.py: arrivals up to this one, times up to this one.
    """CREATE TABLE gone (
        number INTEGER PRIMARY KEY,
        arrival INTEGER NOT NULL,
        time INTEGER NOT NULL,
        sum INTEGER NOT NULL         -- CRC-32 of both
    )""",
    # Branches (see wire/forks.py) that the operator has seen.
    "CREATE TABLE acknowledged (origin TEXT PRIMARY KEY) WITHOUT ROWID",
    # Entries that were found damaged, to be looked at again at the next start.
    "CREATE TABLE damage (origin TEXT, seq INTEGER, PRIMARY KEY (origin, seq)) WITHOUT ROWID",
    # The messages that idempotency keys have named, see keyed.py.
    """CREATE TABLE keys (
        number INTEGER PRIMARY KEY,  -- in the order of their messages
        key BLOB NOT NULL UNIQUE,    -- a hash of it
        digest BLOB NOT NULL,        -- a hash of the message
        origin TEXT NOT NULL,
        seq INTEGER NOT NULL,
        time INTEGER NOT NULL        -- milliseconds since the epoch
    )""",
    # What each consumer has handled, see core/consumer.py, and the messages that it has put aside.
    "CREATE TABLE consumers (name TEXT PRIMARY KEY, state TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE parked (
        consumer TEXT NOT NULL,
        arrival INTEGER NOT NULL,
        id TEXT NOT NULL,            -- of the message
        attempts INTEGER NOT NULL,
        error TEXT NOT NULL,         -- of the last attempt
        time INTEGER NOT NULL,       -- milliseconds since the epoch
        PRIMARY KEY (consumer, arrival)
    ) WITHOUT ROWID""",
    # Filled and emptied to see whether the disk takes anything.
    "CREATE TABLE probe (data BLOB)",
)
INDEXES = {
    "by_identity": "CREATE UNIQUE INDEX by_identity ON entries (origin, seq)",
    "by_place": "CREATE INDEX by_place ON entries (time, origin, seq)",
    "by_text": "CREATE INDEX by_text ON entries (copied, time, origin, seq) WHERE kind = 1",
    "hidden": "CREATE INDEX hidden ON entries (arrival) WHERE leader <> arrival",
    "by_topic": "CREATE INDEX by_topic ON entries (topic, time, origin, seq) WHERE topic <> ''",
    "topic_arrivals": "CREATE INDEX topic_arrivals ON entries (topic) WHERE topic <> ''",
    "notice_arrivals": "CREATE INDEX notice_arrivals ON entries (arrival) WHERE kind = 2",
    # By the origin and the number in the id of the message that each erases.
    "notices": "CREATE INDEX notices ON entries (substr(data, 1, instr(data, ':') - 1), "
    "CAST(substr(data, instr(data, ':') + 1) AS INTEGER)) WHERE kind = 2",
    "erased": "CREATE INDEX erased ON entries (copied, time) WHERE kind = 1 AND erased <> ''",
}
STATEMENTS = (*TABLES, *INDEXES.values())
LAST_ARRIVAL = """
    SELECT max(coalesce(max(arrival), 0), coalesce((SELECT CAST(arrival AS INTEGER) FROM gone), 0))
    FROM entries
"""
"""The last arrival, whether it was deleted or not: no number is used twice."""
PRAGMAS = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}"
