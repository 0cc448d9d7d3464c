"""DMARC and TLS reports about our domains: taken in, kept, summed up.

    reports.take_octets(octets, now_wall)      a message or file: says what it was, or raises ReportRefused
    reports.summary(days=30, by="source")      what `fastrelay reports` shows

Each report is one entry of the database `reports`: kind, day on which its time ends, hash of who made it and its id →
the report (reports_read.Report), with when it came. The same report told twice has the same key, so it counts once. An
entry goes after reports.keep, or when there are more than MAX_REPORTS (the oldest first: anybody can send us reports).

Nothing follows from a report but figures: it is not authenticated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from fastrelay.clock import iso_utc
from fastrelay.feedback.desk import DeskError, Part
from fastrelay.feedback.reports_read import Bounds, Report, ReportRefused, looks_like_report, read_report
from fastrelay.metrics import names

if TYPE_CHECKING:
    from fastrelay.config.schema import Config
    from fastrelay.feedback.desk import Desk

__all__ = ["ReportRefused", "Reports", "looks_like_report"]

DATABASE = "reports"
DAY = 86400
MAX_REPORTS = 100_000
SWEEP_SECONDS = 3600.0
AHEAD_SECONDS = 2 * DAY  # how far a report's end may be in the future
OTHER = "other"  # the source of mail that did not leave from an address of ours
SUMMED = ("domain", "source", "day", "org")
_KEYS = {"dmarc": b"d", "tls": b"t"}


class Reports(Part):
    """A part of the desk."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._sweep_at = 0.0
        self.commands = {"reports.summary": self.summary, "reports.list": self.each, "reports.add": self.add}
        self._sources: dict[str, str] = {}
        self.configure(desk.config)

    def configure(self, config: Config) -> None:
        self._keep = config.reports.keep_seconds
        self._bounds = Bounds(config.reports.size_bytes, config.reports.records)
        self._sources = {
            address: source.name for source in config.sources for address in (source.address, source.seen_address)
        }

    def second(self, now: float) -> None:
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_SECONDS
            self.sweep()

    # -- taking in ----------------------------------------------------------------------------------------------------

    def read(self, octets: bytes) -> Report | ReportRefused | None:
        """The report in a message; None: it is something else. Changes nothing, so that a thread can do it."""
        if not looks_like_report(octets):
            return None
        try:
            return read_report(octets, self._bounds)
        except ReportRefused as error:
            return error

    def take(self, message: Any, found: Report | ReportRefused) -> bool:
        """Keeps what `read` found, on stable storage; False: it could not be used."""
        try:
            if isinstance(found, ReportRefused):
                raise found
            self.keep(found, self._desk.clock.wall())
        except ReportRefused:
            self._desk.meters.count(names.REPORTS_IN, kind="unknown", result="refused")
            return False
        return True

    def take_octets(self, octets: bytes, now_wall: float) -> str:
        """Reads and keeps the report in a message or a file, and says what it was. ReportRefused, in words."""
        report = read_report(octets, self._bounds)
        new = self.keep(report, now_wall)
        return f"{'' if new else 'again, '}{in_words(report)}"

    def add(self, report: dict[str, Any]) -> dict[str, Any]:
        """A report that `fastrelay reports import` read."""
        try:
            found = msgspec.convert(report, Report)
            return {"new": self.keep(found, self._desk.clock.wall())}
        except (ReportRefused, msgspec.MsgspecError) as error:
            raise DeskError(str(error)) from None

    def keep(self, report: Report, now_wall: float) -> bool:
        """Keeps and counts a report, unless it was there already (False). ReportRefused, LmdbError."""
        if report.end > now_wall + AHEAD_SECONDS:
            raise ReportRefused(f"its time ends in the future ({iso_utc(report.end)})")
        if report.end < now_wall - self._keep:
            raise ReportRefused(f"its time is over for longer than reports.keep ({iso_utc(report.end)})")
        key = key_of(report)
        if self._desk.store.get(DATABASE, key) is not None:
            self._desk.meters.count(names.REPORTS_IN, kind=report.kind, result="repeated")
            return False
        self._desk.store.put(DATABASE, key, msgspec.msgpack.encode(report))
        self._desk.meters.count(names.REPORTS_IN, kind=report.kind, result="counted")
        self._count(report)
        return True

    def _count(self, report: Report) -> None:
        meters = self._desk.meters
        for row in report.dmarc:
            source = self._sources.get(row.source, OTHER)
            meters.count(names.DMARC_MESSAGES, row.count, source=source, result=alignment(row.dkim, row.spf))
        for result in report.tls:
            known = result.result if result.result in names.TLSRPT_RESULTS else "unknown"
            meters.count(names.TLSRPT_SESSIONS, result.count, result=known)

    # -- keeping ------------------------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """What is too old, or too much, goes."""
        store = self._desk.store
        before = max(0, int((self._desk.clock.wall() - self._keep) // DAY)).to_bytes(4, "big")
        too_many = store.count(DATABASE) - MAX_REPORTS
        gone = []
        for prefix in _KEYS.values():
            for key, _ in store.items(DATABASE, prefix, 1000):
                if key[:1] == prefix and (key[1:5] < before or too_many > 0):
                    gone.append(key)
                    too_many -= 1
        if gone:
            store.delete_many(DATABASE, gone)
        if len(gone) >= 1000:
            self._sweep_at = 0.0

    def reports(self, kind: str, days: int) -> Iterator[Report]:
        """Those whose time ended within so many days, the oldest first."""
        since = max(0, int(self._desk.clock.wall() // DAY) - days).to_bytes(4, "big")
        prefix = _KEYS[kind]
        at = prefix + since
        while True:
            found = self._desk.store.items(DATABASE, at, 500)
            for key, value in found:
                if key[:1] != prefix:
                    return
                yield msgspec.msgpack.decode(value, type=Report)
            if len(found) < 500:
                return
            at = found[-1][0] + b"\0"

    # -- what is shown ------------------------------------------------------------------------------------------------

    def summary(self, days: int = 30, by: str = "source", domain: str = "", most: int = 50) -> dict[str, Any]:
        """Sums over the reports of some days: DMARC by domain, source, day or reporter; TLS by domain and result."""
        if by not in SUMMED:
            raise DeskError(f"by is one of {', '.join(SUMMED)}")
        rows: dict[tuple[str, ...], dict[str, Any]] = {}
        count = 0
        for report in self.reports("dmarc", days):
            if domain and report.domain != domain:
                continue
            count += 1
            for row in report.dmarc:
                name = {"domain": row.header_from or report.domain, "source": row.source or "(many others)",
                        "day": iso_utc(report.begin)[:10], "org": report.org}[by]  # fmt: skip
                key = (report.domain, name)
                one = rows.setdefault(key, {"domain": report.domain, by: name, "messages": 0, "aligned": 0,
                                            "dkim_only": 0, "spf_only": 0, "failed": 0, "refused": 0})  # fmt: skip
                if by == "source":
                    one["ours"] = self._sources.get(row.source)
                one["messages"] += row.count
                one[alignment(row.dkim, row.spf)] += row.count
                one["refused"] += row.count * (row.disposition in ("quarantine", "reject"))
        shown = sorted(rows.values(), key=lambda one: (-one["failed"], -one["messages"]))
        tls, tls_count = self._tls_summary(days, domain)
        return {
            "days": days, "by": by,
            "dmarc": {"reports": count, "rows": shown[:most], "left_out": len(shown[most:])},
            "tls": {"reports": tls_count, "rows": tls[:most], "left_out": len(tls[most:])},
        }  # fmt: skip

    def _tls_summary(self, days: int, domain: str) -> tuple[list[dict[str, Any]], int]:
        sums: dict[tuple[str, str, str], int] = {}
        count = 0
        for report in self.reports("tls", days):
            if domain and report.domain != domain:
                continue
            count += 1
            for row in report.tls:
                key = (report.domain, row.result, row.mx)
                sums[key] = sums.get(key, 0) + row.count
        rows = [{"domain": of, "result": result, "mx": mx or None, "sessions": n}
                for (of, result, mx), n in sums.items()]  # fmt: skip
        return sorted(rows, key=lambda one: (one["result"] == "ok", -int(str(one["sessions"])))), count

    def each(self, days: int = 30, most: int = 200) -> dict[str, Any]:
        """The reports themselves, the newest first."""
        found = [
            {"kind": one.kind, "org": one.org, "id": one.id, "domain": one.domain, "begin": iso_utc(one.begin),
             "end": iso_utc(one.end),
             "messages": sum(row.count for row in one.dmarc) + sum(row.count for row in one.tls)}
            for kind in _KEYS for one in self.reports(kind, days)
        ]  # fmt: skip
        found.sort(key=lambda one: str(one["end"]), reverse=True)
        return {"reports": found[:most], "left_out": len(found[most:])}


def key_of(report: Report) -> bytes:
    """Kind, day, and who made it with which id; of a report without an id what it says stands for that."""
    named = report.id.encode() or msgspec.msgpack.encode(report)
    told = b"\0".join((report.org.lower().encode(), report.domain.encode(), named))
    return _KEYS[report.kind] + (report.end // DAY).to_bytes(4, "big") + hashlib.sha256(told).digest()[:16]


def alignment(dkim: bool, spf: bool) -> str:
    """What DMARC asks for: one of the two, aligned with the From domain."""
    return "aligned" if dkim and spf else "dkim_only" if dkim else "spf_only" if spf else "failed"


def in_words(report: Report) -> str:
    """What a report is, for people."""
    if report.kind == "dmarc":
        total = sum(row.count for row in report.dmarc)
        failed = sum(row.count for row in report.dmarc if not row.dkim and not row.spf)
        return f"DMARC report of {report.org} on {report.domain}: {total} messages, {failed} failed"
    bad = sum(row.count for row in report.tls if row.result != "ok")
    return f"TLS report of {report.org} on {report.domain}: {sum(r.count for r in report.tls)} sessions, {bad} failed"
