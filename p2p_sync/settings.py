"""Every setting and every limit, once: its value, its unit, and the reason for it.

A *setting* may differ from node to node. `Settings` are the settings of a node, the parameters of
`Node`; `Program` are those of the program that runs one. A field made by `option` is also an option
of the command line and an environment variable; `cli/options.py` derives both from it.

A *limit* is the same for all nodes: a constant, in the section of the folder that uses it.

The type of a value is its unit, and the text below it is the reason. The reference in
`docs/` is generated from it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, Literal, NamedTuple, TypeAlias

from .address import Address, is_loopback
from .errors import InputError
from .urls import HubUrl, Url

Count: TypeAlias = int
Bytes: TypeAlias = int
BytesPerSecond: TypeAlias = int
Characters: TypeAlias = int
Seconds: TypeAlias = float
Milliseconds: TypeAlias = int
Factor: TypeAlias = float

# -- wire ------------------------------------------------------------------------------------------

MAX_MESSAGE_BYTES: Bytes = 128 * 1024
"""A message from another node, in UTF-8. Not a setting: with different limits, nodes could never
agree on which messages exist. What can be committed here is the setting `max_message_bytes`. With
another value also change MAX_ENTRY_BYTES, BATCH_BYTES, `max_frame_bytes`, HTTP_MAX_BODY and the
number of the protocol."""

MAX_ADDRESSES: Count = 256
"""Addresses in one SOCKETS frame, and addresses that one remote host may add to the address book
before any of them has worked."""

MAX_NAME: Characters = 32
"""The name of a node, for people."""

MAX_LINKS_NAMED: Count = 64
"""Ids of connected nodes in one SOCKETS frame."""

MAX_ORIGINS_NAMED: Count = 800
"""Origins in one frame. At about 310 bytes each that stays below 256 KiB."""

MAX_LOOKED_LEAVES: Count = 256
"""Rows of successive leaves of a version vector in one LOOK."""

MAX_LOOKED_MARKS: Count = 3_000
"""Marks of origins in one LOOK, 12 bytes each. They take about 4 ms to make or to compare."""

MAX_BATCH: Count = 1_000
"""Messages in one entry of the log. A frame that holds as many takes no further entry."""

MAX_TOPIC: Bytes = 64
"""A topic: long enough for a path of a few words, short enough to be stored with each entry."""

MAX_KEY: Count = 128
"""Characters of an idempotency key."""

MAX_KEYS: Count = 1_000_000
"""Idempotency keys that are kept, 150 bytes each; beyond it, the oldest are forgotten early."""

KEYS_ASKED: Count = 500
"""Idempotency keys in one query; some versions of SQLite take 999 values."""

CONSUMER_RETRY_FIRST: Milliseconds = 1_000
"""A consumer gets a message that has failed again after this time, ..."""

CONSUMER_RETRY_LONGEST: Milliseconds = 300_000
"""... then after twice the time before, and after this time at most."""

CONSUMER_LOOK: Seconds = 1.0
"""A reader that waits for messages looks this often whether one has come back."""

CONSUMER_BATCH: Count = 100
"""Messages that the thread of a consumer, or a webhook, gets at a time."""

CONSUMER_ATTEMPTS: Count = 10
"""A message of a consumer in the library is parked after so many attempts."""

CONSUMER_FAILING: Count = 2
"""The status warns of a consumer whose message has failed so often: once may be chance."""

CONSUMER_ALONE: Seconds = 86_400.0
"""`ack_wait` of a consumer whose only reader is a thread of the node: it says when it ends."""

CONSUMER_SILENT: Seconds = 60.0
"""A consumer has no reader if none has been heard for this time, and none has messages."""

MAX_ACK_WAIT: Seconds = 7 * 86_400.0
"""The time that a reader may have for what it was given. Should it not come back, others wait."""

MAX_ATTEMPTS: Count = 1_000_000
"""The largest `max_attempts`: ten years of attempts."""

MAX_CONSUMERS: Count = 100
"""Consumers of a node. The status looks at each of them."""

MAX_PARKED: Count = 10_000
"""Messages that one consumer has put aside. With so many, one that fails delays the others."""

MAX_LENT: Count = 2_000
"""Messages of one consumer that are lent and not acknowledged, since each of these is stored with
each acknowledgement. With so many, readers have to wait."""

PARKED_LISTED: Count = 1_000
"""Messages that were put aside in one list of them, the first ones."""

MAX_CONSUMER_ERROR: Count = 300
"""Characters of the reason why a message failed."""

LAG_ROWS: Count = 2_000
"""Entries that are counted to say how far a consumer is behind."""

MAX_NOTED_TOPICS: Count = 1_000
"""Topics of which a node knows when their last message came. Those that follow others wake up once
too often."""

MAX_SHIPPED: Count = 2 * MAX_BATCH
"""Messages in one frame."""

MAX_ENTRY_BYTES: Bytes = 160 * 1024
"""The texts in one entry of the log, in UTF-8: at least one message. Six times as much, each byte
escaped, stays below the limit of a frame."""

MAX_ERASURES: Count = 100
"""Erasures that are named in one entry of the log, 330 bytes each, so that with the largest texts
it stays below the limit of a frame. Further messages of it can be erased."""

ERASURE_BYTES: Bytes = 57
"""What the erasure of a message takes of MAX_ENTRY_BYTES: a sixth of 340 bytes of JSON."""

ENTRY_BYTES: Bytes = 32
"""What an entry takes of it besides: a sixth of its time, topic and digest in JSON."""

BATCH_BYTES: Bytes = 160 * 1024
"""Text in one MESSAGES frame. Six times as much, each byte escaped, stays below the limit of a
frame."""

MAX_OPENING_BYTES: Bytes = 4096
"""The frame that proves a key, and perhaps a secret, when a connection opens."""

# -- core ------------------------------------------------------------------------------------------

MAX_KNOWN_ADDRESSES: Count = 1000
"""Addresses that a node remembers."""

MAX_DIALS: Count = 8
"""Dials at a time to addresses given by hand, and as many to all others: peers can name any number
of addresses that do not answer, and these must not delay the dials that the operator wants."""

MAX_HOST_DIALS: Count = 2
"""Of the dials to learned addresses, those at a time to one host on which no node of ours is known:
peers can name many ports of a host that is not of this network."""

MAX_LOOKUPS: Count = 16
"""Host names that are resolved at a time. Names learned from peers get half of the places."""

MAX_ENDPOINTS: Count = 8
"""IP addresses of one host name that one dial tries."""

SPARE_PEERS: Count = 16
"""Links accepted above `--max-peers`; such a peer receives addresses and is closed."""

SHOWN_TO_ERASE: Characters = 1200
"""The beginning of a message that is shown where a person is asked whether to erase it."""

SHORT_ID: Characters = 8
"""The beginning of a node's id that people see."""

NEVER: Seconds = float("inf")
"""The time of what is not due at all."""

MAX_ADDRESSES_SENT: Count = 4 * MAX_ADDRESSES
"""Addresses that a node remembers as sent to one peer."""

MAX_TWINS: Count = 100
"""Nodes of which a node remembers that they have met two nodes with one id."""

TWINS_SHOWN: Seconds = 150.0
"""The status warns of two nodes with one id for this time. One of them is refused again at least
every 60 s (`redial_longest`)."""

STATUS_PAUSE: Seconds = 3.0
"""A node announces changed links after this time, so that it does not mention short-lived ones."""

DIAL_JITTER: Seconds = 0.5
"""Two nodes that learn each other's addresses at the same moment wait for a random time up to this
before they dial; otherwise both would."""

MANY_ADDRESSES: Count = 16
"""More addresses than this in a SOCKETS frame that is not a peer's first are a fault."""

GOOD_LINK: Seconds = 10.0
"""A link that lasted this long makes its address as good as new for redialling."""

SLOW_DIAL: Seconds = 1.0
"""A dial that takes longer does not count as a link to come: other addresses are tried."""

FIRST_RTT: Seconds = 0.05
"""The round trip that is assumed before it has been measured."""

KEEP_SOON: Seconds = 0.1
"""Changes of the address book are written after this time."""

KEEP_RARELY: Seconds = 60.0
"""Changes that matter little, such as when an address last worked, are written this often."""

GIVE_UP: Seconds = 86_400.0
"""A learned address to which every dial has failed for this time is forgotten."""

ONESELF_PAUSE: Seconds = 30.0
"""An address given by hand that leads to this node itself is resolved again this often: its name
may lead to other nodes later."""

NODE_LASTS: Seconds = 600.0
"""A node that answered at an IP address and port is assumed to be there for this time."""

SURPLUS_PAUSE: Seconds = 60.0
"""After a link was closed because one side has enough links, its address is dialled again after
this time."""

GRAFT_DELAY: Seconds = 0.1
"""A node that learns that it is behind waits this long, and a hop, for its feeder."""

FIRST_ANSWER: Seconds = 0.5
"""A link that has never shipped anything new must answer GRAFT within this time, and a round
trip."""

ANSWER_DELAY: Seconds = 2.0
"""A link that has shipped something new must answer GRAFT within this time, and a round trip.
Then another link is asked too, then two, four ... at a time."""

LOOK_AGAIN: Seconds = 10.0
"""A node that is asked by its own feeder looks for another feeder only once in this time."""

SKIP_PATIENCE: Seconds = 3.0
"""If no peer keeps what comes next of an origin, a node waits this long for one that does."""

SKIP_ALONE: Seconds = 60.0
"""It waits this long while an address that was given by hand is not connected: the node there may
keep more, and a peer that says that it keeps little may lie."""

MAX_DELAY: Seconds = 30.0
"""Where all links were asked, the delay doubles up to this while nothing comes."""

STALLED_AFTER: Seconds = 60.0
"""A link that was asked for what it claims to hold, and has shipped nothing for this time, is
closed."""

MAX_ORIGINS: Count = 100_000
"""Origins in a log."""

MAX_STRANGERS: Count = 9 * MAX_ORIGINS // 10
"""The rest is for origins of nodes that are vouched for (core/newcomers.py)."""

NO_ROOM_PAUSE: Seconds = 60.0
"""A peer that holds origins for which there is no room in this hour is asked again this often."""

ORIGINS_PERIOD: Seconds = 3600.0
"""`max_new_origins` is for this time."""

ORIGINS_FACTOR: Count = 4
"""One host may bring so many times `max_new_origins`, if their nodes are vouched for; all hosts
together may bring so many times what one host may."""

MAX_ORIGINS_HOSTS: Count = 1_000
"""Hosts whose new origins are counted apart."""

MAX_EARLY: Count = 1_000
"""Origins that wait for the clock."""

MAX_TICKS: Count = 500
"""Origins that one look at the timers treats, so that it is quick."""

LATE: Seconds = 3.0
"""A peer that does not hold a message after this time is behind, for people."""

HAVE_INTERVAL: Seconds = 1.0
"""On a link HAVE is sent at most this often. After a quiet second the next change is announced at
once."""

MANY_LINKS: Count = 8
"""With more links than this, HAVE is sent less often on each, in proportion, so that the cost of a
node does not grow with its links."""

MOST_INTERVALS: Factor = 2.0
"""With many links, HAVE is sent on each at least once in this many intervals."""

HAVE_RIDE: Seconds = 0.2
"""News may be added after this time to a frame that is sent anyway."""

HAVE_SOON: Seconds = 0.0
"""The interval while a commit waits for copies: a transaction gathers enough."""

AUDIT_INTERVAL: Seconds = 30.0
"""The fingerprint of the version vector is sent this often, less up to a quarter."""

NAMED_SOON: Count = 100
"""Origins in a HAVE that are confirmed, or that somebody waits for."""

SMALL_VECTOR: Count = 64
"""A version vector of up to so many origins goes whole where it differs: 20 KB."""

HOLD_TRIPS: Factor = 1.25
"""Round trips for which everything after an origin's first message is held back, so that a PRUNE
comes first."""

HOLD_MARGIN: Seconds = 0.01
"""This time is added to the round trips of `HOLD_TRIPS`."""

MAX_AHEAD: Count = 500
"""Origins of which one peer may claim to hold more than this node, at a time; each costs about
1.2 kB. Further claims are ignored, and asked for again once the peer has shipped some of these."""

LOOK_NAMED: Count = MAX_AHEAD // 2
"""Origins in an answer to LOOK."""

LOOK_PAUSE: Seconds = 0.05
"""The pause between two such answers, and between two LOOKs: 1.5 MB/s."""

SUMS_PAUSE: Seconds = 1.0
"""The pause between two answers to the sums of branches, which take about 5 ms to make; and between
two LOOKs while there is no room for what the peer holds."""

LOOK_PATIENCE: Seconds = 3.0
"""A peer that has not answered a LOOK for this time is not waited for."""

RESEND_AFTER: Seconds = 60.0
"""A peer may ask only once in this time for messages that it was sent before."""

ASK_AGAIN: Seconds = RESEND_AFTER + 5.0
"""A link is asked again after this time. What it ships arrives in order, however slowly, so asking
earlier would only bring copies."""

MAX_RESENT: Count = 2_500
"""Origins of which a peer may ask for messages again in that time."""

BELIEVED: Count = 1_000
"""Messages that a peer may claim to hold, and that count as missing here, before it has shipped
any."""

TIMES_SHIPPED: Count = 10
"""A peer is believed to hold up to this many times what it has shipped lately."""

SHIPPED_PERIOD: Seconds = 15.0
"""What a peer has shipped lately is counted over the present and the last of these periods."""

MAX_AHEAD_MS: Milliseconds = 60_000
"""A time this far ahead of the wall clock is not followed: one node whose clock is years ahead
would drag all others along. Clocks that differ by less count as equal."""

MAX_EARLY_MS: Milliseconds = 24 * 3600 * 1000
"""A message dated further ahead is not accepted until the clock gets there, or it would stay on top
of the page for that long. Nothing after it of its origin is accepted either."""

CLOCK_KEPT: Seconds = 3600.0
"""What is known of another node's clock counts for this time."""

MAX_CLOCKS: Count = 1000
"""Nodes whose clocks are remembered."""

COPY_WINDOW: Milliseconds = 10_000
"""Two nodes may log copies of one commit of an original this far apart."""

COPIES_PATIENCE: Seconds = 3.0
"""If a copy of an original's commit is erased and another one is not, a node waits this long for
the notice about that one before it commits one itself."""

COPY_STRETCH: Milliseconds = 3 * COPY_WINDOW
"""Matching of copies starts afresh at least once in such a stretch of time, which is longer than
two windows. So a new copy can change what is shown of those in three stretches."""

MAX_MATCHED: Count = 400
"""Copies of one text that are matched in each `COPY_WINDOW` of the clock; and commits of one text
that are remembered for one original. With `COPY_STRETCH` it bounds how many copies a new one causes
to be matched again: 3,600, which takes about 15 ms."""

VERDICT_ANSWER: Milliseconds = 5_000
"""A peer that has not said within this time of its connection what it holds counts as
unreachable."""

VERDICT_RESTART: Milliseconds = 5_000
"""A peer that has been unreachable for less than this may only be restarting."""

MAX_UNREACHABLE: Count = 100
"""Unreachable peers that are named, those that have been for the longest time."""

MAX_PENDING: Count = 20_000
"""Messages that wait for the disk. While there are more, threads that bring further ones wait."""

MAX_COPIES: Count = 10_000
"""Texts of originals, and copies of commits, that are remembered for one original."""

MAX_SOURCES: Count = 5000
"""Messages whose original is remembered, since they may have to be passed on."""

MAX_SOURCE_PEERS: Count = 300
"""Originals that have committed these messages: more than are connected at a time. The records of
those whose links have ended are large."""

MAX_PAUSE_MS: Milliseconds = 3600 * 1000
"""A run of messages ends where its origin was silent for longer. Messages that wait for the clock
wait with all of their run, and so with few others."""

MAX_BRANCHES: Count = 100
"""Histories of one origin that are kept: honest nodes sign a second one at most once in years."""

MAX_UNPLACED: Count = 1000
"""Origins with a branch that came before what it leaves, and is to be asked for again."""

MAX_FORK_MARKS: Count = 128
"""Places of a history that a node shows to find out where another one differs."""

MAX_FORKS_SHOWN: Count = 20
"""Forks, and disputes with peers about one, that the status lists."""

HANDED_MESSAGES: Count = 32
"""A transaction of up to this many messages gives the senders that wait their work at once, so that
none of them has to wait for the lock."""

HANDED_LINKS: Count = 8
"""Senders that are given their work at once; further ones are woken and ask for it."""

CLOCK_PAUSE: Seconds = 1.0
"""While an origin waits for the clock, the node checks this often whether the clock was
corrected."""

LONG_LAG: Seconds = 2.0
"""Catching up is an event after a link has opened, or if it took this long: a few missing messages
are ordinary."""

MANY_MISSING: Count = 1000
"""Catching up is an event, too, if so many messages were missing."""

# -- disk ------------------------------------------------------------------------------------------

WITNESS_BYTES: Bytes = 512
"""A witness always has this size, so that writing it again needs no room on the disk."""

READERS: Count = 4
"""Connections that read the database at a time."""

READER_TIMEOUT: Seconds = 10.0
"""A reader waits this long for one of them."""

BUSY_TIMEOUT: Seconds = 5.0
"""The database waits this long for the lock of another program, such as one that makes a backup."""

MAX_CHECKED_BYTES: Bytes = 64 * 1024 * 1024
"""A database up to this size is checked whole at the start, which takes a moment."""

WATCH_ALL: Seconds = 0.4
"""The node checks this often that all files of the database are still there, so it notices within a
second that one is not. The two that hold the messages are checked in each transaction, too."""

CHECKPOINT_PAGES: Count = 3000
"""SQLite copies the write-ahead log to the database after so many pages of 4 KiB. At its default of
1000 it would copy the same pages more often."""

MAX_WAL_BYTES: Bytes = 13 * 1024 * 1024
"""A write-ahead log above this size is emptied. Left alone it would grow while others read."""

WAL_PATIENCE: Seconds = 0.03
"""The writer waits this long for readers before it empties the write-ahead log; commits wait for
that."""

WAL_RETRY: Seconds = 0.3
"""If that was too short, it tries again after this time. Meanwhile the log grows."""

REMNANTS_PAUSE: Seconds = 1.0
"""After a message was erased the write-ahead log is emptied, too, since it has the text: this long
after the erasure, so once for many."""

MAX_STARTS: Count = 1000
"""Starts of a node that its log remembers; places that an older one gave readers are unknown."""

AUDITED: Count = 500
"""Entries that a step of the audit reads: 3 to 4 ms."""

AUDITED_BYTES: Bytes = 512 * 1024
"""A step of the audit ends after this much text."""

AUDIT_PAUSE: Seconds = 0.5
"""Pause after each step of the audit, which so reads up to 1 MB and 1,000 entries a second: 0.7 %
of a core, and 80 GB a day."""

AUDIT_DELAY: Seconds = 60.0
"""The first audit begins this long after the start, when the node has caught up."""

AUDIT_EVERY: Seconds = 86_400.0
"""An audit begins this long after the one before began."""

MAX_DAMAGE_NAMED: Count = 100
"""Damaged entries that the node logs, one line each, and names in its status."""

INSERTED_ROWS: Count = 50
"""Entries that one statement stores. Few sizes of it occur, so all of them stay prepared."""

MOVED_ROWS: Count = 500
"""Entries of a history that forks which are in memory at once when they are renamed."""

MIN_KEEP_BYTES: Bytes = 64 * 1024
"""The least that a limit in bytes may be: an empty database is as large, and less is a slip."""

KEEP_CHECK: Seconds = 1.0
"""The node looks this often for messages that it need not keep any longer, and after each
transaction that brings many."""

KEEP_PAUSE: Seconds = 0.02
"""The pause between two steps of deleting. With a shorter one, more than 1 % of the commits would
wait for SQLite to copy the write-ahead log."""

KEEP_STEP: Count = 50
"""Entries that a step deletes: about 2 ms. After a transaction of more entries, twice as many as it
has stored, but at most KEEP_MOST."""

KEEP_MOST: Count = 500
"""Entries that a step deletes at most: about 20 ms."""

KEEP_STEP_BYTES: Bytes = 512 * 1024
"""A step deletes this much at most, and an entry."""

KEEP_READ: Count = 1_000
"""Entries that a step reads to find those that it can delete."""

KEEP_ROW_BYTES: Bytes = 350
"""What an entry takes beside its text, about."""

KEEP_FREE: Factor = 0.1
"""More free pages than this part of the database are returned to the file system ..."""

KEEP_FREE_BYTES: Bytes = 512 * 1024
"""... unless they are fewer than this."""

KEEP_VACUUMED: Count = 64
"""Pages that are returned in a step."""

KEEP_RETRY: Seconds = 60.0
"""Deleting is tried again after this time if the disk has not taken it."""

KEEP_CLOCK: Seconds = 10.0
"""A node that starts waits this long before it deletes by age: its own clock may be wrong, and
peers say what theirs show."""

CUTOFF_CHECK: Seconds = 60.0
"""The node looks this often whether it can end old origins of its own, and whether it keeps nothing
more of those that are ended."""

ENDED_STEP: Count = 100
"""Origins that are ended or forgotten in a step: it holds the lock of the state for 1 ms."""

CUTOFFS_STEP: Count = 10
"""Cutoffs of other nodes that are looked at in a step, at most; commits wait for 10 ms."""

MAX_OWN_ENDED: Count = 1000
"""Origins that a node ends at a time."""

RECENT_CHARACTERS: Characters = 4 * 1024 * 1024
"""The newest entries are kept in memory, in JSON: most of what links send has just arrived."""

RECENT_MESSAGES: Count = 20_000
"""Messages in them."""

RESTORED_ROWS: Count = 1000
"""Entries that `restore` inserts at a time."""

RESTORED_COPIES: Count = 10_000
"""Copies of a text that `restore` matches at a time."""

EXPORTED: Count = 100
"""Entries that an export reads at a time: up to 16 MB, and others may read in between."""

MAX_SEARCH_MESSAGES: Count = 20_000
"""Messages that one answer to a search reads; the next request goes on behind them."""

MAX_SEARCH_CHARACTERS: Characters = 8 * 1024 * 1024
"""Text that one answer to a search reads."""

SEARCH_FOLDING: Count = 4
"""A text that is not ASCII takes as much time as an ASCII text of so many times its length."""

MAX_SEARCH_FOUND: Characters = 1024 * 1024
"""Text in one answer to a search, beside the last message."""

MAX_FILTERED: Count = 20_000
"""Entries that one answer looks at for those that its filters let through, where no index leads to
them; the next request goes on behind them."""

FEW_ENTRIES: Count = 1_000
"""A node that has no more entries is read by its origins, whatever else is in the log."""

LEAST_SEARCHED_ID: Characters = 8
"""The beginning of an id that a search finds; a shorter one would find too much."""

MAX_SECRET_FILE_BYTES: Bytes = 4096
"""A file with secrets or a token, which is read whole."""

SECRET_FILE_PATIENCE: Seconds = 3
"""A pipe in the place of such a file may be silent for this time."""

# -- net -------------------------------------------------------------------------------------------

LEAST_SECRET_BYTES: Bytes = 16
"""A secret of the network. A shorter one can be guessed."""

MAX_SECRETS: Count = 2
"""Secrets that a node accepts: the one in use, and another while a network changes it."""

MAX_UNPROVED: Count = 256
"""Accepted connections that have not finished the opening handshake.
The host with the most loses its oldest first. They have no threads, so each costs little; if one
host opens 1,000 a second, another still has a quarter of a second for its handshake."""

MAX_HANDSHAKE_BYTES: Bytes = 16 * 1024
"""The head of the HTTP request or answer in an opening handshake."""

MOST_FRAMES: Count = 64
"""Frames, fragments among them, that one side of a new connection may send before its
proof."""

LINGER: Seconds = 1.0
"""A connection that is turned down has this time to read why."""

MOST_IGNORED: Bytes = 4 * 1024 * 1024
"""What it may send in that time."""

HEAD_START: Seconds = 0.25
"""The endpoints that a dial tries have this time to answer before it tries the next, too. RFC 8305
recommends it for connecting. Each dial looks this often whether the node stops."""

MOST_ENDPOINTS: Count = 64
"""IP addresses of one host name that are looked at."""

ACCEPTED_AT_ONCE: Count = 64
"""Connections that are accepted before those that are there already are served again."""

ACCEPT_DEBT: Seconds = 0.02
"""The accepting thread may work for this time before it rests as long, so that no flood of
connections delays the other threads by much."""

MAX_EMPTY_FRAGMENTS: Count = 16
"""Empty fragments in a message. Some libraries end a message with one; many only keep a reader
busy."""

READ_SIZE: Bytes = 64 * 1024
"""What is read from a connection at a time."""

LEAST_RATE: BytesPerSecond = 1024
"""A frame that has begun must arrive at this rate, once two heartbeats have passed."""

ACCEPT_PAUSE: Seconds = 1.0
"""A port that cannot accept a connection, for lack of descriptors or threads, accepts none for this
time."""

ACCEPT_LOGGED: Seconds = 60.0
"""The log has at most one line about that in this time."""

CLOSE_TIMEOUT: Seconds = 1.0
"""After our CLOSE, a peer must answer and end the connection within this time."""

MAX_PONGS: Count = 32
"""PONGs that wait; RFC 6455 asks only for the latest."""

IDLE_SHARE: Count = 4
"""Frames without news, fragments and control frames among them, may use 1/IDLE_SHARE of a reader's
CPU time, so that no flood delays the other links by much."""

IDLE_DEBT: Seconds = 0.01
"""They may exceed that by this time."""

FLOODS_AFTER: Seconds = 1.0
"""A link that has been slowed down all the time for this long floods this node. All such links
together may use as much as one: each sleeps longer the more there are."""

LONGEST_SLEEP: Seconds = 2.0
"""Such a link sleeps at most this long."""

DRAIN_PAUSE: Seconds = 0.001
"""The pause between two reads of what a peer still sends after our CLOSE."""

# -- node ------------------------------------------------------------------------------------------

BREATH: Seconds = 0.002
"""The thread that waits for time leaves the lock to others for this time where there is more to do
at once."""

TIMER_RETRY: Seconds = 1.0
"""After an unexpected failure the thread that waits for time goes on after this pause."""

DISK_RETRY: Seconds = 1.0
"""After a failure the disk is tried again this often."""

DISK_CHECK: Seconds = 0.5
"""An idle writer checks this often whether the files of the log are still there."""

CLOSE_PATIENCE: Seconds = 0.7
"""A node that stops waits this long for its peers to answer the CLOSE, and then for its threads."""

STOP_TIMEOUT: Seconds = 2.0
"""A node that stops waits this long for the disk to store what waits for it."""

ORIGINAL_BATCH: Count = 20
"""Messages that an original is sent at a time, a frame each."""

FOLLOWED: Count = 100
"""Messages that a program which follows the log is given at a time."""

NEARLY_READY: Count = 1000
"""A node that was once ready stays so while no more messages than this are missing."""

GATHERING: Seconds = 5.0
"""A node that knows addresses waits this long for a peer before it counts as alone."""

HOOK_CONNECT: Seconds = 5.0
"""A webhook may take this time to accept a connection, at each IP address of its host, ..."""

HOOK_TIMEOUT: Seconds = 30.0
"""... and this time to answer, from the TLS handshake to the last header field."""

HOOK_BYTES: Bytes = 1024 * 1024
"""Messages in one request of a webhook, as JSON; many servers take no more. A larger message goes
alone."""

HOOK_ANSWER: Bytes = 64 * 1024
"""What is read of the answer of a webhook. Only its status counts."""

MAX_LAGS: Count = 100
"""Peers whose lag is in the metrics: those that are furthest behind."""

MAX_EVENTS: Count = 1000
"""Events that are kept."""

MAX_EVENT_TEXT: Characters = 500
"""The text of an event, which contains words of peers."""

MAX_FAILING: Count = 1000
"""Things whose failures in a row are counted."""

MAX_REASONS: Count = 10
"""Reasons of failures that are counted apart, of each of these things."""

FAILURE_FORGOTTEN: Seconds = 3600.0
"""Failures are counted anew after this time without one."""

MAX_LINES_OF_A_HOST: Count = 600
"""Log lines in a minute about what one host can cause at any rate."""

# -- web -------------------------------------------------------------------------------------------

HTTP_THREADS: Count = 32
"""Threads that answer HTTP requests. More than `HTTP_WAITING`, so that requests which wait leave
room for all others."""

HTTP_WAITING: Count = 16
"""HTTP requests at a time that wait for copies or events, import, export, or read a long log; the
next one is answered 503 with Retry-After."""

HTTP_STREAMS: Count = 100
"""Streams, which hold no thread, that are open at a time on connections of this machine, and as
many on others; the next one is answered 503 with Retry-After."""

HTTP_STREAM_PIECE: Bytes = 128 * 1024
"""About as much text is read of the log for a stream at a time, in up to API_MAX_LIMIT messages."""

HTTP_STREAM_PIECES: Count = 8
"""The last pieces that streams have got which lack a part of the log, for others that are at the
same places."""

HTTP_STREAM_UNSENT: Bytes = 64 * 1024
"""A stream of which more waits for its client gets nothing further until that is taken."""

HTTP_STREAM_BREATH: Seconds = 0.02
"""News for streams are gathered for this long after others: fewer and larger pieces, and people do
not notice."""

HTTP_STREAM_RETRY: Seconds = 1
"""A browser that has lost a stream of events opens it again after this time."""

HTTP_RETRY_AFTER: Seconds = 2
"""Retry-After of such an answer, and of a node that is stopping."""

HTTP_CONNECTIONS: Count = 100
"""HTTP connections of each group: of this machine, of clients that have shown the token, and of all
others. So no group can take the places of another. If a group has more, its connection that has
been idle for longest is closed; of the others, the oldest."""

HTTP_CONNECTIONS_PER_HOST: Count = 20
"""HTTP connections of one host among the others. A browser opens six."""

HTTP_MAX_HEAD_BYTES: Bytes = 3 * MAX_MESSAGE_BYTES + 64 * 1024
"""An HTTP request line and its headers: the largest message, each byte percent-encoded, and
headers."""

HTTP_MAX_QUERY: Bytes = 8 * 1024
"""The query string of an HTTP request, except for a commit, which has the message in it."""

HTTP_MAX_PARAMETERS: Count = 32
"""Parameters in a query string. No request has as many; to take very many apart takes long."""

HTTP_MAX_CHUNK_HEAD: Bytes = 16 * 1024
"""The size of a chunk with its extensions, and the trailer after the last chunk."""

HTTP_MAX_BODY: Bytes = 1024 * 1024
"""The body of an HTTP request, except for a bulk commit."""

HTTP_MAX_BULK_BODY: Bytes = 1024 * 1024 * 1024
"""The body of a bulk commit (NDJSON), which is read line by line from a file."""

HTTP_MAX_LINE: Bytes = 6 * MAX_MESSAGE_BYTES + 1024
"""A line of NDJSON: the largest message, each byte escaped, and the rest of a JSON object."""

LAST_MOMENT: Milliseconds = 253_402_300_799_999
"""The end of the year 9999. Programs that show times know none behind it, so nothing that an import
says to be later is taken for a time."""

HTTP_BODY_IN_MEMORY: Bytes = 64 * 1024
"""A larger body is kept, while it arrives, in a file without a name in the data directory."""

HTTP_READ: Bytes = 64 * 1024
"""The part of a body that is read at a time."""

HTTP_IDLE: Seconds = 30
"""The head of an HTTP request must arrive within this time after the last answer."""

HTTP_IDLE_CHECK: Seconds = 1
"""Connections are checked this often."""

HTTP_ARRIVAL: Seconds = 20.0
"""The head of a request must arrive within this time after its first byte."""

HTTP_LEAST_RATE: BytesPerSecond = 1024
"""After that time a body must have arrived at this rate."""

HTTP_STUCK: Seconds = 20.0
"""A connection is closed if the client has read nothing of an answer for this time."""

HTTP_STOP_TIMEOUT: Seconds = 0.5
"""A node that stops lets requests that are being answered end within this time."""

HTTP_COOKIE_AGE: Seconds = 30 * 24 * 3600
"""How long a browser keeps the cookie with the token."""

PAGE_MESSAGES: Count = 200
"""Messages on a page without JavaScript, and in one piece of the line for scripts."""

PAGE_PEERS: Count = 100
"""Peers on a page without JavaScript."""

PAGE_NEWS: Count = 50
"""New messages that are sent to a page at a time. If there are more, it reads the newest itself."""

PAGE_COPIES: Count = 50
"""New messages of which a page is told when they are on further peers."""

BOARD_PAUSE: Seconds = 0.1
"""From one look at the state of the node, for all open pages, to the next, if it is reported that
something has changed."""

BOARD_CHECK: Seconds = 1.0
"""The same if nothing is reported: time alone changes the state, too."""

BOARD_PEERS_PAUSE: Seconds = 0.01
"""For each peer, from one list of the peers to the next: many are many bytes, and change little."""

API_DEFAULT_LIMIT: Count = 100
"""Messages in an answer of the API, if the request has no `limit`."""

API_MAX_LIMIT: Count = 1000
"""Messages in an answer of the API."""

API_MAX_COUNTED: Count = 200
"""Messages in an answer that says on how many peers each is stored."""

API_MAX_SEARCH: Characters = 200
"""The text that a search looks for."""

LEAST_NODE: Characters = 4
"""The beginning of an id that names a node: a shorter one may be a slip."""

API_MAX_COPIES: Count = 1000
"""Copies that a commit may wait for."""

API_DEFAULT_TIMEOUT: Seconds = 5.0
"""A commit waits for copies for this time, if the request has no `timeout`."""

API_MAX_TIMEOUT: Seconds = 60.0
"""A commit may wait for copies for this time."""

API_MAX_POLL: Seconds = 30
"""A request may wait for events for this time."""

API_STREAM_PAUSE: Seconds = 5.0
"""A stream without news sends an empty line, or a comment, this often. So it finds out whether the
client still reads, and the client whether the node still runs."""

# -- cli -------------------------------------------------------------------------------------------

MAX_DESCRIPTORS: Count = 10_000
"""Open files and connections that a process allows itself when it starts. The limit that it
inherits, 256 on macOS, is soon reached by connections alone."""

GC_THRESHOLD: Count = 50_000
"""New objects, less those that are gone, after which Python looks for cycles. Messages in bulk are
many small objects without cycles; at Python's usual pace a fifth of the time goes into this."""

LOG_BACKLOG: Bytes = 1024 * 1024
"""Lines of the program's log, about 10,000, that wait while nobody reads standard error. Further
ones are dropped and counted."""

LOG_RETRY: Seconds = 1.0
"""After a failed write to standard error, the next one comes this much later."""

LOG_LAST_LINES: Seconds = 0.5
"""A node that ends waits this long for the reader of standard error."""

HANG_UP: Seconds = 1.0
"""A process may receive SIGHUP this long before its terminal is gone."""

CLI_PAGE: Count = 1000
"""Messages that a command reads at a time."""

CLI_CHUNK: Bytes = 256 * 1024
"""The part of a file that a command sends at a time."""

CLI_MAX_LINE: Bytes = 1024 * 1024
"""A line of a file that a command sends; the node has a limit of its own."""

CLI_PACKING: Count = 1
"""The level of compression of a backup: higher ones take much longer, and save little."""

CLI_PROBLEMS: Count = 100
"""Problems that `verify` names."""

CLI_POLL: Seconds = 0.1
"""A command that waits asks the node this often."""

CLI_NAMES: Seconds = 10.0
"""`log` asks for the names of nodes that it does not know at most this often."""

CLI_MAX_KEY: Count = MAX_KEY - 12
"""Characters of `--key`: the number of a line comes behind it."""

CLI_ANSWER: Seconds = 10.0
"""A single answer may take this time, if the command has no `--wait`."""

CLI_LEAST_ANSWER: Seconds = 1.0
"""The first answer may take at least this time, if `--wait` is shorter."""

CLI_STORING: Seconds = 3.0
"""A commit may take this time beside its `--timeout`, which is for the copies."""

CLI_TAKE: Seconds = 1.0
"""`consume` waits for a message for this time; then it asks again. A signal waits as long, too."""

CLI_AGAIN: Seconds = 1.0
"""`consume` asks a node again this often that does not answer."""

CLI_TAIL: Bytes = 4 * 1024
"""The end of what a program writes to standard error: `consume` looks there for the last line."""

CLI_TAILS: Count = 16
"""Programs that have ended and whose standard error is passed on yet; each holds a thread."""

CLI_LAST_LINE: Seconds = 1.0
"""The standard error of a program is read for this time after its end: what it has started may
keep it open for ever."""

CLI_REFRESH: Seconds = 1.0
"""`top` asks the node this often."""

CLI_SILENCE: Seconds = 20.0
"""The next part of an answer, or the next line of a stream, must arrive within this time; a stream
has a line each `API_STREAM_PAUSE`."""

# -- settings --------------------------------------------------------------------------------------

HUB_PATIENCE: Seconds = 5.0
"""A hub that does not answer for this time has failed."""
HUB_WAIT: Seconds = 2.5
"""A node waits this long for news of a hub at a time; before that, it sees whether the hub was set
back."""
HUB_READ: Count = 100
"""Entries that are read of a hub at a time."""
HUB_CLAIM: Seconds = 5.0
"""What a program has added to a hub, and one node has taken and not committed, is left to others
after this time. Nodes look for it as often."""
HUB_KEYS: Seconds = 86400.0
"""How long a hub knows the keys of what programs have added to it."""
HUB_NEWS: Count = 10_000
"""News of a hub that wait for the thread of its link."""

Form: TypeAlias = Literal[
    "text",
    "name",
    "file",
    "peer",
    "advertised",
    "host name",
    "duration",
    "size",
    "url",
    "hub",
    "prefix",
]
_PREFIX = re.compile(r"[^{}\s]*\{[^{}\s]+\}[^{}\s]*")  # the braces are what clusters go by


class Option(NamedTuple):
    """A setting as an option of the command line, and as an environment variable."""

    help: str
    more: str  # further sentences, for the documentation only
    name: str  # "": that of the field; the environment variable is P2P_SYNC_ and this name
    form: Form  # how a text is checked
    metavar: str
    shown: str  # in the place of the default; "": the default
    least: int | None  # the range of a number
    most: int | None
    choices: tuple[str, ...]


def option(
    default: Any,
    help: str,
    more: str = "",
    *,
    name: str = "",
    form: Form = "text",
    metavar: str = "",
    shown: str = "",
    least: int | None = None,
    most: int | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """Return a field that is also an option of the command line."""
    about = Option(help, more, name, form, metavar, shown, least, most, choices)
    return field(default=default, metadata={"option": about})


_NAMES = {"ephemeral": "data_dir=None"}  # where a program gives another parameter of `Node`
_names: Mapping[str, str] = _NAMES


def called(setting: str, value: object = "") -> str:
    """Return what the user calls a setting, perhaps with a `value`, for errors and warnings.

    That is the parameter of `Node`, such as `keep=60`, or what `call` has said: `--keep 60`.
    """
    name = _names.get(setting, f"{setting}=")
    return f"{name}{value}" if name.endswith("=") else f"{name} {value}".rstrip()


def call(names: Mapping[str, str]) -> None:
    """From now on, call settings by these names in this process: those of its command line. With
    none, call them as the parameters of `Node` again."""
    global _names
    _names = names or _NAMES


def _problem(setting: Field[Any], value: Any) -> str:
    """Return what is wrong with the value of a setting; "" if nothing is. Never shows a text, which
    may be secret."""
    kind, about = str(setting.type), setting.metadata.get("option")
    if value is None and setting.default is None:
        return ""
    if "str" in kind:
        if not isinstance(value, str):
            return f"is a text, not {type(value).__name__}"
        if about and about.choices and value not in about.choices:
            return f"is one of {', '.join(about.choices)}"
        if about and about.form == "prefix" and not _PREFIX.fullmatch(value):
            return "needs one part in braces, such as {p2p}, and no spaces"
        return "" if value.strip() else "is empty; give it a value, or leave it out"
    if not re.search("int|Bytes|Seconds", kind):
        return ""
    whole = "Seconds" not in kind
    least, most = (about.least, about.most) if about else (None, None)
    if type(value) is int or (type(value) is float and not whole):
        at_least = value > 0 if least is None else value >= least
        if at_least and value < NEVER and (most is None or value <= most):
            return ""
    wanted = "a whole number" if whole else "a number of seconds"
    limits = "above 0" if least is None else f"from {least}{f' to {most}' if most else ' on'}"
    none = " or None" if setting.default is None else ""
    return f"is {wanted} {limits}{none}, not {value!r}"


@dataclass(frozen=True)
class Program:
    """Settings of the program that runs a node: HTTP, data and log."""

    http_host: str = option("127.0.0.1", "Address to listen on for HTTP.")
    http_names: tuple[str, ...] = option(
        (),
        "Host name accepted by the HTTP port.",
        "Needed for names by which browsers call the port, for example behind a proxy.",
        name="http-name",
        form="host name",
        metavar="NAME",
        shown="localhost, IP addresses",
    )
    http_token_file: str | None = option(
        None,
        "File with the token that other machines must send to the HTTP port.",
        "Only its owner may be able to read it. `openssl rand -hex 32` makes a token.",
        form="file",
        metavar="FILE",
        shown="http-token in DIR",
    )
    peer_port: int | None = option(None, "Port for peers.", shown="PORT+1", least=1, most=65535)
    data_dir: str | None = option(
        None,
        "Directory for the log, the node's identity and the known addresses.",
        "Only the user that runs the node can read it (mode 0700). It is refused if it, or a file "
        "in it, belongs to a user other than that one or root, or is a symbolic link.",
        form="file",
        metavar="DIR",
        shown="./p2p-data/PORT",
    )
    ephemeral: bool = option(False, "Keep nothing on disk.")
    log_level: str = option(
        "info",
        "Lowest level that is logged, on standard error.",
        choices=("debug", "info", "warning", "error"),
    )
    log_format: str = option(
        "text",
        "Lines for people, or JSON objects.",
        "Text has the peer's address and the first 8 digits of its id; objects have `time` (ms), "
        "`level`, `text`, `address`, `peer`.",
        choices=("text", "json"),
    )


@dataclass(frozen=True)
class Settings:
    """Settings of a node."""

    name: str | None = option(
        None,
        "Name of this node, for people.",
        "At most 32 characters. All nodes show it. Two nodes may have one name: the id tells them "
        "apart.",
        form="name",
        metavar="TEXT",
        shown="the host name",
    )

    host: str = option("127.0.0.1", "Address to listen on for peers.")

    advertise: Address | None = option(
        None,
        "Address to announce to peers; 'none' if this node cannot be dialled.",
        form="advertised",
        metavar="ADDRESS",
        shown="as peers see it",
    )

    dialable: bool = True
    """False: this node announces no address at all."""

    peers: tuple[Address, ...] = option(
        (),
        "Node to connect to.",
        "It is dialled at the start, and again and again while it is not connected.",
        name="peer",
        form="peer",
        metavar="ADDRESS",
        shown="none",
    )

    hub: HubUrl | None = option(
        None,
        "Redis server in which this node keeps the log, too.",
        "Any number of nodes may use it. Give an address with a password by the variable, or by "
        "the next option: other users of the machine can read the arguments of a process.",
        form="hub",
        metavar="URL",
        shown="none",
    )

    hub_file: str | None = option(
        None,
        "File with the address of the hub.",
        "Only its owner may be able to read it.",
        form="file",
        metavar="FILE",
        shown="none",
    )

    hub_prefix: str = option(
        "{p2p}",
        "What the names of the keys in the hub begin with.",
        "Its part in braces keeps them on one server of a cluster.",
        form="prefix",
        metavar="TEXT",
    )

    hub_messages: bool = option(
        False,
        "Have messages written to the stream PREFIX:messages, too, for other programs.",
        "One node with it is enough: then all nodes with this hub write them.",
    )

    target_links: int = option(
        8,
        "Dial learned addresses while there are fewer links.",
        "Links are closed above twice as many. Links with original nodes do not count. 0: neither, "
        "the mesh is laid out by hand.",
        least=0,
    )

    max_peers: int = option(128, "Accepted links at a time.", least=1)

    max_peers_per_host: int = option(
        32, "Accepted links of one remote host.", "Loopback is not limited.", least=1
    )

    keep: Seconds | None = option(
        None,
        "How long messages are kept.",
        "Older ones are deleted, the oldest first; so it is with the other two limits. The limit "
        "that is reached first applies. Other nodes may keep more.",
        form="duration",
        metavar="TIME",
        shown="for ever",
        least=1,
    )

    keep_bytes: Bytes | None = option(
        None,
        "How much the messages may take on disk.",
        "Indexes count, too. The files may take 1.3 times as much, and 16 MiB.",
        form="size",
        metavar="BYTES",
        shown="all",
        least=MIN_KEEP_BYTES,
    )

    keep_messages: int | None = option(
        None,
        "How many messages are kept.",
        "Those that were committed or sent together go together, so up to 2,000 more are kept.",
        shown="all",
        least=1,
    )

    keep_keys: Seconds = option(
        86400.0,
        "How long idempotency keys are known.",
        "A commit that is sent again with its key within this time is not committed again.",
        form="duration",
        metavar="TIME",
        shown="24h",
    )

    max_new_origins: int = option(
        1000,
        "Origins (starts of nodes that commit) that one remote host may bring in an hour.",
        "A node with an empty log takes all.",
        least=1,
    )

    secret: str | None = None
    """The secret of the network, one or two lines. On the command line only the variable
    P2P_SYNC_SECRET holds it: all users of a machine can read the arguments of a process."""

    secret_file: str | None = option(
        None,
        "File with the secret of the network; nodes without it are not let in.",
        form="file",
        metavar="FILE",
        shown="none",
    )

    tls_cert: str | None = option(
        None,
        "Certificate (PEM) with its chain: use TLS on the peer port.",
        form="file",
        metavar="FILE",
        shown="none",
    )

    tls_key: str | None = option(
        None,
        "Key (PEM) of that certificate.",
        form="file",
        metavar="FILE",
        shown="in the file of the certificate",
    )

    tls_ca: str | None = option(
        None,
        "Additional CA certificate (PEM) to trust for peers.",
        form="file",
        metavar="FILE",
        shown="the system's",
    )

    hooks: tuple[Url, ...] = option(
        (),
        "URL to which new messages are POSTed (a webhook).",
        "See [Webhooks](operating.md#webhooks). Other users of the machine can read the arguments "
        "of a process: give a URL with a password or a token by the variable.",
        name="hook",
        form="url",
        metavar="URL",
        shown="none",
    )

    hook_topic: str | None = option(
        None, "POST only messages of this topic.", metavar="TOPIC", shown="any"
    )

    hook_of: str = option(
        "all",
        "POST the messages of all nodes, or only what is committed at this one.",
        "With `own` at every node each message is POSTed once by one of them.",
        choices=("all", "own"),
    )

    hook_secret_file: str | None = option(
        None,
        "File with the secret that signs what is POSTed.",
        "Only its owner may be able to read it. It holds one secret a line, two at most; each "
        "makes a signature.",
        form="file",
        metavar="FILE",
        shown="no signature",
    )

    max_message_bytes: Bytes = option(
        64 * 1024,
        "Longest message that can be committed here, in UTF-8.",
        least=1,
        most=MAX_MESSAGE_BYTES,
    )

    max_frame_bytes: Bytes = 1024 * 1024
    """A frame, and the sum of its fragments. The largest message fits, also with each of its bytes
    escaped in JSON."""

    heartbeat: Seconds = 15.0
    """A PING is sent this often; a link that is silent for twice this time is closed."""

    send_timeout: Seconds = 20.0
    """A link is closed if a write to it has not moved for this time."""

    handshake_timeout: Seconds = 10.0
    """An opening handshake takes at most this time, on either side."""

    greeting_pause: Seconds = 0.05
    """The accepting side waits this long for the first frame of an original before it announces its
    addresses, so that it knows what the original has dialled."""

    introduction_timeout: Seconds = 1.0
    """An original that says nothing for this time after the handshake is waited for no longer."""

    redial_first: Seconds = 1.0
    """The shortest pause before an address is dialled again."""

    redial_longest: Seconds = 60.0
    """The longest pause before an address is dialled again."""

    probe: Seconds = 10.0
    """A known address without a link is tried this often, even with enough links. Otherwise the
    halves of a split network would never meet again."""

    exchange: Seconds = 60.0
    """One link is exchanged for another this often, so that the mesh stays well mixed."""

    def __post_init__(self) -> None:
        """Raise InputError for a value of the wrong type, or out of its range."""
        for setting in fields(self):
            if problem := _problem(setting, getattr(self, setting.name)):
                raise InputError(f"{called(setting.name)} {problem}")
        for name in ("hub_prefix", "hub_messages"):
            if getattr(self, name) != getattr(Settings, name) and not (self.hub or self.hub_file):
                raise InputError(f"{called(name)} says how a hub is used; give the hub, too")

    @property
    def tls_alone(self) -> bool:
        """Whether addresses from peers are dialled by TLS only."""
        return bool(self.tls_cert or self.tls_ca)

    def warnings(self, listening: str) -> list[str]:
        """Return what is dangerous about a node with these settings, a sentence each.

        `listening` is the IP address that the peer port listens on.
        """
        if self.secret or self.secret_file or is_loopback(listening):
            return []
        return [
            "this node has no secret: any machine that reaches its peer port can read and write "
            f"all messages; set {called('secret_file')}"
        ]
