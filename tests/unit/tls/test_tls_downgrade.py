"""Nameservers that an attacker has a hand in, over real sockets: what they can't take away, and what they can."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from fastrelay.clock import SimulatedClock
from fastrelay.config.schema import from_builtins
from fastrelay.route.providers import built_in
from fastrelay.route.resolver import Answer, Resolver
from fastrelay.route.router import Router, Target
from fastrelay.route.site import Sites
from fastrelay.sim.dns import GARBAGE, REFUSED, SERVFAIL, TIMEOUT, DnsServer, Zone
from fastrelay.tls.outbound import OutboundTls
from fastrelay.tls.policy import NORMAL, HostPlan


class Impatient:
    """Waits long for all but TLSA records, so that a slow machine is no silent nameserver."""

    def __init__(self, nameserver: str, *trusted: str) -> None:
        self.patient = Resolver([nameserver], timeout=60.0, tries=1, trust_ad=trusted)
        self.impatient = Resolver([nameserver], timeout=0.05, tries=1, trust_ad=trusted)

    async def query(self, name: str, rdtype: str) -> Answer:
        return await (self.impatient if rdtype == "TLSA" and self.silent else self.patient).query(name, rdtype)

    silent = False


def zone(secure: bool = True) -> Zone:
    made = Zone(secure=secure)
    made.mx("a.test", [(10, "mx.test")])
    made.address("mx.test", "8.8.8.8")
    made.add("_25._tcp.mx.test", "TLSA", "3 1 1 " + "ab" * 32)
    return made


def plan_of(served: Zone, *trusted: str, silent: bool = False) -> HostPlan:
    """What happens to mx.test, when the nameserver says this."""

    async def work() -> HostPlan:
        clock = SimulatedClock()
        async with DnsServer(served) as server:
            resolver = Impatient(server.nameserver, *(trusted or ("127.0.0.0/8",)))
            resolver.silent = silent
            app = SimpleNamespace(
                clock=clock,
                config=from_builtins({"hostname": "relay.test"}),
                router=Router(resolver, sites=Sites(built_in()), clock=clock.monotonic),
                report=lambda message: None,
            )
            tls = OutboundTls(app)  # type: ignore[arg-type]
            route = await app.router.resolve("a.test", 0.0)
            policy = await tls.policy("a.test", route, NORMAL, 0.0)
            return await tls.host_plan(policy, Target("mx.test", 25, 2, "8.8.8.8"), 0.0)

    return asyncio.run(work())


def test_nobody_interferes() -> None:
    plan = plan_of(zone())
    assert (plan.mode, plan.mandatory, plan.verified) == ("starttls", True, "dane")


@pytest.mark.parametrize("kind", [SERVFAIL, REFUSED])
def test_an_answer_that_is_spoilt(kind: str) -> None:
    served = zone()
    served.script("_25._tcp.mx.test", kind, "TLSA")
    plan = plan_of(served)
    assert (plan.mode, plan.failure) == ("skip", "dnssec-invalid")


@pytest.mark.parametrize("kind", [TIMEOUT, GARBAGE])
def test_an_answer_that_never_comes(kind: str) -> None:
    served = zone()
    served.script("_25._tcp.mx.test", kind, "TLSA")
    plan = plan_of(served, silent=True)
    assert (plan.mode, plan.failure) == ("skip", "dnssec-invalid")
    assert "does not answer" in plan.why


def test_a_bit_that_is_stripped() -> None:
    """Then there is no DANE. Who sits between us and a nameserver can do that; hence it belongs on this host."""
    plan = plan_of(zone(secure=False))
    assert (plan.mode, plan.mandatory, plan.verified) == ("starttls", False, "")


def test_a_bit_from_somebody_who_is_not_believed() -> None:
    plan = plan_of(zone(), "192.0.2.0/24")
    assert (plan.mode, plan.mandatory, plan.verified) == ("starttls", False, "")
