"""A DNS made of a dict, for tests of routing without sockets."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from fastrelay.route.providers import built_in
from fastrelay.route.resolver import Answer
from fastrelay.route.router import Router
from fastrelay.route.site import Sites

TTL = 600
NEGATIVE_TTL = 120


class FakeDns:
    """Names and their records; counts what it is asked. A name without any record is NXDOMAIN.

    failing  names, or (name, type) pairs, that answer "temporary"
    gate     when set, answers wait for it
    """

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], Answer] = {}
        self.failing: set[object] = set()
        self.asked: Counter[tuple[str, str]] = Counter()
        self.gate: asyncio.Event | None = None
        self.broken: Exception | None = None

    def mx(self, domain: str, *records: tuple[int, str], ttl: int = TTL) -> None:
        self.records[domain, "MX"] = Answer("ok", records, ttl)

    def host(self, name: str, *addresses: str, ttl: int = TTL) -> None:
        for rdtype in ("A", "AAAA"):
            found = tuple(address for address in addresses if (":" in address) == (rdtype == "AAAA"))
            if found:
                self.records[name, rdtype] = Answer("ok", found, ttl)

    def exists(self, name: str) -> None:
        self.records[name, "TXT"] = Answer("ok", ("x",), TTL)

    async def query(self, name: str, rdtype: str) -> Answer:
        self.asked[name, rdtype] += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.broken is not None:
            raise self.broken
        if name in self.failing or (name, rdtype) in self.failing:
            return Answer("temporary", detail="192.0.2.53:53 answers SERVFAIL")
        answer = self.records.get((name, rdtype))
        if answer is not None:
            return answer
        known = any(owner == name for owner, _ in self.records)
        return Answer("nodata" if known else "nxdomain", ttl=NEGATIVE_TTL)


@pytest.fixture
def dns() -> FakeDns:
    return FakeDns()


@pytest.fixture
def make(dns: FakeDns):
    """Builds a Router over the fake DNS."""

    def build(**settings: object) -> Router:
        return Router(dns, **{"sites": Sites(built_in()), **settings})

    return build
