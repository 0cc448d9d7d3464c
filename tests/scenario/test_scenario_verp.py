"""A reverse-path for each recipient, and what mail asks of TLS: both are kept with the message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.worker import Client, Mx, WorkerBox, run

from fastrelay._core.server import MESSAGE, ServerLimits, SmtpServer

CONTENT = b"From: News <a@news.example>\r\nSubject: x\r\n\r\nhello\r\n"
VERP = "bounces+{local}={domain}@news.example"


def box_for(folder: Path, host: str, reverse_path: str | None = VERP, **keys: Any) -> WorkerBox:
    return WorkerBox(folder / "relay", [host], compose={"reverse_path": reverse_path}, **keys)


def senders(mx: Mx) -> list[str]:
    return [line.partition("<")[2].partition(">")[0] for line in mx.commands if line.startswith("MAIL")]


def test_one_transaction_for_each(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx()
        async with box_for(tmp_path, await mx.start()) as box:
            await box.accepted(["joe@a.test", "ann@b.test", "joe@b.test"], content=CONTENT)
            await box.settled()
            told = {recipients[0]: 1 for recipients, _ in mx.accepted if len(recipients) == 1}
            assert sorted(told) == ["ann@b.test", "joe@a.test", "joe@b.test"]
            assert sorted(senders(mx)) == [
                f"bounces+{one}@news.example" for one in ("ann=b.test", "joe=a.test", "joe=b.test")
            ]
            for event in box.events():
                assert event["reverse_path"] == "news@a.test"
                if event["event"] == "delivered":
                    assert event["mail_from"] == f"bounces+{event['recipient'].replace('@', '=')}@news.example"
            await box.audit()

    run(work)


def test_the_null_reverse_path_stays(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx()
        async with box_for(tmp_path, await mx.start()) as box:
            await box.accepted(["joe@a.test", "ann@a.test"], content=CONTENT, sender="")
            await box.settled()
            assert senders(mx) == [""]
            assert len(mx.accepted) == 1
            assert all("mail_from" not in event for event in box.events())

    run(work)


def test_kept_through_restart_and_partial_delivery(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx(lambda verb, argument, talk: "450 4.2.1 later" if verb == "RCPT" and "ann" in argument else "")
        host = await mx.start()
        async with box_for(tmp_path, host) as box:
            await box.accepted(["joe@a.test", "ann@a.test", "bob@a.test"], content=CONTENT)
            await box.until(lambda: len(mx.accepted) == 2 and box.places() == {"retry_backoff": 1})
            await box.settled()
            [m] = [m for m in range(4) if box.app.index.message_info(m) is not None]
            paths = [one["mail_from"] for one in box.app_viewer().full(m)["recipients"]]
            assert paths == [f"bounces+{one}=a.test@news.example" for one in ("joe", "ann", "bob")]
            assert box.app_viewer().full(m)["reverse_path"] == "news@a.test"
            [deferred] = [event for event in box.events() if event["event"] == "deferred"]
            assert deferred["mail_from"] == "bounces+ann=a.test@news.example"
            assert deferred["reverse_path"] == "news@a.test"
        mx.reply = lambda verb, argument, talk: ""
        clock = box.clock
        async with box_for(tmp_path, host, clock=clock) as box:
            box.pass_time(700)
            await box.until(lambda: len(mx.accepted) == 3)
            await box.settled()
            assert senders(mx)[-1] == "bounces+ann=a.test@news.example"
            await box.audit()

    run(work)


def test_loaded_without_a_state(tmp_path: Path) -> None:
    """Accepted, and the worker is gone before anything was tried."""

    async def work() -> None:
        mx = Mx()
        host = await mx.start()
        async with box_for(tmp_path, "127.0.0.1:9") as box:
            box.app.board.pump = box.app.engine.cold.pump = lambda site, now: None
            await box.accepted(["joe@a.test", "ann@a.test"], content=CONTENT)
        async with box_for(tmp_path, host) as box:
            await box.until(lambda: len(mx.accepted) == 2)
            assert sorted(senders(mx)) == [f"bounces+{one}=a.test@news.example" for one in ("ann", "joe")]

    run(work)


@pytest.mark.parametrize(
    ("template", "sender"), [("new+{local}@news.example", "new+joe@news.example"), (None, "news@a.test")]
)
def test_a_changed_template_holds_for_new_attempts(tmp_path: Path, template: str | None, sender: str) -> None:
    async def work() -> None:
        answers = iter(["450 4.2.1 later"])
        mx = Mx(lambda verb, *_: next(answers, "") if verb == "RCPT" else "")
        async with box_for(tmp_path, await mx.start()) as box:
            await box.accepted(["joe@a.test"], content=CONTENT)
            await box.until(lambda: "retry_backoff" in box.places())
            compose = msgspec.structs.replace(box.config.compose, reverse_path=template)
            box.app.reload(msgspec.structs.replace(box.config, compose=compose))
            box.pass_time(700)
            await box.until(lambda: mx.accepted)
            assert senders(mx) == ["bounces+joe=a.test@news.example", sender]

    run(work)


def test_a_long_address_keeps_the_clients(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx()
        async with box_for(tmp_path, await mx.start()) as box:
            await box.accepted([f"{'x' * 60}@a.test"], content=CONTENT)
            await box.settled()
            assert senders(mx) == ["news@a.test"]

    run(work)


# -- RFC 8689 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "variant"),
    [
        (b"TLS-Required: No\r\n", 2),
        (b"tls-required:\r\n no\r\n", 2),
        (b"TLS-Required: Yes\r\n", 0),
        (b"X-TLS-Required: No\r\n", 0),
        (b"TLS-Required: No\r\nX-Fastrelay-Campaign: c\r\n", 2),
        (b"", 0),
    ],
)
def test_tls_required_no(tmp_path: Path, header: bytes, variant: int) -> None:
    async def work() -> None:
        mx = Mx()
        host = await mx.start()
        async with box_for(tmp_path, host, None) as box:
            box.app.board.pump = box.app.engine.cold.pump = lambda site, now: None
            await box.accepted(["joe@a.test"], content=header + CONTENT)
            await box.until(lambda: box.places() == {"ready": 1})
            assert [domain.variant for domain in box.app.index.domains.values() if domain.queued] == [variant]
            [m] = [m for m in range(4) if box.app.index.message_info(m) is not None]
            assert box.app_viewer().full(m)["tls"] == ("TLS-Required: No" if variant else None)
        async with box_for(tmp_path, host, None) as box:
            await box.until(lambda: mx.accepted)
            assert [domain.variant for domain in box.app.index.domains.values()] == [variant]
            kept = header.replace(b"X-Fastrelay-Campaign: c\r\n", b"")
            assert mx.accepted[0][1].endswith(kept + CONTENT), "the field is for all on the way"

    run(work)


def test_variants_have_queues_of_their_own(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx()
        async with box_for(tmp_path, await mx.start(), None) as box:
            index = box.app.index
            plain, strict, loose = (index.domain(b"a.test", b"", variant) for variant in (0, 1, 2))
            assert len({plain.number, strict.number, loose.number}) == 3
            assert index.domain(b"a.test", b"", 1) is strict
            assert index.domain(b"a.test", b"pool", 1) is not strict
            assert [one.variant for one in (plain, strict, loose)] == [0, 1, 2]
            await box.accepted(["joe@a.test"], content=CONTENT)
            await box.accepted(["ann@a.test"], content=b"TLS-Required: No\r\n" + CONTENT)
            await box.settled()
            assert sorted(mx.recipients()) == ["ann@a.test", "joe@a.test"]

    run(work)


def requiring_tls(content: bytes) -> Any:
    """The envelope of a message that came with MAIL … REQUIRETLS, over TLS."""
    machine = SmtpServer(b"relay.test", ServerLimits(), may_relay=True)
    machine.tls = True
    machine.greeting(0.0)
    commands = b"EHLO client.test\r\nMAIL FROM:<news@a.test> REQUIRETLS\r\nRCPT TO:<joe@a.test>\r\nDATA\r\n"
    machine.receive(commands, 0.0)
    machine.receive(content + b".\r\n", 0.0)
    while (event := machine.next_event()) != MESSAGE:
        assert event, machine.take_output()
    return machine.envelope


@pytest.mark.parametrize("header", [b"", b"TLS-Required: No\r\n"])
def test_requiretls_is_kept(tmp_path: Path, header: bytes) -> None:
    async def work() -> None:
        def idle(site: Any, now: float) -> None:
            """Nobody connects."""

        async with box_for(tmp_path, "127.0.0.1:9", None) as box:
            box.app.board.pump = box.app.engine.cold.pump = idle
            client = Client()
            envelope = requiring_tls(header + CONTENT)
            now = box.clock.monotonic()
            assert box.app.engine.accept(client, envelope, b"127.0.0.1", b"Received: x id ", None, now) is None
            await box.until(lambda: client.replies)
            assert [domain.variant for domain in box.app.index.domains.values()] == [1]
        box = box_for(tmp_path, "127.0.0.1:9", None)
        box.app.board.pump = box.app.engine.cold.pump = idle
        async with box:
            assert [domain.variant for domain in box.app.index.domains.values()] == [1]
            [m] = [m for m in range(4) if box.app.index.message_info(m) is not None]
            assert box.app_viewer().full(m)["tls"] == "REQUIRETLS"
            await box.until(lambda: box.places() == {"ready": 1})
            [site] = box.app.board.sites.values()
            delivery = box.app.engine.pull(site, 0, 10, box.clock.monotonic())
            assert delivery.transaction.requiretls
            delivery.session = None
            box.app.engine.index.py_push(site.common, delivery.recipients[0])

    run(work)
