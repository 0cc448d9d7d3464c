"""Rules, gates and who waits: one worker, times told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastrelay._core.limits import NEVER_NS, Gate, Rule, Waiting
from fastrelay._core.table import Table

SECOND = 10**9
MS = 10**6
ALL = 2**31 - 1


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table.create(tmp_path / "table", slots=3, boot_id="b", now_ns=0, capacity=256)


class Disk:
    """Reservations that become durable when they are told to."""

    def __init__(self) -> None:
        self.totals: dict[tuple[bytes, int], int] = {}
        self.waiting: list[Callable[[Any], object]] = []

    def reserve(self, name: bytes, period: int, n: int, done: Callable[[Any], object]) -> None:
        self.totals[name, period] = self.totals.get((name, period), 0) + n
        self.waiting.append(done)

    def lower(self, name: bytes, period: int, n: int) -> None:
        self.totals[name, period] -= n

    def commit(self) -> None:
        waiting, self.waiting = self.waiting, []
        for done in waiting:
            done(None)


def rate(table: Table, name: bytes, per_second: int, burst: int, slot: int = 0) -> Rule:
    return Rule(table, name, SECOND // per_second, burst, slot=slot)


def cap(table: Table, n: int, disk: Disk | None = None, slot: int = 0) -> Rule:
    rule = Rule(table, b"cap:a:google", reason="warmup_cap", kind="cap", slot=slot, reservations=disk)
    assert table.set_cap(rule.cell, 1, n)
    return rule


# --- gates ---


def test_a_gate_without_rules_lets_everything_through() -> None:
    gate = Gate()
    assert gate.permit(7, SECOND, False) == 7
    assert gate.permit(0, SECOND, False) == 0
    assert gate.available(SECOND) == ALL
    assert gate.unused(3) == gate.give_back(3, 0, 1) == len(gate) == 0


def test_every_rule_is_charged_as_much_as_was_given(table: Table) -> None:
    wide, narrow = rate(table, b"rate:relay", 1, 10), rate(table, b"rate:source:a", 1, 3)
    gate = Gate((wide, narrow))
    assert gate.available(SECOND) == 3
    assert gate.permit(8, SECOND, False) == 3
    assert (wide.look(SECOND), narrow.look(SECOND)) == (7, -SECOND)
    assert gate.permit(8, SECOND, False) == 0
    assert gate.denied is narrow
    assert gate.retry_at_ns == 2 * SECOND
    assert wide.look(SECOND) == 7  # what the first one gave is back
    assert gate.available(SECOND) == 0
    gate.unused(2)
    assert (wide.look(SECOND), narrow.look(SECOND)) == (9, 2)


def test_late_returns_are_not_counted_twice(table: Table) -> None:
    rule = rate(table, b"rate:relay", 1, 10)
    gate = Gate((rule,))
    assert gate.permit(10, SECOND, False) == 10
    assert gate.permit(10, 6 * SECOND, False) == 5
    gate.give_back(10, SECOND, 6 * SECOND)
    assert gate.available(6 * SECOND) == 5


def test_units_of_another_rule_are_not_given_back(table: Table) -> None:
    rule, recorded = rate(table, b"rate:relay", 1, 10), Rule(table, b"adaptive:a:x", kind="recorded")
    table.set_rate(recorded.cell, SECOND, 10)
    gate = Gate((rule, recorded))
    assert gate.permit(10, SECOND, False) == 10
    rule.change(10 * SECOND, 10, "slower", "shaping[0]", 2 * SECOND)
    table.set_rate(recorded.cell, 10 * SECOND, 10)
    gate.give_back(10, SECOND, 2 * SECOND)
    assert (rule.look(2 * SECOND), recorded.look(2 * SECOND)) == (1, 1)  # what has flowed in since, no more
    assert (rule.detail, rule.origin) == ("slower", "shaping[0]")


def test_recorded_rules(table: Table) -> None:
    adaptive = Rule(table, b"adaptive:a:x", kind="recorded")
    spread = Rule(table, b"spread:a:x", kind="spread", reason="warmup_cap")
    assert (adaptive.kind, spread.kind) == ("recorded", "spread")
    assert (adaptive.look(SECOND), spread.look(SECOND)) == (ALL, -SECOND)
    assert Gate((adaptive,)).permit(5, SECOND, False) == 5
    gate = Gate((adaptive, spread))
    assert gate.permit(5, SECOND, False) == 0
    assert gate.denied is spread
    table.set_rate(spread.cell, SECOND, 2)
    assert gate.permit(5, SECOND, False) == 2
    table.set_rate(adaptive.cell, SECOND, 1)
    assert gate.permit(5, 3 * SECOND, False) == 1
    gate.unused(1)
    assert spread.look(3 * SECOND) == 2


def test_what_no_rule_can_be(table: Table) -> None:
    with pytest.raises(ValueError, match="ns of one unit"):
        Rule(table, b"rate:relay")
    with pytest.raises(KeyError):
        Rule(table, b"rate:relay", 1, kind="sometimes")
    with pytest.raises(ValueError, match="another rate"):
        Rule(table, b"x", kind="recorded").change(1, 1, "", "", 0)
    with pytest.raises(ValueError, match="at most 16"):
        Gate([rate(table, b"rate:%d" % n, 1, 1) for n in range(17)])
    with pytest.raises(TypeError):
        Gate(("rate",))  # type: ignore[arg-type]


# --- transactional mail ---


def test_other_workers_give_way_to_transactional_mail(table: Table) -> None:
    ours, theirs = rate(table, b"rate:relay", 1, 2, slot=0), rate(table, b"rate:relay", 1, 2, slot=1)
    urgent, bulk = Gate((ours,)), Gate((theirs,))
    assert bulk.permit(2, SECOND, False) == 2
    assert urgent.permit(1, SECOND, True) == 0
    assert urgent.retry_at_ns == 2 * SECOND
    assert bulk.permit(1, 2 * SECOND, False) == 0
    assert bulk.denied is theirs
    assert bulk.available(2 * SECOND) == 0
    assert 2 * SECOND < bulk.retry_at_ns <= 3 * SECOND
    assert urgent.permit(1, 2 * SECOND + MS, True) == 1
    assert bulk.permit(1, 3 * SECOND + MS, False) == 1


def test_giving_way_ends_when_nothing_is_taken(table: Table) -> None:
    ours, theirs = rate(table, b"rate:relay", 1, 2, slot=0), rate(table, b"rate:relay", 1, 2, slot=1)
    assert Gate((theirs,)).permit(2, SECOND, False) == 2
    assert Gate((ours,)).permit(1, SECOND, True) == 0
    assert Gate((theirs,)).permit(1, 3 * SECOND, False) == 0
    assert Gate((theirs,)).permit(1, 5 * SECOND, False) == 1
    assert Gate((ours,)).permit(2, 5 * SECOND, True) == 1
    assert Gate((ours,)).permit(2, 5 * SECOND, True) == 0
    ours.close()  # a worker that ends wants nothing
    assert Gate((theirs,)).permit(1, 6 * SECOND, False) == 1


def test_bulk_gives_way_within_a_worker_too(table: Table) -> None:
    rule, waiting = rate(table, b"rate:relay", 1, 1), Waiting()
    gate = Gate((rule,))
    assert gate.permit(1, SECOND, False) == 1
    waiting.wait(rule, "bulk", 2 * SECOND)
    waiting.wait(rule, "login codes", 2 * SECOND, True)
    assert gate.permit(1, 2 * SECOND, False) == 0
    assert waiting.due(2 * SECOND) == ["login codes"]
    assert gate.permit(1, 2 * SECOND, True) == 1


# --- waiting ---


def test_as_many_are_woken_as_there_are_permits_in_turn(table: Table) -> None:
    rule, waiting = rate(table, b"rate:relay", 1, 3), Waiting()
    assert waiting.next_ns() == NEVER_NS
    gate = Gate((rule,))
    assert gate.permit(3, SECOND, False) == 3
    for n in range(5):
        waiting.wait(rule, n, 2 * SECOND)
    waiting.wait(rule, 0, 2 * SECOND)  # again: it keeps its turn
    assert len(waiting) == rule.waiters == 5
    assert waiting.next_ns() == 2 * SECOND
    assert waiting.due(2 * SECOND - 1) == []
    assert waiting.due(2 * SECOND) == [0]
    assert gate.permit(9, 2 * SECOND, False) == 1
    waiting.wait(rule, 0, 3 * SECOND)
    assert waiting.due(4 * SECOND) == [1, 2]
    assert gate.permit(9, 4 * SECOND, False) == 2
    assert waiting.due(7 * SECOND) == [3, 4, 0]
    assert waiting.next_ns() == NEVER_NS
    assert len(waiting) == 0


def test_a_woken_site_that_takes_nothing_strands_nobody(table: Table) -> None:
    rule, waiting = rate(table, b"rate:relay", 1, 1), Waiting()
    for n in range(4):
        waiting.wait(rule, n, SECOND)
    now = SECOND
    found = []
    for _ in range(4):
        found += waiting.due(now)
        assert waiting.next_ns() <= now + 20 * MS or len(found) == 4
        now = waiting.next_ns()
    assert found == [0, 1, 2, 3]


def test_a_site_waits_once(table: Table) -> None:
    one, other, waiting = rate(table, b"rate:a", 1, 1), rate(table, b"rate:b", 1, 1), Waiting()
    waiting.wait(one, "site", 5 * SECOND)
    waiting.wait(other, "site", 3 * SECOND)
    assert (one.waiters, other.waiters, len(waiting)) == (0, 1, 1)
    assert waiting.rule_of("site") is other
    assert waiting.next_ns() == 3 * SECOND
    waiting.forget("site")
    assert waiting.rule_of("site") is None
    assert waiting.next_ns() == NEVER_NS
    waiting.forget("site")


def test_transactional_sites_come_first(table: Table) -> None:
    rule, waiting = rate(table, b"rate:a", 1, 2), Waiting()
    for n in range(3):
        waiting.wait(rule, n, SECOND)
    waiting.wait(rule, 2, SECOND, True)  # it has a transactional message now
    waiting.wait(rule, "late", SECOND, True)
    assert waiting.due(SECOND) == [2, "late"]


def test_only_transactional_sites_are_woken_while_another_worker_wants(table: Table) -> None:
    rule, waiting = rate(table, b"rate:a", 1, 2), Waiting()
    table.want(rule.cell, 1, SECOND, SECOND)
    waiting.wait(rule, "bulk", SECOND)
    assert waiting.due(SECOND) == []
    waiting.wait(rule, "codes", SECOND, True)
    assert waiting.due(SECOND) == ["codes"]
    assert waiting.due(4 * SECOND) == ["bulk"]


def test_many_rules_are_woken_by_their_times(table: Table) -> None:
    waiting = Waiting()
    rules = [rate(table, b"rate:%d" % n, 1, 1) for n in range(40)]
    for n, rule in enumerate(rules):
        waiting.wait(rule, n, SECOND + (n * 7919) % 40 * MS)
    for n in range(0, 40, 3):
        waiting.forget(n)
    order = sorted((n for n in range(40) if n % 3), key=lambda n: (n * 7919) % 40)
    found = []
    while waiting.next_ns() != NEVER_NS:
        found += waiting.due(waiting.next_ns())
    assert found == order


def test_a_call_wakes_a_bounded_number_and_the_rest_at_once_after(table: Table) -> None:
    rule, waiting = rate(table, b"rate:a", 1000, 5000), Waiting()
    for n in range(2500):
        waiting.wait(rule, n, SECOND)
    found = [waiting.due(SECOND) for _ in range(4)]
    assert [len(part) for part in found] == [1024, 1024, 452, 0]
    assert [site for part in found for site in part] == list(range(2500))


def test_a_rule_that_grew_laxer_is_noticed(table: Table) -> None:
    rule, waiting = Rule(table, b"adaptive:a:x", kind="recorded"), Waiting()
    table.set_rate(rule.cell, 86400 * SECOND, 1)
    gate = Gate((rule,))
    assert gate.permit(1, SECOND, False) == 1
    assert gate.permit(1, SECOND, False) == 0
    assert gate.retry_at_ns == 86401 * SECOND
    waiting.wait(rule, "site", gate.retry_at_ns)
    assert waiting.next_ns() == 2 * SECOND
    assert waiting.due(2 * SECOND) == []
    assert waiting.next_ns() == 3 * SECOND
    table.set_rate(rule.cell, 0, 0)
    assert waiting.due(3 * SECOND) == ["site"]


def test_what_another_worker_gives_back_is_noticed(table: Table) -> None:
    ours, theirs = Rule(table, b"rate:a", 86400 * SECOND, 1), Rule(table, b"rate:a", 86400 * SECOND, 1, slot=1)
    gate, waiting = Gate([theirs]), Waiting()
    assert Gate([ours]).permit(1, SECOND, False) == 1
    assert gate.permit(1, SECOND, False) == 0
    waiting.wait(theirs, "site", gate.retry_at_ns)
    assert waiting.due(11 * SECOND) == []
    Gate([ours]).give_back(1, SECOND, 12 * SECOND)
    assert waiting.next_ns() == 21 * SECOND
    assert waiting.due(21 * SECOND) == ["site"]  # the 11 s that flowed in are owed no more


def test_after_a_reload_everybody_asks_again(table: Table) -> None:
    rule, waiting = rate(table, b"rate:a", 1, 1), Waiting()
    waiting.wait(rule, "one", SECOND)
    waiting.wait(rule, "two", SECOND, True)
    assert sorted(waiting.wake_all()) == ["one", "two"]
    assert waiting.next_ns() == NEVER_NS
    assert waiting.wake_all() == []


def test_a_block_is_used_only_when_it_is_on_disk(table: Table) -> None:
    disk = Disk()
    rule = cap(table, 1000, disk)
    gate = Gate((rule,))
    assert gate.permit(3, SECOND, False) == 0
    assert gate.denied is rule
    assert SECOND < gate.retry_at_ns < 2 * SECOND
    assert disk.totals == {(rule.name, 1): 5}
    assert (rule.left, rule.pending) == (0, 5)
    assert rule.look(SECOND) < 0
    assert gate.available(SECOND) == gate.soon(SECOND) == 1000  # a warm source leaves so many to this one
    disk.commit()
    assert gate.permit(3, SECOND, False) == 3
    assert gate.permit(3, SECOND, False) == 2  # and the next block is on its way
    assert rule.pending == 5
    disk.commit()
    gate.unused(2)
    assert rule.left == 7
    assert table.cap_used(rule.cell) == 10
    assert gate.available(SECOND) == 997
    assert Gate([rate(table, b"rate:relay", 1, 3), rule]).available(SECOND) == 3
    table.set_cap(rule.cell, 1, 0)
    assert gate.available(SECOND) == 0


def test_the_commit_of_a_block_wakes_who_waits(table: Table) -> None:
    disk, waiting, told = Disk(), Waiting(), []
    rule = cap(table, 1000, disk)
    gate = Gate((rule,))
    waiting.on_sooner = lambda: told.append(waiting.next_ns())
    assert gate.permit(1, SECOND, False) == 0
    waiting.wait(rule, "site", gate.retry_at_ns)
    assert waiting.due(SECOND) == []
    disk.commit()
    assert told == [0]
    assert waiting.due(SECOND) == ["site"]


def test_a_worker_never_holds_more_than_its_part_unused(table: Table) -> None:
    disk = Disk()
    rule = cap(table, 1000, disk)
    gate = Gate((rule,))
    for _ in range(50):
        gate.permit(1, SECOND, False)
        gate.available(SECOND)
        disk.commit()
        assert rule.left + rule.pending <= 10
    used = 50 - 1
    assert table.cap_used(rule.cell) - used <= 10
    gate.give_back(40, SECOND, 2 * SECOND)
    assert rule.left + rule.pending <= 10
    assert table.cap_used(rule.cell) == disk.totals[rule.name, 1] <= used - 40 + 10


def test_all_of_a_cap_can_be_used_and_no_more(table: Table) -> None:
    for n in (1, 3, 50, 150, 1000, 12345):
        period = table.cap_period(table.cell(b"cap:a:google")) + 1
        rules = [Rule(table, b"cap:a:google", kind="cap", slot=slot) for slot in range(3)]
        assert table.set_cap(rules[0].cell, period, n)
        used = 0
        while got := sum(Gate((rule,)).permit(7, SECOND, False) for rule in rules):
            used += got
        assert used == n


def test_a_block_of_yesterday_is_dropped(table: Table) -> None:
    disk = Disk()
    rule = cap(table, 1000, disk)
    gate = Gate((rule,))
    gate.permit(1, SECOND, False)
    disk.commit()
    assert gate.permit(2, SECOND, False) == 2
    table.set_cap(rule.cell, 2, 1000)
    assert gate.permit(1, 2 * SECOND, False) == 0
    disk.commit()
    assert gate.permit(1, 3 * SECOND, False) == 1
    assert disk.totals == {(rule.name, 1): 5, (rule.name, 2): 5}
    left = rule.left
    gate.give_back(2, SECOND, 4 * SECOND)  # of yesterday
    assert rule.left == left
    gate.give_back(1, 3 * SECOND, 4 * SECOND)
    assert rule.left == left + 1


def test_a_commit_of_yesterday_gives_nothing_today(table: Table) -> None:
    disk = Disk()
    rule = cap(table, 1000, disk)
    gate = Gate((rule,))
    gate.permit(1, SECOND, False)
    table.set_cap(rule.cell, 2, 0)
    assert gate.permit(1, SECOND, False) == 0
    disk.commit()
    assert (rule.left, rule.pending, gate.permit(1, SECOND, False)) == (0, 0, 0)


def test_a_cap_that_is_lowered_stops_at_once(table: Table) -> None:
    disk = Disk()
    rule = cap(table, 1000, disk)
    gate = Gate((rule,))
    gate.permit(1, SECOND, False)
    disk.commit()
    assert gate.permit(2, SECOND, False) == 2
    table.set_cap(rule.cell, 1, 0)
    assert gate.permit(1, SECOND, False) == 0
    assert table.cap_used(rule.cell) == disk.totals[rule.name, 1] == 2
    table.set_cap(rule.cell, 1, 1000)
    assert gate.permit(1, SECOND, False) == 0
    disk.commit()
    assert gate.permit(1, SECOND, False) == 1


def test_a_worker_that_ends_well_returns_the_rest(table: Table) -> None:
    disk = Disk()
    rule = cap(table, 1000, disk)
    gate = Gate((rule,))
    gate.permit(1, SECOND, False)
    disk.commit()
    assert gate.permit(4, SECOND, False) == 4
    assert gate.permit(4, SECOND, False) == 1
    assert rule.pending == 5
    rule.close()
    assert table.cap_used(rule.cell) == disk.totals[rule.name, 1] == 5
    disk.commit()
    assert gate.permit(1, SECOND, False) == 0
    gate.give_back(3, SECOND, SECOND)
    rule.close()
    assert (rule.left, rule.pending, table.cap_used(rule.cell)) == (0, 0, 5)


def test_a_full_cap_wakes_nobody_until_there_is_room(table: Table) -> None:
    rule, waiting = cap(table, 2), Waiting()
    gate = Gate((rule,))
    assert gate.permit(5, SECOND, False) + gate.permit(5, SECOND, False) == 2
    assert gate.permit(5, SECOND, False) == 0
    waiting.wait(rule, "site", gate.retry_at_ns)
    for second in range(2, 10):
        assert waiting.due(second * SECOND) == []
        assert waiting.next_ns() == (second + 1) * SECOND
    table.set_cap(rule.cell, 2, 2)
    assert waiting.due(10 * SECOND) == ["site"]
