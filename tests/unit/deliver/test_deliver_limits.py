"""Limits of every kind and scope through two workers that share a table: what an MX host sees, and what mail says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.worker import Mx, Talk, WorkerBox, run

SOURCES: dict[str, Any] = {
    "sources": [{"name": "a", "address": "127.0.0.11"}, {"name": "b", "address": "127.0.0.12"}],
    "pools": {"default": ["a", "b"], "news": ["a"]},
    "relay_networks": ["127.0.0.0/8"],
    "providers": {"google": {"suffixes": ["google.test"]}},
}
TURNS_QUIET = 5  # of the loop, in which nothing begins
HEADER = b"X-Fastrelay-Campaign: spring\r\nX-Fastrelay-Tenant: acme\r\n"
# Scopes of a rule, and how many counters it makes for the two sources.
SCOPES = [
    ({}, 1),
    ({"source": "*"}, 2),
    ({"source": "a"}, None),
    ({"provider": "google"}, 1),
    ({"source": "*", "provider": "google"}, 2),
    ({"pool": "default"}, 1),
    ({"pool": "*", "provider": "google"}, 1),
]
BY_MESSAGE = [({"campaign": "spring"}, 1), ({"tenant": "*"}, 1)]


@asynccontextmanager
async def two_workers(
    folder: Path, host: str, sources: dict[str, Any] = SOURCES, **keys: Any
) -> AsyncIterator[list[WorkerBox]]:
    """Two workers on one table and clock, all of whose sites are of provider google."""
    first = WorkerBox(folder, [host], slot=0, slots=2, **(sources | keys))
    boxes = [first, WorkerBox(folder, [host], first.clock, slot=1, slots=2, **(sources | keys))]
    for box in boxes:
        box.app.router.sites.providers.of_host = lambda name: "google"  # type: ignore[method-assign]
        await box.start()
    pass_time(boxes, 60)  # a new table permits no burst until it is full
    yield boxes
    for box in boxes:
        await box.app.drain(0.0)
        box.app._timer = None


async def submit(box: WorkerBox, count: int, header: bytes = b"") -> None:
    clients = [box.submit([f"r{n}@one.test"], content=header + b"Subject: x\r\n\r\nhi\r\n") for n in range(count)]
    await box.until(lambda: all(client.replies for client in clients))
    assert all(client.replies[0].startswith(b"250") for client in clients), clients[0].replies


def pass_time(boxes: list[WorkerBox], seconds: float) -> None:
    """The clock is one for both: it moves once, and each worker's timer sees it."""
    boxes[0].clock.advance(seconds)
    for box in boxes:
        box.tick()


async def at_rest(boxes: list[WorkerBox]) -> None:
    """Until nothing is on its way any more in either worker."""

    def quiet(box: WorkerBox) -> bool:
        app = box.app
        moving = set(box.places()) - {"ready"} or app.connecting or app._wake_scheduled or app.board._tasks
        return not moving and all(session.idle for session in app.sessions)

    turns = 0
    while turns < TURNS_QUIET:
        await boxes[0].until(lambda: all(map(quiet, boxes)))
        turns += 1
        await asyncio.sleep(0)
        turns = turns if all(map(quiet, boxes)) else 0


@pytest.mark.parametrize(("scope", "counters"), SCOPES + BY_MESSAGE, ids=str)
def test_a_rate_holds_over_both_workers_and_all_of_it_is_used(
    tmp_path: Path, scope: dict[str, str], counters: int | None
) -> None:
    async def work() -> None:
        mx = Mx()
        sources = SOURCES | ({"pools": {"default": ["a"]}} if counters is None else {})
        rules = [{**scope, "rate": "10/s burst 4"}]
        async with two_workers(tmp_path, await mx.start(), sources, shaping=rules) as boxes:
            for box in boxes:
                await submit(box, 150, HEADER)
            await at_rest(boxes)
            most = counters or 1
            assert len(mx.recipients()) == 4 * most  # the burst, for each counter
            for step in range(1, 31):
                pass_time(boxes, 0.1)
                await at_rest(boxes)
                seen = len(mx.recipients())
                assert seen <= (4 + step) * most
            assert seen >= 0.98 * (4 + 30) * most
            for box in boxes:
                await box.until(lambda box=box: set(box.reasons()) == {"rate_limit"})

    run(work)


def test_the_reason_names_the_rule_and_when_the_next_permit_comes(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx()
        rules = [{"source": "a", "provider": "google", "rate": "360/h burst 1"}]
        sources = SOURCES | {"pools": {"default": ["a"]}}
        async with two_workers(tmp_path, await mx.start(), sources, shaping=rules) as boxes:
            await submit(boxes[0], 3)
            await at_rest(boxes)
            pass_time(boxes, 4.0)
            [waiting, _] = boxes[0].app.index.select(0, 10)[1]
            [told, *_] = boxes[0].app_viewer().why(boxes[0].app.index.recipient_info(waiting)[0])
            assert told["reason"] == "rate_limit"
            assert told["detail"].startswith("source a at google: 360/h")
            assert "shaping[0]" in told["detail"]
            assert told["detail"].endswith("next permit in 6.0 s")
            assert told["until_seconds"] == 6.0

    run(work)


@pytest.mark.parametrize(("scope", "counters"), SCOPES, ids=str)
def test_open_connections_hold_over_both_workers(tmp_path: Path, scope: dict[str, str], counters: int | None) -> None:
    async def work() -> None:
        open_now: dict[str, set[int]] = {}
        most: dict[str, int] = {}

        def reply(verb: str, argument: str, talk: Talk) -> str:
            there = open_now.setdefault(talk.peer, set())
            there.add(talk.number)
            if verb == "QUIT":
                there.discard(talk.number)
            total = sum(map(len, open_now.values()))
            most["all"] = max(most.get("all", 0), total)
            most[talk.peer] = max(most.get(talk.peer, 0), len(there))
            return ""

        mx = Mx(reply)
        sources = SOURCES | ({"pools": {"default": ["a"]}} if counters is None else {})
        rules = [{**scope, "connections": 3}]
        # A session leaves after few messages, so that places change hands.
        delivery = {"messages_per_connection": 5}
        async with two_workers(tmp_path, await mx.start(), sources, shaping=rules, delivery=delivery) as boxes:
            for box in boxes:
                await submit(box, 100)
            for _ in range(400):
                if not any(box.app.index.queued_recipients for box in boxes):
                    break
                await at_rest(boxes)
                pass_time(boxes, 0.3)  # the first in line asks again for what the other worker holds
            assert len(mx.recipients()) == 200
            assert most["all"] <= 3 * (counters or 1)
            if counters == 2:
                assert max(n for peer, n in most.items() if peer != "all") <= 3

    run(work)


@pytest.mark.parametrize(("scope", "counters"), SCOPES, ids=str)
def test_a_connection_rate_holds_over_both_workers(tmp_path: Path, scope: dict[str, str], counters: int | None) -> None:
    async def work() -> None:
        mx = Mx()
        sources = SOURCES | ({"pools": {"default": ["a"]}} if counters is None else {})
        rules = [{**scope, "connection_rate": "1/s burst 2"}]
        delivery = {"messages_per_connection": 1}
        async with two_workers(tmp_path, await mx.start(), sources, shaping=rules, delivery=delivery) as boxes:
            for box in boxes:
                await submit(box, 40)
            most = counters or 1
            await at_rest(boxes)
            for box in boxes:
                await box.until(lambda box=box: not box.app.sessions)
            assert len(mx.talks) == 2 * most
            for step in range(1, 11):
                pass_time(boxes, 1.0)
                for box in boxes:
                    await box.until(lambda box=box: not box.app.sessions and not box.app.connecting)
                assert len(mx.talks) <= (2 + step) * most
            assert len(mx.talks) == 12 * most
            for box in boxes:
                await box.until(lambda box=box: set(box.reasons()) <= {"rate_limit"})

    run(work)


def test_messages_of_a_connection_and_recipients_of_a_transaction(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx()
        rules = [{"provider": "google", "messages_per_connection": 2, "recipients_per_transaction": 3}]
        async with two_workers(tmp_path, await mx.start(), shaping=rules) as boxes:
            await boxes[0].accepted([f"r{n}@one.test" for n in range(10)])
            await submit(boxes[0], 20)
            await at_rest(boxes)
            assert sorted(len(recipients) for recipients, _ in mx.accepted if len(recipients) > 1) == [3, 3, 3]
            assert max(talk.messages for talk in mx.talks) == 2

    run(work)


def test_pools_have_their_own_sources_and_share_what_counts_for_the_site(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx()
        rules = [{"provider": "google", "rate": "1/s burst 6"}, {"pool": "news", "rate": "1/s burst 2"}]
        async with two_workers(tmp_path, await mx.start(), shaping=rules) as boxes:
            await submit(boxes[0], 10, b"X-Fastrelay-Pool: news\r\n")
            await at_rest(boxes)
            assert [talk.peer for talk in mx.talks] == ["127.0.0.11"] * len(mx.talks)
            assert len(mx.recipients()) == 2
            await submit(boxes[1], 10)
            await at_rest(boxes)
            assert len(mx.recipients()) == 6

    run(work)


@pytest.mark.parametrize("rate", ["1/s burst 1", "20/s burst 10"])
def test_a_reload_holds_the_new_rate_from_then_on(tmp_path: Path, rate: str) -> None:
    async def work() -> None:
        mx = Mx()
        host = await mx.start()
        async with two_workers(tmp_path, host, shaping=[{"rate": "5/s burst 5"}]) as boxes:
            for box in boxes:
                await submit(box, 200)
            await at_rest(boxes)
            for _ in range(10):
                pass_time(boxes, 0.2)
                await at_rest(boxes)
            before = len(mx.recipients())
            assert before == 15
            for box in boxes:
                box.app.reload(WorkerBox(tmp_path, [host], slot=0, **SOURCES, shaping=[{"rate": rate}]).config)
            await at_rest(boxes)
            per_second, burst = int(rate.partition("/")[0]), int(rate.rpartition(" ")[2])
            assert len(mx.recipients()) - before <= burst
            for _ in range(40):
                pass_time(boxes, 0.25)
                await at_rest(boxes)
            sent = len(mx.recipients()) - before
            owed = 5  # what the old rate let go at once, the new one waits for
            assert 10 * per_second - owed - burst <= sent <= 10 * per_second + burst

    run(work)


def test_a_reload_to_fewer_connections_ends_those_above(tmp_path: Path) -> None:
    async def work() -> None:
        slow = Mx(lambda verb, argument, talk: "250-thinking" if verb == "BODY" else "")
        host = await slow.start()
        async with two_workers(tmp_path, host, shaping=[{"connections": 6}]) as boxes:
            for box in boxes:
                await submit(box, 50)
            cell = boxes[0].table.cell(b"connections:relay")
            await boxes[0].until(lambda: boxes[0].table.used(cell) == 6)
            for box in boxes:
                in_hand = box.places().get("in_flight", 0)
                box.app.reload(WorkerBox(tmp_path, [host], slot=0, **SOURCES, shaping=[{"connections": 2}]).config)
                assert box.places().get("in_flight", 0) == in_hand  # nothing in hand is cut

            def staying() -> int:
                for box in boxes:
                    box.app.connections.second(box.clock.monotonic())
                return sum(1 for box in boxes for session in box.app.sessions if not session.held)

            await boxes[0].until(lambda: staying() <= 2)

    run(work)


def test_what_another_worker_wants_for_transactional_mail_is_waited_for_at_rest(tmp_path: Path) -> None:
    """Who may not take the free place is not woken for it over and over."""

    async def work() -> None:
        mx = Mx()
        rules = [{"provider": "google", "connections": 1}]
        async with two_workers(tmp_path, await mx.start(), shaping=rules) as boxes:
            one, table = boxes[0], boxes[0].app.table
            cell = table.cell(b"urgent:provider:google")
            table.want(cell, 1, one.clock.boottime_ns(), 3_000_000_000)
            await submit(one, 3)
            await at_rest(boxes)
            for _ in range(2):
                one.pass_time(1.0)  # looks who waits for a place that is free
                await at_rest(boxes)
                assert one.reasons() == {"connection_limit": 3}
            one.pass_time(3.0)  # the other one wants it no more
            await one.until(lambda: len(mx.recipients()) == 3)

    run(work)


def test_an_idle_session_gives_its_place_to_another_site_that_waits_for_it(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx()
        host = await mx.start()
        rules = [{"provider": "google", "connections": 1}]
        async with WorkerBox(tmp_path, [host], shaping=rules) as box:
            app = box.app
            app.router.sites.providers.of_host = lambda name: "google"  # type: ignore[method-assign]
            for name in ("one", "two"):
                site = app.router.sites.of_hosts([host, f"127.200.0.{len(name)}{len(app.board.sites)}:9"], 25)
                domain = app.index.domain(f"{name}.test".encode())
                domain.site = app.board.site_queue(site, b"", box.clock.monotonic())
                domain.route_expires = 1e12
            await box.accepted(["r@one.test"])
            await box.settled()
            await box.until(lambda: [session.idle for session in app.sessions] == [True])
            await box.accepted(["r@two.test"])  # the clock stands still: no idle timeout ends the first session
            await box.settled()
            assert mx.recipients() == ["r@one.test", "r@two.test"]
            assert [talk.number for talk in mx.talks] == [1, 2]

    run(work)


def test_sites_of_one_provider_have_their_own_connections(tmp_path: Path) -> None:
    """connections_per_site is for each of them, whatever the provider's other sites use."""

    async def work() -> None:
        mx = Mx(lambda verb, argument, talk: "250-more to come" if verb in ("MAIL", "RCPT", "DATA") else "")
        host = await mx.start()
        async with WorkerBox(tmp_path, [host], delivery={"connections_per_site": 2}) as box:
            app = box.app
            app.router.sites.providers.of_host = lambda name: "google"  # type: ignore[method-assign]
            for name in ("one", "two"):
                site = app.router.sites.of_hosts([host, f"127.200.0.{len(name)}{len(app.board.sites)}:9"], 25)
                domain = app.index.domain(f"{name}.test".encode())
                domain.site = app.board.site_queue(site, b"", box.clock.monotonic())
                domain.route_expires = 1e12
                for _ in range(20):
                    await box.accepted([f"r@{name}.test"])
            await box.until(lambda: len(app.sessions) == 4)
            await at_rest_in_mail(box)
            assert sorted(len(queue.pool.sessions) for queue in app.board.sites.values()) == [2, 2]
            assert app.connections.find("source:default site:" + site.key).limit == 2

    run(work)


async def at_rest_in_mail(box: WorkerBox) -> None:
    """Until nothing is being opened any more."""
    for _ in range(TURNS_QUIET):
        await box.until(lambda: not box.app.connecting and not box.app._wake_scheduled)
        await asyncio.sleep(0)


def test_a_connection_that_comes_too_late_for_its_permits_leaves_the_mail_to_other_sources(tmp_path: Path) -> None:
    async def work() -> None:
        taken = 0

        def reply(verb: str, argument: str, talk: Talk) -> str:
            nonlocal taken
            if verb == "CONNECT" and talk.number == 2:  # somebody else uses this source's permit just now
                app = box.app
                source = next(one for one in app.sources.values() if one.address == talk.peer)
                gate = app.gates.passage(app.index.domain(b"one.test").site, source).gate
                taken += gate.permit(1, app.clock.boottime_ns(), False)
            return ""

        mx = Mx(reply)
        keys: dict[str, Any] = {
            "sources": [{"name": name, "address": f"127.0.0.{n}"} for n, name in enumerate("abc", 11)],
            "shaping": [{"source": "*", "rate": "1000/h burst 1"}],
        }
        async with WorkerBox(tmp_path, [await mx.start()], **keys) as box:
            box.pass_time(60)
            await submit(box, 1)
            await box.settled()
            await submit(box, 1)  # the idle session has no permit left, so that a source connects; and then another
            await box.settled()
            assert taken == 1
            assert len({talk.peer for talk in mx.talks}) == 3
            assert len(mx.recipients()) == 2
        await mx.stop()

    run(work)
