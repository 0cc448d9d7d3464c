"""Back-offs that the governor orders, sources that fail alone, sessions that are closed before anything succeeded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.worker import Mx, Talk, WorkerBox, run

from fastrelay.deliver.trouble import FRUITLESS_SESSIONS

TWO_SOURCES: dict[str, Any] = {
    "sources": [{"name": "a", "address": "127.0.0.11"}, {"name": "b", "address": "127.0.0.12"}],
    "pools": {"default": ["a", "b"]},
}


async def accepted(box: WorkerBox, count: int) -> None:
    clients = [box.submit([f"r{n}@one.test"]) for n in range(count)]
    await box.until(lambda: all(client.replies for client in clients))


def backoff(box: WorkerBox, source: str, **more: Any) -> dict[str, Any]:
    """A back-off for the one site there is."""
    [site] = box.app.board.sites.values()
    until = box.clock.wall() + 600
    order = {"id": f"suspend:{source}", "source": source, "place": site.key, "until_wall": until}
    return order | {"rule": "blocked", "why": "554 5.7.1 listed"} | more


def attempts(box: WorkerBox) -> list[int]:
    index = box.app.index
    return [index.recipient_info(r)[4] for r in index.select(0, 10_000)[1]]


def test_a_source_that_backs_off_sends_nothing_until_the_order_is_taken_back(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx()
        async with WorkerBox(tmp_path, [await mx.start()], **TWO_SOURCES) as box:
            await accepted(box, 20)
            await box.settled()
            box.app.set_limits({"backoffs": [backoff(box, "a")]})
            before = len(mx.talks)
            await accepted(box, 20)
            await box.settled()
            assert {talk.peer for talk in mx.talks[before:]} <= {"127.0.0.12"}
            await box.until(lambda: not [one for one in box.app.sessions if one.source_name == "a"])
            box.app.set_limits({"backoffs": [backoff(box, "a"), backoff(box, "b")]})
            await accepted(box, 5)
            await box.until(lambda: box.reasons() == {"provider_backoff": 5})
            [site] = box.app.board.sites.values()
            reason, detail, seconds = box.app.board.why_site(site, box.clock.monotonic())
            assert reason == "provider_backoff"
            assert "rule blocked: 554 5.7.1 listed" in detail
            assert seconds == 600.0
            box.clock.advance(86400)  # a clock that jumps ends nothing
            box.tick()
            assert attempts(box) == [0] * 5
            box.app.set_limits({"backoffs": []})
            await box.settled()
            assert len(mx.recipients()) == 45

    run(work)


def test_a_session_that_backs_off_leaves_behind_the_message_in_hand(tmp_path: Path) -> None:
    async def work() -> None:
        ordered: list[int] = []

        def reply(verb: str, argument: str, talk: Talk) -> str:
            if verb == "BODY" and not ordered:
                ordered.append(1)
                box.app.set_limits({"backoffs": [backoff(box, "default")]})
            return ""

        mx = Mx(reply)
        box = WorkerBox(tmp_path, [await mx.start()], delivery={"connections_per_site": 1})
        async with box:
            await accepted(box, 5)
            await box.until(lambda: box.reasons() == {"provider_backoff": 4})
            assert len(mx.recipients()) == 1

    run(work)


def test_fewer_connections_hold_while_the_order_does(tmp_path: Path) -> None:
    async def work() -> None:
        most = 0

        def reply(verb: str, argument: str, talk: Talk) -> str:
            nonlocal most
            most = max(most, len(box.app.sessions))
            return ""

        mx = Mx(reply)
        async with WorkerBox(tmp_path, [await mx.start()]) as box:
            await accepted(box, 40)
            await box.settled()
            assert most > 2
            await box.hang_up()
            box.app.set_limits({"backoffs": [backoff(box, "default", id="connections", connections=2)]})
            most = 0
            await accepted(box, 40)
            await box.settled()
            assert most <= 2
            await box.hang_up()
            box.app.set_limits({})
            await accepted(box, 40)
            await box.settled()
            assert most > 2

    run(work)


def test_a_retry_goes_by_another_source_when_its_own_backs_off(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx(lambda verb, argument, talk: "450 4.2.0 greylisted" if verb == "RCPT" else "")
        async with WorkerBox(tmp_path, [await mx.start()], **TWO_SOURCES) as box:
            await box.accepted(["r@one.test"])
            await box.settled()
            first = mx.talks[0].peer
            await box.hang_up()
            mx.reply = lambda verb, argument, talk: ""
            name = {"127.0.0.11": "a", "127.0.0.12": "b"}[first]
            box.app.set_limits({"backoffs": [backoff(box, name)]})
            box.pass_time(700)
            await box.settled()
            assert mx.recipients() == ["r@one.test"]
            assert mx.talks[-1].peer != first

    run(work)


def test_a_source_that_reaches_no_host_is_passed_over_when_another_does(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx(
            lambda verb, argument, talk: "554 5.7.1 listed" if (verb, talk.peer) == ("CONNECT", "127.0.0.11") else ""
        )
        async with WorkerBox(tmp_path, [await mx.start()], **TWO_SOURCES) as box:
            await accepted(box, 30)
            await box.settled()
            assert len(mx.recipients()) == 30
            [site] = box.app.board.sites.values()
            assert site.backoff_until == 0.0

    run(work)


def closes_at_mail(verb: str, argument: str, talk: Talk) -> str:
    return "421 4.7.0 too busy" if verb == "MAIL" else ""


def test_sessions_closed_at_mail_back_the_site_off_and_burn_few_attempts(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx(closes_at_mail)
        box = WorkerBox(tmp_path, [await mx.start()], delivery={"connections_per_site": 1})
        async with box:
            await accepted(box, 50)
            await box.until(lambda: box.reasons().get("connect_backoff"))
            await box.until(lambda: not box.app.sessions and "in_flight" not in box.places())
            assert sum(attempts(box)) == FRUITLESS_SESSIONS
            [site] = box.app.board.sites.values()
            assert "421 4.7.0 too busy" in site.detail
            for wait in (30, 60, 120):  # one session at a time looks if that is over, and burns nothing
                talks = len(mx.talks)
                box.pass_time(wait + 1)
                await box.until(lambda talks=talks: len(mx.talks) > talks)
                await box.until(lambda: not box.app.sessions and not box.app.connecting)
                assert len(mx.talks) == talks + 1
                assert sum(attempts(box)) == FRUITLESS_SESSIONS
            mx.reply = lambda verb, argument, talk: ""
            box.pass_time(241)
            await box.settled()
            box.pass_time(700)
            await box.settled()
            assert len(mx.recipients()) == 50
            await box.audit()

    run(work)


def test_sessions_dropped_before_anything_is_said_count_as_well(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx(lambda verb, argument, talk: None if verb == "MAIL" else "")
        box = WorkerBox(tmp_path, [await mx.start()], delivery={"connections_per_site": 1})
        async with box:
            await accepted(box, 50)
            await box.until(lambda: box.reasons().get("connect_backoff"))
            await box.until(lambda: not box.app.sessions and "in_flight" not in box.places())
            assert sum(attempts(box)) == FRUITLESS_SESSIONS

    run(work)


def test_where_some_sessions_work_the_closed_ones_only_end_the_growth(tmp_path: Path) -> None:
    async def work() -> None:
        talking: list[int] = []  # connections, the oldest first: the host serves two at a time

        def reply(verb: str, argument: str, talk: Talk) -> str:
            if verb == "CONNECT":
                talking.append(talk.number)
            refused = verb == "MAIL" and talk.number not in talking[:2]
            if verb == "QUIT" or refused:
                talking.remove(talk.number)
            return "421 4.7.0 too many connections" if refused else ""

        mx = Mx(reply)
        async with WorkerBox(tmp_path, [await mx.start()]) as box:
            await accepted(box, 200)
            for _ in range(10):
                await box.settled()
                if not box.app.index.queued_recipients:
                    break
                await box.hang_up()
                box.pass_time(1300)
            assert len(mx.recipients()) == 200
            refused = len([event for event in box.events() if event["event"] == "deferred"])
            assert refused <= 20  # those that were open when it began

    run(work)
