"""What of a period's cap is reserved, on stable storage: written by the workers, read by the supervisor.

A worker records, for each cap it sends under, the period and how much of the cap it has reserved in it, in all: key
``cap:<source>:<key>`` (the name of the cap's cell) in the database ``meta`` of its own spool, value as in RECORD. The
record rides on the group commit, as a settle: it is tried until it is durable; no unit of a block is used before. The
argument why no crash lets more through than the cap is in ext/fastrelay/_core/limits.pyx.

The supervisor reads the sum over all spools where the shared table does not know: it was lost, or is of another boot. A
spool that cannot be read may have reserved anything, so all caps count as used then, until their next period.

Known faults: what a spool had reserved that was removed while the relay stood still is not known.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Iterable
from typing import Any

from fastrelay._core.commit import Spool
from fastrelay._core.lmdb import Environment, LmdbError
from fastrelay._core.table import Table

RECORD = struct.Struct("<QQ")  # period, units reserved in it
PREFIX = b"cap:"
EVERYTHING = (1 << 44) - 1  # more than any cap
ASIDE_SECONDS = 48 * 3600.0  # a spool that was set aside counts as unreadable for so long: any period is over then
SLICE = 1000
_FOLDER = re.compile(r"w\d+(\.damaged-.*)?")


class Reservations:
    """What one worker has reserved, and the way to reserve more. For the loop's thread, while the spool is open."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._known: dict[bytes, tuple[int, int]] = {}

    def total(self, name: bytes, period: int) -> int:
        """Units of the cap `name` that this spool has reserved in a period, those on their way to the disk included."""
        if name not in self._known:
            self._known[name] = decode(self._spool.environment.get("meta", name))
        known, n = self._known[name]
        return n if known == period else 0

    def reserve(self, name: bytes, period: int, n: int, done: Callable[[Exception | None], object]) -> None:
        """Record `n` more; ``done(None)`` is called once they are on stable storage (with the batch's other cookies).

        name    the cap's cell, which begins with ``cap:``
        period  a number that grows; the record of an earlier one is overwritten
        """
        self._record(name, period, self.total(name, period) + n, done)

    def lower(self, name: bytes, period: int, n: int) -> None:
        """Record `n` fewer, which will not be used, with the next commit. Not at all once the spool is closed: the
        record may say more than was used, never less."""
        if not self._spool.closed:
            self._record(name, period, max(0, self.total(name, period) - n), None)

    def _record(self, name: bytes, period: int, total: int, done: Callable[[Exception | None], object] | None) -> None:
        if not name.startswith(PREFIX):
            raise ValueError(f"{name!r} is not the name of a cap")
        self._spool.put_meta(name, RECORD.pack(period, total), done)
        self._known[name] = (period, total)


class Reserved(dict[tuple[str, str], tuple[int, int]]):
    """{(source, key): (period, units reserved in it)}, of the newest period each, summed over all spools.

    unreadable  why the sum is not to be trusted, a line for each spool that cannot be read
    """

    def __init__(self) -> None:
        super().__init__()
        self.unreadable: list[str] = []

    def used(self, source: str, key: str, period: int) -> int:
        """What counts as used of the cap of a period; more than any cap where a spool cannot be read."""
        if self.unreadable:
            return EVERYTHING
        known, n = self.get((source, key), (0, 0))
        return n if known >= period else 0

    def add(self, name: bytes, period: int, n: int) -> None:
        source, _, key = name[len(PREFIX) :].decode("utf-8", "replace").rpartition(":")
        known, before = self.get((source, key), (0, 0))
        if period >= known:
            self[source, key] = (period, n + (before if period == known else 0))


def reserved(state_dir: str) -> Reserved:
    """What all spools below `state_dir` have reserved. For the holder of its lock, while no worker runs: it opens and
    closes each environment. Raises nothing: what cannot be read is said in `unreadable`."""
    found = Reserved()
    folder = os.path.join(state_dir, "spool")
    try:
        names = sorted(name for name in os.listdir(folder) if _FOLDER.fullmatch(name))
    except FileNotFoundError:
        return found
    except OSError as error:
        found.unreadable.append(f"{folder}: {error.strerror}")
        return found
    newest = max((_written(os.path.join(folder, name)) for name in names if "." not in name), default=0.0)
    for name in names:
        path = os.path.join(folder, name)
        if "." not in name:
            _read(path, found)
        elif newest - os.stat(path).st_mtime < ASIDE_SECONDS:
            found.unreadable.append(f"{path}: it was set aside as damaged")
    return found


def restore(table: Table, found: Reserved, caps: Iterable[tuple[str, str, int]]) -> None:
    """Have a new table know what is used of each cap (source, key, present period)."""
    for source, key, period in caps:
        table.set_used(table.cell(cap_name(source, key)), period, found.used(source, key, period))


def cap_name(source: str, key: str) -> bytes:
    """The name of a cap's cell, and of its record."""
    return PREFIX + f"{source}:{key}".encode()


def decode(octets: bytes | None) -> tuple[int, int]:
    """(period, units) of a record; (0, 0) where there is none. One that is damaged counts as everything used."""
    if octets is None:
        return 0, 0
    if len(octets) != RECORD.size:
        return (1 << 20) - 1, EVERYTHING
    period, n = RECORD.unpack(octets)
    return period, min(n, EVERYTHING)


def _written(path: str) -> float:
    """When the index of a spool folder was written last, in seconds since 1970; 0 where that is not known."""
    try:
        return os.stat(os.path.join(path, "lmdb", "data.mdb")).st_mtime
    except OSError:
        return 0.0


def _read(path: str, found: Reserved) -> None:
    environment: Any = None
    try:
        if not _written(path):
            raise OSError(2, "it has no index")
        environment = Environment(os.path.join(path, "lmdb"), ("meta",))
        start = PREFIX
        while rows := environment.items("meta", start, SLICE):
            for name, octets in rows:
                if not name.startswith(PREFIX):
                    return
                found.add(name, *decode(octets))
            start = rows[-1][0] + b"\0"
    except (LmdbError, OSError) as error:
        found.unreadable.append(f"{path}: {error}")
    finally:
        if environment is not None:
            environment.close()
