"""A source warms up over thirty days, with a bad day in it, through a worker on a simulated clock.

Sockets and disk are real. The governor lives beside the worker as it does beside the supervisor's.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from support.worker import Mx, Talk, WorkerBox, run

from fastrelay._core.lmdb import Environment
from fastrelay.clock import SimulatedClock
from fastrelay.limits import durable
from fastrelay.limits.governor import DATABASES, Governor, SlabCounts

COLD, WARM = "127.0.0.23", "127.0.0.24"
MIDNIGHT = datetime(2026, 11, 2, tzinfo=UTC).timestamp()
HOUR = 3600.0
STEP_HOURS = 8


def plan_of(stages: list[int], **plan: Any) -> dict[str, Any]:
    """The configuration of a pool with a cold source and a warm one."""
    return {
        "sources": [{"name": "cold", "address": COLD, "warmup": "slow"}, {"name": "warm", "address": WARM}],
        "pools": {"default": ["cold", "warm"]},
        "warmup": {"slow": {"stages": stages, "spread": 0, "minimum_messages": 10} | plan},
        "delivery": {"idle_timeout": 600.0},
        "events": {"rotate_age": 10_000_000.0},  # one file for the whole story
    }


class Story:
    """A worker and a governor; `day` is a day from midnight to midnight."""

    def __init__(self, folder: Path, keys: dict[str, Any]) -> None:
        self.folder = folder
        self.keys = keys
        self.clock = SimulatedClock(MIDNIGHT)
        self.written: Counter[str] = Counter()  # RCPTs of the present day by the address they came from
        self.deferring = 0.0  # the share of the cold source's RCPTs that are deferred
        self.happened: list[tuple[str, dict[str, Any]]] = []
        self.mx = Mx(self.reply)
        self.host = ""
        self.store: Environment | None = None
        self.submitted = 0

    def reply(self, verb: str, argument: str, talk: Talk) -> str:
        if verb != "RCPT":
            return ""
        self.written[talk.peer] += 1
        n = self.written[talk.peer]
        defer = talk.peer == COLD and int(n * self.deferring) > int((n - 1) * self.deferring)
        return "451 4.3.2 try again later" if defer else ""

    async def start(self) -> None:
        """The relay starts; the first time, and after it went down."""
        if self.store is not None:
            self.store.close()
        self.store = Environment(str(self.folder / "control"), DATABASES, map_bytes=1 << 24)
        self.host = self.host or await self.mx.start()
        self.box = WorkerBox(self.folder, [self.host], self.clock, **self.keys)
        self.governor = Governor(
            self.box.config,
            self.box.table,
            self.store,
            self.clock,
            SlabCounts(lambda: [self.box.app.meters.slab]),
            event=lambda name, fields: self.happened.append((name, fields)),
            reserved=lambda: durable.reserved(str(self.folder)),
        )
        self.box.app.set_limits(self.governor.state())
        await self.box.start()

    async def stop(self) -> None:
        """The relay ends well."""
        await self.box.__aexit__()
        assert self.store is not None
        self.store.close()

    def row(self) -> dict[str, Any]:
        return self.governor.command("warmup.status", {})["warmup"][0]

    async def submit(self, count: int) -> None:
        clients = [self.box.submit([f"r{self.submitted + n}@one.test"]) for n in range(count)]
        self.submitted += count
        await self.box.until(lambda: all(client.replies for client in clients))
        assert all(client.replies[0].startswith(b"250") for client in clients)

    def used_up(self) -> bool:
        """Whether the open day's cap is sent: all of it is claimed, and no worker holds any of it."""
        table, cell = self.box.table, self.box.table.cell(b"cap:cold:*")
        rule = self.box.app.gates._rules.get(b"cap:cold:*")
        held = rule is not None and (rule.left or rule.pending)
        return not held and table.cap_used(cell) >= table.cap_of(cell)

    async def quiet(self) -> None:
        """Until nothing is on its way: what is queued waits for time, or for the next day's cap."""
        box, app = self.box, self.box.app
        moving = {"unplaced", "dns", "in_flight", "loading"}

        def over() -> bool:
            places = box.places()
            waits = "ready" not in places or (self.used_up() and set(box.reasons()) <= {"warmup_cap", "retry_backoff"})
            idle = not app.connecting and all(session.idle for session in app.sessions)
            return waits and idle and not moving & set(places)

        await box.until(over)
        app.own_spool.drain()
        await box.until(lambda: box.counters()["queued"] == app.index.queued_recipients)

    async def pass_hours(self, hours: int) -> None:
        """What is due is sent at every step; the governor ticks as the last thing before time goes on."""
        for _ in range(0, hours, STEP_HOURS):
            await self.quiet()
            self.governor.tick()
            self.box.pass_time(STEP_HOURS * HOUR)
            before = self.governor.version
            self.governor.tick()
            if self.governor.version != before:
                self.box.app.set_limits(self.governor.state())
            self.box.pass_time(1.0)
            await self.quiet()
        self.clock.jump_wall(-float(hours // STEP_HOURS))  # the seconds that the steps took too long

    async def day(self, count: int) -> tuple[dict[str, int], list[str]]:
        """A day with a campaign at eight: RCPTs by source, and what became of the stage at its end."""
        self.written.clear()
        events = len(self.happened)
        await self.pass_hours(8)
        await self.submit(count)
        await self.quiet()
        await self.pass_hours(8)
        written = {"cold": self.written[COLD], "warm": self.written[WARM]}
        await self.pass_hours(8)
        return written, [fields["act"] for _, fields in self.happened[events:]]


def test_thirty_days_with_a_bad_one(tmp_path: Path) -> None:
    """Each day more mail than the cap: the cold source sends its cap, not one more, and the rest overflows at once."""
    stages = [round(20 * 1.09**n) for n in range(29)]
    keys = plan_of(stages, step_back={"deferrals": 0.5})

    async def work() -> None:
        story = Story(tmp_path, keys)
        await story.start()
        seen: list[int] = []
        acts: list[list[str]] = []
        for day in range(30):
            cap = story.row()["cap"]
            story.deferring = 0.3 if day == 9 else 0.0
            written, became = await story.day(cap + 15)
            assert written["cold"] == cap, f"day {day}"
            seen.append(cap)
            acts.append(became)
        assert seen == [*stages[:10], *stages[9:]]  # the tenth stage was held for a second day
        assert acts[9] == ["held"]
        assert acts[8] == acts[10] == ["advanced"]
        assert acts[29] == ["done"]
        assert {fields["why"] for _, fields in story.happened if fields["act"] == "held"} == {
            f"deferrals {story_share(stages[9])} %, more than 10 %"
        }
        assert story.row()["state"] == "done"
        written, _ = await story.day(200)
        assert sum(written.values()) == 200
        assert story.box.counters()["delivered"] == story.submitted
        attempts = Counter(event["attempt"] for event in story.box.events() if event["event"] == "delivered")
        assert attempts == {1: story.submitted - int(stages[9] * 0.3), 2: int(stages[9] * 0.3)}
        await story.box.audit()
        await story.stop()

    run(work)


def story_share(cap: int) -> str:
    """The share of deferrals of the bad day, as the relay writes it."""
    return f"{int(cap * 0.3) / cap * 100:.3g}"


def test_what_is_above_the_cap_waits_where_nothing_is_warm(tmp_path: Path) -> None:
    """Without overflow a campaign of three days' caps takes three days, and says why; no attempt is burnt."""

    async def work() -> None:
        story = Story(tmp_path, plan_of([40, 50, 60, 70], overflow=False))
        story.keys["pools"] = {"default": ["cold"]}
        await story.start()
        await story.submit(140)
        for day, sent in enumerate((40, 90, 140)):
            await story.pass_hours(24 if day else 8)
            assert story.written[COLD] == sent
            assert story.box.reasons() == ({"warmup_cap": 140 - sent} if sent < 140 else {})
        assert story.box.counters()["delivered"] == 140
        assert {event["attempt"] for event in story.box.events() if event["event"] == "delivered"} == {1}
        await story.stop()

    run(work)


def test_a_cap_is_spread_over_hours(tmp_path: Path) -> None:
    """A hundred in two hours: never ahead of the clock, and nearly all of them at the end."""

    async def work() -> None:
        story = Story(tmp_path, plan_of([100, 200], overflow=False, spread=2 * HOUR))
        story.keys["pools"] = {"default": ["cold"]}
        await story.start()
        await story.submit(150)
        box, app, began = story.box, story.box.app, story.clock.wall()
        moving = {"unplaced", "dns", "in_flight", "loading"}

        def still() -> bool:
            rule = app.gates._rules.get(b"cap:cold:*")
            busy = app.connecting or any(not session.idle for session in app.sessions)
            denied = set(box.reasons()) <= {"warmup_cap"}  # else somebody is on the way to ask
            return denied and not (busy or (rule is not None and rule.pending) or moving & set(box.places()))

        while (passed := story.clock.wall() - began) < 2.1 * HOUR:
            await box.until(still)
            assert story.written[COLD] <= 3 + 100 * passed / (2 * HOUR * 0.98)
            box.pass_time(30.0)
            story.governor.tick()
        await box.until(lambda: set(box.reasons()) == {"warmup_cap"})
        assert 98 <= story.written[COLD] <= 100
        await story.stop()

    run(work)


def test_a_restart_and_a_boot_within_a_day_give_no_second_cap(tmp_path: Path) -> None:
    async def work() -> None:
        story = Story(tmp_path, plan_of([60, 70], overflow=False))
        story.keys["pools"] = {"default": ["cold"]}
        await story.start()
        await story.submit(45)
        await story.quiet()
        await story.box.crash()
        await story.start()
        await story.submit(10)
        await story.quiet()
        await story.box.crash()
        story.clock.reboot(120)
        (tmp_path / "table").unlink()  # power went; the table is of another boot
        await story.start()
        await story.submit(100)
        await story.pass_hours(8)
        assert 55 <= story.written[COLD] <= 60
        await story.pass_hours(24)
        assert story.written[COLD] <= 60 + 70
        await story.stop()

    run(work)


def test_blocks_stop_a_source_at_once(tmp_path: Path) -> None:
    """A provider that refuses the address: the cold source sends nothing more, and the warm one takes over."""

    async def work() -> None:
        story = Story(tmp_path, plan_of([100, 200], minimum_messages=1))

        def reply(verb: str, argument: str, talk: Talk) -> str:
            if verb == "RCPT":
                story.written[talk.peer] += 1
                if talk.peer == COLD:
                    return "554 5.7.1 Service unavailable; Client host blocked using zen.spamhaus.org"
            return ""

        story.mx.reply = reply
        await story.start()
        await story.submit(30)
        await story.quiet()
        story.governor.tick()
        story.box.app.set_limits(story.governor.state())
        assert story.row()["state"] == "stopped"
        before = story.written[COLD]
        await story.submit(60)
        await story.quiet()
        assert story.written[COLD] == before
        assert story.happened[-1][0] == "warmup_held"
        await story.stop()

    run(work)
