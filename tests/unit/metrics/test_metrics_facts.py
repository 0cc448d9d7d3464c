"""What the supervisor tells the metrics of its configuration, its processes and the governor."""

import os
from types import SimpleNamespace

import pytest

from fastrelay.config.schema import Config, Limits, Spool
from fastrelay.metrics import facts as made
from fastrelay.metrics import names
from fastrelay.metrics.collector import Facts

WARM = {
    "source": "new",
    "key": "google",
    "stage": 3,
    "stages": 28,
    "cap": 1000,
    "used": 400,
    "held": False,
    "days_left": 25,
}


def test_bounds_of_the_configuration() -> None:
    facts = Facts()
    made.add_config(facts, Config("mta.test", limits=Limits(queued_recipients=77), spool=Spool(reserve_bytes=99)))
    assert facts.values == {
        (names.QUEUE_LIMIT.name, ()): 77,
        (names.SPOOL_RESERVE_BYTES.name, ()): 99,
        (names.COMPLAINT_WARN.name, ()): 0.001,
        (names.COMPLAINT_LIMIT.name, ()): 0.003,
    }


def test_processor_time_of_a_process() -> None:
    mine = made.cpu_seconds(os.getpid())
    assert 0 < mine <= sum(os.times()[:2]) + 1
    assert made.cpu_seconds(None) == 0
    assert made.cpu_seconds(2**22 + 1) == 0  # beyond the largest pid there can be


def test_warm_up() -> None:
    facts = Facts()
    made.add_governor(facts, {"warmup": [WARM, {**WARM, "source": "newer", "held": True}]})
    labels = ("new", "google")
    found = {name: n for (name, key), n in facts.values.items() if key == labels}
    assert found == {
        "fastrelay_warmup_cap": 1000, "fastrelay_warmup_used": 400, "fastrelay_warmup_stage": 3,
        "fastrelay_warmup_stages": 28, "fastrelay_warmup_to_go": 25, "fastrelay_warmup_held": 0,
    }  # fmt: skip
    assert facts.values["fastrelay_warmup_held", ("newer", "google")] == 1


def test_back_offs_count_by_source_and_provider() -> None:
    """Sites of unknown hosts are `other` together."""
    places = ["yahoo", "mx.a.example", "mx.b.example:26"]
    facts = Facts()
    backoffs = [{"source": "a", "place": place} for place in places]
    made.add_governor(facts, {"backoffs": [*backoffs, {"source": "a", "place": "yahoo", "connections": 1}]})
    assert facts.values == {
        ("fastrelay_backoff_active", ("a", "yahoo")): 1,
        ("fastrelay_backoff_active", ("a", "other")): 2,
        ("fastrelay_backoff_cut", ("a", "yahoo")): 1,
    }


def test_the_slowest_of_several_rates_counts_and_is_per_second() -> None:
    rates = [("yahoo", 7200.0), ("mx.a.example", 36.0), ("mx.b.example", 3600.0), ("apple", None)]
    facts = Facts()
    made.add_governor(
        facts, {"adaptive": [{"source": "a", "place": place, "rate_per_hour": rate} for place, rate in rates]}
    )
    assert facts.values == {
        ("fastrelay_adaptive_rate", ("a", "yahoo")): 2.0,
        ("fastrelay_adaptive_rate", ("a", "other")): pytest.approx(0.01),
    }


def test_a_supervisor_without_a_governor() -> None:
    relay = SimpleNamespace(config=Config("mta.test"), slots=[SimpleNamespace(number=0, pid=os.getpid())])
    facts = Facts()
    made.add_relay(facts, relay)
    assert {name for name, _ in facts.values} == {
        "fastrelay_queue_limit_recipients", "fastrelay_spool_reserve_bytes", "fastrelay_worker_cpu_seconds_total",
        "fastrelay_complaint_warn_share", "fastrelay_complaint_limit_share",
    }  # fmt: skip


def test_a_supervisor_with_one() -> None:
    governor = SimpleNamespace(state=lambda: {"warmup": [WARM]})
    facts = Facts()
    made.add_relay(facts, SimpleNamespace(config=Config("mta.test"), slots=[], governor=governor))
    assert facts.values["fastrelay_warmup_stages", ("new", "google")] == 28


def test_tls_reports_are_counted_from_0() -> None:
    reports = SimpleNamespace(results={"sent": 3}, waiting=2)
    facts = Facts()
    made.add_relay(facts, SimpleNamespace(config=Config("mta.test"), slots=[], tls_reports=reports))
    found = {key: n for key, n in facts.values.items() if key[0].startswith("fastrelay_tls_reports")}
    assert found == {
        ("fastrelay_tls_reports_total", ("sent",)): 3,
        ("fastrelay_tls_reports_total", ("none",)): 0,
        ("fastrelay_tls_reports_total", ("failed",)): 0,
        ("fastrelay_tls_reports_waiting", ()): 2,
    }


def test_complaint_rates_as_they_were_told() -> None:
    rows = [["all", "", 2000, 3, 0.0015], ["campaign", "autumn", 10, 1, None]]
    facts = Facts()
    relay = SimpleNamespace(config=Config("mta.test"), slots=[], feedback=SimpleNamespace(complaint_rates=rows))
    made.add_relay(facts, relay)
    found = {key: n for key, n in facts.values.items() if key[0].startswith("fastrelay_complaint")}
    assert found == {
        ("fastrelay_complaint_warn_share", ()): 0.001,
        ("fastrelay_complaint_limit_share", ()): 0.003,
        ("fastrelay_complaint_window_delivered", ("all", "all")): 2000,
        ("fastrelay_complaint_window_complaints", ("all", "all")): 3,
        ("fastrelay_complaint_share", ("all", "all")): 0.0015,
        ("fastrelay_complaint_window_delivered", ("campaign", "autumn")): 10,
        ("fastrelay_complaint_window_complaints", ("campaign", "autumn")): 1,
    }
