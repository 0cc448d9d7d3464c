"""What rules about replies ordered, in the supervisor: suspensions, cuts, slow rates, their ends and their recovery.

Workers report the rules that fired (`report`); once a second `tick` ends what is over, asks the adaptive controllers
(adaptive.py) and writes the rates into the shared table, where each worker finds them at its next permit. What workers
must be told in words is in `active`; `version` changes with it.

    order         while it holds                           then
    suspend       the source sends nothing to the place    a slow start: from backoff.slowest_rate, as below
    connections   at most so many                          one more each eighth of backoff.recover, then no cut
    slow          at most so fast                          additively faster, within backoff.recover back to the rate
                                                           before; then the adaptive rate alone

A place is a provider, or the key of a site of none. Mail to a provider is counted for each source, and its adaptive
rate is found from that (adaptive.py). Sites of no provider are not counted one by one; once one of them was throttled,
what its bucket in the shared table let out stands for that (grants.py).

What holds is kept in the LMDB `control`, database `backoff`, once a second: a crash within that second forgets an
order, and the next refusal gives it again. Times are boot time inside and remaining seconds on disk, so a wall clock
that jumps ends nothing early. Nothing here makes anything faster than the configuration allows: the rates are one more
rule beside those.

Known faults: a suspension's `until_wall` is not told anew when the wall clock jumps.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import msgspec

from fastrelay._core.lmdb import LmdbError
from fastrelay.clock import Clock, iso_utc
from fastrelay.config.schema import Config
from fastrelay.limits.adaptive import AdaptiveRate
from fastrelay.limits.grants import Grants
from fastrelay.limits.matching import rules_of
from fastrelay.limits.rate import parse_rate
from fastrelay.limits.rules_file import Rule
from fastrelay.route.providers import OTHER

log = logging.getLogger("fastrelay.backoff")

DATABASE = "backoff"
HOUR_NS = 3600 * 10**9
MAX_PLACES = 20_000  # source × place pairs that are kept; what holds nothing goes first
SAVE_SECONDS = 60.0  # a rate that only grows is written so often
TOLD_SECONDS = 60.0  # a rule that goes on firing is an event so often
CUT_STEPS = 8
PACE_SECONDS = 60.0  # the rate of just now is that of so long
UNCOUNTED_PER_HOUR = 3600.0  # the rate that a site of no provider had, for all we know
UNDER_WAY_SECONDS = 10.0
BURST_SECONDS = 0.05  # of an adaptive rate at once
REPLY_CHARACTERS = 300

Counts = Mapping[tuple[str, str, str], float]  # (outcome, provider, source) → cumulative count
Event = Callable[[str, dict[str, Any]], None]
Key = tuple[str, str]  # source, place
COUNTED = frozenset({"delivered", "failed", "deferred"})
Order = Literal["suspend", "connections", "slow"]


class Store(Protocol):
    """What is needed of the LMDB `control`."""

    def items(self, database: str) -> list[tuple[bytes, bytes]]: ...
    def write(self, changes: list[tuple[str, bytes, bytes | None]]) -> None: ...


class RateTable(Protocol):
    """What is needed of the shared table."""

    def cell(self, name: bytes) -> int: ...
    def set_rate(self, cell: int, emission_ns: int, burst: int) -> None: ...
    def rate_of(self, cell: int) -> tuple[int, int]: ...
    def take_recorded(self, cell: int, now_ns: int, most: int) -> int: ...
    def look(self, cell: int, now_ns: int, emission_ns: int, burst: int) -> int: ...


@dataclass(slots=True)
class Hold:
    """One order. `until` in seconds of boot time; `why`: the reply."""

    order: Order
    rule: str
    why: str
    until: float
    since: float  # of a rate: when it became that
    connections: int = 0
    steps: int = 0  # of a cut's recovery
    rate: float = 0.0  # messages an hour: of `slow`, while it holds
    top: float = math.inf  # where its recovery ends


@dataclass(slots=True)
class Place:
    """All about one source at one place."""

    provider: str
    cell: int
    rate: AdaptiveRate
    holds: dict[str, Hold] = field(default_factory=dict)
    throttled: int = 0  # replies reported since the last tick
    explained: int = 0  # deferrals reported by rules that are not about how fast we send, and not yet counted
    pace: float = 0.0  # answered recipients an hour, of late
    counted_at: float = 0.0
    grants: Grants = field(default_factory=Grants)  # of a site of no provider
    saved: dict[str, Any] | None = None
    saved_at: float = -math.inf
    last: dict[str, Any] | None = None  # the last rule that fired, for people
    fired: dict[str, int] = field(default_factory=dict)
    written: bool = False  # a rate of ours is in the table

    @property
    def quiet(self) -> bool:
        """Nothing holds, nothing is known."""
        return not self.holds and self.rate.mode == "free" and not self.written


def adaptive_cell(source: str, place: str) -> bytes:
    """The cell of an adaptive rate in the shared table."""
    return f"adaptive:{source}:{place}".encode()


def cell_rule(per_hour: float) -> tuple[int, int]:
    """(emission_ns, burst) of a rate, rounded to the slow side."""
    return math.ceil(HOUR_NS / per_hour), max(1, int(per_hour / 3600 * BURST_SECONDS))


class Backoffs:
    """See the top. `counts` gives the cumulative outcomes of all workers; `event` is told of what begins and ends."""

    def __init__(
        self,
        config: Config,
        table: RateTable,
        store: Store,
        clock: Clock,
        counts: Callable[[], Counts],
        event: Event = lambda name, fields: None,
    ) -> None:
        self.version = 1
        self._table = table
        self._store = store
        self._clock = clock
        self._counts = counts
        self._event = event
        self._places: dict[Key, Place] = {}
        self._told: dict[tuple[str, str, str], tuple[float, int]] = {}
        self._counting = False
        self._seen: Counts = {}
        self.reload(config)
        self._load()

    def reload(self, config: Config) -> None:
        """Take over a configuration. What holds goes on, unless back-off is switched off."""
        self._slowest = parse_rate(config.backoff.slowest_rate).per_hour
        self._recover = config.backoff.recover_seconds
        self._enabled = config.backoff.enabled
        self._rules = rules_of(config)
        for place in self._places.values():
            place.rate.slowest_per_hour = self._slowest
        if not self._enabled:
            for place in self._places.values():
                place.holds.clear()
                place.rate = AdaptiveRate(self._slowest)
                self._write(place)
            self.version += 1

    # -- what workers tell --------------------------------------------------------------------------------------------

    def report(self, event: dict[str, Any]) -> None:
        """A rule fired: {"rule", "source", "place", "provider", "code", "enhanced", "text", "attempts"}."""
        rule = self._rules.by_name.get(str(event.get("rule")))
        if rule is None or not self._enabled:
            return  # of another configuration
        source, name = str(event.get("source")), str(event.get("place"))
        attempts = max(1, int(event.get("attempts") or 1))
        now = self._now()
        place = self._place(source, name, str(event.get("provider") or name))
        reply = f"{event.get('code')} {event.get('text') or ''}".strip()[:REPLY_CHARACTERS]
        place.last = {
            "rule": rule.name, "reply": reply, "time": iso_utc(self._clock.wall()), "advice": rule.advice,
            "source_of_rule": rule.source,
        }  # fmt: skip
        place.fired[rule.name] = place.fired.get(rule.name, 0) + attempts
        if rule.actions.slows:
            place.throttled += attempts
        elif str(event.get("code") or "").startswith("4"):
            place.explained += attempts
        self._act(rule, place, reply, now)
        self._tell(rule, source, name, place, event, attempts, now)
        self._write(place)

    def _act(self, rule: Rule, place: Place, reply: str, now: float) -> None:
        """The orders of a rule; of two of a kind the one that ends later, or is stricter, stays."""
        actions = rule.actions
        lasts = actions.for_seconds or self._recover
        pace = self._pace(place, now)
        rest = actions.suspend_seconds or (lasts if actions.switch_source else None)
        if rest is not None:
            self._order(place, Hold("suspend", rule.name, reply, now + rest, now, top=pace))
        if actions.connections is not None:
            cut = Hold("connections", rule.name, reply, now + lasts, now, connections=actions.connections)
            self._order(place, cut)
        rate = None
        if actions.slow_to is not None:
            rate = parse_rate(actions.slow_to).per_hour
        elif actions.slow_by_share is not None:
            rate = max(self._slowest, pace * (1 - actions.slow_by_share))
        if rate is not None:
            self._order(place, Hold("slow", rule.name, reply, now + lasts, now, rate=rate, top=max(rate, pace)))

    def _pace(self, place: Place, now: float) -> float:
        """Messages an hour that the source sent there until just now."""
        slow = place.holds.get("slow")
        if slow is not None:
            return self._slow_rate(slow, now)
        open_rate = place.rate.rate_per_hour if place.rate.mode not in ("free", "blocked") else None
        return min(place.pace or UNCOUNTED_PER_HOUR, open_rate or math.inf)

    def _order(self, place: Place, hold: Hold) -> None:
        there = place.holds.get(hold.order)
        if there is not None and hold.order == "slow":
            hold.top = max(hold.top, there.top)
            # Replies to what was under way when it was slowed are no news: they do not slow it again.
            if hold.rate >= there.rate or hold.since - there.since < UNDER_WAY_SECONDS:
                hold.rate = min(self._slow_rate(there, hold.since), max(hold.rate, there.rate))
                hold.since = there.since if hold.rate == there.rate else hold.since
        if there is not None and there.until > hold.since:
            if hold.order == "connections":
                hold.connections = min(hold.connections, there.connections)
            hold.until = max(hold.until, there.until)
            hold.top = max(hold.top, there.top) if hold.order == "suspend" else hold.top
        place.holds[hold.order] = hold
        self.version += 1

    def _tell(
        self, rule: Rule, source: str, name: str, place: Place, event: dict[str, Any], attempts: int, now: float
    ) -> None:
        """The event `rule_fired`: at the first time, then once a minute with what came together."""
        key = (rule.name, source, name)
        told_at, untold = self._told.get(key, (-math.inf, 0))
        if now - told_at < TOLD_SECONDS:
            self._told[key] = (told_at, untold + attempts)
            return
        if len(self._told) >= MAX_PLACES:
            self._told.clear()
        self._told[key] = (now, 0)
        holds = {hold.order: self._in_words(hold, now) for hold in place.holds.values() if hold.rule == rule.name}
        self._event(
            "rule_fired",
            {
                "rule": rule.name, "source": source, "place": name, "provider": place.provider,
                "code": event.get("code"), "enhanced": event.get("enhanced") or None,
                "reply": str(event.get("text") or "")[:REPLY_CHARACTERS], "recipients": attempts + untold,
                "treat_as": rule.actions.treat_as, "holds": holds, "advice": rule.advice,
            },
        )  # fmt: skip

    # -- once a second ------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Ends what is over, moves the rates, writes what has changed."""
        now = self._now()
        self._count(now)
        for (source, name), place in list(self._places.items()):
            if place.quiet and place.saved is None:
                continue
            for hold in list(place.holds.values()):
                self._advance(source, name, place, hold, now)
            self._write(place)
        self._save(now)

    def _count(self, now: float) -> None:
        """What was answered since the last tick, for the controllers."""
        if not self._enabled:
            return
        counts, seen = self._counts(), self._seen
        changed: dict[Key, list[float]] = {}
        for series, n in counts.items():
            before = seen.get(series, 0.0)
            if n == before:
                continue
            outcome, provider, source = series
            if outcome in COUNTED and provider != OTHER and source != "none":
                changed.setdefault((source, provider), [0.0, 0.0])[outcome == "deferred"] += n - before
        self._seen = dict(counts)
        if not self._counting:  # what was counted before our time
            self._counting = True
            return
        for source, provider in changed:
            if (source, provider) not in self._places:
                self._place(source, provider, provider)
        for key, place in self._places.items():
            new = changed.get(key)
            if place.provider == OTHER:
                self._observe_bucket(place, now)
            elif new is not None or place.throttled or place.rate.mode != "free":
                self._observe(place, now, *(new or (0.0, 0.0)))

    def _observe_bucket(self, place: Place, now: float) -> None:
        """A site of no provider: what its rate let out, less what was refused."""
        if not place.written and not place.throttled:
            return
        place.grants.look(self._table, place.cell, self._clock.boottime_ns())
        if place.throttled:
            place.grants.refused(place.throttled)
        mode = place.rate.mode
        self._observe(place, now, place.grants.taken(now), 0.0)
        if place.rate.mode == "blocked" and mode != "blocked":
            place.grants.clear()

    @staticmethod
    def _observe(place: Place, now: float, answered: float, deferred: float) -> None:
        """What was answered at one place since the last look."""
        elapsed, place.counted_at = now - place.counted_at, now
        if elapsed > 0:
            pace = (answered + deferred) * 3600.0 / elapsed
            place.pace += (pace - place.pace) * min(1.0, elapsed / PACE_SECONDS)
        throttled, place.throttled = place.throttled, 0
        explained = min(place.explained, max(0, round(deferred) - throttled))
        place.explained -= explained
        taken = max(0, round(answered)) + explained
        place.rate.observe(now, taken, max(0, round(deferred) - explained, throttled), throttled)

    def _advance(self, source: str, name: str, place: Place, hold: Hold, now: float) -> None:
        """One order: does it still hold, and what comes after it?"""
        if now < hold.until:
            return
        past = now - hold.until
        if hold.order == "suspend":
            slow = Hold("slow", hold.rule, hold.why, now, now, rate=self._slowest, top=max(self._slowest, hold.top))
            place.holds.setdefault("slow", slow)
            self._end(source, name, place, hold)
        elif hold.order == "connections":
            steps = int(past * CUT_STEPS / self._recover)
            if steps >= CUT_STEPS:
                self._end(source, name, place, hold)
            elif steps != hold.steps:
                hold.steps = steps
                self.version += 1
        elif self._slow_rate(hold, now) >= hold.top:
            self._end(source, name, place, hold)

    def _end(self, source: str, name: str, place: Place, hold: Hold) -> None:
        place.holds.pop(hold.order, None)
        self.version += 1
        fields = {"order": hold.order, "rule": hold.rule, "source": source, "place": name, "provider": place.provider}
        self._event("backoff_ended", fields)

    def _slow_rate(self, hold: Hold, now: float) -> float:
        """The rate of a slow order: as it is while it holds, then a line up to its top."""
        return hold.rate + (hold.top - hold.rate) * max(0.0, now - hold.until) / self._recover

    def _rate_of(self, place: Place, now: float) -> float:
        """Messages an hour that the source may send there; infinite: no limit of ours."""
        rate = place.rate.rate_per_hour
        found = math.inf if rate is None else rate
        slow = place.holds.get("slow")
        return found if slow is None else min(found, self._slow_rate(slow, now))

    def _write(self, place: Place) -> None:
        """The rate into the table, if it is not there."""
        rate = self._rate_of(place, self._now())
        if rate == math.inf:
            if place.written:
                self._table.set_rate(place.cell, 0, 1)
                place.written = False
                self.version += 1
            return
        emission_ns, burst = cell_rule(rate)
        recorded = self._table.rate_of(place.cell)
        if recorded != (emission_ns, burst):
            self._table.set_rate(place.cell, emission_ns, burst)
            if emission_ns > 2 * recorded[0]:  # the first probe comes after the pause, not before it
                self._table.take_recorded(place.cell, self._clock.boottime_ns(), 1)
            if place.provider == OTHER:
                place.grants.rebase(self._table, place.cell, self._clock.boottime_ns())
        if not place.written:
            place.written = True
            self.version += 1

    # -- what can be seen ---------------------------------------------------------------------------------------------

    def active(self) -> list[dict[str, Any]]:
        """Suspensions and cuts, for workers: {"id", "source", "place", "until_wall", "rule", "why", "connections"?}."""
        now, wall = self._now(), self._clock.wall()
        found = []
        for (source, name), place in self._places.items():
            for hold in place.holds.values():
                if hold.order == "slow":
                    continue
                told: dict[str, Any] = {
                    "id": f"{hold.order}:{source}:{name}", "source": source, "place": name, "rule": hold.rule,
                    "why": hold.why, "until_wall": wall + max(0.0, hold.until - now),
                }  # fmt: skip
                if hold.order == "connections":
                    told["connections"] = hold.connections + hold.steps
                    told["until_wall"] = wall + hold.until + self._recover - now
                found.append(told)
        return found

    def adaptive(self) -> list[dict[str, Any]]:
        """Rates that hold now: {"source", "place", "rate_per_hour", "mode", "ceiling_per_hour"}."""
        now = self._now()
        return [
            {
                "source": source, "place": name, "rate_per_hour": round(self._rate_of(place, now), 3),
                "mode": place.rate.mode, "ceiling_per_hour": place.rate.ceiling_per_hour,
            }
            for (source, name), place in self._places.items()
            if place.written
        ]  # fmt: skip

    def describe(self, source: str, place: str) -> dict[str, Any]:
        """All that is known about a source at a place, for `explain`."""
        found = self._places.get((source, place))
        if found is None:
            return {"source": source, "place": place, "rate_per_hour": None, "holds": []}
        now = self._now()
        rate = self._rate_of(found, now)
        return {
            "source": source, "place": place, "rate_per_hour": None if rate == math.inf else round(rate, 3),
            "adaptive": {"mode": found.rate.mode, "ceiling_per_hour": found.rate.ceiling_per_hour},
            "holds": [
                {"order": hold.order, "rule": hold.rule, "why": hold.why, "words": self._in_words(hold, now),
                 "ends_in_seconds": round(max(0.0, hold.until - now), 1)}
                for hold in found.holds.values()
            ],
            "last_rule": found.last, "fired": dict(found.fired),
        }  # fmt: skip

    def _in_words(self, hold: Hold, now: float) -> str:
        left = max(0.0, hold.until - now)
        if hold.order == "suspend":
            return f"nothing is sent for {left:.0f} s"
        if hold.order == "connections":
            return f"at most {hold.connections} connections for {left:.0f} s"
        return f"at most {self._slow_rate(hold, now):.0f}/h" + (f" for {left:.0f} s" if left else ", growing again")

    # -- keeping ------------------------------------------------------------------------------------------------------

    def _now(self) -> float:
        return self._clock.boottime_ns() / 1e9

    def _place(self, source: str, name: str, provider: str) -> Place:
        place = self._places.get((source, name))
        if place is None:
            if len(self._places) >= MAX_PLACES:
                self._forget_quiet()
            cell = self._table.cell(adaptive_cell(source, name))
            place = self._places[source, name] = Place(
                provider, cell, AdaptiveRate(self._slowest), counted_at=self._now()
            )
        return place

    def _forget_quiet(self) -> None:
        """Makes room: what holds nothing goes, else what came first."""
        quiet = [key for key, place in self._places.items() if place.quiet]
        for key in quiet or list(self._places)[: MAX_PLACES // 10]:
            place = self._places.pop(key)
            if place.written:
                self._table.set_rate(place.cell, *cell_rule(self._slowest))

    def _state_of(self, place: Place, now: float) -> dict[str, Any] | None:
        """What is kept of a place, its times as seconds from now; None: nothing."""
        if place.quiet:
            return None
        holds = []
        for hold in place.holds.values():
            kept = {"order": hold.order, "rule": hold.rule, "why": hold.why, "connections": hold.connections,
                    "rate": hold.rate, "ends_in": hold.until - now, "began": hold.since - now}  # fmt: skip
            holds.append(kept if hold.top == math.inf else {**kept, "top": hold.top})
        return {
            "provider": place.provider, "wall": self._clock.wall(), "pace": place.pace, "last": place.last,
            "holds": holds, "adaptive": place.rate.keep(now),
        }  # fmt: skip

    def _save(self, now: float) -> None:
        """Orders and falls at once, what only grows now and then."""
        changes: list[tuple[str, bytes, bytes | None]] = []
        states: list[tuple[Place, dict[str, Any] | None]] = []
        for (source, name), place in self._places.items():
            if place.saved is None and place.quiet:
                continue
            mark = self._mark(place)
            if place.saved is not None and place.saved == mark and now - place.saved_at < SAVE_SECONDS:
                continue
            state = self._state_of(place, now)
            changes.append(
                (DATABASE, f"{source}\0{name}".encode(), None if state is None else msgspec.json.encode(state))
            )
            states.append((place, None if state is None else mark))
        if not changes:
            return
        try:
            self._store.write(changes)
        except (LmdbError, OSError) as error:
            log.error("back-off can't be written (%s); a restart would forget what began lately", error)
            return
        for place, saved in states:
            place.saved, place.saved_at = saved, now

    @staticmethod
    def _mark(place: Place) -> dict[str, Any]:
        """What must be on disk soon once it has changed."""
        rate = place.rate.rate_per_hour
        return {
            "holds": sorted((hold.order, hold.rule, round(hold.until)) for hold in place.holds.values()),
            "mode": place.rate.mode,
            "rate": None if rate is None else round(math.log2(rate), 1),
        }

    def _load(self) -> None:
        now, wall = self._now(), self._clock.wall()
        for key, value in self._store.items(DATABASE):
            try:
                source, _, name = key.decode().partition("\0")
                self._take_up(source, name, msgspec.json.decode(value), now, wall)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                log.error("a kept back-off (%r) can't be read (%s); it is left out", key, error)
                # What cannot be read never makes anything faster: the source begins slowly there.
                if "\0" in (text := key.decode("utf-8", "replace")):
                    source, _, name = text.partition("\0")
                    place = self._place(source, name, OTHER if "." in name or ":" in name else name)
                    why = "its state could not be read"
                    place.holds["slow"] = Hold("slow", "", why, now, now, rate=self._slowest, top=UNCOUNTED_PER_HOUR)
        for place in self._places.values():
            self._write(place)

    def _take_up(self, source: str, name: str, state: dict[str, Any], now: float, wall: float) -> None:
        """A place as it was kept. A wall clock that went back lengthens nothing."""
        passed = max(0.0, wall - float(state["wall"]))
        place = self._place(source, name, str(state["provider"]))
        place.pace = float(state["pace"])
        place.last = state.get("last")
        place.rate = AdaptiveRate(self._slowest, state["adaptive"], now - passed)
        for kept in state["holds"]:
            hold = Hold(
                kept["order"], str(kept["rule"]), str(kept["why"]), now - passed + float(kept["ends_in"]),
                now - passed + float(kept["began"]), int(kept["connections"]), 0, float(kept["rate"]),
                float(kept.get("top", math.inf)),
            )  # fmt: skip
            place.holds[hold.order] = hold
        place.saved = self._mark(place)
        place.saved_at = now
