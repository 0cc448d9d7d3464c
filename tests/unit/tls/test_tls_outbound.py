"""Which policy a domain's mail has, and what it means for each host: every line of the table, over a DNS of a dict."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from fastrelay.clock import SimulatedClock
from fastrelay.config.schema import from_builtins
from fastrelay.route.providers import built_in
from fastrelay.route.resolver import Answer
from fastrelay.route.router import Router, Target
from fastrelay.route.rules import Rule
from fastrelay.route.site import Sites
from fastrelay.tls.dane import Check
from fastrelay.tls.mta_sts import Policy
from fastrelay.tls.outbound import Known, OutboundTls
from fastrelay.tls.policy import NORMAL, OPPORTUNISTIC, OPTIONAL, REQUIRETLS, HostPlan, TlsPolicy
from fastrelay.tls.sts_cache import Kept, kept_of

TTL = 600
NEGATIVE_TTL = 120
EE = b"\x03\x01\x01" + b"d" * 32
USELESS = b"\x01\x01\x01" + b"d" * 32


class Dns:
    """Names and their records, secure or not. A name without any record is NXDOMAIN."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], Answer] = {}
        self.failing: set[tuple[str, str]] = set()
        self.secure: set[str] = set()  # domains under which every answer is validated, denials too
        self.strips = False  # a nameserver that does not validate
        self.asked: Counter[tuple[str, str]] = Counter()

    def add(self, name: str, rdtype: str, *records: Any, ttl: int = TTL, alias: str = "") -> None:
        self.records[name, rdtype] = Answer("ok", records, ttl, alias=alias)

    def mx(self, domain: str, *hosts: str) -> None:
        self.add(domain, "MX", *((10, host) for host in hosts))
        for host in hosts:
            self.add(host, "A", "8.8.8.8")

    async def query(self, name: str, rdtype: str) -> Answer:
        self.asked[name, rdtype] += 1
        await asyncio.sleep(0)
        if (name, rdtype) in self.failing:
            return Answer("temporary", detail="127.0.0.1:53 answers SERVFAIL")
        secure = not self.strips and any(name == zone or name.endswith("." + zone) for zone in self.secure)
        answer = self.records.get((name, rdtype))
        if answer is None:
            known = any(owner == name for owner, _ in self.records)
            return Answer("nodata" if known else "nxdomain", ttl=NEGATIVE_TTL, secure=secure)
        return Answer("ok", answer.records, answer.ttl, secure, alias=answer.alias)


class Worker:
    """As much of an App as OutboundTls looks at, with a supervisor that answers at once."""

    def __init__(self, routes: list[Rule] | None = None, **outbound: Any) -> None:
        self.clock = SimulatedClock()
        self.config = from_builtins({"hostname": "relay.test", "tls": {"outbound": outbound}})
        self.dns = Dns()
        self.router = Router(self.dns, sites=Sites(built_in()), rules=routes or [], clock=self.clock.monotonic)
        self.policies: dict[str, Kept] = {}  # of the supervisor
        self.reports: list[dict[str, Any]] = []
        self.errors: list[str] = []
        self.tls = OutboundTls(self)  # type: ignore[arg-type]

    def count_error(self, where: str) -> None:
        self.errors.append(where)

    def report(self, message: dict[str, Any]) -> None:
        self.reports.append(message)
        if message.get("used"):
            return
        domain = message["domain"]
        kept = self.policies.get(domain)
        if kept is not None:
            self.tls.sts.take([kept])
        else:
            failed = {"domain": domain, "id": message["id"], "seconds": 300.0, "why": "connection refused"}
            self.tls.sts.take([], failed=[failed])

    def announces(self, domain: str, mode: str, *mx: str, identity: str = "1", max_age: int = 604800) -> None:
        """The domain publishes an MTA-STS policy."""
        text = f"v=STSv1; id={identity}".encode()
        self.dns.add(f"_mta-sts.{domain}", "TXT", bytes([len(text)]) + text)
        policy = Policy(mode, mx, max_age)  # type: ignore[arg-type]
        self.policies[domain] = Kept(domain, identity, policy, self.clock.wall())

    async def known(self, domain: str, variant: int = NORMAL) -> Known:
        now = self.clock.monotonic()
        route = await self.router.resolve(domain, now)
        assert route.site is not None, route
        return await self.tls.find(domain, route, variant, now)

    async def policy(self, domain: str, variant: int = NORMAL) -> TlsPolicy:
        return (await self.known(domain, variant)).policy

    async def renewed(self) -> None:
        """Until whatever is looked up behind what is served is there."""
        while len(self.tls._flights):
            await asyncio.sleep(0)

    async def plan(self, policy: TlsPolicy, host: str, port: int = 25) -> HostPlan:
        return await self.tls.host_plan(policy, Target(host, port, 2, "8.8.8.8"), self.clock.monotonic())


def run(work: Any) -> Any:
    return asyncio.run(work)


def seen(plan: HostPlan) -> tuple[str, bool, str, bool]:
    """Mode, mandatory, how verified, whether the certificate is looked at by the context."""
    looks = plan.context is not None and bool(plan.context.verify_mode)
    return plan.mode, plan.mandatory, plan.verified, looks


# -- nothing published ------------------------------------------------------------------------------------------------


def test_the_default_costs_one_question() -> None:
    async def work() -> None:
        worker = Worker()
        worker.dns.mx("a.test", "mx.test")
        assert await worker.policy("a.test") is OPPORTUNISTIC
        assert worker.dns.asked == {("a.test", "MX"): 1, ("_mta-sts.a.test", "TXT"): 1}
        assert await worker.policy("a.test") is OPPORTUNISTIC
        assert worker.dns.asked["_mta-sts.a.test", "TXT"] == 1
        plan = await worker.plan(OPPORTUNISTIC, "mx.test")
        assert seen(plan) == ("starttls", False, "", False)
        assert plan.server_hostname == "mx.test"
        worker.clock.advance(NEGATIVE_TTL + 1)
        await worker.policy("a.test")
        await worker.renewed()
        assert worker.dns.asked["_mta-sts.a.test", "TXT"] == 2

    run(work())


def test_that_nothing_is_published_serves_on_while_it_is_asked_for_again() -> None:
    """The mail of a domain keeps its place in line: it needs no look-up of its own each time an answer runs out."""

    async def work() -> None:
        worker = Worker()
        worker.dns.mx("a.test", "mx.test")
        first = await worker.known("a.test")
        worker.clock.advance(NEGATIVE_TTL + 1)
        now = worker.clock.monotonic()
        route = await worker.router.resolve("a.test", now)
        stale = worker.tls.known("a.test", route, NORMAL, now)  # at once
        assert stale is not None
        assert stale.policy is OPPORTUNISTIC
        assert first.expires_at < now < stale.expires_at <= now + 60
        worker.announces("a.test", "enforce", "mx.test")
        await worker.renewed()
        assert (await worker.policy("a.test")).sts_mode == "enforce"
        # Nobody asked for long: then it is asked for first.
        worker.clock.advance(7200 + NEGATIVE_TTL)
        assert worker.tls.known("a.test", route, NORMAL, worker.clock.monotonic()) is None

    run(work())


def test_the_question_is_asked_beside_that_for_mx() -> None:
    async def work() -> None:
        worker = Worker()
        worker.dns.mx("a.test", "mx.test")
        worker.tls.begin("a.test", NORMAL, 0.0)
        await asyncio.sleep(0)
        assert worker.dns.asked == {("_mta-sts.a.test", "TXT"): 1}
        assert await worker.policy("a.test") is OPPORTUNISTIC
        assert worker.dns.asked["_mta-sts.a.test", "TXT"] == 1

    run(work())


def test_ten_thousand_domains_at_one_provider_are_one_policy() -> None:
    async def work() -> None:
        worker = Worker()
        worker.dns.secure = {"signed.test"}
        hosts = ("mx1.big.test", "mx2.big.test")
        for number in range(200):
            zone = "signed.test" if number % 2 else "plain.test"
            worker.dns.mx(f"d{number}.{zone}", *hosts)
        found = {await worker.policy(f"d{n}.{'signed.test' if n % 2 else 'plain.test'}") for n in range(200)}
        assert found == {OPPORTUNISTIC}  # signed or not: the hosts have no TLSA records
        for number in range(100):
            patterns = hosts if number % 2 else ("*.big.test", "old.big.test")
            worker.dns.mx(f"s{number}.test", *hosts)
            worker.announces(f"s{number}.test", "enforce", *patterns)
        assert len({await worker.policy(f"s{number}.test") for number in range(100)}) == 1

    run(work())


def test_switched_off() -> None:
    async def work() -> None:
        worker = Worker(mta_sts=False, dane=False)
        worker.dns.secure = {"test"}
        worker.dns.mx("a.test", "mx.test")
        worker.dns.add("_25._tcp.mx.test", "TLSA", EE)
        worker.announces("a.test", "enforce", "mx.test")
        worker.tls.begin("a.test", NORMAL, 0.0)
        assert await worker.policy("a.test") is OPPORTUNISTIC
        assert set(worker.dns.asked) == {("a.test", "MX")}

    run(work())


# -- the operator's level ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("none", ("plain", False, "", False)),
        ("opportunistic", ("starttls", False, "", False)),
        ("required", ("starttls", True, "", False)),
        ("verify", ("starttls", True, "pkix", True)),
        ("mta-sts", ("skip", True, "", False)),
        ("dane", ("skip", True, "", False)),
    ],
)
def test_levels(level: str, expected: tuple[str, bool, str, bool]) -> None:
    async def work() -> None:
        worker = Worker(domains={"*.sub.test": "none", "a.test": level, "*": "required"})
        worker.dns.mx("a.test", "mx.test")
        worker.dns.mx("b.test", "mx.test")
        worker.dns.mx("x.sub.test", "mx.test")
        policy = await worker.policy("a.test")
        assert policy.level == level
        plan = await worker.plan(policy, "mx.test")
        assert seen(plan) == expected
        assert (plan.mode == "skip") == bool(plan.failure and plan.why and plan.context is None)
        assert (await worker.policy("b.test")).level == "required"
        assert (await worker.policy("x.sub.test")).level == "none"
        assert policy.can_fail == (level not in ("none", "opportunistic"))

    run(work())


def test_the_route_says() -> None:
    async def work() -> None:
        routes = [
            Rule(("a.test",), ("smart.test:465",), tls="implicit"),
            Rule(("b.test",), ("smart.test:465",), tls="none"),
            Rule(("c.test",), ("192.0.2.1:25",), tls="verify"),
            Rule(("d.test",), ("192.0.2.1:25",)),
        ]
        worker = Worker(routes, level="required")
        plans = {
            name: await worker.plan(await worker.policy(f"{name}.test"), host, port)
            for name, host, port in [
                ("a", "smart.test", 465), ("b", "smart.test", 465), ("c", "192.0.2.1", 25), ("d", "192.0.2.1", 25)
            ]
        }  # fmt: skip
        assert seen(plans["a"]) == ("implicit", True, "pkix", True)
        assert seen(plans["b"]) == ("plain", False, "", False)
        assert seen(plans["c"]) == ("starttls", True, "pkix", True)
        assert plans["c"].server_hostname == "192.0.2.1"
        assert seen(plans["d"]) == ("starttls", True, "", False)
        assert plans["d"].server_hostname == ""  # no SNI for an address
        assert not worker.dns.asked

    run(work())


def test_cas_that_cannot_be_read() -> None:
    async def work() -> None:
        worker = Worker(level="verify", ca_file="/nonexistent/ca.pem")
        worker.dns.mx("a.test", "mx.test")
        plan = await worker.plan(await worker.policy("a.test"), "mx.test")
        assert plan.mode == "skip"
        assert "ca_file" in plan.why
        assert worker.errors == ["tls"]

    run(work())


# -- MTA-STS ----------------------------------------------------------------------------------------------------------


def test_enforce() -> None:
    async def work() -> None:
        worker = Worker()
        worker.dns.mx("a.test", "mx.test", "evil.test")
        worker.announces("a.test", "enforce", "*.test")
        worker.announces("a.test", "enforce", "mx.test")
        policy = await worker.policy("a.test")
        assert (policy.level, policy.sts_mode, policy.mx) == ("opportunistic", "enforce", ("mx.test",))
        assert policy.can_fail
        plan = await worker.plan(policy, "mx.test")
        assert seen(plan) == ("starttls", True, "mta-sts", True)
        assert (plan.server_hostname, plan.policy_type) == ("mx.test", "sts")
        skipped = await worker.plan(policy, "evil.test")
        assert (skipped.mode, skipped.failure, skipped.policy_type) == ("skip", "validation-failure", "sts")
        assert skipped.why == "the MTA-STS policy does not name evil.test"

    run(work())


def test_testing_delivers_as_without() -> None:
    async def work() -> None:
        worker = Worker()
        worker.dns.mx("a.test", "mx.test")
        worker.announces("a.test", "testing", "other.test")
        policy = await worker.policy("a.test")
        assert (policy.sts_mode, policy.mx, policy.can_fail) == ("testing", (), False)
        assert policy is not OPPORTUNISTIC
        plan = await worker.plan(policy, "mx.test")
        assert seen(plan) == ("starttls", False, "", False)
        assert plan.policy_type == "sts"
        assert plan.check is not None
        assert plan.check(None) == "the MTA-STS policy (testing) does not name mx.test"  # type: ignore[arg-type]
        worker = Worker(level="required")  # the operator's own level has no exceptions, so none is looked for
        worker.dns.mx("a.test", "mx.test")
        worker.announces("a.test", "testing", "other.test")
        plan = await worker.plan(await worker.policy("a.test"), "mx.test")
        assert seen(plan) == ("starttls", True, "", False)
        assert plan.check is None

    run(work())


def test_mode_none_is_no_policy() -> None:
    async def work() -> None:
        worker = Worker()
        worker.dns.mx("a.test", "mx.test")
        worker.announces("a.test", "none")
        assert await worker.policy("a.test") is OPPORTUNISTIC

    run(work())


def test_a_policy_that_cannot_be_had() -> None:
    """No policy, as if there were no record (RFC 8461 section 3.3); asked again later, not at every message."""

    async def work() -> None:
        worker = Worker()
        worker.dns.mx("a.test", "mx.test")
        worker.announces("a.test", "enforce", "mx.test")
        kept = worker.policies.pop("a.test")
        known = await worker.known("a.test")
        assert known.policy is OPPORTUNISTIC
        assert known.expires_at - worker.clock.monotonic() == 300
        assert len(worker.reports) == 1
        worker.clock.advance(200)
        await worker.known("a.test")
        assert len(worker.reports) == 1
        worker.policies["a.test"] = kept
        worker.clock.advance(101)
        assert (await worker.policy("a.test")) is OPPORTUNISTIC  # while it is asked for
        await worker.renewed()
        assert (await worker.policy("a.test")).sts_mode == "enforce"
        assert len(worker.reports) == 2

    run(work())


def test_a_level_that_wants_it_waits() -> None:
    async def work() -> None:
        worker = Worker(domains={"a.test": "mta-sts"}, mta_sts=False)
        worker.dns.mx("a.test", "mx.test", "mx2.test")
        policy = await worker.policy("a.test")
        plan = await worker.plan(policy, "mx.test")
        assert (plan.mode, plan.failure) == ("skip", "sts-policy-fetch-error")
        worker.announces("a.test", "testing", "mx.test")  # the operator insists
        worker.clock.advance(NEGATIVE_TTL + 1)
        policy = await worker.policy("a.test")
        assert seen(await worker.plan(policy, "mx.test")) == ("starttls", True, "mta-sts", True)
        assert (await worker.plan(policy, "mx2.test")).mode == "skip"

    run(work())


def test_a_kept_policy_outlives_its_record() -> None:
    """Whoever makes the record disappear gains nothing (RFC 8461 section 10.2)."""

    async def work() -> None:
        worker = Worker()
        worker.dns.mx("a.test", "mx.test")
        worker.announces("a.test", "enforce", "mx.test", max_age=10_000)
        assert (await worker.policy("a.test")).sts_mode == "enforce"
        for _ in range(2):
            del worker.dns.records["_mta-sts.a.test", "TXT"]
            worker.clock.advance(TTL + 1)
            assert (await worker.policy("a.test")).sts_mode == "enforce"
            worker.dns.failing.add(("_mta-sts.a.test", "TXT"))
            worker.dns.add("_mta-sts.a.test", "TXT", b"\x05never")
        worker.clock.advance(10_000)
        assert await worker.policy("a.test") is OPPORTUNISTIC

    run(work())


def test_a_new_id() -> None:
    async def work() -> None:
        worker = Worker()
        worker.dns.mx("a.test", "mx.test")
        worker.announces("a.test", "enforce", "mx.test")
        await worker.policy("a.test")
        worker.announces("a.test", "testing", "mx.test", identity="2")
        assert (await worker.policy("a.test")).sts_mode == "enforce"  # until the record is asked for again
        worker.clock.advance(TTL + 1)
        assert (await worker.policy("a.test")).sts_mode == "testing"
        assert [one["id"] for one in worker.reports] == ["1", "2"]

    run(work())


def test_the_old_policy_holds_while_the_new_one_cannot_be_had() -> None:
    async def work() -> None:
        worker = Worker()
        worker.dns.mx("a.test", "mx.test")
        worker.announces("a.test", "enforce", "mx.test")
        await worker.policy("a.test")
        worker.announces("a.test", "none", identity="2")
        del worker.policies["a.test"]
        worker.clock.advance(TTL + 1)
        known = await worker.known("a.test")
        assert known.policy.sts_mode == "enforce"
        assert known.expires_at - worker.clock.monotonic() == 300

    run(work())


def test_the_supervisor_hears_of_use_once_a_day() -> None:
    async def work() -> None:
        worker = Worker()
        worker.dns.mx("a.test", "mx.test")
        worker.announces("a.test", "enforce", "mx.test")
        worker.tls.sts.take([worker.policies["a.test"]])  # as at a start
        for _ in range(10):
            await worker.policy("a.test")
            worker.clock.advance(3 * 3600)
        assert [one.get("used") for one in worker.reports] == [True, True]

    run(work())


def test_many_ask_once() -> None:
    async def work() -> None:
        worker = Worker()
        worker.dns.mx("a.test", "mx.test")
        worker.announces("a.test", "enforce", "mx.test")
        found = await asyncio.gather(*(worker.policy("a.test", variant) for variant in (NORMAL, REQUIRETLS) * 20))
        assert len(set(found)) == 2
        assert len([one for one in worker.reports if not one.get("used")]) == 1
        assert worker.dns.asked["_mta-sts.a.test", "TXT"] == 1

    run(work())


def test_policies_over_the_channel() -> None:
    worker = Worker(policies_cached=2)
    described = [
        {
            "domain": f"{n}.test",
            "id": "1",
            "policy": {"mode": "enforce", "mx": ["mx.test"], "max_age": 9},
            "fetched": 1.0,
        }
        for n in range(3)
    ]
    worker.tls.sts.take(kept_of(described))
    assert list(worker.tls.sts.policies) == ["1.test", "2.test"]
    worker.tls.sts.take([], ["1.test"])
    assert list(worker.tls.sts.policies) == ["2.test"]


# -- DANE -------------------------------------------------------------------------------------------------------------


def signed(**outbound: Any) -> Worker:
    """a.test, its MX host and a TLSA record, all validated."""
    worker = Worker(**outbound)
    worker.dns.secure = {"test"}
    worker.dns.mx("a.test", "mx.test")
    worker.dns.add("_25._tcp.mx.test", "TLSA", EE)
    return worker


def test_dane() -> None:
    async def work() -> None:
        worker = signed()
        policy = await worker.policy("a.test")
        assert policy.dane
        assert policy.can_fail
        plan = await worker.plan(policy, "mx.test")
        assert seen(plan) == ("starttls", True, "dane", False)
        assert (plan.server_hostname, plan.policy_type) == ("mx.test", "tlsa")
        assert plan.policy_text == ("3 1 1 " + "64" * 32,)
        assert isinstance(plan.check, Check)
        assert plan.check.names == ("mx.test",)
        assert worker.dns.asked["_25._tcp.mx.test", "TLSA"] == 1

    run(work())


def test_dane_wins_over_mta_sts() -> None:
    """RFC 8461 section 2, also where the certificate would do for MTA-STS; and not the other way round."""

    async def work() -> None:
        worker = signed()
        worker.dns.mx("a.test", "mx.test", "mx2.test")
        worker.announces("a.test", "enforce", "mx.test", "mx2.test")
        policy = await worker.policy("a.test")
        assert (await worker.plan(policy, "mx.test")).verified == "dane"
        assert (await worker.plan(policy, "mx2.test")).verified == "mta-sts"  # no TLSA records of its own
        worker.dns.failing.add(("_25._tcp.mx.test", "TLSA"))
        worker.clock.advance(TTL + 1)
        assert (await worker.plan(policy, "mx.test")).mode == "skip"

    run(work())


@pytest.mark.parametrize("where", ["MX", "address", "TLSA"])
def test_without_security_there_is_no_dane(where: str) -> None:
    """Insecure anywhere, and nothing the TLSA records say counts (RFC 7672 section 2.2)."""

    async def work() -> None:
        worker = signed()
        worker.dns.mx("a.test", "mx.host.test")
        worker.dns.add("_25._tcp.mx.host.test", "TLSA", EE)
        worker.dns.secure = {
            "MX": {"host.test"},
            "address": {"a.test", "_tcp.mx.host.test"},
            "TLSA": {"a.test"},
        }[where]
        if where == "TLSA":
            worker.dns.secure |= {"mx.host.test"}
            worker.dns.records["_25._tcp.mx.host.test", "TLSA"] = Answer("ok", (EE,), TTL)
            original = worker.dns.query

            async def query(name: str, rdtype: str) -> Answer:
                answer = await original(name, rdtype)
                return Answer("ok", answer.records, answer.ttl) if rdtype == "TLSA" else answer

            worker.dns.query = query  # type: ignore[method-assign]
        assert await worker.policy("a.test") is OPPORTUNISTIC
        assert bool(worker.dns.asked["_25._tcp.mx.host.test", "TLSA"]) == (where == "TLSA")

    run(work())


def test_a_nameserver_that_strips_the_bit() -> None:
    """It validates nothing for us: what it says is never taken for proof."""

    async def work() -> None:
        worker = signed()
        worker.dns.strips = True
        assert await worker.policy("a.test") is OPPORTUNISTIC
        assert (await worker.policy("a.test", REQUIRETLS)).secure_mx is False

    run(work())


@pytest.mark.parametrize("other", [False, True])
def test_a_question_that_fails_is_no_denial(other: bool) -> None:
    """SERVFAIL (also for a bogus answer) and timeouts: the host is passed over, never sent to without DANE."""

    async def work() -> None:
        worker = signed()
        worker.dns.mx("a.test", "mx.test", "mx2.test")
        if other:
            worker.dns.add("_25._tcp.mx2.test", "TLSA", EE)
        worker.dns.failing.add(("_25._tcp.mx.test", "TLSA"))
        known = await worker.known("a.test")
        assert known.policy.dane
        assert known.expires_at - worker.clock.monotonic() == 30  # and soon again
        plan = await worker.plan(known.policy, "mx.test")
        assert (plan.mode, plan.failure, plan.policy_type) == ("skip", "dnssec-invalid", "tlsa")
        assert "SERVFAIL" in plan.why
        plan = await worker.plan(known.policy, "mx2.test")
        assert seen(plan) == (("starttls", True, "dane", False) if other else ("starttls", False, "", False))

    run(work())


def test_addresses_that_cannot_be_looked_up() -> None:
    async def work() -> None:
        worker = signed()
        worker.dns.failing |= {("mx.test", "A"), ("mx.test", "AAAA")}
        policy = await worker.policy("a.test")
        assert policy.dane
        assert (await worker.plan(policy, "mx.test")).mode == "skip"

    run(work())


def test_one_family_that_cannot_be_looked_up() -> None:
    async def work() -> None:
        worker = signed()
        worker.dns.failing |= {("mx.test", "AAAA")}
        policy = await worker.policy("a.test")
        assert (await worker.plan(policy, "mx.test")).verified == "dane"

    run(work())


def test_records_that_cannot_be_used() -> None:
    """TLS is a must, and nobody is authenticated (RFC 7672 section 2.2); MTA-STS still does, where it is."""

    async def work() -> None:
        worker = signed()
        worker.dns.add("_25._tcp.mx.test", "TLSA", USELESS)
        plan = await worker.plan(await worker.policy("a.test"), "mx.test")
        assert seen(plan) == ("starttls", True, "", False)
        assert plan.check is None
        assert "usage 1" in plan.why
        worker.announces("a.test", "enforce", "mx.test")
        worker.clock.advance(TTL + 1)
        assert (await worker.plan(await worker.policy("a.test"), "mx.test")).verified == "mta-sts"
        worker = signed(level="dane")
        worker.dns.add("_25._tcp.mx.test", "TLSA", USELESS)
        plan = await worker.plan(await worker.policy("a.test"), "mx.test")
        assert (plan.mode, plan.failure) == ("skip", "tlsa-invalid")

    run(work())


def test_one_record_that_can_be_used_is_enough() -> None:
    async def work() -> None:
        worker = signed()
        worker.dns.add("_25._tcp.mx.test", "TLSA", USELESS, EE, b"\x03")
        plan = await worker.plan(await worker.policy("a.test"), "mx.test")
        assert isinstance(plan.check, Check)
        assert [record.text[:5] for record in plan.check.records] == ["3 1 1"]

    run(work())


def test_level_dane() -> None:
    async def work() -> None:
        worker = signed(level="dane", dane=False)
        assert (await worker.plan(await worker.policy("a.test"), "mx.test")).verified == "dane"
        worker.dns.mx("b.test", "mx2.test")
        plan = await worker.plan(await worker.policy("b.test"), "mx2.test")
        assert (plan.mode, plan.failure) == ("skip", "dane-required")
        assert "has no TLSA records" in plan.why
        worker.dns.mx("c.insecure", "mx.test")
        plan = await worker.plan(await worker.policy("c.insecure"), "mx.test")
        assert (plan.mode, plan.failure) == ("skip", "dane-required")
        assert "MX records are not secured" in plan.why

    run(work())


def test_required_gains_dane() -> None:
    async def work() -> None:
        worker = signed(level="required")
        worker.dns.mx("a.test", "mx.test", "mx2.test")
        policy = await worker.policy("a.test")
        assert (await worker.plan(policy, "mx.test")).verified == "dane"
        assert seen(await worker.plan(policy, "mx2.test")) == ("starttls", True, "", False)
        assert not (await signed(level="verify").policy("a.test")).dane

    run(work())


def test_implicit_mx() -> None:
    async def work() -> None:
        worker = Worker()
        worker.dns.secure = {"test"}
        worker.dns.add("a.test", "A", "8.8.8.8")
        worker.dns.add("_25._tcp.a.test", "TLSA", EE)
        policy = await worker.policy("a.test")
        assert (await worker.plan(policy, "a.test")).verified == "dane"

    run(work())


def test_smart_host() -> None:
    """Named by the operator, at its own port (RFC 7672 section 2.2.2: no MX records are involved)."""

    async def work() -> None:
        worker = Worker([Rule(("*",), ("smart.test:587",))])
        worker.dns.secure = {"smart.test"}
        worker.dns.add("smart.test", "A", "8.8.8.8")
        worker.dns.add("_587._tcp.smart.test", "TLSA", EE)
        policy = await worker.policy("a.insecure")
        assert (await worker.plan(policy, "smart.test", 587)).verified == "dane"
        assert ("_mta-sts.a.insecure", "TXT") not in worker.dns.asked

    run(work())


def test_alias() -> None:
    """Where the alias leads comes first; its own name is asked where nothing is there (RFC 7672 section 2.2.3)."""

    async def work() -> None:
        worker = Worker()
        worker.dns.secure = {"test"}
        worker.dns.mx("a.test", "mx.test")
        worker.dns.add("mx.test", "A", "8.8.8.8", alias="real.test")
        worker.dns.add("_25._tcp.real.test", "TLSA", EE)
        plan = await worker.plan(await worker.policy("a.test"), "mx.test")
        assert plan.server_hostname == "real.test"
        assert isinstance(plan.check, Check)
        assert plan.check.names == ("real.test", "mx.test")
        del worker.dns.records["_25._tcp.real.test", "TLSA"]
        worker.dns.add("_25._tcp.mx.test", "TLSA", EE)
        worker.clock.advance(TTL + 1)
        plan = await worker.plan(await worker.policy("a.test"), "mx.test")
        assert (plan.server_hostname, plan.verified) == ("mx.test", "dane")

    run(work())


@pytest.mark.parametrize("alias_secure", [False, True])
def test_alias_to_somewhere_insecure(alias_secure: bool) -> None:
    async def work() -> None:
        worker = Worker()
        worker.dns.secure = {"a.test", "_tcp.mx.test"}
        worker.dns.mx("a.test", "mx.test")
        worker.dns.add("mx.test", "A", "8.8.8.8", alias="real.insecure")
        worker.dns.add("_25._tcp.mx.test", "TLSA", EE)
        original = worker.dns.query

        async def query(name: str, rdtype: str) -> Answer:
            if rdtype == "CNAME":
                return Answer("ok", (b"x",), TTL, alias_secure)
            return await original(name, rdtype)

        worker.dns.query = query  # type: ignore[method-assign]
        policy = await worker.policy("a.test")
        assert policy.dane is alias_secure
        assert ((await worker.plan(policy, "mx.test")).verified == "dane") is alias_secure

    run(work())


# -- what a message asks for ------------------------------------------------------------------------------------------


def test_requiretls() -> None:
    async def work() -> None:
        worker = signed(level="none")
        policy = await worker.policy("a.test", REQUIRETLS)
        assert policy.requiretls
        assert (await worker.plan(policy, "mx.test")).verified == "dane"
        worker.dns.mx("b.test", "mx2.test")  # secure, no TLSA: a CA will do, since the name is proved
        plan = await worker.plan(await worker.policy("b.test", REQUIRETLS), "mx2.test")
        assert seen(plan) == ("starttls", True, "pkix", True)
        worker.dns.mx("c.insecure", "mx2.test")
        plan = await worker.plan(await worker.policy("c.insecure", REQUIRETLS), "mx2.test")
        assert plan.mode == "skip"
        assert "neither DNSSEC nor MTA-STS" in plan.why
        worker.announces("c.insecure", "testing", "mx2.test")
        worker.clock.advance(NEGATIVE_TTL + 1)
        plan = await worker.plan(await worker.policy("c.insecure", REQUIRETLS), "mx2.test")
        assert seen(plan) == ("starttls", True, "mta-sts", True)
        assert (await worker.policy("c.insecure")).level == "none"

    run(work())


def test_requiretls_by_a_smart_host() -> None:
    async def work() -> None:
        worker = Worker([Rule(("*",), ("192.0.2.1:25",))])
        policy = await worker.policy("a.test", REQUIRETLS)
        assert seen(await worker.plan(policy, "192.0.2.1")) == ("starttls", True, "pkix", True)

    run(work())


def test_tls_required_no() -> None:
    """It waives what the recipient's domain publishes, and not what the operator says."""

    async def work() -> None:
        worker = signed(domains={"r.test": "required", "d.test": "dane", "v.test": "verify"})
        worker.announces("a.test", "enforce", "other.test")
        for name in ("r", "d", "v"):
            worker.dns.mx(f"{name}.test", "mx.test")
        worker.tls.begin("a.test", OPTIONAL, 0.0)
        policy = await worker.policy("a.test", OPTIONAL)
        assert (policy.optional, policy.can_fail, policy.dane, policy.sts_mode) == (True, False, False, "")
        assert seen(await worker.plan(policy, "mx.test")) == ("starttls", False, "", False)
        assert not any(name.startswith("_") for name, _ in worker.dns.asked)
        required = await worker.policy("r.test", OPTIONAL)
        assert seen(await worker.plan(required, "mx.test")) == ("starttls", True, "", False)
        assert (await worker.plan(await worker.policy("d.test", OPTIONAL), "mx.test")).verified == "dane"
        assert (await worker.plan(await worker.policy("v.test", OPTIONAL), "mx.test")).verified == "pkix"

    run(work())


# -- the cache --------------------------------------------------------------------------------------------------------


def test_another_site_is_another_question() -> None:
    async def work() -> None:
        worker = Worker()
        worker.dns.mx("a.test", "mx.test")
        worker.announces("a.test", "enforce", "mx.test")
        assert (await worker.policy("a.test")).mx == ("mx.test",)
        worker.dns.mx("a.test", "mx2.test")
        worker.router.clear()
        policy = await worker.policy("a.test")
        assert policy.mx == ()  # the policy names none of the new hosts
        assert (await worker.plan(policy, "mx2.test")).mode == "skip"

    run(work())


def test_reload() -> None:
    async def work() -> None:
        worker = Worker()
        worker.dns.mx("a.test", "mx.test")
        worker.announces("a.test", "enforce", "mx.test")
        assert (await worker.policy("a.test")).sts_mode == "enforce"
        worker.config = from_builtins({"hostname": "relay.test", "tls": {"outbound": {"level": "verify"}}})
        worker.tls.configure()
        assert (await worker.policy("a.test")).level == "verify"
        assert worker.tls.sts.policies

    run(work())


def test_reload_while_a_policy_is_looked_up() -> None:
    """What is found then is judged by the new configuration."""

    async def work() -> None:
        worker = signed()
        looking = asyncio.create_task(worker.policy("a.test"))
        while not worker.dns.asked["_25._tcp.mx.test", "TLSA"]:
            await asyncio.sleep(0)
        worker.config = from_builtins({"hostname": "relay.test", "tls": {"outbound": {"level": "verify"}}})
        worker.tls.configure()
        assert (await looking).level == "verify"

    run(work())


def test_close() -> None:
    async def work() -> None:
        worker = Worker()
        await worker.tls.close()
        worker.dns.mx("a.test", "mx.test")
        await worker.policy("a.test")
        await worker.tls.close()

    run(work())
