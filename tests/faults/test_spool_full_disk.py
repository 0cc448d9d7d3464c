"""A disk that is full to the last octet: 452 for new mail, delivery goes on, and all is well when there is room."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "support" / "full_disk.py"
MIB = 12


def may_mount() -> str:
    """Why no file system can be mounted here; "" if one can."""
    if os.getuid() != 0:
        return "mounting a small file system needs root"
    if shutil.which("unshare") is None:
        return "unshare is missing (Debian: util-linux)"
    tried = subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False)
    return "" if tried.returncode == 0 else f"mounting is not allowed here: {tried.stderr.decode().strip()}"


def run(folder: Path, mount: str) -> str:
    """The script on a file system that is mounted for it alone."""
    place = folder / "disk"
    place.mkdir()
    words = f'{mount} "{place}" && exec "{sys.executable}" "{SCRIPT}" "{place}"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", words], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_tmpfs(tmp_path: Path) -> None:
    if reason := may_mount():
        pytest.skip(reason)
    assert run(tmp_path, f"mount -t tmpfs -o size={MIB}m none").endswith("fine\n")


def test_ext4(tmp_path: Path) -> None:
    if reason := may_mount():
        pytest.skip(reason)
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("mkfs.ext4 is missing (Debian: e2fsprogs)")
    disk = tmp_path / "disk.img"
    with open(disk, "wb") as file:
        file.truncate((MIB + 4) << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", disk], check=True, capture_output=True)
    tried = subprocess.run(["unshare", "-m", "mount", "-o", "loop", disk, "/mnt"], capture_output=True, check=False)
    if tried.returncode:
        pytest.skip(f"no loop device can be mounted here: {tried.stderr.decode().strip()}")
    assert run(tmp_path, f'mount -o loop "{disk}"').endswith("fine\n")
