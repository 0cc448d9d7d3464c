"""Which sources may send to a site now, and in which order they are asked.

A source stands back where an operator holds it (`suspended`), where a rule about replies suspended it
(`provider_backoff`), or where it could not connect (`no_source`). Of the others the cold ones come first, as long as
they have permits; warm ones take what is above that, unless a cold one's plan says that nothing overflows.

A retry prefers the source of its last attempt (greylisting). It is let go when that source stands back, or when its
day's cap is used.

Known faults: in a pool of more than SORTED_AT_MOST sources their turn comes round, whichever has fewest connections.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastrelay.deliver.source import Source

if TYPE_CHECKING:
    from fastrelay._core.limits import Gate, Rule
    from fastrelay.app import App
    from fastrelay.limits.gates import Passage

SORTED_AT_MOST = 16
LANE_SLICE = 1000


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a source sends nothing to a site; `until`: monotonic seconds, None: until somebody changes it."""

    reason: str
    detail: str
    until: float | None = None


class Choice:
    """The sources of a site queue's pool."""

    def __init__(self, app: App, site_queue: Any) -> None:
        self._app = app
        self._queue = site_queue
        self.sources: list[Source] = app.sources_of(site_queue.pool_name)
        self._unfit: dict[int, Obstacle] = {}  # by source number
        self._turn = 0
        self.passages: dict[int, Passage] = {}  # by source number: those with places that this site alone has

    # -- who may ------------------------------------------------------------------------------------------------------

    def configure(self) -> None:
        """The configuration changed."""
        self.sources = self._app.sources_of(self._queue.pool_name)
        self._unfit.clear()

    def passage(self, source: Source) -> Passage:
        shared = self._app.gates.passage(self._queue, source)
        if not shared.of_each_site:
            return shared
        own = self.passages.get(source.number)
        if own is None:
            own = self.passages[source.number] = self._app.gates.of_site(self._queue, source, shared)
        return own

    def obstacle(self, source: Source, now: float) -> Obstacle | None:
        """What keeps a source from this site, limits aside."""
        board, queue = self._app.board, self._queue
        held = board.source_held(source.name, queue.provider) if board.suspensions else None
        if held is not None:
            why = held.why or "no reason given"
            return Obstacle("suspended", f"its sources are held by suspension {held.id}: {why}")
        if board.backoffs:
            backoff = board.backoff_of(source.name, queue)
            if backoff is not None and backoff.connections is None:
                # It holds until the governor takes it back: a clock that jumps does not end it.
                left = max(0.0, backoff.until_wall - self._app.clock.wall())
                return Obstacle("provider_backoff", backoff.detail, now + left)
        unfit = self._unfit.get(source.number)
        return unfit if unfit is not None and unfit.until is not None and unfit.until > now else None

    def usable(self, now: float) -> list[Source]:
        """The sources that nothing but limits keeps from sending."""
        if not self._unfit and not self._app.board.holds_sources:
            return self.sources
        return [source for source in self.sources if self.obstacle(source, now) is None]

    def pass_over(self, source: Source, until: float, why: str) -> bool:
        """The source can't send to this site for a while; whether that is new."""
        new = source.number not in self._unfit
        self._unfit[source.number] = Obstacle("no_source", why, until)
        return new

    def fit_again(self, numbers: Iterable[int]) -> None:
        """It was not these sources' fault."""
        for number in numbers:
            self._unfit.pop(number, None)

    def fits(self, number: int) -> None:
        """The source has a connection."""
        self._unfit.pop(number, None)

    def first_obstacle(self, now: float) -> Obstacle:
        """Where no source may send: the obstacle that ends first, or one that only a person ends."""
        found = [one for source in self.sources if (one := self.obstacle(source, now)) is not None]
        if not found:
            return Obstacle("no_source", f"pool {self._queue.pool_name} has no source")
        ends = [one for one in found if one.until is not None]
        return min(ends, key=lambda one: one.until or 0.0) if ends else found[0]

    # -- in which order -----------------------------------------------------------------------------------------------

    def split(self, usable: list[Source], now_ns: int) -> tuple[list[Source], list[Source], int]:
        """(cold, warm, permits that the cold ones have now). Warm is empty while nothing may overflow to it."""
        cold = [source for source in usable if source.warmup and self._is_cold(source)]
        if not cold:
            return cold, usable, 0
        permits = sum(self.passage(source).gate.soon(now_ns) for source in cold)
        warm = [source for source in usable if source not in cold]
        return cold, warm if all(source.overflow for source in cold) else [], permits

    def _is_cold(self, source: Source) -> bool:
        return self._app.gates.is_cold(source, self._queue.provider)

    def in_order(self, sources: list[Source], opened: dict[int, int]) -> Iterator[Source]:
        """Sources that retries wait for and that have no connection here come first, then those with fewest."""

        def waited_for(source: Source) -> bool:
            return bool(self._waiting(source) and not opened.get(source.number))

        if len(sources) <= SORTED_AT_MOST:
            total = self._app.opened_by_source
            yield from sorted(
                sources,
                key=lambda one: (not waited_for(one), opened.get(one.number, 0), total[one.number]),
            )
            return
        if self._queue.by_source:
            yield from [source for source in sources if waited_for(source)]
        turn = self._app.next_turn()
        for place in range(len(sources)):
            yield sources[(turn + place) % len(sources)]

    def waited_for(self, sources: list[Source]) -> bool:
        """Whether retries wait for one of these sources."""
        return bool(self._queue.by_source) and any(map(self._waiting, sources))

    def _waiting(self, source: Source) -> int:
        lane = self._queue.by_source.get(source.number + 1)
        return 0 if lane is None else lane.count

    # -- retries ------------------------------------------------------------------------------------------------------

    def release_lanes(self, usable: list[Source], now_ns: int) -> None:
        """What prefers a source that can't be used goes by any other; a slice at a time."""
        index, queue = self._app.index, self._queue
        keep = {source.number + 1 for source in usable}
        by_number = {source.number + 1: source for source in usable}
        for number, lane in list(queue.by_source.items()):
            if not lane.count or (number in keep and not self._capped(by_number[number], now_ns)):
                continue
            for _ in range(LANE_SLICE):
                r = index.py_pop(lane)
                if r is None:
                    break
                index.set_source(r, 0)
                index.py_push_site(queue, r)

    def _capped(self, source: Source, now_ns: int) -> bool:
        """Whether its day's cap is used."""
        if not source.warmup or not self._is_cold(source):
            return False
        refusal = refusal_of(self.passage(source).gate, now_ns)
        return refusal is not None and refusal[0].kind == "cap" and not refusal[0].pending


def refusal_of(gate: Gate, now_ns: int) -> tuple[Rule, int] | None:
    """The rule of a gate that denies now, and when to ask again (boot-time ns); None: it would permit."""
    for rule in gate.rules:
        permits = rule.look(now_ns)
        if permits <= 0:
            return rule, now_ns - permits
    return None
