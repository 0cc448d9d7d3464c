"""Caps under random histories: clocks that jump, restarts, boots, lost tables, a store that refuses, operators.

The oracle is plain: whatever happens, no period gives out more than the largest cap it ever had, and two periods are at
least 22 h of boot time apart, or have a boot between them and a later date.
"""

import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from fastrelay._core.lmdb import Environment, LmdbError
from fastrelay._core.table import Table
from fastrelay.clock import SimulatedClock
from fastrelay.config.schema import from_builtins
from fastrelay.limits.days import LEAST_DAY_NS, LEAST_HOUR_NS, date_number, hour_number
from fastrelay.limits.durable import Reserved
from fastrelay.limits.governor import DATABASES, Governor, GovernorError

HOUR = 3600.0
NAME = b"cap:a:*"


class Store:
    """The `control` store; `broken`: writes fail."""

    def __init__(self, path: str) -> None:
        self.environment = Environment(path, DATABASES, map_bytes=1 << 22)
        self.broken = False

    def get(self, database: str, key: bytes) -> bytes | None:
        return self.environment.get(database, key)

    def items(self, database: str) -> list[tuple[bytes, bytes]]:
        return self.environment.items(database)

    def write(self, changes: list[tuple[str, bytes, bytes | None]]) -> None:
        if self.broken:
            raise LmdbError("commit", 5, self.environment.path)
        self.environment.write(changes)


@dataclass
class Opening:
    """A period as it was first seen in the table."""

    boot_id: str
    boot_ns: int
    number: int  # date or hour
    given: int = 0
    cap: int = 0


class World:
    """One host and what it sent."""

    def __init__(self, folder: str, per: str) -> None:
        self.folder = Path(folder)
        self.per = per
        self.clock = SimulatedClock(1_800_000_000.0)
        self.config = from_builtins(
            {
                "hostname": "relay.test",
                "state_dir": folder,
                "sources": [{"name": "a", "address": "127.0.0.1", "warmup": "w"}],
                "warmup": {
                    "w": {"stages": [10, 20, 30, 40], "per": per, "spread": 0.0, "minimum_messages": 5, "idle_days": 2}
                },
            }
        )
        self.counts: dict[tuple[str, str, str], float] = {}
        self.periods: dict[int, Opening] = {}
        self.store = Store(str(self.folder / "control"))
        self.start()

    def reserved(self) -> Reserved:
        """As the spools have it: all that was given out."""
        found = Reserved()
        for period, opening in self.periods.items():
            found.add(NAME, period, opening.given)
        return found

    def start(self) -> None:
        self.table = Table.create(
            self.folder / "table", slots=1, boot_id=self.clock.boot_id(), now_ns=self.clock.boottime_ns(), capacity=64
        )
        self.governor = Governor(
            self.config, self.table, self.store, self.clock, lambda: dict(self.counts), reserved=self.reserved
        )
        self.look()

    def look(self) -> None:
        cell = self.table.cell(NAME)
        period = self.table.cap_period(cell)
        number = hour_number(self.clock.wall()) if self.per == "hour" else date_number(self.clock.wall(), "UTC")
        opening = self.periods.setdefault(period, Opening(self.clock.boot_id(), self.clock.boottime_ns(), number))
        opening.cap = max(opening.cap, self.table.cap_of(cell))

    def advance(self, hours: int) -> None:
        for _ in range(hours):
            self.clock.advance(HOUR)
            self.governor.tick()
            self.look()

    def send(self, n: int, outcome: str) -> None:
        granted, period = self.table.cap_claim(self.table.cell(NAME), n)
        if granted:
            self.periods[period].given += granted
            self.counts[outcome, "google", "a"] = self.counts.get((outcome, "google", "a"), 0) + granted

    def operator(self, act: str, stage: int) -> None:
        arguments = {"source": "a", "stage": stage} if act == "set" else {"source": "a"}
        try:
            self.governor.command(f"warmup.{act}", arguments)
        except GovernorError:
            return
        self.look()

    def check(self) -> None:
        least = LEAST_HOUR_NS if self.per == "hour" else LEAST_DAY_NS
        for opening in self.periods.values():
            assert opening.given <= opening.cap
        in_order = [self.periods[period] for period in sorted(self.periods)]
        for before, after in pairwise(in_order):
            if before.boot_id == after.boot_id:
                # A look comes once an hour here, so a period may have opened up to an hour before it was seen.
                assert after.boot_ns - before.boot_ns >= least - HOUR * 1e9


ACTS = st.one_of(
    st.tuples(st.just("advance"), st.integers(1, 60)),
    st.tuples(st.just("send"), st.integers(1, 60)),
    st.tuples(st.just("fail"), st.integers(1, 60)),
    st.tuples(st.just("jump"), st.sampled_from([-86400, -3600, 3600, 86400, 10 * 86400])),
    st.tuples(st.just("restart"), st.just(0)),
    st.tuples(st.just("reboot"), st.integers(1, 200_000)),
    st.tuples(st.just("lose table"), st.just(0)),
    st.tuples(st.just("lose state"), st.just(0)),
    st.tuples(st.just("break store"), st.just(0)),
    st.tuples(st.just("mend store"), st.just(0)),
    st.tuples(st.just("set"), st.integers(1, 4)),
    st.tuples(st.sampled_from(["hold", "resume"]), st.just(0)),
)


def do(world: World, act: str, n: int) -> None:
    match act:
        case "advance":
            world.advance(n)
        case "send" | "fail":
            world.send(n, "delivered" if act == "send" else "failed")
        case "jump":
            world.clock.jump_wall(n)
        case "restart":
            world.start()
        case "reboot":
            world.clock.reboot(n)
            world.start()
        case "lose table":
            (world.folder / "table").unlink()
            world.start()
        case "lose state":
            world.store.environment.write([("warmup", b"a\0*", b"damaged")])
            world.start()
        case "break store" | "mend store":
            world.store.broken = act == "break store"
        case _:
            world.operator(act, n)


@settings(max_examples=40, deadline=None)
@given(st.lists(ACTS, max_size=30), st.sampled_from(["day", "hour"]))
def test_no_period_gives_more_than_its_cap(acts: list[tuple[str, int]], per: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(folder, per)
        try:
            for act, n in acts:
                do(world, act, n)
                world.check()
        finally:
            world.store.environment.close()
