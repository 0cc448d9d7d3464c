"""Mail as a fluid: how much a second each source sends to each site while every limit holds. Pure; seconds from 0.

A *cell* is one group of equal sources at one class of equal sites; a *bound* is one limit over some cells: the sum of
coefficient × rate is at most its rate. A coefficient is 1 for a rate of messages, the seconds that a message takes for
a number of connections, and the part of a connection that it needs for a rate of connections. Rates are the fair ones:
all sites of a bound rise together, and in a site all its cells, each until something else holds it (max-min fairness):
that is what sites come to that wait in one line for permits.

Cells that share a bound form a *component*; what happens in one leaves the others alone. So an event costs what its
own component costs, and 250 sources with limits of their own are 250 small problems.

Known faults: none of the last message's own time; a burst counts where it lasts longer than LEAST_BURST_SECONDS.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

ROUNDS = 12  # of settling the levels of bounds that share cells; a few are enough
LEAST_BURST_SECONDS = 1.0
EPSILON = 1e-9
NEVER = math.inf


class Bound:
    """One limit. `words`: for people; `tokens`: of a burst that is not yet used."""

    __slots__ = ("burst", "bursting", "cells", "coefficients", "kind", "level", "levels", "members", "name", "rate",
                 "since", "stamp", "tokens", "used", "wide", "words")  # fmt: skip

    def __init__(self, kind: str, words: str, rate: float, burst: float = 0.0) -> None:
        self.kind = kind
        self.words = words
        self.rate = rate
        # A bucket that fills and empties within a second makes no difference to a forecast.
        self.burst = burst if rate and burst / rate > LEAST_BURST_SECONDS else 0.0
        self.tokens = self.burst
        self.bursting = self.burst > 0
        self.used = 0.0  # by the cells, a second
        self.since = 0.0
        self.stamp = 0
        self.name = ""
        self.cells: list[Cell] = []
        self.coefficients: list[float] = []
        self.members: list[tuple[Cell, float]] = []  # those with mail, while rates are sought
        self.level = NEVER  # of each cell, by weight
        self.levels: dict[int, float] = {}  # in place of `level`, by site, where a site has several cells here
        self.wide = False

    def level_of(self, cell: Cell) -> float:
        """The most that it leaves to a cell."""
        return (self.levels.get(id(cell.site), NEVER) if self.wide else self.level) * cell.weight

    def add(self, cell: Cell, coefficient: float = 1.0) -> None:
        """The bound holds for this cell."""
        self.cells.append(cell)
        self.coefficients.append(coefficient)
        cell.bounds.append((self, coefficient))


class Site:
    """`members` equal sites of a provider, as one: backlog, rates and sums are of all of them together."""

    __slots__ = ("ahead", "amount", "backlog", "cells", "curve", "integral", "members", "mine", "number", "provider",
                 "rate", "since", "stamp", "strict")  # fmt: skip

    def __init__(self, number: int, provider: str, members: int = 1) -> None:
        self.number = number
        self.provider = provider
        self.members = members
        self.cells: list[Cell] = []
        self.strict: list[Gauge] = []  # caps beyond which nothing overflows to warm sources
        self.mine = 0.0  # of the campaign, still here
        self.ahead = 0.0  # of what was queued before it, still here
        self.amount = 0.0  # of the campaign, arrived so far
        self.backlog = 0.0  # mine + ahead at `since`
        self.rate = 0.0
        self.since = 0.0
        self.integral = 0.0  # ∫ backlog dt
        self.stamp = 0
        self.curve: list[tuple[float, float]] = [(0.0, 0.0)]  # (seconds, of the campaign sent by then)

    @property
    def part(self) -> float:
        """Of what is sent, what belongs to the campaign: half, while older mail is there as well."""
        if self.mine <= 0:
            return 0.0
        return 0.5 if self.ahead > 0 else 1.0


class Cell:
    """One group of equal sources at one site; rates and sums are of all of them together."""

    __slots__ = ("binding", "bounds", "curve", "gauge", "group", "held_from", "own", "own_bound", "rate", "sent",
                 "since", "site", "start", "stop", "weight")  # fmt: skip

    def __init__(self, site: Site, group: Any, sources: int = 1) -> None:
        self.site = site
        self.group = group
        self.weight = float(site.members * sources)
        self.bounds: list[tuple[Bound, float]] = []
        self.own = NEVER  # the least of the bounds that no other cell shares
        self.own_bound: Bound | None = None
        self.gauge: Gauge | None = None  # the cap of a cold source
        self.rate = 0.0
        self.sent = 0.0
        self.since = 0.0
        self.start = NEVER
        self.stop = 0.0
        self.binding: object = None
        self.held_from = 0.0
        self.curve: list[tuple[float, float]] = []


class Gauge:
    """A cap that is being used up: of a group of cold sources, with one key of their plan."""

    __slots__ = ("cells", "left", "rate", "sent", "since", "spread", "stamp", "words")

    def __init__(self, words: str, spread: Bound | None) -> None:
        self.words = words
        self.left = NEVER
        self.sent = 0.0
        self.rate = 0.0
        self.since = 0.0
        self.stamp = 0
        self.spread = spread
        self.cells: list[Cell] = []


@dataclass(eq=False)
class Component:
    """Cells that share bounds, with those bounds."""

    cells: list[Cell] = field(default_factory=list)
    bounds: list[Bound] = field(default_factory=list)


def components(cells: list[Cell], bounds: Iterable[Bound]) -> dict[int, Component]:
    """The component of each cell, by id(cell). A bound of one cell becomes that cell's own; it joins nothing."""
    parent: dict[int, int] = {id(cell): id(cell) for cell in cells}

    def root(one: int) -> int:
        while parent[one] != one:
            parent[one] = parent[parent[one]]
            one = parent[one]
        return one

    shared = []
    for bound in bounds:
        if len(bound.cells) == 1 and not bound.burst and bound.kind != "spread":
            cell, coefficient = bound.cells[0], bound.coefficients[0]
            if bound.rate / coefficient < cell.own:
                cell.own, cell.own_bound = bound.rate / coefficient, bound
            cell.bounds.remove((bound, coefficient))
            continue
        shared.append(bound)
        bound.wide = len({id(cell.site) for cell in bound.cells}) < len(bound.cells)
        first = root(id(bound.cells[0]))
        for cell in bound.cells[1:]:
            parent[root(id(cell))] = first
    found: dict[int, Component] = {}
    for cell in cells:
        found.setdefault(root(id(cell)), Component()).cells.append(cell)
    for bound in shared:
        component = found[root(id(bound.cells[0]))]
        component.bounds.append(bound)
    return {id(cell): found[root(id(cell))] for cell in cells}


def solve(component: Component) -> list[tuple[Cell, float, object]]:
    """(cell, rate, what holds it) for each cell of a component: the fair rates at this moment."""
    active = []
    result: list[tuple[Cell, float, object]] = []
    for cell in component.cells:
        if cell.site.backlog <= EPSILON:
            result.append((cell, 0.0, None))
        elif cell.gauge is not None and cell.gauge.left <= EPSILON:
            result.append((cell, 0.0, cell.gauge))
        elif cell.site.strict and (held := _waits_for(cell)) is not None:
            result.append((cell, 0.0, held))
        else:
            active.append(cell)
    bounds = component.bounds
    for bound in bounds:
        bound.level, bound.levels = NEVER, {}
    if len(bounds) == 1 and not bounds[0].wide:
        limits = [(cell.own, cell.weight, cell.bounds[0][1]) for cell in active if cell.bounds]
        bounds[0].level = _water(bounds[0], limits)
    elif bounds and active:
        _settle(bounds, active)
    for cell in active:
        rate, binding = cell.own, cell.own_bound
        for bound, _ in cell.bounds:
            level = bound.level_of(cell)
            if level < rate:
                rate, binding = level, bound
        result.append((cell, rate, binding))
    return result


def _waits_for(cell: Cell) -> Gauge | None:
    """The cap of a cold source that a warm one may not send beyond, if there is one."""
    if cell.gauge is not None and cell.gauge.left < NEVER:
        return None
    return next((gauge for gauge in cell.site.strict if gauge.left < NEVER), None)


def _settle(bounds: list[Bound], active: list[Cell]) -> None:
    """Levels of several bounds: each in turn fills what the others leave, until nothing changes."""
    for bound in bounds:
        bound.members = []
    for cell in active:
        for bound, coefficient in cell.bounds:
            bound.members.append((cell, coefficient))
    for _ in range(ROUNDS):
        changed = [bound for bound in bounds if _fill(bound)]
        if not changed:
            return


def _fill(bound: Bound) -> bool:
    """The level of one bound, given those of the others; whether it changed."""
    limits = []
    for cell, coefficient in bound.members:
        most = cell.own
        for other, _ in cell.bounds:
            if other is not bound:
                most = min(most, other.level_of(cell))
        limits.append((most, cell.weight, coefficient))
    if not bound.wide:
        before, bound.level = bound.level, _water(bound, limits)
        return not math.isclose(before, bound.level, rel_tol=1e-6)
    levels = _water_by_site(bound, limits)
    changed = levels.keys() != bound.levels.keys() or any(
        not math.isclose(level, bound.levels[site], rel_tol=1e-6) for site, level in levels.items()
    )
    bound.levels = levels
    return changed


def _water_by_site(bound: Bound, limits: list[tuple[float, float, float]]) -> dict[int, float]:
    """Levels of the cells of each site that the bound holds: sites share its rate, and cells their site's share."""
    by_site: dict[int, tuple[Site, list[tuple[float, float, float]]]] = {}
    for (cell, _), limit in zip(bound.members, limits, strict=True):
        by_site.setdefault(id(cell.site), (cell.site, []))[1].append(limit)
    wants = {
        number: (sum(most * coefficient for most, _, coefficient in own), float(site.members), 1.0)
        for number, (site, own) in by_site.items()
    }
    level = _water(bound, list(wants.values()))
    if level == NEVER:
        return {}
    return {
        number: _level(wants[number][1] * level, own)
        for number, (_, own) in by_site.items()
        if wants[number][0] > wants[number][1] * level
    }


def _water(bound: Bound, limits: list[tuple[float, float, float]]) -> float:
    """The level at which what flows is the bound's rate; NEVER where all fits."""
    return NEVER if bound.bursting else _level(bound.rate, limits)


def _level(left: float, limits: list[tuple[float, float, float]]) -> float:
    """The level L at which Σ coefficient × min(most, weight × L) is `left`; NEVER where all fits."""
    if sum(most * coefficient for most, _, coefficient in limits) <= left:
        return NEVER
    limits.sort(key=lambda one: one[0] / one[1])
    heaviness = sum(weight * coefficient for _, weight, coefficient in limits)
    for most, weight, coefficient in limits:
        if most * heaviness / weight >= left:
            return left / heaviness
        left -= most * coefficient
        heaviness -= weight * coefficient
    return NEVER


class Agenda:
    """Times at which something ends, by object; a newer time of the same object takes the place of the older."""

    def __init__(self) -> None:
        self._entries: list[tuple[float, int, int, object]] = []
        self._order = 0

    def put(self, when: float, what: object, stamp: int) -> None:
        if when != NEVER:
            self._order += 1
            heapq.heappush(self._entries, (when, self._order, stamp, what))

    def next_at(self) -> float:
        return self._entries[0][0] if self._entries else NEVER

    def due(self, until: float) -> list[tuple[float, object, int]]:
        """(when, what, stamp) of everything up to a time, in order."""
        found = []
        while self._entries and self._entries[0][0] <= until:
            when, _, stamp, what = heapq.heappop(self._entries)
            found.append((when, what, stamp))
        return found
