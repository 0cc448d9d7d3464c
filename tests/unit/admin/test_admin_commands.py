"""Control commands as one worker answers them, on a real queue."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from support.worker import Mx, Talk, WorkerBox, run

from fastrelay.admin.commands import CommandError, Commands
from fastrelay.admin.send import SendError


def later(verb: str, argument: str, talk: Talk) -> str:
    return "450 4.2.0 later" if verb == "RCPT" and "later" in argument else ""


async def with_deferred(box: WorkerBox, mx: Mx, names: list[str]) -> None:
    for name in names:
        await box.accepted([f"later-{name}"])
    await box.settled()


def test_flush_sends_now_what_matches(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx(later)
        async with WorkerBox(tmp_path, [await mx.start()]) as box:
            commands = Commands(box.app)
            await with_deferred(box, mx, ["a@one.test", "b@two.test", "c@two.test"])
            mx.reply = lambda verb, argument, talk: ""
            assert await commands.handle("queue.flush", {"domain": "two.test", "dry_run": True}) == {"matched": 2}
            assert mx.recipients() == []
            assert await commands.handle("queue.flush", {"domain": "two.test"}) == {"matched": 2}
            await box.settled()
            assert sorted(mx.recipients()) == ["later-b@two.test", "later-c@two.test"]
            assert box.places() == {"retry_backoff": 1}
        await mx.stop()

    run(work)


def test_remove_ends_what_matches_and_only_that(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx(later)
        async with WorkerBox(tmp_path, [await mx.start()]) as box:
            commands = Commands(box.app)
            await with_deferred(box, mx, ["a@one.test", "b@two.test"])
            message = await box.accepted(["later-c@one.test", "later-d@two.test"])
            await box.settled()
            assert await commands.handle("queue.remove", {"domain": "one.test"}) == {"matched": 2}
            await box.settled()
            assert box.counters()["removed"] == 2
            assert await commands.handle("queue.remove", {"ids": [message]}) == {"matched": 1}
            await box.settled()
            assert box.counters()["removed"] == 3
            assert box.places() == {"retry_backoff": 1}
            await box.audit()
            with pytest.raises(CommandError, match="no such message"):
                await commands.handle("queue.show", {"id": message})
        await mx.stop()

    run(work)


def test_a_number_that_is_used_again_meanwhile_is_not_ended(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx(later)
        async with WorkerBox(tmp_path, [await mx.start()]) as box:
            commands = Commands(box.app)
            await with_deferred(box, mx, ["old@one.test"])
            selected = asyncio.ensure_future(commands.handle("queue.remove", {"domain": "one.test"}))
            await asyncio.sleep(0)  # it has selected, and waits for its next turn
            [r] = box.app.index.recipients_of(0)
            box.app.settler.finish(r, 5, reason="removed_by_operator")
            await with_deferred(box, mx, ["new@two.test"])
            assert box.app.index.recipients_of(0) == [r]
            await selected
            await box.settled()
            assert box.counters()["removed"] == 1
            assert box.places() == {"retry_backoff": 1}
        await mx.stop()

    run(work)


def test_show_why_list_and_summary_agree(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx(later)
        async with WorkerBox(tmp_path, [await mx.start()]) as box:
            commands = Commands(box.app)
            message = await box.accepted(["a@one.test", "later-b@two.test"])
            await box.settled()
            shown: dict[str, Any] = (await commands.handle("queue.show", {"id": message}))["message"]
            states = {one["address"]: (one["state"], one["attempts"]) for one in shown["recipients"]}
            assert states == {"a@one.test": ("delivered", 1), "later-b@two.test": ("queued", 1)}
            assert shown["recipients"][1]["last_reply"] == "450 4.2.0 later"
            [why] = (await commands.handle("queue.why", {"id": message}))["why"]
            assert (why["recipient"], why["reason"]) == ("later-b@two.test", "retry_backoff")
            assert 590 < why["until_seconds"] <= 600
            listed = await commands.handle("queue.list", {})
            assert [(row["id"], row["queued"], row["reason"]) for row in listed["messages"]] == [
                (message, 1, "retry_backoff")
            ]
            assert listed["matched"] == 1
            summary = await commands.handle("queue.summary", {})
            ended = sum(summary[name] for name in ("delivered", "failed", "expired", "suppressed", "removed"))
            assert summary["accepted"] == ended + summary["queued"] == 2
            assert summary["by_reason"] == {"retry_backoff": 1}
            assert (await commands.handle("queue.audit", {}))["ok"]
        await mx.stop()

    run(work)


@pytest.mark.parametrize("id", ["x", "-", "nosuch-1", "ffffffffffffffffffffff", ""])
def test_ids_that_are_none(id: str, tmp_path: Path) -> None:
    async def work() -> None:
        async with WorkerBox(tmp_path, []) as box:
            for one in (id, f"{box.app.own_spool.tag}-{id}"):
                with pytest.raises(CommandError, match="no such message"):
                    await Commands(box.app).handle("queue.show", {"id": one})

    run(work)


def test_unknown_commands_and_selectors_are_refused_in_words(tmp_path: Path) -> None:
    async def work() -> None:
        async with WorkerBox(tmp_path, []) as box:
            with pytest.raises(CommandError, match="unknown command"):
                await Commands(box.app).handle("queue.dance", {})
            with pytest.raises(ValueError, match="unknown selector"):
                await Commands(box.app).handle("queue.list", {"colour": "red"})

    run(work)


def test_a_test_message_shows_the_whole_dialogue(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx(lambda verb, argument, talk: "550 5.1.1 nobody" if "nobody" in argument else "")
        async with WorkerBox(tmp_path, [await mx.start()]) as box:
            commands = Commands(box.app)
            told = await commands.handle("send", {"to": "a@one.test", "trace": True})
            assert (told["outcome"], told["reply"]) == ("delivered", "250 stored")
            said = [line["text"] for line in told["dialogue"] if line["direction"] == ">"]
            assert any(line.startswith("RCPT TO:<a@one.test>") for line in said)
            told = await commands.handle("send", {"to": "nobody@one.test"})
            assert (told["outcome"], told["reply"]) == ("failed", "550 5.1.1 nobody")
            assert box.counters()["accepted"] == 0
            mx.reply = lambda verb, argument, talk: "554 5.7.1 go away" if verb == "CONNECT" else ""
            told = await commands.handle("send", {"to": "a@one.test"})
            assert (told["outcome"], told["reply"]) == ("failed", "554 5.7.1 go away")
        await mx.stop()

    run(work)


def test_a_test_message_keeps_to_the_limits(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx(lambda verb, argument, talk: "554 go away" if verb == "CONNECT" else "")
        async with WorkerBox(tmp_path, [await mx.start()], shaping=[{"source": "*", "rate": "1/h burst 1"}]) as box:
            box.pass_time(3600)
            commands = Commands(box.app)
            told = await commands.handle("send", {"to": "a@one.test"})
            assert told["outcome"] == "failed"  # no RCPT was written: the permit is there again
            mx.reply = lambda verb, argument, talk: ""
            assert (await commands.handle("send", {"to": "a@one.test"}))["outcome"] == "delivered"
            with pytest.raises(SendError, match=r"rate_limit.*source default: 1/h.*next permit comes in 3600 s"):
                await commands.handle("send", {"to": "a@one.test"})
            assert mx.recipients() == ["a@one.test"]
        await mx.stop()

    run(work)
