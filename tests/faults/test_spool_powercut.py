"""Power cuts: every first part of what a spool wrote is replayed, without what was not synced or with some of it.

kill -9 leaves the page cache, so it proves no sync. Here the system calls of a run are recorded, and for each of them
the disk is put into states that a power cut at that moment may leave: only what was synced, or also some sectors of the
writes since. From each of them the spool opens and holds everything acknowledged, and nothing that was delivered.
"""

from __future__ import annotations

import random
import shutil
import sys
from pathlib import Path

import pytest
from support import strace
from support.powercut import Disk
from support.spool_account import Account, check

from fastrelay.errors import FastrelayError

CHILD = Path(__file__).parents[1] / "support" / "spool_child.py"

pytestmark = pytest.mark.skipif(not strace.available(), reason="strace is missing or may not trace (Debian: strace)")


def replay(trace: Path, root: str, fast: Path, picks: int, deaf: str = "") -> tuple[Disk, int]:
    """Check images after every call that changes what a disk may hold. `deaf`: syncs in this folder do nothing."""
    chance = random.Random(7)
    disk = Disk(root)
    images, last = 0, -1
    for call in strace.calls(trace):
        if deaf and call.name == "fdatasync":
            one = disk.opened.get(int(call.arguments))
            if one is not None and f"/{deaf}/" in one.path:
                continue
        disk.play(call)
        if disk.touched == last:
            continue
        last = disk.touched
        account = Account(disk.said.decode())
        for pick in [None] + [chance] * picks:
            images += 1
            folder = fast / str(images)
            disk.image(folder, pick)
            try:
                check(folder, [account])
            except BaseException as error:
                error.add_note(f"after {call.name}({call.arguments[:100]}) = {call.result}, image {images}")
                raise
            shutil.rmtree(folder)
    return disk, images


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, long_run: bool) -> tuple[Path, str, str]:
    """(trace, folder, what the child said)"""
    folder = tmp_path_factory.mktemp("powercut")
    root = folder / "run"
    root.mkdir()
    rounds = "40" if long_run else "10"
    code, said = strace.record([sys.executable, str(CHILD), str(root), "-", "0", rounds], folder / "trace")
    assert code == 0
    assert Account(said).closed
    return folder / "trace", str(root), said


@pytest.mark.timeout(1800)
def test_every_prefix_of_a_run_recovers(run: tuple[Path, str, str], fast: Path, long_run: bool) -> None:
    trace, root, said = run
    disk, images = replay(trace, root, fast, 12 if long_run else 3)
    assert disk.said.decode() == said
    assert images > 500


@pytest.mark.parametrize("deaf", ["segments", "lmdb", "large"])
def test_a_disk_that_does_not_sync_is_caught(run: tuple[Path, str, str], fast: Path, deaf: str) -> None:
    """The test can fail: with one kind of sync left out, something acknowledged is lost."""
    trace, root, _ = run
    with pytest.raises((AssertionError, FastrelayError)):
        replay(trace, root, fast, 1, deaf)


def test_a_number_that_another_thread_has_before_its_close_returns(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.write_text(
        "11  openat(9, \"\\x2e\", O_RDONLY) = 13\n"
        "10  fcntl(12, F_DUPFD_CLOEXEC, 0 <unfinished ...>\n"
        "11  close(13 <unfinished ...>\n"
        "10  <... fcntl resumed>)              = 13\n"
        "11  <... close resumed>)              = 0\n"
        "10  close(12)                         = 0\n"
    )
    told = [(call.name, call.arguments, call.result) for call in strace.calls(trace)]
    assert told[1:] == [("close", "13", 0), ("fcntl", "12, F_DUPFD_CLOEXEC, 0", 13), ("close", "12", 0)]


def test_the_model_forgets_what_was_not_synced(tmp_path: Path) -> None:
    """The model itself: without a sync nothing of a write is certain, and it would show."""
    root = tmp_path / "run"
    root.mkdir()
    script = (
        "import os,sys\n"
        "f = os.open(sys.argv[1] + '/a', os.O_CREAT | os.O_WRONLY)\n"
        "os.write(f, b'x' * 4096)\n"
        "if sys.argv[2] == 'sync':\n"
        "    os.fdatasync(f); d = os.open(sys.argv[1], os.O_RDONLY); os.fsync(d)\n"
        "os.write(f, b'y' * 4096)\n"
    )
    for how, least in (("sync", b"x" * 4096), ("none", None)):
        shutil.rmtree(root)
        root.mkdir()
        strace.record([sys.executable, "-c", script, str(root), how], tmp_path / "trace")
        disk = Disk(str(root))
        for call in strace.calls(tmp_path / "trace"):
            disk.play(call)
        disk.image(tmp_path / how, None)
        found = (tmp_path / how / "a").read_bytes() if (tmp_path / how / "a").exists() else None
        assert found == least
