"""MTA-STS with a running relay: policies over HTTPS from a host with a test CA, Postfix as the MX host."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import postfix as private_postfix
from support.net import free_endpoint, loopback_address, split_endpoint, wait_until
from support.peers import absent
from support.policy_host import PolicyHost, StsRelay
from support.served_dns import ServedDns
from support.tls_certificates import make

from fastrelay.sim.dns import Zone

pytestmark = pytest.mark.interop

DURING = {
    "start": datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC),
    "end": datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC),
}
DOMAINS = ["enforce.test", "mismatch.test", "certificate.test", "testing.test", "moved.test", "lost.test"]


class World:
    """Everything around one relay: its zone, its policy host, its MX host."""

    def __init__(self, folder: Path) -> None:
        self.zone = Zone(ttl=1, negative_ttl=1)
        authority = make("test CA", ca=True, **DURING)  # type: ignore[arg-type]
        leaf = authority.issue("mx", "mx.test", **DURING)
        (folder / "ca.pem").write_bytes(authority.pem)
        (folder / "chain.pem").write_bytes(leaf.key_pem + leaf.pem)
        endpoint = free_endpoint()
        self.address, self.port = split_endpoint(endpoint)
        self.https = PolicyHost(folder, authority, DOMAINS, **DURING)
        settings = {"smtpd_tls_security_level": "may", "smtpd_tls_chain_files": str(folder / "chain.pem")}
        self.postfix = private_postfix.PostfixInstance(
            folder / "postfix", domains=DOMAINS, endpoint=endpoint, settings=settings
        )
        self.dns = ServedDns(self.zone, loopback_address())
        for host in ("mx.test", "other.test"):
            self.zone.address(host, self.address)
        for domain in DOMAINS:
            self.zone.address(f"mta-sts.{domain}", self.https.address)
            self.zone.mx(domain, [(10, "other.test" if domain in ("mismatch.test", "certificate.test") else "mx.test")])
        outbound = {"ca_file": str(folder / "ca.pem"), "policy_timeout": "60s"}
        config: dict[str, Any] = {
            "workers": 2,
            "dns": {"min_ttl": "0s", "negative_ttl": "1s", "timeout": "30s"},
            "delivery": {
                "port": self.port, "allow_private_hosts": True, "connect_backoff": {"first": "1s", "max": "1s"}
            },
            "tls": {"outbound": outbound},
        }  # fmt: skip
        self.relay = StsRelay(folder / "relay", config)
        self.relay.https, self.relay.authority = self.https, folder / "ca.pem"

    def announce(self, domain: str, identity: str) -> None:
        """The record; one that is there is replaced."""
        self.zone.clear(f"_mta-sts.{domain}")
        self.zone.add(f"_mta-sts.{domain}", "TXT", f'"v=STSv1; id={identity}"')

    def publish(self, domain: str, mode: str, *mx: str, identity: str = "1") -> None:
        self.https.publish(domain, mode, *mx)
        self.announce(domain, identity)

    def send(self, domain: str) -> None:
        self.relay.submit(f"Subject: {domain}\r\n\r\nhello\r\n".encode(), [f"x@{domain}"])

    def delivered(self, domain: str) -> list[dict[str, Any]]:
        return [
            event
            for event in self.relay.events()
            if event["event"] == "delivered" and event["recipient"] == f"x@{domain}"
        ]

    def waits(self, domain: str) -> str:
        """Why mail for a domain waits by reason tls_policy; "" if it does not."""
        listed = self.relay.control("queue.list", {"domain": domain})["messages"]
        for row in listed:
            for why in self.relay.control("queue.why", {"id": row["id"]})["why"]:
                if why["reason"] == "tls_policy":
                    return str(why["detail"])
        return ""


@pytest.fixture
def world(open_tmp_path: Path) -> Iterator[World]:
    obstacle = private_postfix.missing()
    if obstacle:
        absent(obstacle)
    made = World(open_tmp_path)
    with made.dns, made.https, made.postfix:
        made.relay.configure({"dns": made.relay.config["dns"] | {"nameservers": [made.dns.nameserver]}})
        with made.relay:
            yield made


def test_mta_sts(world: World) -> None:
    world.publish("enforce.test", "enforce", "mx.test")
    world.publish("mismatch.test", "enforce", "mx.test")  # its MX is other.test
    world.publish("certificate.test", "enforce", "*.test")  # whose certificate is not for it
    world.publish("testing.test", "testing", "nobody.test")
    world.announce("lost.test", "1")  # and no policy is there
    for domain in ("enforce.test", "mismatch.test", "certificate.test", "testing.test", "lost.test"):
        world.send(domain)
    for domain in ("enforce.test", "testing.test", "lost.test"):
        wait_until(lambda domain=domain: world.delivered(domain), what=f"mail to {domain}")
    assert world.delivered("enforce.test")[0]["tls_verified"] == "mta-sts"
    assert "tls_verified" not in world.delivered("testing.test")[0]
    words = wait_until(lambda: world.waits("mismatch.test"), what="the policy that does not name the host")
    assert "does not name other.test" in str(words)
    words = wait_until(lambda: world.waits("certificate.test"), what="the certificate that is not for the host")
    assert "the certificate is refused" in str(words)
    changes = [event for event in world.relay.events() if event["event"] == "tls_policy"]
    assert {event["domain"]: event["mode"] for event in changes} == {
        "enforce.test": "enforce", "mismatch.test": "enforce", "certificate.test": "enforce", "testing.test": "testing"
    }  # fmt: skip
    # A new id, and a policy that names the host: what waits goes out.
    world.publish("mismatch.test", "testing", "other.test", identity="2")
    wait_until(lambda: world.delivered("mismatch.test"), what="mail under the new policy")
    assert world.https.asked["enforce.test"] == 1
    world.relay.assert_balanced()


def test_policies_survive_a_restart(world: World) -> None:
    """Also where the record and the policy host are gone: that is what an attacker would see to."""
    world.publish("moved.test", "enforce", "mx.test")
    world.send("moved.test")
    wait_until(lambda: world.delivered("moved.test"), what="mail")
    world.relay.stop()
    world.https.policies.clear()
    world.zone.clear("_mta-sts.moved.test")
    world.zone.clear("moved.test")
    world.zone.mx("moved.test", [(10, "other.test")])  # the attacker's
    world.relay.start()
    world.send("moved.test")
    words = wait_until(lambda: world.waits("moved.test"), what="the old policy to hold")
    assert "does not name other.test" in str(words)
    assert world.https.asked["moved.test"] == 1
