"""The collector: slabs summed up, what a dead worker leaves, the text as Prometheus reads it."""

import asyncio
import json
import re
import subprocess
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.peers import require

from fastrelay._core.slab import CAPACITY, TEXT_BYTES, Slab
from fastrelay.metrics import names
from fastrelay.metrics.collector import Facts, SlabCollector, registry, render

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Slots:
    """Two slots; which of them live."""

    def __init__(self, folder: Path) -> None:
        self.slabs = [Slab(folder / f"slab.{slot}", create=True) for slot in range(2)]
        self.alive = [True, True]
        self.facts = Facts()
        self.collector = SlabCollector(lambda: zip(self.slabs, self.alive, strict=True), lambda: self.facts)
        self.registry = registry(self.collector)

    def text(self) -> str:
        return render(self.registry).decode()

    def series(self) -> Series:
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(self.text())
            for sample in family.samples
        }


@pytest.fixture
def slots(tmp_path: Path) -> Slots:
    return Slots(tmp_path)


def test_counters_and_gauges_are_summed(slots: Slots) -> None:
    for slab, n in zip(slots.slabs, (3, 4), strict=True):
        slab.inc(names.ACCEPTED_MESSAGES.entry(slab), n)
        slab.inc(names.OUTCOMES_TOTAL.entry(slab, outcome="delivered", provider="google", source="a"), n)
        slab.set(names.QUEUE_RECIPIENTS.entry(slab, reason="dns"), n)
        slab.set(names.QUEUE_OLDEST_SECONDS.entry(slab), n)
    slots.slabs[1].inc(names.OUTCOMES_TOTAL.entry(slots.slabs[1], outcome="failed", provider="google", source="a"))
    series = slots.series()
    google = (("outcome", "delivered"), ("provider", "google"), ("source", "a"))
    assert series["fastrelay_accepted_messages_total", ()] == 7
    assert series["fastrelay_outcomes_total", google] == 7
    assert series["fastrelay_outcomes_total", (("outcome", "failed"), *google[1:])] == 1
    assert series["fastrelay_queue_recipients", (("reason", "dns"),)] == 7
    assert series["fastrelay_queue_oldest_seconds", ()] == 4  # the oldest of all


def test_histograms_are_summed_and_cumulative(slots: Slots) -> None:
    for slab, value in zip(slots.slabs, (0.003, 7.0), strict=True):
        slab.observe(names.COMMIT_SECONDS.entry(slab), value)
    series = slots.series()
    buckets = {
        float(dict(labels)["le"]): value
        for (name, labels), value in series.items()
        if name == "fastrelay_commit_seconds_bucket"
    }
    assert list(buckets) == [*names.SECONDS_SHORT, float("inf")]
    assert [buckets[bound] for bound in (0.002, 0.005, 5, float("inf"))] == [0, 1, 1, 2]
    assert series["fastrelay_commit_seconds_count", ()] == 2
    assert series["fastrelay_commit_seconds_sum", ()] == pytest.approx(7.003)


def test_of_a_dead_worker_counters_stay_and_gauges_do_not(slots: Slots) -> None:
    for slab in slots.slabs:
        slab.inc(names.ACCEPTED_MESSAGES.entry(slab), 5)
        slab.set(names.SMTP_SESSIONS_OPEN.entry(slab), 5)
        slab.set(names.QUEUE_OLDEST_SECONDS.entry(slab), 9)
        slab.observe(names.DNS_SECONDS.entry(slab), 1)
    slots.alive = [True, False]
    series = slots.series()
    assert series["fastrelay_accepted_messages_total", ()] == 10
    assert series["fastrelay_dns_seconds_count", ()] == 2
    assert series["fastrelay_smtp_sessions_open", ()] == 5
    slots.alive = [False, False]
    assert slots.series()["fastrelay_smtp_sessions_open", ()] == 0
    assert slots.series()["fastrelay_queue_oldest_seconds", ()] == 0


def test_what_is_not_defined_is_left_out(slots: Slots) -> None:
    """Series of another version, with other labels, another kind or other buckets."""
    slab = slots.slabs[0]
    before = slots.text()
    slab.inc(slab.counter("fastrelay_of_old_total"))
    slab.inc(slab.counter("fastrelay_accepted_messages_total", provider="x"))
    slab.inc(slab.counter("fastrelay_outcomes_total", outcome="delivered", provider="x", pool="y"))
    slab.set(slab.gauge("fastrelay_accepted_bytes_total"), 5)
    slab.observe(slab.histogram("fastrelay_dns_seconds", (1, 2, 3)), 1)
    slab.set(slab.gauge("fastrelay_worker_up", worker="0"), 1)
    assert slots.text() == before


def test_the_supervisors_own(slots: Slots) -> None:
    slots.facts.set(names.WORKER_UP, 1, "0")
    slots.facts.set(names.WORKER_UP, 0, "1")
    slots.facts.set(names.BUILD_INFO, 1, "0.1.0")
    series = slots.series()
    assert series["fastrelay_worker_up", (("worker", "0"),)] == 1
    assert series["fastrelay_worker_up", (("worker", "1"),)] == 0
    assert series["fastrelay_build_info", (("version", "0.1.0"),)] == 1
    with pytest.raises(ValueError, match="not its labels"):
        slots.facts.set(names.WORKER_UP, 1)
    with pytest.raises(ValueError, match="not a metric of the supervisor"):
        slots.facts.set(names.ACCEPTED_MESSAGES, 1)


def test_entries_want_exactly_their_labels(slots: Slots) -> None:
    with pytest.raises(ValueError, match="has the labels"):
        names.OUTCOMES_TOTAL.entry(slots.slabs[0], outcome="delivered")
    with pytest.raises(ValueError, match="has the labels"):
        names.ACCEPTED_MESSAGES.entry(slots.slabs[0], provider="x")


def test_labels_from_outside_cannot_break_the_text(slots: Slots) -> None:
    evil = 'x"} 1\nfastrelay_fake 2\n\\'
    slots.slabs[0].inc(names.OUTCOMES_TOTAL.entry(slots.slabs[0], outcome="failed", provider=evil, source="a"))
    labels = (("outcome", "failed"), ("provider", evil), ("source", "a"))
    assert slots.series()["fastrelay_outcomes_total", labels] == 1


def test_no_created_series_and_every_metric_once(slots: Slots) -> None:
    text = slots.text()
    assert "_created" not in text
    types = re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE)
    assert types == [(metric.name, metric.kind) for metric in names.METRICS.values()]


def test_names_follow_the_rules() -> None:
    for name, metric in names.METRICS.items():
        assert name == metric.name
        assert re.fullmatch(r"fastrelay_[a-z_]+", name)
        assert name.endswith("_total") == (metric.kind == "counter"), name
        assert metric.help.endswith("."), name
        assert (metric.kind == "histogram") == bool(metric.buckets), name
        assert list(metric.buckets) == sorted(set(metric.buckets))
        assert not set(metric.labels) & {"le", "quantile", "job", "instance"}


def fill(slots: Slots) -> None:
    """A value in every metric, so that every form is seen."""
    for metric in names.METRICS.values():
        labels = dict.fromkeys(metric.labels, "other")
        if metric.of_supervisor:
            slots.facts.set(metric, 1, *labels.values())
        elif metric.kind == "histogram":
            slots.slabs[0].observe(metric.entry(slots.slabs[0], **labels), 0.5)
        else:
            slots.slabs[0].inc(metric.entry(slots.slabs[0], **labels))


def test_every_metric_can_be_filled(slots: Slots) -> None:
    fill(slots)
    empty = [family.name for family in text_string_to_metric_families(slots.text()) if not family.samples]
    assert empty == []


@pytest.mark.interop
def test_promtool_finds_nothing(slots: Slots) -> None:
    promtool = require("promtool", "prometheus")
    fill(slots)
    done = subprocess.run(
        [promtool, "check", "metrics"], input=slots.text(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_samples_for_those_who_do_without_prometheus(slots: Slots) -> None:
    for slab, n in zip(slots.slabs, (3, 4), strict=True):
        slab.inc(names.OUTCOMES_TOTAL.entry(slab, outcome="delivered", provider="google", source="a"), n)
        slab.observe(names.DNS_SECONDS.entry(slab), 0.1)
    slots.facts.set(names.WORKER_UP, 1, "0")
    wanted = [names.OUTCOMES_TOTAL.name, names.WORKER_UP.name, names.DNS_SECONDS.name, "fastrelay_of_another_version"]
    assert asyncio.run(slots.collector.read(wanted)) == {
        "fastrelay_outcomes_total": [(("delivered", "google", "a"), 7)],
        "fastrelay_worker_up": [(("0",), 1)],
        "fastrelay_dns_seconds": [],  # a histogram is no number
    }
    assert set(asyncio.run(slots.collector.read())) == set(names.METRICS)


def test_what_the_supervisor_knows_is_taken_when_it_is_asked_to(slots: Slots) -> None:
    """The text is made in another thread than the one that changes the facts."""
    slots.facts.set(names.WORKER_UP, 1, "0")
    slots.registry.prepare()
    slots.facts = Facts()
    slots.facts.set(names.WORKER_UP, 0, "0")
    assert slots.series()["fastrelay_worker_up", (("worker", "0"),)] == 1
    assert slots.series()["fastrelay_worker_up", (("worker", "0"),)] == 0  # a prepared one serves once


def test_a_large_relay_fits_into_a_metrics_file() -> None:
    """250 sources at 30 providers each, and 100 rules: nothing is counted as `other`."""
    both = {"provider": "microsoft365", "source": "a-source-with-a-name"}
    a_cell = {names.OUTCOMES_TOTAL: 3, names.DELIVERY_CONNECTIONS: len(names.CONNECTION_STATES), names.BLOCKS: 1}
    a_provider = {
        names.WAITING_RECIPIENTS: len(names.REASONS),
        names.LIMIT_DENIED: len(names.REASONS),
        names.RULE_FIRED: 100,
        names.TRANSACTION_SECONDS: len(names.TRANSACTION_SECONDS.buckets) + 2,
    }
    entries = octets = 0
    for times, metrics in ((250 * 30, a_cell), (30, a_provider)):
        for metric, series in metrics.items():
            labels = {label: both.get(label, "x" * 16) for label in metric.labels}
            entries += times * series
            octets += times * series * len(json.dumps([metric.name, sorted(labels.items())]))
    assert entries < CAPACITY - 2000  # what has no such labels, and room for `other`
    assert octets < TEXT_BYTES - 100_000
