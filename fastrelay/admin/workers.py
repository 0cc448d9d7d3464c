"""Worker processes as the supervisor sees them: spawned, spoken to, restarted.

WorkerProcess is one life of one process: a socketpair with JSON lines both ways, requests with ids, its end seen
through a pidfd (no SIGCHLD, no polling). WorkerSlot is a place that is kept filled: after a death it is cleared
(leases, gauges) and then started again, soon at first and ever later, after 0.2 s to 30 s.

Workers are spawned into process groups of their own, so that Ctrl-C in a terminal reaches the supervisor alone, and die
with it (child.die_with_parent).

Known fault: a worker that hangs without dying is not noticed here; its requests time out and say so.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from fastrelay.admin.child import CONTROL_FD, LOCK_FD, SUPERVISOR_PID
from fastrelay.clock import Clock
from fastrelay.errors import FastrelayError

log = logging.getLogger("fastrelay.workers")

LINE_BYTES = 512 * 2**20  # bound of one answer
FEEDBACK_SLOT = -1  # the number of the feedback process (feedback/process.py)
RESTART_FIRST_SECONDS = 0.2
RESTART_MAX_SECONDS = 30.0
HEALTHY_SECONDS = 60.0  # a worker that was ready for so long starts again without delay
FIRST_START_TRIES = 5
WATCH_SECONDS = 10.0
HUNG_SECONDS = 120.0  # far beyond any pause of a sound worker; waiting for a disk is done in threads
SILENT_SECONDS = 10.0  # a worker that closed its end of the channel has so long to die by itself


def name_of(slot: int) -> str:
    """`worker 0`; the process that reads what comes back is not one of the workers."""
    return "the feedback process" if slot == FEEDBACK_SLOT else f"worker {slot}"


class WorkerGone(FastrelayError):
    """The worker ended, or was not there, before it answered."""

    def __init__(self, slot: int, why: str) -> None:
        self.slot = slot
        super().__init__(f"{name_of(slot)} {why}")


class WorkerRefused(FastrelayError):
    """The worker answered a request with an error, in words."""

    def __init__(self, slot: int, words: str) -> None:
        self.slot = slot
        self.words = words
        super().__init__(words)


class StartFailed(FastrelayError):
    """A worker cannot start, so neither can the relay. `host_at_fault`: the worker said why; else it crashed."""

    def __init__(self, slot: int, words: str, host_at_fault: bool) -> None:
        self.slot = slot
        self.host_at_fault = host_at_fault
        super().__init__(words)


class WorkerProcess:
    """One life of a worker process."""

    def __init__(
        self,
        slot: int,
        command: Sequence[str],
        lock_fd: int,
        on_event: Callable[[dict[str, Any]], None],
        on_silence: Callable[[], None],
    ) -> None:
        """Spawn it. Raises OSError. `start` comes next.

        on_event    gets what the worker tells unasked
        on_silence  is called when the worker has closed its end: it is dying
        """
        self.slot = slot
        self._on_event = on_event
        self._on_silence = on_silence
        self._ids = itertools.count(1)
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._ours, theirs = socket.socketpair()
        with theirs:
            environ = {
                **os.environ,
                CONTROL_FD: str(theirs.fileno()),
                LOCK_FD: str(lock_fd),
                SUPERVISOR_PID: str(os.getpid()),
            }
            try:
                self._popen = subprocess.Popen(
                    list(command),
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), lock_fd),
                    env=environ,
                    process_group=0,
                )
            except BaseException:
                self._ours.close()
                raise
        self.pid = self._popen.pid
        loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[int] = loop.create_future()
        self._pidfd = os.pidfd_open(self.pid)
        loop.add_reader(self._pidfd, self._on_exit)

    async def start(self, message: dict[str, Any]) -> None:
        """Connect the channel and send the start message."""
        self._reader, self._writer = await asyncio.open_connection(sock=self._ours, limit=LINE_BYTES)
        self._writer.write(msgspec.json.encode({"start": message}) + b"\n")
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        """Read events and answers until the worker closes its end."""
        try:
            while line := await self._reader.readline():
                self._on_line(line)
        except (OSError, ValueError, asyncio.IncompleteReadError) as error:
            log.error("%s: its channel broke (%s); it is ended", name_of(self.slot), error)
            self.kill()
        finally:
            self._on_silence()
            self._forget_requests()
            asyncio.get_running_loop().call_later(SILENT_SECONDS, self.kill)

    def _on_line(self, line: bytes) -> None:
        try:
            message = msgspec.json.decode(line)
        except msgspec.DecodeError:
            log.error("%s wrote a line that is not JSON: %.200r", name_of(self.slot), line)
            return
        if "event" in message:
            self._on_event(message)
            return
        waiting = self._pending.pop(message.get("id"), None)
        if waiting is None or waiting.done():
            return  # whoever asked has given up
        if "error" in message:
            waiting.set_exception(WorkerRefused(self.slot, str(message["error"])))
        else:
            waiting.set_result(message.get("result"))

    async def request(self, command: str, arguments: dict[str, Any], seconds: float) -> Any:
        """Ask, and wait at most `seconds`. Raises WorkerRefused or WorkerGone."""
        if self.exited.done() or self._listening.done():
            raise WorkerGone(self.slot, "is not running")
        number = next(self._ids)
        waiting = asyncio.get_running_loop().create_future()
        self._pending[number] = waiting
        request = {"id": number, "command": command, "arguments": arguments}
        try:
            async with asyncio.timeout(seconds):
                self._writer.write(msgspec.json.encode(request) + b"\n")
                await self._writer.drain()
                return await waiting
        except TimeoutError:
            raise WorkerGone(self.slot, f"did not answer within {seconds:.0f} s") from None
        except OSError:
            raise WorkerGone(self.slot, "ended before it answered") from None
        finally:
            self._pending.pop(number, None)

    def _forget_requests(self) -> None:
        for waiting in self._pending.values():
            if not waiting.done():
                waiting.set_exception(WorkerGone(self.slot, "ended before it answered"))
        self._pending.clear()

    def _on_exit(self) -> None:
        """The pidfd is readable: the process is dead and waits to be reaped."""
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        code = self._popen.wait()
        if not self.exited.done():
            self.exited.set_result(code)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal, if it still lives."""
        if not self.exited.done():
            self._popen.send_signal(number)

    async def close(self) -> None:
        """After its end: read what it had written to the channel, and close that."""
        if hasattr(self, "_listening"):
            await asyncio.wait([self._listening], timeout=1.0)
            self._listening.cancel()
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()
        else:
            self._ours.close()


class Owner(Protocol):
    """What a slot needs of the supervisor."""

    clock: Clock

    def start_message(self, slot: int) -> dict[str, Any]: ...
    def on_ready(self, slot: WorkerSlot) -> None: ...
    def on_exit(self, slot: WorkerSlot) -> None: ...
    def on_report(self, slot: WorkerSlot, message: dict[str, Any]) -> None: ...


class WorkerSlot:
    """A place that is kept filled with a worker process until `stop`.

    state     starting, ready, draining, restarting (waits before the next start), failed (as restarting, after the
              worker itself said why it cannot run), stopped
    error     words about the last death, None once a worker was ready again
    """

    def __init__(self, number: int, owner: Owner, command: Sequence[str], lock_fd: int, backoff: float) -> None:
        self.number = number
        self.state = "starting"
        self.error: str | None = None
        self.restarts = 0
        self.listening: list[str] = []
        self.process: WorkerProcess | None = None
        self.since = owner.clock.monotonic()
        self.ready = asyncio.Event()
        self.drained = asyncio.Event()
        self.first_ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.first_ready.add_done_callback(_seen)
        self._owner = owner
        self._command = command
        self._lock_fd = lock_fd
        self._backoff = backoff
        self._stopping = asyncio.Event()
        self._said: str | None = None  # words of a "failed" event of this life
        self._tries = 0

    @property
    def pid(self) -> int | None:
        """Of the process that lives now."""
        return self.process.pid if self.process is not None and not self.process.exited.done() else None

    async def keep(self) -> None:
        """Start, wait, start again; returns after `stop` and the end of the process."""
        quick_deaths = 0
        while not self._stopping.is_set():
            was_ready_at = await self._live()
            if self._stopping.is_set():
                break
            now = self._owner.clock.monotonic()
            if was_ready_at is not None and now - was_ready_at >= HEALTHY_SECONDS:
                quick_deaths = 0
            delay = min(self._backoff * 2.0 ** min(quick_deaths, 20), RESTART_MAX_SECONDS)
            quick_deaths += 1
            self._become("failed" if self._said else "restarting")
            if self._give_up():
                return
            log.warning("%s %s; it starts again in %.1f s", name_of(self.number), self.error, delay)
            try:
                await asyncio.wait_for(self._stopping.wait(), delay)
            except TimeoutError:
                self.restarts += 1
        self._become("stopped")

    async def _live(self) -> float | None:
        """One life, from spawn to reaped and cleared. The time when it was ready, None if it never was."""
        self._said = None
        self._ready_at: float | None = None
        self._become("starting")
        process = None
        try:
            process = WorkerProcess(self.number, self._command, self._lock_fd, self._on_event, self._on_silence)
            self.process = process
            await process.start(self._owner.start_message(self.number))
            code = await process.exited
            await process.close()
            self.error = self._said or f"ended ({describe_exit(code)})"
        except OSError as error:
            self.error = f"could not be started ({error})"
            if process is not None:
                process.kill()
                await process.exited
                await process.close()
        finally:
            self.ready.clear()
        self._owner.on_exit(self)
        return self._ready_at

    def _on_event(self, message: dict[str, Any]) -> None:
        match message["event"]:
            case "ready":
                self.listening = [str(place) for place in message.get("listening", [])]
                self.error = None
                self._ready_at = self._owner.clock.monotonic()
                if not self._stopping.is_set():
                    self._become("ready")
                self.ready.set()
                if not self.first_ready.done():
                    self.first_ready.set_result(None)
                self._owner.on_ready(self)
            case "failed":
                self._said = str(message.get("error") or "cannot run, and does not say why")
                log.error("%s: %s", name_of(self.number), self._said)
            case "drained":
                self.drained.set()
            case _:
                self._owner.on_report(self, message)

    def _on_silence(self) -> None:
        self.ready.clear()
        if self.state == "ready":
            self._become("restarting")

    def _give_up(self) -> bool:
        """At the first start: words from the worker, or too many crashes, end the relay."""
        self._tries += 1
        if self.first_ready.done() or (self._said is None and self._tries < FIRST_START_TRIES):
            return False
        words = self._said or f"{name_of(self.number)} {self.error}, {self._tries} times, before it was ready"
        self.first_ready.set_exception(StartFailed(self.number, words, host_at_fault=self._said is not None))
        return True

    def _become(self, state: str) -> None:
        self.state = state
        self.since = self._owner.clock.monotonic()

    async def request(self, command: str, arguments: dict[str, Any], seconds: float) -> Any:
        """Ask the worker that lives now. Raises WorkerRefused or WorkerGone."""
        if self.process is None or not self.ready.is_set():
            raise WorkerGone(self.number, f"is not running ({self.error or self.state})")
        return await self.process.request(command, arguments, seconds)

    async def watch(self) -> None:
        """Ends a worker that hangs; it is then started again by `keep`."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            process = self.process
            if process is None or self.state != "ready":
                continue
            try:
                await process.request("ping", {}, HUNG_SECONDS)
            except WorkerGone:
                if self.process is process and self.state == "ready" and not process.exited.done():
                    log.error(
                        "%s (pid %d) has not answered for %.0f s; it is killed and started again. Please report "
                        "this, with what the host was doing at the time",
                        name_of(self.number), process.pid, HUNG_SECONDS,
                    )  # fmt: skip
                    process.kill()
            except FastrelayError as error:
                log.warning("%s: %s", name_of(self.number), error)

    async def drain(self, seconds: float, leave_seconds: float = 5.0) -> None:
        """Let the worker finish open transactions and end; past `seconds` (and when it does not leave) it is killed."""
        self._stopping.set()
        process = self.process
        if process is None or process.exited.done():
            return
        if self.ready.is_set():
            self._become("draining")
            asking = asyncio.create_task(self._ask_to_drain(process, seconds))
            done = asyncio.create_task(self.drained.wait())
            ends: list[asyncio.Future[Any]] = [process.exited, done]
            await asyncio.wait(ends, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            done.cancel()
            asking.cancel()
            if not process.exited.done() and not self.drained.is_set():
                log.warning("%s did not finish within %.0f s; it is ended", name_of(self.number), seconds)
        else:
            process.kill(signal.SIGTERM)
        if not process.exited.done() and (self.drained.is_set() or not self.ready.is_set()):
            await asyncio.wait([process.exited], timeout=leave_seconds)
        process.kill()
        await process.exited

    async def _ask_to_drain(self, process: WorkerProcess, seconds: float) -> None:
        try:
            await process.request("drain", {}, seconds)
        except FastrelayError as error:
            log.warning("%s: drain: %s", name_of(self.number), error)

    def kill(self) -> None:
        """End it now, and do not start it again."""
        self._stopping.set()
        if self.process is not None:
            self.process.kill()


def _seen(future: asyncio.Future[None]) -> None:
    """Of several workers that cannot start, one is reported; the others' errors were logged."""
    if not future.cancelled():
        future.exception()


def describe_exit(code: int) -> str:
    """`exit status 1`, `killed by SIGKILL`."""
    if code >= 0:
        return f"exit status {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
