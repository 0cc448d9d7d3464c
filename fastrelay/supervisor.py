"""`fastrelay run`: the process that holds the state directory and keeps the workers going.

It takes the lock, makes the shared table and the metrics files, starts one worker a slot and starts them again when
they die, answers the control socket, /metrics and /healthz, and turns signals into acts:

    TERM, INT   drain: workers finish open transactions, at most drain_timeout; a second INT ends everything now
    HUP         read the configuration again; one that is not sound is refused, with words in the log
    USR1        reopen the event logs

What is done elsewhere: processes and restarts in admin/workers.py, commands in admin/control.py. Mail is never touched
here: whatever happens to this process, a worker's spool is whole.

Known faults: changes of `workers`, `state_dir` and `listeners.metrics` want a restart (the log says so).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import os
import signal
import ssl
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec.structs
import uvloop

from fastrelay import __version__
from fastrelay._core.lmdb import Environment, LmdbError
from fastrelay._core.slab import Slab, SlabError
from fastrelay._core.table import Table, TableError
from fastrelay.admin.control import Commands, ControlServer
from fastrelay.admin.feedback import FeedbackKeeper
from fastrelay.admin.host import old_slab_slots, orphans, raise_open_files, resident_bytes
from fastrelay.admin.lock import StateLock
from fastrelay.admin.log import start_logging
from fastrelay.admin.notify import Notifier
from fastrelay.admin.privileges import harden
from fastrelay.admin.statedir import identity_of, take_state_dir
from fastrelay.admin.suspensions import DATABASES, Suspensions
from fastrelay.admin.workers import FEEDBACK_SLOT, RESTART_FIRST_SECONDS, StartFailed, WorkerGone, WorkerSlot, name_of
from fastrelay.clock import Clock, RealClock, iso_utc
from fastrelay.config.checks import check_host, require_host
from fastrelay.config.load import load_document
from fastrelay.config.schema import Config, to_builtins
from fastrelay.dkim.uses import KeyUses
from fastrelay.doctor.results import Results
from fastrelay.errors import ConfigError, ConfigProblem, FastrelayError, HostError
from fastrelay.ingest import auth_keeper
from fastrelay.ingest.auth_keeper import AuthKeeper
from fastrelay.limits import durable, governor
from fastrelay.limits.governor import Governor, SlabCounts
from fastrelay.metrics import names
from fastrelay.metrics.collector import Facts, SlabCollector, registry
from fastrelay.metrics.facts import add_relay
from fastrelay.metrics.server import MetricsServer
from fastrelay.spool.eventlog import EventLog
from fastrelay.tls import reports_send
from fastrelay.tls.supervise import DATABASES as STS_DATABASES
from fastrelay.tls.supervise import MtaSts

log = logging.getLogger("fastrelay")

WORKER_COMMAND = (sys.executable, "-m", "fastrelay.worker")
CONTROL_MAP_BYTES = 256 * 2**20
RELOAD_SECONDS = 30.0
LEAVE_SECONDS = 10.0  # beyond drain_timeout, for commits and shutting files
STARTING_SIGN_SECONDS = 10.0
GOVERN_SECONDS = 1.0
INJECT_SECONDS = 60.0


class Supervisor:
    """One running relay.

    worker_command   what a worker is; the channel's descriptor is in its environment (admin/child.py)
    restart_seconds  the first delay before a worker is started again
    sts_https        TLS and port of the HTTPS that MTA-STS policies are fetched by (tls/fetch.py), for tests
    """

    def __init__(
        self,
        config: Config,
        config_path: str,
        lock: StateLock,
        *,
        worker_command: Sequence[str] = WORKER_COMMAND,
        clock: Clock | None = None,
        restart_seconds: float = RESTART_FIRST_SECONDS,
        sts_https: tuple[ssl.SSLContext | None, int] = (None, 443),
    ) -> None:
        self.config = config
        self.config_path = config_path
        self.clock: Clock = clock or RealClock()
        self.slots: list[WorkerSlot] = []
        self.state = "starting"
        self.suspensions: Suspensions
        self.governor: Governor
        self.feedback: FeedbackKeeper
        self.tls_reports: reports_send.Reports
        self.mta_sts: MtaSts
        self._sts_https = sts_https
        self.metrics: MetricsServer | None = None
        self._lock = lock
        self._worker_command = worker_command
        self._restart_seconds = restart_seconds
        self._started_at = self.clock.monotonic()
        self._state_dir = config.state_dir
        self._slot_count = config.worker_count
        self._notifier = Notifier()
        self.relay_log: EventLog | None = None
        self.doctor_results = Results()
        self.key_uses = KeyUses(self._state_dir, self.clock)
        self._events = 0
        self._slabs: dict[int, Slab] = {}
        self._orphans = orphans(self._state_dir, self._slot_count)
        self._reload_ok = True
        self._reload_asked = False  # while it started
        self._reload_lock = asyncio.Lock()
        self._owing_reload: set[int] = set()  # slots that have not taken over the configuration yet
        # What a slot's process was told: configuration, suspensions, version of the governor's state.
        self._started_with: dict[int, tuple[Config, list[dict[str, Any]], int]] = {}
        # Who takes what workers tell unasked, by the name of the event.
        self.reporters: dict[str, Callable[[WorkerSlot, dict[str, Any]], None]] = {}
        self._told_limits = 0  # version of the governor's state that all workers were told
        self._stop = asyncio.Event()
        self._keepers: list[asyncio.Task[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    # --- start ---

    async def run(self) -> int:
        """Until it is told to stop; the exit code. Raises HostError when a worker says that it cannot run here."""
        with contextlib.ExitStack() as cleanup:
            self._listen_to_signals(cleanup)
            self._open_shared(cleanup)
            control = ControlServer(self._state_dir, Commands(self))
            try:
                await control.start()
                await self._start_metrics()
                self._start_workers()
                await self._wait_until_ready()
                if not self._stop.is_set():
                    self._announce()
                    await self._stop.wait()
                await self._drain()
                return 0
            except StartFailed as error:
                await self._end_workers()
                if error.host_at_fault:
                    raise HostError([ConfigProblem(self.config_path, 0, "", str(error))]) from None
                log.error("%s; the lines above may say why", error)
                return 1
            finally:
                await self._end_workers()
                await self.tls_reports.close()
                await self.mta_sts.close()
                await control.close()
                if self.metrics is not None:
                    await self.metrics.close()
                for task in self._tasks:
                    task.cancel()

    def _open_shared(self, cleanup: contextlib.ExitStack) -> None:
        """The table, the metrics files and the store of suspensions. Raises HostError."""
        try:
            self.table = Table.create(
                self._path("table"),
                slots=self._slot_count,
                boot_id=self.clock.boot_id(),
                now_ns=self.clock.boottime_ns(),
                first=not os.path.lexists(self._path("spool")) and not os.path.lexists(self._path("control")),
            )
            for slot in range(self._slot_count):
                self._slabs[slot] = Slab(self._path(f"slab.{slot}"), create=True)
                self._slabs[slot].reset_gauges()  # of an earlier relay; we hold the lock, so nobody writes
            databases = (
                *DATABASES,
                *reports_send.DATABASES,
                *STS_DATABASES,
                *auth_keeper.DATABASES,
                *governor.DATABASES,
            )
            store = Environment(self._path("control"), databases, map_bytes=CONTROL_MAP_BYTES)
            cleanup.callback(store.close)
            self.feedback = FeedbackKeeper(
                self.config, self._state_dir, self.clock, self._lock.fd, self._restart_seconds, self.on_report
            )
            self._slabs[FEEDBACK_SLOT] = self.feedback.slab
        except (TableError, SlabError, LmdbError, OSError) as error:
            problem = ConfigProblem(self.config_path, 0, "state_dir", str(error), "make room, or mend it")
            raise HostError([problem]) from error
        self._open_relay_log(cleanup)
        self.suspensions = Suspensions(store, self.clock)
        for slot in old_slab_slots(self._state_dir, self._slot_count):
            with contextlib.suppress(SlabError):
                self._slabs[slot] = Slab(self._path(f"slab.{slot}"), writable=False)
        self.governor = Governor(
            self.config,
            self.table,
            store,
            self.clock,
            SlabCounts(self._slabs.values),
            event=self.event,
            reserved=lambda: durable.reserved(self._state_dir),
        )
        self._told_limits = self.governor.version
        self.tls_reports = reports_send.Reports(self.config, store, self.clock, self.inject, event=self.event)
        self.reporters[reports_send.EVENT] = lambda slot, message: self.tls_reports.counts.report(message)
        self.auth = AuthKeeper(self.config, self.table, store, self.clock, event=self.event, tell=self._tell_auth_news)
        cleanup.callback(self.auth.save)
        self.reporters[auth_keeper.EVENT] = lambda slot, message: self.auth.report(slot.number, message)
        context, port = self._sts_https
        self.mta_sts = MtaSts(self.config, store, self.clock, self.slots, self.event, context=context, port=port)
        self.reporters["mta_sts"] = self.mta_sts.asked
        policies = self.mta_sts.store
        policies.fetch = self.tls_reports.watching(policies.fetch)
        self.tls_reports.published = self.mta_sts.published
        for name in governor.REPORTS:
            self.reporters[name] = lambda slot, message: self.governor.report(message)

    def _open_relay_log(self, cleanup: contextlib.ExitStack) -> None:
        """The log of what the relay itself decides. Raises HostError."""
        events = self.config.events
        path = os.path.join(self._state_dir, "events", "relay.jsonl")
        relay_log = EventLog(
            path,
            set_log_fd=lambda descriptor: None,
            clock=self.clock,
            rotate_bytes=events.rotate_size_bytes,
            rotate_seconds=events.rotate_age_seconds,
            keep_seconds=events.keep_seconds,
        )
        try:
            relay_log.open()
        except OSError as error:
            problem = ConfigProblem(self.config_path, 0, "state_dir", f"{path}: {error.strerror}", "mend it")
            raise HostError([problem]) from error
        self.relay_log = relay_log
        cleanup.callback(relay_log.close)

    async def _start_metrics(self) -> None:
        listener = self.config.listeners.metrics
        if listener is None:
            return
        self.metrics = MetricsServer(registry(SlabCollector(self._slabs_read, self.facts)), self.trouble)
        try:
            await self.metrics.start(*listener.address)
        except OSError as error:
            problem = f"cannot listen at {listener.bind} ({error.strerror or error})"
            raise HostError([ConfigProblem(self.config_path, 0, "listeners.metrics.bind", problem)]) from error

    def _start_workers(self) -> None:
        for number in range(self._slot_count):
            slot = WorkerSlot(number, self, self._worker_command, self._lock.fd, self._restart_seconds)
            self.slots.append(slot)
            self._keepers.append(asyncio.create_task(slot.keep()))
            self._spawn(slot.watch())
        self._keepers.append(asyncio.create_task(self.feedback.slot.keep()))
        self._spawn(self.feedback.slot.watch())
        self._spawn(self._show_signs_of_life())
        self._spawn(self._keep_relay_log())
        self._spawn(self._govern())
        self._spawn(self.tls_reports.run())
        self._spawn(self.key_uses.keep(lambda: self.config.dkim))
        self._spawn(self.mta_sts.run())

    async def _wait_until_ready(self) -> None:
        """Until every worker was ready once, or a stop is asked for. Raises StartFailed."""
        firsts = [slot.first_ready for slot in (*self.slots, self.feedback.slot)]
        stop = asyncio.create_task(self._stop.wait())
        try:
            waiting: set[asyncio.Future[Any]] = {stop, *firsts}
            while not stop.done() and len(waiting) > 1:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for future in done - {stop}:
                    future.result()
        finally:
            stop.cancel()
            for first in firsts:
                first.cancel()

    def _announce(self) -> None:
        self.state = "running"
        count = f"{len(self.slots)} worker{'s' if len(self.slots) != 1 else ''}"
        log.info("fastrelay %s is ready: %s, SMTP at %s", __version__, count, ", ".join(self.listening()) or "nothing")
        log.info("state directory %s, configuration %s", self._state_dir, self.config_path)
        if self.metrics is not None:
            log.info("metrics at %s", self.metrics_url())
        for slot, folders in self._orphans.items():
            log.info("worker %d also drains the spools %s of workers that are no more", slot, ", ".join(folders))
        if self.suspensions.listed:
            log.info("%d suspensions hold (`fastrelay status` lists them)", len(self.suspensions.listed))
        self._notifier.ready(f"{count} running")
        if self._reload_asked:
            self._spawn(self.reload())

    async def _show_signs_of_life(self) -> None:
        """Systemd's watchdog; and while workers read large spools, more time to start."""
        every = min(STARTING_SIGN_SECONDS, (self._notifier.watchdog_seconds or 2 * STARTING_SIGN_SECONDS) / 2)
        while True:
            if self.state == "starting":
                self._notifier.starting(3 * STARTING_SIGN_SECONDS)
            self._notifier.alive()
            await asyncio.sleep(every)

    # --- what the slots ask (admin.workers.Owner) ---

    def start_message(self, slot: int) -> dict[str, Any]:
        """What a worker needs to know to start."""
        self._started_with[slot] = (self.config, self.suspensions.listed, self.governor.version)
        return {
            "slot": slot,
            "slots": self._slot_count,
            "config": to_builtins(self.config),
            "state_dir": self._state_dir,
            "table": self._path("table"),
            "slab": self._path(f"slab.{slot}"),
            "suspensions": self.suspensions.listed,
            "limits": self.governor.told(),
            "mta_sts": self.mta_sts.start(slot),
            "orphans": self._orphans.get(slot, []),
            "boot_id": self.clock.boot_id(),
        }

    def on_ready(self, slot: WorkerSlot) -> None:
        log.info("worker %d is ready (pid %s)", slot.number, slot.pid)
        self.mta_sts.ready(slot)
        if self.state in ("starting", "running"):
            self._spawn(self._catch_up(slot))

    def on_exit(self, slot: WorkerSlot) -> None:
        """The worker is reaped: nobody but us writes what was its own."""
        self.table.clear_slot(slot.number)
        self._slabs[slot.number].reset_gauges()

    def on_report(self, slot: WorkerSlot, message: dict[str, Any]) -> None:
        """What a worker tells unasked."""
        reporter = self.reporters.get(message["event"])
        if reporter is None:
            log.warning("%s sent an unknown event: %s", name_of(slot.number), message["event"])
            return
        reporter(slot, message)

    def event(self, name: str, fields: dict[str, Any]) -> None:
        """An event that belongs to no message, for state/events/relay.jsonl: what the relay itself decided. `id` tells
        it from any other. A disk that refuses it is said in the log, and nothing waits for it."""
        if self.relay_log is None or self.relay_log.fd < 0:
            return
        self._events += 1
        wall = self.clock.wall()
        identity = f"relay-{int(wall * 1000):x}-{self._events:x}"
        line = msgspec.json.encode({"event": name, "time": iso_utc(wall), "id": identity, **fields}) + b"\n"
        try:
            os.write(self.relay_log.fd, line)
        except OSError as error:
            log.error("%s: an event could not be written (%s): %.500s", self.relay_log.path, error.strerror, line)

    async def _keep_relay_log(self) -> None:
        """Rotates the relay's own event log."""
        while self.relay_log is not None:
            await asyncio.sleep(1.0)
            self.relay_log.tick()

    async def _catch_up(self, slot: WorkerSlot) -> None:
        """A worker that was on its way during a change was told the state before it."""
        config, suspensions, limits = self._started_with[slot.number]
        try:
            if suspensions is not self.suspensions.listed:
                await slot.request("suspensions", {"suspensions": self.suspensions.listed}, RELOAD_SECONDS)
            if limits != self.governor.version:
                await slot.request("limits", {"limits": self.governor.told()}, RELOAD_SECONDS)
            if config is not self.config:
                await slot.request("reload", {"config": to_builtins(self.config)}, RELOAD_SECONDS)
            self._owing_reload.discard(slot.number)
            self.table.reloading = bool(self._owing_reload)
        except FastrelayError as error:
            log.warning("worker %d has not taken over a change: %s", slot.number, error)

    async def _govern(self) -> None:
        """What warm-up and back-off decide, once a second; what workers should hear of is told to all."""
        while True:
            await asyncio.sleep(GOVERN_SECONDS)
            self.governor.tick()
            self.auth.tick()
            self._spawn(self.tell_limits())  # a worker that does not answer must not stop the next tick

    async def tell_limits(self) -> list[tuple[WorkerSlot, FastrelayError]]:
        """Tell all workers what the governor decided, if that is new; who was not told, and why."""
        if self.governor.version == self._told_limits:
            return []
        self._told_limits = self.governor.version
        failed = await self._tell_all("limits", {"limits": self.governor.told()})
        for slot, error in failed:
            if slot.ready.is_set():  # else it is told at its start
                log.warning("worker %d was not told of changed limits: %s", slot.number, error)
        return failed

    def _tell_auth_news(self, of_slot: int, news: dict[str, Any]) -> None:
        """What one worker learnt of guessing, to the others; who does not take it is slower to notice, and no more."""

        async def tell(slot: WorkerSlot) -> None:
            with contextlib.suppress(FastrelayError):
                await slot.request("auth_news", news, RELOAD_SECONDS)

        for slot in self.slots:
            if slot.number != of_slot and slot.ready.is_set():
                self._spawn(tell(slot))

    # --- signals ---

    def _listen_to_signals(self, cleanup: contextlib.ExitStack) -> None:
        loop = asyncio.get_running_loop()
        acts = {
            signal.SIGTERM: self.stop,
            signal.SIGINT: self.stop,
            signal.SIGHUP: lambda: self._spawn(self.reload()),
            signal.SIGUSR1: lambda: self._spawn(self.reopen_logs()),
        }
        for number, act in acts.items():
            loop.add_signal_handler(number, act)
            cleanup.callback(loop.remove_signal_handler, number)

    def stop(self) -> None:
        """The first call drains; the next ends everything now (custody holds: what is not settled is sent again)."""
        if not self._stop.is_set():
            log.info("stopping: workers finish open transactions, at most %.0f s", self.config.drain_timeout_seconds)
            self._stop.set()
            return
        log.warning("stopping now: transactions under way are cut, and go again as possible duplicates")
        for slot in (*self.slots, self.feedback.slot):
            slot.kill()

    async def reopen_logs(self) -> None:
        """Event logs were moved away: they are opened anew."""
        if self.relay_log is not None:
            self.relay_log.reopen()
        for slot, error in await self._tell_all("reopen_logs", {}):
            log.warning("worker %d: reopening the event log: %s", slot.number, error)
        await self.feedback.reopen_logs()

    async def reload(self) -> None:
        """Read the configuration again. What cannot be used is refused as a whole; the old one goes on."""
        async with self._reload_lock:
            if self.state == "starting":
                self._reload_asked = True
                log.info("the configuration is read again once the relay is ready")
                return
            if self.state != "running":
                log.warning("not reloading: the relay is %s", self.state)
                return
            self._notifier.reloading()
            try:
                config = self._read_new_config()
            except (ConfigError, HostError) as error:
                self._reload_ok = False
                for problem in error.problems:
                    log.error("%s", problem)
                log.error("the new configuration is refused; the old one goes on")
            else:
                await self._take_over(config)
            self._notifier.ready(f"{len(self.slots)} workers running")

    def _read_new_config(self) -> Config:
        """The file's configuration, without what wants a restart. Raises ConfigError, HostError."""
        document = load_document(self.config_path)
        findings = check_host(document.config, self.config_path, document.lines, listeners=False)
        if findings.problems:
            raise HostError(findings.problems)
        for warning in (*document.warnings, *findings.warnings):
            log.warning("%s", warning)
        new, old = document.config, self.config
        listeners = new.listeners
        if new.state_dir != old.state_dir:
            log.warning("state_dir: the new one is taken over at the next start")
        if new.worker_count != self._slot_count:
            log.warning("workers: the new number is taken over at the next start")
        if listeners.metrics != old.listeners.metrics:
            log.warning("listeners.metrics: the new address is taken over at the next start")
            listeners = msgspec.structs.replace(listeners, metrics=old.listeners.metrics)
        return msgspec.structs.replace(new, state_dir=old.state_dir, workers=old.workers, listeners=listeners)

    async def _take_over(self, config: Config) -> None:
        """Give the configuration to all workers. Until all have it, the stricter of old and new limits holds."""
        old, self.config = self.config, config
        self.governor.reload(config)
        self.auth.reload(config)
        self.tls_reports.configure(config)
        self.key_uses.note(old.dkim, config.dkim)
        self.mta_sts.configure(config)
        await self.feedback.reload(config)
        self.table.reloading = True
        self._owing_reload = {slot.number for slot in self.slots}
        failed = dict(await self._tell_all("reload", {"config": to_builtins(config)}))
        for slot in self.slots:
            if slot not in failed:
                self._owing_reload.discard(slot.number)
            elif slot.number in self._owing_reload:  # else it died and came back with the new one meanwhile
                log.error("worker %d has not taken over the new configuration: %s", slot.number, failed[slot])
        self.table.reloading = bool(self._owing_reload)
        self._reload_ok = not self._owing_reload
        if self._reload_ok:
            log.info("the configuration was reloaded")
        else:
            log.warning("the stricter of old and new limits holds until every worker has taken it over")

    async def _tell_all(self, command: str, arguments: dict[str, Any]) -> list[tuple[WorkerSlot, FastrelayError]]:
        """Ask every worker that lives; who did not do it, and why."""

        async def tell(slot: WorkerSlot) -> tuple[WorkerSlot, FastrelayError] | None:
            try:
                await slot.request(command, arguments, RELOAD_SECONDS)
            except FastrelayError as error:
                return slot, error
            return None

        answers = await asyncio.gather(*(tell(slot) for slot in self.slots))
        return [answer for answer in answers if answer is not None]

    async def inject(self, reverse_path: str, recipients: list[str], content: bytes) -> str:
        """Mail of our own into the queue of a worker that is ready (ingest/inject.py); its id, once it is on stable
        storage. Raises WorkerRefused with the reply a client would have had, or WorkerGone."""
        arguments = {
            "reverse_path": reverse_path,
            "recipients": recipients,
            "content": base64.b64encode(content).decode(),
        }
        slot = next((slot for slot in self.slots if slot.state == "ready"), None)
        if slot is None:
            raise WorkerGone(0, "is not ready")
        answer = await slot.request("inject", arguments, INJECT_SECONDS)
        return str(answer["id"])

    # --- the end ---

    async def _drain(self) -> None:
        self.state = "draining"
        self._notifier.stopping()
        seconds = self.config.drain_timeout_seconds + LEAVE_SECONDS
        await asyncio.gather(*(slot.drain(seconds) for slot in self.slots))
        await self.feedback.slot.drain(LEAVE_SECONDS)  # after those that ask it
        await self._end_workers()
        log.info("stopped")

    async def _end_workers(self) -> None:
        """No worker lives when this returns, and no slot is filled again."""
        for slot in (*self.slots, self.feedback.slot):
            slot.kill()
        if self._keepers:
            await asyncio.wait(self._keepers)
        for keeper in self._keepers:
            if not keeper.cancelled() and keeper.exception() is not None:
                log.error("a worker's keeper failed; please report this", exc_info=keeper.exception())
        self._keepers = []

    def _spawn(self, act: Any) -> None:
        """Run in the background; an unexpected error goes to the log."""
        task: asyncio.Task[None] = asyncio.ensure_future(act)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("an act of the supervisor failed; please report this", exc_info=task.exception())

    # --- what can be seen ---

    def _path(self, name: str) -> str:
        return os.path.join(self._state_dir, name)

    def listening(self) -> list[str]:
        """Where workers accept mail, each address once."""
        return list(dict.fromkeys(place for slot in self.slots for place in slot.listening))

    def metrics_url(self) -> str | None:
        address = self.metrics.address if self.metrics is not None else None
        if address is None:
            return None
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        return f"http://{host}:{address[1]}/metrics"

    def trouble(self) -> str | None:
        """What is not well, in words; None if all workers are ready and no stop is under way."""
        if self.state != "running":
            return f"the relay is {self.state}"
        slots = (*self.slots, self.feedback.slot)
        down = [f"{name_of(slot.number)} is {slot.state}" for slot in slots if slot.state != "ready"]
        return "; ".join(down) or None

    def status(self) -> dict[str, Any]:
        """The answer to `fastrelay status`."""
        now = self.clock.monotonic()
        return {
            "version": __version__,
            "state": self.state,
            "pid": os.getpid(),
            "uptime_seconds": now - self._started_at,
            "state_dir": self._state_dir,
            "config_path": os.path.abspath(self.config_path),
            "last_reload_ok": self._reload_ok,
            "listening": self.listening(),
            "metrics": self.metrics_url(),
            "workers": [
                {
                    "slot": slot.number,
                    "pid": slot.pid,
                    "state": slot.state,
                    "uptime_seconds": now - slot.since if slot.state == "ready" else None,
                    "restarts": slot.restarts,
                    "listening": slot.listening,
                    "error": slot.error,
                }
                for slot in self.slots
            ],
            "feedback": {
                "pid": self.feedback.slot.pid,
                "state": self.feedback.slot.state,
                "restarts": self.feedback.slot.restarts,
                "listening": self.feedback.slot.listening,
                "error": self.feedback.slot.error,
            },
            "suspensions": self.suspensions.listed,
        }

    def _slabs_read(self) -> Iterable[tuple[Slab, bool]]:
        alive = {slot.number for slot in (*self.slots, self.feedback.slot) if slot.pid is not None}
        return [(slab, number in alive) for number, slab in self._slabs.items()]

    async def metric_values(self, wanted: Sequence[str] | None) -> dict[str, Any]:
        """Counters and gauges by name, for those who watch without Prometheus."""
        return await SlabCollector(self._slabs_read, self.facts).read(wanted)

    def facts(self) -> Facts:
        """The metrics that the supervisor itself knows."""
        facts = Facts()
        for slot in self.slots:
            facts.set(names.WORKER_UP, slot.state == "ready", str(slot.number))
            facts.set(names.WORKER_RESTARTS, slot.restarts, str(slot.number))
            facts.set(names.WORKER_RSS_BYTES, resident_bytes(slot.pid), str(slot.number))
        facts.set(names.SERIES_OVERFLOWS, sum(slab.overflows for slab in self._slabs.values()))
        facts.set(names.TABLE_CELLS, self.table.cells)
        facts.set(names.TABLE_OVERFLOWS, self.table.overflows)
        facts.set(names.CONFIG_RELOAD_SUCCESS, self._reload_ok)
        facts.set(names.BUILD_INFO, 1, __version__)
        add_relay(facts, self)
        self.doctor_results.add_to(facts)
        self.mta_sts.add_facts(facts)
        return facts


def run(config: Config, config_path: str, *, worker_command: Sequence[str] = WORKER_COMMAND) -> int:
    """Run the relay in the foreground until a signal ends it; the exit code.

    Raises StateHeld if another relay holds the state directory, HostError if this host cannot run the configuration.
    """
    start_logging("supervisor")
    harden()
    lock = take_state_dir(config, config_path, identity_of(config, config_path))
    try:
        for warning in require_host(config, config_path):
            log.warning("%s", warning)
        raise_open_files()

        async def main() -> int:
            return await Supervisor(config, config_path, lock, worker_command=worker_command).run()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(main())
    finally:
        lock.close()
