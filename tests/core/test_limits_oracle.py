"""Gates against the promise itself, in plain Python: no window of any length admits more than rate × window + burst.

The oracle keeps every unit that was used, and allows as many as all windows that end now leave room for. What a gate
gives is exactly that as long as nothing was given back late and no rule changed; with those it may be less, never more.
"""

import contextlib
import os
import random
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastrelay._core.limits import Gate, Rule, Waiting
from fastrelay._core.table import Table

SECOND = 10**9
SLOTS = 2
# No time decides a test, whatever else the host does.
ANY_TIME = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@contextlib.contextmanager
def path_for_table() -> Iterator[str]:
    path = f"/dev/shm/test_limits.{os.getpid()}"
    try:
        yield path
    finally:
        os.unlink(path)


class Slow:
    """One rule: what was used when, and the rules that held since when."""

    def __init__(self, emission: int, burst: int) -> None:
        self.rules = [(0, emission, burst)]
        self.used: list[tuple[int, int]] = []

    def flowed(self, start: int, end: int) -> tuple[float, int]:
        """(units that flow in from `start` to `end`, the largest burst of that time)"""
        flow, burst = 0, 0
        for k, (since, emission, most) in enumerate(self.rules):
            until = self.rules[k + 1][0] if k + 1 < len(self.rules) else end
            low, high = max(since, start), min(until, end)
            if high >= low:
                flow += (high - low) // emission + (1 if len(self.rules) > 1 else 0)
                burst = max(burst, most)
        return flow, burst

    def allowed(self, now: int) -> int:
        """How many may be used now, by every window that ends now."""
        flow, burst = self.flowed(now, now)
        room, later = burst, 0
        for at, n in reversed(self.used):
            later += n
            flow, burst = self.flowed(at, now)
            room = min(room, int(flow) + burst - later)
        return room

    def take(self, now: int, n: int) -> None:
        self.used.append((now, n))

    def unuse(self, at: int, n: int) -> None:
        """`n` units of `at` were not used after all."""
        for k, (when, had) in enumerate(self.used):
            part = min(n, had) if when == at else 0
            self.used[k] = (when, had - part)
            n -= part
        assert n == 0


RULES = st.lists(st.tuples(st.integers(1, 5 * SECOND), st.integers(1, 12)), min_size=1, max_size=4)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("permit"), st.integers(0, 7), st.integers(1, 15), st.booleans()),
        st.tuples(st.just("pause"), st.integers(0, 4 * SECOND)),
        st.tuples(st.just("unused"), st.integers(1, 15)),
        st.tuples(st.just("late"), st.integers(0, 30)),
        st.tuples(st.just("restart"), st.sampled_from([64, 128])),
        st.tuples(st.just("change"), st.integers(0, 3), st.integers(1, 5 * SECOND), st.integers(1, 12)),
    ),
    max_size=80,
)


class Play:
    """Two workers on one table, and the oracle beside them. `which`: subset of the rules, by bits, of a gate."""

    def __init__(self, path: str, rules: list[tuple[int, int]]) -> None:
        self.path = path
        self.specs = list(rules)
        self.slow = [Slow(*rule) for rule in rules]
        self.now = SECOND
        self.exact = True
        self.permits: list[tuple[Gate, tuple[int, ...], int, int]] = []
        Table.create(path, slots=SLOTS, boot_id="b", now_ns=0, capacity=64)
        self.start()

    def start(self) -> None:
        tables = [Table(self.path) for _ in range(SLOTS)]
        self.rules = [
            [Rule(table, b"rate:%d" % n, emission, burst, slot=slot) for n, (emission, burst) in enumerate(self.specs)]
            for slot, table in enumerate(tables)
        ]
        self.permits.clear()

    def permit(self, which: int, most: int, second: bool) -> None:
        chosen = tuple(n for n in range(len(self.specs)) if which >> n & 1)
        gate = Gate(self.rules[second][n] for n in chosen)
        expected = min([self.slow[n].allowed(self.now) for n in chosen], default=most)
        expected = max(0, min(most, expected))
        assert gate.available(self.now) >= (expected if self.exact else 0)
        got = gate.permit(most, self.now, False)
        assert got == expected if self.exact else got <= expected
        if got:
            for n in chosen:
                self.slow[n].take(self.now, got)
            self.permits.append((gate, chosen, self.now, got))
        else:
            denied = gate.denied
            assert denied is not None
            assert gate.retry_at_ns > self.now
            if self.exact:
                slow = self.slow[int(denied.name[5:])]
                assert slow.allowed(gate.retry_at_ns - 1) <= 0 < slow.allowed(gate.retry_at_ns)

    def unused(self, n: int) -> None:
        if self.permits and self.permits[-1][2] == self.now:
            gate, chosen, at, got = self.permits.pop()
            n = min(n, got)
            gate.unused(n)
            for k in chosen:
                self.slow[k].unuse(at, n)
            self.permits.append((gate, chosen, at, got - n))

    def late(self, which: int) -> None:
        if self.permits:
            gate, chosen, at, got = self.permits.pop(which % len(self.permits))
            gate.give_back(got, at, self.now)
            for k in chosen:
                self.slow[k].unuse(at, got)
            self.exact = False

    def restart(self, capacity: int) -> None:
        Table.create(self.path, slots=SLOTS, boot_id="b", now_ns=self.now, capacity=capacity)
        self.start()

    def change(self, which: int, emission: int, burst: int) -> None:
        """A reload: first one worker knows, the other one hears of it while the table says so."""
        which %= len(self.specs)
        old = self.specs[which]
        self.specs[which] = (emission, burst)
        slow = self.slow[which]
        first, second = self.rules[0][which], self.rules[1][which]
        table = Table(self.path)
        table.reloading = True
        stricter = (max(old[0], emission), min(old[1], burst))
        slow.rules.append((self.now, *stricter))
        first.change(emission, burst, "", "", self.now)
        self.exact = False
        self.permit(1 << which, 3, False)
        self.permit(1 << which, 3, True)
        self.now += SECOND // 2
        self.permit(1 << which, 3, False)
        self.permit(1 << which, 3, True)
        second.change(emission, burst, "", "", self.now)
        table.reloading = False
        slow.rules.append((self.now, emission, burst))

    def step(self, what: str, *how: int) -> None:
        if what == "pause":
            self.now += how[0]
        else:
            getattr(self, what)(*how)


@given(RULES, STEPS)
@settings(ANY_TIME, max_examples=300)
def test_gates_keep_the_promise(rules: list[tuple[int, int]], steps: list[tuple]) -> None:
    with path_for_table() as path:
        play = Play(path, rules)
        for step in steps:
            play.step(*step)


def test_the_oracle_can_fail() -> None:
    """A rule that is laxer than what the oracle was told is found out."""
    with path_for_table() as path:
        play = Play(path, [(SECOND, 3)])
        play.rules[0][0].change(SECOND // 2, 3, "", "", 0)
        play.step("permit", 1, 3, False)
        play.step("pause", SECOND)
        with pytest.raises(AssertionError):
            play.step("permit", 1, 3, False)


# --- use under backlog ---


def backlog(path: str, rules: list[tuple[int, int]], seconds: float, sites: int, seed: int) -> tuple[int, list[int]]:
    """Two workers whose sites always have mail: how many units were used, and by which site of the first worker."""
    choose = random.Random(seed)
    Table.create(path, slots=SLOTS, boot_id="b", now_ns=0, capacity=64)
    now = end = SECOND
    end += round(seconds * SECOND)
    workers = []
    for slot in range(SLOTS):
        table = Table(path)
        gate = Gate(Rule(table, b"rate:%d" % n, *rule, slot=slot) for n, rule in enumerate(rules))
        workers.append((gate, Waiting()))
        for site in range(sites):
            workers[slot][1].wait(gate.rules[0], site, now)
    used, by_site = 0, [0] * sites
    while now < end:
        for slot, (gate, waiting) in enumerate(workers):
            for site in waiting.due(now):
                got = gate.permit(choose.choice((1, 1, 1, 5)), now, False)
                used += got
                by_site[site] += got if slot == 0 else 0
                # After a grant it comes back at once (its next message): to the end of the line.
                rule, at = (gate.rules[0], now) if got else (gate.denied, gate.retry_at_ns)
                assert rule is not None
                waiting.wait(rule, site, at)
        now = max(min(waiting.next_ns() for _, waiting in workers), now + 1_000_000)  # timers have a grain of 1 ms
    return used, by_site


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(0, 4)), min_size=1, max_size=4),
    st.integers(1, 40),
    st.integers(),
)
@settings(ANY_TIME, max_examples=40)
def test_backlog_uses_98_percent(shapes: list[tuple[int, int]], sites: int, seed: int) -> None:
    """Rates of 0.2 to 10 a second with the burst that is theirs by default, or more."""
    rules = [(SECOND * 5 // rate, max(1, -(-rate // 10)) + more) for rate, more in shapes]
    slowest = max(emission for emission, _ in rules)
    seconds = slowest * 300 / SECOND
    with path_for_table() as path:
        used, _ = backlog(path, rules, seconds, sites, seed)
    assert used >= 0.98 * seconds * SECOND / slowest
    for emission, burst in rules:
        assert used <= seconds * SECOND / emission + burst


@pytest.mark.parametrize("per_second", [20, 100, 1000])
def test_backlog_uses_98_percent_of_fast_rates(per_second: int) -> None:
    with path_for_table() as path:
        used, _ = backlog(path, [(SECOND // per_second, per_second // 2)], 10, 30, 1)
    assert 0.98 * 10 * per_second <= used <= 10.5 * per_second + 1


def test_sites_of_a_backlog_have_their_turns() -> None:
    with path_for_table() as path:
        used, by_site = backlog(path, [(SECOND // 5, 3)], 200, 10, 1)
    assert used > 980
    assert max(by_site) - min(by_site) < 60  # of about 50, taken as 1 or 5 at a time


# --- waiting ---

WAITS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.integers(0, 7), st.integers(0, 3), st.booleans()),
        st.tuples(st.just("forget"), st.integers(0, 7)),
        st.tuples(st.just("pause"), st.integers(0, 3 * SECOND)),
        st.tuples(st.just("take"), st.integers(0, 3), st.integers(1, 5)),
        st.tuples(st.just("all")),
    ),
    max_size=80,
)


class Lines:
    """Who waits for which rule, as lists."""

    def __init__(self, rules: int) -> None:
        self.lines: list[dict[bool, list[int]]] = [{True: [], False: []} for _ in range(rules)]

    def leave(self, site: int) -> None:
        for line in self.lines:
            for sites in line.values():
                if site in sites:
                    sites.remove(site)

    def wait(self, site: int, rule: int, urgent: bool) -> None:
        if site not in self.lines[rule][urgent]:
            self.leave(site)
            self.lines[rule][urgent].append(site)

    def order(self, rule: int) -> list[int]:
        return self.lines[rule][True] + self.lines[rule][False]

    def total(self) -> int:
        return sum(len(self.order(rule)) for rule in range(len(self.lines)))


@given(WAITS)
@settings(ANY_TIME, max_examples=300)
def test_waiting_against_lists(steps: list[tuple]) -> None:
    with path_for_table() as path:
        table = Table.create(path, slots=1, boot_id="b", now_ns=0, capacity=64)
        rules = [Rule(table, b"rate:%d" % n, SECOND * (n + 1) // 2, n + 1) for n in range(4)]
        waiting, lines, now = Waiting(), Lines(4), SECOND

        def due() -> int:
            room = [rule.look(now) for rule in rules]
            woken = waiting.due(now)
            for n, rule in enumerate(rules):
                mine = [site for site in woken if site in lines.order(n)]
                assert mine == lines.order(n)[: len(mine)]  # in turn
                assert len(mine) <= max(room[n], 0)  # and no more than there are permits
                assert rule.waiters == len(lines.order(n)) - len(mine)
            for site in woken:
                lines.leave(site)
            assert waiting.next_ns() > now
            return len(woken)

        for what, *how in steps:
            if what == "wait":
                site, n, urgent = how
                wait = min(rules[n].look(now), 0)
                waiting.wait(rules[n], site, now - wait, urgent)
                lines.wait(site, n, urgent)
            elif what == "forget":
                waiting.forget(*how)
                lines.leave(*how)
            elif what == "pause":
                now += how[0]
            elif what == "take":
                Gate([rules[how[0]]]).permit(how[1], now, True)
            else:
                assert sorted(waiting.wake_all()) == sorted(site for n in range(4) for site in lines.order(n))
                lines = Lines(4)
            due()
            assert len(waiting) == lines.total()
        # Nobody takes anything any more: all are woken, each at most at its turn.
        for _ in range(1000):
            if not lines.total():
                break
            now = waiting.next_ns()
            due()
        assert lines.total() == 0
