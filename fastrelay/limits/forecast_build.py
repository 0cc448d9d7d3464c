"""From a configuration and what is to be sent to the sites, cells, bounds and caps of a forecast. Pure.

Every limit of a Shape becomes a bound: a rate of messages as it is; a number of connections by how long a message
takes on one; a rate of connections by how many messages one carries. Equal sites of unknown providers stand together
in one Site, equal sources (same rules, same stage of warm-up) in one Group; what limits each of them on its own is then
so many times as much.

Known faults: a connection that waits so long between messages that it is closed (a slow rate) costs a connection for
each message; the rate of connections is reckoned as if each carried all that it may.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from fastrelay.config.schema import Config
from fastrelay.config.sending import WarmupPlan
from fastrelay.limits import stages, warmup
from fastrelay.limits.days import Moment
from fastrelay.limits.forecast_flow import NEVER, Bound, Cell, Component, Gauge, Site, components
from fastrelay.limits.gates import in_words
from fastrelay.limits.rate import Rate
from fastrelay.limits.shape import DEFAULT_POOL, Limit, Shape, Shaper
from fastrelay.limits.stages import Progress, Tally
from fastrelay.limits.warmup import Ramp
from fastrelay.route.providers import make_providers

BOOT = "forecast"
BOOT_NS = 10**18  # boot time of the start, so that a day may have begun before it
SERVICE_SECONDS = 0.3  # of a message on a connection, where none was measured
CONNECT_SECONDS = 0.5  # of a connection until its first message
MOST_RATE = 2000.0  # messages a second of one source at one site, where nothing else holds it
LEAST_SITE_SECONDS = 1e-4


@dataclass(frozen=True)
class Demand:
    """Recipients of one kind of site: `sites` equal ones of a provider share `recipients`.

    site_key  of a known site, where the provider is `other` and rules may name it
    ahead     recipients of other mail that are queued for these sites already
    """

    provider: str
    recipients: float
    sites: int = 1
    site_key: str = ""
    ahead: float = 0.0


@dataclass(frozen=True)
class Stand:
    """Where the warm-up of a source with a key stands. stage: from 0; used: of the open day's cap."""

    source: str
    key: str
    stage: int
    used: int = 0
    state: str = "running"


@dataclass(frozen=True)
class Service:
    """Seconds that a message and a connection take at a provider."""

    message: float = SERVICE_SECONDS
    connect: float = CONNECT_SECONDS


@dataclass(frozen=True, eq=False)
class Group:
    """Sources that nothing tells apart."""

    names: tuple[str, ...]

    @property
    def first(self) -> str:
        return self.names[0]

    @property
    def words(self) -> str:
        return (
            f"source {self.first}" if len(self.names) == 1 else f"each of {len(self.names)} sources like {self.first}"
        )


@dataclass(eq=False)
class Track:
    """The warm-up of a group with one key, in the making; caps are those of one source. stages_seen: (seconds, stage
    from 1, cap)."""

    group: Group
    key: str
    plan: WarmupPlan
    ramp: Ramp
    progress: Progress
    gauge: Gauge
    stages_seen: list[tuple[float, int, int | None]] = field(default_factory=list)


class Model:
    """Everything that a run begins with; the arguments are those of forecast.forecast."""

    def __init__(
        self,
        config: Config,
        demands: Sequence[Demand],
        begins: float,
        *,
        pool: str,
        services: Mapping[str, Service],
        stands: Sequence[Stand],
        day_began: float | None,
        more_sources: Sequence[str],
        factors: Mapping[str, float],
        relay_rate: float | None,
    ) -> None:
        self.config = config
        self.begins = begins
        self._pool = pool or DEFAULT_POOL
        self._services = services
        self._factors = factors
        self._shaper = Shaper(config, make_providers(config.providers))
        self.bounds: dict[str, Bound] = {}
        of_pool = config.pools.get(self._pool) or [source.name for source in config.sources] or ["default"]
        self._stands = {(one.source, one.key): one for one in stands}
        self.groups = self._grouped([*of_pool, *more_sources])
        self.tracks: dict[tuple[str, str], Track] = {}  # by first name of the group, and key
        self._keys: dict[str, dict[str, Ramp]] = {}
        self._make_tracks(day_began)
        self.sites = [self._site(number, demand) for number, demand in enumerate(demands)]
        self.cells: list[Cell] = [cell for site in self.sites for cell in site.cells]
        if relay_rate is not None and len(self.cells) > 0:
            itself = self.bounds["itself"] = Bound("rate", f"what this relay can do: {relay_rate:,.0f}/s", relay_rate)
            for cell in self.cells:
                itself.add(cell)
        spreads = [track.gauge.spread for track in self.tracks.values()]
        bounds = [bound for bound in (*self.bounds.values(), *spreads) if bound is not None and bound.cells]
        self.component: dict[int, Component] = components(self.cells, bounds)

    def empty_buckets(self) -> None:
        """No rate has a burst to give; they fill while they are not used."""
        for bound in self.bounds.values():
            bound.tokens, bound.bursting = 0.0, False

    def moment(self, now: float) -> Moment:
        """The clocks at a time of the forecast."""
        return Moment(self.begins + now, BOOT_NS + round(now * 1e9), BOOT)

    def _grouped(self, names: Sequence[str]) -> list[Group]:
        """Sources that no rule names, and that are warm or at the same stage, are one group."""
        plans = {source.name: source.warmup for source in self.config.sources}
        ruled = {rule.source for rule in self.config.shaping} - {None, "*"}
        stages_of: dict[str, tuple[tuple[str, int, str], ...]] = {}
        for (name, key), stand in sorted(self._stands.items()):
            stages_of[name] = (*stages_of.get(name, ()), (key, stand.stage, stand.state))
        groups: dict[tuple[object, ...], list[str]] = {}
        for name in names:
            alike = (name if name in ruled else None, plans.get(name), stages_of.get(name))
            groups.setdefault(alike, []).append(name)
        return [Group(tuple(found)) for found in groups.values()]

    def _make_tracks(self, day_began: float | None) -> None:
        moment = self.moment(-(day_began or 0.0))
        plans = {source.name: source.warmup for source in self.config.sources}
        for group in self.groups:
            plan_name = plans.get(group.first)
            if plan_name is None:
                continue
            plan = self.config.warmup[plan_name]
            self._keys[group.first] = ramps = warmup.ramps(plan)
            for key, ramp in ramps.items():
                stand = self._stand(group, key)
                at = f" at {key}" if key != warmup.EVERY else ""
                words = f"the warm-up cap of {group.words}{at}"
                spread = Bound("spread", f"{words}, spread over the day", NEVER) if plan.spread_seconds else None
                gauge = Gauge(words, spread)
                gauge.sent = float(stand.used)
                progress = _progress(plan, ramp, moment, stand)
                self.tracks[group.first, key] = Track(group, key, plan, ramp, progress, gauge)

    def _stand(self, group: Group, key: str) -> Stand:
        """Of one source of a group: what they have used of the day is evened out."""
        stands = [self._stands[name, key] for name in group.names if (name, key) in self._stands]
        if not stands:
            return Stand(group.first, key, 0)
        return replace(stands[0], used=round(sum(one.used for one in stands) / len(group.names)))

    def _site(self, number: int, demand: Demand) -> Site:
        """A site with its cells and bounds; the campaign arrives later."""
        site = Site(number, demand.provider, demand.sites)
        site.ahead = site.backlog = demand.ahead
        key = demand.site_key or f"hosts-{number}.{demand.provider}:25"
        for group in self.groups:
            cell = Cell(site, group, len(group.names))
            site.cells.append(cell)
            cell.own = MOST_RATE * demand.sites * len(group.names)
            self._limit(cell, group, key, demand)
            keys = self._keys.get(group.first)
            if keys is None:
                continue
            track = self.tracks[group.first, warmup.key_of(keys, demand.provider)]
            gauge = track.gauge
            if not track.plan.overflow:
                site.strict.append(gauge)
            cell.gauge = gauge
            gauge.cells.append(cell)
            if gauge.spread is not None:
                gauge.spread.add(cell)
        return site

    def _limit(self, cell: Cell, group: Group, key: str, demand: Demand) -> None:
        """Every limit of a source at a site becomes a bound of the cell."""
        shape = self._shaper.shape(group.first, demand.provider, key, self._pool, False)
        service = self._services.get(demand.provider) or self._services.get("") or Service()
        for limit in shape.limits:
            coefficient = _coefficient(limit, shape, service)
            if coefficient <= LEAST_SITE_SECONDS and limit.kind == "connections":
                continue  # messages take no time: any number of connections is enough
            name = limit.cell.decode("utf-8", "replace")
            bound = self.bounds.get(name)
            if bound is None:
                times = demand.sites if "site:" in limit.scope_name else 1
                words = in_words(limit.scope_name)
                if limit.scope_name.startswith("source:"):
                    times *= len(group.names)
                    words = words.replace(f"source {group.first}", group.words, 1)
                bound = self.bounds[name] = _bound(limit, words, times, self._factors.get(name, 1.0))
                bound.name = name
            bound.add(cell, coefficient)


def _progress(plan: WarmupPlan, ramp: Ramp, moment: Moment, stand: Stand) -> Progress:
    """The stage machine as it stands."""
    progress = stages.begin(plan, ramp, moment, stage=min(max(stand.stage, 0), len(ramp.caps)))
    if stand.stage >= len(ramp.caps) or stand.state == "done":
        return msgspec.structs.replace(progress, stage=len(ramp.caps), state="done")
    if stand.state == "held":
        progress = msgspec.structs.replace(progress, state="held", operator=True)
    elif stand.state == "stopped":
        progress = msgspec.structs.replace(progress, state="stopped")
    return stages.counted(progress, Tally(delivered=stand.used)) if stand.used else progress


def _coefficient(limit: Limit, shape: Shape, service: Service) -> float:
    """How much of a bound one message takes."""
    carried = max(1, shape.messages_per_connection)
    if limit.kind == "connections":
        return service.message + service.connect / carried
    return 1 / carried if limit.kind == "connection_rate" else 1.0


def _bound(limit: Limit, where: str, times: int, factor: float) -> Bound:
    """A limit that holds for each of `times` on its own."""
    value = limit.value
    if isinstance(value, Rate):
        what = f"{value.text} connections" if limit.kind == "connection_rate" else value.text
        # The first message of a pause is no burst; what a bucket holds beyond it is.
        burst = (value.burst - 1) * times if limit.kind == "rate" else 0.0
        return Bound(limit.kind, f"{where}: {what} ({limit.origin})", value.per_second * times * factor, burst)
    return Bound("connections", f"{where}: {value} connections ({limit.origin})", value * times * factor)
