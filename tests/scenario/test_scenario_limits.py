"""Limits at full size: 250 sources by 30 providers, and ten thousand sites that wait for one rate."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

from support.worker import Mx, WorkerBox, run

SITES = 10_000
PERMITS = 40
PROVIDERS = 30
SOURCES = 250


async def quiet(box: WorkerBox) -> None:
    """Until nothing is on its way any more."""

    def resting() -> bool:
        app = box.app
        moving = set(box.places()) - {"ready"} or app.connecting or app._wake_scheduled or app.board._tasks
        return not moving and all(session.idle for session in app.sessions)

    for _ in range(5):
        await box.until(resting)
        await asyncio.sleep(0)


async def submitted(box: WorkerBox, recipients: list[str]) -> None:
    clients = [box.submit([one]) for one in recipients]
    await box.until(lambda: all(client.replies for client in clients))
    assert all(client.replies[0].startswith(b"250") for client in clients), clients[0].replies


def counted(box: WorkerBox, counts: Counter[str]) -> None:
    """Counts how often a pool is looked at."""
    pump = box.app.engine.cold.pump

    def counting(site: Any, now: float) -> None:
        counts["pump"] += 1
        pump(site, now)

    box.app.engine.cold.pump = counting


def make_sites(box: WorkerBox, host: str) -> None:
    """Domains d0.test, d1.test … each with a site of its own at one host, all of provider google."""
    app = box.app
    app.router.sites.providers.of_host = lambda name: "google"  # type: ignore[method-assign]
    for n in range(SITES):
        site = app.router.sites.of_hosts([host, f"127.200.{n >> 8}.{n & 255}:9"], 25)
        domain = app.index.domain(f"d{n}.test".encode())
        domain.site = app.board.site_queue(site, b"", box.clock.monotonic())
        domain.route_expires = 1e12


def test_ten_thousand_sites_that_wait_for_a_rate_cost_the_same_for_each_permit(tmp_path: Path) -> None:
    async def work() -> None:
        mx = Mx()
        host = await mx.start()
        rules = [{"provider": "google", "rate": "10/s burst 1"}]
        async with WorkerBox(tmp_path, [host], shaping=rules) as box:
            make_sites(box, host)
            await submitted(box, [f"r@d{n}.test" for n in range(SITES)])
            await quiet(box)
            assert box.reasons() == {"rate_limit": SITES - len(mx.recipients())}
            counts: Counter[str] = Counter()
            counted(box, counts)
            before = len(mx.recipients())
            for _ in range(PERMITS):
                box.pass_time(0.1)
                await quiet(box)
            sent = len(mx.recipients()) - before
            assert PERMITS * 0.95 <= sent <= PERMITS + 1
            assert counts["pump"] <= 4 * PERMITS
            domains = [one.partition("@")[2] for one in mx.recipients()]
            assert len(set(domains)) == len(domains)  # each site had its turn before any had a second one

    run(work)


def test_hundreds_of_sources_and_dozens_of_providers_start_and_send(tmp_path: Path) -> None:
    async def work() -> None:
        hosts = {f"p{n}": Mx() for n in range(PROVIDERS)}
        where = {name: await mx.start() for name, mx in hosts.items()}
        by_address = {place.rpartition(":")[0]: name for name, place in where.items()}
        sources = [{"name": f"s{n}", "address": f"127.77.{n // 200}.{n % 200 + 1}"} for n in range(SOURCES)]
        rules: list[dict[str, Any]] = [
            {"source": "*", "provider": name, "rate": "1000/h burst 2", "connections": 2} for name in hosts
        ]
        routes = [{"domains": [f"{name}.test"], "hosts": [place]} for name, place in where.items()]
        config = {"sources": sources, "shaping": rules, "routes": routes}
        async with WorkerBox(tmp_path, [], **config) as box:
            box.app.router.sites.providers.of_host = by_address.__getitem__  # type: ignore[method-assign]
            box.pass_time(60)  # a new table permits no burst until it is full
            await submitted(box, [f"r{n}@p{n % PROVIDERS}.test" for n in range(40 * PROVIDERS)])
            await box.settled()
            for mx in hosts.values():
                assert len(mx.recipients()) == 40
                by_source = Counter(talk.peer for talk in mx.talks for _ in range(talk.messages))
                assert max(by_source.values()) <= 2
            assert len(box.app.gates._passages) <= SOURCES * PROVIDERS
            await box.audit()

    run(work)
