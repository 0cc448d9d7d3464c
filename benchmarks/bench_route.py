"""What routing costs: a cached route, the roll-up of 10,000 domains to sites, and a look-up that asks.

Prints microseconds and ratios; the best of several rounds, since the cores are shared. Asserts no time.

    python benchmarks/bench_route.py
"""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import Callable
from typing import Any

import dns.flags
import dns.message
import dns.rrset
import uvloop

from fastrelay.route import wire
from fastrelay.route.providers import built_in
from fastrelay.route.resolver import Answer, Resolver
from fastrelay.route.router import Router
from fastrelay.route.site import Sites

DOMAINS = 10_000
ROUNDS = 5


class InstantDns:
    """Answers from memory: 10,000 domains at 200 sets of MX hosts."""

    def __init__(self) -> None:
        rng = random.Random(1)
        sets = [[(10 * (n // 2), f"mx{n}.provider{p}.test") for n in range(4)] for p in range(200)]
        self.answers: dict[str, Answer] = {}
        for number in range(DOMAINS):
            records = list(sets[number % len(sets)])
            rng.shuffle(records)
            self.answers[f"domain{number}.example"] = Answer("ok", tuple(records), 3600)

    async def query(self, name: str, rdtype: str) -> Answer:
        return self.answers[name]


def best(work: Callable[[], object], count: int) -> float:
    """Microseconds per unit of the fastest round."""
    fastest = float("inf")
    gc.collect()
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        fastest = min(fastest, time.perf_counter() - began)
    return fastest / count * 1e6


def plain_key(answer: Answer) -> str:
    """The oracle: the obvious way to name a set of MX hosts."""
    groups = [
        ",".join(sorted(host for preference, host in answer.records if preference == wanted))
        for wanted in sorted({preference for preference, _ in answer.records})
    ]
    return ";".join(groups) + ":25"


def bench_cached(resolver: InstantDns) -> None:
    router = Router(resolver, sites=Sites(built_in()))
    domains = list(resolver.answers)

    async def fill() -> None:
        for domain in domains:
            await router.resolve(domain, 0.0)

    asyncio.run(fill())

    def ours() -> None:
        for domain in domains:
            router.cached(domain, 1.0)

    plain = dict.fromkeys(domains, (1e9, object()))

    def oracle() -> None:
        for domain in domains:
            found = plain.get(domain)
            if found is not None and found[0] > 1.0:
                continue

    one, two = best(ours, DOMAINS), best(oracle, DOMAINS)
    print(
        f"cached(), a hit                     {one:8.3f} µs   dict and compare {two:8.3f} µs   ratio {one / two:5.1f}"
    )


def bench_roll_up(resolver: InstantDns) -> None:
    answers = list(resolver.answers.values())
    kept: list[object] = []

    def ours() -> None:
        sites = Sites(built_in_providers)
        kept[:] = [sites.of_mx(answer.records, 25) for answer in answers]

    def oracle() -> None:
        keys: dict[str, str] = {}
        kept[:] = [keys.setdefault(key, key) for key in map(plain_key, answers)]

    built_in_providers = built_in()
    one = best(ours, DOMAINS)
    sites = {id(site) for site in kept}
    two = best(oracle, DOMAINS)
    print(
        f"site roll-up, per domain            {one:8.3f} µs   plain strings    {two:8.3f} µs   ratio {one / two:5.1f}"
    )
    print(f"    {DOMAINS} domains became {len(sites)} sites ({len(set(kept))} by the plain strings)")


def bench_resolve(resolver: InstantDns) -> None:
    domains = list(resolver.answers)

    async def all_domains() -> None:
        router = Router(resolver, sites=Sites(built_in()))
        for domain in domains:
            await router.resolve(domain, 0.0)

    print(f"resolve(), DNS in memory            {best(lambda: uvloop.run(all_domains()), DOMAINS):8.3f} µs")


def bench_read() -> None:
    """Reading one response, against dnspython."""
    response = prepared_response()
    octets = response.to_wire()
    name = wire.name_to_wire("example.com")
    count = 500

    def ours() -> None:
        for _ in range(count):
            read = wire.read_response(octets)
            wire.plain_data(read, wire.MX, wire.follow(read, name, wire.MX, 8).records, 100)

    def oracle() -> None:
        for _ in range(count):
            read = dns.message.from_wire(octets)
            assert isinstance(read, dns.message.QueryMessage)
            read.resolve_chaining()

    one, two = best(ours, count), best(oracle, count)
    print(
        f"reading a response of two MX        {one:8.3f} µs   dnspython        {two:8.3f} µs   ratio {one / two:5.2f}"
    )


def prepared_response() -> dns.message.Message:
    """Two MX records of example.com."""
    response = dns.message.make_response(dns.message.make_query("example.com", "MX", use_edns=0))
    response.flags |= dns.flags.RA
    response.answer.append(dns.rrset.from_text("example.com.", 300, "IN", "MX", "10 a.test.", "20 b.test."))
    return response


def bench_wire() -> None:
    """The stub resolver against a loopback server that echoes one prepared answer."""
    count = 2000

    class Server(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport
            self.answer = prepared_response().to_wire()[2:]

        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            self.transport.sendto(data[:2] + self.answer, addr)

    async def ask() -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(Server, local_addr=("127.0.0.1", 0))
        host, port = transport.get_extra_info("sockname")[:2]
        resolver = Resolver([f"{host}:{port}"])
        began, cpu = time.perf_counter(), time.process_time()
        answers = await asyncio.gather(*(resolver.query("example.com", "MX") for _ in range(count)))
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
        transport.close()
        failed = sum(answer.status != "ok" for answer in answers)
        print(
            f"a query on the wire, server included {cpu / count * 1e6:7.1f} µs of CPU, {count / took:,.0f} queries/s, "
            f"{failed} failed"
        )

    uvloop.run(ask())


def main() -> None:
    resolver = InstantDns()
    bench_cached(resolver)
    bench_roll_up(resolver)
    bench_resolve(resolver)
    bench_read()
    bench_wire()


if __name__ == "__main__":
    main()
