"""Sparse segments are copied forward, and nothing is lost or comes back by it."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from support.spool import Box, place_of

from fastrelay.spool import SpoolOptions
from fastrelay.spool.compaction import read_places

OPTIONS = SpoolOptions(map_bytes=1 << 30, reserve_bytes=0, segment_bytes=50_000, compact_seconds=1e9)


def on_a_loop(test: Callable[[Box], Coroutine[Any, Any, None]], tmp_path: Path) -> None:
    """Run a test with a box on a real loop."""

    async def run() -> None:
        box = Box(tmp_path, OPTIONS, loop=asyncio.get_running_loop())
        box.loop.run_soon = lambda: None
        await until(lambda: box.spool.ready)
        try:
            await test(box)
        finally:
            box.close()

    asyncio.run(run())


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def sparse(box: Box) -> list[int]:
    """Three segments of ten messages, of which one in ten is left; gives the ids of those."""
    ids = [box.put(os.urandom(5_000), commit=False) for _ in range(30)]
    box.commit()
    for n, msgid in enumerate(ids):
        if n % 10:
            box.deliver(msgid, commit=False)
    box.commit()
    box.put(b"in the active segment")
    return ids[::10]


def test_sparse_segments_are_emptied_and_removed(tmp_path: Path) -> None:
    async def test(box: Box) -> None:
        kept = sparse(box)
        assert box.segment_files() == ["00000001", "00000002", "00000003", "00000004"]
        assert box.spool.care.compactor.sparse() == [1, 2, 3]
        assert await box.spool.care.compactor.run() == 3
        await until(lambda: box.segment_files() == ["00000004"])
        assert [box.spool.read_content(box.spool.get_record(m)) for m in kept] == [box.contents[m] for m in kept]
        assert {place_of(box.spool.get_record(m))[0] for m in kept} == {4}
        assert await box.spool.care.compactor.run() == 0
        box.reopen()
        box.loop.run_soon = lambda: None
        assert [box.spool.read_content(box.spool.get_record(m)) for m in kept] == [box.contents[m] for m in kept]

    on_a_loop(test, tmp_path)


def test_what_was_delivered_meanwhile_stays_gone(tmp_path: Path) -> None:
    async def test(box: Box) -> None:
        kept = sparse(box)
        moved: list[bool] = []
        places = [(m, place_of(box.spool.get_record(m))) for m in kept]
        box.deliver(kept[0], commit=False)
        for msgid, (segment, _, offset, _) in places:
            box.spool.move_content(msgid, segment, offset, box.contents[msgid], moved.append)
            box.spool.move_content(msgid, segment, offset + 1, box.contents[msgid], moved.append)
        box.commit()
        await asyncio.sleep(0)
        assert moved == [False, False, True, False, True, False]
        assert box.spool.get_record(kept[0]) is None
        await until(lambda: box.segment_files() == ["00000004"])

    on_a_loop(test, tmp_path)


def test_failed_moves_change_nothing(tmp_path: Path) -> None:
    async def test(box: Box) -> None:
        kept = sparse(box)
        box.spool.fail_at("content_sync", 5, times=1)
        assert await box.spool.care.compactor.run() == 0
        assert len(box.segment_files()) >= 4
        assert [box.spool.read_content(box.spool.get_record(m)) for m in kept] == [box.contents[m] for m in kept]
        await until(lambda: box.spool.accepting)
        assert await box.spool.care.compactor.run() == 4  # the segment that was given up is sparse now, too

    on_a_loop(test, tmp_path)


def test_damaged_content_stays_where_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test(box: Box) -> None:
        kept = sparse(box)
        path = Path(box.path, "segments/00000002")
        octets = bytearray(path.read_bytes())
        octets[10] ^= 255
        path.write_bytes(octets)
        assert await box.spool.care.compactor.run() == 2
        await until(lambda: box.segment_files() == ["00000002", "00000004"])
        assert box.spool.care.compactor.damaged == 1
        assert place_of(box.spool.get_record(kept[1]))[0] == 2

    on_a_loop(test, tmp_path)


def test_it_is_run_from_time_to_time(tmp_path: Path) -> None:
    async def run() -> None:
        options = SpoolOptions(map_bytes=1 << 30, reserve_bytes=0, segment_bytes=50_000, compact_seconds=0.01)
        box = Box(tmp_path, options, loop=asyncio.get_running_loop())
        box.loop.run_soon = lambda: None
        sparse(box)
        await until(lambda: box.segment_files() == ["00000004"])
        box.close()

    asyncio.run(run())


def test_closing_in_the_middle(tmp_path: Path) -> None:
    async def test(box: Box) -> None:
        kept = sparse(box)
        work = asyncio.ensure_future(box.spool.care.compactor.run())
        await asyncio.sleep(0)
        box.close()
        assert await work == 0
        box.open()
        box.loop.run_soon = lambda: None
        assert [box.spool.read_content(box.spool.get_record(m)) for m in kept] == [box.contents[m] for m in kept]

    on_a_loop(test, tmp_path)


def test_places_that_cannot_be_read_give_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "segments").mkdir()
    assert read_places(str(tmp_path), [(1, 1, 0, 10, 0)]) == [None]
    assert "cannot be copied forward" in caplog.text
