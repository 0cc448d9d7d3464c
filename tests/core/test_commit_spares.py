"""Full segments with nothing live are written over instead of being removed (SpoolOptions.spare_segments)."""

import os
from pathlib import Path

import pytest
from support.spool import Box

from fastrelay.spool import SpoolOptions

OPTIONS = SpoolOptions(map_bytes=1 << 28, reserve_bytes=0, segment_bytes=10_000, compact_seconds=1e9, spare_segments=1)


@pytest.fixture
def box(tmp_path: Path):
    box = Box(tmp_path, OPTIONS)
    yield box
    box.close()


def names(box: Box) -> list[str]:
    return sorted(os.listdir(Path(box.path, "segments")))


def finish(box: Box, ids: list[int]) -> None:
    for msgid in ids:
        box.spool.delete_message(msgid, ("gone", msgid))
        box.spool.count(1, 1)
    box.commit()


def test_an_empty_full_segment_becomes_the_next_but_one(box: Box) -> None:
    first = [box.put(os.urandom(6_000)) for _ in range(2)]
    inode = os.stat(Path(box.path, "segments", "00000001")).st_ino
    box.put(os.urandom(6_000))  # opens the second segment
    finish(box, first)
    box.loop.turn_until(lambda: names(box) == ["00000002", "spare.00000001"])
    box.put(os.urandom(6_000))
    last = box.put(b"new content " * 100)
    assert names(box) == ["00000002", "00000003"]
    assert os.stat(Path(box.path, "segments", "00000003")).st_ino == inode
    raw = box.spool.get_record(last)
    assert box.spool.read_content(raw) == b"new content " * 100


def test_what_was_written_over_a_spare_segment_is_there_after_a_restart(box: Box) -> None:
    first = [box.put(b"old" * 4_000) for _ in range(2)]
    box.put(os.urandom(12_000))
    finish(box, first)
    box.loop.turn_until(lambda: any(name.startswith("spare.") for name in names(box)))
    kept = [box.put(os.urandom(3_000)) for _ in range(3)]
    box.reopen()
    for msgid in kept:
        assert box.spool.read_content(box.spool.get_record(msgid)) == box.contents[msgid]


def test_spares_are_found_again_at_the_start_and_bounded(box: Box) -> None:
    ids = [box.put(os.urandom(12_000)) for _ in range(4)]
    finish(box, ids)
    box.loop.turn_until(lambda: len(names(box)) == 2)  # the active one, and one of three that are empty
    assert [name.partition(".")[0] for name in names(box)] == ["00000004", "spare"]
    box.reopen()
    box.loop.turn_until(lambda: box.spool.ready)
    assert [name.partition(".")[0] for name in names(box)] == ["spare"]
    kept = box.put(b"x" * 100)
    box.loop.turn_until(lambda: not any(name.startswith("spare.") for name in names(box)))
    assert box.spool.read_content(box.spool.get_record(kept)) == b"x" * 100


def test_without_the_option_they_are_removed(tmp_path: Path) -> None:
    box = Box(tmp_path, SpoolOptions(map_bytes=1 << 28, reserve_bytes=0, segment_bytes=10_000, compact_seconds=1e9))
    first = [box.put(os.urandom(6_000)) for _ in range(2)]
    box.put(b"y")
    finish(box, first)
    box.loop.turn_until(lambda: names(box) == ["00000002"])
    box.close()
