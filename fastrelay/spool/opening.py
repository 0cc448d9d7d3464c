"""Make and open spool folders: format version, the environment, leftovers."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastrelay._core.commit import Spool
from fastrelay._core.lmdb import Environment, LmdbError
from fastrelay.spool.care import Care
from fastrelay.spool.errors import SpoolCorrupt, SpoolError, SpoolFormat
from fastrelay.spool.folder import sync_folder

FORMAT = "1"
DATABASES = ("msg", "st", "ev", "meta")
TAG_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"
TAG_LENGTH = 6


@dataclass(frozen=True, slots=True)
class SpoolOptions:
    """How a spool behaves; sizes in octets.

    segment_bytes  a segment file is closed when it holds this much
    batch_bytes    content that may wait for one group commit; beyond it nothing is accepted
    map_bytes      LMDB's sparse map: bound of the index
    reserve_bytes  with less free room on the disk no message is accepted
    ballast        path of a file that is removed when settles find the disk full; "" for none
    ballast_bytes  its size
    compact_below  a segment with less of it live (0 to 1) is copied forward
    compact_seconds  between looks for such segments
    """

    segment_bytes: int = 64 << 20
    batch_bytes: int = 256 << 20
    map_bytes: int = 64 << 30
    reserve_bytes: int = 512 << 20
    ballast: str = ""
    ballast_bytes: int = 32 << 20
    compact_below: float = 0.25
    compact_seconds: float = 60.0


def open_spool(
    path: str,
    *,
    loop: Any,
    on_commit: Callable[[list[Any], SpoolError | None], object],
    options: SpoolOptions | None = None,
) -> Spool:
    """Open the spool folder `path`, made when absent.

    Raises SpoolFormat, SpoolCorrupt (see set_aside), OSError.
    """
    options = options or SpoolOptions()
    path = os.path.abspath(path)
    environment = prepare(path, options)
    try:
        spool = Spool(path, environment, loop=loop, on_commit=on_commit, options=options)
        spool.care = Care(spool, loop)
        return spool
    except BaseException:
        environment.close()
        raise


def prepare(path: str, options: SpoolOptions) -> Environment:
    """What of the opening needs no loop: the folder is made or checked, and its environment opened."""
    if not os.path.exists(path):
        create(path, options)
    check_format(path)
    for name in ("segments", "large"):
        os.makedirs(os.path.join(path, name), mode=0o700, exist_ok=True)
    try:
        environment = Environment(os.path.join(path, "lmdb"), DATABASES, map_bytes=options.map_bytes)
    except LmdbError as error:
        if error.corrupt:
            raise SpoolCorrupt(path, str(error)) from error
        raise
    if environment.get("meta", b"tag") is None:
        environment.close()
        raise SpoolCorrupt(path, "the index has lost its tag")
    return environment


def create(path: str, options: SpoolOptions) -> None:
    """Make a spool folder, all or nothing: built beside its place, synced, and renamed."""
    building = f"{path}.new"
    shutil.rmtree(building, ignore_errors=True)
    os.makedirs(os.path.join(building, "segments"), mode=0o700)
    os.mkdir(os.path.join(building, "large"), mode=0o700)
    environment = Environment(os.path.join(building, "lmdb"), DATABASES, map_bytes=options.map_bytes)
    tag = "".join(secrets.choice(TAG_LETTERS) for _ in range(TAG_LENGTH))
    environment.put("meta", b"tag", tag.encode("ascii"))
    environment.close()
    with open(os.path.join(building, "FORMAT"), "w", encoding="ascii") as file:
        file.write(FORMAT + "\n")
        file.flush()
        os.fsync(file.fileno())
    for folder in (os.path.join(building, "lmdb"), building):
        sync_folder(folder)
    os.rename(building, path)
    sync_folder(os.path.dirname(path))


def check_format(path: str) -> None:
    """SpoolFormat unless this version reads the folder; SpoolCorrupt when it does not say what it is."""
    try:
        with open(os.path.join(path, "FORMAT"), encoding="ascii", errors="replace") as file:
            found = file.read(64).strip()
    except FileNotFoundError:
        raise SpoolCorrupt(path, "it has no file FORMAT, so this is no spool folder, or a part of one") from None
    if found != FORMAT:
        raise SpoolFormat(path, found, FORMAT)
