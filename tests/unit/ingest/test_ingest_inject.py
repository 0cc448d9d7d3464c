"""Our own mail goes in by the door that all mail uses, and what is refused is said in words."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest
from support.worker import Mx, WorkerBox, run

from fastrelay.admin.commands import Commands
from fastrelay.ingest.inject import LARGEST_BYTES, InjectRefused, envelope_of, inject

CONTENT = b"From: reports@relay.test\nSubject: x\n\n.hello\n"
HOST = b"relay.test"


def with_box(folder: Path, act: Any, **keys: Any) -> None:
    async def work() -> None:
        mx = Mx()
        async with WorkerBox(folder, [await mx.start()], **keys) as box:
            await act(box, mx)

    run(work)


def test_it_is_on_disk_when_the_call_returns_and_then_delivered(tmp_path: Path) -> None:
    async def act(box: WorkerBox, mx: Mx) -> None:
        box.app.engine.held_back = True
        id = await inject(box.app, b"reports@relay.test", [b"tls@x.test", b"b@x.test"], CONTENT)
        assert box.counters()["accepted"] == 2
        number = int(id.partition("-")[2], 16)
        record = box.app.record(0, number)
        assert record is not None
        assert (record.client, record.reverse_path) == (b"", b"reports@relay.test")
        box.app.engine.held_back = False
        for site in box.app.board.sites.values():
            box.app.engine.wake(site)
        box.app.wake_soon()
        await box.until(lambda: mx.accepted)
        await box.settled()
        await box.audit()
        [(recipients, content)] = mx.accepted
        assert recipients == ["tls@x.test", "b@x.test"]
        head, _, rest = content.partition(b";")
        assert head == b"Received: by relay.test (fastrelay, mail of its own)\r\n\tid " + id.encode()
        assert rest.partition(b"\r\n\t")[2].partition(b"\r\n")[2] == CONTENT.replace(b"\n", b"\r\n")
        [accepted] = [event for event in box.events() if event["event"] == "accepted"]
        assert accepted["client"] == ""

    with_box(tmp_path, act)


def test_the_null_reverse_path_campaign_and_tenant(tmp_path: Path) -> None:
    async def act(box: WorkerBox, mx: Mx) -> None:
        for number in range(3):  # each is assigned its own, however short the life of what said so
            name = b"c%d" % number
            await inject(box.app, b"", [b"b@x.test"], CONTENT, campaign=name, tenant=b"t" + name)
        await box.until(lambda: len(mx.accepted) == 3)
        await box.settled()
        accepted = [event for event in box.events() if event["event"] == "accepted"]
        assert [(event["campaign"], event["tenant"]) for event in accepted] == [(f"c{n}", f"tc{n}") for n in range(3)]
        assert {event["reverse_path"] for event in accepted} == {""}
        assert "MAIL FROM:<>" in mx.commands[1]

    with_box(tmp_path, act)


def test_a_refusal_of_the_queue_is_raised(tmp_path: Path) -> None:
    async def act(box: WorkerBox, mx: Mx) -> None:
        box.app.engine.queued_limit = 0
        with pytest.raises(InjectRefused, match=r"452 4\.3\.1 Queue is full") as caught:
            await inject(box.app, b"", [b"b@x.test"], CONTENT)
        assert caught.value.code == 452
        box.app.engine.queued_limit = 1000
        box.app.draining = True
        with pytest.raises(InjectRefused, match="stopping"):
            await inject(box.app, b"", [b"b@x.test"], CONTENT)
        box.app.draining = False
        assert box.counters()["accepted"] == 0

    with_box(tmp_path, act)


def test_a_commit_that_fails_is_raised(tmp_path: Path) -> None:
    async def act(box: WorkerBox, mx: Mx) -> None:
        accept = InjectedEngine(b"451 4.3.0 The disk failed\r\n")
        box_app: Any = Substitute(box.app, engine=accept)
        waiting = asyncio.ensure_future(inject(box_app, b"", [b"b@x.test"], CONTENT))
        with pytest.raises(InjectRefused, match="The disk failed"):
            await waiting

    with_box(tmp_path, act)


class Substitute:
    """An app with one part replaced."""

    def __init__(self, app: Any, **parts: Any) -> None:
        self._app = app
        self.__dict__.update(parts)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._app, name)


class InjectedEngine:
    """Takes a message, and later says this of it."""

    def __init__(self, reply: bytes) -> None:
        self._reply = reply

    def accept(self, connection: Any, *rest: Any) -> None:
        asyncio.get_running_loop().call_soon(connection.stored, self._reply, 0.0)


def test_the_command_of_the_supervisor(tmp_path: Path) -> None:
    async def act(box: WorkerBox, mx: Mx) -> None:
        arguments = {"reverse_path": "", "recipients": ["b@x.test"], "content": base64.b64encode(CONTENT).decode()}
        answer = await Commands(box.app).handle("inject", arguments)
        await box.until(lambda: mx.accepted)
        await box.settled()
        assert [event["id"] for event in box.events() if event["event"] == "accepted"] == [answer["id"]]

    with_box(tmp_path, act)


@pytest.mark.parametrize(
    ("reverse_path", "recipient", "words"),
    [
        (b"a@b.test", b"b@x.test>\r\nRCPT TO:<c@x.test", "501 5.1.3"),
        (b"a@b.test>\nRCPT TO:<c@x.test", b"b@x.test", "501 5.1.3"),
        (b"a@b.test", b"nobody", "501 5.1.3"),
        (b"a b@c.test", b"b@x.test", "501 5.1.7"),
        (b"a@b.test", b"b@x.test> NOTIFY=NEVER", "50"),
        (b"a@b.test", b"b@x.test> ORCPT=rfc822;c", "501 5.1.3"),
        (b"a@b.test", b"@c.test:b@x.test", "501 5.1.3"),
        (b"a@b.test> SIZE=1", b"b@x.test", "50"),
        (b"a@b.test", b"b" * 70 + b"@x.test" + b"x" * 300, "501"),
    ],
)
def test_bad_addresses_are_refused_and_inject_nothing(reverse_path: bytes, recipient: bytes, words: str) -> None:
    with pytest.raises(InjectRefused) as caught:
        envelope_of(HOST, reverse_path, [recipient], CONTENT, b"", 0.0)
    assert str(caught.value).startswith(words)


def test_no_recipients_too_large_and_nul() -> None:
    for recipients, content, words in (
        ([], CONTENT, "554 5.5.1"),
        ([b"b@x.test"], b"x" * LARGEST_BYTES, "552 5.3.4"),
        ([b"b@x.test"], b"Subject: x\n\n\0\n", "550 5.6.0"),
    ):
        with pytest.raises(InjectRefused) as caught:
            envelope_of(HOST, b"", recipients, content, b"", 0.0)
        assert str(caught.value).startswith(words)


def test_line_ends_octets_and_addresses_beyond_ascii() -> None:
    envelope = envelope_of(HOST, "ü@b.test".encode(), [b"b@x.test"], "Subject: x\r\n\r\nä\nb\rc".encode(), b"", 0.0)
    assert envelope.content == "Subject: x\r\n\r\nä\r\nb\r\nc\r\n".encode()
    assert envelope.smtputf8
    assert envelope.body == b"8BITMIME"
    assert envelope.eight_bit
