"""The pool of one site: how many connections, from which source, to which host.

Connections grow with what is ready, up to `connections_per_site` for each source, counted over all workers in the
shared table. A host that can't be used is remembered for a while (hosts.py), the next one by preference is tried, and
when none is left the site backs off; that burns no attempt of any message.

    reason            what the head of the site's queue waits for
    ready             a session that is free, or being opened
    connection_limit  the site's connections are all in use
    connect_backoff   no host of the site could be used; `detail` says what happened
    no_source         no source of this host can reach any of its addresses
    suspended         an operator holds every source that could send to it

Known faults: sources are chosen by fewest open connections; limits by rate come with the limits module.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from typing import TYPE_CHECKING, Any, cast

from fastrelay._core.client import SmtpClient
from fastrelay._core.session import Session
from fastrelay.deliver.body import stream_body
from fastrelay.deliver.source import Source, open_socket

if TYPE_CHECKING:
    from fastrelay.app import App

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25  # how soon to ask again for a connection that another worker holds
MESSAGES_BEFORE_ONE_MORE = 4  # a further connection is opened for so many ready recipients
LANE_SLICE = 1000
BLOCKED_SECONDS = 1.0  # how soon to look again while outcomes can't be written
NEVER = (0.0, "")
HOST_NEVER_TAKES_MAIL = 521  # RFC 7504
UNFIT_SECONDS = 60.0  # a source that can't send to this site is passed over for so long


class Pool:
    """All sessions of this worker to one site."""

    def __init__(self, app: App, site_queue: Any) -> None:
        self._app = app
        self.site_queue = site_queue
        self.sessions: set[Session] = set()
        self.connecting = 0
        self.open_by_source: dict[int, int] = {}
        self.failures = 0
        self.last_used = app.clock.monotonic()
        self._cells: dict[int, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: dict[Session, asyncio.Future[str]] = {}
        self._tails: dict[tuple[int, str, str], bytes] = {}
        self._unfit: dict[int, tuple[float, str]] = {}  # source number: until when, and why

    # -- growing ----------------------------------------------------------------------------------------------------

    def pump(self, now: float) -> None:
        """Opens as many connections as what is ready calls for and the limits allow."""
        app, queue = self._app, self.site_queue
        ready = queue.ready()
        self.last_used = now
        if not ready or app.draining:
            return
        if queue.backoff_until > now:
            return
        if app.own_spool.settle_blocked:
            app.wake_later(queue, now + BLOCKED_SECONDS)
            return
        sources = self._usable(now)
        if not sources:
            self._no_source(now)
            return
        if queue.by_source:
            self._release_lanes(sources)
        opened = len(self.sessions)
        most = app.config.delivery.connections_per_site * len(sources)
        wanted = min(-(-ready // MESSAGES_BEFORE_ONE_MORE), most - opened)
        if wanted <= 0:
            self._at_limit(opened)
        while self.connecting < wanted:
            source = self._choose_source(sources)
            if source is None:
                self._at_limit(opened)
                if not opened and not self.connecting:
                    app.wake_later(queue, now + POLL_SECONDS)
                break
            queue.reason, queue.detail = "ready", ""
            self._open(source)

    def _at_limit(self, opened: int) -> None:
        self.site_queue.reason = "connection_limit"
        self.site_queue.detail = f"{opened} connections to this site are open in this worker, the limit is in use"

    def _usable(self, now: float) -> list[Source]:
        """The sources that may send to this site now."""
        app = self._app
        if not self._unfit and not app.board.suspensions:
            return app.pool_sources
        return [
            one for one in app.pool_sources if self._unfit.get(one.number, NEVER)[0] <= now and not self.held(one.name)
        ]

    def held(self, source: str) -> bool:
        """Whether an operator holds a source, for this site's provider at least."""
        return self._app.board.source_held(source, self.site_queue.provider) is not None

    def _no_source(self, now: float) -> None:
        """Every source is held or unfit: says why, and when that is looked at again."""
        app, queue = self._app, self.site_queue
        suspensions = [app.board.source_held(one.name, queue.provider) for one in app.pool_sources]
        held = next((one for one in suspensions if one is not None), None)
        if held is not None:
            why = held.why or "no reason given"
            queue.reason, queue.detail = "suspended", f"its sources are held by suspension {held.id}: {why}"
        unfit = [self._unfit[one.number] for one in app.pool_sources if one.number in self._unfit]
        if unfit:
            until, why = min(unfit)
            app.wake_later(queue, max(until, now + POLL_SECONDS))
            if held is None:
                queue.reason, queue.detail = "no_source", why

    def _release_lanes(self, sources: list[Source]) -> None:
        """What prefers a source that can't be used goes by any other; a slice at a time."""
        index, queue = self._app.index, self.site_queue
        usable = {one.number + 1 for one in sources}
        for number, lane in queue.by_source.items():
            if number in usable:
                continue
            for _ in range(LANE_SLICE):
                r = index.py_pop(lane)
                if r is None:
                    break
                index.py_push(queue.common, r)

    def heed_suspensions(self, now: float) -> None:
        """The suspensions changed: sessions of sources that are held now end behind the message in hand."""
        for session in list(self.sessions):
            session.held = self.held(session.source_name)
            if session.held and session.idle:
                session.leave(now)

    def _choose_source(self, sources: list[Source]) -> Source | None:
        """The source with the fewest connections to this site that may open one more; its place is then taken."""
        app = self._app
        limit = app.config.delivery.connections_per_site
        if len(app.sessions) + app.connecting >= app.connection_limit:
            return None
        for source in sorted(sources, key=self._preference):
            cell = self._cell(source)
            app.table.demand(cell, app.slot, min(limit, self.site_queue.ready() + len(self.sessions)))
            if app.table.held(cell, app.slot) >= app.table.share(cell, app.slot, limit):
                continue
            if app.table.acquire(cell, app.slot, limit):
                return source
        return None

    def _preference(self, source: Source) -> tuple[bool, int, int]:
        """Lower is better: a source that retries wait for and that has no connection, then the least used here, then
        the one that opened the fewest connections so far (many small sites would all get the first one)."""
        opened = self.open_by_source.get(source.number, 0)
        lane = self.site_queue.by_source.get(source.number + 1)
        waited_for = lane is not None and lane.count and not opened
        return not waited_for, opened, self._app.opened_by_source[source.number]

    def _cell(self, source: Source) -> int:
        cell = self._cells.get(source.number)
        if cell is None:
            name = f"connections:{source.name}:{self.site_queue.key}".encode()
            cell = self._cells[source.number] = self._app.table.cell(name)
        return cell

    def _open(self, source: Source) -> None:
        self.connecting += 1
        self._app.connecting += 1
        self._app.opened_by_source[source.number] += 1
        self.open_by_source[source.number] = self.open_by_source.get(source.number, 0) + 1
        task = asyncio.get_running_loop().create_task(self._connect(source))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _give_back(self, number: int) -> None:
        """A connection of a source is gone, or was never made."""
        self.open_by_source[number] -= 1
        if number in self._cells:
            self._app.table.release(self._cells[number], self._app.slot)
            if not self.site_queue.ready():
                self._app.table.demand(self._cells[number], self._app.slot, len(self.sessions))

    # -- connecting ---------------------------------------------------------------------------------------------------

    async def _connect(self, source: Source) -> None:
        """Tries the hosts in order until one is ready for mail."""
        app, queue = self._app, self.site_queue
        outcome, detail = "failed", ""
        codes: set[int] = set()
        try:
            targets, failure = await app.router.targets(queue.site, app.clock.monotonic())
            if failure is not None:
                self._unreachable(failure)
                return
            usable = [t for t in targets if source.reaches(t.family)]
            if not usable:
                outcome = "no_source"
                detail = f"source {source.name} has no address of the family that {queue.key} needs"
            for target in app.hosts.in_order(usable, app.clock.monotonic()):
                outcome, detail, code = await self._try(source, target)
                codes.add(code)
                if outcome == "ready" or app.draining:
                    return
                if outcome == "no_source":
                    break
        except Exception as error:
            log.exception("connecting to %s failed in the relay itself; its mail waits. Please report this", queue.key)
            outcome, detail = "failed", f"error inside the relay: {error}"
            app.count_error("deliver")
        finally:
            self.connecting -= 1
            app.connecting -= 1
            if outcome != "ready":
                self._give_back(source.number)
        self._all_failed(source, outcome, detail, codes)

    async def _try(self, source: Source, target: Any) -> tuple[str, str, int]:
        """One address: ("ready", …) or why not, in words, with the code of a refusal."""
        app = self._app
        loop = asyncio.get_running_loop()
        began = app.clock.monotonic()
        where = f"{target.host} [{target.address}]:{target.port}"
        try:
            sock = open_socket(source, target.family)
        except OSError as error:
            app.count_connect("error")
            return "no_source", f"source {source.name} ({source.address}) can't be used: {error.strerror}", 0
        session: Session | None = None
        try:
            async with asyncio.timeout(app.config.delivery.connect_timeout_seconds):
                await loop.sock_connect(sock, (target.address, target.port))
            session = self._session(source, target)
            waiter: asyncio.Future[str] = loop.create_future()
            self._waiting[session] = waiter
            await loop.create_connection(lambda: cast(asyncio.BaseProtocol, session), sock=sock)
            if not session.closed:
                app.sessions.add(session)
            app.observe_connect(app.clock.monotonic() - began)
            result = await waiter
        except (OSError, TimeoutError) as error:
            sock.close()
            words = "timed out" if isinstance(error, TimeoutError) else (error.strerror or str(error))
            app.hosts.failed(target.address, app.clock.monotonic())
            app.count_connect("timeout" if isinstance(error, TimeoutError) else connect_result(error))
            return "failed", f"connecting to {where}: {words}", 0
        except BaseException:
            if session is None:
                sock.close()
            else:
                session.abort()
            raise
        finally:
            if session is not None:
                self._waiting.pop(session, None)
        if result == "":
            app.hosts.succeeded(target.address)
            app.count_connect("ok")
            return "ready", "", 0
        app.hosts.failed(target.address, app.clock.monotonic())
        app.count_connect("greeting")
        return "failed", f"{where}: {result}", int(result[:3]) if result[:3].isdigit() else 0

    def _session(self, source: Source, target: Any) -> Session:
        app = self._app
        delivery = app.config.delivery
        key = (source.number, target.host, target.address)
        tail = self._tails.get(key)
        if tail is None:
            if len(self._tails) > 256:
                self._tails.clear()
            tail = self._tails[key] = app.event_tail(source.name, self.site_queue, target.host, target.address)
        return Session(
            SmtpClient(
                source.ehlo,
                app.clock.monotonic(),
                timeouts=app.timeouts,
                allow_chunking=app.hosts.chunking(target.address),
            ),
            app.engine,
            self.site_queue,
            self,
            source=source.number,
            source_name=source.name,
            host=target.host,
            address=target.address,
            tail=tail,
            messages=delivery.messages_per_connection,
            most=delivery.recipients_per_transaction,
            table=app.table,
            cell=self._cell(source),
            slot=app.slot,
            limit=delivery.connections_per_site if app.slots > 1 else 0,
            delivered_slot=app.outcome_slot("delivered", self.site_queue.provider, source.name),
            transaction_seconds=app.transaction_histogram(self.site_queue.provider),
        )

    # -- what becomes of it -------------------------------------------------------------------------------------------

    def _unreachable(self, failure: Any) -> None:
        """None of the site's hosts has an address."""
        self._app.count_connect("unreachable")
        if failure.action == "fail":
            self._fail_ready(failure.code, failure.enhanced, failure.text, "unroutable")
            return
        self._back_off(failure.text)

    def _all_failed(self, source: Source, outcome: str, detail: str, codes: set[int]) -> None:
        """No host could be used. With other sessions open the site is still reachable: no back-off then."""
        if outcome == "no_source":
            self._pass_over(source, detail)
            return
        if self.sessions:
            return
        if codes == {HOST_NEVER_TAKES_MAIL}:
            self._fail_ready(HOST_NEVER_TAKES_MAIL, "5.3.2", detail, "host_refuses_mail")
            return
        self._back_off(detail)

    def _pass_over(self, source: Source, why: str) -> None:
        """This source can't send to this site: the others do, if there are any."""
        app = self._app
        now = app.clock.monotonic()
        if source.number not in self._unfit:
            log.warning("site %s: %s", self.site_queue.key, why)
        self._unfit[source.number] = (now + UNFIT_SECONDS, why)
        app.engine.wake(self.site_queue)
        app.wake_soon()

    def _fail_ready(self, code: int, enhanced: str, words: str, reason: str) -> None:
        self._app.fail_ready(self.site_queue, code, enhanced, words, reason)

    def _back_off(self, detail: str) -> None:
        queue, bounds = self.site_queue, self._app.config.delivery.connect_backoff
        now = self._app.clock.monotonic()
        if queue.backoff_until > now:
            return
        delay = min(bounds.max_seconds, bounds.first_seconds * 2 ** min(self.failures, 32))
        self.failures += 1
        queue.backoff_until = now + delay
        queue.reason, queue.detail = "connect_backoff", detail
        self._app.wake_later(queue, queue.backoff_until)
        level = logging.WARNING if self.failures == 1 else logging.INFO
        log.log(level, "site %s can't be reached, next try in %.0f s: %s", queue.key, delay, detail)

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
        session.held = self.held(session.source_name)
        self.sessions.add(session)
        self.failures = 0
        self._unfit.pop(session.source, None)
        self.site_queue.backoff_until = 0.0
        self.site_queue.reason, self.site_queue.detail = "ready", ""
        self._resolve(session, "")

    def refused(self, session: Session, reply: Any) -> None:
        """The host takes no mail in this session."""
        self._resolve(session, reply.text_for_log())

    def _resolve(self, session: Session, result: str) -> None:
        waiter = self._waiting.get(session)
        if waiter is not None and not waiter.done():
            waiter.set_result(result)

    def gone(self, session: Session, error: BaseException | None) -> None:
        """The connection is closed."""
        self._app.sessions.discard(session)
        session.leave_idle()
        if session.client.chunking_broken:
            self._app.hosts.no_chunking(session.address)
        if not session.ready:
            self._resolve(session, session.client.error or f"connection lost: {error or 'closed by the host'}")
            return
        self.sessions.discard(session)
        self._give_back(session.source)
        if self.site_queue.ready() and not self._app.draining:
            self._app.engine.wake(self.site_queue)
            self._app.wake_soon()

    def broke(self, session: Session, error: Exception) -> None:
        """A bug of ours in this session: it is cut off, which settles what it has in hand, and said."""
        self._app.count_error("deliver")
        log.error("session to %s [%s] broke; please report this", session.host, session.address, exc_info=error)
        session.closing = True
        session.abort()

    def stream(self, session: Session) -> None:
        """The machine wants the body of a large content."""
        task = asyncio.get_running_loop().create_task(stream_body(self._app, session))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def cancel(self) -> None:
        """Ends connects that are under way (drain)."""
        for task in list(self._tasks):
            task.cancel()
        for task in list(self._tasks):
            with contextlib.suppress(asyncio.CancelledError):
                await task


def connect_result(error: OSError) -> str:
    """The word of the metric for a connect that failed."""
    if error.errno == errno.ECONNREFUSED:
        return "refused"
    return "unreachable" if error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH) else "error"
