"""Caps under random schedules of two workers, commits, crashes, power cuts, clean stops and new days: never more than
the cap is used, what is on disk always counts what was used, and little is lost. And reservations of a real spool."""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.spool import Box

from fastrelay._core.limits import Gate, Rule
from fastrelay._core.table import Table
from fastrelay.limits.durable import RECORD, Reservations, cap_name, decode, reserved

SECOND = 10**9
NAME = cap_name("a", "google")
# No time decides a test, whatever else the host does.
ANY_TIME = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Disk:
    """Records of one spool: (period, total) as given, and as durable."""

    def __init__(self) -> None:
        self.now = self.durable = (0, 0)
        self.batch: list[tuple[tuple[int, int], Callable[[Any], object] | None]] = []

    def total(self, period: int) -> int:
        return self.now[1] if self.now[0] == period else 0

    def reserve(self, name: bytes, period: int, n: int, done: Callable[[Any], object] | None) -> None:
        self.now = (period, self.total(period) + n)
        self.batch.append((self.now, done))

    def lower(self, name: bytes, period: int, n: int) -> None:
        self.reserve(name, period, -n, None)

    def commit(self, calls: bool = True) -> None:
        batch, self.batch = self.batch, []
        for record, _ in batch:
            self.durable = record
        for _, done in batch:
            if done is not None and calls:
                done(None)

    def crash(self) -> None:
        self.batch = []
        self.now = self.durable


class World:
    """Two workers with a spool each, one table, one cap."""

    def __init__(self, path: str, cap: int) -> None:
        self.path, self.boots, self.now = path, 1, SECOND
        self.disks = [Disk(), Disk()]
        self.period, self.cap, self.used = 1, cap, 0
        self.losable = 0  # units that crashes may have lost of this period
        self.permits: list[tuple[int, Gate, int, int]] = []
        self.table = Table.create(path, slots=2, boot_id="1", now_ns=0, capacity=64)
        self.table.set_cap(self.table.cell(NAME), 1, cap)
        self.gates: list[Gate] = []
        for worker in (0, 1):
            self.start(worker)

    @property
    def part(self) -> int:
        """What a worker may hold unused."""
        return max(1, self.cap // 100)

    def start(self, worker: int) -> None:
        rule = Rule(Table(self.path), NAME, kind="cap", slot=worker, reservations=self.disks[worker])
        self.gates[worker : worker + 1] = [Gate([rule])]

    def check(self) -> None:
        on_disk = sum(n for period, n in (disk.durable for disk in self.disks) if period == self.period)
        assert self.used <= on_disk
        assert self.used <= self.table.cap_used(self.table.cell(NAME))

    def permit(self, worker: int, most: int) -> None:
        got = self.gates[worker].permit(most, self.now, False)
        if got:
            self.used += got
            assert self.used <= self.cap
            self.permits.append((worker, self.gates[worker], self.now, got))

    def commit(self, worker: int) -> None:
        self.disks[worker].commit()

    def unuse(self, which: int) -> None:
        if self.permits:
            _, gate, at, got = self.permits.pop(which % len(self.permits))
            gate.give_back(got, at, self.now)
            # Of another day, or of a worker that is gone, they stay used.
            if gate in self.gates and at >= self.day_began:
                self.used -= got

    day_began = 0

    def kill(self, worker: int, half: bool) -> None:
        """kill -9; `half`: the batch was on disk, and the worker was not told."""
        disk = self.disks[worker]
        if half:
            disk.commit(calls=False)
        disk.crash()
        self.losable += self.part
        self.start(worker)

    def stop(self, worker: int) -> None:
        rule = self.gates[worker].rules[0]
        rule.close()
        self.disks[worker].commit()
        self.start(worker)

    def power(self, half: bool) -> None:
        for disk in self.disks:
            if half:
                disk.commit(calls=False)
            disk.crash()
        self.losable += 2 * self.part
        self.boots += 1
        self.table = Table.create(self.path, slots=2, boot_id=str(self.boots), now_ns=self.now, capacity=64)
        cell = self.table.cell(NAME)
        known = [n for period, n in (disk.durable for disk in self.disks) if period == self.period]
        self.table.set_used(cell, self.period, sum(known))
        self.table.set_cap(cell, self.period, self.cap)
        for worker in (0, 1):
            self.start(worker)

    def day(self, cap: int) -> None:
        self.now += 1
        self.period, self.cap, self.used, self.losable = self.period + 1, cap, 0, 0
        self.day_began = self.now
        self.table.set_cap(self.table.cell(NAME), self.period, cap)
        for gate in self.gates:
            gate.available(self.now)  # a worker hears of a day when it asks

    def change(self, more: int) -> None:
        """The cap grows, or stops for a while."""
        self.losable += 4 * self.part
        self.cap = max(self.cap, self.used) + more
        cell = self.table.cell(NAME)
        self.table.set_cap(cell, self.period, 0)
        assert [gate.permit(1, self.now, False) for gate in self.gates] == [0, 0]
        self.table.set_cap(cell, self.period, self.cap)

    def drain(self) -> None:
        """Both use what there is."""
        idle = 0
        while idle < 3:
            before = self.used
            for worker in (0, 1):
                self.permit(worker, 5)
                self.commit(worker)
            idle = 0 if self.used > before else idle + 1


@contextlib.contextmanager
def path_for_table() -> Iterator[str]:
    path = f"/dev/shm/test_limits_caps.{os.getpid()}"
    try:
        yield path
    finally:
        os.unlink(path)


WORKER = st.integers(0, 1)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("permit"), WORKER, st.integers(1, 9)),
        st.tuples(st.just("permit"), WORKER, st.integers(1, 9)),
        st.tuples(st.just("commit"), WORKER),
        st.tuples(st.just("commit"), WORKER),
        st.tuples(st.just("unuse"), st.integers(0, 9)),
        st.tuples(st.just("kill"), WORKER, st.booleans()),
        st.tuples(st.just("stop"), WORKER),
        st.tuples(st.just("power"), st.booleans()),
        st.tuples(st.just("day"), st.sampled_from([0, 1, 30, 500])),
        st.tuples(st.just("change"), st.integers(0, 60)),
    ),
    max_size=60,
)


@given(st.sampled_from([1, 7, 150, 1000]), STEPS)
@settings(ANY_TIME, max_examples=300)
def test_no_schedule_uses_more_than_the_cap(cap: int, steps: list[tuple]) -> None:
    with path_for_table() as path:
        world = World(path, cap)
        for what, *how in steps:
            getattr(world, what)(*how)
            world.check()
        world.drain()
        world.check()
        assert world.cap - world.losable - 2 * world.part <= world.used <= world.cap


def test_a_worker_that_does_not_wait_for_the_disk_is_found_out() -> None:
    """The check can fail."""

    class Hasty(Disk):
        def reserve(self, name: bytes, period: int, n: int, done: Callable[[Any], object] | None) -> None:
            super().reserve(name, period, n, None)
            if done is not None:
                done(None)

    with path_for_table() as path:
        world = World(path, 1000)
        world.disks = [Hasty(), Hasty()]
        world.start(0)
        world.permit(0, 3)
        world.permit(0, 3)
        with pytest.raises(AssertionError):
            world.check()


# --- with a spool ---


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    box = Box(tmp_path / "spool")
    yield box
    box.close()


@pytest.fixture
def rule(tmp_path: Path, box: Box) -> Rule:
    table = Table.create(tmp_path / "table", slots=1, boot_id="b", now_ns=0, capacity=64)
    rule = Rule(table, NAME, kind="cap", reservations=Reservations(box.spool))
    table.set_cap(rule.cell, 3, 1000)
    return rule


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()


def tell(box: Box) -> None:
    """As the engine does."""
    told, box.told = box.told, []
    for cookies, error in told:
        for cookie in cookies:
            cookie(error)


def test_a_block_waits_for_the_group_commit(box: Box, rule: Rule, tmp_path: Path) -> None:
    gate = Gate([rule])
    assert gate.permit(1, SECOND, False) == 0
    assert box.spool.environment.get("meta", NAME) is None
    box.commit()
    assert decode(box.spool.environment.get("meta", NAME)) == (3, 5)
    assert gate.permit(1, SECOND, False) == 0  # durable, and not told yet
    tell(box)
    assert gate.permit(1, SECOND, False) == 1


def test_a_disk_that_fails_gives_no_block(box: Box, rule: Rule) -> None:
    gate = Gate([rule])
    box.spool.fail_at("commit", errno.EIO, times=2)
    assert gate.permit(1, SECOND, False) == 0
    assert not box.commit()
    tell(box)
    assert gate.permit(1, SECOND, False) == 0
    while not box.commit():
        box.loop.advance(2.0)
    tell(box)
    assert gate.permit(1, SECOND, False) == 1


def test_a_new_process_goes_on_with_the_record(box: Box, rule: Rule, tmp_path: Path) -> None:
    gate = Gate([rule])
    gate.permit(1, SECOND, False)
    box.commit()
    box.reopen()
    box.told.clear()
    reservations = Reservations(box.spool)
    assert (reservations.total(NAME, 3), reservations.total(NAME, 4)) == (5, 0)
    again = Rule(rule.table, NAME, kind="cap", reservations=reservations)
    assert Gate([again]).permit(1, SECOND, False) == 0
    box.commit()
    tell(box)
    assert decode(box.spool.environment.get("meta", NAME)) == (3, 10)
    again.close()
    box.commit()
    assert decode(box.spool.environment.get("meta", NAME)) == (3, 5)
    rule.table.set_cap(rule.cell, 4, 200)
    third = Rule(rule.table, NAME, kind="cap", reservations=reservations)
    Gate([third]).permit(1, SECOND, False)
    box.commit()
    assert decode(box.spool.environment.get("meta", NAME)) == (4, 1)
    box.close()
    assert reserved(str(tmp_path)) == {("a", "google"): (4, 1)}
    third.close()  # after the spool: its record may say more than was used
    assert rule.table.cap_used(rule.cell) == 0
    assert reserved(str(tmp_path)) == {("a", "google"): (4, 1)}
    box.open()


def test_only_caps_are_recorded(box: Box) -> None:
    with pytest.raises(ValueError, match="not the name of a cap"):
        Reservations(box.spool).reserve(b"state", 1, 1, lambda error: None)


@pytest.mark.parametrize("octets", [b"", b"short", RECORD.pack(1, 1) + b"x"])
def test_a_damaged_record_counts_as_everything(octets: bytes) -> None:
    period, n = decode(octets)
    assert period == (1 << 20) - 1
    assert n > 10**12
