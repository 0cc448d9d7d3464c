"""The files of the event logs as they are read: found, put in order, and read from a mark, whoever renames them.

A *log* is wN, relay or feedback; its files are LOG.jsonl, which is written, and closed ones, LOG.jsonl.SUFFIX. A file
is known by its inode and the digest of its beginning, not by its name: the relay and logrotate rename files. A mark
says how far a file was read, with a digest of what stands before it: after a power loss the end of a file can be
other than it was, and then what was read counts for nothing.

Lines are found by what they must look like (`{"key":"…","event":"NAME","time":"…"`), with one search over a slice of
the file, so that lines of events that nobody wants cost no more than a look (benchmarks/bench_events.py). What looks
otherwise (a line torn by a crash, octets of a block that was never written) is passed over.

Known faults: compressed files are not read. A file that is cut short and written anew in place (logrotate's
copytruncate) is read again from its beginning.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from fastrelay.spool.eventlog import TIME_FORM

HEAD_BYTES = 64  # a shorter file has no complete line
CHECK_BYTES = 64
SLICE_BYTES = 256 << 10
LINE_BYTES = 16 << 20  # a longer line is passed over
COMPRESSED = (".gz", ".xz", ".bz2", ".zst")

_NAME = re.compile(r"(w\d+|relay|feedback)\.jsonl(?:[.-](.+))?")
_EVENT = re.compile(r"[a-z_]{1,64}")


class Mark(msgspec.Struct, array_like=True):
    """How far one file was read."""

    ident: bytes
    inode: int
    offset: int
    check: bytes = b""
    time: str = ""  # of the last line before it


class FileName(NamedTuple):
    """A file of a log. `closed_at`: seconds since 1970, infinite while it is written."""

    closed_at: float
    number: int
    path: str
    inode: int


class Line(NamedTuple):
    """A line: its time as it stands there, the offset behind it, and itself without the line's end."""

    time: str
    end: int
    raw: bytes


def _closed_at(entry: os.DirEntry[str], suffix: str) -> tuple[float, int]:
    if not suffix:
        return float("inf"), 0
    when, _, number = suffix.partition(".")
    try:
        closed = datetime.strptime(when, TIME_FORM).replace(tzinfo=UTC)
    except ValueError:
        return entry.stat().st_mtime, 0
    return closed.timestamp(), int(number) if number.isdigit() else 1


def list_files(folder: str) -> dict[str, list[FileName]]:
    """The files of each log, oldest first; compressed ones are left out. OSError."""
    logs: dict[str, list[FileName]] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            match = _NAME.fullmatch(entry.name)
            if match is None or entry.name.endswith(COMPRESSED):
                continue
            try:
                order = _closed_at(entry, match[2] or "")
                logs.setdefault(match[1], []).append(FileName(*order, entry.path, entry.inode()))
            except FileNotFoundError:
                continue
    for files in logs.values():
        files.sort()
    return logs


def _digest(octets: bytes) -> bytes:
    return hashlib.blake2b(octets, digest_size=8).digest()


class Wanted:
    """Which events are wanted; None: all."""

    def __init__(self, names: Iterable[str] | None) -> None:
        self.names = None if names is None else frozenset(names)
        if names is None:
            words = "[a-z_]{1,64}"
        else:
            assert all(_EVENT.fullmatch(name) for name in self.names or ())
            words = "|".join(sorted(self.names or ())) or "(?!)"
        rest = rf'"event":"(?:{words})","time":"([^"\\]{{1,40}})"'
        # An unescaped quote behind a comma stands in no string, so this is found between fields only.
        self._behind_key = re.compile(rb'",' + rest.encode())
        self._first = re.compile(rb"\{" + rest.encode())

    def lines(self, log: str, octets: bytes, base: int) -> list[Line]:
        """The wanted lines in octets that begin and end with whole lines; `base` is where they begin in the file."""
        out = []
        find, rfind = octets.find, octets.rfind
        keyed = log != "relay"
        for match in (self._behind_key if keyed else self._first).finditer(octets):
            at = match.start()
            start = rfind(b"\n", 0, at) + 1
            if keyed:
                if octets[start : start + 8] != b'{"key":"' or find(b'"', start + 8, at) >= 0:
                    continue
            elif at != start:
                continue
            end = find(b"\n", at)
            if octets[end - 1] != 0x7D:  # }
                continue
            out.append(Line(match[1].decode("ascii", "replace"), base + end + 1, octets[start:end]))
        return out

    _ANY_TIME = re.compile(rb'^\{(?:"key":"[^"]*",)?"event":"[a-z_]+","time":"([^"\\]{1,40})"', re.M)

    @classmethod
    def last_time(cls, octets: bytes) -> str:
        """The time of the last line that has one; "" where none has."""
        end = len(octets)
        while end > 0:
            start = octets.rfind(b"\n", 0, end - 1) + 1
            match = cls._ANY_TIME.match(octets, start)
            if match is not None:
                return match[1].decode("ascii", "replace")
            end = start
        return ""


class LogFile:
    """One file, open for reading at `offset`. OSError."""

    def __init__(self, log: str, name: FileName) -> None:
        self.log = log
        self.name = name
        self.offset = 0
        self.at_end = False  # as of the last reading
        self._skips = False
        self._fd = os.open(name.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            status = os.fstat(self._fd)
            self.inode = status.st_ino
            head = os.pread(self._fd, HEAD_BYTES, 0)
        except BaseException:
            os.close(self._fd)
            raise
        self.ident = _digest(head) if len(head) == HEAD_BYTES else b""

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @property
    def size(self) -> int:
        return os.fstat(self._fd).st_size

    @property
    def modified(self) -> float:
        """When it was written last (s since 1970)."""
        return os.fstat(self._fd).st_mtime

    def check(self, offset: int) -> bytes:
        """A digest of what stands before an offset."""
        begin = max(0, offset - CHECK_BYTES)
        return _digest(os.pread(self._fd, offset - begin, begin))

    def mark(self, offset: int, time: str) -> Mark:
        return Mark(self.ident, self.inode, offset, self.check(offset), time)

    def resume(self, mark: Mark) -> bool:
        """Goes on at a mark. False: what was read there is there no more, and it begins anew."""
        if self.size >= mark.offset and self.check(mark.offset) == mark.check:
            self.offset = mark.offset
            return True
        self.offset = 0
        return False

    def to_end(self) -> None:
        """Behind the last whole line."""
        at = self.size
        while at > 0:
            begin = max(0, at - SLICE_BYTES)
            found = os.pread(self._fd, at - begin, begin).rfind(b"\n")
            if found >= 0:
                self.offset = begin + found + 1
                return
            at = begin
        self.offset = 0

    def read(self) -> bytes:
        """The next whole lines, about a slice of them; b"" where there are none yet."""
        want = SLICE_BYTES
        while True:
            octets = os.pread(self._fd, want, self.offset)
            if len(octets) < want and self.offset and self.size < self.offset:
                self.offset = 0  # cut short in place
                continue
            end = octets.rfind(b"\n") + 1
            self.at_end = len(octets) < want
            if end:
                break
            if self.at_end:
                return b""
            if want >= LINE_BYTES:
                self.offset += len(octets)  # no line of ours is so long
                self._skips = True
                continue
            want *= 4
        begin = 0
        if self._skips:
            begin, self._skips = octets.find(b"\n") + 1, False
            self.offset += begin
        self.offset += end - begin
        return octets[begin:end] or self.read()
