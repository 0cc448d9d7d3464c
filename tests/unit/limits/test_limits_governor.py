"""The governor on a real table and a real store: what it writes, in which order, and what it does without them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastrelay._core.lmdb import Environment, LmdbError
from fastrelay._core.slab import Slab
from fastrelay._core.table import Table
from fastrelay.clock import SimulatedClock
from fastrelay.config.schema import Config, from_builtins
from fastrelay.limits import warming
from fastrelay.limits.durable import EVERYTHING, Reserved
from fastrelay.limits.governor import DATABASES, Governor, GovernorError, slab_counts
from fastrelay.limits.warming import DATABASE, WARM_CAP
from fastrelay.metrics import names

MIDNIGHT = 1_800_000_000 - 1_800_000_000 % 86400
DAY = 86400.0
HOUR = 3600.0


class Failing:
    """A store whose writes can be made to fail."""

    def __init__(self, store: Environment) -> None:
        self.store = store
        self.broken = False
        self.writes = 0

    def get(self, database: str, key: bytes) -> bytes | None:
        return self.store.get(database, key)

    def items(self, database: str) -> list[tuple[bytes, bytes]]:
        return self.store.items(database)

    def write(self, changes: list[tuple[str, bytes, bytes | None]]) -> None:
        if self.broken:
            raise LmdbError("commit", 28, self.store.path)
        self.writes += 1
        self.store.write(changes)


class Host:
    """A state directory, its table and store; `start` is a start of the relay."""

    def __init__(self, folder: Path, **plan: Any) -> None:
        self.folder = folder
        self.clock = SimulatedClock(MIDNIGHT)
        self.plan: dict[str, Any] = {"stages": [100, 200, 300], "spread": 0.0, "minimum_messages": 10, **plan}
        self.counts: dict[tuple[str, str, str], float] = {}
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.reserved: Callable[[], Reserved] = Reserved
        self.opened: Environment | None = None
        self.start()

    def config(self) -> Config:
        sources = [{"name": "a", "address": "127.0.0.1", "warmup": "slow"}, {"name": "w", "address": "127.0.0.2"}]
        built = {"hostname": "relay.test", "state_dir": str(self.folder), "sources": sources}
        return from_builtins(built | {"warmup": {"slow": self.plan}})

    def start(self) -> Governor:
        """A start. What the one before had in hand is lost, as at kill -9."""
        if self.opened is not None:
            self.opened.close()
        self.table = Table.create(
            self.folder / "table", slots=2, boot_id=self.clock.boot_id(), now_ns=self.clock.boottime_ns()
        )
        self.opened = Environment(str(self.folder / "control"), ("suspensions", *DATABASES), map_bytes=1 << 24)
        self.store = Failing(self.opened)
        self.governor = Governor(
            self.config(),
            self.table,
            self.store,
            self.clock,
            lambda: dict(self.counts),
            event=lambda name, fields: self.events.append((name, fields)),
            reserved=lambda: self.reserved(),
        )
        return self.governor

    def cell(self, key: str = "*") -> int:
        return self.table.cell(f"cap:a:{key}".encode())

    def cap(self, key: str = "*") -> tuple[int, int]:
        """(period, cap) as the table has it."""
        return self.table.cap_period(self.cell(key)), self.table.cap_of(self.cell(key))

    def take(self, n: int, key: str = "*", provider: str = "google", outcome: str = "delivered") -> int:
        """A worker sends as much as it is allowed to."""
        granted, _ = self.table.cap_claim(self.cell(key), n)
        self.count(outcome, provider, granted)
        return int(granted)

    def count(self, outcome: str, provider: str, n: int) -> None:
        self.counts[outcome, provider, "a"] = self.counts.get((outcome, provider, "a"), 0) + n

    def hours(self, hours: int) -> None:
        for _ in range(hours):
            self.clock.advance(HOUR)
            self.governor.tick()

    def row(self, key: str = "*") -> dict[str, Any]:
        return next(row for row in self.governor.state()["warmup"] if row["key"] == key)

    def command(self, name: str, **arguments: Any) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.governor.command(f"warmup.{name}", arguments)["warmup"]
        return rows


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_new_source_is_at_its_first_stage(host: Host) -> None:
    assert host.cap() == (1, 100)
    assert host.row() | {"why": ""} == {
        "source": "a", "key": "*", "stage": 1, "stages": 3, "per": "day", "cap": 100, "used": 0, "cold": True,
        "state": "running", "held": False, "why": "", "days_left": 3, "overflow": True,
    }  # fmt: skip


def test_from_cold_to_warm(host: Host) -> None:
    sent = []
    for _ in range(4):
        sent.append(host.take(1000))
        host.hours(24)
    assert sent == [100, 200, 300, 1000]
    assert host.cap() == (3, WARM_CAP)
    assert not host.row()["cold"]
    assert [(name, fields["act"], fields["to"], fields["cap"]) for name, fields in host.events] == [
        ("warmup_stage", "advanced", 2, 200),
        ("warmup_stage", "advanced", 3, 300),
        ("warmup_stage", "done", 4, None),
    ]


@pytest.mark.parametrize(("explained", "stage"), [(40, 2), (10, 1)])
def test_greylisting_does_not_hold_a_stage(host: Host, explained: int, stage: int) -> None:
    """Of 140 attempts 40 are deferred, 29 %: too many, unless it was greylisting."""
    host.count("deferred", "google", 40)
    host.count("greylisted", "google", explained)
    host.take(100)
    host.hours(24)
    assert host.row()["stage"] == stage


def test_workers_hear_of_changes_only(host: Host) -> None:
    version = host.governor.version
    host.take(100)
    host.hours(23)
    assert host.governor.version == version
    host.hours(1)
    assert host.governor.version > version


def test_a_restart_changes_nothing(host: Host) -> None:
    host.take(60)
    host.hours(10)
    host.start()
    assert host.cap() == (1, 100)
    assert host.take(1000) == 40
    host.start()
    host.hours(14)
    assert host.row()["stage"] == 2  # the deliveries of all three lives count
    assert host.take(1000) == 200


def test_a_crash_between_the_store_and_the_table_opens_the_day_again(host: Host, monkeypatch: Any) -> None:
    host.take(100)
    with monkeypatch.context() as patch:
        patch.setattr(warming.Warmup, "_open", lambda *rest: None)
        host.hours(24)
    assert host.take(10) == 0  # on disk, but not open
    host.start()
    assert host.cap() == (2, 200)
    assert host.take(1000) == 200
    host.start()
    assert host.take(10) == 0


def test_a_crash_before_the_store_leaves_the_day_to_the_next_start(host: Host) -> None:
    host.take(100)
    host.store.broken = True
    host.hours(25)
    assert host.take(10) == 0
    host.start()
    assert host.cap() == (1, 100)
    host.clock.advance(1)
    host.governor.tick()
    assert host.cap() == (2, 200)


def test_no_stage_moves_on_while_it_cannot_be_written(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    host.take(100)
    host.hours(1)
    host.store.broken = True
    host.hours(30)
    assert host.cap() == (1, 100)
    assert host.events == []
    assert "no stage moves on until it can" in caplog.text
    with pytest.raises(GovernorError, match="nothing was changed"):
        host.command("set", source="a", stage=3)
    assert host.cap() == (1, 100)
    host.store.broken = False
    host.hours(1)
    assert host.cap() == (2, 200)


def test_a_stop_holds_even_where_it_cannot_be_written(host: Host) -> None:
    host.store.broken = True
    host.take(50, outcome="failed")
    host.hours(1)
    assert host.cap() == (1, 0)
    host.store.broken = False
    host.hours(1)
    assert (host.row()["state"], host.cap()) == ("stopped", (1, 0))


def reserved_of(period: int, n: int) -> Callable[[], Reserved]:
    def read() -> Reserved:
        found = Reserved()
        found.add(b"cap:a:*", period, n)
        return found

    return read


def test_after_power_loss_what_was_reserved_is_used(host: Host) -> None:
    host.take(100)
    host.hours(24)
    host.take(150)
    host.clock.reboot(60)
    host.reserved = reserved_of(2, 152)
    host.start()
    assert host.cap() == (2, 200)
    assert host.take(1000) == 48


def test_what_was_reserved_of_an_earlier_day_does_not_count(host: Host) -> None:
    host.take(100)
    host.hours(24)
    (host.folder / "table").unlink()
    host.reserved = reserved_of(1, 100)
    host.start()
    assert host.take(1000) == 200


def test_a_spool_that_cannot_be_read_means_all_is_used(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    def unreadable() -> Reserved:
        found = Reserved()
        found.unreadable.append("spool/w0: no")
        return found

    host.clock.reboot(60)
    host.reserved = unreadable
    host.start()
    assert host.take(1000) == 0
    assert "all caps count as used: spool/w0: no" in caplog.text
    host.clock.advance(DAY)
    host.governor.tick()
    assert host.take(1000) == 100


def test_spools_are_not_asked_while_the_table_knows(host: Host) -> None:
    def never() -> Reserved:
        raise AssertionError("asked")

    host.reserved = never
    host.start()
    host.governor.reload(host.config())


def damage(host: Host, octets: bytes | None) -> None:
    assert host.opened is not None
    host.opened.write([(DATABASE, b"a\0*", octets)])


@pytest.mark.parametrize("octets", [None, b"", b"00000000 {}", b"\xff" * 9])
def test_without_its_state_a_source_keeps_its_last_cap(
    host: Host, octets: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    host.take(100)
    host.hours(24)
    host.take(50)
    damage(host, octets)
    host.start()
    assert host.cap() == (2, 200)
    assert host.take(1000) == 150
    assert "its state in the store `control` is missing or damaged. It goes on with its last cap, 200" in caplog.text
    host.hours(21)
    assert host.take(1000) == 0  # a whole day from now
    host.hours(3)
    assert host.take(1000) == 200
    host.hours(24)
    assert host.row()["stage"] == 3


def test_without_state_and_table_it_is_at_its_first_stage_with_what_a_spool_knows(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    host.take(100)
    host.hours(24)
    damage(host, b"x")
    (host.folder / "table").unlink()
    host.reserved = reserved_of(2, 70)
    host.start()
    assert host.cap() == (2, 100)
    assert host.take(1000) == 30
    assert "It goes on with its first stage" in caplog.text


def test_damage_in_a_spools_record_does_not_use_up_the_periods(host: Host) -> None:
    (host.folder / "table").unlink()
    host.reserved = reserved_of((1 << 20) - 1, EVERYTHING)
    host.start()
    assert host.cap() == (1, 100)
    assert host.take(10) == 0
    host.hours(24)
    assert host.take(10) == 10


def test_a_store_from_a_backup_opens_no_second_cap(host: Host) -> None:
    assert host.opened is not None
    old = host.opened.get(DATABASE, b"a\0*")
    host.take(100)
    host.hours(24)
    assert host.take(1000) == 200
    damage(host, old)
    host.start()
    assert host.cap() == (2, 100)
    assert host.take(1000) == 0


def test_counts_alone_are_written_once_a_minute(host: Host) -> None:
    host.governor.tick()
    before = host.store.writes
    for _ in range(150):
        host.count("delivered", "google", 1)
        host.clock.advance(1)
        host.governor.tick()
    assert 2 <= host.store.writes - before <= 3


def test_counts_of_before_the_warm_up_do_not_count(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.plan["stages"] = [10, 20]
    host.counts["delivered", "google", "a"] = 5000
    host.opened.close()  # type: ignore[union-attr]
    host.opened = None
    for file in (tmp_path / "control").iterdir():
        file.unlink()
    (tmp_path / "table").unlink()
    host.start()
    host.hours(24)
    assert host.row()["stage"] == 1


# --- schedules of some providers ---


OWN = {"google": {"stages": [10, 20]}}


def test_providers_with_a_schedule_of_their_own_count_apart(tmp_path: Path) -> None:
    host = Host(tmp_path, providers=OWN)
    assert host.take(1000, "google") == 10
    assert host.take(1000, provider="yahoo") == 100
    host.hours(24)
    assert (host.row("google")["stage"], host.row()["stage"]) == (2, 2)
    host.take(1000, "google", outcome="deferred")
    assert host.take(1000, provider="yahoo") == 200
    host.hours(24)
    assert (host.row("google")["stage"], host.row()["stage"]) == (1, 3)


def test_a_schedule_that_comes_later_begins_with_what_was_counted(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.take(80)
    host.hours(1)
    host.plan = {**host.plan, "providers": OWN}
    host.governor.reload(host.config())
    host.hours(23)
    assert host.row()["stage"] == 1
    assert host.row("google")["stage"] == 1
    host.plan = {name: value for name, value in host.plan.items() if name != "providers"}
    host.count("delivered", "google", 10_000)
    host.governor.reload(host.config())
    host.hours(24)
    assert host.row()["stage"] == 1


def test_complaints(host: Host) -> None:
    host.take(100)
    host.governor.report({"event": "complaint", "source": "a", "place": "google", "n": 5})
    host.governor.report({"event": "complaint", "source": "w", "place": "google"})
    host.hours(1)
    assert host.row()["state"] == "stopped"
    assert "complaints 5 %" in host.row()["why"]


def test_blocks(host: Host) -> None:
    host.take(60)
    host.take(40, outcome="deferred")
    host.count("blocked", "google", 35)
    host.hours(1)
    assert (host.row()["state"], host.cap()) == ("stopped", (1, 0))
    assert host.events == [
        (
            "warmup_held",
            {
                "source": "a", "key": "*", "act": "stopped", "from": 1, "to": 1, "stages": 3, "cap": 0,
                "why": "blocks 35 %, more than 30 %",
            },
        )
    ]  # fmt: skip


# --- reload ---


def test_a_changed_schedule_does_not_rise_in_the_open_day(host: Host) -> None:
    host.take(100)
    host.hours(24)
    host.plan["stages"] = [50, 150, 400]
    host.governor.reload(host.config())
    assert host.cap() == (2, 150)
    host.plan["stages"] = [1000, 2000]
    host.start()
    assert host.cap() == (2, 150)
    host.hours(24)
    assert host.cap() == (3, 1000)


def test_the_same_configuration_changes_nothing(host: Host) -> None:
    host.take(30)
    host.governor.reload(host.config())
    assert host.cap() == (1, 100)
    assert host.take(1000) == 70


# --- spread ---


def spread_of(host: Host) -> tuple[float, int]:
    """(seconds between units, burst)."""
    emission_ns, burst = host.table.rate_of(host.table.cell(b"spread:a:*"))
    return emission_ns / 1e9, burst


def test_a_cap_is_spread(tmp_path: Path) -> None:
    host = Host(tmp_path, spread=8 * HOUR)
    seconds, burst = spread_of(host)
    assert seconds == pytest.approx(8 * HOUR / 100, rel=0.03)
    assert burst == 2


def test_at_once(host: Host) -> None:
    assert spread_of(host) == (1e-9, 1_000_000_000)


@pytest.mark.parametrize(("spread", "begins"), [(8, 0), (24, 0), (8, 12), (8, 20), (24, 18), (1, 23)])
def test_under_backlog_the_whole_cap_is_sent(tmp_path: Path, spread: int, begins: int) -> None:
    """Also where the mail comes late in the day; never more than the cap."""
    host = Host(tmp_path, stages=[1000, 1100], spread=spread * HOUR)
    cell = host.table.cell(b"spread:a:*")
    sent = 0
    host.hours(begins)
    while host.clock.wall() < MIDNIGHT + DAY - 120:
        got = host.table.take_recorded(cell, host.clock.boottime_ns(), 1, unset_denies=True)
        if got > 0 and host.table.cap_claim(host.cell(), 1)[0]:
            sent += 1
        host.clock.advance(min(60.0, max(-got / 1e9, 0.001)))
        host.governor.tick()
    assert 980 <= sent <= 1000


def test_a_warm_source_is_not_spread(tmp_path: Path) -> None:
    host = Host(tmp_path, spread=8 * HOUR)
    host.command("set", source="a", stage="done")
    assert spread_of(host) == (1e-9, 1_000_000_000)
    host.command("set", source="a", stage=2)
    assert spread_of(host)[0] == pytest.approx(8 * HOUR / 200, rel=0.03)


def test_hours_are_spread_within_the_hour(tmp_path: Path) -> None:
    host = Host(tmp_path, spread=8 * HOUR, per="hour", stages=[60, 70])
    assert spread_of(host)[0] == pytest.approx(0.88 * 60, rel=0.03)
    assert host.take(1000) == 60
    host.hours(1)
    assert host.take(1000) == 60


# --- commands ---


def test_set_hold_and_resume_last(host: Host) -> None:
    assert host.command("set", source="a", stage=3)[0]["cap"] == 300
    assert host.cap() == (1, 300)
    host.command("hold", source="a", why="holiday")
    host.start()
    row = host.command("status")[0]
    assert (row["state"], row["why"], row["by_operator"], row["cap"]) == ("held", "holiday", True, 300)
    host.take(300)
    host.hours(24)
    assert host.row()["stage"] == 3
    host.command("resume", source="a")
    host.start()
    assert host.row()["state"] == "running"
    assert [fields["act"] for _, fields in host.events] == ["set", "held", "resumed"]


def test_set_back_from_warm(host: Host) -> None:
    host.command("set", source="a", stage="done")
    assert host.take(10_000) == 10_000
    host.hours(50)
    host.command("set", source="a", stage=1)
    assert host.cap() == (2, 100)
    assert host.take(10_000) == 100


def test_lower_than_what_is_used(host: Host) -> None:
    host.command("set", source="a", stage=3)
    host.take(250)
    host.command("set", source="a", stage=1)
    assert host.take(100) == 0


def test_plan(host: Host) -> None:
    (row,) = host.command("plan")
    assert [(stage["stage"], stage["cap"]) for stage in row["ahead"]] == [(1, 100), (2, 200), (3, 300)]
    assert [row["ahead"][0]["date"], row["warm_on"]] == ["2027-01-15", "2027-01-18"]


def test_commands_for_all_schedules_of_a_source(tmp_path: Path) -> None:
    host = Host(tmp_path, providers=OWN)
    host.command("hold", source="a", provider="google")
    host.command("hold", source="a", why="both")
    assert [row["why"] for row in host.command("status")] == ["both", "both"]
    assert len(host.command("resume", source="a", provider="*")) == 1
    assert len(host.command("resume", source="a")) == 1
    with pytest.raises(GovernorError, match="has 2 stages; to end it, set done"):
        host.command("set", source="a", stage=3)
    assert [row["stage"] for row in host.command("status")] == [1, 1]


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("status", {"source": "w"}, "source w has no warm-up; these have: a"),
        ("status", {"source": "a", "provider": "google"}, "a has no schedule of its own for google; it has: \\*"),
        ("status", {"provider": "google"}, "no source has a schedule of its own for google"),
        ("status", {"sourec": "a"}, "has no argument 'sourec'"),
        ("set", {"source": "a"}, "a stage is a number from 1 to 3, or done"),
        ("set", {"source": "a", "stage": True}, "a stage is a number"),
        ("set", {"source": "a", "stage": 0}, "there is no stage 0"),
        ("set", {"source": "a", "stage": -5}, "there is no stage -5"),
        ("set", {"source": "a", "stage": 99}, "has 3 stages"),
        ("set", {"stage": 1}, "wants a source"),
        ("hold", {"source": 5}, "source is a text"),
        ("resume", {"source": "a"}, "it is running, not held"),
    ],
)
def test_refused(host: Host, name: str, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(GovernorError, match=words):
        host.command(name, **arguments)
    assert host.cap() == (1, 100)


def test_a_relay_without_warm_up(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.governor.reload(from_builtins({"hostname": "r.test", "state_dir": str(tmp_path)}))
    host.hours(1)
    assert host.command("status") == []
    with pytest.raises(GovernorError, match="source a has no warm-up; none has"):
        host.command("status", source="a")


def test_a_failing_part_does_not_stop_the_others(host: Host, monkeypatch: Any, caplog: Any) -> None:
    def fail() -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(host.governor.backoffs, "tick", fail)
    host.take(100)
    host.hours(24)
    assert host.row()["stage"] == 2
    assert "a part of the governor failed" in caplog.text


def test_counts_of_metrics_files(tmp_path: Path) -> None:
    slabs = [Slab(tmp_path / f"slab.{number}", create=True) for number in range(2)]
    for slab in slabs:
        slab.inc(names.OUTCOMES_TOTAL.entry(slab, outcome="delivered", provider="google", source="a"), 7)
        slab.inc(names.BLOCKS.entry(slab, provider="google", source="a"), 2)
        slab.inc(names.GREYLISTED.entry(slab, provider="google", source="a"), 3)
        slab.inc(names.ACCEPTED_MESSAGES.entry(slab), 9)
        slab.observe(names.CONNECT_SECONDS.entry(slab), 0.1)
    assert slab_counts(slabs) == {
        ("delivered", "google", "a"): 14,
        ("blocked", "google", "a"): 4,
        ("greylisted", "google", "a"): 6,
    }
