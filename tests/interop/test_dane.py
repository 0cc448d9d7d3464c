"""DANE with real programs: Knot signs, Unbound validates, Postfix shows a certificate.

Each domain has its own MX host; all hosts are one Postfix, whose certificate fits the TLSA records of some.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import postfix as private_postfix
from support.net import free_endpoint, split_endpoint
from support.peers import absent
from support.signed_dns import SignedDns
from support.tls_certificates import Certificate, make
from support.worker import WorkerBox, run

from fastrelay.route.resolver import Resolver
from fastrelay.tls.policy import NORMAL, REQUIRETLS

pytestmark = pytest.mark.interop

# At any time, that of simulated clocks too.
DURING = {
    "start": datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC),
    "end": datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC),
}
VERIFIED = ("right", "anchor", "alias", "signed-alias")  # domains whose host has proved who it is
ANY = ("none", "unusable")  # TLS, with nobody authenticated
WAIT = ("wrong", "name", "lost")  # mail waits
DOMAINS = [f"{name}.test" for name in (*VERIFIED, *ANY, *WAIT)] + ["plain.insecure.test"]


def digest(octets: bytes) -> str:
    return hashlib.sha256(octets).hexdigest()


def zones(host: str, port: int, leaf: Certificate, authority: Certificate) -> dict[str, str]:
    """Records of domains and hosts. The Postfix behind all of them listens at host:port."""
    right, wrong = f"TLSA 3 1 1 {digest(leaf.spki)}", f"TLSA 3 1 1 {'00' * 32}"
    anchor = f"TLSA 2 0 1 {digest(authority.der)}"
    records = [f"{name} IN MX 10 {name}-mx" for name in (*VERIFIED, *ANY, *WAIT)]
    records += [f"{name}-mx IN A {host}" for name in (*VERIFIED, *ANY, *WAIT) if "alias" not in name]
    tlsa = {
        "right-mx": right,
        "anchor-mx": anchor,
        "right-mx.alias": right,
        "signed-alias-mx": right,
        "unusable-mx": f"TLSA 1 1 1 {digest(leaf.spki)}",
        "wrong-mx": wrong,
        "name-mx": anchor,  # the CA fits, the name does not
        "lost-mx": "CNAME nowhere.bogus",  # an answer that is bogus: SERVFAIL
    }
    records += [f"_{port}._tcp.{name} IN {record}" for name, record in tlsa.items()]
    # An alias that is signed all the way, and one that leads out of what is signed.
    records += [f"right-mx.alias IN A {host}", "alias-mx IN CNAME right-mx.alias"]
    records += ["signed-alias-mx IN CNAME mx.insecure"]
    insecure = ["plain IN MX 10 mx", f"mx IN A {host}", f"_{port}._tcp.mx IN {wrong}"]
    bogus = ["@ IN MX 10 mx", f"mx IN A {host}", "nowhere IN A 127.0.0.1"]
    return {
        "test": "\n".join(records) + "\n",
        "insecure.test": "\n".join(insecure) + "\n",
        "bogus.test": "\n".join(bogus) + "\n",
    }


@pytest.fixture(scope="module")
def authority() -> Certificate:
    return make("test CA", ca=True, **DURING)


@pytest.fixture(scope="module")
def leaf(authority: Certificate) -> Certificate:
    return authority.issue("mx", "anchor-mx.test", **DURING)


@pytest.fixture(scope="module")
def endpoint() -> str:
    return free_endpoint()


@pytest.fixture(scope="module")
def dns(
    tmp_path_factory: pytest.TempPathFactory, endpoint: str, leaf: Certificate, authority: Certificate
) -> Iterator[SignedDns]:
    host, port = split_endpoint(endpoint)
    with SignedDns(tmp_path_factory.mktemp("dns"), zones(host, port, leaf, authority)) as running:
        yield running


@pytest.fixture
def postfix(
    open_tmp_path: Path, endpoint: str, leaf: Certificate, authority: Certificate
) -> Iterator[private_postfix.PostfixInstance]:
    obstacle = private_postfix.missing()
    if obstacle:
        absent(obstacle)
    chain = open_tmp_path / "chain.pem"
    chain.write_bytes(leaf.key_pem + leaf.pem + authority.pem)
    settings = {
        "smtpd_tls_security_level": "may", "smtpd_tls_chain_files": str(chain), "smtpd_tls_received_header": "yes"
    }  # fmt: skip
    with private_postfix.PostfixInstance(
        open_tmp_path / "postfix", domains=DOMAINS, endpoint=endpoint, settings=settings
    ) as running:
        yield running


def box(folder: Path, dns: SignedDns, endpoint: str, **outbound: Any) -> WorkerBox:
    """A worker that asks Unbound and sends to Postfix's port."""
    _, port = split_endpoint(endpoint)
    keys = {
        "dns": {"nameservers": [dns.nameserver], "timeout": 30.0},
        "delivery": {"port": port, "allow_private_hosts": True},
        "tls": {"outbound": outbound},
        "provider_limits": False,
    }
    return WorkerBox(folder, [], **keys)


async def send(worker: WorkerBox, domains: list[str]) -> dict[str, dict[str, Any]]:
    """Mail to each domain; what came of it, by domain: the event, or why it waits."""
    for domain in domains:
        await worker.accepted([f"x@{domain}"], content=f"Subject: {domain}\r\n\r\nhello\r\n".encode())
    app = worker.app

    def waiting() -> dict[str, str]:
        now = app.clock.monotonic()
        held = [site for site in app.board.sites.values() if app.board.site_reason(site, now) == "tls_policy"]
        return {site.key: site.detail for site in held}

    def done() -> bool:
        return len(delivered()) + len(waiting()) == len(domains)

    def delivered() -> dict[str, dict[str, Any]]:
        return {one["recipient"].partition("@")[2]: one for one in worker.events() if one["event"] == "delivered"}

    await worker.until(done)
    told = delivered()
    for key, detail in waiting().items():
        host = key.partition(":")[0]
        told[host.replace("-mx.", ".")] = {"event": "waits", "why": detail}
    return told


def test_dane_on(tmp_path: Path, dns: SignedDns, endpoint: str, postfix: private_postfix.PostfixInstance) -> None:
    async def work() -> None:
        async with box(tmp_path / "state", dns, endpoint) as worker:
            told = await send(worker, DOMAINS)
            for name in VERIFIED:
                event = told[f"{name}.test"]
                assert (event["event"], event.get("tls_verified")) == ("delivered", "dane"), (name, event)
                assert event["tls"].startswith("TLSv1.")
            for name in (*(f"{one}.test" for one in ANY), "plain.insecure.test"):
                assert told[name]["event"] == "delivered", told[name]
                assert told[name]["tls"].startswith("TLSv1.")
                assert "tls_verified" not in told[name]
            words = {name: told[f"{name}.test"]["why"] for name in WAIT}
            assert "none of those in its TLSA records" in words["wrong"]
            assert "not for name-mx.test" in words["name"]
            assert "cannot be looked up" in words["lost"]
            assert "SERVFAIL" in words["lost"]
            assert worker.reasons() == {"tls_policy": 3}

    run(work)
    assert len(postfix.mail()) == len(VERIFIED) + len(ANY) + 1
    assert all(b"(using TLSv1." in mail for mail in postfix.mail())


def test_dane_off(tmp_path: Path, dns: SignedDns, endpoint: str, postfix: private_postfix.PostfixInstance) -> None:
    async def work() -> None:
        async with box(tmp_path / "state", dns, endpoint, dane=False) as worker:
            told = await send(worker, ["right.test", "wrong.test", "lost.test"])
            assert {event["event"] for event in told.values()} == {"delivered"}
            assert not any("tls_verified" in event for event in told.values())

    run(work)


def test_a_resolver_that_strips_the_bit(
    tmp_path: Path, dns: SignedDns, endpoint: str, postfix: private_postfix.PostfixInstance
) -> None:
    """Knot itself validates nothing: its word is no proof, so there is no DANE. Where DANE is a must, mail waits."""

    async def work() -> None:
        async with box(tmp_path / "state", dns, endpoint, domains={"right.test": "dane"}) as worker:
            app = worker.app
            app.router.resolver.nameservers = Resolver([dns.authority]).nameservers  # type: ignore[attr-defined]
            told = await send(worker, ["wrong.test", "right.test"])
            assert told["wrong.test"]["event"] == "delivered"
            assert "MX records are not secured by DNSSEC" in told["right.test"]["why"]

    run(work)


def test_requiretls_needs_a_name_that_is_proved(tmp_path: Path, dns: SignedDns, endpoint: str) -> None:
    async def work() -> None:
        async with box(tmp_path / "state", dns, endpoint) as worker:
            app, now = worker.app, worker.clock.monotonic()
            found = {}
            for domain in ("right.test", "none.test", "plain.insecure.test"):
                route = await app.router.resolve(domain, now)
                targets, _ = await app.router.targets(route.site, now)
                for variant in (NORMAL, REQUIRETLS):
                    policy = await app.tls.policy(domain, route, variant, now)
                    plan = await app.tls.host_plan(policy, targets[0], now)
                    found[domain, variant] = (plan.mode, plan.verified)
            assert found == {
                ("right.test", NORMAL): ("starttls", "dane"),
                ("right.test", REQUIRETLS): ("starttls", "dane"),
                ("none.test", NORMAL): ("starttls", ""),
                ("none.test", REQUIRETLS): ("starttls", "pkix"),
                ("plain.insecure.test", NORMAL): ("starttls", ""),
                ("plain.insecure.test", REQUIRETLS): ("skip", ""),
            }

    run(work)


def test_bogus_mx_waits_for_the_dns(tmp_path: Path, dns: SignedDns, endpoint: str) -> None:
    async def work() -> None:
        async with box(tmp_path / "state", dns, endpoint) as worker:
            await worker.accepted(["x@bogus.test"])
            await worker.until(lambda: worker.reasons() == {"dns": 1})

    run(work)


def test_the_command(tmp_path: Path, dns: SignedDns, endpoint: str, postfix: private_postfix.PostfixInstance) -> None:
    """`fastrelay tls DOMAIN --connect` finds what the relay would."""
    _, port = split_endpoint(endpoint)
    config = {
        "hostname": "relay.test",
        "state_dir": str(tmp_path / "state"),
        "dns": {"nameservers": [dns.nameserver], "timeout": "30s"},
        "delivery": {"port": port, "allow_private_hosts": True},
    }
    (tmp_path / "fastrelay.yaml").write_text(yaml.safe_dump(config))

    def ask(domain: str) -> tuple[int, dict[str, Any]]:
        command = [sys.executable, "-m", "fastrelay", "tls", "-c", str(tmp_path / "fastrelay.yaml")]
        done = subprocess.run(
            [*command, domain, "--connect", "--json"], capture_output=True, check=False, env=os.environ
        )
        assert not done.stderr, done.stderr
        return done.returncode, json.loads(done.stdout)

    expected = {"right.test": 0, "none.test": 0, "wrong.test": 2, "name.test": 2, "lost.test": 2, "bogus.test": 3}
    found = {domain: ask(domain) for domain in expected}
    assert {domain: code for domain, (code, _) in found.items()} == expected
    connection = found["wrong.test"][1]["hosts"][0]["connection"]
    assert connection["certificate"]["names"] == ["anchor-mx.test"]
    assert found["right.test"][1]["hosts"][0]["tlsa"]["state"] == "usable"
