"""The suppression list as a worker sees it: who gets no mail ends as `suppressed`.

The list is an LMDB that the feedback process writes (feedback/suppression.py) and workers read. A recipient is looked
up when its message was accepted, once that is committed, and again each time it is pulled to be sent: an entry may
have come since. Each look-up sees the newest commit, so what was acknowledged to somebody who added an entry holds for
whatever is pulled after that.

While the list is empty the engine has nobody to ask (`Engine.suppression` is None), and it costs nothing; once a second
it is looked whether that has changed. So an entry that is the first of an empty list holds a second later.

Fail closed: where the list can't be read, nobody is sent to. The recipients stand at SUPPRESSION (the reason
`suppression`) until it can be read again, which is tried once a second.

Whose mail: the tenant of the message; the sender is the domain of From or of the reverse-path. The header is read only
where an entry of the recipient is of the scope `sender`, and the reverse-path has another domain.

Known faults: an expired entry costs a look-up until the feedback process has swept it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Any

from fastrelay._core.canon import parse_fields
from fastrelay._core.lmdb import LmdbError, ReadOnly
from fastrelay.config.schema import Config
from fastrelay.errors import FastrelayError
from fastrelay.feedback.suppression import ENTRIES, NAMES, Entry, Lookup, SuppressionError, domain_name
from fastrelay.metrics import names
from fastrelay.schedule.places import SUPPRESSION
from fastrelay.spool import SpoolError

if TYPE_CHECKING:
    from fastrelay.app import App

log = logging.getLogger(__name__)

STORE = "feedback"  # below the state directory, as in feedback/desk.py
MAP_BYTES = 16 << 30
TRANSACTIONAL = 2
RELEASE_SLICE = 2000  # messages
HEADER_OCTETS = 256 * 1024  # DESIGN section 4
SAID_AGAIN_SECONDS = 600.0
NO_REASONS: frozenset[str] = frozenset()


class Suppressed:
    """Looks recipients up for one worker. Opened with `start`; a list that can't be opened holds all mail."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._reader: Any = None
        self._lookup: Lookup | None = None
        self._enabled = True
        self._spared = NO_REASONS
        self._said_at: float | None = None
        self._looked = 0  # up, since the last second
        self._known = False  # whether there is a list at all
        self._held = False  # whether anybody may stand at SUPPRESSION
        self._releasing: asyncio.Task[None] | None = None
        self.open_reader: Any = lambda path: ReadOnly(path, (ENTRIES, NAMES), map_bytes=MAP_BYTES)

    def configure(self, config: Config) -> None:
        """A new configuration."""
        self._enabled = config.suppression.enabled
        self._spared = frozenset(config.suppression.spare_transactional)

    def start(self) -> None:
        """Opens the list."""
        self.second(self._app.clock.monotonic())

    def close(self) -> None:
        """Closes it."""
        self._app.engine.suppression = None
        if self._releasing is not None:
            self._releasing.cancel()
        self._shut()

    def _shut(self) -> None:
        reader, self._reader, self._lookup = self._reader, None, None
        if reader is not None:
            reader.close()

    def second(self, now: float) -> None:
        """Once a second: whether the list can be read, and has anything."""
        engine = self._app.engine
        if self._looked:
            self._app.meters.count(names.SUPPRESSION_LOOKUPS, self._looked, result="read")
            self._looked = 0
        if not self._enabled:
            engine.suppression = None
            self._release()
            return
        try:
            if self._reader is None:
                if not self._known and not os.path.exists(os.path.join(self._app.state_dir, STORE)):
                    return  # no feedback process was ever started here
                self._reader = self.open_reader(os.path.join(self._app.state_dir, STORE))
                self._lookup = Lookup(self._reader)
            self._known = True
            entries = self._reader.count(ENTRIES)
        except (LmdbError, OSError) as error:
            engine.suppression = self
            self.unreadable(error)
            return
        engine.suppression = self if entries else None
        self._release()

    # -- what the engine asks -----------------------------------------------------------------------------------------

    def find(self, address: bytes, domain: bytes) -> list[Entry] | None:
        """The entries of an address and its domain (in its one spelling); None: none. LmdbError, SuppressionError."""
        if self._lookup is None:
            raise SuppressionError("it is not open")
        self._looked += 1
        return self._lookup.find(address, domain)

    def stops(self, entries: list[Entry], m: int, record: Any) -> Entry | None:
        """The first of a recipient's entries that stops this message; None: none does."""
        app = self._app
        info = app.index.message_info(m)
        spared = self._spared if record.priority == TRANSACTIONAL else NO_REASONS
        wall = app.clock.wall()
        senders: tuple[bytes, ...] | None = None
        for entry in entries:
            if entry.reason in spared or not entry.live(wall):
                continue
            if entry.scope == "sender":
                if senders is None:
                    senders = self._senders(record, info, entries)
                if entry.value in senders:
                    return entry
            elif entry.scope == "global" or entry.value == record.tenant:
                return entry
        return None

    def end(self, r: int, entry: Entry) -> None:
        """Ends a recipient."""
        self._app.meters.count(names.SUPPRESSION_LOOKUPS, result="suppressed")
        self._app.board.suppress(r, entry.reason, entry.scope, entry.source)

    def unreadable(self, error: Exception) -> None:
        """The list can't be read; whoever is pulled stands at SUPPRESSION."""
        app = self._app
        self._held = True
        app.meters.count(names.SUPPRESSION_LOOKUPS, result="failed")
        now = app.clock.monotonic()
        if self._said_at is None or now - self._said_at >= SAID_AGAIN_SECONDS:
            self._said_at = now
            app.count_error("schedule")
            log.error(
                "the suppression list can't be read: %s. Mail waits (suppression) until it can be; where it stays so, "
                "look after the disk, or switch suppression.enabled off",
                error,
            )
        if not isinstance(error, FastrelayError | OSError):
            log.error("looking up recipients in the suppression list failed; please report this", exc_info=error)
        self._shut()  # opened anew within a second

    # -- whose mail ---------------------------------------------------------------------------------------------------

    def _senders(self, record: Any, info: tuple[Any, ...], entries: list[Entry]) -> tuple[bytes, ...]:
        """The domains of the reverse-path and of From; of From only where the former does not do."""
        reverse = _domain_of(record.reverse_path)
        if any(entry.scope == "sender" and entry.value == reverse for entry in entries):
            return (reverse,)
        try:
            return reverse, self._from_domain(info[7], info[0])
        except (OSError, ValueError, SpoolError):
            return (reverse,)  # what is to be sent can't be read: that ends the attempt a moment later

    def _from_domain(self, spool: int, msgid: int) -> bytes:
        """The domain of From; b"" where there is none. OSError, SpoolError, ValueError."""
        engine = self._app.engine
        content = engine.hot_content(msgid) if spool == 0 else None
        if content is None:
            raw = engine.spools[spool].get_record(msgid)
            if raw is None:
                return b""
            descriptor, offset, length = engine.spools[spool].open_content(raw, msgid)
            try:
                content = os.pread(descriptor, min(length, HEADER_OCTETS), offset)
            finally:
                os.close(descriptor)
        end = content.find(b"\r\n\r\n", 0, HEADER_OCTETS)
        header = content[: end + 2] if end >= 0 else content[:HEADER_OCTETS]
        found = parse_fields(header).from_domain()
        return _spelled(found) if found else b""

    # -- when it can be read again ---------------------------------------------------------------------------

    def _release(self) -> None:
        self._said_at = None
        if self._held and self._releasing is None:
            self._held = False
            self._releasing = asyncio.get_running_loop().create_task(self._go_on())

    async def _go_on(self) -> None:
        """Everybody who waited for the list is ready, a slice of the index at a time, and looked up when pulled."""
        app = self._app
        try:
            start: int | None = 0
            while start is not None:
                start, found = app.index.select(start, RELEASE_SLICE, place=SUPPRESSION)
                for r in found:
                    app.engine.place_ready(r, app.clock.monotonic())
                app.wake_soon()
                await asyncio.sleep(0)
        finally:
            self._releasing = None


def _domain_of(mailbox: bytes) -> bytes:
    """The domain of a reverse-path, in its one spelling; b"" where it has none."""
    domain = mailbox.rpartition(b"@")[2]
    return _spelled(domain) if domain else b""


def _spelled(domain: bytes) -> bytes:
    try:
        return domain_name(domain)
    except SuppressionError:
        return b""
