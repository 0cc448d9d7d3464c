"""One worker's relay in this process, on a simulated clock: what sockets and the disk do is real, time is not.

    async with SimulatedRelay(config, clock, folder, world) as relay:
        relay.submit(envelope, on_stored)
        await relay.run_until(clock.monotonic() + 86400)

`run_until` lets the sockets go quiet, then moves the clock to whatever is due next: a retry, a permit, a late reply of
a simulated host, an idle connection that is to be closed, a step of the governor. Nothing happens in between, so a week
takes as long as its mail takes to relay.

Known faults: one worker. Where a cap is used up, the worker looks for permits once a second; here it looks less often
the longer there is none, so that a night costs little: what opens then is found up to LONGEST_PAUSE_SECONDS late. A
host that never answers is noticed in real time (PATIENCE_SECONDS each), and then the clock goes on in steps.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastrelay._core.server import MESSAGE, ServerLimits, SmtpServer
from fastrelay._core.slab import Slab
from fastrelay._core.table import Table
from fastrelay._core.wheel import NEVER as WHEEL_NEVER
from fastrelay.app import App
from fastrelay.clock import SimulatedClock
from fastrelay.config.schema import Config
from fastrelay.sim.timetable import NEVER
from fastrelay.sim.world import World

PATIENCE_SECONDS = 2.0  # real time without any progress before the clock moves although a session waits
STEP_SECONDS = 60.0  # of simulated time, while a session waits for a host that does not answer
SWEEP_SECONDS = 300.0  # of simulated time, between looks for mail that expired
HOUSEKEEPING_SECONDS = 30.0
NAP_SECONDS = 0.0005
TURNS_BEFORE_NAP = 50
PAUSE_SHARE = 0.01  # of the time in which no mail moved: looks for a permit that find none become so much rarer
LONGEST_PAUSE_SECONDS = 10.0  # of simulated time, between such looks
STEPS_WITHOUT_LOOP = 100  # steps in which nothing moved, before the loop gets its turn in any case
CLIENT = b"127.0.0.1"


class Submission:
    """Who handed a message in; `replies` is what it was told."""

    def __init__(self, on_reply: Callable[[bytes], object] | None = None) -> None:
        self.replies: list[bytes] = []
        self._on_reply = on_reply

    def stored(self, reply: bytes, now: float) -> None:
        self.replies.append(reply)
        if self._on_reply is not None:
            self._on_reply(reply)


class Envelopes:
    """Envelopes as the SMTP server machine makes them."""

    def __init__(self, hostname: str) -> None:
        self._hostname = hostname.encode()

    def make(self, sender: bytes, recipients: list[bytes], content: bytes) -> Any:
        """The envelope of one message; its content has CRLF line ends and is not stuffed."""
        machine = SmtpServer(self._hostname, ServerLimits(), may_relay=True)
        machine.greeting(0.0)
        lines = [b"EHLO simulated.invalid\r\n", b"MAIL FROM:<%b>\r\n" % sender]
        lines += [b"RCPT TO:<%b>\r\n" % one for one in recipients]
        machine.receive(b"".join(lines) + b"DATA\r\n", 0.0)
        machine.receive(content.replace(b"\r\n.", b"\r\n..") + b".\r\n", 0.0)
        while (event := machine.next_event()) != MESSAGE:
            if not event:
                raise ValueError(f"no message: event {event}")
        return machine.envelope


class SimulatedRelay:
    """An App on a state directory. A second one on the folder is the next start."""

    def __init__(
        self,
        config: Config,
        clock: SimulatedClock,
        folder: Path,
        world: World | None = None,
        *,
        slot: int = 0,
        slots: int = 1,
    ) -> None:
        self.config = config
        self.clock = clock
        self.folder = folder
        self.world = world
        self.envelopes = Envelopes(config.hostname)
        folder.mkdir(exist_ok=True)
        path, slab = folder / "table", folder / f"slab.{slot}"
        if not path.exists():
            Table.create(path, slots=slots, boot_id=clock.boot_id(), now_ns=clock.boottime_ns())
        self.table = Table(path)
        self.app = App(
            config,
            state_dir=str(folder),
            slot=slot,
            slots=slots,
            clock=clock,
            table=self.table,
            slab=Slab(slab, create=not slab.exists()),
        )
        self.steps = 0
        self.stuck = 0  # times the clock moved although a session waited
        self.open_submissions = 0
        self._wheel = _wheel_of(self.app.index)
        self._swept_at = self._kept_at = clock.monotonic()
        self._moved_at = 0.0
        self._seen = -1
        self._every: list[tuple[float, list[float], Callable[[], object]]] = []

    # -- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> SimulatedRelay:
        """Starts it and waits until its spool is loaded."""
        await self.app.start([], [])
        self._stop_timer()
        while self.app.recovery.loading:
            await asyncio.sleep(NAP_SECONDS)
        return self

    async def stop(self) -> None:
        """Drains and closes it."""
        if self.app.event_log is not None:
            self._stop_timer()
            await self.app.drain(0.0)

    async def __aenter__(self) -> SimulatedRelay:
        return await self.start()

    async def __aexit__(self, *error: object) -> None:
        await self.stop()

    def every(self, seconds: float, callback: Callable[[], object]) -> None:
        """Calls back each so many simulated seconds, from now on."""
        self._every.append((seconds, [self.clock.monotonic() + seconds], callback))

    def submit(
        self, recipients: list[bytes], content: bytes, sender: bytes, on_reply: Callable[[bytes], object] | None
    ) -> Submission:
        """Hands a message in; the reply comes with the commit."""
        submission = Submission(on_reply)
        self.open_submissions += 1
        before = submission._on_reply

        def answered(reply: bytes) -> None:
            self.open_submissions -= 1
            if before is not None:
                before(reply)

        submission._on_reply = answered
        envelope = self.envelopes.make(sender, recipients, content)
        refusal = self.app.engine.accept(
            submission, envelope, CLIENT, b"Received: simulated id ", None, self.clock.monotonic()
        )
        if refusal is not None:
            submission.stored(refusal, self.clock.monotonic())
        return submission

    # -- time ---------------------------------------------------------------------------------------------------------

    async def run_until(self, end: float, over: Callable[[], bool] | None = None) -> None:
        """Lives until a monotonic time, or until `over()` holds at a moment of quiet."""
        while True:
            # A step in which nothing began to move needs no turn of the loop: most looks for a permit are such.
            stuck = await self.quiet() if self._busy() or not self.steps % STEPS_WITHOUT_LOOP else False
            now = self.clock.monotonic()
            if now >= end or (over is not None and over()):
                return
            following = min(end, self.next_at(stuck))
            self.clock.advance(max(following - now, 1e-6))
            self.steps += 1
            self._act()

    def _act(self) -> None:
        """What the timer does ten times a second, and what is due in the world."""
        now = self.clock.monotonic()
        if self.world is not None:
            self.world.timetable.run_due()
        for seconds, at, callback in self._every:
            if at[0] <= now:
                at[0] = now + seconds
                callback()
        self._tick(now)

    def _tick(self, now: float) -> None:
        app = self.app
        app._tick()
        self._stop_timer()
        if now - self._swept_at >= SWEEP_SECONDS:
            self._swept_at = now
            app.board.sweep(now)
        if now - self._kept_at >= HOUSEKEEPING_SECONDS or self._idle_due() <= now:
            self._kept_at = now
            app._second(now)

    def _stop_timer(self) -> None:
        """Our clock drives the worker; its real timers would only find that no time passed."""
        if self.app._timer is not None:
            self.app._timer.cancel()

    async def quiet(self) -> bool:
        """Until nothing happens any more at this simulated moment. True: a session waits for a host that is silent."""
        turns, progress, since = 0, self._progress(), time.monotonic()
        while True:
            for _ in range(4):
                await asyncio.sleep(0)
            if not self._busy():
                self.app.own_spool.drain()
                await asyncio.sleep(0)
                if not self._busy():
                    return False
            turns += 1
            if turns % TURNS_BEFORE_NAP:
                continue
            await asyncio.sleep(NAP_SECONDS)
            if (made := self._progress()) != progress:
                progress, since = made, time.monotonic()
            elif time.monotonic() - since > PATIENCE_SECONDS:
                self.stuck += 1
                return True

    def _busy(self) -> bool:
        """Whether something moves by itself, without time passing: sockets, the disk, look-ups."""
        app = self.app
        if self.open_submissions or app.engine.loading or app._wake_scheduled or app.board._tasks:
            return True
        waiting = app.connecting + sum(1 for session in app.sessions if not session.idle and session.ready)
        return waiting > (self.world.hosts.withheld if self.world is not None else 0)

    @property
    def attempts(self) -> int:
        """Recipients that the simulated hosts have answered for so far."""
        mx = self.world.hosts if self.world is not None else None
        return mx.account.messages + mx.deferred + mx.refused + mx.connections if mx is not None else 0

    def _progress(self) -> tuple[int, ...]:
        app = self.app
        mx = self.world.hosts if self.world is not None else None
        seen = (mx.account.messages, mx.connections, mx.deferred, mx.refused) if mx is not None else ()
        return (*seen, app.index.queued_recipients, len(app.sessions), app.connecting)

    def next_at(self, stuck: bool = False) -> float:
        """When something is due next, in monotonic seconds; NEVER: nothing is."""
        app, now = self.app, self.clock.monotonic()
        due = [self._idle_due()]
        if stuck:
            due.append(now + STEP_SECONDS)
        if app.board._wakes:
            due.append(app.board._wakes[0][0])
        wheel = self._wheel.next_due_ms()
        if wheel != WHEEL_NEVER:
            # The wheel's own grain is coarser than its answer: rounded up, so that the step is not made twice.
            due.append((wheel + 1) / 1000)
        if self.world is not None:
            due.append(self.world.timetable.next_at())
        due += [at[0] for _, at, _ in self._every]
        permit_ns = _next_limit_ns(app)
        if permit_ns:
            due.append(max(now + (permit_ns - self.clock.boottime_ns()) / 1e9, now + self._pause(now)))
        if app.index.queued_recipients:
            due.append(self._swept_at + SWEEP_SECONDS)
        return max(now, min(due))

    def _pause(self, now: float) -> float:
        """How long to leave permits alone, by how long the last looks found none."""
        seen = self.attempts
        if seen != self._seen:
            self._seen, self._moved_at = seen, now
        return min(LONGEST_PAUSE_SECONDS, (now - self._moved_at) * PAUSE_SHARE)

    def _idle_due(self) -> float:
        """When the first idle connection is to be closed."""
        seconds = self.config.delivery.idle_timeout_seconds
        return min((session.idle_since + seconds for session in self.app.sessions if session.idle), default=NEVER)


def _next_limit_ns(app: App) -> int:
    """When the first permit is due that somebody waits for (boot time); 0: nobody waits."""
    asked = getattr(app.engine, "next_limit_ns", None)
    return int(asked() or 0) if asked is not None else 0


def _wheel_of(index: Any) -> Any:
    """The timer wheel of an index, which keeps it to itself."""
    return next(one for one in gc.get_referents(index) if type(one).__name__ == "Wheel")
