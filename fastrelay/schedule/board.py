"""Which domain waits for what: routes, sites, expiry, suspensions. The engine calls this off its straight path.

A domain's mail waits in the domain's own queue until its route and TLS policy are known, then in the queue of its site
for that policy. A route that
fails ends the mail at once; one that can't be found now is asked for again, and the mail says `dns`.

Known faults: ending very many recipients of one domain at once (NXDOMAIN for a big one) is done in slices, in between
which a new route is not looked at.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from fastrelay.deliver.pool import Pool
from fastrelay.limits.shape import DEFAULT_POOL, place_of
from fastrelay.route.names import InvalidDomain, normalize_domain
from fastrelay.schedule.places import DNS, READY, RETRY, SUPPRESSION, SUSPENDED, UNSIGNED
from fastrelay.schedule.state import EXPIRED, FAILED, REMOVED, SUPPRESSED
from fastrelay.schedule.suspension import Backoff, Suspension
from fastrelay.tls.policy import OPPORTUNISTIC, TlsPolicy

if TYPE_CHECKING:
    from fastrelay.app import App
    from fastrelay.tls.outbound import Known

log = logging.getLogger(__name__)

RESORT_SLICE = 5_000  # messages that new suspensions are held against before the loop gets its turn
SLICE = 500  # recipients ended or looked at before the loop gets its turn
DOMAINS_KEPT = 50_000
POOL_IDLE_SECONDS = 300.0
SWEEP_SLICE = 5_000  # messages
SWEEP_SLICES = 20
SWEEP_AGAIN_SECONDS = 0.05
NAMED_WAITS = frozenset(
    {"connection_limit", "no_source", "suspended", "rate_limit", "warmup_cap", "provider_backoff"}
)  # beside connect_backoff, which ends by itself
OVERDUE = frozenset({READY, RETRY, DNS, SUSPENDED, UNSIGNED, SUPPRESSION})  # places where mail may expire
IN_HAND = {"unplaced": "in_flight", "loading": "in_flight"}


class Board:
    """Domains, sites and what their mail waits for, in one worker."""

    def __init__(self, app: App) -> None:
        self._app = app
        self.sites: dict[tuple[str, bytes, str], Any] = {}  # by the keys of the site, the pool and the TLS policy
        self.suspensions: list[Suspension] = []
        self.described: list[dict[str, Any]] = []
        self.backoffs: dict[tuple[str, str], Backoff] = {}  # by source and place
        self.quarantined_messages = 0
        self._wakes: list[tuple[float, int, Any]] = []
        self._order = itertools.count()
        self._tasks: set[asyncio.Task[None]] = set()
        self._expiry_at = 0

    # -- what the engine asks -----------------------------------------------------------------------------------------

    def domain_for(self, name: bytes, pool: bytes = b"", variant: int = 0) -> Any:
        """The Domain of a name as a client spelled it (lower case), for a pool (empty: `default`); None where it is no
        domain at all."""
        try:
            normal = normalize_domain(name.decode("utf-8"))
        except (InvalidDomain, UnicodeDecodeError):
            return None
        return self._app.index.domain(normal.encode(), pool, variant)

    def unrouted(self, domain: Any) -> None:
        """Mail waits for a domain whose route is unknown or ran out."""
        now = self._app.clock.monotonic()
        domain.resolving = True
        if domain.wait_until > now:
            self._wake_at(domain.wait_until, domain)
            return
        name = domain.name.decode()
        route = self._app.router.cached(name, now)
        if route is not None:
            tls = self._app.tls.known(name, route, domain.variant, now) if route.action == "site" else None
            if tls is not None or route.action != "site":
                self._apply(domain, route, tls, now)
                return
        task = asyncio.get_running_loop().create_task(self._resolve(domain))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _resolve(self, domain: Any) -> None:
        app, name = self._app, domain.name.decode()
        try:
            now = app.clock.monotonic()
            app.tls.begin(name, domain.variant, now)
            route, tls = await app.router.resolve(name, now), None
            if route.action == "site":
                tls = await app.tls.find(name, route, domain.variant, app.clock.monotonic())
        except Exception:
            log.exception("looking up %s failed in the relay itself; its mail waits", name)
            app.count_error("route")
            domain.wait_until = app.clock.monotonic() + 60
            self._wake_at(domain.wait_until, domain)
            return
        try:
            self._apply(domain, route, tls, app.clock.monotonic())
        except Exception:
            log.exception("mail for %s could not be put to its route; it waits", name)
            app.count_error("route")
            domain.resolving = True
            self._wake_at(app.clock.monotonic() + 60, domain)
        app.wake_soon()

    def _apply(self, domain: Any, route: Any, tls: Known | None, now: float) -> None:
        domain.route = route
        domain.resolving = False
        if tls is not None:
            domain.site = self.site_queue(route.site, domain.pool, now, tls.policy)
            # At refresh_at the router is asked again, which renews the route in the background before it ends.
            domain.route_expires = max(min(route.refresh_at, route.expires_at, tls.expires_at), now + 1)
            domain.wait_detail = ""
            self._app.engine.route_pending(domain, now)
            return
        domain.site = None
        if route.action == "defer":
            domain.wait_until = max(route.expires_at, now + 1)
            domain.wait_detail = route.text
            domain.resolving = True
            self._wake_at(domain.wait_until, domain)
        elif route.action == "discard":
            self._end(domain.pending, REMOVED, reason="discarded_by_route")
        else:
            reason = "rejected_by_route" if route.action == "reject" else "unroutable"
            reply = f"{route.code} {route.enhanced} {route.text}"
            self._end(domain.pending, FAILED, reason=reason, reply=reply, code=route.code, enhanced=route.enhanced)

    def site_queue(self, site: Any, pool: bytes, now: float, tls: TlsPolicy = OPPORTUNISTIC) -> Any:
        """The queue of a site for a pool of sources (b"": the default one) and a TLS policy, made at its first use."""
        key = (site.key, pool, tls.key)
        queue = self.sites.get(key)
        if queue is None:
            queue = self.sites[key] = self._app.index.new_site_queue(site, pool.decode() or DEFAULT_POOL)
            queue.tls = tls
            queue.pool = Pool(self._app, queue)
        return queue

    def pump(self, site: Any, now: float) -> None:
        site.pool.pump(now)

    def expire(self, r: int) -> None:
        """Given up: it was queued for longer than retry.expire."""
        self._finish(r, EXPIRED, reason="expired")

    def suppress(self, r: int, reason: str, scope: str, source: str) -> None:
        """Not to be sent to: the suppression list has the recipient."""
        more = {"suppression_reason": reason, "suppression_scope": scope, "suppression_source": source or None}
        self._finish(r, SUPPRESSED, reason="suppressed", more=more)

    # -- ending many --------------------------------------------------------------------------------------------------

    def _finish(self, r: int, status: int, **fields: Any) -> None:
        """Ends one; whatever goes wrong with that, the recipient is in a place that has a name."""
        try:
            self._app.settler.finish(r, status, **fields)
        except Exception as error:
            self._app.count_error("schedule")
            log.exception("a recipient could not be ended; its message is quarantined. Please report this")
            self._app.quarantine.damaged(self._app.index.recipient_info(r)[0], error)

    def _end(self, queue: Any, status: int, **fields: Any) -> None:
        """Ends everything in a queue, a slice at a time."""
        index = self._app.index
        for _ in range(SLICE):
            r = index.py_pop(queue)
            if r is None:
                return
            self._finish(r, status, **fields)
        asyncio.get_running_loop().call_soon(lambda: self._end(queue, status, **fields))

    def fail_ready(self, site: Any, code: int, enhanced: str, words: str, reason: str) -> None:
        """Everything that is ready for a site fails: its hosts will never take mail."""
        for queue in (site.common, *site.by_source.values()):
            self._end(queue, FAILED, reason=reason, reply=f"{code} {enhanced} {words}", code=code, enhanced=enhanced)

    # -- time ---------------------------------------------------------------------------------------------------------

    def _wake_at(self, when: float, what: Any) -> None:
        heapq.heappush(self._wakes, (when, next(self._order), what))

    def wake_later(self, site: Any, when: float) -> None:
        """Looks at a site again at `when` (monotonic seconds)."""
        self._wake_at(when, site)

    def call_later(self, seconds: float, act: Callable[[], None]) -> None:
        """Calls `act` with the first tick after so long."""
        self._wake_at(self._app.clock.monotonic() + seconds, act)

    def tick(self, now: float) -> None:
        """Everything whose time has come: domains to ask for again, sites to try again."""
        while self._wakes and self._wakes[0][0] <= now:
            _, _, what = heapq.heappop(self._wakes)
            if what.__class__.__name__ == "Domain":
                what.wait_until = 0.0
                what.resolving = False
                if what.pending.count:
                    self.unrouted(what)
            elif callable(what):
                what()
            elif what.ready():
                self._app.engine.reroute(what, now)
                self._app.engine.wake(what)

    def sweep(self, now: float) -> None:
        """Expiry of mail that nobody pulls, a slice of the index at a time; forgets idle sites and domains."""
        index = self._app.index
        for _ in range(SWEEP_SLICES):
            following, found = self._app.engine.expired(self._expiry_at, SWEEP_SLICE, now)
            found = [r for r in found if index.recipient_info(r)[3] in OVERDUE]
            for r in found[:SLICE]:
                self.expire(r)
            if len(found) > SLICE:
                asyncio.get_running_loop().call_later(SWEEP_AGAIN_SECONDS, self._sweep_again)
                break
            self._expiry_at = following or 0
            if following is None:
                break
        index.forget_idle_domains(DOMAINS_KEPT)
        self._forget_idle_sites(now)

    def _sweep_again(self) -> None:
        """So much expired that the last sweep had to stop."""
        if not self._app.draining:
            self.sweep(self._app.clock.monotonic())

    def _forget_idle_sites(self, now: float) -> None:
        idle = {}
        for key, queue in self.sites.items():
            pool = queue.pool
            unused = now - pool.last_used > POOL_IDLE_SECONDS
            if unused and not queue.ready() and not pool.sessions and not pool.connecting:
                idle[key] = queue
        if not idle:
            return
        gone = set(map(id, idle.values()))
        for domain in self._app.index.domains.values():
            if id(domain.site) in gone:
                domain.site = None
                domain.route_expires = 0.0
        for key, queue in idle.items():
            del self.sites[key]
            self._app.engine.waiting.forget(queue)
            self._app.gates.forget(queue)
            self._app.index.free_site_queue(queue)

    # -- suspensions --------------------------------------------------------------------------------------------------

    def set_suspensions(self, described: list[dict[str, Any]]) -> None:
        """Takes the supervisor's list; what is no longer held goes on."""
        self.described = described
        self.suspensions = [Suspension.of(one, self._app.index, self._app.source_numbers) for one in described]
        self._app.engine.suspensions = bool(self.suspensions)
        self._heed(self.sites.values())
        task = asyncio.get_running_loop().create_task(self._resort())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _heed(self, sites: Iterable[Any]) -> None:
        """Which sources may send to these has changed."""
        now = self._app.clock.monotonic()
        for site in sites:
            site.pool.heed(now)
            self._app.engine.wake(site)
        self._app.wake_soon()

    async def _resort(self) -> None:
        """Holds what the suspensions match now and lets go what they no longer do, a slice of the index at a time."""
        index = self._app.index
        start: int | None = 0
        while start is not None:
            here = start
            start, found = index.select(here, RESORT_SLICE, place=SUSPENDED)
            for r in found:
                if not self.suspended(r):
                    self._app.engine.place_ready(r, self._app.clock.monotonic())
            for place in (READY, DNS) if self.suspensions else ():
                for r in index.select(here, RESORT_SLICE, place=place)[1]:
                    if self.suspended(r):
                        index.py_place(r, SUSPENDED)
            self._app.wake_soon()
            await asyncio.sleep(0)

    def suspended(self, r: int, source: int = -1) -> bool:
        """Whether an operator holds this recipient, or holds it back from the source (number) that would take it."""
        return self.suspension_of(r, source) is not None

    def suspension_of(self, r: int, source: int = -1) -> Suspension | None:
        """The first suspension that holds a recipient. One of a whole source holds sessions instead (`source_held`)."""
        if not self.suspensions:
            return None
        now = self._app.clock.monotonic()
        return next((one for one in self.suspensions if one.holds(self._app.index, r, now, source)), None)

    def source_held(self, source: str, provider: str) -> Suspension | None:
        """The suspension by which a source sends nothing to sites of a provider: its mail goes by other sources."""
        return next((one for one in self.suspensions if one.holds_source(source, provider)), None)

    # -- back-offs ----------------------------------------------------------------------------------------------------

    def set_backoffs(self, described: list[dict[str, Any]]) -> None:
        """Takes the governor's list: sources that send nothing to a place for a time, or over fewer connections."""
        backoffs: dict[tuple[str, str], Backoff] = {}
        for one in map(Backoff.of, described):
            other = backoffs.get((one.source, one.place))
            if other is None or one.stricter_than(other):
                backoffs[one.source, one.place] = one
        was, self.backoffs = self.backoffs, backoffs
        changed = {
            key
            for key in was.keys() | backoffs.keys()
            if key not in was or key not in backoffs or not was[key].same(backoffs[key])
        }
        if not changed:
            return
        scope = self._app.gates.place_scope
        self._app.connections.reduce(
            {scope(one.source, one.place): one.connections for one in backoffs.values() if one.connections is not None}
        )
        places = {place for _, place in changed}
        self._heed([site for site in self.sites.values() if place_of(site.provider, site.key) in places])

    @property
    def holds_sources(self) -> bool:
        """Whether anything at all may hold a source back."""
        return bool(self.suspensions or self.backoffs)

    def backoff_of(self, source: str, site: Any) -> Backoff | None:
        """What the governor ordered for a source at a site."""
        return self.backoffs.get((source, place_of(site.provider, site.key)))

    # -- for people ---------------------------------------------------------------------------------------------------

    def site_reason(self, site: Any, now: float) -> str:
        """What the head of a site's queue waits for."""
        if self._app.engine.held_back or self._app.own_spool.settle_blocked:
            return "spool_blocked"
        if site.backoff_until > now or site.reason in NAMED_WAITS:
            return str(site.reason)
        return "ready"

    def why_site(self, site: Any, now: float) -> tuple[str, str, float | None]:
        """The reason, a sentence, and how many seconds it lasts, where that is known."""
        reason, detail = self.site_reason(site, now), str(site.detail)
        if site.backoff_until > now:
            return reason, detail, round(site.backoff_until - now, 1)
        if reason == "ready":
            return reason, f"{site.ready()} recipients are ready for {site.key}; it is among the next", None
        if reason == "spool_blocked":
            return reason, "outcomes can't be written to disk, so nothing is sent; see the relay's log", None
        rule = self._rule_of(site)
        if rule is not None and rule.reason == reason:
            seconds = max(0.0, -rule.look(self._app.clock.boottime_ns()) / 1e9)
            return reason, f"{rule.detail}; next permit in {seconds:.1f} s", round(seconds, 1)
        return reason, detail, site.pool.stands_back_seconds(now)

    def _rule_of(self, site: Any) -> Any:
        """The rule that a site waits for, or one of those that its sources wait for."""
        waiting = self._app.engine.waiting
        return next((rule for one in (site, *site.turns.values()) if (rule := waiting.rule_of(one)) is not None), None)

    def by_reason(self, now: float) -> dict[str, int]:
        """Queued recipients by what they wait for."""
        counts: dict[str, int] = {}
        for place, n in self._app.index.place_counts().items():
            if n and place != "ready":
                name = IN_HAND.get(place, place)
                counts[name] = counts.get(name, 0) + n
        for site in self.sites.values():
            n = site.ready()
            if n:
                reason = self.site_reason(site, now)
                counts[reason] = counts.get(reason, 0) + n
        return counts
