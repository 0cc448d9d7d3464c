"""Counting TLS sessions: in a worker's bounded memory, and by day in the supervisor's store."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fastrelay._core.lmdb import Environment, LmdbError
from fastrelay.clock import SimulatedClock
from fastrelay.tls import reports
from fastrelay.tls.policy import OPPORTUNISTIC, HostPlan, intern
from fastrelay.tls.reports import DayCounts, Row, SessionCounts

MIDNIGHT = 1_800_057_600.0  # 2027-01-16 00:00 UTC
TARGET = SimpleNamespace(host="mx1.example", address="192.0.2.1")
STS = HostPlan("starttls", policy_type="sts")
TLSA = HostPlan("starttls", policy_type="tlsa", policy_text=("3 1 1 ab",))


class FakeApp:
    """What a worker's counts need."""

    def __init__(self) -> None:
        self.clock = SimulatedClock()
        self.told: list[dict[str, Any]] = []
        self.report = self.told.append
        self.index = SimpleNamespace(domains={})


def worker() -> tuple[FakeApp, SessionCounts]:
    app = FakeApp()
    return app, SessionCounts(app)  # type: ignore[arg-type]


def store(folder: Path) -> Environment:
    return Environment(str(folder / "control"), reports.DATABASES, map_bytes=64 * 2**20)


def test_sessions_are_told_together_every_few_seconds() -> None:
    app, counts = worker()
    for _ in range(3):
        counts.session(OPPORTUNISTIC, ["a.test"], TARGET, "198.51.100.1", None, plan=STS)
    counts.session(OPPORTUNISTIC, ["a.test", "b.test"], TARGET, "198.51.100.1", "certificate-expired", "old", STS)
    counts.tick(app.clock.monotonic())
    assert app.told == []
    counts.tick(app.clock.monotonic() + reports.FLUSH_SECONDS)
    [message] = app.told
    assert message["event"] == reports.EVENT
    assert message["lost"] == 0
    assert message["rows"] == [
        [["a.test"], "sts", (), None, "", "", "", "", 3],
        [["a.test", "b.test"], "sts", (), "certificate-expired", "mx1.example", "192.0.2.1", "198.51.100.1", "old", 1],
    ]
    counts.tick(app.clock.monotonic() + 100)
    assert len(app.told) == 1  # nothing new


def test_mail_that_waives_the_policy_and_sites_without_tls_are_not_counted() -> None:
    app, counts = worker()
    counts.session(intern(optional=True), ["a.test"], TARGET, "", "starttls-not-supported")
    counts.session(intern("none"), ["a.test"], TARGET, "", None)
    counts.tell()
    assert app.told == []


def test_the_policy_says_its_kind_where_there_is_no_plan() -> None:
    app, counts = worker()
    counts.session(intern(sts_mode="enforce", mx=("mx",)), ["a.test"], None, "", "sts-policy-invalid", "x" * 999)
    counts.session(None, ["a.test"], TARGET, "", "an unknown word")
    counts.tell()
    first, second = app.told[0]["rows"]
    assert first[1:7] == ["sts", (), "sts-policy-invalid", "", "", ""]
    assert len(first[7]) == reports.DETAIL_OCTETS
    assert second[1:4] == ["no-policy-found", (), "validation-failure"]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "ROWS_TOLD", 2)
    app, counts = worker()
    for name in ("a", "b", "c", "a", "d"):
        counts.session(OPPORTUNISTIC, [name], TARGET, "", None)
    counts.tell()
    assert [(row[0], row[-1]) for row in app.told[0]["rows"]] == [(["a"], 2), (["b"], 1)]
    assert app.told[0]["lost"] == 2


def test_a_queue_stands_for_the_domains_it_serves_those_with_mail_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "DOMAINS_EACH", 3)
    app, counts = worker()
    queue, other = object(), object()
    now = app.clock.monotonic()

    def domain(name: bytes, site: object, queued: int, expires: float) -> SimpleNamespace:
        return SimpleNamespace(name=name, site=site, queued=queued, route_expires=expires)

    app.index.domains = {
        n: domain(name, site, queued, expires)
        for n, (name, site, queued, expires) in enumerate(
            [
                (b"idle.test", queue, 0, now + 9),
                (b"gone.test", queue, 0, now - 9),
                (b"busy.test", queue, 2, now - 9),
                (b"busy.test", queue, 1, now),  # of another pool
                (b"elsewhere.test", other, 1, now + 9),
                (b"nowhere.test", None, 1, now),
                (b"late.test", queue, 1, now),
                (b"idle2.test", queue, 0, now + 9),
            ]
        )
    }
    counts.session(OPPORTUNISTIC, queue, TARGET, "", None)
    counts.tell()
    assert app.told[0]["rows"][0][0] == ["busy.test", "late.test", "idle.test"]


def row(*parts: Any) -> dict[str, Any]:
    return {"event": reports.EVENT, "rows": [list(parts)], "lost": 0}


SUCCESS = (["a.test"], "sts", [], None, "", "", "", "", 5)
FAILURE = (["a.test"], "sts", [], "certificate-expired", "mx", "192.0.2.1", "198.51.100.1", "old", 2)


def test_counts_add_up_on_disk_and_over_a_restart(tmp_path: Path) -> None:
    clock = SimulatedClock(MIDNIGHT + 100)
    environment = store(tmp_path)
    counts = DayCounts(environment, clock)
    counts.report(row(*SUCCESS))
    counts.report(row(*FAILURE))
    counts.tick(clock.monotonic())
    assert list(counts.rows("20270116")) == []  # not yet
    clock.advance(reports.WRITE_SECONDS)
    counts.tick(clock.monotonic())
    counts.report(row(*FAILURE))
    assert counts.write() == 0
    environment.close()
    environment = store(tmp_path)
    counts = DayCounts(environment, clock)
    counts.report(row(*SUCCESS))
    counts.write()
    [(domain, found)] = counts.rows("20270116")
    assert domain == "a.test"
    assert (found.success, found.failure) == (10, 4)
    assert found.failures == [["certificate-expired", "mx", "192.0.2.1", "198.51.100.1", "old", 4]]
    assert counts.days() == ["20270116"]
    environment.close()


def test_each_day_and_policy_is_a_row_of_its_own(tmp_path: Path) -> None:
    clock = SimulatedClock(MIDNIGHT - 1)
    environment = store(tmp_path)
    counts = DayCounts(environment, clock)
    counts.report(row(*SUCCESS))
    clock.advance(1)
    counts.report(row(["a.test", "b.test"], "tlsa", ["3 1 1 ab"], None, "", "", "", "", 1))
    counts.report(row(["a.test"], "tlsa", ["3 1 1 cd"], None, "", "", "", "", 1))
    counts.report(row(["a.test.b"], "tlsa", ["3 1 1 cd"], None, "", "", "", "", 1))
    counts.write()
    assert counts.days() == ["20270115", "20270116"]
    assert [domain for domain, _ in counts.rows("20270116")] == ["a.test", "a.test", "a.test.b", "b.test"]
    assert [found.text for _, found in counts.rows("20270116", "b.test")] == [["3 1 1 ab"]]
    environment.close()


def test_the_store_and_its_rows_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "DIRTY_ROWS", 3)
    monkeypatch.setattr(reports, "ROWS_OF_DAY", 2)
    monkeypatch.setattr(reports, "FAILURES_OF_ROW", 2)
    environment = store(tmp_path)
    counts = DayCounts(environment, SimulatedClock(MIDNIGHT))
    for name in ("a", "b", "c", "d"):
        counts.report(row([name], *SUCCESS[1:]))
    assert counts.lost == 5
    counts.write()
    assert counts.lost == 10
    assert [domain for domain, _ in counts.rows("20270116")] == ["a", "b"]
    for host in ("x", "y", "z", "x"):
        counts.report(row(["a"], "sts", [], "certificate-expired", host, "", "", "", 1))
    counts.write()
    [(_, found)] = counts.rows("20270116", "a")
    assert found.failure == 4
    assert [(one[1], one[5]) for one in found.failures] == [("x", 2), ("y", 1)]
    environment.close()


class FailingStore:
    """A store that can't be written for a while."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self.broken = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._environment, name)

    def write(self, changes: Any) -> None:
        if self.broken:
            raise LmdbError("commit", 28, "control")
        self._environment.write(changes)


def test_a_disk_that_refuses_loses_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    environment = store(tmp_path)
    failing: Any = FailingStore(environment)
    counts = DayCounts(failing, SimulatedClock(MIDNIGHT))
    counts.report(row(*SUCCESS))
    assert counts.write() == 1
    assert counts.write() == 1
    assert len(caplog.records) == 1  # said once
    counts.report(row(*SUCCESS))
    failing.broken = False
    assert counts.write() == 0
    assert [found.success for _, found in counts.rows("20270116")] == [10]
    environment.close()


def test_rows_are_read_in_slices(tmp_path: Path) -> None:
    environment = store(tmp_path)
    counts = DayCounts(environment, SimulatedClock(MIDNIGHT))
    names = [f"d{n:04}.test" for n in range(2500)]
    for name in names:
        counts.add(name, Row("sts", [], 1))
    counts.write()
    assert [domain for domain, _ in counts.rows("20270116")] == names
    environment.close()
