"""Two readings of the metrics made into what a person watches: rates, shares, what waits for what, warm-up, workers.

Pure: readings come in (the control command `metrics`), a View goes out, as structs with plain numbers that are JSON as
they are. Rates are per second between the two readings; a counter that went back (a restart) counts from 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from fastrelay.metrics import names
from fastrelay.metrics.names import Metric

ATTEMPTS = ("delivered", "deferred", "failed")
# What a view needs; `metrics` is asked for these alone.
WANTED = (
    names.ACCEPTED_RECIPIENTS,
    names.OUTCOMES_TOTAL,
    names.QUEUE_RECIPIENTS,
    names.WAITING_RECIPIENTS,
    names.QUEUE_OLDEST_SECONDS,
    names.QUEUE_LIMIT,
    names.DELIVERY_CONNECTIONS,
    names.LIMIT_DENIED,
    names.WARMUP_CAP,
    names.WARMUP_USED,
    names.WARMUP_STAGE,
    names.WARMUP_STAGES,
    names.WARMUP_TO_GO,
    names.WARMUP_HELD,
    names.BACKOFF_ACTIVE,
    names.BACKOFF_CUT,
    names.ADAPTIVE_RATE,
    names.BLOCKS,
    names.WORKER_UP,
    names.WORKER_RESTARTS,
    names.WORKER_RSS_BYTES,
    names.WORKER_CPU_SECONDS,
    names.LOOP_LAG_SECONDS,
    names.DISK_FREE_BYTES,
    names.DISK_SIZE_BYTES,
    names.SPOOL_UNHEALTHY,
    names.SPOOL_REFUSING,
    names.SMTP_SESSIONS_OPEN,
)


class Reading:
    """The values of one moment. `now`: monotonic seconds; values as the command `metrics` gives them."""

    def __init__(self, now: float, values: Mapping[str, Sequence[Sequence[Any]]]) -> None:
        self.now = now
        self._values = {name: {tuple(labels): float(n) for labels, n in rows} for name, rows in values.items()}

    def series(self, metric: Metric) -> dict[tuple[str, ...], float]:
        """By label values, in the order of the definition."""
        return self._values.get(metric.name, {})

    def one(self, metric: Metric) -> float:
        """Of a metric without labels; 0 if it is not there."""
        return self.series(metric).get((), 0.0)


class Traffic(msgspec.Struct):
    """What became of attempts at a provider, or from a source, per second; and their shares."""

    name: str
    delivered: float = 0.0
    deferred: float = 0.0
    failed: float = 0.0
    blocks: float = 0.0
    connections: int = 0
    waiting: dict[str, int] = {}

    @property
    def attempts(self) -> float:
        return self.delivered + self.deferred + self.failed

    @property
    def deferred_share(self) -> float:
        return self.deferred / self.attempts if self.attempts else 0.0

    @property
    def failed_share(self) -> float:
        return self.failed / self.attempts if self.attempts else 0.0

    @property
    def waits(self) -> int:
        return sum(self.waiting.values())

    @property
    def reason(self) -> str:
        """What most of it waits for."""
        return max(self.waiting, key=lambda reason: (self.waiting[reason], reason), default="")


class WarmupRow(msgspec.Struct):
    """A cold source: its cap of the present day or hour, and how far it is."""

    source: str
    key: str
    cap: int = 0
    used: int = 0
    stage: int = 0
    stages: int = 0
    days_left: int = 0
    held: bool = False


class BackoffRow(msgspec.Struct):
    """A source that is kept from a provider, or slowed there. active: back-offs; cut: fewer connections; rate: learnt,
    a second."""

    source: str
    provider: str
    active: int = 0
    cut: int = 0
    rate: float | None = None


class WorkerRow(msgspec.Struct):
    """cpu: share of one core."""

    slot: str
    up: bool = False
    cpu: float = 0.0
    rss_bytes: int = 0
    restarts: int = 0


class View(msgspec.Struct):
    """All of it. Rates are per second over `seconds`; drain_seconds is None where nothing leaves the queue."""

    seconds: float
    accepted: float
    outcomes: dict[str, float]
    queued: int
    queue_limit: int
    oldest_seconds: float
    drain_seconds: float | None
    reasons: dict[str, int]
    denied: dict[str, float]
    sessions: int
    providers: list[Traffic]
    sources: list[Traffic]
    warmup: list[WarmupRow]
    backoffs: list[BackoffRow]
    workers: list[WorkerRow]
    loop_lag_seconds: float
    disk_free_bytes: int
    disk_size_bytes: int
    spools_unhealthy: int
    workers_refusing: int

    @property
    def delivered(self) -> float:
        return self.outcomes.get("delivered", 0.0)

    @property
    def deferred_share(self) -> float:
        return self._share("deferred")

    @property
    def failed_share(self) -> float:
        return self._share("failed")

    def _share(self, outcome: str) -> float:
        attempts = sum(self.outcomes.get(name, 0.0) for name in ATTEMPTS)
        return self.outcomes.get(outcome, 0.0) / attempts if attempts else 0.0


def view(before: Reading, after: Reading) -> View:
    """What happened between two readings, and how things stand at the second."""
    seconds = max(1e-3, after.now - before.now)
    outcomes = _added(((labels[0], n) for labels, n in _rates(before, after, names.OUTCOMES_TOTAL, seconds)))
    queued = int(sum(after.series(names.QUEUE_RECIPIENTS).values()))
    leaving = sum(n for name, n in outcomes.items() if name != "deferred")
    reasons = {labels[0]: int(n) for labels, n in after.series(names.QUEUE_RECIPIENTS).items() if n}
    return View(
        seconds=seconds,
        accepted=sum(n for _, n in _rates(before, after, names.ACCEPTED_RECIPIENTS, seconds)),
        outcomes=outcomes,
        queued=queued,
        queue_limit=int(after.one(names.QUEUE_LIMIT)),
        oldest_seconds=after.one(names.QUEUE_OLDEST_SECONDS),
        drain_seconds=queued / leaving if leaving > 0 else None,
        reasons=dict(sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))),
        denied=_added(((labels[0], n) for labels, n in _rates(before, after, names.LIMIT_DENIED, seconds))),
        sessions=int(after.one(names.SMTP_SESSIONS_OPEN)),
        providers=_traffic(before, after, seconds, label=1),
        sources=_traffic(before, after, seconds, label=2),
        warmup=_warmup(after),
        backoffs=_backoffs(after),
        workers=_workers(before, after, seconds),
        loop_lag_seconds=after.one(names.LOOP_LAG_SECONDS),
        disk_free_bytes=int(after.one(names.DISK_FREE_BYTES)),
        disk_size_bytes=int(after.one(names.DISK_SIZE_BYTES)),
        spools_unhealthy=int(after.one(names.SPOOL_UNHEALTHY)),
        workers_refusing=int(after.one(names.SPOOL_REFUSING)),
    )


def _rates(before: Reading, after: Reading, metric: Metric, seconds: float) -> Iterator[tuple[tuple[str, ...], float]]:
    """Increase per second of each series of a counter; one that went back began anew."""
    was = before.series(metric)
    for labels, n in after.series(metric).items():
        then = was.get(labels, 0.0)
        yield labels, (n - then if n >= then else n) / seconds


def _added(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for name, n in pairs:
        total[name] = total.get(name, 0.0) + n
    return total


def _traffic(before: Reading, after: Reading, seconds: float, label: int) -> list[Traffic]:
    """By provider (label 1 of the outcomes) or by source (label 2); first where most is sent, or most waits."""
    rows: dict[str, Traffic] = {}

    def row(name: str) -> Traffic:
        return rows.setdefault(name, Traffic(name))

    for labels, n in _rates(before, after, names.OUTCOMES_TOTAL, seconds):
        if labels[0] in ATTEMPTS and labels[2] != "none":
            one = row(labels[label])
            setattr(one, labels[0], getattr(one, labels[0]) + n)
    for labels, n in _rates(before, after, names.BLOCKS, seconds):
        row(labels[label - 1]).blocks += n
    for labels, n in after.series(names.DELIVERY_CONNECTIONS).items():
        if n:
            row(labels[label - 1]).connections += int(n)
    if label == 1:
        for (provider, reason), n in after.series(names.WAITING_RECIPIENTS).items():
            if n:
                row(provider).waiting[reason] = int(n)
    attempts = sum(one.attempts for one in rows.values()) or 1.0
    waits = sum(one.waits for one in rows.values()) or 1
    return sorted(
        rows.values(),
        key=lambda one: (-(one.attempts / attempts + one.waits / waits), -one.connections, one.name),
    )


def _warmup(after: Reading) -> list[WarmupRow]:
    """Cold sources: those with a cap; the fullest first."""

    def value(metric: Metric, labels: tuple[str, ...]) -> int:
        return int(after.series(metric).get(labels, 0))

    rows = [
        WarmupRow(
            source=labels[0],
            key=labels[1],
            cap=int(cap),
            used=value(names.WARMUP_USED, labels),
            stage=value(names.WARMUP_STAGE, labels),
            stages=value(names.WARMUP_STAGES, labels),
            days_left=value(names.WARMUP_TO_GO, labels),
            held=bool(value(names.WARMUP_HELD, labels)),
        )
        for labels, cap in after.series(names.WARMUP_CAP).items()
        if cap
    ]
    return sorted(rows, key=lambda row: (-row.held, -row.used / row.cap, row.source, row.key))


def _backoffs(after: Reading) -> list[BackoffRow]:
    """Those that are stopped first."""
    active, cut, rates = map(after.series, (names.BACKOFF_ACTIVE, names.BACKOFF_CUT, names.ADAPTIVE_RATE))
    rows = [
        BackoffRow(labels[0], labels[1], int(active.get(labels, 0)), int(cut.get(labels, 0)), rates.get(labels))
        for labels in sorted({*active, *cut, *rates})
        if active.get(labels) or cut.get(labels) or labels in rates
    ]
    return sorted(rows, key=lambda row: -row.active)


def _workers(before: Reading, after: Reading, seconds: float) -> list[WorkerRow]:
    cpu = dict(_rates(before, after, names.WORKER_CPU_SECONDS, seconds))
    return [
        WorkerRow(
            slot=labels[0],
            up=bool(up),
            cpu=cpu.get(labels, 0.0),
            rss_bytes=int(after.series(names.WORKER_RSS_BYTES).get(labels, 0)),
            restarts=int(after.series(names.WORKER_RESTARTS).get(labels, 0)),
        )
        for labels, up in sorted(after.series(names.WORKER_UP).items(), key=lambda pair: (len(pair[0][0]), pair[0]))
    ]
