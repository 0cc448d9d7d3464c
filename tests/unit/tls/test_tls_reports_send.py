"""When a TLS report leaves, to whom, how often it is tried, and that a restart repeats and forgets nothing."""

from __future__ import annotations

import asyncio
import email
import gzip
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from fastrelay._core.lmdb import Environment
from fastrelay.admin.workers import WorkerGone, WorkerRefused
from fastrelay.clock import SimulatedClock
from fastrelay.config.schema import from_builtins
from fastrelay.route.resolver import Answer
from fastrelay.tls import reports_send
from fastrelay.tls.reports import PostFailed, Row
from fastrelay.tls.reports_send import ReportError, Reports

MIDNIGHT = 1_800_057_600.0  # 2027-01-16 00:00 UTC
YESTERDAY = "20270115"
HOUR = 3600.0


class Dns:
    """TXT records by name; a name that is not there is nxdomain."""

    def __init__(self) -> None:
        self.records: dict[str, str | None] = {}  # None: no answer now
        self.asked: list[str] = []

    async def query(self, name: str, rdtype: str) -> Answer:
        assert rdtype == "TXT"
        self.asked.append(name)
        if name not in self.records:
            return Answer("nxdomain")
        text = self.records[name]
        if text is None:
            return Answer("temporary", detail="no server answers")
        return Answer("ok", (bytes([len(text)]) + text.encode(),))


class Box:
    """A supervisor's Reports with everything around it simulated; a second one on the folder is the next start."""

    def __init__(self, folder: Path, clock: SimulatedClock, sender: str | None = "tls@relay.test", **keys: Any) -> None:
        self.clock = clock
        self.dns = Dns()
        self.mails: list[tuple[str, list[str], bytes]] = []
        self.posts: list[tuple[str, bytes]] = []
        self.refuse: list[Exception] = []  # what comes of the next attempts
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.environment = Environment(str(folder / "control"), reports_send.DATABASES, map_bytes=64 * 2**20)
        settings = {"sender": sender, **keys}
        config = from_builtins({"hostname": "relay.test", "tls": {"outbound": {"reports": settings}}})
        self.reports = Reports(
            config,
            self.environment,
            clock,
            self.inject,
            event=lambda name, fields: self.events.append((name, fields)),
            resolver=self.dns,  # type: ignore[arg-type]
            poster=self,
        )

    async def inject(self, reverse_path: str, recipients: list[str], content: bytes) -> str:
        if self.refuse:
            raise self.refuse.pop(0)
        self.mails.append((reverse_path, recipients, content))
        return f"w0-{len(self.mails)}"

    async def post(self, url: str, body: bytes) -> None:
        if self.refuse:
            raise self.refuse.pop(0)
        self.posts.append((url, body))

    def count(self, domain: str, *, failures: int = 0) -> None:
        """A session of a domain, today."""
        failed = [["certificate-expired", "mx", "192.0.2.1", "198.51.100.1", "", failures]] if failures else []
        self.reports.counts.add(domain, Row("sts", [], 7, failures, failed))

    async def pass_time(self, seconds: float = 0.0) -> None:
        """Moves the clock; what is due is done when this returns."""
        self.clock.advance(seconds)
        self.reports.tick()
        while self.reports._planning is not None or self.reports._running:
            await asyncio.sleep(0)
            if self.reports._planning is None and not self.reports._running:
                self.reports.tick()

    def state(self, domain: str, day: str = YESTERDAY) -> str:
        entry = self.reports.entry(day, domain)
        return "unknown" if entry is None else entry.state

    async def close(self) -> None:
        await self.reports.close()
        self.environment.close()


def evening() -> SimulatedClock:
    return SimulatedClock(MIDNIGHT - 600)


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(work())  # type: ignore[arg-type]


def test_a_report_leaves_after_midnight_within_the_delay_and_once(tmp_path: Path) -> None:
    async def work() -> None:
        box = Box(tmp_path, evening())
        box.dns.records["_smtp._tls.a.test"] = "v=TLSRPTv1; rua=mailto:r@a.test,https://a.test/r"
        await box.pass_time()
        box.count("a.test", failures=2)
        await box.pass_time(599)
        assert not box.mails
        hour = box.reports.hour(YESTERDAY, "a.test")
        assert MIDNIGHT <= hour <= MIDNIGHT + 4 * HOUR
        await box.pass_time(hour - box.clock.wall() - 1)
        assert box.reports.waiting == 1
        assert not box.mails
        await box.pass_time(1.1)
        [(reverse_path, recipients, content)] = box.mails
        assert (reverse_path, recipients) == ("tls@relay.test", ["r@a.test"])
        attached = email.message_from_bytes(content).get_payload()[1]  # type: ignore[index]
        octets = attached.get_payload(decode=True)  # type: ignore[union-attr]
        assert box.posts == [("https://a.test/r", octets)]
        told = json.loads(gzip.decompress(octets))  # type: ignore[arg-type]
        assert told["date-range"]["start-datetime"] == "2027-01-15T00:00:00Z"
        assert told["policies"][0]["summary"] == {
            "total-successful-session-count": 7,
            "total-failure-session-count": 2,
        }
        assert box.state("a.test") == "sent"
        assert [name for name, _ in box.events] == ["tls_report"]
        await box.pass_time(20 * HOUR)
        assert (len(box.mails), len(box.posts)) == (1, 1)
        await box.close()

    run(work)


def test_it_is_sent_once_over_restarts(tmp_path: Path) -> None:
    async def work() -> None:
        clock = evening()
        box = Box(tmp_path, clock)
        for name in ("a.test", "b.test"):
            box.count(name)
        await box.close()  # with counts in memory: they go to disk
        clock.advance(5 * HOUR)
        box = Box(tmp_path, clock)
        box.dns.records = {f"_smtp._tls.{name}": f"v=TLSRPTv1; rua=mailto:r@{name}" for name in ("a.test", "b.test")}
        box.refuse = [WorkerGone(0, "is not running")]
        await box.pass_time()
        assert len(box.mails) == 1
        await box.close()
        sent = set(box.mails[0][1])
        box = Box(tmp_path, clock)
        await box.pass_time()
        assert not box.mails  # one is sent, the other's next attempt is to come
        await box.pass_time(reports_send.FIRST_RETRY_SECONDS)
        sent |= set(box.mails[0][1])  # without asking the DNS again
        assert sent == {"r@a.test", "r@b.test"}
        assert not box.dns.asked
        await box.pass_time(HOUR)
        assert len(box.mails) == 1
        await box.close()

    run(work)


def test_destinations_are_done_each_on_its_own(tmp_path: Path) -> None:
    async def work() -> None:
        box = Box(tmp_path, evening(), delay=0.0)
        box.dns.records["_smtp._tls.a.test"] = "v=TLSRPTv1; rua=mailto:1@a.test,mailto:2@a.test,mailto:3@a.test"
        box.count("a.test")
        box.refuse = [WorkerRefused(0, "452 4.3.1 Queue is full"), WorkerRefused(0, "501 5.1.3 Bad address")]
        await box.pass_time(601)
        assert [recipients for _, recipients, _ in box.mails] == [["3@a.test"]]
        assert box.state("a.test") == "waiting"
        await box.pass_time(reports_send.FIRST_RETRY_SECONDS + 1)
        assert [recipients for _, recipients, _ in box.mails] == [["3@a.test"], ["1@a.test"]]
        assert box.state("a.test") == "sent"
        shown = box.reports.command("tlsrpt.show", {"domain": "a.test"})["reports"][0]
        assert [one["state"] for one in shown["destinations"]] == ["sent", "failed", "sent"]
        await box.close()

    run(work)


def test_it_is_given_up_after_a_day(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        box = Box(tmp_path, evening(), delay=0.0)
        box.dns.records["_smtp._tls.a.test"] = "v=TLSRPTv1; rua=https://a.test/"
        box.count("a.test")
        box.refuse = [PostFailed("answered 503")] * 100
        attempts = 0
        for _ in range(40):
            await box.pass_time(HOUR)
            attempts = 100 - len(box.refuse)
        assert box.state("a.test") == "failed"
        assert 8 <= attempts <= 14
        assert "was not taken: https://a.test/: answered 503" in caplog.text
        await box.close()

    run(work)


def test_an_address_that_says_never_is_believed(tmp_path: Path) -> None:
    async def work() -> None:
        box = Box(tmp_path, evening(), delay=0.0)
        box.dns.records["_smtp._tls.a.test"] = "v=TLSRPTv1; rua=https://a.test/"
        box.count("a.test")
        box.refuse = [PostFailed("answered 404", final=True)]
        await box.pass_time(HOUR)
        assert box.state("a.test") == "failed"
        await box.close()

    run(work)


def test_a_domain_without_record_gets_none_and_one_without_dns_is_asked_again(tmp_path: Path) -> None:
    async def work() -> None:
        box = Box(tmp_path, evening(), delay=0.0)
        box.dns.records["_smtp._tls.down.test"] = None
        box.count("down.test")
        box.count("none.test")
        await box.pass_time(601)
        assert (box.state("none.test"), box.state("down.test")) == ("none", "waiting")
        box.dns.records["_smtp._tls.down.test"] = "v=TLSRPTv1; rua=mailto:r@down.test"
        await box.pass_time(301)
        assert box.state("down.test") == "sent"
        assert box.dns.asked.count("_smtp._tls.none.test") == 1
        await box.close()

    run(work)


def test_without_a_sender_nothing_leaves_until_there_is_one(tmp_path: Path) -> None:
    async def work() -> None:
        box = Box(tmp_path, evening(), sender=None, delay=0.0)
        box.dns.records["_smtp._tls.a.test"] = "v=TLSRPTv1; rua=mailto:r@a.test"
        box.count("a.test")
        await box.pass_time(HOUR)
        assert not box.dns.asked
        assert box.reports.command("tlsrpt.show", {})["reports"][0]["state"] == "counted"
        with pytest.raises(ReportError, match="sender is not set"):
            box.reports.command("tlsrpt.send", {"day": YESTERDAY})
        config = from_builtins(
            {"hostname": "relay.test", "tls": {"outbound": {"reports": {"sender": "t@relay.test", "delay": 0}}}}
        )
        box.reports.configure(config)
        await box.pass_time(1)
        assert box.state("a.test") == "sent"
        await box.close()

    run(work)


def test_what_is_older_than_keep_is_forgotten(tmp_path: Path) -> None:
    async def work() -> None:
        box = Box(tmp_path, evening(), keep=3 * 86400.0)
        for name in ("a.test", "b.test"):
            box.count(name)
        await box.pass_time(5 * HOUR)
        assert box.state("a.test") == "none"
        await box.pass_time(2 * 86400.0)
        assert box.reports.counts.days() == [YESTERDAY]
        await box.pass_time(2 * 86400.0)
        assert box.reports.counts.days() == []
        assert box.environment.count("tls_reports") == 0
        await box.close()

    run(work)


def test_commands(tmp_path: Path) -> None:
    async def work() -> None:
        box = Box(tmp_path, evening())
        box.dns.records["_smtp._tls.a.test"] = "v=TLSRPTv1; rua=mailto:r@a.test"
        for name in ("a.test", "b.test"):
            box.count(name, failures=1)
        command = box.reports.command
        with pytest.raises(ReportError, match="is not over"):
            command("tlsrpt.send", {"day": "2027-01-15"})
        with pytest.raises(ReportError, match="is no day"):
            command("tlsrpt.show", {"day": "../../x"})
        with pytest.raises(ReportError, match="wants a day"):
            command("tlsrpt.send", {})
        shown = command("tlsrpt.show", {"day": "2027-01-15"})
        assert [(one["domain"], one["success"], one["failure"], one["state"]) for one in shown["reports"]] == [
            ("a.test", 7, 1, "waiting"),
            ("b.test", 7, 1, "waiting"),
        ]
        assert "report" not in shown["reports"][0]
        [whole] = command("tlsrpt.show", {"domain": "a.test"})["reports"]
        assert whole["report"]["policies"][0]["failure-details"][0]["failed-session-count"] == 1
        await box.pass_time(601)
        with pytest.raises(ReportError, match=r"nothing was counted on that day for c\.test"):
            command("tlsrpt.send", {"day": "2027-01-15", "domain": "c.test"})
        assert command("tlsrpt.send", {"day": "2027-01-15"}) == {"due": 2, "passed_over": 0}
        await box.pass_time(1)
        assert (len(box.mails), box.reports.waiting) == (1, 0)
        assert command("tlsrpt.send", {"day": YESTERDAY}) == {"due": 0, "passed_over": 2}
        assert command("tlsrpt.send", {"day": YESTERDAY, "domain": "a.test", "again": True})["due"] == 1
        await box.pass_time(1)
        first, second = box.mails
        assert email.message_from_bytes(first[2])["Message-ID"] == email.message_from_bytes(second[2])["Message-ID"]
        await box.close()

    run(work)


def test_reports_do_not_all_leave_at_once(tmp_path: Path) -> None:
    async def work() -> None:
        box = Box(tmp_path, evening())
        hours = [box.reports.hour(YESTERDAY, f"d{n}.test") for n in range(200)]
        assert min(hours) < MIDNIGHT + HOUR < MIDNIGHT + 3 * HOUR < max(hours) < MIDNIGHT + 4 * HOUR
        await box.close()

    run(work)
