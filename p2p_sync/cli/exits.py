"""The exit codes of the command line."""

from __future__ import annotations

DONE = 0
NO = 1
BROKEN = 1  # a defect of the program
USAGE = 2
UNREACHABLE = 3
NOT_ALLOWED = 4
REFUSED = 5
FAILED = 6
INTERRUPTED = 130  # 128 and the number of SIGINT, as shells report it
PIPE_CLOSED = 141

MEANINGS = {
    DONE: "Done. `status`: the node is in sync, or knows no other node. A node: it was ended by "
    "SIGINT or SIGTERM.",
    NO: "`status`: not in sync, or a peer is unreachable. `add`, `retry`: not connected yet. "
    "`commit`: fewer copies than asked for. `verify`: the file is wrong. A node: it failed.",
    USAGE: "The command line is wrong, a file cannot be used, or a node cannot start.",
    UNREACHABLE: "No node answers at that URL, or the node has stopped.",
    NOT_ALLOWED: "The node asks for its token (401), or may not be called by that name (403, 421).",
    REFUSED: "The node rejects the request.",
    FAILED: "The node cannot do it now: its log cannot be written or is damaged, or it is busy.",
    128 + 1: "A command was ended by SIGHUP.",
    INTERRUPTED: "A command was interrupted by Ctrl-C.",
    PIPE_CLOSED: "The reader of standard output has closed it.",
    128 + 15: "A command was ended by SIGTERM.",
}
