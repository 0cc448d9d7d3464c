"""Warm-up at work: the stage machine of every cold source, its state on disk, and the caps in the shared table.

One Track for each source with a plan × key of the plan (warmup.py). `tick`, once a second, counts what came of attempts
(cumulative counts of the workers' metrics files, so nothing is lost while we are down), lets the stage machine
(stages.py) do what is due, and writes caps and spreads into the table. Workers take from there.

The order that keeps a cap exact: the new period is on stable storage before its cap is opened in the table. After a
crash between the two the period is opened again, unused, since nobody could take from it. A table that is new, or from
before a boot, is told first what the spools have reserved of the period that is open (durable.py), then the cap.

Promise 8. Where the state on disk is missing or damaged, the source keeps the cap that the table has, for a whole day
from now; without one it is at its first stage, and the period that a spool knows of stays open with what was
reserved. A write that fails changes nothing that would allow more; it is tried again after RETRY_SECONDS.

The spread lets a day's cap out evenly over `spread`, or over what is left of the day if that is shorter (so that mail
that comes late can still reach the cap), but never over less than an eighth of it.

Known faults: counts of the last second of a day may fall to the next. Deliveries that settle while the supervisor
restarts count for the day in which it is back.
"""

from __future__ import annotations

import logging
import math
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from fastrelay._core.lmdb import LmdbError
from fastrelay.clock import Clock
from fastrelay.config.schema import Config
from fastrelay.config.sending import WarmupPlan
from fastrelay.limits import stages, warmup
from fastrelay.limits.days import HOUR_SECONDS, LEAST_DAY_NS, LEAST_HOUR_NS, Moment, host_was_down, seconds_to_midnight
from fastrelay.limits.durable import Reserved, cap_name
from fastrelay.limits.stages import Change, Progress, Tally
from fastrelay.limits.warmup import Ramp

log = logging.getLogger("fastrelay.warmup")

DATABASE = "warmup"
SAVE_SECONDS = 60.0  # counts alone are written so often; what they lose in a crash the metrics files still have
RETRY_SECONDS = 10.0
LOOK_SECONDS = 10.0  # days and hours are looked at so often; what is counted, at once
PERIOD_MOST = (1 << 20) - 2  # periods are numbers of 20 bits: 119 years of hours; a larger one is damage
WARM_CAP = 10**12  # in the cell of a source that is done, for a worker that has not heard of it yet
AT_ONCE = (1, 1_000_000_000)  # emission (ns) and burst of a spread that holds nothing back
BURST_SECONDS = 30.0  # of a spread rate at once, at least LEAST_BURST: what is due while a source connects is not lost
LEAST_BURST = 2
SHORTEST_PART = 8  # a spread is not squeezed below one part in so many
MARGIN_SHARE = 0.02  # of the span is left over for what is late
LONGEST_SHARE = 0.88  # of a day (hour) is the longest spread: the next one may open after 22 h (55 min)

Counts = Mapping[tuple[str, str, str], float]  # (outcome, provider, source) → cumulative count
Event = Callable[[str, dict[str, Any]], None]
_OUTCOMES = ("delivered", "deferred", "failed", "blocked")


class Store(Protocol):
    """What is needed of the LMDB `control`."""

    def get(self, database: str, key: bytes) -> bytes | None: ...
    def write(self, changes: list[tuple[str, bytes, bytes | None]]) -> None: ...


class CapTable(Protocol):
    """What is needed of the shared table."""

    def cell(self, name: bytes) -> int: ...
    def set_rate(self, cell: int, emission_ns: int, burst: int) -> None: ...
    def set_cap(self, cell: int, period: int, cap: int) -> bool: ...
    def set_used(self, cell: int, period: int, used: int) -> bool: ...
    def cap_used(self, cell: int) -> int: ...
    def cap_of(self, cell: int) -> int: ...
    def cap_period(self, cell: int) -> int: ...


def spread_name(source: str, key: str) -> bytes:
    """The cell of a spread."""
    return f"spread:{source}:{key}".encode()


def unit_seconds(cap: float, remaining: float, whole: float, left: float) -> float:
    """Seconds from one unit of a cap to the next.

    remaining  units that are not sent yet
    whole      seconds over which the cap is spread
    left       seconds that are left of its period
    """
    late = max(left, 0.0) / max(remaining, 1.0)
    return max(min(whole / cap, late), whole / SHORTEST_PART / cap) * (1 - MARGIN_SHARE)


@dataclass(slots=True)
class Track:
    """One source with one key. `saved`: what is on disk; `counts_of`: whose outcomes it counts, in a word."""

    source: str
    key: str
    plan_name: str
    plan: WarmupPlan
    ramp: Ramp
    progress: Progress
    cap_cell: int
    spread_cell: int
    counts_of: str
    saved: Progress | None = None
    complained: int = 0
    emission_ns: int = 0

    @property
    def name(self) -> bytes:
        return f"{self.source}\0{self.key}".encode()

    @property
    def words(self) -> str:
        """For the log."""
        return f"warm-up of {self.source}" + ("" if self.key == warmup.EVERY else f" at {self.key}")


class Warmup:
    """All tracks.

    counts    gives the cumulative outcomes of all workers; `blocked` beside those of metrics.names
    event     is told of what a stage does
    reserved  reads what spools have reserved; asked once, at the start, and only if the table does not know a cap
    """

    def __init__(
        self,
        config: Config,
        table: CapTable,
        store: Store,
        clock: Clock,
        counts: Callable[[], Counts],
        event: Event = lambda name, fields: None,
        reserved: Callable[[], Reserved] = Reserved,
    ) -> None:
        self.version = 0  # grows with every change that workers should hear of
        self.tracks: dict[tuple[str, str], Track] = {}
        self._table = table
        self._store = store
        self._clock = clock
        self._counts = counts
        self._event = event
        self._reserved = Reserved()
        self._last: dict[tuple[str, str, str], float] = {}
        self._totals: dict[tuple[str, str], list[float]] = {}  # of each track, in the order of _OUTCOMES
        self._look_at = -math.inf
        self._save_at = -math.inf
        self._retry_at = -math.inf
        self._read_config(config, reserved)

    # --- configuration ---

    def reload(self, config: Config) -> None:
        """Take over a configuration: plans that changed, sources that came or went. What is open stays open."""
        self._read_config(config, Reserved)

    def _read_config(self, config: Config, reserved: Callable[[], Reserved]) -> None:
        now = self.now()
        before, self.tracks = self.tracks, {}
        for source in config.sources:
            if source.warmup is None:
                continue
            plan = config.warmup[source.warmup]
            made = warmup.ramps(plan)
            others = ",".join(sorted(set(made) - {warmup.EVERY}))
            for key, ramp in made.items():
                track = Track(
                    source=source.name,
                    key=key,
                    plan_name=source.warmup,
                    plan=plan,
                    ramp=ramp,
                    counts_of=f"not {others}" if key == warmup.EVERY else key,
                    progress=stages.begin(plan, ramp, now),
                    cap_cell=self._table.cell(cap_name(source.name, key)),
                    spread_cell=self._table.cell(spread_name(source.name, key)),
                )
                self.tracks[source.name, key] = track
        self._last = {}
        self._totals = {identity: [0.0] * len(_OUTCOMES) for identity in self.tracks}
        self._count()
        if any(self._table.cap_period(track.cap_cell) == 0 for track in self.tracks.values()):
            self._reserved = reserved()
            for line in self._reserved.unreadable:
                log.error("warm-up: a spool's reservations cannot be read, so all caps count as used: %s", line)
        for identity, track in self.tracks.items():
            known = before.get(identity)
            record: Record | None
            if known is not None:
                record = _record(known)
                track.saved, track.complained = known.saved, known.complained
            else:
                record = self._load(track, now)
            self._take_up(track, record, self._seen(identity), now)
        if self._save(list(self.tracks.values())):
            for track in self.tracks.values():
                self._open(track, now)
        self._reserved = Reserved()
        self.version += 1

    def _take_up(self, track: Track, record: Record | None, seen: Tally, now: Moment) -> None:
        """Go on where a record left off, or begin; in the latter case, after what a table or a spool knows."""
        table_period = self._table.cap_period(track.cap_cell)
        period, _ = self._reserved.get((track.source, track.key), (0, 0))
        known_period = max(table_period, period if period < PERIOD_MOST else 0)
        if record is None:
            progress = stages.begin(track.plan, track.ramp, now, period=max(1, known_period))
            if known_period:
                progress = self._unknown(track, progress)
            track.progress = msgspec.structs.replace(progress, seen=seen)
        else:
            track.progress = stages.refitted(record.progress, track.ramp, record.cap, now)
            if record.counts_of != track.counts_of:
                track.progress = msgspec.structs.replace(track.progress, seen=seen)
            if track.progress.period < known_period:
                log.warning(
                    "%s: its state on disk is older than its cap; it goes on with the newer cap's period", track.words
                )
                track.progress = msgspec.structs.replace(track.progress, period=known_period)
        if not table_period:
            used = self._reserved.used(track.source, track.key, track.progress.period)
            self._table.set_used(track.cap_cell, track.progress.period, used)

    def _unknown(self, track: Track, progress: Progress) -> Progress:
        """Without a state on disk, but a cap in the table or in a spool: nothing rises before a day is over."""
        cap = self._table.cap_of(track.cap_cell)
        log.error(
            "%s: its state in the store `control` is missing or damaged. It goes on with %s, for a day at least; "
            "`fastrelay warmup set %s STAGE` puts it right",
            track.words,
            f"its last cap, {cap}" if cap else "its first stage",
            track.source,
        )
        if not cap:
            return progress
        cap = min(cap, track.ramp.caps[-1])
        return msgspec.structs.replace(progress, stage=track.ramp.stage_at(cap), ceiling=cap)

    # --- the store ---

    def _load(self, track: Track, now: Moment) -> Record | None:
        """What is on disk; None where nothing is, or where it is damaged."""
        try:
            octets = self._store.get(DATABASE, track.name)
            if octets is None:
                return None
            record = _decoded(octets)
        except (LmdbError, ValueError, msgspec.ValidationError) as error:
            log.error("%s: its state cannot be read: %s", track.words, error)
            return None
        track.saved = record.progress
        return record

    def _save(self, tracks: list[Track]) -> bool:
        """On stable storage when True. A failure is said in the log, and tried again later."""
        changed = [track for track in tracks if track.saved != track.progress]
        try:
            if changed:
                self._store.write([(DATABASE, track.name, _encoded(_record(track))) for track in changed])
        except LmdbError as error:
            self._retry_at = self._clock.monotonic() + RETRY_SECONDS
            log.error("warm-up: the state could not be written (%s); no stage moves on until it can", error)
            return False
        for track in changed:
            track.saved = track.progress
        return True

    # --- the table ---

    def _open(self, track: Track, now: Moment) -> None:
        """Write spread and cap into the table; what is on disk already says so."""
        cap = stages.cap_of(track.progress, track.ramp)
        self._spread(track, cap, now)
        limit = WARM_CAP if cap is None else cap
        if not self._table.set_cap(track.cap_cell, track.progress.period, limit):
            log.error("%s: the shared table has no room for its cap; it sends nothing until a restart", track.words)

    def _spread(self, track: Track, cap: int | None, now: Moment) -> None:
        """The rate that lets the cap out: see the top."""
        emission, burst = AT_ONCE
        if cap and track.plan.spread_seconds:
            whole, left = self._span(track, now)
            remaining = cap - self._table.cap_used(track.cap_cell)
            emission = max(1, int(unit_seconds(cap, remaining, whole, left) * 1e9))
            burst = max(LEAST_BURST, int(cap * BURST_SECONDS / whole))
        if abs(emission - track.emission_ns) > track.emission_ns // 200:
            track.emission_ns = emission
            self._table.set_rate(track.spread_cell, emission, burst)

    def _span(self, track: Track, now: Moment) -> tuple[float, float]:
        """Seconds over which a cap is spread, and those that are left of the open period."""
        progress = track.progress
        period, least = (progress.hour, LEAST_HOUR_NS) if progress.hour else (progress.day, LEAST_DAY_NS)
        if progress.hour is None:
            to_end = seconds_to_midnight(now.wall, track.plan.time_zone)
        else:
            to_end = HOUR_SECONDS - now.wall % HOUR_SECONDS
        if not host_was_down(period, now):
            to_end = max(to_end, (least - (now.boot_ns - period.boot_ns)) / 1e9)
        longest = track.ramp.period_seconds * LONGEST_SHARE
        return min(track.plan.spread_seconds, longest), to_end

    # --- once a second ---

    def tick(self) -> None:
        """Count, and do what is due."""
        if not self.tracks:
            return
        now, monotonic = self.now(), self._clock.monotonic()
        due: list[tuple[Track, Progress, list[Change]]] = []
        may_move = monotonic >= self._retry_at
        concerned: Iterable[tuple[str, str]] = self._count()
        if monotonic >= self._look_at:
            self._look_at = monotonic + LOOK_SECONDS
            concerned = list(self.tracks)
        for identity in concerned:
            track = self.tracks[identity]
            track.progress = stages.counted(track.progress, self._seen(identity), track.complained)
            track.complained = 0
            progress, changes = stages.turned(track.progress, track.plan, track.ramp, now)
            if progress is not track.progress:
                due.append((track, progress, changes))
        if due and may_move:
            self._move(due, now)
        if monotonic >= self._save_at and may_move:
            self._save_at = monotonic + SAVE_SECONDS
            self._save(list(self.tracks.values()))
        for identity in concerned:
            track = self.tracks[identity]
            self._spread(track, stages.cap_of(track.progress, track.ramp), now)

    def _move(self, due: list[tuple[Track, Progress, list[Change]]], now: Moment) -> bool:
        """Write what is due, then open it and tell. What would allow less is done even where it cannot be written."""
        before = {id(track): track.progress for track, _, _ in due}
        for track, progress, _ in due:
            track.progress = progress
        if not self._save([track for track, _, _ in due]):
            for track, progress, _ in due:
                track.progress = before[id(track)]
                if progress.state == "stopped":
                    self._table.set_cap(track.cap_cell, track.progress.period, 0)
            return False
        for track, _, changes in due:
            self._open(track, now)
            for change in changes:
                self._tell(track, change)
        self.version += 1
        return True

    def _tell(self, track: Track, change: Change) -> None:
        """The log and the events."""
        cap = stages.cap_of(track.progress, track.ramp)
        words = _WORDS[change.kind].format(from_=change.from_stage, to=change.to_stage, of=len(track.ramp.caps))
        level = logging.WARNING if change.kind in ("held", "stepped_back", "stopped") else logging.INFO
        limit = "" if cap is None else f"; cap {cap} per {track.ramp.per}"
        mend = f"; `fastrelay warmup resume {track.source}` goes on" if change.kind == "stopped" else ""
        log.log(level, "%s: %s (%s)%s%s", track.words, words, change.why, limit, mend)
        fields = {
            "source": track.source,
            "key": track.key,
            "act": change.kind,
            "from": change.from_stage,
            "to": change.to_stage,
            "stages": len(track.ramp.caps),
            "cap": cap,
            "why": change.why,
        }
        held = change.kind in ("held", "stopped", "resumed")
        self._event("warmup_held" if held else "warmup_stage", fields)

    # --- what comes in ---

    def complained(self, source: str, place: str, n: int = 1) -> None:
        """Complaints about mail of a source to a provider."""
        track = self.tracks.get((source, place)) or self.tracks.get((source, warmup.EVERY))
        if track is not None:
            track.complained += n

    def _count(self) -> set[tuple[str, str]]:
        """Bring the cumulative counts of the tracks up to date; those that changed."""
        changed = set()
        for series, n in self._counts().items():
            before = self._last.get(series, 0.0)
            if n == before:
                continue
            self._last[series] = n
            outcome, provider, source = series
            identity = (source, provider) if (source, provider) in self.tracks else (source, warmup.EVERY)
            totals = self._totals.get(identity)
            if totals is None:
                continue
            if outcome in _OUTCOMES:
                totals[_OUTCOMES.index(outcome)] += n - before
                changed.add(identity)
            elif outcome == "greylisted":  # these were counted as deferred, and say nothing about the source
                totals[_OUTCOMES.index("deferred")] -= n - before
                changed.add(identity)
        return changed

    def _seen(self, identity: tuple[str, str]) -> Tally:
        """Cumulative counts of a track."""
        return Tally(*map(int, self._totals[identity]))

    def now(self) -> Moment:
        """All clocks."""
        return Moment(self._clock.wall(), self._clock.boottime_ns(), self._clock.boot_id())

    # --- an operator ---

    def chosen(self, source: str | None, key: str | None) -> list[Track]:
        """The tracks that a command means. Raises ValueError in words."""
        tracks = [
            track for track in self.tracks.values() if source in (None, track.source) and key in (None, track.key)
        ]
        if tracks:
            return tracks
        of_source = [track.key for track in self.tracks.values() if track.source == source]
        if source is not None and not of_source:
            there = ", ".join(sorted({track.source for track in self.tracks.values()}))
            raise ValueError(f"source {source} has no warm-up; " + (f"these have: {there}" if there else "none has"))
        if source is not None:
            raise ValueError(f"{source} has no schedule of its own for {key}; it has: {', '.join(of_source)}")
        raise ValueError(f"no source has a schedule of its own for {key}" if key else "no source has a warm-up")

    def act(self, tracks: list[Track], step: Callable[[Track], stages.Step]) -> bool:
        """Do the same with all of them; on stable storage and in force when this is True. Raises ValueError."""
        due = [(track, *step(track)) for track in tracks]
        return self._move(due, self.now())

    def used(self, track: Track) -> int:
        """Units of the open period's cap that were sent, or are reserved by a worker."""
        return 0 if track.progress.state == "done" else int(self._table.cap_used(track.cap_cell))


class Record(msgspec.Struct, frozen=True):
    """What the store has of a track. cap: of its stage; counts_of: whose outcomes were counted."""

    progress: Progress
    cap: int
    counts_of: str


def _record(track: Track) -> Record:
    caps = track.ramp.caps
    return Record(track.progress, caps[min(track.progress.stage, len(caps) - 1)], track.counts_of)


def _encoded(record: Record) -> bytes:
    """JSON with its CRC32 before it: LMDB does not notice a flipped bit."""
    text = msgspec.json.encode(record)
    return b"%08x " % zlib.crc32(text) + text


def _decoded(octets: bytes) -> Record:
    """Raises ValueError (msgspec.ValidationError)."""
    checksum, _, text = octets.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(text):
        raise ValueError("its checksum is wrong")
    return msgspec.json.decode(text, type=Record)


_WORDS = {
    "advanced": "stage {to} of {of}",
    "done": "the schedule is done: the source is warm",
    "held": "held at stage {from_} of {of}",
    "stepped_back": "back from stage {from_} to {to} of {of}",
    "stopped": "stopped at stage {from_} of {of}",
    "resumed": "resumed at stage {from_} of {of}",
    "set": "set from stage {from_} to {to} of {of}",
}
