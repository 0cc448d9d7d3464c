"""Complaint rates: complaints about the mail of some days by its deliveries, in all and by source, provider, campaign
and From domain.

Deliveries are counted from the event logs (tail.py), complaints by complaints.py. A complaint counts for the day on
which the mail was sent, which its reference says; so the rate of a window is complaints about the mail of its days by
the deliveries of its days, and complaints about older mail change no newer rate.

LMDB `rates`:

    d, day (2 octets), by (1), name  →  deliveries, complaints (8 octets each)      days are since 1970, UTC
    p                                →  the provider of recipient domains that were seen lately
    c, hash                          →  day on which a complaint (unsubscribe) was counted

What was counted is written once a second. A day's names of one kind are bounded: those that come later are `other`.

The provider of a complaint is where mail to that domain was delivered. Its source is the address that the report names;
where it names none of ours, one of the sources that delivered to this provider on that day, drawn by their shares
(the same one for the same message), so that rates are right on the whole.

Known faults: what was counted in the last second before a crash may be missing, or counted twice; where a power loss
changed the end of a log that was read, deliveries of that file are counted again. A message that was
delivered on a later day than it was accepted counts its complaint on the day of acceptance. Where events do not name
the From domain, deliveries count for the domain of the reverse-path.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from fastrelay.config.feedback import Complaints
from fastrelay.feedback.eventfiles import Line, Wanted
from fastrelay.feedback.tail import decode

if TYPE_CHECKING:
    from fastrelay.feedback.ledger import Change
    from fastrelay.feedback.tail import Event

DATABASE = "rates"
DAY_SECONDS = 86400
KEEP_DAYS = 90  # of days, and of complaints that were counted
NAMES_OF_DAY = 5000  # of one kind
NAME_OCTETS = 250
DOMAINS = 5000  # whose provider is remembered
SAVE_DOMAINS_SECONDS = 60.0
SLICE = 1000
OTHER = "other"
UNKNOWN = "unknown"

BY = {"all": b"a", "source": b"s", "provider": b"p", "campaign": b"c", "sender": b"f"}
_SHOWN = {letter: word for word, letter in BY.items()}
_PAIR = b"x"  # source and provider, for the draw
_COUNTS = struct.Struct("<QQ")
_IS_DELIVERED = b'","event":"delivered","time":"'
# Date, reverse-path domain, source, provider, campaign; strings without escapes, in the order of the engine.
_DELIVERED = re.compile(
    rb'\{"key":"[^"]*","event":"delivered","time":"([^"]{10})[^"]*","id":"[^"]*","reverse_path":"(?:[^"\\@]*@)?([^"\\@]*)",'
    rb'(?:"mail_from":"[^"\\]*",)?"recipient":"[^"\\]*","domain":"[^"\\]*","attempt":\d+,"source":"([^"\\]*)",'
    rb'"site":"[^"\\]*","provider":"([^"\\]*)",(?:"[a-z_]+":(?:\d+|"[^"\\]*"),)*"queued_seconds":[\d.]+'
    rb'(?:,"campaign":"([^"\\]*)")?(?:,"[a-z_]+":(?:"[^"\\]*"|[a-z]+))*\}\n'
)
_PROVIDER = re.compile(
    rb'"domain":"([^"\\]*)","attempt":\d+,"source":"[^"\\]*","site":"[^"\\]*","provider":"([^"\\]*)"'
)
_LEARNED = 50  # domains of a slice whose provider is looked at
_EPOCH = date(1970, 1, 1).toordinal()


class Store(Protocol):
    """What is needed of the LMDB."""

    def get(self, database: str, key: bytes) -> bytes | None: ...
    def items(self, database: str, start: bytes = b"", limit: int = ...) -> list[tuple[bytes, bytes]]: ...
    def put_many(self, database: str, pairs: Iterable[tuple[bytes, bytes]]) -> None: ...
    def delete_many(self, database: str, keys: Iterable[bytes]) -> None: ...


class Row(msgspec.Struct, frozen=True):
    """One rate of the window. `share` None: too few deliveries to say."""

    by: str
    name: str
    delivered: int
    complaints: int
    share: float | None


class _Day:
    """The counts of one day: (by, name) → [deliveries, complaints]."""

    __slots__ = ("counts", "dirty", "names")

    def __init__(self) -> None:
        self.counts: dict[tuple[bytes, str], list[int]] = {}
        self.names: dict[bytes, int] = {}
        self.dirty: set[tuple[bytes, str]] = set()

    def of(self, by: bytes, name: str) -> tuple[tuple[bytes, str], list[int]]:
        key = (by, name)
        found = self.counts.get(key)
        if found is None:
            known = self.names.get(by, 0)
            if known >= NAMES_OF_DAY and name != OTHER:
                return self.of(by, OTHER)
            self.names[by] = known + 1
            found = self.counts[key] = [0, 0]
        return key, found


class Slices(Wanted):
    """In the place of a reader's choice of lines: counts the deliveries of a slice of a log at once, and gives no line.

    That takes half the time that the lines one by one take. It knows them as the engine writes them; a slice that
    has another one (a quoted local part, a state with attempts) is read line by line.
    """

    def __init__(self, rates: Rates) -> None:
        super().__init__({"delivered"})
        self._rates = rates

    def lines(self, log: str, octets: bytes, base: int) -> list[Line]:
        found = _DELIVERED.findall(octets)
        if len(found) != octets.count(_IS_DELIVERED):
            self._rates.delivered([one for line in super().lines(log, octets, base) if (one := decode(line.raw))])
        elif found:
            self._rates.delivered_slice(octets, found)
        return []


def day_of(wall: float) -> int:
    """Days since 1970, UTC."""
    return int(wall // DAY_SECONDS)


class Rates:
    """See the top. `today`: days since 1970."""

    def __init__(self, store: Store, config: Complaints, today: int) -> None:
        self._store = store
        self._config = config
        self._days: dict[int, _Day] = {}
        self._texts: dict[str, int] = {}
        self._providers: dict[str, str] = {}
        self._providers_saved = 0
        self._save_domains_at = 0.0
        self._today = today
        self._sweep_at: bytes | None = b""
        self._load()

    def configure(self, config: Complaints) -> None:
        self._config = config

    # -- counting -----------------------------------------------------------------------------------------------------

    def delivered(self, events: Sequence[Event]) -> None:
        """Takes `delivered` events of the logs."""
        groups: dict[tuple[str, str, str, str, str], int] = {}
        providers = self._providers
        for event in events:
            sender = event.sender_domain or event.reverse_path.rpartition("@")[2]
            group = (event.time[:10], event.source, event.provider, event.campaign, sender)
            groups[group] = groups.get(group, 0) + 1
            if event.domain in providers or len(providers) < DOMAINS:
                providers[event.domain] = event.provider
        self._add(groups)

    def delivered_slice(self, octets: bytes, found: list[tuple[bytes, ...]]) -> None:
        """The same, of a slice of a log and what _DELIVERED finds in it."""
        groups: dict[tuple[str, str, str, str, str], int] = {}
        for row, n in Counter(found).items():
            text, sender, source, provider, campaign = [part.decode("utf-8", "replace") for part in row]
            groups[text, source, provider, campaign, sender] = n
        self._add(groups)
        for match in islice(_PROVIDER.finditer(octets), _LEARNED):
            domain = match[1].decode("utf-8", "replace")
            if domain in self._providers or len(self._providers) < DOMAINS:
                self._providers[domain] = match[2].decode("utf-8", "replace")

    def _add(self, groups: dict[tuple[str, str, str, str, str], int]) -> None:
        for (text, source, provider, campaign, sender), n in groups.items():
            day = self._day_number(text)
            if day is not None:
                for by, name in _names(source, provider, campaign, sender):
                    self._count(day, by, name, 0, n)

    def _day_number(self, text: str) -> int | None:
        """Of a date as events write it; None for a day that can't be."""
        day = self._texts.get(text)
        if day is None:
            try:
                day = date.fromisoformat(text).toordinal() - _EPOCH
            except ValueError:
                return None
            if len(self._texts) > 100:
                self._texts.clear()
            self._texts[text] = day
        return day if self._today - KEEP_DAYS <= day <= self._today + 1 else None

    def complained(self, day: int, source: str, provider: str, campaign: str, sender: str) -> None:
        """One complaint about mail of a day. Written with the next flush."""
        if self._today - KEEP_DAYS <= day <= self._today + 1:
            for by, name in _names(source, provider, campaign, sender):
                self._count(day, by, name, 1, 1)

    def _count(self, day: int, by: bytes, name: str, which: int, n: int) -> None:
        counts = self._day(day)
        key, found = counts.of(by, name)
        found[which] += n
        counts.dirty.add(key)

    # -- reading ------------------------------------------------------------------------------------------------------

    def provider_of(self, domain: str) -> str:
        """The provider to which mail for a domain was delivered lately; "" where none is known."""
        return self._providers.get(domain, "")

    def source_of(self, day: int, provider: str, draw: int) -> str:
        """One of the sources that delivered to a provider on a day, by their shares; "" where none did. `draw`: a
        number from anywhere, the same for the same message."""
        counts = self._day(day).counts
        shares = [
            (name.partition("\0")[0], found[0])
            for (by, name), found in counts.items()
            if by == _PAIR and found[0] and name.partition("\0")[2] == provider
        ]
        whole = sum(n for _, n in shares)
        if not whole:
            return ""
        at = draw % whole
        for source, n in sorted(shares):
            at -= n
            if at < 0:
                return source
        return ""

    def window(self) -> dict[tuple[str, str], tuple[int, int]]:
        """(by, name) → (deliveries, complaints) of the days of the window."""
        days = max(1, round(self._config.window_seconds / DAY_SECONDS))
        sums: dict[tuple[str, str], tuple[int, int]] = {}
        for day in range(self._today - days + 1, self._today + 1):
            counts = self._days.get(day)
            if counts is None:
                continue
            for (by, name), (delivered, complaints) in counts.counts.items():
                word = _SHOWN.get(by)
                if word is not None:
                    before = sums.get((word, name), (0, 0))
                    sums[word, name] = (before[0] + delivered, before[1] + complaints)
        return sums

    def rows(self, by: str | None = None, most: int | None = None) -> list[Row]:
        """The rates of the window: of each kind the busiest first, at most `most`; the others are one, `other`."""
        sums = self.window()
        kinds: dict[str, list[tuple[str, int, int]]] = {word: [] for word in BY if by in (None, word)}
        for (word, name), (delivered, complaints) in sums.items():
            if word in kinds:
                kinds[word].append((name, delivered, complaints))
        rows = []
        for word, found in kinds.items():
            found.sort(key=lambda one: (one[0] == OTHER, -one[1], -one[2], one[0]))
            if most is not None and len(found) > most:
                rest = found[most:]
                found = [*found[:most], (OTHER, sum(one[1] for one in rest), sum(one[2] for one in rest))]
            rows += [Row(word, name, n, complaints, self.share(n, complaints)) for name, n, complaints in found]
        return rows

    def share(self, delivered: int, complaints: int) -> float | None:
        """None where there are too few deliveries."""
        return complaints / delivered if delivered >= self._config.least_delivered else None

    def told(self) -> list[list[Any]]:
        """What metrics show: [by, name, deliveries, complaints, share]. Bounded by complaints.campaigns."""
        most = self._config.campaigns
        return [[row.by, row.name, row.delivered, row.complaints, row.share] for row in self.rows(None, most)]

    # -- the store ----------------------------------------------------------------------------------------------------

    def _day(self, day: int) -> _Day:
        """The counts of a day; one that is older than the window is read when it is asked for."""
        counts = self._days.get(day)
        if counts is None:
            counts = self._days[day] = self._read_day(day)
        return counts

    def _read_day(self, day: int) -> _Day:
        counts = _Day()
        prefix = b"d" + day.to_bytes(2, "big")
        for key, value in _items(self._store, prefix):
            by, name = key[3:4], key[4:].decode("utf-8", "replace")
            if len(value) == _COUNTS.size and (by in _SHOWN or by == _PAIR):
                counts.counts[by, name] = list(_COUNTS.unpack(value))
                counts.names[by] = counts.names.get(by, 0) + 1
        return counts

    def _load(self) -> None:
        days = max(1, round(self._config.window_seconds / DAY_SECONDS))
        for day in range(self._today - days + 1, self._today + 1):
            self._day(day)
        raw = self._store.get(DATABASE, b"p")
        if raw is not None:
            try:
                self._providers = msgspec.msgpack.decode(raw, type=dict[str, str])
            except (msgspec.DecodeError, UnicodeDecodeError):
                self._providers = {}

    def changes(self) -> list[Change]:
        """What was counted since the last call, to be written."""
        found: list[Change] = []
        for day, counts in self._days.items():
            for by, name in counts.dirty:
                key = b"d" + day.to_bytes(2, "big") + by + name.encode("utf-8", "replace")[:NAME_OCTETS]
                found.append((DATABASE, key, _COUNTS.pack(*counts.counts[by, name])))
            counts.dirty.clear()
        return found

    def flush(self, now: float, today: int) -> None:
        """Once a second (monotonic seconds): writes what was counted. LmdbError: it is tried again at the next."""
        if today != self._today:
            self._turn(today)
        pairs = [(key, value) for _, key, value in self.changes() if value is not None]
        if now >= self._save_domains_at:
            self._save_domains_at = now + SAVE_DOMAINS_SECONDS
            octets = msgspec.msgpack.encode(self._providers)
            if hash(octets) != self._providers_saved:
                self._providers_saved = hash(octets)
                pairs.append((b"p", octets))
            if len(self._providers) >= DOMAINS:
                for domain in list(self._providers)[: DOMAINS // 2]:  # the oldest
                    del self._providers[domain]
        try:
            if pairs:
                self._store.put_many(DATABASE, pairs)
        except Exception:
            self._providers_saved = 0
            for key, _ in pairs:
                if key[:1] == b"d":
                    day = self._days[int.from_bytes(key[1:3], "big")]
                    day.dirty.update(one for one in day.counts if one[0] == key[3:4])
            raise
        self._sweep()

    def _turn(self, today: int) -> None:
        """A new day: days that are older than the window leave the memory, and what is too old the store."""
        self._today = today
        days = max(1, round(self._config.window_seconds / DAY_SECONDS))
        for day in [day for day, counts in self._days.items() if day <= today - days and not counts.dirty]:
            del self._days[day]
        self._sweep_at = b""

    def _sweep(self) -> None:
        """Removes what is too old, a slice at a time."""
        if self._sweep_at is None:
            return
        oldest = self._today - KEEP_DAYS
        found = self._store.items(DATABASE, self._sweep_at, SLICE)
        old = [
            key
            for key, value in found
            if (key[:1] == b"d" and int.from_bytes(key[1:3], "big") < oldest)
            or (key[:1] == b"c" and int.from_bytes(value, "big") < oldest)
        ]
        if old:
            self._store.delete_many(DATABASE, old)
        self._sweep_at = found[-1][0] + b"\0" if len(found) == SLICE else None


def _names(source: str, provider: str, campaign: str, sender: str) -> Iterator[tuple[bytes, str]]:
    source, provider = source[:NAME_OCTETS] or UNKNOWN, provider[:NAME_OCTETS] or OTHER
    yield b"a", ""
    yield b"s", source
    yield b"p", provider
    if campaign:
        yield b"c", _cut(campaign)
    if sender:
        yield b"f", _cut(sender.lower())
    if source != UNKNOWN:
        yield _PAIR, f"{source}\0{provider}"[:NAME_OCTETS]


def _cut(name: str) -> str:
    return name if len(name) < 60 else name.encode("utf-8", "replace")[:NAME_OCTETS].decode("utf-8", "ignore")


def _items(store: Store, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    """All entries whose key begins so."""
    start = prefix
    while True:
        found = store.items(DATABASE, start, SLICE)
        for key, value in found:
            if not key.startswith(prefix):
                return
            yield key, value
        if len(found) < SLICE:
            return
        start = found[-1][0] + b"\0"
