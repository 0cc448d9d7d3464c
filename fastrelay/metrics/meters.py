"""What a worker counts outside the hot path: entries found once, and the gauges that are set every few seconds."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from typing import TYPE_CHECKING

from fastrelay._core.slab import Slab
from fastrelay.metrics import names

if TYPE_CHECKING:
    from fastrelay.app import App
    from fastrelay.dkim.sign import Signer

REFRESH_SECONDS = 1.0
OLDEST_EVERY_TICKS = 5


class Meters:
    """The slab entries of one worker by name and labels."""

    def __init__(self, slab: Slab) -> None:
        self.slab = slab
        self._entries: dict[tuple[str, ...], int] = {}
        self._ticks = 0
        self._refreshed_at: float | None = None
        self._connections_set: set[int] = set()
        self._waiting_set: set[int] = set()
        self._tls_set: set[int] = set()
        self._log_failures = 0
        for metric, labels in names.FROM_THE_START:
            for values in itertools.product(*labels.values()):
                self.entry(metric, **dict(zip(labels, values, strict=True)))

    def entry(self, metric: names.Metric, **labels: str) -> int:
        """The slab entry of a metric, kept."""
        key = (metric.name, *labels.values())
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = metric.entry(self.slab, **labels)
        return entry

    def count(self, metric: names.Metric, n: float = 1, **labels: str) -> None:
        self.slab.inc(self.entry(metric, **labels), n)

    def observe(self, metric: names.Metric, value: float, **labels: str) -> None:
        self.slab.observe(self.entry(metric, **labels), value)

    def outcome(self, outcome: str, provider: str, source: str) -> int:
        """The entry of one outcome; `source` is empty where nothing was sent."""
        return self.entry(names.OUTCOMES_TOTAL, outcome=outcome, provider=provider, source=source or "none")

    # -- gauges -------------------------------------------------------------------------------------------------------

    def refresh(self, app: App, now: float) -> None:
        """Sets every gauge from the worker's state; about once a second."""
        set_ = self.slab.set
        reasons = app.board.by_reason(now)
        for reason in names.REASONS:
            set_(self.entry(names.QUEUE_RECIPIENTS, reason=reason), reasons.get(reason, 0))
        if self._ticks % OLDEST_EVERY_TICKS == 0:
            oldest = app.index.oldest_accepted_ms()
            set_(self.entry(names.QUEUE_OLDEST_SECONDS), 0 if oldest is None else max(0.0, now - oldest / 1000))
            set_(self.entry(names.INDEX_BYTES), app.index.memory_bytes())
            self._waiting(app, now)
            self._tls_sites(app)
            self._spool_gauges(app)
        self._ticks += 1
        self._lag(now)
        set_(self.entry(names.SITES), len(app.board.sites))
        set_(self.entry(names.SMTP_SESSIONS_OPEN), app.listener.load)
        set_(self.entry(names.HOT_CACHE_BYTES), app.engine.hot_bytes)
        set_(self.entry(names.QUARANTINED), app.board.quarantined_messages)
        self._connections(app)
        self._dns(app)
        self._commits(app)

    def dkim(self, signer: Signer | None) -> None:
        """What was signed since the last call, and the state of the keys; called once a second and at a reload."""
        usable, unusable = signer.key_counts() if signer is not None else (0, 0)
        for state, n in (("usable", usable), ("unusable", unusable)):
            self.slab.set(self.entry(names.DKIM_KEYS, state=state), n)
        if signer is None:
            return
        made, without_key = signer.drain_counts()
        for algorithm, n in made.items():
            if n:
                self.count(names.DKIM_SIGNATURES, n, algorithm=algorithm)
        if without_key:
            self.count(names.DKIM_NO_KEY, without_key)

    def _lag(self, now: float) -> None:
        """How late this call is: it should come REFRESH_SECONDS after the last one."""
        before, self._refreshed_at = self._refreshed_at, now
        if before is not None:
            self.slab.set(self.entry(names.LOOP_LAG_SECONDS), max(0.0, now - before - REFRESH_SECONDS))

    def _waiting(self, app: App, now: float) -> None:
        """What stands at the sites, by provider."""
        counts: dict[tuple[str, str], int] = {}
        for site in app.board.sites.values():
            n = site.ready()
            if n:
                key = (site.provider, app.board.site_reason(site, now))
                counts[key] = counts.get(key, 0) + n
        fresh = set()
        for (provider, reason), n in counts.items():
            entry = self.entry(names.WAITING_RECIPIENTS, provider=provider, reason=reason)
            self.slab.set(entry, n)
            fresh.add(entry)
        self._waiting_set = self._zero(self._waiting_set, fresh)

    def _tls_sites(self, app: App) -> None:
        """Sites by what decides over their connections."""
        counts = Counter(site.tls.kind for site in app.board.sites.values() if site.tls is not None)
        fresh = {self.entry(names.TLS_SITES, policy=kind): n for kind, n in counts.items()}
        for entry, n in fresh.items():
            self.slab.set(entry, n)
        self._tls_set = self._zero(self._tls_set, set(fresh))

    def _zero(self, before: set[int], fresh: set[int]) -> set[int]:
        """Gauges that were set and have no value now; gives those that have one."""
        for entry in before - fresh:
            self.slab.set(entry, 0)
        return fresh

    def _connections(self, app: App) -> None:
        counts: dict[tuple[str, str, str], int] = {}
        for session in app.sessions:
            state = "idle" if session.idle else "busy" if session.ready else "connecting"
            key = (session.site.provider, session.source_name, state)
            counts[key] = counts.get(key, 0) + 1
        fresh = set()
        for (provider, source, state), n in counts.items():
            entry = self.entry(names.DELIVERY_CONNECTIONS, provider=provider, source=source, state=state)
            self.slab.set(entry, n)
            fresh.add(entry)
        self._connections_set = self._zero(self._connections_set, fresh)

    def _spool_gauges(self, app: App) -> None:
        usage = app.spool_usage()
        self.slab.set(self.entry(names.SPOOL_BYTES), usage["bytes"])
        self.slab.set(self.entry(names.SPOOL_LIVE_BYTES), usage["live_bytes"])
        self.slab.set(self.entry(names.SPOOL_SEGMENTS), usage["segments"])
        spools = app.engine.spools
        self.slab.set(
            self.entry(names.SPOOL_UNHEALTHY), sum(bool(spool.unhealthy or spool.settle_blocked) for spool in spools)
        )
        self.slab.set(self.entry(names.SPOOL_REFUSING), not app.own_spool.accepting)
        disk = os.statvfs(app.state_dir)
        self.slab.set(self.entry(names.DISK_SIZE_BYTES), disk.f_blocks * disk.f_frsize)
        self.slab.set(self.entry(names.DISK_FREE_BYTES), disk.f_bavail * disk.f_frsize)

    def _dns(self, app: App) -> None:
        for result, n, seconds in app.drain_dns():
            self.count(names.DNS_QUERIES, n, result=result)
            for value in seconds:
                self.observe(names.DNS_SECONDS, value)

    def _commits(self, app: App) -> None:
        failures, commits = app.drain_commits()
        if failures:
            self.count(names.COMMIT_FAILURES, failures)
        total = sum(spool.figures().get("log_failures", 0) for spool in app.engine.spools)
        failed, self._log_failures = total - self._log_failures, total
        if failed > 0:
            self.count(names.EVENT_LOG_FAILURES, failed)
        for seconds, group in commits:
            self.observe(names.COMMIT_SECONDS, seconds)
            self.observe(names.COMMIT_GROUP_MESSAGES, group)
