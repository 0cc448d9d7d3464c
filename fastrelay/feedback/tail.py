"""Reading the event logs for those who live on them: suppression, rates, webhooks.

A reader merges all logs by time, from a position of its own that lasts (database `cursors`). What it gave is given
again after a crash unless it was acknowledged: at least once, and consumers know an event by its key. Events of one
recipient come in order: those of one worker's log as they stand there; those of several logs by time, and a line of
feedback.jsonl never before lines of workers that were written before it.

Files may be renamed, closed and begun while they are read (eventfiles.py). A closed file is left once a newer one of
its log is there and it was quiet for LINGER_SECONDS, since a worker finishes what it was writing in the old one.

Known faults: events of two logs that were written within one look (POLL_SECONDS) of each other but in different looks
may come in the order in which they were written, not by their times. A position whose file was removed (kept too
short a time) goes on with the oldest file that is there, counted in `gone`.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from fastrelay.feedback.desk import Part
from fastrelay.feedback.eventfiles import FileName, Line, LogFile, Mark, Wanted, list_files

if TYPE_CHECKING:
    from fastrelay.feedback.desk import Desk

log = logging.getLogger("fastrelay.feedback")

DATABASE = "cursors"
POLL_SECONDS = 0.25
LINGER_SECONDS = 10.0
SAVE_SECONDS = 1.0
RETRY_SECONDS, RETRY_MAX_SECONDS = 1.0, 60.0
CLOSING_SECONDS = 60.0  # what is written in a file after its closing time, and clocks
AHEAD_LINES = 1000  # read and not yet given, of one log: no more is read then
FOLDER = "events"


class Event(msgspec.Struct, kw_only=True):
    """One line. What it has not is "" (0, None). `raw`: the line itself."""

    key: str = ""
    event: str = ""
    time: str = ""
    id: str = ""
    recipient: str = ""
    recipients: list[str] = []
    domain: str = ""
    reverse_path: str = ""
    campaign: str = ""
    tenant: str = ""
    sender_domain: str = ""
    source: str = ""
    provider: str = ""
    attempt: int = 0
    code: int = 0
    enhanced: str = ""
    reply: str = ""
    reason: str = ""
    class_: str = msgspec.field(name="class", default="")
    class_rule: str = ""
    kind: str = ""
    about: str = ""
    matched: str = ""
    method: str = ""
    feedback_type: str = ""
    feedback_source: str = ""
    scope: str = ""
    scope_value: str = ""
    action: str = ""
    suppression_reason: str = ""
    suppression_scope: str = ""
    mx_host: str = ""
    mx_address: str = ""
    queued_seconds: float = 0.0
    size_bytes: int = 0
    possible_duplicate: bool = False
    raw: bytes = msgspec.field(name="(the line)", default=b"")


_decoder = msgspec.json.Decoder(Event)
_FIELDS = {field.encode_name: field for field in msgspec.structs.fields(Event)}


def decode(raw: bytes) -> Event | None:
    """The event of a line; None where it is none. A field of a wrong type counts as absent."""
    event: Event | None
    try:
        event = _decoder.decode(raw)
    except msgspec.ValidationError:
        event = _decode_fields(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if event is not None:
        event.raw = raw
        event.key = event.key or event.id  # events of the relay itself
    return event


def _decode_fields(raw: bytes) -> Event | None:
    try:
        found = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if not isinstance(found, dict):
        return None
    event = Event()
    for name, value in found.items():
        field = _FIELDS.get(name)
        if field is None or value is None:
            continue
        try:
            setattr(event, field.name, msgspec.convert(value, field.type))
        except msgspec.ValidationError:
            continue
    return event


class Position(msgspec.Struct):
    """Where a reader stands: of each log, the files that it was in.

    since  of logs that are not there: events from this time on; "": all
    """

    logs: dict[str, list[Mark]] = {}
    since: str = ""


class _Source:
    """One file that is being read, with what was read of it and not given yet."""

    def __init__(self, file: LogFile, after: str = "", limit: int | None = None) -> None:
        self.file = file
        self.limit = limit  # not beyond this offset
        self.after = after  # lines of up to this time were given before
        self.ahead: deque[Line] = deque()
        self.upto = ""  # no line to come is older
        self.given = file.offset
        self.given_time = after
        self.at_end = False

    def read(self, wanted: Wanted) -> None:
        """Reads a slice."""
        if self.limit is not None and self.file.offset >= self.limit:
            self.at_end = True
            return
        octets = self.file.read()
        if self.limit is not None and self.file.offset > self.limit:
            octets = octets[: len(octets) - (self.file.offset - self.limit)]
            self.file.offset = self.limit
        self.at_end = self.file.at_end or self.file.offset == self.limit
        if not octets:
            return
        base = self.file.offset - len(octets)
        last = self.upto
        for line in wanted.lines(self.file.log, octets, base):
            if self.after and line.time < self.after:
                continue
            last = max(last, line.time)  # a clock that was set back doesn't change the order of a file
            self.ahead.append(line if line.time == last else Line(last, line.end, line.raw))
        self.upto = max(last, Wanted.last_time(octets))

    def mark(self) -> Mark:
        offset = self.given if self.ahead else self.file.offset
        return self.file.mark(offset, self.given_time)


class Reader:
    """Merged reading of the logs in `folder`.

    wanted    names of events; None: all
    position  where to go on; None: at `start`
    start     "end", "begin", or a time (ISO 8601, UTC): events from then on
    until     a position that another reader had, beyond which nothing is read
    """

    def __init__(
        self,
        folder: str,
        wanted: frozenset[str] | None = None,
        position: Position | None = None,
        start: str = "end",
        wall: Callable[[], float] = time.time,
        until: Position | None = None,
    ) -> None:
        self.folder = folder
        self.wanted = Wanted(wanted)
        self.moved = False  # something was read since the last position
        self.gone = 0  # positions whose file was not there
        self._wall = wall
        self._sources: dict[str, list[_Source]] = {}
        self._listed: tuple[int, dict[str, list[FileName]]] = (-1, {})
        self._position = position
        self._start = start if position is None else position.since or "begin"
        self._until = until
        self._opened = False
        self._more = False  # files that were not opened yet

    def close(self) -> None:
        for sources in self._sources.values():
            for source in sources:
                source.file.close()
        self._sources = {}

    @property
    def idle(self) -> bool:
        """Whether all was given that there was."""
        return (
            self._opened
            and not self._more
            and all(source.at_end and not source.ahead for sources in self._sources.values() for source in sources)
        )

    @property
    def lag_bytes(self) -> int:
        """What is in the files being read and was not given; closed files after them are not counted."""
        return sum(
            max(0, source.file.size - (source.given if source.ahead else source.file.offset))
            for sources in self._sources.values()
            for source in sources
        )

    # -- where it stands ----------------------------------------------------------------------------------------------

    def position(self) -> Position:
        """Behind all that was given. OSError."""
        self._open()
        self.moved = False
        marks = {name: [source.mark() for source in sources] for name, sources in self._sources.items()}
        since = "" if self._start in ("begin", "end") else self._start
        return Position({name: found for name, found in marks.items() if found}, since)

    def _files(self) -> dict[str, list[FileName]]:
        """The files, listed anew where the folder has changed."""
        try:
            stamp = os.stat(self.folder).st_mtime_ns
            if stamp != self._listed[0]:
                self._listed = (stamp, list_files(self.folder))
        except FileNotFoundError:
            self._listed = (-1, {})
        return self._listed[1]

    def _open(self) -> None:
        """Opens the files of the first position."""
        if self._opened:
            return
        self._opened = True
        files = self._files()
        if self._position is not None:
            for name, marks in self._position.logs.items():
                self._sources[name] = self._resume(name, marks, files.get(name, []))
        elif self._start == "end":
            for name, found in files.items():
                self._sources[name] = self._at_end(name, found)
        # A log without sources begins with its oldest file, `_advance`.

    def _at_end(self, name: str, files: list[FileName]) -> list[_Source]:
        for one in reversed(files):
            file = _opened(name, one)
            if file is not None:
                file.to_end()
                return [_Source(file)]
        return []

    def _resume(self, name: str, marks: list[Mark], files: list[FileName]) -> list[_Source]:
        sources = []
        for mark in marks:
            file = _find(name, mark, files)
            if file is None:
                self.gone += 1
                log.warning("events of %s are lost: the file that was being read is gone (%s)", name, mark.time)
                continue
            limit = self._limit(name, file)
            sources.append(_Source(file, "", limit) if file.resume(mark) else _Source(file, mark.time, limit))
        if marks and not sources:
            # Goes on behind what was read: with files that were closed since.
            sources = self._from_oldest(name, files, max(mark.time for mark in marks))
        return sources

    def _from_oldest(self, name: str, files: list[FileName], after: str) -> list[_Source]:
        for one in files:
            file = _opened(name, one)
            if file is not None:
                return [_Source(file, after=after)]
        return []

    def _limit(self, name: str, file: LogFile) -> int | None:
        """How far a file may be read: where it is not in `until`, another reader had finished it."""
        if self._until is None:
            return None
        marks = self._until.logs.get(name, [])
        return next((mark.offset for mark in marks if mark.ident == file.ident), None)

    def _may_follow(self, name: str, sources: list[_Source]) -> bool:
        """Whether newer files of a log are to be read: not behind the last one of `until`."""
        if self._until is None:
            return True
        marks = self._until.logs.get(name, [])
        return bool(marks) and all(source.file.ident != marks[-1].ident for source in sources)

    # -- reading ------------------------------------------------------------------------------------------------------

    def read(self, limit: int) -> list[bytes]:
        """The next lines, at most so many; none where all was given. Reads at most a slice of each log. OSError."""
        self._open()
        files = self._files()
        self._more = False
        # What comes back is read first: whatever of the workers was written before it is read after it.
        for name in sorted(files.keys() | self._sources.keys(), key=lambda name: (name[0] == "w", name)):
            self._advance(name, files.get(name, []))
        return self._give(limit)

    def _advance(self, name: str, files: list[FileName]) -> None:
        sources = self._sources.setdefault(name, [])
        for source in sources:
            if len(source.ahead) > AHEAD_LINES:
                source.at_end = False  # as far as is known
            else:
                before = source.file.offset
                source.read(self.wanted)
                self.moved = self.moved or source.file.offset != before
        if (not sources or sources[-1].at_end) and self._may_follow(name, sources):
            following = self._following(sources, files)
            for number, one in enumerate(following, 1):
                file = _opened(name, one)
                if file is None:
                    continue
                after = self._start if self._start not in ("end", "begin") else ""
                source = _Source(file, after, self._limit(name, file))
                source.read(self.wanted)
                sources.append(source)
                self._more = self._more or number < len(following)
                break
        while len(sources) > 1 and self._finished(sources[0]):
            sources.pop(0).file.close()

    def _following(self, sources: list[_Source], files: list[FileName]) -> list[FileName]:
        """Files that are newer than those being read."""
        if not sources:
            if self._start in ("begin", "end"):
                return files
            # What was closed before is not of that time.
            start = datetime.fromisoformat(self._start).timestamp() - CLOSING_SECONDS
            return [one for one in files if one.closed_at >= start]
        open_now = {source.file.inode for source in sources}
        places = [i for i, one in enumerate(files) if one.inode in open_now]
        return files[places[-1] + 1 :] if places else files

    def _finished(self, source: _Source) -> bool:
        return source.at_end and not source.ahead and self._wall() - source.file.modified > LINGER_SECONDS

    def _give(self, limit: int) -> list[bytes]:
        """Lines in order of time, as far as no log can have older ones to come."""
        # Of the same moment: workers first, then what came back.
        names = sorted(self._sources, key=lambda name: (name[0] != "w", name))
        everyone = [source for name in names for source in self._sources[name]]
        behind = [source.upto for source in everyone if not source.at_end]
        horizon = min(behind) if behind else None
        active = [source for source in everyone if source.ahead]
        out: list[bytes] = []
        while active and len(out) < limit:
            oldest = min(active, key=_next_time)
            others = [source.ahead[0].time for source in active if source is not oldest]
            bound = min(others, default=None)
            line = oldest.ahead[0]
            if horizon is not None and line.time > horizon:
                break
            while True:
                oldest.ahead.popleft()
                out.append(line.raw)
                if not oldest.ahead:
                    active.remove(oldest)
                    break
                last, line = line, oldest.ahead[0]
                if len(out) >= limit or (horizon is not None and line.time > horizon):
                    line = last
                    break
                if bound is not None and line.time >= bound:
                    line = last
                    break
            oldest.given, oldest.given_time = line.end, line.time
        return out


def _next_time(source: _Source) -> str:
    return source.ahead[0].time


def _opened(name: str, one: FileName) -> LogFile | None:
    """The file, or None where it is gone, or has no line yet."""
    try:
        file = LogFile(name, one)
    except FileNotFoundError:
        return None
    if file.ident:
        return file
    file.close()
    return None


def _find(name: str, mark: Mark, files: list[FileName]) -> LogFile | None:
    """The file of a mark: most likely that with its inode."""
    for one in sorted(files, key=lambda one: one.inode != mark.inode):
        file = _opened(name, one)
        if file is not None:
            if file.ident == mark.ident:
                return file
            file.close()
    return None


Take = Callable[[list[Event]], "Awaitable[None] | None"]


class Subscriber:
    """Somebody who is given events, with a position that lasts."""

    def __init__(self, name: str, take: Take, reader: Reader, batch: int) -> None:
        self.name = name
        self.take = take
        self.reader = reader
        self.batch = batch
        self.unsaved = True
        self.taking = False
        self.saved_at = 0.0
        self.failures = 0

    async def turn(self) -> int:
        """Gives the next events, and says how many. What `take` raises goes up, and they are given again."""
        kept = self.reader.read(self.batch)
        self.unsaved = self.unsaved or self.reader.moved
        if not kept:
            return 0
        events = [event for event in map(decode, kept) if event is not None]
        self.taking = True  # and stays so where `take` fails: what was given does not count
        if events:
            result = self.take(events)
            if inspect.isawaitable(result):
                await result
        self.taking = False
        self.unsaved = True
        return len(kept)


class Tail(Part):
    """The subscribers of the feedback process."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.folder = os.path.join(desk.state_dir, FOLDER)
        self.subscribers: dict[str, Subscriber] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._running = False

    def reader(self, name: str, wanted: frozenset[str] | None, since: str | None = None) -> Reader:
        """A reader at the saved position of `name`, or where there is none, at `since` (None: now)."""
        raw = self._desk.store.get(DATABASE, name.encode())
        position = None if raw is None else msgspec.msgpack.decode(raw, type=Position)
        return Reader(self.folder, wanted, position, since or "end", self._desk.clock.wall)

    def subscribe(
        self, name: str, take: Take, *, wanted: frozenset[str] | None, batch: int = 1000, since: str | None = None
    ) -> None:
        """From now on `take` is given the events `wanted` (None: all), in order, at most `batch` at a time.

        It may be a coroutine function. Its position, by `name`, is saved after it returned; what it raises is logged,
        and the same events are given again a little later. A new subscriber begins now, or at `since`: "begin", or a
        time (ISO 8601, UTC).
        """
        subscriber = Subscriber(name, take, self.reader(name, wanted, since), batch)
        self.subscribers[name] = subscriber
        self._save(subscriber)
        if self._running:
            self._begin(subscriber)

    async def unsubscribe(self, name: str) -> None:
        """Ends it; its position stays."""
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        subscriber = self.subscribers.pop(name, None)
        if subscriber is not None:
            self._save(subscriber)
            subscriber.reader.close()

    def _save(self, *subscribers: Subscriber) -> None:
        changes = []
        for one in subscribers:
            if one.unsaved and not one.taking:
                changes.append((one.name.encode(), msgspec.msgpack.encode(one.reader.position())))
        if changes:
            self._desk.store.put_many(DATABASE, changes)
            now = self._desk.clock.monotonic()
            for one in subscribers:
                if not one.taking:
                    one.unsaved, one.saved_at = False, now

    # -- its life -----------------------------------------------------------------------------------------------------

    async def start(self) -> list[str]:
        self._running = True
        for subscriber in self.subscribers.values():
            self._begin(subscriber)
        return []

    def _begin(self, subscriber: Subscriber) -> None:
        task = asyncio.ensure_future(self._go_on(subscriber))
        self._tasks[subscriber.name] = task

    async def _go_on(self, subscriber: Subscriber) -> None:
        while True:
            try:
                await subscriber.turn()
                subscriber.failures = 0
                if subscriber.unsaved and self._desk.clock.monotonic() - subscriber.saved_at >= SAVE_SECONDS:
                    self._save(subscriber)
                await asyncio.sleep(POLL_SECONDS if subscriber.reader.idle else 0)
            except Exception:
                subscriber.failures += 1
                wait = min(RETRY_MAX_SECONDS, RETRY_SECONDS * 2 ** min(subscriber.failures - 1, 10))
                log.exception(
                    "events for %s: they are given again in %.0f s; please report this", subscriber.name, wait
                )
                self._back(subscriber)
                await asyncio.sleep(wait)

    def _back(self, subscriber: Subscriber) -> None:
        """What was given and not taken is read again."""
        subscriber.reader.close()
        subscriber.reader = self.reader(subscriber.name, subscriber.reader.wanted.names)
        subscriber.taking = False

    async def poll(self) -> int:
        """Every subscriber is given all that there is (for tests and at the end); gives how many events that were."""
        n = 0
        for subscriber in list(self.subscribers.values()):
            while True:
                n += await subscriber.turn()
                if subscriber.reader.idle:
                    break
            self._save(subscriber)
        return n

    async def close(self) -> None:
        self._running = False
        for task in self._tasks.values():
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()))
        self._tasks = {}
        self._save(*self.subscribers.values())
        for subscriber in self.subscribers.values():
            subscriber.reader.close()
