"""Event lines: durable with their batch, in the log after it, out of the index when the log is safe."""

import errno
import json
import os
from pathlib import Path

import pytest
from support.spool import Box


@pytest.fixture
def box(tmp_path: Path):
    box = Box(tmp_path)
    yield box
    box.close()


def keys(lines: list[str]) -> list[str]:
    return [json.loads(line)["key"] for line in lines]


def test_lines_have_keys_in_order(box: Box) -> None:
    for _ in range(12):
        box.put()
    assert keys(box.log_lines()) == [f"{box.spool.tag}-{n}" for n in range(1, 13)]
    assert json.loads(box.log_lines()[0]) == {"key": f"{box.spool.tag}-1", "event": "accepted", "id": 1}


def test_sequence_is_given_and_never_again(box: Box) -> None:
    assert box.spool.add_event(b'"event":"x"}\n') == 1
    assert box.spool.add_event(b'"event":"x"}\n') == 2
    box.reopen()
    assert box.spool.add_event(b'"event":"x"}\n') == 3


def test_rows_go_once_the_log_is_synced(box: Box) -> None:
    ids = [box.put() for _ in range(5)]
    assert box.spool.environment.count("ev") > 0
    box.reopen()
    assert box.spool.environment.count("ev") == 0
    assert len(box.log_lines()) == len(ids)


def test_many_lines_are_packed_in_rows(box: Box) -> None:
    for n in range(100):
        box.spool.add_event(b'"event":"x","n":%d,"filler":"%s"}\n' % (n, b"f" * 200))
    box.spool.add_event(b'"event":"long","filler":"%s"}\n' % (b"f" * 9000))
    box.commit()
    assert 15 <= box.spool.environment.count("ev") <= 20
    assert len(box.log_lines()) == 101


def test_rows_left_over_are_written_again_with_the_same_keys(box: Box) -> None:
    box.spool.fail_at("log_sync", errno.EIO)
    box.put()
    box.reopen()
    box.reopen()
    lines = box.log_lines()
    assert len(lines) >= 2
    assert len(set(lines)) == 1
    assert box.spool.environment.count("ev") == 0


def test_without_a_log_lines_wait_in_the_index(box: Box) -> None:
    box.spool.set_log_fd(-1)
    for _ in range(3):
        box.put()
    assert box.log_lines() == []
    descriptor = os.open(box.log_path, os.O_WRONLY | os.O_APPEND)
    box.spool.set_log_fd(descriptor)
    os.close(descriptor)
    box.reopen()
    assert len(box.log_lines()) == 3


def test_log_that_fails_falls_behind_and_catches_up(box: Box) -> None:
    box.put()
    box.spool.fail_at("log_write", errno.ENOSPC, times=2)
    box.put()
    box.put()
    assert len(box.log_lines()) == 1
    assert box.spool.accepting
    box.put()
    assert keys(box.log_lines()) == [f"{box.spool.tag}-{n}" for n in range(1, 5)]
    assert box.spool.figures()["log_failures"] == 2


def test_log_that_fails_is_tried_again_without_a_batch(box: Box) -> None:
    box.spool.fail_at("log_write", errno.ENOSPC, times=1)
    box.put()
    box.loop.turn_until(lambda: len(box.log_lines()) == 1)


def test_lines_after_a_failed_sync_are_written_again(box: Box) -> None:
    box.spool.fail_at("log_sync", errno.EIO, times=1)
    box.put()
    box.loop.turn_until(lambda: len(box.log_lines()) == 2)
    assert len(set(box.log_lines())) == 1


def test_the_log_changes_between_two_batches(box: Box, tmp_path: Path) -> None:
    box.put()
    descriptor = os.open(tmp_path / "second", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    box.spool.set_log_fd(descriptor)
    os.close(descriptor)
    box.put()
    first, second = box.log_lines(), (tmp_path / "second").read_text().splitlines()
    assert keys(first) == [f"{box.spool.tag}-1"]
    assert keys(second) == [f"{box.spool.tag}-2"]


def test_events_of_failed_accepts_are_dropped_and_others_stay(box: Box) -> None:
    box.put()
    box.spool.fail_at("content_sync", errno.EIO, times=1)
    box.put(commit=False)
    box.deliver(1, commit=False)
    box.spool.add_event(b'"event":"other"}\n')
    box.commit()
    assert [json.loads(line)["event"] for line in box.log_lines()] == ["accepted", "delivered", "other"]
    rows = b"".join(value for _, value in box.spool.environment.items("ev"))
    assert [json.loads(line)["event"] for line in rows.splitlines()] == ["accepted", "delivered", "other"]


def test_two_spools_share_a_log(box: Box, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Box(tmp_path / "other", loop=box.loop)
    descriptor = os.open(box.log_path, os.O_WRONLY | os.O_APPEND)
    other.spool.set_log_fd(descriptor)
    os.close(descriptor)
    for _ in range(20):
        box.put(commit=False)
        other.put(commit=False)
        box.loop.turn()
    box.commit()
    other.commit()
    other.close()
    found = keys(box.log_lines())
    assert sorted(found) == sorted(f"{spool.tag}-{n}" for spool in (box.spool, other.spool) for n in range(1, 21))
