"""The order of system calls: content synced, then the index, then the loop is told; and what happens when they fail.

Recorded with strace from a child that accepts and delivers. Failures are injected by strace too, so they come from
inside LMDB's own calls: whichever call fails, nothing acknowledged is lost and nothing delivered comes back.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support import strace
from support.powercut import WRITES, Disk
from support.spool_account import Account, check
from support.spool_child import GAVE_UP

CHILD = Path(__file__).parents[1] / "support" / "spool_child.py"

pytestmark = pytest.mark.skipif(not strace.available(), reason="strace is missing or may not trace (Debian: strace)")


def child(folder: Path, rounds: int, *inject: str) -> tuple[int, str]:
    (folder / "run").mkdir()
    command = [sys.executable, str(CHILD), str(folder / "run"), "-", "0", str(rounds)]
    return strace.record(command, folder / "trace", inject=list(inject))


def acts(trace: Path, root: str) -> list[tuple[str, str]]:
    """(what, on what) of the calls that matter, in the order in which they returned, since the spool was open."""
    disk = Disk(root)
    completion = -1
    found: list[tuple[str, str]] = []
    for call in strace.calls(trace):
        first = call.arguments.split(",")[0]
        one = disk.opened.get(int(first)) if first.isdigit() else None
        disk.play(call)
        if call.name == "eventfd2":
            completion = call.result
        if call.name in WRITES and first.isdigit():
            if int(first) == 1:
                found.append(("say", b"".join(call.octets).decode().strip()))
            elif int(first) == completion:
                found.append(("tell", ""))
            elif one is not None:
                kind = "meta" if "O_DSYNC" in one.flags else "write"
                found.append((kind, one.path.removeprefix(root + "/w0/").removeprefix(root + "/")))
        elif call.name in ("fsync", "fdatasync") and one is not None:
            found.append(("sync", one.path.removeprefix(root + "/w0/").removeprefix(root + "/")))
    return found[found.index(("say", "ready")) + 1 :]


def where(part: list[tuple[str, str]], what: str, path: str) -> list[int]:
    return [n for n, (act, on) in enumerate(part) if act == what and on.startswith(path)]


def test_every_batch_is_synced_in_order(tmp_path: Path) -> None:
    code, _ = child(tmp_path, 6)
    assert code == 0
    told = acts(tmp_path / "trace", str(tmp_path / "run"))
    batches = with_content = with_files = 0
    while ("tell", "") in told:
        end = told.index(("tell", ""))
        part, told = told[:end], told[end + 1 :]
        batches += 1
        contents, content_syncs = where(part, "write", "segments/"), where(part, "sync", "segments/")
        pages, page_syncs = where(part, "write", "lmdb/data.mdb"), where(part, "sync", "lmdb/data.mdb")
        meta, log = where(part, "meta", "lmdb/data.mdb"), where(part, "write", "w0.jsonl")
        assert len(meta) == len(page_syncs) == 1
        if contents:
            with_content += 1
            assert max(contents) < max(content_syncs) < min(pages)
            assert {part[n][1] for n in contents} <= {part[n][1] for n in content_syncs}
        if files := where(part, "sync", "large/"):
            with_files += 1
            assert files[-1] < where(part, "sync", "large")[-1] < min(pages)
        assert max(pages) < page_syncs[0] < meta[0]
        if log:
            assert meta[0] < min(log)
    assert batches >= 8
    assert with_content >= 5
    assert with_files >= 2


def test_nothing_is_said_done_before_its_batch_was_told(tmp_path: Path) -> None:
    child(tmp_path, 6)
    tried: dict[str, int] = {}
    tells = commits = 0
    for act, on in acts(tmp_path / "trace", str(tmp_path / "run")):
        tells += act == "tell"
        commits += act == "meta"
        if act == "say" and on.startswith("try "):
            tried[on.removeprefix("try ")] = commits
        if act == "say" and on.startswith("done ") and not on.startswith("done state"):
            assert tells > 0
            assert commits > tried[on.removeprefix("done ")]
    assert len(tried) > 30


FAILURES = [
    *(f"pwrite64:error=EIO:when={n}" for n in range(1, 13)),
    *(f"fdatasync:error=EIO:when={n}" for n in range(1, 13)),
    *(f"writev:error=ENOSPC:when={n}" for n in range(1, 13)),
    "pwrite64:error=ENOSPC:when=3",
    "pwrite64:error=EIO:when=5+",
    "fdatasync:error=EIO:when=6+",
    "fdatasync:error=EIO:when=7+",
    "writev:error=ENOSPC:when=4+",
    "fdatasync:error=EIO:when=4+3",
    "pwrite64:error=EIO:when=4+5",
    "fsync:error=EIO:when=1",
]


@pytest.mark.parametrize("failure", FAILURES)
def test_whatever_fails_nothing_acknowledged_is_lost(failure: str, tmp_path: Path) -> None:
    code, said = child(tmp_path, 6, failure)
    assert code in (0, GAVE_UP, 1)  # 1: it could not be opened, in words
    account = Account(said)
    check(tmp_path / "run", [account])


def test_a_meta_page_that_cannot_be_written(tmp_path: Path) -> None:
    """LMDB refuses service then (MDB_PANIC): the environment is opened anew, and the batch tried again.

    strace counts calls by thread, so the new committer can fail again, and the opening too: then it is out of service.
    """
    outcomes = set()
    for n in range(1, 20):
        folder = tmp_path / str(n)
        folder.mkdir()
        code, said = child(folder, 6, f"pwrite64:error=EIO:when={n}")
        if "reopened 1" not in said.splitlines():
            continue
        check(folder / "run", [Account(said)])
        outcomes.add(code)
    assert 0 in outcomes
    assert outcomes <= {0, GAVE_UP}


def test_a_disk_that_is_gone_for_good(tmp_path: Path) -> None:
    """Opening anew fails too: the spool is out of service; what was acknowledged is there at the next start."""
    code, said = child(tmp_path, 6, "pwrite64:error=EIO:when=9+")
    assert code == GAVE_UP
    assert "given-up" in said
    check(tmp_path / "run", [Account(said)])
