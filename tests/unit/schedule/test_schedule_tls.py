"""Queues by TLS policy: who shares one, and what happens to waiting mail when a domain's policy changes."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

from support.worker import WorkerBox, run

from fastrelay.admin.commands import Commands
from fastrelay.clock import SimulatedClock
from fastrelay.route.resolver import Answer, ResolverStats
from fastrelay.tls.mta_sts import Policy
from fastrelay.tls.policy import OPPORTUNISTIC
from fastrelay.tls.sts_cache import Kept

TTL = 100


class Dns:
    """Domains with their MX hosts; nothing is secure. `gate`: TXT answers wait for it."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], tuple[Any, ...]] = {}
        self.asked: Counter[tuple[str, str]] = Counter()
        self.gate: asyncio.Event | None = None
        self.stats = ResolverStats()

    def mx(self, domain: str, *hosts: str) -> None:
        self.records[domain, "MX"] = tuple((10, host) for host in hosts)
        for host in hosts:
            self.records[host, "A"] = ("127.255.255.1",)

    def announce(self, domain: str, identity: str = "1") -> None:
        text = f"v=STSv1; id={identity}".encode()
        self.records[f"_mta-sts.{domain}", "TXT"] = (bytes([len(text)]) + text,)

    async def query(self, name: str, rdtype: str) -> Answer:
        self.asked[name, rdtype] += 1
        if rdtype == "TXT" and self.gate is not None:
            await self.gate.wait()
        found = self.records.get((name, rdtype))
        return Answer("ok", found, TTL) if found else Answer("nxdomain", ttl=TTL)


def box_of(folder: Path, **outbound: Any) -> tuple[WorkerBox, Dns]:
    """A worker that looks names up in our DNS. No host can be connected to, so that mail stays where it is."""
    box = WorkerBox(folder, [], tls={"outbound": outbound}, delivery={"port": 9, "allow_private_hosts": True})
    dns = Dns()
    box.app.router.resolver = dns
    box.app.router.book.resolver = dns
    return box, dns


def kept(domain: str, mode: str, *mx: str, identity: str = "1") -> Kept:
    return Kept(domain, identity, Policy(mode, mx, 604800), SimulatedClock().wall())  # type: ignore[arg-type]


def queues(box: WorkerBox) -> dict[tuple[str, str], int]:
    """Recipients that are ready, by site and kind of TLS policy."""
    return {(key[0], site.tls.kind): site.ready() for key, site in box.app.board.sites.items() if site.ready()}


def test_who_shares_a_queue(tmp_path: Path) -> None:
    """Two domains at one host whose policies come to the same do; one with another policy does not."""

    async def work() -> None:
        box, dns = box_of(tmp_path / "w", domains={"d.test": "required"})
        async with box:
            for name in "abcd":
                dns.mx(f"{name}.test", "mx.test")
            for name, patterns in (("b", ("mx.test",)), ("c", ("*.test", "old.mx.test"))):
                dns.announce(f"{name}.test")
                box.app.tls.sts.take([kept(f"{name}.test", "enforce", *patterns)])
            await box.accepted([f"x@{name}.test" for name in "abcd"])
            site = "mx.test:9"
            await box.until(lambda: sum(queues(box).values()) == 4)
            assert queues(box) == {(site, "opportunistic"): 1, (site, "mta-sts"): 2, (site, "required"): 1}
            assert box.app.board.sites[site, b"", ""].tls is OPPORTUNISTIC

    run(work)


def test_many_domains_at_one_provider(tmp_path: Path) -> None:
    async def work() -> None:
        box, dns = box_of(tmp_path / "w")
        async with box:
            for number in range(500):
                dns.mx(f"d{number}.test", "mx1.big.test", "mx2.big.test")
            for start in range(0, 500, 100):
                await box.accepted([f"x@d{number}.test" for number in range(start, start + 100)])
            await box.until(lambda: sum(queues(box).values()) == 500)
            assert len(box.app.board.sites) == 1
            assert all(count == 1 for count in dns.asked.values())  # MX and TXT of each domain, addresses of each host

    run(work)


def test_mail_waits_until_the_policy_is_known(tmp_path: Path) -> None:
    async def work() -> None:
        box, dns = box_of(tmp_path / "w")
        async with box:
            dns.mx("a.test", "mx.test")
            dns.gate = asyncio.Event()
            identity = await box.accepted(["x@a.test"])
            await box.until(lambda: dns.asked["a.test", "MX"] and dns.asked["_mta-sts.a.test", "TXT"])
            for _ in range(20):
                await asyncio.sleep(0)
            assert queues(box) == {}
            [why] = Commands(box.app).on_queue_why(identity)["why"]
            assert (why["reason"], why["detail"]) == (
                "dns",
                "the route and the TLS policy of a.test are being looked up",
            )
            dns.gate.set()
            await box.until(lambda: queues(box) == {("mx.test:9", "opportunistic"): 1})

    run(work)


def test_waiting_mail_follows_a_new_policy(tmp_path: Path) -> None:
    """Asked for again when the answers that it came from end: what waits moves to the queue of the new policy."""

    async def work() -> None:
        box, dns = box_of(tmp_path / "w")
        async with box:
            dns.mx("a.test", "mx.test")
            await box.accepted(["x@a.test"])
            await box.until(lambda: queues(box) == {("mx.test:9", "opportunistic"): 1})
            dns.announce("a.test")
            box.app.report = lambda message: box.app.tls.sts.take([kept("a.test", "enforce", "other.test")])
            await box.until(lambda: not any(site.pool.connecting for site in box.app.board.sites.values()))

            def moved() -> bool:
                box.pass_time(TTL)  # past the TTL, and past every back-off in the end
                return queues(box) == {("mx.test:9", "mta-sts"): 1}

            await box.until(moved)
            await box.until(lambda: box.reasons() == {"tls_policy": 1})
            # A policy that names the host lets it go on to the next obstacle: nobody listens there.
            dns.announce("a.test", "2")
            box.app.report = lambda message: box.app.tls.sts.take([kept("a.test", "testing", "*.test", identity="2")])

            def moved_on() -> bool:
                box.pass_time(TTL)
                return queues(box) == {("mx.test:9", "mta-sts-testing"): 1}

            await box.until(moved_on)
            await box.audit()

    run(work)


def test_a_reload_decides_anew(tmp_path: Path) -> None:
    async def work() -> None:
        box, dns = box_of(tmp_path / "w", mta_sts=False)
        async with box:
            dns.mx("a.test", "mx.test")
            await box.accepted(["x@a.test"])
            await box.until(lambda: queues(box) == {("mx.test:9", "opportunistic"): 1})
            other, _ = box_of(tmp_path / "other", level="required", mta_sts=False)
            original = box.app._router

            def router(sites: Any) -> Any:
                made = original(sites)
                made.resolver = made.book.resolver = dns
                return made

            box.app._router = router  # type: ignore[method-assign]
            box.app.reload(other.config)
            await box.until(lambda: queues(box) == {("mx.test:9", "required"): 1})

    run(work)
