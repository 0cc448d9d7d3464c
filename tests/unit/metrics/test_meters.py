"""What a worker sets every second: gauges by label, and those that have no value any more."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fastrelay._core.slab import Slab
from fastrelay.deliver import handshake
from fastrelay.metrics import names
from fastrelay.metrics.meters import Meters
from fastrelay.tls import client, server
from fastrelay.tls.policy import OPPORTUNISTIC


class Worker:
    """As much of an App as the meters look at. `waiting`: [(provider, reason, recipients)] at its sites."""

    def __init__(self, folder: Path) -> None:
        self.state_dir = str(folder)
        self.waiting: list[tuple[str, str, int]] = []
        self.sessions: list[Any] = []
        self.log_failures = 0
        spool = SimpleNamespace(
            unhealthy="", settle_blocked=False, accepting=True, figures=lambda: {"log_failures": self.log_failures}
        )
        self.own_spool = spool
        self.engine = SimpleNamespace(spools=[spool], hot_bytes=5)
        self.index = SimpleNamespace(oldest_accepted_ms=lambda: 4000, memory_bytes=lambda: 640)
        self.board = SimpleNamespace(
            quarantined_messages=0, by_reason=lambda now: {"ready": 3}, site_reason=lambda site, now: site.reason
        )
        self.listener = SimpleNamespace(load=2)

    @property
    def sites(self) -> dict[int, Any]:
        rows = enumerate(self.waiting)
        return {
            at: SimpleNamespace(provider=provider, reason=reason, ready=lambda n=n: n, tls=OPPORTUNISTIC)
            for at, (provider, reason, n) in rows
        }

    def look(self) -> "Worker":
        self.board.sites = self.sites
        return self

    def spool_usage(self) -> dict[str, int]:
        return {"bytes": 1, "live_bytes": 1, "segments": 1}

    def drain_dns(self) -> list[Any]:
        return []

    def drain_commits(self) -> tuple[int, list[Any]]:
        return 0, []


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return Worker(tmp_path)


@pytest.fixture
def meters(tmp_path: Path) -> Meters:
    return Meters(Slab(tmp_path / "slab.0", create=True))


def value(meters: Meters, metric: names.Metric, **labels: str) -> float:
    return meters.slab.value(metric.entry(meters.slab, **labels))


def refresh(meters: Meters, worker: Worker, now: float) -> None:
    """Five seconds, so that what is looked at now and then is looked at."""
    for second in range(5):
        meters.refresh(worker.look(), now + second)  # type: ignore[arg-type]


def test_counters_that_alerts_watch_are_there_with_0(meters: Meters) -> None:
    there = {(name, labels) for _, name, labels, _ in meters.slab.entries()}
    assert ("fastrelay_errors_total", (("where", "spool"),)) in there
    assert ("fastrelay_smtp_refused_total", (("class", "disk_full"),)) in there
    assert ("fastrelay_dns_queries_total", (("result", "timeout"),)) in there
    assert ("fastrelay_smtp_tls_handshakes_total", (("result", "protocol"), ("version", "none"))) in there
    resumed = (("result", "ok"), ("version", "TLSv1.3"), ("resumed", "yes"))
    assert any(name == "fastrelay_tls_handshakes_total" and set(labels) == set(resumed) for name, labels in there)


def test_what_is_counted_from_the_start_is_what_is_counted_later(meters: Meters) -> None:
    """Words that differ between names.py and those who count would leave a series at 0 for ever."""
    assert {"ok", *names.SMTP_TLS_FAILURES} == set(server.RESULTS)
    assert {handshake.STARTTLS_MISSING, client.FAILURE} < set(names.TLS_FAILURES)
    before = len(meters.slab)
    meters.count(names.SMTP_TLS_HANDSHAKES, result="lost", version="none")
    meters.count(names.TLS_HANDSHAKES, result=client.FAILURE, version="none", resumed="no")
    assert len(meters.slab) == before


def test_waiting_is_summed_over_the_sites_of_a_provider(meters: Meters, worker: Worker) -> None:
    worker.waiting = [
        ("google", "rate_limit", 3),
        ("google", "rate_limit", 4),
        ("google", "ready", 1),
        ("yahoo", "ready", 0),
    ]
    refresh(meters, worker, 10.0)
    assert value(meters, names.WAITING_RECIPIENTS, provider="google", reason="rate_limit") == 7
    assert value(meters, names.WAITING_RECIPIENTS, provider="google", reason="ready") == 1
    assert value(meters, names.WAITING_RECIPIENTS, provider="yahoo", reason="ready") == 0
    assert value(meters, names.SITES) == 4


def test_what_waits_no_longer_is_0(meters: Meters, worker: Worker) -> None:
    worker.waiting = [("google", "rate_limit", 3)]
    refresh(meters, worker, 10.0)
    worker.waiting = [("google", "warmup_cap", 2)]
    refresh(meters, worker, 15.0)
    assert value(meters, names.WAITING_RECIPIENTS, provider="google", reason="rate_limit") == 0
    assert value(meters, names.WAITING_RECIPIENTS, provider="google", reason="warmup_cap") == 2


def test_the_spools_health(meters: Meters, worker: Worker) -> None:
    refresh(meters, worker, 10.0)
    assert value(meters, names.SPOOL_UNHEALTHY) == 0
    assert value(meters, names.SPOOL_REFUSING) == 0
    worker.own_spool.settle_blocked, worker.own_spool.accepting = True, False
    refresh(meters, worker, 15.0)
    assert value(meters, names.SPOOL_UNHEALTHY) == 1
    assert value(meters, names.SPOOL_REFUSING) == 1
    assert value(meters, names.DISK_SIZE_BYTES) >= value(meters, names.DISK_FREE_BYTES) > 0


def test_how_late_the_loop_is(meters: Meters, worker: Worker) -> None:
    meters.refresh(worker.look(), 10.0)  # type: ignore[arg-type]
    meters.refresh(worker.look(), 11.0)  # type: ignore[arg-type]
    assert value(meters, names.LOOP_LAG_SECONDS) == 0
    meters.refresh(worker.look(), 14.5)  # type: ignore[arg-type]
    assert value(meters, names.LOOP_LAG_SECONDS) == 2.5


def test_failed_writes_of_the_event_log_are_counted_once(meters: Meters, worker: Worker) -> None:
    worker.log_failures = 2
    refresh(meters, worker, 10.0)
    worker.log_failures = 3
    refresh(meters, worker, 15.0)
    assert value(meters, names.EVENT_LOG_FAILURES) == 3


def test_connections_by_what_they_do(meters: Meters, worker: Worker) -> None:
    def session(idle: bool, ready: bool) -> Any:
        return SimpleNamespace(site=SimpleNamespace(provider="google"), source_name="a", idle=idle, ready=ready)

    worker.sessions = [session(True, True), session(False, True), session(False, False)]
    refresh(meters, worker, 10.0)
    for state in ("idle", "busy", "connecting"):
        assert value(meters, names.DELIVERY_CONNECTIONS, provider="google", source="a", state=state) == 1
    worker.sessions = []
    refresh(meters, worker, 15.0)
    assert value(meters, names.DELIVERY_CONNECTIONS, provider="google", source="a", state="idle") == 0
