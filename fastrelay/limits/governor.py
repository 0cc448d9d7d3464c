"""The governor: what decides over time how fast mail may leave. One a relay, in the supervisor (or a simulation).

`tick()` once a second reads what became of attempts (the workers' metrics files), and writes caps, spreads and adaptive
rates into the shared table, where workers find them at their next permit. What must be told in words (back-offs, the
view of warm-up) is in `told()`, which the supervisor gives to all workers whenever `version` has changed.

Its parts: warm-up (warming.py) and back-off (backoff.py, adaptive.py). Each keeps its state in the LMDB `control`, and
what it cannot read or write never makes anything faster.

Known faults: a part that fails in its tick is reported and tried again at the next; the others go on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from fastrelay._core.slab import Slab
from fastrelay.clock import Clock
from fastrelay.config.schema import Config
from fastrelay.errors import FastrelayError
from fastrelay.limits import stages, warmup_view
from fastrelay.limits.backoff import Backoffs, RateTable
from fastrelay.limits.backoff import Store as BackoffStore
from fastrelay.limits.durable import Reserved
from fastrelay.limits.warming import CapTable, Counts, Event, Track, Warmup
from fastrelay.limits.warming import Store as WarmupStore
from fastrelay.metrics import names

OUTCOMES = names.OUTCOMES_TOTAL.name
BESIDE_OUTCOMES = {"blocked": names.BLOCKS.name, "greylisted": names.GREYLISTED.name}

log = logging.getLogger("fastrelay.governor")

DATABASES = ("warmup", "backoff")  # in the LMDB `control`
REPORTS = ("reply_rule", "complaint")  # events of workers that are for report()
COMMANDS = ("warmup.status", "warmup.plan", "warmup.set", "warmup.hold", "warmup.resume")


class GovernorError(FastrelayError):
    """A command that cannot be carried out, in words."""


class SlabCounts:
    """Reads the cumulative outcomes of all workers: {(outcome, provider, source): n}, where `blocked` are replies that
    refuse the source and `greylisted` is a part of `deferred`.

    Which series those are is looked up once, so a read costs a look at each value.

    slabs  gives the metrics files
    """

    def __init__(self, slabs: Callable[[], Iterable[Slab]]) -> None:
        self._slabs = slabs
        self._known: dict[Slab, tuple[int, list[tuple[int, tuple[str, str, str]]]]] = {}

    def __call__(self) -> dict[tuple[str, str, str], float]:
        counts: dict[tuple[str, str, str], float] = {}
        for slab in self._slabs():
            size, series = self._known.get(slab, (0, []))
            if size != len(slab):
                size, series = self._known[slab] = len(slab), _outcome_series(slab)
            for entry, key in series:
                counts[key] = counts.get(key, 0.0) + slab.value(entry)
        return counts


def _outcome_series(slab: Slab) -> list[tuple[int, tuple[str, str, str]]]:
    """(entry, (outcome, provider, source)) of a metrics file; its labels are sorted by name."""
    outcomes = [(entry, tuple(value for _, value in labels)) for entry, labels in slab.series(OUTCOMES)]
    beside = [
        (entry, (word, *(value for _, value in labels)))
        for word, name in BESIDE_OUTCOMES.items()
        for entry, labels in slab.series(name)
    ]
    return [(entry, key) for entry, key in (*outcomes, *beside) if len(key) == 3]


def slab_counts(slabs: Iterable[Slab]) -> dict[tuple[str, str, str], float]:
    """One read of SlabCounts."""
    return SlabCounts(lambda: slabs)()


class SharedTable(CapTable, RateTable, Protocol):
    """What is needed of the shared table."""


class Store(WarmupStore, BackoffStore, Protocol):
    """What is needed of the LMDB `control`."""


class Governor:
    """See the top.

    counts    cumulative {(outcome, provider, source): n} of all workers (slab_counts)
    event     is told (name, fields) of what is decided, for the relay's event log
    reserved  reads what spools have reserved of caps (durable.reserved); asked at the start, if the table is new
    """

    def __init__(
        self,
        config: Config,
        table: SharedTable,
        store: Store,
        clock: Clock,
        counts: Callable[[], Counts],
        *,
        event: Event = lambda name, fields: None,
        reserved: Callable[[], Reserved] = Reserved,
    ) -> None:
        self.config = config
        self.clock = clock
        self._read_counts = counts
        self._counts = counts()
        self.warmup = Warmup(config, table, store, clock, lambda: self._counts, event, reserved)
        self.backoffs = Backoffs(config, table, store, clock, lambda: self._counts, event)

    @property
    def version(self) -> int:
        """Grows whenever workers should get `told()` again."""
        return self.warmup.version + self.backoffs.version

    def reload(self, config: Config) -> None:
        """Take over a configuration."""
        self.config = config
        self._counts = self._read_counts()
        self.warmup.reload(config)
        self.backoffs.reload(config)

    def tick(self) -> None:
        """Once a second."""
        for part in (self._look, self.backoffs.tick, self.warmup.tick):
            try:
                part()
            except Exception:
                log.exception("a part of the governor failed; please report this")

    def _look(self) -> None:
        self._counts = self._read_counts()

    def report(self, event: dict[str, Any]) -> None:
        """What a worker tells: a reply that a rule matched (`reply_rule`), or a complaint (`complaint`: source, place,
        n). Blocks are not counted from here, but from the metrics files, which outlast a restart."""
        if event.get("event") == "reply_rule":
            self.backoffs.report(event)
        elif event.get("event") == "complaint":
            self.warmup.complained(str(event.get("source")), str(event.get("place")), int(event.get("n") or 1))

    def told(self) -> dict[str, Any]:
        """What workers must hear of state(): of warm-up only who is warm by now, since caps are in the table."""
        done = [track for track in self.warmup.tracks.values() if track.progress.state == "done"]
        return {
            "warmup": [{"source": track.source, "key": track.key, "cold": False} for track in done],
            "backoffs": self.backoffs.active(),
            "adaptive": self.backoffs.adaptive(),
        }

    def state(self) -> dict[str, Any]:
        """For metrics and people."""
        return {
            "warmup": warmup_view.rows(self.warmup),
            "backoffs": self.backoffs.active(),
            "adaptive": self.backoffs.adaptive(),
        }

    # --- commands ---

    def command(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """A command of the control socket; what it changes is on stable storage and in force when this returns.

        Raises GovernorError in words.
        """
        known = {"source", "provider", *_ARGUMENTS.get(name, ())}
        unknown = sorted(set(arguments) - known)
        if unknown:
            raise GovernorError(f"{name} has no argument {unknown[0]!r}")
        try:
            tracks = self.warmup.chosen(_text(arguments, "source"), _text(arguments, "provider"))
            return self._on_warmup(name.removeprefix("warmup."), tracks, arguments)
        except ValueError as error:
            if name == "warmup.status" and not arguments:
                return {"warmup": []}
            raise GovernorError(str(error)) from None

    def _on_warmup(self, act: str, tracks: list[Track], arguments: dict[str, Any]) -> dict[str, Any]:
        if act == "status":
            return {"warmup": warmup_view.status(self.warmup, tracks)}
        if act == "plan":
            return {"warmup": warmup_view.plan(self.warmup, tracks)}
        if _text(arguments, "source") is None:
            raise ValueError(f"warmup.{act} wants a source")
        why = _text(arguments, "why") or ""
        steps: dict[str, Callable[[Track], stages.Step]] = {
            "set": lambda track: stages.set_stage(
                track.progress, track.plan, track.ramp, _stage(arguments, track), self.warmup.now(), why
            ),
            "hold": lambda track: stages.hold(track.progress, why),
            "resume": lambda track: stages.resume(track.progress, why),
        }
        if act in ("hold", "resume") and len(tracks) > 1:
            tracks = [track for track in tracks if _able(act, track)] or tracks
        if not self.warmup.act(tracks, steps[act]):
            raise ValueError("the state could not be written, so nothing was changed; the relay's log says more")
        return {"warmup": warmup_view.status(self.warmup, tracks)}


_ARGUMENTS = {"warmup.set": ("stage", "why"), "warmup.hold": ("why",), "warmup.resume": ("why",)}


def _able(act: str, track: Track) -> bool:
    """Of several tracks of a source, those that can be held (resumed) are."""
    return track.progress.state in (("running", "held") if act == "hold" else ("held", "stopped"))


def _text(arguments: dict[str, Any], name: str) -> str | None:
    value = arguments.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name} is a text")
    return value or None


def _stage(arguments: dict[str, Any], track: Track) -> int:
    """From 0. `done` is behind the last one."""
    value = arguments.get("stage")
    if value == "done":
        return len(track.ramp.caps)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"a stage is a number from 1 to {len(track.ramp.caps)}, or done")
    if value > len(track.ramp.caps):
        raise ValueError(f"{track.words} has {len(track.ramp.caps)} stages; to end it, set done")
    return value - 1
