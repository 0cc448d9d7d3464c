"""Make and open spool folders: format version, the environment, leftovers."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
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
    spare_segments full segments with nothing live that are kept to be written over, at most 8
    """

    segment_bytes: int = 64 << 20
    batch_bytes: int = 256 << 20
    map_bytes: int = 64 << 30
    reserve_bytes: int = 512 << 20
    ballast: str = ""
    ballast_bytes: int = 32 << 20
    compact_below: float = 0.25
    compact_seconds: float = 60.0
    spare_segments: int = 0


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
    return _open(path, prepare(path, options), loop, on_commit, options)


async def open_spool_later(
    path: str,
    *,
    loop: Any,
    on_commit: Callable[[list[Any], SpoolError | None], object],
    options: SpoolOptions | None = None,
) -> Spool:
    """The same while the loop goes on: the check of a large index, which can wait for the disk, is made in a thread."""
    options = options or SpoolOptions()
    path = os.path.abspath(path)
    environment = await loop.run_in_executor(None, prepare, path, options)
    return _open(path, environment, loop, on_commit, options)


def _open(
    path: str, environment: Environment, loop: Any, on_commit: Callable[..., object], options: SpoolOptions
) -> Spool:
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


ASIDE = """This spool folder was set aside by fastrelay at {time}, because its index cannot be trusted:

    {problem}

What that means: mail that was accepted and not yet delivered may still be in here. Nothing in this folder is read or
sent any more; new mail goes to a new folder, and the relay goes on.

What to do:

 1. Look after the disk first (smartctl, dmesg): an index does not break by itself.
 2. If you have a backup or snapshot of the whole folder, stop the relay, put it in this folder's place under its old
    name ({name}) and start the relay. Mail delivered since the snapshot is then delivered again.
 3. Else take what can be saved: segments/ holds the messages one after the other, each as it would be sent, without its
    envelope. The event log (events/{name}.jsonl*) says for which message ids an "accepted" has no "delivered",
    "failed", "expired", "suppressed" or "removed": have the application that sent them send those again.
 4. Remove this folder.
"""


def set_aside(path: str, problem: str, *, now: float) -> str:
    """Rename a damaged spool folder to `<path>.damaged-<time>`, and leave instructions in it; gives the new path.

    now  seconds since 1970
    """
    time = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    aside, number = f"{path}.damaged-{time}", 1
    while os.path.exists(aside):
        number += 1
        aside = f"{path}.damaged-{time}.{number}"
    os.rename(path, aside)
    with open(os.path.join(aside, "README.txt"), "w", encoding="utf-8") as file:
        file.write(ASIDE.format(time=time, problem=problem, name=os.path.basename(path)))
    sync_folder(os.path.dirname(os.path.abspath(path)))
    return aside


def orphans(folder: str, workers: int) -> list[str]:
    """Names of spool folders below `folder` (state/spool) whose worker no longer exists, by number."""
    numbers = [int(name[1:]) for name in os.listdir(folder) if name[:1] == "w" and name[1:].isdecimal()]
    return [f"w{number}" for number in sorted(numbers) if number >= workers]


def check_format(path: str) -> None:
    """SpoolFormat unless this version reads the folder; SpoolCorrupt when it does not say what it is."""
    try:
        with open(os.path.join(path, "FORMAT"), encoding="ascii", errors="replace") as file:
            found = file.read(64).strip()
    except FileNotFoundError:
        raise SpoolCorrupt(path, "it has no file FORMAT, so this is no spool folder, or a part of one") from None
    if found != FORMAT:
        raise SpoolFormat(path, found, FORMAT)
