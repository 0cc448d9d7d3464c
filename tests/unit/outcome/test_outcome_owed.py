"""Who is told of what by a bounce message, that it leaves once, and that it is owed until it has left."""

from __future__ import annotations

import email
import email.policy
from email.message import Message
from pathlib import Path
from typing import Any

from support.worker import Client, Mx, Talk, WorkerBox, envelope_of, run

from fastrelay.feedback.bounce import parse_bounce

CONTENT = b"From: Shop <shop@a.test>\r\nSubject: Spring sale\r\n\r\nhello\r\n"
SENDER = "news@a.test"
REPORTS = {"bounces": {"gather": 10.0}}


def refusing(verb: str, argument: str, talk: Talk) -> str | None:
    """Recipients at bad.test do not exist, those at slow.test are put off."""
    if verb == "RCPT" and "@bad.test" in argument:
        return "550 5.1.1 No such user"
    if verb == "RCPT" and "@slow.test" in argument:
        return "450 4.2.1 Later, please"
    return ""


async def submit(box: WorkerBox, recipients: dict[str, str], sender: str = SENDER, parameters: str = "") -> None:
    """`recipients`: address → its RCPT parameters."""
    client = Client()
    envelope = envelope_of(sender, list(recipients), CONTENT, parameters, recipients)
    assert box.app.engine.accept(client, envelope, b"c", b"Received: test id ", None, box.clock.monotonic()) is None
    await box.until(lambda: client.replies)
    assert client.replies[0].startswith(b"250"), client.replies


def bounces(mx: Mx) -> list[Message]:
    """The bounce messages that arrived at the sender's."""
    return [
        email.message_from_bytes(content, policy=email.policy.default) for _, content in mx.accepted if _ == [SENDER]
    ]


def told(mx: Mx) -> list[list[tuple[str, str, str]]]:
    """(recipient, action, status) of each of them."""
    found = []
    for recipients, content in mx.accepted:
        if recipients == [SENDER]:
            found.append([(one.address, one.action, one.status) for one in parse_bounce(content).recipients])
    return found


def with_box(folder: Path, act: Any, extensions: tuple[str, ...] = ("PIPELINING", "8BITMIME"), **keys: Any) -> None:
    async def work() -> None:
        mx = Mx(refusing, extensions)
        async with WorkerBox(folder, [await mx.start()], **(REPORTS | keys)) as box:
            await act(box, mx)

    run(work)


def test_two_that_fail_are_told_in_one_bounce_message(tmp_path: Path) -> None:
    async def act(box: WorkerBox, mx: Mx) -> None:
        await submit(box, {"a@bad.test": "", "b@good.test": "", "c@bad.test": ""})
        await box.settled()
        assert box.counters()["failed"] == 2
        assert told(mx) == []
        box.pass_time(9)
        assert box.app.owed.waiting == 1
        box.pass_time(2)
        await box.until(lambda: told(mx))
        assert told(mx) == [[("a@bad.test", "failed", "5.1.1"), ("c@bad.test", "failed", "5.1.1")]]
        box.pass_time(100)
        await box.settled()
        assert len(told(mx)) == 1
        assert box.app.owed.waiting == 0
        assert (box.counters()["accepted"], box.counters()["delivered"]) == (4, 2)
        assert box.app.engine.spools[0].environment.count("msg") == 0
        await box.audit()

    with_box(tmp_path, act)
