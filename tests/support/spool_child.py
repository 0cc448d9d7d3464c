"""A process that uses a spool and is killed: python spool_child.py FOLDER STEP AFTER ROUNDS.

It accepts and delivers in rounds, and says on its standard output, a line at a time, what it is about to do and what
it was told. STEP is where the committer ends the process (fastrelay._core.commit.STEPS), when it passes there for the
(AFTER + 1)th time; "-" for never. What is accepted can be told from its number: content_of().
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from support.spool import Box, record

from fastrelay.spool import SpoolOptions

OPTIONS = SpoolOptions(map_bytes=1 << 28, reserve_bytes=0, segment_bytes=20_000, compact_seconds=1e9, spare_segments=2)
RECIPIENTS = 3
MESSAGES = 5
TRIES = 3
GAVE_UP = 3


def content_of(msgid: int) -> bytes:
    """What is accepted under an id."""
    return b"message %d\r\n" % msgid * (50 + msgid * 37 % 300)


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


class Child(Box):
    """Tells what it is told."""

    def __init__(self, folder: str, options: SpoolOptions) -> None:
        self.accepted: set[int] = set()
        super().__init__(folder, options)

    def _told(self, cookies: list, error: object) -> None:
        for what, msgid in cookies:
            if what == "put" and error is None:
                self.accepted.add(msgid)
            say("failed" if error else "done", what, msgid)

    def accept(self, round_: int) -> list[int]:
        ids: list[int] = []
        if not self.spool.accepting:
            self.loop.advance(2.0)
        if not self.spool.accepting:
            return ids
        for n in range(MESSAGES):
            msgid = self.spool.next_id()
            ids.append(msgid)
            say("try", "put", msgid)
            if n == 0 and round_ % 2:
                file = self.spool.large_file()
                file.write(content_of(msgid))
                self.spool.put_message_file(msgid, record(RECIPIENTS), file, ("put", msgid))
            else:
                self.spool.put_message(msgid, record(RECIPIENTS), content_of(msgid), ("put", msgid))
            self.spool.add_accept_event(b'"event":"accepted","id":%d}\n' % msgid)
        return ids

    def settle(self, ids: list[int]) -> None:
        for msgid in ids[:2]:
            say("try", "delete", msgid)
            self.spool.delete_message(msgid, ("delete", msgid))
            self.spool.count(1, RECIPIENTS)
            self.spool.add_event(b'"event":"delivered","id":%d}\n' % msgid)
        for msgid in ids[2:3]:
            self.spool.put_state(msgid, b"state %d" % msgid, ("state", msgid))
            self.spool.add_event(b'"event":"deferred","id":%d}\n' % msgid)

    def through(self) -> None:
        """Have everything committed; a disk that stays broken ends the process."""
        for _ in range(TRIES):
            if self.commit():
                return
            self.loop.advance(2.0)
        say("given-up")
        say("reopened", self.spool.reopened)
        os._exit(GAVE_UP)


def main() -> None:
    folder, step, after, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    child = Child(folder, OPTIONS)
    child.loop.turn_until(lambda: child.spool.ready)
    say("ready")
    if step != "-":
        child.spool.crash_at(step, after)
    waiting: list[int] = []
    for round_ in range(rounds):
        accepted = child.accept(round_)
        if round_ % 3 == 2:
            child.through()
        child.settle(waiting)
        child.through()
        waiting = [msgid for msgid in accepted if msgid in child.accepted]
    say("closing")
    say("reopened", child.spool.reopened)
    child.close()
    say("closed")


if __name__ == "__main__":
    main()
