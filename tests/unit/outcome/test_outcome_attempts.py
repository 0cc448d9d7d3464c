"""What becomes of recipients after every kind of end of a transaction: verdict, state, event and place in the queue."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from support.worker import Mx, Reply, Talk, WorkerBox, run


def at(verb: str, said: str | None, times: int = 10**9) -> Reply:
    """A reply to one verb, `times` times."""
    left = [times]

    def reply(spoken: str, argument: str, talk: Talk) -> str | None:
        if spoken == verb and left[0] > 0:
            left[0] -= 1
            return said
        return ""

    return reply


# what the host does, the event, its reason, code, enhanced code, and whether it may have arrived
ENDS: list[tuple[str, Reply, str, str | None, int | None, str | None, bool]] = [
    ("MAIL 4xx", at("MAIL", "451 4.3.0 busy"), "deferred", "mail_refused", 451, "4.3.0", False),
    ("MAIL 5xx", at("MAIL", "550 5.7.1 blocked"), "failed", "mail_refused", 550, "5.7.1", False),
    ("RCPT 4xx", at("RCPT", "450 4.2.1 busy"), "deferred", "rcpt_refused", 450, "4.2.1", False),
    ("RCPT 5xx", at("RCPT", "550 5.1.1 nobody"), "failed", "rcpt_refused", 550, "5.1.1", False),
    ("an unknown code counts by its first digit", at("RCPT", "599 odd"), "failed", "rcpt_refused", 599, None, False),
    ("DATA 4xx", at("DATA", "451 later"), "deferred", "data_refused", 451, None, False),
    ("DATA 5xx", at("DATA", "554 5.7.0 no"), "failed", "data_refused", 554, "5.7.0", False),
    ("final 4xx", at("BODY", "451 4.7.0 later"), "deferred", "final_refused", 451, "4.7.0", False),
    ("final 5xx", at("BODY", "554 5.7.1 spam"), "failed", "final_refused", 554, "5.7.1", False),
    ("an enhanced code of another class", at("BODY", "451 5.7.1 x"), "deferred", "final_refused", 451, None, False),
    ("421 at MAIL", at("MAIL", "421 4.3.2 closing"), "deferred", "mail_refused", 421, "4.3.2", False),
    ("421 for the final reply", at("BODY", "421 4.3.2 closing"), "deferred", "final_refused", 421, "4.3.2", False),
    ("cut before any reply", at("MAIL", None), "deferred", "closed", None, "4.4.2", False),
    ("cut at RCPT", at("RCPT", None), "deferred", "closed", None, "4.4.2", False),
    ("cut in place of the final reply", at("BODY", None), "deferred", "closed", None, "4.4.2", True),
    ("nonsense in place of the final reply", at("BODY", "what?"), "deferred", "protocol", None, "4.5.0", True),
]  # fmt: skip


@pytest.mark.parametrize("case", ENDS, ids=[case[0] for case in ENDS])
def test_the_end_of_an_attempt(case: tuple[Any, ...], tmp_path: Path) -> None:
    _, reply, kind, reason, code, enhanced, doubtful = case

    async def work() -> None:
        mx = Mx(reply)
        async with WorkerBox(tmp_path, [await mx.start()]) as box:
            await box.accepted(["a@one.test"])
            await box.settled()
            counters = box.counters()
            assert counters["failed"] == (kind == "failed")
            assert box.places() == ({"retry_backoff": 1} if kind == "deferred" else {})
            await box.audit()
            event = box.events()[-1]
            assert event["event"] == kind
            assert event.get("reason") == reason
            assert event.get("code") == code
            assert event.get("enhanced") == enhanced
            assert event.get("possible_duplicate", False) is doubtful
            assert event["attempt"] == 1
            assert len(mx.talks) == 1  # a first transaction that is cut off is not tried again at once
        await mx.stop()

    run(work)


def test_too_many_recipients_go_in_further_transactions_at_once(tmp_path: Path) -> None:
    def reply(verb: str, argument: str, talk: Talk) -> str:
        return "452 4.5.3 too many recipients" if verb == "RCPT" and len(talk.recipients) >= 3 else ""

    async def work() -> None:
        mx = Mx(reply)
        async with WorkerBox(tmp_path, [await mx.start()]) as box:
            names = [f"r{i}@one.test" for i in range(8)]
            await box.accepted(names)
            await box.settled()
            assert sorted(mx.recipients()) == names
            assert max(len(recipients) for recipients, _ in mx.accepted) == 3
            assert [event["attempt"] for event in box.events() if event["event"] == "delivered"] == [1] * 8
            await box.audit()
        await mx.stop()

    run(work)


def test_a_connection_that_was_closed_while_idle_costs_no_attempt(tmp_path: Path) -> None:
    def reply(verb: str, argument: str, talk: Talk) -> str | None:
        return None if verb == "MAIL" and talk.messages else ""

    async def work() -> None:
        mx = Mx(reply)
        async with WorkerBox(tmp_path, [await mx.start()]) as box:
            await box.accepted(["a@one.test"])
            await box.settled()
            await box.accepted(["b@one.test"])
            await box.settled()
            assert mx.recipients() == ["a@one.test", "b@one.test"]
            assert len(mx.talks) == 2
            assert box.events()[-1]["attempt"] == 1
        await mx.stop()

    run(work)


@pytest.mark.parametrize(
    ("content", "extensions", "reason", "enhanced"),
    [
        (b"Subject: x\r\n\r\n\xe4\r\n", ("PIPELINING",), "no_8bitmime", "5.6.3"),
        (b"Subject: x\r\n\r\n" + b"x" * 70 + b"\r\n", ("SIZE 60",), "size", "5.3.4"),
    ],
)
def test_a_feature_that_the_host_lacks_fails_the_message(
    content: bytes, extensions: tuple[str, ...], reason: str, enhanced: str, tmp_path: Path
) -> None:
    async def work() -> None:
        mx = Mx(extensions=extensions)
        async with WorkerBox(tmp_path, [await mx.start()]) as box:
            for name in ("a@one.test", "b@one.test"):
                await box.accepted([name], content=content)
            await box.settled()
            assert box.counters()["failed"] == 2
            assert {(event["reason"], event["enhanced"]) for event in box.events() if event["event"] == "failed"} == {
                (reason, enhanced)
            }
            assert not any(line.startswith("MAIL") for line in mx.commands)
        await mx.stop()

    run(work)


def test_size_is_declared_as_what_is_sent(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx(extensions=("SIZE 1000000",))
        async with WorkerBox(tmp_path, [await mx.start()]) as box:
            await box.accepted(["a@one.test"], content=b"Subject: x\r\n\r\n" + b"line\r\n" * 500)
            await box.settled()
            [(_, content)] = mx.accepted
            assert f"MAIL FROM:<news@a.test> SIZE={len(content)}" in mx.commands
        await mx.stop()

    run(work)


def large(size: int = 3_000_000) -> bytes:
    return b"Subject: large\r\nX-Fastrelay-Campaign: spring\r\n\r\n" + b"0123456789abcdef" * 4 + b"\r\n" * (size // 2)


async def submit_over_smtp(box: WorkerBox, content: bytes) -> bytes:
    """Over the listener, so that a large content is streamed to a file."""
    import asyncio

    host, _, port = box.config.listeners.smtp[0].bind.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 20)
    writer.write(b"EHLO x\r\nMAIL FROM:<news@a.test>\r\nRCPT TO:<a@one.test>\r\nDATA\r\n")
    while not (await reader.readline()).startswith(b"354"):
        pass
    writer.write(content.replace(b"\r\n.", b"\r\n..") + b".\r\n")
    reply = await reader.readline()
    writer.close()
    return reply


def test_a_large_content_is_streamed_and_its_header_edited(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx()
        async with WorkerBox(tmp_path, [await mx.start()], limits={"message_size": 10_000_000}) as box:
            assert (await submit_over_smtp(box, large())).startswith(b"250 ")
            await box.settled()
            [(_, content)] = mx.accepted
            header, _, body = content.partition(b"\r\n\r\n")
            assert header.startswith(b"Received: ")
            assert header.count(b"Subject:") == 1
            assert b"Campaign" not in header
            assert body == large().partition(b"\r\n\r\n")[2]
            assert box.events()[0]["campaign"] == "spring"
            assert box.events()[0]["size_bytes"] == len(content)
            assert box.app.engine.hot_bytes == 0
        await mx.stop()

    run(work)


def test_a_large_content_found_damaged_while_it_is_sent_is_quarantined(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx(at("CONNECT", "450 not yet", 1))
        async with WorkerBox(tmp_path, [await mx.start()], limits={"message_size": 10_000_000}) as box:
            assert (await submit_over_smtp(box, large())).startswith(b"250 ")
            await box.until(lambda: box.reasons() == {"connect_backoff": 1})
            [path] = (tmp_path / "spool" / "w0" / "large").iterdir()
            with open(path, "r+b") as file:
                file.seek(-10, os.SEEK_END)
                file.write(b"X")
            box.pass_time(30)
            await box.until(lambda: box.places() == {"quarantined": 1})
            assert mx.accepted == []
            assert box.app.board.quarantined_messages == 1
            [m] = box.app.quarantine.listed()
            assert box.app_viewer().state(m).quarantined.startswith("damaged")
            [r] = box.app.index.recipients_of(m)
            box.app.settler.finish(r, 5, reason="removed_by_operator")
            await box.settled()
            assert box.app.board.quarantined_messages == 0
            assert box.counters()["removed"] == 1
            await box.audit()
        await mx.stop()

    run(work)


def test_a_settlement_that_fails_in_the_relay_itself_is_held_not_lost(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx(at("BODY", "451 later"))
        async with WorkerBox(tmp_path, [await mx.start()]) as box:

            def broken(*rest: object) -> None:
                raise RuntimeError("a bug")

            box.app.engine.cold.settle = broken
            await box.accepted(["a@one.test"])
            await box.until(lambda: box.places() == {"quarantined": 1})
            assert box.counters()["queued"] == 1
            await box.audit()
        await mx.stop()

    run(work)


def test_what_waits_too_long_expires_wherever_it_waits(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx(at("CONNECT", "450 closed"))
        async with WorkerBox(tmp_path, [await mx.start()], retry={"expire": 3600, "jitter": 0.0}) as box:
            box.app.board.set_suspensions([{"id": "s1", "selectors": {"domain": "held.test"}}])
            await box.accepted(["backoff@one.test", "held@held.test"])
            await box.until(lambda: box.places() == {"ready": 1, "suspended": 1})
            domain = box.app.index.domain(b"nowhere.test")
            domain.wait_until, domain.resolving = box.clock.monotonic() + 1e6, True
            await box.accepted(["dns@nowhere.test"])
            assert box.places() == {"ready": 1, "suspended": 1, "dns": 1}
            box.clock.advance(3700)
            box.app.board.sweep(box.clock.monotonic())
            await box.settled()
            assert box.counters()["expired"] == 3
            assert box.places() == {}
            await box.audit()
        await mx.stop()

    run(work)


def test_an_operator_ends_a_message_whose_record_is_gone(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx(at("RCPT", "450 later"))
        async with WorkerBox(tmp_path, [await mx.start()]) as box:
            await box.accepted(["a@one.test"])
            await box.settled()
            [r] = box.app.index.recipients_of(0)
            box.app.record = lambda spool, msgid: None  # type: ignore[method-assign]
            box.app.settler.finish(r, 5, reason="removed_by_operator")
            await box.settled()
            assert box.counters()["removed"] == 1
            assert box.events()[-1]["domain"] == "one.test"
        await mx.stop()

    run(work)
