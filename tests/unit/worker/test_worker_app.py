"""A worker as a whole: what is accepted ends once, retries keep their times, and a restart goes on where it was."""

from __future__ import annotations

import itertools
from pathlib import Path

from support.worker import Mx, Talk, WorkerBox, run

HOUR = 3600.0


def test_a_message_is_delivered_and_accounted_for(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx()
        async with WorkerBox(tmp_path, [await mx.start()]) as box:
            await box.accepted(
                ["a@one.test", "b@one.test", "c@two.test"], content=b"Subject: x\r\n\r\n.dot\r\n..two\r\n"
            )
            await box.settled()
            assert box.counters() == {
                "accepted": 3, "delivered": 3, "failed": 0, "expired": 0, "suppressed": 0, "removed": 0, "queued": 0,
            }  # fmt: skip
            await box.audit()
            [(recipients, content)] = mx.accepted
            assert recipients == ["a@one.test", "b@one.test", "c@two.test"]
            assert content.startswith(b"Received: test id ")
            assert content.endswith(b"Subject: x\r\n\r\n.dot\r\n..two\r\n")
        await mx.stop()
        kinds = [event["event"] for event in box.events()]
        assert kinds == ["accepted", "delivered", "delivered", "delivered"]
        assert box.app.table.used(1) == 0  # every connection was given back

    run(work)


def test_a_week_of_retries_in_no_time(tmp_path: Path) -> None:
    """Delays double from 10 minutes to 4 hours; after a week the recipient expires, and not before."""

    def reply(verb: str, argument: str, talk: Talk) -> str:
        if verb == "RCPT":
            attempts.append(box.clock.monotonic() - began)
            return "451 4.7.1 come back later"
        return ""

    async def work() -> None:
        nonlocal box, began
        mx = Mx(reply)
        box = WorkerBox(tmp_path, [await mx.start()], retry={"jitter": 0.0, "expire": 7 * 24 * HOUR})
        async with box:
            began = box.clock.monotonic()
            await box.accepted(["a@one.test"])
            await box.settled()
            while box.app.index.queued_recipients:
                box.pass_time(600)
                await box.settled()
            assert box.counters()["expired"] == 1
            await box.audit()
        await mx.stop()
        expired = box.events()[-1]
        assert expired["event"] == "expired"
        assert 7 * 24 * HOUR < expired["queued_seconds"] <= 7 * 24 * HOUR + 4 * HOUR + 600
        assert "come back later" in expired["reply"]

    box: WorkerBox = None  # type: ignore[assignment]
    began = 0.0
    attempts: list[float] = []
    run(work)
    gaps = [round((later - earlier) / 600) for earlier, later in itertools.pairwise(attempts)]
    assert gaps[:6] == [1, 2, 4, 8, 16, 24]
    assert set(gaps[6:]) == {24}


def test_some_recipients_delivered_then_a_crash_gives_exactly_the_rest(tmp_path: Path) -> None:
    def reply(verb: str, argument: str, talk: Talk) -> str:
        if verb == "RCPT":
            if "fail" in argument:
                return "550 5.1.1 no such user"
            if "wait" in argument and not open_now:
                return "450 4.2.0 greylisted"
        return ""

    open_now = False

    async def work() -> None:
        nonlocal open_now
        mx = Mx(reply)
        host = await mx.start()
        names = ["a@one.test", "wait1@one.test", "b@two.test", "fail@two.test", "wait2@one.test"]
        box = WorkerBox(tmp_path, [host])
        await box.start()
        await box.accepted(names)
        await box.settled()
        assert sorted(mx.recipients()) == ["a@one.test", "b@two.test"]
        await box.crash()
        open_now = True
        again = WorkerBox(tmp_path, [host], clock=box.clock)
        async with again:
            assert again.places() == {"retry_backoff": 2}
            again.pass_time(599)
            await again.settled()
            assert len(mx.recipients()) == 2
            again.pass_time(2)
            await again.settled()
            assert sorted(mx.recipients()) == ["a@one.test", "b@two.test", "wait1@one.test", "wait2@one.test"]
            counters = again.counters()
            assert (counters["accepted"], counters["delivered"], counters["failed"], counters["queued"]) == (5, 4, 1, 0)
            await again.audit()
        await mx.stop()
        assert not any("possible_duplicate" in event for event in again.events())
        keys = [event["key"] for event in again.events()]
        assert len(keys) == len(set(keys)) == 1 + 5 + 2

    run(work)


def test_a_final_reply_lost_in_a_crash_is_flagged_and_nothing_else_is(tmp_path: Path) -> None:
    def reply(verb: str, argument: str, talk: Talk) -> str:
        return ""

    async def work() -> None:
        mx = Mx(reply)
        host = await mx.start()
        box = WorkerBox(tmp_path, [host])
        await box.start()
        await box.accepted(["a@one.test"])
        await box.settled()
        mx.reply = lambda verb, argument, talk: "451 4.0.0 later" if "two" in argument else ""
        await box.accepted(["later@two.test"])
        await box.settled()
        silent = Silent()
        mx.reply = silent
        await box.accepted(["lost@one.test"])
        await box.until(lambda: silent.bodies)
        await box.crash()
        mx.reply = reply
        again = WorkerBox(tmp_path, [host], clock=box.clock)
        async with again:
            again.pass_time(600)
            await again.settled()
            assert again.counters()["queued"] == 0
            await again.audit()
        await mx.stop()
        flagged = [event["recipient"] for event in again.events() if event.get("possible_duplicate")]
        assert flagged == ["lost@one.test"]

    run(work)


class Silent:
    """Takes a body and says nothing for ever: what a reader sees of a host that died."""

    def __init__(self) -> None:
        self.bodies = 0

    def __call__(self, verb: str, argument: str, talk: Talk) -> str:
        if verb == "BODY":
            self.bodies += 1
            return "250-still thinking"
        return ""


def test_two_crashes_with_a_message_in_hand_quarantine_it(tmp_path: Path) -> None:
    async def work() -> None:
        silent = Silent()
        mx = Mx(silent)
        host = await mx.start()
        box = WorkerBox(tmp_path, [host])
        await box.start()
        await box.accepted(["poison@one.test"])
        await box.until(lambda: silent.bodies == 1)
        await box.crash()
        box = WorkerBox(tmp_path, [host], clock=box.clock)
        await box.start()
        await box.until(lambda: silent.bodies == 2)
        box.app.own_spool.drain()
        await box.crash()
        box = WorkerBox(tmp_path, [host], clock=box.clock)
        async with box:
            assert box.places() == {"quarantined": 1}
            assert box.app.board.quarantined_messages == 1
            assert box.app_viewer().summary()["by_reason"] == {"quarantined": 1}
            mx.reply = lambda verb, argument, talk: ""
            [m] = box.app.quarantine.listed()
            assert box.app.quarantine.release(m) == 1
            await box.settled()
            assert box.counters()["delivered"] == 1
            assert box.app.board.quarantined_messages == 0
            await box.audit()
        await mx.stop()
        assert box.events()[-1]["possible_duplicate"] is True

    run(work)


def test_power_loss_flags_what_was_due_and_only_that(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx(lambda verb, argument, talk: "451 4.0.0 later" if verb == "RCPT" and "later" in argument else "")
        host = await mx.start()
        box = WorkerBox(tmp_path, [host])
        await box.start()
        await box.accepted(["later@one.test"])
        await box.settled()
        await box.hang_up()
        mx.reply = lambda verb, argument, talk: "421 4.3.2 closed" if verb == "CONNECT" else ""
        await box.accepted(["due@one.test"])
        await box.until(lambda: box.places() == {"retry_backoff": 1, "ready": 1})
        await box.crash()
        box.clock.reboot(10)
        mx.reply = lambda verb, argument, talk: ""
        (tmp_path / "table").unlink()
        again = WorkerBox(tmp_path, [host], clock=box.clock)
        async with again:
            await again.until(lambda: again.counters()["delivered"] == 1)
            again.pass_time(600)
            await again.settled()
            assert again.counters()["delivered"] == 2
            await again.accepted(["new@one.test"])
            await again.settled()
        await mx.stop()
        flagged = [event["recipient"] for event in again.events() if event.get("possible_duplicate")]
        assert flagged == ["due@one.test"]

    run(work)
