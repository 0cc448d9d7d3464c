"""Walks over a spool's messages: joined with their states, in slices, across what happens meanwhile."""

from pathlib import Path

import pytest
from support.spool import Box

from fastrelay._core.lmdb import LmdbError
from fastrelay._core.scan import find_contents


@pytest.fixture
def box(tmp_path: Path):
    box = Box(tmp_path)
    yield box
    box.close()


def test_messages_with_and_without_states(box: Box) -> None:
    ids = [box.put(commit=False) for _ in range(50)]
    for msgid in ids[::3]:
        box.spool.put_state(msgid, b"state of %d" % msgid, None)
    box.spool.put_state(4711, b"of no message", None)
    box.reopen()
    for limit in (1, 7, 1000):
        scan = box.spool.scan()
        found: list[tuple[int, bytes, bytes | None]] = []
        while part := scan.slice(limit):
            found += part
        assert [msgid for msgid, _, _ in found] == ids
        assert [state for _, _, state in found] == [
            b"state of %d" % msgid if msgid in ids[::3] else None for msgid in ids
        ]
        assert all(raw == box.spool.get_record(msgid) for msgid, raw, _ in found)
        assert scan.slice() == []
        scan.close()


def test_what_is_accepted_since_the_opening_does_not_show(box: Box) -> None:
    before = [box.put() for _ in range(3)]
    box.reopen()
    scan = box.spool.scan()
    first = [msgid for msgid, _, _ in scan.slice(1)]
    box.put()
    box.deliver(before[1])
    assert first == [before[0]]
    assert [msgid for msgid, _, _ in scan.slice()] == [before[2]]
    assert scan.slice() == []


def test_an_empty_spool(box: Box) -> None:
    assert box.spool.scan().slice() == []


def test_a_walk_ends_with_its_environment(box: Box) -> None:
    scan = box.spool.scan()
    box.close()
    with pytest.raises(LmdbError):
        scan.slice()
    box.open()


def test_find_contents_in_slices(box: Box) -> None:
    ids = [box.put(b"%d" % n, commit=False) for n in range(5000)]
    box.commit()
    for msgid in ids[::2]:
        box.deliver(msgid, commit=False)
    box.commit()
    found, last = find_contents(box.spool.environment, [1], 0)
    assert 0 < last < ids[-1] or len(found) == 2500
    while last:
        part, last = find_contents(box.spool.environment, [1], last)
        found += part
    assert [place[0] for place in found] == ids[1::2]
    assert find_contents(box.spool.environment, [2, 3], 0) == ([], 0)
    assert find_contents(box.spool.environment, [], 0) == ([], 0)
