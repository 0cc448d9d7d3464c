"""Group commit: what is durable when, what fails together, what is kept."""

import errno
import gc
import os
from pathlib import Path

import pytest
from support.spool import OPTIONS, Box, place_of, record

from fastrelay._core.commit import STEPS
from fastrelay.spool import SpoolError, SpoolOptions


@pytest.fixture
def box(tmp_path: Path):
    box = Box(tmp_path)
    yield box
    box.close()


def test_a_message_is_told_durable_and_reads_back(box: Box) -> None:
    msgid = box.put(b"hello\r\n")
    assert box.told == [([("put", msgid)], None)]
    segment, _, offset, length = place_of(box.spool.get_record(msgid))
    assert (segment, offset, length) == (1, 0, 7)
    assert box.spool.get_record(msgid)[32:] == record()[32:]
    assert box.read(msgid) == b"hello\r\n"


def test_nothing_is_told_before_the_batch_was_submitted(box: Box) -> None:
    msgid = box.put(commit=False)
    assert box.told == []
    assert box.spool.get_record(msgid) is None
    box.loop.turn_until(lambda: box.told)
    assert box.told == [([("put", msgid)], None)]


def test_messages_that_wait_together_share_a_commit(box: Box) -> None:
    ids = [box.put(commit=False) for _ in range(300)]
    box.commit()
    assert box.spool.figures()["commits"] == 1
    assert box.told == [([("put", msgid) for msgid in ids], None)]
    assert [box.read(msgid) for msgid in ids] == [box.contents[msgid] for msgid in ids]


def test_what_collects_while_a_batch_runs_is_the_next_batch(box: Box) -> None:
    first = box.put(commit=False)
    box.loop.run_soon()  # the first is at the committer now
    second = [box.put(commit=False) for _ in range(3)]
    box.commit()
    assert box.told == [([("put", first)], None), ([("put", m) for m in second], None)]


def test_empty_and_large_contents(box: Box) -> None:
    empty, large = box.put(b""), box.put(os.urandom(3 << 20))
    assert box.read(empty) == b""
    assert box.read(large) == box.contents[large]


def test_counters_are_durable_and_add_up(box: Box) -> None:
    ids = [box.put(recipients=3) for _ in range(4)]
    box.deliver(ids[0], recipients=3)
    box.spool.count(2, 1)
    box.spool.put_state(ids[1], b"one failed", None)
    box.commit()
    expected = {"accepted": 12, "delivered": 3, "failed": 1, "expired": 0, "suppressed": 0, "removed": 0}
    assert box.spool.counters == expected
    box.reopen()
    assert box.spool.counters == expected


def test_states_go_with_their_message(box: Box) -> None:
    msgid = box.put()
    box.spool.put_state(msgid, b"first", None)
    box.spool.put_state(msgid, b"second", "cookie")
    box.commit()
    assert box.spool.get_state(msgid) == b"second"
    assert box.told[-1] == (["cookie"], None)
    box.deliver(msgid)
    assert box.spool.get_state(msgid) is None
    assert box.spool.get_record(msgid) is None
    assert box.spool.environment.count("st") == 0


def test_deleting_what_is_not_there_is_done_already(box: Box) -> None:
    box.spool.delete_message(4711, "cookie")
    box.commit()
    assert box.told == [(["cookie"], None)]


def test_ids_are_never_used_again(box: Box) -> None:
    before = [box.put() for _ in range(3)]
    unused = box.spool.next_id()
    box.reopen()
    assert box.spool.next_id() > max(*before, unused)


def test_the_tag_stays(box: Box) -> None:
    tag = box.spool.tag
    assert len(tag) == 6
    box.reopen()
    assert box.spool.tag == tag


def test_small_keys_ride_on_the_commit(box: Box) -> None:
    box.spool.put_meta(b"warmup/a", b"100", None)
    box.spool.put_meta(b"warmup/b", b"200", None)
    box.commit()
    assert box.spool.environment.get("meta", b"warmup/a") == b"100"
    box.spool.put_meta(b"warmup/a", None, None)
    box.commit()
    assert box.spool.environment.get("meta", b"warmup/a") is None
    with pytest.raises(ValueError):
        box.spool.put_meta(b"state", b"", None)


def test_segments_roll_and_go_when_empty(tmp_path: Path) -> None:
    box = Box(tmp_path, SpoolOptions(map_bytes=1 << 30, reserve_bytes=0, segment_bytes=10_000))
    ids = [box.put(b"x" * 4_000) for _ in range(9)]
    assert box.segment_files() == ["00000001", "00000002", "00000003"]
    for msgid in ids[:3]:
        box.deliver(msgid)
    box.loop.turn_until(lambda: box.segment_files() == ["00000002", "00000003"])
    assert [box.read(msgid) for msgid in ids[3:]] == [b"x" * 4_000] * 6
    box.close()


def test_the_active_segment_stays_though_empty(box: Box) -> None:
    box.deliver(box.put())
    assert box.spool.segments() == [(1, 1000, 0, 0, True)]
    box.reopen()
    box.loop.turn_until(lambda: box.spool.ready)
    assert box.segment_files() == []


def test_live_content_is_counted_anew_at_the_opening(box: Box) -> None:
    ids = [box.put(b"x" * 1000) for _ in range(5)]
    box.deliver(ids[2])
    box.reopen()
    box.loop.turn_until(lambda: box.spool.ready)
    assert box.spool.segments() == [(1, 5000, 4000, 4, False)]


def test_files_nobody_points_to_go_at_the_opening(box: Box) -> None:
    kept = box.put()
    box.close()
    for name in ("segments/00000007", "large/ab", "large/new.1.2.3"):
        Path(box.path, name).write_bytes(b"garbage")
    Path(box.path, "segments/README").write_bytes(b"not ours")
    box.open()
    box.loop.turn_until(lambda: box.spool.ready)
    assert box.segment_files() == ["00000001", "README"]
    assert os.listdir(os.path.join(box.path, "large")) == []
    assert box.read(kept) == box.contents[kept]
    assert place_of(box.spool.get_record(box.put()))[0] == 8  # never the number of a file that was there


@pytest.mark.parametrize("step", ["segment_open", "folder_sync", "content_write", "content_sync"])
def test_failed_content_fails_accepts_and_not_settles(box: Box, step: str) -> None:
    old = box.put()
    if step in ("segment_open", "folder_sync"):
        box.reopen()
        box.loop.turn_until(lambda: box.spool.ready)
    box.told.clear()
    box.spool.fail_at(step, errno.EIO, times=1)
    new = box.put(commit=False)
    box.deliver(old, commit=False)
    box.commit()
    (settled, none), (accepted, error) = box.told
    assert (settled, none, accepted) == ([("delete", old)], None, [("put", new)])
    assert isinstance(error, SpoolError)
    assert (error.operation, error.code, error.reply[:9]) == (error.operation, errno.EIO, "451 4.3.0")
    assert box.spool.get_record(new) is None
    assert box.spool.get_record(old) is None
    assert box.spool.counters["accepted"] == 1
    assert not box.spool.settle_blocked


def test_after_a_failed_sync_the_segment_is_given_up(box: Box) -> None:
    kept = box.put()
    box.spool.fail_at("content_sync", errno.EIO, times=1)
    lost = box.put(commit=False)
    box.commit()
    box.loop.advance(2.0)
    after = box.put()
    assert box.spool.get_record(lost) is None
    assert place_of(box.spool.get_record(kept))[0] == 1
    assert place_of(box.spool.get_record(after))[0] == 2
    assert box.spool.figures()["sync_failures"] == 1
    assert (box.read(kept), box.read(after)) == (box.contents[kept], box.contents[after])


@pytest.mark.parametrize(
    ("code", "reply"), [(errno.ENOSPC, "452 4.3.1"), (errno.EDQUOT, "452 4.3.1"), (errno.EIO, "451 4.3.0")]
)
def test_after_an_error_nothing_is_accepted_for_a_while(box: Box, code: int, reply: str) -> None:
    box.spool.fail_at("content_write", code, times=1)
    box.put(commit=False)
    box.commit()
    assert not box.spool.accepting
    assert box.spool.refusal.startswith(reply)
    with pytest.raises(SpoolError) as caught:
        box.put()
    assert caught.value.accept
    box.loop.advance(2.0)
    assert box.spool.accepting
    assert box.read(box.put()) is not None


def test_failed_commit_with_settles_only_keeps_them(box: Box) -> None:
    msgid = box.put()
    box.told.clear()
    box.spool.fail_at("commit", errno.EIO)
    box.deliver(msgid, commit=False)
    assert not box.commit()
    assert box.spool.settle_blocked
    assert not box.spool.accepting
    assert "commit" in box.spool.unhealthy
    assert box.told == []
    later = box.spool.next_id()
    box.spool.put_meta(b"later", b"%d" % later, "later")
    box.loop.advance(1.5)  # it is tried again, and fails again
    assert not box.commit()
    box.spool.fail_at("commit", 0)
    box.loop.advance(1.5)
    assert box.commit()
    assert box.told == [([("delete", msgid)], None), (["later"], None)]
    assert not box.spool.settle_blocked
    assert box.spool.accepting
    assert box.spool.unhealthy == ""
    assert box.spool.counters["delivered"] == 1


def test_failed_commit_fails_accepts_and_tries_settles_alone(box: Box) -> None:
    old = box.put()
    box.told.clear()
    box.spool.fail_at("commit", errno.EIO, times=1)
    new = box.put(commit=False)
    box.deliver(old, commit=False)
    box.commit()
    assert [cookies for cookies, _ in box.told] == [[("delete", old)], [("put", new)]]
    assert box.spool.get_record(old) is None
    assert box.spool.get_record(new) is None
    assert not box.spool.settle_blocked


def test_what_belongs_to_failed_accepts_goes_with_them(box: Box) -> None:
    box.spool.fail_at("commit", errno.EIO)
    new = box.put(commit=False)
    box.spool.put_state(new, b"state", ("state", new))
    box.commit()
    assert [cookies for cookies, _ in box.told] == [[("put", new), ("state", new)]]
    box.spool.fail_at("commit", 0)
    box.loop.advance(1.5)
    box.commit()
    assert box.spool.environment.count("st") == 0
    assert box.spool.counters["accepted"] == 0
    box.reopen()
    assert box.log_lines() == []


def test_ballast_lets_settles_through_on_a_full_disk(tmp_path: Path) -> None:
    ballast = tmp_path / "ballast"
    box = Box(tmp_path, SpoolOptions(map_bytes=1 << 30, reserve_bytes=0, ballast=str(ballast), ballast_bytes=4096))
    box.spool.care.stop()
    ballast.write_bytes(bytes(4096))
    msgid = box.put()
    box.spool.fail_at("commit", errno.ENOSPC, times=1)
    box.deliver(msgid)
    assert not ballast.exists()
    assert box.spool.get_record(msgid) is None
    assert box.spool.figures()["ballast_freed"] == 1
    assert not box.spool.settle_blocked
    box.close()


def test_a_batch_is_bounded(tmp_path: Path) -> None:
    box = Box(tmp_path, SpoolOptions(map_bytes=1 << 30, reserve_bytes=0, batch_bytes=10_000))
    for _ in range(11):
        box.put(b"x" * 1000, commit=False)
    with pytest.raises(SpoolError) as caught:
        box.put(b"x", commit=False)
    assert caught.value.reply.startswith("451 4.3.2")
    box.commit()
    assert box.read(box.put(b"x")) == b"x"
    box.close()


def test_a_short_record_is_refused(box: Box) -> None:
    with pytest.raises(ValueError):
        box.spool.put_message(1, b"short", b"", None)


def test_closing_commits_what_is_open_and_is_final(box: Box) -> None:
    msgid = box.put(commit=False)
    box.close()
    assert box.told == [([("put", msgid)], None)]
    with pytest.raises(SpoolError):
        box.put()
    with pytest.raises(ValueError):
        box.spool.delete_message(msgid, None)
    box.close()
    box.open()
    assert box.read(msgid) == box.contents[msgid]


def test_timings_are_drained_once(box: Box) -> None:
    box.put()
    box.deliver(1)
    timings = box.spool.drain_timings()
    assert [operations for _, operations in timings] == [1, 1]
    assert all(0 < seconds < 60 for seconds, _ in timings)
    assert box.spool.drain_timings() == []


def test_dropping_an_open_spool_ends_its_threads(tmp_path: Path) -> None:
    box = Box(tmp_path)
    box.put(commit=False)
    box.spool.care.stop()
    before = len(os.listdir("/proc/self/task"))
    box.loop.timers.clear()
    box.loop.readers.clear()
    box.loop.soon.clear()
    box.spool = box.log = None
    gc.collect()
    assert len(os.listdir("/proc/self/task")) == before - 2


def test_steps_and_their_names() -> None:
    assert len(STEPS) == len(set(STEPS)) == 16
    assert OPTIONS.segment_bytes == 64 << 20
