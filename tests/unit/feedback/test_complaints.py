"""What follows from a complaint, on a real desk: event, suppression, rates, word to warm-up, and nothing for what is
not ours."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from support.events import LogWriter, make_desk

from fastrelay.clock import SimulatedClock
from fastrelay.feedback import arf
from fastrelay.feedback.arf import Complaint
from fastrelay.feedback.desk import Desk
from fastrelay.feedback.reference import References

MORE = """
sources: [{name: a, address: 192.0.2.7}, {name: b, address: 192.0.2.8, public_address: 198.51.100.8}]
complaints: {least_delivered: 10}
"""


class Bench:
    """A started desk and what it says."""

    def __init__(self, state: Path, more: str = MORE) -> None:
        self.clock = SimulatedClock()
        self.logs = LogWriter(state, self.clock)
        self.desk = make_desk(state, self.clock, more)
        self.said: list[dict[str, Any]] = []
        self.desk.report = self.said.append
        self.references: References = self.desk.intake.matcher.references

    @property
    def day(self) -> int:
        return int(self.clock.wall() // 86400)

    def reference(self, recipient: bytes | None = b"reader@mailbox.example", number: int = 1, **names: bytes) -> str:
        day = names.pop("day", None)
        return self.references.make(
            recipient, names.get("campaign", b"autumn"), names.get("tenant", b"shop"),
            names.get("sender", b"news.example"), self.day if day is None else int(day), f"t-{number:x}",
        )  # fmt: skip

    def events(self, *names: str) -> list[dict[str, Any]]:
        lines = (self.logs.folder / "feedback.jsonl").read_text().splitlines()
        found = [json.loads(line) for line in lines]
        return [one for one in found if one["event"] in names]

    def delivered(self, source: str, campaign: str) -> None:
        """One, in the log of a worker."""
        self.logs.write(
            "w0", "delivered", source=source, provider="p1", campaign=campaign, recipient="x@mailbox.example",
            domain="mailbox.example", reverse_path="b@News.example",
        )  # fmt: skip

    def share(self, by: str, name: str) -> tuple[int, int]:
        return self.desk.complaints.rates.window().get((by, name), (0, 0))


def on(state: Path, story: Callable[[Bench], Awaitable[None]], more: str = MORE) -> None:
    async def run() -> None:
        bench = Bench(state, more)
        await bench.desk.start()
        try:
            await story(bench)
        finally:
            await bench.desk.close()

    asyncio.run(run())


def complaint(*references: str, **fields: Any) -> Complaint:
    return Complaint("complaint", "abuse", "arf", reporter="yahoo", references=list(references), **fields)


def taken(desk: Desk) -> Callable[[Complaint], Awaitable[Any]]:
    return lambda parsed: desk.complaints.take(None, parsed)


def test_all_that_follows(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        parsed = complaint(bench.reference(), source_ip="198.51.100.8")
        assert await bench.desk.complaints.take(None, parsed) == "counted"
        (event,) = bench.events("complained")
        assert {key: event[key] for key in event if key not in ("key", "time")} == {
            "event": "complained", "id": "t-1", "recipient": "reader@mailbox.example", "domain": "mailbox.example",
            "campaign": "autumn", "tenant": "shop", "sender_domain": "news.example", "source": "b", "provider": "yahoo",
            "feedback_type": "abuse", "feedback_source": "yahoo", "matched": "reference",
        }  # fmt: skip
        assert bench.events("suppression")[0]["reason"] == "complaint"
        assert {"event": "complaint", "source": "b", "place": "yahoo", "n": 1} in bench.said
        for by, name in (("all", ""), ("source", "b"), ("provider", "yahoo"), ("campaign", "autumn"),
                         ("sender", "news.example")):  # fmt: skip
            assert bench.share(by, name) == (0, 1)

    on(tmp_path, story)


def test_once_each(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        take = taken(bench.desk)
        first = complaint(bench.reference())
        assert await asyncio.gather(take(first), take(complaint(bench.reference().upper()))) == ["counted", "repeated"]
        assert await take(first) == "repeated"
        assert await take(complaint(bench.reference(number=2))) == "counted"
        assert len(bench.events("complained")) == 2
        assert bench.share("all", "") == (0, 2)

    on(tmp_path, story)


def test_once_also_after_a_restart(tmp_path: Path) -> None:
    async def first(bench: Bench) -> None:
        assert await bench.desk.complaints.take(None, complaint(bench.reference())) == "counted"

    async def second(bench: Bench) -> None:
        assert await bench.desk.complaints.take(None, complaint(bench.reference())) == "repeated"
        assert bench.share("campaign", "autumn") == (0, 1)

    on(tmp_path, first)
    on(tmp_path, second)


def test_what_is_not_ours_counts_for_nothing(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        foreign = References(b"k" * 32).make(b"reader@mailbox.example", b"", b"", b"", bench.day, "t-1")
        for parsed in (complaint(), complaint(foreign), complaint(foreign, recipients=["reader@mailbox.example"])):
            assert await bench.desk.complaints.take(None, parsed) is None
        assert bench.events("complained", "suppression", "unsubscribed") == []
        assert bench.share("all", "") == (0, 0)
        assert [one for one in bench.said if one["event"] == "complaint"] == []

    on(tmp_path, story)


@pytest.mark.parametrize("kind", ["not_spam", "auth_failure"])
def test_no_complaints(tmp_path: Path, kind: str) -> None:
    async def story(bench: Bench) -> None:
        parsed = Complaint(kind, kind, "arf", references=[bench.reference()])  # type: ignore[arg-type]
        assert await bench.desk.complaints.take(None, parsed) == "ignored"
        assert bench.events("complained", "suppression") == []

    on(tmp_path, story)


def test_opt_out_unsubscribes(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        parsed = Complaint("opt_out", "opt-out", "arf", references=[bench.reference()])
        assert await bench.desk.complaints.take(None, parsed) == "counted"
        (event,) = bench.events("unsubscribed")
        assert event["method"] == "report"
        assert bench.events("suppression")[0]["reason"] == "unsubscribe"
        assert bench.share("all", "") == (0, 0)

    on(tmp_path, story)


def test_of_several_references_to_a_message_the_fullest_counts(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        args = (b"reader@mailbox.example", b"autumn", b"shop", b"news.example", bench.day, "t-1")
        short = bench.references.make(*args, 56)
        assert await bench.desk.complaints.take(None, complaint(short, bench.reference())) == "counted"
        assert bench.events("complained")[0]["campaign"] == "autumn"

    on(tmp_path, story)


def test_a_hash_tells_whom(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        for number, (reported, suppressed) in enumerate(
            [(["other@mailbox.example", "Reader@mailbox.example"], 1), (["other@mailbox.example"], 0), ([], 0)]
        ):
            before = len(bench.events("suppression"))
            args = (b"reader@mailbox.example", b"autumn", b"shop", b"news.example", bench.day, f"t-{number:x}")
            short = bench.references.make(*args, 56)
            assert await bench.desk.complaints.take(None, complaint(short, recipients=reported)) == "counted"
            assert len(bench.events("suppression")) - before == suppressed
        assert "recipient" not in bench.events("complained")[-1]

    on(tmp_path, story)


def test_late_complaints_count_for_the_day_of_the_mail(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        take = taken(bench.desk)
        for number, ago in enumerate((0, 6, 7, 30)):
            day = str(bench.day - ago).encode()
            assert await take(complaint(bench.reference(number=number + 1, day=day))) == "counted"
        assert bench.share("campaign", "autumn") == (0, 2)

    on(tmp_path, story)


def test_the_source_is_one_that_delivered_there(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        for source, n in (("a", 3), ("b", 1)):
            for _ in range(n * 10):
                bench.delivered(source, "autumn")
        await bench.desk.tail.poll()
        take = taken(bench.desk)
        for number in range(1, 201):
            parsed = Complaint("complaint", "abuse", "arf", references=[bench.reference(number=number)])
            assert await take(parsed) == "counted"
        sources = [one["source"] for one in bench.events("complained")]
        assert {one["provider"] for one in bench.events("complained")} == {"p1"}
        assert 110 < sources.count("a") < 190
        assert sources.count("a") + sources.count("b") == 200
        rows = {(row.by, row.name): row for row in bench.desk.complaints.rates.rows()}
        assert (rows["provider", "p1"].delivered, rows["provider", "p1"].complaints) == (40, 200)
        assert rows["sender", "news.example"].share == 5.0

    on(tmp_path, story)


def test_a_source_that_the_returned_header_names(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        header = b"Received: from x ([203.0.113.9])\nReceived: from out ([192.0.2.7]) by mx\n"
        assert await bench.desk.complaints.take(None, complaint(bench.reference(), header=header)) == "counted"
        assert bench.events("complained")[0]["source"] == "a"

    on(tmp_path, story)


def test_nothing_is_answered_for_that_is_not_safe(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        desk, whole = bench.desk, bench.desk.sync_events

        async def fails() -> None:
            raise OSError(28, "No space left on device")

        desk.sync_events = fails  # type: ignore[method-assign]
        with pytest.raises(OSError, match="No space"):
            await desk.complaints.take(None, complaint(bench.reference()))
        desk.sync_events = whole  # type: ignore[method-assign]
        assert await desk.complaints.take(None, complaint(bench.reference())) == "counted"
        keys = [one["key"] for one in bench.events("complained")]
        assert len(keys) == 2
        assert len(set(keys)) == 1
        assert bench.share("all", "") == (0, 1)

    on(tmp_path, story)


def test_the_rates_are_told(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        for n in range(20):
            bench.delivered("a", f"c{n % 4}")
        await bench.desk.tail.poll()
        await bench.desk.complaints.take(None, complaint(bench.reference(), source_ip="192.0.2.7"))
        bench.desk.complaints.second(bench.clock.monotonic() + 100)
        (told,) = [one for one in bench.said if one["event"] == "complaint_rates"]
        assert ["source", "a", 20, 1, 0.05] in told["rows"]
        assert ["campaign", "c1", 5, 0, None] in told["rows"]
        answer = await bench.desk.command("complaints.rates", {"by": "sender"})
        assert [row["name"] for row in answer["rates"]] == ["news.example"]
        assert answer["limit_share"] == 0.003

    on(tmp_path, story)


def test_parsed_reports_fit(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        octets = (
            "From: fbl@mailbox.example\nContent-Type: multipart/report; report-type=feedback-report; boundary=b\n\n"
            "--b\nContent-Type: message/feedback-report\n\nFeedback-Type: fraud\nUser-Agent: x/1\nVersion: 1\n\n"
            f"--b\nContent-Type: message/rfc822\n\nX-Fastrelay-Reference: {bench.reference()}\nFrom: a@news.example\n\n"
            "Words\n--b--\n"
        ).encode()
        parsed = arf.parse(octets)
        assert parsed is not None
        assert await bench.desk.complaints.take(None, parsed) == "counted"
        event = bench.events("complained")[0]
        assert (event["feedback_type"], event["feedback_source"]) == ("fraud", "mailbox.example")

    on(tmp_path, story)
