"""Who is told of what by a bounce message, that it leaves once, and that it is owed until it has left."""

from __future__ import annotations

import email
import email.policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any, cast

import pytest
from support.worker import Client, Mx, Talk, WorkerBox, envelope_of, run

from fastrelay._core.scan import Scan
from fastrelay.config.sending import Assignment
from fastrelay.feedback.bounce import parse_bounce
from fastrelay.outcome import owed
from fastrelay.outcome.owed import DELAY, FAILURE, SUCCESS, Bucket, asked
from fastrelay.schedule.state import SUPPRESSED

CONTENT = b"From: Shop <shop@a.test>\r\nSubject: Spring sale\r\n\r\nhello\r\n"
SENDER = "news@a.test"
REPORTS: dict[str, Any] = {"bounces": {"gather": 10.0}}
Told = list[tuple[str, str, str]]


def refusing(verb: str, argument: str, talk: Talk) -> str | None:
    """Recipients at bad.test do not exist, those at slow.test are put off."""
    if verb == "RCPT" and "@bad.test" in argument:
        return "550 5.1.1 No such user"
    if verb == "RCPT" and "@slow.test" in argument:
        return "450 4.2.1 Later, please"
    return ""


class Sender(Client):
    """A client with an assignment, as a user or listener gives it."""

    def __init__(self, mail: Assignment | None) -> None:
        super().__init__()
        self.mail = mail


async def submit(
    box: WorkerBox,
    recipients: dict[str, str],
    sender: str = SENDER,
    parameters: str = "",
    mail: Assignment | None = None,
    content: bytes = CONTENT,
) -> str:
    """Accepts a message; its id. `recipients`: address → its RCPT parameters."""
    client = Sender(mail)
    envelope = envelope_of(sender, list(recipients), content, parameters, recipients)
    assert box.app.engine.accept(client, envelope, b"c", b"Received: test id ", None, box.clock.monotonic()) is None
    await box.until(lambda: client.replies)
    assert client.replies[0].startswith(b"250"), client.replies
    return client.replies[0].split()[-1].decode()


def letters(mx: Mx, sender: str = SENDER) -> list[bytes]:
    """The bounce messages that arrived at the sender's."""
    return [content for recipients, content in mx.accepted if recipients == [sender]]


def told(mx: Mx, sender: str = SENDER) -> list[Told]:
    """(recipient, action, status) of each of them."""
    found = [parse_bounce(content) for content in letters(mx, sender)]
    return [[(one.address, one.action, one.status) for one in bounce.recipients] for bounce in found]


def with_box(
    folder: Path, act: Any, extensions: tuple[str, ...] = ("PIPELINING", "8BITMIME"), reply: Any = refusing, **keys: Any
) -> None:
    async def work() -> None:
        mx = Mx(reply, extensions)
        async with WorkerBox(folder, [await mx.start()], **(REPORTS | keys)) as box:
            await act(box, mx)

    run(work)


async def passed(box: WorkerBox, seconds: float = 15.0) -> None:
    """Time goes by, and what is owed by then was sent."""
    box.pass_time(seconds)
    await box.until(lambda: not box.app.owed._paying)
    await box.settled()


def empty(box: WorkerBox) -> bool:
    """Nothing is in the spool."""
    environment = box.app.engine.spools[0].environment
    return bool(environment.count("msg") == environment.count("st") == 0)


BAD = [("a@bad.test", "failed", "5.1.1")]
# NOTIFY of a recipient that fails, and of one that is handed to a host without DSN → what is told
NOTIFIES = [
    ("", BAD, []),
    (" NOTIFY=FAILURE", BAD, []),
    (" NOTIFY=SUCCESS,FAILURE", BAD, [("b@good.test", "relayed", "2.0.0")]),
    (" notify=success", [], [("b@good.test", "relayed", "2.0.0")]),
    (" NOTIFY=DELAY", [], []),
    (" NOTIFY=NEVER", [], []),
    (" ORCPT=rfc822;x@SUCCESS.test", [("x@SUCCESS.test", "failed", "5.1.1")], []),
]


@pytest.mark.parametrize(("notify", "failed", "relayed"), NOTIFIES, ids=[one[0] or "none" for one in NOTIFIES])
def test_notify(notify: str, failed: Told, relayed: Told, tmp_path: Path) -> None:
    async def act(box: WorkerBox, mx: Mx) -> None:
        await submit(box, {"a@bad.test": notify, "b@good.test": notify})
        await box.settled()
        await passed(box)
        assert told(mx) == ([failed + relayed] if failed + relayed else [])
        assert empty(box)
        await box.audit()

    with_box(tmp_path, act)


def test_two_that_fail_are_told_in_one_bounce_message(tmp_path: Path) -> None:
    async def act(box: WorkerBox, mx: Mx) -> None:
        await submit(box, {"a@bad.test": "", "b@good.test": "", "c@bad.test": ""})
        await box.settled()
        assert box.counters()["failed"] == 2
        box.pass_time(9)
        await box.audit()
        assert told(mx) == []
        assert box.app.owed.waiting == 1
        assert box.counters()["queued"] == 0
        await passed(box, 2)
        assert told(mx) == [[("a@bad.test", "failed", "5.1.1"), ("c@bad.test", "failed", "5.1.1")]]
        await passed(box, 100)
        assert len(told(mx)) == 1
        assert box.app.owed.waiting == 0
        assert (box.counters()["accepted"], box.counters()["delivered"]) == (4, 2)
        assert empty(box)
        await box.audit()

    with_box(tmp_path, act)


def test_what_the_bounce_message_says(tmp_path: Path) -> None:
    async def act(box: WorkerBox, mx: Mx) -> None:
        asks = " ORCPT=rfc822;a+2Bx@bad.test NOTIFY=FAILURE"
        id = await submit(box, {"a@bad.test": asks}, parameters=" ENVID=QQ+2B314159 RET=HDRS")
        await box.settled()
        await passed(box)
        [letter] = letters(mx)
        message = cast("EmailMessage", email.message_from_bytes(letter, policy=email.policy.default))
        assert message["From"] == "Mail Delivery System <mailer-daemon@relay.test>"
        assert message["To"] == SENDER
        assert message["Auto-Submitted"] == "auto-replied"
        assert (message.get_content_type(), message.get_param("report-type")) == (
            "multipart/report", "delivery-status",
        )  # fmt: skip
        words, report, header = cast("list[EmailMessage]", message.get_payload())
        text = words.get_content()
        assert "<a@bad.test>" in text
        assert "550 5.1.1 No such user" in text
        assert "Spring sale" in text
        about, recipient = cast("list[EmailMessage]", report.get_payload())
        assert about["Original-Envelope-Id"] == "QQ+314159"
        assert about["Reporting-MTA"] == "dns; relay.test"
        assert recipient["Original-Recipient"] == "rfc822; a+x@bad.test"
        assert recipient["Final-Recipient"] == "rfc822; a@bad.test"
        assert recipient["Diagnostic-Code"] == "smtp; 550 5.1.1 No such user"
        assert recipient["Final-Log-ID"] == id
        assert recipient["Remote-MTA"].startswith("dns; [127.")
        assert email.utils.parsedate_to_datetime(recipient["Last-Attempt-Date"]).timestamp() == int(
            box.clock.wall() - 15
        )
        assert header.get_content_type() == "text/rfc822-headers"
        assert header.get_payload(decode=True).endswith(b"Subject: Spring sale\r\n")
        assert b"hello" not in letter
        assert mx.commands.count("MAIL FROM:<>") == 1

    with_box(tmp_path, act)


def test_ret_full_and_its_bound(tmp_path: Path) -> None:
    async def act(box: WorkerBox, mx: Mx) -> None:
        await submit(box, {"a@bad.test": ""}, parameters=" RET=FULL")
        large = CONTENT + b"more of it\r\n" * 200
        await submit(box, {"b@bad.test": ""}, parameters=" RET=FULL", content=large)
        await box.settled()
        await passed(box)
        small, cut = sorted(letters(mx), key=lambda one: b"b@bad" in one)
        assert b"Content-Type: message/rfc822\r\n\r\nReceived: test id " in small
        assert b"\r\n\r\nhello\r\n" in small
        assert b"text/rfc822-headers" in cut
        assert b"more of it" not in cut

    with_box(tmp_path, act, bounces={"gather": 10.0, "content_size": 1000})


def test_nobody_is_told(tmp_path: Path) -> None:
    """The null reverse-path, our own inbound addresses, users that read events."""

    async def act(box: WorkerBox, mx: Mx) -> None:
        await submit(box, {"a@bad.test": ""}, sender="")
        for sender in ("bounces@in.test", "Bounces+a=b.test@IN.test", "any@all.test"):
            await submit(box, {"a@bad.test": ""}, sender=sender)
        await submit(box, {"a@bad.test": " NOTIFY=SUCCESS,FAILURE,DELAY"}, mail=Assignment(bounces=False))
        await submit(box, {"a@good.test": " NOTIFY=SUCCESS,FAILURE,DELAY"}, mail=Assignment(bounces=False))
        await submit(box, {"a@bad.test": ""}, sender="x@silent.test", mail=Assignment(bounces=True))
        await box.settled()
        assert box.app.owed.waiting == 0
        assert empty(box)
        await passed(box)
        assert box.counters()["accepted"] == 7
        await submit(box, {"a@bad.test": ""}, sender="x@bounces.test", mail=Assignment(bounces=True))
        await box.settled()
        assert box.app.owed.waiting == 1

    listeners = {
        "smtp": [{"bind": "127.0.0.1:0"}, {"bind": "127.0.0.1:0", "inbound": ["bounces@in.test", "*@all.test"]}]
    }
    senders = {"silent.test": {"bounces": False}}
    with_box(tmp_path, act, listeners=listeners, senders=senders)


def test_switched_off(tmp_path: Path) -> None:
    async def act(box: WorkerBox, mx: Mx) -> None:
        await submit(box, {"a@bad.test": " NOTIFY=SUCCESS,FAILURE,DELAY", "b@good.test": " NOTIFY=SUCCESS"})
        await box.settled()
        assert empty(box)

    with_box(tmp_path, act, bounces={"send": False})


def test_success_can_be_switched_off(tmp_path: Path) -> None:
    async def act(box: WorkerBox, mx: Mx) -> None:
        await submit(box, {"b@good.test": " NOTIFY=SUCCESS"})
        await box.settled()
        assert empty(box)

    with_box(tmp_path, act, bounces={"success": False})


def test_a_host_with_dsn_reports_itself(tmp_path: Path) -> None:
    async def act(box: WorkerBox, mx: Mx) -> None:
        asks = " NOTIFY=SUCCESS,DELAY ORCPT=rfc822;b@good.test"
        await submit(box, {"b@good.test": asks}, parameters=" RET=HDRS ENVID=7")
        await box.settled()
        assert empty(box)
        assert f"RCPT TO:<b@good.test>{asks}" in mx.commands
        assert any(line.endswith(" RET=HDRS ENVID=7") for line in mx.commands)

    with_box(tmp_path, act, extensions=("PIPELINING", "DSN"))


def test_a_host_without_dsn_gets_no_parameters(tmp_path: Path) -> None:
    async def act(box: WorkerBox, mx: Mx) -> None:
        await submit(box, {"b@good.test": " NOTIFY=SUCCESS ORCPT=rfc822;b@good.test"}, parameters=" RET=HDRS ENVID=7")
        await box.settled()
        assert "RCPT TO:<b@good.test>" in mx.commands
        assert not [line for line in mx.commands if "ENVID" in line or "RET" in line or "NOTIFY" in line]

    with_box(tmp_path, act)


def test_late_ones_are_warned_of_once(tmp_path: Path) -> None:
    async def act(box: WorkerBox, mx: Mx) -> None:
        await submit(box, {"a@slow.test": " NOTIFY=DELAY,FAILURE", "b@slow.test": " NOTIFY=FAILURE", "c@slow.test": ""})
        await box.settled()
        await passed(box, 4 * 3600 - 60)
        assert told(mx) == []
        for _ in range(3):
            await passed(box, 60)
        await box.until(lambda: told(mx))
        assert told(mx) == [[("a@slow.test", "delayed", "4.2.1")]]
        [letter] = letters(mx)
        [warned] = parse_bounce(letter).recipients
        until = email.utils.parsedate_to_datetime(warned.will_retry_until).timestamp()
        accepted = box.clock.wall() - 4 * 3600 - 120
        assert abs(until - accepted - box.config.retry.expire_seconds) < 5
        await passed(box, 5 * 3600)
        await passed(box, 60)
        assert len(told(mx)) == 1
        await passed(box, box.config.retry.expire_seconds)
        box.app.board.sweep(box.clock.monotonic())
        await box.settled()
        assert box.counters()["expired"] == 3
        await passed(box, 60)
        await box.until(lambda: len(told(mx)) == 2)
        assert told(mx)[1] == [(f"{one}@slow.test", "failed", "4.4.7") for one in "abc"]
        assert empty(box)
        await box.audit()

    with_box(tmp_path, act)


def test_all_are_warned_of_where_the_operator_wants_it(tmp_path: Path) -> None:
    async def act(box: WorkerBox, mx: Mx) -> None:
        await submit(box, {"a@slow.test": "", "b@slow.test": " NOTIFY=NEVER", "c@slow.test": " NOTIFY=FAILURE"})
        await box.settled()
        await passed(box, 7200)
        await passed(box, 60)
        await box.until(lambda: told(mx))
        assert told(mx) == [[("a@slow.test", "delayed", "4.2.1")]]

    with_box(tmp_path, act, bounces={"gather": 10.0, "delay": 3600.0, "warn_unasked": True})


def test_a_warning_that_is_moot_is_not_sent(tmp_path: Path) -> None:
    """Delivered, or failed, before the warning left."""
    slow = [True]

    def reply(verb: str, argument: str, talk: Talk) -> str | None:
        return refusing(verb, argument, talk) if slow else ""

    async def act(box: WorkerBox, mx: Mx) -> None:
        await submit(box, {"a@slow.test": " NOTIFY=DELAY,FAILURE"})
        await box.settled()
        box.pass_time(5000)
        assert box.app.owed.waiting == 1
        slow.clear()
        box.pass_time(5000)
        await box.settled()
        await passed(box, 9000)
        await passed(box)
        assert box.counters()["delivered"] == 1
        assert told(mx) == []
        assert empty(box)

    with_box(tmp_path, act, reply=reply, bounces={"gather": 9000.0, "delay": 3600.0})


def test_suppressed_ones_are_told_and_removed_ones_are_not(tmp_path: Path) -> None:
    async def act(box: WorkerBox, mx: Mx) -> None:
        from fastrelay.schedule.state import REMOVED

        await submit(box, {"a@slow.test": "", "b@slow.test": "", "c@good.test": ""})
        await box.settled()
        first, second = box.app.index.recipients_of(0)
        box.app.settler.finish(first, SUPPRESSED, reason="suppressed")
        box.app.settler.finish(second, REMOVED, reason="operator")
        await box.settled()
        await passed(box)
        assert told(mx) == [[("a@slow.test", "failed", "5.0.0")]]
        assert b"Diagnostic-Code: X-fastrelay; Not sent: the address is on the suppression" in letters(mx)[0]
        assert empty(box)
        await box.audit()

    with_box(tmp_path, act)


def test_debts_survive_the_worker(tmp_path: Path) -> None:
    """It dies before the bounce message is made; the next one pays, once."""

    async def work() -> None:
        mx = Mx(refusing)
        hosts = [await mx.start()]
        box = WorkerBox(tmp_path, hosts, **REPORTS)
        await box.start()
        await submit(box, {"a@bad.test": "", "b@slow.test": ""})
        await submit(box, {"c@bad.test": ""})
        await box.settled()
        await box.crash()
        again = WorkerBox(tmp_path, hosts, clock=box.clock, **REPORTS)
        async with again:
            assert again.app.owed.waiting == 2
            await again.audit()
            await passed(again)
            assert sorted(told(mx)) == [[("a@bad.test", "failed", "5.1.1")], [("c@bad.test", "failed", "5.1.1")]]
            assert again.app.engine.spools[0].environment.count("msg") == 1
            await again.audit()

    run(work)


@pytest.mark.parametrize("accepted", [True, False], ids=["it was accepted", "the disk refused it"])
def test_a_crash_between_the_two_commits_of_a_payment(accepted: bool, tmp_path: Path) -> None:
    """On disk the state says that a bounce message pays; whether it is there decides."""

    async def work() -> None:
        mx = Mx(refusing)
        hosts = [await mx.start()]
        box = WorkerBox(tmp_path, hosts, **REPORTS)
        await box.start()
        await submit(box, {"a@bad.test": ""})
        await box.settled()
        box.app.engine.held_back = True
        box.app.owed._settled = lambda *rest: None  # type: ignore[method-assign]
        box.pass_time(15)
        await box.until(lambda: box.counters()["accepted"] == 2)
        if not accepted:
            scan = Scan(box.app.own_spool.environment, 2**64 - 1)
            [bounce_message] = [msgid for msgid, _, state in scan.slice() if state is None]
            scan.close()
            box.app.own_spool.delete_message(bounce_message, None)
            box.app.own_spool.count(1, 1)
        await box.crash()
        again = WorkerBox(tmp_path, hosts, clock=box.clock, **REPORTS)
        async with again:
            await again.until(lambda: not again.app.recovery.loading)
            await passed(again)
            await again.until(lambda: told(mx))
            await passed(again, 60)
            assert told(mx) == [[("a@bad.test", "failed", "5.1.1")]]
            assert empty(again)
            await again.audit()

    run(work)


def test_a_queue_that_is_full_is_tried_again(tmp_path: Path) -> None:
    async def act(box: WorkerBox, mx: Mx) -> None:
        await submit(box, {"a@bad.test": ""})
        await box.settled()
        box.app.engine.queued_limit = 0
        await passed(box)
        await passed(box, 60)
        assert told(mx) == []
        assert box.app.owed.waiting == 1
        box.app.engine.queued_limit = 1000
        await passed(box, 60)
        assert told(mx) == [BAD]
        assert empty(box)

    with_box(tmp_path, act)


def test_a_disk_that_refuses_it_is_tried_again(tmp_path: Path) -> None:
    async def act(box: WorkerBox, mx: Mx) -> None:
        await submit(box, {"a@bad.test": ""})
        await box.settled()
        box.app.own_spool.fail_at("content_write", 28, 1)
        box.pass_time(15)
        await box.until(lambda: not box.app.owed._paying)
        assert told(mx) == []
        assert box.app.owed.waiting == 1
        await box.until(lambda: box.app.own_spool.accepting)
        await passed(box, 60)
        assert told(mx) == [BAD]
        assert empty(box)
        await box.audit()

    with_box(tmp_path, act)


def test_a_sender_that_nobody_can_write_to(tmp_path: Path) -> None:
    async def act(box: WorkerBox, mx: Mx) -> None:
        await submit(box, {"a@bad.test": ""}, sender="x@1.2.3.4")
        await box.settled()
        await passed(box)
        assert box.app.owed.waiting == 0
        assert empty(box)
        await box.audit()

    with_box(tmp_path, act)


def test_more_debts_than_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owed, "MOST_KEPT", 4)
    monkeypatch.setattr(owed, "WALK_SLICE", 3)

    async def act(box: WorkerBox, mx: Mx) -> None:
        for number in range(30):
            await submit(box, {f"a{number}@bad.test": ""})
        await box.settled()
        assert box.app.owed.waiting == 4
        for _ in range(200):
            await passed(box, 11)
            if empty(box):
                break
        assert sorted(told(mx)) == sorted([[(f"a{number}@bad.test", "failed", "5.1.1")] for number in range(30)])
        assert empty(box)
        await box.audit()

    with_box(tmp_path, act)


def test_a_report_that_would_be_too_large_comes_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owed, "LARGEST_BYTES", 5000)

    async def act(box: WorkerBox, mx: Mx) -> None:
        everybody = {f"a{number}@bad.test": "" for number in range(20)}
        await submit(box, everybody, parameters=" RET=FULL")
        await box.settled()
        for _ in range(10):
            await passed(box)
        assert 1 < len(told(mx)) <= 10
        assert max(map(len, letters(mx))) < 5300  # with the Received field of its way
        assert sorted(one for each in told(mx) for one, _, _ in each) == sorted(everybody)
        assert empty(box)

    with_box(tmp_path, act)


def test_no_more_than_the_rate(tmp_path: Path) -> None:
    async def act(box: WorkerBox, mx: Mx) -> None:
        for number in range(6):
            await submit(box, {f"a{number}@bad.test": ""})
        await box.settled()
        await passed(box)
        assert len(told(mx)) == 2
        await passed(box, 60)
        assert len(told(mx)) == 3
        for _ in range(3):
            await passed(box, 60)
        assert len(told(mx)) == 6
        assert box.app.owed.waiting == 0

    with_box(tmp_path, act, bounces={"gather": 10.0, "rate": "1/min burst 2"})


def test_bucket_gives_each_worker_its_share() -> None:
    bucket = Bucket("60/min burst 8", 4, 0.0)
    assert [bucket.take(0.0) for _ in range(3)] == [True, True, False]
    assert [bucket.take(4.0), bucket.take(4.0)] == [True, False]


@pytest.mark.parametrize(
    ("parameters", "wanted"),
    [
        (b"", None),
        (b" ORCPT=rfc822;a@b.test", None),
        (b" NOTIFY=NEVER", 0),
        (b" ORCPT=rfc822;NOTIFY=NEVER NOTIFY=failure,Delay", FAILURE | DELAY),
        (b" NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;a", SUCCESS | FAILURE | DELAY),
    ],
)
def test_asked(parameters: bytes, wanted: int | None) -> None:
    assert asked(parameters) == wanted


def test_a_reload_gives_no_new_burst(tmp_path: Path) -> None:
    async def act(box: WorkerBox, mx: Mx) -> None:
        for number in range(3):
            await submit(box, {f"a{number}@bad.test": ""})
        await box.settled()
        await passed(box)
        assert len(told(mx)) == 1
        box.app.reload(box.config)
        await passed(box, 5)
        assert len(told(mx)) == 1

    with_box(tmp_path, act, bounces={"gather": 10.0, "rate": "1/min burst 1"})


def test_a_damaged_content_is_told_without_it(tmp_path: Path) -> None:
    async def act(box: WorkerBox, mx: Mx) -> None:
        await submit(box, {"a@bad.test": ""})
        await box.settled()
        for segment in (tmp_path / "spool" / "w0" / "segments").iterdir():
            with segment.open("r+b") as file:
                file.write(b"X" * 40)
        await passed(box)
        assert told(mx) == [BAD]
        assert b"rfc822-headers" not in letters(mx)[0]
        assert empty(box)

    with_box(tmp_path, act)
