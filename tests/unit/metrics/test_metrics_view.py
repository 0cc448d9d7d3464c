"""Two readings made into rates, shares and rows."""

import pytest

from fastrelay.metrics import names
from fastrelay.metrics.names import Metric
from fastrelay.metrics.view import WANTED, Reading, Traffic, View, view

Values = dict[Metric, dict[tuple[str, ...], float]]


def reading(now: float, values: Values) -> Reading:
    """As the control command gives it: lists, not tuples."""
    return Reading(
        now, {metric.name: [[list(labels), n] for labels, n in rows.items()] for metric, rows in values.items()}
    )


def seen(before: Values, after: Values, seconds: float = 2.0) -> View:
    return view(reading(100.0, before), reading(100.0 + seconds, after))


def outcomes(*rows: tuple[str, str, str, float]) -> Values:
    return {names.OUTCOMES_TOTAL: {(outcome, provider, source): n for outcome, provider, source, n in rows}}


def test_nothing_at_all() -> None:
    found = seen({}, {})
    assert (found.accepted, found.outcomes, found.queued, found.drain_seconds) == (0, {}, 0, None)
    assert (found.providers, found.sources, found.warmup, found.backoffs, found.workers) == ([], [], [], [], [])
    assert (found.delivered, found.deferred_share, found.failed_share) == (0, 0, 0)


def test_rates_are_per_second_between_the_readings() -> None:
    found = seen({names.ACCEPTED_RECIPIENTS: {(): 100}}, {names.ACCEPTED_RECIPIENTS: {(): 150}}, seconds=5)
    assert found.accepted == 10


def test_a_series_that_was_not_there_counts_from_nothing() -> None:
    assert seen({}, outcomes(("delivered", "google", "a", 6)), seconds=3).delivered == 2


def test_a_counter_that_went_back_counts_from_nothing() -> None:
    before, after = outcomes(("delivered", "google", "a", 1000)), outcomes(("delivered", "google", "a", 8))
    assert seen(before, after).delivered == 4


def test_two_readings_at_one_moment_are_no_division_by_zero() -> None:
    assert seen({}, outcomes(("delivered", "google", "a", 1)), seconds=0).delivered == pytest.approx(1000)


def test_shares_are_of_attempts() -> None:
    found = seen(
        {},
        outcomes(
            ("delivered", "google", "a", 6),
            ("deferred", "google", "a", 3),
            ("failed", "yahoo", "b", 1),
            ("expired", "google", "none", 90),
        ),
    )
    assert found.deferred_share == pytest.approx(0.3)
    assert found.failed_share == pytest.approx(0.1)


def test_a_queue_is_empty_when_what_leaves_it_has_left() -> None:
    after = {
        names.QUEUE_RECIPIENTS: {("ready",): 30.0, ("dns",): 70.0, ("suspended",): 0.0},
        **outcomes(("delivered", "google", "a", 8), ("expired", "google", "none", 2), ("deferred", "google", "a", 50)),
    }
    found = seen({}, after)
    assert found.queued == 100
    assert found.drain_seconds == pytest.approx(20)  # 5 a second leave; a deferral leaves nothing
    assert list(found.reasons.items()) == [("dns", 70), ("ready", 30)]  # the most first, nothing left out but nothing


def test_providers_and_sources_are_two_views_of_the_same_attempts() -> None:
    after = {
        **outcomes(
            ("delivered", "google", "a", 10),
            ("delivered", "google", "b", 4),
            ("deferred", "yahoo", "a", 2),
            ("expired", "google", "none", 50),
        ),
        names.BLOCKS: {("yahoo", "a"): 2.0},
        names.DELIVERY_CONNECTIONS: {("google", "a", "busy"): 3.0, ("google", "a", "idle"): 1.0},
        names.WAITING_RECIPIENTS: {
            ("orange", "rate_limit"): 7.0,
            ("google", "ready"): 5.0,
            ("google", "rate_limit"): 6.0,
        },
    }
    found = seen({}, after)
    assert [row.name for row in found.providers] == ["google", "orange", "yahoo"]  # busy, or much waits
    google, orange, yahoo = found.providers
    assert (google.delivered, google.connections, google.waits, google.reason) == (7, 4, 11, "rate_limit")
    assert (yahoo.deferred_share, yahoo.blocks, yahoo.reason) == (1, 1, "")
    assert orange == Traffic("orange", waiting={"rate_limit": 7})
    assert [(row.name, row.delivered, row.deferred, row.connections) for row in found.sources] == [
        ("a", 5, 1, 4),
        ("b", 2, 0, 0),
    ]


def test_warm_ups_that_are_held_come_first_then_the_fullest() -> None:
    cells = {
        ("new", "*"): (100.0, 90.0, 0.0),
        ("new", "google"): (10.0, 1.0, 0.0),
        ("newer", "*"): (5.0, 0.0, 1.0),
        ("done", "*"): (0.0, 0.0, 0.0),
    }
    after: Values = {
        names.WARMUP_CAP: {labels: cap for labels, (cap, _, _) in cells.items()},
        names.WARMUP_USED: {labels: used for labels, (_, used, _) in cells.items()},
        names.WARMUP_HELD: {labels: held for labels, (_, _, held) in cells.items()},
        names.WARMUP_STAGE: {("new", "*"): 3.0},
        names.WARMUP_STAGES: {("new", "*"): 28.0},
        names.WARMUP_TO_GO: {("new", "*"): 25.0},
    }
    rows = seen({}, after).warmup
    assert [(row.source, row.key, row.held) for row in rows] == [
        ("newer", "*", True),
        ("new", "*", False),
        ("new", "google", False),
    ]
    assert (rows[1].cap, rows[1].used, rows[1].stage, rows[1].stages, rows[1].days_left) == (100, 90, 3, 28, 25)


def test_back_offs_and_learnt_rates_are_one_list() -> None:
    after: Values = {
        names.BACKOFF_ACTIVE: {("b", "yahoo"): 1.0, ("c", "yahoo"): 0.0},
        names.BACKOFF_CUT: {("a", "outlook"): 2.0},
        names.ADAPTIVE_RATE: {("a", "google"): 0.5, ("b", "yahoo"): 0.1},
    }
    rows = [(row.source, row.provider, row.active, row.cut, row.rate) for row in seen({}, after).backoffs]
    assert rows == [("b", "yahoo", 1, 0, 0.1), ("a", "google", 0, 0, 0.5), ("a", "outlook", 0, 2, None)]


def test_workers_in_the_order_of_their_numbers() -> None:
    after: Values = {
        names.WORKER_UP: {("10",): 1.0, ("2",): 0.0},
        names.WORKER_CPU_SECONDS: {("2",): 0.0, ("10",): 1.0},
        names.WORKER_RSS_BYTES: {("10",): 4096.0},
        names.WORKER_RESTARTS: {("2",): 3.0},
    }
    rows = [(row.slot, row.up, row.cpu, row.rss_bytes, row.restarts) for row in seen({}, after).workers]
    assert rows == [("2", False, 0, 0, 3), ("10", True, 0.5, 4096, 0)]


def test_only_counters_and_gauges_are_asked_for() -> None:
    assert [metric.name for metric in WANTED if metric.kind == "histogram"] == []
