"""What became of TLS with MX hosts, counted for TLS-RPT (RFC 8460), in the worker and durably in the supervisor.

A worker counts sessions (connections, not messages) in bounded memory, and tells the supervisor every few seconds. The
supervisor adds them to rows in the LMDB `control`, one a UTC day, policy domain and policy; from these rows reports are
built (reports_build.py) and sent (reports_send.py).

    key     YYYYMMDD NUL domain NUL policy's digest
    value   JSON: type, text (policy-string), success, failure, failures: {what failed: [count, words]}

A session belongs to the domains whose mail goes by its queue, DOMAINS_EACH at most. Sessions for mail that waives the
recipient's policy (our reports do) are not counted, else each report would be the subject of the next one.

Known faults: up to FLUSH_SECONDS + WRITE_SECONDS of counts are lost with kill -9 or power; what is told after midnight
counts for the new day. A wall clock that is set back adds to a day that was reported already.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from fastrelay._core.lmdb import LmdbError

if TYPE_CHECKING:
    from fastrelay.app import App
    from fastrelay.tls.policy import HostPlan, TlsPolicy

log = logging.getLogger("fastrelay.tls")

DATABASES = ("tls_sessions", "tls_reports")  # in the LMDB `control`
EVENT = "tls_sessions"
ROWS_TOLD = 5_000  # kinds of sessions that a worker counts between two tellings
DOMAINS_EACH = 16
DETAIL_OCTETS = 200
FLUSH_SECONDS = 5.0
WRITE_SECONDS = 5.0
DIRTY_ROWS = 20_000
WRITE_SLICE = 500  # rows put to disk in one turn of the loop
ROWS_OF_DAY = 200_000
SLICE_ROWS = 1000
FAILURES_OF_ROW = 50
RESULT_TYPES = (
    "starttls-not-supported", "certificate-host-mismatch", "certificate-expired", "certificate-not-trusted",
    "validation-failure", "tlsa-invalid", "dnssec-invalid", "dane-required", "sts-policy-fetch-error",
    "sts-policy-invalid", "sts-webpki-invalid",
)  # fmt: skip

# policy type, policy text, result (None: success), MX host, its address, our address, words
Kind = tuple[str, tuple[str, ...], str | None, str, str, str, str]


class SessionCounts:
    """One worker's counts since it told the supervisor."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._counts: dict[tuple[Any, Kind], int] = {}  # by queue, or tuple of domains
        self.lost = 0
        self._told_at = app.clock.monotonic()

    def session(
        self,
        policy: TlsPolicy | None,
        domains: Any,
        target: Any,
        source_address: str,
        result: str | None,
        detail: str = "",
        plan: HostPlan | None = None,
    ) -> None:
        """A connection is ready (`result` None), or TLS failed on it (an RFC 8460 section 4.3 result type).

        domains  names, or the SiteQueue whose mail it is for (its domains are looked up later)
        target   of the router: MX host and address; None where it did not come to a host
        """
        if policy is not None and (policy.optional or policy.level == "none"):
            return
        kind, text = ("no-policy-found", ()) if plan is None else (plan.policy_type, plan.policy_text)
        if plan is None and policy is not None and policy.sts_mode:
            kind = "sts"
        host, address = ("", "") if target is None else (target.host, target.address)
        if result is None:
            what: Kind = (kind, text, None, "", "", "", "")
        else:
            result = result if result in RESULT_TYPES else "validation-failure"
            what = (kind, text, result, host, address, source_address, detail[:DETAIL_OCTETS])
        key = (tuple(domains) if isinstance(domains, list) else domains, what)
        known = self._counts.get(key)
        if known is None and len(self._counts) >= ROWS_TOLD:
            self.lost += 1
        else:
            self._counts[key] = (known or 0) + 1

    def tick(self, now: float) -> None:
        """About once a second: tells the supervisor when it is time."""
        if now - self._told_at >= FLUSH_SECONDS and (self._counts or self.lost):
            self._told_at = now
            self.tell()

    def tell(self) -> None:
        """Tells the supervisor what was counted."""
        counts, self._counts = self._counts, {}
        lost, self.lost = self.lost, 0
        queues = {who for who, _ in counts if type(who) is not tuple}
        served = self._served(queues) if queues else {}
        rows: list[Any] = []
        for (who, what), count in counts.items():
            names = list(who) if type(who) is tuple else served.get(who, [])
            if names:
                rows.append([names, *what, count])
        if rows or lost:
            self._app.report({"event": EVENT, "rows": rows, "lost": lost})

    def _served(self, queues: set[Any]) -> dict[Any, list[str]]:
        """The domains that each queue serves, those with mail first: one look at all domains."""
        now = self._app.clock.monotonic()
        busy: dict[Any, dict[str, None]] = {queue: {} for queue in queues}
        idle: dict[Any, dict[str, None]] = {queue: {} for queue in queues}
        for domain in self._app.index.domains.values():
            queue = domain.site
            if queue is None or queue not in queues:
                continue
            if domain.queued:
                busy[queue].setdefault(domain.name.decode())
            elif domain.route_expires > now and len(idle[queue]) < DOMAINS_EACH:
                idle[queue].setdefault(domain.name.decode())
        return {queue: list(busy[queue] | idle[queue])[:DOMAINS_EACH] for queue in queues}


class PostFailed(Exception):
    """A report was not taken over HTTPS, in words; `final`: another attempt would be in vain."""

    def __init__(self, words: str, final: bool = False) -> None:
        super().__init__(words)
        self.final = final


class Store(Protocol):
    """What is needed of the LMDB `control`."""

    def get(self, database: str, key: bytes) -> bytes | None: ...
    def items(self, database: str, start: bytes = b"", limit: int = ...) -> list[tuple[bytes, bytes]]: ...
    def write(self, changes: Iterable[tuple[str, bytes, bytes | None]]) -> None: ...


class Row(msgspec.Struct):
    """Sessions of a day under one policy of a domain. `failures` by result, MX host, its address and ours."""

    type: str
    text: list[str]
    success: int = 0
    failure: int = 0
    failures: list[list[Any]] = []  # [result, host, address, source, words, count]

    def add(self, other: Row) -> None:
        """Takes in other counts of the same policy; beyond FAILURES_OF_ROW kinds a failure is in the sum alone."""
        self.success += other.success
        self.failure += other.failure
        known = {tuple(one[:4]): one for one in self.failures}
        for one in other.failures:
            there = known.get(tuple(one[:4]))
            if there is not None:
                there[5] += one[5]
            elif len(self.failures) < FAILURES_OF_ROW:
                known[tuple(one[:4])] = one
                self.failures.append(one)


def day_of(wall: float) -> str:
    """The UTC day, YYYYMMDD."""
    return datetime.fromtimestamp(wall, UTC).strftime("%Y%m%d")


def row_key(day: str, domain: str, kind: str, text: Iterable[str]) -> bytes:
    digest = hashlib.blake2b("\n".join([kind, *text]).encode(), digest_size=8).hexdigest()
    return f"{day}\0{domain}\0{digest}".encode()


class DayCounts:
    """The supervisor's side: rows in memory for a few seconds, then in the store."""

    def __init__(self, store: Store, clock: Any) -> None:
        self._store = store
        self._clock = clock
        self._dirty: dict[bytes, Row] = {}
        self._written_at = clock.monotonic()
        self._rows = {"": 0}  # of the day that is being counted
        self._warned = False
        self.lost = 0

    def report(self, message: dict[str, Any]) -> None:
        """What a worker told (SessionCounts.tell)."""
        self.lost += message.get("lost", 0)
        for names, kind, text, result, host, address, source, words, count in message["rows"]:
            if result is None:
                row = Row(kind, list(text), success=count)
            else:
                row = Row(kind, list(text), 0, count, [[result, host, address, source, words, count]])
            for name in names:
                self.add(name, row)

    def add(self, domain: str, row: Row) -> None:
        """Counts sessions for a domain, today."""
        key = row_key(day_of(self._clock.wall()), domain, row.type, row.text)
        there = self._dirty.get(key)
        if there is None:
            if len(self._dirty) >= DIRTY_ROWS:
                self.lost += row.success + row.failure
                return
            there = self._dirty[key] = Row(row.type, row.text, failures=[])
        there.add(msgspec.structs.replace(row, failures=[list(one) for one in row.failures]))

    def tick(self, now: float) -> None:
        """About once a second: a slice goes to disk when it is time."""
        if self._dirty and now - self._written_at >= WRITE_SECONDS and self.write(WRITE_SLICE) == 0:
            self._written_at = now

    def write(self, most: int = DIRTY_ROWS) -> int:
        """Adds up to `most` rows to the store, synced when this returns; how many are left."""
        changes: list[tuple[str, bytes, bytes | None]] = []
        taken: list[bytes] = []
        for key, row in self._dirty.items():
            if len(taken) == most:
                break
            taken.append(key)
            day = key[:8].decode()
            stored = self._store.get("tls_sessions", key)
            if stored is None:
                if self._rows_of(day) >= ROWS_OF_DAY:
                    self.lost += row.success + row.failure
                    continue
                self._rows[day] += 1
            else:
                before = msgspec.json.decode(stored, type=Row)
                before.add(row)
                row = before
            changes.append(("tls_sessions", key, msgspec.json.encode(row)))
        try:
            self._store.write(changes)
            self._warned = False
        except LmdbError as error:
            self._rows = {"": 0}
            if not self._warned:
                log.error("counts for TLS reports can't be written (%s); they are tried again", error)
            self._warned = True
            return len(self._dirty)
        for key in taken:
            del self._dirty[key]
        return len(self._dirty)

    def _rows_of(self, day: str) -> int:
        if day not in self._rows:
            self._rows = {day: sum(1 for _ in self._pairs(f"{day}\0".encode()))}
        return self._rows[day]

    def rows(self, day: str, domain: str = "") -> Iterable[tuple[str, Row]]:
        """(domain, row) of what is on disk for a day, in the order of the domains; read in slices."""
        prefix = f"{day}\0{domain}\0".encode() if domain else f"{day}\0".encode()
        for key, value in self._pairs(prefix):
            yield key.split(b"\0")[1].decode(), msgspec.json.decode(value, type=Row)

    def _pairs(self, prefix: bytes) -> Iterable[tuple[bytes, bytes]]:
        """What is on disk under keys that begin so."""
        start = prefix
        while True:
            found = self._store.items("tls_sessions", start, SLICE_ROWS)
            for pair in found:
                if not pair[0].startswith(prefix):
                    return
                yield pair
            if len(found) < SLICE_ROWS:
                return
            start = found[-1][0] + b"\0"

    def days(self) -> list[str]:
        """The days that have rows, oldest first."""
        found: list[str] = []
        start = b""
        while first := self._store.items("tls_sessions", start, 1):
            day = first[0][0][:8].decode()
            found.append(day)
            start = f"{day}\1".encode()
        return found
