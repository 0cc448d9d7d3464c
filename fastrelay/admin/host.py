"""What the supervisor asks of this host and of the state directory: memory of a process, open files, old folders."""

from __future__ import annotations

import contextlib
import os
import re
import resource


def resident_bytes(pid: int | None) -> int:
    """Resident memory of a process; 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def orphans(state_dir: str, slots: int) -> dict[int, list[str]]:
    """Spool folders of workers that there are no more, dealt out to the slots: slot → names."""
    dealt: dict[int, list[str]] = {}
    for number in _numbered(os.path.join(state_dir, "spool"), r"w(\d+)", slots):
        dealt.setdefault(number % slots, []).append(f"w{number}")
    return dealt


def old_slab_slots(state_dir: str, slots: int) -> list[int]:
    """Slots beyond ours that have a metrics file: their counters still count."""
    return _numbered(state_dir, r"slab\.(\d+)", slots)


def _numbered(folder: str, pattern: str, first: int) -> list[int]:
    """The numbers, from `first` on, of the entries of a folder that match."""
    try:
        found = [re.fullmatch(pattern, name) for name in os.listdir(folder)]
    except FileNotFoundError:
        return []
    return sorted(int(match[1]) for match in found if match is not None and int(match[1]) >= first)


def raise_open_files() -> None:
    """The soft limit of open files up to the hard one; workers inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
