"""A spool under test: a loop that moves when it is told to, records of the smallest kind, and what a spool holds."""

from __future__ import annotations

import os
import select
import struct
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastrelay.clock import SimulatedClock
from fastrelay.spool import SpoolOptions, open_spool
from fastrelay.spool.eventlog import EventLog

HEAD = struct.Struct("<BBHIIIQQ")
OPTIONS = SpoolOptions(map_bytes=1 << 30, reserve_bytes=0, compact_seconds=1e9)
WAIT_SECONDS = 90.0  # for what a thread does; only a test that fails waits so long


def record(recipients: int = 1, rest: bytes = b"envelope") -> bytes:
    """A message record whose place the committer fills in."""
    return HEAD.pack(1, 0, 0, recipients, 0, 0, 0, 0) + rest


def place_of(raw: bytes) -> tuple[int, int, int, int]:
    """(segment, crc, offset, length) in a record."""
    return HEAD.unpack_from(raw)[4:8]


class Timer:
    """What call_later gives."""

    def __init__(self, due: float, call: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self.due = due
        self.call = call
        self.arguments = arguments
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class HandLoop:
    """An event loop whose time stands still until advance()."""

    def __init__(self) -> None:
        self.now = 0.0
        self.soon: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()
        self.timers: list[Timer] = []
        self.readers: dict[int, Callable[[], Any]] = {}

    def call_soon(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.soon.append((call, arguments))

    def call_later(self, delay: float, call: Callable[..., Any], *arguments: Any) -> Timer:
        timer = Timer(self.now + delay, call, arguments)
        self.timers.append(timer)
        return timer

    def add_reader(self, descriptor: int, call: Callable[[], Any]) -> None:
        self.readers[descriptor] = call

    def remove_reader(self, descriptor: int) -> bool:
        return self.readers.pop(descriptor, None) is not None

    def run_soon(self) -> None:
        """What was to be called soon, and what that brings."""
        while self.soon:
            call, arguments = self.soon.popleft()
            call(*arguments)

    def advance(self, seconds: float) -> None:
        """Let time pass; timers that are due fire in order."""
        self.now += seconds
        due = sorted((t for t in self.timers if t.due <= self.now and not t.cancelled), key=lambda t: t.due)
        self.timers = [t for t in self.timers if t not in due and not t.cancelled]
        for timer in due:
            if not timer.cancelled:
                timer.call(*timer.arguments)
        self.run_soon()

    def turn(self, seconds: float = 0.0) -> None:
        """One turn: what is soon, then descriptors that are readable within `seconds`."""
        self.run_soon()
        readable, _, _ = select.select(list(self.readers), [], [], seconds)
        for descriptor in readable:
            if descriptor in self.readers:
                self.readers[descriptor]()
        self.run_soon()

    def turn_until(self, condition: Callable[[], Any]) -> None:
        """Turns until something holds that a thread brings about."""
        end = time.monotonic() + WAIT_SECONDS
        while not condition():
            assert time.monotonic() < end, "it never came"
            self.turn(0.01)


class Box:
    """A spool folder under test, its event log, and what on_commit told."""

    def __init__(self, folder: Path | str, options: SpoolOptions = OPTIONS, loop: Any = None) -> None:
        self.folder = Path(folder)
        self.path = str(self.folder / "w0")
        self.log_path = str(self.folder / "w0.jsonl")
        self.options = options
        self.loop = loop or HandLoop()
        self.told: list[tuple[list[Any], Any]] = []
        self.contents: dict[int, bytes] = {}
        self.open()

    def open(self) -> None:
        self.spool = open_spool(self.path, loop=self.loop, on_commit=self._told, options=self.options)
        self.log = EventLog(self.log_path, set_log_fd=self.spool.set_log_fd, clock=SimulatedClock())
        self.log.open()
        self.log.close()  # the spool has a copy

    def close(self) -> None:
        self.spool.close()

    def reopen(self) -> None:
        self.close()
        self.open()

    def _told(self, cookies: list[Any], error: Any) -> None:
        self.told.append((cookies, error))

    def put(self, content: bytes | None = None, recipients: int = 1, commit: bool = True) -> int:
        """Accept a message; gives its id."""
        msgid = self.spool.next_id()
        content = b"content %d " % msgid * 100 if content is None else content
        self.contents[msgid] = content
        self.spool.put_message(msgid, record(recipients), content, ("put", msgid))
        self.spool.add_accept_event(b'"event":"accepted","id":%d}\n' % msgid)
        if commit:
            self.commit()
        return msgid

    def deliver(self, msgid: int, recipients: int = 1, commit: bool = True) -> None:
        """Settle a message as delivered."""
        self.spool.delete_message(msgid, ("delete", msgid))
        self.spool.count(1, recipients)
        self.spool.add_event(b'"event":"delivered","id":%d}\n' % msgid)
        if commit:
            self.commit()

    def commit(self) -> bool:
        """Have everything committed that is open."""
        done: bool = self.spool.drain()
        self.loop.run_soon()
        return done

    def read(self, msgid: int) -> bytes | None:
        """Content of a message as stored, or None when there is no such message."""
        raw = self.spool.get_record(msgid)
        if raw is None:
            return None
        found: list[Any] = []
        content = self.spool.read_content(raw, msgid)
        if content is not None:
            return bytes(content)
        self.spool.read_content_later(raw, lambda content, error: found.append((content, error)), msgid)
        self.loop.turn_until(lambda: found)
        if found[0][1] is not None:
            raise found[0][1]
        return bytes(found[0][0])

    def ids(self) -> list[int]:
        """Messages that were there at the opening."""
        scan = self.spool.scan()
        found: list[int] = []
        while part := scan.slice():
            found += [msgid for msgid, _, _ in part]
        scan.close()
        return found

    def segment_files(self) -> list[str]:
        return sorted(os.listdir(os.path.join(self.path, "segments")))

    def log_lines(self) -> list[str]:
        with open(self.log_path, encoding="utf-8", errors="replace") as file:
            return [line for line in file.read().split("\n") if line]
