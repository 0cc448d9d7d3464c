"""A pool of a cold and a warm source: the cold one sends its day's cap, the rest goes by the warm one or waits."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from support.worker import Mx, WorkerBox, run

COLD, WARM = "127.0.0.21", "127.0.0.22"
CAP = 200


def two_sources(**plan: Any) -> dict[str, Any]:
    """A configuration with a cold source and a warm one."""
    return {
        "sources": [
            {"name": "cold", "address": COLD, "warmup": "slow"},
            {"name": "warm", "address": WARM},
        ],
        "pools": {"default": ["cold", "warm"]},
        "warmup": {"slow": {"stages": [CAP], "spread": 0} | plan},
    }


def open_day(box: WorkerBox, period: int = 1, cap: int = CAP) -> None:
    """What the governor does at the beginning of a day."""
    assert box.table.set_cap(box.table.cell(b"cap:cold:*"), period, cap)


async def submitted(box: WorkerBox, count: int) -> None:
    """Accepts so many messages of one recipient."""
    clients = [box.submit([f"r{n}@one.test"]) for n in range(count)]
    await box.until(lambda: all(client.replies for client in clients))
    assert all(client.replies[0].startswith(b"250") for client in clients)


def delivered_by(box: WorkerBox) -> Counter[str]:
    """Recipients delivered, by source; every one at the first attempt."""
    found = [event for event in box.events() if event["event"] == "delivered"]
    assert {event["attempt"] for event in found} <= {1}
    return Counter(event["source"] for event in found)


def test_what_is_above_the_cap_goes_by_the_warm_source_and_burns_no_attempt(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx()
        async with WorkerBox(tmp_path, [await mx.start()], **two_sources()) as box:
            open_day(box)
            await submitted(box, 1000)
            await box.settled()
            assert delivered_by(box) == {"cold": CAP, "warm": 1000 - CAP}
            assert box.table.cap_used(box.table.cell(b"cap:cold:*")) == CAP
            await box.audit()

    run(work)


def test_less_than_the_cap_goes_by_the_cold_source_alone(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx()
        async with WorkerBox(tmp_path, [await mx.start()], **two_sources()) as box:
            open_day(box)
            await submitted(box, CAP - 50)
            await box.settled()
            assert delivered_by(box) == {"cold": CAP - 50}

    run(work)


def test_without_overflow_the_rest_waits_with_the_cap_as_its_reason_until_the_next_day(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx()
        async with WorkerBox(tmp_path, [await mx.start()], **two_sources(overflow=False)) as box:
            open_day(box)
            await submitted(box, 1000)
            await box.until(lambda: len(mx.recipients()) == CAP)
            await box.until(lambda: box.reasons() == {"warmup_cap": 1000 - CAP})
            box.app.own_spool.drain()
            waiting = box.app.index.select(0, 2000)[1]
            assert [box.app.index.recipient_info(r)[4] for r in waiting] == [0] * (1000 - CAP)
            box.pass_time(3600)
            await box.until(lambda: box.reasons() == {"warmup_cap": 1000 - CAP})
            assert len(mx.recipients()) == CAP
            told = box.app_viewer().why(box.app.index.recipient_info(waiting[0])[0])
            assert told[0]["reason"] == "warmup_cap"
            assert "source cold" in told[0]["detail"]
            open_day(box, period=2, cap=10_000)
            box.pass_time(2)
            await box.settled()
            assert delivered_by(box) == {"cold": 1000}

    run(work)


def test_a_cold_source_that_cannot_send_leaves_its_share_to_the_warm_one(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx(lambda verb, argument, talk: "554 5.7.1 go away" if talk.peer == COLD and verb == "CONNECT" else "")
        async with WorkerBox(tmp_path, [await mx.start()], **two_sources()) as box:
            open_day(box)
            await submitted(box, 50)
            await box.settled()
            assert delivered_by(box) == {"warm": 50}

    run(work)


def test_a_retry_of_a_cold_source_goes_by_the_warm_one_once_the_cap_is_used(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx(lambda verb, argument, talk: "450 4.2.0 greylisted" if verb == "RCPT" else "")
        async with WorkerBox(tmp_path, [await mx.start()], **two_sources()) as box:
            open_day(box, cap=1)
            await box.accepted(["r@one.test"])
            await box.settled()
            assert mx.talks[-1].peer == COLD
            await box.hang_up()
            mx.reply = lambda verb, argument, talk: ""
            box.pass_time(700)
            await box.settled()
            assert mx.talks[-1].peer == WARM
            assert mx.recipients() == ["r@one.test"]

    run(work)


def test_a_source_that_is_warm_by_now_is_one_among_equals(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx()
        async with WorkerBox(tmp_path, [await mx.start()], **two_sources()) as box:
            box.app.set_limits({"warmup": [{"source": "cold", "key": "*", "cold": False}]})
            await submitted(box, 200)
            await box.settled()
            assert set(delivered_by(box)) == {"cold", "warm"}

    run(work)


def test_the_cap_holds_over_two_workers_and_a_restart(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx()
        host = await mx.start()
        boxes = [WorkerBox(tmp_path, [host], slot=0, slots=2, **two_sources(overflow=False))]
        boxes.append(WorkerBox(tmp_path, [host], boxes[0].clock, slot=1, slots=2, **two_sources(overflow=False)))
        open_day(boxes[0])
        for box in boxes:
            await box.start()
            await submitted(box, 300)
        await boxes[0].until(lambda: len(mx.recipients()) == CAP)
        for box in boxes:
            await box.until(lambda box=box: set(box.reasons()) == {"warmup_cap"})
            await box.app.drain(0.0)
            box.app._timer = None
        async with WorkerBox(tmp_path, [host], boxes[0].clock, slot=0, slots=2, **two_sources(overflow=False)) as again:
            await again.until(lambda: set(again.reasons()) == {"warmup_cap"})
            assert len(mx.recipients()) == CAP

    run(work)
