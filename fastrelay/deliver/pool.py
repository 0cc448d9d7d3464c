"""The pool of one site queue: how many connections, from which source, to which host.

Connections grow with what is ready, as far as permits and places go (limits/gates.py, connections.py), from the sources
of the queue's pool (choice.py). A host that can't be used is remembered for a while (hosts.py), the next one by
preference is tried, and when none is left the site backs off (trouble.py); that burns no attempt of any message.

    reason            what the head of the site's queue waits for
    ready             a session that is free, or being opened
    connection_limit  a place for a connection; `detail` names the limit that is used up
    rate_limit        a permit of a rate; `detail` names the rule
    warmup_cap        a permit of a cold source's day, where nothing may overflow
    provider_backoff  a source that a rule about replies holds or slows down
    connect_backoff   no host of the site could be used; `detail` says what happened
    tls_policy        no host of the site has the TLS that its policy asks for; `detail` says what is wrong
    no_source         no source of this host can reach any of its addresses
    suspended         an operator holds every source that could send to it

Known faults: none.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from fastrelay._core.session import Session
from fastrelay.deliver.body import stream_body
from fastrelay.deliver.choice import Choice, Obstacle, refusal_of
from fastrelay.deliver.connect import ConnectFailure, Opening, connect
from fastrelay.deliver.connections import Counter, Counters
from fastrelay.deliver.source import Source
from fastrelay.deliver.trouble import Trouble

if TYPE_CHECKING:
    from fastrelay._core.limits import Rule
    from fastrelay.app import App
    from fastrelay.limits.gates import Passage

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25  # the least time before a site that nobody can send to is looked at again
MESSAGES_BEFORE_ONE_MORE = 4  # a further connection is opened for so many ready recipients
BLOCKED_SECONDS = 1.0  # how soon to look again while outcomes can't be written


class Growth:
    """One look at how many connections there should be, and what was in the way."""

    __slots__ = ("at_ns", "full", "hopeless", "now_ns", "refused", "rule", "wanted")

    def __init__(self, wanted: int, now_ns: int) -> None:
        self.wanted = wanted  # connections being opened, at the end
        self.now_ns = now_ns
        self.refused: set[int] = set()  # numbers of sources that may open no more now
        self.full: dict[Counter, None] = {}
        self.hopeless = False  # what refused one source refuses all
        self.rule: Rule | None = None  # of those that deny, the one that permits first
        self.at_ns = 0

    def deny(self, refusal: tuple[Rule, int] | None) -> None:
        if refusal is not None and (self.rule is None or refusal[1] < self.at_ns):
            self.rule, self.at_ns = refusal
        if refusal is not None:
            kind, _, scope = refusal[0].name.partition(b":")
            self.hopeless = kind in (b"rate", b"connect") and b"source:" not in scope


class Pool:
    """All sessions of this worker to one site for one pool of sources."""

    def __init__(self, app: App, site_queue: Any) -> None:
        self._app = app
        self.site_queue = site_queue
        self.choice = Choice(app, site_queue)
        site_queue.several = len(self.choice.sources) > 1
        self.trouble = Trouble(app, self)
        self.sessions: set[Session] = set()
        self.connecting = 0
        self.open_by_source: dict[int, int] = {}  # connections open or being opened
        self.offered: list[Counter] = []  # places for which this site was woken
        self.last_used = app.clock.monotonic()
        self.tails: dict[tuple[int, str, str], bytes] = {}
        self._openings: dict[Session, tuple[Opening, asyncio.Future[str]]] = {}
        self._waits: list[Counter] = []
        self._obstacle: Obstacle | None = None  # of all sources, when that was looked at last
        self._connecting_by_source: dict[int, int] = {}
        self._places: dict[Session, Counters] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # -- growing ----------------------------------------------------------------------------------------------------

    def pump(self, now: float) -> None:
        """Opens as many connections as what is ready calls for and the limits allow."""
        try:
            self._pump(now)
        finally:
            if self.offered:
                offered, self.offered = self.offered, []
                self._app.connections.pass_on(offered)

    def _pump(self, now: float) -> None:
        app, queue = self._app, self.site_queue
        ready = queue.ready()
        self.last_used = now
        if not ready or app.draining or queue.backoff_until > now:
            return
        if app.own_spool.settle_blocked:
            app.wake_later(queue, now + BLOCKED_SECONDS)
            return
        usable = self.choice.usable(now)
        if not usable:
            self._stand_back(now)
            return
        now_ns = app.clock.boottime_ns()
        if queue.by_source:
            self.choice.release_lanes(usable, now_ns)
        cold, warm, permits = self.choice.split(usable, now_ns)
        self._keep_cold_first(cold, warm, now)
        wanted = self.trouble.most_wanted(-(-ready // MESSAGES_BEFORE_ONE_MORE), now)
        growth = Growth(wanted, now_ns)
        self._grow(cold, growth)
        if warm and not growth.hopeless and (ready > permits or self.choice.waited_for(warm)):
            self._grow(warm, growth)
        self._wait(growth)

    def _stand_back(self, now: float) -> None:
        """No source may send here: says why, and when that is looked at again."""
        obstacle = self.choice.first_obstacle(now)
        self._obstacle = obstacle
        self.site_queue.reason, self.site_queue.detail = obstacle.reason, obstacle.detail
        if obstacle.reason == "no_source" and obstacle.until is not None:  # other ends are told to the board
            self._app.wake_later(self.site_queue, max(obstacle.until, now + POLL_SECONDS))

    def stands_back_seconds(self, now: float) -> float | None:
        """For how long no source may send here; None: nobody knows, or it is something else that mail waits for."""
        obstacle = self._obstacle
        if obstacle is None or obstacle.reason != self.site_queue.reason or obstacle.until is None:
            return None
        return round(max(0.0, obstacle.until - now), 1)

    def _keep_cold_first(self, cold: list[Source], warm: list[Source], now: float) -> None:
        """Tells the engine whose permits go first; where nothing overflows, sessions of warm sources leave."""
        self.site_queue.cold_gates = [self.choice.passage(source).gate for source in cold]
        if not cold or warm:
            return
        keep = {source.number for source in cold}
        for session in [session for session in self.sessions if session.source not in keep]:
            self._hold(session, now)

    def _grow(self, sources: list[Source], growth: Growth) -> None:
        while self.connecting < growth.wanted:
            for source in self.choice.in_order(sources, self.open_by_source):
                if source.number not in growth.refused and self._may_open(source, growth):
                    break
                if growth.hopeless:
                    return
            else:
                return

    def _may_open(self, source: Source, growth: Growth) -> bool:
        """Opens one more connection of a source if its permits and places allow; else notes what does not."""
        app = self._app
        passage = self.choice.passage(source)
        # Transactional mail without a session: its permits are asked for once it has one, and then it comes first.
        urgent = bool(self.site_queue.urgent) and not self.sessions
        if passage.gate.rules and not urgent:
            # What is being opened will use permits too: more connections than permits would only stand idle.
            promised = MESSAGES_BEFORE_ONE_MORE * self._connecting_by_source.get(source.number, 0)
            if passage.gate.soon(growth.now_ns) <= promised:
                growth.refused.add(source.number)
                growth.deny(refusal_of(passage.gate, growth.now_ns))
                return False
        missing = growth.wanted - self.connecting
        counter = app.connections.take(passage.counters, missing, self.offered, urgent=urgent)
        if counter is not None:
            growth.refused.add(source.number)
            growth.full[counter] = None
            growth.hopeless = "source:" not in counter.scope
            return False
        if passage.connects.rules and not passage.connects.permit(1, growth.now_ns, urgent):
            app.connections.give_back(passage.counters)
            growth.refused.add(source.number)
            growth.deny(refusal_of(passage.connects, growth.now_ns))
            return False
        self.site_queue.reason, self.site_queue.detail = "ready", ""
        self._open(source, passage)
        return True

    def _wait(self, growth: Growth) -> None:
        """Says what the site waits for, and waits for it, unless all that was wanted is under way."""
        app, queue = self._app, self.site_queue
        full = list(growth.full) if self.connecting < growth.wanted else []
        for counter in self._waits:
            if counter not in growth.full:
                app.connections.stop_waiting(counter, queue)
        self._waits = full
        if self.connecting >= growth.wanted:
            # A connection may come too late for its source's permits: the next denial must look at the others again.
            queue.denied_until_ns = 0
            return
        for counter in full:
            app.connections.wait(counter, queue, growth.wanted - self.connecting, counter in self.offered)
        if growth.rule is not None:
            app.engine.waiting.wait(growth.rule, queue, growth.at_ns)
            app.arm_limits()
        if full:
            queue.reason, queue.detail = "connection_limit", full[0].detail
        elif growth.rule is not None:
            queue.denied(growth.rule, growth.at_ns)

    # -- opening ----------------------------------------------------------------------------------------------------

    def _open(self, source: Source, passage: Passage) -> None:
        self.connecting += 1
        self._app.connecting += 1
        self._app.opened_by_source[source.number] += 1
        self._count(source.number, 1, 1)
        self._do(self._connect(Opening(source, passage)))

    def _count(self, number: int, opened: int, connecting: int) -> None:
        for counts, n in ((self.open_by_source, opened), (self._connecting_by_source, connecting)):
            counts[number] = counts.get(number, 0) + n
            if not counts[number]:
                del counts[number]

    async def _connect(self, opening: Opening) -> None:
        """Tries the hosts of the site; whatever comes of it, the places are a session's or given back."""
        app, failure = self._app, None
        try:
            failure = await connect(app, self, opening)
        except Exception as error:
            log.exception("connecting to %s failed in the relay itself; please report this", self.site_queue.key)
            app.count_error("deliver")
            failure = ConnectFailure("failed", f"error inside the relay: {error}")
        finally:
            self.connecting -= 1
            app.connecting -= 1
            self._count(opening.source.number, 0 if opening.taken else -1, -1)
            if not opening.taken:
                app.connections.give_back(opening.passage.counters)
        if failure is not None:
            self.trouble.connecting_failed(opening.source, failure)

    def await_greeting(self, session: Session, opening: Opening) -> asyncio.Future[str]:
        """What comes of a connection: "" when it is ready for mail, else why not."""
        answered: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._openings[session] = (opening, answered)
        return answered

    def greeted(self, session: Session) -> None:
        """Whoever awaited the greeting does so no more."""
        self._openings.pop(session, None)

    def _resolve(self, session: Session, result: str) -> None:
        _, answered = self._openings.get(session, (None, None))
        if answered is not None and not answered.done():
            answered.set_result(result)

    # -- what sessions say --------------------------------------------------------------------------------------------

    def ready(self, session: Session, now: float) -> None:
        """Greeting and EHLO are done: mail may go."""
        offered = session.client.capabilities
        if offered.mail_max:
            session.messages_left = min(session.messages_left, offered.mail_max)
        if offered.rcpt_max:
            session.most = min(session.most, offered.rcpt_max)
        if offered.rcpt_domain_max == 1:
            session.most = 1
        session.held = self._is_held(session, now)
        opening, _ = self._openings[session]
        opening.taken = True
        self._places[session] = opening.passage.counters
        self._app.connections.entered(session, opening.passage.counters)
        self.sessions.add(session)
        self.choice.fits(session.source)
        self.trouble.connected()
        self._resolve(session, "")

    def refused(self, session: Session, reply: Any) -> None:
        """The host takes no mail in this session; rules read its greeting as any other reply."""
        reactions = self._app.settler.reactions
        reactions.refused(session.source_name, self.site_queue, reply.code, reply.enhanced or "", reply.text)
        self._resolve(session, reply.text_for_log())

    def starttls(self, session: Session) -> None:
        """The host takes a TLS handshake now."""
        self._do(session.tls.upgrade(session))

    def gone(self, session: Session, error: BaseException | None) -> None:
        """The connection is closed."""
        self._app.sessions.discard(session)
        session.leave_idle()
        if session.ssl is not None:
            session.tls.over(session)
        if session.client.chunking_broken:
            self._app.hosts.no_chunking(session.address)
        counters = self._places.pop(session, None)
        if counters is None:
            self._resolve(session, session.client.error or f"connection lost: {error or 'closed by the host'}")
            return
        self.sessions.discard(session)
        self._count(session.source, -1, 0)
        self._app.connections.left(session, counters)
        self._app.connections.give_back(counters)
        self.trouble.session_over(session)
        if self.site_queue.ready() and not self._app.draining:
            self._app.engine.wake(self.site_queue)
            self._app.wake_soon()

    # -- what changes -------------------------------------------------------------------------------------------------

    def _is_held(self, session: Session, now: float) -> bool:
        """Whether the source of a session may not send here any more."""
        source = self._app.sources.get(session.source_name)
        if source is None or source not in self.choice.sources:
            return True
        obstacle = self.choice.obstacle(source, now)
        return obstacle is not None and obstacle.reason != "no_source"

    def _hold(self, session: Session, now: float) -> None:
        """The session leaves, behind the message in hand if it has one."""
        session.held = True
        if session.idle:
            session.leave(now)

    def heed(self, now: float) -> None:
        """Suspensions or back-offs changed: sessions of sources that may not send now leave."""
        for session in list(self.sessions):
            session.held = False
            if self._is_held(session, now):
                self._hold(session, now)

    def renew(self) -> None:
        """The gates of this site are made anew."""
        self.choice.passages.clear()
        self.site_queue.gates.clear()
        self.site_queue.cold_gates = []
        self._app.engine.wake(self.site_queue)
        self._app.wake_soon()

    def configure(self, now: float) -> None:
        """The configuration changed: sources, limits. Sessions that have no place under the new limits leave."""
        connections = self._app.connections
        self.renew()
        self.choice.configure()
        self.site_queue.several = len(self.choice.sources) > 1
        for counter in self._waits:
            connections.stop_waiting(counter, self.site_queue)
        self._waits = []
        for session in list(self.sessions):
            source = self._app.sources.get(session.source_name)
            if source is None or not self._move(session, source):
                self._hold(session, now)

    def _move(self, session: Session, source: Source) -> bool:
        """Counts an open session in the places of the new configuration; False where there is none for it."""
        connections, old = self._app.connections, self._places[session]
        passage = self.choice.passage(source)
        missing = tuple(counter for counter in passage.counters if counter not in old)
        if connections.take(missing, 1) is not None:
            return False
        gone = tuple(counter for counter in old if counter not in passage.counters)
        connections.left(session, old)
        connections.give_back(gone)
        self._places[session] = passage.counters
        connections.entered(session, passage.counters)
        session.messages_left = min(session.messages_left, passage.shape.messages_per_connection)
        session.most = min(session.most, passage.shape.recipients_per_transaction)
        return True

    # -- services -----------------------------------------------------------------------------------------------------

    def broke(self, session: Session, error: Exception) -> None:
        """A bug of ours in this session: it is cut off, which settles what it has in hand, and said."""
        self._app.count_error("deliver")
        log.error("session to %s [%s] broke; please report this", session.host, session.address, exc_info=error)
        session.closing = True
        session.abort()

    def stream(self, session: Session) -> None:
        """The machine wants the body of a large content."""
        self._do(stream_body(self._app, session))

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def cancel(self) -> None:
        """Ends connects that are under way (drain)."""
        for task in list(self._tasks):
            task.cancel()
        for task in list(self._tasks):
            with contextlib.suppress(asyncio.CancelledError):
                await task
