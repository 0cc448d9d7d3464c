"""Places for open connections: how many there may be, for each scope that is limited, over all workers.

A connection is counted in every scope that matches it (`source:a provider:google`, `pool:news`, `relay`, and the worker
itself): all of them have room, or none is taken. The counts are in the shared table, so they hold over all workers; who
waits for a place here is known here, first come, first served.

    a place is given back in this worker      the first site that waits for it is woken
    another worker holds the places           the first in line, and only that one, asks again every POLL_SECONDS
    an idle session holds what another wants  it says QUIT
    a worker holds more than its fair share   its sessions leave behind the message in hand

Known faults: a place that another worker gave back is seen up to POLL_SECONDS late. A worker's share of a scope other
than the session's tightest one is looked at once a second, not behind every message.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastrelay.app import App

POLL_SECONDS = 0.25  # how soon the first in line asks again for what other workers hold
IDLE_LOOK = 64  # sessions looked at for an idle one when a site begins to wait
SECOND_SLICE = 1000  # counters looked at in one second
NO_LIMIT = 2**31 - 1


class Counter:
    """Connections of one scope. `limit` holds now; `base` is the configuration's, `reduced` a back-off's, if any."""

    __slots__ = ("base", "cell", "holders", "origin", "polling", "reduced", "scope", "waiting", "wanted")

    def __init__(self, scope: str, cell: int) -> None:
        self.scope = scope
        self.cell = cell
        self.base = NO_LIMIT
        self.reduced = NO_LIMIT
        self.origin = ""
        self.waiting: OrderedDict[Any, int] = OrderedDict()  # site queues, first come first; how many each wants
        self.wanted = 0  # sum of these
        self.holders: dict[Any, None] = {}  # sessions of this worker, oldest first
        self.polling = False

    @property
    def limit(self) -> int:
        return min(self.base, self.reduced)

    @property
    def detail(self) -> str:
        """For people: what is used up, and who set it."""
        if self.reduced < self.base:
            return f"{self.scope}: {self.reduced} connections while it backs off, all in use"
        return f"{self.scope}: {self.base} connections ({self.origin}), all in use"


Counters = tuple[Counter, ...]


class Connections:
    """Every counter of this worker, by scope."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._counters: dict[str, Counter] = {}
        self._held: dict[Counter, None] = {}  # those with sessions, in the order they are looked at
        self._contended: dict[Counter, None] = {}  # those that sites wait for

    # -- counters -----------------------------------------------------------------------------------------------------

    def counter(self, scope: str, limit: int = NO_LIMIT, origin: str = "") -> Counter:
        """The counter of a scope; its limit is what was said last."""
        counter = self._counters.get(scope)
        if counter is None:
            cell = self._app.table.cell(b"connections:" + scope.encode())
            counter = self._counters[scope] = Counter(scope, cell)
        counter.base, counter.origin = limit, origin
        return counter

    def find(self, scope: str) -> Counter | None:
        return self._counters.get(scope)

    def reduce(self, limits: dict[str, int]) -> None:
        """Limits of back-offs, by scope: they hold until the next call."""
        for scope, counter in self._counters.items():
            was, counter.reduced = counter.reduced, limits.get(scope, NO_LIMIT)
            if counter.reduced > was:
                self._pass_on(counter)

    def forget(self, scopes: Iterable[str]) -> None:
        """Drops counters that nobody uses (of sites that are gone)."""
        for scope in scopes:
            counter = self._counters.get(scope)
            if counter is not None and not counter.holders and not counter.waiting:
                del self._counters[scope]

    # -- places -------------------------------------------------------------------------------------------------------

    def take(self, counters: Counters, wanted: int, offered: Sequence[Counter] = ()) -> Counter | None:
        """Takes a place in each; None. Or takes none and gives the counter that has none left.

        `wanted`: how many connections the site could use now, which is what other workers share with. Where others
        wait already only `offered` places are taken: whose turn it is decides who is woken.
        """
        table, slot, alone = self._app.table, self._app.slot, self._app.slots == 1
        for taken, counter in enumerate(counters):
            full = bool(counter.waiting) and counter not in offered
            if not full and not alone:
                held = table.held(counter.cell, slot)
                self._publish(counter, held, wanted)
                full = held >= table.share(counter.cell, slot, counter.limit)
            if full or not table.acquire(counter.cell, slot, counter.limit):
                for one in counters[:taken]:
                    table.release(one.cell, slot)
                return counter
        return None

    def _publish(self, counter: Counter, held: int, wanted: int = 0) -> None:
        self._app.table.demand(counter.cell, self._app.slot, min(counter.limit, held + wanted + counter.wanted))

    def give_back(self, counters: Counters) -> None:
        """A connection is gone, or was never made."""
        table, slot = self._app.table, self._app.slot
        for counter in counters:
            table.release(counter.cell, slot)
            self._publish(counter, table.held(counter.cell, slot))
            if counter.waiting:
                self._wake_first(counter)

    def entered(self, session: Any, counters: Counters) -> None:
        """A session is ready for mail in places that were taken for it."""
        for counter in counters:
            if not counter.holders:
                self._held[counter] = None
            counter.holders[session] = None

    def left(self, session: Any, counters: Counters) -> None:
        """The session is gone. (`give_back` frees the places.)"""
        for counter in counters:
            counter.holders.pop(session, None)
            if not counter.holders:
                self._held.pop(counter, None)

    # -- waiting ------------------------------------------------------------------------------------------------------

    def wait(self, counter: Counter, site: Any, wanted: int, first: bool = False) -> None:
        """The site is woken when there may be a place. One that waits already keeps its place in line; `first`: it was
        woken in vain, and keeps its turn."""
        counter.wanted += wanted - counter.waiting.get(site, 0)
        counter.waiting[site] = wanted
        if first:
            counter.waiting.move_to_end(site, last=False)
        self._contended[counter] = None
        table, slot = self._app.table, self._app.slot
        held = table.held(counter.cell, slot)
        self._publish(counter, held)
        if not self._ask_idle(counter, IDLE_LOOK) and table.used(counter.cell) > held:
            self._poll_later(counter)

    def stop_waiting(self, counter: Counter, site: Any) -> None:
        wanted = counter.waiting.pop(site, 0)
        counter.wanted -= wanted
        if not counter.waiting:
            self._contended.pop(counter, None)

    def _ask_idle(self, counter: Counter, most: int) -> bool:
        """Asks one idle session to leave its place."""
        for session in islice(counter.holders, most):
            if session.idle:
                session.leave(self._app.clock.monotonic())
                return True
        return False

    def _wake_first(self, counter: Counter) -> None:
        """The first that still has mail to send tries again; it comes last in line if it has to wait once more."""
        while counter.waiting:
            site = next(iter(counter.waiting))
            self.stop_waiting(counter, site)
            if site.ready():
                site.pool.offered.append(counter)
                self._app.engine.wake(site)
                self._app.wake_soon()
                return

    def pass_on(self, counters: list[Counter]) -> None:
        """A site that was woken for these did not take all that there is: the next in line may."""
        for counter in counters:
            self._pass_on(counter)

    def _pass_on(self, counter: Counter) -> None:
        if counter.waiting and self._app.table.used(counter.cell) < counter.limit:
            self._wake_first(counter)

    # -- time ---------------------------------------------------------------------------------------------------------

    def _poll_later(self, counter: Counter) -> None:
        if not counter.polling:
            counter.polling = True
            self._app.board.call_later(POLL_SECONDS, lambda: self._poll(counter))

    def _poll(self, counter: Counter) -> None:
        counter.polling = False
        table = self._app.table
        if counter.waiting and table.used(counter.cell) < counter.limit:
            self._wake_first(counter)
        if counter.waiting and table.used(counter.cell) > table.held(counter.cell, self._app.slot):
            self._poll_later(counter)

    def second(self, now: float) -> None:
        """Once a second: places that idle sessions keep from others, and what is above a limit or a fair share."""
        for counter in list(islice(self._contended, SECOND_SLICE)):
            del self._contended[counter]
            self._contended[counter] = None  # behind those that were not looked at
            self._ask_idle(counter, len(counter.holders))
            self._pass_on(counter)
        for counter in list(islice(self._held, SECOND_SLICE)):
            del self._held[counter]
            self._held[counter] = None
            self._shed(counter, now)

    def _shed(self, counter: Counter, now: float) -> None:
        """Sessions above the limit or the fair share leave: idle ones now, others behind the message in hand."""
        table, slot = self._app.table, self._app.slot
        held = table.held(counter.cell, slot)
        surplus = held - table.share(counter.cell, slot, counter.limit)
        if surplus <= 0:
            return
        surplus -= sum(1 for session in counter.holders if session.closing or session.held)
        for session in sorted(counter.holders, key=lambda session: not session.idle):
            if surplus <= 0:
                return
            if session.closing or session.held:
                continue
            session.held = True
            surplus -= 1
            if session.idle:
                session.leave(now)
