"""Random use of a spool, with failures and restarts, against a dictionary."""

import errno
import random
from pathlib import Path

import pytest
from support.spool import Box, place_of, record

from fastrelay.spool import SpoolError, SpoolOptions

OPTIONS = SpoolOptions(map_bytes=1 << 28, reserve_bytes=0, segment_bytes=15_000, compact_seconds=1e9, spare_segments=2)
FAULTS = (
    "segment_open",
    "folder_sync",
    "content_write",
    "content_sync",
    "begin",
    "put",
    "commit",
    "log_write",
    "log_sync",
)


class Model(Box):
    """What the spool should hold, by what it told."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.chance = chance
        self.held: dict[int, bytes] = {}
        self.states: dict[int, bytes] = {}
        self.delivered = self.accepted = 0
        super().__init__(folder, OPTIONS)

    def _told(self, cookies: list, error: object) -> None:
        for what, msgid, *more in cookies:
            if what == "put" and error is None:
                self.held[msgid] = more[0]
                self.accepted += 1
            elif what == "put":
                assert isinstance(error, SpoolError)
            elif what == "delete":
                del self.held[msgid]
                self.states.pop(msgid, None)
                self.delivered += 1
            elif what == "state":
                self.states[msgid] = more[0]

    def step(self) -> None:
        """A few operations, and (mostly) a commit."""
        settling: set[int] = set()
        for _ in range(self.chance.randint(1, 8)):
            act = self.chance.choice(("put", "put", "deliver", "state", "move"))
            waiting = sorted(set(self.held) - settling)
            if act == "put" and self.spool.accepting:
                self.accept(self.chance.randbytes(self.chance.choice((0, 10, 3_000, 9_000))))
            elif act == "deliver" and waiting:
                msgid = self.chance.choice(waiting)
                settling.add(msgid)
                self.spool.delete_message(msgid, ("delete", msgid))
                self.spool.count(1, 1)
                self.spool.add_event(b'"event":"delivered","id":%d}\n' % msgid)
            elif act == "state" and waiting:
                msgid, state = self.chance.choice(waiting), self.chance.randbytes(20)
                self.spool.put_state(msgid, state, ("state", msgid, state))
            elif act == "move" and waiting:
                self.move(self.chance.choice(waiting))
        if self.chance.random() < 0.3:
            self.spool.fail_at(self.chance.choice(FAULTS), self.chance.choice((errno.EIO, errno.ENOSPC)), times=1)
        while not self.commit():
            self.loop.advance(2.0)
        self.loop.advance(2.0)

    def accept(self, content: bytes) -> None:
        msgid = self.spool.next_id()
        self.spool.put_message(msgid, record(), content, ("put", msgid, content))
        self.spool.add_accept_event(b'"event":"accepted","id":%d}\n' % msgid)

    def move(self, msgid: int) -> None:
        raw = self.spool.get_record(msgid)
        if raw is not None:
            segment, _, offset, _ = place_of(raw)
            self.spool.move_content(msgid, segment, offset, self.held[msgid], None)

    def check(self) -> None:
        """Everything is as the dictionary has it."""
        for msgid, content in self.held.items():
            assert self.read(msgid) == content
            assert self.spool.get_state(msgid) == self.states.get(msgid)
        assert self.spool.environment.count("msg") == len(self.held)
        assert self.spool.environment.count("st") == len(self.states)
        assert self.spool.counters["accepted"] == self.accepted
        assert self.spool.counters["delivered"] == self.delivered
        live = sum(row[3] for row in self.spool.segments())
        live_bytes = sum(row[2] for row in self.spool.segments())
        assert (live, live_bytes) == (len(self.held), sum(map(len, self.held.values())))


@pytest.mark.parametrize("seed", range(6))
def test_random_use(seed: int, tmp_path: Path, long_run: bool) -> None:
    model = Model(tmp_path, random.Random(seed))
    for n in range(400 if long_run else 60):
        model.step()
        if n % 10 == 9:
            model.check()
        if n % 25 == 24:
            model.reopen()
            assert model.ids() == sorted(model.held)
            model.loop.turn_until(lambda: model.spool.ready)
            model.check()
    model.close()
    events = {line.split('"')[3]: line for line in model.log_lines() if line.endswith("}")}
    assert sum('"accepted"' in line for line in events.values()) == model.accepted
    assert sum('"delivered"' in line for line in events.values()) == model.delivered
    model.open()
    model.loop.turn_until(lambda: model.spool.ready)
    assert len(model.segment_files()) <= len(model.held) + 1
    model.close()
