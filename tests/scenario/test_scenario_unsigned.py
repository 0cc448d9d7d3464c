"""A DKIM key goes away: mail waits, says why, survives, and is signed once the key is back. None leaves unsigned."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.dkim_keys import key_file, pem, records_of, rsa_key, signer_for, verdicts
from support.worker import Client, Mx, WorkerBox, envelope_of, run

from fastrelay.clock import SimulatedClock
from fastrelay.config.security import Dkim, DkimKey
from fastrelay.ingest.sealing import LOOK_SECONDS

WALL = 1_750_000_000.0  # dkimpy takes no signature of the future
CONTENT = b"From: News <a@news.example>\r\nSubject: x\r\n\r\nhello\r\n\r\n"


class Desk:
    """A worker with one key in a file that comes and goes."""

    def __init__(self, folder: Path, **keys: Any) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.file = Path(key_file(folder, "s1.pem", rsa_key()))
        self.dkim = Dkim(keys=[DkimKey(domain="news.example", selector="s1", key=str(self.file))])
        self.records = records_of(signer_for(self.dkim))
        self.clock = SimulatedClock(WALL)
        self.keys = keys

    def box(self, host: str, missing_key: str = "wait", **keys: Any) -> WorkerBox:
        one = {"domain": "news.example", "selector": "s1", "key": str(self.file)}
        dkim = {"keys": [one], "missing_key": missing_key} | self.keys.get("dkim", {})
        others = {name: value for name, value in self.keys.items() if name != "dkim"}
        return WorkerBox(self.folder / "relay", [host], self.clock, **{"dkim": dkim} | others | keys)

    def lose(self, box: WorkerBox | None = None) -> None:
        self.file.unlink()
        self.look(box)

    def find(self, box: WorkerBox | None = None) -> None:
        self.file.touch(mode=0o600)
        self.file.write_bytes(pem(rsa_key()))
        self.look(box)

    def look(self, box: WorkerBox | None) -> None:
        """So much time passes that the key files were looked at."""
        for _ in range(LOOK_SECONDS if box is not None else 0):
            box.pass_time(1)  # type: ignore[union-attr]

    def signed(self, mx: Mx) -> bool:
        return all(verdicts(content, self.records, 1) == [True] for _, content in mx.accepted)


def waiting(box: WorkerBox) -> int:
    return box.places().get("no_dkim_key", 0)


def test_it_waits_and_is_signed(tmp_path: Path) -> None:
    async def work() -> None:
        desk, mx = Desk(tmp_path), Mx()
        async with desk.box(await mx.start()) as box:
            desk.lose(box)
            id = await box.accepted(["joe@example.test", "ann@example.test"], content=CONTENT)
            assert box.places() == box.reasons() == {"no_dkim_key": 2}
            assert mx.talks == [], "no connection for mail that can't leave"
            viewer = box.app_viewer()
            [m] = [m for m in range(4) if box.app.index.message_info(m) is not None]
            full = viewer.full(m)
            assert (full["id"], full["reason"]) == (id, "no_dkim_key")
            assert full["trace"].startswith("Received: ")
            [first, _] = viewer.why(m)
            assert first["reason"] == "no_dkim_key"
            assert "s1._domainkey.news.example" in first["detail"]
            assert viewer.summary()["by_reason"] == {"no_dkim_key": 2}
            box.pass_time(2)
            desk.find(box)
            await box.until(lambda: len(mx.recipients()) == 2)
            await box.settled()
            assert desk.signed(mx)
            assert mx.accepted[0][1].endswith(CONTENT)
            await box.audit()

    run(work)


def test_across_a_restart_and_a_crash(tmp_path: Path) -> None:
    async def work() -> None:
        desk, mx = Desk(tmp_path, compose={"add": ["date", "message_id"]}), Mx()
        host = await mx.start()
        async with desk.box(host) as box:
            desk.lose(box)
            await box.accepted(["joe@example.test"], content=CONTENT)
        box = await desk.box(host).start()
        assert waiting(box) == 1
        await box.accepted(["ann@example.test"], content=CONTENT)
        await box.crash()
        box = await desk.box(host).start()
        assert waiting(box) == 2
        await box.crash()
        desk.find()  # while nobody looks
        async with desk.box(host) as box:
            await box.until(lambda: len(mx.recipients()) == 2)
            await box.settled()
            assert sorted(mx.recipients()) == ["ann@example.test", "joe@example.test"]
            assert desk.signed(mx)
            assert all(b"Message-ID: <" in content for _, content in mx.accepted)
            await box.audit()

    run(work)


def test_a_deferred_message_is_signed_at_each_attempt(tmp_path: Path) -> None:
    async def work() -> None:
        answers = iter(["450 4.2.1 later", "450 4.2.1 later"])
        desk, mx = Desk(tmp_path), Mx(lambda verb, *_: next(answers, "") if verb == "BODY" else "")
        async with desk.box(await mx.start()) as box:
            desk.lose(box)
            await box.accepted(["joe@example.test"], content=CONTENT)
            desk.find(box)
            await box.until(lambda: "retry_backoff" in box.places())
            box.pass_time(700)
            await box.until(lambda: mx.commands.count("DATA") == 2 and box.places() == {"retry_backoff": 1})
            desk.lose(box)
            box.pass_time(1500)
            await box.until(lambda: waiting(box) == 1)
            assert mx.accepted == []
            desk.find(box)
            await box.until(mx.recipients)
            await box.settled()
            assert desk.signed(mx)
            times = {re.search(rb" t=(\d+)", content)[1] for _, content in mx.accepted}  # type: ignore[index]
            assert times == {b"%d" % desk.clock.wall()}

    run(work)


def test_it_expires_while_it_waits(tmp_path: Path) -> None:
    async def work() -> None:
        desk, mx = Desk(tmp_path, retry={"expire": 3600.0}), Mx()
        async with desk.box(await mx.start()) as box:
            desk.lose(box)
            await box.accepted(["joe@example.test"], content=CONTENT)
            box.pass_time(3700)
            box.app.board.sweep(desk.clock.monotonic())
            await box.settled()
            assert box.counters()["expired"] == 1
            assert mx.talks == []

    run(work)


def test_large_contents_too(tmp_path: Path) -> None:
    async def work() -> None:
        desk, mx = (
            Desk(tmp_path, spool={"large_message": 20_000, "reserve": 0, "ballast": 0, "map_size": 1 << 28}),
            Mx(),
        )
        async with desk.box(await mx.start()) as box:
            desk.lose(box)
            content = CONTENT + b"line \t x\r\n" * 5000 + b"\r\n\r\n"
            reply = await submitted(box, content)
            assert reply.startswith("250 "), reply
            await box.until(lambda: waiting(box) == 1)
            reload(box, desk, canonicalization="simple/simple")  # hashed in the old form, signed in the old form
            desk.find(box)
            await box.until(mx.recipients)
            await box.settled()
            assert desk.signed(mx)
            assert mx.accepted[0][1].endswith(content)
            assert b"c=simple/relaxed" in mx.accepted[0][1]
            assert (await submitted(box, content)).startswith("250 ")
            await box.until(lambda: len(mx.accepted) == 2)
            assert b"c=simple/simple" in mx.accepted[1][1]
            assert desk.signed(mx)

    run(work)


async def submitted(box: WorkerBox, content: bytes) -> str:
    """A message over SMTP; the final reply."""
    host, _, port = box.config.listeners.smtp[0].bind.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    reply = await reader.readline()
    for line in (b"HELO c.test", b"MAIL FROM:<r@news.example>", b"RCPT TO:<joe@example.test>", b"DATA"):
        writer.write(line + b"\r\n")
        reply = await reader.readline()
    assert reply.startswith(b"354"), reply
    writer.write(content + b".\r\n")
    reply = await reader.readline()
    writer.close()
    return reply.decode()


def reload(box: WorkerBox, desk: Desk, **changes: Any) -> None:
    box.config = msgspec.structs.replace(box.config, dkim=msgspec.structs.replace(box.config.dkim, **changes))
    box.app.reload(box.config)


@pytest.mark.parametrize("how", ["unsigned", "key removed"])
def test_the_operator_may_let_it_go_unsigned(tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        desk, mx = Desk(tmp_path), Mx()
        async with desk.box(await mx.start()) as box:
            desk.lose(box)
            await box.accepted(["joe@example.test"], content=CONTENT)
            assert waiting(box) == 1
            reload(box, desk, **({"missing_key": "unsigned"} if how == "unsigned" else {"keys": []}))
            await box.until(mx.recipients)
            await box.settled()
            content = mx.accepted[0][1]
            assert content.startswith(b"Received: ")
            assert b"DKIM-Signature" not in content

    run(work)
    assert "news.example that waited for its DKIM key leaves unsigned" in caplog.text


def test_it_is_refused_where_that_is_chosen(tmp_path: Path) -> None:
    async def work() -> None:
        desk, mx = Desk(tmp_path), Mx()
        async with desk.box(await mx.start(), "refuse") as box:
            desk.lose(box)
            assert box.submit(["joe@example.test"], content=CONTENT).replies[0].startswith(b"451 4.7.5 ")
            desk.find(box)
            await box.accepted(["joe@example.test"], content=CONTENT)
            await box.settled()
            assert desk.signed(mx)
            assert len(mx.accepted) == 1

    run(work)


def test_suspended_quarantined_and_held_mail_waits_for_its_key_next(tmp_path: Path) -> None:
    async def work() -> None:
        desk, mx = Desk(tmp_path), Mx()
        async with desk.box(await mx.start()) as box:
            desk.lose(box)
            box.app.board.set_suspensions([{"id": "1", "selectors": {"domain": "example.test"}}])
            await box.accepted(["joe@example.test"], content=CONTENT)
            assert box.places() == {"suspended": 1}
            box.app.board.set_suspensions([])
            await box.until(lambda: waiting(box) == 1)
            await box.accepted(
                ["ann@example.test"], content=b"X-Fastrelay-Not-Before: 2025-06-15T15:10:00Z\r\n" + CONTENT
            )
            assert box.places() == {"no_dkim_key": 1, "not_before": 1}
            box.pass_time(3600)
            await box.until(lambda: waiting(box) == 2)
            assert mx.talks == []
            desk.find(box)
            await box.until(lambda: len(mx.recipients()) == 2)
            assert desk.signed(mx)

    run(work)


def test_mail_of_others_does_not_wait(tmp_path: Path) -> None:
    async def work() -> None:
        desk, mx = Desk(tmp_path), Mx()
        async with desk.box(await mx.start()) as box:
            desk.lose(box)
            await box.accepted(["joe@example.test"], content=CONTENT)
            await box.accepted(["ann@example.test"], content=CONTENT.replace(b"news.example", b"other.example"))
            await box.settled()
            assert mx.recipients() == ["ann@example.test"]
            assert waiting(box) == 1

    run(work)


def test_a_key_that_is_lost_between_accept_and_commit(tmp_path: Path) -> None:
    """Signed at accept, so nothing waits; and the other way round, the key is back before the commit."""

    async def work() -> None:
        desk, mx = Desk(tmp_path), Mx()
        async with desk.box(await mx.start()) as box:
            client = box.submit(["joe@example.test"], content=CONTENT)
            desk.lose(box)
            await box.until(lambda: client.replies)
            await box.settled()
            assert len(mx.accepted) == 1
            second = Client()
            envelope = envelope_of("r@news.example", ["ann@example.test"], CONTENT)
            box.app.engine.accept(second, envelope, b"127.0.0.1", b"Received: x id ", None, desk.clock.monotonic())
            desk.find(box)
            await box.until(lambda: len(mx.accepted) == 2)
            assert desk.signed(mx)

    run(work)


def test_a_block_that_is_damaged_holds_the_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        desk, mx = Desk(tmp_path), Mx()
        async with desk.box(await mx.start()) as box:
            desk.lose(box)
            await box.accepted(["joe@example.test"], content=CONTENT)

            def damaged(prefix: bytes) -> Any:
                raise ValueError("the block is damaged")

            monkeypatch.setattr("fastrelay.schedule.unsigned.split", damaged)
            desk.find(box)
            await box.until(lambda: box.places() == {"quarantined": 1})
            await box.hang_up()
            assert mx.accepted == []

    run(work)
