"""What rules ordered, in the supervisor: how long it holds, how it ends, what is kept and told."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fastrelay._core.limits import Gate, Rule
from fastrelay._core.lmdb import LmdbError
from fastrelay._core.table import Table
from fastrelay.clock import SimulatedClock
from fastrelay.config.load import load_text
from fastrelay.limits import backoff
from fastrelay.limits.backoff import DATABASE, Backoffs, adaptive_cell, cell_rule
from fastrelay.sim.policy import Meter, RateRule

RULES = """
rules:
- {name: suspend, match: suspend, actions: {suspend: 2h}}
- {name: cut, match: cut, actions: {connections: 2, for: 30m}}
- {name: slow, match: slowly, actions: {slow_to: 60/h, for: 10m}}
- {name: half, match: half, actions: {slow_by: 50%, for: 10m}}
- {name: other_source, match: elsewhere, actions: {switch_source: yes, for: 15m}}
- {name: throttle, match: throttled, actions: {treat_as: throttle}}
- {name: greylisted, match: greylist, actions: {retry_after: 5m}}
- {name: block, match: blocked, actions: {treat_as: block}}
"""


class MemoryStore:
    """The LMDB `control`, in memory."""

    def __init__(self) -> None:
        self.kept: dict[bytes, bytes] = {}
        self.writes = 0
        self.fails = False

    def items(self, database: str) -> list[tuple[bytes, bytes]]:
        assert database == DATABASE
        return sorted(self.kept.items())

    def write(self, changes: list[tuple[str, bytes, bytes | None]]) -> None:
        if self.fails:
            raise LmdbError("commit", 28, "control")
        self.writes += 1
        for _, key, value in changes:
            if value is None:
                self.kept.pop(key, None)
            else:
                self.kept[key] = value


class Bench:
    """Backoffs with a real table, and the counts that workers would make."""

    def __init__(self, folder: Path, store: MemoryStore | None = None, clock: SimulatedClock | None = None) -> None:
        self.folder, self.store, self.clock = folder, store or MemoryStore(), clock or SimulatedClock()
        rules = folder / "rules.yaml"
        rules.write_text(RULES)
        self.config = load_text(
            f"hostname: mta.news.example\nbackoff: {{rules: {rules}, built_in: no, recover: 1h, slowest_rate: 1/min}}\n"
        )
        if not (folder / "table").exists():
            Table.create(folder / "table", slots=2, boot_id="b", now_ns=self.clock.boottime_ns())
        self.table = Table(folder / "table")
        self.counts: Counter[tuple[str, str, str]] = Counter()
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.backoffs = self.make()

    def make(self) -> Backoffs:
        return Backoffs(
            self.config, self.table, self.store, self.clock, lambda: dict(self.counts),
            lambda name, fields: self.events.append((name, fields)),
        )  # fmt: skip

    def fire(self, rule: str, source: str = "a", place: str = "google", **fields: Any) -> None:
        self.backoffs.report(
            {"event": "reply_rule", "rule": rule, "source": source, "place": place, "provider": place, "code": 421,
             "enhanced": "4.7.0", "text": f"4.7.0 {rule} please", "attempts": 3} | fields
        )  # fmt: skip

    def seconds(self, seconds: int, delivered: int = 0, deferred: int = 0, provider: str = "google") -> None:
        """Time passes; each second so much is answered."""
        for _ in range(seconds):
            self.clock.advance(1)
            self.counts["delivered", provider, "a"] += delivered
            self.counts["deferred", provider, "a"] += deferred
            self.backoffs.tick()

    def rate(self, source: str = "a", place: str = "google") -> float | None:
        """Messages an hour as workers find them in the table."""
        emission_ns, _ = self.table.rate_of(self.table.cell(adaptive_cell(source, place)))
        return 3600e9 / emission_ns if emission_ns else None

    def names(self) -> list[str]:
        return [name for name, _ in self.events]


def slow_rate(bench: Bench) -> float:
    """The rate of the slow order alone; the adaptive one may be shut meanwhile."""
    [hold] = bench.backoffs._places["a", "google"].holds.values()
    return bench.backoffs._slow_rate(hold, bench.clock.boottime_ns() / 1e9)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    bench.backoffs.tick()
    return bench


def test_a_suspension_holds_for_its_time_and_then_starts_slowly(bench: Bench) -> None:
    bench.seconds(60, delivered=1)
    bench.fire("suspend")
    [one] = bench.backoffs.active()
    assert one == {
        "id": "suspend:a:google", "source": "a", "place": "google", "rule": "suspend",
        "why": "421 4.7.0 suspend please", "until_wall": pytest.approx(bench.clock.wall() + 7200),
    }  # fmt: skip
    bench.seconds(7199)
    assert bench.backoffs.active()
    assert bench.rate() is None
    bench.seconds(1)
    assert bench.backoffs.active() == []
    assert bench.rate() == pytest.approx(60)
    bench.seconds(1800, delivered=1)
    assert 1000 < bench.rate() < 3000  # type: ignore[operator]
    bench.seconds(1801, delivered=1)
    assert bench.rate() is None
    assert bench.names() == ["rule_fired", "backoff_ended", "backoff_ended"]


def test_a_cut_of_connections_is_lifted_step_by_step(bench: Bench) -> None:
    bench.fire("cut")
    [one] = bench.backoffs.active()
    assert one["connections"] == 2
    bench.seconds(1801)
    assert bench.backoffs.active()[0]["connections"] == 2
    seen = []
    for _ in range(10):
        bench.seconds(450)
        seen += [one["connections"] for one in bench.backoffs.active()]
    assert seen == sorted(seen)
    assert seen[0] == 3
    assert bench.backoffs.active() == []


def test_workers_hear_of_each_step(bench: Bench) -> None:
    bench.fire("cut")
    heard, version = [], 0
    for _ in range(6000):
        bench.seconds(1)
        if bench.backoffs.version != version:
            version = bench.backoffs.version
            heard.append([one["connections"] for one in bench.backoffs.active()])
    assert heard == [[2], [3], [4], [5], [6], [7], [8], [9], []]


def test_a_slow_rate_holds_and_then_grows_additively(bench: Bench) -> None:
    bench.seconds(600, delivered=1)
    bench.fire("slow")
    assert bench.rate() == pytest.approx(60)
    bench.seconds(600, delivered=1)  # so the adaptive rate, which was shut too, is open again
    assert bench.rate() == pytest.approx(60)
    bench.seconds(900, delivered=1)
    first = bench.rate()
    bench.seconds(900, delivered=1)
    second = bench.rate()
    assert first is not None
    assert second is not None
    assert second - first == pytest.approx(first - 60, rel=0.05)
    bench.seconds(1900, delivered=1)
    assert bench.backoffs.describe("a", "google")["holds"] == []


def test_slower_by_a_share_of_the_rate_of_just_now(bench: Bench) -> None:
    bench.seconds(600, delivered=2)
    bench.fire("half")
    assert slow_rate(bench) == pytest.approx(3600, rel=0.05)
    bench.seconds(60, delivered=1)
    bench.fire("half")
    assert slow_rate(bench) == pytest.approx(1800, rel=0.05)


def test_replies_to_what_was_under_way_do_not_slow_twice(bench: Bench) -> None:
    bench.seconds(600, delivered=2)
    for _ in range(20):
        bench.fire("half")
        bench.seconds(1 if bench.clock.monotonic() < 1608 else 0, delivered=1)
    assert slow_rate(bench) == pytest.approx(3600, rel=0.05)


def test_of_two_orders_the_stricter_holds(bench: Bench) -> None:
    bench.fire("suspend")
    bench.seconds(3600)
    bench.fire("other_source")  # shorter than what is left
    [one] = bench.backoffs.active()
    assert one["until_wall"] - bench.clock.wall() == pytest.approx(3600)
    bench.fire("suspend")
    assert bench.backoffs.active()[0]["until_wall"] - bench.clock.wall() == pytest.approx(7200)


def test_another_source_means_that_this_one_rests(bench: Bench) -> None:
    bench.fire("other_source")
    [one] = bench.backoffs.active()
    assert "connections" not in one
    assert one["until_wall"] - bench.clock.wall() == pytest.approx(900)


def test_places_and_sources_are_apart(bench: Bench) -> None:
    bench.fire("suspend")
    bench.fire("slow", source="b", place="yahoo")
    assert [(one["source"], one["place"]) for one in bench.backoffs.active()] == [("a", "google")]
    assert bench.rate("b", "yahoo") == pytest.approx(60)
    assert bench.rate("b", "google") is None
    assert [(one["source"], one["place"]) for one in bench.backoffs.adaptive()] == [("b", "yahoo")]


def test_a_throttle_shuts_and_probes(bench: Bench) -> None:
    bench.seconds(100, delivered=10)
    bench.fire("throttle")
    bench.seconds(1, deferred=3)
    assert bench.rate() == pytest.approx(180)  # a probe in 20 s
    cell = bench.table.cell(adaptive_cell("a", "google"))
    assert bench.table.take_recorded(cell, bench.clock.boottime_ns(), 1) < 0  # and not at once


@pytest.mark.parametrize("per_hour", [300, 3000])
@pytest.mark.parametrize("window", ["clock", "bucket"])
def test_the_rate_of_a_site_of_no_provider_is_found_too(bench: Bench, window: str, per_hour: int) -> None:
    site = "mx.example:25"
    cell = bench.table.cell(adaptive_cell("a", site))
    meter = Meter(RateRule(per_hour, 3600.0, window, burst=max(2, per_hour // 60)))  # type: ignore[arg-type]
    tried = taken = 0
    for second in range(10 * 3600):
        if second == 6 * 3600:
            tried = taken = 0
        refused = 0
        for tenth in range(10):
            now_ns = bench.clock.boottime_ns() + tenth * 10**8
            for _ in range(max(0, bench.table.take_recorded(cell, now_ns, 1))):
                tried += 1
                if meter.take(bench.clock.wall() + tenth / 10):
                    taken += 1
                else:
                    refused += 1
        bench.clock.advance(1)
        if refused:
            bench.fire("throttle", place=site, provider="other", attempts=refused)
        bench.backoffs.tick()
    print(window, per_hour, taken / 4 / per_hour, 1 - taken / tried)
    assert 0.9 <= taken / 4 / per_hour <= 1.01
    assert tried - taken <= 0.01 * tried


def test_greylisting_is_not_taken_for_throttling(bench: Bench) -> None:
    for _ in range(60):
        bench.fire("greylisted", code=450, attempts=20)
        bench.seconds(1, deferred=20)
    assert bench.rate() is None
    bench.seconds(60, deferred=20)  # and what no rule explains is
    assert bench.rate() is not None


def test_a_block_alone_orders_nothing(bench: Bench) -> None:
    bench.fire("block")
    assert bench.backoffs.active() == []
    assert bench.rate() is None
    assert bench.events[0][1]["treat_as"] == "block"


def test_an_event_is_told_once_a_minute_with_what_came_together(bench: Bench) -> None:
    for _ in range(30):
        bench.fire("throttle")
        bench.seconds(1, deferred=3)
    assert bench.names() == ["rule_fired"]
    assert bench.events[0][1] == {
        "rule": "throttle", "source": "a", "place": "google", "provider": "google", "code": 421, "enhanced": "4.7.0",
        "reply": "4.7.0 throttle please", "recipients": 3, "treat_as": "throttle", "holds": {}, "advice": None,
    }  # fmt: skip
    bench.seconds(40)
    bench.fire("throttle")
    assert bench.events[-1][1]["recipients"] == 30 * 3


def test_rules_of_another_configuration_are_not_heeded(bench: Bench) -> None:
    bench.fire("unheard_of")
    assert bench.events == []


@pytest.mark.parametrize("seconds", [0, 600])
def test_what_holds_outlasts_a_restart(bench: Bench, seconds: int) -> None:
    bench.seconds(60, delivered=2)
    for rule in ("suspend", "cut", "slow", "throttle"):
        bench.fire(rule, place="yahoo" if rule in ("cut", "slow") else "google")
    bench.seconds(2)
    before = bench.backoffs.active()
    yahoo = bench.rate(place="yahoo")
    bench.clock.reboot(float(seconds))
    Table.create(bench.folder / "table2", slots=2, boot_id="c", now_ns=bench.clock.boottime_ns())
    bench.table = Table(bench.folder / "table2")
    again = bench.make()
    after = again.active()
    assert [one["id"] for one in after] == [one["id"] for one in before]
    for one, other in zip(before, after, strict=True):
        assert other["until_wall"] == pytest.approx(one["until_wall"], abs=1.5)
    if not seconds:
        assert bench.rate(place="yahoo") == pytest.approx(yahoo)
    assert bench.rate() is not None  # what was shut begins slowly
    assert again.describe("a", "google")["last_rule"]["rule"] == "throttle"


def test_clock_jumps_end_nothing_early_and_nothing_late(bench: Bench) -> None:
    bench.fire("suspend")
    bench.seconds(1)
    bench.clock.jump_wall(86400)
    bench.seconds(1)
    assert bench.backoffs.active()
    bench.clock.jump_wall(-2 * 86400)
    bench.seconds(7198)
    assert bench.backoffs.active() == []
    bench.fire("suspend")
    bench.seconds(1)
    bench.clock.jump_wall(-86400)  # and a restart
    again = bench.make()
    assert again.active()[0]["until_wall"] - bench.clock.wall() <= 7200


def test_a_state_that_cannot_be_read_begins_slowly(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.store.kept[b"a\0google"] = b"{"
    bench.store.kept[b"rubbish"] = b"\xff"
    again = bench.make()
    assert bench.rate() == pytest.approx(60)
    assert again.active() == []
    assert "can't be read" in caplog.text


def test_a_store_that_cannot_be_written_changes_nothing_else(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.store.fails = True
    bench.fire("suspend")
    bench.seconds(2)
    assert bench.backoffs.active()
    assert "can't be written" in caplog.text
    bench.store.fails = False
    bench.seconds(1)
    assert b"a\0google" in bench.store.kept


def test_quiet_places_are_not_written(bench: Bench) -> None:
    bench.seconds(300, delivered=5)
    assert bench.store.writes == 0
    bench.fire("cut")
    bench.seconds(1)
    assert bench.store.writes == 1
    bench.seconds(50)
    assert bench.store.writes == 1
    bench.seconds(6000)
    assert bench.store.kept == {}


def test_what_is_kept_is_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "MAX_PLACES", 50)
    for number in range(300):
        bench.fire("slow" if number % 2 else "block", place=f"mx{number}.example:25", provider="other")
    assert len(bench.backoffs._places) <= 50
    assert len(bench.backoffs._told) <= 50


def test_it_can_be_switched_off(bench: Bench) -> None:
    bench.fire("suspend")
    bench.fire("slow")
    off = msgspec.structs.replace(bench.config, backoff=msgspec.structs.replace(bench.config.backoff, enabled=False))
    bench.backoffs.reload(off)
    assert bench.backoffs.active() == []
    assert bench.rate() is None
    bench.fire("suspend")
    bench.seconds(10, deferred=100)
    assert bench.backoffs.active() == []
    assert bench.rate() is None


def test_what_explain_shows(bench: Bench) -> None:
    assert bench.backoffs.describe("a", "google") == {
        "source": "a", "place": "google", "rate_per_hour": None, "holds": []
    }  # fmt: skip
    bench.seconds(60, delivered=1)
    bench.fire("suspend")
    bench.fire("slow")
    told = bench.backoffs.describe("a", "google")
    assert told["rate_per_hour"] == pytest.approx(60)
    assert {hold["order"]: hold["words"] for hold in told["holds"]} == {
        "suspend": "nothing is sent for 7200 s", "slow": "at most 60/h for 600 s"
    }  # fmt: skip
    assert told["fired"] == {"suspend": 3, "slow": 3}
    assert told["last_rule"]["reply"] == "421 4.7.0 slow please"


def test_a_rate_becomes_a_rule_that_is_never_faster() -> None:
    assert cell_rule(3600) == (10**9, 1)
    assert cell_rule(7) == (-(-3600 * 10**9 // 7), 1)
    assert cell_rule(3_600_000) == (10**6, 50)


def test_a_restart_of_the_supervisor_counts_on_from_the_metrics(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.counts["delivered", "google", "a"] = 10**9  # of weeks before
    bench.backoffs.tick()
    bench.fire("half")
    assert slow_rate(bench) == pytest.approx(1800)  # the pace is not known yet


def test_a_rule_makes_nothing_faster_than_the_configuration_allows(bench: Bench) -> None:
    configured = Rule(bench.table, b"rate:source:a", 10**9, 1)
    adaptive = Rule(bench.table, adaptive_cell("a", "google"), 0, 1, kind="recorded")
    gate = Gate([configured, adaptive])
    for rate in (36_000_000.0, 3600.0, 60.0):
        bench.table.set_rate(adaptive.cell, *cell_rule(rate))
        bench.clock.advance(7200)
        began = bench.clock.boottime_ns()
        granted = sum(gate.permit(50, began + tick * 10**8, False) for tick in range(36_000))
        assert granted <= min(3600, rate) + 1
    bench.table.set_rate(adaptive.cell, 0, 1)
    bench.clock.advance(7200)
    began = bench.clock.boottime_ns()
    assert sum(gate.permit(50, began + tick * 10**8, False) for tick in range(36_000)) <= 3601
