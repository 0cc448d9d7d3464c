"""Expiry and not-before of a message: by header and class, through restarts, and told to people. Time is simulated."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from support.worker import Mx, WorkerBox, run

LATER = {"retry": {"first": 3600.0, "max": 3600.0, "expire": 86400.0, "jitter": 0.0}}


def rfc3339(wall: float) -> bytes:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(wall)).encode()


def letter(*fields: bytes) -> bytes:
    return b"".join(field + b"\r\n" for field in fields) + b"Subject: x\r\n\r\nhello\r\n"


def outcomes(box: WorkerBox) -> dict[str, str]:
    """{recipient: its final event}."""
    final = ("delivered", "failed", "expired")
    return {event["recipient"]: event["event"] for event in box.events() if event["event"] in final}


def test_a_message_expires_by_its_header_its_class_or_retry_expire(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx(lambda verb, argument, talk: "451 later" if verb == "RCPT" else "")
        keys: dict[str, Any] = LATER | {"fairness": {"transactional": {"expire": 600.0}}}
        async with WorkerBox(tmp_path, [await mx.start()], **keys) as box:
            await box.accepted(["own@x.test"], content=letter(b"X-Fastrelay-Expire: 5m"))
            await box.accepted(["class@x.test"], content=letter(b"X-Fastrelay-Priority: transactional"))
            await box.accepted(
                ["both@x.test"],
                content=letter(b"X-Fastrelay-Priority: transactional", b"X-Fastrelay-Expire: 20m"),
            )
            await box.accepted(["retry@x.test"])
            await box.settled()
            ended = []
            for seconds in (299, 2, 299, 2, 597, 2, 86400 - 1200):
                box.pass_time(seconds)
                box.app.board.sweep(box.clock.monotonic())
                await box.settled()
                ended.append(sorted(name.partition("@")[0] for name in outcomes(box)))
            own, by_class, both = ["own"], ["class", "own"], ["both", "class", "own"]
            assert ended == [[], own, own, by_class, by_class, both, ["retry"]]  # a day later: a new log file
            assert box.counters()["expired"] == 4
            await box.audit()

    run(work)


def test_expired_mail_is_not_sent_though_a_session_asks_before_the_sweep(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx()
        async with WorkerBox(tmp_path, [await mx.start()], **LATER) as box:
            box.app.engine.held_back = True
            await box.accepted(["late@x.test"], content=letter(b"X-Fastrelay-Expire: 10s"))
            await box.accepted(["fresh@x.test"], content=letter(b"X-Fastrelay-Expire: 1h"))
            await box.until(lambda: box.places() == {"ready": 2})
            box.pass_time(11)
            box.app.engine.held_back = False
            for site in box.app.board.sites.values():
                box.app.engine.wake(site)
            box.app.wake_soon()
            await box.settled()
            assert outcomes(box) == {"late@x.test": "expired", "fresh@x.test": "delivered"}
            assert mx.recipients() == ["fresh@x.test"]

    run(work)


def test_nothing_is_sent_before_its_time_and_people_can_see_why(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx()
        async with WorkerBox(tmp_path, [await mx.start()], **LATER) as box:
            at = rfc3339(box.clock.wall() + 100)
            await box.accepted(["a@x.test", "b@x.test"], content=letter(b"X-Fastrelay-Not-Before: " + at))
            assert box.reasons() == {"not_before": 2}
            viewer = box.app_viewer()
            [told] = {(one["reason"], one["until_seconds"]) for one in viewer.why(0)}
            assert told[0] == "not_before"
            assert 98 <= told[1] <= 100
            assert viewer.row(0)["reason"] == "not_before"
            assert viewer.full(0)["priority"] == "bulk"
            box.pass_time(98)
            await box.settled()
            assert mx.recipients() == []
            box.pass_time(3)
            await box.settled()
            assert sorted(mx.recipients()) == ["a@x.test", "b@x.test"]
            assert {event["attempt"] for event in box.events() if event["event"] == "delivered"} == {1}

    run(work)


def test_a_restart_keeps_class_times_and_pool(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx(lambda verb, argument, talk: "451 later" if verb == "RCPT" else "")
        keys: dict[str, Any] = LATER | {
            "sources": [{"name": "a", "address": "127.0.0.11"}],
            "pools": {"fast": ["a"]},
        }
        hosts = [await mx.start()]
        box = WorkerBox(tmp_path, hosts, **keys)
        await box.start()
        at = rfc3339(box.clock.wall() + 1000)
        fields = (b"X-Fastrelay-Pool: fast", b"X-Fastrelay-Priority: normal", b"X-Fastrelay-Expire: 2h")
        await box.accepted(["held@x.test"], content=letter(*fields, b"X-Fastrelay-Not-Before: " + at))
        await box.accepted(["tried@x.test"], content=letter(*fields))
        await box.settled()
        assert box.reasons() == {"not_before": 1, "retry_backoff": 1}
        await box.crash()
        clock = box.clock
        clock.advance(10)
        async with WorkerBox(tmp_path, hosts, clock=clock, **keys) as again:
            await again.settled()
            assert again.reasons() == {"not_before": 1, "retry_backoff": 1}
            viewer = again.app_viewer()
            for m in (0, 1):
                full = viewer.full(m)
                assert (full["pool"], full["priority"]) == ("fast", "normal")
                assert 7200 - 20 <= full["expires_seconds"] <= 7200 - 10
            again.pass_time(995)
            await again.settled()
            assert again.reasons() == {"retry_backoff": 2}
            again.pass_time(7200)
            again.app.board.sweep(again.clock.monotonic())
            await again.settled()
            assert set(outcomes(again).values()) == {"expired"}

    run(work)


def test_a_message_that_is_held_and_has_a_state_still_waits_for_its_time(tmp_path: Path) -> None:
    """An operator removed one of its recipients, so it has a state; and one let out of quarantine waits on."""

    async def work() -> None:
        hosts = [await Mx().start()]
        box = WorkerBox(tmp_path, hosts, **LATER)
        await box.start()
        at = rfc3339(box.clock.wall() + 1000)
        await box.accepted(["gone@x.test", "stays@x.test"], content=letter(b"X-Fastrelay-Not-Before: " + at))
        gone = box.app.index.recipients_of(0)[0]
        box.app.settler.finish(gone, 5, reason="removed")
        await box.settled()
        await box.crash()
        async with WorkerBox(tmp_path, hosts, clock=box.clock, **LATER) as again:
            await again.settled()
            assert again.reasons() == {"not_before": 1}
            again.app.quarantine.damaged(0, ValueError("a test"))
            assert again.reasons() == {"quarantined": 1}
            assert again.app.quarantine.release(0) == 1
            assert again.reasons() == {"not_before": 1}

    run(work)
