"""Reading stored content back: from the page cache, by threads, damaged, moved, and files of their own."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from support.spool import Box, place_of, record

from fastrelay._core.content import crc32c
from fastrelay.spool import DamagedContent, SpoolOptions


@pytest.fixture
def box(tmp_path: Path):
    box = Box(tmp_path)
    yield box
    box.close()


def later(box: Box, raw: bytes, msgid: int = 0) -> tuple[Any, Any]:
    found: list[tuple[Any, Any]] = []
    box.spool.read_content_later(raw, lambda content, error: found.append((content, error)), msgid)
    box.loop.turn_until(lambda: found)
    return found[0]


def out_of_cache(path: Path) -> bool:
    """Whether the page cache let go of a file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        try:
            os.preadv(descriptor, [bytearray(1)], 0, os.RWF_NOWAIT)
        except BlockingIOError:
            return True
        return False
    finally:
        os.close(descriptor)


def test_what_is_not_cached_is_read_by_a_thread(box: Box) -> None:
    ids = [box.put(os.urandom(50_000)) for _ in range(20)]
    if not out_of_cache(Path(box.path, "segments/00000001")):
        pytest.skip("this file system keeps its pages cached")
    raw = box.spool.get_record(ids[7])
    assert box.spool.read_content(raw) is None
    assert later(box, raw) == (box.contents[ids[7]], None)
    assert box.spool.read_content(raw) == box.contents[ids[7]]


def test_many_reads_at_once(box: Box) -> None:
    ids = [box.put(os.urandom(2_000)) for _ in range(200)]
    found: dict[int, Any] = {}
    for msgid in ids:
        raw = box.spool.get_record(msgid)
        box.spool.read_content_later(raw, lambda content, error, msgid=msgid: found.__setitem__(msgid, content))
    assert box.spool.contents.pending == 200
    box.loop.turn_until(lambda: len(found) == 200)
    assert found == box.contents
    assert box.spool.contents.pending == 0


def test_a_flipped_bit_is_found(box: Box) -> None:
    msgid = box.put()
    path = Path(box.path, "segments/00000001")
    octets = bytearray(path.read_bytes())
    octets[100] ^= 1
    path.write_bytes(octets)
    raw = box.spool.get_record(msgid)
    with pytest.raises(DamagedContent, match="checksum") as caught:
        box.spool.read_content(raw, msgid)
    assert (caught.value.msgid, caught.value.moved) == (msgid, False)
    content, error = later(box, raw, msgid)
    assert content is None
    assert "checksum" in str(error)


def test_a_segment_that_is_cut_short_is_found(box: Box) -> None:
    msgid = box.put()
    os.truncate(Path(box.path, "segments/00000001"), 50)
    raw = box.spool.get_record(msgid)
    assert box.spool.read_content(raw) is None
    _, error = later(box, raw)
    assert "cut short" in str(error)


def test_a_segment_that_is_gone_says_moved(box: Box) -> None:
    msgid = box.put()
    box.reopen()
    raw = box.spool.get_record(msgid)
    os.unlink(Path(box.path, "segments/00000001"))
    with pytest.raises(DamagedContent) as caught:
        box.spool.read_content(raw)
    assert caught.value.moved
    with pytest.raises(DamagedContent):
        box.spool.read_content_later(raw, lambda content, error: None)
    with pytest.raises(DamagedContent):
        box.spool.read_content(raw[:20])


def test_a_segment_is_removed_after_its_reads(tmp_path: Path) -> None:
    box = Box(tmp_path, SpoolOptions(map_bytes=1 << 30, reserve_bytes=0, segment_bytes=1000))
    first, _ = box.put(b"x" * 1000), box.put(b"y")
    raw = box.spool.get_record(first)
    found: list[Any] = []
    box.spool.read_content_later(raw, lambda content, error: found.append(content))
    box.deliver(first)
    assert "00000001" in box.segment_files()
    box.loop.turn_until(lambda: found)
    assert found == [b"x" * 1000]
    box.loop.turn_until(lambda: box.segment_files() == ["00000002"])
    box.close()


def test_open_content_gives_a_descriptor_that_outlives_the_message(tmp_path: Path) -> None:
    box = Box(tmp_path, SpoolOptions(map_bytes=1 << 30, reserve_bytes=0, segment_bytes=1000))
    box.put(b"a" * 500)
    second, _ = box.put(b"b" * 500), box.put(b"c")
    descriptor, offset, length = box.spool.open_content(box.spool.get_record(second), second)
    box.deliver(1)
    box.deliver(second)
    box.loop.turn_until(lambda: box.segment_files() == ["00000002"])
    assert os.pread(descriptor, length, offset) == b"b" * 500
    os.close(descriptor)
    box.close()


def test_more_segments_than_descriptors_are_kept(tmp_path: Path) -> None:
    box = Box(tmp_path, SpoolOptions(map_bytes=1 << 30, reserve_bytes=0, segment_bytes=10))
    ids = [box.put(b"%010d" % n, commit=False) for n in range(300)]
    box.commit()
    before = len(os.listdir("/proc/self/fd"))
    assert [box.read(msgid) for msgid in ids] == [box.contents[msgid] for msgid in ids]
    assert len(os.listdir("/proc/self/fd")) - before <= 256
    box.close()


def large(box: Box, *parts: bytes) -> Any:
    file = box.spool.large_file()
    thread = threading.Thread(target=lambda: [file.write(part) for part in parts])
    thread.start()
    thread.join()
    return file


def test_large_content_has_a_file_of_its_own(box: Box) -> None:
    parts = [os.urandom(1_000_000) for _ in range(6)]
    file = large(box, *parts)
    assert (file.length, file.crc) == (6_000_000, crc32c(b"".join(parts)))
    msgid = box.spool.next_id()
    box.spool.put_message_file(msgid, record(2), file, "cookie")
    box.commit()
    assert box.told == [(["cookie"], None)]
    assert place_of(box.spool.get_record(msgid)) == (0xFFFFFFFF, crc32c(b"".join(parts)), 0, 6_000_000)
    assert os.listdir(os.path.join(box.path, "large")) == [f"{msgid:x}"]
    assert file.descriptor == -1
    assert box.read(msgid) == b"".join(parts)
    descriptor, offset, length = box.spool.open_content(box.spool.get_record(msgid), msgid)
    assert os.pread(descriptor, length, offset) == b"".join(parts)
    os.close(descriptor)
    box.reopen()
    box.loop.turn_until(lambda: box.spool.ready)
    assert box.read(msgid) == b"".join(parts)
    box.deliver(msgid, recipients=2)
    box.loop.turn_until(lambda: os.listdir(os.path.join(box.path, "large")) == [])


def test_large_file_that_is_not_wanted_goes(box: Box) -> None:
    file = large(box, b"half of it")
    assert len(os.listdir(os.path.join(box.path, "large"))) == 1
    file.abort()
    file.abort()
    assert os.listdir(os.path.join(box.path, "large")) == []
    with pytest.raises(ValueError):
        file.write(b"more")


@pytest.mark.parametrize("step", ["large_sync", "commit"])
def test_large_file_of_a_failed_accept_goes(box: Box, step: str) -> None:
    box.spool.fail_at(step, 5, times=1)
    file = large(box, b"content")
    box.spool.put_message_file(box.spool.next_id(), record(), file, "cookie")
    box.commit()
    assert [cookies for cookies, error in box.told if error] == [["cookie"]]
    assert os.listdir(os.path.join(box.path, "large")) == []


def test_large_files_in_the_making_survive_the_sweep_of_their_own_start(box: Box) -> None:
    file = large(box, b"content")
    box.loop.turn_until(lambda: box.spool.ready)
    msgid = box.spool.next_id()
    box.spool.put_message_file(msgid, record(), file, None)
    box.commit()
    assert box.read(msgid) == b"content"


def test_closing_with_reads_under_way_is_quiet(tmp_path: Path) -> None:
    box = Box(tmp_path)
    raw = box.spool.get_record(box.put(os.urandom(1 << 20)))
    for _ in range(50):
        box.spool.read_content_later(raw, lambda content, error: pytest.fail("told after the close"))
    box.close()
