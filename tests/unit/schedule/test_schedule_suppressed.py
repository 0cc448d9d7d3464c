"""Who is on the suppression list is not sent to: after the commit, at each pull, and never unlooked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.worker import Mx, WorkerBox, run

from fastrelay._core.lmdb import Environment, LmdbError
from fastrelay.feedback.suppression import ENTRIES, NAMES, Entry, SuppressionList, address_key

CONTENT = b"From: News <a@From.example>\r\nSubject: x\r\n\r\nhello\r\n"


class Shared:
    """The list that the feedback process would write, and its reading end for a worker in this process."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.environment = Environment(str(folder / "feedback"), (ENTRIES, NAMES), map_bytes=1 << 26)
        self.list = SuppressionList(self.environment, 10_000)
        self.broken = False
        self.looked_at = 0

    def add(
        self, address: str, scope: str = "global", value: bytes = b"", reason: str = "manual", expires: int = 0
    ) -> None:
        self.list.add([Entry(address_key(address.encode()), scope, value, reason, "test", 1, expires)], replace=True)

    def clear(self, address: str) -> None:
        self.list.remove(self.list.entries(address_key(address.encode())))

    def get(self, database: str, key: bytes) -> bytes | None:
        self.looked_at += 1
        if self.broken:
            raise LmdbError("get", 5, "the list")
        return self.environment.get(database, key)

    def count(self, database: str) -> int:
        if self.broken:
            raise LmdbError("count", 5, "the list")
        return self.environment.count(database)

    def close(self) -> None:
        """A worker's end of it."""


async def begun(folder: Path, shared: Shared, mx: Mx, **keys: Any) -> WorkerBox:
    box = WorkerBox(folder, [await mx.start()], **keys)
    box.app.suppression.open_reader = lambda path: shared
    return box


def suppressed(box: WorkerBox) -> list[tuple[str, str, str]]:
    return [
        (event["recipient"], event["suppression_reason"], event["suppression_scope"])
        for event in box.events()
        if event["event"] == "suppressed"
    ]


def test_an_empty_list_asks_nobody(tmp_path: Path) -> None:
    async def story() -> None:
        shared, mx = Shared(tmp_path / "state"), Mx()
        box = await begun(tmp_path / "state", shared, mx)
        async with box:
            assert box.app.engine.suppression is None
            await box.accepted(["joe@x.example"])
            await box.settled()
            assert mx.recipients() == ["joe@x.example"]
            assert shared.looked_at == 0
        await mx.stop()
        shared.environment.close()

    run(story)


def test_at_acceptance(tmp_path: Path) -> None:
    async def story() -> None:
        shared, mx = Shared(tmp_path / "state"), Mx()
        shared.add("Joe@x.example", reason="complaint")
        shared.add("bad.example")
        box = await begun(tmp_path / "state", shared, mx)
        async with box:
            await box.accepted(["joe@X.example"])
            await box.accepted(["mary@x.example", "JOE@x.example", "ann@bad.example", "sue@sub.bad.example"])
            await box.settled()
            assert sorted(mx.recipients()) == ["mary@x.example", "sue@sub.bad.example"]
            assert suppressed(box) == [
                ("joe@X.example", "complaint", "global"),
                ("JOE@x.example", "complaint", "global"),
                ("ann@bad.example", "manual", "global"),
            ]
            counters = box.counters()
            assert (counters["accepted"], counters["suppressed"], counters["delivered"]) == (5, 3, 2)
            await box.audit()
        await mx.stop()
        shared.environment.close()

    run(story)


def test_again_before_it_is_sent(tmp_path: Path) -> None:
    """An entry that came while the mail waited for its retry."""

    async def story() -> None:
        def reply(verb: str, argument: str, talk: Any) -> str:
            return "451 4.2.1 later" if verb == "RCPT" and not done else ""

        done: list[bool] = []
        shared, mx = Shared(tmp_path / "state"), Mx(reply)
        shared.add("other@x.example")
        box = await begun(tmp_path / "state", shared, mx)
        async with box:
            await box.accepted(["joe@x.example", "mary@x.example"])
            await box.settled()
            assert box.places() == {"retry_backoff": 2}
            shared.add("joe@x.example", reason="unsubscribe")
            done.append(True)
            box.pass_time(3600)
            await box.settled()
            assert mx.recipients() == ["mary@x.example"]
            assert suppressed(box) == [("joe@x.example", "unsubscribe", "global")]
            await box.audit()
        await mx.stop()
        shared.environment.close()

    run(story)


@pytest.mark.parametrize("everybody", [True, False])
def test_after_a_restart_content_is_not_even_read(tmp_path: Path, everybody: bool) -> None:
    async def story() -> None:
        shared, mx = (
            Shared(tmp_path / "state"),
            Mx(lambda verb, argument, talk: "451 4.2.1 later" if verb == "RCPT" else ""),
        )
        first = await begun(tmp_path / "state", shared, mx)
        async with first:
            await first.accepted(["joe@x.example", "mary@x.example"])
            await first.settled()
        await mx.stop()
        first.clock.advance(7200)
        shared.add("joe@x.example")
        if everybody:
            shared.add("mary@x.example")
        mx = Mx()
        second = await begun(tmp_path / "state", shared, mx, clock=first.clock)
        async with second:
            second.pass_time(7200)
            await second.settled()
            assert mx.recipients() == ([] if everybody else ["mary@x.example"])
            assert second.counters()["suppressed"] == 1 + everybody
            await second.audit()
        await mx.stop()
        shared.environment.close()

    run(story)


@pytest.mark.parametrize(
    ("scope", "value", "stopped"),
    [
        ("tenant", b"acme", True),
        ("tenant", b"other", False),
        ("tenant", b"", False),
        ("sender", b"a.test", True),
        ("sender", b"from.example", True),
        ("sender", b"other.example", False),
    ],
)
def test_scopes(tmp_path: Path, scope: str, value: bytes, stopped: bool) -> None:
    async def story() -> None:
        shared, mx = Shared(tmp_path / "state"), Mx()
        shared.add("joe@x.example", scope, value)
        box = await begun(tmp_path / "state", shared, mx)
        async with box:
            await box.accepted(["joe@x.example"], content=b"X-Fastrelay-Tenant: acme\r\n" + CONTENT)
            await box.settled()
            assert bool(suppressed(box)) == stopped
            assert bool(mx.recipients()) != stopped
        await mx.stop()
        shared.environment.close()

    run(story)


def test_from_is_read_from_the_disk_where_it_is_not_in_memory(tmp_path: Path) -> None:
    async def story() -> None:
        shared, mx = Shared(tmp_path / "state"), Mx()
        shared.add("joe@x.example", "sender", b"from.example")
        box = await begun(tmp_path / "state", shared, mx)
        async with box:
            box.app.engine.hot_limit = 0
            await box.accepted(["joe@x.example"], content=CONTENT)
            await box.accepted(["joe@x.example"], content=CONTENT.replace(b"From.", b"Else."))
            await box.settled()
            assert len(suppressed(box)) == len(mx.recipients()) == 1
        await mx.stop()
        shared.environment.close()

    run(story)


def test_expired_entries_and_spared_reasons_stop_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        shared, mx = Shared(tmp_path / "state"), Mx()
        box = await begun(tmp_path / "state", shared, mx)
        async with box:
            wall = int(box.clock.wall())
            shared.add("old@x.example", expires=wall - 1)
            shared.add("new@x.example", expires=wall + 100)
            shared.add("out@x.example", reason="unsubscribe")
            box.pass_time(1)
            for one in ("old", "new", "out"):
                await box.accepted([f"{one}@x.example"])
            await box.accepted(["out@x.example"], content=b"X-Fastrelay-Priority: transactional\r\n" + CONTENT)
            await box.settled()
            assert sorted(mx.recipients()) == ["old@x.example", "out@x.example"]
            assert [one for one, *_ in suppressed(box)] == ["new@x.example", "out@x.example"]
            box.pass_time(100)
            await box.accepted(["new@x.example"])
            await box.settled()
            assert "new@x.example" in mx.recipients()
        await mx.stop()
        shared.environment.close()

    run(story)


def test_where_the_list_cannot_be_read_nobody_is_sent_to(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        shared, mx = Shared(tmp_path / "state"), Mx()
        shared.add("joe@x.example")
        box = await begun(tmp_path / "state", shared, mx)
        async with box:
            shared.broken = True
            await box.accepted(["joe@x.example", "mary@x.example"])
            await box.settled()
            assert box.places() == box.reasons() == {"suppression": 2}
            [m] = [m for m in range(4) if box.app.index.message_info(m) is not None]
            assert {one["reason"] for one in box.app_viewer().why(m)} == {"suppression"}
            box.pass_time(1)
            assert mx.recipients() == []
            assert "can't be read" in caplog.text
            caplog.clear()
            shared.broken = False
            box.pass_time(1)
            await box.until(lambda: mx.recipients())
            await box.settled()
            assert (mx.recipients(), suppressed(box)) == (["mary@x.example"], [("joe@x.example", "manual", "global")])
            await box.audit()
        await mx.stop()
        shared.environment.close()

    run(story)


def test_a_list_that_can_never_be_opened_holds_all_mail_until_it_is_switched_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        shared, mx = Shared(tmp_path / "state"), Mx()
        shared.broken = True
        box = await begun(tmp_path / "state", shared, mx)
        async with box:
            await box.accepted(["mary@x.example"])
            await box.settled()
            assert box.reasons() == {"suppression": 1}
            assert "suppression.enabled" in caplog.text
            caplog.clear()
            box.app.suppression._enabled = False
            box.pass_time(1)
            await box.until(lambda: mx.recipients())
            await box.settled()
        await mx.stop()
        shared.environment.close()

    run(story)


def test_without_a_feedback_process_there_is_no_list(tmp_path: Path) -> None:
    async def story() -> None:
        mx = Mx()
        box = WorkerBox(tmp_path / "state", [await mx.start()])
        async with box:
            assert box.app.engine.suppression is None
            await box.accepted(["joe@x.example"])
            await box.settled()
            assert mx.recipients() == ["joe@x.example"]
        await mx.stop()

    run(story)


def test_many_in_one_transaction_of_whom_some_are_suppressed(tmp_path: Path) -> None:

    async def story() -> None:
        shared, mx = Shared(tmp_path / "state"), Mx()
        shared.add("somebody@x.example")
        box = await begun(tmp_path / "state", shared, mx)
        async with box:
            box.app.engine.held_back = True
            await box.accepted([f"j{number}@x.example" for number in range(6)])
            for number in (0, 3, 4):
                shared.add(f"j{number}@x.example")
            box.app.engine.held_back = False
            for queue in box.app.board.sites.values():
                box.app.engine.wake(queue)
            box.tick()
            await box.settled()
            assert sorted(mx.recipients()) == ["j1@x.example", "j2@x.example", "j5@x.example"]
            assert box.counters()["suppressed"] == 3
            await box.audit()
        await mx.stop()
        shared.environment.close()

    run(story)
