"""Places for open connections: how many there may be, for each scope that is limited, over all workers.

A connection is counted in every scope that matches it (`source:a provider:google`, `pool:news`, `relay`, and the worker
itself): all of them have room, or none is taken. The counts are in the shared table, so they hold over all workers; who
waits for a place here is known here, first come, first served.

    a place is given back in this worker      the first site that waits for it is woken
    another worker holds the places           the first in line, and only that one, asks again every POLL_SECONDS
    an idle session holds what another wants  it says QUIT
    a worker holds more than its fair share   its sessions leave behind the message in hand
    transactional mail waits for a place      it is first in line, and a session with other mail leaves behind the
                                              message in hand, here or in another worker (Session._gives_way)

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

WANT_NS = 2_000_000_000  # a worker that is gone wants nothing after this time
POLL_SECONDS = 0.25  # how soon the first in line asks again for what other workers hold
IDLE_LOOK = 64  # sessions looked at for an idle one when a site begins to wait
SECOND_SLICE = 1000  # counters looked at in one second
NO_LIMIT = 2**31 - 1


class Counter:
    """Connections of one scope. `limit` holds now; `base` is the configuration's, `reduced` a back-off's, if any."""

    __slots__ = (
        "base", "cell", "holders", "origin", "polling", "reduced", "scope", "urgent", "urgent_cell", "waiting", "wanted"
    )  # fmt: skip

    def __init__(self, scope: str, cell: int) -> None:
        self.scope = scope
        self.cell = cell
        self.base = NO_LIMIT
        self.reduced = NO_LIMIT
        self.origin = ""
        self.waiting: OrderedDict[Any, int] = OrderedDict()  # site queues, first come first; how many each wants
        self.wanted = 0  # sum of these
        self.urgent: set[Any] = set()  # those of them with transactional mail and no session
        self.urgent_cell = 0  # where workers say so to each other; 0: nowhere
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
        if limit != NO_LIMIT and not counter.urgent_cell and self._app.slots > 1:
            counter.urgent_cell = self._app.table.cell(b"urgent:" + scope.encode())
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

    def take(
        self, counters: Counters, wanted: int, offered: Sequence[Counter] = (), *, urgent: bool = False
    ) -> Counter | None:
        """Takes a place in each; None. Or takes none and gives the counter that has none left.

        `wanted`: how many connections the site could use now, which is what other workers share with. Where others
        wait already only `offered` places are taken: whose turn it is decides who is woken. `urgent`: for transactional
        mail, which waits for nobody's turn or share.
        """
        table, slot, alone = self._app.table, self._app.slot, self._app.slots == 1
        now_ns = 0 if alone or urgent else self._app.clock.boottime_ns()
        for taken, counter in enumerate(counters):
            full = bool(counter.waiting) and counter not in offered and not urgent
            if not full and not alone:
                held = table.held(counter.cell, slot)
                self._publish(counter, held, wanted)
                full = not urgent and (
                    held >= table.share(counter.cell, slot, counter.limit)
                    or (counter.urgent_cell > 0 and table.others_want(counter.urgent_cell, slot, now_ns))
                )
            if full or not table.acquire(counter.cell, slot, counter.limit):
                for one in counters[:taken]:
                    table.release(one.cell, slot)
                return counter
        if urgent:
            for counter in counters:
                if counter.urgent_cell and not counter.urgent:
                    table.want(counter.urgent_cell, slot, 0, 0)
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
        urgent = bool(site.urgent) and not site.pool.sessions
        if urgent:
            counter.urgent.add(site)
            counter.waiting.move_to_end(site, last=False)
            self._want(counter)
        elif site in counter.urgent:
            self._not_urgent(counter, site)
        asked = self._ask_idle(counter, IDLE_LOOK) or (urgent and self._ask_busy(counter))
        if not asked and table.used(counter.cell) > held:
            self._poll_later(counter)

    def _want(self, counter: Counter) -> None:
        """Says to other workers that transactional mail waits here, for a while."""
        if counter.urgent_cell:
            now_ns = self._app.clock.boottime_ns()
            self._app.table.want(counter.urgent_cell, self._app.slot, now_ns, WANT_NS)

    def _not_urgent(self, counter: Counter, site: Any) -> None:
        counter.urgent.discard(site)
        if counter.urgent_cell and not counter.urgent:
            self._app.table.want(counter.urgent_cell, self._app.slot, 0, 0)

    def _ask_busy(self, counter: Counter) -> bool:
        """Lets one session that has no transactional mail leave behind the message in hand."""
        for session in islice(counter.holders, IDLE_LOOK):
            if session.held or session.closing:
                return True
        for session in islice(counter.holders, IDLE_LOOK):
            if not session.site.urgent:
                session.held = True
                return True
        return False

    def stop_waiting(self, counter: Counter, site: Any) -> None:
        if site in counter.urgent:
            self._not_urgent(counter, site)
        self._leave_line(counter, site)

    def _leave_line(self, counter: Counter, site: Any) -> None:
        counter.wanted -= counter.waiting.pop(site, 0)
        counter.urgent.discard(site)
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
        """The first that still has mail to send tries again; it comes last in line if it has to wait once more.

        What it wants for transactional mail goes on to be said to other workers until it has its place (`take`):
        in between, one of them would take it.
        """
        while counter.waiting:
            site = next(iter(counter.waiting))
            if not site.ready():
                self.stop_waiting(counter, site)
                continue
            self._leave_line(counter, site)
            site.pool.offered.append(counter)
            self._app.engine.wake(site)
            self._app.wake_soon()
            return

    def pass_on(self, counters: list[Counter]) -> None:
        """A site that was woken for these did not take all that there is: the next in line may."""
        for counter in counters:
            self._pass_on(counter)

    def _pass_on(self, counter: Counter) -> None:
        if counter.waiting and self._has_room(counter):
            self._wake_first(counter)

    def _has_room(self, counter: Counter) -> bool:
        """Whether the first in line may take a place: `take` would refuse what other workers have a right to, and a
        site that is woken only to be refused is woken for ever."""
        table, slot = self._app.table, self._app.slot
        if table.used(counter.cell) >= counter.limit:
            return False
        if self._app.slots == 1 or counter.urgent:
            return True
        wanted = counter.urgent_cell and table.others_want(counter.urgent_cell, slot, self._app.clock.boottime_ns())
        return not wanted and table.held(counter.cell, slot) < table.share(counter.cell, slot, counter.limit)

    # -- time ---------------------------------------------------------------------------------------------------------

    def _poll_later(self, counter: Counter) -> None:
        if not counter.polling:
            counter.polling = True
            self._app.board.call_later(POLL_SECONDS, lambda: self._poll(counter))

    def _poll(self, counter: Counter) -> None:
        counter.polling = False
        table = self._app.table
        if counter.urgent:
            self._want(counter)
        self._pass_on(counter)
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
        # A worker that is alone publishes no demand, so it has no share; all of the limit is its own.
        surplus = held - (counter.limit if self._app.slots == 1 else table.share(counter.cell, slot, counter.limit))
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
