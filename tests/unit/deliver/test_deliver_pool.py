"""Pools through a worker: which source and host take the mail, what a site waits for, and that no connection leaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.net import free_endpoint
from support.worker import Mx, Talk, WorkerBox, run

TWO_SOURCES: dict[str, Any] = {
    "sources": [{"name": "a", "address": "127.0.0.11"}, {"name": "b", "address": "127.0.0.12"}],
    "pools": {"default": ["a", "b"]},
}


def nothing_leaks(box: WorkerBox) -> None:
    """After the end no connection is counted anywhere."""
    table = box.app.table
    assert all(table.used(cell) == 0 for cell in range(table.cells) if cell != box.app.balance._cell)
    for site in box.app.board.sites.values():
        assert not any(site.pool.open_by_source.values())
        assert site.idle == []
        assert site.pool.connecting == 0
    assert box.app.connecting == 0


def test_a_suspended_source_sends_nothing_and_the_other_does(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx()
        async with WorkerBox(tmp_path, [await mx.start()], **TWO_SOURCES) as box:
            box.app.board.set_suspensions([{"id": "s1", "selectors": {"source": "a"}, "why": "listed"}])
            for n in range(10):
                await box.accepted([f"r{n}@one.test"])
            await box.settled()
            assert {talk.peer for talk in mx.talks} == {"127.0.0.12"}
            assert len(mx.recipients()) == 10
        await mx.stop()
        nothing_leaks(box)

    run(work)


def test_a_retry_that_prefers_a_suspended_source_goes_by_another(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx(lambda verb, argument, talk: "450 4.2.0 greylisted" if verb == "RCPT" else "")
        async with WorkerBox(tmp_path, [await mx.start()], **TWO_SOURCES) as box:
            await box.accepted(["r@one.test"])
            await box.settled()
            first = mx.talks[0].peer
            await box.hang_up()
            mx.reply = lambda verb, argument, talk: ""
            name = {"127.0.0.11": "a", "127.0.0.12": "b"}[first]
            box.app.board.set_suspensions([{"id": "s1", "selectors": {"source": name}}])
            box.pass_time(700)
            await box.settled()
            assert box.counters()["delivered"] == 1
            assert mx.talks[-1].peer != first
        await mx.stop()
        nothing_leaks(box)

    run(work)


def test_with_every_source_suspended_the_mail_says_so_and_goes_on_when_resumed(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx()
        async with WorkerBox(tmp_path, [await mx.start()]) as box:
            await box.accepted(["before@one.test"])
            await box.settled()
            box.app.board.set_suspensions([{"id": "s1", "selectors": {"source": "default"}, "why": "blocklist"}])
            await box.until(lambda: not box.app.sessions)  # an idle session of it leaves
            await box.accepted(["after@one.test"])
            await box.until(lambda: box.reasons() == {"suspended": 1})
            [site] = box.app.board.sites.values()
            assert "s1" in site.detail
            assert "blocklist" in site.detail
            box.app.board.set_suspensions([])
            await box.settled()
            assert box.counters()["delivered"] == 2
        await mx.stop()
        nothing_leaks(box)

    run(work)


def test_a_session_of_a_suspended_source_ends_behind_the_message_in_hand(tmp_path: Path) -> None:
    async def work() -> None:
        held = []

        def reply(verb: str, argument: str, talk: Talk) -> str:
            if verb == "BODY" and not held:
                held.append(1)
                box.app.board.set_suspensions([{"id": "s1", "selectors": {"source": "default"}}])
            return ""

        mx = Mx(reply)
        box = WorkerBox(tmp_path, [await mx.start()], delivery={"connections_per_site": 1})
        async with box:
            for n in range(5):
                box.submit([f"r{n}@one.test"])
            await box.until(lambda: held and not box.app.sessions)
            await box.until(lambda: box.reasons() == {"suspended": 4})
            assert len(mx.recipients()) == 1
        await mx.stop()
        nothing_leaks(box)

    run(work)


def test_a_source_this_host_does_not_have_is_passed_over(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx()
        sources = [{"name": "gone", "address": "203.0.113.77"}, {"name": "b", "address": "127.0.0.12"}]
        async with WorkerBox(tmp_path, [await mx.start()], sources=sources) as box:
            await box.accepted(["r@one.test"])
            await box.settled()
            assert [talk.peer for talk in mx.talks] == ["127.0.0.12"]
        await mx.stop()
        nothing_leaks(box)

    run(work)


def test_without_any_usable_source_the_mail_says_no_source_and_is_tried_again(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx()
        async with WorkerBox(
            tmp_path, [await mx.start()], sources=[{"name": "gone", "address": "203.0.113.77"}]
        ) as box:
            await box.accepted(["r@one.test"])
            await box.until(lambda: box.reasons() == {"no_source": 1})
            [site] = box.app.board.sites.values()
            assert "203.0.113.77" in site.detail
            sources = box.app.sources_of("default")
            box.app.sources["gone"] = sources[0] = type(sources[0])(0, "gone", "", b"a.test")
            box.pass_time(61)
            await box.settled()
            assert box.counters()["delivered"] == 1
        await mx.stop()
        nothing_leaks(box)

    run(work)


def test_the_next_host_is_tried_and_the_dead_one_remembered(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx()
        dead = free_endpoint()
        async with WorkerBox(tmp_path, [dead, await mx.start()]) as box:
            await box.accepted(["r@one.test"])
            await box.settled()
            assert box.counters()["delivered"] == 1
            assert box.app.hosts.is_dead(dead.rpartition(":")[0], box.clock.monotonic())
            assert box.events()[-1]["attempt"] == 1
        await mx.stop()
        nothing_leaks(box)

    run(work)


def test_a_site_that_cannot_be_reached_backs_off_and_burns_no_attempt(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx(lambda verb, argument, talk: "554 5.3.2 not now" if verb == "CONNECT" else "")
        async with WorkerBox(tmp_path, [await mx.start()]) as box:
            await box.accepted(["r@one.test"])
            for wait in (30, 60, 120):
                await box.until(lambda: box.reasons() == {"connect_backoff": 1})
                talks = len(mx.talks)
                box.pass_time(wait - 1)
                assert len(mx.talks) == talks
                box.pass_time(1.1)
                await box.until(lambda talks=talks: len(mx.talks) > talks)
            await box.until(lambda: box.reasons() == {"connect_backoff": 1})
            mx.reply = lambda verb, argument, talk: ""
            box.pass_time(300)
            await box.settled()
            assert box.events()[-1]["attempt"] == 1
        await mx.stop()
        nothing_leaks(box)

    run(work)


def test_521_fails_the_mail_only_where_every_host_says_it(tmp_path: Path) -> None:
    async def work() -> None:
        never = Mx(lambda verb, argument, talk: "521 5.3.2 never takes mail" if verb == "CONNECT" else "")
        busy = Mx(lambda verb, argument, talk: "421 4.3.2 busy" if verb == "CONNECT" else "")
        hosts = [await busy.start(), await never.start()]
        async with WorkerBox(tmp_path / "both", hosts) as box:
            await box.accepted(["r@one.test"])
            await box.until(lambda: box.reasons() == {"connect_backoff": 1})
        nothing_leaks(box)
        async with WorkerBox(tmp_path / "one", hosts[1:]) as box:
            await box.accepted(["r@one.test"])
            await box.settled()
            assert box.counters()["failed"] == 1
            assert box.events()[-1]["code"] == 521
        nothing_leaks(box)

    run(work)


def test_mail_of_a_site_that_backs_off_follows_a_new_route(tmp_path: Path) -> None:
    async def work() -> None:
        old = Mx(lambda verb, argument, talk: "421 4.3.2 closed" if verb == "CONNECT" else "")
        new = Mx()
        old_host, new_host = await old.start(), await new.start()
        async with WorkerBox(tmp_path, [old_host]) as box:
            await box.accepted(["r@one.test"])
            await box.until(lambda: box.reasons() == {"connect_backoff": 1})
            box.app.reload(WorkerBox(tmp_path, [new_host], slot=0).config)
            await box.settled()
            assert new.recipients() == ["r@one.test"]
        nothing_leaks(box)

    run(work)


def test_connections_stay_within_the_limit_and_the_wait_says_so(tmp_path: Path) -> None:
    async def work() -> None:
        most = 0

        def reply(verb: str, argument: str, talk: Talk) -> str:
            nonlocal most
            most = max(most, box.app.table.used(cell))
            return ""

        mx = Mx(reply)
        box = WorkerBox(tmp_path, [await mx.start()], delivery={"connections_per_site": 3})
        async with box:
            host = mx._server.sockets[0].getsockname()
            cell = box.app.table.cell(f"connections:source:default site:hosts={host[0]}:{host[1]}".encode())
            for n in range(60):
                box.submit([f"r{n}@one.test"])
            await box.until(lambda: len(mx.recipients()) == 60)
            await box.settled()
            assert 1 < most <= 3
            mx.reply = lambda verb, argument, talk: "250-thinking" if verb == "BODY" else ""
            for n in range(60):
                box.submit([f"r{n}@one.test"])
            await box.until(lambda: box.reasons() == {"in_flight": 3, "connection_limit": 57})
        nothing_leaks(box)

    run(work)


def test_a_drain_lets_a_body_end_and_cuts_what_lasts_too_long(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx(lambda verb, argument, talk: "250-thinking" if verb == "BODY" else "")
        box = WorkerBox(tmp_path, [await mx.start()])
        async with box:
            await box.accepted(["r@one.test"])
            await box.until(lambda: "." not in mx.commands and mx.accepted)
        nothing_leaks(box)
        again = WorkerBox(tmp_path, [], clock=box.clock)
        async with again:
            assert again.counters()["queued"] == 1
            [r] = again.app.index.recipients_of(0)
            assert again.app.index.recipient_info(r)[6] == 1  # possible_duplicate

    run(work)
