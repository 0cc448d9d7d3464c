"""What the supervisor tells the metrics: its configuration, its workers' processes, what the governor decided, and what
became of TLS reports.

The governor's state is the dictionary that workers get as well (limits/governor.py), so what a graph shows is what the
workers were told. Series of a place that is no provider of its own (an unknown host) count under `other`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fastrelay.config.schema import Config
from fastrelay.metrics import names
from fastrelay.metrics.collector import Facts

SECONDS_OF_HOUR = 3600.0
TICKS = os.sysconf("SC_CLK_TCK")


def add_relay(facts: Facts, relay: Any) -> None:
    """All of it. `relay`: the supervisor; one without a governor has no warm-up to tell of."""
    add_config(facts, relay.config)
    add_processes(facts, [(slot.number, slot.pid) for slot in relay.slots])
    governor = getattr(relay, "governor", None)
    if governor is not None:
        add_governor(facts, governor.state())
    reports = getattr(relay, "tls_reports", None)
    if reports is not None:
        add_tls_reports(facts, reports.results, reports.waiting)
    feedback = getattr(relay, "feedback", None)
    if feedback is not None:
        add_complaints(facts, feedback.complaint_rates)


def add_config(facts: Facts, config: Config) -> None:
    """Bounds that alerts compare with."""
    facts.set(names.QUEUE_LIMIT, config.limits.queued_recipients)
    facts.set(names.SPOOL_RESERVE_BYTES, config.spool.reserve_bytes)
    facts.set(names.COMPLAINT_WARN, config.complaints.warn_share)
    facts.set(names.COMPLAINT_LIMIT, config.complaints.limit_share)


def add_processes(facts: Facts, pids: Iterable[tuple[int, int | None]]) -> None:
    """(slot, process id) of each worker; a process that is gone counts 0, as a counter that began anew."""
    for slot, pid in pids:
        facts.set(names.WORKER_CPU_SECONDS, cpu_seconds(pid), str(slot))


def cpu_seconds(pid: int | None) -> float:
    """User and system time of a process; 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS
    except (OSError, IndexError, ValueError):
        return 0.0


def add_tls_reports(facts: Facts, results: Mapping[str, int], waiting: int) -> None:
    """Reports of TLS that ended since the start, by how, and those to come."""
    for result in names.TLS_REPORT_RESULTS:
        facts.set(names.TLS_REPORTS, results.get(result, 0), result)
    facts.set(names.TLS_REPORTS_WAITING, waiting)


def add_complaints(facts: Facts, rows: Iterable[Sequence[Any]]) -> None:
    """Complaint rates as the feedback process tells them: by, name, deliveries, complaints, share or None."""
    for by, name, delivered, complaints, share in rows:
        labels = (str(by), str(name) or "all")
        facts.set(names.COMPLAINT_DELIVERED, float(delivered), *labels)
        facts.set(names.COMPLAINT_COUNT, float(complaints), *labels)
        if share is not None:
            facts.set(names.COMPLAINT_SHARE, float(share), *labels)


def add_governor(facts: Facts, state: Mapping[str, Any], provider_of: Callable[[str], str] | None = None) -> None:
    """Warm-up, back-offs and adaptive rates.

    provider_of   the provider that a place counts under; without it a place with a dot or a colon is `other`
    """
    provider_of = provider_of or place_provider
    _add_warmup(facts, state.get("warmup") or ())
    counts: dict[tuple[names.Metric, str, str], int] = {}
    for backoff in state.get("backoffs") or ():
        metric = names.BACKOFF_ACTIVE if backoff.get("connections") is None else names.BACKOFF_CUT
        key = (metric, str(backoff.get("source") or "all"), provider_of(str(backoff.get("place") or "")))
        counts[key] = counts.get(key, 0) + 1
    for (metric, source, provider), n in counts.items():
        facts.set(metric, n, source, provider)
    rates: dict[tuple[str, str], float] = {}
    for rate in state.get("adaptive") or ():
        if rate.get("rate_per_hour") is not None:
            pair = (str(rate["source"]), provider_of(str(rate["place"])))
            per_second = float(rate["rate_per_hour"]) / SECONDS_OF_HOUR
            rates[pair] = min(per_second, rates.get(pair, per_second))
    for (source, provider), per_second in rates.items():
        facts.set(names.ADAPTIVE_RATE, per_second, source, provider)


def _add_warmup(facts: Facts, rows: Iterable[Mapping[str, Any]]) -> None:
    """One row for each source and key."""
    for row in rows:
        labels = (str(row["source"]), str(row["key"]))
        stage, stages = int(row["stage"]), int(row["stages"])
        if row.get("cold", True):  # a warm source has no cap, which is not a cap of 0
            facts.set(names.WARMUP_CAP, float(row["cap"]), *labels)
            facts.set(names.WARMUP_USED, float(row["used"]), *labels)
        facts.set(names.WARMUP_STAGE, stage, *labels)
        facts.set(names.WARMUP_STAGES, stages, *labels)
        facts.set(names.WARMUP_TO_GO, float(row.get("days_left", max(0, stages - stage + 1))), *labels)
        facts.set(names.WARMUP_HELD, bool(row["held"]), *labels)


def place_provider(place: str) -> str:
    """The provider of a limits' place: its own name, or `other` for the key of a site."""
    return "other" if not place or "." in place or ":" in place else place
