"""Spool folders: made all or nothing, refused in words, set aside with instructions."""

import asyncio
import os
import shutil
from pathlib import Path

import pytest
from support.spool import OPTIONS, Box, HandLoop

from fastrelay.spool import SpoolCorrupt, SpoolFormat, SpoolOptions, open_spool, open_spool_later, orphans, set_aside


def opened(path: Path):
    return open_spool(str(path), loop=HandLoop(), on_commit=lambda cookies, error: None, options=OPTIONS)


def test_a_new_folder_is_complete(tmp_path: Path) -> None:
    spool = opened(tmp_path / "w0")
    assert sorted(os.listdir(tmp_path / "w0")) == ["FORMAT", "large", "lmdb", "segments"]
    assert (tmp_path / "w0/FORMAT").read_text() == "1\n"
    assert os.listdir(tmp_path) == ["w0"]
    spool.close()


def test_a_folder_half_made_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "w0.new/segments").mkdir(parents=True)
    (tmp_path / "w0.new/rubbish").write_text("left by a crash")
    opened(tmp_path / "w0").close()
    assert os.listdir(tmp_path) == ["w0"]


def test_another_format_is_refused_in_words(tmp_path: Path) -> None:
    opened(tmp_path / "w0").close()
    (tmp_path / "w0/FORMAT").write_text("2\n")
    with pytest.raises(
        SpoolFormat, match=r"spool format '2', but this version reads format 1: run the fastrelay that"
    ) as caught:
        opened(tmp_path / "w0")
    assert (caught.value.found, caught.value.known) == ("2", "1")


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w0").mkdir()
    with pytest.raises(SpoolCorrupt, match="no file FORMAT"):
        opened(tmp_path / "w0")


def test_folders_that_are_missing_are_made(tmp_path: Path) -> None:
    opened(tmp_path / "w0").close()
    shutil.rmtree(tmp_path / "w0/large")
    opened(tmp_path / "w0").close()
    assert (tmp_path / "w0/large").is_dir()


def test_an_index_that_is_gone_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    opened(tmp_path / "w0").close()
    shutil.rmtree(tmp_path / "w0/lmdb")
    with pytest.raises(SpoolCorrupt, match="lost its tag"):
        opened(tmp_path / "w0")


def test_damage_is_found_and_the_folder_set_aside(tmp_path: Path) -> None:
    box = Box(tmp_path)
    for _ in range(200):
        box.put(commit=False)
    box.close()
    os.truncate(tmp_path / "w0/lmdb/data.mdb", 20_000)
    with pytest.raises(SpoolCorrupt) as caught:
        box.open()
    assert caught.value.path == str(tmp_path / "w0")
    aside = set_aside(str(tmp_path / "w0"), caught.value.problem, now=1_700_000_000.0)
    assert aside == str(tmp_path / "w0.damaged-20231114T221320Z")
    words = Path(aside, "README.txt").read_text()
    assert caught.value.problem in words
    assert "events/w0.jsonl" in words
    box.open()
    assert box.ids() == []
    box.close()
    assert set_aside(str(tmp_path / "w0"), "again", now=1_700_000_000.0).endswith("Z.2")


def test_orphans_are_folders_of_workers_that_are_no_more(tmp_path: Path) -> None:
    for name in ("w0", "w1", "w2", "w10", "w3.damaged-20231114T221320Z", "w4.new", "lost+found"):
        (tmp_path / name).mkdir()
    assert orphans(str(tmp_path), 2) == ["w2", "w10"]
    assert orphans(str(tmp_path), 11) == []


def test_an_orphan_is_opened_beside_the_worker_s_own(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    own = Box(tmp_path / "a")
    orphan = Box(tmp_path / "b", loop=own.loop)
    msgid = orphan.put()
    assert own.read(own.put()) is not None
    orphan.deliver(msgid)
    assert own.spool.tag != orphan.spool.tag
    assert own.ids() == []
    own.close()
    orphan.close()


def test_an_orphan_is_opened_while_the_loop_goes_on(tmp_path: Path) -> None:
    box = Box(tmp_path)
    msgid = box.put()
    box.close()

    async def run() -> bytes | None:
        loop = asyncio.get_running_loop()
        spool = await open_spool_later(box.path, loop=loop, on_commit=lambda cookies, error: None, options=OPTIONS)
        content = spool.read_content(spool.get_record(msgid))
        spool.close()
        return content

    assert asyncio.run(run()) == box.contents[msgid]


def test_one_folder_is_not_opened_twice(tmp_path: Path) -> None:
    first = opened(tmp_path / "w0")
    with pytest.raises(Exception, match="has it open already"):
        opened(tmp_path / "w0")
    first.close()


def test_defaults() -> None:
    assert SpoolOptions().segment_bytes == 64 << 20
    assert SpoolOptions().map_bytes == 64 << 30
