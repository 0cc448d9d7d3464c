"""Power cuts while blocks of a cap are reserved: whatever is left on the disk, it counts all that was used.

kill -9 leaves the page cache, so it proves no sync. The system calls of a worker are recorded; at each of them the disk
is put into states that a power cut may leave, and what the supervisor would read from each of them is compared with
what the worker had said to have used by then.
"""

from __future__ import annotations

import random
import re
import shutil
import sys
from pathlib import Path

import pytest
from support import strace
from support.cap_child import NAME
from support.powercut import Disk, Folder

from fastrelay._core.table import Table
from fastrelay.limits.durable import reserved

CHILD = Path(__file__).parents[1] / "support" / "cap_child.py"
CAP = 300
UNUSED = CAP // 100
USED = re.compile(rb"^used 1 (\d+)$", re.MULTILINE)

pytestmark = pytest.mark.skipif(not strace.available(), reason="strace is missing or may not trace (Debian: strace)")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, long_run: bool) -> tuple[Path, str]:
    """(trace, folder)"""
    folder = tmp_path_factory.mktemp("cap")
    root = folder / "run"
    (root / "spool").mkdir(parents=True)
    table = Table.create(folder / "table", slots=1, boot_id="b", now_ns=0, capacity=64)
    table.set_cap(table.cell(NAME), 1, CAP)
    units = "250" if long_run else "60"
    command = [sys.executable, str(CHILD), str(root), str(folder / "table"), "-", "0", units]
    code, said = strace.record(command, folder / "trace")
    assert code == 0
    assert said.endswith("closed\n")
    return folder / "trace", str(root)


def replay(trace: Path, root: str, fast: Path, picks: int, deaf: bool = False) -> tuple[int, int]:
    """(images, the most units that an image counted and that were not used). `deaf`: the index is never synced."""
    chance = random.Random(11)
    disk = Disk(root)
    images, last, most = 0, -1, 0
    disk.tree.now["spool"] = disk.tree.synced["spool"] = Folder()  # it was there before the run
    for call in strace.calls(trace):
        if deaf and call.name == "fdatasync":
            one = disk.opened.get(int(call.arguments))
            if one is not None and "/lmdb/" in one.path:
                continue
        disk.play(call)
        if disk.touched == last:
            continue
        last = disk.touched
        used = sum(int(n) for n in USED.findall(bytes(disk.said)))
        for pick in [None] + [chance] * picks:
            images += 1
            folder = fast / str(images)
            disk.image(folder, pick)
            found = reserved(str(folder))
            counted = found.used("a", "google", 1)
            assert counted >= used, f"after {call.name}({call.arguments[:100]}) = {call.result}, image {images}"
            if not found.unreadable:
                most = max(most, counted - used)
            shutil.rmtree(folder)
    return images, most


@pytest.mark.timeout(900)
def test_what_was_used_is_counted_at_every_moment(run: tuple[Path, str], fast: Path, long_run: bool) -> None:
    images, most = replay(*run, fast, 6 if long_run else 2)
    assert images > 200
    assert most <= UNUSED


def test_a_disk_that_does_not_sync_is_caught(run: tuple[Path, str], fast: Path) -> None:
    """The test can fail."""
    with pytest.raises(AssertionError, match="after"):
        replay(*run, fast, 1, deaf=True)
