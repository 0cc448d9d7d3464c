"""The only file that knows all parts: one worker's relay, put together, started and drained."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from fastrelay._core.engine import Engine
from fastrelay._core.index import Index
from fastrelay._core.limits import NEVER_NS
from fastrelay._core.record import Record
from fastrelay._core.slab import Slab
from fastrelay._core.table import Table
from fastrelay._core.transaction import Timeouts
from fastrelay._core.wheel import Wheel
from fastrelay.clock import Clock
from fastrelay.config.schema import Config
from fastrelay.deliver.connections import Connections
from fastrelay.deliver.hosts import DeadHosts
from fastrelay.deliver.login import Logins
from fastrelay.deliver.source import Source
from fastrelay.feedback.classes import Classified
from fastrelay.ingest.balance import Balance
from fastrelay.ingest.headers import HeaderNames
from fastrelay.ingest.listener import Listener
from fastrelay.ingest.sealing import Sealing
from fastrelay.limits.durable import Reservations
from fastrelay.limits.gates import Gates
from fastrelay.limits.shape import DEFAULT_POOL
from fastrelay.metrics import names
from fastrelay.metrics.meters import Meters
from fastrelay.outcome.owed import Owed
from fastrelay.outcome.settle import Settler
from fastrelay.route import Router, make_router
from fastrelay.schedule.board import Board
from fastrelay.schedule.quarantine import Quarantine
from fastrelay.schedule.recovery import Recovery
from fastrelay.schedule.suppressed import Suppressed
from fastrelay.spool.eventlog import EventLog
from fastrelay.tls.outbound import OutboundTls
from fastrelay.tls.reports import SessionCounts

log = logging.getLogger(__name__)

TICK_SECONDS = 0.1
SECOND_TICKS = 10
SWEEP_TICKS = 300
LAST_TURNS = 100
DUE_SLICE = 2000
READY_TOGETHER_SECONDS = 10.0  # a worker that is later than this gets its clients later
READY_POLL_SECONDS = 0.02
TIMER_SLACK_SECONDS = 0.0005  # a timer that fires just before its permit is there would fire twice


class App:
    """One worker. `slot` of `slots`; everything it needs comes in the constructor."""

    def __init__(
        self, config: Config, *, state_dir: str, slot: int, slots: int, clock: Clock, table: Table, slab: Slab
    ):
        self.config = config
        self.state_dir = state_dir
        self.slot = slot
        self.slots = slots
        self.clock = clock
        self.table = table
        self.meters = Meters(slab)
        self.draining = False
        self.sessions: set[Any] = set()
        self.sources: dict[str, Source] = {}
        self.source_numbers: dict[str, int] = {}  # names keep their number through reloads
        self.connecting = 0
        self.opened_by_source: Counter[int] = Counter()  # connections opened since the start
        self.hosts = DeadHosts()
        self.tls_reports = SessionCounts(self)
        self.connections = Connections(self)
        self.gates = Gates(self)
        self.reservations: Reservations | None = None  # of caps, in our own spool
        self._limits_timer: asyncio.TimerHandle | None = None
        self._limits_armed_ns = NEVER_NS
        self._turn = 0
        self.power_marks: list[int] = []
        self.suspects: list[dict[int, list[int]]] = []
        self.index = Index(Wheel(int(clock.monotonic() * 1000)))
        self.board = Board(self)
        self.settler = Settler(self)
        self.owed = Owed(self)
        self.quarantine = Quarantine(self)
        self.suppression = Suppressed(self)
        self.recovery = Recovery(self)
        self.sealing = Sealing(self)
        self.engine = Engine(
            self.index,
            slab,
            Cold(self),
            monotonic=clock.monotonic,
            wall=clock.wall,
            hostname=config.hostname.encode(),
            received_limit=config.smtp.received_limit,
            queued_limit=config.limits.queued_recipients // slots,
            hot_bytes=config.delivery.hot_cache_bytes // slots,
            expire_ms=int(config.retry.expire_seconds * 1000),
        )
        self.engine.waiting.on_sooner = self.arm_limits
        self._configure()
        self.router = self._router(None)
        self.tls = OutboundTls(self)
        self.balance = Balance(self)
        self.listener = Listener(self)
        self._ticks = 0
        self._timer: asyncio.TimerHandle | None = None
        self._wake_scheduled = False
        self._dns_before: dict[str, int] = {}
        self._sync_failures = 0
        self._background: set[asyncio.Task[Any]] = set()
        self.event_log: EventLog | None = None
        # Tells the supervisor something unasked: {"event": name, …}. Alone (in tests) there is nobody to tell.
        self.report: Callable[[dict[str, Any]], None] = lambda message: None
        # Called once the listeners are bound, before there is any thread: a worker gives up what it needed for that.
        self.on_bound: Callable[[], None] = lambda: None

    def _configure(self) -> None:
        """What follows from the configuration and may change with it."""
        config = self.config
        self.sources = {}
        for one in config.sources:
            number = self.source_numbers.setdefault(one.name, len(self.source_numbers))
            overflow = config.warmup[one.warmup].overflow if one.warmup else True
            ehlo = (one.ehlo or config.hostname).encode()
            self.sources[one.name] = Source(number, one.name, one.address, ehlo, one.warmup or "", overflow)
        if not self.sources:
            number = self.source_numbers.setdefault("default", len(self.source_numbers))
            self.sources["default"] = Source(number, "default", "", config.hostname.encode())
        self._by_number = {source.number: source for source in self.sources.values()}
        self._pools = {name: [self.sources[one] for one in members] for name, members in config.pools.items()}
        self._pools.setdefault(DEFAULT_POOL, list(self.sources.values()))
        self.gates.configure()
        self.index.lanes = frozenset(source.number + 1 for source in self.sources.values())
        for queue in self.board.sites.values():
            self.index.release_lanes(queue)
            queue.pool.configure(self.clock.monotonic())
        self.connection_limit = max(1, config.delivery.connections // self.slots)
        waits = config.delivery.timeouts
        self.timeouts = Timeouts(
            greeting=waits.greeting_seconds,
            ehlo=waits.ehlo_seconds,
            mail=waits.mail_seconds,
            rcpt=waits.rcpt_seconds,
            data=waits.data_seconds,
            block=waits.body_progress_seconds,
            body=waits.body_seconds,
            body_rate=waits.body_rate_bytes,
            final=waits.final_seconds,
            rset=waits.rset_seconds,
            quit=waits.quit_seconds,
        )
        self.logins = Logins(config, getattr(self, "logins", None))
        headers = HeaderNames(config.headers)
        self.engine.accept_edit = headers.edit
        self.engine.set_field_names(headers.names)
        self.sealing.configure(config)
        self.suppression.configure(config)
        self.engine.set_fairness(config.fairness)
        self.engine.boottime_ns = self.clock.boottime_ns
        self.engine.forget_limits()
        self.engine.expire_ms = int(config.retry.expire_seconds * 1000)
        self.engine.received_limit = config.smtp.received_limit
        self.engine.queued_limit = config.limits.queued_recipients // self.slots

    def _router(self, sites: Any) -> Router:
        """Routes by the configuration; our own names and listeners are where mail must not go."""
        config = self.config
        return make_router(
            config,
            sites=sites,
            own_names={config.hostname, *(one.ehlo for one in config.sources if one.ehlo)},
            own_addresses=[one.bind for one in config.listeners.smtp],
            clock=self.clock.monotonic,
        )

    @property
    def own_spool(self) -> Any:
        return self.engine.spools[0]

    # -- life ---------------------------------------------------------------------------------------------------------

    async def start(self, orphans: list[str], suspensions: list[dict[str, Any]]) -> list[str]:
        """Opens the spools, listens, begins to deliver; gives the addresses it listens at.

        Raises what the operator must hear.
        """
        bound = self.listener.listen()
        self.on_bound()
        try:
            self._open(orphans)
        except BaseException:
            self.listener.stop_listening()
            raise
        self.balance.start()
        self.suppression.start()
        self.board.set_suspensions(suspensions)
        self._timer = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)
        for number in range(len(self.engine.spools)):
            self._spawn(self.recovery.load(number))
        self._accept_with_the_others(self.clock.monotonic() + READY_TOGETHER_SECONDS)
        return bound

    def _open(self, orphans: list[str]) -> None:
        """Opens spools and event log."""
        os.makedirs(os.path.join(self.state_dir, "spool"), mode=0o700, exist_ok=True)
        self.recovery.open(f"w{self.slot}")
        self.reservations = Reservations(self.own_spool)
        self.event_log = EventLog(
            os.path.join(self.state_dir, "events", f"w{self.slot}.jsonl"),
            set_log_fd=self._set_log_fd,
            clock=self.clock,
            rotate_bytes=self.config.events.rotate_size_bytes,
            rotate_seconds=self.config.events.rotate_age_seconds,
            keep_seconds=self.config.events.keep_seconds,
        )
        self.event_log.open()
        for orphan in orphans:
            self._open_orphan(orphan)

    def set_limits(self, state: dict[str, Any]) -> None:
        """What the governor decided (limits/governor.py, `state`): back-offs, and where warm-up stands."""
        self.limits_state = state
        self.gates.set_governed(state)
        self.board.set_backoffs(state.get("backoffs", []))

    def _accept_with_the_others(self, latest: float) -> None:
        """Takes clients once every worker is ready (or some are late): the first one up would get them all.

        The sockets listen already, so nobody is refused meanwhile, and the kernel has spread who waits.
        """
        if self.draining:
            return
        cell = self.table.cell(b"workers-ready")
        self.table.demand(cell, self.slot, 1)
        ready = all(self.table.demanded(cell, slot) for slot in range(self.slots))
        if ready or self.clock.monotonic() >= latest:
            self.listener.start()
        else:
            asyncio.get_running_loop().call_later(READY_POLL_SECONDS, self._accept_with_the_others, latest)

    def _set_log_fd(self, descriptor: int) -> None:
        for spool in self.engine.spools:
            spool.set_log_fd(descriptor)

    def _open_orphan(self, folder: str) -> None:
        """A folder of a worker that is no more; one that can't be opened is left for the operator."""
        try:
            number = self.recovery.open(folder)
            self.engine.spools[number].set_log_fd(self.event_log.fd if self.event_log else -1)
            log.info("draining the spool of a worker that is no more: %s", folder)
        except Exception as error:
            self.count_error("spool")
            log.error("spool folder %s can't be drained: %s", folder, error)

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.count_error("worker")
            log.error("a task of the worker failed", exc_info=task.exception())

    async def drain(self, seconds: float) -> None:
        """Stops accepting, lets open transactions end, for `seconds` at most; then everything is on disk and closed."""
        self.draining = True
        self.engine.held_back = True
        self.listener.stop_listening()
        end = self.clock.monotonic() + seconds
        while True:
            now = self.clock.monotonic()
            busy = self.listener.shut_idle(now)
            for session in list(self.sessions):
                if session.delivery is None:
                    session.leave(now) if session.ready else session.abort()
                else:
                    busy += 1
            if not busy or now >= end:
                break
            await asyncio.sleep(0.05)
        self.tls_reports.tell()
        await self.close()

    async def close(self) -> None:
        """Cuts what is still open and closes the spools; the in-flight file keeps what was cut."""
        for timer in (self._timer, self._limits_timer):
            if timer is not None:
                timer.cancel()
        for queue in self.board.sites.values():
            await queue.pool.cancel()
        for session in list(self.sessions):
            session.abort()
        for connection in list(self.listener.connections):
            if connection.transport is not None:
                connection.transport.abort()
        for _ in range(LAST_TURNS):  # every session settles what it has in hand while the spools are open
            await asyncio.sleep(0)
            if not self.sessions:
                break
        for task in list(self._background):
            task.cancel()
        self.owed.close()
        await self.tls.close()
        self.balance.stop()
        self.listener.close()
        self.gates.close()
        self.suppression.close()
        for spool in self.engine.spools:
            spool.close()
        for inflight in self.engine.inflights:
            inflight.close()
        if self.event_log is not None:
            self.event_log.close()

    def reload(self, config: Config) -> None:
        """Takes a new configuration; listeners, workers and the state directory stay as they are until a restart."""
        self.sealing.prepare(config)  # before anything changes: it may fail
        self.config = config
        self._configure()
        self.listener.configure()
        self.owed.configure(config)
        self.router = self._router(self.router.sites)
        self.tls.configure()
        self.engine.waiting.wake_all()  # the rules they wait for may be others now; all are woken below
        for domain in list(self.index.domains.values()):
            domain.route_expires = 0.0
            if domain.pending.count:
                domain.wait_until = 0.0
                self.board.unrouted(domain)
        now = self.clock.monotonic()
        for queue in list(self.board.sites.values()):
            self.engine.reroute(queue, now)
            self.engine.wake(queue)
        self.board.set_suspensions(self.board.described)  # they name sources, which may be others now
        self.sealing.unsigned.keys_changed()

    # -- time ---------------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)
        now = self.clock.monotonic()
        self._ticks += 1
        while self.engine.advance(now, DUE_SLICE) == DUE_SLICE:
            pass
        self.board.tick(now)
        if self._ticks % SECOND_TICKS == 0:
            self._second(now)
        if self._ticks % SWEEP_TICKS == 0:
            self.board.sweep(now)
        self.engine.wake_dirty(now)
        self.arm_limits()

    def _second(self, now: float) -> None:
        self._end_if_spool_is_dead()
        idle_seconds = self.config.delivery.idle_timeout_seconds
        for session in list(self.sessions):
            if session.idle and now - session.idle_since >= idle_seconds:
                session.leave(now)
            else:
                session.tick(now)
        self.connections.second(now)
        self.listener.tick(now)
        self.sealing.second()
        self.suppression.second(now)
        self.owed.second(now)
        self.tls_reports.tick(now)
        self.meters.refresh(self, now)
        self.own_spool.housekeep(self.config.spool.reserve_bytes)
        if self.event_log is not None:
            self.event_log.tick()

    def _end_if_spool_is_dead(self) -> None:
        """An index that LMDB can't use any more in this process: a new process may. Nothing acknowledged is in memory
        alone, and the in-flight file tells what was being sent."""
        for spool in self.engine.spools:
            if spool.dead:
                log.critical(
                    "%s: %s. This worker ends, to be started again; look after the disk", spool.path, spool.unhealthy
                )
                os._exit(1)

    def wake_later(self, site: Any, when: float) -> None:
        self.board.wake_later(site, when)

    def wake_soon(self) -> None:
        """Gives work to woken sites at the end of this turn of the loop."""
        if not self._wake_scheduled:
            self._wake_scheduled = True
            asyncio.get_running_loop().call_soon(self._wake)

    def _wake(self) -> None:
        self._wake_scheduled = False
        self.engine.wake_dirty(self.clock.monotonic())

    def arm_limits(self) -> None:
        """One timer for whatever permit comes next; the tick would see it too, but later."""
        at_ns = self.engine.next_limit_ns()
        if at_ns >= self._limits_armed_ns or self.draining:
            return
        if self._limits_timer is not None:
            self._limits_timer.cancel()
        seconds = max(0.0, (at_ns - self.clock.boottime_ns()) / 1e9)
        self._limits_armed_ns = at_ns
        self._limits_timer = asyncio.get_running_loop().call_later(seconds + TIMER_SLACK_SECONDS, self._limits_due)

    def _limits_due(self) -> None:
        """Wakes as many sites as there are permits for."""
        if self._limits_timer is not None:
            self._limits_timer.cancel()
            self._limits_timer = None
        self._limits_armed_ns = NEVER_NS
        self.engine.wake_dirty(self.clock.monotonic())
        self.arm_limits()

    # -- what parts ask -----------------------------------------------------------------------------------------------

    def sources_of(self, pool: str) -> list[Source]:
        """The sources of a pool; none where the configuration does not have it any more."""
        return self._pools.get(pool or DEFAULT_POOL, [])

    def source_at(self, number: int) -> Source:
        """The source of a number; KeyError for one that was removed."""
        return self._by_number[number]

    def next_turn(self) -> int:
        """A number that grows: whose turn it is where many are equal."""
        self._turn += 1
        return self._turn

    def record(self, spool: int, msgid: int) -> Record | None:
        """The record of a message on disk, or None."""
        raw = self.engine.spools[spool].get_record(msgid)
        return None if raw is None else Record(raw)

    def event_tail(self, source: str, site: Any, host: str, address: str) -> bytes:
        """The part of an event that is the same for all deliveries of a session, as JSON without braces."""
        fields = {
            "source": source,
            "site": site.key,
            "provider": site.provider,
            "mx_host": host,
            "mx_address": address,
        }
        return b"," + msgspec.json.encode(fields)[1:-1]

    def fail_ready(self, site: Any, code: int, enhanced: str, words: str, reason: str) -> None:
        self.board.fail_ready(site, code, enhanced, words, reason)

    def damaged(self, message: int, error: Exception) -> None:
        """A content that can't be read back."""
        self.quarantine.damaged(message, error)

    def poisoned(self, delivery: Any, error: Exception) -> None:
        """A large content that turned out to be damaged while it was sent: held once the attempt is settled."""
        self.quarantine.mark(delivery, error)

    # -- counting -----------------------------------------------------------------------------------------------------

    def outcome_slot(self, outcome: str, provider: str, source: str) -> int:
        return self.meters.outcome(outcome, provider, source)

    def transaction_histogram(self, provider: str) -> int:
        return self.meters.entry(names.TRANSACTION_SECONDS, provider=provider)

    def count_outcome(self, outcome: str, provider: str, source: str) -> None:
        self.meters.slab.inc(self.meters.outcome(outcome, provider, source), 1)

    def count_refusal_class(self, outcome: str, said: Classified | None, provider: str) -> None:
        """`said`: what kept a recipient from being delivered to; None: nothing did."""
        if said is not None:
            labels = {"outcome": outcome, "class": said.reply_class, "kind": said.kind, "provider": provider}
            self.meters.slab.inc(self.meters.entry(names.REFUSALS_TOTAL, **labels), 1)

    def count_connect(self, result: str) -> None:
        self.meters.count(names.CONNECTS, result=result)

    def observe_connect(self, seconds: float) -> None:
        self.meters.observe(names.CONNECT_SECONDS, seconds)

    def count_error(self, where: str) -> None:
        self.meters.count(names.ERRORS, where=where)

    def count_refusal(self, kind: str) -> None:
        self.meters.slab.inc(self.meters.entry(names.SMTP_REFUSED, **{"class": kind}), 1)

    def drain_dns(self) -> list[tuple[str, int, list[float]]]:
        """DNS queries since the last call: (result, number, seconds of each)."""
        stats = self.router.resolver.stats  # type: ignore[attr-defined]
        now = {
            "ok": stats.answers - stats.nxdomain - stats.nodata,
            "nxdomain": stats.nxdomain,
            "nodata": stats.nodata,
            "servfail": stats.servfail,
            "timeout": stats.timeouts,
            "error": stats.network_errors,
        }
        before, self._dns_before = self._dns_before, now
        seconds = {"ok": stats.drain_latencies()}
        return [(result, max(0, n - before.get(result, 0)), seconds.get(result, [])) for result, n in now.items()]

    def drain_commits(self) -> tuple[int, list[tuple[float, int]]]:
        """Commits since the last call: failures, and (seconds, group size) of each."""
        total = sum(spool.figures()["sync_failures"] for spool in self.engine.spools)
        failures, self._sync_failures = total - self._sync_failures, total
        timings: list[tuple[float, int]] = []
        for spool in self.engine.spools:
            timings += spool.drain_timings()
        return failures, timings

    def spool_usage(self) -> dict[str, int]:
        """Octets and segments of all spools."""
        total = {"bytes": 0, "live_bytes": 0, "segments": 0}
        for spool in self.engine.spools:
            for _, size, live, *_ in spool.segments():
                total["bytes"] += size
                total["live_bytes"] += live
                total["segments"] += 1
        return total


class Cold:
    """What the engine calls off its straight path, each in its own file."""

    def __init__(self, app: App) -> None:
        board, settler, recovery = app.board, app.settler, app.recovery
        self.domain_for = board.domain_for
        self.unrouted = board.unrouted
        self.expire = board.expire
        self.suspended = board.suspended
        self.pump = board.pump
        self.gate = app.gates.gate
        self.flow_rules = app.gates.flow_rules
        self.settle = settler.settle
        self.settle_part = settler.settle_part
        self.forget = settler.states.forget
        self.load = recovery.load_one
        self.damaged = app.damaged
        self.unsettled = settler.unsettled
        self.gone = app.quarantine.gone
        self.keyless = app.sealing.unsigned.keyless
        self.sign = app.sealing.unsigned.sign
        self.reverse_path = app.sealing.reverse_path
        self._app = app

    def failed(self, where: str, error: Exception) -> None:
        """A bug of ours, off the path of any one message."""
        self._app.count_error("worker")
        log.error("%s: %r; please report this", where, error, exc_info=error)

    def bad_record(self, spool: int, msgid: int) -> None:
        """A record that can't be read is left where it is, and said."""
        self._app.recovery.unreadable_records += 1
        self._app.count_error("spool")
        name = self._app.engine.message_id(msgid, spool)
        log.error("the record of message %s can't be read; it stays in the spool, see fastrelay queue audit", name)

    @staticmethod
    def mail_parameters(envelope: Any) -> bytes:
        """The DSN parameters of MAIL to pass on (RFC 3461)."""
        parameters = b""
        if envelope.ret:
            parameters += b" RET=" + envelope.ret
        if envelope.envid:
            parameters += b" ENVID=" + envelope.envid
        return parameters
