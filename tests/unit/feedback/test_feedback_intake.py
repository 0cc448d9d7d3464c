"""What follows from mail that came back, and that it is safe before anybody hears 250."""

from __future__ import annotations

import asyncio
import base64
import gzip
from pathlib import Path
from typing import Any

import pytest
from support.intake import DAY, JOE, Box, run

from fastrelay.feedback import intake as module
from fastrelay.feedback.intake import SEEN_DAYS, TAKEN
from fastrelay.feedback.line import AWAY


def test_a_hard_bounce(tmp_path: Path) -> None:
    async def work(box: Box) -> None:
        assert await box.intake.take(box.report()) == TAKEN
        [event] = box.events()
        assert {name: event[name] for name in event if name not in ("key", "time")} == {
            "event": "bounced",
            "recipient": JOE,
            "id": "ab-1f",
            "campaign": "c1",
            "tenant": "t1",
            "sender_domain": "news.example",
            "class": "bad_mailbox",
            "kind": "hard",
            "about": "recipient",
            "class_rule": event["class_rule"],
            "code": 550,
            "enhanced": "5.1.1",
            "reply": "550 5.1.1 No such user here",
            "form": "rfc3464",
            "how": "report",
            "reporting_mta": "mx.far.example",
            "matched": "reference",
        }
        assert box.suppressed() == [(JOE, "hard_bounce")]
        assert box.counted("bounce", "yes") == 1

    run(tmp_path, work)


def test_by_verp(tmp_path: Path) -> None:
    async def work(box: Box) -> None:
        short = box.token(limit=56)
        to = f"b+{short}@b.test"
        assert await box.intake.take(box.report(token="", to=to)) == TAKEN
        [event] = box.events()
        assert (event["recipient"], event["matched"], "campaign" in event) == (JOE, "verp", False)
        both = box.report(token=box.token(id="ab-20"), to=f"b+{box.token(limit=56, id='ab-20')}@b.test")
        assert await box.intake.take(both) == TAKEN
        event = box.events()[1]
        assert (event["recipient"], event["matched"], event["campaign"]) == (JOE, "verp", "c1")

    run(tmp_path, work)


@pytest.mark.parametrize(
    ("recipient", "keys", "event", "suppressed"),
    [
        (JOE, {"status": "5.2.2", "diagnostic": "smtp; 552 5.2.2 mailbox full"}, "soft", False),
        (JOE, {"status": "5.7.1", "diagnostic": "smtp; 550 5.7.1 your IP is on a block list"}, "us", False),
        ("joe@elsewhere.example", {}, "hard", False),
        ("victim@other.example", {"original": "victim@other.example"}, "hard", False),
        (JOE, {"action": "delayed", "status": "4.4.1", "diagnostic": ""}, "", False),
        (JOE, {"action": "relayed", "status": "2.0.0", "diagnostic": ""}, "", False),
    ],
    ids=["soft", "about us", "forwarded", "invented", "delayed", "relayed"],
)
def test_who_is_not_suppressed(
    tmp_path: Path, recipient: str, keys: dict[str, Any], event: str, suppressed: bool
) -> None:
    async def work(box: Box) -> None:
        assert await box.intake.take(box.report(recipient, **keys)) == TAKEN
        assert box.suppressed() == []
        found = box.events()
        assert len(found) == bool(event)
        for one in found:
            assert one["recipient"] == JOE, "nobody is named but whom we sent to"
            assert event in (one["kind"], one["about"])
            assert one.get("final_recipient", JOE) == recipient

    run(tmp_path, work)


@pytest.mark.parametrize("case", ["none", "forged", "old", "future", "hash", "classic"])
def test_mail_that_we_never_sent(tmp_path: Path, case: str) -> None:
    async def work(box: Box) -> None:
        message = {
            "none": lambda: box.report(token=""),
            "forged": lambda: box.report(token="f" + "a" * 80),
            "old": lambda: box.report(token=box.token(age=181)),
            "future": lambda: box.report(token=box.token(age=-2)),
            "hash": lambda: box.report("ann@far.example", token=box.token("other@far.example", limit=56)),
            "classic": lambda: box.report(token="", to="b+joe=far.example@b.test"),
        }[case]()
        assert await box.intake.take(message) == TAKEN
        assert box.events() == []
        assert box.suppressed() == []
        assert box.counted("bounce", "no") == 1
        assert sum(box.intake.status()["unmatched"].values()) == 1

    run(tmp_path, work)


@pytest.mark.parametrize(
    ("octets", "kind"),
    [
        (b"From: joe@far.example\r\nAuto-Submitted: auto-replied\r\nSubject: Out\r\n\r\nAway.\r\n", "auto_reply"),
        (b"From: joe@far.example\r\nSubject: Hello\r\n\r\nHow are you?\r\n", "other"),
        (b"", "other"),
    ],
)
def test_what_is_no_bounce(tmp_path: Path, octets: bytes, kind: str) -> None:
    async def work(box: Box) -> None:
        assert await box.intake.take(box.message(octets)) == TAKEN
        assert await box.intake.take(box.message(octets, f"b+{box.token(limit=56)}@b.test")) == TAKEN
        assert box.events() == []
        assert (box.counted(kind, "no"), box.counted(kind, "yes")) == (1, 1)

    run(tmp_path, work)


def test_a_complaint_goes_to_its_part(tmp_path: Path) -> None:
    async def work(box: Box) -> None:
        returned = f"X-Ref: {box.token()}\r\nFrom: a@news.example\r\nSubject: x\r\n\r\n"
        octets = (
            "From: fbl@provider.example\r\nSubject: complaint\r\nMIME-Version: 1.0\r\n"
            'Content-Type: multipart/report; report-type=feedback-report; boundary="b"\r\n\r\n--b\r\n'
            "Content-Type: text/plain\r\n\r\nspam\r\n--b\r\nContent-Type: message/feedback-report\r\n\r\n"
            "Feedback-Type: abuse\r\nUser-Agent: x/1\r\nVersion: 1\r\n\r\n--b\r\n"
            f"Content-Type: text/rfc822-headers\r\n\r\n{returned}\r\n--b--\r\n"
        ).encode()
        assert await box.intake.take(box.message(octets, "fbl@b.test")) == TAKEN
        [event] = box.events("complained")
        assert event["recipient"] == JOE
        assert box.counted("complaint", "yes") == 1
        assert await box.intake.take(box.message(octets, "fbl@b.test")) == TAKEN
        assert len(box.events("complained")) == 1
        others = octets.replace(box.token().encode(), b"f" * 60)
        assert await box.intake.take(box.message(others, "fbl@b.test")) == TAKEN
        assert box.counted("complaint", "no") == 1

    run(tmp_path, work)


def test_a_report_goes_to_its_part(tmp_path: Path) -> None:
    """A DMARC report, packed as they come."""
    xml = (
        '<?xml version="1.0"?><feedback><report_metadata><org_name>provider.example</org_name>'
        "<email>dmarc@provider.example</email><report_id>1</report_id><date_range><begin>1799900000</begin>"
        "<end>1799986399</end></date_range></report_metadata><policy_published><domain>news.example</domain>"
        "<p>none</p></policy_published><record><row><source_ip>192.0.2.7</source_ip><count>3</count>"
        "<policy_evaluated><disposition>none</disposition><dkim>pass</dkim><spf>pass</spf></policy_evaluated></row>"
        "<identifiers><header_from>news.example</header_from></identifiers><auth_results/></record></feedback>"
    )
    name = "provider.example!news.example!1799900000!1799986399.xml.gz"
    octets = (
        "From: dmarc@provider.example\r\n"
        "Subject: Report Domain: news.example Submitter: provider.example Report-ID: 1\r\n"
        f"MIME-Version: 1.0\r\nContent-Type: application/gzip; name=\"{name}\"\r\n"
        f"Content-Disposition: attachment; filename=\"{name}\"\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        f"{base64.encodebytes(gzip.compress(xml.encode())).decode()}"
    ).encode()

    async def work(box: Box) -> None:
        assert await box.intake.take(box.message(octets, "dmarc@b.test")) == TAKEN
        assert box.counted("report", "yes") == 1
        assert box.desk.store.count("reports") >= 1

    run(tmp_path, work)


@pytest.mark.parametrize("place", ["address", "subject"])
def test_who_unsubscribes_by_mail(tmp_path: Path, place: str) -> None:
    async def work(box: Box) -> None:
        # A reference with a hash alone does not say whom; a message that brings the whole one does.
        token = box.token("j@f.de", limit=60) if place == "address" else box.token()
        local = token if place == "address" else "x"
        subject = "unsubscribe" if place == "address" else token
        octets = f"From: {JOE}\r\nSubject: {subject}\r\n\r\nplease\r\n".encode()
        assert await box.intake.take(box.message(octets, f"un+{local}@b.test")) == TAKEN
        [event] = box.events("unsubscribed")
        assert event["recipient"] == ("j@f.de" if place == "address" else JOE)
        assert event["method"] == "mailto"
        assert box.counted("unsubscribe", "yes") == 1
        assert await box.intake.take(box.message(b"Subject: me too\r\n\r\n", "un+nobody@b.test")) == TAKEN
        assert box.counted("unsubscribe", "no") == 1

    run(tmp_path, work)


# -- once, and safe before the answer ---------------------------------------------------------------------------------


def test_the_same_message_again(tmp_path: Path) -> None:
    async def work(box: Box) -> None:
        message = box.report()
        replies = await asyncio.gather(*[box.intake.take(message) for _ in range(5)])
        assert replies == [TAKEN] * 5, "five at a time: one reading, one answer"
        assert await box.intake.take(message) == TAKEN
        assert len(box.events()) == 1
        assert box.counted("repeated", "no") == 1
        assert await box.intake.take(box.report(number=1)) == TAKEN
        assert len(box.events()) == 2, "another bounce of the same is another"

    run(tmp_path, work)


def test_what_was_seen_is_forgotten_after_days(tmp_path: Path) -> None:
    async def work(box: Box) -> None:
        message = box.report()
        await box.intake.take(message)
        digest = module.digest_of(message)
        for _ in range(SEEN_DAYS - 1):
            box.clock.advance(DAY)
            box.intake.second(box.clock.monotonic())
            assert box.intake.seen(digest)
        box.clock.advance(DAY)
        assert not box.intake.seen(digest)
        assert box.intake.status()["seen"] == 1
        box.intake.second(box.clock.monotonic())
        assert box.intake.status()["seen"] == 0

    run(tmp_path, work)


def test_no_more_is_remembered_than_there_is_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_SEEN", 3)
    monkeypatch.setattr(module, "SWEEP_SLICE", 2)

    async def work(box: Box) -> None:
        for number in range(8):
            await box.intake.take(box.report(number=number))
            box.clock.advance(DAY if number == 4 else 0)
        for _ in range(5):
            box.clock.advance(module.SWEEP_SECONDS)
            box.intake.second(box.clock.monotonic())
        assert box.intake.status()["seen"] == 3
        assert box.intake.seen(module.digest_of(box.report(number=7))), "the oldest go"

    run(tmp_path, work)


@pytest.mark.parametrize("broken", ["log", "store"])
def test_nothing_is_answered_for_that_is_not_safe(
    tmp_path: Path, broken: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(box: Box) -> None:
        message = box.report()

        async def fails(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            if broken == "log":
                patch.setattr(box.desk, "sync_events", fails)
            else:
                patch.setattr(box.desk.suppression, "bounce", lambda *_, **__: asyncio.ensure_future(fails()))
            assert await box.intake.take(message) == AWAY
        assert not box.intake.seen(module.digest_of(message))
        assert await box.intake.take(message) == TAKEN
        first, second = box.events()
        assert first["key"] == second["key"], "who reads the events knows that it is the same"
        assert set(box.suppressed()) == {(JOE, "hard_bounce")}

    run(tmp_path, work)
    assert "No space left" in caplog.text


def test_a_parser_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("a bug")

    async def work(box: Box) -> None:
        monkeypatch.setattr("fastrelay.feedback.bounce.parse_bounce", fails)
        assert await box.intake.take(box.report()) == TAKEN, "trying again would not help"
        assert box.counted("unreadable", "no") == 1

    run(tmp_path, work)
    assert "a bug" in caplog.text


def test_the_loop_goes_on_while_a_message_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(box: Box) -> None:
        import threading

        hold = threading.Event()
        monkeypatch.setattr(box.intake, "_what", lambda message: (hold.wait(60), module.Reading("other"))[1])
        taking = asyncio.ensure_future(box.intake.take(box.message(b"x")))
        for _ in range(50):
            await asyncio.sleep(0)
        assert not taking.done()
        hold.set()
        assert await taking == TAKEN

    run(tmp_path, work)
