"""The events of a forecast, in their order. Pure; seconds after its start.

Rates hold between events. What they change (a site's backlog, a cap, a burst, what a cell has sent) is brought up to
date only when its rate changes, so an event costs what it touches. Events that are very close to each other are one.

Known faults: none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from fastrelay.limits import stages
from fastrelay.limits.days import HOUR_SECONDS, LEAST_DAY_NS, LEAST_HOUR_NS, seconds_to_midnight
from fastrelay.limits.forecast_build import Demand, Model, Track
from fastrelay.limits.forecast_flow import EPSILON, NEVER, Agenda, Bound, Cell, Component, Gauge, Site, solve
from fastrelay.limits.stages import Tally
from fastrelay.limits.warming import LONGEST_SHARE, unit_seconds

DAY_SECONDS = 86400.0
QUANTUM_SECONDS = 1e-3  # events closer than this are one; what flows meanwhile is too much by that
MOST_CURVES = 3000  # cells of which the curve is kept, and not only beginning, end and sum
PARTS = 50  # of a campaign that is handed in over some time
TICK_SECONDS = 0.5  # what the governor is late, on average
LEAST_BACKLOG = 1e-3
REFILLED_SHARE = 0.5  # of a burst, before it counts as one again

Curve = list[tuple[float, float]]


class Runner:
    """One run of a model."""

    def __init__(self, model: Model, demands: Sequence[Demand], over: float, days: float) -> None:
        self.model = model
        self.horizon = days * DAY_SECONDS
        self.events = 0
        self._now = 0.0
        self._agenda = Agenda()
        self._dirty: dict[int, Component] = {}
        self._sites: dict[int, Site] = {}  # touched in this round
        self._gauges: dict[int, Gauge] = {}
        self._held: dict[str, dict[str, float]] = {}
        self.limits: dict[str, tuple[str, float]] = {}  # by cell name: words, recipient-seconds held
        self._track_of = {id(track.gauge): track for track in model.tracks.values()}
        self._keep = len(model.cells) <= MOST_CURVES
        self._demands = demands
        parts = max(1, min(PARTS, math.ceil(over / 10)))
        self._arrivals = [(over * part / parts, 1 / parts) for part in range(parts)]
        self._to_arrive = parts

    def run(self) -> None:
        """Until all is out, or the horizon."""
        for track in self.model.tracks.values():
            self._open(track)
        for number, (at, _) in enumerate(self._arrivals):
            self._agenda.put(at, number, 0)
        for component in self.model.component.values():
            self._dirty[id(component)] = component
        while self._now < self.horizon and self._unfinished():
            following = self._agenda.next_at()
            if following > self.horizon:
                self._now = self.horizon
                break
            due = self._agenda.due(following + QUANTUM_SECONDS)
            self._now = max(self._now, due[-1][0])
            for _, what, stamp in due:
                self._happen(what, stamp)
            self._settle()
            self.events += 1
        self._now = min(self._now, self.horizon)
        for site in self.model.sites:
            self._bring_site(site)
        for cell in self.model.cells:
            self._bring_cell(cell)
            self._charge(cell)

    def _unfinished(self) -> bool:
        return self._to_arrive > 0 or any(site.mine > 0 for site in self.model.sites)

    # -- events -------------------------------------------------------------------------------------------------------

    def _happen(self, what: object, stamp: int) -> None:
        if isinstance(what, int):
            self._arrive(self._arrivals[what][1])
        elif isinstance(what, Site):
            if what.stamp == stamp:
                self._bring_site(what)
                self._sites[id(what)] = what  # its rate may stay, and it goes on with the campaign alone
                self._mark(what.cells)
        elif isinstance(what, Gauge):
            if what.stamp == stamp:
                self._bring_gauge(what)
                self._mark(what.cells)
        elif isinstance(what, Bound):
            if what.stamp == stamp:
                what.bursting = False
                self._mark(what.cells)
        elif isinstance(what, Track):
            self._turn(what)

    def _arrive(self, share: float) -> None:
        """A part of the campaign."""
        self._to_arrive -= 1
        for site, demand in zip(self.model.sites, self._demands, strict=True):
            amount = demand.recipients * share
            if amount:
                self._bring_site(site)
                for cell in site.cells:
                    self._bring_cell(cell)
                site.amount += amount
                site.mine += amount
                site.backlog = site.mine + site.ahead
                self._mark(site.cells)

    def _mark(self, cells: Sequence[Cell]) -> None:
        """The rates of these cells are to be found anew."""
        component_of = self.model.component
        for cell in cells:
            component = component_of[id(cell)]
            self._dirty[id(component)] = component

    def _turn(self, track: Track) -> None:
        """A new day (or hour) of warm-up."""
        self._bring_gauge(track.gauge)
        track.progress = stages.counted(
            track.progress, Tally(delivered=round(track.gauge.sent / len(track.group.names)))
        )
        track.progress, _ = stages.turned(track.progress, track.plan, track.ramp, self.model.moment(self._now))
        self._open(track)
        self._mark(track.gauge.cells)
        if not track.plan.overflow:  # warm sources may have waited for it
            for cell in track.gauge.cells:
                self._mark(cell.site.cells)

    def _open(self, track: Track) -> None:
        """The cap and the spread of the period that opens now, and when the next one does."""
        gauge, now = track.gauge, self._now
        cap = stages.cap_of(track.progress, track.ramp)
        stage = track.progress.stage + 1
        if not track.stages_seen or track.stages_seen[-1][1] != stage:
            track.stages_seen.append((now, stage, cap))
        gauge.since = now
        if cap is None:
            gauge.left = NEVER
            if gauge.spread is not None:
                gauge.spread.rate = NEVER
            return
        # At the start, what was delivered today is what the open day has used.
        used = track.progress.today.delivered if track.progress.hour is None else track.progress.hour_delivered
        sources = len(track.group.names)
        gauge.left = max(0.0, float(cap - used)) * sources
        to_end = self._to_end(track)
        if gauge.spread is not None and cap:
            whole = min(track.plan.spread_seconds, track.ramp.period_seconds * LONGEST_SHARE)
            gauge.spread.rate = sources / unit_seconds(cap, gauge.left / sources, whole, to_end)
        self._agenda.put(now + to_end + TICK_SECONDS, track, 0)

    def _to_end(self, track: Track) -> float:
        """Seconds until the next period may open, as limits/days.py has it."""
        progress, now = track.progress, self.model.moment(self._now)
        if progress.hour is None:
            to_end, period, least = seconds_to_midnight(now.wall, track.plan.time_zone), progress.day, LEAST_DAY_NS
        else:
            to_end, period, least = HOUR_SECONDS - now.wall % HOUR_SECONDS, progress.hour, LEAST_HOUR_NS
        return max(to_end, (least - (now.boot_ns - period.boot_ns)) / 1e9, 1.0)

    # -- rates --------------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """New rates for everything that is marked, and when each of it ends."""
        for component in self._dirty.values():
            for bound in component.bounds:
                if bound.burst:
                    self._bring_bound(bound)
            for cell, rate, binding in solve(component):
                if rate != cell.rate or binding is not cell.binding:
                    self._set(cell, rate, binding)
            for bound in component.bounds:
                if bound.burst:
                    self._watch_bound(bound)
        self._dirty.clear()
        for site in self._sites.values():
            self._watch_site(site)
        for gauge in self._gauges.values():
            gauge.stamp += 1
            if gauge.rate > 0 and gauge.left < NEVER:
                self._agenda.put(self._now + max(0.0, gauge.left) / gauge.rate, gauge, gauge.stamp)
        self._sites.clear()
        self._gauges.clear()

    def _set(self, cell: Cell, rate: float, binding: object) -> None:
        self._bring_cell(cell)
        site, gauge = cell.site, cell.gauge
        if id(site) not in self._sites:
            self._bring_site(site)
            self._sites[id(site)] = site
        if binding is not cell.binding:
            self._charge(cell)
            cell.binding = binding
        if gauge is not None:
            if id(gauge) not in self._gauges:
                self._bring_gauge(gauge)
                self._gauges[id(gauge)] = gauge
            gauge.rate = max(0.0, gauge.rate + rate - cell.rate)
        site.rate = max(0.0, site.rate + rate - cell.rate)
        cell.rate = rate

    def _watch_site(self, site: Site) -> None:
        site.stamp += 1
        if site.rate <= EPSILON or site.backlog <= 0:
            return
        lasts = site.backlog / site.rate
        if site.mine > LEAST_BACKLOG and site.ahead > LEAST_BACKLOG:
            lasts = 2 * min(site.mine, site.ahead) / site.rate
        self._agenda.put(self._now + lasts, site, site.stamp)

    def _bring_bound(self, bound: Bound) -> None:
        bound.tokens = min(bound.burst, max(0.0, bound.tokens + (bound.rate - bound.used) * (self._now - bound.since)))
        bound.since = self._now
        if bound.tokens <= EPSILON:
            bound.bursting = False
        elif bound.tokens >= bound.burst * REFILLED_SHARE:
            bound.bursting = True

    def _watch_bound(self, bound: Bound) -> None:
        bound.used = sum(cell.rate * part for cell, part in zip(bound.cells, bound.coefficients, strict=True))
        bound.stamp += 1
        if bound.bursting and bound.used > bound.rate:
            self._agenda.put(self._now + bound.tokens / (bound.used - bound.rate), bound, bound.stamp)

    # -- bringing up to date ------------------------------------------------------------------------------------------

    def _bring_site(self, site: Site) -> None:
        lasted = self._now - site.since
        if lasted <= 0:
            return
        site.since = self._now
        site.integral += site.backlog * lasted - site.rate * lasted * lasted / 2
        gone = site.rate * lasted
        part = site.part
        site.mine = max(0.0, site.mine - gone * part)
        site.ahead = max(0.0, site.ahead - gone * (1 - part))
        if site.mine < LEAST_BACKLOG:
            site.mine = 0.0
        if site.ahead < LEAST_BACKLOG:
            site.ahead = 0.0
        site.backlog = site.mine + site.ahead
        site.curve.append((self._now, site.amount - site.mine))
        if site.part != part:
            for cell in site.cells:
                self._bring_cell(cell, part)

    def _bring_cell(self, cell: Cell, part: float | None = None) -> None:
        """`part`: of the site, before it changed just now."""
        lasted = self._now - cell.since
        if lasted <= 0:
            return
        if cell.rate:
            if cell.start == NEVER:
                cell.start = cell.since
                cell.curve.append((cell.since, 0.0))
            elif self._keep and cell.curve[-1][0] < cell.since:
                cell.curve.append((cell.since, cell.sent))
            cell.sent += cell.rate * lasted * (cell.site.part if part is None else part)
            if self._keep:
                cell.curve.append((self._now, cell.sent))
            else:
                cell.stop = self._now
        cell.since = self._now

    def _bring_gauge(self, gauge: Gauge) -> None:
        lasted = self._now - gauge.since
        gauge.since = self._now
        if lasted > 0 and gauge.rate:
            gauge.sent += gauge.rate * lasted
            gauge.left -= gauge.rate * lasted
            if gauge.left < LEAST_BACKLOG:
                gauge.left = 0.0

    def _charge(self, cell: Cell) -> None:
        """What waited since the last time goes to the account of what held the cell."""
        site = cell.site
        waited = (site.integral - cell.held_from) / len(site.cells)
        cell.held_from = site.integral
        binding = cell.binding
        if waited > 0 and isinstance(binding, Bound | Gauge):
            held = self._held.setdefault(site.provider, {})
            held[binding.words] = held.get(binding.words, 0.0) + waited
            if isinstance(binding, Bound) and binding.name:
                known = self.limits.get(binding.name, (binding.words, 0.0))
                self.limits[binding.name] = (binding.words, known[1] + waited)

    # -- results ------------------------------------------------------------------------------------------------------

    def held_of(self, provider: str) -> dict[str, float]:
        """Recipient-seconds of waiting at a provider, by what held."""
        return self._held.get(provider, {})

    def _curve(self, cell: Cell) -> Curve:
        if cell.start == NEVER:
            return [(0.0, 0.0)]
        return cell.curve if self._keep else [(cell.start, 0.0), (cell.stop, cell.sent)]

    def pair_curves(self) -> dict[tuple[str, str], Curve]:
        """By (provider, source)."""
        found: dict[tuple[str, int], list[Curve]] = {}
        groups = {id(group): group for group in self.model.groups}
        for cell in self.model.cells:
            found.setdefault((cell.site.provider, id(cell.group)), []).append(self._curve(cell))
        pairs: dict[tuple[str, str], Curve] = {}
        for (provider, number), curves in found.items():
            group = groups[number]
            curve = _part(_sum(curves), len(group.names))
            pairs |= {(provider, name): curve for name in group.names}
        return pairs

    def source_curves(self) -> dict[str, Curve]:
        """By source."""
        found: dict[str, Curve] = {}
        for group in self.model.groups:
            curves = [self._curve(cell) for cell in self.model.cells if cell.group is group]
            curve = _part(_sum(curves), len(group.names))
            found |= dict.fromkeys(group.names, curve)
        return found


def _part(curve: Curve, among: int) -> Curve:
    """What one of several equal sources sent."""
    return curve if among == 1 else [(at, amount / among) for at, amount in curve]


def _sum(curves: list[Curve]) -> Curve:
    from fastrelay.limits.forecast import merged

    return merged(curves)
